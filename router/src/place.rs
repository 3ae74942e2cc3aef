//! How a process comes to its place, the data directory and the sockets, and how it leaves it to the next one.
use crate::cli::TAKEOVER;
use crate::clock::Clock;
use crate::config::Config;
use crate::data::{Folder, Lock, NotOurs};
use crate::helm::{Signals, timespec};
use crate::serve::Ended;
use crate::sockets::{self, INHERITED_VARIABLE, Sockets};
use crate::takeover::{self, ACCEPTING, Heard, Line, Listener, Predecessor, READY, RELEASED};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::FdFlags;
use signal_hook::consts::signal::{SIGINT, SIGTERM};
use std::os::fd::{AsFd as _, AsRawFd as _, IntoRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// How much longer than its drain the process that is replaced may take.
const RELEASE_AGE_MAX: Duration = Duration::from_secs(30);
/// How long a data directory that should be free may still be held, and how often it is asked for.
const LOCK_AGE_MAX: Duration = Duration::from_secs(5);
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// The data directory, ours.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) folder: Folder,
    #[expect(dead_code, reason = "held, not read")]
    lock: Lock,
}

/// What a process has before it begins its threads.
#[derive(Debug)]
pub(crate) enum Claim {
    /// A place of its own, perhaps with a data directory.
    Own(Option<Held>),
    /// Another process's place, once that one has left it.
    Next(Folder),
}

/// What a process needs to serve.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) held: Option<Held>,
    pub(crate) sockets: Sockets,
    /// Who waits to hear that we accept.
    before: Option<Line>,
}

impl Claim {
    /// # Errors
    /// The data directory is another's, or of no use, in words for the operator.
    pub(crate) fn stake(config: &Config, takeover: bool) -> Result<Self, String> {
        let Some(path) = config.data.folder.as_deref() else {
            return if takeover {
                Err(format!("{TAKEOVER} finds the other process by the data directory: set `data.folder`"))
            } else {
                Ok(Self::Own(None))
            };
        };
        let folder = Folder::open(path)?;
        if takeover { Ok(Self::Next(folder)) } else { hold(folder).map(|held| Self::Own(Some(held))) }
    }

    /// Takes the place, when all else that may fail is done; `None` if we were told to stop meanwhile.
    ///
    /// # Errors
    /// It is not to be had, in words for the operator. Another process that had it goes on.
    pub(crate) fn take(
        self,
        config: &Config,
        cores: u16,
        signals: &mut Signals,
        clock: Clock,
    ) -> Result<Option<Place>, String> {
        let wanted = &config.server.listen;
        let inherited = sockets::inherited()?;
        let held = match self {
            Self::Own(held) => held,
            Self::Next(folder) => match takeover::ask(&folder)? {
                Some(Predecessor { line, listeners, drain_age_max }) => {
                    let all = listeners.into_iter().chain(inherited).collect();
                    let sockets = Sockets::gather(wanted, all, cores)?;
                    tracing::info!(pid = line.pid, "ready: waiting for the process that is replaced");
                    // Should it not listen any more, it has ended: what it leaves is ours.
                    let _ = line.say(READY);
                    if !await_release(&line, drain_age_max + RELEASE_AGE_MAX, signals, clock)? {
                        return Ok(None);
                    }
                    let held = Some(hold_soon(folder, clock)?);
                    return Ok(Some(Place { held, sockets, before: Some(line) }));
                }
                None => {
                    tracing::info!("there is no process to be replaced");
                    Some(hold(folder)?)
                }
            },
        };
        let sockets = Sockets::gather(wanted, inherited, cores)?;
        Ok(Some(Place { held, sockets, before: None }))
    }
}

impl Place {
    /// Tells the process before us that it is not needed any more.
    pub(crate) fn accepting(before: Option<Line>) {
        if let Some(line) = before {
            // It may be gone already.
            let _ = line.say(ACCEPTING);
            tracing::info!(pid = line.pid, "took over");
        }
    }

    /// Its parts.
    pub(crate) fn into_parts(self) -> (Option<Held>, Sockets, Option<Line>) {
        (self.held, self.sockets, self.before)
    }
}

