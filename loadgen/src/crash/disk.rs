//! A disk that loses its power: what a process wrote and synced, as strace recorded it, and the files that a cut at any
//! moment may leave behind.
//!
//! Promised is what POSIX promises. A write is safe once an `fsync` or `fdatasync` of its file that began after it has
//! ended; a name is safe once its folder was synced. What is not safe is there or not: writes each for itself, the last ones
//! torn between sectors; names up to some moment, in order, as journalling file systems keep them. Files that are mapped
//! into memory are not seen: none of ours needs them after a crash. Owns no process; files it only writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::rng::Rng;

/// The system calls that are recorded.
pub(crate) const CALLS: &str = "openat,open,creat,close,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,\
    fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,copy_file_range,sendfile";
/// How strace has to tell of them.
pub(crate) const OPTIONS: [&str; 6] = [
    "-y",
    "-xx",
    "--string-limit=67108864",
    "--syscall-times=ns",
    "--absolute-timestamps=format:unix,precision:ns",
    "--seccomp-bpf",
];
/// What a disk writes as one.
const SECTOR_BYTES: u64 = 512;
/// The longest file that is believed: beyond it the record is misread.
const FILE_BYTES_MAX: u64 = 1 << 32;

/// When something began and ended, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    begin_ns: u64,
    end_ns: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Write {
        at: u64,
        bytes: Vec<u8>,
    },
    /// `ftruncate`, or `O_TRUNC`.
    Resize {
        bytes: u64,
    },
    /// `fallocate`: at least so long.
    Grow {
        bytes: u64,
    },
}

/// A file, whatever it is called.
#[derive(Clone, Debug, Default)]
struct Inode {
    changes: Vec<(Span, Change)>,
    syncs: Vec<Span>,
    /// How long the process sees it.
    len: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Naming {
    Folder { path: String },
    Create { path: String, inode: usize },
    Rename { from: String, to: String },
    Unlink { path: String },
}

/// All that happened to a folder and what is in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    root: String,
    inodes: Vec<Inode>,
    namings: Vec<(Span, Naming)>,
    folder_syncs: BTreeMap<String, Vec<Span>>,
    /// What is called how while the record is read.
    names: BTreeMap<String, usize>,
    /// Open descriptors of the process: its file, and where it writes next.
    open: BTreeMap<u32, (usize, u64)>,
    /// Those of them that write at the end, wherever that is.
    appending: BTreeSet<u32>,
    /// Calls that change files in a way that is not modelled: the record is then good for nothing.
    unknown: Vec<String>,
}

/// One line of strace, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    call: String,
    args: Vec<String>,
    result: i64,
    span: Span,
}

impl Record {
    /// Reads on: strace's output about one process, by the options of [`OPTIONS`].
    ///
    /// # Errors
    /// What happened cannot be modelled, and why.
    pub(crate) fn read(&mut self, text: &str) -> Result<(), String> {
        let mut begun = BTreeMap::new();
        self.open.clear();
        self.appending.clear();
        for line in text.lines() {
            let Some(whole) = join(line, &mut begun) else { continue };
            if let Some(line) = Line::read(&whole)
                && 0 <= line.result
            {
                self.on_line(&line);
            }
        }
        match self.unknown.first() {
            Some(what) => Err(format!("{what}: the disk's model does not know what that does")),
            None => Ok(()),
        }
    }

