//! What a key has used of its day, shared by all cores and all configurations of the process, and what it may.
use super::{Day, day_of, until_tomorrow};
use crate::clock::unix_seconds;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bits of a count; those above hold the day.
const COUNT_BITS: u32 = 40;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// A count of one day, which is nothing on any other. One word, so that no day's end loses a count and nobody locks.
#[derive(Debug, Default)]
pub(crate) struct DayCount(AtomicU64);

/// The low bits of a day: days that far apart do not meet.
const fn tag(day: Day) -> u64 {
    (day as u64 & 0xFF_FFFF) << COUNT_BITS
}

impl DayCount {
    /// Adds to a day's count. What is of an earlier day than the one that is counted is too late.
    pub(crate) fn add(&self, day: Day, count: u64) {
        let next = |word: u64| match word & !COUNT_MAX {
            same if same == tag(day) => Some(same | (word & COUNT_MAX).saturating_add(count).min(COUNT_MAX)),
            other if tag(day) < other => None,
            _ => Some(tag(day) | count.min(COUNT_MAX)),
        };
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// Takes one if there are fewer than `max`.
    fn take(&self, day: Day, max: u64) -> bool {
        let next = |word: u64| {
            let used = if word & !COUNT_MAX == tag(day) { word & COUNT_MAX } else { 0 };
            (used < max.min(COUNT_MAX)).then(|| tag(day) | (used + 1))
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
    }

    /// The day's count.
    pub(crate) fn read(&self, day: Day) -> u64 {
        let word = self.0.load(Ordering::Acquire);
        if word & !COUNT_MAX == tag(day) { word & COUNT_MAX } else { 0 }
    }
}

/// One key's account.
#[derive(Debug)]
pub(crate) struct Account {
    /// The key's name.
    pub(crate) key: Box<str>,
    pub(crate) requests: DayCount,
    pub(crate) tokens: DayCount,
}

impl Account {
    pub(crate) fn new(key: &str) -> Arc<Self> {
        Arc::new(Self { key: key.into(), requests: DayCount::default(), tokens: DayCount::default() })
    }
}

/// What a key may use in a day, in UTC; 0 for no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
}

impl Budget {
    /// Takes one request from it, if there is anything left.
    ///
    /// # Errors
    /// It is used up: milliseconds until it is filled again.
    pub(crate) fn take(&self, account: &Account) -> Result<(), u32> {
        if *self == Self::default() {
            return Ok(());
        }
        let now = unix_seconds();
        let max = if self.requests == 0 { u64::MAX } else { self.requests };
        if self.has_tokens(account, now) && account.requests.take(day_of(now), max) {
            return Ok(());
        }
        Err(u32::try_from(until_tomorrow(now) * 1_000).unwrap_or(u32::MAX))
    }

    /// May a request that was let in use more?
    ///
    /// # Errors
    /// Its tokens are used up: how long until they are filled again.
    pub(crate) fn goes_on(&self, account: &Account) -> Result<(), Duration> {
        let now = unix_seconds();
        if self.has_tokens(account, now) { Ok(()) } else { Err(Duration::from_secs(until_tomorrow(now))) }
    }

    fn has_tokens(&self, account: &Account, unix_seconds: u64) -> bool {
        self.tokens == 0 || account.tokens.read(day_of(unix_seconds)) < self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_of_one_day() {
        let count = DayCount::default();
        count.add(7, 5);
        count.add(7, 6);
        assert_eq!((count.read(7), count.read(8)), (11, 0));
        count.add(8, 1);
        count.add(7, 100);
        assert_eq!((count.read(7), count.read(8)), (0, 1));
        count.add(8, u64::MAX);
        count.add(8, u64::MAX);
        assert_eq!(count.read(8), COUNT_MAX);
        assert!(!count.take(8, u64::MAX));
        assert!(count.take(9, 2) && count.take(9, 2) && !count.take(9, 2));
        assert_eq!(count.read(9), 2);
    }

    #[test]
    fn a_budget_is_taken_to_its_end() {
        let account = Account::new("ana");
        assert_eq!(Budget::default().take(&account), Ok(()));
        let budget = Budget { requests: 2, tokens: 0 };
        assert_eq!((budget.take(&account), budget.take(&account)), (Ok(()), Ok(())));
        assert!(budget.take(&account).is_err_and(|wait| (1..=86_400_000).contains(&wait)));
        let budget = Budget { requests: 0, tokens: 10 };
        account.tokens.add(day_of(unix_seconds()), 9);
        assert_eq!(budget.take(&account), Ok(()), "one token is left: the turn may use more");
        assert_eq!(budget.goes_on(&account), Ok(()));
        account.tokens.add(day_of(unix_seconds()), 9);
        assert!(budget.take(&account).is_err());
        assert!(budget.goes_on(&account).is_err_and(|wait| (1..=86_400).contains(&wait.as_secs())));
        let requests = Budget { requests: 1, tokens: 0 };
        assert_eq!(requests.goes_on(&account), Ok(()), "it was let in");
    }

    /// Many threads at once: exactly as many are let in as the budget says.
    #[test]
    fn a_budget_holds_over_threads() {
        let account = Account::new("ana");
        let budget = Budget { requests: 1_000, tokens: 0 };
        let granted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).filter(|_| budget.take(&account).is_ok()).count()))
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).sum()
        });
        assert_eq!(granted, 1_000);
    }
}
