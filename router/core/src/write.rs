//! What of a turn is written to the journal, and what waits for that: a message is acknowledged, and a part of an answer
//! posted, once the record before it is on disk. Turns do not wait for their own acknowledgement.
//!
//! The store is never told more than the disk knows: an event id is saved once its message is on disk, what was said once
//! the answer is, a dead letter once the turn's end is.
//!
//! Records of a turn: `Accepted`, then `Reply` once its answer is whole, `Delivered` for each part that a platform
//! confirmed, `Settled`; before `Reply` also `Shown`, see [`crate::preview`]. A turn whose number of the first record is 0
//! is not written at all.
use crate::codes::Code;
use crate::dedup::At;
use crate::effect::{Dead, Effect, Effects, Outcome, Saved};
use crate::event::Mode;
use crate::id::{Client, SessionId, TurnId, Uid};
use crate::log::{Await, Ended, JournalState, Start, Waiting};
use crate::places::Places;
use crate::plan::RunningMode;
use crate::record::{Accepted, Forgot, Marks, Record, Uids};
use crate::session::Session;
use crate::shard::Shard;
use crate::turn::Turn;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Turns, and others, written again in one event; the rest when the journal asks again.
const CARRIED_MAX: usize = 256;
/// Bytes of a failure's own words that are kept with a turn.
const WHY_BYTES_MAX: usize = 512;

impl Shard {
    /// Begins with a past: before the first event.
    pub fn begin_with(&mut self, start: &Start) {
        debug_assert!(self.sessions.len() == 0, "sessions were hashed with another key");
        self.secret = start.secret;
        self.log.begin(start);
        if start.store {
            self.dedup.is_untold(Some(At::now(self.now)));
        }
    }

    /// The number of the last record that is not needed any more, nor any before it, once all that was appended so far is
    /// on disk.
    pub fn released(&mut self) -> u64 {
        let turns = &self.turns;
        let lives = |lsn, id: TurnId| turns.get(id.slot, id.generation).is_some_and(|turn| turn.lsn == lsn);
        self.log.released(lives)
    }

    /// Must a message of this kind be on disk before it is acknowledged?
    pub(crate) fn is_written(&self, mode: Mode, receipt: bool) -> bool {
        self.log.journal && (receipt || mode == Mode::Deliver)
    }

    /// Why nothing new can be written, if so.
    pub(crate) const fn unwritable(&self) -> Option<Code> {
        match self.log.state {
            JournalState::Open => None,
            JournalState::Full => Some(Code::JournalFull),
            JournalState::Failed => Some(Code::JournalFailed),
        }
    }

    /// Writes down that a turn was admitted, and which others it took in. `id` is its event's, unless that is remembered
    /// elsewhere.
    pub(crate) fn write_accepted(&mut self, slot: u32, id: &str, out: &mut Effects) -> u64 {
        let turn_id = self.turn_id(slot);
        let Some(turn) = self.turns.at_mut(slot) else { return 0 };
        let Some(session) = self.sessions.at(turn.session) else { return 0 };
        let marks = turn.marks();
        let admitted = admits(turn, session, &self.places, (id, &marks));
        let lsn = self.log.append(&Record::Accepted(admitted), out);
        turn.lsn = lsn;
        self.log.live(lsn, turn_id);
        lsn
    }

    /// Writes down that a session forgets what was said under an earlier name than `from`, or all that it is; the record's
    /// number, 0 where nothing is written.
    pub(crate) fn write_forgot(
        &mut self,
        slot: u32,
        (uid, from): (Uid, Uid),
        closed: bool,
        out: &mut Effects,
    ) -> u64 {
        let Some(session) = self.sessions.at(slot).filter(|_| self.log.journal && self.log.store) else {
            return 0;
        };
        let agent = self.places.desk(session.desk).filter(|_| session.assigned);
        let forgot = Forgot {
            uid,
            from,
            closed,
            scope: session.scope,
            messages: session.messages,
            created_millis: match session.born.unix_millis() {
                0 => self.log.unix_millis(session.born.time()),
                known => known,
            },
            active_millis: self.log.unix_millis(session.active),
            channel: self.places.post(session.post).map_or("", |post| &post.name),
            chat: session.chat(),
            thread: session.thread(),
            peer: session.peer(),
            agent: agent.map_or("", |desk| &desk.name),
            mode: session.running_mode.map_or("", RunningMode::name),
        };
        self.log.append(&Record::Forgot(forgot), out)
    }

