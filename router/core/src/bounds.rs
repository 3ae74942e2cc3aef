//! Limits that hold for the whole process, over all shards: sessions, turns, and for each agent and model what waits
//! and what runs.
//!
//! Nothing is shared on the message path, with this one exception, and it is kept narrow. A limit over all shards
//! needs a count over all shards; to give every shard a fixed share would refuse work on a busy shard while its
//! neighbours are empty, and a limit of 4 has no shares on 8 shards. So each count is one atomic word on a cache line
//! of its own, owned by this file, taken by compare-and-swap and never beyond its maximum. A large limit is leased by
//! the shards in blocks, so that a shard touches the shared line once in up to 64 messages; a small one is exact to the
//! unit. No limit (0) touches nothing. There is no lock, and no thread ever waits for another.
//!
//! **Waiting for a place.** A shard that finds no place at an agent sets its bit in the agent's set of waiting shards
//! and *then tries again*; whoever frees a place *gives it back and then looks* at the set. Both are sequentially
//! consistent, so either the one sees the place or the other sees the bit: no wake-up is lost. The one who frees hands
//! on round robin, beginning after itself, and takes the bit away with it, so that two freed places wake two shards.
//! A shard that is woken but cannot use the place (its turns need a model that is full) says so, and wakes the next one
//! as long as there seems to be a place; it is woken again for the next one that is freed. So a freed place goes round
//! once at most, and reaches all who wait.
//! Shards keep at most an eighth of a leased limit in reserve: where a shard found none, some are in use, and
//! whoever gives one of those back looks.
//!
//! Agents and models are known here by their names' hashes, not by their ids, which may move with a reload.
use crate::home::Secret;
use crate::id::ShardId;
use crate::plan::Plan;
use crate::quota::Quota;
use alloc::boxed::Box;
use core::hash::Hasher;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A counter alone on its cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Count(AtomicU32);

impl Count {
    /// Takes up to `want`, never beyond `max` in all; returns how many.
    fn take(&self, want: u32, max: u32) -> u32 {
        let mut seen = self.0.load(Ordering::SeqCst);
        loop {
            let got = want.min(max.saturating_sub(seen));
            if got == 0 {
                return 0;
            }
            // Each failure is another shard's success or return: the loop of one is the progress of another.
            match self.0.compare_exchange_weak(seen, seen + got, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return got,
                Err(other) => seen = other,
            }
        }
    }

    pub(crate) fn give(&self, count: u32) {
        let before = self.0.fetch_sub(count, Ordering::SeqCst);
        debug_assert!(count <= before, "given back more than was taken");
    }

    /// Adds what is there already, when a limit begins to be counted; it may be more than the maximum.
    pub(crate) fn adopt(&self, count: u32) {
        self.0.fetch_add(count, Ordering::SeqCst);
    }

