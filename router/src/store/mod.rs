//! The store behind the journal: sessions, history, dead letters, cursors and marks of messages seen, in memory, SQLite,
//! Redis or PostgreSQL. It obeys `router/docs/stores.md`.
//!
//! It is written behind: [`Store::offer`] puts into a bounded queue and returns; what waits is written in one
//! transaction, in order, and confirmed when it is as durable as the database makes things. A store that is slow or
//! down blocks nobody: its queue fills, [`Store::offer`] refuses, and the journal keeps what was refused. It heals by
//! itself. Nothing here decides what is written or when.
mod archive;
mod archive_index;
mod async_tls;
mod backend;
#[cfg(test)]
mod conform;
#[cfg(test)]
mod faults;
mod lane;
mod memory;
mod postgres;
mod query;
mod queue;
mod redis;
mod row;
#[cfg(test)]
mod servers;
pub(crate) mod shown;
mod sqlite;

pub(crate) use archive::ArchivePage;
pub(crate) use backend::{Keep, Trouble};
pub(crate) use memory::Place as MemoryPlace;
pub(crate) use postgres::Place as PostgresPlace;
pub(crate) use query::{Answer, LetterFilter, Loaded, MARKS_MAX, MarkPlace, Query, SessionFilter};
pub(crate) use queue::{Confirmed, Counters, Full, Health};
pub(crate) use redis::Place as RedisPlace;
pub(crate) use row::{CursorRow, DeadLetter, Key, Mark, Op, Said, SessionRow, State};
pub(crate) use sqlite::Place as SqlitePlace;

use crate::clock::Clock;
use crate::side::{Busy, Side};
use backend::Backend;
use queue::{Job, Shared};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

/// What was refused, while it is tried again; in the data directory.
pub(crate) const RETRIED: &str = "refused.retry.jsonl";

/// Which database, and how it is used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// What waits to be written.
    pub(crate) queue: QueuePlan,
    /// The folder for sessions that are archived; `None`: they are dropped.
    pub(crate) archive: Option<PathBuf>,
    /// The file for what the database can never hold; `None`: it is only logged.
    pub(crate) refused: Option<PathBuf>,
    /// An attempt to connect, or to write a batch, is given up after this.
    pub(crate) attempt_age_max: Duration,
    /// The first pause after a failure; it doubles, with jitter.
    pub(crate) pause_min: Duration,
    /// The longest pause.
    pub(crate) pause_max: Duration,
}

/// Which database.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// None: all is lost when the process ends.
    Memory(memory::Place),
    /// A file.
    Sqlite(sqlite::Place),
    /// A server of Redis.
    Redis(redis::Place),
    /// A server of PostgreSQL.
    Postgres(postgres::Place),
}

impl Kind {
    /// Its name in the configuration.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Sqlite(_) => "sqlite",
            Self::Redis(_) => "redis",
            Self::Postgres(_) => "postgres",
        }
    }
}

/// Bounds of what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePlan {
    /// Writes that wait, those under way included.
    pub(crate) ops_max: usize,
    /// Bytes of them.
    pub(crate) bytes_max: usize,
    /// Writes of one transaction.
    pub(crate) batch_ops_max: usize,
    /// A transaction begins no sooner after the one before, unless one is full.
    pub(crate) batch_interval: Duration,
    /// Questions that wait.
    pub(crate) reads_max: usize,
    /// Questions that are answered at the same time, by a database that is another process.
    pub(crate) connections: usize,
}

/// A handle to the store; cheap to clone. It holds the side thread, which would end without one, and with it the lines to
/// all databases that have no thread of their own, and the watch over deadlines.
#[derive(Clone)]
pub(crate) struct Store(Arc<Shared>, #[expect(dead_code, reason = "it is held")] Side);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({:?})", self.health())
    }
}

impl Store {
    /// Opens the store. `confirm` hears of each batch of writes that became durable, in order, on the store's thread.
    ///
    /// A database that is another process may be down: then the store begins degraded.
    ///
    /// # Errors
    /// A file that cannot be used; a database that is not ours, damaged, or of a newer gateway; no thread.
    pub(crate) fn start(
        plan: &Plan,
        side: &Side,
        clock: Clock,
        confirm: impl Fn(&[Confirmed]) + Send + Sync + 'static,
    ) -> Result<Self, Trouble> {
        let shared = Arc::new(Shared::new(plan, clock, Box::new(confirm)));
        let opened = open(&shared, plan, side).and_then(|()| {
            // Lines there are by now: without any, the watch would take the store for closed.
            let watch = shared.clone();
            side.spawn(move || lane::watch(watch)).map_err(|why| no_thread(&why))
        });
        if let Err(trouble) = opened {
            shared.close(Duration::ZERO);
            return Err(trouble);
        }
        Ok(Self(shared, side.clone()))
    }

