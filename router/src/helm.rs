//! The main thread while the shards work: signals, the configuration when it changes, and another process that takes our
//! place. It takes no part in the path of a message; what it decides goes to the threads as errands.
use crate::api::reload;
use crate::cli::TAKEOVER;
use crate::clock::Clock;
use crate::config::changes::changes;
use crate::config::diagnostic::Diagnostic;
use crate::config::mcp::Way;
use crate::config::models::Provider;
use crate::config::tools::Kind;
use crate::config::{Config, Overrides};
use crate::data::Folder;
use crate::drain::{self, Parting};
use crate::gateway::{Gateway, Shared};
use crate::reload::{Asker, Verdict};
use crate::sockets::INHERITED_VARIABLE;
use crate::takeover::{self, Door, Heard, Line, Listener, READY};
use crate::thread::Thread;
use crate::tools::audit::Audit;
use crate::watch::Watch;
use clawgate_core::id::ShardId;
use clawgate_core::time::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::SIGXFSZ;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How long a process that wants our place may take to be ready, while we work on.
const READY_AGE_MAX: Duration = Duration::from_secs(60);
/// When an errand is offered again that a thread had no room for.
const OFFER_AGAIN: Duration = Duration::from_millis(10);
/// Problems of a configuration that are told; the rest is counted.
const PROBLEMS_TOLD: usize = 20;

/// The signals that we act on.
pub(crate) type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// Begins to take signals.
///
/// # Errors
/// The kernel's word.
pub(crate) fn take_signals() -> io::Result<Signals> {
    // A file that may grow no more (`ulimit -f`) is an error that we answer, and not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let (read, write) = UnixStream::pair()?;
    Signals::with_pipe(read, write, SignalOnly, [SIGTERM, SIGINT, SIGHUP, SIGUSR2])
}

/// The configuration as it is read again and again.
#[derive(Debug)]
pub(crate) struct Source {
    /// What the process was started with: what needs a restart is as it says.
    pub(crate) started: Config,
    pub(crate) overrides: Overrides,
    /// Where we listen, whatever the file says by now.
    pub(crate) bound: Vec<SocketAddr>,
    /// Where our program lies, or a newer one by now.
    pub(crate) program: Option<PathBuf>,
}

/// How steering ended: all threads are done.
#[derive(Debug)]
pub(crate) enum End {
    /// Nobody goes on.
    Stopped,
    /// This process goes on, as soon as the data directory is free.
    HandOver(Line),
}

/// What is left when steering has ended.
#[derive(Debug)]
pub(crate) struct Steered {
    pub(crate) end: End,
    /// Our own handles of the listeners.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) signals: Signals,
}

/// A process that wants our place.
#[derive(Debug)]
struct Successor {
    line: Line,
    /// It is ready, and we drain. Until then we work on, and not for longer than `until`.
    ready: bool,
    until: Time,
}

/// The main thread.
#[derive(Debug)]
pub(crate) struct Helm {
    shared: Arc<Shared>,
    clock: Clock,
    signals: Signals,
    source: Source,
    gateway: Arc<Gateway>,
    /// The configuration that was last taken.
    taken: Config,
    watch: Option<Watch>,
    /// What a thread had no room for, by thread, and how many threads have yet to take it on.
    unsent: Vec<ShardId>,
    left: Arc<AtomicU16>,
    /// Who asked for a reload, and what he is told once the configuration of this number is in force.
    owed: Vec<(Asker, u64, Arc<Verdict>)>,
    door: Option<Door>,
    /// What a process that takes our place is given.
    listeners: Vec<Listener>,
    successor: Option<Successor>,
    /// The one that we started, until it has ended.
    child: Option<Child>,
    draining: bool,
    /// We were told to stop, whoever goes on.
    stopping: bool,
}

