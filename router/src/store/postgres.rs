//! The store in PostgreSQL (13 or later). Its layout is in `router/docs/stores.md`.
//!
//! A batch is one transaction whose statements all leave at once; it is confirmed after the commit, with
//! `synchronous_commit` on, so that it is on the server's disk. What people wrote is kept as bytes, because PostgreSQL's
//! texts cannot hold all that people's can.
use super::async_tls::MakeTls;
use super::backend::{Backend, Keep, MarkPage, Trouble};
use super::query::Loaded;
use super::row::{
    CursorRow, DeadLetter, Key, Mark, Op, Said, SessionRow, day_of, millis_of, role_number, role_of,
};
use crate::clock::unix_millis;
use crate::config::secret::Secret;
use crate::tls;
use std::collections::HashMap;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error, Row, Statement};

/// The lock under which the tables are made: gateways that start at once wait for each other.
const LOCK: i64 = 0x436c_6177;

/// What makes each version of the tables out of the one before. Never changed; added to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE sessions (
        key text COLLATE \"C\" PRIMARY KEY,
        revision bigint NOT NULL,
        active_millis bigint NOT NULL,
        history_from bigint NOT NULL,
        body text NOT NULL
    );
    CREATE INDEX sessions_active ON sessions (active_millis);
    CREATE TABLE said (
        key text COLLATE \"C\" NOT NULL,
        uid bigint NOT NULL,
        role smallint NOT NULL,
        at_millis bigint NOT NULL,
        text bytea NOT NULL,
        PRIMARY KEY (key, uid, role)
    );
    CREATE TABLE dead (uid bigint PRIMARY KEY, body text NOT NULL);
    CREATE TABLE cursors (channel text COLLATE \"C\" PRIMARY KEY, value bytea NOT NULL, revision bigint NOT NULL);
", "
    CREATE TABLE latest (one integer PRIMARY KEY CHECK (one = 1), uid bigint NOT NULL);
    INSERT INTO latest SELECT 1, greatest(
        0, (SELECT max(uid) FROM said), (SELECT max(uid) FROM dead),
        (SELECT max(greatest(revision, history_from)) FROM sessions)
    );
"];

const SAY: &str = "
    WITH stub AS (
        INSERT INTO sessions (key, revision, active_millis, history_from, body) VALUES ($1, 0, $4, 0, '')
        ON CONFLICT (key) DO NOTHING
    )
    INSERT INTO said (key, uid, role, at_millis, text) SELECT $1, $2, $3, $4, $5
    WHERE NOT EXISTS (SELECT FROM sessions WHERE key = $1 AND $2 < history_from)
    ON CONFLICT (key, uid, role) DO NOTHING";
const SET: &str = "
    WITH newer AS (
        INSERT INTO sessions AS old (key, revision, active_millis, history_from, body) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, active_millis = excluded.active_millis,
        history_from = excluded.history_from, body = excluded.body
        WHERE old.revision < excluded.revision RETURNING key
    )
    DELETE FROM said USING newer WHERE said.key = newer.key AND (said.uid < $4 OR $6 AND (said.uid, said.role) IN (
        SELECT uid, role FROM (
            SELECT uid, role, row_number() OVER newest AS messages, sum(octet_length(text)) OVER newest AS bytes
            FROM said WHERE key = $1 AND $4 <= uid WINDOW newest AS (ORDER BY uid DESC, role DESC)
        ) AS counted WHERE $7 < messages OR $8 < bytes
    ))";
const CLOSE: &str = "
    WITH old AS (SELECT key FROM sessions WHERE key = $1 AND revision <= $2 FOR UPDATE),
    anew AS (SELECT EXISTS (SELECT FROM said WHERE key = $1 AND $3 <= uid) AS is_there),
    gone AS (DELETE FROM said USING old WHERE said.key = old.key AND said.uid < $3),
    stub AS (
        UPDATE sessions SET revision = 0, history_from = 0, body = '' FROM old, anew
        WHERE sessions.key = old.key AND anew.is_there
    )
    DELETE FROM sessions USING old, anew WHERE sessions.key = old.key AND NOT anew.is_there";
const DEAD: &str = "INSERT INTO dead (uid, body) VALUES ($1, $2) ON CONFLICT (uid) DO NOTHING";
const DROP: &str = "DELETE FROM dead WHERE uid = $1";
const MOVE: &str = "
    INSERT INTO cursors AS old (channel, value, revision) VALUES ($1, $2, $3) ON CONFLICT (channel)
    DO UPDATE SET value = excluded.value, revision = excluded.revision WHERE old.revision < excluded.revision";
const LATEST: &str = "UPDATE latest SET uid = $1 WHERE uid < $1";
const LOAD: &str = "SELECT body FROM sessions WHERE key = $1 AND 0 < revision";
const ROWS: &str = "
    SELECT uid, role, at_millis, text FROM (
        SELECT uid, role, at_millis, text, sum(octet_length(text)) OVER (ORDER BY uid DESC, role DESC) AS bytes
        FROM (SELECT * FROM said WHERE key = $1 ORDER BY uid DESC, role DESC LIMIT $2) AS newest
    ) AS counted WHERE bytes <= $3 ORDER BY uid, role";
const SESSIONS: &str = "SELECT key, body FROM sessions WHERE $1 < key AND 0 < revision ORDER BY key LIMIT $2";
const IDLE: &str =
    "SELECT key, revision FROM sessions WHERE active_millis < $1 ORDER BY active_millis LIMIT $2";
const LETTERS: &str = "SELECT uid, body FROM dead WHERE $1 < uid ORDER BY uid LIMIT $2";
const LETTER: &str = "SELECT body FROM dead WHERE uid = $1";
const CURSORS: &str = "SELECT channel, value, revision FROM cursors ORDER BY channel";
const DAYS: &str = "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() AND tablename ~ '^seen_[0-9]+$'";

/// Where the server is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// `postgres://user:password@host:port/database`; `?sslmode=require` insists on TLS.
    pub(crate) url: Secret,
    /// PEM: certificates to trust instead of the public ones.
    pub(crate) ca_file: Option<PathBuf>,
    /// The schema that the tables are in; it is made if it is not there.
    pub(crate) schema: String,
    /// To connect, TLS included.
    pub(crate) connect_age_max: Duration,
    pub(crate) keep: Keep,
}

