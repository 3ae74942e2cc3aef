//! The store in a file: SQLite, on threads of its own. Its layout is in `router/docs/stores.md`.
//!
//! A transaction is on disk when it is confirmed (`synchronous=FULL` on a write-ahead log), because the journal forgets
//! what was confirmed. Rows of a session lie together; marks lie in a table a day, so that a day is dropped whole.
use super::backend::{Backend, Keep, MarkPage, Trouble, fitting};
use super::query::Loaded;
use super::row::{
    CursorRow, DeadLetter, Key, Mark, Op, Said, SessionRow, day_of, millis_of, role_number, role_of,
};
use crate::clock::unix_millis;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};
use std::collections::HashSet;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Says that a file is ours: "Claw".
const APPLICATION_ID: i32 = 0x436c_6177;
/// A row that does not fit a quarter of a page gets pages of its own: with SQLite's own 4 KiB, an answer of 1,000 bytes
/// takes 4,675 of the disk, with these 1,177.
const PAGE_BYTES: i32 = 8 << 10;
/// Pages kept in memory, each line: KiB.
const CACHE_KIB: i32 = 8 << 10;
/// The log is cut to this after a checkpoint, bytes.
const LOG_BYTES_MAX: i32 = 64 << 20;
/// Statements that are kept prepared: ours, and two for each of some days.
const STATEMENTS_MAX: usize = 96;

/// What makes each version of the tables out of the one before. Never changed; added to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE migrations (version INTEGER PRIMARY KEY, at_millis INTEGER NOT NULL, by TEXT NOT NULL);
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        active_millis INTEGER NOT NULL,
        history_from INTEGER NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX sessions_active ON sessions (active_millis);
    CREATE TABLE said (
        session INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        role INTEGER NOT NULL,
        at_millis INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (session, uid, role)
    ) WITHOUT ROWID;
    CREATE TABLE dead (uid INTEGER PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE cursors (channel TEXT PRIMARY KEY, value TEXT NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
", "
    CREATE TABLE latest (one INTEGER PRIMARY KEY CHECK (one = 1), uid INTEGER NOT NULL);
    INSERT INTO latest SELECT 1, max(
        coalesce((SELECT max(uid) FROM said), 0),
        coalesce((SELECT max(uid) FROM dead), 0),
        coalesce((SELECT max(max(revision, history_from)) FROM sessions), 0)
    );
"];

/// Where the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    /// Bytes that the file may grow to; its log comes beside it.
    pub(crate) bytes_max: u64,
    /// How long another process (a backup, say) may hold the file before an attempt fails.
    pub(crate) busy_age_max: Duration,
    pub(crate) keep: Keep,
}

/// One line to the file.
#[derive(Debug)]
pub(super) struct Sqlite {
    connection: Connection,
    keep: Keep,
    /// Days whose tables are known to be there, by this line.
    days: HashSet<u64>,
}

impl Sqlite {
    fn connect(place: &Place, writes: bool) -> Result<Connection, Trouble> {
        let file = &place.file;
        if writes {
            create(file).map_err(|why| {
                let file = file.display();
                let help =
                    "make its folder writable for the gateway's user, or name another file in `store.path`";
                Trouble::Down(format!("the store {file} cannot be opened: {why}; {help}"))
            })?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags).map_err(|why| trouble(file, &why))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let set = || -> rusqlite::Result<()> {
            connection.busy_timeout(place.busy_age_max)?;
            connection.pragma_update(None, "cell_size_check", true)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)
        };
        set().map_err(|why| trouble(file, &why))?;
        Ok(connection)
    }

    /// Looks whose file it is, and brings its tables to this version.
    fn prepare(place: &Place, connection: &mut Connection) -> Result<(), Trouble> {
        let Place { file, bytes_max, .. } = place;
        let shown = file.display();
        let bad = |why: rusqlite::Error| trouble(file, &why);
        let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let (id, version) = (number("application_id").map_err(bad)?, number("user_version").map_err(bad)?);
        let tables: u32 =
            connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(bad)?;
        if id != APPLICATION_ID && (id != 0 || 0 < tables) {
            return Err(Trouble::Foreign(format!(
                "{shown} is a database of another program: name another file in `store.path`"
            )));
        }
        let ours = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
        if ours < version {
            return Err(Trouble::Foreign(format!(
                "the store {shown} was written by a newer gateway (its tables have version {version}, this gateway \
                 knows {ours}): run that gateway, or name another file in `store.path`"
            )));
        }
        if tables == 0 {
            connection.pragma_update(None, "page_size", PAGE_BYTES).map_err(bad)?;
        }
        connection.pragma_update(None, "journal_mode", "WAL").map_err(bad)?;
        let page_bytes = number("page_size").map_err(bad)?;
        let pages_max = bytes_max / u64::try_from(page_bytes).unwrap_or(1).max(1);
        connection
            .pragma_update(None, "max_page_count", u32::try_from(pages_max).unwrap_or(u32::MAX - 1))
            .map_err(bad)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(bad)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX).map_err(bad)?;
        migrate(connection, version).map_err(bad)
    }

    fn apply_all(&mut self, ops: &[Op]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for op in ops {
            apply(&transaction, op, self.keep, &mut self.days)?;
        }
        if let Some(uid) = ops.iter().map(Op::last_uid).max().filter(|uid| *uid != 0) {
            transaction
                .prepare_cached("UPDATE latest SET uid = ?1 WHERE uid < ?1")?
                .execute([signed(uid)?])?;
        }
        transaction.commit()
    }

    /// Asks; a failure is told in our words.
    fn ask<T>(&mut self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Trouble> {
        ask(&self.connection).map_err(|why| {
            let file = self.connection.path().unwrap_or_default().to_owned();
            trouble(Path::new(&file), &why)
        })
    }
}

