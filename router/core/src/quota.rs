//! So many in each minute, of all shards: the requests and tokens that a model's provider grants. One atomic word each,
//! without a lock.
//!
//! The generic cell rate algorithm of [`crate::bucket`], where one thing may cost many, the price may be known only
//! afterwards, and whoever is refused waits and is told until when. A bucket holds a minute's worth, as those of the
//! providers do. What is charged afterwards may leave it in debt, up to one more minute.
use crate::time::Time;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

const MINUTE: u64 = 60_000_000_000;

/// The time at which the bucket is full again, nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Quota(AtomicU64);

/// What one costs, nanoseconds.
const fn interval(per_minute: u32) -> u64 {
    if per_minute == 0 { 0 } else { MINUTE / per_minute as u64 }
}

/// What so many cost. More than a minute's worth is taken from a full bucket.
fn price(per_minute: u32, count: u32) -> u64 {
    interval(per_minute).saturating_mul(u64::from(count)).min(MINUTE)
}

impl Quota {
    /// How long until so many are granted, if nobody takes any meanwhile; zero if they are. No limit (0) grants all.
    pub(crate) fn wait(&self, now: Time, per_minute: u32, count: u32) -> Duration {
        if per_minute == 0 {
            return Duration::ZERO;
        }
        let owed = self.0.load(Relaxed).saturating_sub(now.0);
        // A place far behind is several minutes away.
        let costs = interval(per_minute).saturating_mul(u64::from(count));
        Duration::from_nanos(owed.saturating_add(costs).saturating_sub(MINUTE))
    }

    /// Takes so many.
    ///
    /// # Errors
    /// How long until they may be granted.
    pub(crate) fn take(&self, now: Time, per_minute: u32, count: u32) -> Result<(), Duration> {
        if per_minute == 0 {
            return Ok(());
        }
        let price = price(per_minute, count);
        let grant = |full_at: u64| {
            let owes = full_at.saturating_sub(now.0).saturating_add(price);
            (owes <= MINUTE).then_some(now.0.saturating_add(owes))
        };
        match self.0.fetch_update(Relaxed, Relaxed, grant) {
            Ok(_) => Ok(()),
            Err(full_at) => {
                let owes = full_at.saturating_sub(now.0).saturating_add(price);
                Err(Duration::from_nanos(owes.saturating_sub(MINUTE).max(1)))
            }
        }
    }

    /// Takes so many for later, if they are granted within `most`: how long until then. Who asks after that is behind.
    ///
    /// # Errors
    /// How long it would be.
    pub(crate) fn book(
        &self,
        now: Time,
        per_minute: u32,
        count: u32,
        most: Duration,
    ) -> Result<Duration, Duration> {
        if per_minute == 0 {
            return Ok(Duration::ZERO);
        }
        let price = price(per_minute, count);
        let owes = |full_at: u64| full_at.saturating_sub(now.0).saturating_add(price);
        let wait = |full_at: u64| Duration::from_nanos(owes(full_at).saturating_sub(MINUTE));
        let grant = |full_at: u64| (wait(full_at) <= most).then(|| now.0.saturating_add(owes(full_at)));
        self.0.fetch_update(Relaxed, Relaxed, grant).map(wait).map_err(wait)
    }

    /// Gives back what was taken and not used.
    pub(crate) fn give(&self, per_minute: u32, count: u32) {
        let price = price(per_minute, count);
        let _ = self.0.fetch_update(Relaxed, Relaxed, |full_at| Some(full_at.saturating_sub(price)));
    }

