//! The threads of the process: one for each shard, begun before anything is accepted, and waited for at the end.
use crate::clock::Clock;
use crate::config::{Config, server};
use crate::driver::{self, Driver, Kind, Wanted};
use crate::gateway::{Gateway, Shared};
use crate::kept;
use crate::listen::{accept_last, accept_task};
use crate::mesh::Errand;
use crate::takeover::Listener;
use crate::thread::{self, Thread};
use clawgate_core::id::ShardId;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The threads.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) shared: Arc<Shared>,
    /// The driver that they got.
    pub(crate) kind: Kind,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Begins them; nothing is accepted yet.
    ///
    /// # Errors
    /// No thread, or no driver, in words for the operator.
    pub(crate) fn muster(config: &Config, gateway: &Arc<Gateway>, clock: Clock) -> Result<Self, String> {
        let cores = match config.server.shards {
            0 => available_cores(),
            shards => shards,
        };
        let shared = Shared::new(gateway, cores, clock).map_err(|why| format!("cannot start: {why}"))?;
        let shared = Arc::new(shared);
        let wanted = match config.server.driver {
            server::Driver::Auto => Wanted::Auto,
            server::Driver::IoUring => Wanted::IoUring,
            server::Driver::Epoll => Wanted::Epoll,
        };
        let (ready, starting) = channel();
        let pins = if config.server.pin { allowed_cpus() } else { Vec::new() };
        let mut threads = Vec::new();
        for core in 0..cores {
            let (shared, gateway, ready) = (shared.clone(), gateway.clone(), ready.clone());
            let pin = pins.get(usize::from(core) % pins.len().max(1)).copied();
            let body = move || run_thread(ShardId(core), shared, gateway, wanted, pin, &ready);
            let spawned = std::thread::Builder::new().name(format!("shard-{core}")).spawn(body);
            threads.push(spawned.map_err(|why| format!("cannot start a thread: {why}"))?);
        }
        let mut kind = Kind::Epoll;
        // One word from each: the senders live as long as their threads.
        for started in starting.iter().take(usize::from(cores)) {
            kind = started.map_err(|why| format!("the driver cannot be had: {why}"))?;
        }
        Ok(Self { shared, kind, threads })
    }

    /// Begins the shards with what earlier runs left, gives each thread its listeners, and opens the doors. What waits at
    /// a retired listener is let in, for the last time.
    ///
    /// # Errors
    /// A thread has ended.
    pub(crate) fn open(&self, by_thread: Vec<Vec<OwnedFd>>, retired: Vec<Listener>) -> Result<(), String> {
        // All before any: what one lets in may be for the shard of another, and must not overtake what was before it.
        self.on_each(by_thread.iter().map(|_| Box::new(kept::begin) as Errand))?;
        let mut retired = Some(retired);
        self.on_each(by_thread.into_iter().map(|listeners| {
            let retired = retired.take().unwrap_or_default();
            let open = move |thread: &Rc<Thread>| {
                for listener in listeners {
                    driver::spawn(accept_task(thread.clone(), listener));
                }
                thread.open_doors();
                retired.iter().for_each(|(_, listener)| accept_last(thread, listener));
            };
            Box::new(open) as Errand
        }))
    }

    /// Has each thread run one of these, and waits until all have.
    fn on_each(&self, errands: impl Iterator<Item = Errand>) -> Result<(), String> {
        let (done, doing) = channel::<()>();
        let mut asked = 0;
        for (core, errand) in (0..).zip(errands) {
            let done = done.clone();
            let errand = Box::new(move |thread: &Rc<Thread>| {
                errand(thread);
                let _ = done.send(());
            });
            // Before the doors are open few errands wait: what is asked of the store leaves room for these.
            let sent = self.shared.mesh.errand(ShardId(core), errand);
            sent.map_err(|_| "a thread of ours takes no errand".to_owned())?;
            asked += 1;
        }
        drop(done);
        if doing.iter().count() == asked { Ok(()) } else { Err("a thread of ours failed".to_owned()) }
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    /// One failed.
    pub(crate) fn dismiss(self) -> Result<(), String> {
        let failed = self.threads.into_iter().filter_map(|thread| thread.join().err()).count();
        self.shared.quay.close();
        if let Some(books) = self.shared.books.get() {
            books.close();
        }
        if let Some(kept) = self.shared.kept.get() {
            kept.close();
        }
        if let Some(audit) = self.shared.audit.get() {
            audit.close();
        }
        if failed == 0 { Ok(()) } else { Err("a thread of ours failed".to_owned()) }
    }
}

fn available_cores() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores).unwrap_or(u16::MAX)
}

/// The processors that we may run on: a container may have been given some of the machine's.
fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

fn run_thread(
    id: ShardId,
    shared: Arc<Shared>,
    gateway: Arc<Gateway>,
    wanted: Wanted,
    pin: Option<usize>,
    ready: &Sender<std::io::Result<Kind>>,
) {
    if let Some(cpu) = pin {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        if let Err(why) = rustix::thread::sched_setaffinity(None, &set) {
            tracing::warn!(shard = id.0, %why, "the thread is not pinned");
        }
    }
    // A ring with a single issuer is built by the thread that uses it.
    let driver = match Driver::build(wanted) {
        Ok(driver) => driver,
        Err(why) => {
            // Whoever started us has gone only if another thread failed before.
            let _ = ready.send(Err(why));
            return;
        }
    };
    let kind = driver.kind();
    let _ = shared.drivers[usize::from(id.0)].set(kind.name());
    let thread = Thread::new(id, shared, gateway);
    let ready = ready.clone();
    thread::run(driver, &thread, move |thread| {
        driver::spawn(sweep_task(thread.clone()));
        let _ = ready.send(Ok(kind));
    });
}

/// Closes upstream connections that nobody used for long.
async fn sweep_task(thread: Rc<Thread>) {
    loop {
        let age_max = thread.gateway().limits.upstream_idle_age_max;
        driver::sleep(age_max.max(Duration::from_secs(1))).await;
        thread.touch();
        thread.upstreams.sweep(thread.now(), age_max);
    }
}
