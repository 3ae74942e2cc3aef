//! Servers of tools (Model Context Protocol), spoken to through the official SDK on a side thread of their own.
//!
//! A shard hands a call over and hears what came of it by an errand; it never waits for a server, and neither does the
//! store, which has another side thread. [`life`] starts a server, asks whether it lives, and starts it again; [`stdio`]
//! and [`web`] are the two ways to speak to one; [`meter`] bounds what it may say; [`said`] is what models are told.
mod life;
mod meter;
mod said;
mod stdio;
mod web;

use super::schema::Schema;
use super::tool::{Outcome, Refusal};
use crate::clock::Clock;
use crate::config::mcp::{self as settings, Mcp as Settings, Way};
use crate::config::secret::Secret;
use crate::gateway::Shared;
use crate::side::Side;
use crate::signal::Signal;
use crate::thread::Thread;
use clawgate_core::codes::Code;
use clawgate_core::id::ShardId;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Ended, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Calls that wait until the side thread takes them, of one server.
const WAITING_MAX: usize = 256;
/// How long the end waits for servers to be gone; each is killed long before.
const CLOSE_AGE_MAX: Duration = Duration::from_secs(10);
/// When an errand is offered again that a shard had no room for.
const OFFER_AGAIN: Duration = Duration::from_millis(5);

/// A tool as its server lists it.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Its name at the server.
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) parameters: Arc<Schema>,
}

/// What a server lists; replaced as a whole.
pub(crate) type List = Arc<[Listed]>;

/// How a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is started, or connected to.
    #[default]
    Starting,
    /// Its tools can be called.
    Up,
    /// It failed, and is started again after a while.
    Down(String),
}

/// Why a server was stopped, or never came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It did not start, or would not say which tools it has.
    Start,
    /// It ended, or closed the connection.
    Ended,
    /// It did not say that it lives.
    Hung,
    /// It said more than it may.
    Flooded,
}

impl Reason {
    const ALL: [Self; 4] = [Self::Start, Self::Ended, Self::Hung, Self::Flooded];

    /// Its name in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Ended => "ended",
            Self::Hung => "hung",
            Self::Flooded => "flooded",
        }
    }
}

/// How a server is, for all threads. Locks are held for the length of a copy.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    phase: Mutex<Phase>,
    list: Mutex<List>,
    starts: AtomicU64,
    failures: [AtomicU64; Reason::ALL.len()],
}

impl Standing {
    /// How it is.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it lists, or listed when it was last up.
    pub(crate) fn list(&self) -> List {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it came up.
    pub(crate) fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// How often it failed, by why.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.failures.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    fn is(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn lists(&self, list: List) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }

    fn failed(&self, reason: Reason, why: String) {
        self.failures[reason as usize].fetch_add(1, Ordering::Relaxed);
        self.is(Phase::Down(why));
    }

    fn came_up(&self) {
        self.starts.fetch_add(1, Ordering::Relaxed);
        self.is(Phase::Up);
    }
}

/// A server. It is stopped when the last configuration that has it is gone.
pub(crate) struct Server {
    pub(crate) name: Arc<str>,
    pub(crate) settings: Settings,
    pub(crate) standing: Arc<Standing>,
    tls: Arc<rustls::ClientConfig>,
    calls: mpsc::Sender<Call>,
    /// Until it is begun.
    coming: Mutex<Option<mpsc::Receiver<Call>>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.name)
    }
}

impl Server {
    /// A server that is not begun yet.
    pub(crate) fn new(name: &str, settings: &Settings, tls: Arc<rustls::ClientConfig>) -> Self {
        let (calls, coming) = mpsc::channel(WAITING_MAX);
        Self {
            name: name.into(),
            settings: settings.clone(),
            standing: Arc::default(),
            tls,
            calls,
            coming: Mutex::new(Some(coming)),
        }
    }

    /// What must not be told to anybody.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let (Way::Stdio(settings::Stdio { env: named, .. })
        | Way::Http(settings::Http { headers: named, .. })) = &self.settings.way;
        named.iter().map(|(_, value)| value.clone()).collect()
    }

    /// The most memory that what it says takes.
    pub(crate) fn bytes_max(&self) -> u64 {
        let limits = &self.settings.limits;
        let tool = limits.description_bytes_max + 2 * super::schema::SCHEMA_BYTES_MAX;
        // A message as it was read, and as it was understood.
        (limits.tools_max * tool + 4 * limits.message_bytes_max) as u64
    }
}

/// A call on its way to a server.
struct Call {
    tool: String,
    arguments: Map<String, Value>,
    output_bytes_max: usize,
    answer: Answer,
    /// Ready when nobody waits for it any more.
    gone: oneshot::Receiver<()>,
}

/// The way back to the thread that waits.
struct Answer {
    shared: Arc<Shared>,
    core: ShardId,
    key: u64,
}

