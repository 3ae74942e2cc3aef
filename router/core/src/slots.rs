//! Things with names that die: a table of slots, each with the number of its tenant.
//!
//! Grows by chunks and never moves what it holds, so that a table of a million sessions has no moment in which all of
//! them are copied. Never gives memory back: what was needed once is kept for the next time.
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::array;

/// Items of a chunk.
const CHUNK: usize = 64;

/// No slot.
pub(crate) const NONE: u32 = u32::MAX;

/// A table of slots.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// Arrays, so that a place within one needs no check of its bounds.
    chunks: Vec<Box<[Slot<T>; CHUNK]>>,
    /// First slot of the chain of free ones.
    free: u32,
    len: u32,
}

#[derive(Debug)]
struct Slot<T> {
    /// Which tenant the slot has, or will have next. Never 0, so that no id of a tenant equals a default id.
    generation: u32,
    next_free: u32,
    item: Option<T>,
}

impl<T> Slots<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0 }
    }

    /// Puts an item into a free slot; returns the slot and its generation.
    pub(crate) fn insert(&mut self, item: T) -> (u32, u32) {
        if self.free == NONE {
            self.grow();
        }
        let number = self.free;
        let slot = &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK];
        self.free = slot.next_free;
        self.len += 1;
        slot.item = Some(item);
        (number, slot.generation)
    }

    /// One more chunk of free slots, of which the first is used first.
    #[cold]
    fn grow(&mut self) {
        let number = |at: usize| u32::try_from(at).unwrap_or(NONE);
        let first = self.chunks.len() * CHUNK;
        self.chunks.push(Box::new(array::from_fn(|at| {
            let next_free = if at + 1 < CHUNK { number(first + at + 1) } else { NONE };
            Slot { generation: 1, next_free, item: None }
        })));
        self.free = number(first);
    }

    fn slot(&self, number: u32) -> Option<&Slot<T>> {
        Some(&self.chunks.get(number as usize / CHUNK)?[number as usize % CHUNK])
    }

    fn slot_mut(&mut self, number: u32) -> Option<&mut Slot<T>> {
        Some(&mut self.chunks.get_mut(number as usize / CHUNK)?[number as usize % CHUNK])
    }

    /// The item of this slot, whoever it is.
    pub(crate) fn at(&self, number: u32) -> Option<&T> {
        self.slot(number)?.item.as_ref()
    }

    /// The item of this slot, whoever it is.
    pub(crate) fn at_mut(&mut self, number: u32) -> Option<&mut T> {
        self.slot_mut(number)?.item.as_mut()
    }

    /// The item of this slot if it is still the one of this generation.
    pub(crate) fn get(&self, number: u32, generation: u32) -> Option<&T> {
        let slot = self.slot(number)?;
        if slot.generation == generation { slot.item.as_ref() } else { None }
    }

    /// As [`Self::get`].
    pub(crate) fn get_mut(&mut self, number: u32, generation: u32) -> Option<&mut T> {
        let slot = self.slot_mut(number)?;
        if slot.generation == generation { slot.item.as_mut() } else { None }
    }

    /// The generation of the slot's tenant; 0 without one.
    pub(crate) fn generation(&self, number: u32) -> u32 {
        self.slot(number).map_or(0, |slot| if slot.item.is_some() { slot.generation } else { 0 })
    }

    /// Drops the item, in place; its generation is dead from here on.
    pub(crate) fn remove(&mut self, number: u32) {
        let free = self.free;
        let Some(slot) = self.slot_mut(number).filter(|slot| slot.item.is_some()) else { return };
        slot.item = None;
        slot.generation = slot.generation.checked_add(1).unwrap_or(1);
        slot.next_free = free;
        self.free = number;
        self.len -= 1;
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    /// All items with slot and generation, by slot, beginning at slot `from`.
    pub(crate) fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, u32, &T)> {
        let chunks = self.chunks.iter().enumerate().skip(from as usize / CHUNK);
        chunks
            .flat_map(|(n, chunk)| chunk.iter().enumerate().map(move |(at, slot)| (n * CHUNK + at, slot)))
            .skip_while(move |(number, _)| *number < from as usize)
            .filter_map(|(number, slot)| {
                Some((u32::try_from(number).unwrap_or(NONE), slot.generation, slot.item.as_ref()?))
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloc::vec;

    #[test]
    fn a_slot_is_used_again_under_another_generation() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        let other = slots.insert('b');
        assert_eq!((first, other), ((0, 1), (1, 1)));
        slots.remove(0);
        slots.remove(0);
        assert_eq!(slots.len(), 1);
        let second = slots.insert('c');
        assert_eq!(second, (0, 2));
        assert_eq!(slots.get(first.0, first.1), None);
        assert_eq!(slots.get(second.0, second.1), Some(&'c'));
        assert_eq!((slots.generation(0), slots.generation(9), slots.len()), (2, 0, 2));
        assert!(slots.get_mut(u32::MAX, 1).is_none() && slots.get_mut(0, 1).is_none());
    }

    #[test]
    fn pages_begin_anywhere() {
        let mut slots = Slots::new();
        for n in 0..200_u32 {
            slots.insert(n);
        }
        slots.remove(70);
        let page: Vec<u32> = slots.iter_from(69).map(|(_, _, item)| *item).take(3).collect();
        assert_eq!(page, vec![69, 71, 72]);
        assert_eq!(slots.iter_from(0).count(), 199);
        assert_eq!(slots.iter_from(200).count(), 0);
        assert_eq!(slots.iter_from(NONE).count(), 0);
    }
}