/// One line to the server.
pub(super) struct Postgres {
    client: Client,
    keep: Keep,
    /// Statements by their text: each is prepared when it is first needed.
    statements: HashMap<String, Statement>,
}

type Parameter = Box<dyn ToSql + Sync>;
type Sent<'s> = Pin<Box<dyn Future<Output = Result<(), Error>> + 's>>;

impl Postgres {
    async fn prepared(&mut self, text: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(text) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(text).await?;
        self.statements.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }

    async fn rows(&mut self, text: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Trouble> {
        let ask = async {
            let statement = self.prepared(text).await?;
            self.client.query(&statement, parameters).await
        };
        ask.await.map_err(|why| trouble(&why))
    }

    async fn execute(&self, text: &str) -> Result<(), Trouble> {
        self.client.batch_execute(text).await.map_err(|why| trouble(&why))
    }

    /// Looks whose schema it is, and brings its tables to this version.
    async fn prepare(&self, schema: &str) -> Result<(), Trouble> {
        let ask = async |text: &str| {
            let rows = self.client.query(text, &[]).await.map_err(|why| trouble(&why))?;
            let number: Result<i64, Error> = rows.first().map_or(Ok(0), |row| row.try_get(0));
            number.map_err(|why| trouble(&why))
        };
        self.execute("BEGIN").await?;
        self.execute(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
        if ask(&format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'")).await? == 0 {
            self.execute(&format!("CREATE SCHEMA \"{schema}\"")).await?;
        }
        let tables = format!("SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'");
        if ask(&format!("{tables} AND tablename = 'migrations'")).await? == 0 {
            if ask(&tables).await? != 0 {
                return Err(Trouble::Foreign(format!(
                    "the schema `{schema}` of the database holds another program's tables: choose another \
                     `store.prefix`"
                )));
            }
            self.execute("CREATE TABLE migrations (version bigint PRIMARY KEY, at_millis bigint NOT NULL, by text NOT NULL)")
                .await?;
        }
        let version = ask("SELECT coalesce(max(version), 0) FROM migrations").await?;
        let ours = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if ours < version {
            return Err(Trouble::Foreign(format!(
                "the store in the schema `{schema}` was written by a newer gateway (its tables have version \
                 {version}, this gateway knows {ours}): run that gateway, or choose another `store.prefix`"
            )));
        }
        for (migration, number) in MIGRATIONS.iter().zip(1_i64..).filter(|(_, number)| version < *number) {
            self.execute(migration).await?;
            let (at, by) = (unix_millis(), env!("CARGO_PKG_VERSION"));
            self.execute(&format!("INSERT INTO migrations VALUES ({number}, {at}, '{by}')")).await?;
        }
        self.execute("COMMIT").await
    }

    /// Makes the tables of the days that are written to, and prepares all that the batch needs.
    async fn ready(&mut self, ops: &[Op]) -> Result<(), Trouble> {
        for op in ops {
            let text = statement(op);
            if self.statements.contains_key(&text) {
                continue;
            }
            if let Op::Seen { unix_millis, .. } = op {
                let (day, _) = day_of(*unix_millis);
                self.execute(&format!(
                    "CREATE TABLE IF NOT EXISTS seen_{day} (mark bytea PRIMARY KEY, millis integer NOT NULL)"
                ))
                .await?;
            }
            self.prepared(&text).await.map_err(|why| trouble(&why))?;
        }
        self.prepared(LATEST).await.map(drop).map_err(|why| trouble(&why))
    }

    async fn transact(&self, ops: &[Op], parameters: &[Vec<Parameter>]) -> Result<(), Trouble> {
        let client = &self.client;
        let mut sent: Vec<Sent<'_>> = vec![Box::pin(client.batch_execute("BEGIN"))];
        for (op, parameters) in ops.iter().zip(parameters) {
            let Some(statement) = self.statements.get(&statement(op)) else { continue };
            let parameters: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|one| &**one).collect();
            sent.push(Box::pin(async move { client.execute(statement, &parameters).await.map(drop) }));
        }
        let latest = signed(ops.iter().map(Op::last_uid).max().unwrap_or(0))?;
        if let Some(statement) = self.statements.get(LATEST).filter(|_| latest != 0) {
            sent.push(Box::pin(async move { client.execute(statement, &[&latest]).await.map(drop) }));
        }
        if let Err(why) = all(sent).await {
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(trouble(&why));
        }
        self.execute("COMMIT").await
    }
}

/// All of them at once, sent in their order. The first failure is told: what came after it failed because of it.
async fn all(sent: Vec<Sent<'_>>) -> Result<(), Error> {
    let mut open: Vec<Option<Sent<'_>>> = sent.into_iter().map(Some).collect();
    let mut failed = None;
    let (mut is_sent, mut first) = (false, 0);
    poll_fn(move |context: &mut Context<'_>| {
        for slot in open.iter_mut().skip(first) {
            let Some(one) = slot else { continue };
            match one.as_mut().poll(context) {
                Poll::Ready(outcome) => {
                    *slot = None;
                    failed = failed.take().or(outcome.err());
                }
                // Being polled is what sends, so each is polled once; after that, answers come in the same order.
                Poll::Pending if is_sent => break,
                Poll::Pending => {}
            }
        }
        is_sent = true;
        first = open.iter().take_while(|slot| slot.is_none()).count();
        if first < open.len() {
            return Poll::Pending;
        }
        Poll::Ready(failed.take().map_or(Ok(()), Err))
    })
    .await
}