impl Answer {
    /// Brings what came of the call to where it is waited for.
    async fn give(self, outcome: Outcome, gone: &mut oneshot::Receiver<()>) {
        let Self { shared, core, key } = self;
        let mut errand: crate::mesh::Errand =
            Box::new(move |thread: &Rc<Thread>| thread.asked.hear(thread, key, outcome));
        while let Err(refused) = shared.mesh.errand(core, errand) {
            errand = refused;
            // A shard that has thousands waiting; whoever asked gives up at its own deadline.
            tokio::select! {
                () = tokio::time::sleep(OFFER_AGAIN) => {}
                _ = &mut *gone => return,
            }
        }
    }
}

/// What a call says when it is done; `None` inside if it was cancelled.
pub(super) type Slot = Rc<Cell<Option<Option<Outcome>>>>;

/// The calls whose outcome a thread waits for.
#[derive(Default)]
pub(crate) struct Asked {
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, (Slot, Rc<Signal>)>>,
}

impl Asked {
    fn hear(&self, thread: &Thread, key: u64, outcome: Outcome) {
        thread.touch();
        let waiter = self.waiting.borrow_mut().remove(&key);
        let Some((slot, bell)) = waiter else { return };
        slot.set(Some(Some(outcome)));
        bell.raise();
    }
}

/// Somebody waits for the outcome of a call; it is given up when this goes.
pub(super) struct Waiting {
    thread: Rc<Thread>,
    key: u64,
    _gone: oneshot::Sender<()>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.thread.asked.waiting.borrow_mut().remove(&self.key);
    }
}

/// A tool of a server.
#[derive(Debug)]
pub(crate) struct McpTool {
    pub(crate) server: Arc<Server>,
    /// Its name at the server.
    pub(crate) name: String,
}

impl McpTool {
    /// Hands a call over: `slot` will hold what came of it, and the bell rings.
    ///
    /// # Errors
    /// Too many calls wait.
    pub(super) fn call(
        &self,
        thread: &Rc<Thread>,
        arguments: &Map<String, Value>,
        output_bytes_max: usize,
        (slot, bell): (&Slot, &Rc<Signal>),
    ) -> Result<Waiting, Refusal> {
        let asked = &thread.asked;
        let key = asked.next.get();
        asked.next.set(key.wrapping_add(1));
        let (gone_sender, gone) = oneshot::channel();
        let answer = Answer { shared: thread.shared.clone(), core: thread.id, key };
        let (tool, arguments) = (self.name.clone(), arguments.clone());
        let call = Call { tool, arguments, output_bytes_max, answer, gone };
        asked.waiting.borrow_mut().insert(key, (slot.clone(), bell.clone()));
        let waiting = Waiting { thread: thread.clone(), key, _gone: gone_sender };
        match self.server.calls.try_send(call) {
            Ok(()) => Ok(waiting),
            Err(_) => {
                let why = format!("too many calls wait for the server {}; try again later", self.server.name);
                Err(Refusal::new(Code::ToolUnavailable, why))
            }
        }
    }
}

/// The side thread of the servers, begun when the first of them is.
#[derive(Debug, Default)]
pub(crate) struct Quay(OnceLock<Option<Running>>);

/// A side thread with servers on it.
#[derive(Debug)]
struct Running {
    side: Side,
    stop: watch::Sender<bool>,
    /// Each server holds one while it lives.
    alive: Mutex<Option<SyncSender<()>>>,
    ended: Mutex<Ended<()>>,
}

impl Running {
    fn start() -> Option<Self> {
        let side = Side::start_named("mcp");
        let side = side.map_err(|why| tracing::error!(%why, "no thread can be had for MCP servers")).ok()?;
        let (alive, ended) = sync_channel(1);
        let stop = watch::channel(false).0;
        Some(Self { side, stop, alive: Mutex::new(Some(alive)), ended: Mutex::new(ended) })
    }
}

impl Quay {
    /// Begins a server, if it is not begun.
    pub(crate) fn begin(&self, server: &Server, clock: Clock) {
        let Some(running) = self.0.get_or_init(Running::start) else { return };
        let alive = running.alive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let coming = server.coming.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(alive), Some(coming)) = (alive, coming) else { return };
        let life = life::Life {
            name: server.name.clone(),
            settings: server.settings.clone(),
            standing: server.standing.clone(),
            tls: server.tls.clone(),
            clock,
        };
        let stop = running.stop.subscribe();
        let begin = move || async move {
            life.live(coming, stop).await;
            drop(alive);
        };
        if let Err(why) = running.side.spawn(begin) {
            tracing::error!(server = %server.name, %why, "the MCP server is not started");
            server.standing.failed(Reason::Start, format!("{why}: restart the gateway"));
        }
    }

    /// Stops all servers, and waits until their processes are gone.
    pub(crate) fn close(&self) {
        let Some(Some(running)) = self.0.get() else { return };
        drop(running.alive.lock().unwrap_or_else(PoisonError::into_inner).take());
        running.stop.send_replace(true);
        let ended = running.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(ended.recv_timeout(CLOSE_AGE_MAX), Err(RecvTimeoutError::Timeout)) {
            tracing::error!("not all MCP servers could be stopped");
        }
    }
}
