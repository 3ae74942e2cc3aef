//! When each message is due, and whose it is. Computed from the arguments alone, before and apart from what the gateway
//! does: the same arguments give the same schedule, whatever the machine and however many threads share it.

use crate::arrivals::{Arrivals, Times};
use crate::rng::{Rng, mix};
use crate::zipf::Zipf;

/// One part of a mixed scenario, as far as the schedule knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its share of the messages, against the sum of all shares. At least 1.
    pub weight: u32,
    /// Its sessions, numbered from 0. At least 1.
    pub sessions: u32,
    /// How many of a hundred of its messages are session 0's, whatever the drawing of the others gives it.
    pub hot_percent: u32,
}

/// One message that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Nanoseconds after the start of the run.
    pub at_ns: u64,
    /// Its number in the run, from 0.
    pub index: u64,
    /// Which part of the scenario it belongs to.
    pub part: u8,
    /// Which session of that part.
    pub session: u32,
}

impl Due {
    /// A hash of the entry. Entries of all threads combined by exclusive or give the digest of the schedule.
    #[inline]
    #[must_use]
    pub const fn digest(&self) -> u64 {
        let place = mix(self.at_ns) ^ self.index.rotate_left(32);
        mix(place ^ (self.session as u64) << 8 ^ self.part as u64)
    }
}

/// The due messages, in order of time. Endless memory is not needed: an entry is made when it is asked for.
#[derive(Clone, Debug)]
pub struct Schedule {
    end_ns: u64,
    shares: Vec<Share>,
    weight_sum: u64,
    index: u64,
    times: Times,
    choices: Rng,
    /// How the messages of each part are spread over its sessions; empty where evenly.
    spread: Vec<Zipf>,
}

impl Schedule {
    /// A schedule of `rate` messages a second, all parts together, for `duration_ns` nanoseconds.
    #[must_use]
    pub fn new(rate: f64, duration_ns: u64, arrivals: Arrivals, seed: u64, shares: &[Share]) -> Self {
        Self {
            end_ns: duration_ns,
            shares: shares.to_vec(),
            weight_sum: shares.iter().map(|share| u64::from(share.weight)).sum(),
            index: 0,
            times: Times::new(arrivals, rate, duration_ns, seed),
            choices: Rng::new(mix(seed)),
            spread: Vec::new(),
        }
    }

    /// With few sessions that have many messages, and many that have few: Zipf's law with this exponent. Evenly for 0.
    #[must_use]
    pub fn with_zipf(mut self, exponent: f64) -> Self {
        if exponent != 0.0 {
            self.spread = self.shares.iter().map(|share| Zipf::new(share.sessions, exponent)).collect();
        }
        self
    }

    #[inline]
    fn next_part(&mut self) -> u8 {
        if self.shares.len() <= 1 {
            return 0;
        }
        let mut ticket = self.choices.below(self.weight_sum);
        for (part, share) in self.shares.iter().enumerate() {
            match ticket.checked_sub(u64::from(share.weight)) {
                Some(rest) => ticket = rest,
                None => return part as u8,
            }
        }
        0
    }
}

impl Iterator for Schedule {
    type Item = Due;

