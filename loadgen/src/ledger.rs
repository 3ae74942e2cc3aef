//! The exact account of a run: every message that was due is answered once, in order and unchanged, or it is counted as
//! what happened to it instead. Never samples.
//!
//! A session keeps a window of its unsettled messages: memory follows what is in flight, not how long the run is.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::stamp::{self, Stamp};

/// What an answer is expected to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// What was asked, to the byte: the `echo` agent, or the provider simulator's echo.
    Echo,
    /// Anything: which message it answers is known by its id alone.
    Anything,
}

/// When a message was due and when it was sent, in nanoseconds after the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it was due.
    pub due_ns: u64,
    /// When it was handed to the kernel.
    pub sent_ns: u64,
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Due, and nothing came back yet.
    Open,
    /// A part of its answer came.
    Started,
    /// Its whole answer came in one part, and it is what was asked.
    Whole,
    /// Answered, refused or given up.
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    times: Times,
    state: State,
}

const _: () = assert!(size_of::<Slot>() <= 24);

/// One session's account.
#[derive(Clone, Debug, Default)]
struct Session {
    /// The messages from the oldest unsettled one on.
    window: VecDeque<Slot>,
    /// The number of the window's first message.
    base: u32,
    /// One above the highest number that was answered.
    answered_to: u32,
    /// The parts so far of the answer to `piece_of`.
    pieces: Vec<u8>,
    piece_of: u32,
    /// The message whose second answer has begun and is counted; its end is then not counted again.
    doubling: Option<u32>,
}

impl Session {
    /// An answer, or a part of one, to a message that has its answer.
    #[cold]
    fn on_second_answer(&mut self, tally: &mut Tally, seq: u32, is_end: bool) {
        if self.doubling != Some(seq) {
            tally.doubled += 1;
        }
        self.doubling = (!is_end).then_some(seq);
    }
}

/// Unsettled messages that a session's window holds. Beyond it the oldest is given up as lost: a gateway that has lost one
/// message must not cost the memory of all that follow it.
const WINDOW_MAX: usize = 65_536;

/// Different codes of refusals that are told apart; what is beyond them is counted together.
const CODES_MAX: usize = 64;

/// An answer later than this after the last message was sent counts as late, besides being counted as an answer.
pub const LATE_NS: u64 = 1_000_000_000;

/// What became of the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Messages that were due and have a place in the account.
    pub opened: u64,
    /// Answered, once or more often.
    pub answered: u64,
    /// Neither answered nor refused when the account was closed.
    pub lost: u64,
    /// Of the lost, those whose answer began.
    pub unfinished: u64,
    /// Answers beyond the first.
    pub doubled: u64,
    /// Answers that came after the answer to a later message of their session.
    pub reordered: u64,
    /// Answers that are not what was asked, or that came under another session's name.
    pub corrupted: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Of these, those whose model failed (`UPSTREAM_…`).
    pub failed: u64,
    /// Messages of clients that did not read on purpose, which the gateway closed, as it may: neither answered nor lost.
    pub given_up: u64,
    /// Answers that came more than [`LATE_NS`] after the last message was sent.
    pub late: u64,
    /// Answers to what this run never asked: those of an earlier run.
    pub strays: u64,
    /// The refusals by their code; also errors that name no message, which are not among `refused`.
    pub codes: BTreeMap<String, u64>,
}

impl Tally {
    /// Whether nothing was lost, doubled, reordered or corrupted.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.reordered == 0 && self.corrupted == 0
    }

    /// Answers that were seen to be wrong.
    #[must_use]
    pub const fn wrong(&self) -> u64 {
        self.doubled + self.reordered + self.corrupted
    }

    /// Adds another account's figures.
    pub fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.answered += other.answered;
        self.lost += other.lost;
        self.unfinished += other.unfinished;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.refused += other.refused;
        self.failed += other.failed;
        self.given_up += other.given_up;
        self.late += other.late;
        self.strays += other.strays;
        for (code, count) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += count;
        }
    }

    /// Counts an error by its code.
    pub fn count_code(&mut self, code: &str) {
        if let Some(count) = self.codes.get_mut(code) {
            *count += 1;
            return;
        }
        let code = if self.codes.len() < CODES_MAX { code } else { "(other codes)" };
        *self.codes.entry(code.to_owned()).or_default() += 1;
    }
}

