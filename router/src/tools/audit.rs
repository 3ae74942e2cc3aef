//! The audit log of tool calls: one JSON object a line, appended to a file in the data directory by a thread of its own.
//!
//! A call is written down before it is made, and what came of it after. A call whose lines find no room is not made: the
//! log may hold up tools, never lose what they did. Nobody is slowed by it but the model that calls.
use crate::config::secret::{HIDDEN, Secret};
use crate::data::Folder;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The file that is written, in the folder `audit` of the data directory.
const FILE: &str = "tools.jsonl";
/// What the older files begin with.
const OLDER: &str = "tools-";
/// How long until a disk that took nothing is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the end waits for the last lines.
const CLOSE_AGE_MAX: Duration = Duration::from_secs(5);
/// Lines that are written and synced at once.
const BATCH_LINES: usize = 256;
/// A secret of fewer bytes would be found everywhere.
const SECRET_BYTES_MIN: usize = 4;

/// How the log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Bytes of one file.
    pub(crate) file_bytes_max: u64,
    /// Files, the one that is written among them.
    pub(crate) files_max: u16,
    /// Lines that wait for the disk.
    pub(crate) waiting_max: usize,
}

enum Order {
    Line(String),
    Stop,
}

/// The way to the log.
pub(crate) struct Audit {
    /// What waits in it is bounded by the room that [`State`] counts, which a reload may change.
    orders: Sender<Order>,
    state: Arc<State>,
    ended: Mutex<Receiver<()>>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Audit")
    }
}

#[derive(Debug)]
struct State {
    /// Lines that wait, or have been promised room.
    taken: AtomicUsize,
    waiting_max: AtomicUsize,
    file_bytes_max: AtomicU64,
    files_max: AtomicU16,
    failing: AtomicBool,
}

impl State {
    fn new(plan: &Plan) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            waiting_max: AtomicUsize::new(plan.waiting_max),
            file_bytes_max: AtomicU64::new(plan.file_bytes_max),
            files_max: AtomicU16::new(plan.files_max),
            failing: AtomicBool::new(false),
        }
    }
}

impl Audit {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// It cannot be written, in words for the operator.
    pub(crate) fn start(folder: &Folder, plan: &Plan) -> Result<Self, String> {
        Self::start_in(folder.below("audit")?, plan)
    }

    fn start_in(path: PathBuf, plan: &Plan) -> Result<Self, String> {
        let bad = |why: io::Error| format!("the audit log in {} cannot be written: {why}", path.display());
        let state = Arc::new(State::new(plan));
        let file = LogFile::open(&path, state.clone()).map_err(bad)?;
        let (orders, coming) = channel();
        let (end, ended) = sync_channel(1);
        let shared = state.clone();
        let write = move || {
            write_lines(file, &coming, &shared);
            let _ = end.send(());
        };
        std::thread::Builder::new().name("audit".to_owned()).spawn(write).map_err(bad)?;
        Ok(Self { orders, state, ended: Mutex::new(ended) })
    }

    /// Goes on by other bounds. Lines that wait beyond them are written all the same.
    pub(crate) fn follow(&self, plan: &Plan) {
        self.state.waiting_max.store(plan.waiting_max, Ordering::Relaxed);
        self.state.file_bytes_max.store(plan.file_bytes_max, Ordering::Relaxed);
        self.state.files_max.store(plan.files_max, Ordering::Relaxed);
    }

    /// Room for the two lines of a call; `None` if there is none.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Permit> {
        let most = self.state.waiting_max.load(Ordering::Relaxed);
        let fits = |taken: usize| Some(taken + 2).filter(|taken| *taken <= most);
        self.state.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).ok()?;
        Some(Permit { audit: self.clone(), left: 2 })
    }

    /// Does the disk take no lines?
    pub(crate) fn is_failing(&self) -> bool {
        self.state.failing.load(Ordering::Acquire)
    }

    /// Writes what waits, within bounds.
    pub(crate) fn close(&self) {
        let _ = self.orders.send(Order::Stop);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(ended.recv_timeout(CLOSE_AGE_MAX), Err(RecvTimeoutError::Timeout)) {
            tracing::error!("the audit log could not be written to its end");
        }
    }
}

