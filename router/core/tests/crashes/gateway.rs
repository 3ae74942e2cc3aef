//! One life of the process: its shards, their journals, and what is carried out for them. It ends at any effect.
use super::ledger::{PART_CHARS, number_of, numbers_of};
use super::people::{Place, Purpose};
use super::restart::letter_of;
use super::store::{Letter, Op};
use super::world::{Act, World};
use clawgate_core::codes::Code;
use clawgate_core::effect::{Effect, Effects, Outcome, Saved};
use clawgate_core::event::{
    Delivery, End, Event, Failure, Mode, Operation, Piece, Restored, Retry, Sight, Stop, Stored,
};
use clawgate_core::id::{AgentId, CallId, Client, SessionId, TurnId, Uid};
use clawgate_core::journal::format::Name;
use clawgate_core::journal::writer::{Deed, State, Writer};
use clawgate_core::log::JournalState;
use clawgate_core::plan::{Plan, RunningMode};
use clawgate_core::preview::PREVIEW;
use clawgate_core::record::{Accepted, Record};
use clawgate_core::shard::Shard;
use clawgate_core::time::Time;
use clawgate_core::view::Role;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Rounds in which what a shard appends because of its journal's word is taken at once.
const ROUNDS: usize = 8;
pub(crate) const UNIX_MILLIS: u64 = 1_795_000_000_000;

/// What an operator does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    Reset,
    Close,
    Send,
    Set,
    Assign,
    Stop,
    Mode(Option<RunningMode>),
}

/// What the platform says of a post.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Taken,
    Later(Duration),
    Refused,
}

/// Something that happens to a shard.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Inbound { client: Client, number: usize },
    Text { call: CallId, text: String },
    Finished { call: CallId },
    Failed { call: CallId, retry: Retry },
    Left { turn: TurnId },
    Delivered { turn: TurnId, uid: Uid, part: u16, attempt: u16, word: Word, message: String },
    Operate { client: Client, place: usize, wish: Wish, number: usize },
    Restore { client: Client, uid: Uid, letter: Letter },
    DropLetter { client: Client, uid: Uid },
    Loaded { id: SessionId, session: Option<usize> },
    Sighted { lookup: u64, mark: Option<[u64; 2]> },
    Saved { save: u64 },
    Nudged { agent: AgentId },
}

/// One life.
pub(crate) struct Life {
    pub(crate) born: Time,
    pub(crate) lineage: u64,
    pub(crate) plan: Arc<Plan>,
    pub(crate) shards: Vec<Shard>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) states: Vec<JournalState>,
    pub(crate) inputs: VecDeque<(usize, Input)>,
    /// The messages that turns were made for.
    pub(crate) turns: BTreeMap<(usize, TurnId), usize>,
    /// What the event that is handled is about, where its effects do not say.
    pub(crate) about: Option<usize>,
    /// Files of earlier lives, and for each shard the record that must be safe before they go.
    pub(crate) older: Vec<Name>,
    pub(crate) after: Vec<u64>,
    /// Some of those files is not on the platter as it is read.
    pub(crate) was_lied_to: bool,
    /// The store has all that earlier lives said when it has done so many writes.
    pub(crate) facts_until: u64,
    /// Effects and disk operations until it dies.
    pub(crate) fuse: Option<u32>,
    pub(crate) is_dead: bool,
    pub(crate) appended: Vec<u64>,
}

impl World {
    /// The life's own time.
    pub(crate) fn local(&self) -> Time {
        Time(self.now.0 - self.life.born.0)
    }

    /// A moment at which the process may die.
    pub(crate) fn burn(&mut self) -> bool {
        if let Some(fuse) = &mut self.life.fuse {
            *fuse = fuse.saturating_sub(1);
            self.life.is_dead |= *fuse == 0;
        }
        self.life.is_dead
    }

    pub(crate) fn push(&mut self, shard: usize, input: Input) {
        self.life.inputs.push_back((shard, input));
    }

    pub(crate) fn run_inputs(&mut self) {
        while let Some((shard, input)) = self.life.inputs.pop_front() {
            if self.life.is_dead {
                return;
            }
            self.feed(shard, &input);
            if self.dice.chance(600) {
                self.turn_journal(shard);
            }
        }
    }