impl Helm {
    pub(crate) fn new(
        shared: Arc<Shared>,
        clock: Clock,
        signals: Signals,
        source: Source,
        gateway: Arc<Gateway>,
        (door, listeners): (Option<Door>, Vec<Listener>),
    ) -> Self {
        let taken = source.started.clone();
        let file = taken.file.as_ref().map(|file| file.display().to_string());
        shared.reloads.say(|said| said.file = file);
        Self {
            shared,
            clock,
            signals,
            source,
            gateway,
            taken,
            watch: None,
            unsent: Vec::new(),
            left: Arc::default(),
            owed: Vec::new(),
            door,
            listeners,
            successor: None,
            child: None,
            draining: false,
            stopping: false,
        }
    }

    /// Steers until all threads are done.
    pub(crate) fn steer(mut self) -> Steered {
        self.start_watch();
        let handle = self.signals.handle();
        while !handle.is_closed() {
            self.wait();
            for signal in self.signals.pending().collect::<Vec<_>>() {
                match signal {
                    SIGHUP => self.reload("SIGHUP"),
                    SIGUSR2 => self.start_successor(),
                    _ => self.stop(signal),
                }
            }
            self.look();
            self.offer_again();
            self.answer_owed();
            self.meet_successor();
            self.hear_successor();
        }
        let ready = self.successor.filter(|successor| successor.ready);
        let end = ready.map_or(End::Stopped, |successor| End::HandOver(successor.line));
        Steered { end, listeners: self.listeners, signals: self.signals }
    }

    fn start_watch(&mut self) {
        if !self.taken.server.watch || self.taken.file.is_none() {
            return;
        }
        match Watch::start(&files_of(&self.taken)) {
            Ok(watch) => self.watch = Some(watch),
            Err(why) => {
                tracing::warn!(%why, "changes of the configuration's files will not be noticed: send SIGHUP after a change");
                return;
            }
        }
        // What was read before the watch began may have been changed in between.
        if Config::open(self.taken.file.as_deref(), &self.source.overrides).ok().as_ref() != Some(&self.taken)
        {
            self.reload("its file changed");
        }
    }

    /// Waits until there is something to do.
    fn wait(&mut self) {
        let now = self.clock.now();
        let due = self.watch.as_ref().and_then(Watch::due);
        let again = (!self.unsent.is_empty() || !self.owed.is_empty()).then(|| now + OFFER_AGAIN);
        let until = self.successor.as_ref().filter(|successor| !successor.ready).map(|it| it.until);
        let wait = [due, again, until].into_iter().flatten().min().map(|at| timespec(at.since(now)));
        let (watch, door) = (self.watch.as_ref().map(Watch::fd), self.door.as_ref().map(Door::fd));
        let line = self.successor.as_ref().map(|successor| successor.line.fd());
        let all = [Some(self.signals.get_read().as_fd()), watch, door, line];
        let mut fds: Vec<_> =
            all.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // Interrupted by a signal: it has written to our pipe. What is readable is asked one by one.
        let _ = poll(&mut fds, wait.as_ref());
        if let Some(watch) = &mut self.watch {
            watch.hear(self.clock.now());
        }
    }

    fn look(&mut self) {
        let now = self.clock.now();
        if let Some(watch) = self.watch.as_mut().filter(|watch| watch.due().is_some_and(|due| due <= now))
            && watch.look()
        {
            self.reload("its file changed");
        }
    }

    /// Reads the configuration again. One that is not right changes nothing.
    fn reload(&mut self, why: &str) {
        let askers = self.shared.reloads.askers();
        let verdict = Arc::new(self.read_again(if askers.is_empty() { why } else { "asked by the API" }));
        let from = match &*verdict {
            Verdict::Taken { generation, .. } => *generation,
            Verdict::Refused(_) | Verdict::Draining => 0,
        };
        self.owed.extend(askers.into_iter().map(|asker| (asker, from, verdict.clone())));
    }