    /// Writes down a turn's whole answer; the record's number, or `None` if the turn is not written.
    pub(crate) fn write_reply(&mut self, slot: u32, verdict: Outcome, out: &mut Effects) -> Option<u64> {
        let turn = self.turns.at(slot).filter(|turn| turn.lsn != 0)?;
        Some(self.log.append(&answers(turn, verdict, self.log.store), out))
    }

    /// The next part of a turn's answer goes out once this record is on disk.
    pub(crate) fn deliver_after(&mut self, slot: u32, lsn: u64) {
        let turn = self.turn_id(slot);
        self.log.wait(lsn, Await::Part { turn });
        if let Some(turn) = self.turns.at_mut(slot) {
            turn.delivering.unwritten = true;
        }
        self.arm(slot);
    }

    /// Writes down that a part was confirmed.
    pub(crate) fn write_delivered(
        &mut self,
        slot: u32,
        part: u16,
        message: &str,
        out: &mut Effects,
    ) -> Option<u64> {
        let turn = self.turns.at(slot).filter(|turn| turn.lsn != 0)?;
        Some(self.log.append(&Record::Delivered { uid: turn.uid, part, message }, out))
    }

    /// Keeps whoever failed in its own words, for the dead letters.
    pub(crate) fn keep_why(&mut self, slot: u32, detail: &str) {
        if detail.is_empty() {
            return;
        }
        if let Some(turn) = self.turns.at_mut(slot) {
            turn.rare().why = detail[..detail.floor_char_boundary(WHY_BYTES_MAX)].into();
        }
    }

    /// Writes down that a turn is over. If it could not be answered it is a dead letter; if it was one, it may be none.
    pub(crate) fn write_settled(&mut self, slot: u32, outcome: Outcome, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let (uid, floor, replayed) = (turn.uid, turn.lsn, turn.replayed);
        let is_dead = matches!(outcome, Outcome::Dead(_)) && turn.mode == Mode::Deliver;
        if floor == 0 {
            if is_dead && (self.log.journal || self.log.store) {
                let ended = self.ended(slot, outcome);
                self.save_end(&ended, 0, out);
            } else if replayed && !self.log.journal {
                self.save_revived(uid, 0, out);
            }
            return;
        }
        let tells = is_dead || replayed;
        // What earlier files say of it must not outlive the word that it is over: should the disk lose that, it is written
        // again. Of one that was taken in, that is the word of the turn which took it.
        let is_kept = tells || (turn.restored && outcome != Outcome::Merged);
        let ended = is_kept.then(|| Ended { tells, ..self.ended(slot, outcome) });
        let Some(turn) = self.turns.at(slot) else { return };
        let lsn = self.log.append(&ends(turn, outcome), out);
        if let Some(ended) = ended {
            self.log.wait_for_end(lsn, floor, ended);
        }
    }

    /// All that there is to say of a turn that is over.
    #[cold]
    fn ended(&self, slot: u32, outcome: Outcome) -> Ended {
        let mut ended =
            Ended { accepted: Vec::new(), reply: Vec::new(), parts: 0, settled: Vec::new(), tells: true };
        let Some(turn) = self.turns.at(slot) else { return ended };
        let Some(session) = self.sessions.at(turn.session) else { return ended };
        let marks = turn.marks();
        let admitted = admits(turn, session, &self.places, (turn.id(), &marks));
        Record::Accepted(admitted).encode(&mut ended.accepted);
        if let Some(verdict) = turn.known_verdict() {
            answers(turn, verdict, self.log.store).encode(&mut ended.reply);
            ended.parts = turn.delivering.part;
        }
        ends(turn, outcome).encode(&mut ended.settled);
        ended
    }

