//! Lists whose links lie in the listed items themselves: no memory of their own, and an item leaves from the middle
//! as fast as from an end. A client that leaves while it waits costs nothing and leaves nothing behind.
use crate::slots::{NONE, Slots};

/// An item's neighbours in the one list that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    previous: u32,
    next: u32,
}

impl Link {
    pub(crate) const NONE: Self = Self { previous: NONE, next: NONE };

    pub(crate) const fn next(self) -> u32 {
        self.next
    }

    pub(crate) const fn previous(self) -> u32 {
        self.previous
    }
}

/// What can be in a list.
pub(crate) trait Linked {
    fn link(&mut self) -> &mut Link;
}

/// A list of slots. An item is in one list at most; the caller knows in which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    pub(crate) const fn new() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }

    /// The first slot; [`NONE`] of an empty list.
    pub(crate) const fn head(&self) -> u32 {
        self.head
    }

    /// The last slot; [`NONE`] of an empty list.
    pub(crate) const fn tail(&self) -> u32 {
        self.tail
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push_back<T: Linked>(&mut self, of: &mut Slots<T>, slot: u32) {
        link(of, slot, Link { previous: self.tail, next: NONE });
        match of.at_mut(self.tail) {
            Some(tail) => tail.link().next = slot,
            None => self.head = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    pub(crate) fn remove<T: Linked>(&mut self, of: &mut Slots<T>, slot: u32) {
        let Some(item) = of.at_mut(slot) else { return };
        let gone = core::mem::replace(item.link(), Link::NONE);
        match of.at_mut(gone.previous) {
            Some(previous) => previous.link().next = gone.next,
            None => self.head = gone.next,
        }
        match of.at_mut(gone.next) {
            Some(next) => next.link().previous = gone.previous,
            None => self.tail = gone.previous,
        }
        self.len -= 1;
    }

    pub(crate) fn pop_front<T: Linked>(&mut self, of: &mut Slots<T>) -> Option<u32> {
        let slot = self.head;
        of.at_mut(slot)?;
        self.remove(of, slot);
        Some(slot)
    }
}

fn link<T: Linked>(of: &mut Slots<T>, slot: u32, link: Link) {
    if let Some(item) = of.at_mut(slot) {
        *item.link() = link;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Random;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;

    #[derive(Debug)]
    struct Item(Link);

    impl Linked for Item {
        fn link(&mut self) -> &mut Link {
            &mut self.0
        }
    }

    fn walk(list: &List, of: &mut Slots<Item>) -> Vec<u32> {
        let (mut seen, mut slot) = (Vec::new(), list.head());
        while let Some(item) = of.at_mut(slot) {
            seen.push(slot);
            slot = item.link().next();
        }
        seen
    }

    #[test]
    fn agrees_with_a_deque_whatever_is_done() {
        for seed in 0..32 {
            let mut random = Random::new(seed);
            let (mut of, mut list, mut model) = (Slots::new(), List::new(), VecDeque::new());
            for _ in 0..400 {
                match random.below(4) {
                    0 | 1 => {
                        let (slot, _) = of.insert(Item(Link::NONE));
                        list.push_back(&mut of, slot);
                        model.push_back(slot);
                    }
                    2 => {
                        let popped = list.pop_front(&mut of);
                        assert_eq!(popped, model.pop_front());
                        popped.into_iter().for_each(|slot| of.remove(slot));
                    }
                    _ => {
                        let place = usize::try_from(random.below(9)).unwrap();
                        if let Some(slot) = model.remove(place) {
                            list.remove(&mut of, slot);
                            of.remove(slot);
                        }
                    }
                }
                assert_eq!(walk(&list, &mut of), Vec::from(model.clone()), "seed {seed}");
                assert_eq!((list.len() as usize, list.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
