//! What was promised, to whom, and what became of it: the shadow model. It reads the records that shards write and the
//! effects that they ask for, and shares no code with them but the form of the records.
use super::store::Op;
use clawgate_core::effect::Outcome;
use clawgate_core::event::Mode;
use clawgate_core::id::{Client, Uid};
use clawgate_core::plan::Unit;
use clawgate_core::record::{Accepted, Record};
use clawgate_core::split::parts;
use std::collections::{BTreeMap, BTreeSet};

/// The longest part of an answer, characters.
pub(crate) const PART_CHARS: u32 = 40;

/// Who wrote a message, and what he may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A platform's update.
    Update,
    /// A client's message with a receipt.
    Receipt,
    /// A client's message without one.
    Plain,
    /// What an operator says as the bot.
    Operator,
}

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// Where it came from, and as the how manieth from there; and the conversation that it belongs to.
    pub(crate) place: usize,
    pub(crate) nth: usize,
    pub(crate) session: usize,
    /// Where its answer goes: what an operator says goes to the account that wrote last.
    account: usize,
    /// How often the links of its place had changed as it was written.
    pub(crate) links: usize,
    /// Its sender was told that it is safe.
    pub(crate) acked: bool,
    /// The turn that answers it, as far as one was written down.
    pub(crate) uid: Option<Uid>,
    /// What the client was told at the end, if it is one with a receipt.
    pub(crate) told: Option<Told>,
    /// It was told of a failure, and the process died before that was on disk: it may still be answered.
    pub(crate) is_failure_moot: bool,
    /// An operator reset or closed the session meanwhile: what is remembered of it may be gone.
    pub(crate) is_overlapped: bool,
    /// A model was asked.
    is_begun: bool,
    /// It was over before any record of it reached the disk, and that it was seen did.
    pub(crate) is_past: bool,
    /// This life knows how it ended: the client that asks again must hear that.
    pub(crate) is_kept: bool,
}

/// What a client heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Answer(String),
    Failure,
    /// That it is answered together with another one.
    Merged,
    /// That it was admitted before, and nothing else.
    Known,
}

/// A part on the platform.
#[derive(Clone, Copy, Debug, Default)]
struct Post {
    /// Times that people read it.
    taken: u32,
    /// Times that it may have been posted again, because nobody knew.
    excuses: u32,
    /// The shard heard that it was taken.
    told: bool,
}

/// A turn, by its name for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    /// Its own message.
    pub(crate) number: usize,
    /// All that it answers, as it was written last, and as that is on disk.
    pub(crate) numbers: Vec<usize>,
    kept_numbers: Vec<usize>,
    /// The turn that answers it together with its own.
    into: Option<Uid>,
    pub(crate) session: usize,
    pub(crate) is_delivered: bool,
    pub(crate) is_outbound: bool,
    pub(crate) agent: String,
    /// Its answer is remembered.
    pub(crate) remembers: bool,
    /// It is a dead letter that is tried again.
    is_replayed: bool,
    /// Its record is on disk.
    accepted: bool,
    /// Its answer is on disk: how it ends, and the text.
    pub(crate) reply: Option<(Outcome, String)>,
    /// Parts whose confirmation is on disk.
    parts: u16,
    /// The message that shows its answer, as that is on disk.
    pub(crate) shown: Option<String>,
    /// How it ended, on disk.
    pub(crate) settled: Option<Outcome>,
    /// How it ended, by the word of a shard that may have died since.
    pub(crate) over: Option<Outcome>,
    /// A dead letter was taken up again, and that is not known to be on disk.
    reviving: bool,
    /// That is on disk, and the answer that belongs to it is not.
    awaits_reply: bool,
    /// On disk of an end that is told once more: it counts with the last of it.
    ending: Vec<Written>,
    posts: BTreeMap<u16, Post>,
}

