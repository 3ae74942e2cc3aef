//! Which workers there are, on all cores, and how busy: what a turn is given to.
//!
//! Every thread has its own list, changed by letters when a worker comes or goes; how busy a worker is is one atomic
//! number, taken by compare-and-swap and never beyond its capacity. A thread whose turns wait says so *and then tries
//! again*; whoever frees a place *gives it back and then looks* who waits. So no wake-up is lost, and nobody locks.
use super::turns;
use crate::connection::Place;
use crate::mesh::Letter;
use crate::thread::Thread;
use clawgate_core::id::ShardId;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A worker that is registered.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its number, in logs and in the API.
    pub(crate) id: u64,
    /// The core that has its connection, and where.
    pub(crate) core: ShardId,
    pub(crate) place: Place,
    /// The agents that it answers for.
    pub(crate) agents: Box<[Box<str>]>,
    pub(crate) capacity: u32,
    /// Turns that it has.
    busy: AtomicU32,
    gone: AtomicBool,
}

impl Worker {
    pub(crate) fn new(
        id: u64,
        core: ShardId,
        place: Place,
        agents: Box<[Box<str>]>,
        capacity: u32,
    ) -> Arc<Self> {
        let (busy, gone) = (AtomicU32::new(0), AtomicBool::new(false));
        Arc::new(Self { id, core, place, agents, capacity, busy, gone })
    }

    pub(crate) fn busy(&self) -> u32 {
        self.busy.load(Ordering::SeqCst)
    }

    fn has_room(&self) -> bool {
        !self.gone.load(Ordering::SeqCst) && self.busy() < self.capacity
    }

    fn take(&self) -> bool {
        let more = |busy: u32| (busy < self.capacity).then_some(busy + 1);
        !self.gone.load(Ordering::SeqCst)
            && self.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }
}

/// What all threads share of the workers.
#[derive(Debug)]
pub(crate) struct Pool {
    /// By shard: turns that wait for a worker.
    waiting: Vec<AtomicU32>,
    /// Workers that are registered.
    count: AtomicU32,
}

impl Pool {
    pub(crate) fn new(cores: u16) -> Self {
        Self { waiting: (0..cores).map(|_| AtomicU32::new(0)).collect(), count: AtomicU32::new(0) }
    }

    /// Counts one more worker, if there may be.
    pub(crate) fn enter(&self, max: u32) -> bool {
        let more = |count: u32| (count < max).then_some(count + 1);
        self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    pub(crate) fn workers(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn waits(&self, shard: ShardId, more: bool) {
        let waiting = &self.waiting[usize::from(shard.0)];
        if more {
            waiting.fetch_add(1, Ordering::SeqCst);
        } else {
            waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Turns that wait, on all shards.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.iter().map(|waiting| waiting.load(Ordering::Relaxed)).sum()
    }
}

/// The workers as one thread knows them.
#[derive(Debug, Default)]
pub(crate) struct Known(RefCell<Vec<Arc<Worker>>>);

impl Known {
    /// A place at the least busy worker of this agent.
    pub(super) fn take(&self, agent: &str) -> Option<Arc<Worker>> {
        let known = self.0.borrow();
        loop {
            let fits = |worker: &&Arc<Worker>| {
                worker.has_room() && worker.agents.iter().any(|name| **name == *agent)
            };
            // Busy in proportion to what each can do.
            let best = known.iter().filter(fits).min_by(|one, other| {
                let share = |a: &Worker, b: &Worker| u64::from(a.busy()) * u64::from(b.capacity);
                share(one, other).cmp(&share(other, one))
            })?;
            // Another thread may have taken the last place by now: that one got further.
            if best.take() {
                return Some(best.clone());
            }
        }
    }

    /// Is there any worker of this agent?
    pub(super) fn has(&self, agent: &str) -> bool {
        self.0.borrow().iter().any(|worker| worker.agents.iter().any(|name| **name == *agent))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Worker>> {
        self.0.borrow().clone()
    }
}

/// Has every thread do this, this one too, in the order of our letters.
fn on_all(thread: &Rc<Thread>, act: impl Fn(&Rc<Thread>) + Clone + Send + 'static) {
    for core in 0..thread.shared.cores() {
        let act = act.clone();
        let errand = Letter::Errand(Box::new(move |there: &Rc<Thread>| act(there)));
        thread.outgoing.borrow_mut().letter(ShardId(core), errand);
    }
}

/// A worker came: all threads may give it turns.
pub(super) fn join(thread: &Rc<Thread>, worker: Arc<Worker>) {
    on_all(thread, move |there| {
        there.workers.known.0.borrow_mut().push(worker.clone());
        turns::serve(there);
    });
}

/// A worker is gone.
pub(super) fn leave(thread: &Rc<Thread>, worker: &Arc<Worker>) {
    worker.gone.store(true, Ordering::SeqCst);
    thread.shared.workers.count.fetch_sub(1, Ordering::AcqRel);
    let id = worker.id;
    on_all(thread, move |there| there.workers.known.0.borrow_mut().retain(|known| known.id != id));
}

/// A worker has room again: whoever waits looks.
pub(super) fn give(thread: &Rc<Thread>, worker: &Worker) {
    worker.busy.fetch_sub(1, Ordering::SeqCst);
    let waiting = &thread.shared.workers.waiting;
    for (core, _) in (0..).zip(waiting).filter(|(_, waiting)| waiting.load(Ordering::SeqCst) != 0) {
        let look = Letter::Errand(Box::new(|there: &Rc<Thread>| turns::serve(there)));
        thread.outgoing.borrow_mut().letter(ShardId(core), look);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn worker(id: u64, agents: &[&str], capacity: u32) -> Arc<Worker> {
        let agents = agents.iter().map(|name| Box::from(*name)).collect();
        Worker::new(id, ShardId(0), Place { slot: 0, generation: 1 }, agents, capacity)
    }

    #[test]
    fn the_least_busy_in_proportion_is_chosen() {
        let known = Known::default();
        known.0.borrow_mut().extend([worker(1, &["a"], 1), worker(2, &["a", "b"], 4)]);
        let taken: Vec<u64> = std::iter::from_fn(|| known.take("a")).map(|worker| worker.id).collect();
        assert_eq!(taken.len(), 5, "never beyond capacity");
        assert_eq!((taken[0], &taken[1..]), (1, &[2, 2, 2, 2][..]));
        assert!(known.take("b").is_none() && known.has("b") && !known.has("c"));
        let all = known.all();
        all[1].busy.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(known.take("b").unwrap().id, 2);
        all[1].busy.fetch_sub(1, Ordering::SeqCst);
        all[1].gone.store(true, Ordering::SeqCst);
        assert!(known.take("b").is_none(), "who is gone gets nothing");
    }

    #[test]
    fn as_many_workers_as_may() {
        let pool = Pool::new(2);
        assert!(pool.enter(2) && pool.enter(2) && !pool.enter(2));
        pool.waits(ShardId(1), true);
        assert_eq!((pool.workers(), pool.waiting()), (2, 1));
        pool.waits(ShardId(1), false);
        assert_eq!(pool.waiting(), 0);
    }
}