    /// Is anything counted? In the one order of all that is counted here; [`Self::read`] may lag behind.
    pub(crate) fn is_some(&self) -> bool {
        self.0.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn read(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One shard's part of a limit: what it has taken from the shared count, and how much of that it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    /// 0 for no limit; then nothing is held.
    max: u32,
    /// How much is taken at a time.
    block: u32,
    held: u32,
    used: u32,
    /// More may be taken than a smaller limit that came with a reload: nothing is kept in reserve until it is not.
    over: bool,
}

impl Lease {
    pub(crate) const fn new(max: u32, shards: u16) -> Self {
        Self { max, block: block(max, shards), held: 0, used: 0, over: false }
    }

    /// In use on this shard.
    pub(crate) const fn used(&self) -> u32 {
        self.used
    }

    /// Is there a limit?
    pub(crate) const fn is_bounded(&self) -> bool {
        self.max != 0
    }

    /// Does it look as if the limit were reached?
    pub(crate) fn is_taken(&self, count: &Count) -> bool {
        self.is_bounded() && self.held <= self.used && self.max <= count.0.load(Ordering::SeqCst)
    }

    /// Takes one; false if the limit is reached.
    pub(crate) fn take(&mut self, count: &Count) -> bool {
        if self.is_bounded() && self.held <= self.used {
            self.held += count.take(self.block, self.max);
            if self.held <= self.used {
                return false;
            }
        }
        self.used += 1;
        true
    }

    /// Takes one even beyond the limit: for what was promised before this limit was. Nothing more is taken until what is
    /// used is within it again.
    pub(crate) fn force(&mut self, count: &Count) {
        if self.take(count) {
            return;
        }
        (self.held, self.over) = (self.held + 1, true);
        count.adopt(1);
        self.used += 1;
    }

    /// Gives one back.
    pub(crate) fn give(&mut self, count: &Count) {
        debug_assert!(0 < self.used, "given back more than was taken");
        self.used = self.used.saturating_sub(1);
        if self.over && self.is_bounded() {
            self.give_spare(count);
            self.over = self.max < count.0.load(Ordering::SeqCst);
            return;
        }
        let spare = self.held.saturating_sub(self.used);
        let kept = if self.block == 1 { 0 } else { self.block };
        // Two blocks to spare before one goes back, so that no shard goes to and fro over the edge of a block.
        if self.is_bounded() && kept + self.block <= spare {
            self.held -= self.block;
            count.give(self.block);
        }
    }

    /// Gives back all that is not in use: another shard waits for it.
    pub(crate) fn give_spare(&mut self, count: &Count) {
        let spare = self.held.saturating_sub(self.used);
        if spare != 0 {
            self.held -= spare;
            count.give(spare);
        }
    }

    /// Another shard went on under another limit. What it had in use without one may be more than is left: then nothing
    /// is kept in reserve here either.
    pub(crate) fn renew(&mut self, count: &Count) {
        self.give_spare(count);
        self.over |= self.is_bounded() && self.max < count.0.load(Ordering::SeqCst);
    }

    /// Goes on under another limit. What is in use stays in use, even beyond a smaller one.
    pub(crate) fn set_max(&mut self, max: u32, shards: u16, count: &Count) {
        if !self.is_bounded() && max != 0 {
            self.held = self.used;
            count.adopt(self.held);
        } else if self.is_bounded() && max == 0 {
            count.give(self.held);
            self.held = 0;
        } else {
            self.give_spare(count);
        }
        self.over = max != 0 && (self.over || self.max == 0 || max < self.max);
        (self.max, self.block) = (max, block(max, shards));
    }

    pub(crate) fn check(&self) {
        if self.is_bounded() {
            assert!(self.used <= self.held, "used beyond the lease: {self:?}");
        } else {
            assert!(self.held == 0, "leased without a limit: {self:?}");
        }
    }
}

/// How many units of a limit a shard takes at once: a 16th of its share, so that all reserves are at most an eighth
/// of the limit; one by one where that is less than two.
const fn block(max: u32, shards: u16) -> u32 {
    let parts = if shards == 0 { 16 } else { shards as u32 * 16 };
    let share = max / parts;
    if share < 1 {
        1
    } else if 64 < share {
        64
    } else {
        share
    }
}

/// What all shards count for one agent.
#[derive(Debug)]
pub(crate) struct AgentCounts {
    /// Hash of the agent's name; 0 of a free entry.
    name: AtomicU64,
    pub(crate) waiting: Count,
    pub(crate) running: Count,
    /// Turns that have a place at the agent and wait for one at a model.
    pub(crate) resumed: Count,
    /// A bit for each shard that waits for a place and should be woken.
    waiters: Box<[AtomicU64]>,
    /// A bit for each shard that waits and was woken in vain since the last place was freed.
    tried: Box<[AtomicU64]>,
}

/// What all shards count for one model.
#[derive(Debug)]
pub(crate) struct ModelCounts {
    name: AtomicU64,
    pub(crate) running: Count,
    /// Calls of this minute.
    pub(crate) requests: Quota,
    /// Tokens of this minute.
    pub(crate) tokens: Quota,
}

/// The counters behind the process-wide limits, shared by all shards. It lives as long as the process: a new
/// configuration finds the counters of its agents and models by their names.
#[derive(Debug)]
pub struct Bounds {
    shards: u16,
    /// How often a shard took on another plan. Read with each event, written at reloads only.
    renewals: AtomicU32,
    pub(crate) sessions: Count,
    pub(crate) turns: Count,
    agents: Box<[AgentCounts]>,
    models: Box<[ModelCounts]>,
}

impl Bounds {
    /// Counters for this plan and this many shards. There is room for four times as many agents and models as the plan
    /// has (at least 64), for reloads; should that run out, two names share a counter, each with its own limit.
    #[must_use]
    pub fn new(plan: &Plan, shards: u16) -> Self {
        let shards = shards.max(1);
        let room = |count: usize| (count * 4).max(64);
        let words = usize::from(shards).div_ceil(64);
        let agent = |_| AgentCounts {
            name: AtomicU64::new(0),
            waiting: Count::default(),
            running: Count::default(),
            resumed: Count::default(),
            waiters: bits(words),
            tried: bits(words),
        };
        let model = |_| ModelCounts {
            name: AtomicU64::new(0),
            running: Count::default(),
            requests: Quota::default(),
            tokens: Quota::default(),
        };
        Self {
            shards,
            renewals: AtomicU32::new(0),
            sessions: Count::default(),
            turns: Count::default(),
            agents: (0..room(plan.agents.len())).map(agent).collect(),
            models: (0..room(plan.models.len())).map(model).collect(),
        }
    }

    /// The number of shards that share them.
    #[must_use]
    pub const fn shards(&self) -> u16 {
        self.shards
    }

    /// Sessions of all shards, with those that shards hold in reserve; 0 where there is no limit.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.sessions.read()
    }

    /// Turns of all shards, with those that shards hold in reserve; 0 where there is no limit.
    #[must_use]
    pub fn turns(&self) -> u32 {
        self.turns.read()
    }

    /// Waiting and running turns of the agent of this name over all shards, with reserves; 0 where there is no limit.
    #[must_use]
    pub fn agent(&self, name: &str) -> (u32, u32) {
        let counts = self.agent_at(self.agent_seat(name));
        (counts.waiting.read(), counts.running.read())
    }

    /// Running calls of the model of this name over all shards, with reserves; 0 where there is no limit.
    #[must_use]
    pub fn model(&self, name: &str) -> u32 {
        self.model_at(self.model_seat(name)).running.read()
    }

    /// A shard took on another plan, and its leases the limits of that.
    pub(crate) fn renew(&self) {
        self.renewals.fetch_add(1, Ordering::SeqCst);
    }

    /// Changes whenever a shard took on another plan: what is counted may be beyond the limits from here on, and what
    /// the others hold in reserve must go back.
    pub(crate) fn renewals(&self) -> u32 {
        self.renewals.load(Ordering::Relaxed)
    }

    /// Where the agent of this name is counted. The same for every shard.
    pub(crate) fn agent_seat(&self, name: &str) -> usize {
        seat(self.agents.len(), name, |n| &self.agents[n].name)
    }

    /// Where the model of this name is counted. The same for every shard.
    pub(crate) fn model_seat(&self, name: &str) -> usize {
        seat(self.models.len(), name, |n| &self.models[n].name)
    }

    pub(crate) fn agent_at(&self, seat: usize) -> &AgentCounts {
        &self.agents[seat]
    }

    pub(crate) fn model_at(&self, seat: usize) -> &ModelCounts {
        &self.models[seat]
    }
}

/// Finds the entry of a name, or claims a free one.
fn seat<'a>(count: usize, name: &str, at: impl Fn(usize) -> &'a AtomicU64) -> usize {
    let mut hasher = Secret([0, 0]).hasher();
    hasher.write(name.as_bytes());
    let hash = hasher.finish().max(1);
    let first = usize::try_from(hash % count as u64).unwrap_or(0);
    for n in 0..count {
        let seat = (first + n) % count;
        match at(seat).compare_exchange(0, hash, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return seat,
            Err(other) if other == hash => return seat,
            Err(_) => {}
        }
    }
    first
}

