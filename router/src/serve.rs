//! The process: listeners bound, a thread for each shard, signals, and the way out.
use crate::cli::Orders;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::server;
use crate::connection::Protocol;
use crate::data::{Folder, Lock, NotOurs};
use crate::driver::{self, Driver, Kind, Wanted};
use crate::gateway::{Gateway, Shared};
use crate::helm::{self, Helm, Source};
use crate::journal::Journal;
use crate::keep::Keeper;
use crate::kept::{self, Kept};
use crate::listen::accept_task;
use crate::thread::{self, Thread};
use crate::{http, net, websocket};
use clawgate_core::event::Event;
use clawgate_core::id::ShardId;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// Connections that the kernel holds for us until we accept them, per listener.
const BACKLOG: i32 = 4_096;
/// How often a taken address is looked at again before it counts as in use, and the wait between: a second in all.
const PROBES_MAX: u32 = 50;
const PROBE_WAIT: Duration = Duration::from_millis(20);
/// How long an end waits for the disk.
const JOURNAL_CLOSE_AGE_MAX: Duration = Duration::from_secs(5);
/// How often a draining thread looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// The exit code of a gateway that could not start.
const COULD_NOT_START: u8 = 3;

/// Runs the gateway until a signal ends it.
pub(crate) fn run(orders: Orders) -> ExitCode {
    // The allocator asks for huge pages, and the kernel then counts two megabytes for each place where a thread keeps a
    // few kilobytes. A kernel that refuses gives more memory than is needed, and nothing worse.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let clock = Clock::start();
    match start(orders, clock) {
        Ok(code) => code,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::from(COULD_NOT_START)
        }
    }
}

