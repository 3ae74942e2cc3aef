//! The main thread while the shards work: signals, and the configuration when it changes. It takes no part in the path of
//! a message; what it decides goes to the threads as errands.
use crate::clock::Clock;
use crate::config::diagnostic::Diagnostic;
use crate::config::models::Provider;
use crate::config::{Config, Overrides};
use crate::gateway::{Gateway, Shared};
use crate::serve;
use crate::thread::Thread;
use crate::watch::Watch;
use clawgate_core::id::ShardId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::SIGXFSZ;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

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
    Signals::with_pipe(read, write, SignalOnly, [SIGTERM, SIGINT, SIGHUP])
}

/// The configuration as it is read again and again.
#[derive(Debug)]
pub(crate) struct Source {
    /// What the process was started with: what needs a restart is as it says.
    pub(crate) started: Config,
    pub(crate) overrides: Overrides,
    /// Where we listen, whatever the file says by now.
    pub(crate) bound: Vec<SocketAddr>,
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
    draining: bool,
}

impl Helm {
    pub(crate) fn new(
        shared: Arc<Shared>,
        clock: Clock,
        signals: Signals,
        source: Source,
        gateway: Arc<Gateway>,
    ) -> Self {
        let taken = source.started.clone();
        let file = taken.file.as_ref().map(|file| file.display().to_string());
        shared.reloads.say(|said| said.file = file);
        let watch = None;
        let (unsent, left) = (Vec::new(), Arc::default());
        Self { shared, clock, signals, source, gateway, taken, watch, unsent, left, draining: false }
    }

    /// Steers until all threads are done.
    pub(crate) fn steer(mut self) {
        self.start_watch();
        let handle = self.signals.handle();
        while !handle.is_closed() {
            self.wait();
            for signal in self.signals.pending().collect::<Vec<_>>() {
                match signal {
                    SIGHUP => self.reload("SIGHUP"),
                    _ => self.drain(signal),
                }
            }
            self.look();
            self.offer_again();
        }
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
        let again = (!self.unsent.is_empty()).then(|| now + OFFER_AGAIN);
        let wait = [due, again].into_iter().flatten().min().map(|at| timespec(at.since(now)));
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.get_read().as_fd(), PollFlags::IN)];
        fds.extend(self.watch.as_ref().map(|watch| PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)));
        // Interrupted by a signal: it has written to our pipe.
        let _ = poll(&mut fds, wait.as_ref());
        let stirred = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if stirred && let Some(watch) = &mut self.watch {
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
        if self.draining {
            tracing::info!("the configuration is not read again while we drain");
            return;
        }
        let reloads = &self.shared.reloads;
        match self.source.read(self.taken.file.as_deref(), &self.gateway) {
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
                    said.needs_restart = needs_restart;
                });
                reloads.taken.fetch_add(1, Ordering::Relaxed);
                reloads.taken_at.store(self.clock.now().0, Ordering::Relaxed);
                self.follow(&config);
                self.taken = config;
                self.hand_out(gateway);
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("the last good configuration stays in force: {problem}");
                }
                reloads.refused.fetch_add(1, Ordering::Relaxed);
                reloads.say(|said| said.refusal = problems);
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
    fn drain(&mut self, signal: i32) {
        tracing::info!(signal, "{}", if self.draining { "stopping at once" } else { "draining" });
        let limit = if self.draining { Duration::ZERO } else { self.taken.server.drain_age_max };
        serve::drain(&self.shared, limit, &self.signals.handle());
        self.draining = true;
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
        ("server.watch", old.watch != new.watch),
        ("limits.addressesMax", started.limits.addresses_max != config.limits.addresses_max),
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
        Provider::OpenAi(endpoint) => endpoint.ca_file.clone(),
        Provider::Echo { .. } | Provider::Scripted { .. } => None,
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

fn timespec(duration: Duration) -> Timespec {
    let nanos = i64::from(duration.subsec_nanos());
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: nanos }
}
