//! A call to a model: its pieces, its clocks, its end, and what follows if it failed: again, elsewhere, or a failure.
//!
//! As long as nothing of an answer was shown a failed call may be repeated; after that never, because a client cannot
//! take back what it has seen.
use crate::breaker::{self, Verdict};
use crate::codes::Code;
use crate::effect::{Effect, Effects, Notice, Outcome, Span};
use crate::event::{End, Failure, Mode, Piece, Retry, Stop, Usage};
use crate::id::{CallId, ModelId, TurnId};
use crate::plan::Excerpt;
use crate::session::Session;
use crate::shard::Shard;
use crate::time::Time;
use crate::turn::{State, Turn};
use crate::view::Role;
use core::time::Duration;

/// Characters of a token, where a provider does not count.
pub(crate) const CHARS_PER_TOKEN: u32 = 4;

/// A failed call, and what its model hears of it.
#[derive(Clone, Copy, Debug)]
struct Failed<'a> {
    failure: Failure<'a>,
    verdict: Verdict,
}

/// What is done about it.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// The same model after a pause.
    Again(Duration),
    /// At once a model of the chain that lets it pass, from this number on. Which one is seen when it is started: another
    /// turn may have taken the last probe by then.
    Other(u16),
    /// Nothing: it failed.
    GiveUp,
}

impl Shard {
    /// The slot of the turn that runs this call; `None` for a call that is over.
    pub(crate) fn running(&self, call: CallId) -> Option<u32> {
        let turn = self.turn(call.turn)?;
        let current = turn.state == State::Running && turn.calls.checked_sub(1) == Some(call.attempt);
        current.then_some(call.turn.slot)
    }

    pub(crate) fn on_piece(&mut self, call: CallId, piece: Piece<'_>, out: &mut Effects) {
        let Some(slot) = self.running(call) else { return };
        let now = self.now;
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let first = match piece {
            Piece::Text(text) if !text.is_empty() => {
                let first = turn.call.on_spoken(now);
                if turn.keeps && turn.reply.capacity() == 0 {
                    turn.reply = self.texts.take();
                }
                let limits = &self.plan.limits;
                let limit =
                    if turn.content.is_words() { limits.reply_bytes_max } else { limits.request_bytes_max };
                if show(turn, call.turn, text, limit, out) {
                    self.on_too_long(slot, out);
                    return;
                }
                first
            }
            Piece::Reasoning(_) => turn.call.on_spoken(now),
            Piece::Usage(usage) => {
                turn.usage = Some(usage);
                turn.call.on_alive();
                false
            }
            Piece::Text(_) | Piece::Alive => {
                turn.call.on_alive();
                false
            }
        };
        if first {
            // All others only move the deadline on; the timer is set anew when it fires.
            self.arm(slot);
        }
    }

    /// The answer is cut: clients are told, people on a platform get what there is.
    fn on_too_long(&mut self, slot: u32, out: &mut Effects) {
        out.push(Effect::Cancel { call: self.call_id(slot), overdue: false });
        self.end_call(slot, Verdict::Neutral, out);
        match self.turns.at(slot).map(|turn| turn.mode) {
            Some(Mode::Deliver) => {
                self.publish_failure(slot, Code::ReplyTooLong, out);
                self.deliver(slot, Outcome::Failed(Code::ReplyTooLong), out);
            }
            Some(Mode::Stream | Mode::Whole) => self.fail(slot, Code::ReplyTooLong, "", 0, out),
            None => {}
        }
    }

    pub(crate) fn on_ended(&mut self, call: CallId, end: End<'_>, out: &mut Effects) {
        let Some(slot) = self.running(call) else { return };
        match end {
            End::Finished(stop) => self.finish(slot, stop, out),
            End::Failed(failure) => {
                let verdict = match failure.retry {
                    Retry::Backoff | Retry::After(_) => Verdict::Failed,
                    // The model works; this call was not for it.
                    Retry::AtOnce | Retry::Elsewhere | Retry::Never => Verdict::Neutral,
                };
                self.on_failed(slot, Failed { failure, verdict }, out);
            }
        }
    }