    /// Tells who asked for a reload what came of it.
    fn answer_owed(&mut self) {
        let (shared, in_force) = (&self.shared, self.shared.reloads.in_force.load(Ordering::Acquire));
        self.owed.retain(|(asker, from, verdict)| {
            let (place, told) = (asker.place, verdict.clone());
            let errand = Box::new(move |thread: &Rc<Thread>| reload::answer(thread, place, &told));
            in_force < *from || shared.mesh.errand(asker.core, errand).is_err()
        });
    }

    fn read_again(&mut self, why: &str) -> Verdict {
        if self.draining {
            tracing::info!("the configuration is not read again while we drain");
            return Verdict::Draining;
        }
        let reloads = &self.shared.reloads;
        let read = self.source.read(self.taken.file.as_deref(), &self.gateway);
        let kept = read.and_then(|(config, gateway)| {
            self.source.audit(&self.shared, &config).map_err(|why| vec![why])?;
            Ok((config, gateway))
        });
        match kept {
            Ok((config, gateway)) => {
                let needs_restart = needs_restart(&self.source.started, &config);
                tracing::info!(why, generation = gateway.generation, "the configuration was read again");
                for key in &needs_restart {
                    tracing::warn!("{key} changed: that needs a restart, and the rest is applied");
                }
                for warning in &config.warnings {
                    tracing::warn!("{}", in_a_line(warning));
                }
                reloads.say(|said| {
                    said.refusal.clear();
                    said.needs_restart.clone_from(&needs_restart);
                });
                let verdict = Verdict::Taken {
                    generation: gateway.generation,
                    changed: changes(&self.taken, &config),
                    needs_restart,
                    warnings: config.warnings.iter().map(in_a_line).collect(),
                };
                reloads.taken.fetch_add(1, Ordering::Relaxed);
                reloads.taken_at.store(self.clock.now().0, Ordering::Relaxed);
                self.follow(&config);
                self.taken = config;
                self.hand_out(gateway);
                verdict
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("the last good configuration stays in force: {problem}");
                }
                reloads.refused.fetch_add(1, Ordering::Relaxed);
                reloads.say(|said| said.refusal.clone_from(&problems));
                Verdict::Refused(problems)
            }
        }
    }

    fn follow(&mut self, config: &Config) {
        if let Some(watch) = &mut self.watch
            && let Err(why) = watch.follow(&files_of(config))
        {
            tracing::warn!(%why, "not all files of the configuration are watched: send SIGHUP after a change");
        }
    }

    /// Gives all threads another configuration.
    fn hand_out(&mut self, gateway: Arc<Gateway>) {
        // New servers begin before anybody may call them; those that are gone end with the last turn that knows them.
        gateway.tools.begin_servers(&self.shared.quay, self.clock);
        self.gateway = gateway;
        self.left = Arc::new(AtomicU16::new(self.shared.cores()));
        self.unsent = (0..self.shared.cores()).map(ShardId).collect();
        self.offer_again();
    }

    fn offer_again(&mut self) {
        let (shared, gateway, left) = (&self.shared, &self.gateway, &self.left);
        self.unsent.retain(|core| {
            let (gateway, left) = (gateway.clone(), left.clone());
            let errand = Box::new(move |thread: &Rc<Thread>| thread.reconfigure(&gateway, &left));
            shared.mesh.errand(*core, errand).is_err()
        });
    }

    /// Drains at the first signal, and stops at once at the second.
    fn stop(&mut self, signal: i32) {
        tracing::info!(signal, "{}", if self.draining { "stopping at once" } else { "draining" });
        let limit = if self.draining { Duration::ZERO } else { self.taken.server.drain_age_max };
        drain::begin(&self.shared, Parting::Stop, limit, &self.signals.handle());
        (self.draining, self.stopping) = (true, true);
    }

    /// Starts the program anew, as it lies on the disk by now, to take our place.
    fn start_successor(&mut self) {
        let Some(program) = self.source.program.as_ref().filter(|_| self.door.is_some()) else {
            tracing::error!("a restart by SIGUSR2 needs `data.folder`: set it, and restart once without");
            return;
        };
        let mut command = Command::new(program);
        command.args(std::env::args_os().skip(1).filter(|argument| argument != TAKEOVER)).arg(TAKEOVER);
        command.env_remove(INHERITED_VARIABLE).stdin(Stdio::null());
        match command.spawn() {
            Ok(child) => {
                tracing::info!(pid = child.id(), "started a process to take our place");
                self.child = Some(child);
            }
            Err(why) => tracing::error!("{} cannot be started: {why}; we go on", program.display()),
        }
    }

    /// Somebody asks at the control socket.
    fn meet_successor(&mut self) {
        while let Some(line) = self.door.as_ref().and_then(Door::hear) {
            match &self.successor {
                Some(other) => {
                    let _ = line.say(&format!("busy {}", other.line.pid));
                }
                None => {
                    let until = self.clock.now() + READY_AGE_MAX;
                    self.successor = Some(Successor { line, ready: false, until });
                }
            }
        }
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
    }

    fn hear_successor(&mut self) {
        let Some(successor) = &self.successor else { return };
        match successor.line.hear().0 {
            Heard::Nothing if successor.ready || self.clock.now() < successor.until => {}
            Heard::Said(text) if takeover::is_ask(&text) && !successor.ready => {
                let limit = self.taken.server.drain_age_max;
                if !successor.line.give_listeners(&self.listeners, limit) {
                    self.lose_successor();
                }
            }
            Heard::Said(text) if text == READY && !successor.ready => self.hand_over(),
            Heard::Said(text) => {
                // A later version, perhaps.
                let _ = successor.line.say("no: we do not know these words");
                tracing::warn!(pid = successor.line.pid, "a process at the control socket says {text:?}");
                self.lose_successor();
            }
            Heard::Nothing | Heard::Gone => self.lose_successor(),
        }
    }

    /// It is ready: connections wait from here on, and we drain.
    fn hand_over(&mut self) {
        let Some(successor) = &mut self.successor else { return };
        successor.ready = true;
        tracing::info!(pid = successor.line.pid, "another process takes over: draining");
        let limit = self.taken.server.drain_age_max;
        drain::begin(&self.shared, Parting::HandOver, limit, &self.signals.handle());
        self.draining = true;
    }

    /// It has ended: we go on, if it is not too late.
    fn lose_successor(&mut self) {
        let Some(successor) = self.successor.take() else { return };
        let pid = successor.line.pid;
        if !successor.ready {
            tracing::warn!(pid, "the process that was to take over is gone: we go on");
        } else if self.stopping {
            tracing::warn!(pid, "the process that was to take over is gone, and we were told to stop");
        } else if drain::call_off(&self.shared) {
            self.draining = false;
            tracing::warn!(pid, "the process that was to take over is gone: we accept again");
        } else {
            // All threads are done: the end finds the line cut, and begins anew.
            self.successor = Some(successor);
        }
    }
}