/// What carries an op out.
fn statement(op: &Op) -> String {
    match op {
        Op::Said { .. } => SAY.to_owned(),
        Op::Session(_) => SET.to_owned(),
        Op::Close { .. } => CLOSE.to_owned(),
        Op::Dead(_) => DEAD.to_owned(),
        Op::DeadDrop { .. } => DROP.to_owned(),
        Op::Cursor(_) => MOVE.to_owned(),
        Op::Seen { unix_millis, .. } => {
            let (day, _) = day_of(*unix_millis);
            format!("INSERT INTO seen_{day} (mark, millis) VALUES ($1, $2) ON CONFLICT (mark) DO NOTHING")
        }
    }
}

fn parameters(op: &Op, keep: Keep) -> Result<Vec<Parameter>, Trouble> {
    Ok(match op {
        Op::Said { key, said } => vec![
            Box::new(key.as_str().to_owned()),
            Box::new(signed(said.uid)?),
            Box::new(i16::from(role_number(said.role))),
            Box::new(signed(said.unix_millis)?),
            Box::new(said.text.clone().into_bytes()),
        ],
        Op::Session(row) => vec![
            Box::new(row.key().as_str().to_owned()),
            Box::new(signed(row.revision)?),
            Box::new(signed(row.active_millis)?),
            Box::new(signed(row.history_from)?),
            Box::new(json(&**row)?),
            Box::new(Keep::is_due(row)),
            Box::new(count(keep.messages_max)),
            Box::new(count(keep.bytes_max)),
        ],
        Op::Close { key, revision, before } => {
            vec![Box::new(key.as_str().to_owned()), Box::new(signed(*revision)?), Box::new(signed(*before)?)]
        }
        Op::Dead(letter) => vec![Box::new(signed(letter.uid)?), Box::new(json(&**letter)?)],
        Op::DeadDrop { uid } => vec![Box::new(signed(*uid)?)],
        Op::Cursor(row) => vec![
            Box::new(row.channel.clone()),
            Box::new(row.value.clone().into_bytes()),
            Box::new(signed(row.revision)?),
        ],
        Op::Seen { mark, unix_millis } => {
            let (_, millis) = day_of(*unix_millis);
            vec![Box::new(mark.to_vec()), Box::new(i32::try_from(millis).unwrap_or(0))]
        }
    })
}