    fn feed(&mut self, shard: usize, input: &Input) {
        self.trace.line(format_args!("{} {input:?}", shard));
        match input {
            Input::Inbound { client, number } => {
                let words = self.words(*number);
                self.life.about = Some(*number);
                self.on_asked(*client, *number);
                let place = self.places[self.ledger.messages[*number].place].clone();
                let inbound = self.inbound(*number, &place, &words);
                self.handle(shard, Event::Inbound { client: *client, inbound });
            }
            Input::Text { call, text } => {
                self.handle(shard, Event::Piece { call: *call, piece: Piece::Text(text) });
            }
            Input::Finished { call } => {
                self.handle(shard, Event::Ended { call: *call, end: End::Finished(Stop::Complete) });
            }
            Input::Failed { call, retry } => {
                let failure = Failure { code: Code::UpstreamFailed, retry: *retry, status: 0, detail: "no" };
                self.handle(shard, Event::Ended { call: *call, end: End::Failed(failure) });
            }
            Input::Left { turn } => self.handle(shard, Event::Left { turn: *turn }),
            Input::Delivered { turn, uid, part, attempt, word, message } => {
                self.feed_delivered(shard, (*turn, *uid), (*part, *attempt), *word, message);
            }
            Input::Operate { client, place, wish, number } => {
                self.feed_wish(shard, *client, *place, *wish, *number);
            }
            Input::Restore { client, uid, letter } => self.feed_letter(shard, *client, *uid, letter),
            Input::DropLetter { client, uid } => {
                // Where the journal takes nothing, the store alone is told.
                let is_sure = self.life.states[shard] == JournalState::Open;
                self.ledger.on_dropping(is_sure.then_some(*client), *uid);
                self.handle(shard, Event::DropLetter { client: *client, uid: *uid });
            }
            Input::Loaded { id, session } => self.feed_loaded(shard, *id, *session),
            Input::Sighted { lookup, mark } => {
                let sight = match mark {
                    None => Sight::Unknown,
                    Some(mark) => self.store.sight(mark),
                };
                if matches!(sight, Sight::At { .. }) {
                    self.marks.hit("known to the store alone");
                }
                self.handle(shard, Event::Sighted { lookup: *lookup, sight });
            }
            Input::Saved { save } => self.handle(shard, Event::Saved { save: *save }),
            Input::Nudged { agent } => self.handle(shard, Event::Nudged { agent: *agent }),
        }
    }

    fn feed_delivered(
        &mut self,
        shard: usize,
        (turn, uid): (TurnId, Uid),
        at: (u16, u16),
        word: Word,
        message: &str,
    ) {
        let (part, attempt) = at;
        let delivery = match word {
            Word::Taken => {
                self.ledger.on_told(uid, part);
                Delivery::Confirmed { message }
            }
            Word::Later(after) => Delivery::Retry { after, detail: "later" },
            Word::Refused => Delivery::Refused { detail: "no" },
        };
        self.handle(shard, Event::Delivered { turn, part, attempt, delivery });
        if part == PREVIEW && !self.life.is_dead {
            self.ledger.on_show_told(message);
        }
    }

    fn feed_wish(&mut self, shard: usize, client: Client, at: usize, wish: Wish, number: usize) {
        let place = self.places[at].clone();
        let Some(channel) = self.channel(&place) else { return };
        let Place { scope, peer, chat, thread, .. } = &place;
        let Some(id) = self.life.shards[shard].find(channel, *scope, peer, chat, thread) else { return };
        let words = format!("o{number} as the bot");
        let operation = match wish {
            Wish::Reset => Operation::Reset,
            Wish::Close => Operation::Close,
            Wish::Send => Operation::Send(&words),
            Wish::Set => Operation::Set { name: "lang", value: "pl" },
            Wish::Assign => Operation::Assign(AgentId(0)),
            Wish::Stop => Operation::Stop,
            Wish::Mode(mode) => Operation::Mode(mode),
        };
        if matches!(wish, Wish::Reset | Wish::Close) {
            let session = self.kinship.owner(at);
            let of =
                |place| (self.kinship.ever(place).contains(&session), self.kinship.ever(place).len() == 1);
            self.ledger.on_forgotten(client, session, of, matches!(wish, Wish::Close));
        }
        self.life.about = matches!(wish, Wish::Send).then_some(number);
        self.handle(shard, Event::Operate { client, session: id, operation });
    }

