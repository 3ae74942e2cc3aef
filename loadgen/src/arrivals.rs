//! How messages arrive, as it is said and as it is drawn. Owns no clock: a seed and a shape give the times.

mod trace;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::rng::Rng;
use crate::slo::parse_duration;

pub use trace::{TRACE_BYTES_MAX, TRACE_MESSAGES_MAX, Trace};

/// How messages arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly spaced.
    Constant,
    /// Independent of each other: exponential gaps.
    Poisson,
    /// This many at once, then silence until the rate allows as many again.
    Burst(u32),
    /// Poisson arrivals whose rate changes between two levels at random (MMPP), with the rate as their mean.
    Bursty(Bursty),
    /// Poisson arrivals whose rate grows, or falls, evenly from this to the rate.
    Ramp {
        /// Messages a second at the start.
        from: u32,
    },
    /// As they were recorded, faster or slower so that the rate is their mean, and from the start again after the last.
    Trace(Arc<Trace>),
}

/// The two levels of bursty arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bursty {
    /// The rate inside a burst, in percent of the mean rate.
    pub peak_percent: u32,
    /// The share of the time that bursts take, in percent.
    pub share_percent: u32,
    /// How long a burst takes on average; each is drawn.
    pub mean_ns: u64,
}

impl Default for Bursty {
    fn default() -> Self {
        Self { peak_percent: 400, share_percent: 20, mean_ns: 500_000_000 }
    }
}

impl Bursty {
    /// The rate between bursts, against the mean rate: what is left when the bursts have had theirs.
    fn quiet(self) -> f64 {
        let (peak, share) = (f64::from(self.peak_percent) / 100.0, f64::from(self.share_percent) / 100.0);
        ((1.0 - peak * share) / (1.0 - share)).max(0.0)
    }

    /// Whether there are such bursts: above the mean, and not more than all of the messages in them.
    const fn is_sound(self) -> bool {
        100 < self.peak_percent
            && 0 < self.share_percent
            && self.share_percent < 100
            && self.peak_percent as u64 * self.share_percent as u64 <= 10_000
            && 1_000_000 <= self.mean_ns
    }
}

/// Why a text says nothing about arrivals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadArrivals {
    /// It is none of the ways.
    Unknown(String),
    /// The recording cannot be used.
    Trace(String),
}

impl fmt::Display for BadArrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trace(told) => f.write_str(told),
            Self::Unknown(text) => write!(
                f,
                "{text:?} is no way to arrive; write constant, poisson, burst:100 (so many at once), bursty:400%,20%,500ms \
                 (bursts at so much of the rate, for so much of the time, so long on average; at most all messages lie in \
                 bursts), ramp:1000 (from so many a second up or down to the rate), or trace:FILE"
            ),
        }
    }
}

impl std::error::Error for BadArrivals {}

impl FromStr for Arrivals {
    type Err = BadArrivals;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.trim().strip_prefix("trace:") {
            return Trace::read(path).map(Arc::new).map(Self::Trace).map_err(BadArrivals::Trace);
        }
        read(text.trim()).ok_or_else(|| BadArrivals::Unknown(text.to_owned()))
    }
}

fn read(text: &str) -> Option<Arrivals> {
    let (name, shape) = match text.split_once(':') {
        Some((name, shape)) => (name, Some(shape)),
        None => (text, None),
    };
    match (name, shape) {
        ("constant", None) => Some(Arrivals::Constant),
        ("poisson", None) => Some(Arrivals::Poisson),
        ("burst", None) => Some(Arrivals::Burst(100)),
        ("burst", Some(size)) => Some(Arrivals::Burst(size.parse().ok().filter(|size| *size != 0)?)),
        ("bursty", None) => Some(Arrivals::Bursty(Bursty::default())),
        ("bursty", Some(shape)) => {
            let mut parts = shape.split(',');
            let mut percent = || parts.next()?.trim().strip_suffix('%')?.parse().ok();
            let (peak_percent, share_percent) = (percent()?, percent()?);
            let mean_ns = parse_duration(parts.next()?.trim()).ok()?;
            let bursty = Bursty { peak_percent, share_percent, mean_ns };
            (bursty.is_sound() && parts.next().is_none()).then_some(Arrivals::Bursty(bursty))
        }
        ("ramp", None) => Some(Arrivals::Ramp { from: 0 }),
        ("ramp", Some(from)) => Some(Arrivals::Ramp { from: from.parse().ok()? }),
        _ => None,
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => f.write_str("constant"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst(size) => write!(f, "burst:{size}"),
            Self::Bursty(Bursty { peak_percent, share_percent, mean_ns }) => {
                write!(f, "bursty:{peak_percent}%,{share_percent}%,{}ms", *mean_ns as f64 / 1e6)
            }
            Self::Ramp { from } => write!(f, "ramp:{from}"),
            Self::Trace(trace) => write!(f, "trace:{}", trace.name()),
        }
    }
}