// SQLite itself would let others read what it makes.
fn create(file: &Path) -> std::io::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file).map(drop)
}

fn migrate(connection: &mut Connection, version: i32) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (migration, version) in MIGRATIONS.iter().zip(1_i32..).skip(usize::try_from(version).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
        transaction.execute(
            "INSERT INTO migrations (version, at_millis, by) VALUES (?, ?, ?)",
            params![version, signed(unix_millis())?, env!("CARGO_PKG_VERSION")],
        )?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()
}

fn apply(to: &Connection, op: &Op, keep: Keep, days: &mut HashSet<u64>) -> rusqlite::Result<()> {
    match op {
        Op::Said { key, said } => say(to, key, said),
        Op::Session(row) => set_session(to, row, keep),
        Op::Close { key, revision, before } => close(to, key, *revision, *before),
        Op::Dead(letter) => {
            let mut insert = to.prepare_cached("INSERT OR IGNORE INTO dead (uid, body) VALUES (?, ?)")?;
            insert.execute(params![signed(letter.uid)?, json(&**letter)?]).map(drop)
        }
        Op::DeadDrop { uid } => {
            to.prepare_cached("DELETE FROM dead WHERE uid = ?")?.execute([signed(*uid)?]).map(drop)
        }
        Op::Cursor(row) => to
            .prepare_cached(
                "INSERT INTO cursors (channel, value, revision) VALUES (?, ?, ?) ON CONFLICT (channel)
                 DO UPDATE SET value = excluded.value, revision = excluded.revision
                 WHERE revision < excluded.revision",
            )?
            .execute(params![row.channel, row.value, signed(row.revision)?])
            .map(drop),
        Op::Seen { mark, unix_millis } => {
            let (day, millis) = day_of(*unix_millis);
            if !days.contains(&day) {
                to.execute_batch(&format!(
                    "CREATE TABLE IF NOT EXISTS seen_{day}
                     (mark BLOB PRIMARY KEY, millis INTEGER NOT NULL) WITHOUT ROWID"
                ))?;
                days.insert(day);
            }
            to.prepare_cached(&format!("INSERT OR IGNORE INTO seen_{day} (mark, millis) VALUES (?, ?)"))?
                .execute(params![mark, millis])
                .map(drop)
        }
    }
}

