//! What stands between the shards and the store: bounded queues without locks, what is counted, and how it goes.
use super::Plan;
use super::backend::Trouble;
use super::query::{Answer, Query};
use super::row::Op;
use crate::clock::{Clock, unix_millis};
use clawgate_core::time::Time;
use crossbeam_queue::ArrayQueue;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// There is no room. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much waits for it")
    }
}

/// A shard and its ticket: what it handed over under it is durable.
pub(crate) type Confirmed = (u16, u64);

/// Does the store work?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// As far as is known.
    Ok,
    /// It does not, and is tried again and again.
    Degraded {
        /// Milliseconds since 1970.
        since: u64,
        why: String,
    },
}

/// What was counted since the start, and what waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// Writes that became durable.
    pub(crate) ops: u64,
    /// Transactions.
    pub(crate) batches: u64,
    /// Seconds in transactions that ended well.
    pub(crate) batch_seconds: f64,
    /// Attempts that failed, to connect, write or read.
    pub(crate) failures: u64,
    /// Writes refused because the queue was full.
    pub(crate) refused: u64,
    /// Writes that the database can never hold: they were set aside.
    pub(crate) set_aside: u64,
    /// Questions answered.
    pub(crate) reads: u64,
    /// Of these, sessions loaded.
    pub(crate) loads: u64,
    /// Seconds from a question to its answer.
    pub(crate) read_seconds: f64,
    /// Questions that ended with a trouble; `late` is part of it.
    pub(crate) read_failures: u64,
    /// Questions whose deadline passed.
    pub(crate) late: u64,
    /// Writes that wait or are under way.
    pub(crate) waiting_ops: usize,
    /// Bytes of them, about.
    pub(crate) waiting_bytes: usize,
    /// Questions that wait.
    pub(crate) waiting_reads: usize,
}

#[derive(Debug, Default)]
struct Counted {
    ops: AtomicU64,
    batches: AtomicU64,
    batch_nanos: AtomicU64,
    failures: AtomicU64,
    refused: AtomicU64,
    set_aside: AtomicU64,
    reads: AtomicU64,
    loads: AtomicU64,
    read_nanos: AtomicU64,
    read_failures: AtomicU64,
    late: AtomicU64,
}

/// What a shard handed over at once.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) part: Part,
    pub(super) ops: Vec<Op>,
}

/// Whose a part of a transaction is, and how large.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    shard: u16,
    ticket: u64,
    pub(super) ops: usize,
    bytes: usize,
}

type Reply = Box<dyn FnOnce(Result<Answer, Trouble>) + Send>;

/// A question under way. Whoever answers first, a line or the watch over deadlines, does; the other finds it answered.
pub(super) struct Job {
    pub(super) query: Query,
    asked: Time,
    pub(super) due: Time,
    reply: Mutex<Option<Reply>>,
}

impl Job {
    pub(super) fn new(query: Query, asked: Time, due: Time, reply: Reply) -> Self {
        Self { query, asked, due, reply: Mutex::new(Some(reply)) }
    }

    pub(super) fn is_answered(&self) -> bool {
        locked(&self.reply).is_none()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.query)
    }
}

/// Wakes those who wait for something, and costs nothing while nobody does.
#[derive(Debug, Default)]
pub(super) struct Bell {
    asleep: AtomicUsize,
    notify: Notify,
}

/// Counts a sleeper while it sleeps, also one that is dropped in its sleep.
struct Asleep<'b>(&'b Bell);

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.asleep.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bell {
    /// Something happened.
    pub(super) fn ring(&self) {
        // Pairs with the fence of `wait_until`: either the sleeper sees what happened, or we see the sleeper.
        fence(Ordering::SeqCst);
        if 0 < self.asleep.load(Ordering::Relaxed) {
            self.notify.notify_one();
        }
    }

    fn ring_all(&self) {
        self.notify.notify_waiters();
        self.notify.notify_one();
    }

    /// Waits until it is so; looks each time that the bell rings.
    pub(super) async fn wait_until(&self, ready: impl Fn() -> bool) {
        while !ready() {
            self.asleep.fetch_add(1, Ordering::Relaxed);
            let _asleep = Asleep(self);
            fence(Ordering::SeqCst);
            if ready() {
                return;
            }
            self.notify.notified().await;
        }
    }
}

type Confirm = Box<dyn Fn(&[Confirmed]) + Send + Sync>;

