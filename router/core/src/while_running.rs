//! Messages that arrive while a turn of their session runs: each has its own turn (*followup*), all that wait are
//! answered by one (*collect*), they join the turn that runs (*steer*), or cancel it (*interrupt*); and what gives way
//! where as many wait as may. The agent's plan decides, or the session's own mode, which an operator gave it.
//!
//! *Followup* is what the other files do by themselves: nothing here runs for it, but the cap.
//!
//! **One turn for several.** Their texts are joined in the order of admission, a newline between them; where their
//! senders' names differ, each text has its sender's before it. They go together if they ask the same agent and are
//! answered in the same way, and as far as the text stays within `text_bytes_max`; the rest has a turn of its own.
//! Collected messages are answered to the last one's client, because it is the one that surely still listens; a
//! steered one joins the turn that runs, which keeps its place at the agent, and is answered to *its* client. A turn that
//! joined another ends as [`Outcome::Merged`]: a client that waits is told into which one; on a platform nothing is said.
//! A call that is steered is cancelled and made anew: nothing is put into a call that runs, for want of tools. What was
//! shown cannot be taken back: from the first piece on a steered message waits, and is collected.
//!
//! **What is on disk.** Merging must neither lose a message nor answer it twice, wherever a crash cuts the journal. The
//! turn that goes on is written again, with the whole text and the names of those that it took in: *one* record. Before
//! it each message stands for itself, and is answered by itself after a crash; with it the joined text is answered, and
//! the others are over by the same record, and their event ids are known by it. Their own `Settled` follow and mean
//! nothing to a reader, who may find them where the disk lost that record. The messages' own records are older than
//! that one, so no segment that holds it
//! outlives them by losing it: journals drop their oldest first. Where it is lost with a disk that takes nothing, the
//! turn is written again with the same names. If none of them was written, nothing is; if any was,
//! the turn that goes on is from then on a written one, and goes on even if its client leaves. Where the journal takes
//! nothing, written messages are not merged.
//!
//! **At the cap** the newest is refused (`SESSION_FULL`), or the oldest that waits gives way: its client is told, and a
//! platform's message becomes a dead letter, to be seen and replayed. One with a receipt whose client is gone is
//! answered whatever comes: nobody could be told. Or the last that waits is merged with the one that comes.
use crate::breaker::Verdict;
use crate::codes::Code;
use crate::dedup::Mark;
use crate::effect::{Effect, Effects, Notice, Outcome};
use crate::event::{Content, Inbound, Mode};
use crate::id::Client;
use crate::log::Await;
use crate::plan::{DropPolicy, RunningMode};
use crate::record::uid_bytes;
use crate::session::Session;
use crate::shard::Shard;
use crate::slots::NONE;
use crate::turn::{NOWHERE, State, Turn};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// What of a message decides with which others it can be answered.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    desk: u16,
    delivered: bool,
    written: bool,
    content: Content,
    name: &'a str,
    text: &'a str,
}

impl<'a> Part<'a> {
    fn of(turn: &'a Turn) -> Self {
        Self {
            desk: turn.desk,
            delivered: turn.mode == Mode::Deliver,
            written: turn.lsn != 0,
            content: turn.content,
            name: turn.name(),
            text: turn.text(),
        }
    }
}

/// Messages that are to be answered together, as far as they were looked at.
#[derive(Clone, Copy, Debug)]
struct Joined<'a> {
    first: Part<'a>,
    written: bool,
    /// All senders have the same name.
    same: bool,
    /// Bytes without the senders' names, and with them.
    plain: usize,
    named: usize,
}

impl<'a> Joined<'a> {
    fn new(first: Part<'a>) -> Self {
        let (plain, named) = (first.text.len(), label_len(first.name) + first.text.len());
        Self { first, written: first.written, same: true, plain, named }
    }