    /// A turn is over for good: it is a dead letter now, or the letter that it was is none any more.
    fn save_end(&mut self, ended: &Ended, floor: u64, out: &mut Effects) {
        let Some(Record::Settled { uid, outcome, attempts, detail }) = Record::decode(&ended.settled) else {
            return;
        };
        let Outcome::Dead(code) = outcome else { return self.save_revived(uid, floor, out) };
        let Some(record @ Record::Accepted(accepted)) = Record::decode(&ended.accepted) else { return };
        if accepted.replayed {
            // It was a letter before, and may have taken other messages in since: that one makes way for this one.
            self.save_revived(uid, floor, out);
        }
        // What is delivered for a turn that failed before is an apology, not an answer.
        let reply = match Record::decode(&ended.reply) {
            Some(Record::Reply { verdict, text, .. }) if !matches!(verdict, Outcome::Dead(_)) => Some(text),
            Some(_) | None => None,
        };
        let dead = Dead {
            record: out.keep_record(&record),
            code,
            attempts,
            answered: reply.is_some(),
            parts: if reply.is_some() { ended.parts } else { 0 },
            detail: out.keep(detail),
            reply: out.keep(reply.unwrap_or_default()),
        };
        let (save, session) = (self.log.save(floor), SessionId::default());
        if accepted.replayed {
            self.log.on_revived(uid, save);
        }
        out.push(Effect::Save { save, session, needed: floor != 0, saved: Saved::Dead(dead) });
    }

    pub(crate) fn on_durable(&mut self, lsn: u64, out: &mut Effects) {
        self.log.on_durable(lsn);
        while let Some(Waiting { lsn, floor, what }) = self.log.next_ready() {
            match what {
                Await::Ack { client, turn } => out.push(Effect::Durable { client, turn }),
                Await::Repeated { client } => out.push(Effect::Duplicate { client }),
                Await::Operated { client } => out.push(Effect::Operated { client, refused: None }),
                Await::Replayed { client, turn } => self.on_replay_durable(client, turn, out),
                Await::Dropped { client, uid } => {
                    out.push(Effect::Operated { client, refused: None });
                    self.save_revived(uid, floor, out);
                }
                Await::Ended => {
                    if let Some(ended) = self.log.take_end(lsn).filter(|ended| ended.tells) {
                        self.save_end(&ended, floor, out);
                    }
                }
                Await::Seen { mark } => self.save_seen(mark, floor, out),
                Await::Merged { client, turn, seq, into } => {
                    out.push(Effect::Merged { client, turn, seq, into });
                }
                Await::Part { turn } => self.on_part_written(turn, out),
            }
        }
        self.log.on_all_ready();
    }

    /// The turn that takes a dead letter's place is on disk: only now may the letter go.
    fn on_replay_durable(&mut self, client: Client, id: TurnId, out: &mut Effects) {
        out.push(Effect::Operated { client, refused: None });
        let turn = self.turns.get_mut(id.slot, id.generation).filter(|turn| turn.replayed);
        if let Some(turn) = turn {
            turn.replayed = false;
            let (uid, floor) = (turn.uid, turn.lsn);
            self.save_revived(uid, floor, out);
        }
    }

    /// An operator drops a dead letter. The store is told once that is on disk: after a crash the journal may tell again of
    /// the end that made the letter, and then tells of this too. Where the journal takes nothing, the store alone is told,
    /// because that may be what makes room.
    pub(crate) fn on_drop_letter(&mut self, client: Client, uid: Uid, out: &mut Effects) {
        if !self.log.revive(uid) {
            // It was tried again or dropped, and the store has not heard of that.
            out.push(Effect::Operated { client, refused: Some(Code::Duplicate) });
            return;
        }
        if !self.log.journal || self.unwritable().is_some() {
            self.save_revived(uid, 0, out);
            out.push(Effect::Operated { client, refused: None });
            return;
        }
        let lsn = self.log.append(&Record::Dropped { uid }, out);
        self.log.wait_to_save(lsn, lsn, Await::Dropped { client, uid });
    }

