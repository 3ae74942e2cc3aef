//! The lines to a database: one that writes, in batches and in order, some that read, and the watch over deadlines.
//! Each connects, tries again with growing pauses, and says how it goes. None knows which database it is.
use super::archive;
use super::backend::{Backend, Trouble};
use super::query::{Answer, Query, answer};
use super::queue::{Entry, Health, Job, Part, Shared, locked};
use super::row::{Op, day_of};
use clawgate_core::time::Time;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How exact deadlines of questions are.
const GRAIN: Duration = Duration::from_millis(20);
/// How often the line that writes looks whether enough has gathered. It is not woken for each row: to wake a thread costs
/// more than to write a row.
const GATHER_GRAIN: Duration = Duration::from_millis(5);

/// One line: the connection, if there is one, and the patience of its next attempts.
struct Line<B: Backend> {
    shared: Arc<Shared>,
    place: B::Place,
    number: usize,
    writes: bool,
    open: Option<B>,
    /// The last attempt did not reach it.
    is_down: bool,
    patience: Patience,
}

/// How long to wait before each attempt: twice as long as before the last one, between two bounds.
struct Patience {
    next: Duration,
    bounds: (Duration, Duration),
}

impl Patience {
    const fn new(bounds: (Duration, Duration)) -> Self {
        Self { next: bounds.0, bounds }
    }

    /// An attempt failed: the pause before the next one.
    fn lose(&mut self) -> Duration {
        let next = (self.next * 2).min(self.bounds.1);
        std::mem::replace(&mut self.next, next)
    }

    /// An attempt succeeded: all begins anew.
    const fn renew(&mut self) {
        self.next = self.bounds.0;
    }
}

impl<B: Backend> Line<B> {
    fn new(shared: Arc<Shared>, place: B::Place, number: usize, writes: bool) -> Self {
        let patience = Patience::new(shared.pauses);
        Self { shared, place, number, writes, open: None, is_down: false, patience }
    }

    /// Does this with the connection, connecting first if there is none. What fails costs the connection, unless it
    /// is the fault of what was asked.
    async fn attempt<T>(
        &mut self,
        patience: Duration,
        work: impl AsyncFnOnce(&mut B) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let outcome = match timeout(patience, self.work(work)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let seconds = patience.as_secs_f32();
                Err(Trouble::Down(format!("the store did not answer within {seconds} s")))
            }
        };
        self.is_down = matches!(outcome, Err(Trouble::Down(_) | Trouble::Late(_)));
        match &outcome {
            Ok(_) => {
                self.patience.renew();
                self.shared.heal(self.number);
            }
            Err(Trouble::Refused(_)) => {}
            Err(trouble) => {
                self.open = None;
                self.shared.degrade(self.number, trouble.text());
            }
        }
        outcome
    }

    async fn work<T>(&mut self, work: impl AsyncFnOnce(&mut B) -> Result<T, Trouble>) -> Result<T, Trouble> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(B::open(&self.place, self.writes).await?),
        };
        work(open).await
    }

    /// Tries to reach it again while nobody asks for anything: health must not speak of what is over.
    async fn recover(&mut self, is_idle: impl Fn() -> bool) {
        while self.is_down && is_idle() {
            self.rest().await;
            if is_idle() {
                let _ = self.attempt(self.shared.attempt_age_max, async |_: &mut B| Ok(())).await;
            }
        }
    }

    /// Waits before the next attempt: each time twice as long, up to a bound, and never for exactly as long as others.
    async fn rest(&mut self) {
        sleep(jittered(self.patience.lose())).await;
    }
}

/// Between three quarters of it and all of it.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness the pause is exact: it does no harm.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK);
    pause - pause * u32::from(byte[0]) / 1_024
}

