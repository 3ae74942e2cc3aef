//! The gateway is replaced by another one at given moments, by a command of whoever runs it. Owns when, and how the commands
//! ended; what clients see of it is `storm`'s and `http`'s.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::hazards::Restart;
use crate::sys;

/// How often it is looked whether the run has begun, and whether it is time.
const LOOK: Duration = Duration::from_millis(5);

/// What became of one restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartEnd {
    /// When its command was started, in nanoseconds after the start of the run.
    pub at_ns: u64,
    /// How the command ended, if not well; `None` where it did, or where it goes on: it is the gateway then.
    pub failure: Option<String>,
}

/// The thread that restarts.
#[derive(Debug)]
pub(super) struct Restarter {
    /// Nothing is sent: when it goes, the thread ends.
    over: Sender<()>,
    thread: JoinHandle<Vec<(u64, Result<Child, String>)>>,
}

impl Restarter {
    /// Starts it; the moments count from `start_ns` on, which is 0 until it is known and `u64::MAX` if it never will be.
    pub(super) fn start(restart: &Restart, start_ns: Arc<AtomicU64>) -> Result<Self, String> {
        let (over, is_over) = channel::<()>();
        let restart = restart.clone();
        let work = move || {
            let wait = || is_over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout);
            let mut begun = Vec::new();
            for at_ns in &restart.at_ns {
                loop {
                    let start_ns = start_ns.load(Ordering::Acquire);
                    let is_due = start_ns != 0 && start_ns.saturating_add(*at_ns) <= sys::now_ns();
                    if start_ns == u64::MAX || !(is_due || wait()) {
                        return begun;
                    }
                    if is_due {
                        let now_ns = sys::now_ns() - start_ns;
                        begun.push((now_ns, replace(&restart.command)));
                        break;
                    }
                }
            }
            begun
        };
        let thread = std::thread::Builder::new().name("restarts".to_owned()).spawn(work);
        let thread = thread.map_err(|error| format!("a thread cannot be started: {error}"))?;
        Ok(Self { over, thread })
    }

    /// The run is over. A command that goes on is left to do so: it is the gateway.
    pub(super) fn end(self) -> Vec<RestartEnd> {
        drop(self.over);
        let begun = self.thread.join().unwrap_or_default();
        begun.into_iter().map(|(at_ns, child)| RestartEnd { at_ns, failure: failure(child) }).collect()
    }
}

fn replace(command: &str) -> Result<Child, String> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null());
    shell.spawn().map_err(|error| error.to_string())
}

fn failure(child: Result<Child, String>) -> Option<String> {
    match child.and_then(|mut child| child.try_wait().map_err(|error| error.to_string())) {
        Ok(None) => None,
        Ok(Some(status)) => (!status.success()).then(|| status.to_string()),
        Err(error) => Some(error),
    }
}