/// The account of a set of sessions.
#[derive(Clone, Debug)]
pub struct Ledger {
    run: u32,
    expect: Expect,
    /// Sessions are numbered by the whole run; this ledger has every `stride`th from `first` on.
    first: u32,
    stride: u32,
    sessions: Vec<Session>,
    outstanding: u64,
    late_after_ns: u64,
    tally: Tally,
}

impl Ledger {
    /// An account of the sessions `first`, `first + stride`, … below `sessions`.
    #[must_use]
    pub fn new(run: u32, expect: Expect, sessions: u32, first: u32, stride: u32) -> Self {
        let count = sessions.saturating_sub(first).div_ceil(stride);
        Self {
            run,
            expect,
            first,
            stride,
            sessions: vec![Session::default(); count as usize],
            outstanding: 0,
            late_after_ns: u64::MAX,
            tally: Tally::default(),
        }
    }

    /// What became of the messages so far.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// For errors that belong to no message.
    pub fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Messages that are neither answered nor refused yet.
    #[must_use]
    pub const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Says when the last message was sent.
    pub fn end_of_sending(&mut self, now_ns: u64) {
        self.late_after_ns = now_ns.saturating_add(LATE_NS);
    }

    /// Opens a message's place, and numbers it within its session.
    #[inline]
    pub fn open(&mut self, session: u32, due_ns: u64) -> u32 {
        let place = self.place(session);
        let Some(session) = place.and_then(|place| self.sessions.get_mut(place)) else {
            debug_assert!(false, "session {session} is not in this ledger");
            return 0;
        };
        if WINDOW_MAX <= session.window.len() {
            let given_up = session.window.pop_front().is_some_and(|slot| slot.state == State::Started);
            session.base += 1;
            self.tally.lost += 1;
            self.tally.unfinished += u64::from(given_up);
            self.outstanding -= 1;
            settle_front(session);
        }
        let seq = session.base + session.window.len() as u32;
        session.window.push_back(Slot { times: Times { due_ns, sent_ns: due_ns }, state: State::Open });
        self.tally.opened += 1;
        self.outstanding += 1;
        seq
    }

    /// Says when a message was handed to the kernel, and tells when it was due.
    #[inline]
    pub fn on_sent(&mut self, session: u32, seq: u32, sent_ns: u64) -> u64 {
        let Some(slot) = self.slot(session, seq) else { return sent_ns };
        slot.times.sent_ns = sent_ns;
        slot.times.due_ns
    }

    /// A part of an answer. Tells the message's times if it is the first part.
    #[inline]
    pub fn on_piece(&mut self, session: u32, seq: u32, text: &[u8]) -> Option<Times> {
        let (run, expect) = (self.run, self.expect);
        let place = self.place(session).filter(|place| *place < self.sessions.len());
        let Some(account) = place.and_then(|place| self.sessions.get_mut(place)) else {
            self.tally.strays += 1;
            return None;
        };
        let Some(slot) = seq.checked_sub(account.base).and_then(|at| account.window.get_mut(at as usize))
        else {
            on_settled(&mut self.tally, account, seq, false);
            return None;
        };
        let first = match slot.state {
            State::Open => true,
            State::Started => false,
            // It was complete already: more of it is a second answer.
            State::Whole | State::Settled => {
                account.on_second_answer(&mut self.tally, seq, false);
                return None;
            }
        };
        let times = slot.times;
        slot.state = State::Started;
        if expect == Expect::Echo {
            if first && stamp::read(text) == Some(Stamp { run, session, seq, due_ns: times.due_ns }) {
                slot.state = State::Whole;
            } else {
                collect(&mut self.tally, account, seq, text);
            }
        }
        first.then_some(times)
    }