/// The line that writes, until the store closes and nothing waits any more.
pub(super) async fn write<B: Backend>(
    shared: Arc<Shared>,
    place: B::Place,
    first: SyncSender<Result<(), Trouble>>,
) {
    let patience = shared.attempt_age_max;
    let mut line = Line::<B>::new(shared.clone(), place, 0, true);
    let opened = line.attempt(patience, async |_: &mut B| Ok(())).await;
    let is_refused = matches!(opened, Err(Trouble::Foreign(_) | Trouble::Damaged(_)));
    // Nobody waits any more if it took too long.
    let _ = first.send(opened);
    let mut next = shared.clock.now();
    if !is_refused {
        loop {
            let has_work = || !shared.writes.is_empty() || !shared.chores.is_empty();
            line.recover(|| !has_work() && !shared.is_closing()).await;
            shared.write_bell.wait_until(|| has_work() || shared.is_closing()).await;
            gather(&shared, next).await;
            next = shared.clock.now() + shared.batch_interval;
            // Looked for before the rows: what was written before it was asked for is in the store when it begins.
            let due = shared.chores.pop();
            let batch = take(&shared);
            if !batch.parts.is_empty() {
                write_batch(&mut line, batch).await;
            }
            if let Some(job) = due {
                chore(&mut line, &job).await;
            }
            if shared.is_closing() && (!has_work() || shared.is_over()) {
                break;
            }
        }
    }
    drop(line);
    shared.end();
}

/// Waits until `next`, or until there is a reason to begin sooner. A commit costs about the same for one row as for
/// hundreds.
async fn gather(shared: &Shared, next: Time) {
    let may_wait = || !shared.is_batch_full() && shared.chores.is_empty() && !shared.is_closing();
    while may_wait() {
        match next.since(shared.clock.now()) {
            Duration::ZERO => return,
            left => sleep(left.min(GATHER_GRAIN)).await,
        }
    }
}

/// What goes into one transaction, and whose it is.
struct Batch {
    ops: Vec<Op>,
    parts: Vec<Part>,
}

/// All that waits, up to the bound of one transaction.
fn take(shared: &Shared) -> Batch {
    let mut batch = Batch { ops: Vec::new(), parts: Vec::new() };
    while batch.ops.len() < shared.batch_ops_max
        && let Some(Entry { part, ops }) = shared.take()
    {
        batch.ops.extend(ops);
        batch.parts.push(part);
    }
    batch
}

/// Tries until it is written: the next batch may not overtake it.
async fn write_batch<B: Backend>(line: &mut Line<B>, batch: Batch) {
    let shared = line.shared.clone();
    while !shared.is_over() {
        let began = shared.clock.now();
        match line.attempt(shared.attempt_age_max, async |to: &mut B| apply(to, &batch.ops).await).await {
            Ok(()) => {
                shared.confirm(&batch.parts, shared.clock.now().since(began));
                return;
            }
            Err(Trouble::Refused(_)) => {
                write_parts(line, &batch).await;
                return;
            }
            Err(Trouble::Down(_) | Trouble::Late(_) | Trouble::Foreign(_) | Trouble::Damaged(_)) => {
                pause(line).await;
            }
        }
    }
}

/// Waits before the next attempt to write. What makes room is let through: it may be what all waits for.
async fn pause<B: Backend>(line: &mut Line<B>) {
    line.rest().await;
    if let Some(job) = line.shared.chores.pop() {
        chore(line, &job).await;
    }
}

async fn apply<B: Backend>(to: &mut B, ops: &[Op]) -> Result<(), Trouble> {
    match ops.iter().find_map(Op::unfit) {
        Some(why) => Err(Trouble::Refused(format!("the store cannot hold this: {why}"))),
        None => to.apply(ops).await,
    }
}

/// Something in the batch can never be held: each part goes alone, and what is refused alone is set aside.
async fn write_parts<B: Backend>(line: &mut Line<B>, batch: &Batch) {
    let shared = line.shared.clone();
    let mut rest = batch.ops.as_slice();
    for part in &batch.parts {
        let (ops, after) = rest.split_at(part.ops.min(rest.len()));
        rest = after;
        let began = shared.clock.now();
        loop {
            if shared.is_over() {
                return;
            }
            let outcome = line.attempt(shared.attempt_age_max, async |to: &mut B| apply(to, ops).await).await;
            match outcome {
                Ok(()) => break,
                Err(Trouble::Refused(why)) if set_aside(line, ops, &why) => break,
                Err(_) => pause(line).await,
            }
        }
        shared.confirm(std::slice::from_ref(part), shared.clock.now().since(began));
    }
}

/// Nothing is lost silently: what the database can never hold stands in a file. Returns whether it does.
fn set_aside<B: Backend>(line: &Line<B>, ops: &[Op], why: &str) -> bool {
    let shared = &line.shared;
    let Some(file) = &shared.refused else {
        tracing::error!("the store can never hold what it was to keep, and it is lost: {why}");
        shared.count_set_aside(ops.len());
        return true;
    };
    let written = {
        let _held = locked(&shared.aside);
        archive::append(file, ops)
    };
    match written {
        Ok(()) => {
            let file = file.display();
            tracing::error!(
                "the store can never hold what it was to keep; it stands in {file} instead: {why}"
            );
            shared.count_set_aside(ops.len());
            true
        }
        Err(bad) => {
            shared.degrade(line.number, &format!("{why}; and {} cannot be written: {bad}", file.display()));
            false
        }
    }
}