impl Turn {
    /// Is nothing more to be done for it?
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_some() || self.settled.is_some() && !self.reviving
    }

    /// A dead letter was taken up again, and that is not known to be on disk.
    pub(crate) const fn reviving(&self) -> bool {
        self.reviving
    }

    /// It is a dead letter that is tried again: that knows nothing of what was shown the first time.
    pub(crate) const fn is_replayed(&self) -> bool {
        self.is_replayed
    }

    /// The turn that answers it together with its own.
    pub(crate) const fn into(&self) -> Option<Uid> {
        self.into
    }

    pub(crate) fn is_merged(&self) -> bool {
        self.into.is_some()
    }

    fn is_answered(&self) -> bool {
        self.over.or(self.settled) == Some(Outcome::Answered)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.over.or(self.settled) == Some(Outcome::Cancelled)
    }

    /// That a dead letter is tried again is on disk.
    fn revive(&mut self) {
        (self.reviving, self.settled, self.reply, self.parts) = (false, None, None, 0);
        self.posts.clear();
    }

    fn part(&self, part: u16) -> Option<String> {
        let (_, text) = self.reply.as_ref()?;
        let part = parts(text, Unit::Chars, PART_CHARS).nth(usize::from(part))?;
        let mut written = String::new();
        part.write(&mut written);
        Some(written)
    }
}

/// A record, as far as it matters here.
#[derive(Clone, Debug)]
enum Written {
    /// `revives`: it takes up a dead letter. `answered`: its answer follows. `ending`: so does its end. And what it
    /// answers, and what it took in.
    Accepted {
        revives: bool,
        answered: bool,
        ending: bool,
        numbers: Vec<usize>,
        took: Vec<Uid>,
    },
    /// And to what.
    Reply(Outcome, String, Vec<usize>),
    Delivered(u16),
    Shown(String),
    Settled(Outcome),
}

/// A record that is not known to be on disk.
#[derive(Clone, Debug)]
struct Open {
    shard: usize,
    lsn: u64,
    uid: Uid,
    what: Written,
}

/// A turn that a start found unfinished.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) reply: Option<(Outcome, String)>,
    pub(crate) parts: u16,
    pub(crate) shown: Option<String>,
    pub(crate) numbers: Vec<usize>,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) previews: super::previews::Previews,
    pub(crate) messages: Vec<Message>,
    pub(crate) turns: BTreeMap<Uid, Turn>,
    open: Vec<Open>,
    /// Event ids that were written down alone, by shard and record.
    seen: Vec<(usize, u64, [u64; 2])>,
    /// The messages of all event ids.
    pub(crate) ids: BTreeMap<[u64; 2], usize>,
    /// Parts that people read twice, because a process died before it knew that they were posted.
    pub(crate) doubled: u64,
    /// What was said before an operator had a session forget it: as long as he has not heard that it is done.
    forgetting: Vec<(Client, Vec<Uid>)>,
    /// He has.
    pub(crate) forgotten: BTreeSet<Uid>,
    /// Sessions that were ever reset or closed.
    pub(crate) reset: BTreeSet<usize>,
    /// Dead letters that an operator drops: whether he has heard that it is done, and from whom he will.
    dropped: BTreeMap<Uid, (bool, Option<Client>)>,
    /// What each call of a model was asked, by its number.
    pub(crate) asked: BTreeMap<u64, Vec<usize>>,
    /// The journal lost records, and a shard writes down again what is not safe: also what is over.
    pub(crate) is_carrying: bool,
}

/// The message that a text is of: its number stands behind its first letter.
pub(crate) fn number_of(text: &str) -> usize {
    let digits: String = text.chars().skip(1).take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("a text that nobody wrote: {text:?}"))
}

/// The messages that a text is made of.
pub(crate) fn numbers_of(text: &str) -> Vec<usize> {
    text.lines().map(number_of).collect()
}

