//! Rates: how many of something one key or address may do in a time. Shared by all shards, exact, without a lock.
//!
//! GCRA, the generic cell rate algorithm (ITU-T I.371, annex A): the whole state is the time at which the bucket will
//! be full again, so one atomic word holds it. [`Table`] holds the words of keys that nobody configured.
use crate::home::Secret;
use crate::time::Time;
use alloc::boxed::Box;
use core::hash::Hasher;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// `burst` at once, then `burst` in each `per`, evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many at once; 0 refuses all.
    pub burst: u32,
    /// In which time as many come back.
    pub per: Duration,
}

impl Rate {
    /// Nanoseconds in which one comes back.
    fn interval(&self) -> u64 {
        let per = u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX);
        (per / u64::from(self.burst.max(1))).max(1)
    }
}

/// What the bucket says; the numbers are those of the `X-RateLimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Granted {
        /// The rate's burst.
        limit: u32,
        /// How many more would be granted at once.
        remaining: u32,
        /// When all of them are back.
        reset_after: Duration,
    },
    /// Not now.
    Refused {
        /// The rate's burst.
        limit: u32,
        /// When one would be granted.
        retry_after: Duration,
        /// When all of them are back.
        reset_after: Duration,
    },
}

impl Verdict {
    /// Is it a grant?
    #[must_use]
    pub const fn is_granted(&self) -> bool {
        matches!(self, Self::Granted { .. })
    }
}

/// By how much the times of two cores may differ: each reads its clock once a turn of its loop.
const SKEW_MAX: Duration = Duration::from_millis(20);

/// Takes one from the bucket in `cell`, which begins as 0.
///
/// Who comes by a core whose time is behind is not refused for it, nor told of one less: a grant may be early by the
/// skew, or by half of what one costs if that is less.
///
/// The loop ends: each time that another thread is faster it took one, so after `burst` rounds this one is refused.
pub fn take(cell: &AtomicU64, now: Time, rate: &Rate) -> Verdict {
    let limit = rate.burst;
    let interval = rate.interval();
    let full = interval.saturating_mul(u64::from(limit));
    let skew = u64::try_from(SKEW_MAX.as_nanos()).unwrap_or(u64::MAX).min(interval / 2);
    let room = if limit == 0 { 0 } else { full.saturating_add(skew) };
    let mut seen = cell.load(Ordering::Acquire);
    loop {
        // A smaller rate may have come with a reload: what an old, larger one owed is not held against the key.
        let owed = seen.saturating_sub(now.0).min(full);
        let owes = owed.saturating_add(interval);
        if room < owes {
            let (retry_after, reset_after) = (Duration::from_nanos(owes - full), Duration::from_nanos(owed));
            return Verdict::Refused { limit, retry_after, reset_after };
        }
        let paid_at = now.0.saturating_add(owes);
        match cell.compare_exchange_weak(seen, paid_at, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                let remaining = u32::try_from((room - owes) / interval).unwrap_or(u32::MAX);
                return Verdict::Granted { limit, remaining, reset_after: Duration::from_nanos(owes) };
            }
            Err(other) => seen = other,
        }
    }
}

/// Buckets of keys that come and go (addresses): a fixed number of cells, nothing is ever allocated for a key.
///
/// Each key has two cells and pays in both; it is refused only if both refuse. So a key alone gets its rate (several
/// threads that take the last one at the same moment may each find another of the two cells ready), and one that shares
/// a cell with a greedy one is refused only if its other cell is shared with a greedy one too.
#[derive(Debug)]
pub struct Table {
    cells: Box<[AtomicU64]>,
    secret: Secret,
}

impl Table {
    /// A table of `cells` cells (at least 2), 8 bytes each. Keys are spread by the secret.
    #[must_use]
    pub fn new(cells: usize, secret: Secret) -> Self {
        Self { cells: (0..cells.max(2)).map(|_| AtomicU64::new(0)).collect(), secret }
    }

    /// Takes one for this key.
    pub fn take(&self, key: &[u8], now: Time, rate: &Rate) -> Verdict {
        let [first, second] = self.choices(key).map(|cell| take(cell, now, rate));
        match (first, second) {
            (Verdict::Granted { remaining: a, .. }, Verdict::Granted { remaining: b, .. }) => {
                if b < a {
                    first
                } else {
                    second
                }
            }
            (Verdict::Granted { .. }, Verdict::Refused { .. }) => first,
            (Verdict::Refused { .. }, Verdict::Granted { .. }) => second,
            (Verdict::Refused { retry_after: a, .. }, Verdict::Refused { retry_after: b, .. }) => {
                if a < b {
                    first
                } else {
                    second
                }
            }
        }
    }