impl Backend for Postgres {
    type Place = Place;

    async fn open(place: &Place, writes: bool) -> Result<Self, Trouble> {
        let tls = tls::client_config(place.ca_file.as_deref())
            .map_err(|why| Trouble::Down(format!("`store.caFile` cannot be used: {why}")))?;
        let mut config: Config = place.url.expose().parse().map_err(|why: Error| {
            // Its words could quote the password.
            let _ = why;
            Trouble::Down("`store.url` is not what PostgreSQL takes".to_owned())
        })?;
        config.application_name("clawgate").connect_timeout(place.connect_age_max);
        let (client, connection) = config.connect(MakeTls::new(&tls)).await.map_err(|why| trouble(&why))?;
        tokio::task::spawn_local(async move {
            // Why it ended is told to whoever asks next.
            let _ = connection.await;
        });
        let opened = Self { client, keep: place.keep, statements: HashMap::new() };
        opened
            .execute(&format!("SET search_path TO \"{}\"; SET synchronous_commit TO on", place.schema))
            .await?;
        if writes {
            opened.prepare(&place.schema).await?;
        }
        Ok(opened)
    }

    async fn apply(&mut self, ops: &[Op]) -> Result<(), Trouble> {
        let keep = self.keep;
        let parameters: Vec<_> = ops.iter().map(|op| parameters(op, keep)).collect::<Result<_, _>>()?;
        self.ready(ops).await?;
        self.transact(ops, &parameters).await
    }