    fn feed_letter(&mut self, shard: usize, client: Client, uid: Uid, letter: &Letter) {
        let place = self.places[letter.place].clone();
        let accepted = Accepted {
            uid,
            unix_millis: uid.micros() / 1_000,
            scope: place.scope,
            mode: Mode::Deliver,
            outbound: letter.outbound,
            replayed: true,
            channel: place.channel,
            chat: &place.chat,
            thread: &place.thread,
            peer: &place.peer,
            text: &letter.text,
            ..Accepted::default()
        };
        let reply = letter.reply.as_deref().map(|reply| (Outcome::Answered, reply));
        self.life.about = Some(self.ledger.own_number(uid, &letter.text));
        let restored = Restored { accepted, reply, history: false, parts: letter.parts, shown: "" };
        self.handle(shard, Event::Restore { client, restored: &restored });
    }

    fn feed_loaded(&mut self, shard: usize, id: SessionId, session: Option<usize>) {
        let Some(session) = session else {
            self.handle(shard, Event::Loaded { session: id, stored: None });
            return;
        };
        let said = self.store.history(session);
        let both = said.iter().flat_map(|(text, reply)| [(Role::User, &**text), (Role::Agent, &**reply)]);
        let history: Vec<(Role, &str)> = both.filter(|(_, text)| !text.is_empty()).collect();
        let (found, history_from) = self.store.session(session);
        let stored = Stored { history: &history, history_from, found, ..Stored::default() };
        self.handle(shard, Event::Loaded { session: id, stored: Some(&stored) });
    }

    pub(crate) fn handle(&mut self, shard: usize, event: Event<'_>) {
        let now = self.local();
        let mut out = std::mem::take(&mut self.out);
        self.life.shards[shard].handle(now, event, &mut out);
        self.carry_out(shard, &mut out);
        self.out = out;
    }

    pub(crate) fn tick(&mut self, shard: usize) {
        let now = self.local();
        let mut out = std::mem::take(&mut self.out);
        self.life.shards[shard].tick(now, &mut out);
        self.life.about = None;
        self.carry_out(shard, &mut out);
        self.out = out;
    }

    pub(crate) fn carry_out_restored(&mut self, shard: usize, out: &mut Effects, about: Option<usize>) {
        self.life.about = about;
        self.carry_out(shard, out);
    }

    fn carry_out(&mut self, shard: usize, out: &mut Effects) {
        for effect in out.list() {
            if self.burn() {
                break;
            }
            self.execute(shard, effect, out);
        }
        out.clear();
        self.life.about = None;
    }

    fn execute(&mut self, shard: usize, effect: &Effect, out: &Effects) {
        if !matches!(effect, Effect::Append { .. }) {
            self.trace.line(format_args!("{shard}   {effect:?}"));
        }
        match *effect {
            Effect::Append { lsn, record } => self.append(shard, lsn, out.bytes(record)),
            Effect::Save { save, session, needed, saved } => {
                self.save(shard, save, needed, (session, saved), out);
            }
            Effect::Deliver { turn, uid, part, attempt, text, edits, .. } => {
                let edits = out.text(edits);
                if part == PREVIEW {
                    self.ledger.on_show(uid, out.text(text), edits);
                } else {
                    self.ledger.on_deliver(uid, part, out.text(text), edits);
                }
                self.check_destination(shard, turn, uid);
                self.post(shard, (turn, uid), (part, attempt), edits);
            }
            Effect::Accepted { client, turn, durable, again, .. } => {
                self.on_accepted(shard, client, turn, (durable, again));
            }
            Effect::Merged { client, .. } => self.on_merged(client),
            Effect::Attached { client, turn, durable, .. } => self.on_attached(shard, client, turn, durable),
            Effect::Durable { client, .. } => self.on_acknowledged(client, false),
            Effect::Duplicate { client } => self.on_acknowledged(client, true),
            Effect::Refused { client, .. } => self.on_refused(client),
            Effect::Start { call, .. } => self.ask_model(shard, call),
            Effect::Send { client, text, .. } => self.on_heard(client, out.text(text)),
            Effect::Finish { client, text, .. } => self.on_finish(client, out.text(text)),
            Effect::Fail { client, code, .. } => self.on_fail(client, code),
            Effect::Settled { turn, outcome, .. } => {
                if let Some(number) = self.life.turns.remove(&(shard, turn)) {
                    self.count(outcome);
                    self.ledger.on_settled(number, outcome);
                }
            }
            Effect::Operated { client, refused } => self.on_operated(client, refused),
            Effect::Nudge { shard, agent } => self.push(usize::from(shard.0), Input::Nudged { agent }),
            Effect::LookUp { lookup, mark, .. } => self.look_up(shard, lookup, mark),
            Effect::Load { session } => self.load(shard, session),
            Effect::Cancel { .. }
            | Effect::Ask { .. }
            | Effect::Pause { .. }
            | Effect::Resume { .. }
            | Effect::Publish { .. }
            | Effect::Breaker { .. } => {}
            Effect::Ignored { .. } => panic!("that does not happen here: {effect:?}"),
        }
    }