    /// Of a folder that does not exist yet.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_string_lossy().into_owned(), ..Self::default() }
    }

    /// Calls that changed something.
    pub(crate) fn len(&self) -> usize {
        self.namings.len() + self.inodes.iter().map(|inode| inode.changes.len()).sum::<usize>()
    }

    fn on_line(&mut self, line: &Line) {
        let arg = |at: usize| line.args.get(at).map_or("", String::as_str);
        let number = |at: usize| arg(at).parse::<u64>().unwrap_or(0);
        match line.call.as_str() {
            "openat" => self.on_open(&path_at(arg(0), arg(1)), arg(2), line),
            "open" => self.on_open(&unquote(arg(0)), arg(1), line),
            "close" => {
                self.open.remove(&descriptor(arg(0)));
                self.appending.remove(&descriptor(arg(0)));
            }
            "pwrite64" => self.on_write(arg(0), arg(1), Some(number(3)), line),
            "write" => self.on_write(arg(0), arg(1), None, line),
            "ftruncate" => self.change(arg(0), line.span, Change::Resize { bytes: number(1) }),
            "fallocate" if arg(1) == "0" => {
                self.change(arg(0), line.span, Change::Grow { bytes: number(2) + number(3) });
            }
            "fsync" | "fdatasync" => self.on_sync(arg(0), line.span),
            "rename" => self.on_rename(unquote(arg(0)), unquote(arg(1)), line.span),
            "renameat" | "renameat2" => {
                self.on_rename(path_at(arg(0), arg(1)), path_at(arg(2), arg(3)), line.span);
            }
            "unlink" => self.on_unlink(unquote(arg(0)), line.span),
            "unlinkat" => self.on_unlink(path_at(arg(0), arg(1)), line.span),
            "mkdir" => self.on_folder(unquote(arg(0)), line.span),
            "mkdirat" => self.on_folder(path_at(arg(0), arg(1)), line.span),
            // Only a hint to write early: it promises nothing.
            "sync_file_range" => {}
            _ if self.is_ours(&described(arg(0))) => self.unknown.push(line.call.clone()),
            _ => {}
        }
    }

    fn is_ours(&self, path: &str) -> bool {
        path.strip_prefix(self.root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn on_open(&mut self, path: &str, flags: &str, line: &Line) {
        if !self.is_ours(path) || flags.contains("O_DIRECTORY") {
            return;
        }
        let inode = match self.names.get(path) {
            Some(inode) => *inode,
            // What was there before the record began, or a folder that is opened to be synced.
            None if !flags.contains("O_CREAT") => return,
            None => {
                self.inodes.push(Inode::default());
                let inode = self.inodes.len() - 1;
                self.names.insert(path.to_owned(), inode);
                self.namings.push((line.span, Naming::Create { path: path.to_owned(), inode }));
                inode
            }
        };
        if flags.contains("O_TRUNC") {
            self.inodes[inode].push(line.span, Change::Resize { bytes: 0 });
        }
        if flags.contains("O_APPEND") {
            self.appending.insert(line.result as u32);
        }
        self.open.insert(line.result as u32, (inode, 0));
    }

    /// The file of a descriptor: as it was opened, or by its path where it is a copy of another one.
    fn file_of(&self, fd: &str) -> Option<(usize, u64)> {
        let opened = self.open.get(&descriptor(fd)).copied();
        opened.or_else(|| self.names.get(&described(fd)).map(|inode| (*inode, 0)))
    }

    fn on_write(&mut self, fd: &str, data: &str, at: Option<u64>, line: &Line) {
        let Some((inode, place)) = self.file_of(fd) else { return };
        let mut bytes = unhex(data);
        bytes.truncate(line.result as usize);
        if bytes.len() as i64 != line.result {
            self.unknown.push(format!("a {} whose bytes are cut off", line.call));
            return;
        }
        let file = &mut self.inodes[inode];
        // As Linux has it: one that appends does so wherever a `pwrite` points.
        let at = if self.appending.contains(&descriptor(fd)) { file.len } else { at.unwrap_or(place) };
        if line.call == "write" {
            self.open.insert(descriptor(fd), (inode, at + bytes.len() as u64));
        }
        file.push(line.span, Change::Write { at, bytes });
    }

    fn change(&mut self, fd: &str, span: Span, change: Change) {
        if let Some((inode, _)) = self.file_of(fd) {
            self.inodes[inode].push(span, change);
        }
    }

    fn on_sync(&mut self, fd: &str, span: Span) {
        match self.file_of(fd) {
            Some((inode, _)) => self.inodes[inode].syncs.push(span),
            None => self.folder_syncs.entry(described(fd)).or_default().push(span),
        }
    }

    fn on_rename(&mut self, from: String, to: String, span: Span) {
        if let Some(inode) = self.names.remove(&from) {
            self.names.insert(to.clone(), inode);
            self.namings.push((span, Naming::Rename { from, to }));
        }
    }

    fn on_unlink(&mut self, path: String, span: Span) {
        if self.names.remove(&path).is_some() {
            self.namings.push((span, Naming::Unlink { path }));
        }
    }

    fn on_folder(&mut self, path: String, span: Span) {
        if self.is_ours(&path) && path != self.root {
            self.namings.push((span, Naming::Folder { path }));
        }
    }

    /// Writes to `to` what a disk may hold if its power goes at `cut_ns`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn restore(&self, cut_ns: u64, rng: &mut Rng, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        // How much of what was not synced is there: none, some, all. All of it is what a kill leaves.
        let percent = [0, 0, 50, 90, 100][rng.below(5) as usize];
        let mut files = BTreeMap::new();
        for naming in self.namings_at(cut_ns, percent, rng) {
            match naming {
                Naming::Folder { path } => fs::create_dir_all(self.place(path, to))?,
                Naming::Create { path, inode } => {
                    files.insert(path.clone(), *inode);
                }
                Naming::Rename { from, to } => {
                    if let Some(inode) = files.remove(from) {
                        files.insert(to.clone(), inode);
                    }
                }
                Naming::Unlink { path } => {
                    files.remove(path);
                }
            }
        }
        for (path, inode) in files {
            let bytes = self.inodes.get(inode).map(|inode| inode.bytes_at(cut_ns, percent, rng));
            let place = self.place(&path, to);
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(place, bytes.unwrap_or_default())?;
        }
        Ok(())
    }

    fn place(&self, path: &str, to: &Path) -> PathBuf {
        let rest = path.strip_prefix(self.root.as_str()).unwrap_or(path);
        to.join(rest.trim_start_matches('/'))
    }

    /// The namings that are there after the cut: all up to the last safe one, and perhaps some that follow.
    fn namings_at(&self, cut_ns: u64, percent: u64, rng: &mut Rng) -> impl Iterator<Item = &Naming> {
        let begun = self.namings.iter().take_while(|(span, _)| span.begin_ns <= cut_ns).count();
        let safe =
            self.namings[..begun].iter().rposition(|(span, naming)| self.is_safe(*span, naming, cut_ns));
        let safe = safe.map_or(0, |last| last + 1);
        let extra = ((begun - safe) as u64 * percent).div_ceil(100);
        let extra = if extra == 0 { 0 } else { rng.below(extra + 1) };
        self.namings[..safe + extra as usize].iter().map(|(_, naming)| naming)
    }

    fn is_safe(&self, span: Span, naming: &Naming, cut_ns: u64) -> bool {
        let (Naming::Folder { path }
        | Naming::Create { path, .. }
        | Naming::Rename { to: path, .. }
        | Naming::Unlink { path }) = naming;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        self.folder_syncs.get(folder).is_some_and(|syncs| covers(syncs, span, cut_ns))
    }
}

