//! An answer goes to a platform: cut into parts, one after the other, each tried again until it is confirmed, refused,
//! or tried often enough.
use crate::codes::Code;
use crate::effect::{Effect, Effects, Notice, Outcome};
use crate::event::{Delivery, Mode};
use crate::id::TurnId;
use crate::preview::PREVIEW;
use crate::shard::Shard;
use crate::split::{self, Cursor};
use crate::turn::{Delivering, Errand, State};
use crate::view::{self, Role};
use core::time::Duration;

/// Times that a platform may say "later" for one part before its word counts as a failed attempt.
const DEFERRED_MAX: u16 = 10;

impl Shard {
    /// Begins to deliver the turn's reply; the turn ends with `verdict` once all of it is confirmed.
    pub(crate) fn deliver(&mut self, slot: u32, verdict: Outcome, out: &mut Effects) {
        // The agent's work is done: its next turn need not wait for a platform.
        self.free_places(slot, true);
        let Some(turn) = self.turns.at_mut(slot) else { return };
        turn.verdict = verdict;
        match self.write_reply(slot, verdict, out) {
            None => self.deliver_from(slot, verdict, Cursor::default(), 0, out),
            Some(lsn) => {
                self.begin_delivery(slot, verdict, Cursor::default(), 0);
                self.deliver_after(slot, lsn);
            }
        }
    }

    /// Goes on with a delivery, from this part on.
    pub(crate) fn deliver_from(
        &mut self,
        slot: u32,
        verdict: Outcome,
        at: Cursor,
        part: u16,
        out: &mut Effects,
    ) {
        self.begin_delivery(slot, verdict, at, part);
        self.deliver_part(slot, out);
    }

