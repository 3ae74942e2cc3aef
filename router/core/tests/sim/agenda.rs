//! What will happen, in the order of its time: the acts of the actors and what travels between cores.
//!
//! Two things at the same time happen in the order in which they were put in, so that a seed has one history.
use clawgate_core::time::Time;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::time::Duration;

/// The future.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    heap: BinaryHeap<Reverse<(Time, u64)>>,
    items: BTreeMap<u64, T>,
    next: u64,
    /// When the last thing sent from one core to another arrives: a lane between two cores keeps its order.
    lanes: BTreeMap<(u16, u16), Time>,
}

impl<T> Agenda<T> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), items: BTreeMap::new(), next: 0, lanes: BTreeMap::new() }
    }

    /// Puts in what happens at this time.
    pub(crate) fn add(&mut self, at: Time, item: T) {
        self.heap.push(Reverse((at, self.next)));
        self.items.insert(self.next, item);
        self.next += 1;
    }

    /// Sends from one core to another: arrives after the delay, but never before what was sent earlier on this lane.
    pub(crate) fn send(&mut self, now: Time, from: u16, to: u16, delay: Duration, item: T) {
        let last = self.lanes.entry((from, to)).or_default();
        let at = (now + delay).max(*last);
        *last = at;
        self.add(at, item);
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes the next thing, if it is due.
    pub(crate) fn take(&mut self, now: Time) -> Option<T> {
        let at = self.next_at()?;
        if now < at {
            return None;
        }
        let Reverse((_, number)) = self.heap.pop()?;
        self.items.remove(&number)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}