/// Whether one of these syncs makes safe what happened in `span`.
fn covers(syncs: &[Span], span: Span, cut_ns: u64) -> bool {
    syncs.iter().any(|sync| span.end_ns <= sync.begin_ns && sync.end_ns <= cut_ns)
}

impl Inode {
    fn push(&mut self, span: Span, change: Change) {
        self.len = match &change {
            Change::Write { at, bytes } => self.len.max(at + bytes.len() as u64),
            Change::Resize { bytes } => *bytes,
            Change::Grow { bytes } => self.len.max(*bytes),
        };
        self.changes.push((span, change));
    }

    /// What the file may hold after a cut.
    fn bytes_at(&self, cut_ns: u64, percent: u64, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (span, change) in self.changes.iter().filter(|(span, _)| span.begin_ns <= cut_ns) {
            let safe = covers(&self.syncs, *span, cut_ns);
            if !safe && percent <= rng.below(100) {
                continue;
            }
            match change {
                Change::Write { at, bytes: written } => {
                    let torn = !safe && rng.below(4) == 0;
                    let len =
                        if torn { torn_at(*at, written.len() as u64, rng) } else { written.len() as u64 };
                    put(&mut bytes, *at, written.get(..len as usize).unwrap_or(written));
                }
                Change::Resize { bytes: len } if *len <= FILE_BYTES_MAX => bytes.resize(*len as usize, 0),
                Change::Grow { bytes: len } if *len <= FILE_BYTES_MAX => {
                    bytes.resize((*len as usize).max(bytes.len()), 0);
                }
                Change::Resize { .. } | Change::Grow { .. } => {}
            }
        }
        bytes
    }
}

