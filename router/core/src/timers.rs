//! Timers: due times in order, thousands of them, set and dropped on every message.
//!
//! A hierarchical timing wheel (Varghese and Lauck 1987, scheme 6) with ticks of one millisecond and 64 slots a level.
//! A level holds what differs from the wheel's time first in its own six bits, so that a slot is never passed twice,
//! the next slot is one bit scan away, and a clock that jumps by hours costs no more than the timers that it fires.
//! Setting and cancelling are a few writes, and allocate only while there are more timers than there ever were.
use crate::time::Time;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bits of a due time that a level looks at.
const BITS: u32 = 6;
/// Slots of a level.
const SLOTS: usize = 1 << BITS;
/// Levels: 48 bits of milliseconds, more than a [`Time`] holds.
const LEVELS: usize = 8;
/// The list of those that were due when they were set, beside the slots.
const OVERDUE: usize = LEVELS * SLOTS;
/// No entry.
const NONE: u32 = u32::MAX;

/// Names a timer that was set; dead once it fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    /// The name of no timer.
    pub const NONE: Self = Self { slot: u32::MAX, generation: 0 };
}

#[derive(Debug)]
struct Entry<K> {
    /// `None` while the entry is free; then `next` chains the free ones.
    item: Option<K>,
    /// The tick at which it fires.
    due: u64,
    generation: u32,
    previous: u32,
    next: u32,
    /// The list that it is in.
    list: u16,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

/// Timers that carry a `K` each.
#[derive(Debug)]
pub struct Timers<K> {
    entries: Vec<Entry<K>>,
    free: u32,
    len: usize,
    /// The tick up to which all has fired.
    elapsed: u64,
    /// Which slots of each level hold something.
    occupied: [u64; LEVELS],
    lists: Box<[Ends; OVERDUE + 1]>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Timers<K> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        let lists = Box::new([Ends { first: NONE, last: NONE }; OVERDUE + 1]);
        Self { entries: Vec::new(), free: NONE, len: 0, elapsed: 0, occupied: [0; LEVELS], lists }
    }

    /// Sets a timer. It fires at the first whole millisecond that is not before `at`.
    pub fn insert(&mut self, at: Time, item: K) -> Key {
        // The last millisecond of time is not whole; what is due in it fires as it begins.
        let due = at.0.div_ceil(1_000_000).min(Time(u64::MAX).as_millis());
        let slot = self.entry(item, due);
        self.place(slot, due);
        self.len += 1;
        Key { slot, generation: self.entries[slot as usize].generation }
    }

    /// Drops a timer and returns what it carried; `None` if it has fired or was cancelled.
    pub fn cancel(&mut self, key: Key) -> Option<K> {
        if !self.holds(key) {
            return None;
        }
        self.unlink(key.slot);
        self.release(key.slot)
    }

    /// Is this timer still to fire?
    #[must_use]
    pub fn holds(&self, key: Key) -> bool {
        self.entries
            .get(key.slot as usize)
            .is_some_and(|entry| entry.generation == key.generation && entry.item.is_some())
    }

    /// Fires what is due, the earlier first; among those of one millisecond in no certain order.
    pub fn expire(&mut self, now: Time, mut fire: impl FnMut(K)) {
        let now = now.as_millis();
        self.fire_list(OVERDUE, &mut fire);
        while let Some((level, slot, at)) = self.next_slot() {
            if now < at {
                break;
            }
            self.elapsed = at;
            if level == 0 {
                self.fire_list(slot, &mut fire);
            } else {
                self.spread(level, slot);
                self.fire_list(OVERDUE, &mut fire);
            }
        }
        // No slot up to `now` is occupied, so all stay at the level where they are.
        self.elapsed = self.elapsed.max(now);
    }

