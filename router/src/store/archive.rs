//! Files beside the database, of one JSON object a line: sessions that were archived, and what the database can never
//! hold. A line is on disk before what it is about leaves the database.
use super::backend::{Backend, Trouble};
use super::query::{Answer, Loaded, SessionFilter};
use super::row::{self, Key, Op, Said, SessionRow, State};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The file of archived sessions, in the archive's folder.
pub(crate) const SESSIONS: &str = "sessions.jsonl";
/// Sessions that one question archives at the most: so long may it keep writes waiting.
const AT_ONCE_MAX: usize = 256;
/// Bytes of sessions and history that are held at once while they are archived.
const HELD_BYTES_MAX: usize = 16 << 20;

/// A line of the archive.
#[derive(Debug, Serialize)]
struct Line<'l> {
    #[serde(flatten)]
    session: &'l SessionRow,
    history: &'l [Said],
}

/// Appends these as lines and waits until they are on disk. Private conversations: the owner alone may read them.
pub(super) fn append<T: Serialize>(file: &Path, rows: &[T]) -> io::Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    append_text(file, &text)
}

pub(super) fn append_text(file: &Path, text: &[u8]) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let is_new = !file.exists();
    let mut to = OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    // Whatever a crash or a full disk left of a line must not swallow the next one.
    if !is_new && !ends_with_newline(file)? {
        to.write_all(b"\n")?;
    }
    to.write_all(text)?;
    to.sync_data()?;
    if is_new {
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

fn ends_with_newline(file: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let from = File::open(file)?;
    let length = from.metadata()?.len();
    let mut last = [b'\n'];
    if 0 < length {
        from.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == [b'\n'])
}

/// Moves sessions that nobody spoke in since then to the archive, the idle for longest first.
pub(super) async fn expire<B: Backend>(
    backend: &mut B,
    folder: Option<&Path>,
    before_millis: u64,
    sessions_max: usize,
) -> Result<Answer, Trouble> {
    let asked = sessions_max.clamp(1, AT_ONCE_MAX);
    let idle = backend.idle(before_millis, asked).await?;
    let more = idle.len() == asked;
    let mut held = 0;
    let mut text = Vec::new();
    let mut leaving = Vec::new();
    let mut sessions = 0;
    for (key, revision) in idle {
        if let Some(folder) = folder {
            if HELD_BYTES_MAX <= held {
                leave(backend, folder, &mut text, &mut leaving).await?;
                held = 0;
            }
            let before = text.len();
            write_line(backend, &key, &mut text).await?;
            held += text.len() - before;
        }
        sessions += 1;
        leaving.push(Op::Close { key, revision, before: row::all() });
    }
    match folder {
        Some(folder) => leave(backend, folder, &mut text, &mut leaving).await?,
        None => backend.apply(&leaving).await?,
    }
    Ok(Answer::Expired { sessions, more })
}

async fn write_line<B: Backend>(backend: &mut B, key: &Key, text: &mut Vec<u8>) -> Result<(), Trouble> {
    // Rows without a session are what a closed one left behind: nothing to keep.
    let Some(loaded) = backend.load(key, usize::MAX, usize::MAX).await? else { return Ok(()) };
    let session = SessionRow { state: State::Archived, ..loaded.session };
    let line = Line { session: &session, history: &loaded.history };
    serde_json::to_writer(&mut *text, &line).map_err(|why| Trouble::Refused(why.to_string()))?;
    text.push(b'\n');
    Ok(())
}

async fn leave<B: Backend>(
    backend: &mut B,
    folder: &Path,
    text: &mut Vec<u8>,
    leaving: &mut Vec<Op>,
) -> Result<(), Trouble> {
    if !text.is_empty() {
        let (file, lines) = (folder.join(SESSIONS), std::mem::take(text));
        let shown = file.display().to_string();
        // A disk may take its time, and the side thread has others to serve.
        let written = tokio::task::spawn_blocking(move || append_text(&file, &lines)).await;
        let written = written.unwrap_or_else(|gone| Err(io::Error::other(gone)));
        written.map_err(|why| Trouble::Down(format!("the archive {shown} cannot be written: {why}")))?;
    }
    backend.apply(leaving).await?;
    leaving.clear();
    Ok(())
}

/// Bytes of the archive that a page looks at: a filter that little fits ends a page early.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// A line longer than this is none of ours.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// A part of the archive, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArchivePage {
    pub(crate) rows: Vec<SessionRow>,
    /// Where the next page begins; `None` after the last.
    pub(crate) next: Option<u64>,
}

/// What a line of the archive holds beside the session.
#[derive(Deserialize)]
struct History {
    #[serde(default)]
    history: Vec<Said>,
}

/// Reads the lines of a file one after the other, and where each ends.
pub(super) struct Lines {
    from: BufReader<File>,
    at: u64,
    line: Vec<u8>,
}

