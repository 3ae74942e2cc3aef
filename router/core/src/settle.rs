//! The end of turns and sessions. Each turn ends here and nowhere else, so that it ends once and gives back all that
//! it had.
use crate::breaker::Verdict;
use crate::codes::Code;
use crate::effect::{Effect, Effects, Notice, Outcome};
use crate::event::Mode;
use crate::id::{Client, TurnId};
use crate::shard::Shard;
use crate::slots::NONE;
use crate::stage::Stage;
use crate::turn::{Errand, State};

impl Shard {
    /// The client is gone, or does not want the answer any more. What a platform was told is accepted goes on: the
    /// request that brought it always leaves.
    pub(crate) fn on_left(&mut self, id: TurnId, out: &mut Effects) {
        let Some(turn) = self.turn(id) else { return };
        match turn.mode {
            Mode::Deliver => {}
            Mode::Stream | Mode::Whole if turn.lsn != 0 => self.go_on_alone(id, out),
            Mode::Stream | Mode::Whole => self.cancel(id.slot, false, out),
        }
    }

    /// The client has a receipt: its message is answered, whether it hears that or not.
    fn go_on_alone(&mut self, id: TurnId, out: &mut Effects) {
        self.on_pressure(id, false, out);
        if let Some(turn) = self.turns.get_mut(id.slot, id.generation) {
            turn.client = Client::NOBODY;
        }
    }

    /// Stops a turn wherever it stands; `tell` its client, unless that left.
    pub(crate) fn cancel(&mut self, slot: u32, tell: bool, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let asked = matches!(turn.errand, None | Some(Errand::Recite));
        let running = turn.state == State::Running;
        let waits = matches!(turn.mode, Mode::Stream | Mode::Whole) && asked;
        if running {
            out.push(Effect::Cancel { call: self.call_id(slot), overdue: false });
            self.end_call(slot, Verdict::Neutral, out);
        }
        if tell && waits {
            self.tell(slot, Code::Cancelled, "", 0, out);
            self.keep_failure(slot, Code::Cancelled);
        }
        self.settle(slot, Outcome::Cancelled, out);
    }

    /// A message waited for longer than it may. Models have nothing to do with it.
    pub(crate) fn on_waited_too_long(&mut self, slot: u32, out: &mut Effects) {
        let wait = self.turns.at(slot).and_then(|turn| self.places.desk(turn.desk));
        let wait = wait.map_or(1_000, |desk| desk.retry_after_millis(desk.waiting.used()));
        self.fail(slot, Code::WaitedTooLong, "", wait, out);
    }

    /// There will be no answer, or no complete one: clients are told; people on a platform read an apology, if the agent
    /// has one. A call that ran is over by then.
    pub(crate) fn fail(
        &mut self,
        slot: u32,
        code: Code,
        detail: &str,
        retry_after_millis: u32,
        out: &mut Effects,
    ) {
        self.publish_failure(slot, code, out);
        self.keep_why(slot, detail);
        let Some(turn) = self.turns.at(slot) else { return };
        let behind = turn.state == State::Waiting;
        match turn.mode {
            Mode::Stream | Mode::Whole => {
                self.tell(slot, code, detail, retry_after_millis, out);
                self.keep_failure(slot, code);
                self.settle(slot, Outcome::Failed(code), out);
            }
            Mode::Deliver if !self.has_apology(turn.desk) => self.settle(slot, Outcome::Dead(code), out),
            Mode::Deliver if behind => {
                self.free_waiting(slot);
                self.apologise_later(slot, Outcome::Dead(code));
                self.arm(slot);
            }
            Mode::Deliver => {
                self.leave_queue(slot);
                self.free_waiting(slot);
                self.apologise(slot, Outcome::Dead(code), out);
            }
        }
    }

    pub(crate) fn tell(
        &mut self,
        slot: u32,
        code: Code,
        detail: &str,
        retry_after_millis: u32,
        out: &mut Effects,
    ) {
        let Some(turn) = self.turns.at(slot) else { return };
        let (client, seq, detail) = (turn.client, turn.seq.saturating_add(1), out.keep(detail));
        out.push(Effect::Fail { client, turn: self.turn_id(slot), seq, code, detail, retry_after_millis });
    }

    pub(crate) fn publish_failure(&self, slot: u32, code: Code, out: &mut Effects) {
        if let Some(turn) = self.turns.at(slot) {
            self.publish(Notice::Failed, turn.session, Some(slot), code.name(), out);
        }
    }

    /// Ends a turn: whatever it holds goes back, and the next one of its session is first.
    pub(crate) fn settle(&mut self, slot: u32, outcome: Outcome, out: &mut Effects) {
        let Some((place, state)) = self.end_turn(slot, outcome, out) else { return };
        if state == State::Waiting {
            self.step_out(place, slot);
        } else {
            self.advance(place, out);
        }
        self.remove_turn(slot);
    }

