//! How long a gateway takes to be ready that was killed while its journal held very many messages. A gateway makes the
//! journal: most messages are settled, the others wait for a model that says nothing. It is killed, and others start on
//! copies of what it left; each has to know as many open turns as there were.
//!
//! A journal forgets what is settled when a file of it is full. Here one file is so large that all messages are in it.
use super::Setup;
use super::chat::order;
use super::durable::{self, HELD, SILENT, held, sections};
use super::load::Pace;
use super::machine::Busy;
use super::record::Table;
use super::server::{Folder, Server};
use crate::floor::append::Policy;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::time::Duration;

/// Messages that are journalled, unless the command says how many.
pub const MESSAGES: usize = 1_000_000;
/// One of so many is not settled.
const HELD_SHARE: u64 = 100;
/// The smaller journal has this part of them, so that one sees how the time grows.
const SMALLER: usize = 4;
/// Chats of a connection.
const CHATS: u64 = 1_000;
/// In so many parts the two kinds of messages take turns.
const PARTS: u64 = 10;
/// More than a message takes in the journal.
const MESSAGE_BYTES: u64 = 1_000;

/// What a gateway starts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing.
    Nothing,
    /// All of it, which is in the kernel's memory.
    Cached,
    /// All of it, which has to be read from the disk.
    OnDisk,
    /// Only the journal: the store begins anew.
    NoStore,
}

/// The rows, in their order.
const ROWS: [(Left, &str); 4] = [
    (Left::Nothing, "clawgate, nothing journalled"),
    (Left::Cached, "clawgate"),
    (Left::OnDisk, "clawgate, not in the page cache"),
    (Left::NoStore, "clawgate, store lost"),
];

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    for messages in [setup.count / SMALLER, setup.count] {
        let crashed = Crashed::make(setup, messages)?;
        let setting = format!("{} journalled; {} of them not settled", crashed.messages, crashed.held);
        for round in 0..setup.rounds {
            for at in order(ROWS.len(), round) {
                let (left, name) = ROWS[at];
                table.add(&setting, name, round, &crashed.start(setup, left)?);
            }
        }
    }
    Ok(())
}

/// What a killed gateway left.
struct Crashed {
    data: Folder,
    messages: u64,
    held: u64,
    journal_bytes: f64,
}

impl Crashed {
    fn make(setup: &Setup, messages: usize) -> Result<Self, String> {
        let connections = setup.connections as u64;
        let held = (messages as u64 / HELD_SHARE / connections / PARTS).max(1);
        let settled = (messages as u64 / connections / PARTS).saturating_sub(held).max(1);
        let data = Folder::new()?;
        let server = Server::gateway(setup, 1, &config(setup, data.path()))?;
        let mut waits = durable::load(server.address, HELD, setup.connections, 0, CHATS)?;
        let mut ends = durable::load(server.address, SILENT, setup.connections, 0, CHATS)?;
        let mut refused = 0;
        for _ in 0..PARTS {
            for (load, each) in [(&mut waits, held), (&mut ends, settled)] {
                refused += load.run(Pace::Exactly { burst: 1, each }, Duration::ZERO)?.refused;
            }
        }
        let (held, messages) = (held * PARTS * connections, (held + settled) * PARTS * connections);
        // The store has what it is told; what waits for a model is owed for ever.
        server.stored()?;
        let counted = super::ask::metrics(server.address)?;
        let (accepted, files) =
            (counted.sum("messages_accepted_total"), counted.sum("journal_segments_begun_total"));
        if refused != 0 || accepted != messages as f64 || files != 1.0 {
            return Err(format!(
                "{accepted} of {messages} messages were accepted, {refused} refused; {files} files were begun"
            ));
        }
        let journal_bytes = counted.sum("journal_appended_bytes_total");
        drop(server);
        Ok(Self { data, messages, held, journal_bytes })
    }

    /// Starts a gateway on a copy of it.
    fn start(&self, setup: &Setup, left: Left) -> Result<Vec<(&'static str, f64)>, String> {
        let data = Folder::new()?;
        let copied = if left == Left::Nothing { Ok(()) } else { copy(self.data.path(), data.path(), left) };
        copied.map_err(|why| format!("{}: {why}", data.path().display()))?;
        let busy = Busy::read();
        let server = Server::gateway(setup, 1, &config(setup, data.path()))?;
        let ready = server.ready()?.as_secs_f64() * 1_000.0;
        let usage = server.usage()?;
        let (expected, open) = (if left == Left::Nothing { 0 } else { self.held }, held(&server)?);
        if open != expected as f64 {
            return Err(format!("{open} of {expected} turns go on after a start ({left:?})"));
        }
        let millions = self.messages as f64 / 1e6;
        let mut numbers = vec![("ready_ms", ready)];
        if left != Left::Nothing {
            numbers.push(("ready_ms_per_million", ready / millions));
            numbers.push(("journal_mib", self.journal_bytes / f64::from(1 << 20)));
        }
        numbers.extend([
            ("cpu_ms", usage.cpu_ns as f64 / 1e6),
            ("peak_mib", usage.peak_kib as f64 / 1_024.0),
            ("others_percent", busy.since(usage.cpu_ns).others_percent),
        ]);
        Ok(numbers)
    }
}

fn config(setup: &Setup, data: &Path) -> Vec<(&'static str, Value)> {
    let file = (setup.count as u64 * MESSAGE_BYTES).clamp(1 << 20, 1 << 30);
    let mut config = sections(Some(Policy::Always), ([127, 0, 0, 1], 9).into());
    config.push(("journal", json!({ "segmentBytes": file, "diskBytesMax": 16 * file })));
    config.push(("data", json!({ "folder": data })));
    config
}

/// Copies files and folders.
fn copy(from: &Path, to: &Path, left: Left) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (to.join(entry.file_name()), entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&path)?;
            copy(&entry.path(), &path, left)?;
        } else if kind.is_file() && !(left == Left::NoStore && name.to_string_lossy().starts_with("store.")) {
            let file = copy_written(&entry.path(), &path)?;
            if left == Left::OnDisk {
                fadvise(&file, 0, None, Advice::DontNeed)?;
            }
        }
    }
    Ok(())
}

/// Copies a file but for what was allocated of it and never written, and has the copy on the disk.
fn copy_written(from: &Path, to: &Path) -> io::Result<File> {
    let (mut from, mut to) = (File::open(from)?, File::create_new(to)?);
    let bytes = from.metadata()?.len();
    to.set_len(bytes)?;
    let mut at = 0;
    while at < bytes {
        let begin = match seek(&from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // There is nothing more.
            Err(Errno::NXIO) => break,
            Err(why) => return Err(why.into()),
        };
        let end = seek(&from, SeekFrom::Hole(begin))?;
        from.seek(io::SeekFrom::Start(begin))?;
        to.seek(io::SeekFrom::Start(begin))?;
        io::copy(&mut (&from).take(end - begin), &mut to)?;
        at = end;
    }
    to.sync_all()?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn a_copy_has_what_was_written_where_it_was() {
        let folder = Folder::new().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create_new(&from).unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(b"second", 1 << 20).unwrap();
        copy_written(&from, &to).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/store.db"), "").unwrap();
        fs::write(folder.path().join("a/lock"), "1").unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        copy(&folder.path().join("a"), &folder.path().join("b"), Left::NoStore).unwrap();
        let there = |name: &str| folder.path().join("b").join(name).exists();
        assert_eq!((there("store.db"), there("lock")), (false, true));
    }
}