/// A session's number and where its history begins.
fn find(on: &Connection, key: &Key) -> rusqlite::Result<Option<(i64, i64)>> {
    on.prepare_cached("SELECT id, history_from FROM sessions WHERE key = ?")?
        .query_row([key.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

fn say(to: &Connection, key: &Key, said: &Said) -> rusqlite::Result<()> {
    let uid = signed(said.uid)?;
    let at = signed(said.unix_millis)?;
    let session = match find(to, key)? {
        Some((_, from)) if uid < from => return Ok(()),
        Some((id, _)) => id,
        // Its session comes after it; a row of revision 0 stands for it until then.
        None => to
            .prepare_cached(
                "INSERT INTO sessions (key, revision, active_millis, history_from, body) VALUES (?, 0, ?, 0, '')",
            )?
            .insert(params![key.as_str(), at])?,
    };
    to.prepare_cached(
        "INSERT OR IGNORE INTO said (session, uid, role, at_millis, text) VALUES (?, ?, ?, ?, ?)",
    )?
    .execute(params![session, uid, role_number(said.role), at, said.text])
    .map(drop)
}

fn set_session(to: &Connection, row: &SessionRow, keep: Keep) -> rusqlite::Result<()> {
    let from = signed(row.history_from)?;
    let id = to
        .prepare_cached(
            "INSERT INTO sessions (key, revision, active_millis, history_from, body) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, active_millis = excluded.active_millis,
             history_from = excluded.history_from, body = excluded.body
             WHERE revision < excluded.revision RETURNING id",
        )?
        .query_row(
            params![row.key().as_str(), signed(row.revision)?, signed(row.active_millis)?, from, json(row)?],
            |row| row.get::<_, i64>(0),
        )
        .optional()?;
    let Some(id) = id else { return Ok(()) };
    if 0 < from {
        to.prepare_cached("DELETE FROM said WHERE session = ? AND uid < ?")?.execute([id, from])?;
    }
    if Keep::is_due(row) { trim(to, id, keep) } else { Ok(()) }
}

fn trim(to: &Connection, session: i64, keep: Keep) -> rusqlite::Result<()> {
    let oldest = {
        let mut newest = to.prepare_cached(
            "SELECT uid, role, octet_length(text) FROM said WHERE session = ? ORDER BY uid DESC, role DESC",
        )?;
        let mut rows = newest.query([session])?;
        let (mut messages, mut bytes) = (0, 0_i64);
        loop {
            let Some(row) = rows.next()? else { return Ok(()) };
            messages += 1;
            bytes = bytes.saturating_add(row.get(2)?);
            if keep.messages_max < messages || count(keep.bytes_max) < bytes {
                break (row.get::<_, i64>(0)?, row.get::<_, u8>(1)?);
            }
        }
    };
    to.prepare_cached("DELETE FROM said WHERE session = ? AND (uid, role) <= (?, ?)")?
        .execute(params![session, oldest.0, oldest.1])
        .map(drop)
}

fn close(to: &Connection, key: &Key, revision: u64, before: u64) -> rusqlite::Result<()> {
    let id: Option<i64> = to
        .prepare_cached("SELECT id FROM sessions WHERE key = ? AND revision <= ?")?
        .query_row(params![key.as_str(), signed(revision)?], |row| row.get(0))
        .optional()?;
    let Some(id) = id else { return Ok(()) };
    to.prepare_cached("DELETE FROM said WHERE session = ? AND uid < ?")?.execute([id, signed(before)?])?;
    let rest = if to.prepare_cached("SELECT 1 FROM said WHERE session = ?")?.exists([id])? {
        "UPDATE sessions SET revision = 0, history_from = 0, body = '' WHERE id = ?"
    } else {
        "DELETE FROM sessions WHERE id = ?"
    };
    to.prepare_cached(rest)?.execute([id]).map(drop)
}

fn load(
    on: &Connection,
    key: &Key,
    messages_max: usize,
    bytes_max: usize,
) -> rusqlite::Result<Option<Loaded>> {
    let found = on
        .prepare_cached("SELECT id, body FROM sessions WHERE key = ? AND 0 < revision")?
        .query_row([key.as_str()], |row| Ok((row.get::<_, i64>(0)?, body(row, 1)?)))
        .optional()?;
    let Some((id, session)) = found else { return Ok(None) };
    let mut newest = on.prepare_cached(
        "SELECT uid, role, at_millis, text FROM said WHERE session = ? ORDER BY uid DESC, role DESC LIMIT ?",
    )?;
    let mut rows = newest.query(params![id, count(messages_max)])?;
    let mut history: Vec<Said> = Vec::new();
    let mut bytes = 0_usize;
    while let Some(row) = rows.next()? {
        let said = said(row)?;
        bytes = bytes.saturating_add(said.text.len());
        if bytes_max < bytes {
            break;
        }
        history.push(said);
    }
    history.reverse();
    debug_assert_eq!(
        history.len(),
        fitting(history.iter().rev().map(|said| said.text.len()), messages_max, bytes_max)
    );
    Ok(Some(Loaded { session, history }))
}

fn said(row: &Row<'_>) -> rusqlite::Result<Said> {
    let number: u8 = row.get(1)?;
    let role = role_of(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, i64::from(number)))?;
    Ok(Said { uid: unsigned(row, 0)?, role, unix_millis: unsigned(row, 2)?, text: row.get(3)? })
}

fn seen_days(on: &Connection) -> rusqlite::Result<Vec<u64>> {
    let mut names =
        on.prepare_cached("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'seen_*'")?;
    let names = names.query_map([], |row| row.get::<_, String>(0))?;
    let days = names.filter_map(|name| match name {
        Ok(name) => name.strip_prefix("seen_").and_then(|day| day.parse().ok()).map(Ok),
        Err(why) => Some(Err(why)),
    });
    days.collect()
}

impl Backend for Sqlite {
    type Place = Place;

    async fn open(place: &Place, writes: bool) -> Result<Self, Trouble> {
        let mut connection = Self::connect(place, writes)?;
        if writes {
            Self::prepare(place, &mut connection)?;
        }
        Ok(Self { connection, keep: place.keep, days: HashSet::new() })
    }

    async fn apply(&mut self, ops: &[Op]) -> Result<(), Trouble> {
        self.apply_all(ops).map_err(|why| {
            // Tables that were made in it are gone with the transaction.
            self.days.clear();
            let file = self.connection.path().unwrap_or_default().to_owned();
            trouble(Path::new(&file), &why)
        })
    }

    async fn load(
        &mut self,
        key: &Key,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Loaded>, Trouble> {
        self.ask(|on| load(on, key, messages_max, bytes_max))
    }

    async fn sessions(
        &mut self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(Key, Option<SessionRow>)>, Trouble> {
        self.ask(|on| {
            on.prepare_cached(
                "SELECT key, body FROM sessions WHERE ? < key AND 0 < revision ORDER BY key LIMIT ?",
            )?
            .query_map(params![after, count(limit)], |row| Ok((key(row, 0)?, body(row, 1).ok())))?
            .collect()
        })
    }

    async fn idle(&mut self, before_millis: u64, limit: usize) -> Result<Vec<(Key, u64)>, Trouble> {
        self.ask(|on| {
            on.prepare_cached(
                "SELECT key, revision FROM sessions WHERE active_millis < ? ORDER BY active_millis LIMIT ?",
            )?
            .query_map(params![signed(before_millis)?, count(limit)], |row| {
                Ok((key(row, 0)?, unsigned(row, 1)?))
            })?
            .collect()
        })
    }

    async fn letters(
        &mut self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Option<DeadLetter>)>, Trouble> {
        let after = after.map_or(Ok(-1), signed);
        self.ask(|on| {
            on.prepare_cached("SELECT uid, body FROM dead WHERE ? < uid ORDER BY uid LIMIT ?")?
                .query_map(params![after?, count(limit)], |row| Ok((unsigned(row, 0)?, body(row, 1).ok())))?
                .collect()
        })
    }

    async fn letter(&mut self, uid: u64) -> Result<Option<DeadLetter>, Trouble> {
        self.ask(|on| {
            on.prepare_cached("SELECT body FROM dead WHERE uid = ?")?
                .query_row([signed(uid)?], |row| body(row, 0))
                .optional()
        })
    }

    async fn cursors(&mut self) -> Result<Vec<CursorRow>, Trouble> {
        self.ask(|on| {
            on.prepare_cached("SELECT channel, value, revision FROM cursors ORDER BY channel")?
                .query_map([], |row| {
                    Ok(CursorRow { channel: row.get(0)?, value: row.get(1)?, revision: unsigned(row, 2)? })
                })?
                .collect()
        })
    }

    async fn seen_days(&mut self) -> Result<Vec<u64>, Trouble> {
        self.ask(seen_days)
    }

    async fn seen(&mut self, day: u64, after: Option<Mark>, limit: usize) -> Result<MarkPage, Trouble> {
        self.ask(|on| {
            let after: &[u8] = after.as_ref().map_or(&[], |mark| mark);
            let marks: Vec<(Mark, u32)> = on
                .prepare_cached(&format!(
                    "SELECT mark, millis FROM seen_{day} WHERE ? < mark ORDER BY mark LIMIT ?"
                ))?
                .query_map(params![after, count(limit)], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let next = marks.last().filter(|_| marks.len() == limit).map(|(mark, _)| *mark);
            Ok((marks, next))
        })
    }

    async fn was_seen(&mut self, mark: &Mark, first_day: u64) -> Result<Option<u64>, Trouble> {
        self.ask(|on| {
            let mut days = seen_days(on)?;
            days.retain(|day| first_day <= *day);
            days.sort_unstable_by(|one, other| other.cmp(one));
            for day in days {
                let found = on
                    .prepare_cached(&format!("SELECT millis FROM seen_{day} WHERE mark = ?"))?
                    .query_row([mark], |row| row.get::<_, u32>(0))
                    .optional()?;
                if let Some(millis) = found {
                    return Ok(Some(millis_of(day, millis)));
                }
            }
            Ok(None)
        })
    }

    async fn last_uid(&mut self) -> Result<u64, Trouble> {
        self.ask(|on| on.query_row("SELECT uid FROM latest", [], |row| unsigned(row, 0)))
    }

    async fn forget_day(&mut self, day: u64) -> Result<(), Trouble> {
        self.days.remove(&day);
        self.ask(|on| on.execute_batch(&format!("DROP TABLE IF EXISTS seen_{day}")))
    }
}

fn key(row: &Row<'_>, index: usize) -> rusqlite::Result<Key> {
    row.get_ref(index)?.as_str().map(Key::stored).map_err(Into::into)
}

fn body<T: serde::de::DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(index)?.as_str()?;
    serde_json::from_str(text)
        .map_err(|why| rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(why)))
}

fn json<T: serde::Serialize>(row: &T) -> rusqlite::Result<String> {
    serde_json::to_string(row).map_err(|why| rusqlite::Error::ToSqlConversionFailure(Box::new(why)))
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

// SQLite's numbers are signed.
fn signed(number: u64) -> rusqlite::Result<i64> {
    i64::try_from(number).map_err(|why| rusqlite::Error::ToSqlConversionFailure(Box::new(why)))
}

fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(index)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, number))
}

/// What SQLite says, as what it means for us.
fn trouble(file: &Path, why: &rusqlite::Error) -> Trouble {
    let file = file.display();
    if let rusqlite::Error::ToSqlConversionFailure(why) = why {
        return Trouble::Refused(format!("the store cannot hold this: {why}"));
    }
    if !matches!(why, rusqlite::Error::SqliteFailure(..) | rusqlite::Error::SqlInputError { .. }) {
        return Trouble::Damaged(format!("the store {file} holds what cannot be read: {why}"));
    }
    match why.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Trouble::Foreign(format!(
            "{file} is no SQLite database, or its beginning is damaged: move it away or restore a backup, or name \
             another file in `store.path`"
        )),
        Some(ErrorCode::DatabaseCorrupt) => Trouble::Damaged(format!(
            "the store {file} is damaged ({why}): restore a backup, or move the file away and let `sqlite3 {file} \
             .recover` save what it can"
        )),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
            Trouble::Refused(format!("the store cannot hold this: {why}"))
        }
        Some(ErrorCode::DiskFull) => Trouble::Down(format!(
            "there is no room for the store {file}: make room on its disk, archive sessions, or raise \
             `store.bytesMax`"
        )),
        _ => Trouble::Down(format!("the store {file} fails: {why}")),
    }
}
