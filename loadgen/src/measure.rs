//! Times into histograms: constant memory, three digits, from a nanosecond to a minute. Owns no clock and no thread.
//!
//! A lane records into one [`Interval`] and hands it over each second; the sum of the intervals is the result. Only
//! messages that were due in the measured window are timed; all are counted.

use std::ops::Range;

use hdrhistogram::Histogram;

use crate::ledger::Times;

/// Times in nanoseconds.
pub type Times64 = Histogram<u64>;

/// The longest time that is told apart; what is longer counts as this.
pub const TIME_MAX_NS: u64 = 60_000_000_000;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// From when a message was due until its whole answer was there. The waiting of a stalled generator is in it.
    Response,
    /// From when a message was sent until its whole answer was there.
    Service,
    /// From when a message was due until it was sent: the generator's own delay. Over HTTP, where a session has one request
    /// in flight, from when its session was free, if that was later.
    Lag,
    /// From when a message was due until the first part of its answer was there. Streams only.
    First,
    /// From when a webhook was due until the gateway had taken it.
    Ack,
    /// From a token's emission by the provider simulator to its arrival. Streams of stamped tokens only.
    Transit,
    /// As `Response`, of clients that read slowly on purpose: their delay is their own.
    Slow,
    /// From when a connection was dropped on purpose until its client was back and authenticated, its own waiting included.
    Back,
    /// From the end of a provider's brownout until the last message that failed after it.
    Recovery,
    /// From when a connection was begun until it was authenticated, TLS included, of clients that come for one message.
    Handshake,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Response,
        Self::Service,
        Self::Lag,
        Self::First,
        Self::Ack,
        Self::Transit,
        Self::Slow,
        Self::Back,
        Self::Recovery,
        Self::Handshake,
    ];

    /// Its name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Service => "service",
            Self::Lag => "lag",
            Self::First => "first",
            Self::Ack => "ack",
            Self::Transit => "transit",
            Self::Slow => "slow",
            Self::Back => "back",
            Self::Recovery => "recovery",
            Self::Handshake => "handshake",
        }
    }
}

/// An empty histogram.
#[must_use]
pub fn new_histogram() -> Times64 {
    match Histogram::new_with_bounds(1, TIME_MAX_NS, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("constant bounds: {error}"),
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages handed to the kernel.
    pub sent: u64,
    /// Of these, those that were due in the measured window and were sent in it.
    pub sent_in_window: u64,
    /// Whole answers.
    pub answered: u64,
    /// Of these, those that came in the measured window.
    pub answered_in_window: u64,
    /// Parts of answers.
    pub pieces: u64,
    /// Errors and refusals.
    pub refused: u64,
    /// Answers that were doubled, reordered or corrupted, as far as they were seen.
    pub wrong: u64,
    /// Messages that were due but not sent, because too many were unanswered already.
    pub shed: u64,
    /// Deliveries repeated on purpose, and messages sent again because their connection was dropped.
    pub repeats: u64,
    /// Deliveries beside them that could not be read, or were not signed well, on purpose.
    pub malformed: u64,
    /// Of these, those that were refused, as they should be.
    pub malformed_refused: u64,
    /// Answers that came while nobody listened, found in the histories of their sessions.
    pub recalled: u64,
    /// Connections that broke.
    pub disconnects: u64,
    /// Connections of clients that read slowly on purpose, which the gateway closed.
    pub slow_closes: u64,
    /// Reads that brought something.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

impl Counts {
    /// Adds another's figures.
    pub const fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.sent_in_window += other.sent_in_window;
        self.answered += other.answered;
        self.answered_in_window += other.answered_in_window;
        self.pieces += other.pieces;
        self.refused += other.refused;
        self.wrong += other.wrong;
        self.shed += other.shed;
        self.repeats += other.repeats;
        self.malformed += other.malformed;
        self.malformed_refused += other.malformed_refused;
        self.recalled += other.recalled;
        self.disconnects += other.disconnects;
        self.slow_closes += other.slow_closes;
        self.reads += other.reads;
        self.writes += other.writes;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }
}

/// What was measured in one stretch of time. A histogram exists from its first value on.
#[derive(Clone, Debug, Default)]
pub struct Interval {
    times: [Option<Box<Times64>>; Metric::ALL.len()],
    /// What was counted.
    pub counts: Counts,
}

impl Interval {
    /// The times of one metric, if there are any.
    #[must_use]
    pub fn times(&self, metric: Metric) -> Option<&Times64> {
        self.times[metric as usize].as_deref().filter(|times| !times.is_empty())
    }

    /// A provider's brownout was over so long before the last message failed.
    pub fn on_recovery(&mut self, nanos: u64) {
        self.record(Metric::Recovery, nanos);
    }

    #[inline]
    fn record(&mut self, metric: Metric, nanos: u64) {
        self.times[metric as usize].get_or_insert_with(|| Box::new(new_histogram())).saturating_record(nanos);
    }

    /// Adds another stretch.
    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        for metric in Metric::ALL {
            if let Some(times) = other.times(metric) {
                let sum = self.times[metric as usize].get_or_insert_with(|| Box::new(new_histogram()));
                // Both have the same bounds, so that adding cannot fail.
                let added = sum.add(times);
                debug_assert!(added.is_ok(), "{added:?}");
            }
        }
    }

    /// Empties it, and keeps its memory.
    pub fn clear(&mut self) {
        self.counts = Counts::default();
        for times in self.times.iter_mut().flatten() {
            times.reset();
        }
    }
}

