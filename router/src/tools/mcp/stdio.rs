//! A server that is a process of ours: its environment, its limits, its words on standard error, and its end.
use super::meter::{Meter, Metered, Stream};
use crate::config::mcp::Stdio as Settings;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, kill_process_group, set_parent_process_death_signal, setrlimit,
};
use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// How long a server may take to end once its input is closed, and once more when it is asked to.
const END_AGE_MAX: Duration = Duration::from_secs(1);
/// Bytes of standard error that are read at once, and how long until the next ones are: what a server says beyond waits in
/// its pipe, and holds up nobody else.
const SAID_BYTES: usize = 4_096;
const SAID_EVERY: Duration = Duration::from_millis(20);
/// Where programs are looked for if our own environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that serves tools, and those that it started.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// Its number, and that of its group.
    pid: Option<Pid>,
}

/// What a server says, and where it hears us.
pub(super) type Pipes = (Metered<ChildStdout>, ChildStdin);

/// Starts one.
///
/// # Errors
/// The kernel's word.
pub(super) fn start(name: &Arc<str>, settings: &Settings, meter: Arc<Meter>) -> io::Result<(Process, Pipes)> {
    let mut child = command(settings).spawn()?;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (input, output) = pipes.ok_or_else(|| io::Error::other("it has no pipes"))?;
    if let Some(said) = child.stderr.take() {
        tokio::task::spawn_local(hear_errors(name.clone(), said));
    }
    let output = Metered::new(output, Stream::of_lines(meter));
    Ok((Process { child, pid }, (output, input)))
}

fn command(settings: &Settings) -> Command {
    let own = |name: &str, default: &str| std::env::var_os(name).unwrap_or_else(|| OsString::from(default));
    let mut command = Command::new(&settings.command);
    command.args(&settings.args).current_dir(&settings.cwd);
    // Nothing of ours: it may hold the keys of all that we call.
    command.env_clear().env("PATH", own("PATH", PATH)).env("HOME", own("HOME", "/"));
    command.env("LANG", own("LANG", "C.UTF-8"));
    command.envs(settings.env.iter().map(|(name, value)| (name, value.expose())));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).process_group(0);
    let (descriptors, memory) = (u64::from(settings.descriptors_max), settings.memory_bytes_max);
    let bounds = move || {
        // However we end, it does not outlive us.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let both = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
        // What it holds of secrets is not written to a disk when it crashes.
        setrlimit(Resource::Core, both(0))?;
        setrlimit(Resource::Nofile, both(descriptors))?;
        if memory != 0 {
            setrlimit(Resource::As, both(memory))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only, which rustix does directly: no memory is allocated, and no
    // lock is taken that another thread may have held.
    unsafe { command.pre_exec(bounds) };
    command
}

impl Process {
    /// Its number, for the log.
    pub(super) fn number(&self) -> i32 {
        self.pid.map_or(0, |pid| pid.as_raw_nonzero().get())
    }

    /// Ends it: its input is closed already, then it is asked, then it is killed, and what it started with it. What it
    /// ended with, in words.
    pub(super) async fn end(mut self, at_once: bool) -> String {
        // Until it is waited for, its number is nobody else's: those that it left behind are in its group.
        let ended = !at_once && self.is_over().await;
        if !ended && !at_once {
            self.signal(Signal::TERM);
            self.is_over().await;
        }
        self.signal(Signal::KILL);
        let waited = tokio::time::timeout(END_AGE_MAX, self.child.wait()).await;
        // Its number may be another's by now.
        self.pid = None;
        match waited {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(why)) => why.to_string(),
            // It waits for a disk, and goes when that answers.
            Err(_) => "it does not end".to_owned(),
        }
    }

    /// Waits a while for its end, without taking its number back.
    async fn is_over(&self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let Some(pid) = self.pid else { return true };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = async {
            while matches!(waitid(WaitId::Pid(pid), look), Ok(None)) {
                tokio::time::sleep(SAID_EVERY).await;
            }
        };
        tokio::time::timeout(END_AGE_MAX, ended).await.is_ok()
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // A group that is gone needs none.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Puts what a server says on standard error into the log, quoted, and no faster than the log can be read.
async fn hear_errors(name: Arc<str>, mut said: ChildStderr) {
    let mut buffer = [0; SAID_BYTES];
    while let Ok(count @ 1..) = said.read(&mut buffer).await {
        for line in buffer[..count].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // A stranger's text is quoted, so that it cannot look like a line of ours.
            tracing::debug!(server = %name, "an MCP server says {:?}", String::from_utf8_lossy(line));
        }
        tokio::time::sleep(SAID_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::meter::Fault;
    use super::*;
    use crate::clock::Clock;
    use crate::config::mcp::Limits;
    use crate::config::secret::Secret;

    fn meter() -> Arc<Meter> {
        let second = Duration::from_secs(1);
        let limits = Limits {
            start_age_max: second,
            ping_every: second,
            restart_min: second,
            restart_max: second,
            tools_max: 1,
            description_bytes_max: 1,
            message_bytes_max: 4_096,
            messages_per_second: 100,
            calls_max: 1,
        };
        Arc::new(Meter::new(limits, Arc::<Fault>::default(), Clock::start()))
    }

    fn settings(script: &str) -> Settings {
        Settings {
            command: "sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: vec![("TOKEN".to_owned(), Secret::new("t0ken".to_owned()))],
            cwd: "/".into(),
            memory_bytes_max: 1 << 30,
            descriptors_max: 64,
        }
    }

    fn run<F: Future<Output = ()>>(work: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, work);
    }

    #[test]
    fn a_server_gets_what_is_configured_and_nothing_of_ours() {
        run(async {
            let script = "env | cut -d= -f1 | sort; ulimit -n; ulimit -c; ulimit -v; pwd; ps -o pgid= -p $$ | tr -d ' '";
            let (process, (mut output, input)) = start(&"a".into(), &settings(script), meter()).unwrap();
            let number = process.number();
            let mut said = String::new();
            output.read_to_string(&mut said).await.unwrap();
            drop(input);
            let lines: Vec<&str> = said.lines().collect();
            for name in ["PATH", "HOME", "LANG", "TOKEN"] {
                assert!(lines.contains(&name), "{name} in {said}");
            }
            // What the shell sets itself.
            let own = ["OLDPWD", "PWD", "SHLVL", "_", "PATH", "HOME", "LANG", "TOKEN"];
            let at = lines.iter().position(|line| line.parse::<u64>().is_ok()).unwrap();
            assert!(lines[..at].iter().all(|name| own.contains(name)), "{said}");
            assert_eq!(lines[at..at + 4], ["64", "0", "1048576", "/"], "{said}");
            assert!(lines.get(at + 4).is_none_or(|group| *group == number.to_string()), "{said}");
            assert_eq!(process.end(false).await, "exit status: 0");
        });
    }

    #[test]
    fn what_it_started_ends_with_it() {
        run(async {
            // The one that it starts holds the pipe, and would for a long time.
            let script = "trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000";
            let (process, (mut output, input)) = start(&"a".into(), &settings(script), meter()).unwrap();
            let mut first = [0; 2];
            output.read_exact(&mut first).await.unwrap();
            drop(input);
            assert_eq!(process.end(true).await, "signal: 9 (SIGKILL)");
            // The pipe has its end once nobody holds it.
            let mut rest = Vec::new();
            output.read_to_end(&mut rest).await.unwrap();
        });
    }
}
