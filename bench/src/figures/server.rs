//! A server's process: started, waited for, measured through `/proc`, and ended. Owns the child; when it is dropped the
//! process is gone. Knows no protocol.
use super::Setup;
use super::ask::{Metrics, is_well, metrics};
use crate::floor::append::Policy;
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The gateway.
    pub gateway: PathBuf,
    /// The epoll floor.
    pub floor_epoll: PathBuf,
    /// The floor of tokio-tungstenite.
    pub floor_tungstenite: PathBuf,
    /// The floor of hyper.
    pub floor_hyper: PathBuf,
    /// The load generator, for loads that a server refuses.
    pub loadgen: PathBuf,
}

/// On which processors server and load run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// Wherever the system puts them.
    #[default]
    None,
    /// The server on the first that we may use, the load on the second.
    Apart,
    /// Both on the first: no cache line crosses, and nothing sleeps while the other works.
    Together,
}

impl Pin {
    /// The processors of the server, and those of the load.
    fn processors(self) -> Result<Option<(CpuSet, CpuSet)>, String> {
        let allowed =
            sched_getaffinity(None).map_err(|why| format!("the processors that we may use: {why}"))?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let only = |cpu: usize| {
            let mut set = CpuSet::new();
            set.set(cpu);
            set
        };
        let first = usable.next().map(only).ok_or("no processor may be used")?;
        match self {
            Self::None => Ok(None),
            Self::Together => Ok(Some((first, first))),
            Self::Apart => match usable.next() {
                Some(second) => Ok(Some((first, only(second)))),
                None => Err("--pin apart needs two processors".to_owned()),
            },
        }
    }

    /// Runs `start` where servers run, and puts the calling thread where the load runs.
    fn around<R>(self, start: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
        let put = |set: &CpuSet| sched_setaffinity(None, set).map_err(|why| format!("--pin: {why}"));
        // A thread that is confined already would see only its own processors: widen first.
        let mut all = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        if self != Self::None {
            put(&all)?;
        }
        let Some((server, load)) = self.processors()? else { return start() };
        put(&server)?;
        let started = start();
        put(&load)?;
        started
    }
}