    /// The store forgets a dead letter, if it has one of this name.
    pub(crate) fn save_revived(&mut self, uid: Uid, floor: u64, out: &mut Effects) {
        let save = self.log.save(floor);
        self.log.on_revived(uid, save);
        let session = SessionId::default();
        out.push(Effect::Save { save, session, needed: floor != 0, saved: Saved::Revived { uid } });
    }

    /// Writes again what the journal would like to drop, or has lost: turns that are under way, and what waits to be saved.
    pub(crate) fn on_carry(&mut self, lsn: u64, out: &mut Effects) {
        let (mut taken, first) = (Vec::new(), self.log.last() + 1);
        self.log.take_live(lsn, CARRIED_MAX, |first, turn| taken.push((first, turn)));
        for (first, id) in taken {
            if self.turn(id).is_some_and(|turn| turn.lsn == first) {
                self.write_again(id.slot, out);
            }
        }
        let unsaved = self.log.take_unwritten(lsn, CARRIED_MAX);
        if unsaved.is_empty() {
            return;
        }
        // The ends first: ids of what is over may stand there.
        let (ends, rest): (Vec<_>, Vec<_>) =
            unsaved.into_iter().partition(|waiting| waiting.what == Await::Ended);
        for Waiting { lsn, .. } in ends {
            self.write_end_again(lsn, first, out);
        }
        let carriers = self.carriers();
        for waiting in rest {
            self.write_unsaved(waiting, &carriers, out);
        }
    }

    /// By the mark of an event id, the first record that is needed of the turn that tells it.
    fn carriers(&self) -> BTreeMap<[u64; 2], u64> {
        let mut carriers = BTreeMap::new();
        for (_, _, turn) in self.turns.iter_from(0).filter(|(_, _, turn)| turn.lsn != 0) {
            carriers.extend(Marks::new(&turn.marks()).iter().map(|mark| (mark, turn.lsn)));
            carriers.insert(turn.mark.words(), turn.lsn);
        }
        for (floor, ended) in self.log.ends() {
            if let Some(Record::Accepted(accepted)) = Record::decode(&ended.accepted) {
                carriers.extend(accepted.seen.iter().map(|mark| (mark, floor)));
            }
        }
        carriers
    }

    /// What is saved once it is on disk waits for other records. Where its own was lost, it would never be there.
    fn write_unsaved(
        &mut self,
        Waiting { floor, what, .. }: Waiting,
        carriers: &BTreeMap<[u64; 2], u64>,
        out: &mut Effects,
    ) {
        match what {
            Await::Seen { mark } => {
                let before = floor;
                let floor = carriers.get(&mark).copied().unwrap_or_else(|| {
                    // Its message is over, and nothing else is needed of it.
                    let unix_millis = self.log.unix_millis(self.now);
                    self.log.append(&Record::Seen { mark, unix_millis }, out)
                });
                self.dedup.is_moved(before, floor);
                self.log.wait_to_save(self.log.last(), floor, what);
            }
            // Its turn was written again, or waits for that; or it is over, and says by its end that the letter goes.
            Await::Replayed { client, turn } => match self.turn(turn).map(|turn| turn.lsn) {
                Some(floor) => self.log.wait_to_save(self.log.last(), floor, what),
                None => self.log.wait(self.log.last(), Await::Operated { client }),
            },
            Await::Dropped { uid, .. } => {
                let lsn = self.log.append(&Record::Dropped { uid }, out);
                self.log.wait_to_save(lsn, lsn, what);
            }
            Await::Ack { .. }
            | Await::Repeated { .. }
            | Await::Operated { .. }
            | Await::Merged { .. }
            | Await::Ended
            | Await::Part { .. } => {
                debug_assert!(floor == 0, "nothing is saved for {what:?}");
                self.log.wait(self.log.last(), what);
            }
        }
    }