    /// One of a call's clocks ran out.
    pub(crate) fn on_call_due(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        let (paused, given_up) =
            (turn.call.is_paused(), turn.call.is_given_up(self.now, self.plan.limits.slow_client_age_max));
        out.push(Effect::Cancel { call: self.call_id(slot), overdue: !given_up && !paused });
        if given_up {
            self.end_call(slot, Verdict::Neutral, out);
            self.fail(slot, Code::SlowConsumer, "", 0, out);
            return;
        }
        // A model that was not read says nothing about itself.
        let verdict = if paused { Verdict::Neutral } else { Verdict::Failed };
        let failure = Failure { code: Code::UpstreamTimeout, retry: Retry::Backoff, status: 0, detail: "" };
        self.on_failed(slot, Failed { failure, verdict }, out);
    }

    /// The client's outbox is full, or has room again.
    pub(crate) fn on_pressure(&mut self, id: TurnId, high: bool, out: &mut Effects) {
        let now = self.now;
        let call = self.call_id(id.slot);
        let Some(turn) = self.turns.get_mut(id.slot, id.generation) else { return };
        if turn.mode != Mode::Stream || turn.pressed == high {
            return;
        }
        turn.pressed = high;
        if turn.state != State::Running {
            return;
        }
        if high {
            turn.call.pause(now);
            out.push(Effect::Pause { call });
        } else {
            turn.call.resume(now);
            out.push(Effect::Resume { call });
        }
        self.arm(id.slot);
    }

    /// A call is over: its model hears the verdict. Its place is given back by what follows, together with the agent's
    /// where that goes too, so that one place freed wakes one who waits.
    pub(crate) fn end_call(&mut self, slot: u32, verdict: Verdict, out: &mut Effects) {
        self.charge_tokens(slot);
        let Some(turn) = self.turns.at(slot) else { return };
        let Some(line) = self.places.lines.get_mut(usize::from(turn.line)) else { return };
        let changed = line.breaker.end(self.now, &line.plan, turn.call.pass, verdict, &mut self.random);
        if let Some(model) = line.id.filter(|_| changed) {
            out.push(Effect::Breaker { model, state: line.breaker.state() });
        }
        let (closed, half_open_at) =
            (line.breaker.state() == breaker::State::Closed, line.breaker.half_open_at());
        let line = turn.line;
        if changed || !closed {
            self.look_again(line);
        }
        if let Some(at) = half_open_at {
            self.look_at(at);
        }
    }

    /// An operator says that a model is well.
    pub(crate) fn on_forgiven(&mut self, model: ModelId, out: &mut Effects) {
        let found = self.places.lines.iter().position(|line| line.id == Some(model));
        let Some(place) = found.and_then(|place| u16::try_from(place).ok()) else { return };
        let Some(line) = self.places.line_mut(place) else { return };
        line.calm_until = Time::ZERO;
        if line.breaker.reset() {
            out.push(Effect::Breaker { model, state: breaker::State::Closed });
        }
        self.look_again(place);
    }

    /// The model's name in the present plan; one that is gone has none.
    fn model_id(&self, turn: &Turn) -> ModelId {
        self.places.line(turn.line).and_then(|line| line.id).unwrap_or(ModelId(u16::MAX))
    }

    fn learn(&mut self, slot: u32) {
        let Some(turn) = self.turns.at(slot) else { return };
        let (now, took) = (self.now, self.now.since(turn.began));
        if let Some(desk) = self.places.desk_mut(turn.desk) {
            desk.learn(now, took);
        }
    }

    fn finish(&mut self, slot: u32, stop: Stop, out: &mut Effects) {
        let slow = self.turns.at(slot).is_some_and(|turn| turn.call.slow);
        self.end_call(slot, Verdict::Good { slow }, out);
        self.learn(slot);
        let usage = self.usage(slot);
        if let Some(turn) = self.turns.at_mut(slot) {
            (turn.usage, turn.stop) = (Some(usage), stop);
        }
        self.keep_history(slot, out);
        let Some(turn) = self.turns.at(slot) else { return };
        let said = if turn.content.is_words() { &*turn.reply } else { "" };
        self.publish(Notice::Generated, turn.session, Some(slot), said, out);
        // What must not be lost is answered as it is on disk: a crash must not lead to another answer than the one that
        // was heard.
        if turn.mode == Mode::Deliver || turn.lsn != 0 {
            self.deliver(slot, Outcome::Answered, out);
        } else {
            self.hand_over(slot, out);
        }
    }

