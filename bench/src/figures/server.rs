//! A server's process: started, waited for, measured through `/proc`, and ended. Owns the child; when it is dropped the
//! process is gone. Knows no protocol.
use super::Setup;
use rustix::event::{Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
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

/// How long a server may take until it answers.
const READY_MAX: Duration = Duration::from_secs(10);
/// Between two attempts to connect to a server that is starting.
const READY_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000 };

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
            "agents": { "main": { "models": ["echo"], "history": false } },
            "route": "main",
        });
        if !setup.driver.is_empty() {
            config["server"]["driver"] = setup.driver.as_str().into();
        }
        for (section, value) in more {
            match (config[*section].as_object_mut(), value) {
                (Some(own), Value::Object(other)) => own.extend(other.clone()),
                (_, value) => config[*section] = value.clone(),
            }
        }
        let folder = Folder::new()?;
        let file = folder.0.join("clawgate.json");
        fs::write(&file, config.to_string()).map_err(|why| format!("{}: {why}", file.display()))?;
        let mut command = Command::new(&setup.programs.gateway);
        command.arg("--config").arg(&file).arg("serve");
        Self::start("clawgate", command, setup.pin, folder)
    }

    /// Starts the program on a port that is free, and waits until it accepts.
    fn start(name: &'static str, mut command: Command, pin: Pin, folder: Folder) -> Result<Self, String> {
        let told = |why: io::Error| format!("{name}: {why}");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).map_err(told)?;
        let log = folder.log();
        let file = fs::File::create(&log).map_err(told)?;
        command.arg("--listen").arg(address.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        end_with_us(&mut command);
        let mut started = Instant::now();
        let spawn = || {
            started = Instant::now();
            let program = command.get_program().display().to_string();
            command.spawn().map_err(|why| format!("{name} could not be started from {program}: {why}"))
        };
        let child = pin.around(spawn)?;
        let mut server = Self { name, address, started, child, folder };
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait().map_err(told)?;
            if ended.is_some() || READY_MAX < started.elapsed() {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let what = ended.map_or_else(|| "does not listen".to_owned(), |status| status.to_string());
                return Err(format!("{name}: {what}\n{log}"));
            }
            // Nothing tells when a port begins to listen: look again soon.
            poll(&mut [], Some(&READY_PAUSE)).map_err(|why| told(why.into()))?;
        }
        Ok(server)
    }

    /// What its process has used so far.
    ///
    /// # Errors
    /// If it is gone.
    pub fn usage(&self) -> Result<Usage, String> {
        usage_of(self.child.id()).ok_or_else(|| {
            let log = fs::read_to_string(self.folder.log()).unwrap_or_default();
            format!("{} is gone:\n{log}", self.name)
        })
    }
}

/// A folder for a server's configuration and what it says, gone with it.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed lies among the temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("clawgate-figures-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|why| format!("{}: {why}", folder.display()))?;
        Ok(Self(folder))
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
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
    Some(Usage { cpu_ns, resident_kib: kib("VmRSS"), anonymous_kib: kib("RssAnon") })
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