/// Room for the lines of one call.
#[derive(Debug)]
pub(crate) struct Permit {
    audit: Arc<Audit>,
    left: usize,
}

impl Permit {
    /// Hands a line over.
    pub(crate) fn write(&mut self, line: String) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        // There is room for it. A thread that is gone takes nothing: the process ends.
        let _ = self.audit.orders.send(Order::Line(line));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.audit.state.taken.fetch_sub(self.left, Ordering::AcqRel);
    }
}

fn write_lines(mut file: LogFile, coming: &Receiver<Order>, state: &State) {
    let mut batch = Vec::new();
    loop {
        let Ok(first) = coming.recv() else { return };
        let mut stop = false;
        let mut lines = 0;
        for order in std::iter::once(first).chain(coming.try_iter().take(BATCH_LINES)) {
            match order {
                Order::Line(line) => {
                    batch.extend_from_slice(line.as_bytes());
                    batch.push(b'\n');
                    lines += 1;
                }
                Order::Stop => stop = true,
            }
        }
        while let Err(why) = file.append(&mut batch) {
            if !state.failing.swap(true, Ordering::AcqRel) {
                tracing::error!(%why, "the audit log takes no lines: tools are refused once it is full");
            }
            if stop {
                return;
            }
            std::thread::park_timeout(RETRY);
        }
        if state.failing.swap(false, Ordering::AcqRel) {
            tracing::info!("the audit log takes lines again");
        }
        state.taken.fetch_sub(lines, Ordering::AcqRel);
        if stop {
            return;
        }
    }
}

/// The file that is written, and where the older ones lie.
struct LogFile {
    folder: PathBuf,
    state: Arc<State>,
    file: File,
    /// Its length, up to where it is whole.
    length: u64,
}

impl LogFile {
    fn open(folder: &Path, state: Arc<State>) -> io::Result<Self> {
        let (file, length) = open_file(folder)?;
        let mut log = Self { folder: folder.to_path_buf(), state, file, length };
        // What a crash cut off stays as it is, on a line of its own.
        let mut last = [b'\n'];
        if let Some(at) = length.checked_sub(1) {
            log.file.read_exact_at(&mut last, at)?;
        }
        if last != *b"\n" {
            log.append(&mut vec![b'\n'])?;
        }
        Ok(log)
    }