    /// One more; `None` if it cannot be answered with the others.
    fn with(self, part: Part<'a>, text_bytes_max: u32, writable: bool) -> Option<Self> {
        let joined = Self {
            written: self.written || part.written,
            same: self.same && self.first.name == part.name,
            plain: self.plain + 1 + part.text.len(),
            named: self.named + 1 + label_len(part.name) + part.text.len(),
            ..self
        };
        let bytes = if joined.same { joined.plain } else { joined.named };
        let alike = (self.first.desk, self.first.delivered) == (part.desk, part.delivered);
        let words = self.first.content.is_words() && part.content.is_words();
        let fits = bytes <= text_bytes_max as usize && (writable || !joined.written);
        (alike && words && fits).then_some(joined)
    }
}

/// Bytes of a sender's name before a text.
const fn label_len(name: &str) -> usize {
    if name.is_empty() { 0 } else { name.len() + 2 }
}

impl Shard {
    fn running_mode(&self, session: &Session, desk: u16) -> RunningMode {
        let desk = self.places.desk(desk);
        session
            .running_mode
            .unwrap_or_else(|| desk.map_or(RunningMode::Followup, |desk| desk.while_running.mode))
    }

    fn cap(&self, desk: u16) -> u32 {
        let most = self.plan.limits.session_waiting_max;
        let own = self.places.desk(desk).map_or(0, |desk| desk.while_running.cap);
        u32::from(if own == 0 { most } else { own.min(most) })
    }

    /// When a message that finds so many of its session ahead of it might come again, milliseconds.
    #[cold]
    pub(crate) fn session_wait(&self, desk: u16, behind: u32) -> u32 {
        let turn = self.places.desk(desk).map_or(0, |desk| desk.turn_millis);
        turn.saturating_mul(behind.saturating_add(1)).clamp(1_000, 60_000)
    }

    /// Is there room for one more message behind the turn that a session runs, or will something give way for it?
    #[cold]
    pub(crate) fn has_room(&self, session: &Session, desk: u16, inbound: &Inbound<'_>) -> bool {
        if session.waiting.len() < self.cap(desk) {
            return true;
        }
        let interrupts =
            inbound.content.is_words() && self.running_mode(session, desk) == RunningMode::Interrupt;
        if interrupts && self.is_asked(session.current) {
            return true;
        }
        match self.places.desk(desk).map_or(DropPolicy::Newest, |desk| desk.while_running.drop) {
            DropPolicy::Newest => false,
            DropPolicy::Oldest => self.droppable(session).is_some(),
            DropPolicy::Merge => {
                let last = self.turns.at(session.waiting.tail()).filter(|turn| turn.errand.is_none());
                let part = Part {
                    desk,
                    delivered: inbound.mode == Mode::Deliver,
                    written: self.is_written(inbound.mode, inbound.receipt),
                    content: inbound.content,
                    name: crate::admit::clip(inbound.name, usize::from(self.plan.limits.name_bytes_max)),
                    text: inbound.text,
                };
                last.is_some_and(|last| self.join(Joined::new(Part::of(last)), part).is_some())
            }
        }
    }

    fn join<'a>(&self, joined: Joined<'a>, part: Part<'a>) -> Option<Joined<'a>> {
        joined.with(part, self.plan.limits.text_bytes_max, self.unwritable().is_none())
    }

    /// Is it something that somebody wrote, for a model?
    fn is_asked(&self, slot: u32) -> bool {
        self.turns.at(slot).is_some_and(|turn| turn.errand.is_none() && turn.content.is_words())
    }

    /// The oldest message that waits and may give way.
    fn droppable(&self, session: &Session) -> Option<u32> {
        let mut slot = session.waiting.head();
        while let Some(turn) = self.turns.at(slot) {
            let heard = turn.mode == Mode::Deliver || turn.lsn == 0 || turn.client != Client::NOBODY;
            if turn.errand.is_none() && heard {
                return Some(slot);
            }
            slot = turn.link.next();
        }
        None
    }