impl Source {
    /// Reads and compiles, or says all that is wrong.
    fn read(&self, file: Option<&Path>, before: &Gateway) -> Result<(Config, Arc<Gateway>), Vec<String>> {
        let config = Config::open(file, &self.overrides).map_err(|problems| told(&problems))?;
        check_reach(&config, &self.bound).map_err(|problem| vec![problem])?;
        let gateway = Gateway::compile(&config, Some(before)).map_err(|problem| vec![problem])?;
        Ok((config, Arc::new(gateway)))
    }

    /// Lets the audit log go on as this configuration has it; it is opened where it was not needed before. One that is off
    /// stays open: calls that run still write to it.
    fn audit(&self, shared: &Shared, config: &Config) -> Result<(), String> {
        let Some(plan) = &config.audit else { return Ok(()) };
        if let Some(audit) = shared.audit.get() {
            audit.follow(plan);
            return Ok(());
        }
        // One that was not there at the start waits for a restart, and until then tools are refused.
        let Some(path) = &self.started.data.folder else { return Ok(()) };
        let audit = Audit::start(&Folder::open(path)?, plan)?;
        // Nobody else sets it.
        let _ = shared.audit.set(Arc::new(audit));
        Ok(())
    }
}

/// The configuration was checked against the addresses that it names: we may still listen on others.
fn check_reach(config: &Config, bound: &[SocketAddr]) -> Result<(), String> {
    let far = bound.iter().find(|address| !address.ip().to_canonical().is_loopback());
    match far {
        Some(address) if config.keys.is_empty() => Err(format!(
            "without keys anyone could use the gateway, which others reach at {address} until it is restarted: keep a key"
        )),
        Some(address) if config.server.tls.is_none() && !config.server.insecure => Err(format!(
            "without TLS keys could be read on the way to {address}, where we listen until a restart: keep `server.tls`"
        )),
        Some(_) | None => Ok(()),
    }
}