    /// Appends whole lines, and takes away those that are on the disk. What could not be written is not there at all.
    fn append(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        while !lines.is_empty() {
            let bytes_max = self.state.file_bytes_max.load(Ordering::Relaxed);
            let room = bytes_max.saturating_sub(self.length);
            let fitting = whole_lines(lines, usize::try_from(room).unwrap_or(usize::MAX));
            if fitting == 0 && self.length != 0 {
                self.rotate()?;
                continue;
            }
            // A line that is longer than a file may be has one for itself.
            let bytes = if fitting == 0 { first_line(lines) } else { fitting };
            self.write(&lines[..bytes])?;
            lines.drain(..bytes);
        }
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.length += lines.len() as u64,
            // It is tried again as a whole.
            Err(_) => self.file.set_len(self.length)?,
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut older = self.older()?;
        let number = older.last().map_or(1, |(number, _)| number + 1);
        std::fs::rename(self.folder.join(FILE), self.folder.join(format!("{OLDER}{number:010}.jsonl")))?;
        (self.file, self.length) = open_file(&self.folder)?;
        let files_max = self.state.files_max.load(Ordering::Relaxed);
        let spare = (older.len() + 2).saturating_sub(usize::from(files_max));
        for (_, path) in older.drain(..spare.min(older.len())) {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    /// The older files, oldest first.
    fn older(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(OLDER)?.strip_suffix(".jsonl"));
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                found.push((number, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }
}

/// How much of these lines fits into so many bytes.
fn whole_lines(lines: &[u8], bytes_max: usize) -> usize {
    let within = &lines[..lines.len().min(bytes_max)];
    within.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1)
}

fn open_file(folder: &Path) -> io::Result<(File, u64)> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.append(true).read(true).create(true).mode(0o600).open(folder.join(FILE))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// A text without these secrets.
pub(crate) fn masked(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().map(Secret::expose) {
        let mut quoted = Vec::new();
        clawgate_wire::json::write_str_body(&mut quoted, secret);
        let quoted = String::from_utf8(quoted).unwrap_or_default();
        for form in [secret, quoted.as_str()] {
            if SECRET_BYTES_MIN <= form.len() && text.contains(form) {
                text = text.replace(form, HIDDEN);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const PLAN: Plan = Plan { file_bytes_max: 60, files_max: 3, waiting_max: 4 };

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("clawgate-audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn lines(path: &Path, name: &str) -> Vec<String> {
        std::fs::read_to_string(path.join(name)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_are_appended_and_files_rotated() {
        let path = folder("rotated");
        let audit = Arc::new(Audit::start_in(path.clone(), &PLAN).unwrap());
        let mut written = Vec::new();
        for number in 0..20 {
            // The thread gives room back as it writes.
            let mut permit = loop {
                if let Some(permit) = audit.admit() {
                    break permit;
                }
            };
            for word in ["call", "result"] {
                let line = format!("{word} number {number:02}");
                written.push(line.clone());
                permit.write(line);
            }
        }
        audit.close();
        let mut names: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!((names.len(), names[2].as_str()), (3, FILE));
        let kept: Vec<String> = names.iter().flat_map(|name| lines(&path, name)).collect();
        assert_eq!(kept, written[written.len() - kept.len()..], "the last ones, in order, none torn");
        assert!(std::fs::metadata(path.join(&names[0])).unwrap().len() <= 60);
        assert_eq!(std::fs::metadata(path.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_finds_no_room_is_refused_and_room_comes_back() {
        let path = folder("room");
        let audit = Arc::new(Audit::start_in(path.clone(), &PLAN).unwrap());
        let (first, second) = (audit.admit().unwrap(), audit.admit().unwrap());
        assert!(audit.admit().is_none());
        drop(first);
        assert!(audit.admit().is_some() && audit.admit().is_some());
        drop(second);
        audit.close();
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn other_bounds_hold_at_once() {
        let path = folder("followed");
        let audit = Arc::new(Audit::start_in(path.clone(), &PLAN).unwrap());
        let held = [audit.admit().unwrap(), audit.admit().unwrap()];
        audit.follow(&Plan { waiting_max: 6, ..PLAN });
        let more = audit.admit().unwrap();
        audit.follow(&Plan { waiting_max: 2, file_bytes_max: 1_000, ..PLAN });
        assert!(audit.admit().is_none(), "there is less room than is taken");
        for mut permit in held.into_iter().chain([more]) {
            permit.write("a line that has the length of half a file".to_owned());
        }
        audit.close();
        assert_eq!(lines(&path, FILE).len(), 3, "all in one file, and none is lost");
        assert!(audit.admit().is_some());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_a_crash_cut_off_spoils_no_other_line() {
        let path = folder("torn");
        std::fs::write(path.join(FILE), "{\"whole\":1}\n{\"to").unwrap();
        let audit = Arc::new(Audit::start_in(path.clone(), &Plan { file_bytes_max: 1_000, ..PLAN }).unwrap());
        audit.admit().unwrap().write("{\"next\":2}".to_owned());
        audit.close();
        assert_eq!(lines(&path, FILE), ["{\"whole\":1}", "{\"to", "{\"next\":2}"]);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_disk_that_takes_nothing_is_tried_again() {
        let path = folder("full");
        let mut log = LogFile::open(&path, Arc::new(State::new(&PLAN))).unwrap();
        // A file that cannot be written.
        log.file = File::open(path.join(FILE)).unwrap();
        let mut offered = b"line\n".to_vec();
        assert!(log.append(&mut offered).is_err());
        (log.file, log.length) = open_file(&path).unwrap();
        log.append(&mut offered).unwrap();
        assert!(offered.is_empty());
        assert_eq!(lines(&path, FILE), ["line"]);
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn secrets_are_masked() {
        let secrets = ["hunter2", "a\"b\"c", "abc"].map(|text| Secret::new(text.to_owned()));
        let masked = masked(
            "{\"a\":\"hunter2\",\"b\":\"xhunter2hunter2\",\"c\":\"a\\\"b\\\"c\",\"d\":\"abc\"}",
            &secrets,
        );
        assert_eq!(
            masked,
            "{\"a\":\"********\",\"b\":\"x****************\",\"c\":\"********\",\"d\":\"abc\"}"
        );
    }
}