/// What became of one brownout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrownoutEnd {
    /// From when to when, in nanoseconds after the start of the run.
    pub during: Range<u64>,
    /// What the gateway asked of the provider in it.
    pub asked: u64,
    /// Messages that were answered in it, by another provider or as an exception.
    pub answered: u64,
    /// Messages that ended with an error in it, and after it until the next one.
    pub refused: u64,
    /// See `refused`.
    pub refused_after: u64,
    /// When the last message ended with an error, and the last one with an answer; 0 for never.
    pub last_refused_ns: u64,
    /// See `last_refused_ns`.
    pub last_answered_ns: u64,
}

impl BrownoutEnd {
    /// Counts a message that was answered.
    #[inline]
    pub fn on_answered(&mut self, now_ns: u64) {
        self.answered += u64::from(self.during.contains(&now_ns));
        self.last_answered_ns = now_ns;
    }

    /// Counts a message that ended with an error.
    pub fn on_refused(&mut self, now_ns: u64) {
        let count = if self.during.contains(&now_ns) { &mut self.refused } else { &mut self.refused_after };
        *count += 1;
        self.last_refused_ns = now_ns;
    }

    /// How long after its end the last message failed; `None` if none was answered after that.
    #[must_use]
    pub fn recovery_ns(&self) -> Option<u64> {
        let since = self.last_refused_ns.max(self.during.end);
        (since <= self.last_answered_ns).then(|| self.last_refused_ns.saturating_sub(self.during.end))
    }

    /// Adds what another lane knows of the same one.
    pub fn add(&mut self, other: &Self) {
        self.during = other.during.clone();
        self.asked += other.asked;
        self.answered += other.answered;
        self.refused += other.refused;
        self.refused_after += other.refused_after;
        self.last_refused_ns = self.last_refused_ns.max(other.last_refused_ns);
        self.last_answered_ns = self.last_answered_ns.max(other.last_answered_ns);
    }
}

/// Records for one lane.
#[derive(Debug)]
pub struct Recorder {
    current: Interval,
    window: Range<u64>,
    brownouts: Vec<BrownoutEnd>,
}

impl Recorder {
    /// Times the messages that are due in `window`, in nanoseconds after the start of the run.
    #[must_use]
    pub fn new(window: Range<u64>) -> Self {
        Self { current: Interval::default(), window, brownouts: Vec::new() }
    }

    /// Counts apart what happens in these stretches of time, and after each until the next.
    #[must_use]
    pub fn with_brownouts(self, during: &[Range<u64>]) -> Self {
        let end = |during: &Range<u64>| BrownoutEnd { during: during.clone(), ..BrownoutEnd::default() };
        Self { brownouts: during.iter().map(end).collect(), ..self }
    }

    /// What was counted in and after the brownouts.
    pub fn take_brownouts(&mut self) -> Vec<BrownoutEnd> {
        std::mem::take(&mut self.brownouts)
    }

    /// The brownout that it is in, or that was last.
    #[inline]
    fn brownout(&mut self, now_ns: u64) -> Option<&mut BrownoutEnd> {
        self.brownouts.iter_mut().rev().find(|brownout| brownout.during.start <= now_ns)
    }

    /// A message ended with an error.
    pub fn on_refused(&mut self, now_ns: u64) {
        self.current.counts.refused += 1;
        if let Some(brownout) = self.brownout(now_ns) {
            brownout.on_refused(now_ns);
        }
    }

    /// What is counted, besides what the functions below count.
    pub const fn counts(&mut self) -> &mut Counts {
        &mut self.current.counts
    }

    /// A message was handed to the kernel; it could have been from `ready_ns` on.
    #[inline]
    pub fn on_sent(&mut self, due_ns: u64, ready_ns: u64, now_ns: u64) {
        self.current.counts.sent += 1;
        if self.window.contains(&due_ns) {
            self.current.counts.sent_in_window += u64::from(now_ns < self.window.end);
            self.current.record(Metric::Lag, now_ns.saturating_sub(ready_ns));
        }
    }

    /// The first part of a streamed answer came.
    #[inline]
    pub fn on_first(&mut self, times: Times, now_ns: u64) {
        if self.window.contains(&times.due_ns) {
            self.current.record(Metric::First, now_ns.saturating_sub(times.due_ns));
        }
    }