    /// A message was admitted behind the turn that its session runs, if it runs any.
    #[cold]
    pub(crate) fn meet_running(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let (place, desk) = (turn.session, turn.desk);
        let Some(session) = self.sessions.at(place).filter(|session| session.current != slot) else { return };
        let current = session.current;
        // A whole request is answered by itself, after those before it.
        let words = turn.content.is_words();
        let mode = if words { self.running_mode(session, desk) } else { RunningMode::Followup };
        match mode {
            RunningMode::Steer if self.can_steer(current, slot, session.waiting.len()) => {
                self.steer(current, slot, out);
            }
            // As many wait as before.
            RunningMode::Interrupt if self.is_asked(current) => self.cancel(current, true, out),
            RunningMode::Followup | RunningMode::Collect | RunningMode::Steer | RunningMode::Interrupt => {
                self.make_room(place, slot, out)
            }
        }
    }

    /// Something gives way if more wait than may.
    fn make_room(&mut self, place: u32, newest: u32, out: &mut Effects) {
        let Some(desk) = self.turns.at(newest).map(|turn| turn.desk) else { return };
        let Some(session) = self.sessions.at(place) else { return };
        if session.waiting.len() <= self.cap(desk) {
            return;
        }
        let policy = self.places.desk(desk).map_or(DropPolicy::Newest, |desk| desk.while_running.drop);
        match policy {
            DropPolicy::Oldest => {
                if let Some(oldest) = self.droppable(session) {
                    self.drop_waiting(oldest, out);
                }
            }
            DropPolicy::Merge => {
                if let Some(last) = self.turns.at(newest).map(|turn| turn.link.previous()) {
                    self.merge(&[last, newest], newest, out);
                }
            }
            DropPolicy::Newest => {}
        }
    }

    /// A message gives way to newer ones.
    fn drop_waiting(&mut self, slot: u32, out: &mut Effects) {
        self.publish_failure(slot, Code::SessionFull, out);
        let Some(turn) = self.turns.at(slot) else { return };
        match turn.mode {
            Mode::Stream | Mode::Whole => {
                let behind = self.sessions.at(turn.session).map_or(0, |session| session.waiting.len());
                let wait = self.session_wait(turn.desk, behind);
                self.tell(slot, Code::SessionFull, "", wait, out);
                self.keep_failure(slot, Code::SessionFull);
                self.settle_waiting(slot, Outcome::Failed(Code::SessionFull), out);
            }
            // Nobody apologises for it: that would wait where there is no room.
            Mode::Deliver => self.settle_waiting(slot, Outcome::Dead(Code::SessionFull), out),
        }
    }

    /// May the message join the turn that runs? Nothing of that one's answer was shown, and nothing waits between them.
    fn can_steer(&self, current: u32, slot: u32, waiting: u32) -> bool {
        let (Some(running), Some(turn)) = (self.turns.at(current), self.turns.at(slot)) else { return false };
        let open = match running.state {
            State::Loading | State::Ready | State::Running | State::BackingOff => true,
            State::Waiting | State::Delivering => false,
        };
        let untouched = !running.is_shown() && !running.forgets && running.errand.is_none();
        waiting == 1
            && open
            && untouched
            && running.calls < u16::MAX - 1
            && self.join(Joined::new(Part::of(running)), Part::of(turn)).is_some()
    }

    /// The message joins the turn that runs: its call, if one is under way, is made anew.
    fn steer(&mut self, current: u32, slot: u32, out: &mut Effects) {
        let running = self.turns.at(current).is_some_and(|turn| turn.state == State::Running);
        if running {
            out.push(Effect::Cancel { call: self.call_id(current), overdue: false });
            self.end_call(current, Verdict::Neutral, out);
        }
        self.merge(&[current, slot], current, out);
        if !running {
            return;
        }
        // It keeps its place at the agent, and begins with the first model again: that failed at nothing.
        self.free_places(current, false);
        if let Some(turn) = self.turns.at_mut(current) {
            turn.reply.clear();
            (turn.reply_bytes, turn.reply_chars, turn.usage) = (0, 0, None);
            (turn.chain, turn.line, turn.tries) = (0, NOWHERE, 0);
        }
        self.queue_up(current);
        self.arm(current);
    }