    async fn load(
        &mut self,
        key: &Key,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Loaded>, Trouble> {
        let key = key.as_str();
        let found = self.rows(LOAD, &[&key]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let session: SessionRow = body(row, 0)
            .ok_or_else(|| Trouble::Damaged("a session in PostgreSQL cannot be read".to_owned()))?;
        let rows = self.rows(ROWS, &[&key, &count(messages_max), &count(bytes_max)]).await?;
        let history = rows.iter().map(said).collect::<Option<_>>();
        let history =
            history.ok_or_else(|| Trouble::Damaged("a row in PostgreSQL cannot be read".to_owned()))?;
        Ok(Some(Loaded { session, history }))
    }

    async fn sessions(
        &mut self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(Key, Option<SessionRow>)>, Trouble> {
        let rows = self.rows(SESSIONS, &[&after, &count(limit)]).await?;
        Ok(rows.iter().filter_map(|row| Some((key(row)?, body(row, 1)))).collect())
    }

    async fn idle(&mut self, before_millis: u64, limit: usize) -> Result<Vec<(Key, u64)>, Trouble> {
        let rows = self.rows(IDLE, &[&signed(before_millis)?, &count(limit)]).await?;
        Ok(rows.iter().filter_map(|row| Some((key(row)?, unsigned(row, 1)?))).collect())
    }

    async fn letters(
        &mut self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Option<DeadLetter>)>, Trouble> {
        let after = after.map_or(Ok(-1), signed)?;
        let rows = self.rows(LETTERS, &[&after, &count(limit)]).await?;
        Ok(rows.iter().filter_map(|row| Some((unsigned(row, 0)?, body(row, 1)))).collect())
    }

    async fn letter(&mut self, uid: u64) -> Result<Option<DeadLetter>, Trouble> {
        let found = self.rows(LETTER, &[&signed(uid)?]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let letter = body(row, 0);
        letter.map(Some).ok_or_else(|| Trouble::Damaged(format!("the dead letter {uid} cannot be read")))
    }

    async fn cursors(&mut self) -> Result<Vec<CursorRow>, Trouble> {
        let read = |row: &Row| {
            let value = String::from_utf8(row.try_get(1).ok()?).ok()?;
            Some(CursorRow { channel: row.try_get(0).ok()?, value, revision: unsigned(row, 2)? })
        };
        Ok(self.rows(CURSORS, &[]).await?.iter().filter_map(read).collect())
    }

    async fn seen_days(&mut self) -> Result<Vec<u64>, Trouble> {
        let rows = self.rows(DAYS, &[]).await?;
        let names = rows.iter().filter_map(|row| row.try_get::<_, String>(0).ok());
        Ok(names.filter_map(|name| name.strip_prefix("seen_")?.parse().ok()).collect())
    }

    async fn seen(&mut self, day: u64, after: Option<Mark>, limit: usize) -> Result<MarkPage, Trouble> {
        let after: &[u8] = after.as_ref().map_or(&[], |mark| mark);
        let text = format!("SELECT mark, millis FROM seen_{day} WHERE $1 < mark ORDER BY mark LIMIT $2");
        let rows = self.rows(&text, &[&after, &count(limit)]).await?;
        let marks: Vec<(Mark, u32)> = rows.iter().filter_map(mark).collect();
        let next = marks.last().filter(|_| rows.len() == limit).map(|(mark, _)| *mark);
        Ok((marks, next))
    }

    async fn was_seen(&mut self, mark: &Mark, first_day: u64) -> Result<Option<u64>, Trouble> {
        let mut days = self.seen_days().await?;
        days.retain(|day| first_day <= *day);
        days.sort_unstable();
        let of_day =
            |day: &u64| format!("SELECT {day}::bigint AS day, millis FROM seen_{day} WHERE mark = $1");
        let all: Vec<String> = days.iter().map(of_day).collect();
        if all.is_empty() {
            return Ok(None);
        }
        let text = format!("{} ORDER BY day DESC LIMIT 1", all.join(" UNION ALL "));
        let rows = self.rows(&text, &[&mark.as_slice()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let millis = row.try_get::<_, i32>(1).ok().and_then(|millis| u32::try_from(millis).ok());
        match (unsigned(row, 0), millis) {
            (Some(day), Some(millis)) => Ok(Some(millis_of(day, millis))),
            _ => Err(Trouble::Damaged("a mark in PostgreSQL cannot be read".to_owned())),
        }
    }

    async fn last_uid(&mut self) -> Result<u64, Trouble> {
        let rows = self.rows("SELECT uid FROM latest", &[]).await?;
        let uid = rows.first().and_then(|row| unsigned(row, 0));
        uid.ok_or_else(|| Trouble::Damaged("the table `latest` in PostgreSQL cannot be read".to_owned()))
    }

    async fn forget_day(&mut self, day: u64) -> Result<(), Trouble> {
        self.statements.clear();
        self.execute(&format!("DROP TABLE IF EXISTS seen_{day}")).await
    }
}

fn said(row: &Row) -> Option<Said> {
    Some(Said {
        uid: unsigned(row, 0)?,
        role: role_of(u8::try_from(row.try_get::<_, i16>(1).ok()?).ok()?)?,
        unix_millis: unsigned(row, 2)?,
        text: String::from_utf8(row.try_get(3).ok()?).ok()?,
    })
}

fn mark(row: &Row) -> Option<(Mark, u32)> {
    let mark: &[u8] = row.try_get(0).ok()?;
    Some((mark.try_into().ok()?, u32::try_from(row.try_get::<_, i32>(1).ok()?).ok()?))
}

fn key(row: &Row) -> Option<Key> {
    row.try_get(0).ok().map(Key::stored)
}

fn body<T: serde::de::DeserializeOwned>(row: &Row, index: usize) -> Option<T> {
    serde_json::from_str(row.try_get(index).ok()?).ok()
}

fn json<T: serde::Serialize>(row: &T) -> Result<String, Trouble> {
    serde_json::to_string(row).map_err(|why| Trouble::Refused(format!("the store cannot hold this: {why}")))
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn signed(number: u64) -> Result<i64, Trouble> {
    i64::try_from(number).map_err(|why| Trouble::Refused(format!("the store cannot hold this: {why}")))
}

fn unsigned(row: &Row, index: usize) -> Option<u64> {
    u64::try_from(row.try_get::<_, i64>(index).ok()?).ok()
}

/// What the client or the server says, as what it means for us. The server's detail is left out: it quotes rows.
fn trouble(why: &Error) -> Trouble {
    let Some(told) = why.as_db_error() else {
        let cause = std::error::Error::source(why).map(|cause| format!(": {cause}")).unwrap_or_default();
        return Trouble::Down(format!("PostgreSQL fails ({why}{cause})"));
    };
    let (code, words) = (told.code().code(), told.message());
    let help = match code {
        // What can never be held: data, constraints, limits of a row.
        _ if ["22", "23", "54"].iter().any(|class| code.starts_with(class)) => {
            return Trouble::Refused(format!("the store cannot hold this: {words} ({code})"));
        }
        _ if code.starts_with("28") => ": is user and password in `store.url` right?",
        "3D000" => ": make the database, or name another in `store.url`",
        "42501" => ": let the user make and use the tables of the schema",
        "42P01" => ": a table is gone; restore a backup, or drop the schema to begin anew",
        "53100" => ": make room on its disk",
        "53300" => ": raise its `max_connections`, or lower `store.connections`",
        _ => "",
    };
    Trouble::Down(format!("PostgreSQL fails ({code} {words}){help}"))
}