/// How long a server may take until it answers; what earlier runs left may be much to read.
const READY_MAX: Duration = Duration::from_secs(120);
/// Between two attempts to connect to a server that is starting, at the least; and the share of the time so far.
const READY_PAUSE: Duration = Duration::from_micros(200);
const READY_PAUSE_SHARE: u32 = 200;
/// Between two looks at whether all that was said is also kept.
const CAUGHT_UP_PAUSE: Duration = Duration::from_millis(20);
/// How long the store may take for that.
const CAUGHT_UP_MAX: Duration = Duration::from_secs(120);
/// How long a new configuration may take.
const RELOAD_MAX: Duration = Duration::from_secs(10);

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    /// Its name in the tables.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// When its process was asked for.
    pub started: Instant,
    child: Child,
    folder: Folder,
    /// What a gateway was told.
    config: Value,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; nobody is left to be told.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The epoll floor; with `http` it answers requests instead of echoing.
    ///
    /// # Errors
    /// Why it does not run.
    pub fn floor_epoll(setup: &Setup, http: bool) -> Result<Self, String> {
        let mut command = Command::new(&setup.programs.floor_epoll);
        if http {
            command.arg("--http");
        }
        Self::start("floor-epoll", command, setup.pin, Folder::new()?)
    }

    /// The epoll floor that answers a request once it has appended it to a file.
    ///
    /// # Errors
    /// Why it does not run.
    pub fn floor_appending(setup: &Setup, policy: Policy) -> Result<Self, String> {
        let folder = Folder::new()?;
        let mut command = Command::new(&setup.programs.floor_epoll);
        command.arg("--http").arg("--append").arg(folder.path().join("append"));
        command.arg("--sync").arg(policy.name());
        Self::start("floor-epoll, appending", command, setup.pin, folder)
    }

    /// The floor of tokio-tungstenite.
    ///
    /// # Errors
    /// Why it does not run.
    pub fn floor_tungstenite(setup: &Setup) -> Result<Self, String> {
        let command = Command::new(&setup.programs.floor_tungstenite);
        Self::start("floor-tungstenite", command, setup.pin, Folder::new()?)
    }

    /// The gateway, with the agent `echo` and without limits on rates. `more` names sections of its configuration and
    /// what to put into them.
    ///
    /// # Errors
    /// Why it does not run.
    pub fn gateway(setup: &Setup, shards: u16, more: &[(&str, Value)]) -> Result<Self, String> {
        let unlimited = json!({ "requests": 0 });
        let mut config = json!({
            "server": { "shards": shards, "pin": setup.pin != Pin::None },
            "rate": { "key": unlimited, "address": unlimited },
            "limits": { "connectionsPerAddressMax": 0, "connectionsMax": 30_000, "subscribersMax": 30_000 },
            "models": { "echo": { "provider": "echo" } },
            // A closed loop of 64 x 16 is more than may wait by default.
            "agents": { "main": {
                "models": ["echo"], "history": false, "waitingMax": 100_000, "waitTargetMillis": 0,
            } },
            "route": "main",
        });
        if !setup.driver.is_empty() {
            config["server"]["driver"] = setup.driver.as_str().into();
        }
        more.iter().for_each(|(section, value)| merge(&mut config, section, value));
        let folder = Folder::new()?;
        let file = folder.write_config(&config)?;
        let mut command = Command::new(&setup.programs.gateway);
        command.arg("--config").arg(&file).arg("serve");
        let mut server = Self::start("clawgate", command, setup.pin, folder)?;
        server.config = config;
        Ok(server)
    }

    /// Changes these keys of sections of the gateway's configuration, and waits until it goes by that.
    ///
    /// # Errors
    /// What stood in the way.
    pub fn reconfigure(&mut self, more: &[(&str, Value)]) -> Result<(), String> {
        let reloads = |metrics: &Metrics, how| metrics.sum_of("config_reloads_total", how);
        let before = metrics(self.address)?;
        more.iter().for_each(|(section, keys)| merge(&mut self.config, section, keys));
        self.folder.write_config(&self.config)?;
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::HUP).map_err(|why| format!("{}: {why}", self.name))?;
        let began = Instant::now();
        loop {
            let now = metrics(self.address)?;
            if reloads(&before, "failed") < reloads(&now, "failed") || RELOAD_MAX < began.elapsed() {
                return Err(self.blame("it does not take its configuration"));
            }
            if reloads(&before, "ok") < reloads(&now, "ok") {
                return Ok(());
            }
            pause(CAUGHT_UP_PAUSE)?;
        }
    }

    /// Waits until it says that it is well; how long that took since its start.
    ///
    /// # Errors
    /// If it does not say so.
    pub fn ready(&self) -> Result<Duration, String> {
        is_well(self.address, READY_MAX).map_err(|why| self.blame(&why))?;
        Ok(self.started.elapsed())
    }

    /// Waits until the gateway owes nobody an answer, and its store has all that it is to keep; how long that took.
    ///
    /// # Errors
    /// If that does not come.
    pub fn caught_up(&self) -> Result<Duration, String> {
        let owed = ["turns_running", "turns_waiting", "turns_delivering"];
        self.settled(|now| owed.iter().all(|name| now.sum(name) == 0.0))
    }

    /// Waits until its store has all that it is to keep, whoever waits for an answer.
    ///
    /// # Errors
    /// If that does not come.
    pub fn stored(&self) -> Result<Duration, String> {
        self.settled(|_| true)
    }

    fn settled(&self, is_idle: impl Fn(&Metrics) -> bool) -> Result<Duration, String> {
        let began = Instant::now();
        let mut before = None;
        loop {
            let now = metrics(self.address)?;
            let waits =
                ["store_waiting_rows", "journal_buffered_bytes"].iter().any(|name| now.sum(name) != 0.0);
            // What a shard could not hand over yet is not among what waits: but something moves at every look.
            let kept = ["store_rows_total", "journal_records_total"].map(|name| now.sum(name));
            if !waits && is_idle(&now) && before == Some(kept) {
                return Ok(began.elapsed().saturating_sub(CAUGHT_UP_PAUSE));
            }
            if CAUGHT_UP_MAX < began.elapsed() {
                return Err(self.blame("it does not catch up with what was said"));
            }
            before = Some(kept);
            pause(CAUGHT_UP_PAUSE)?;
        }
    }

    /// What went wrong with it, and what it says itself.
    #[must_use]
    pub fn blame(&self, why: &str) -> String {
        format!("{}: {why}\n{}", self.name, self.log())
    }

    /// What it has logged.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.log()).unwrap_or_default()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts the program on a port that is free, and waits until it accepts.
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        pin: Pin,
        folder: Folder,
    ) -> Result<Self, String> {
        Self::start_by(name, pin, folder, |address| {
            command.arg("--listen").arg(address.to_string());
            Ok(command)
        })
    }

    /// As [`Self::start`], by a command that is made for the port.
    pub(super) fn start_by(
        name: &'static str,
        pin: Pin,
        folder: Folder,
        command: impl FnOnce(SocketAddr) -> Result<Command, String>,
    ) -> Result<Self, String> {
        let told = |why: io::Error| format!("{name}: {why}");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).map_err(told)?;
        let log = folder.log();
        let file = fs::File::create(&log).map_err(told)?;
        let mut command = command(address)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        end_with_us(&mut command);
        let mut started = Instant::now();
        let spawn = || {
            started = Instant::now();
            let program = command.get_program().display().to_string();
            command.spawn().map_err(|why| format!("{name} could not be started from {program}: {why}"))
        };
        let child = pin.around(spawn)?;
        let mut server = Self { name, address, started, child, folder, config: Value::Null };
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait().map_err(told)?;
            if ended.is_some() || READY_MAX < started.elapsed() {
                let what = ended.map_or_else(|| "does not listen".to_owned(), |status| status.to_string());
                return Err(server.blame(&what));
            }
            // Nothing tells when a port begins to listen: look again soon.
            pause(READY_PAUSE.max(started.elapsed() / READY_PAUSE_SHARE))?;
        }
        Ok(server)
    }

    /// What its process has used so far.
    ///
    /// # Errors
    /// If it is gone.
    pub fn usage(&self) -> Result<Usage, String> {
        usage_of(self.child.id()).ok_or_else(|| self.blame("it is gone"))
    }
}