/// What changed that the running process cannot follow.
fn needs_restart(started: &Config, config: &Config) -> Vec<&'static str> {
    let (old, new) = (&started.server, &config.server);
    [
        ("server.listen", old.listen != new.listen),
        ("server.shards", old.shards != new.shards),
        ("server.pin", old.pin != new.pin),
        ("server.driver", old.driver != new.driver),
        ("data.folder", started.data != config.data),
        ("journal", started.journal != config.journal),
        ("store", started.store != config.store),
        ("server.watch", old.watch != new.watch),
        ("limits.addressesMax", started.limits.addresses_max != config.limits.addresses_max),
        ("limits.usageRowsMax", started.limits.usage_rows_max != config.limits.usage_rows_max),
        ("limits.usageDaysMax", started.limits.usage_days_max != config.limits.usage_days_max),
        ("session.identityLinks", started.accounts != config.accounts),
        ("logging", started.logging != config.logging),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

/// Every file that the configuration is made of.
fn files_of(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    if let Some(file) = &config.file {
        files.push(file.clone());
        files.push(file.parent().unwrap_or(Path::new("")).join(".env"));
    }
    if let Some(tls) = &config.server.tls {
        files.extend([tls.cert.clone(), tls.key.clone()]);
    }
    files.extend(config.models.iter().filter_map(|model| match &model.provider {
        Provider::Remote(remote) => remote.ca_file.clone(),
        Provider::Endpoint(endpoint) => endpoint.ca_file.clone(),
        Provider::Echo { .. } | Provider::Scripted { .. } | Provider::Workers(_) => None,
    }));
    files.extend(config.tools.iter().filter_map(|tool| match &tool.kind {
        Kind::Http(http) => http.ca_file.clone(),
        Kind::Mcp(server) => match &server.way {
            Way::Http(http) => http.ca_file.clone(),
            Way::Stdio(_) => None,
        },
        Kind::Time => None,
    }));
    files
}

/// The problems, as lines of the log; the source's own lines are left out.
fn told(problems: &[Diagnostic]) -> Vec<String> {
    let mut lines: Vec<_> = problems.iter().take(PROBLEMS_TOLD).map(in_a_line).collect();
    if let Some(more) = problems.len().checked_sub(PROBLEMS_TOLD).filter(|more| *more != 0) {
        lines.push(format!("and {more} more: `clawgate check` tells all"));
    }
    lines
}

fn in_a_line(problem: &Diagnostic) -> String {
    let place = &problem.place;
    let line = if place.line == 0 { String::new() } else { format!(":{}:{}", place.line, place.column) };
    format!("{}{line}: {}; {}", place.source.display(), problem.message, problem.help)
}

/// A duration as the kernel takes it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    let nanos = i64::from(duration.subsec_nanos());
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: nanos }
}