    /// The end of an answer. Tells the message's times if it is the one answer that was waited for, whatever it says.
    #[inline]
    pub fn on_done(&mut self, session: u32, seq: u32, now_ns: u64) -> Option<Times> {
        let (run, expect) = (self.run, self.expect);
        let place = self.place(session).filter(|place| *place < self.sessions.len());
        let Some(account) = place.and_then(|place| self.sessions.get_mut(place)) else {
            self.tally.strays += 1;
            return None;
        };
        let Some(slot) = seq.checked_sub(account.base).and_then(|at| account.window.get_mut(at as usize))
        else {
            on_settled(&mut self.tally, account, seq, true);
            return None;
        };
        let (state, times) = (slot.state, slot.times);
        if state == State::Settled {
            account.on_second_answer(&mut self.tally, seq, true);
            return None;
        }
        slot.state = State::Settled;
        if expect == Expect::Echo && state != State::Whole {
            let asked = Stamp { run, session, seq, due_ns: times.due_ns };
            let collected = state == State::Started && account.piece_of == seq;
            if !collected || stamp::read(&account.pieces) != Some(asked) {
                self.tally.corrupted += 1;
            }
            account.pieces.clear();
        }
        if seq < account.answered_to {
            self.tally.reordered += 1;
        }
        account.answered_to = account.answered_to.max(seq + 1);
        settle_front(account);
        self.tally.answered += 1;
        self.tally.late += u64::from(self.late_after_ns < now_ns);
        self.outstanding -= 1;
        Some(times)
    }

    /// A message was answered with an error.
    pub fn on_refused(&mut self, session: u32, seq: u32, code: &str) {
        self.tally.count_code(code);
        let Some(slot) = self.slot(session, seq) else { return };
        if slot.state == State::Settled {
            self.tally.doubled += 1;
            return;
        }
        slot.state = State::Settled;
        self.tally.refused += 1;
        self.tally.failed += u64::from(code.starts_with("UPSTREAM_"));
        self.outstanding -= 1;
        if let Some(account) = self.place(session).and_then(|place| self.sessions.get_mut(place)) {
            if account.piece_of == seq {
                account.pieces.clear();
            }
            settle_front(account);
        }
    }

    /// This session's connection is gone, and what was unanswered on it is asked again: in order, their numbers and when
    /// they were due. What came of their answers so far is forgotten; it comes again.
    pub fn begin_again(&mut self, session: u32) -> Vec<(u32, u64)> {
        let place = self.place(session);
        let Some(account) = place.and_then(|place| self.sessions.get_mut(place)) else { return Vec::new() };
        account.pieces.clear();
        account.doubling = None;
        let numbered = (account.base..).zip(&mut account.window);
        let unsettled = numbered.filter(|(_, slot)| slot.state != State::Settled);
        let begun = unsettled.map(|(seq, slot)| {
            slot.state = State::Open;
            (seq, slot.times.due_ns)
        });
        begun.collect()
    }

    /// An answer stands in the history of its session: it came while nobody listened. Tells the message's times if it was
    /// waited for.
    pub fn on_recalled(&mut self, session: u32, seq: u32, now_ns: u64) -> Option<Times> {
        let place = self.place(session)?;
        let account = self.sessions.get_mut(place)?;
        let slot = account.window.get_mut(seq.checked_sub(account.base)? as usize)?;
        if slot.state == State::Settled {
            return None;
        }
        slot.state = State::Settled;
        let times = slot.times;
        settle_front(account);
        self.tally.answered += 1;
        self.tally.late += u64::from(self.late_after_ns < now_ns);
        self.outstanding -= 1;
        Some(times)
    }

    /// The gateway closed the client of this session, as it may: what it has not answered will not be.
    pub fn give_up(&mut self, session: u32) {
        let place = self.place(session);
        let Some(account) = place.and_then(|place| self.sessions.get_mut(place)) else { return };
        let unsettled = account.window.iter_mut().filter(|slot| slot.state != State::Settled);
        for slot in unsettled {
            slot.state = State::Settled;
            self.tally.given_up += 1;
            self.outstanding -= 1;
        }
        account.pieces.clear();
        settle_front(account);
    }

    /// An answer came that cannot be read, or under another session's name.
    pub fn on_garbled(&mut self) {
        self.tally.corrupted += 1;
    }

    /// Closes the account: what is still unsettled is lost. Tells what became of the messages.
    #[must_use]
    pub fn close(mut self) -> Tally {
        for session in &self.sessions {
            for slot in &session.window {
                match slot.state {
                    State::Open => self.tally.lost += 1,
                    State::Started | State::Whole => {
                        self.tally.lost += 1;
                        self.tally.unfinished += 1;
                    }
                    State::Settled => {}
                }
            }
        }
        self.tally
    }

