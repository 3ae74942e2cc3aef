//! Whether a run came to a steady state, and when: the seconds before are not timed, and a run that never stops rising is
//! worth nothing as one figure. Functions of the medians of its seconds; owns no clock.
//!
//! Where the warm-up ends is White's rule (MSER: A. Franklin, K. P. White, "Stationarity tests and MSER-5", 2008): the cut
//! that leaves the least standard error, or the first that leaves nearly as little. Where the rule would cut as much as it
//! may, there is no steady state to be seen, and nothing is cut. A trend is Mann's and Kendall's, which asks for no
//! distribution, over batches, so that neighbouring seconds may depend on each other.

use std::collections::VecDeque;
use std::ops::Range;

use crate::measure::{Interval, Metric};
use crate::stats::{median, normal_below};

/// Fewer seconds tell nothing.
pub const SECONDS_MIN: usize = 10;

/// At most so many seconds are cut, and never more than half of them: until the run's end they are kept one by one.
pub const CUT_MAX: usize = 30;

/// What is cut differs from the rest by this share at least, and by so many of the rest's own standard deviations.
const CUT_SHARE_MIN: f64 = 0.1;
const CUT_DEVIATIONS_MIN: f64 = 4.0;

/// An error up to so many times the least is as good: chance alone would else cut on and on.
const CUT_ERROR_MAX: f64 = 1.5;

/// A normal distribution's standard deviation, in medians of the distance from its median.
const DEVIATION: f64 = 1.4826;

/// Batches that a trend is looked for in.
const BATCHES: usize = 10;

/// From where on a trend counts: its probability by chance, its share over the run, and its length in nanoseconds.
const TREND_P_MAX: f64 = 0.005;
const TREND_SHARE_MIN: f64 = 0.25;
const TREND_NS_MIN: f64 = 1e5;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Steady {
    /// Seconds that were looked at; 0 if there were too few, or if the load was not meant to be even.
    pub seconds: usize,
    /// Of these, the first so many were not timed.
    pub cut: usize,
    /// The first second after the start of the run that was timed, if any was cut.
    pub from_second: u64,
    /// By what share the median grew over the rest; below 0 if it fell.
    pub trend: f64,
    /// The probability of such a trend, or of a greater one, if there were none.
    pub p: f64,
    /// Whether the trend is more than chance and more than a trifle.
    pub is_drifting: bool,
}

/// Looks at the medians of the window's whole seconds, in nanoseconds.
#[must_use]
pub fn examine(medians: &[f64]) -> Steady {
    if medians.len() < SECONDS_MIN {
        return Steady::default();
    }
    let cut = warm_up(medians);
    let rest = &medians[cut..];
    let Some((trend, p, nanos)) = trend(rest) else {
        return Steady { seconds: medians.len(), cut, p: 1.0, ..Steady::default() };
    };
    let is_drifting = p < TREND_P_MAX && TREND_SHARE_MIN < trend.abs() && TREND_NS_MIN < nanos.abs();
    Steady { seconds: medians.len(), cut, from_second: 0, trend, p, is_drifting }
}

/// How many of the first seconds are not like the others yet.
fn warm_up(medians: &[f64]) -> usize {
    let error = |cut: usize| {
        let rest = &medians[cut..];
        let mean = rest.iter().sum::<f64>() / rest.len() as f64;
        rest.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (rest.len() as f64).powi(2)
    };
    let cut_max = CUT_MAX.min(medians.len() / 2);
    let errors: Vec<f64> = (0..=cut_max).map(error).collect();
    let least = errors.iter().copied().fold(f64::INFINITY, f64::min);
    let cut = errors.iter().position(|error| *error <= least * CUT_ERROR_MAX).unwrap_or(0);
    if cut == 0 || cut == cut_max {
        return 0;
    }
    let (head, rest) = medians.split_at(cut);
    let level = median(rest);
    let distances: Vec<f64> = rest.iter().map(|value| (value - level).abs()).collect();
    let off = (median(head) - level).abs();
    // Chance alone makes the rule cut a little; what is like the rest stays.
    let least = CUT_SHARE_MIN * level;
    if least < off && CUT_DEVIATIONS_MIN * DEVIATION * median(&distances) < off { cut } else { 0 }
}