    /// Hands writes over: all of them are carried out, in order and at once, or none; later than those that this shard
    /// handed over before. The ticket comes back when they are durable.
    ///
    /// # Errors
    /// Too much waits. Nothing was taken; the journal still has it.
    #[cfg(test)]
    pub(crate) fn write(&self, shard: u16, ticket: u64, ops: Vec<Op>) -> Result<(), Full> {
        self.0.write(shard, ticket, ops)
    }

    /// Hands writes over: all of them are carried out, in order and at once, or none; later than those that this shard
    /// handed over before. The ticket comes back when they are durable. `ops` is emptied where they were taken, and stays
    /// as it is where they were not.
    ///
    /// # Errors
    /// Too much waits.
    pub(crate) fn offer(&self, shard: u16, ticket: u64, ops: &mut Vec<Op>) -> Result<(), Full> {
        self.0.offer(shard, ticket, ops)
    }

    /// Asks. The reply is called once, on another thread, by the deadline at the latest (and its 20 ms of grain).
    ///
    /// # Errors
    /// Too many questions wait; the reply is not called.
    pub(crate) fn read(
        &self,
        query: Query,
        deadline: Duration,
        reply: impl FnOnce(Result<Answer, Trouble>) + Send + 'static,
    ) -> Result<(), Full> {
        let asked = self.0.clock.now();
        self.0.ask(Arc::new(Job::new(query, asked, asked + deadline, Box::new(reply))))
    }

    /// Reads sessions that left the store, from this place of the archive on. The reply is called once, here or on
    /// another thread.
    pub(crate) fn archived(
        &self,
        at: u64,
        filter: SessionFilter,
        limit: usize,
        reply: impl FnOnce(io::Result<ArchivePage>) + Send + 'static,
    ) {
        self.in_archive(move |file| archive::page(file, at, &filter, limit), reply);
    }

    /// Looks for a session that left the store. The reply is called once, here or on another thread.
    pub(crate) fn find_archived(
        &self,
        key: Key,
        reply: impl FnOnce(io::Result<Option<Loaded>>) + Send + 'static,
    ) {
        let most = archive_index::SEARCHED_BYTES_MAX;
        self.in_archive(move |file| archive_index::find(file, &key, most), reply);
    }

    /// Reads the archive on a thread of its own: a large file takes its time. One at a time.
    fn in_archive<T: Default + 'static>(
        &self,
        read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
        reply: impl FnOnce(io::Result<T>) + Send + 'static,
    ) {
        let Some(folder) = &self.0.archive else { return reply(Ok(T::default())) };
        if self.0.archive_is_read.swap(true, Ordering::AcqRel) {
            return reply(Err(io::Error::other("somebody else reads the archive just now")));
        }
        let (file, shared) = (folder.join(archive::SESSIONS), self.0.clone());
        let reply = Arc::new(Mutex::new(Some(reply)));
        let tell = move |reply: &Mutex<Option<_>>, read: io::Result<T>| {
            shared.archive_is_read.store(false, Ordering::Release);
            let taken = reply.lock().unwrap_or_else(PoisonError::into_inner).take();
            taken.map(|reply: _| (reply, read))
        };
        let (mine, tell_there) = (reply.clone(), tell.clone());
        let begun = crate::side::thread("archive", move || async move {
            if let Some((reply, read)) = tell_there(&mine, read(&file)) {
                reply(read);
            }
        });
        if let Err(why) = begun
            && let Some((reply, read)) = tell(&reply, Err(why))
        {
            reply(read);
        }
    }

    /// The file of what the database could never hold, put aside so that nothing is added to it; what was put aside before
    /// and not done with comes first. `None` if there is nothing, or no place for it.
    ///
    /// # Errors
    /// The file cannot be put aside.
    pub(crate) fn take_refused(&self) -> io::Result<Option<PathBuf>> {
        let Some(file) = &self.0.refused else { return Ok(None) };
        let aside = file.with_file_name(RETRIED);
        let _held = queue::locked(&self.0.aside);
        if aside.exists() {
            return Ok(Some(aside));
        }
        match std::fs::rename(file, &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Puts a line back that is no row of ours.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn refuse_again(&self, line: &[u8]) -> io::Result<()> {
        let Some(file) = &self.0.refused else { return Ok(()) };
        let _held = queue::locked(&self.0.aside);
        archive::append_text(file, &[line, b"\n"].concat())
    }

    /// Which database it is.
    pub(crate) fn kind(&self) -> &'static str {
        self.0.kind()
    }

    /// Is what it holds there after this process?
    pub(crate) fn outlives(&self) -> bool {
        self.kind() != "memory"
    }

    /// Does it work?
    pub(crate) fn health(&self) -> Health {
        self.0.health()
    }

    /// Questions that may wait, of all shards together.
    pub(crate) fn reads_max(&self) -> usize {
        self.0.reads.capacity()
    }

    /// What was counted since the start.
    pub(crate) fn counters(&self) -> Counters {
        self.0.counters()
    }

    /// Takes no more, and waits until all that waits was written. Returns whether it was.
    pub(crate) fn close(&self, deadline: Duration) -> bool {
        self.0.close(deadline)
    }
}