fn hold(folder: Folder) -> Result<Held, String> {
    match folder.lock() {
        Ok(lock) => Ok(Held { folder, lock }),
        Err(NotOurs::Unusable(why)) => Err(why),
        Err(NotOurs::Held { pid }) => Err(format!(
            "the data directory {folder} is in use by the process {pid}: stop it, or take its place by \
             `clawgate serve {TAKEOVER}`, or give this one another `data.folder`"
        )),
    }
}

/// As [`hold`], where whoever had it has just let go.
fn hold_soon(folder: Folder, clock: Clock) -> Result<Held, String> {
    let until = clock.now() + LOCK_AGE_MAX;
    loop {
        match folder.lock() {
            Ok(lock) => return Ok(Held { folder, lock }),
            Err(NotOurs::Held { .. }) if clock.now() < until => {
                let _ = poll(&mut [], Some(&timespec(LOCK_AGAIN)));
            }
            Err(_) => return hold(folder),
        }
    }
}

/// Waits until the other process has let go, or has ended; false if we were told to stop.
fn await_release(line: &Line, limit: Duration, signals: &mut Signals, clock: Clock) -> Result<bool, String> {
    let until = clock.now() + limit;
    loop {
        match line.hear().0 {
            Heard::Said(text) if text == RELEASED => return Ok(true),
            Heard::Gone => return Ok(true),
            Heard::Said(text) => return Err(format!("the process {} does not go: {text}", line.pid)),
            Heard::Nothing => {}
        }
        if signals.pending().any(|signal| matches!(signal, SIGTERM | SIGINT)) {
            tracing::info!("told to stop before the other process was replaced");
            return Ok(false);
        }
        let left = until.since(clock.now());
        if left.is_zero() {
            let pid = line.pid;
            return Err(format!("the process {pid} did not let go of the data directory within {limit:?}"));
        }
        wait(line, signals, Some(left));
    }
}

fn wait(line: &Line, signals: &Signals, limit: Option<Duration>) {
    let fds = [line.fd(), signals.get_read().as_fd()];
    let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    // Interrupted or not: whoever called looks what there is.
    let _ = poll(&mut fds, limit.map(timespec).as_ref());
}

/// Leaves the place to another process: lets go of the data directory, and waits until that one accepts. If it ends
/// before, this one begins anew with the sockets, which were never closed.
pub(crate) fn leave(
    line: &Line,
    held: Option<Held>,
    listeners: Vec<Listener>,
    signals: &mut Signals,
) -> Ended {
    drop(held);
    let pid = line.pid;
    let _ = line.say(RELEASED);
    tracing::info!(pid, "let go of the data directory");
    loop {
        match line.hear().0 {
            Heard::Said(text) if text == ACCEPTING => {
                tracing::info!(pid, "the other process accepts: stopped");
                return Ended::Exit(ExitCode::SUCCESS);
            }
            Heard::Said(_) => {}
            Heard::Gone => {
                tracing::error!(
                    pid,
                    "the process that was to take over ended before it accepted: beginning anew"
                );
                return Ended::Again(anew(listeners));
            }
            Heard::Nothing => {
                if signals.pending().any(|signal| matches!(signal, SIGTERM | SIGINT)) {
                    tracing::info!("stopped");
                    return Ended::Exit(ExitCode::SUCCESS);
                }
                wait(line, signals, None);
            }
        }
    }
}

/// This very program, with the same arguments, and the sockets as they are.
fn anew(listeners: Vec<Listener>) -> Command {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "clawgate".into());
    // Not by its path: another program may lie there by now, and may be what has just failed.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments.filter(|argument| argument != TAKEOVER));
    let mut numbers = Vec::new();
    for (address, listener) in listeners {
        match rustix::io::fcntl_setfd(&listener, FdFlags::empty()) {
            Ok(()) => numbers.push(listener.as_raw_fd().to_string()),
            Err(why) => tracing::error!(%address, %why, "a socket is lost"),
        }
        // It stays open for the program that we become.
        let _ = listener.into_raw_fd();
    }
    command.env(INHERITED_VARIABLE, numbers.join(",")).env_remove("LISTEN_FDS").env_remove("LISTEN_PID");
    command
}