/// What the shards and the lines share.
pub(super) struct Shared {
    kind: &'static str,
    pub(super) clock: Clock,
    pub(super) batch_ops_max: usize,
    pub(super) batch_interval: Duration,
    pub(super) archive: Option<PathBuf>,
    /// Held while the file of what was refused is written, or taken away.
    pub(super) aside: Mutex<()>,
    /// Somebody reads the archive.
    pub(super) archive_is_read: AtomicBool,
    pub(super) refused: Option<PathBuf>,
    pub(super) attempt_age_max: Duration,
    pub(super) pauses: (Duration, Duration),
    ops_max: usize,
    bytes_max: usize,
    waiting_ops: AtomicUsize,
    waiting_bytes: AtomicUsize,
    /// Of those that wait, what can be taken: one is counted before it is in the queue, so that the bound holds, and here
    /// after. For a moment it may be below zero.
    ready_ops: AtomicIsize,
    pub(super) writes: ArrayQueue<Entry>,
    pub(super) chores: ArrayQueue<Arc<Job>>,
    pub(super) reads: ArrayQueue<Arc<Job>>,
    pub(super) watched: ArrayQueue<Arc<Job>>,
    pub(super) write_bell: Bell,
    pub(super) read_bell: Bell,
    pub(super) watch_bell: Bell,
    counted: Counted,
    /// What is wrong with each line, and since when.
    troubles: Mutex<Vec<Option<(u64, String)>>>,
    is_closing: AtomicBool,
    /// What is not written by now never will be, by this process.
    is_over: AtomicBool,
    /// Lines that have not ended.
    lines: Mutex<usize>,
    ended: Condvar,
    confirm: Confirm,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.counters())
    }
}

/// Chores (archiving, forgetting) that may wait.
const CHORES_MAX: usize = 16;

impl Shared {
    pub(super) fn new(plan: &Plan, clock: Clock, confirm: Confirm) -> Self {
        let queue = &plan.queue;
        Self {
            kind: plan.kind.name(),
            clock,
            batch_ops_max: queue.batch_ops_max.max(1),
            batch_interval: queue.batch_interval,
            archive: plan.archive.clone(),
            aside: Mutex::default(),
            archive_is_read: AtomicBool::new(false),
            refused: plan.refused.clone(),
            attempt_age_max: plan.attempt_age_max,
            pauses: (plan.pause_min, plan.pause_max),
            ops_max: queue.ops_max,
            bytes_max: queue.bytes_max,
            waiting_ops: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            ready_ops: AtomicIsize::new(0),
            writes: ArrayQueue::new(queue.ops_max.max(1)),
            chores: ArrayQueue::new(CHORES_MAX),
            reads: ArrayQueue::new(queue.reads_max.max(1)),
            watched: ArrayQueue::new(queue.reads_max.max(1) + CHORES_MAX),
            write_bell: Bell::default(),
            read_bell: Bell::default(),
            watch_bell: Bell::default(),
            counted: Counted::default(),
            troubles: Mutex::new(Vec::new()),
            is_closing: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            lines: Mutex::new(0),
            ended: Condvar::new(),
            confirm,
        }
    }