/// The share by which the level changes from the first batch to the last, its probability by chance, and its length.
fn trend(medians: &[f64]) -> Option<(f64, f64, f64)> {
    if medians.len() < BATCHES {
        return None;
    }
    let at = |batch: usize| batch * medians.len() / BATCHES;
    let batches: Vec<f64> =
        (0..BATCHES).map(|batch| median(&medians[at(batch)..at(batch + 1)]).max(1.0)).collect();
    let (mut sign_sum, mut slopes) = (0.0, Vec::new());
    for (first, one) in batches.iter().enumerate() {
        for (distance, other) in batches[first + 1..].iter().enumerate() {
            sign_sum += other.partial_cmp(one).map_or(0.0, |order| f64::from(order as i8));
            slopes.push((other / one).ln() / (distance + 1) as f64);
        }
    }
    let count = BATCHES as f64;
    let spread = (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
    let z = (f64::abs(sign_sum) - 1.0).max(0.0) / spread;
    let share = (median(&slopes) * (count - 1.0)).exp_m1();
    Some((share, 2.0 * (1.0 - normal_below(z)), share * batches[0]))
}

/// Adds up the seconds of a run, and keeps the first ones of its window apart until it is known which of them count.
#[derive(Debug, Default)]
pub struct Hold {
    /// The whole seconds of the window; nothing is held, and nothing cut, where there are none.
    window: Range<u64>,
    held: VecDeque<(u64, Interval)>,
    medians: Vec<(u64, f64)>,
    sum: Interval,
}

impl Hold {
    /// For a window of these whole seconds after the start of the run.
    #[must_use]
    pub fn new(window: Range<u64>) -> Self {
        Self { window, ..Self::default() }
    }

    /// A second is over; they come in order.
    pub fn add(&mut self, second: u64, interval: Interval) {
        if self.window.contains(&second)
            && let Some(times) = interval.times(Metric::Response)
        {
            self.medians.push((second, times.value_at_quantile(0.5) as f64));
        }
        let first = self.window.start;
        if self.window.contains(&second) && second < first + CUT_MAX as u64 {
            self.held.push_back((second, interval));
        } else {
            self.sum.add(&interval);
        }
    }

    /// The sum, without the times of what was cut; counts are those of all.
    #[must_use]
    pub fn close(mut self) -> (Interval, Steady) {
        let medians: Vec<f64> = self.medians.iter().map(|(_, median)| *median).collect();
        let mut steady = examine(&medians);
        if steady.cut != 0 {
            steady.from_second = self.medians.get(steady.cut).map_or(0, |(second, _)| *second);
        }
        for (second, interval) in self.held.drain(..) {
            if steady.from_second <= second {
                self.sum.add(&interval);
            } else {
                self.sum.counts.add(&interval.counts);
            }
        }
        (self.sum, steady)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Times;
    use crate::measure::{Recorder, Times64};
    use crate::rng::{Rng, mix};
    use crate::stats::draw_normal;

    const LEVEL_NS: f64 = 2e6;

    /// Seconds with this noise, each at a multiple of the level.
    fn seconds(seed: u64, noise: f64, levels: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut rng = Rng::new(mix(seed));
        levels.map(|level| LEVEL_NS * level * (draw_normal(&mut rng) * noise).exp()).collect()
    }

    fn share(mut holds: impl FnMut(u64) -> bool) -> f64 {
        (0..1000).filter(|seed| holds(*seed)).count() as f64 / 1000.0
    }

    #[test]
    fn of_a_thousand_even_runs_fewer_than_ten_are_said_to_drift_and_few_are_cut() {
        for length in [10, 20, 60] {
            let even = |seed| examine(&seconds(seed, 0.1, std::iter::repeat_n(1.0, length)));
            let drifting = share(|seed| even(seed).is_drifting);
            let cut = share(|seed| even(seed).cut != 0);
            assert!(drifting < 0.01 && cut < 0.05, "{length} s: {drifting} drift, {cut} cut");
        }
    }

    #[test]
    fn a_warm_up_is_cut_where_it_ends() {
        let warm = [4.0, 2.5, 1.8, 1.4].into_iter().chain(std::iter::repeat_n(1.0, 26));
        let found = share(|seed| (3..=5).contains(&examine(&seconds(seed, 0.05, warm.clone())).cut));
        assert!(0.95 < found, "{found}");
        let steady = share(|seed| !examine(&seconds(seed, 0.05, warm.clone())).is_drifting);
        assert!(0.99 < steady, "{steady}");
    }

    #[test]
    fn a_level_that_grows_to_the_end_is_no_steady_state() {
        let growing = (0..30).map(|second| 1.0 + 0.7 * f64::from(second) / 30.0);
        let found = share(|seed| examine(&seconds(seed, 0.05, growing.clone())).is_drifting);
        assert!(0.95 < found, "{found}");
        // One that falls to the end, as of a warm-up that is longer than the run, is none either.
        let falling = (0..30).map(|second| 1.0 + 0.7 * f64::from(30 - second) / 30.0);
        let found = share(|seed| examine(&seconds(seed, 0.05, falling.clone())).is_drifting);
        assert!(0.95 < found, "{found}");
        // In microseconds the same growth is nothing that anybody waits for.
        let small: Vec<f64> = growing.map(|level| level * 1e4).collect();
        assert!(!examine(&small).is_drifting);
    }

    #[test]
    fn too_few_seconds_tell_nothing() {
        assert_eq!(examine(&[1e6; SECONDS_MIN - 1]), Steady::default());
        assert_eq!(examine(&[1e6; SECONDS_MIN]).seconds, SECONDS_MIN);
    }

    #[test]
    fn what_is_cut_is_counted_and_not_timed() {
        let second = |nanos: u64| {
            let mut recorder = Recorder::new(0..u64::MAX);
            (0..10).for_each(|_| recorder.on_done(Times { due_ns: 0, sent_ns: 0 }, nanos));
            recorder.take(Interval::default())
        };
        let mut hold = Hold::new(2..42);
        for number in 0..44 {
            hold.add(number, second(if number < 5 { 9_000_000 } else { 1_000_000 }));
        }
        let (sum, steady) = hold.close();
        assert_eq!((steady.seconds, steady.cut, steady.is_drifting), (40, 3, false));
        assert_eq!(steady.from_second, 5);
        // The two seconds before the window and the two after it are the recorder's to leave out.
        let timed = sum.times(Metric::Response).map(Times64::len);
        assert_eq!((sum.counts.answered, timed), (440, Some(410)));
        let slow = sum.times(Metric::Response).map(|times| times.count_between(8_000_000, 10_000_000));
        assert_eq!(slow, Some(20));
    }
}