    /// The answer is complete: its client hears so.
    pub(crate) fn hand_over(&mut self, slot: u32, out: &mut Effects) {
        self.keep_answer(slot);
        let id = self.turn_id(slot);
        let Some(turn) = self.turns.at(slot) else { return };
        let text = if turn.mode == Mode::Whole { out.keep(&turn.reply) } else { Span::default() };
        let (usage, stop) = (turn.usage.unwrap_or_default(), turn.stop);
        let (client, seq, model) = (turn.client, turn.seq.saturating_add(1), self.model_id(turn));
        out.push(Effect::Finish { client, turn: id, seq, text, usage, model, stop });
        self.publish(Notice::Delivered, turn.session, Some(slot), "", out);
        self.settle(slot, Outcome::Answered, out);
    }

    /// The provider's counts, or our estimate from what the prompt is made of.
    fn usage(&self, slot: u32) -> Usage {
        let Some(turn) = self.turns.at(slot) else { return Usage::default() };
        if let Some(usage) = turn.usage {
            return usage;
        }
        Usage {
            prompt: tokens(self.prompt_chars(turn)),
            completion: turn.reply_chars.div_ceil(CHARS_PER_TOKEN),
            estimated: true,
        }
    }

    fn prompt_chars(&self, turn: &Turn) -> u32 {
        let past = self.excerpt(turn.desk).filter(|_| turn.content.is_words());
        prompt_chars(turn.text(), self.sessions.at(turn.session), past)
    }

    /// Tokens of a turn's prompt at the model at this place, estimated; 0 where nobody counts.
    pub(crate) fn prompt_tokens(&self, slot: u32, line: u16) -> u32 {
        let counts = self.places.line(line).is_some_and(|line| line.per_minute.1 != 0);
        self.turns.at(slot).filter(|_| counts).map_or(0, |turn| tokens(self.prompt_chars(turn)))
    }

    /// A call is over, or its model is asked once more: what it used beyond the estimate of its prompt is charged.
    pub(crate) fn charge_tokens(&self, slot: u32) {
        let Some(turn) = self.turns.at(slot) else { return };
        let Some(line) = self.places.line(turn.line).filter(|line| line.has_quota()) else { return };
        let (counts, rounds) = (self.bounds.model_at(line.seat), turn.rounds());
        if self.now < rounds.at {
            // It was booked, and is not asked any more.
            line.give_quota(counts, rounds.told);
            return;
        }
        let taken = if rounds.told == 0 { tokens(self.prompt_chars(turn)) } else { rounds.told };
        // An answer in a client's own format is mostly format: some event for each token.
        let chars = if turn.content.is_words() { CHARS_PER_TOKEN } else { CHARS_PER_TOKEN * 40 };
        let counted = turn.counted().saturating_sub(rounds.counted);
        let used = if turn.usage.is_none() || (rounds.told != 0 && counted == 0) {
            taken.saturating_add(turn.reply_chars.saturating_sub(rounds.said_chars).div_ceil(chars))
        } else {
            counted
        };
        match used.checked_sub(taken) {
            Some(more) => counts.tokens.charge(self.now, line.per_minute.1, more),
            None => counts.tokens.give(line.per_minute.1, taken - used),
        }
    }

    /// How much of what was said goes into this agent's prompts; `None` where it keeps none.
    pub(crate) fn excerpt(&self, desk: u16) -> Option<Excerpt> {
        self.places.desk(desk).filter(|desk| desk.history).map(|desk| desk.excerpt)
    }

    pub(crate) fn keeps_history(&self, desk: u16) -> bool {
        self.places.desk(desk).is_some_and(|desk| desk.history)
    }

    /// What was said in a turn that was answered in full joins the session's history.
    fn keep_history(&mut self, slot: u32, out: &mut Effects) {
        let Some(turn) = self.turns.at(slot) else { return };
        if !self.keeps_history(turn.desk) || !turn.keeps || turn.forgets || !turn.content.is_words() {
            return;
        }
        let limits = &self.plan.limits;
        if let Some(session) = self.sessions.at_mut(turn.session) {
            session.history.push(&[(Role::User, turn.text()), (Role::Agent, &turn.reply)], limits);
        }
        self.remember_said(slot, out);
    }