    /// Takes what was used already, whatever is left.
    pub(crate) fn charge(&self, now: Time, per_minute: u32, count: u32) {
        if per_minute == 0 {
            return;
        }
        let price = price(per_minute, count);
        let pay = |full_at: u64| {
            let owes = full_at.saturating_sub(now.0).saturating_add(price).min(2 * MINUTE);
            Some(now.0.saturating_add(owes).max(full_at))
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, pay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1_000)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_minutes_worth_at_once_and_then_evenly() {
        let quota = Quota::default();
        assert_eq!((0..4).filter(|_| quota.take(at(100), 3, 1).is_ok()).count(), 3);
        assert_eq!(quota.take(at(100), 3, 1), Err(seconds(20)));
        assert_eq!(quota.wait(at(100), 3, 1), seconds(20));
        assert_eq!(quota.wait(at(100), 3, 6), seconds(120), "the sixth of those that wait");
        assert_eq!(quota.take(at(120), 3, 1), Ok(()));
        assert_eq!(quota.take(at(125), 3, 1), Err(seconds(15)));
        quota.give(3, 1);
        assert_eq!(quota.take(at(125), 3, 1), Ok(()));
        assert_eq!((0..4).filter(|_| quota.take(at(300), 3, 1).is_ok()).count(), 3, "full again");
    }

    #[test]
    fn no_limit_grants_all() {
        let quota = Quota::default();
        assert_eq!((quota.take(at(1), 0, u32::MAX), quota.wait(at(1), 0, 9)), (Ok(()), Duration::ZERO));
        quota.charge(at(1), 0, u32::MAX);
        assert_eq!(quota.take(at(1), 60, 60), Ok(()));
    }

    #[test]
    fn what_is_known_afterwards_is_charged_afterwards() {
        let quota = Quota::default();
        assert_eq!(quota.take(at(10), 6_000, 600), Ok(()));
        quota.charge(at(10), 6_000, 6_000);
        assert_eq!(quota.take(at(10), 6_000, 100), Err(seconds(7)));
        for _ in 0..9 {
            quota.charge(at(10), 6_000, 60_000);
        }
        assert_eq!(quota.wait(at(10), 6_000, 0), seconds(60), "the debt is bounded");
        // More than there ever is in the bucket is granted once it is full.
        let quota = Quota::default();
        assert_eq!(quota.take(at(10), 100, 5_000), Ok(()));
        assert_eq!(quota.take(at(10), 100, 5_000), Err(seconds(60)));
        assert_eq!(quota.take(at(70), 100, 5_000), Ok(()));
    }

    #[test]
    fn what_is_booked_is_granted_in_its_time_and_others_wait_behind() {
        let quota = Quota::default();
        assert_eq!(quota.book(at(10), 6, 4, Duration::ZERO), Ok(Duration::ZERO));
        assert_eq!(quota.book(at(10), 6, 4, seconds(19)), Err(seconds(20)));
        assert_eq!(quota.book(at(10), 6, 4, seconds(20)), Ok(seconds(20)), "a refusal takes nothing");
        assert_eq!(quota.take(at(10), 6, 1), Err(seconds(30)));
        assert_eq!(quota.take(at(40), 6, 1), Ok(()));
        quota.give(6, 3);
        assert_eq!(quota.book(at(40), 6, 3, Duration::ZERO), Ok(Duration::ZERO));
        assert_eq!(quota.book(at(40), 0, u32::MAX, Duration::ZERO), Ok(Duration::ZERO), "no limit");
    }

    /// In no time is more granted than the bucket held and what came back meanwhile, and who waits as told is granted.
    #[test]
    fn never_more_than_the_rate() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let per_minute = 1 + u32::try_from(random.below(500)).unwrap_or(0);
            let (quota, mut now, mut granted) = (Quota::default(), at(1_000), 0_u64);
            for _ in 0..500 {
                now = now + random.up_to(Duration::from_millis(900));
                let count = 1 + u32::try_from(random.below(u64::from(per_minute))).unwrap_or(0);
                match quota.take(now, per_minute, count) {
                    Ok(()) => granted += u64::from(count),
                    Err(wait) => {
                        now = now + wait;
                        assert_eq!(quota.take(now, per_minute, count), Ok(()), "seed {seed}");
                        granted += u64::from(count);
                    }
                }
                let passed = now.since(at(1_000)).as_nanos() / u128::from(interval(per_minute));
                assert!(u128::from(granted) <= u128::from(per_minute) + passed + 1, "seed {seed}");
            }
        }
    }
}