/// Puts these keys into a section.
fn merge(config: &mut Value, section: &str, keys: &Value) {
    match (config[section].as_object_mut(), keys) {
        (Some(own), Value::Object(other)) => own.extend(other.clone()),
        (_, keys) => config[section] = keys.clone(),
    }
}

/// Lets time pass.
///
/// # Errors
/// The system's.
pub fn pause(time: Duration) -> Result<(), String> {
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut [], Some(&time)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(why) => Err(format!("waiting: {why}")),
    }
}

/// A folder for what a server is told, says and keeps, gone with it. It lies among what is built: what is kept there is on
/// a disk, as it would be in use, and the floors' files are on the same one.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed lies in the build folder, which is nobody's.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    /// An empty one.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = std::env::current_exe().map_err(|why| format!("where am I: {why}"))?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = own.with_file_name(format!("figures-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|why| format!("{}: {why}", folder.display()))?;
        Ok(Self(folder))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Replaces the configuration at once: whoever watches it never sees half of it.
    fn write_config(&self, config: &Value) -> Result<PathBuf, String> {
        let (file, new) = (self.0.join("clawgate.json"), self.0.join("clawgate.new"));
        fs::write(&new, config.to_string())
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|why| format!("{}: {why}", file.display()))?;
        Ok(file)
    }
}

/// However we end, the server does: nothing is left that listens and takes time from the next run.
fn end_with_us(command: &mut Command) {
    let die = || set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call, without the C library and without allocating.
    unsafe { command.pre_exec(die) };
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of its threads, nanoseconds, by the scheduler's account.
    pub cpu_ns: u64,
    /// Resident memory, KiB: all of it, and that of it which is no file's.
    pub resident_kib: u64,
    /// See [`Self::resident_kib`].
    pub anonymous_kib: u64,
    /// The most that was resident at once, KiB.
    pub peak_kib: u64,
}

/// What a process has used so far; `None` if there is none of this number.
#[must_use]
pub fn usage_of(pid: u32) -> Option<Usage> {
    let process = Path::new("/proc").join(pid.to_string());
    let mut cpu_ns = 0;
    for task in fs::read_dir(process.join("task")).ok()?.flatten() {
        // A thread that ended since the list was read is left out: servers end none under load.
        let Ok(account) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        cpu_ns += account.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    let status = fs::read_to_string(process.join("status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
    };
    Some(Usage { cpu_ns, resident_kib: kib("VmRSS"), anonymous_kib: kib("RssAnon"), peak_kib: kib("VmHWM") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_measured() {
        let own = usage_of(std::process::id()).unwrap();
        assert!(0 < own.anonymous_kib && own.anonymous_kib <= own.resident_kib);
        // Work that no compiler leaves out: the account moves on.
        let mut sum = 0_u64;
        while usage_of(std::process::id()).unwrap().cpu_ns <= own.cpu_ns {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert_eq!(usage_of(u32::MAX), None);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = Folder::new().unwrap();
        let why = Server::start("floor-epoll", Command::new("./not-there"), Pin::None, folder).unwrap_err();
        assert!(why.contains("./not-there"), "{why}");
        let folder = Folder::new().unwrap();
        let why = Server::start("floor-epoll", Command::new("false"), Pin::None, folder).unwrap_err();
        assert!(why.contains("exit status"), "{why}");
    }
}