    fn append(&mut self, shard: usize, lsn: u64, record: &[u8]) {
        let shown = Record::decode(record);
        self.trace.line(format_args!("{shard}   append {lsn} {shown:?}"));
        self.life.writers[shard].append(lsn, record);
        self.life.appended[shard] = lsn;
        self.ledger.on_append(shard, lsn, record);
    }

    fn count(&mut self, outcome: Outcome) {
        self.marks.hit(match outcome {
            Outcome::Answered => "answered",
            Outcome::Cancelled => "cancelled",
            Outcome::Dead(Code::ChannelGone) | Outcome::Failed(Code::ChannelGone) => "channel gone",
            Outcome::Dead(Code::SessionFull) | Outcome::Failed(Code::SessionFull) => "gave way",
            Outcome::Failed(_) => "failed",
            Outcome::Dead(_) => "dead letter",
            Outcome::Merged => "merged",
        });
    }

    fn on_accepted(&mut self, shard: usize, client: Client, turn: TurnId, (durable, again): (bool, bool)) {
        // One that waited for the store is admitted in another's event.
        let about = match self.purpose(client) {
            Some(Purpose::Update(number) | Purpose::Receipt(number) | Purpose::Plain(number)) => Some(number),
            Some(Purpose::Send(_) | Purpose::Operation | Purpose::Replay | Purpose::Drop) | None => {
                self.life.about
            }
        };
        if !again && let Some(number) = about {
            self.life.turns.insert((shard, turn), number);
        }
        if let Some(Purpose::Receipt(number) | Purpose::Plain(number)) = self.purpose(client) {
            self.begin_to_hear(number, client, (shard, turn));
        }
        if client != Client::NOBODY && durable {
            let state = self.life.states[shard];
            assert_eq!(state, JournalState::Open, "a message is admitted that cannot be written");
        }
    }

    fn on_attached(&mut self, shard: usize, client: Client, turn: TurnId, durable: bool) {
        let Some(Purpose::Receipt(number)) = self.purpose(client) else { panic!("nobody asked for it") };
        self.marks.hit("attached");
        self.begin_to_hear(number, client, (shard, turn));
        if !durable {
            self.ledger.on_ack(number);
        }
    }

