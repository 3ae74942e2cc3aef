//! The process under test: the real binary with a configuration in a folder of its own, on a free port, and its log.
//!
//! However a test ends, the process is killed and its log is read to the end: a panic, a process that died, or a
//! secret in any line fails the test.
#![allow(clippy::print_stderr, reason = "a test that fails shows the log")]
use super::http::{Answer, Client};
use super::socket::Socket;
use super::{CANARY, Watched, ask_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Lines of the log that are kept to be shown; all are checked.
const LINES_SHOWN: usize = 400;

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Watched<Log>>,
    reader: Option<JoinHandle<()>>,
    folder: Arc<Folder>,
    /// It may have ended by itself: it was told to.
    stopped: bool,
}

/// What the process wrote to standard error.
#[derive(Debug, Default)]
struct Log {
    lines: VecDeque<String>,
    /// Lines that must not be there.
    bad: Vec<String>,
    /// Where it listens, once it has said so.
    listening: Option<SocketAddr>,
    ready: bool,
    ended: bool,
}

impl Log {
    fn add(&mut self, line: String) {
        let is_panic = line.contains("panicked") || line.contains("RUST_BACKTRACE");
        if is_panic || line.to_lowercase().contains(CANARY) {
            self.bad.push(line.clone());
        }
        if self.listening.is_none()
            && let Some((_, address)) = line.split_once("listening on http")
        {
            let address = address.trim_start_matches('s').trim_start_matches("://");
            self.listening = address.split_whitespace().next().and_then(|address| address.parse().ok());
        }
        self.ready |= line.contains("ready");
        if LINES_SHOWN <= self.lines.len() {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Puts the keys of `more` into `base`, object by object; what both have, `more` says.
pub(crate) fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}

/// What every test's gateway has, unless it says otherwise: two shards, a free port, every line of the log that there
/// is, and no rates, which are tests of their own.
fn common() -> Value {
    json!({
        "server": { "listen": ["127.0.0.1:0"], "shards": 2 },
        "logging": { "level": "trace" },
        // Small files: hundreds of these run on one disk.
        "journal": { "segmentBytes": 1 << 20 },
        "rate": { "key": { "requests": 0 }, "address": { "requests": 0 } },
    })
}

/// The text of a configuration: this, beside what all have.
pub(crate) fn whole(config: Value) -> String {
    let mut whole = common();
    merge(&mut whole, config);
    whole.to_string()
}

/// A folder that goes with the last process that uses it.
#[derive(Debug)]
struct Folder(PathBuf);

impl std::ops::Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A folder of its own for one process.
pub(crate) fn new_folder() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clawgate"));
    // Whatever the developer has set must not reach it.
    command.current_dir(folder).env_clear().args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// As [`command`], for a process that may open so few descriptors.
pub(crate) fn command_with_descriptors(folder: &Path, descriptors: u32) -> Command {
    let mut command = Command::new("/bin/sh");
    let limited = format!("ulimit -n {descriptors} && exec \"$0\"");
    command.current_dir(folder).env_clear().args(["-c", &limited, env!("CARGO_BIN_EXE_clawgate")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Gateway {
    /// Starts one with this configuration beside what all have.
    pub(crate) fn start(config: Value) -> Self {
        Self::start_in(new_folder(), config, &[])
    }

    /// As [`Self::start`], in a folder that has files already, with more arguments.
    pub(crate) fn start_in(folder: PathBuf, config: Value, arguments: &[&str]) -> Self {
        std::fs::write(folder.join("clawgate.json"), whole(config)).unwrap();
        Self::spawn(folder, arguments)
    }

    /// Starts one without any file: the default configuration, but for the port.
    pub(crate) fn start_default() -> Self {
        Self::spawn(new_folder(), &["--listen", "127.0.0.1:0", "--shards", "2"])
    }

    fn spawn(folder: PathBuf, arguments: &[&str]) -> Self {
        Self::begin(folder, arguments).serving()
    }

    /// Begins one in this folder, with the configuration that lies there.
    pub(crate) fn begin(folder: PathBuf, arguments: &[&str]) -> Self {
        let command = command(&folder, arguments);
        Self::begin_by(command, folder)
    }

    /// As [`Self::begin`], by a command of its own.
    pub(crate) fn begin_by(command: Command, folder: PathBuf) -> Self {
        Self::begin_beside(command, Arc::new(Folder(folder)))
    }

    fn begin_beside(mut command: Command, folder: Arc<Folder>) -> Self {
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Watched::<Log>::default());
        let (stderr, lines) = (child.stderr.take().unwrap(), log.clone());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n') {
                let Ok(line) = line else { break };
                lines.with(|log| log.add(String::from_utf8_lossy(&line).into_owned()));
            }
            lines.with(|log| log.ended = true);
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { child, address: nowhere, log, reader: Some(reader), folder, stopped: false }
    }

    /// Waits until it serves.
    #[track_caller]
    pub(crate) fn serving(mut self) -> Self {
        let listening = self.log.wait("the gateway listens", |log| match log.listening {
            Some(address) if log.ready => Some(Some(address)),
            _ if log.ended => Some(None),
            _ => None,
        });
        self.address = listening.expect("the gateway ended before it listened");
        self
    }

    /// Begins one that takes the place of this one, with this configuration beside what all have.
    pub(crate) fn begin_successor(&mut self, config: Value) -> Self {
        std::fs::write(self.folder.join("next.json"), whole(config)).unwrap();
        self.stopped = true;
        let command = command(&self.folder, &["serve", "--takeover", "--config", "next.json"]);
        Self::begin_beside(command, self.folder.clone())
    }

    /// It may end by itself.
    pub(crate) fn may_end(&mut self) {
        self.stopped = true;
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Starts one that must not: its exit code, and what it said.
    pub(crate) fn start_refused(config: &Value, arguments: &[&str]) -> (i32, String) {
        let folder = new_folder();
        std::fs::write(folder.join("clawgate.json"), config.to_string()).unwrap();
        let output = command(&folder, arguments).output().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("panicked") && !said.to_lowercase().contains(CANARY), "{said}");
        (output.status.code().unwrap(), said)
    }

    /// A new connection to it.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One GET on a connection of its own.
    pub(crate) fn get(&self, target: &str) -> Answer {
        self.call("GET", target, &[], b"")
    }

    /// One POST of JSON on a connection of its own.
    pub(crate) fn post(&self, target: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.call("POST", target, &headers, body.to_string().as_bytes())
    }

    /// One request on a connection of its own.
    pub(crate) fn call(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut client = self.connect();
        client.request(method, target, headers, body);
        client.answer()
    }

    /// A WebSocket to it.
    pub(crate) fn socket(&self) -> Socket {
        Socket::open(self.address, "/ws", &[]).unwrap()
    }

    /// The sum of a metric over all its label sets that contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.get("/metrics").text();
        let rows = samples(&text).into_iter().filter(|(n, l, _)| n == name && l.contains(labels));
        rows.map(|(_, _, value)| value as u64).sum()
    }

    /// Waits until a metric has at least this value.
    #[track_caller]
    pub(crate) fn await_metric(&self, name: &str, labels: &str, at_least: u64) -> u64 {
        ask_until(&format!("{name}{{{labels}}} reaches {at_least}"), || {
            Some(self.metric(name, labels)).filter(|value| at_least <= *value)
        })
    }

    /// `data` of `/api/status`.
    pub(crate) fn status(&self) -> Value {
        self.get("/api/status").json()["data"].take()
    }

    /// Waits until a number in `/api/status` is this.
    #[track_caller]
    pub(crate) fn await_status(&self, key: &str, value: u64) {
        ask_until(&format!("`{key}` becomes {value}"), || (self.status()[key] == value).then_some(()));
    }

    /// Writes another configuration beside what all have into its file, as an editor that writes in place.
    pub(crate) fn rewrite(&self, config: Value) {
        std::fs::write(self.folder.join("clawgate.json"), whole(config)).unwrap();
    }

    /// Puts a file with this text in the place of its configuration.
    pub(crate) fn replace(&self, text: &str) {
        std::fs::write(self.folder.join("clawgate.json.new"), text).unwrap();
        std::fs::rename(self.folder.join("clawgate.json.new"), self.folder.join("clawgate.json")).unwrap();
    }

    /// Asks it to read its configuration again.
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Writes another configuration and asks for it to be read; returns when all threads work by it, as number
    /// `generation`.
    #[track_caller]
    pub(crate) fn reload(&self, config: Value, generation: u64) {
        self.rewrite(config);
        self.hang_up();
        self.await_generation(generation);
    }

    /// Waits until all threads work by the configuration of this number.
    #[track_caller]
    pub(crate) fn await_generation(&self, generation: u64) {
        self.await_line(&format!("the new configuration is in force generation={generation}"));
    }

    /// Where it runs, and its configuration lies.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The id of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes that the process holds in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Asks it to end, as an init system does.
    pub(crate) fn terminate(&mut self) {
        self.stopped = true;
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.log.wait("the process ends", |log| log.ended.then_some(()));
        self.child.wait().unwrap()
    }

    /// Waits for a line of the log that contains this.
    #[track_caller]
    pub(crate) fn await_line(&self, part: &str) -> String {
        self.log.wait(&format!("the log says {part:?}"), |log| {
            log.lines.iter().find(|line| line.contains(part)).cloned()
        })
    }

    /// Is the process still there, and does it answer?
    #[track_caller]
    pub(crate) fn assert_well(&self) {
        let health = self.get("/health");
        assert_eq!((health.status, health.text().as_str()), (200, "{\"status\":\"ok\"}"));
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let died = !self.stopped && matches!(self.child.try_wait(), Ok(Some(_)));
        // It may have ended just now.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let bad = self.log.with(|log| std::mem::take(&mut log.bad));
        let failing = std::thread::panicking();
        if failing || died || !bad.is_empty() {
            self.log.with(|log| log.lines.iter().for_each(|line| eprintln!("gateway: {line}")));
        }
        if !failing {
            assert!(!died, "the gateway died");
            assert!(bad.is_empty(), "the log must not say: {bad:#?}");
        }
    }
}

/// The samples of a text in the OpenMetrics format: name, labels, value. Fails where the text is not in that format.
#[track_caller]
pub(crate) fn samples(text: &str) -> Vec<(String, String, f64)> {
    assert!(text.ends_with("# EOF\n"), "OpenMetrics ends with its mark");
    let mut samples = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
        };
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(plain && !name.is_empty(), "no name of a metric: {line:?}");
        samples.push((name.to_owned(), labels.to_owned(), value.parse().expect(line)));
    }
    samples
}

#[test]
fn one_configuration_is_put_into_another() {
    let mut base = json!({ "server": { "shards": 2, "pin": true }, "keys": [1] });
    merge(&mut base, json!({ "server": { "shards": 4 }, "keys": [], "rate": {} }));
    assert_eq!(base, json!({ "server": { "shards": 4, "pin": true }, "keys": [], "rate": {} }));
}