    /// A call failed: the next attempt, or the end.
    fn on_failed(&mut self, slot: u32, Failed { failure, verdict }: Failed<'_>, out: &mut Effects) {
        if let Retry::After(calm) = failure.retry {
            self.keep_calm(slot, calm);
        }
        self.end_call(slot, verdict, out);
        let next = self.next_after(slot, &failure);
        let now = self.now;
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let pause = match next {
            Next::GiveUp => {
                self.learn(slot);
                let wait = self.told_wait(slot, &failure);
                self.fail(slot, failure.code, failure.detail, wait, out);
                return;
            }
            Next::Again(pause) => pause,
            Next::Other(chain) => {
                turn.chain = chain;
                Duration::ZERO
            }
        };
        // Nobody saw what came: the next attempt begins with nothing.
        turn.reply.clear();
        (turn.reply_bytes, turn.reply_chars, turn.usage) = (0, 0, None);
        if !pause.is_zero() {
            (turn.state, turn.until) = (State::BackingOff, now + pause);
        }
        self.free_places(slot, false);
        if pause.is_zero() {
            self.queue_up(slot);
        }
        self.arm(slot);
    }

    fn next_after(&mut self, slot: u32, failure: &Failure<'_>) -> Next {
        let Some(turn) = self.turns.at(slot) else { return Next::GiveUp };
        let Some(desk) = self.places.desk(turn.desk).filter(|desk| desk.id.is_some()) else {
            return Next::GiveUp;
        };
        if turn.is_shown() || turn.calls == u16::MAX {
            return Next::GiveUp;
        }
        // The chain may be another one than when the call began.
        let at = desk.chain.iter().position(|&line| line == turn.line);
        let after = at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(turn.chain.saturating_add(1));
        let again = at.is_some() && turn.tries < desk.attempts_max;
        let line = self.places.line(turn.line);
        let fallback = desk.fallback.or_else(|| line?.fallback);
        let leads_on = fallback.map_or(failure.retry != Retry::Never, |fallback| fallback.covers(failure));
        // What its provider makes of a failure holds unless the configuration knows better.
        let is_repeated = line.and_then(|line| line.retry).map(|retry| retry.covers(failure));
        let retry = match (is_repeated, failure.retry) {
            (Some(true), Retry::Never | Retry::Elsewhere) => Retry::Backoff,
            (Some(false), _) => Retry::Elsewhere,
            (Some(true) | None, as_told) => as_told,
        };
        let other = || match self.chosen(&desk.chain, after) {
            Some(_) if leads_on => Next::Other(after),
            Some(_) | None => Next::GiveUp,
        };
        let limits = &self.plan.limits;
        match retry {
            Retry::Never | Retry::Elsewhere => other(),
            Retry::AtOnce if again => Next::Again(Duration::ZERO),
            Retry::AtOnce => other(),
            Retry::After(wait) => match other() {
                Next::GiveUp if again => {
                    Next::Again(wait.min(limits.backoff_max).max(Duration::from_millis(1)))
                }
                next @ (Next::GiveUp | Next::Other(_) | Next::Again(_)) => next,
            },
            Retry::Backoff if again => {
                let tries = turn.tries;
                let line = turn.line;
                let pause = self.backoff(tries);
                // No use in waiting for a model that will not be called then.
                let opens_in =
                    self.places.line(line).map_or(Duration::ZERO, |line| line.breaker.wait(self.now));
                if opens_in <= pause {
                    return Next::Again(pause);
                }
                self.elsewhere_or(slot, leads_on.then_some(after), opens_in)
            }
            Retry::Backoff => other(),
        }
    }

    /// The model's breaker is open for longer than the pause: another model, or for people on a platform the time until
    /// it is half open, if that is within the longest pause.
    fn elsewhere_or(&self, slot: u32, after: Option<u16>, opens_in: Duration) -> Next {
        let Some(turn) = self.turns.at(slot) else { return Next::GiveUp };
        let Some(desk) = self.places.desk(turn.desk) else { return Next::GiveUp };
        match after.filter(|&after| self.chosen(&desk.chain, after).is_some()) {
            Some(after) => Next::Other(after),
            None if turn.mode == Mode::Deliver && opens_in <= self.plan.limits.backoff_max => {
                Next::Again(opens_in)
            }
            None => Next::GiveUp,
        }
    }