    pub(crate) fn begin_delivery(&mut self, slot: u32, verdict: Outcome, at: Cursor, part: u16) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        (turn.state, turn.verdict) = (State::Delivering, verdict);
        turn.delivering = Delivering { at, part, ..Delivering::default() };
    }

    /// What the next part rests on is on disk.
    pub(crate) fn on_part_written(&mut self, id: TurnId, out: &mut Effects) {
        let turn = self.turns.get_mut(id.slot, id.generation);
        let Some(turn) = turn.filter(|turn| turn.delivering.unwritten) else { return };
        turn.delivering.unwritten = false;
        let (mode, unsaid) = (turn.mode, core::mem::take(&mut turn.unsaid));
        if unsaid {
            self.save_said(id.slot, out);
        }
        match mode {
            Mode::Deliver => self.deliver_part(id.slot, out),
            Mode::Stream | Mode::Whole => self.hand_over(id.slot, out),
        }
    }

    /// What an operator says as the bot.
    pub(crate) fn speak(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        turn.reply.clear();
        let from = turn.name_len as usize;
        turn.reply.push_str(turn.words.get(from..).unwrap_or_default());
        turn.reply_bytes = u32::try_from(turn.reply.len()).unwrap_or(u32::MAX);
        let (session, mode) = (turn.session, turn.mode);
        let Some(turn) = self.turns.at(slot) else { return };
        if !turn.forgets {
            let session = self.sessions.at_mut(session).filter(|session| !session.history.is_empty());
            if let Some(session) = session {
                session.history.push(&[(Role::Agent, &turn.reply)], &self.plan.limits);
            }
            self.remember_said(slot, out);
        }
        let Some(turn) = self.turns.at(slot) else { return };
        self.publish(Notice::Generated, session, Some(slot), &turn.reply, out);
        match mode {
            Mode::Deliver => {
                self.publish(Notice::Updated, session, Some(slot), view::State::Processing.name(), out);
                self.deliver(slot, Outcome::Answered, out);
            }
            // Nobody waits on a connection for what was not asked: those who listen have heard it.
            Mode::Stream | Mode::Whole => self.settle(slot, Outcome::Answered, out),
        }
    }

    /// People on a platform read the agent's words for a failure, if it has any; then the turn ends as it failed.
    pub(crate) fn apologise(&mut self, slot: u32, outcome: Outcome, out: &mut Effects) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        turn.reply.clear();
        if let Some(text) = self.places.desk(turn.desk).and_then(|desk| desk.failure_text.as_deref()) {
            turn.reply.push_str(text);
        }
        self.deliver(slot, outcome, out);
    }

    /// Sends the part that begins where the delivery is, or ends the turn if there is none.
    pub(crate) fn deliver_part(&mut self, slot: u32, out: &mut Effects) {
        if let Some(until) = self.awaits_preview(slot) {
            if let Some(turn) = self.turns.at_mut(slot) {
                turn.until = until;
            }
            return self.arm(slot);
        }
        let (id, now, channel) = (self.turn_id(slot), self.now, self.channel_of(slot));
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let Some(channel) = channel else {
            self.keep_why(slot, Code::ChannelGone.advice());
            self.give_up_delivery(slot, Code::ChannelGone, out);
            return;
        };
        let plan = self.plan.channel(channel);
        let is_first = turn.delivering.part == 0;
        let Some((part, next)) = split::part(&turn.reply, plan.unit, plan.text_max, turn.delivering.at)
        else {
            let (verdict, session) = (turn.verdict, turn.session);
            self.publish(Notice::Delivered, session, Some(slot), "", out);
            self.settle(slot, verdict, out);
            return;
        };
        let text = out.keep_written(|into| part.write(into));
        let edits = out.keep(if is_first { turn.shown_message() } else { "" });
        let delivering = &mut turn.delivering;
        (delivering.next, delivering.in_flight) = (next, true);
        let (part, attempt) = (delivering.part, delivering.attempt);
        turn.until = now + self.plan.limits.delivery_age_max;
        let uid = turn.uid;
        out.push(Effect::Deliver { turn: id, channel, uid, part, attempt, text, edits });
        self.arm(slot);
    }

    pub(crate) fn on_delivered(
        &mut self,
        id: TurnId,
        part: u16,
        attempt: u16,
        delivery: Delivery<'_>,
        out: &mut Effects,
    ) {
        if part == PREVIEW {
            return self.on_previewed(id, attempt, delivery, out);
        }
        let Some(turn) = self.turns.get_mut(id.slot, id.generation) else { return };
        let delivering = &mut turn.delivering;
        let awaited = (delivering.in_flight, delivering.part, delivering.attempt) == (true, part, attempt);
        if turn.state != State::Delivering || !awaited {
            return;
        }
        match delivery {
            Delivery::Confirmed { message } => self.on_confirmed(id.slot, message, out),
            Delivery::Retry { after, detail } => {
                self.keep_why(id.slot, detail);
                self.retry_part(id.slot, after, out);
            }
            Delivery::Refused { .. } if part == 0 && self.drop_preview(id.slot) => {
                if let Some(turn) = self.turns.at_mut(id.slot) {
                    turn.delivering.in_flight = false;
                    turn.delivering.attempt = attempt.saturating_add(1);
                }
                self.deliver_part(id.slot, out);
            }
            Delivery::Refused { detail } => {
                self.keep_why(id.slot, detail);
                self.give_up_delivery(id.slot, Code::DeliveryFailed, out);
            }
        }
    }

    /// A part was confirmed. The next one waits until that is on disk, so that no more than one part can be in doubt.
    fn on_confirmed(&mut self, slot: u32, message: &str, out: &mut Effects) {
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let confirmed = turn.delivering.part;
        let (at, part) = (turn.delivering.next, confirmed.saturating_add(1));
        turn.delivering = Delivering { at, part, ..Delivering::default() };
        match self.write_delivered(slot, confirmed, message, out) {
            Some(lsn) if self.has_part(slot) => self.deliver_after(slot, lsn),
            Some(_) | None => self.deliver_part(slot, out),
        }
    }

    /// Is there anything left to deliver?
    fn has_part(&self, slot: u32) -> bool {
        let Some(turn) = self.turns.at(slot) else { return false };
        let Some(plan) = self.channel_of(slot).map(|channel| self.plan.channel(channel)) else {
            return false;
        };
        split::part(&turn.reply, plan.unit, plan.text_max, turn.delivering.at).is_some()
    }

    /// An attempt ran out of time, or the next one is due.
    pub(crate) fn on_delivery_due(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        if turn.delivering.in_flight {
            self.retry_part(slot, Duration::ZERO, out);
        } else {
            self.deliver_part(slot, out);
        }
    }

    /// The part is due again later. A platform that says when is not failing, up to a point.
    fn retry_part(&mut self, slot: u32, after: Duration, out: &mut Effects) {
        let (now, limits) = (self.now, &self.plan.limits);
        let (longest, attempts_max) = (limits.backoff_max, limits.delivery_attempts_max.max(1));
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let delivering = &mut turn.delivering;
        delivering.in_flight = false;
        delivering.attempt = delivering.attempt.saturating_add(1);
        let deferred = !after.is_zero() && delivering.deferred < DEFERRED_MAX;
        if deferred {
            delivering.deferred += 1;
            turn.until = now + after.min(longest);
            self.arm(slot);
            return;
        }
        delivering.burnt = delivering.burnt.saturating_add(1);
        let burnt = delivering.burnt;
        if attempts_max <= burnt || delivering.attempt == u16::MAX {
            self.give_up_delivery(slot, Code::DeliveryFailed, out);
            return;
        }
        let pause = self.backoff(burnt).max(after.min(longest));
        if let Some(turn) = self.turns.at_mut(slot) {
            turn.until = now + pause;
        }
        self.arm(slot);
    }

    /// The platform does not take it, or there is none. A turn that failed before keeps its first reason.
    fn give_up_delivery(&mut self, slot: u32, code: Code, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let verdict = match turn.verdict {
            Outcome::Dead(code) => Outcome::Dead(code),
            Outcome::Answered | Outcome::Failed(_) | Outcome::Cancelled | Outcome::Merged => {
                self.publish_failure(slot, code, out);
                Outcome::Dead(code)
            }
        };
        self.settle(slot, verdict, out);
    }

    /// A failed turn of a platform's message that is not the first of its session apologises when it is; that is
    /// remembered as an errand. True if there is anything to say.
    pub(crate) fn has_apology(&self, desk: u16) -> bool {
        self.places.desk(desk).is_some_and(|desk| desk.failure_text.is_some())
    }

    /// Makes an apology of a turn that waits behind others.
    pub(crate) fn apologise_later(&mut self, slot: u32, outcome: Outcome) {
        if let Some(turn) = self.turns.at_mut(slot) {
            turn.errand = Some(Errand::Apology(outcome));
        }
    }
}
