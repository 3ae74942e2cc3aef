//! Which event ids were seen: the keyed hashes of its conversation and of each id for as long as configured, and no more
//! of them than configured; the oldest goes first. Memory follows what is remembered, in blocks that are used again.
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

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    mark: Mark,
    at: Time,
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
}

impl Dedup {
    pub(crate) const fn new() -> Self {
        Self { blocks: VecDeque::new(), spare: None, oldest: 0, next: 0, index: Index::new() }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.next.wrapping_sub(self.oldest)
    }

    fn at(&self, number: u32) -> Option<&Seen> {
        let offset = number.wrapping_sub(self.oldest) as usize + self.oldest as usize % BLOCK;
        Some(&self.blocks.get(offset / BLOCK)?[offset % BLOCK])
    }

    /// Was this one remembered, and not longer ago than `age_max`?
    pub(crate) fn knows(&self, mark: Mark, now: Time, age_max: Duration) -> bool {
        let is =
            |number| self.at(number).is_some_and(|seen| seen.mark == mark && now.since(seen.at) < age_max);
        self.index.find(mark.hash(), is).is_some()
    }

    /// Remembers one that is not known, and forgets the oldest ones beyond `age_max` and `ids_max`.
    pub(crate) fn remember(&mut self, mark: Mark, now: Time, age_max: Duration, ids_max: u32) {
        self.forget(now, age_max, ids_max.saturating_sub(1));
        if ids_max == 0 {
            return;
        }
        let offset = self.len() as usize + self.oldest as usize % BLOCK;
        if offset / BLOCK == self.blocks.len() {
            let block = self.spare.take().unwrap_or_else(|| Box::new([Seen::default(); BLOCK]));
            self.blocks.push_back(block);
        }
        if let Some(block) = self.blocks.back_mut() {
            block[offset % BLOCK] = Seen { mark, at: now };
        }
        self.index.insert(mark.hash(), self.next);
        self.next = self.next.wrapping_add(1);
    }

    fn forget(&mut self, now: Time, age_max: Duration, keep: u32) {
        while let Some(&seen) = self.at(self.oldest) {
            let fresh = now.since(seen.at) < age_max && self.len() <= keep;
            if self.len() == 0 || fresh {
                break;
            }
            self.index.remove(seen.mark.hash(), self.oldest);
            self.oldest = self.oldest.wrapping_add(1);
            if (self.oldest as usize).is_multiple_of(BLOCK) {
                self.spare = self.blocks.pop_front();
            }
        }
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.index.len(), self.len() as usize, "each id remembered is found");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    const AGE: Duration = Duration::from_secs(60);

    fn mark(n: u64) -> Mark {
        Mark::new(&Secret([1, 2]), n % 3, &n.to_string())
    }

    #[test]
    fn the_same_id_in_another_session_is_another() {
        assert_ne!(Mark::new(&Secret([1, 2]), 1, "7"), Mark::new(&Secret([1, 2]), 2, "7"));
    }

    #[test]
    fn forgets_by_age_and_by_number() {
        let mut dedup = Dedup::new();
        for n in 0..10 {
            dedup.remember(mark(n), Time::from_millis(n * 1_000), AGE, 4);
        }
        let now = Time::from_millis(9_000);
        assert_eq!(
            (5..10).map(|n| dedup.knows(mark(n), now, AGE)).collect::<Vec<_>>(),
            [false, true, true, true, true]
        );
        let later = now + AGE;
        assert!(!dedup.knows(mark(9), later, AGE));
        dedup.remember(mark(9), later, AGE, 4);
        assert!(dedup.knows(mark(9), later, AGE));
        assert_eq!(dedup.len(), 1);
        dedup.remember(mark(10), later, AGE, 0);
        assert_eq!(dedup.len(), 0);
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
                dedup.remember(mark(id), at, AGE, 900);
                model.push((id, now));
                let excess = model.len().saturating_sub(900);
                model.drain(..excess);
            }
            model.retain(|entry| now - entry.1 < 60_000);
            dedup.check();
        }
        assert!(dedup.blocks.len() <= 5);
    }
}