fn no_thread(why: &dyn fmt::Display) -> Trouble {
    Trouble::Down(format!("the store has no thread: {why}"))
}

/// Begins the lines, and hears what the first attempt to open said.
fn open(shared: &Arc<Shared>, plan: &Plan, side: &Side) -> Result<(), Trouble> {
    let (first, opened) = sync_channel(1);
    match &plan.kind {
        Kind::Memory(place) => {
            let place = place.instance();
            beside::<memory::Memory>(shared, &place, side, first, 1).map_err(|why| no_thread(&why))?;
            await_first(&opened, plan.attempt_age_max)?;
        }
        Kind::Sqlite(place) => {
            alone::<sqlite::Sqlite>(shared, place, first).map_err(|why| no_thread(&why))?;
            await_first(&opened, plan.attempt_age_max)?;
        }
        Kind::Redis(place) => {
            let readers = plan.queue.connections.max(1);
            beside::<redis::Redis>(shared, place, side, first, readers).map_err(|why| no_thread(&why))?;
            await_server(&opened, plan.attempt_age_max)?;
        }
        Kind::Postgres(place) => {
            let readers = plan.queue.connections.max(1);
            beside::<postgres::Postgres>(shared, place, side, first, readers)
                .map_err(|why| no_thread(&why))?;
            await_server(&opened, plan.attempt_age_max)?;
        }
    }
    Ok(())
}

// The first attempt to open says whether to go on at all.
fn await_first(opened: &Receiver<Result<(), Trouble>>, patience: Duration) -> Result<(), Trouble> {
    match opened.recv_timeout(patience) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => {
            Err(Trouble::Late(format!("the store could not be opened within {} s", patience.as_secs_f32())))
        }
        Err(RecvTimeoutError::Disconnected) => Err(Trouble::Down("the store's thread ended".to_owned())),
    }
}

// A server that is down may come; one that is not ours does not become ours.
fn await_server(opened: &Receiver<Result<(), Trouble>>, patience: Duration) -> Result<(), Trouble> {
    match await_first(opened, patience) {
        Ok(()) | Err(Trouble::Down(_) | Trouble::Late(_)) => Ok(()),
        Err(trouble @ (Trouble::Foreign(_) | Trouble::Damaged(_) | Trouble::Refused(_))) => Err(trouble),
    }
}

/// All lines on the side thread, for a backend that does not block.
fn beside<B: Backend>(
    shared: &Arc<Shared>,
    place: &B::Place,
    side: &Side,
    first: SyncSender<Result<(), Trouble>>,
    readers: usize,
) -> Result<(), Busy> {
    shared.begin(1 + readers);
    let (writes, writer) = (shared.clone(), place.clone());
    side.spawn(move || lane::write::<B>(writes, writer, first))?;
    for number in 1..=readers {
        let (reads, reader) = (shared.clone(), place.clone());
        side.spawn(move || lane::read::<B>(reads, reader, number))?;
    }
    Ok(())
}

/// A thread for each line, for a backend that blocks.
fn alone<B: Backend>(
    shared: &Arc<Shared>,
    place: &B::Place,
    first: SyncSender<Result<(), Trouble>>,
) -> io::Result<()> {
    shared.begin(2);
    let (writes, writer) = (shared.clone(), place.clone());
    crate::side::thread("store-write", move || lane::write::<B>(writes, writer, first))?;
    let (reads, reader) = (shared.clone(), place.clone());
    crate::side::thread("store-read", move || lane::read::<B>(reads, reader, 1))
}