    fn save(
        &mut self,
        shard: usize,
        save: u64,
        needed: bool,
        (id, saved): (SessionId, Saved),
        out: &Effects,
    ) {
        let session = self.life.shards[shard]
            .address(id)
            .map(|address| number_of(if address.peer.is_empty() { address.chat } else { address.peer }));
        let known = || session.unwrap_or_else(|| panic!("a save of a session without an address"));
        let text = |span| out.text(span).to_owned();
        let op = match saved {
            Saved::Said { uid, text: asked, reply } => {
                Op::Said { session: known(), uid, text: text(asked), reply: text(reply) }
            }
            Saved::Session { revision, history_from } => {
                Op::Session { session: known(), revision, history_from }
            }
            Saved::Closed { revision } => Op::Closed { session: known(), revision },
            Saved::Seen { mark, unix_millis } => Op::Seen { mark, unix_millis },
            Saved::Dead(dead) => {
                let Some(Record::Accepted(accepted)) = Record::decode(out.bytes(dead.record)) else {
                    panic!("a dead letter without a message")
                };
                let reply = dead.answered.then(|| out.text(dead.reply));
                Op::Dead { uid: accepted.uid, letter: letter_of(&accepted, reply, dead.parts) }
            }
            Saved::Revived { uid } => Op::Revived { uid },
        };
        if !needed && self.store.is_crowded() {
            // What the journal does not wait for may be lost where too much waits.
            self.marks.hit("saves left out");
            return;
        }
        self.trace.line(format_args!("{shard}   save {save} {op:?}"));
        if needed {
            self.ledger.check_save(&op);
        }
        self.store.take(op, Some((shard, save)));
    }

    fn load(&mut self, shard: usize, id: SessionId) {
        let Some(address) = self.life.shards[shard].address(id) else { panic!("a load without an address") };
        let session = number_of(if address.peer.is_empty() { address.chat } else { address.peer });
        let after = self.store.taken;
        self.loads.push((after, shard, id, session));
    }

    /// What it has is read at once, whatever waits to be written.
    fn look_up(&mut self, shard: usize, lookup: u64, mark: [u64; 2]) {
        self.marks.hit("asked the store for an id");
        let is_ready = self.life.facts_until <= self.store.done;
        let pause = if is_ready { self.store.read_pause(&mut self.dice) } else { None };
        let (pause, mark) = match pause {
            Some(pause) => (pause, Some(mark)),
            None => (self.dice.millis(0, 20), None),
        };
        self.later(self.now + pause, Act::Input(shard, Input::Sighted { lookup, mark }));
    }

    fn post(&mut self, shard: usize, (turn, uid): (TurnId, Uid), (part, attempt): (u16, u16), edits: &str) {
        let word = match self.dice.weighted(&[80, 4, 5, 3, 4]) {
            0 => Some(Word::Taken),
            1 => Some(Word::Refused),
            2 => Some(Word::Later(self.dice.millis(0, 200))),
            // It is taken and the answer gets lost; or nothing arrives.
            3 => {
                self.marks.hit("answers that were lost");
                self.taken(uid, part, false, edits);
                None
            }
            _ => None,
        };
        let Some(word) = word else { return };
        let mut message = String::new();
        match word {
            Word::Taken => message = self.taken(uid, part, true, edits),
            Word::Refused if part != PREVIEW => self.ledger.on_edit_refused(edits),
            Word::Refused | Word::Later(_) => {}
        }
        let at = self.now + self.dice.millis(0, 60);
        self.later(at, Act::Input(shard, Input::Delivered { turn, uid, part, attempt, word, message }));
    }

    /// The platform takes a part, or what is shown before; the message that it is in.
    fn taken(&mut self, uid: Uid, part: u16, heard: bool, edits: &str) -> String {
        self.marks.hit(match (part == PREVIEW, edits.is_empty()) {
            (true, true) => "previews",
            (true, false) => "previews that grow",
            (false, false) => "previews that become the answer",
            (false, true) => "parts",
        });
        if part == PREVIEW {
            return self.ledger.on_show_taken(uid, edits, heard);
        }
        self.ledger.on_taken(uid, part, heard, edits);
        edits.to_owned()
    }

    fn ask_model(&mut self, shard: usize, call: CallId) {
        // One that was admitted with others may be over in the same event.
        let Some((_, text)) = self.life.shards[shard].message(call.turn) else { return };
        let numbers = numbers_of(text);
        if let Some(number) = self.life.turns.get(&(shard, call.turn)) {
            self.ledger.on_start(*number, &numbers);
        }
        let first = self.now + self.dice.millis(0, 40);
        self.calls += 1;
        self.ledger.asked.insert(self.calls, numbers);
        if self.dice.chance(30) {
            self.marks.hit("models that say nothing");
            return;
        }
        if self.dice.chance(60) {
            let after = self.dice.millis(1, 100);
            let retry =
                *self.dice.pick(&[Retry::Backoff, Retry::After(after), Retry::Elsewhere, Retry::Never]);
            self.later(first, Act::Input(shard, Input::Failed { call, retry }));
            return;
        }
        let mut at = first;
        let words = self.dice.index(PART_CHARS as usize / 3);
        let answer = format!("a{} {}", self.calls, "so it is. ".repeat(words));
        for piece in [&answer[..answer.len() / 2], &answer[answer.len() / 2..]] {
            self.later(at, Act::Input(shard, Input::Text { call, text: piece.to_owned() }));
            at = at + self.dice.millis(0, 30);
        }
        self.later(at, Act::Input(shard, Input::Finished { call }));
    }
}

