//! How messages of clients that asked for a receipt ended, for a while: who lost the connection, or saw the gateway
//! restart, sends the message again under the same id and gets the answer, not another one, or hears why there is none.
//!
//! A turn that still runs is taken over by who asks; one that is over is recited. Bounded in number and bytes; the oldest
//! goes first, and then a repetition is only acknowledged.
use crate::admit::{Message, SOON, Whose};
use crate::codes::Code;
use crate::dedup::Mark;
use crate::effect::{Effect, Effects, Outcome};
use crate::event::{Content, Inbound, Mode, Stop, Usage};
use crate::id::{Client, ModelId};
use crate::index::Index;
use crate::log::Await;
use crate::shard::Shard;
use crate::slots::NONE;
use crate::turn::{Errand, NOWHERE, Turn};
use alloc::boxed::Box;
use alloc::collections::VecDeque;

/// How a message ended: with this answer, or not.
type Ending = Result<Box<str>, Code>;

/// The answers of one shard.
#[derive(Debug)]
pub(crate) struct Kept {
    answers: VecDeque<(Mark, Ending)>,
    /// Number of the oldest one; they count on for ever, modulo 2^32.
    oldest: u32,
    bytes: usize,
    index: Index,
}

impl Kept {
    pub(crate) const fn new() -> Self {
        Self { answers: VecDeque::new(), oldest: 0, bytes: 0, index: Index::new() }
    }

    fn at(&self, number: u32) -> Option<&(Mark, Ending)> {
        self.answers.get(number.wrapping_sub(self.oldest) as usize)
    }

    fn get(&self, mark: Mark) -> Option<Result<&str, Code>> {
        let is = |number| self.at(number).is_some_and(|(other, _)| *other == mark);
        let number = self.index.find(mark.hash(), is)?;
        self.at(number).map(|(_, ending)| ending.as_deref().map_err(|code| *code))
    }

    /// Keeps an ending, and forgets the oldest ones beyond the bounds.
    pub(crate) fn keep(&mut self, mark: Mark, ending: Result<&str, Code>, count_max: u32, bytes_max: usize) {
        let answer = ending.unwrap_or_default();
        if count_max == 0 || bytes_max < answer.len() || self.get(mark).is_some() {
            return;
        }
        while count_max as usize <= self.answers.len() || bytes_max < self.bytes + answer.len() {
            let Some((old, text)) = self.answers.pop_front() else { break };
            self.index.remove(old.hash(), self.oldest);
            self.oldest = self.oldest.wrapping_add(1);
            self.bytes -= text.as_ref().map_or(0, |text| text.len());
        }
        let number = self.oldest.wrapping_add(u32::try_from(self.answers.len()).unwrap_or(0));
        self.index.insert(mark.hash(), number);
        self.bytes += answer.len();
        self.answers.push_back((mark, ending.map(Box::from)));
    }
}

impl Shard {
    /// Keeps the answer of a message that has an id and a receipt, for all that are part of it.
    pub(crate) fn keep_answer(&mut self, slot: u32) {
        self.keep_ending(slot, None);
    }

    /// Keeps that such a message has no answer: whoever asks again hears that too.
    pub(crate) fn keep_failure(&mut self, slot: u32, code: Code) {
        self.keep_ending(slot, Some(code));
    }

    fn keep_ending(&mut self, slot: u32, failure: Option<Code>) {
        let Some(turn) = self.turns.at(slot).filter(|turn| turn.mode != Mode::Deliver) else { return };
        // Nobody asks again for most messages.
        let is_marked = turn.mark != Mark::default() || !turn.took().is_empty();
        if !is_marked || turn.errand == Some(Errand::Recite) {
            return;
        }
        let (count_max, bytes_max) = self.kept_max();
        let ending = failure.map_or(Ok(&*turn.reply), Err);
        for mark in turn.took().iter().chain([&turn.mark]).filter(|mark| **mark != Mark::default()) {
            self.kept.keep(*mark, ending, count_max, bytes_max);
        }
    }

    /// Keeps how a message of an earlier run ended, by its mark.
    pub fn keep_ending_before(&mut self, mark: [u64; 2], ending: Result<&str, Code>) {
        let (count_max, bytes_max) = self.kept_max();
        self.kept.keep(Mark::from_words(mark), ending, count_max, bytes_max);
    }

    fn kept_max(&self) -> (u32, usize) {
        let (limits, shards) = (&self.plan.limits, u32::from(self.bounds.shards()));
        (limits.kept_answers_max / shards, (limits.kept_answer_bytes_max / shards) as usize)
    }

    /// Answers the repetition of a client's message that has a receipt. False where all that can be said is that it was
    /// admitted before.
    pub(crate) fn answer_again(&mut self, client: Client, inbound: &Inbound<'_>, out: &mut Effects) -> bool {
        if inbound.mode == Mode::Deliver || !self.is_written(inbound.mode, inbound.receipt) {
            return false;
        }
        let Some(post) = self.places.post_of(inbound.channel) else { return false };
        let Inbound { mode, class, .. } = *inbound;
        let Whose { hash, post, session, .. } = self.whose(inbound, post);
        let mark = self.mark_of(inbound, hash);
        let turn = session.and_then(|session| self.turn_of(session, mark));
        // A message that became part of another one's turn hears that one's answer, after its own client.
        let is_taken_in = |turn: &Turn| turn.mark != mark && turn.client != Client::NOBODY;
        let waits = turn.and_then(|turn| self.turns.at(turn)).is_some_and(is_taken_in);
        match turn {
            Some(turn) if !waits => return self.take_over(turn, client, mode, out),
            None if self.kept.get(mark).is_none() => return false,
            Some(_) | None => {}
        }
        if !self.turns_lease.take(&self.bounds.turns) {
            self.refuse_for_now(client, out);
            return true;
        }
        let Some(session) = self.session_again(hash, post, inbound, out) else {
            self.turns_lease.give(&self.bounds.turns);
            self.refuse_for_now(client, out);
            return true;
        };
        let errand = Some(Errand::Recite);
        let message = Message {
            client,
            mode,
            class,
            desk: NOWHERE,
            name: "",
            text: "",
            content: Content::WORDS,
            errand,
        };
        let slot = self.turn_for(session, message);
        if !self.prompt_recital(slot, mark)
            && let Some(turn) = self.turns.at_mut(slot)
        {
            turn.take_in(&[mark]);
        }
        self.accept(slot, false, 0, out);
        if self.sessions.at(session).is_some_and(|session| session.current == slot) {
            self.come_forward(slot, out);
        }
        true
    }