/// The times at which messages are due, one after another.
#[derive(Clone, Debug)]
pub struct Times {
    arrivals: Arrivals,
    /// Messages a nanosecond: the mean, or the rate at the end of a ramp.
    rate: f64,
    /// Nanoseconds between two messages at this rate.
    gap_ns: f64,
    end_ns: f64,
    index: u64,
    elapsed_ns: f64,
    /// Of bursty arrivals: whether it is within a burst, and when that changes.
    in_burst: bool,
    change_ns: f64,
    rng: Rng,
}

impl Times {
    /// Whose message `index` is, where that is recorded.
    #[inline]
    #[must_use]
    pub fn session(&self, index: u64) -> Option<u32> {
        match &self.arrivals {
            Arrivals::Trace(trace) => trace.session(index),
            Arrivals::Constant
            | Arrivals::Burst(_)
            | Arrivals::Poisson
            | Arrivals::Bursty(_)
            | Arrivals::Ramp { .. } => None,
        }
    }

    /// `rate` messages a second; a ramp reaches it at `end_ns`.
    #[must_use]
    pub fn new(arrivals: Arrivals, rate: f64, end_ns: u64, seed: u64) -> Self {
        Self {
            arrivals,
            rate: rate / 1e9,
            gap_ns: 1e9 / rate,
            end_ns: end_ns as f64,
            index: 0,
            elapsed_ns: 0.0,
            // The first change comes at once, so that a run begins between bursts.
            in_burst: true,
            change_ns: 0.0,
            rng: Rng::new(seed),
        }
    }

    /// When the next message is due, in nanoseconds after the start. Never earlier than the one before.
    #[inline]
    pub fn next_ns(&mut self) -> u64 {
        let index = self.index;
        self.index += 1;
        match &self.arrivals {
            Arrivals::Constant => (index as f64 * self.gap_ns) as u64,
            Arrivals::Burst(size) => {
                let size = u64::from((*size).max(1));
                ((index / size * size) as f64 * self.gap_ns) as u64
            }
            Arrivals::Poisson => {
                self.elapsed_ns += self.exponential() * self.gap_ns;
                self.elapsed_ns as u64
            }
            Arrivals::Bursty(bursty) => {
                let bursty = *bursty;
                self.next_bursty(bursty)
            }
            Arrivals::Ramp { from } => {
                let from = f64::from(*from) / 1e9;
                self.next_ramp(from)
            }
            Arrivals::Trace(trace) => trace.time_ns(index, self.rate),
        }
    }

    #[inline]
    fn exponential(&mut self) -> f64 {
        -self.rng.unit().ln()
    }

    /// An exponential process forgets: a gap that does not end before the rate changes is drawn again from there.
    fn next_bursty(&mut self, bursty: Bursty) -> u64 {
        loop {
            let level = if self.in_burst { f64::from(bursty.peak_percent) / 100.0 } else { bursty.quiet() };
            let gap_ns = if 0.0 < level { self.exponential() / (self.rate * level) } else { f64::INFINITY };
            if self.elapsed_ns + gap_ns < self.change_ns {
                self.elapsed_ns += gap_ns;
                return self.elapsed_ns as u64;
            }
            self.elapsed_ns = self.change_ns;
            self.in_burst = !self.in_burst;
            let share = f64::from(bursty.share_percent) / 100.0;
            let mean_ns = bursty.mean_ns as f64;
            let mean_ns = if self.in_burst { mean_ns } else { mean_ns * (1.0 - share) / share };
            self.change_ns += self.exponential() * mean_ns;
        }
    }

