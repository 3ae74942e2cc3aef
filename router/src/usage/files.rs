//! The books on disk: a file a day in the data directory's `usage`, a line of JSON for each second's worth of an entry.
//! What is appended is only ever added, so a line that a crash tore costs that line alone.
//!
//! A file that could not be appended to is written anew, whole, beside the old one, which it then replaces.
use super::books::{Line, Rows};
use super::{Day, Entry, Tally, day_text, parse_day};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The end of a file's name.
const END: &str = ".jsonl";
/// Lines that a file may have beyond two for each row, before it is written anew.
const SPARE_LINES: u64 = 10_000;
/// Bytes of one line: names are bounded, and what is longer is none of ours.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// A line.
#[derive(Debug, Serialize, Deserialize)]
struct Written<'a> {
    #[serde(default, borrow)]
    key: Cow<'a, str>,
    #[serde(default, borrow)]
    agent: Cow<'a, str>,
    #[serde(default, borrow)]
    model: Cow<'a, str>,
    #[serde(default, borrow)]
    session: Cow<'a, str>,
    #[serde(flatten)]
    tally: Tally,
}

/// The file of the day.
#[derive(Debug)]
struct Open {
    day: Day,
    file: File,
    lines: u64,
}

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    open: Option<Open>,
    /// Days whose files lack something.
    stale: BTreeSet<Day>,
    today: Day,
}

impl Files {
    /// Opens the folder, and reads what it has into `rows`.
    pub(super) fn open(folder: PathBuf, today: Day, rows: &mut Rows) -> Result<Self, String> {
        let bad =
            |why: io::Error| format!("the usage accounts in {} cannot be read: {why}", folder.display());
        let mut files = Self { folder: folder.clone(), open: None, stale: BTreeSet::new(), today };
        let mut torn = 0;
        for day in days_in(&folder).map_err(bad)? {
            if rows.is_over(day, today) {
                files.remove(day);
                continue;
            }
            let (lines, unread) = read(&files.path(day), day, rows).map_err(bad)?;
            torn += unread;
            if unread != 0 || 2 * rows.of_days(day..=day).count() as u64 + SPARE_LINES < lines {
                files.stale.insert(day);
            }
        }
        if torn != 0 {
            tracing::warn!(
                lines = torn,
                "the usage accounts have lines that cannot be read; they are left out"
            );
        }
        Ok(files)
    }

    fn path(&self, day: Day) -> PathBuf {
        self.folder.join(format!("{}{END}", day_text(day)))
    }

    fn remove(&self, day: Day) {
        if let Err(why) = std::fs::remove_file(self.path(day)) {
            tracing::warn!(day = day_text(day), %why, "old usage accounts cannot be removed");
        }
    }

    /// Writes these lines, which `rows` has already, and what was not written before.
    pub(super) fn append(&mut self, lines: &[Line], rows: &Rows, today: Day) -> io::Result<()> {
        if self.today < today {
            self.today = today;
            for day in days_in(&self.folder).unwrap_or_default() {
                if rows.is_over(day, today) {
                    self.remove(day);
                    self.stale.remove(&day);
                }
            }
        }
        let days: BTreeSet<Day> = lines.iter().map(|(entry, _)| entry.day).collect();
        let mut failed = None;
        for day in days {
            if self.stale.contains(&day) || rows.is_over(day, today) {
                continue;
            }
            if let Err(why) = self.append_to(day, lines) {
                self.open = None;
                self.stale.insert(day);
                failed = Some(why);
            } else if self.open.as_ref().is_some_and(|open| {
                SPARE_LINES < open.lines
                    && 2 * rows.of_days(day..=day).count() as u64 + SPARE_LINES < open.lines
            }) {
                self.stale.insert(day);
            }
        }
        // Not at once: a disk that is full now may have room when the next lines come.
        if let Some(why) = failed {
            return Err(why);
        }
        while let Some(day) = self.stale.first().copied() {
            self.write_anew(day, rows)?;
            self.stale.remove(&day);
        }
        Ok(())
    }