    /// The running turn of a session is over: those that wait at the front and go together become one.
    #[cold]
    pub(crate) fn collect(&mut self, place: u32, out: &mut Effects) {
        let Some(session) = self.sessions.at(place) else { return };
        let head = session.waiting.head();
        let Some(first) = self.turns.at(head).filter(|turn| turn.errand.is_none()) else { return };
        match self.running_mode(session, first.desk) {
            RunningMode::Collect | RunningMode::Steer => {}
            RunningMode::Followup | RunningMode::Interrupt => return,
        }
        let (mut joined, mut run, mut next) = (Joined::new(Part::of(first)), Vec::new(), first.link.next());
        run.push(head);
        while let Some(turn) = self.turns.at(next).filter(|turn| turn.errand.is_none()) {
            let Some(more) = self.join(joined, Part::of(turn)) else { break };
            joined = more;
            run.push(next);
            next = turn.link.next();
        }
        if let [_, .., last] = run[..] {
            self.merge(&run, last, out);
        }
    }

    /// Makes one turn, `into`, of these, which are in the order of admission. All others of them wait.
    fn merge(&mut self, run: &[u32], into: u32, out: &mut Effects) {
        let (words, name_len) = self.join_words(run);
        let (mut took, mut marks, mut written, mut class) = (Vec::new(), Vec::new(), false, None);
        let (mut shown, mut restored) = (String::new(), false);
        for &slot in run {
            let Some(turn) = self.turns.at(slot) else { continue };
            written |= turn.lsn != 0;
            restored |= turn.restored;
            class = class.max(Some(turn.class));
            if slot != into {
                shown.push_str(if shown.is_empty() { turn.shown_message() } else { "" });
                took.extend_from_slice(turn.joined());
                took.push(uid_bytes(turn.uid));
                marks.extend_from_slice(turn.took());
                marks.extend(Some(turn.mark).filter(|mark| *mark != Mark::default()));
            }
        }
        let Some(turn) = self.turns.at_mut(into) else { return };
        turn.take_in(&marks);
        turn.goes_on_in(&shown);
        turn.restored = restored;
        turn.name_len = u32::try_from(name_len).unwrap_or(0);
        // One that stands in a queue stands in that of its class.
        turn.class = class.filter(|_| turn.state == State::Waiting).unwrap_or(turn.class);
        let before = core::mem::replace(&mut turn.words, words);
        let id = Box::<str>::from(turn.id());
        if written {
            took.extend_from_slice(turn.joined());
            turn.rare().took = took;
        }
        self.texts.give(before);
        let lsn = if written { self.write_accepted(into, &id, out) } else { 0 };
        self.write_shown(into, out);
        for &slot in run.iter().filter(|&&slot| slot != into) {
            self.end_merged(slot, into, lsn, out);
        }
    }

    /// What a turn of several says: the senders' name, if they all have the same, and the text; and the name's bytes.
    fn join_words(&mut self, run: &[u32]) -> (String, usize) {
        let mut words = self.texts.take();
        let turns = || run.iter().filter_map(|&slot| self.turns.at(slot));
        let first = turns().next().map_or("", Turn::name);
        let same = turns().all(|turn| turn.name() == first);
        if same {
            words.push_str(first);
        }
        let name_len = words.len();
        for (n, turn) in turns().enumerate() {
            if n != 0 {
                words.push('\n');
            }
            if !same && !turn.name().is_empty() {
                words.push_str(turn.name());
                words.push_str(": ");
            }
            words.push_str(turn.text());
        }
        (words, name_len)
    }

    /// `lsn` is the record that says so, 0 if none does.
    fn end_merged(&mut self, slot: u32, into: u32, lsn: u64, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        match turn.mode {
            Mode::Stream | Mode::Whole => {
                let (client, seq) = (turn.client, turn.seq.saturating_add(1));
                let (turn, into) = (self.turn_id(slot), self.turn_id(into));
                if lsn == 0 {
                    out.push(Effect::Merged { client, turn, seq, into });
                } else {
                    // A client that has heard it asks for no more: until that is on disk its message may stand for itself.
                    self.log.wait(lsn, Await::Merged { client, turn, seq, into });
                }
            }
            Mode::Deliver => {}
        }
        let session = self.turns.at(slot).map_or(NONE, |turn| turn.session);
        self.publish(Notice::Updated, session, Some(slot), "merged", out);
        self.settle_waiting(slot, Outcome::Merged, out);
    }
}