/// How much of a write is there if it is torn: it ends at a boundary of sectors.
fn torn_at(at: u64, len: u64, rng: &mut Rng) -> u64 {
    let end = at + rng.below(len + 1);
    (end - end % SECTOR_BYTES).max(at) - at
}

fn put(bytes: &mut Vec<u8>, at: u64, written: &[u8]) {
    if FILE_BYTES_MAX < at {
        return;
    }
    let (at, end) = (at as usize, at as usize + written.len());
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(written);
}

/// Puts the two halves of a call together that another thread's came between. `None` if there is no whole one yet.
fn join(line: &str, begun: &mut BTreeMap<String, String>) -> Option<String> {
    let (thread, rest) = line.trim_start().split_once(' ')?;
    let rest = rest.trim_start();
    if let Some(first) = rest.strip_suffix("<unfinished ...>") {
        begun.insert(thread.to_owned(), first.trim_end().to_owned());
        return None;
    }
    let (_, after) = rest.split_once(' ')?;
    if after.starts_with("<... ") {
        let first = begun.remove(thread)?;
        let (_, second) = after.split_once("resumed>")?;
        return Some(first + second);
    }
    Some(rest.to_owned())
}

impl Line {
    /// `SECONDS.NANOS call(args) = result <SECONDS.NANOS>`; `None` for anything else, as signals are.
    fn read(text: &str) -> Option<Self> {
        let (time, rest) = text.split_once(' ')?;
        let (call, rest) = rest.split_once('(')?;
        let begin_ns = nanos(time)?;
        let (rest, lasted) = rest.rsplit_once('<')?;
        let end_ns = begin_ns + nanos(lasted.strip_suffix('>')?)?;
        let (args, result) = rest.rsplit_once(" = ")?;
        let result = result.trim();
        let end = result.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(result.len());
        let args = args.trim_end().strip_suffix(')')?;
        Some(Self {
            call: call.to_owned(),
            args: split_args(args),
            result: result[..end].parse().ok()?,
            span: Span { begin_ns, end_ns },
        })
    }
}

/// Arguments are parted by commas, but for those in strings, which are hexadecimal, and in a descriptor's path.
fn split_args(args: &str) -> Vec<String> {
    args.split(", ").map(str::to_owned).collect()
}

/// `1764226000.123456789` in nanoseconds.
fn nanos(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    let digits = format!("{fraction:0<9}");
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + digits.get(..9)?.parse::<u64>().ok()?)
}

/// The number of `7</path>`.
fn descriptor(arg: &str) -> u32 {
    let digits = arg.split('<').next().unwrap_or(arg);
    digits.parse().unwrap_or(u32::MAX)
}

/// The path of `7</path>`.
fn described(arg: &str) -> String {
    let path = arg.split_once('<').and_then(|(_, path)| path.strip_suffix('>')).unwrap_or_default();
    String::from_utf8_lossy(&unhex(path)).into_owned()
}