fn bits(words: usize) -> Box<[AtomicU64]> {
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

impl AgentCounts {
    /// Says that this shard waits. The caller tries again after this.
    pub(crate) fn announce(&self, shard: ShardId) {
        let (word, bit) = bit_of(shard);
        if let Some(word) = self.waiters.get(word) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Says that this shard still waits, but was woken in vain: the next place, not this one. The caller tries again
    /// after this.
    pub(crate) fn announce_tried(&self, shard: ShardId) {
        let (word, bit) = bit_of(shard);
        if let Some(word) = self.tried.get(word) {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Says that this shard waits no longer.
    pub(crate) fn withdraw(&self, shard: ShardId) {
        let (word, bit) = bit_of(shard);
        for set in [&self.waiters, &self.tried] {
            if let Some(word) = set.get(word) {
                word.fetch_and(!bit, Ordering::SeqCst);
            }
        }
    }

    /// Is this shard's bit set? If it was announced and is not, somebody took it away and owes a nudge.
    pub(crate) fn is_announced(&self, shard: ShardId) -> bool {
        let (word, bit) = bit_of(shard);
        let is_set =
            |set: &[AtomicU64]| set.get(word).is_some_and(|word| word.load(Ordering::SeqCst) & bit != 0);
        is_set(&self.tried) || is_set(&self.waiters)
    }

    /// How many shards wait, for an estimate.
    pub(crate) fn waiting_shards(&self) -> u32 {
        let words = self.waiters.iter().zip(&self.tried);
        let set = |(waiters, tried): (&AtomicU64, &AtomicU64)| {
            waiters.load(Ordering::Relaxed) | tried.load(Ordering::Relaxed)
        };
        words.map(|both| set(both).count_ones()).sum()
    }

    /// Does any shard wait? Asked after a place was given back. A bit that is being recalled may be in neither set: then
    /// whoever recalls it looks for a waiter after this, and that one finds this place too.
    pub(crate) fn is_awaited(&self) -> bool {
        let mut words = self.waiters.iter().zip(&self.tried);
        words.any(|(waiters, tried)| tried.load(Ordering::SeqCst) != 0 || waiters.load(Ordering::SeqCst) != 0)
    }

    /// A place was given back: those who were woken in vain should be woken again. The caller looks for the next waiter
    /// after this.
    ///
    /// The bits are taken out first. Were they set among the waiters before they are cleared here, a shard could be woken
    /// by another in between and set its bit here anew, which the clearing would then take away: it would wait, and
    /// nobody would know.
    pub(crate) fn recall(&self) {
        for (waiters, tried) in self.waiters.iter().zip(&self.tried) {
            if tried.load(Ordering::SeqCst) != 0 {
                waiters.fetch_or(tried.swap(0, Ordering::SeqCst), Ordering::SeqCst);
            }
        }
    }

    /// Which shard a freed place goes to: the first that waits, beginning after `from`, which comes last. The bit of
    /// another is taken away, so that no two places wake the same one; that of `from` stays. Called after the place was
    /// given back.
    pub(crate) fn next_waiter(&self, from: ShardId) -> Option<ShardId> {
        let count = self.waiters.len();
        let (home, own) = bit_of(from);
        let after = !(own | (own - 1));
        // The home word is looked at twice: above the own bit first, at and below it at the end.
        for n in 0..=count {
            let at = (home + n) % count;
            let mask = if n == 0 {
                after
            } else if n == count {
                !after
            } else {
                u64::MAX
            };
            loop {
                let set = self.waiters[at].load(Ordering::SeqCst) & mask;
                if set == 0 {
                    break;
                }
                let last_resort = n == count && set == own;
                if last_resort {
                    return Some(from);
                }
                let set = if n == count { set & !own } else { set };
                let bit = set & set.wrapping_neg();
                if self.waiters[at].fetch_and(!bit, Ordering::SeqCst) & bit != 0 {
                    let number = at * 64 + bit.trailing_zeros() as usize;
                    return u16::try_from(number).ok().map(ShardId);
                }
            }
        }
        None
    }
}

const fn bit_of(shard: ShardId) -> (usize, u64) {
    (shard.0 as usize / 64, 1 << (shard.0 % 64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Random;
    use alloc::vec::Vec;

    fn counts(shards: usize) -> AgentCounts {
        AgentCounts {
            name: AtomicU64::new(1),
            waiting: Count::default(),
            running: Count::default(),
            resumed: Count::default(),
            waiters: bits(shards.div_ceil(64)),
            tried: bits(shards.div_ceil(64)),
        }
    }

    #[test]
    fn small_limits_are_exact_to_the_unit() {
        let count = Count::default();
        let mut leases = [Lease::new(3, 2), Lease::new(3, 2)];
        let [one, two] = &mut leases;
        assert!(one.take(&count) && two.take(&count) && one.take(&count));
        assert!(!one.take(&count) && !two.take(&count));
        one.give(&count);
        assert_eq!(count.read(), 2);
        assert!(two.take(&count) && !one.take(&count));
    }

    #[test]
    fn large_limits_are_taken_in_blocks_and_given_back() {
        let count = Count::default();
        let mut lease = Lease::new(10_000, 4);
        assert!(lease.take(&count));
        assert_eq!(count.read(), 64);
        for _ in 1..64 {
            assert!(lease.take(&count));
        }
        assert_eq!(count.read(), 64);
        assert!(lease.take(&count));
        assert_eq!(count.read(), 128);
        for _ in 0..65 {
            lease.give(&count);
        }
        assert_eq!(count.read(), 64);
        lease.give_spare(&count);
        assert_eq!(count.read(), 0);
    }

    #[test]
    fn no_limit_touches_nothing() {
        let count = Count::default();
        let mut lease = Lease::new(0, 4);
        for _ in 0..100 {
            assert!(lease.take(&count));
        }
        assert_eq!((count.read(), lease.used()), (0, 100));
        lease.set_max(50, 4, &count);
        assert_eq!(count.read(), 100);
        assert!(!lease.take(&count));
        lease.check();
        lease.set_max(0, 4, &count);
        assert_eq!(count.read(), 0);
        assert!(lease.take(&count));
        lease.check();
    }

    #[test]
    fn what_is_beyond_a_smaller_limit_is_not_taken_again() {
        let count = Count::default();
        let mut leases = [Lease::new(2_000, 2), Lease::new(2_000, 2)];
        for lease in &mut leases {
            for _ in 0..500 {
                assert!(lease.take(&count));
            }
            lease.set_max(600, 2, &count);
        }
        for _ in 0..400 {
            leases[0].give(&count);
            assert!(!leases[0].take(&count) && !leases[1].take(&count));
        }
        assert_eq!((count.read(), leases[0].used()), (600, 100));
        for _ in 0..2 * leases[0].block {
            leases[0].give(&count);
        }
        assert!(leases[1].take(&count));
    }

    /// Whatever shards do, the limit holds, reserves stay within an eighth, and in the end nothing is missing.
    #[test]
    fn shards_add_up() {
        for seed in 0..64 {
            let mut random = Random::new(seed);
            let shards = u16::try_from(1 + random.below(9)).unwrap();
            let max = u32::try_from(1 + random.below(3_000)).unwrap();
            let count = Count::default();
            let mut leases: Vec<Lease> = (0..shards).map(|_| Lease::new(max, shards)).collect();
            for _ in 0..4_000 {
                let lease = &mut leases[usize::try_from(random.below(u64::from(shards))).unwrap()];
                if random.below(5) < 3 {
                    let took = lease.take(&count);
                    let used: u32 = leases.iter().map(Lease::used).sum();
                    assert!(used <= max && used <= count.read());
                    assert!(took || max - max / 8 <= used, "refused at {used} of {max}");
                } else if 0 < lease.used() {
                    lease.give(&count);
                }
                leases.iter().for_each(Lease::check);
            }
            for lease in &mut leases {
                while 0 < lease.used() {
                    lease.give(&count);
                }
                lease.give_spare(&count);
            }
            assert_eq!(count.read(), 0, "seed {seed}");
        }
    }

    #[test]
    fn waiters_come_round_robin_after_the_one_who_frees() {
        let counts = counts(200);
        for shard in [3, 64, 130, 199] {
            counts.announce(ShardId(shard));
        }
        let next = |from| counts.next_waiter(ShardId(from)).map(|shard| shard.0);
        assert_eq!(next(64), Some(130));
        assert_eq!(next(199), Some(3));
        assert_eq!(next(64), Some(199));
        assert_eq!((next(64), next(64)), (Some(64), Some(64)), "its own bit stays");
        counts.withdraw(ShardId(64));
        assert_eq!((next(64), next(0)), (None, None));
    }

    #[test]
    fn the_shards_before_the_own_one_come_before_it() {
        let counts = counts(8);
        for shard in [1, 5, 7] {
            counts.announce(ShardId(shard));
        }
        let order: Vec<u16> = (0..3).map(|_| counts.next_waiter(ShardId(5)).unwrap().0).collect();
        assert_eq!(order, [7, 1, 5]);
        assert_eq!(counts.waiting_shards(), 1);
    }
}