/// Archives or forgets, one bounded step after the other; a failure is the asker's to hear of.
async fn chore<B: Backend>(line: &mut Line<B>, job: &Job) {
    if job.is_answered() {
        return;
    }
    let shared = line.shared.clone();
    let patience = shared.attempt_age_max;
    let outcome = if let Query::Expire { before_millis, sessions_max } = &job.query {
        let folder = shared.archive.as_deref();
        let expire = async |to: &mut B| archive::expire(to, folder, *before_millis, *sessions_max).await;
        line.attempt(patience, expire).await
    } else if let Query::ForgetSeen { before_millis } = &job.query {
        line.attempt(patience, async |to: &mut B| forget_seen(to, *before_millis).await).await
    } else {
        line.attempt(patience, async |to: &mut B| answer(to, &job.query).await).await
    };
    shared.reply(job, outcome);
}

async fn forget_seen<B: Backend>(backend: &mut B, before_millis: u64) -> Result<Answer, Trouble> {
    let (first, _) = day_of(before_millis);
    let mut days = 0;
    for day in backend.seen_days().await?.into_iter().filter(|day| *day < first) {
        backend.forget_day(day).await?;
        days += 1;
    }
    Ok(Answer::ForgotSeen { days })
}

/// A line that reads, until the store closes.
pub(super) async fn read<B: Backend>(shared: Arc<Shared>, place: B::Place, number: usize) {
    let mut line = Line::<B>::new(shared.clone(), place, number, false);
    loop {
        line.recover(|| shared.reads.is_empty() && !shared.is_closing()).await;
        shared.read_bell.wait_until(|| !shared.reads.is_empty() || shared.is_closing()).await;
        match shared.reads.pop() {
            Some(job) => read_one(&mut line, &job).await,
            None if shared.is_closing() => break,
            None => {}
        }
    }
    drop(line);
    shared.end();
}

/// Tries until there is an answer or the deadline is over: the watch answers then.
async fn read_one<B: Backend>(line: &mut Line<B>, job: &Job) {
    let shared = line.shared.clone();
    while !job.is_answered() {
        let left = job.due.since(shared.clock.now()).max(GRAIN);
        let outcome = line.attempt(left, async |to: &mut B| answer(to, &job.query).await).await;
        match outcome {
            Err(Trouble::Down(_) | Trouble::Late(_)) if !shared.is_closing() => line.rest().await,
            outcome => shared.reply(job, outcome),
        }
    }
}

/// Answers questions whose deadline is over, whatever the lines do: one that blocks on its disk cannot.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut open: Vec<Arc<Job>> = Vec::new();
    loop {
        while let Some(job) = shared.watched.pop() {
            open.push(job);
        }
        let now = shared.clock.now();
        open.retain(|job| {
            if job.due <= now {
                let why = match shared.health() {
                    Health::Ok => "it is slow".to_owned(),
                    Health::Degraded { why, .. } => why,
                };
                shared.reply(job, Err(Trouble::Late(format!("the store did not answer in time: {why}"))));
            }
            !job.is_answered()
        });
        if !open.is_empty() {
            sleep(GRAIN).await;
        } else if shared.has_ended() {
            return;
        } else {
            shared.watch_bell.wait_until(|| !shared.watched.is_empty() || shared.has_ended()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database that is gone is asked for after one second, two, four … and at last each half minute (row G5).
    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut patience = Patience::new((Duration::from_secs(1), Duration::from_secs(30)));
        let seconds: Vec<u64> = (0..8).map(|_| patience.lose().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
        patience.renew();
        assert_eq!((patience.lose().as_secs(), patience.lose().as_secs()), (1, 2));
    }

    #[test]
    fn pauses_differ_and_stay_within_their_bounds() {
        let pause = Duration::from_secs(8);
        let all: Vec<Duration> = (0..64).map(|_| jittered(pause)).collect();
        assert!(all.iter().all(|one| pause * 3 / 4 <= *one && *one <= pause));
        assert!(all.iter().any(|one| *one != all[0]));
    }
}
