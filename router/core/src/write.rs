//! What of a turn is written to the journal, and what waits for that: a message is acknowledged, and a part of an answer
//! posted, once the record before it is on disk. Turns do not wait for their own acknowledgement.
//!
//! The store is never told more than the disk knows: an event id is saved once its message is on disk, what was said once
//! the answer is. A dead letter is the exception; whoever takes its turn up again takes it back (see `restore`).
//!
//! Records of a turn: `Accepted`, then `Reply` once its answer is whole, `Delivered` for each part that a platform
//! confirmed, `Settled`. A turn whose number of the first record is 0 is not written at all.
use crate::codes::Code;
use crate::dedup::At;
use crate::effect::{Dead, Effect, Effects, Outcome, Saved, Span};
use crate::event::Mode;
use crate::id::{Client, TurnId, Uid};
use crate::log::{Await, JournalState, Start};
use crate::plan::RunningMode;
use crate::record::{Accepted, Forgot, Record, Uids};
use crate::shard::Shard;
use crate::turn::State;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Turns written again in one event; the rest when the journal asks again.
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

    /// Writes down that a turn was admitted. `id` is its event's, unless that is remembered elsewhere.
    pub(crate) fn write_accepted(&mut self, slot: u32, id: &str, out: &mut Effects) -> u64 {
        self.write_joined(slot, id, Uids::default(), out)
    }

    /// As [`Self::write_accepted`], of a turn that took others in.
    pub(crate) fn write_joined(&mut self, slot: u32, id: &str, took: Uids<'_>, out: &mut Effects) -> u64 {
        let turn_id = self.turn_id(slot);
        let Some(turn) = self.turns.at_mut(slot) else { return 0 };
        let Some(session) = self.sessions.at(turn.session) else { return 0 };
        let accepted = Accepted {
            uid: turn.uid,
            unix_millis: turn.uid.micros() / 1_000,
            scope: session.scope,
            mode: turn.mode,
            class: turn.class,
            outbound: turn.outbound,
            replayed: turn.replayed,
            answered: turn.known_verdict().is_some(),
            channel: self.places.post(session.post).map_or("", |post| &post.name),
            agent: self.places.desk(turn.desk).map_or("", |desk| &desk.name),
            id,
            chat: session.chat(),
            thread: session.thread(),
            peer: session.peer(),
            name: turn.name(),
            text: turn.text(),
            took,
        };
        let lsn = self.log.append(&Record::Accepted(accepted), out);
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
            created_millis: match session.created_millis {
                0 => self.log.unix_millis(session.created),
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
        let history = self.log.store && turn.history && !turn.forgets;
        let record = Record::Reply { uid: turn.uid, verdict, history, text: &turn.reply };
        Some(self.log.append(&record, out))
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
            turn.why = Some(Box::from(&detail[..detail.floor_char_boundary(WHY_BYTES_MAX)]));
        }
    }

    /// Writes down that a turn is over, and buries it if it could not be answered.
    pub(crate) fn write_settled(&mut self, slot: u32, outcome: Outcome, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let (uid, attempts, replayed) = (turn.uid, turn.attempts(), turn.replayed);
        if turn.lsn != 0 {
            let detail = turn.why.as_deref().unwrap_or_default();
            let lsn = self.log.append(&Record::Settled { uid, outcome, attempts, detail }, out);
            let floor = turn.lsn;
            if replayed && !matches!(outcome, Outcome::Dead(_)) {
                self.log.wait_to_save(lsn, floor, Await::Revived { uid, floor });
            }
        }
        if let Outcome::Dead(code) = outcome {
            if replayed {
                self.log.not_revived(uid);
            }
            self.write_dead(slot, code, out);
        } else if replayed && !self.log.journal {
            self.save_revived(uid, 0, out);
        }
    }

    fn write_dead(&mut self, slot: u32, code: Code, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        if turn.mode != Mode::Deliver || !(self.log.journal || self.log.store) {
            return;
        }
        // What is delivered for a turn that failed before is an apology, not an answer.
        let answered = turn.state == State::Delivering && !matches!(turn.verdict, Outcome::Dead(_));
        let dead = Dead {
            uid: turn.uid,
            unix_millis: turn.uid.micros() / 1_000,
            code,
            attempts: turn.attempts(),
            outbound: turn.outbound,
            answered,
            parts: if answered { turn.delivering.part } else { 0 },
            detail: out.keep(turn.why.as_deref().unwrap_or_default()),
            name: out.keep(turn.name()),
            text: out.keep(turn.text()),
            reply: if answered { out.keep(&turn.reply) } else { Span::default() },
        };
        let (session, floor) = (self.session_id(turn.session), turn.lsn);
        let save = self.log.save(floor);
        out.push(Effect::Save { save, session, needed: floor != 0, saved: Saved::Dead(dead) });
    }

    pub(crate) fn on_durable(&mut self, lsn: u64, out: &mut Effects) {
        self.log.on_durable(lsn);
        while let Some(ready) = self.log.next_ready() {
            match ready {
                Await::Ack { client, turn } => out.push(Effect::Durable { client, turn }),
                Await::Repeated { client } => out.push(Effect::Duplicate { client }),
                Await::Operated { client } => out.push(Effect::Operated { client, refused: None }),
                Await::Replayed { client, turn } => self.on_replay_durable(client, turn, out),
                Await::Revived { uid, floor } => self.save_revived(uid, floor, out),
                Await::Seen { mark, floor } => self.save_seen(mark, floor, out),
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

    /// The store forgets a dead letter, if it has one of this name.
    pub(crate) fn save_revived(&mut self, uid: Uid, floor: u64, out: &mut Effects) {
        let save = self.log.save(floor);
        self.log.on_revived(uid, save);
        let session = crate::id::SessionId::default();
        out.push(Effect::Save { save, session, needed: floor != 0, saved: Saved::Revived { uid } });
    }

    /// Writes turns again whose first record the journal would like to drop.
    pub(crate) fn on_carry(&mut self, lsn: u64, out: &mut Effects) {
        let mut taken = Vec::new();
        self.log.take_live(lsn, CARRIED_MAX, |first, turn| taken.push((first, turn)));
        for (first, id) in taken {
            if self.turn(id).is_some_and(|turn| turn.lsn == first) {
                self.write_again(id.slot, out);
            }
        }
    }

    /// Writes down all that is known of a turn: what it was before this is needed no more.
    pub(crate) fn write_again(&mut self, slot: u32, out: &mut Effects) {
        let id = self.turns.at(slot).map(|turn| Box::<str>::from(turn.id())).unwrap_or_default();
        self.write_accepted(slot, &id, out);
        let Some(turn) = self.turns.at(slot) else { return };
        let (Some(verdict), part) = (turn.known_verdict(), turn.delivering.part) else { return };
        self.write_reply(slot, verdict, out);
        if let Some(last) = part.checked_sub(1) {
            self.write_delivered(slot, last, "", out);
        }
    }
}