    fn append_to(&mut self, day: Day, lines: &[Line]) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|open| open.day != day) {
            self.open = Some(Open::new(&self.path(day), day)?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let mut text = Vec::new();
        for (entry, tally) in lines.iter().filter(|(entry, _)| entry.day == day) {
            write_line(&mut text, entry, tally)?;
            open.lines += 1;
        }
        open.file.write_all(&text)?;
        open.file.sync_data()
    }

    /// Writes a day's file from its rows.
    fn write_anew(&mut self, day: Day, rows: &Rows) -> io::Result<()> {
        self.open = None;
        let draft = self.folder.join("new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        let mut text = Vec::new();
        for (entry, tally) in rows.of_days(day..=day) {
            write_line(&mut text, entry, tally)?;
        }
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&draft, self.path(day))?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Open {
    fn new(path: &Path, day: Day) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        // The last line of a run that was killed may have no end: it must not spoil the next.
        if 0 < file.seek(SeekFrom::End(0))? {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self { day, file, lines: 0 })
    }
}

fn write_line(out: &mut Vec<u8>, entry: &Entry, tally: &Tally) -> io::Result<()> {
    let Entry { day: _, key, agent, model, session } = entry;
    let [key, agent, model, session] = [key, agent, model, session].map(|text| Cow::Borrowed(&**text));
    serde_json::to_writer(&mut *out, &Written { key, agent, model, session, tally: *tally })?;
    out.push(b'\n');
    Ok(())
}

fn days_in(folder: &Path) -> io::Result<Vec<Day>> {
    let mut days = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        days.extend(name.to_str().and_then(|name| parse_day(name.strip_suffix(END)?)));
    }
    days.sort_unstable();
    Ok(days)
}

/// Reads a day's file: how many lines it has, and how many of them cannot be read.
fn read(path: &Path, day: Day, rows: &mut Rows) -> io::Result<(u64, u64)> {
    let mut file = BufReader::new(File::open(path)?);
    let (mut lines, mut unread) = (0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        if file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok((lines, unread));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        lines += 1;
        let Ok(Written { key, agent, model, session, tally }) = serde_json::from_slice(&line) else {
            unread += 1;
            continue;
        };
        let [key, agent, model, session] = [key, agent, model, session].map(|text| text.into());
        rows.add(Entry { day, key, agent, model, session }, &tally);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::books::tests::{ONE, entry, rows};
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("clawgate-usage-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("1970-01-11.jsonl")
        }

        /// What a run that starts now finds.
        fn found(&self, today: Day) -> (Files, Vec<(String, u64)>) {
            let mut rows = rows(1_000);
            let files = Files::open(self.0.clone(), today, &mut rows).unwrap();
            let all = rows.of_days(0..=Day::MAX);
            (files, all.map(|(entry, tally)| (entry.session.to_string(), tally.prompt_tokens)).collect())
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Appends a line for each session.
    fn append(files: &mut Files, sessions: &[&str]) -> io::Result<()> {
        let mut held = rows(1_000);
        let lines: Vec<Line> = sessions.iter().map(|session| (entry(10, "ana", session), ONE)).collect();
        lines.iter().for_each(|(entry, tally)| held.add(entry.clone(), tally));
        files.append(&lines, &held, 10)
    }

    #[test]
    fn what_was_written_is_found() {
        let place = Place::new("found");
        let (mut files, none) = place.found(10);
        assert!(none.is_empty());
        append(&mut files, &["a", "b\"\n"]).unwrap();
        append(&mut files, &["a"]).unwrap();
        assert_eq!(place.found(10).1, [("a".to_owned(), 20), ("b\"\n".to_owned(), 10)]);
        assert_eq!(place.found(12).1.len(), 2);
        assert!(place.found(13).1.is_empty(), "too old");
        assert!(!place.file().exists());
    }

    /// A file that is cut anywhere loses the line that was cut, and none that follow.
    #[test]
    fn a_torn_line_is_lost_alone() {
        let place = Place::new("torn");
        append(&mut place.found(10).0, &["a", "b"]).unwrap();
        let whole = std::fs::read(place.file()).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap();
        for cut in 0..whole.len() {
            std::fs::write(place.file(), &whole[..cut]).unwrap();
            // Begun anew without reading it, as if the tear had come after the start.
            let mut files = Files { folder: place.0.clone(), open: None, stale: BTreeSet::new(), today: 10 };
            append(&mut files, &["c"]).unwrap();
            let found = place.found(10).1;
            let kept = usize::from(first <= cut) + usize::from(cut == whole.len() - 1);
            assert_eq!(found.len(), kept + 1, "cut at {cut}: {found:?}");
            assert!(found.contains(&("c".to_owned(), 10)));
        }
    }

    #[test]
    fn what_could_not_be_written_is_written_with_the_next() {
        let place = Place::new("again");
        let mut files = place.found(10).0;
        // A folder in the way of the file.
        std::fs::create_dir(place.file()).unwrap();
        append(&mut files, &["a"]).unwrap_err();
        std::fs::remove_dir(place.file()).unwrap();
        let mut held = rows(1_000);
        held.add(entry(10, "ana", "a"), &ONE);
        held.add(entry(10, "ana", "b"), &ONE);
        files.append(&[(entry(10, "ana", "b"), ONE)], &held, 10).unwrap();
        assert_eq!(place.found(10).1.len(), 2);
    }
}
