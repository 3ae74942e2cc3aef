//! The turns that wait for a place at one agent, in three classes.
//!
//! Deficit round robin (Shreedhar and Varghese 1995) where each turn costs one: in a round a class may start as many
//! turns as its weight says, 1, 4 and 16. So no class starves, and an empty one leaves its share to the others.
//! Within a class it is first come, first served; inside a session order is kept elsewhere, because a session has one
//! turn here at most.
use crate::event::Class;
use crate::list::{Linked, List};
use crate::slots::Slots;

/// Turns of each class in a round, by [`Class`].
pub const WEIGHTS: [u8; 3] = [1, 4, 16];

/// The waiting turns of one agent on one shard.
#[derive(Debug)]
pub(crate) struct Queue {
    classes: [List; 3],
    /// What is left to each class in this round.
    credits: [u8; 3],
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self { classes: [const { List::new() }; 3], credits: WEIGHTS }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.classes.iter().all(List::is_empty)
    }

    /// How many wait, by class.
    pub(crate) fn lens(&self) -> [u32; 3] {
        [self.classes[0].len(), self.classes[1].len(), self.classes[2].len()]
    }

    pub(crate) fn push<T: Linked>(&mut self, of: &mut Slots<T>, slot: u32, class: Class) {
        self.classes[class as usize].push_back(of, slot);
    }

    /// Whose turn it is. Asking again gives the same answer until it is taken.
    pub(crate) fn first(&mut self) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        // High classes first; once those that wait have nothing left, a new round begins for all.
        let next =
            |queue: &Self| (0..3).rev().find(|&n| 0 < queue.credits[n] && !queue.classes[n].is_empty());
        if next(self).is_none() {
            self.credits = WEIGHTS;
        }
        next(self).map(|class| self.classes[class].head())
    }

    /// Takes out the one whose turn it was.
    pub(crate) fn take<T: Linked>(&mut self, of: &mut Slots<T>, slot: u32, class: Class) {
        self.remove(of, slot, class);
        self.credits[class as usize] = self.credits[class as usize].saturating_sub(1);
    }

    /// Takes out one that waits no longer, wherever it stands.
    pub(crate) fn remove<T: Linked>(&mut self, of: &mut Slots<T>, slot: u32, class: Class) {
        self.classes[class as usize].remove(of, slot);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::list::Link;
    use alloc::vec::Vec;

    #[derive(Clone, Copy, Debug)]
    struct Item {
        link: Link,
        class: Class,
        number: u32,
    }

    impl Linked for Item {
        fn link(&mut self) -> &mut Link {
            &mut self.link
        }
    }

    struct Bench {
        of: Slots<Item>,
        queue: Queue,
        made: u32,
    }

    impl Bench {
        const fn new() -> Self {
            Self { of: Slots::new(), queue: Queue::new(), made: 0 }
        }

        fn push(&mut self, class: Class) -> u32 {
            self.made += 1;
            let (slot, _) = self.of.insert(Item { link: Link::NONE, class, number: self.made });
            self.queue.push(&mut self.of, slot, class);
            slot
        }

        fn take(&mut self) -> Option<Item> {
            let slot = self.queue.first()?;
            assert_eq!(self.queue.first(), Some(slot), "asking changes nothing");
            let class = self.of.at(slot).unwrap().class;
            self.queue.take(&mut self.of, slot, class);
            let item = *self.of.at(slot).unwrap();
            self.of.remove(slot);
            Some(item)
        }
    }

    #[test]
    fn none_starves_and_shares_are_as_weighted() {
        let mut bench = Bench::new();
        for class in [Class::Low, Class::Normal, Class::Vip] {
            for _ in 0..210 {
                bench.push(class);
            }
        }
        let mut counts = [0; 3];
        for _ in 0..210 {
            counts[bench.take().unwrap().class as usize] += 1;
        }
        assert_eq!(counts, [10, 40, 160]);
    }

    #[test]
    fn an_empty_class_leaves_its_share() {
        let mut bench = Bench::new();
        for _ in 0..5 {
            bench.push(Class::Low);
        }
        bench.push(Class::Normal);
        let order: Vec<u32> = core::iter::from_fn(|| bench.take().map(|item| item.number)).collect();
        assert_eq!(order, [6, 1, 2, 3, 4, 5]);
        assert!(bench.queue.is_empty());
    }

    #[test]
    fn first_come_first_served_in_a_class_even_if_some_leave() {
        let mut bench = Bench::new();
        let slots: Vec<u32> = (0..6).map(|_| bench.push(Class::Vip)).collect();
        for &slot in &slots[1..3] {
            bench.queue.remove(&mut bench.of, slot, Class::Vip);
            bench.of.remove(slot);
        }
        bench.push(Class::Vip);
        let order: Vec<u32> = core::iter::from_fn(|| bench.take().map(|item| item.number)).collect();
        assert_eq!(order, [1, 4, 5, 6, 7]);
        assert_eq!(bench.queue.lens(), [0, 0, 0]);
    }
}