    /// Ends a turn behind another of its session.
    #[cold]
    pub(crate) fn settle_waiting(&mut self, slot: u32, outcome: Outcome, out: &mut Effects) {
        let Some((place, state)) = self.end_turn(slot, outcome, out) else { return };
        debug_assert!(state == State::Waiting, "the first of a session makes room for the next");
        self.step_out(place, slot);
        self.remove_turn(slot);
    }

    fn step_out(&mut self, place: u32, slot: u32) {
        if let Some(session) = self.sessions.at_mut(place) {
            session.waiting.remove(&mut self.turns, slot);
        }
    }

    /// All of a turn's end but its place in its session. Says which session that is, and where in it the turn stood.
    #[inline(always)]
    fn end_turn(&mut self, slot: u32, outcome: Outcome, out: &mut Effects) -> Option<(u32, State)> {
        let id = self.turn_id(slot);
        let turn = self.turns.at(slot)?;
        let (place, state, holds) = (turn.session, turn.state, turn.holds);
        // Most turns leave nothing on disk.
        let kept = turn.lsn != 0 || turn.replayed || matches!(outcome, Outcome::Dead(_));
        self.timers.cancel(turn.timer);
        if state == State::Ready {
            self.leave_queue(slot);
        }
        if holds.waiting {
            self.free_waiting(slot);
        }
        if holds.agent || holds.model {
            self.free_places(slot, true);
        }
        if kept {
            self.write_settled(slot, outcome, out);
        }
        out.push(Effect::Settled { turn: id, session: self.session_id(place), outcome });
        self.count(outcome);
        Some((place, state))
    }

    #[inline(always)]
    fn remove_turn(&mut self, slot: u32) {
        if let Some(turn) = self.turns.at_mut(slot) {
            self.texts.give(core::mem::take(&mut turn.words));
            self.texts.give(core::mem::take(&mut turn.reply));
        }
        self.turns.remove(slot);
        self.turns_lease.give(&self.bounds.turns);
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => self.counters.answered += 1,
            Outcome::Cancelled => self.counters.cancelled += 1,
            Outcome::Merged => self.counters.merged += 1,
            Outcome::Failed(code) => self.counters.fail(code),
            Outcome::Dead(code) => {
                self.counters.dead += 1;
                self.counters.fail(code);
            }
        }
        match outcome {
            Outcome::Answered | Outcome::Failed(_) | Outcome::Dead(_) => self.counters.pass(Stage::Respond),
            Outcome::Cancelled | Outcome::Merged => {}
        }
    }

    /// The first turn of a session is over: the next one waits for its places, or the session is idle.
    fn advance(&mut self, place: u32, out: &mut Effects) {
        let now = self.now;
        let Some(session) = self.sessions.at_mut(place) else { return };
        session.active = now;
        if session.waiting.is_empty() {
            session.current = NONE;
            let fleeting = session.fleeting;
            // Nobody asks for it again.
            session.unsaved &= !fleeting;
            self.idle.push_back(&mut self.sessions, place);
            if fleeting {
                self.forget(place, "ended", out);
                return;
            }
            self.publish(Notice::Updated, place, None, "idle", out);
            self.save_idle(place, out);
            return;
        }
        self.collect(place, out);
        let Some(session) = self.sessions.at_mut(place) else { return };
        let Some(next) = session.waiting.pop_front(&mut self.turns) else { return };
        session.current = next;
        self.come_forward(next, out);
        self.publish_state(next, out);
    }

    /// Forgets an idle session and gives its unit back.
    pub(crate) fn forget(&mut self, slot: u32, why: &str, out: &mut Effects) {
        self.remove_session(slot, why, out);
        self.sessions_lease.give(&self.bounds.sessions);
    }

    /// Forgets an idle session; its unit is the caller's. Its address stays readable for the effects of this event.
    pub(crate) fn remove_session(&mut self, slot: u32, why: &str, out: &mut Effects) {
        let Some(session) = self.sessions.at_mut(slot) else { return };
        debug_assert!(session.current == NONE && !session.dead, "only idle sessions are forgotten");
        if session.unsaved {
            self.save_session(slot, out);
        }
        let Some(session) = self.sessions.at_mut(slot) else { return };
        session.dead = true;
        self.index.remove(session.hash, slot);
        self.idle.remove(&mut self.sessions, slot);
        self.graves.push(slot);
        self.publish(Notice::Updated, slot, None, why, out);
    }

    /// The effects of the last event are carried out: the addresses that they named go too.
    pub(crate) fn bury(&mut self) {
        while let Some(slot) = self.graves.pop() {
            self.sessions.remove(slot);
        }
    }
}