    /// A turn is over, and no record says so yet; `first` is the first of those that are written again.
    fn write_end_again(&mut self, lsn: u64, first: u64, out: &mut Effects) {
        let Some(ended) = self.log.take_end(lsn) else { return };
        self.append_ended(&ended, out);
        self.log.wait_for_end(self.log.last(), first, ended);
    }

    fn append_ended(&mut self, ended: &Ended, out: &mut Effects) {
        let Some(settled @ Record::Settled { uid, outcome, .. }) = Record::decode(&ended.settled) else {
            return;
        };
        // What another turn took in stands in that one's record.
        if outcome != Outcome::Merged {
            if let Some(Record::Accepted(accepted)) = Record::decode(&ended.accepted) {
                self.log.append(&Record::Accepted(Accepted { ending: true, ..accepted }), out);
            }
            if let Some(reply) = Record::decode(&ended.reply) {
                self.log.append(&reply, out);
            }
            if let Some(part) = ended.parts.checked_sub(1) {
                self.log.append(&Record::Delivered { uid, part, message: "" }, out);
            }
        }
        self.log.append(&settled, out);
    }

    /// Writes down all that is known of a turn: what it was before this is needed no more.
    pub(crate) fn write_again(&mut self, slot: u32, out: &mut Effects) {
        let id = self.turns.at(slot).map(|turn| Box::<str>::from(turn.id())).unwrap_or_default();
        self.write_accepted(slot, &id, out);
        self.write_shown(slot, out);
        let Some(turn) = self.turns.at(slot) else { return };
        let (Some(verdict), part) = (turn.known_verdict(), turn.delivering.part) else { return };
        self.write_reply(slot, verdict, out);
        if let Some(last) = part.checked_sub(1) {
            self.write_delivered(slot, last, "", out);
        }
    }
}

/// The record of a turn that was admitted, with its event's id and the marks of others.
fn admits<'a>(
    turn: &'a Turn,
    session: &'a Session,
    places: &'a Places,
    (id, marks): (&'a str, &'a [[u8; 16]]),
) -> Accepted<'a> {
    // What belongs to several accounts is written down as it came, and taken up as if it came again.
    let (own, origin) = (places.post(session.post).map_or("", |post| &*post.name), turn.origin());
    Accepted {
        uid: turn.uid,
        unix_millis: turn.uid.micros() / 1_000,
        scope: session.scope,
        mode: turn.mode,
        class: turn.class,
        outbound: turn.outbound,
        replayed: turn.replayed,
        answered: turn.known_verdict().is_some(),
        ending: false,
        channel: origin.map_or(own, |origin| &origin.channel),
        agent: places.desk(turn.desk).map_or("", |desk| &desk.name),
        id,
        chat: origin.map_or(session.chat(), |origin| &origin.chat),
        thread: session.thread(),
        peer: origin.map_or(session.peer(), |origin| &origin.peer),
        name: turn.name(),
        text: turn.text(),
        took: Uids::new(turn.joined()),
        seen: Marks::new(marks),
    }
}

/// The record of its whole answer.
fn answers(turn: &Turn, verdict: Outcome, has_store: bool) -> Record<'_> {
    let history = has_store && turn.history && !turn.forgets;
    let asked = u32::try_from(turn.text().len()).unwrap_or(u32::MAX);
    Record::Reply { uid: turn.uid, verdict, history, asked, text: &turn.reply }
}

/// The record of its end.
fn ends(turn: &Turn, outcome: Outcome) -> Record<'_> {
    let detail = turn.why();
    Record::Settled { uid: turn.uid, outcome, attempts: turn.attempts(), detail }
}
