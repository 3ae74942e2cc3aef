//! Files beside the database, of one JSON object a line: sessions that were archived, and what the database can never
//! hold. A line is on disk before what it is about leaves the database.
use super::backend::{Backend, Trouble};
use super::query::Answer;
use super::row::{Key, Op, Said, SessionRow, State};
use serde::Serialize;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
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

fn append_text(file: &Path, text: &[u8]) -> io::Result<()> {
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
        leaving.push(Op::Close { key, revision });
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
