//! The gateway as a child process: started, watched until it answers, killed. Owns the process and its log; never reads
//! what it writes to its disk.

use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::call::Caller;
use super::disk;
use crate::answer::Answered;
use crate::driver::First;
use crate::{driver, sys};

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// The longest that one question for its health may take before it is asked anew.
const HEALTH_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of the log's end that are told when it did not start.
const TAIL_BYTES: usize = 4096;

/// How the gateway is started.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) binary: PathBuf,
    pub(crate) config: PathBuf,
    /// Where its log goes, all lives in one.
    pub(crate) log: PathBuf,
    pub(crate) address: SocketAddr,
}

/// A system call at which the gateway is killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trap {
    /// Its name.
    pub(crate) call: String,
    /// Which call of it by one thread, from 1: it is killed as it enters.
    pub(crate) when: u64,
}

impl Trap {
    /// The same a good deal later; none beyond `max`.
    pub(crate) fn later(self, max: u64) -> Option<Self> {
        let when = self.when * 8;
        (when <= max).then_some(Self { when, ..self })
    }
}

/// What strace does beside the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tracer<'a> {
    /// There is none.
    None,
    /// It kills.
    Kill(&'a Trap),
    /// It has a system call go wrong, in its own words: `fdatasync:error=EIO:when=7+`.
    Fault(&'a str),
    /// It writes down what is done to files.
    Record(&'a Path),
    /// Not strace but prlimit: so few descriptors.
    Descriptors(u32),
}

impl Tracer<'_> {
    /// The program to start, and what comes before the gateway's binary.
    fn command(self, binary: &Path) -> Command {
        let inject = |call: &str, what: &str| {
            let options = ["-o", "/dev/null", "-e"].map(str::to_owned).into_iter();
            let injected = format!("inject={call}:{what}");
            options.chain([format!("trace={call}"), "-e".to_owned(), injected]).collect::<Vec<String>>()
        };
        let options = match self {
            Self::None => return Command::new(binary),
            Self::Descriptors(max) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={max}:{max}")).arg("--").arg(binary);
                return command;
            }
            // No --seccomp-bpf here: strace 6.1 then injects no signal.
            Self::Kill(Trap { call, when }) => inject(call, &format!("signal=SIGKILL:when={when}")),
            Self::Fault(what) => {
                let (call, what) = what.split_once(':').unwrap_or((what, ""));
                inject(call, what)
            }
            Self::Record(file) => {
                let output = ["-o".to_owned(), file.display().to_string()];
                let calls = ["-e".to_owned(), format!("trace={}", disk::CALLS)];
                disk::OPTIONS.map(str::to_owned).into_iter().chain(output).chain(calls).collect()
            }
        };
        let mut command = Command::new("strace");
        // With -D the gateway stays our child, so that its pid is the one to kill and to wait for.
        command.args(["-D", "-f", "-qq"]).args(options).arg("--").arg(binary);
        command
    }
}

/// One life of the gateway.
#[derive(Debug)]
pub(crate) struct Life {
    process: Child,
    /// When it ended; 0 while it lives. Written by a thread that does nothing else, so that an end is stamped when it
    /// happens, whatever we wait for meanwhile.
    ended_ns: Arc<AtomicU64>,
    /// When we killed it.
    killed_ns: Option<u64>,
}

impl Life {
    /// Starts it; it is not ready yet.
    ///
    /// # Errors
    /// The system's: there is no such program, or no strace where one is needed.
    pub(crate) fn start(launch: &Launch, tracer: Tracer<'_>, takeover: bool) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&launch.log)?;
        let mut command = tracer.command(&launch.binary);
        command.arg("--config").arg(&launch.config);
        if takeover {
            command.args(["serve", "--takeover"]);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let life = Self { process: command.spawn()?, ended_ns: Arc::default(), killed_ns: None };
        let (watched, ended_ns) = (sys::watch_process(life.process.id())?, Arc::clone(&life.ended_ns));
        let stamp = move || ended_ns.store(sys::wait_for_end(&watched), Ordering::Release);
        std::thread::Builder::new().name("watch".to_owned()).spawn(stamp)?;
        Ok(life)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It ended, or did not answer in time.
    pub(crate) async fn ready(&mut self, launch: &Launch, limit: Duration) -> Result<(), String> {
        // A request to one that has died may hang until the kernel has taken its sockets down: the end is looked for
        // beside it.
        match driver::race(healthy(launch), self.end_within(limit)).await {
            First::One(()) => Ok(()),
            First::Other(Some(status)) => Err(format!("it ended while it started: {status}{}", tail(launch))),
            First::Other(None) => Err(format!("it did not answer within {limit:?}{}", tail(launch))),
        }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// When it ended, if it did. One that we killed did nothing more from our signal on, though the kernel may take its
    /// time to say so.
    pub(crate) fn ended_ns(&self) -> u64 {
        let told = match self.ended_ns.load(Ordering::Acquire) {
            0 => sys::now_ns(),
            told => told,
        };
        self.killed_ns.map_or(told, |killed_ns| killed_ns.min(told))
    }

    /// Waits for its end, at most so long.
    pub(crate) async fn end_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline_ns = sys::now_ns() + limit.as_nanos() as u64;
        loop {
            let ended = self.ended();
            if ended.is_some() || deadline_ns <= sys::now_ns() {
                return ended;
            }
            driver::sleep(LOOK).await;
        }
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.killed_ns.get_or_insert_with(sys::now_ns);
        // If it ended already there is nobody to kill.
        self.process.kill().ok();
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        sys::terminate(self.process.id());
    }
}

/// Asks for its health until that is good.
async fn healthy(launch: &Launch) {
    let mut caller = Caller::new(launch.address);
    let request = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", launch.address);
    loop {
        let answered = caller.call(request.as_bytes(), HEALTH_LIMIT).await;
        // One that is crowded answers too: it refuses connections only when it accepts.
        let crowded =
            |answered: &Answered| memchr::memmem::find(&answered.body, b"TOO_MANY_CONNECTIONS").is_some();
        if answered.is_ok_and(|answered| answered.status == 200 || crowded(&answered)) {
            return;
        }
        driver::sleep(LOOK).await;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.kill();
        // It was killed: this takes no time, and leaves no zombie.
        self.process.wait().ok();
    }
}

/// The end of the log, for whoever has to find out.
fn tail(launch: &Launch) -> String {
    let text = std::fs::read_to_string(&launch.log).unwrap_or_default();
    let start = text.ceil_char_boundary(text.len().saturating_sub(TAIL_BYTES));
    format!("; its log ends with:\n{}", &text[start..])
}