/// The path that a call names, relative to a descriptor.
fn path_at(folder: &str, path: &str) -> String {
    let path = unquote(path);
    if path.starts_with('/') {
        return path;
    }
    format!("{}/{path}", described(folder))
}

fn unquote(arg: &str) -> String {
    String::from_utf8_lossy(&unhex(arg)).into_owned()
}

/// The bytes of `"\x61\x62"`, and of `abc` as they stand.
fn unhex(text: &str) -> Vec<u8> {
    let text = text.trim_matches('"').as_bytes();
    let (mut bytes, mut at) = (Vec::with_capacity(text.len() / 4), 0);
    while at < text.len() {
        let digits = text.get(at..at + 4).and_then(|escape| escape.strip_prefix(b"\\x"));
        match digits.and_then(crate::stamp::read_hex) {
            Some(byte) => {
                bytes.push(byte as u8);
                at += 4;
            }
            None => {
                bytes.push(text[at]);
                at += 1;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ROOT: &str = "/w/data";

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// A call of thread 1 that began at so many milliseconds and took half of one.
    fn line(at: u64, call: &str) -> String {
        format!("1 1700000000.{at:03}000000 {call} <0.000500000>\n")
    }

    fn fd(number: u32, path: &str) -> String {
        format!("{number}<{}>", hex(path))
    }

    const fn ns(millis: u64) -> u64 {
        1_700_000_000_000_000_000 + millis * 1_000_000
    }

    /// A file `a` is made, written twice and synced after the first write; then it is renamed to `b`.
    fn story() -> String {
        let (a, b, folder) = (fd(5, "/w/data/a"), fd(5, "/w/data/b"), fd(6, ROOT));
        [
            line(
                1,
                &format!(
                    "openat(AT_FDCWD<{}>, \"{}\", O_WRONLY|O_CREAT, 0600) = {a}",
                    hex("/"),
                    hex("/w/data/a")
                ),
            ),
            line(2, &format!("fsync({folder}) = 0")),
            line(3, &format!("pwrite64({a}, \"{}\", 4, 0) = 4", hex("safe"))),
            line(4, &format!("fdatasync({a}) = 0")),
            line(5, &format!("pwrite64({a}, \"{}\", 4, 4) = 4", hex("lost"))),
            line(6, &format!("rename(\"{}\", \"{}\") = 0", hex("/w/data/a"), hex("/w/data/b"))),
            line(7, &format!("ftruncate({b}, 2) = 0")),
            line(8, &format!("pwrite64({}, \"{}\", 1, 0) = 1", fd(9, "/elsewhere"), hex("x"))),
        ]
        .concat()
    }

    /// What the folder may hold after cuts at a moment, over many draws: file names with their contents.
    fn outcomes(text: &str, cut_ns: u64) -> Vec<String> {
        let mut record = Record::new(Path::new(ROOT));
        record.read(text).unwrap();
        let folder = std::env::temp_dir().join(format!("loadgen-disk-{}-{cut_ns}", std::process::id()));
        let mut seen = Vec::new();
        for seed in 0..200 {
            record.restore(cut_ns, &mut Rng::new(seed), &folder).unwrap();
            let mut files: Vec<String> = fs::read_dir(&folder)
                .unwrap()
                .map(|entry| {
                    let path = entry.unwrap().path();
                    let content = String::from_utf8(fs::read(&path).unwrap()).unwrap();
                    format!("{}={content}", path.file_name().unwrap().to_str().unwrap())
                })
                .collect();
            fs::remove_dir_all(&folder).unwrap();
            files.sort();
            seen.push(files.join(" "));
        }
        seen.sort();
        seen.dedup();
        seen
    }

    #[test]
    fn what_was_synced_is_there_and_the_rest_perhaps() {
        assert_eq!(outcomes(&story(), ns(0)), [""]);
        assert_eq!(outcomes(&story(), ns(1)), ["", "a="], "the folder is not synced");
        assert_eq!(outcomes(&story(), ns(3)), ["a=", "a=safe"], "it is being written");
        assert_eq!(outcomes(&story(), ns(4)), ["a=", "a=safe"], "it is being synced");
        assert_eq!(outcomes(&story(), ns(4) + 600_000), ["a=safe"]);
        assert_eq!(outcomes(&story(), ns(5)), ["a=safe", "a=safelost"]);
        assert_eq!(outcomes(&story(), ns(6)), ["a=safe", "a=safelost", "b=safe", "b=safelost"]);
    }

    #[test]
    fn a_sync_covers_only_what_ended_before_it_began() {
        let a = fd(5, "/w/data/a");
        let open = format!("openat(AT_FDCWD, \"{}\", O_WRONLY|O_CREAT, 0600) = {a}", hex("/w/data/a"));
        let text = [
            line(1, &open),
            line(2, &format!("fsync({}) = 0", fd(6, ROOT))),
            format!("2 1700000000.003000000 pwrite64({a}, \"{}\", 4, 0 <unfinished ...>\n", hex("late")),
            line(4, &format!("fdatasync({a}) = 0")),
            "2 1700000000.006000000 <... pwrite64 resumed>) = 4 <0.003000000>\n".to_owned(),
            line(8, &format!("fdatasync({a}) = 0")),
        ]
        .concat();
        assert_eq!(outcomes(&text, ns(7)), ["a=", "a=late"]);
        assert_eq!(outcomes(&text, ns(9)), ["a=late"]);
    }

    #[test]
    fn what_is_appended_stands_at_the_end_whoever_wrote_before() {
        let (a, b) = (fd(5, "/w/data/a"), fd(7, "/w/data/a"));
        let open = |flags: &str, fd: &str| {
            format!("openat(AT_FDCWD, \"{}\", {flags}, 0600) = {fd}", hex("/w/data/a"))
        };
        let text = [
            line(1, &open("O_RDWR|O_CREAT|O_APPEND", &a)),
            line(2, &format!("fsync({}) = 0", fd(6, ROOT))),
            line(3, &format!("write({a}, \"{}\", 4) = 4", hex("one "))),
            line(4, &open("O_WRONLY|O_APPEND", &b)),
            line(5, &format!("write({b}, \"{}\", 4) = 4", hex("two "))),
            line(6, &format!("write({a}, \"{}\", 5) = 5", hex("three"))),
            line(7, &format!("fdatasync({a}) = 0")),
            line(8, &format!("ftruncate({a}, 4) = 0")),
            line(9, &format!("write({b}, \"{}\", 4) = 4", hex("four"))),
            line(10, &format!("fdatasync({a}) = 0")),
        ]
        .concat();
        assert_eq!(outcomes(&text, ns(7) + 600_000), ["a=one two three"]);
        assert_eq!(outcomes(&text, ns(11)), ["a=one four"]);
    }

    #[test]
    fn a_torn_write_ends_between_sectors() {
        let mut rng = Rng::new(1);
        for _ in 0..1_000 {
            let kept = torn_at(100, 2_000, &mut rng);
            assert!(kept == 0 || (100 + kept).is_multiple_of(SECTOR_BYTES) && kept <= 2_000, "{kept}");
        }
    }

    #[test]
    fn a_call_that_is_not_modelled_makes_the_record_useless() {
        let open = format!(
            "openat(AT_FDCWD, \"{}\", O_RDWR|O_CREAT, 0600) = {}",
            hex("/w/data/a"),
            fd(5, "/w/data/a")
        );
        let strange = format!("pwritev({}, [{{iov_base=\"\", iov_len=0}}], 1, 0) = 0", fd(5, "/w/data/a"));
        let mut record = Record::new(Path::new(ROOT));
        let why = record.read(&[line(1, &open), line(2, &strange)].concat()).unwrap_err();
        assert!(why.starts_with("pwritev"), "{why}");
    }
}