    /// An answer is complete.
    #[inline]
    pub fn on_done(&mut self, times: Times, now_ns: u64) {
        self.current.counts.answered += 1;
        if let Some(brownout) = self.brownout(now_ns) {
            brownout.on_answered(now_ns);
        }
        self.current.counts.answered_in_window += u64::from(self.window.contains(&now_ns));
        if self.window.contains(&times.due_ns) {
            self.current.record(Metric::Response, now_ns.saturating_sub(times.due_ns));
            self.current.record(Metric::Service, now_ns.saturating_sub(times.sent_ns));
        }
    }

    /// An answer is complete whose reader is slow on purpose.
    #[inline]
    pub fn on_slow(&mut self, times: Times, now_ns: u64) {
        self.current.counts.answered += 1;
        self.current.counts.answered_in_window += u64::from(self.window.contains(&now_ns));
        if self.window.contains(&times.due_ns) {
            self.current.record(Metric::Slow, now_ns.saturating_sub(times.due_ns));
        }
    }

    /// A client that was due then was let in within `nanos`.
    pub fn on_handshake(&mut self, due_ns: u64, nanos: u64) {
        if self.window.contains(&due_ns) {
            self.current.record(Metric::Handshake, nanos);
        }
    }

    /// A client is back `nanos` after its connection was dropped.
    pub fn on_back(&mut self, nanos: u64) {
        self.current.record(Metric::Back, nanos);
    }

    /// The gateway took a webhook.
    #[inline]
    pub fn on_ack(&mut self, due_ns: u64, now_ns: u64) {
        if self.window.contains(&due_ns) {
            self.current.record(Metric::Ack, now_ns.saturating_sub(due_ns));
        }
    }

    /// A token came that the provider simulator emitted `nanos` ago.
    #[inline]
    pub fn on_transit(&mut self, nanos: u64, now_ns: u64) {
        if self.window.contains(&now_ns) {
            self.current.record(Metric::Transit, nanos);
        }
    }

    /// Hands over what was recorded, and goes on in `next`, which is empty.
    #[must_use]
    pub const fn take(&mut self, next: Interval) -> Interval {
        std::mem::replace(&mut self.current, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_due_in_the_window_is_timed_but_all_is_counted() {
        let mut recorder = Recorder::new(1_000..2_000);
        for due_ns in [0, 1_000, 1_999, 2_000] {
            recorder.on_sent(due_ns, due_ns, due_ns + 10);
            recorder.on_done(Times { due_ns, sent_ns: due_ns + 10 }, due_ns + 100);
        }
        let interval = recorder.take(Interval::default());
        assert_eq!((interval.counts.sent, interval.counts.answered), (4, 4));
        assert_eq!(interval.counts.sent_in_window, 1, "the one due at 1,999 was sent after the window");
        let response = interval.times(Metric::Response).map(|times| (times.len(), times.min(), times.max()));
        assert_eq!(response, Some((2, 100, 100)));
        assert_eq!(interval.times(Metric::Service).map(Times64::max), Some(90));
        assert_eq!(interval.times(Metric::Lag).map(Times64::max), Some(10));
        assert!(interval.times(Metric::First).is_none());
    }

    #[test]
    fn recovery_is_the_last_error_after_the_end_if_an_answer_came_after_it() {
        let mut end = BrownoutEnd { during: 100..200, ..BrownoutEnd::default() };
        end.on_answered(90);
        end.on_refused(150);
        assert_eq!(end.recovery_ns(), None, "no answer since");
        end.on_refused(230);
        end.on_answered(225);
        assert_eq!(end.recovery_ns(), None);
        end.on_answered(240);
        assert_eq!((end.recovery_ns(), end.refused, end.refused_after, end.answered), (Some(30), 1, 1, 0));
        let mut spared = BrownoutEnd { during: 100..200, ..BrownoutEnd::default() };
        spared.on_answered(150);
        spared.on_answered(201);
        assert_eq!((spared.recovery_ns(), spared.answered), (Some(0), 1));
    }

    #[test]
    fn intervals_add_up_and_a_cleared_one_is_empty() {
        let mut recorder = Recorder::new(0..u64::MAX);
        recorder.on_done(Times { due_ns: 0, sent_ns: 0 }, 5_000);
        let mut first = recorder.take(Interval::default());
        recorder.on_done(Times { due_ns: 0, sent_ns: 0 }, 7_000_000);
        let second = recorder.take(Interval::default());
        first.add(&second);
        assert_eq!(first.counts.answered, 2);
        assert_eq!(first.times(Metric::Response).map(Times64::len), Some(2));
        first.clear();
        assert!(first.times(Metric::Response).is_none());
        assert_eq!(first.counts, Counts::default());
    }

    #[test]
    fn a_time_beyond_the_range_counts_as_the_longest() {
        let mut recorder = Recorder::new(0..u64::MAX);
        recorder.on_done(Times { due_ns: 0, sent_ns: 0 }, 90_000_000_000);
        let interval = recorder.take(Interval::default());
        let max = interval.times(Metric::Response).map_or(0, Times64::max);
        assert!((TIME_MAX_NS..TIME_MAX_NS * 101 / 100).contains(&max), "{max}");
    }
}