/// The journal.
impl World {
    /// As the shell does at the end of a turn of its loop.
    pub(crate) fn turn_journal(&mut self, shard: usize) {
        for _ in 0..ROUNDS {
            if self.life.is_dead {
                return;
            }
            let now = self.local();
            let released = self.life.shards[shard].released();
            let mut deeds = Vec::new();
            let writer = &mut self.life.writers[shard];
            writer.release(released);
            writer.advance(now, UNIX_MILLIS, &mut deeds);
            let mut has_stirred = false;
            for deed in deeds {
                has_stirred |= self.do_deed(shard, deed);
            }
            if !has_stirred {
                break;
            }
        }
        self.check_bounds(shard);
    }

    /// True if the shard may have more to say.
    fn do_deed(&mut self, shard: usize, deed: Deed) -> bool {
        if !matches!(deed, Deed::Write { .. }) {
            self.trace.line(format_args!("{shard} {deed:?}"));
        }
        let now = self.local();
        let owner = (self.life.lineage, u16::try_from(shard).unwrap());
        if self.life.is_dead {
            return false;
        }
        let Some(deed) = self.disk.begin(now, owner, deed) else { return false };
        match deed {
            Deed::Durable { lsn } => {
                self.ledger.on_durable(shard, lsn);
                self.handle(shard, Event::Durable { lsn });
            }
            Deed::Carry { lsn } => {
                self.marks.hit("carried");
                self.ledger.is_carrying = true;
                self.handle(shard, Event::Carry { lsn });
                self.ledger.is_carrying = false;
                let released = self.life.shards[shard].released();
                self.life.writers[shard].release(released);
                self.life.writers[shard].carried(now);
            }
            Deed::State { state, .. } => {
                let state = match state {
                    State::Open => JournalState::Open,
                    State::Full => JournalState::Full,
                    State::Failed => JournalState::Failed,
                };
                if state != JournalState::Open {
                    self.marks.hit("journal shut");
                }
                self.life.states[shard] = state;
                self.handle(shard, Event::Journal { state });
            }
            Deed::Closed => return false,
            Deed::Create { .. } | Deed::Write { .. } | Deed::Sync { .. } | Deed::Delete { .. } => {
                unreachable!("the disk took it")
            }
        }
        true
    }

    fn check_bounds(&mut self, shard: usize) {
        let writer = &self.life.writers[shard];
        assert!(writer.buffered() <= 4 * self.settings.buffer_bytes_max, "the buffer is bounded");
        let load = self.life.shards[shard].load();
        assert!(load.sessions <= 200, "sessions are bounded");
    }

    /// Removes the files of earlier lives once all that they hold was taken over and told.
    pub(crate) fn remove_older(&mut self) {
        if self.life.older.is_empty() || self.life.is_dead || self.store.done < self.life.facts_until {
            return;
        }
        let is_safe = |(writer, after): (&Writer, &u64)| writer.is_safe(*after);
        if !self.life.writers.iter().zip(&self.life.after).all(is_safe) {
            return;
        }
        // One by one; the process may die between any two.
        let count = self.life.older.len();
        let some = if self.dice.chance(500) { count } else { self.dice.index(count + 1) };
        for name in self.life.older.drain(..some) {
            self.trace.line(format_args!("remove {name:?}"));
            self.disk.remove(name);
        }
        if self.life.older.is_empty() {
            self.trace.line(format_args!("older files are gone"));
            self.life.writers.iter_mut().for_each(Writer::older_gone);
        }
        if some != 0 && !self.is_resting && self.dice.chance(100) {
            self.life.is_dead = true;
        }
    }
}
