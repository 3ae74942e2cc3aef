//! Which event ids were seen: the keyed hashes of its conversation and of each id for as long as configured, exactly as
//! long as there are no more of them than configured. Memory follows what is remembered, in blocks that are used again.
//!
//! What has to go before its time is not forgotten where the store has it: the filter says which ids
//! *may* have been seen, and for those the store is asked (see `lookup`). An id that the store has not confirmed
//! stays, whatever the bound: nobody else knows it. The ids of messages that nobody was promised an answer to are not in
//! the store, and go.
use crate::filter::Filter;
use crate::home::Secret;
use crate::index::Index;
use crate::time::Time;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::hash::Hasher;
use core::time::Duration;

/// Entries of a block.
const BLOCK: usize = 256;

/// What is remembered of an id: the hash of its conversation, which says where it lives, and its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark([u64; 2]);

impl Mark {
    pub(crate) const fn words(self) -> [u64; 2] {
        self.0
    }

    pub(crate) const fn from_words(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The mark of an event id in a conversation.
    pub(crate) fn new(secret: &Secret, session: u64, id: &str) -> Self {
        let mut hasher = secret.hasher();
        hasher.write_u64(session);
        hasher.write(id.as_bytes());
        Self([session, hasher.finish()])
    }

    /// As [`Self::new`], of one of the accounts that share the conversation.
    pub(crate) fn of_account(secret: &Secret, session: u64, account: u64, id: &str) -> Self {
        let mut hasher = secret.hasher();
        hasher.write_u64(session);
        hasher.write_u64(account);
        hasher.write(id.as_bytes());
        Self([session, hasher.finish()])
    }

    /// What it is found under.
    pub(crate) const fn hash(self) -> u64 {
        self.0[1]
    }
}

/// The mark of a message's event id, for whoever keeps it beyond this process. Its first word is the conversation's
/// hash, and so says on which shard it is asked for.
#[must_use]
pub fn mark(secret: &Secret, session: u64, id: &str) -> [u64; 2] {
    Mark::new(secret, session, id).words()
}

/// Older ids that are noted in so many bytes of one shard.
#[must_use]
pub const fn older_ids_max(bytes_max: usize) -> usize {
    Filter::<At>::ids_max(bytes_max)
}

/// A point in time of this run or of an earlier one: nanoseconds from [`Time::ZERO`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(i64);

impl At {
    pub(crate) fn now(now: Time) -> Self {
        Self(i64::try_from(now.0).unwrap_or(i64::MAX))
    }

    /// A time of the system's clock; `unix_micros` is what it showed at [`Time::ZERO`].
    pub(crate) fn unix(unix_millis: u64, unix_micros: u64) -> Self {
        let nanos = |n: u64, of: i64| i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(of);
        Self(nanos(unix_millis, 1_000_000).saturating_sub(nanos(unix_micros, 1_000)))
    }

    /// Is that less than `age_max` ago? What is still to come, because a clock was set back, is.
    pub(crate) fn is_fresh(self, now: Self, age_max: Duration) -> bool {
        let age = u64::try_from(now.0.saturating_sub(self.0)).unwrap_or(0);
        Duration::from_nanos(age) < age_max
    }
}

/// How much is remembered, of one shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) age_max: Duration,
    pub(crate) ids_max: u32,
    pub(crate) filter_bytes_max: usize,
    /// The first record of the journal that the store has not confirmed all of.
    pub(crate) unsaved_from: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    mark: Mark,
    /// The last bit says whether the store has it, or will.
    at: i64,
}

impl Seen {
    const fn new(mark: Mark, at: At) -> Self {
        Self { mark, at: at.0 & !1 }
    }

    const fn at(self) -> At {
        At(self.at & !1)
    }

    const fn is_kept(self) -> bool {
        self.at & 1 == 1
    }
}

/// The ids seen by one shard.
#[derive(Debug)]
pub(crate) struct Dedup {
    blocks: VecDeque<Box<[Seen; BLOCK]>>,
    spare: Option<Box<[Seen; BLOCK]>>,
    /// Number of the oldest entry, and of the next one. They count on for ever, modulo 2^32; the first block begins
    /// at the largest multiple of [`BLOCK`] up to `oldest`.
    oldest: u32,
    next: u32,
    index: Index,
    /// Entries by number that the store may not have, and the records that say them.
    unsaved: VecDeque<(u32, u64)>,
    filter: Filter<At>,
    /// The latest id that is known to the store alone.
    gone: Option<At>,
    /// What the store has from before this is not known here yet.
    untold: Option<At>,
    /// Entries that had to go before their time.
    evicted: u64,
}