fn start(orders: Orders, clock: Clock) -> Result<ExitCode, String> {
    let Orders { config, overrides } = orders;
    let cores = match config.server.shards {
        0 => available_cores(),
        shards => shards,
    };
    let gateway = Arc::new(Gateway::compile(&config, None)?);
    let held = config.data.folder.as_deref().map(hold).transpose()?;
    let mut listeners = bind(&gateway.listen, cores)?;
    let bound: Vec<SocketAddr> =
        listeners[0].iter().filter_map(|listener| net::local_address(listener).ok()).collect();
    let shared = Shared::new(&gateway, cores, clock).map_err(|why| format!("cannot start: {why}"))?;
    let shared = Arc::new(shared);
    let folder = held.as_ref().map(|(folder, _)| folder);
    // Nothing was kept before.
    let _ = shared.kept.set(Kept::open(folder, &config, &gateway, &shared)?);
    let signals = helm::take_signals().map_err(|why| format!("cannot take signals: {why}"))?;
    let wanted = match config.server.driver {
        server::Driver::Auto => Wanted::Auto,
        server::Driver::IoUring => Wanted::IoUring,
        server::Driver::Epoll => Wanted::Epoll,
    };
    let (ready, starting) = channel();
    let restored = Arc::new(Barrier::new(usize::from(cores)));
    let pins = if config.server.pin { allowed_cpus() } else { Vec::new() };
    let mut threads = Vec::new();
    for core in (0..cores).rev() {
        let Some(listeners) = listeners.pop() else { continue };
        let (shared, gateway, ready) = (shared.clone(), gateway.clone(), ready.clone());
        let pin = pins.get(usize::from(core) % pins.len().max(1)).copied();
        let restored = restored.clone();
        let body =
            move || run_thread(ShardId(core), shared, gateway, wanted, pin, listeners, &ready, restored);
        let spawned = std::thread::Builder::new().name(format!("shard-{core}")).spawn(body);
        threads.push(spawned.map_err(|why| format!("cannot start a thread: {why}"))?);
    }
    let mut kind = None;
    // One word from each: the senders live as long as their threads.
    for started in starting.iter().take(usize::from(cores)) {
        kind = Some(started.map_err(|why| format!("the driver cannot be had: {why}"))?);
    }
    announce(&config, &shared, &gateway, &bound, kind.unwrap_or(Kind::Epoll));
    let source = Source { started: config, overrides, bound };
    let shared_to_close = shared.clone();
    Helm::new(shared, clock, signals, source, gateway).steer();
    for thread in threads {
        if thread.join().is_err() {
            return Err("a thread of ours failed".to_owned());
        }
    }
    if let Some(kept) = shared_to_close.kept.get() {
        kept.close();
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Takes the data directory.
fn hold(path: &Path) -> Result<(Folder, Lock), String> {
    let folder = Folder::open(path)?;
    let lock = folder.lock().map_err(|not_ours| match not_ours {
        NotOurs::Unusable(why) => why,
        NotOurs::Held { pid } => {
            format!("the data directory {folder} is in use by the process {pid}: stop it, or take another directory")
        }
    })?;
    Ok((folder, lock))
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

/// One listener per address and thread. All are bound before any accepts, so that a bad address stops the start.
fn bind(addresses: &[SocketAddr], cores: u16) -> Result<Vec<Vec<OwnedFd>>, String> {
    let bad = |address: SocketAddr, why: std::io::Error| {
        format!("cannot listen on {address}: {why}; is it in use? Another one can be given with --listen")
    };
    let mut addresses = addresses.to_vec();
    for address in &addresses {
        probe(*address).map_err(|why| bad(*address, why))?;
    }
    let mut all = Vec::new();
    for _ in 0..cores {
        let mut listeners = Vec::new();
        for address in &mut addresses {
            let listener = net::listen(*address, BACKLOG).map_err(|why| bad(*address, why))?;
            // Port 0 means any: all threads listen on the one that the first got.
            *address = net::local_address(&listener).map_err(|why| why.to_string())?;
            listeners.push(listener);
        }
        all.push(listeners);
    }
    Ok(all)
}

/// Is this address free, or soon? A gateway that was killed may hold it after its end: the kernel lets go of a dead
/// ring's sockets in its own time.
fn probe(address: SocketAddr) -> std::io::Result<()> {
    for _ in 0..PROBES_MAX {
        match net::probe(address) {
            Err(why) if why.kind() == std::io::ErrorKind::AddrInUse => std::thread::sleep(PROBE_WAIT),
            done => return done,
        }
    }
    net::probe(address)
}

fn run_thread(
    id: ShardId,
    shared: Arc<Shared>,
    gateway: Arc<Gateway>,
    wanted: Wanted,
    pin: Option<usize>,
    listeners: Vec<OwnedFd>,
    ready: &Sender<std::io::Result<Kind>>,
    restored: Arc<Barrier>,
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
        kept::begin(thread);
        // What is new must not overtake what was before it, on whichever shard.
        restored.wait();
        for listener in listeners {
            if let Ok(own) = listener.try_clone() {
                thread.listeners.borrow_mut().push(own);
            }
            driver::spawn(accept_task(thread.clone(), listener));
        }
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

/// The most memory, in bytes, that the limits let us take: every bound reached at once.
pub(crate) fn worst_case(gateway: &Gateway, cores: u16) -> u64 {
    let limits = &gateway.limits;
    let core = &limits.core;
    let names = 4 * u64::from(core.name_bytes_max);
    let session = 512 + names + u64::from(core.history_bytes_max) + u64::from(core.context_bytes_max);
    let turn = 512 + names + u64::from(core.text_bytes_max) + u64::from(core.reply_bytes_max);
    let request = (limits.head_bytes_max + limits.body_bytes_max.max(limits.frame_bytes_max)) as u64;
    let connection = 2_048 + limits.outbox_bytes_max as u64 + request;
    let upstream = (limits.upstream_event_bytes_max.max(limits.upstream_body_bytes_max)) as u64 + 64 * 1024;
    let upstreams = gateway.upstreams.len() as u64 + gateway.platforms.len() as u64;
    let thread = 16 * 1024 * 1024;
    u64::from(core.sessions_max) * session
        + u64::from(core.turns_max) * turn
        + u64::from(limits.connections_max) * connection
        + upstreams * u64::from(limits.upstream_connections_max) * upstream
        + u64::from(core.dedup_ids_max) * 64
        + u64::from(core.kept_answer_bytes_max)
        + u64::from(core.kept_answers_max) * 64
        + u64::from(limits.addresses_max) * 16
        + u64::from(cores) * thread
}

fn announce(config: &Config, shared: &Shared, gateway: &Gateway, bound: &[SocketAddr], kind: Kind) {
    let scheme = if gateway.server_tls.is_some() { "https" } else { "http" };
    for address in bound {
        tracing::info!("listening on {scheme}://{address}");
    }
    let gib = (worst_case(gateway, shared.cores()) + shared.keeping_bytes()) as f64 / f64::from(1u32 << 30);
    tracing::info!(
        shards = shared.cores(),
        driver = kind.name(),
        config =
            config.file.as_ref().map_or_else(|| "built in".to_owned(), |file| file.display().to_string()),
        "memory, if every limit is reached at once: {gib:.1} GiB"
    );
    if config.data.folder.is_none() {
        if config.channels.is_empty() {
            tracing::info!("nothing is kept: there is no data directory (`data.folder`)");
        } else {
            tracing::warn!(
                "nothing is kept: what channels were told is accepted is lost when this process ends; set `data.folder`"
            );
        }
    }
    if gateway.keys.is_open() {
        tracing::info!("no keys are configured: whoever can reach this machine's loopback may chat");
    }
    let agents: Vec<_> = config.agents.iter().map(|agent| agent.name.as_str()).collect();
    let channels: Vec<_> = config.channels.iter().map(|channel| channel.name.as_str()).collect();
    tracing::info!(agents = agents.join(", "), channels = channels.join(", "), "ready");
}

/// Tells all threads to drain, at most so long; the last one that is done closes `signals`.
pub(crate) fn drain(shared: &Shared, limit: Duration, signals: &signal_hook::iterator::backend::Handle) {
    for core in 0..shared.cores() {
        let closing = signals.clone();
        let errand = Box::new(move |thread: &Rc<Thread>| {
            begin_drain(thread);
            driver::spawn(drain_task(thread.clone(), limit, closing));
        });
        // Thousands of errands wait only if the thread is stuck: then the second signal's turn has come.
        let _ = shared.mesh.errand(ShardId(core), errand);
    }
}

/// Refuses new messages, and tells clients. Connections are still accepted: who asks for our health hears how it is.
fn begin_drain(thread: &Rc<Thread>) {
    if thread.draining.replace(true) {
        return;
    }
    thread.handle(Event::Drain);
    for connection in thread.all_connections() {
        let is_websocket = matches!(*connection.protocol.borrow(), Protocol::WebSocket(_));
        if is_websocket {
            websocket::drain(thread, &connection);
        } else {
            http::drain(thread, &connection);
        }
    }
}

/// Waits for what runs, at most so long, then ends the thread; the last one ends the process. No thread ends before all
/// are done: another one's requests may need it.
async fn drain_task(thread: Rc<Thread>, limit: Duration, signals: signal_hook::iterator::backend::Handle) {
    let deadline = thread.now() + limit;
    loop {
        thread.touch();
        if thread.shared.is_drained(thread.id, is_quiet(&thread)) || thread.stop.get() {
            break;
        }
        if deadline <= thread.now() {
            let connections = thread.connection_count();
            tracing::warn!(shard = thread.id.0, connections, "the drain's time is up");
            break;
        }
        driver::sleep(DRAIN_LOOK).await;
    }
    for listener in thread.listeners.take() {
        net::shut(&listener);
    }
    close_journal(&thread).await;
    thread.upstreams.cancel_all();
    for connection in thread.all_connections() {
        connection.vanish();
    }
    if !thread.stop.replace(true) && thread.shared.finishing() {
        signals.close();
    }
    thread.touch();
}

/// Waits until what was journalled is on disk and what was saved is in the store. A disk that does not take it is not
/// waited for: what was acknowledged is there already.
async fn close_journal(thread: &Rc<Thread>) {
    let deadline = thread.now() + JOURNAL_CLOSE_AGE_MAX;
    if let Some(journal) = thread.journal.get() {
        journal.close();
    }
    let is_done = || {
        thread.journal.get().is_none_or(Journal::is_closed)
            && thread.keeper.get().is_none_or(Keeper::is_quiet)
    };
    while !is_done() && !thread.stop.get() {
        thread.touch();
        if deadline <= thread.now() {
            tracing::warn!(shard = thread.id.0, "the journal could not be closed in time");
            return;
        }
        driver::sleep(DRAIN_LOOK).await;
    }
}

/// Has this thread nothing left to do?
fn is_quiet(thread: &Thread) -> bool {
    let load = thread.shard.borrow().load();
    let busy = load.waiting + load.ready + load.running + load.backing_off + load.delivering;
    busy == 0 && thread.all_connections().iter().all(|connection| connection.is_quiet())
}