    /// There is an answer, and no room to say it: to acknowledge the message and be silent would be the end of it.
    fn refuse_for_now(&mut self, client: Client, out: &mut Effects) {
        self.counters.refuse(Code::Busy);
        out.push(Effect::Refused { client, code: Code::Busy, retry_after_millis: SOON });
    }

    fn turn_of(&self, session: u32, mark: Mark) -> Option<u32> {
        let session = self.sessions.at(session)?;
        let is = |slot: u32| self.turns.at(slot).is_some_and(|turn| turn.answers(mark));
        let mut next = session.waiting.head();
        while let Some(turn) = self.turns.at(next) {
            if is(next) {
                return Some(next);
            }
            next = turn.link.next();
        }
        (session.current != NONE && is(session.current)).then_some(session.current)
    }

    /// Whoever sent the message first is gone: the answer is this client's from here on, and what was said so far.
    fn take_over(&mut self, slot: u32, client: Client, mode: Mode, out: &mut Effects) -> bool {
        let (id, behind) = (self.turn_id(slot), self.log.behind());
        let Some(turn) = self.turns.at_mut(slot) else { return false };
        if turn.client != Client::NOBODY {
            return false;
        }
        (turn.client, turn.mode) = (client, mode);
        let (session, said) = (turn.session, !turn.reply.is_empty() && mode == Mode::Stream);
        let attached = Effect::Attached {
            client,
            turn: id,
            session: self.session_id(session),
            durable: behind.is_some(),
        };
        out.push(attached);
        if let Some(lsn) = behind {
            self.log.wait(lsn, Await::Ack { client, turn: id });
        }
        let Some(turn) = self.turns.at_mut(slot).filter(|_| said) else { return true };
        turn.seq = turn.seq.saturating_add(1);
        let (seq, text) = (turn.seq, out.keep(&turn.reply));
        out.push(Effect::Send { client, turn: id, seq, text });
        true
    }

    /// Gives a turn that recites what it says, if that is known.
    fn prompt_recital(&mut self, slot: u32, mark: Mark) -> bool {
        let (Some(turn), Some(ending)) = (self.turns.at_mut(slot), self.kept.get(mark)) else { return false };
        let answer = ending.unwrap_or_default();
        turn.reply.push_str(answer);
        turn.reply_bytes = u32::try_from(answer.len()).unwrap_or(u32::MAX);
        turn.verdict = ending.err().map_or(Outcome::Answered, Outcome::Failed);
        true
    }

    /// Says an answer that was given before once more.
    pub(crate) fn recite(&mut self, slot: u32, out: &mut Effects) {
        let id = self.turn_id(slot);
        let Some(turn) = self.turns.at_mut(slot) else { return };
        if let Some(mark) = turn.took().first().copied() {
            // An answer that nobody keeps any more was given.
            turn.verdict = Outcome::Failed(Code::Duplicate);
            self.prompt_recital(slot, mark);
        }
        let Some(turn) = self.turns.at_mut(slot) else { return };
        let verdict = turn.verdict;
        if let Outcome::Failed(code) = verdict {
            self.tell(slot, code, "", 0, out);
            self.settle(slot, verdict, out);
            return;
        }
        let (client, text) = (turn.client, out.keep(&turn.reply));
        let (usage, model, stop) = (Usage::default(), ModelId(u16::MAX), Stop::Complete);
        if turn.mode == Mode::Stream {
            out.push(Effect::Send { client, turn: id, seq: 1, text });
            let text = out.keep("");
            out.push(Effect::Finish { client, turn: id, seq: 2, text, usage, model, stop });
        } else {
            out.push(Effect::Finish { client, turn: id, seq: 1, text, usage, model, stop });
        }
        self.settle(slot, verdict, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_by_number_and_by_bytes() {
        let mut kept = Kept::new();
        let mark = |n: u64| Mark::from_words([n, n % 2]);
        for n in 1..=5 {
            kept.keep(mark(n), Ok("four"), 3, 100);
        }
        let known =
            |kept: &Kept| (1..=6).filter(|n| kept.get(mark(*n)).is_some()).collect::<alloc::vec::Vec<_>>();
        assert_eq!(known(&kept), [3, 4, 5]);
        kept.keep(mark(5), Ok("another"), 3, 100);
        assert_eq!(kept.get(mark(5)), Some(Ok("four")), "the first answer stays");
        kept.keep(mark(6), Ok("ten bytes!"), 3, 15);
        assert_eq!((known(&kept), kept.bytes), (alloc::vec![5, 6], 14));
        kept.keep(mark(1), Ok("sixteen bytes .."), 3, 15);
        assert_eq!(known(&kept), [5, 6]);
        kept.keep(mark(2), Err(Code::UpstreamFailed), 3, 15);
        assert_eq!((kept.get(mark(2)), kept.bytes), (Some(Err(Code::UpstreamFailed)), 14));
    }
}
