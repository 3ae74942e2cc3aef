//! Timers: due times in order, thousands of them, set and dropped on every message.
use crate::time::Time;
use alloc::vec::Vec;

/// Names a timer that was set; dead once it fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    slot: u32,
    generation: u32,
}

/// Timers that carry a `K` each.
#[derive(Debug)]
pub struct Timers<K> {
    list: Vec<(Time, Key, K)>,
    made: u32,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> Timers<K> {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: Vec::new(), made: 0 }
    }

    /// Sets a timer. It fires at the first whole millisecond that is not before `at`.
    pub fn insert(&mut self, at: Time, item: K) -> Key {
        self.made += 1;
        let key = Key { slot: self.made, generation: 1 };
        self.list.push((at, key, item));
        key
    }

    /// Drops a timer, if it has not fired.
    pub fn cancel(&mut self, key: Key) -> Option<K> {
        let place = self.list.iter().position(|entry| entry.1 == key)?;
        Some(self.list.swap_remove(place).2)
    }

    /// Is this timer still to fire?
    #[must_use]
    pub fn holds(&self, key: Key) -> bool {
        self.list.iter().any(|entry| entry.1 == key)
    }

    /// Fires what is due.
    pub fn expire(&mut self, now: Time, mut fire: impl FnMut(K)) {
        while let Some(place) = self.list.iter().position(|entry| entry.0 <= now) {
            fire(self.list.swap_remove(place).2);
        }
    }

    /// When to call [`Self::expire`] next: never later than the first timer, `None` without any.
    #[must_use]
    pub fn next(&self) -> Option<Time> {
        self.list.iter().map(|entry| entry.0).min()
    }

    /// How many are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Is none set?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
