//! Where in the archive each session's lines begin: a file beside it, made from it, by whoever searches. It may be removed
//! at any time, and is made anew where the archive is another one, or parts of it were taken away.
//!
//! A head of 16 bytes: what it is, and the hash of how the archive begins. Then 16 bytes a line, in the order of the
//! archive: the hash of its session's key (0 for a place up to which there was none), and where it begins. Little endian.
use super::archive::{Lines, find_from, loaded_at};
use super::query::Loaded;
use super::row::{Key, SessionRow};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"clawidx1";
const ENTRY: u64 = 16;
/// Bytes of the archive that tell it from others.
const BEGINNING_BYTES: u64 = 4_096;
/// Bytes of the index that are read at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes of the archive that one search takes into the index, and that it looks at besides.
pub(super) const SEARCHED_BYTES_MAX: u64 = 1 << 30;

/// The latest life of a session that is in the archive. Where the archive grew by more than `most` since it was last
/// searched, what is neither in the index nor in the last `most` bytes is not found yet: the next search goes on.
pub(super) fn find(archive: &Path, key: &Key, most: u64) -> io::Result<Option<Loaded>> {
    let Some(lines) = Lines::open(archive, 0)? else { return Ok(None) };
    let length = lines.length()?;
    let index = Index::open(archive).and_then(|mut index| {
        let covered = index.extend(archive, most)?;
        Ok((index, covered))
    });
    let (mut index, covered) = match index {
        Ok((index, covered)) => (Some(index), covered),
        Err(why) => {
            tracing::warn!(%why, "the index of the archive cannot be used: its newest part is searched");
            (None, 0)
        }
    };
    if covered < length {
        let found = find_from(archive, covered.max(length.saturating_sub(most)), key)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    let Some(index) = &mut index else { return Ok(None) };
    match index.find(archive, key)? {
        Sought::Found(loaded) => Ok(Some(*loaded)),
        Sought::Nothing => Ok(None),
        Sought::Stale => {
            // The archive is not the one that it was made from, although it begins in the same way.
            index.clear()?;
            find_from(archive, length.saturating_sub(most), key)
        }
    }
}

/// What the index led to.
enum Sought {
    Found(Box<Loaded>),
    Nothing,
    /// Where it says that a line begins, none does.
    Stale,
}

struct Index {
    file: File,
    beginning: u64,
    length: u64,
}

impl Index {
    fn path(archive: &Path) -> PathBuf {
        archive.with_extension("index")
    }

    /// The index of this archive, which may be empty.
    fn open(archive: &Path) -> io::Result<Self> {
        let mut begins = Vec::new();
        File::open(archive)?.take(BEGINNING_BYTES).read_to_end(&mut begins)?;
        // The first line alone: it is there as a whole, and what follows may be yet to come.
        let first = begins.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(Self::path(archive))?;
        let length = file.metadata()?.len();
        let mut index = Self { file, beginning: hash(first), length };
        let mut head = [0; 16];
        let is_whole = ENTRY <= length && length.is_multiple_of(ENTRY);
        if is_whole {
            index.file.read_exact_at(&mut head, 0)?;
        }
        if head != index.head() {
            index.clear()?;
        }
        Ok(index)
    }

    fn head(&self) -> [u8; 16] {
        let mut head = [0; 16];
        head[..8].copy_from_slice(&MAGIC);
        head[8..].copy_from_slice(&self.beginning.to_le_bytes());
        head
    }

    /// Forgets all.
    fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        self.append(&self.head())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn entry(&self, at: u64) -> io::Result<(u64, u64)> {
        let mut bytes = [0; ENTRY as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(read_entry(&bytes))
    }

    /// Up to where the archive is in it.
    fn covered(&mut self, archive: &Path) -> io::Result<u64> {
        if self.length == ENTRY {
            return Ok(0);
        }
        let (hash, at) = self.entry(self.length - ENTRY)?;
        if hash == 0 {
            return Ok(at);
        }
        let end = match Lines::open(archive, at)? {
            Some(mut lines) => lines.next()?.is_some().then_some(lines.at()),
            None => None,
        };
        match end {
            Some(end) => Ok(end),
            None => self.clear().map(|()| 0),
        }
    }

    /// Takes in what came to the archive, at most so much; up to where it is in the index then.
    fn extend(&mut self, archive: &Path, most: u64) -> io::Result<u64> {
        let begin = self.covered(archive)?;
        let Some(mut lines) = Lines::open(archive, begin)? else { return Ok(begin) };
        let (mut covered, mut entries, mut is_marked) = (begin, Vec::new(), true);
        while covered - begin < most {
            let Some(line) = lines.next()? else { break };
            if let Ok(row) = serde_json::from_slice::<SessionRow>(line) {
                entries.extend_from_slice(&write_entry(hash(row.key().as_str().as_bytes()), covered));
                is_marked = true;
            } else {
                is_marked = false;
            }
            covered = lines.at();
            if CHUNK_BYTES <= entries.len() as u64 {
                self.append(&std::mem::take(&mut entries))?;
            }
        }
        if !is_marked {
            entries.extend_from_slice(&write_entry(0, covered));
        }
        self.append(&entries)?;
        Ok(covered)
    }

    /// Looks for the latest line of this session.
    fn find(&self, archive: &Path, key: &Key) -> io::Result<Sought> {
        let wanted = hash(key.as_str().as_bytes());
        let mut end = self.length;
        while ENTRY < end {
            let begin = end.saturating_sub(CHUNK_BYTES).max(ENTRY);
            let mut chunk = vec![0; usize::try_from(end - begin).unwrap_or(0)];
            self.file.read_exact_at(&mut chunk, begin)?;
            let (entries, _) = chunk.as_chunks::<{ ENTRY as usize }>();
            for (_, at) in entries.iter().rev().map(read_entry).filter(|(hash, _)| *hash == wanted) {
                match loaded_at(archive, at)? {
                    Some(loaded) if loaded.session.key() == *key => {
                        return Ok(Sought::Found(Box::new(loaded)));
                    }
                    // Another key of the same hash.
                    Some(loaded) if hash(loaded.session.key().as_str().as_bytes()) == wanted => {}
                    Some(_) | None => return Ok(Sought::Stale),
                }
            }
            end = begin;
        }
        Ok(Sought::Nothing)
    }
}

fn write_entry(hash: u64, at: u64) -> [u8; ENTRY as usize] {
    (u128::from(at) << 64 | u128::from(hash)).to_le_bytes()
}

fn read_entry(bytes: &[u8; ENTRY as usize]) -> (u64, u64) {
    let both = u128::from_le_bytes(*bytes);
    #[expect(clippy::cast_possible_truncation, reason = "its two halves")]
    let halves = (both as u64, (both >> 64) as u64);
    halves
}

/// FNV-1a, and never 0. A file of ours holds it, so it stays what it is; two keys of one hash cost a look at a line.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::archive::append_text;
    use super::*;
    use clawgate_core::event::Scope;

    fn line(party: &str, revision: u64) -> String {
        let history =
            format!("[{{\"uid\":{revision},\"role\":\"user\",\"text\":\"of {revision}\",\"at\":1}}]");
        format!(
            "{{\"channel\":\"tg\",\"scope\":\"direct\",\"party\":{party:?},\"thread\":\"\",\"revision\":{revision},\
             \"state\":\"archived\",\"history\":{history}}}\n"
        )
    }

    fn key(party: &str) -> Key {
        Key::new("tg", Scope::Direct, party, "")
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("clawgate-index-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }

        fn archive(&self) -> PathBuf {
            self.0.join("sessions.jsonl")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn revision(archive: &Path, party: &str, most: u64) -> Option<u64> {
        find(archive, &key(party), most).unwrap().map(|loaded| {
            assert_eq!(loaded.history.len(), 1);
            loaded.session.revision
        })
    }

    #[test]
    fn the_latest_life_is_found_wherever_it_is() {
        let folder = Folder::new("latest");
        let archive = folder.archive();
        assert_eq!(revision(&archive, "ann", 1 << 30), None);
        append_text(&archive, line("ann", 1).as_bytes()).unwrap();
        append_text(&archive, b"no line of ours\n").unwrap();
        for n in 2..100 {
            append_text(&archive, line(&format!("p{n}"), n).as_bytes()).unwrap();
        }
        // More than one search may take in: the newest is found, and the oldest, and what is between in time.
        assert_eq!(revision(&archive, "p99", 1_000), Some(99));
        assert_eq!(revision(&archive, "ann", 1_000), Some(1));
        let found = (0..40).find_map(|_| revision(&archive, "p50", 1_000));
        assert_eq!(found, Some(50));
        let index = std::fs::metadata(archive.with_extension("index")).unwrap().len();
        assert!(ENTRY < index && index <= ENTRY * 101, "{index}");
        append_text(&archive, line("ann", 200).as_bytes()).unwrap();
        append_text(&archive, b"{\"channel\":\"tg\",\"sco").unwrap();
        assert_eq!(revision(&archive, "ann", 1 << 30), Some(200));
        assert_eq!(revision(&archive, "nobody", 1 << 30), None);
        append_text(&archive, line("bob", 201).as_bytes()).unwrap();
        assert_eq!(
            (revision(&archive, "bob", 1 << 30), revision(&archive, "p2", 1 << 30)),
            (Some(201), Some(2))
        );
    }

    #[test]
    fn one_that_is_damaged_or_of_another_archive_is_made_anew() {
        let folder = Folder::new("anew");
        let archive = folder.archive();
        for n in 1..10 {
            append_text(&archive, line(&format!("p{n}"), n).as_bytes()).unwrap();
        }
        assert_eq!(revision(&archive, "p5", 1 << 30), Some(5));
        let index = archive.with_extension("index");
        let good = std::fs::read(&index).unwrap();
        let garbage: [&[u8]; 4] = [b"", b"short", &[7; 64], &good[..good.len() - 3]];
        for bytes in garbage {
            std::fs::write(&index, bytes).unwrap();
            assert_eq!(revision(&archive, "p5", 1 << 30), Some(5), "{bytes:?}");
        }
        // Its oldest part is taken away.
        let text = std::fs::read_to_string(&archive).unwrap();
        let rest: String = text.split_inclusive('\n').skip(3).collect();
        std::fs::write(&archive, &rest).unwrap();
        assert_eq!((revision(&archive, "p5", 1 << 30), revision(&archive, "p2", 1 << 30)), (Some(5), None));
        // And a part of its middle, so that it begins as before.
        let less: String =
            rest.split_inclusive('\n').enumerate().filter(|(n, _)| *n != 2).map(|(_, line)| line).collect();
        std::fs::write(&archive, less).unwrap();
        assert_eq!(revision(&archive, "p9", 1 << 30), Some(9));
        assert_eq!(revision(&archive, "p5", 1 << 30), Some(5));
    }
}