    /// The pause before the next attempt after `tries` of them: from the least one up to a bound that doubles with each,
    /// anywhere in between, so that those who failed together do not come back together.
    pub(crate) fn backoff(&mut self, tries: u16) -> Duration {
        let limits = &self.plan.limits;
        let (least, most) = (limits.backoff_min, limits.backoff_max.max(limits.backoff_min));
        let bound = least.saturating_mul(1 << tries.clamp(1, 20)).min(most);
        least + self.random.up_to(bound.saturating_sub(least))
    }

    /// The model asked for calm: others are preferred until then, give or take a tenth.
    fn keep_calm(&mut self, slot: u32, calm: Duration) {
        let calm = calm.min(self.plan.limits.backoff_max);
        let until = self.now + calm + self.random.up_to(calm / 10);
        let line = self.turns.at(slot).map(|turn| turn.line);
        if let Some(line) = line.and_then(|line| self.places.line_mut(line)) {
            line.calm_until = line.calm_until.max(until);
        }
        self.look_at(until);
        if let Some(turn) = self.turns.at(slot) {
            self.look_again(turn.line);
        }
    }

    /// When a client may come back after this failure, milliseconds.
    fn told_wait(&self, slot: u32, failure: &Failure<'_>) -> u32 {
        match failure.retry {
            Retry::After(wait) => u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            Retry::Backoff if failure.code == Code::UpstreamUnavailable => {
                self.turns.at(slot).map_or(0, |turn| self.half_open_after(turn.desk, 0))
            }
            Retry::Backoff | Retry::AtOnce | Retry::Elsewhere | Retry::Never => 0,
        }
    }
}

/// Passes a text on, and keeps it where it is needed later. True if it is more than an answer may have; then what fits
/// was passed on.
fn show(turn: &mut Turn, id: TurnId, text: &str, bytes_max: u32, out: &mut Effects) -> bool {
    let room = bytes_max.saturating_sub(turn.reply_bytes) as usize;
    if room < text.len() && !turn.content.is_words() {
        // Half of what a program reads is nothing to it.
        return true;
    }
    let shown = if text.len() <= room { text } else { &text[..text.floor_char_boundary(room)] };
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    turn.reply_bytes = turn.reply_bytes.saturating_add(count(shown.len()));
    turn.reply_chars = turn.reply_chars.saturating_add(chars(shown));
    if turn.mode == Mode::Stream && !shown.is_empty() {
        turn.seq = turn.seq.saturating_add(1);
        let (client, seq, text) = (turn.client, turn.seq, out.keep(shown));
        out.push(Effect::Send { client, turn: id, seq, text });
    }
    if turn.keeps {
        turn.reply.push_str(shown);
    }
    shown.len() < text.len()
}

/// Tokens of so many characters, as far as can be guessed.
pub(crate) const fn tokens(chars: u32) -> u32 {
    chars.div_ceil(CHARS_PER_TOKEN)
}

/// Characters of what a prompt is made of; with so much of the session's past as goes along.
pub(crate) fn prompt_chars(text: &str, session: Option<&Session>, past: Option<Excerpt>) -> u32 {
    let mut prompt = chars(text);
    if let Some(session) = session {
        if let Some(past) = past {
            prompt += session.history.excerpt(past).map(|(_, text)| chars(text)).sum::<u32>();
        }
        prompt += session.variables().map(|(k, v)| chars(k) + chars(v)).sum::<u32>();
    }
    prompt
}

/// Characters of a text: its bytes that continue none.
pub(crate) fn chars(text: &str) -> u32 {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    // Most texts are ASCII, and that is found out sixteen bytes at a time.
    if text.is_ascii() { count(text.len()) } else { count(text.chars().count()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_counted_right() {
        for text in ["", "a", "seven77", "eight888", "żółw i 漢字 und 👨‍👩‍👧 here", "👍👍👍👍👍👍👍👍👍"]
        {
            for (start, _) in text.char_indices() {
                let text = &text[start..];
                assert_eq!(chars(text) as usize, text.chars().count(), "{text}");
            }
        }
    }
}