    pub(super) const fn kind(&self) -> &'static str {
        self.kind
    }

    #[cfg(test)]
    pub(super) fn write(&self, shard: u16, ticket: u64, mut ops: Vec<Op>) -> Result<(), Full> {
        self.offer(shard, ticket, &mut ops)
    }

    pub(super) fn offer(&self, shard: u16, ticket: u64, all: &mut Vec<Op>) -> Result<(), Full> {
        let ops = std::mem::take(all);
        let bytes = ops.iter().map(Op::bytes).sum::<usize>();
        let count = ops.len();
        let ops_before = self.waiting_ops.fetch_add(count, Ordering::Relaxed);
        let bytes_before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // What alone is above a bound is taken when nothing else waits: else it could never be written.
        let fits = (ops_before == 0 || ops_before + count <= self.ops_max)
            && (bytes_before == 0 || bytes_before + bytes <= self.bytes_max);
        let entry = Entry { part: Part { shard, ticket, ops: count, bytes }, ops };
        let refused = if fits && !self.is_closing.load(Ordering::Relaxed) {
            self.writes.push(entry).err()
        } else {
            Some(entry)
        };
        if let Some(entry) = refused {
            *all = entry.ops;
            self.settle(count, bytes);
            self.counted.refused.fetch_add(number(count), Ordering::Relaxed);
            return Err(Full);
        }
        self.ready_ops.fetch_add(count.cast_signed(), Ordering::Relaxed);
        self.write_bell.ring();
        Ok(())
    }

    /// Is a transaction's worth there, or so much that what comes next may find no room?
    pub(super) fn is_batch_full(&self) -> bool {
        let enough = self.batch_ops_max.min(self.ops_max / 2).cast_signed();
        enough <= self.ready_ops.load(Ordering::Relaxed)
            || self.bytes_max / 2 <= self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// The next that waits.
    pub(super) fn take(&self) -> Option<Entry> {
        let entry = self.writes.pop()?;
        self.ready_ops.fetch_sub(entry.ops.len().cast_signed(), Ordering::Relaxed);
        Some(entry)
    }

    fn settle(&self, ops: usize, bytes: usize) {
        self.waiting_ops.fetch_sub(ops, Ordering::Relaxed);
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn ask(&self, job: Arc<Job>) -> Result<(), Full> {
        let is_chore = matches!(job.query, Query::Expire { .. } | Query::ForgetSeen { .. });
        let (queue, bell) =
            if is_chore { (&self.chores, &self.write_bell) } else { (&self.reads, &self.read_bell) };
        if self.is_closing.load(Ordering::Relaxed) || self.watched.push(job.clone()).is_err() {
            return Err(Full);
        }
        if queue.push(job.clone()).is_err() {
            // The watch has it already, and finds it answered.
            locked(&job.reply).take();
            return Err(Full);
        }
        self.watch_bell.ring();
        bell.ring();
        Ok(())
    }

    /// The one place where a question gets its answer.
    pub(super) fn reply(&self, job: &Job, outcome: Result<Answer, Trouble>) {
        let Some(reply) = locked(&job.reply).take() else { return };
        match &outcome {
            Ok(answer) => {
                self.counted.reads.fetch_add(1, Ordering::Relaxed);
                let loads = u64::from(matches!(answer, Answer::Loaded(_)));
                self.counted.loads.fetch_add(loads, Ordering::Relaxed);
                let nanos = self.clock.now().since(job.asked).as_nanos();
                self.counted.read_nanos.fetch_add(u64::try_from(nanos).unwrap_or(0), Ordering::Relaxed);
            }
            Err(trouble) => {
                self.counted.read_failures.fetch_add(1, Ordering::Relaxed);
                let late = u64::from(matches!(trouble, Trouble::Late(_)));
                self.counted.late.fetch_add(late, Ordering::Relaxed);
            }
        }
        reply(outcome);
    }

    /// A transaction ended well: these were in it.
    pub(super) fn confirm(&self, parts: &[Part], took: Duration) {
        let ops: usize = parts.iter().map(|part| part.ops).sum();
        self.settle(ops, parts.iter().map(|part| part.bytes).sum());
        self.counted.ops.fetch_add(number(ops), Ordering::Relaxed);
        self.counted.batches.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(0);
        self.counted.batch_nanos.fetch_add(nanos, Ordering::Relaxed);
        let tickets: Vec<Confirmed> = parts.iter().map(|part| (part.shard, part.ticket)).collect();
        (self.confirm)(&tickets);
    }

    pub(super) fn count_set_aside(&self, ops: usize) {
        self.counted.set_aside.fetch_add(number(ops), Ordering::Relaxed);
    }

    /// Something failed on this line. Said once a trouble, not once an attempt.
    pub(super) fn degrade(&self, line: usize, why: &str) {
        self.counted.failures.fetch_add(1, Ordering::Relaxed);
        let mut troubles = locked(&self.troubles);
        let Some(slot) = troubles.get_mut(line) else { return };
        let since = slot.as_ref().map_or_else(unix_millis, |(since, _)| *since);
        if slot.as_ref().is_none_or(|(_, told)| told != why) {
            tracing::warn!("the store fails, and is tried again: {why}");
        }
        *slot = Some((since, why.to_owned()));
    }

    /// Something worked on this line.
    pub(super) fn heal(&self, line: usize) {
        let mut troubles = locked(&self.troubles);
        let healed = troubles.get_mut(line).and_then(Option::take);
        if healed.is_some() && troubles.iter().all(Option::is_none) {
            tracing::info!("the store works again");
        }
    }

    pub(super) fn health(&self) -> Health {
        let troubles = locked(&self.troubles);
        let first = troubles.iter().flatten().min_by_key(|(since, _)| *since);
        first.map_or(Health::Ok, |(since, why)| Health::Degraded { since: *since, why: why.clone() })
    }

    pub(super) fn counters(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seconds = |counter: &AtomicU64| Duration::from_nanos(get(counter)).as_secs_f64();
        let counted = &self.counted;
        Counters {
            ops: get(&counted.ops),
            batches: get(&counted.batches),
            batch_seconds: seconds(&counted.batch_nanos),
            failures: get(&counted.failures),
            refused: get(&counted.refused),
            set_aside: get(&counted.set_aside),
            reads: get(&counted.reads),
            loads: get(&counted.loads),
            read_seconds: seconds(&counted.read_nanos),
            read_failures: get(&counted.read_failures),
            late: get(&counted.late),
            waiting_ops: self.waiting_ops.load(Ordering::Relaxed),
            waiting_bytes: self.waiting_bytes.load(Ordering::Relaxed),
            waiting_reads: self.reads.len(),
        }
    }

    /// So many lines are about to begin.
    pub(super) fn begin(&self, lines: usize) {
        *locked(&self.lines) = lines;
        locked(&self.troubles).resize(lines, None);
    }

    /// A line ended.
    pub(super) fn end(&self) {
        *locked(&self.lines) -= 1;
        self.ended.notify_all();
        self.watch_bell.ring_all();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub(super) fn has_ended(&self) -> bool {
        *locked(&self.lines) == 0
    }

    pub(super) fn close(&self, deadline: Duration) -> bool {
        self.is_closing.store(true, Ordering::SeqCst);
        self.write_bell.ring_all();
        self.read_bell.ring_all();
        self.watch_bell.ring_all();
        let lines = locked(&self.lines);
        let waited = self.ended.wait_timeout_while(lines, deadline, |lines| 0 < *lines);
        drop(waited);
        self.is_over.store(true, Ordering::SeqCst);
        self.waiting_ops.load(Ordering::SeqCst) == 0
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

// Nothing under these locks panics; were it otherwise, what they guard would still hold.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