/// The call of a model that an answer is of.
fn call_of(answer: &str) -> Option<u64> {
    let digits: String = answer.strip_prefix('a')?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

impl Ledger {
    pub(crate) fn add(&mut self, kind: Kind, place: usize, session: usize) -> usize {
        let nth = self.messages.iter().filter(|message| message.place == place).count();
        self.messages.push(Message {
            kind,
            place,
            nth,
            session,
            account: place,
            links: 0,
            acked: false,
            uid: None,
            told: None,
            is_overlapped: false,
            is_failure_moot: false,
            is_begun: false,
            is_past: false,
            is_kept: false,
        });
        self.messages.len() - 1
    }

    /// The turn of a message.
    pub(crate) fn turn_of(&self, number: usize) -> Option<&Turn> {
        self.turns.get(&self.messages[number].uid?)
    }

    /// A shard writes a record.
    pub(crate) fn on_append(&mut self, shard: usize, lsn: u64, bytes: &[u8]) {
        let Some(record) = Record::decode(bytes) else { panic!("a record that cannot be read") };
        let (uid, what) = match record {
            // Of no turn: what they must do shows in the store.
            Record::Forgot(_) | Record::Dropped { .. } => return,
            Record::Accepted(accepted) => {
                let revives = self.on_accepted(&accepted);
                let (numbers, took) = (numbers_of(accepted.text), accepted.took.iter().collect());
                let Accepted { uid, answered, ending, .. } = accepted;
                (uid, Written::Accepted { revives, answered, ending, numbers, took })
            }
            Record::Reply { uid, verdict, text, .. } => {
                self.check_answers(uid, verdict, text);
                if let Some(turn) = self.turns.get_mut(&uid) {
                    let is_known = turn.reply.as_ref().is_some_and(|(_, known)| known == text);
                    if !is_known {
                        turn.remembers = turn.agent == "ada" || turn.is_outbound;
                    }
                }
                let numbers = self.turns.get(&uid).map(|turn| turn.numbers.clone()).unwrap_or_default();
                (uid, Written::Reply(verdict, text.to_owned(), numbers))
            }
            Record::Delivered { uid, part, .. } => (uid, Written::Delivered(part)),
            Record::Shown { uid, message } => {
                self.on_shown(&record);
                (uid, Written::Shown(message.to_owned()))
            }
            Record::Settled { uid, outcome, .. } => (uid, Written::Settled(outcome)),
            Record::Cursor { .. } => panic!("nobody polls here"),
            Record::Seen { mark, .. } => return self.seen.push((shard, lsn, mark)),
        };
        assert!(self.turns.contains_key(&uid), "a record of a turn that was never admitted");
        self.open.push(Open { shard, lsn, uid, what });
    }

    /// An answer is to all that its turn answers, and to nothing else.
    fn check_answers(&self, uid: Uid, verdict: Outcome, text: &str) {
        let (Some(turn), Some(asked)) = (self.turns.get(&uid), self.asked_by(text)) else { return };
        if verdict == Outcome::Answered {
            assert_eq!(*asked, turn.numbers, "{} is answered with what was said to others", turn.number);
        }
    }

    /// What a model was asked that answered so.
    pub(crate) fn asked_by(&self, answer: &str) -> Option<&Vec<usize>> {
        self.asked.get(&call_of(answer)?)
    }

    /// The message that a turn of this name was made for.
    pub(crate) fn own_number(&self, uid: Uid, text: &str) -> usize {
        let numbers = numbers_of(text);
        // One that was not written until another joined it: it is the last of those that were not, because the turn that
        // runs comes before what joins it, and what was collected goes on as the last.
        let unknown = || numbers.iter().rev().find(|number| self.messages[**number].uid.is_none());
        self.turns.get(&uid).map(|turn| turn.number).or(unknown().copied()).unwrap_or(numbers[0])
    }

    fn on_accepted(&mut self, accepted: &Accepted<'_>) -> bool {
        let (uid, numbers) = (accepted.uid, numbers_of(accepted.text));
        let number = self.own_number(uid, accepted.text);
        self.check_numbers(uid, number, &numbers, &mut accepted.took.iter());
        for taken in accepted.took.iter() {
            // What it had taken in is named again, and is its own already.
            if let Some(turn) = self.turns.get_mut(&taken) {
                turn.into.get_or_insert(uid);
            }
        }
        let message = &mut self.messages[number];
        if let Some(other) = message.uid {
            assert_eq!(other, uid, "message {number} is admitted twice");
        }
        message.uid = Some(uid);
        message.account = number_of(if accepted.peer.is_empty() { accepted.chat } else { accepted.peer });
        let session = message.session;
        let turn = self.turns.entry(uid).or_default();
        if turn.accepted {
            assert_eq!(turn.number, number, "a name for ever is given twice");
            assert_eq!(turn.is_outbound, accepted.outbound, "who spoke in {number} is forgotten");
        }
        (turn.number, turn.numbers, turn.session) = (number, numbers, session);
        turn.is_delivered = accepted.mode == Mode::Deliver;
        (turn.is_outbound, turn.agent) = (accepted.outbound, accepted.agent.to_owned());
        if self.is_carrying && turn.is_over() {
            return turn.reviving;
        }
        if accepted.replayed && turn.is_over() {
            let ended = turn.over.or(turn.settled);
            assert!(matches!(ended, Some(Outcome::Dead(_))), "{number} is no dead letter and tried again");
            (turn.over, turn.is_replayed, turn.reviving) = (None, true, true);
            self.previews.excuse(uid);
        }
        assert!(!turn.is_over(), "message {number} is over and admitted again");
        turn.reviving
    }

    /// A turn answers what it did before and what it took in; beside that only what was never written.
    fn check_numbers(&self, uid: Uid, own: usize, numbers: &[usize], took: &mut dyn Iterator<Item = Uid>) {
        let before = self.turns.get(&uid).map_or_else(|| vec![own], |turn| turn.numbers.clone());
        let taken = took.filter_map(|taken| self.turns.get(&taken)).flat_map(|turn| turn.numbers.clone());
        let owed: BTreeSet<usize> = before.into_iter().chain(taken).collect();
        let mut rest: Vec<usize> = numbers.to_vec();
        rest.retain(|number| !owed.contains(number));
        assert_eq!(owed.len() + rest.len(), numbers.len(), "{own} answers {numbers:?}, and should {owed:?}");
        let is_plain = |number: &usize| self.messages[*number].uid.is_none();
        assert!(rest.iter().all(is_plain), "{own} answers {numbers:?}, and was to answer {owed:?}");
    }

    /// All records of a shard up to this one are on disk.
    pub(crate) fn on_durable(&mut self, shard: usize, lsn: u64) {
        let open = std::mem::take(&mut self.open);
        for open in open {
            if open.shard == shard && open.lsn <= lsn { self.is_on_disk(&open) } else { self.open.push(open) }
        }
    }

    fn is_on_disk(&mut self, open: &Open) {
        let Some(turn) = self.turns.get_mut(&open.uid) else { panic!("a turn without a name") };
        if let Written::Accepted { ending, .. } = open.what {
            turn.ending.clear();
            if ending {
                turn.ending.push(open.what.clone());
                return;
            }
        }
        if turn.ending.is_empty() {
            return self.counts(open.uid, &open.what);
        }
        turn.ending.push(open.what.clone());
        if matches!(open.what, Written::Settled(_)) {
            let all = std::mem::take(&mut turn.ending);
            all.iter().for_each(|what| self.counts(open.uid, what));
        }
    }

    fn counts(&mut self, uid: Uid, what: &Written) {
        let Some(turn) = self.turns.get_mut(&uid) else { panic!("a turn without a name") };
        match what {
            Written::Accepted { revives, answered, ending: _, numbers, took } => {
                turn.accepted = true;
                turn.kept_numbers.clone_from(numbers);
                turn.awaits_reply = *revives && *answered;
                if *revives && !answered {
                    turn.revive();
                }
                for taken in took {
                    if let Some(turn) = self.turns.get_mut(taken) {
                        turn.settled = Some(Outcome::Merged);
                    }
                }
            }
            Written::Reply(verdict, text, numbers) => {
                if std::mem::take(&mut turn.awaits_reply) {
                    turn.revive();
                }
                // Where the record was lost by which others joined it, it is no answer to what is known.
                if *numbers == turn.kept_numbers {
                    turn.reply = Some((*verdict, text.clone()));
                }
            }
            Written::Delivered(part) => turn.parts = turn.parts.max(part + 1),
            Written::Shown(message) => turn.shown = Some(message.clone()),
            // That it is answered with another one says that one's record.
            Written::Settled(Outcome::Merged) => {}
            Written::Settled(outcome) => (turn.settled, turn.shown) = (Some(*outcome), None),
        }
    }

    /// A sender is told that its message is safe.
    pub(crate) fn on_ack(&mut self, number: usize) {
        let is_past = self.messages[number].is_past;
        let is_safe = is_past || self.turn_of(number).is_some_and(|turn| turn.accepted);
        assert!(is_safe, "message {number} is acknowledged and not on disk");
        self.messages[number].acked = true;
    }

    /// A model is asked by the turn of this message.
    pub(crate) fn on_start(&mut self, number: usize, asked: &[usize]) {
        asked.iter().for_each(|number| self.messages[*number].is_begun = true);
        let Some(turn) = self.turn_of(number) else { return };
        // What joined it in the same event is not written yet as this is carried out, and the call is cancelled then.
        let has_all = turn.numbers.iter().all(|number| asked.contains(number));
        assert!(has_all, "{number} asks for {asked:?} and answers {:?}", turn.numbers);
        assert!(
            turn.reply.is_none() || turn.reviving,
            "the answer of {number} is known, and a model is asked again"
        );
        assert!(!turn.is_over(), "{number} is over, and a model is asked");
    }

    /// The store is told no more than the disk knows.
    pub(crate) fn check_save(&self, op: &Op) {
        match op {
            Op::Dead { uid, .. } => {
                let is_known = self.turns.get(uid).and_then(|turn| turn.settled);
                assert!(
                    matches!(is_known, Some(Outcome::Dead(_))),
                    "a letter goes ahead of the disk: {op:?}"
                );
            }
            Op::Said { uid, reply, .. } => {
                let known = self.turns.get(uid).and_then(|turn| turn.reply.as_ref());
                let is_known = known.is_some_and(|(_, text)| text == reply);
                assert!(is_known, "what was said goes ahead of the disk: {op:?}");
            }
            Op::Session { .. }
            | Op::Closed { .. }
            | Op::Seen { .. }
            | Op::Revived { .. }
            | Op::Ended { .. } => {}
        }
    }

    /// A shard asks to post a part.
    pub(crate) fn on_deliver(&mut self, uid: Uid, part: u16, text: &str, edits: &str) {
        assert!(part == 0 || edits.is_empty(), "only the first part takes the place of what was shown");
        assert!(
            part != 0 || !edits.is_empty() || self.may_post(uid),
            "{uid:?} is answered beside what it shows"
        );
        self.check_edits(uid, edits);
        let Some(turn) = self.turns.get(&uid) else { panic!("a part of a turn that nobody admitted") };
        let number = turn.number;
        assert!(turn.reply.is_some(), "a part of {number} goes out, and the answer is not on disk");
        assert_eq!(turn.part(part).as_deref(), Some(text), "part {part} of {number} is another one on disk");
        assert!(!turn.is_over(), "a part of {number} goes out, which is over");
        assert!(
            turn.parts <= part,
            "part {part} of {number} goes out again, and that it was taken is on disk"
        );
        let told = turn.posts.get(&part).is_some_and(|post| post.told);
        assert!(!told, "part {part} of {number} goes out again, and the shard knows that it was taken");
        for (other, before) in self.turns.range(..uid).filter(|(_, before)| before.session == turn.session) {
            let waits = before.is_over() || before.is_replayed || turn.is_replayed || !before.is_delivered;
            assert!(waits, "{number} is answered before {other:?}, message {}", before.number);
        }
    }

    /// The platform takes a part; `heard` if the shard will hear of that.
    pub(crate) fn on_taken(&mut self, uid: Uid, part: u16, heard: bool, edits: &str) {
        let is_read = self.on_edit_taken(edits);
        let Some(turn) = self.turns.get_mut(&uid) else { return };
        let post = turn.posts.entry(part).or_default();
        post.taken += u32::from(!is_read || post.taken == 0);
        assert!(post.taken <= 1 + post.excuses, "people read part {part} of {} twice", turn.number);
        if !heard {
            post.excuses += 1;
        }
    }

    /// The shard hears that a part was taken.
    pub(crate) fn on_told(&mut self, uid: Uid, part: u16) {
        if let Some(post) = self.turns.get_mut(&uid).and_then(|turn| turn.posts.get_mut(&part)) {
            post.told = true;
        }
    }

    /// A shard says that a turn is over.
    pub(crate) fn on_settled(&mut self, number: usize, outcome: Outcome) {
        let Some(uid) = self.messages[number].uid else { return };
        if outcome == Outcome::Answered {
            self.check_left_over(uid);
        }
        let Some(turn) = self.turns.get_mut(&uid) else { return };
        assert!(!turn.is_over(), "{number} is over twice");
        if turn.is_delivered && outcome == Outcome::Answered {
            let Some((_, text)) = &turn.reply else { panic!("{number} is answered without an answer") };
            let count = parts(text, Unit::Chars, PART_CHARS).count();
            for part in turn.parts..u16::try_from(count).unwrap() {
                let told = turn.posts.get(&part).is_some_and(|post| post.told);
                assert!(told, "{number} is over, and its part {part} was not taken");
            }
        }
        turn.over = Some(outcome);
        // Whoever hears that it is answered with another one asks for no more; all hear how that one ended.
        if outcome != Outcome::Merged {
            turn.numbers.iter().for_each(|number| self.messages[*number].is_kept = true);
        }
    }

    /// The process died. Of each turn one part may be in doubt, and nobody remembers what was not on disk.
    pub(crate) fn on_crash(&mut self) {
        self.forgetting.clear();
        for number in 0..self.messages.len() {
            let is_failed = self.messages[number].told == Some(Told::Failure);
            let is_open = || self.answered_by(number).is_none_or(|turn| turn.settled.is_none());
            let is_moot = is_failed && is_open();
            let message = &mut self.messages[number];
            message.is_kept = false;
            message.is_failure_moot |= is_moot;
        }
        for turn in self.turns.values_mut() {
            let mut doubts = 0_u32;
            for (_, post) in turn.posts.range_mut(turn.parts..) {
                if 0 < post.taken && (turn.settled.is_none() || turn.reviving) {
                    doubts += 1;
                    post.excuses = post.taken;
                    post.told = false;
                }
            }
            assert!(doubts <= 1, "{doubts} parts of {} are in doubt", turn.number);
            self.doubled += u64::from(doubts);
        }
    }

    /// A start has read what is on disk: these records of the last life, and these turns that are not over. What must be
    /// among them is, as it was, and nothing else.
    pub(crate) fn on_recovered(&mut self, present: &BTreeSet<(usize, u64)>, found: &BTreeMap<Uid, Found>) {
        for open in std::mem::take(&mut self.open) {
            if present.contains(&(open.shard, open.lsn)) {
                self.is_on_disk(&open);
            }
        }
        for (shard, lsn, mark) in std::mem::take(&mut self.seen) {
            if let Some(number) = self.ids.get(&mark).filter(|_| present.contains(&(shard, lsn))) {
                self.messages[*number].is_past = true;
            }
        }
        let mut gone = Vec::new();
        let mut merged = Vec::new();
        for (uid, turn) in &mut self.turns {
            (turn.reviving, turn.awaits_reply) = (false, false);
            let over = turn.over.take();
            let number = turn.number;
            let answered = std::mem::replace(&mut turn.numbers, turn.kept_numbers.clone());
            match (found.get(uid), turn.accepted && turn.settled.is_none()) {
                (Some(found), true) => {
                    assert_eq!(
                        found.reply, turn.reply,
                        "the answer of {number} is another one after the start"
                    );
                    assert_eq!(found.parts, turn.parts, "{number} goes on from another part");
                    // One that people deleted need not be known any more.
                    let is_gone = turn.shown.as_ref().is_some_and(|name| self.previews.is_excused(name));
                    if !(is_gone && found.shown.is_none()) {
                        assert_eq!(found.shown, turn.shown, "{number} goes on in another message");
                    }
                    turn.shown.clone_from(&found.shown);
                    assert_eq!(found.numbers, turn.numbers, "{number} answers others after the start");
                }
                (Some(_), false) if turn.accepted => panic!("{number} was over, and comes back"),
                (Some(_), false) => panic!("{number} is there and was never written"),
                // It was over, and all records of it are gone: nobody needed them.
                (None, true) if over.is_some() => {
                    turn.settled = over;
                    if over == Some(Outcome::Merged) {
                        merged.push((*uid, answered));
                    } else {
                        turn.numbers = answered;
                    }
                }
                (None, true) => panic!("message {number} was on disk and is lost"),
                (None, false) if turn.accepted => {}
                (None, false) => gone.push(*uid),
            }
        }
        assert!(found.keys().all(|uid| self.turns.contains_key(uid)), "something was never admitted");
        for (uid, numbers) in merged {
            let has_all = |other: &Turn| numbers.iter().all(|number| other.numbers.contains(number));
            let is_there = self.turns.iter().any(|(other, turn)| *other != uid && has_all(turn));
            assert!(is_there, "{uid:?} was to be answered with another one and is lost: {numbers:?}");
        }
        for turn in self.turns.values_mut().filter(|turn| turn.settled != Some(Outcome::Merged)) {
            turn.into = None;
        }
        for uid in gone {
            if let Some(turn) = self.turns.remove(&uid) {
                // Its own record was lost, and that of one which took it in was not.
                let has = |(_, other): &(&Uid, &Turn)| other.numbers.contains(&turn.number);
                self.messages[turn.number].uid = self.turns.iter().find(has).map(|(uid, _)| *uid);
            }
        }
    }

    /// The places whose conversations a message may be remembered in: its own, and where its answer goes.
    pub(crate) fn places(&self, number: usize) -> [usize; 2] {
        [self.messages[number].place, self.messages[number].account]
    }

    /// What a session remembers was reset, or it was closed. `of` says of a place whether what was said there may be
    /// remembered in that session, and whether it can be nowhere else.
    pub(crate) fn on_forgotten(
        &mut self,
        client: Client,
        session: usize,
        of: impl Fn(usize) -> (bool, bool),
        is_closed: bool,
    ) {
        self.reset.insert(session);
        let may = |number: usize| self.places(number).into_iter().any(|place| of(place).0);
        let must = |number: usize| self.places(number).into_iter().all(|place| of(place).1);
        let own = || self.turns.iter().filter(|(_, turn)| may(turn.number));
        // A letter that is tried again keeps its name, and so does a turn that came from another conversation with the
        // links: what was said after it would have to go without it.
        let is_older =
            |turn: &Turn| turn.is_replayed || self.places(turn.number).into_iter().any(|place| !of(place).1);
        let is_mixed = !is_closed && own().any(|(_, turn)| is_older(turn) && !turn.is_over());
        let said = own().filter(|(_, turn)| turn.is_answered() && !is_mixed && must(turn.number));
        self.forgetting.push((client, said.map(|(uid, _)| *uid).collect()));
        let turns = &self.turns;
        let own = self.messages.iter_mut();
        let own = own.filter(|message| of(message.place).0 || of(message.account).0);
        // What only waits begins the new history. A dead letter that is tried again belongs to the old.
        let is_old = |message: &&mut Message| {
            let turn = message.uid.and_then(|uid| turns.get(&uid));
            let was_over = turn.is_some_and(|turn| turn.is_over() || turn.is_replayed);
            is_closed || was_over || message.is_begun || message.kind == Kind::Operator
        };
        own.filter(is_old).for_each(|message| message.is_overlapped = true);
    }

    /// He hears that it is done.
    pub(crate) fn on_has_forgotten(&mut self, client: Client) {
        let done = self.forgetting.extract_if(.., |(of, _)| *of == client);
        self.forgotten.extend(done.flat_map(|(_, said)| said));
    }

    /// An operator drops a dead letter; as which client he will hear that it is done for good, if he will.
    pub(crate) fn on_dropping(&mut self, client: Option<Client>, uid: Uid) {
        let (_, of) = self.dropped.entry(uid).or_default();
        *of = client.or(*of);
    }

    /// He hears that it is done.
    pub(crate) fn on_dropped(&mut self, client: Client) {
        let dropped = self.dropped.values_mut().find(|(_, of)| *of == Some(client));
        if let Some((is_done, _)) = dropped {
            *is_done = true;
        }
    }

    /// Letters that may be gone, and those that must.
    pub(crate) fn dropped(&self) -> (BTreeSet<Uid>, BTreeSet<Uid>) {
        let done = self.dropped.iter().filter(|(_, (is_done, _))| *is_done);
        (self.dropped.keys().copied().collect(), done.map(|(uid, _)| *uid).collect())
    }

    /// A life begins with other links: what is not over goes on where its place belongs now. `of` says where that is, and
    /// how often it changed.
    pub(crate) fn on_linked(&mut self, of: impl Fn(usize) -> (usize, usize)) {
        for message in &mut self.messages {
            let (_, changes) = of(message.place);
            (message.session, _) = of(message.account);
            // Event ids of before the change are not known for long: its sender heard that it is safe as the process died.
            let is_known = message.uid.is_some() || message.is_past;
            message.acked |= message.kind == Kind::Update && is_known && message.links != changes;
        }
        for turn in self.turns.values_mut().filter(|turn| turn.settled.is_none()) {
            turn.session = self.messages[turn.number].session;
        }
    }

    /// The turn that a message is answered by in the end.
    pub(crate) fn answered_by(&self, number: usize) -> Option<&Turn> {
        let is = |turn: &&Turn| turn.settled != Some(Outcome::Merged) && turn.numbers.contains(&number);
        self.turns.values().find(is)
    }

    /// Turns that must be dead letters.
    pub(crate) fn owed(&self) -> BTreeSet<Uid> {
        let dead = |turn: &Turn| matches!(turn.settled, Some(Outcome::Dead(_)));
        self.turns.iter().filter(|(_, turn)| dead(turn)).map(|(uid, _)| *uid).collect()
    }
}