impl Dedup {
    pub(crate) const fn new() -> Self {
        Self {
            blocks: VecDeque::new(),
            spare: None,
            oldest: 0,
            next: 0,
            index: Index::new(),
            unsaved: VecDeque::new(),
            filter: Filter::new(),
            gone: None,
            untold: None,
            evicted: 0,
        }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.next.wrapping_sub(self.oldest)
    }

    /// Ids in the filter.
    pub(crate) fn filtered(&self) -> usize {
        self.filter.len()
    }

    /// Entries that had to go before their time.
    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }

    fn at(&self, number: u32) -> Option<&Seen> {
        let offset = number.wrapping_sub(self.oldest) as usize + self.oldest as usize % BLOCK;
        Some(&self.blocks.get(offset / BLOCK)?[offset % BLOCK])
    }

    /// Was this one remembered, and not longer ago than `age_max`?
    pub(crate) fn knows(&self, mark: Mark, now: Time, age_max: Duration) -> bool {
        let now = At::now(now);
        let is = |number| {
            self.at(number).is_some_and(|seen| seen.mark == mark && seen.at().is_fresh(now, age_max))
        };
        self.index.find(mark.hash(), is).is_some()
    }

    /// May the store know ids that are not known here?
    #[inline]
    pub(crate) fn has_gaps(&self) -> bool {
        self.gone.is_some() || self.untold.is_some() || !self.filter.is_empty()
    }

    /// May the store know this one, which is not known here?
    pub(crate) fn is_in_doubt(&self, mark: Mark, now: Time, age_max: Duration) -> bool {
        let now = At::now(now);
        let missing = self.gone.max(self.untold);
        missing.is_some_and(|missing| missing.is_fresh(now, age_max))
            || self.filter.has(mark.hash(), |at| !at.is_fresh(now, age_max))
    }

    /// What the store has from before this must be asked for; `None`: all of it is known here.
    pub(crate) const fn is_untold(&mut self, before: Option<At>) {
        self.untold = before;
    }

    /// Remembers one that is not known, and lets the oldest ones beyond the share go.
    pub(crate) fn remember(&mut self, mark: Mark, at: At, now: Time, share: &Share) {
        self.forget(At::now(now), share);
        if share.ids_max == 0 {
            return;
        }
        let offset = self.len() as usize + self.oldest as usize % BLOCK;
        if offset / BLOCK == self.blocks.len() {
            let block = self.spare.take().unwrap_or_else(|| Box::new([Seen::default(); BLOCK]));
            self.blocks.push_back(block);
        }
        if let Some(block) = self.blocks.back_mut() {
            block[offset % BLOCK] = Seen::new(mark, at);
        }
        self.index.insert(mark.hash(), self.next);
        self.next = self.next.wrapping_add(1);
    }

    /// The one that was remembered last is in this record of the journal, and so will be in the store; 0: it is there.
    pub(crate) fn is_kept(&mut self, mark: Mark, lsn: u64, unsaved_from: Option<u64>) {
        let last = self.next.wrapping_sub(1);
        let offset = self.len().wrapping_sub(1) as usize + self.oldest as usize % BLOCK;
        let Some(block) = self.blocks.get_mut(offset / BLOCK).filter(|_| self.oldest != self.next) else {
            return;
        };
        let seen = &mut block[offset % BLOCK];
        if seen.mark != mark {
            return;
        }
        seen.at |= 1;
        if lsn == 0 {
            return;
        }
        while self.unsaved.pop_front_if(|(_, lsn)| unsaved_from.is_none_or(|from| *lsn < from)).is_some() {}
        self.unsaved.push_back((last, lsn));
    }

    /// The id is told by another record of the journal, because the first one was lost.
    pub(crate) fn is_moved(&mut self, from: u64, to: u64) {
        self.unsaved.iter_mut().filter(|(_, lsn)| *lsn == from).for_each(|(_, lsn)| *lsn = to);
    }

    /// Takes in one of an earlier run that there is no room for: the store has it.
    pub(crate) fn remember_older(&mut self, mark: Mark, at: At, share: &Share) {
        let gone = self.filter.insert(mark.hash(), at, share.filter_bytes_max);
        self.gone = self.gone.max(gone);
    }

    fn forget(&mut self, now: At, share: &Share) {
        let keep = share.ids_max.saturating_sub(1);
        while self.len() != 0
            && let Some(&seen) = self.at(self.oldest)
        {
            if seen.at().is_fresh(now, share.age_max) && !self.may_evict(seen, keep, share) {
                break;
            }
            let _ = self.unsaved.pop_front_if(|(number, _)| *number == self.oldest);
            self.index.remove(seen.mark.hash(), self.oldest);
            self.oldest = self.oldest.wrapping_add(1);
            if (self.oldest as usize).is_multiple_of(BLOCK) {
                self.spare = self.blocks.pop_front();
            }
        }
        if self.has_gaps() {
            let is_old = |at: At| !at.is_fresh(now, share.age_max);
            self.filter.forget(is_old);
            self.gone = self.gone.filter(|at| !is_old(*at));
            self.untold = self.untold.filter(|at| !is_old(*at));
        }
    }

    /// Must the oldest entry go before its time, and may it? It leaves its bits then.
    fn may_evict(&mut self, seen: Seen, keep: u32, share: &Share) -> bool {
        if self.len() <= keep {
            return false;
        }
        let waits = self.unsaved.front().filter(|(number, _)| *number == self.oldest);
        if waits.is_some_and(|(_, lsn)| share.unsaved_from.is_some_and(|from| from <= *lsn)) {
            return false;
        }
        self.evicted += 1;
        if seen.is_kept() {
            self.remember_older(seen.mark, seen.at(), share);
        }
        true
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.index.len(), self.len() as usize, "each id remembered is found");
        assert!(self.unsaved.len() <= self.len() as usize, "no more wait for the store than there are");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    const AGE: Duration = Duration::from_secs(60);

    const fn share(ids_max: u32) -> Share {
        Share { age_max: AGE, ids_max, filter_bytes_max: 0, unsaved_from: None }
    }

    fn mark(n: u64) -> Mark {
        Mark::new(&Secret([1, 2]), n % 3, &n.to_string())
    }

    fn see(dedup: &mut Dedup, n: u64, now: Time, share: &Share) {
        dedup.remember(mark(n), At::now(now), now, share);
    }

    #[test]
    fn the_same_id_in_another_session_is_another() {
        assert_ne!(Mark::new(&Secret([1, 2]), 1, "7"), Mark::new(&Secret([1, 2]), 2, "7"));
    }

    #[test]
    fn forgets_by_age_and_by_number() {
        let mut dedup = Dedup::new();
        for n in 0..10 {
            see(&mut dedup, n, Time::from_millis(n * 1_000), &share(4));
        }
        let now = Time::from_millis(9_000);
        assert_eq!(
            (5..10).map(|n| dedup.knows(mark(n), now, AGE)).collect::<Vec<_>>(),
            [false, true, true, true, true]
        );
        let later = now + AGE;
        assert!(!dedup.knows(mark(9), later, AGE));
        see(&mut dedup, 9, later, &share(4));
        assert!(dedup.knows(mark(9), later, AGE));
        assert_eq!((dedup.len(), dedup.evicted(), dedup.has_gaps()), (1, 6, false));
        see(&mut dedup, 10, later, &share(0));
        assert_eq!(dedup.len(), 0);
    }

    #[test]
    fn times_of_earlier_runs_count_and_those_to_come_are_fresh() {
        let (start, now) = (1_790_000_000_000_000, At::now(Time::from_millis(10_000)));
        let at = |before: u64| At::unix(1_790_000_000_000 + 10_000 - before, start);
        assert_eq!(at(0), now);
        assert!(at(59_999).is_fresh(now, AGE) && !at(60_000).is_fresh(now, AGE));
        assert!(At::unix(1_790_009_999_000, start).is_fresh(now, AGE), "the clock was set back");
        assert!(!At::unix(0, start).is_fresh(now, AGE));
        assert!(At::unix(u64::MAX, 0).is_fresh(now, AGE) && !At::unix(0, u64::MAX).is_fresh(now, AGE));
    }

    #[test]
    fn what_the_store_has_not_confirmed_stays_and_what_it_has_is_asked_for() {
        let mut dedup = Dedup::new();
        let now = Time::from_millis(1_000);
        let wide = Share { filter_bytes_max: 4_096, unsaved_from: Some(3), ..share(2) };
        for n in 1..=6 {
            see(&mut dedup, n, now, &wide);
            dedup.is_kept(mark(n), n, wide.unsaved_from);
        }
        // 1 and 2 are in the store; the others are not, and stay beyond the bound.
        let known = |dedup: &Dedup| (1..=8).filter(|n| dedup.knows(mark(*n), now, AGE)).collect::<Vec<_>>();
        assert_eq!(known(&dedup), [3, 4, 5, 6]);
        let doubted = |dedup: &Dedup| (1..=8).filter(|n| dedup.is_in_doubt(mark(*n), now, AGE)).count();
        assert!(dedup.has_gaps() && 2 <= doubted(&dedup));
        assert!(dedup.is_in_doubt(mark(1), now, AGE) && dedup.is_in_doubt(mark(2), now, AGE));
        // One that is in no record goes without a trace, but not past one that waits for the store.
        see(&mut dedup, 7, now, &wide);
        assert_eq!(known(&dedup), [3, 4, 5, 6, 7]);
        see(&mut dedup, 8, now, &Share { unsaved_from: None, ..wide });
        assert_eq!((known(&dedup), dedup.filtered()), (alloc::vec![7, 8], 6));
        dedup.check();
        let later = now + AGE;
        see(&mut dedup, 9, later, &wide);
        assert!(!dedup.has_gaps() && dedup.len() == 1, "all of it is too old");
    }

    #[test]
    fn an_id_whose_record_was_lost_waits_for_the_one_that_tells_it_again() {
        let (mut dedup, now) = (Dedup::new(), Time::from_millis(1_000));
        let saved_below = |lsn| Share { unsaved_from: Some(lsn), ..share(1) };
        see(&mut dedup, 1, now, &saved_below(3));
        dedup.is_kept(mark(1), 3, Some(3));
        dedup.is_moved(3, 9);
        see(&mut dedup, 2, now, &saved_below(9));
        assert!(dedup.knows(mark(1), now, AGE), "the store has not heard of it");
        see(&mut dedup, 3, now, &saved_below(10));
        assert!(!dedup.knows(mark(1), now, AGE));
    }

    #[test]
    fn where_ids_are_missing_each_is_in_doubt_until_they_are_too_old() {
        let mut dedup = Dedup::new();
        let now = Time::from_millis(1_000);
        dedup.is_untold(Some(At::now(now)));
        assert!(dedup.has_gaps() && dedup.is_in_doubt(mark(1), now, AGE));
        assert!(!dedup.is_in_doubt(mark(1), now + AGE, AGE));
        dedup.is_untold(None);
        assert!(!dedup.has_gaps());
        // No room for a filter.
        for n in 1..=3 {
            see(&mut dedup, n, now, &share(1));
            dedup.is_kept(mark(n), 0, None);
        }
        assert!(dedup.is_in_doubt(mark(77), now, AGE));
        see(&mut dedup, 4, now + AGE, &share(1));
        assert!(!dedup.has_gaps());
    }

    #[test]
    fn agrees_with_a_list_over_many_blocks_and_the_end_of_the_numbers() {
        let mut dedup = Dedup { oldest: u32::MAX - 300, next: u32::MAX - 300, ..Dedup::new() };
        let (mut random, mut model) = (Random::new(3), Vec::<(u64, u64)>::new());
        let mut now = 0;
        for n in 0..5_000_u64 {
            now += random.below(100);
            let id = random.below(4_000);
            let at = Time::from_millis(now);
            let known = model.iter().any(|entry| entry.0 == id && now - entry.1 < 60_000);
            assert_eq!(dedup.knows(mark(id), at, AGE), known, "step {n}");
            if !known {
                see(&mut dedup, id, at, &share(900));
                model.push((id, now));
                let excess = model.len().saturating_sub(900);
                model.drain(..excess);
            }
            model.retain(|entry| now - entry.1 < 60_000);
            dedup.check();
        }
        assert!(dedup.blocks.len() <= 5);
    }

    #[test]
    fn no_id_of_its_time_is_ever_taken_for_new_without_a_doubt() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let (mut dedup, mut store) = (Dedup::new(), Vec::<(u64, u64)>::new());
            let (mut now, mut lsn, mut confirmed) = (0, 0, 0_usize);
            for n in 0..3_000_u64 {
                now += random.below(60);
                let (id, at) = (random.below(3_000), Time::from_millis(now));
                confirmed += random.below(4) as usize;
                confirmed = confirmed.min(store.len());
                let unsaved_from = (confirmed < store.len()).then_some(confirmed as u64 + 1);
                let wide = Share { filter_bytes_max: 2_048, unsaved_from, ..share(50) };
                let was = store.iter().position(|(other, since)| *other == id && now - since < 60_000);
                let known = dedup.knows(mark(id), at, AGE);
                assert!(!known || was.is_some(), "seed {seed}, step {n}: it is new");
                if let Some(place) = was {
                    let doubt = dedup.is_in_doubt(mark(id), at, AGE) && place < confirmed;
                    assert!(known || doubt, "seed {seed}, step {n}: the store is asked, and knows it");
                } else {
                    lsn += 1;
                    see(&mut dedup, id, at, &wide);
                    dedup.is_kept(mark(id), lsn, unsaved_from);
                    store.push((id, now));
                }
                dedup.check();
            }
            assert!(dedup.evicted() != 0);
        }
    }
}