    /// Where the area under the rate has grown by an exponential draw.
    fn next_ramp(&mut self, from: f64) -> u64 {
        let slope = (self.rate - from) / self.end_ns;
        let (area, now) = (self.exponential(), from + slope * self.elapsed_ns);
        // now·t + slope/2·t² = area, solved so that neither a small slope nor a small rate loses digits.
        let root = now * now + 2.0 * slope * area;
        if root < 0.0 {
            // A falling ramp has come to its end before this message.
            self.elapsed_ns = f64::INFINITY;
            return u64::MAX;
        }
        self.elapsed_ns += 2.0 * area / (now + root.sqrt()).max(f64::MIN_POSITIVE);
        self.elapsed_ns as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn times(text: &str, rate: f64, seconds: u64) -> Vec<u64> {
        let mut times = Times::new(text.parse().unwrap(), rate, seconds * SECOND, 7);
        std::iter::from_fn(|| Some(times.next_ns()).filter(|at| *at < seconds * SECOND)).collect()
    }

    #[test]
    fn what_is_said_is_shown_the_same() {
        for text in
            ["constant", "poisson", "burst:7", "bursty:400%,20%,500ms", "bursty:200%,50%,2.5ms", "ramp:1000"]
        {
            assert_eq!(text.parse::<Arrivals>().unwrap().to_string(), text);
        }
        assert_eq!("bursty".parse(), Ok(Arrivals::Bursty(Bursty::default())));
        for bad in [
            "",
            "fast",
            "burst:0",
            "poisson:3",
            "bursty:90%,20%,1s",
            "bursty:600%,20%,1s",
            "bursty:400%,20%",
            "ramp:x",
        ] {
            assert!(bad.parse::<Arrivals>().unwrap_err().to_string().contains("bursty:400%"), "{bad}");
        }
    }

    #[test]
    fn times_never_go_back_and_are_the_same_for_the_same_seed() {
        for text in ["constant", "poisson", "burst:50", "bursty", "ramp:100", "ramp:9000"] {
            let one = times(text, 5_000.0, 2);
            assert!(one.is_sorted() && one == times(text, 5_000.0, 2), "{text}");
        }
    }

    #[test]
    fn another_seed_gives_other_times_wherever_they_are_drawn() {
        for text in ["poisson", "bursty", "ramp:100"] {
            let first = |seed| Times::new(text.parse().unwrap(), 5_000.0, SECOND, seed).next_ns();
            assert_ne!(first(1), first(2), "{text}");
        }
    }

    #[test]
    fn a_recorded_trace_is_taken_at_the_rate_that_is_asked_for() {
        let trace = Trace::parse("t", "0\n1\n1\n6\n").unwrap();
        let mut times = Times::new(Arrivals::Trace(Arc::new(trace)), 5.0, SECOND, 7);
        let millis: Vec<u64> = (0..5).map(|_| times.next_ns() / 1_000_000).collect();
        assert_eq!(millis, [0, 100, 100, 600, 800]);
        let missing = "trace:/nowhere/at-all".parse::<Arrivals>().unwrap_err().to_string();
        assert!(missing.contains("/nowhere/at-all"), "{missing}");
    }

    #[test]
    fn bursty_arrivals_keep_the_mean_and_vary_more_than_poisson() {
        let spread = |text: &str| {
            let times = times(text, 2_000.0, 200);
            let mean = times.len() as f64 / 2_000.0;
            let mut bins = vec![0.0_f64; 2_000];
            times.iter().for_each(|at| bins[(at / 100_000_000) as usize] += 1.0);
            let variance = bins.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / bins.len() as f64;
            (times.len(), variance / mean)
        };
        let (count, poisson) = spread("poisson");
        assert!((396_000..404_000).contains(&count) && (0.8..1.2).contains(&poisson), "{count} {poisson}");
        let (count, bursty) = spread("bursty:400%,20%,500ms");
        assert!((340_000..460_000).contains(&count) && 10.0 < bursty, "{count} {bursty}");
    }

    #[test]
    fn bursts_that_hold_every_message_leave_silence_between_them() {
        let times = times("bursty:500%,20%,200ms", 1_000.0, 50);
        assert!(times.windows(2).any(|pair| 200_000_000 < pair[1] - pair[0]));
        assert!((35_000..65_000).contains(&times.len()), "{}", times.len());
    }

    #[test]
    fn a_ramp_has_the_area_under_its_rates_and_grows_evenly() {
        let rising = times("ramp:1000", 3_000.0, 10);
        assert!((19_500..20_500).contains(&rising.len()), "{}", rising.len());
        let early = rising.iter().filter(|at| **at < SECOND).count();
        let late = rising.iter().filter(|at| 9 * SECOND < **at).count();
        assert!((1_000..1_200).contains(&early) && (2_780..3_020).contains(&late), "{early} {late}");
        let falling = times("ramp:4000", 1.0, 10);
        assert!((19_300..20_700).contains(&falling.len()), "{}", falling.len());
        assert!(!times("ramp:0", 1_000.0, 4).is_empty());
    }
}