    /// Two different cells.
    fn choices(&self, key: &[u8]) -> [&AtomicU64; 2] {
        let mut hasher = self.secret.hasher();
        hasher.write(key);
        let hash = hasher.finish();
        let count = self.cells.len();
        let scaled = |half: u64, range: usize| ((half & 0xFFFF_FFFF) as usize).wrapping_mul(range) >> 32;
        let first = scaled(hash, count);
        let second = (first + 1 + scaled(hash >> 32, count - 1)) % count;
        [&self.cells[first], &self.cells[second]]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const RATE: Rate = Rate { burst: 4, per: Duration::from_secs(2) };

    fn granted(remaining: u32, reset_millis: u64) -> Verdict {
        Verdict::Granted { limit: 4, remaining, reset_after: Duration::from_millis(reset_millis) }
    }

    fn refused(retry_millis: u64, reset_millis: u64) -> Verdict {
        Verdict::Refused {
            limit: 4,
            retry_after: Duration::from_millis(retry_millis),
            reset_after: Duration::from_millis(reset_millis),
        }
    }

    #[test]
    fn burst_then_evenly() {
        let cell = AtomicU64::new(0);
        let table = [
            (1_000, granted(3, 500)),
            (1_000, granted(2, 1_000)),
            (1_000, granted(1, 1_500)),
            (1_000, granted(0, 2_000)),
            (1_000, refused(500, 2_000)),
            (1_470, refused(30, 1_530)),
            (1_500, granted(0, 2_000)),
            (1_500, refused(500, 2_000)),
            (9_000, granted(3, 500)),
        ];
        for (millis, expected) in table {
            assert_eq!(take(&cell, Time::from_millis(millis), &RATE), expected, "at {millis}");
        }
    }

    /// Two cores granted the same number, and none the next, because one of them had read its clock a little earlier.
    #[test]
    fn cores_whose_times_differ_count_alike() {
        let cell = AtomicU64::new(0);
        let left =
            [1_000, 985, 1_000, 981].map(|millis| match take(&cell, Time::from_millis(millis), &RATE) {
                Verdict::Granted { remaining, .. } => Some(remaining),
                Verdict::Refused { .. } => None,
            });
        assert_eq!(left, [Some(3), Some(2), Some(1), Some(0)]);
        for millis in [981, 1_000, 1_019] {
            assert!(!take(&cell, Time::from_millis(millis), &RATE).is_granted(), "at {millis}");
        }
    }

    #[test]
    fn odd_rates_are_total() {
        let cell = AtomicU64::new(0);
        assert!(!take(&cell, Time::ZERO, &Rate { burst: 0, per: Duration::from_secs(1) }).is_granted());
        assert!(take(&cell, Time::ZERO, &Rate { burst: 1, per: Duration::ZERO }).is_granted());
        assert!(take(&AtomicU64::new(u64::MAX), Time(u64::MAX), &RATE).is_granted());
        let endless = Rate { burst: u32::MAX, per: Duration::MAX };
        assert!(take(&AtomicU64::new(0), Time::ZERO, &endless).is_granted());
    }

    #[test]
    fn a_smaller_rate_forgives_what_a_larger_one_owed() {
        let cell = AtomicU64::new(0);
        let large = Rate { burst: 2, per: Duration::from_secs(3_600) };
        while take(&cell, Time::ZERO, &large).is_granted() {}
        let now = Time::from_millis(500);
        assert_eq!(take(&cell, now, &RATE), refused(500, 2_000));
    }

    /// Grants in any window of `per` never exceed twice the burst, and over a long time come to the rate.
    #[test]
    fn grants_add_up_under_any_interleaving() {
        for seed in 0..64_u64 {
            let cell = AtomicU64::new(0);
            let mut random = crate::random::Random::new(seed);
            let (mut now, mut grants) = (0_u64, 0_u64);
            let end = 200_000;
            while now < end {
                now += random.below(300);
                for _ in 0..random.below(5) {
                    grants += u64::from(take(&cell, Time::from_millis(now), &RATE).is_granted());
                }
            }
            assert!(grants <= 4 + now / 500, "{grants} in {now} ms");
            assert!(now / 500 * 8 / 10 <= grants, "{grants} in {now} ms");
        }
    }

    #[test]
    fn a_key_alone_gets_exactly_its_rate_in_a_table() {
        let table = Table::new(64, Secret([5, 6]));
        let grants = (0..10).filter(|_| table.take(b"one", Time::ZERO, &RATE).is_granted()).count();
        assert_eq!(grants, 4);
    }

    #[test]
    fn a_greedy_key_hardly_hurts_others() {
        let table = Table::new(1_024, Secret([5, 6]));
        for _ in 0..10_000 {
            table.take(b"greedy", Time::ZERO, &RATE);
        }
        let refused = (0..100_u32).filter(|n| !table.take(&n.to_le_bytes(), Time::ZERO, &RATE).is_granted());
        assert_eq!(refused.count(), 0);
    }

    #[test]
    fn the_smallest_table_works() {
        let table = Table::new(0, Secret([1, 1]));
        assert!(table.take(b"a", Time::ZERO, &RATE).is_granted());
    }
}