impl Lines {
    /// `None` if there is no archive.
    pub(super) fn open(file: &Path, at: u64) -> io::Result<Option<Self>> {
        let mut from = match File::open(file) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(why),
        };
        from.seek(SeekFrom::Start(at))?;
        Ok(Some(Self { from: BufReader::with_capacity(256 << 10, from), at, line: Vec::new() }))
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.from.get_ref().metadata()?.len())
    }

    /// Where the line that was read last ends.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// The next whole line. One that is being written is not there yet.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let read = self.from.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line)?;
        self.at += read as u64;
        Ok(self.line.strip_suffix(b"\n"))
    }
}

/// Reads a page, from this place on. Lines that are none of ours are passed over.
pub(super) fn page(file: &Path, at: u64, filter: &SessionFilter, limit: usize) -> io::Result<ArchivePage> {
    let Some(mut lines) = Lines::open(file, at)? else { return Ok(ArchivePage::default()) };
    let mut rows = Vec::new();
    while lines.at - at < PAGE_BYTES_MAX {
        let Some(line) = lines.next()? else { return Ok(ArchivePage { rows, next: None }) };
        let row = serde_json::from_slice::<SessionRow>(line).ok();
        rows.extend(row.filter(|row| filter.admits(row)));
        if rows.len() == limit {
            break;
        }
    }
    Ok(ArchivePage { rows, next: Some(lines.at) })
}

/// The latest life of a session in the archive from this place on, which may lie within a line.
pub(super) fn find_from(file: &Path, at: u64, key: &Key) -> io::Result<Option<Loaded>> {
    let Some(mut lines) = Lines::open(file, at.saturating_sub(1))? else { return Ok(None) };
    if at != 0 {
        // The end of the line before, be it its last byte.
        lines.next()?;
    }
    let mut found = None;
    let beginning = key.beginning();
    while let Some(line) = lines.next()? {
        if !line.starts_with(beginning.as_bytes()) {
            continue;
        }
        let Ok(session) = serde_json::from_slice::<SessionRow>(line) else { continue };
        if session.key() == *key {
            let History { history } = serde_json::from_slice(line)?;
            found = Some(Loaded { session, history });
        }
    }
    Ok(found)
}

/// The session whose line begins here, if one does.
pub(super) fn loaded_at(file: &Path, at: u64) -> io::Result<Option<Loaded>> {
    let Some(mut lines) = Lines::open(file, at)? else { return Ok(None) };
    let Some(line) = lines.next()? else { return Ok(None) };
    let loaded = serde_json::from_slice::<SessionRow>(line).and_then(|session| {
        let History { history } = serde_json::from_slice(line)?;
        Ok(Loaded { session, history })
    });
    Ok(loaded.ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_core::event::Scope;

    fn row(party: &str, thread: &str, revision: u64) -> SessionRow {
        let text = format!(
            "{{\"channel\":\"tg\",\"scope\":\"direct\",\"party\":{party:?},\"thread\":{thread:?},\"revision\":{revision},\"state\":\"archived\"}}"
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_archive_is_read_a_page_at_a_time_and_searched() {
        let folder = std::env::temp_dir().join(format!("clawgate-archive-read-{}", std::process::id()));
        let file = folder.join(SESSIONS);
        assert_eq!(page(&file, 0, &SessionFilter::default(), 2).unwrap(), ArchivePage::default());
        assert_eq!(find_from(&file, 0, &row("ann", "", 1).key()).unwrap(), None);
        let sessions = [row("ann", "", 1), row("ann \"a\"", "x", 2), row("ann", "", 3), row("bob", "", 4)];
        for session in &sessions {
            let history = [Said {
                uid: session.revision,
                role: clawgate_core::view::Role::User,
                text: format!("of {}", session.revision),
                unix_millis: 1,
            }];
            append(&file, &[Line { session, history: &history }]).unwrap();
        }
        append_text(&file, b"no line of ours\n{\"channel\":\"tg\",\"sco").unwrap();
        let (mut at, mut seen) = (Some(0), Vec::new());
        while let Some(from) = at {
            let read = page(&file, from, &SessionFilter::default(), 2).unwrap();
            seen.extend(read.rows);
            at = read.next;
        }
        assert_eq!(seen, sessions);
        let of_bob = SessionFilter { party: "bob".to_owned(), ..SessionFilter::default() };
        assert_eq!(page(&file, 0, &of_bob, 9).unwrap().rows, sessions[3..]);
        let found = find_from(&file, 0, &sessions[0].key()).unwrap().unwrap();
        assert_eq!((found.session.revision, found.history[0].text.as_str()), (3, "of 3"), "the latest life");
        assert!(find_from(&file, 0, &sessions[1].key()).unwrap().is_some());
        assert_eq!(find_from(&file, 0, &Key::new("tg", Scope::Direct, "an", "")).unwrap(), None);
        assert_eq!(find_from(&file, 0, &Key::new("tg", Scope::Group, "ann", "")).unwrap(), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_line_that_broke_off_does_not_swallow_the_next() {
        let folder = std::env::temp_dir().join(format!("clawgate-archive-{}", std::process::id()));
        let file = folder.join("deep").join(SESSIONS);
        append(&file, &["one"]).unwrap();
        let mut torn = OpenOptions::new().append(true).open(&file).unwrap();
        torn.write_all(b"\"to").unwrap();
        append(&file, &["two", "three"]).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "\"one\"\n\"to\n\"two\"\n\"three\"\n");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