    /// Where a session's account is.
    #[inline]
    fn place(&self, session: u32) -> Option<usize> {
        let offset = session.checked_sub(self.first)?;
        if self.stride == 1 {
            return Some(offset as usize);
        }
        (offset % self.stride == 0).then_some((offset / self.stride) as usize)
    }

    #[inline]
    fn slot(&mut self, session: u32, seq: u32) -> Option<&mut Slot> {
        let place = self.place(session)?;
        let account = self.sessions.get_mut(place)?;
        account.window.get_mut(seq.checked_sub(account.base)? as usize)
    }
}

/// What is settled at the front leaves the window.
#[inline]
fn settle_front(account: &mut Session) {
    while account.window.front().is_some_and(|slot| slot.state == State::Settled) {
        account.window.pop_front();
        account.base += 1;
    }
}

/// An answer to a message that has left the window is a second one; to one that was never sent, a stray.
#[cold]
fn on_settled(tally: &mut Tally, account: &mut Session, seq: u32, is_end: bool) {
    if seq < account.base {
        account.on_second_answer(tally, seq, is_end);
    } else {
        tally.strays += 1;
    }
}

/// Keeps a part of an answer until the rest of it came. Answers of one session come one after another: a part of one
/// inside another means that both are out of order.
fn collect(tally: &mut Tally, account: &mut Session, seq: u32, text: &[u8]) {
    if account.piece_of != seq && !account.pieces.is_empty() {
        tally.reordered += 1;
        account.pieces.clear();
    }
    account.piece_of = seq;
    account.pieces.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::rng::Rng;

    const RUN: u32 = 0xABCD;

    fn ledger() -> Ledger {
        Ledger::new(RUN, Expect::Echo, 10, 0, 1)
    }

    fn answer(session: u32, seq: u32, due_ns: u64) -> Vec<u8> {
        let mut text = vec![0; 100];
        stamp::write(&mut text, &Stamp { run: RUN, session, seq, due_ns });
        text
    }

    /// Sends one message and tells its number.
    fn send(ledger: &mut Ledger, session: u32, due_ns: u64) -> u32 {
        let seq = ledger.open(session, due_ns);
        ledger.on_sent(session, seq, due_ns + 5);
        seq
    }

    fn receive(ledger: &mut Ledger, session: u32, seq: u32, due_ns: u64) -> Option<Times> {
        ledger.on_piece(session, seq, &answer(session, seq, due_ns));
        ledger.on_done(session, seq, due_ns + 100)
    }

    #[test]
    fn what_was_given_up_is_not_lost_and_the_other_sessions_stay_open() {
        let mut ledger = ledger();
        let first = send(&mut ledger, 3, 10);
        assert!(receive(&mut ledger, 3, first, 10).is_some());
        for due_ns in [20, 30] {
            send(&mut ledger, 3, due_ns);
        }
        send(&mut ledger, 4, 40);
        ledger.give_up(3);
        assert_eq!(ledger.outstanding(), 1);
        // The session goes on, on another connection.
        let next = send(&mut ledger, 3, 50);
        assert!(receive(&mut ledger, 3, next, 50).is_some());
        let tally = ledger.close();
        assert_eq!((tally.opened, tally.answered, tally.given_up, tally.lost), (5, 2, 2, 1));
    }

    #[test]
    fn what_is_asked_again_is_answered_once_by_either_way() {
        let mut ledger = ledger();
        let numbers: Vec<u32> = [10, 20, 30].into_iter().map(|due_ns| send(&mut ledger, 3, due_ns)).collect();
        receive(&mut ledger, 3, 0, 10);
        // Half of an answer came before the connection was dropped; it comes again, and whole.
        ledger.on_piece(3, 1, &answer(3, 1, 20)[..40]);
        assert_eq!(ledger.begin_again(3), [(numbers[1], 20), (numbers[2], 30)]);
        assert!(receive(&mut ledger, 3, 2, 30).is_some());
        let recalled = ledger.on_recalled(3, 1, 90).map(|times| times.due_ns);
        assert_eq!((recalled, ledger.on_recalled(3, 1, 95)), (Some(20), None));
        let tally = ledger.close();
        assert!(tally.is_exact() && tally.answered == 3, "{tally:?}");
    }

    #[test]
    fn what_is_answered_once_in_order_and_unchanged_is_exact() {
        let mut ledger = ledger();
        for turn in 0..1_000_u32 {
            let session = turn % 10;
            let seq = send(&mut ledger, session, u64::from(turn));
            assert_eq!(seq, turn / 10);
            let times = receive(&mut ledger, session, seq, u64::from(turn));
            assert_eq!(times, Some(Times { due_ns: turn.into(), sent_ns: u64::from(turn) + 5 }));
        }
        assert_eq!(ledger.outstanding(), 0);
        let tally = ledger.close();
        assert!(tally.is_exact());
        assert_eq!(tally, Tally { opened: 1000, answered: 1000, ..Tally::default() });
    }

    #[test]
    fn a_planted_loss_is_found() {
        let mut ledger = ledger();
        for due in 0..5 {
            let seq = send(&mut ledger, 3, due);
            if seq != 2 {
                receive(&mut ledger, 3, seq, due);
            }
        }
        assert_eq!(ledger.outstanding(), 1);
        let tally = ledger.close();
        assert_eq!(tally, Tally { opened: 5, answered: 4, lost: 1, ..Tally::default() });
    }

    #[test]
    fn an_answer_that_breaks_off_is_lost_and_unfinished() {
        let mut ledger = ledger();
        let seq = send(&mut ledger, 0, 1);
        assert!(ledger.on_piece(0, seq, &answer(0, seq, 1)[..70]).is_some());
        let tally = ledger.close();
        assert_eq!((tally.lost, tally.unfinished), (1, 1));
    }

    #[test]
    fn a_planted_double_is_found_inside_the_window_and_behind_it() {
        let mut ledger = ledger();
        let blocked = send(&mut ledger, 0, 0);
        let seq = send(&mut ledger, 0, 1);
        assert!(receive(&mut ledger, 0, seq, 1).is_some());
        assert_eq!(ledger.on_done(0, seq, 200), None);
        assert_eq!(ledger.tally().doubled, 1);
        receive(&mut ledger, 0, blocked, 0);
        assert_eq!(ledger.on_done(0, blocked, 200), None);
        let tally = ledger.close();
        assert_eq!((tally.answered, tally.doubled, tally.reordered, tally.lost), (2, 2, 1, 0));
    }

    #[test]
    fn a_second_answer_in_parts_is_one_double() {
        let mut ledger = ledger();
        let seq = send(&mut ledger, 0, 0);
        for _ in 0..3 {
            receive(&mut ledger, 0, seq, 0);
        }
        ledger.on_piece(0, seq, b"more");
        assert_eq!(ledger.close().doubled, 3);
    }

    #[test]
    fn a_planted_swap_is_found_once() {
        let mut ledger = ledger();
        let first = send(&mut ledger, 0, 0);
        let second = send(&mut ledger, 0, 1);
        receive(&mut ledger, 0, second, 1);
        receive(&mut ledger, 0, first, 0);
        let tally = ledger.close();
        assert_eq!((tally.answered, tally.reordered, tally.lost, tally.corrupted), (2, 1, 0, 0));
    }

    #[test]
    fn a_loss_alone_is_no_disorder() {
        let mut ledger = ledger();
        let seqs: Vec<u32> = (0..4).map(|due| send(&mut ledger, 0, due)).collect();
        for seq in [0, 2, 3] {
            receive(&mut ledger, 0, seqs[seq], seq as u64);
        }
        let tally = ledger.close();
        assert_eq!((tally.lost, tally.reordered), (1, 0));
    }

    #[test]
    fn a_planted_change_is_found_whole_and_in_pieces() {
        let mut ledger = ledger();
        let seq = send(&mut ledger, 0, 0);
        let mut text = answer(0, seq, 0);
        text[90] ^= 1;
        ledger.on_piece(0, seq, &text);
        assert!(ledger.on_done(0, seq, 1).is_some(), "it was answered, if wrongly");
        let other = send(&mut ledger, 0, 1);
        ledger.on_piece(0, other, &text[..50]);
        ledger.on_piece(0, other, &text[50..]);
        ledger.on_done(0, other, 1);
        let empty = send(&mut ledger, 0, 2);
        ledger.on_done(0, empty, 1);
        let foreign = send(&mut ledger, 0, 3);
        ledger.on_piece(0, foreign, &answer(1, foreign, 3));
        ledger.on_done(0, foreign, 1);
        let tally = ledger.close();
        assert_eq!((tally.answered, tally.corrupted, tally.lost), (4, 4, 0));
    }

    #[test]
    fn an_answer_in_any_pieces_is_the_answer() {
        let mut rng = Rng::new(5);
        let mut ledger = ledger();
        for due in 0..500 {
            let seq = send(&mut ledger, 1, due);
            let text = answer(1, seq, due);
            let mut at = 0;
            while at < text.len() {
                let end = (at + 1 + rng.below(40) as usize).min(text.len());
                let times = ledger.on_piece(1, seq, &text[at..end]);
                assert_eq!(times.is_some(), at == 0);
                at = end;
            }
            assert!(ledger.on_done(1, seq, due).is_some());
        }
        assert!(ledger.close().is_exact());
    }

    #[test]
    fn pieces_of_two_answers_mixed_are_out_of_order() {
        let mut ledger = ledger();
        let (first, second) = (send(&mut ledger, 0, 0), send(&mut ledger, 0, 1));
        ledger.on_piece(0, first, &answer(0, first, 0)[..50]);
        ledger.on_piece(0, second, &answer(0, second, 1)[..50]);
        assert_eq!(ledger.tally().reordered, 1);
    }

    #[test]
    fn refusals_are_counted_by_code_and_are_no_losses() {
        let mut ledger = ledger();
        let seqs: Vec<u32> = (0..3).map(|due| send(&mut ledger, 0, due)).collect();
        ledger.on_refused(0, seqs[0], "BUSY");
        ledger.on_refused(0, seqs[1], "BUSY");
        receive(&mut ledger, 0, seqs[2], 2);
        ledger.on_refused(0, seqs[2], "BUSY");
        let tally = ledger.close();
        assert_eq!((tally.refused, tally.answered, tally.lost, tally.doubled), (2, 1, 0, 0));
        assert_eq!(tally.codes["BUSY"], 3);
    }

    #[test]
    fn codes_of_a_gateway_gone_mad_stay_bounded() {
        let mut tally = Tally::default();
        for code in 0..1_000 {
            tally.count_code(&format!("CODE_{code}"));
        }
        assert_eq!(tally.codes.len(), CODES_MAX + 1);
        assert_eq!(tally.codes.values().sum::<u64>(), 1_000);
    }

    #[test]
    fn what_was_never_asked_is_a_stray() {
        let mut ledger = ledger();
        assert_eq!(ledger.on_done(0, 0, 1), None);
        assert_eq!(ledger.on_piece(99, 0, b"x"), None);
        assert_eq!(ledger.close().strays, 2);
    }

    #[test]
    fn an_answer_long_after_the_end_is_late_and_counts() {
        let mut ledger = ledger();
        let seqs: Vec<u32> = (0..2).map(|_| send(&mut ledger, 0, 0)).collect();
        ledger.end_of_sending(1_000);
        ledger.on_piece(0, seqs[0], &answer(0, seqs[0], 0));
        ledger.on_done(0, seqs[0], 2_000);
        ledger.on_piece(0, seqs[1], &answer(0, seqs[1], 0));
        ledger.on_done(0, seqs[1], 1_001 + LATE_NS);
        let tally = ledger.close();
        assert_eq!((tally.answered, tally.late), (2, 1));
    }

    #[test]
    fn a_lost_message_does_not_cost_the_memory_of_all_that_follow() {
        let mut ledger = ledger();
        send(&mut ledger, 0, 0);
        for due in 1..100_000 {
            let seq = send(&mut ledger, 0, due);
            receive(&mut ledger, 0, seq, due);
        }
        assert!(ledger.sessions[0].window.len() <= WINDOW_MAX);
        let tally = ledger.close();
        assert_eq!((tally.lost, tally.answered, tally.doubled), (1, 99_999, 0));
    }

    #[test]
    fn a_lane_has_its_own_sessions_only() {
        let mut ledger = Ledger::new(RUN, Expect::Anything, 10, 1, 4);
        for session in [1, 5, 9] {
            let seq = send(&mut ledger, session, 0);
            ledger.on_piece(session, seq, b"anything");
            assert!(ledger.on_done(session, seq, 1).is_some());
        }
        assert_eq!(ledger.on_done(2, 0, 1), None);
        let tally = ledger.close();
        assert_eq!((tally.answered, tally.strays), (3, 1));
    }
}