    /// When to call [`Self::expire`] next: never later than the first timer (it may be earlier, then nothing fires),
    /// `None` without any.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        if self.len == 0 {
            return None;
        }
        if self.lists[OVERDUE].first != NONE {
            return Some(Time::from_millis(self.elapsed));
        }
        self.next_slot().map(|(_, _, at)| Time::from_millis(at))
    }

    /// How many are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Is none set?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first occupied slot: level, slot in it, and the tick at which it begins. Lower levels come first, because
    /// what is in them agrees with the wheel's time in more leading bits.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = BITS * u32::try_from(level).unwrap_or(0);
        let above = self.elapsed >> shift >> BITS << BITS << shift;
        Some((level, slot, above | (slot as u64) << shift))
    }

    /// Moves what is in a slot of a higher level, whose time has come, to where it belongs by now.
    fn spread(&mut self, level: usize, slot: usize) {
        let list = level * SLOTS + slot;
        while self.lists[list].first != NONE {
            let entry = self.lists[list].first;
            self.unlink(entry);
            self.place(entry, self.entries[entry as usize].due);
        }
    }

    fn fire_list(&mut self, list: usize, fire: &mut impl FnMut(K)) {
        while self.lists[list].first != NONE {
            let entry = self.lists[list].first;
            self.unlink(entry);
            if let Some(item) = self.release(entry) {
                fire(item);
            }
        }
    }

    /// Puts an entry into the list where its due time belongs.
    fn place(&mut self, slot: u32, due: u64) {
        let list = if due <= self.elapsed {
            OVERDUE
        } else {
            let level = ((63 - (due ^ self.elapsed).leading_zeros()) / BITS) as usize;
            let at = (due >> (BITS as usize * level)) as usize % SLOTS;
            self.occupied[level] |= 1 << at;
            level * SLOTS + at
        };
        let last = self.lists[list].last;
        let entry = &mut self.entries[slot as usize];
        (entry.previous, entry.next) = (last, NONE);
        entry.list = u16::try_from(list).unwrap_or(0);
        match self.entries.get_mut(last as usize) {
            Some(before) => before.next = slot,
            None => self.lists[list].first = slot,
        }
        self.lists[list].last = slot;
    }

    fn unlink(&mut self, slot: u32) {
        let entry = &self.entries[slot as usize];
        let (previous, next, list) = (entry.previous, entry.next, usize::from(entry.list));
        match self.entries.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.lists[list].first = next,
        }
        match self.entries.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.lists[list].last = previous,
        }
        if self.lists[list].first == NONE && list < OVERDUE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    /// A fresh or free entry with this in it.
    fn entry(&mut self, item: K, due: u64) -> u32 {
        let Some(entry) = self.entries.get_mut(self.free as usize) else {
            let slot = u32::try_from(self.entries.len()).unwrap_or(NONE);
            let entry = Entry { item: Some(item), due, generation: 1, previous: NONE, next: NONE, list: 0 };
            self.entries.push(entry);
            return slot;
        };
        let slot = self.free;
        self.free = entry.next;
        (entry.item, entry.due) = (Some(item), due);
        slot
    }

    /// Frees an entry that is in no list.
    fn release(&mut self, slot: u32) -> Option<K> {
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        entry.next = self.free;
        self.free = slot;
        self.len -= 1;
        entry.item.take()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Random;
    use alloc::vec;

    fn fired(timers: &mut Timers<u64>, millis: u64) -> Vec<u64> {
        let mut list = Vec::new();
        timers.expire(Time::from_millis(millis), |item| list.push(item));
        list
    }

    #[test]
    fn never_early_and_at_the_millisecond() {
        let mut timers = Timers::new();
        timers.insert(Time(1_000_001), 2);
        timers.insert(Time(1_000_000), 1);
        timers.insert(Time::ZERO, 0);
        assert_eq!(timers.next(), Some(Time::ZERO));
        assert_eq!(fired(&mut timers, 0), vec![0]);
        assert_eq!(timers.next(), Some(Time::from_millis(1)));
        assert_eq!(fired(&mut timers, 1), vec![1]);
        assert_eq!(fired(&mut timers, 2), vec![2]);
        assert_eq!((timers.next(), timers.is_empty()), (None, true));
    }

    #[test]
    fn keys_die() {
        let mut timers = Timers::new();
        let key = timers.insert(Time::from_millis(100), 1);
        assert!(timers.holds(key) && !timers.holds(Key::NONE));
        assert_eq!((timers.cancel(key), timers.cancel(key), timers.holds(key)), (Some(1), None, false));
        let again = timers.insert(Time::from_millis(100), 2);
        assert_ne!(key, again);
        assert_eq!(timers.cancel(key), None);
        assert_eq!(fired(&mut timers, 100), vec![2]);
        assert_eq!(timers.cancel(again), None);
    }

    #[test]
    fn the_end_of_time_is_a_time() {
        let mut timers = Timers::new();
        timers.insert(Time(u64::MAX), 1);
        timers.insert(Time(u64::MAX - 2_000_000), 2);
        assert_eq!(fired(&mut timers, 1 << 40), vec![]);
        let end = Time(u64::MAX).as_millis();
        assert_eq!(fired(&mut timers, end - 1), vec![2]);
        assert_eq!(fired(&mut timers, end), vec![1]);
    }

    /// Against a sorted list: sets, cancels, small steps and jumps by hours.
    #[test]
    fn agrees_with_a_sorted_list() {
        for seed in 0..64 {
            let mut random = Random::new(seed);
            let (mut timers, mut model) = (Timers::new(), Vec::<(u64, u64, Key)>::new());
            let mut now = random.below(1 << 30);
            timers.expire(Time::from_millis(now), |_: u64| panic!("nothing was set"));
            for id in 0..2_000 {
                let before = now;
                match random.below(10) {
                    0..=4 => {
                        let reach = 1 << random.below(26);
                        let due = (now + random.below(reach)).saturating_sub(random.below(3));
                        let key = timers.insert(Time::from_millis(due), id);
                        model.push((due, id, key));
                    }
                    5 | 6 if !model.is_empty() => {
                        let place = usize::try_from(random.below(model.len() as u64)).unwrap();
                        let (_, id, key) = model.swap_remove(place);
                        assert_eq!(timers.cancel(key), Some(id));
                    }
                    7 if id % 50 == 0 => now += random.below(20_000_000),
                    _ => {
                        if let Some(next) = timers.next() {
                            let earliest = model.iter().map(|entry| entry.0).min().unwrap();
                            assert!(
                                next.as_millis() <= earliest.max(now),
                                "seed {seed}: {next:?} {earliest}"
                            );
                            if random.below(2) == 0 {
                                now = now.max(next.as_millis());
                            }
                        }
                        now += random.below(40);
                    }
                }
                let mut out = Vec::new();
                timers.expire(Time::from_millis(now), |item| out.push(item));
                let mut due: Vec<_> = model.iter().filter(|entry| entry.0 <= now).copied().collect();
                model.retain(|entry| now < entry.0);
                assert!(due.iter().all(|entry| !timers.holds(entry.2)));
                let in_order: Vec<u64> =
                    out.iter().map(|id| due.iter().find(|entry| entry.1 == *id).unwrap().0).collect();
                // What was overdue when it was set comes before the rest.
                let on_time = in_order.iter().filter(|&&at| before < at);
                assert!(on_time.is_sorted(), "seed {seed}: {in_order:?}");
                out.sort_unstable();
                due.sort_unstable_by_key(|entry| entry.1);
                assert_eq!(out, due.iter().map(|entry| entry.1).collect::<Vec<_>>(), "seed {seed} at {now}");
                assert_eq!(timers.len(), model.len());
            }
        }
    }
}