    #[inline]
    fn next(&mut self) -> Option<Due> {
        let at_ns = self.times.next_ns();
        if self.end_ns <= at_ns {
            return None;
        }
        let part = self.next_part();
        let Share { sessions, hot_percent, .. } = *self.shares.get(usize::from(part))?;
        // Nothing is drawn for it where there is no hot session: such schedules are what they always were.
        let is_hot = hot_percent != 0 && self.choices.below(100) < u64::from(hot_percent);
        let session = match (self.times.session(self.index), self.spread.get(usize::from(part))) {
            _ if is_hot => 0,
            (Some(recorded), _) => recorded % sessions,
            (None, Some(zipf)) => zipf.draw(&mut self.choices),
            (None, None) => self.choices.below(u64::from(sessions)) as u32,
        };
        let index = self.index;
        self.index += 1;
        Some(Due { at_ns, index, part, session })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const ONE: [Share; 1] = [Share { weight: 1, sessions: 1000, hot_percent: 0 }];

    fn digest(schedule: Schedule) -> u64 {
        schedule.fold(0, |sum, due| sum ^ due.digest())
    }

    #[test]
    fn the_same_arguments_give_the_same_schedule() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson, Arrivals::Burst(50)] {
            let make = |seed| Schedule::new(12_000.0, SECOND, arrivals.clone(), seed, &ONE);
            assert!(make(1).eq(make(1)), "{arrivals:?}");
            assert_eq!(digest(make(1)), digest(make(1)));
            assert_ne!(digest(make(1)), digest(make(2)), "{arrivals:?}");
        }
    }

    /// What a lane does: it walks the whole schedule and keeps its own. All lanes together have every entry once.
    #[test]
    fn the_schedule_does_not_depend_on_the_threads_that_share_it() {
        let make = || Schedule::new(5_000.0, SECOND, Arrivals::Poisson, 3, &ONE);
        let whole = digest(make());
        for lanes in [1, 2, 3, 8] {
            let split = (0..lanes).fold(0, |sum, lane| {
                sum ^ make()
                    .filter(|due| due.session % lanes == lane)
                    .fold(0, |own: u64, due| own ^ due.digest())
            });
            assert_eq!(split, whole, "{lanes} lanes");
        }
    }

    #[test]
    fn by_zipfs_law_the_first_session_has_many_messages_and_the_times_are_the_same() {
        let make =
            |exponent| Schedule::new(50_000.0, SECOND, Arrivals::Constant, 3, &ONE).with_zipf(exponent);
        let count = |exponent: f64| make(exponent).filter(|due| due.session == 0).count();
        // Of a thousand sessions the first has 13.4 %, and evenly 0.1 %.
        assert!((6_300..7_100).contains(&count(1.0)) && count(0.0) < 150);
        assert!(make(1.0).map(|due| due.at_ns).eq(make(0.0).map(|due| due.at_ns)));
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_to_the_end() {
        let times: Vec<u64> =
            Schedule::new(1000.0, SECOND, Arrivals::Constant, 1, &ONE).map(|due| due.at_ns).collect();
        assert_eq!(times.len(), 1000);
        assert!(times.iter().enumerate().all(|(index, at)| *at == index as u64 * 1_000_000));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary_as_they_must() {
        let times: Vec<u64> =
            Schedule::new(100_000.0, SECOND, Arrivals::Poisson, 1, &ONE).map(|due| due.at_ns).collect();
        assert!((99_000..101_000).contains(&times.len()), "{}", times.len());
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of an exponential gap is its mean.
        assert!((0.98..1.02).contains(&(variance.sqrt() / mean)), "{}", variance.sqrt() / mean);
    }

    #[test]
    fn bursts_come_together_and_keep_the_rate() {
        let times: Vec<u64> =
            Schedule::new(1000.0, SECOND, Arrivals::Burst(100), 1, &ONE).map(|due| due.at_ns).collect();
        assert_eq!(times.len(), 1000);
        assert!(
            times
                .chunks(100)
                .enumerate()
                .all(|(burst, at)| { at.iter().all(|at| *at == burst as u64 * 100_000_000) })
        );
    }

    #[test]
    fn parts_get_messages_by_weight_and_sessions_of_their_own() {
        let shares = [
            Share { weight: 3, sessions: 10, hot_percent: 0 },
            Share { weight: 1, sessions: 500, hot_percent: 0 },
        ];
        let mut counts = [0_u32; 2];
        for due in Schedule::new(100_000.0, SECOND, Arrivals::Constant, 9, &shares) {
            counts[usize::from(due.part)] += 1;
            assert!(due.session < shares[usize::from(due.part)].sessions);
        }
        assert!((74_000..76_000).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[0] + counts[1], 100_000);
    }

    #[test]
    fn a_hot_session_gets_its_part_and_the_others_share_the_rest_evenly() {
        let shares = [Share { weight: 1, sessions: 100, hot_percent: 30 }];
        let make = |seed| Schedule::new(100_000.0, SECOND, Arrivals::Constant, seed, &shares);
        let mut counts = [0_u32; 100];
        make(9).for_each(|due| counts[due.session as usize] += 1);
        // The hot one is drawn among the others too: 30 % and a hundredth of the rest.
        assert!((30_200..31_200).contains(&counts[0]), "{counts:?}");
        assert!(counts[1..].iter().all(|count| (580..820).contains(count)), "{counts:?}");
        assert!(make(9).eq(make(9)) && digest(make(9)) != digest(make(8)));
    }
}
