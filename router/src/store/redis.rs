//! The store in Redis (6.2 or later, no cluster). Its layout is in `router/docs/stores.md`.
//!
//! A batch is one MULTI; what depends on what is there is a script, so that it is looked at and changed at once. How
//! durable a confirmed batch is, Redis decides by `appendfsync`; a server that writes nothing down is warned of.
use super::backend::{Backend, Keep, MarkPage, Trouble};
use super::query::Loaded;
use super::row::{
    CursorRow, DeadLetter, Key, Mark, Op, Said, SessionRow, day_of, millis_of, role_number, role_of,
};
use crate::config::secret::Secret;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind,
    TlsCertificates,
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// The layout that this gateway reads and writes.
const VERSION: u32 = 1;
/// Rows of a session fetched at once.
const ROWS: usize = 64;
/// The parts that a day's marks are in: small hashes are the most compact form that Redis has.
const PARTS: usize = 1 << 16;
/// Parts fetched or dropped at once.
const PARTS_AT_ONCE: usize = 512;

/// A row, unless it is there or its session has forgotten what was before a later one.
const SAY: &str = "
    local from = redis.call('HGET', KEYS[1], 'from')
    if from and ARGV[2] < from then return 0 end
    if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 1 then redis.call('ZADD', KEYS[3], 0, ARGV[2]) end
    if not from then redis.call('ZADD', KEYS[4], 'NX', ARGV[4], ARGV[1]) end
    return 1";
/// A session, unless the one that is there is as new; then the rows that it has forgotten or has no room for go.
const SET: &str = "
    local old = redis.call('HGET', KEYS[1], 'revision')
    if old and ARGV[2] <= old then return 0 end
    redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'from', ARGV[4], 'body', ARGV[5])
    redis.call('ZADD', KEYS[4], ARGV[3], ARGV[1])
    redis.call('ZADD', KEYS[5], 0, ARGV[1])
    local function forget(fields)
        for _, field in ipairs(fields) do
            redis.call('HDEL', KEYS[2], field)
            redis.call('ZREM', KEYS[3], field)
        end
    end
    forget(redis.call('ZRANGEBYLEX', KEYS[3], '-', '(' .. ARGV[4]))
    if ARGV[6] == '1' then
        local bytes, kept = 0, 0
        for _, field in ipairs(redis.call('ZREVRANGE', KEYS[3], 0, tonumber(ARGV[7]) - 1)) do
            bytes = bytes + redis.call('HSTRLEN', KEYS[2], field) - 16
            if tonumber(ARGV[8]) < bytes then break end
            kept = kept + 1
        end
        forget(redis.call('ZREVRANGE', KEYS[3], kept, -1))
    end
    return 1";
/// The end of a session, unless it is newer, and of what was said before.
const CLOSE: &str = "
    local old = redis.call('HGET', KEYS[1], 'revision')
    if old and ARGV[2] < old then return 0 end
    redis.call('UNLINK', KEYS[1])
    redis.call('ZREM', KEYS[5], ARGV[1])
    if redis.call('ZLEXCOUNT', KEYS[3], '[' .. ARGV[3], '+') == 0 then
        redis.call('UNLINK', KEYS[2], KEYS[3])
        redis.call('ZREM', KEYS[4], ARGV[1])
        return 1
    end
    for _, field in ipairs(redis.call('ZRANGEBYLEX', KEYS[3], '-', '(' .. ARGV[3])) do
        redis.call('HDEL', KEYS[2], field)
        redis.call('ZREM', KEYS[3], field)
    end
    return 1";
/// A cursor, unless the one that is there is as new.
const MOVE: &str = "
    local old = redis.call('HGET', KEYS[1], ARGV[1])
    if old and string.sub(ARGV[2], 1, 16) <= string.sub(old, 1, 16) then return 0 end
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    return 1";
/// The latest name that was given.
const LATEST: &str = "
    local old = redis.call('GET', KEYS[1])
    if old and ARGV[1] <= old then return 0 end
    redis.call('SET', KEYS[1], ARGV[1])
    return 1";
const SCRIPTS: [&str; 5] = [SAY, SET, CLOSE, MOVE, LATEST];

/// Where the server is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// `redis://` or, with TLS, `rediss://`; user, password and number of the database are part of it.
    pub(crate) url: Secret,
    /// PEM: certificates to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// What all keys begin with.
    pub(crate) prefix: String,
    /// To connect, TLS included.
    pub(crate) connect_age_max: Duration,
    pub(crate) keep: Keep,
}

/// One line to the server.
pub(super) struct Redis {
    connection: MultiplexedConnection,
    prefix: String,
    keep: Keep,
    /// The digests by which the server knows the scripts.
    scripts: [String; 5],
}

impl Redis {
    /// The names under which a session is kept.
    fn names(&self, key: &str) -> [String; 5] {
        let prefix = &self.prefix;
        [
            format!("{prefix}:session:{key}"),
            format!("{prefix}:said:{key}"),
            format!("{prefix}:order:{key}"),
            format!("{prefix}:active"),
            format!("{prefix}:sessions"),
        ]
    }

    fn add(&self, to: &mut Pipeline, op: &Op) -> Result<(), Trouble> {
        let prefix = &self.prefix;
        let [say, set, close, set_cursor, _] = &self.scripts;
        match op {
            Op::Said { key, said } => {
                let field = field(said.uid, said.role);
                let row = format!("{:016x}{}", said.unix_millis, said.text);
                to.cmd("EVALSHA").arg(say).arg(4).arg(&self.names(key.as_str())[..4]);
                to.arg(key.as_str()).arg(field).arg(row).arg(said.unix_millis);
            }
            Op::Session(row) => {
                let key = row.key();
                to.cmd("EVALSHA").arg(set).arg(5).arg(&self.names(key.as_str()));
                to.arg(key.as_str()).arg(hex(row.revision)).arg(row.active_millis).arg(hex(row.history_from));
                to.arg(json(&**row)?).arg(u8::from(Keep::is_due(row)));
                to.arg(self.keep.messages_max).arg(self.keep.bytes_max);
            }
            Op::Close { key, revision, before } => {
                to.cmd("EVALSHA").arg(close).arg(5).arg(&self.names(key.as_str()));
                to.arg(key.as_str()).arg(hex(*revision)).arg(hex(*before));
            }
            Op::Dead(letter) => {
                let uid = hex(letter.uid);
                to.cmd("HSETNX").arg(format!("{prefix}:dead")).arg(&uid).arg(json(&**letter)?);
                to.cmd("ZADD").arg(format!("{prefix}:dead:order")).arg(0).arg(&uid);
            }
            Op::DeadDrop { uid } => {
                to.cmd("HDEL").arg(format!("{prefix}:dead")).arg(hex(*uid));
                to.cmd("ZREM").arg(format!("{prefix}:dead:order")).arg(hex(*uid));
            }
            Op::Cursor(row) => {
                to.cmd("EVALSHA").arg(set_cursor).arg(1).arg(format!("{prefix}:cursors"));
                to.arg(&row.channel).arg(format!("{:016x}{}", row.revision, row.value));
            }
            Op::Seen { mark, unix_millis } => {
                let (day, millis) = day_of(*unix_millis);
                to.cmd("HSETNX").arg(self.part(day, part_of(mark))).arg(mark).arg(millis);
            }
        }
        Ok(())
    }

    fn part(&self, day: u64, part: usize) -> String {
        format!("{}:seen:{day}:{part:04x}", self.prefix)
    }

    async fn ask<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> Result<T, Trouble> {
        pipe.query_async(&mut self.connection).await.map_err(|why| trouble(&why))
    }

    /// One command; the answer is a list of its one.
    async fn ask_one<T: FromRedisValue>(&mut self, command: &mut redis::Cmd) -> Result<T, Trouble> {
        command.query_async(&mut self.connection).await.map_err(|why| trouble(&why))
    }

    /// Looks whose keys these are, and says how durable they will be.
    async fn prepare(&mut self) -> Result<(), Trouble> {
        let name = format!("{}:version", self.prefix);
        let _: Option<String> = self.ask_one(redis::cmd("SET").arg(&name).arg(VERSION).arg("NX")).await?;
        let version: String = self.ask_one(redis::cmd("GET").arg(&name)).await?;
        match version.parse::<u32>() {
            Ok(VERSION) => {}
            Ok(version) if VERSION < version => {
                return Err(Trouble::Foreign(format!(
                    "the store in Redis was written by a newer gateway (its layout has version {version}, this \
                     gateway knows {VERSION}): run that gateway, or choose another `store.prefix`"
                )));
            }
            Ok(_) | Err(_) => {
                return Err(Trouble::Foreign(format!(
                    "the key `{name}` in Redis is another program's: choose another `store.prefix`"
                )));
            }
        }
        // Who may not ask is not told.
        let info: Result<String, _> = self.ask_one(redis::cmd("INFO").arg("persistence")).await;
        if info.is_ok_and(|info| info.contains("aof_enabled:0")) {
            tracing::warn!(
                "this Redis keeps what it confirms in memory for a while (appendonly is off): set `appendonly yes` \
                 and `appendfsync always`, or what was confirmed is lost when it ends"
            );
        }
        Ok(())
    }

    /// The newest rows, as many as fit.
    async fn rows(&mut self, key: &Key, messages_max: usize, bytes_max: usize) -> Result<Vec<Said>, Trouble> {
        let [_, said, order, ..] = self.names(key.as_str());
        let mut rows: Vec<Said> = Vec::new();
        let mut bytes = 0_usize;
        loop {
            let wanted = messages_max.saturating_sub(rows.len()).min(ROWS);
            if wanted == 0 {
                return Ok(rows);
            }
            let range = (rows.len(), rows.len() + wanted - 1);
            let fields: Vec<String> =
                self.ask_one(redis::cmd("ZREVRANGE").arg(&order).arg(range.0).arg(range.1)).await?;
            if fields.is_empty() {
                return Ok(rows);
            }
            let values: Vec<Option<String>> =
                self.ask_one(redis::cmd("HMGET").arg(&said).arg(&fields)).await?;
            let is_last = fields.len() < wanted;
            for (field, value) in fields.iter().zip(values) {
                // A row may have been trimmed in between.
                let Some(value) = value else { continue };
                let Some(row) = row(field, &value) else {
                    return Err(Trouble::Damaged(format!("a row of {key:?} in Redis cannot be read")));
                };
                bytes = bytes.saturating_add(row.text.len());
                if bytes_max < bytes {
                    return Ok(rows);
                }
                rows.push(row);
            }
            if is_last {
                return Ok(rows);
            }
        }
    }
}

impl Backend for Redis {
    type Place = Place;

    async fn open(place: &Place, writes: bool) -> Result<Self, Trouble> {
        let bad = |why: RedisError| {
            Trouble::Down(format!("`store.url` is not what Redis takes: {}", said_by(&why)))
        };
        let client = match &place.ca_file {
            None => Client::open(place.url.expose()).map_err(bad)?,
            Some(file) => {
                let pem = std::fs::read(file).map_err(|why| {
                    Trouble::Down(format!("`store.caFile` {} cannot be read: {why}", file.display()))
                })?;
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem) };
                Client::build_with_tls(place.url.expose(), certificates).map_err(bad)?
            }
        };
        // Patience with answers is the line's, for a whole batch.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(place.connect_age_max))
            .set_response_timeout(None);
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|why| trouble(&why))?;
        let mut opened =
            Self { connection, prefix: place.prefix.clone(), keep: place.keep, scripts: Default::default() };
        if writes {
            opened.prepare().await?;
            for (number, script) in SCRIPTS.iter().enumerate() {
                opened.scripts[number] =
                    opened.ask_one(redis::cmd("SCRIPT").arg("LOAD").arg(*script)).await?;
            }
        }
        Ok(opened)
    }

    async fn apply(&mut self, ops: &[Op]) -> Result<(), Trouble> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        let mut days = BTreeSet::new();
        for op in ops {
            self.add(&mut pipe, op)?;
            if let Op::Seen { unix_millis, .. } = op {
                days.insert(day_of(*unix_millis).0);
            }
        }
        if let Some(uid) = ops.iter().map(Op::last_uid).max().filter(|uid| *uid != 0) {
            let [.., latest] = &self.scripts;
            pipe.cmd("EVALSHA").arg(latest).arg(1).arg(format!("{}:latest", self.prefix)).arg(hex(uid));
        }
        for day in days {
            pipe.cmd("SADD").arg(format!("{}:seen", self.prefix)).arg(day);
        }
        if ops.is_empty() { Ok(()) } else { self.ask::<()>(&pipe).await }
    }

    async fn load(
        &mut self,
        key: &Key,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Loaded>, Trouble> {
        let [session, ..] = self.names(key.as_str());
        let body: Option<String> = self.ask_one(redis::cmd("HGET").arg(session).arg("body")).await?;
        let Some(body) = body else { return Ok(None) };
        let session: SessionRow = serde_json::from_str(&body)
            .map_err(|why| Trouble::Damaged(format!("the session {key:?} in Redis cannot be read: {why}")))?;
        let mut history = self.rows(key, messages_max, bytes_max).await?;
        history.reverse();
        Ok(Some(Loaded { session, history }))
    }

    async fn sessions(
        &mut self,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(Key, Option<SessionRow>)>, Trouble> {
        let begin = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
        let name = format!("{}:sessions", self.prefix);
        let mut range = redis::cmd("ZRANGEBYLEX");
        range.arg(name).arg(begin).arg("+").arg("LIMIT").arg(0).arg(limit);
        let keys: Vec<String> = self.ask_one(&mut range).await?;
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("HGET").arg(&self.names(key)[0]).arg("body");
        }
        let bodies: Vec<Option<String>> = if keys.is_empty() { Vec::new() } else { self.ask(&pipe).await? };
        let read = |body: Option<String>| body.and_then(|body| serde_json::from_str(&body).ok());
        Ok(keys.iter().zip(bodies).map(|(key, body)| (Key::stored(key), read(body))).collect())
    }

    async fn idle(&mut self, before_millis: u64, limit: usize) -> Result<Vec<(Key, u64)>, Trouble> {
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range.arg(format!("{}:active", self.prefix)).arg("-inf").arg(format!("({before_millis}"));
        range.arg("LIMIT").arg(0).arg(limit);
        let keys: Vec<String> = self.ask_one(&mut range).await?;
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("HGET").arg(&self.names(key)[0]).arg("revision");
        }
        let revisions: Vec<Option<String>> =
            if keys.is_empty() { Vec::new() } else { self.ask(&pipe).await? };
        let read =
            |text: Option<String>| text.and_then(|text| u64::from_str_radix(&text, 16).ok()).unwrap_or(0);
        Ok(keys.iter().zip(revisions).map(|(key, revision)| (Key::stored(key), read(revision))).collect())
    }

    async fn letters(
        &mut self,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<(u64, Option<DeadLetter>)>, Trouble> {
        let begin = after.map_or_else(|| "-".to_owned(), |uid| format!("({}", hex(uid)));
        let mut range = redis::cmd("ZRANGEBYLEX");
        range.arg(format!("{}:dead:order", self.prefix)).arg(begin).arg("+").arg("LIMIT").arg(0).arg(limit);
        let uids: Vec<String> = self.ask_one(&mut range).await?;
        if uids.is_empty() {
            return Ok(Vec::new());
        }
        let name = format!("{}:dead", self.prefix);
        let bodies: Vec<Option<String>> = self.ask_one(redis::cmd("HMGET").arg(name).arg(&uids)).await?;
        let rows = uids.iter().zip(bodies).filter_map(|(uid, body)| {
            let letter = body.and_then(|body| serde_json::from_str(&body).ok());
            Some((u64::from_str_radix(uid, 16).ok()?, letter))
        });
        Ok(rows.collect())
    }

    async fn letter(&mut self, uid: u64) -> Result<Option<DeadLetter>, Trouble> {
        let name = format!("{}:dead", self.prefix);
        let body: Option<String> = self.ask_one(redis::cmd("HGET").arg(name).arg(hex(uid))).await?;
        let Some(body) = body else { return Ok(None) };
        serde_json::from_str(&body)
            .map(Some)
            .map_err(|why| Trouble::Damaged(format!("the dead letter {uid} in Redis cannot be read: {why}")))
    }

    async fn cursors(&mut self) -> Result<Vec<CursorRow>, Trouble> {
        let name = format!("{}:cursors", self.prefix);
        let all: Vec<(String, String)> = self.ask_one(redis::cmd("HGETALL").arg(name)).await?;
        let mut rows: Vec<CursorRow> = all
            .into_iter()
            .filter_map(|(channel, value)| {
                let (revision, value) = value.split_at_checked(16)?;
                let revision = u64::from_str_radix(revision, 16).ok()?;
                Some(CursorRow { channel, value: value.to_owned(), revision })
            })
            .collect();
        rows.sort_by(|one, other| one.channel.cmp(&other.channel));
        Ok(rows)
    }

    async fn seen_days(&mut self) -> Result<Vec<u64>, Trouble> {
        self.ask_one(redis::cmd("SMEMBERS").arg(format!("{}:seen", self.prefix))).await
    }

    async fn seen(&mut self, day: u64, after: Option<Mark>, limit: usize) -> Result<MarkPage, Trouble> {
        let mut part = after.map_or(0, |mark| part_of(&mark) + 1);
        let mut marks = Vec::new();
        while part < PARTS {
            let end = (part + PARTS_AT_ONCE).min(PARTS);
            let mut pipe = redis::pipe();
            for part in part..end {
                pipe.cmd("HGETALL").arg(self.part(day, part));
            }
            let parts: Vec<Vec<(Vec<u8>, u32)>> = self.ask(&pipe).await?;
            for (part, found) in (part..end).zip(parts) {
                let found = found.into_iter().filter_map(|(mark, at)| Some((Mark::try_from(mark).ok()?, at)));
                marks.extend(found);
                if limit <= marks.len() && part + 1 < PARTS {
                    return Ok((marks, Some(last_of(part))));
                }
            }
            part = end;
        }
        Ok((marks, None))
    }

    async fn was_seen(&mut self, mark: &Mark, first_day: u64) -> Result<Option<u64>, Trouble> {
        let mut days = self.seen_days().await?;
        days.retain(|day| first_day <= *day);
        days.sort_unstable_by(|one, other| other.cmp(one));
        if days.is_empty() {
            return Ok(None);
        }
        let mut pipe = redis::pipe();
        for day in &days {
            pipe.cmd("HGET").arg(self.part(*day, part_of(mark))).arg(mark);
        }
        let found: Vec<Option<u32>> = self.ask(&pipe).await?;
        Ok(days.iter().zip(found).find_map(|(day, millis)| Some(millis_of(*day, millis?))))
    }

    async fn last_uid(&mut self) -> Result<u64, Trouble> {
        let name = format!("{}:latest", self.prefix);
        let text: Option<String> = self.ask_one(redis::cmd("GET").arg(&name)).await?;
        let read = |text: &str| {
            let why = || Trouble::Damaged(format!("the key `{name}` in Redis cannot be read"));
            u64::from_str_radix(text, 16).map_err(|_| why())
        };
        if let Some(text) = text {
            return read(&text);
        }
        // It was written by a gateway that did not note it.
        let mut newest = redis::cmd("ZREVRANGE");
        newest.arg(format!("{}:dead:order", self.prefix)).arg(0).arg(0);
        let letters: Vec<String> = self.ask_one(&mut newest).await?;
        let mut last = letters.first().map_or(Ok(0), |text| read(text))?;
        let mut after = String::new();
        loop {
            let page = self.sessions(&after, PARTS_AT_ONCE).await?;
            let Some((key, _)) = page.last() else { return Ok(last) };
            key.as_str().clone_into(&mut after);
            let rows = page.iter().filter_map(|(_, row)| row.as_ref());
            last = rows.map(|row| row.revision.max(row.history_from)).max().unwrap_or(0).max(last);
        }
    }

    async fn forget_day(&mut self, day: u64) -> Result<(), Trouble> {
        for begin in (0..PARTS).step_by(PARTS_AT_ONCE) {
            let mut command = redis::cmd("UNLINK");
            for part in begin..begin + PARTS_AT_ONCE {
                command.arg(self.part(day, part));
            }
            let _: u64 = self.ask_one(&mut command).await?;
        }
        let _: u64 = self.ask_one(redis::cmd("SREM").arg(format!("{}:seen", self.prefix)).arg(day)).await?;
        Ok(())
    }
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

/// A row's name: in the order of bytes it is in the order of the conversation.
fn field(uid: u64, role: clawgate_core::view::Role) -> String {
    format!("{uid:016x}{}", role_number(role))
}

fn row(field: &str, value: &str) -> Option<Said> {
    let (uid, role) = field.split_at_checked(16)?;
    let (at, text) = value.split_at_checked(16)?;
    Some(Said {
        uid: u64::from_str_radix(uid, 16).ok()?,
        role: role_of(role.parse().ok()?)?,
        unix_millis: u64::from_str_radix(at, 16).ok()?,
        text: text.to_owned(),
    })
}

fn part_of(mark: &Mark) -> usize {
    usize::from(u16::from_be_bytes([mark[0], mark[1]]))
}

/// The last mark that could be in a part: the place to go on from after it.
fn last_of(part: usize) -> Mark {
    let mut mark = [0xff; 16];
    mark[..2].copy_from_slice(&u16::try_from(part).unwrap_or(u16::MAX).to_be_bytes());
    mark
}

fn json<T: serde::Serialize>(row: &T) -> Result<String, Trouble> {
    serde_json::to_string(row).map_err(|why| Trouble::Refused(format!("the store cannot hold this: {why}")))
}

/// The words of an error: never those of a command, which may hold what people wrote.
fn said_by(why: &RedisError) -> String {
    match why.code() {
        Some(code) => format!("{code} {}", why.detail().unwrap_or_default()),
        None => why.to_string(),
    }
}

/// What the client or the server says, as what it means for us.
fn trouble(why: &RedisError) -> Trouble {
    let words = said_by(why);
    let code = why.code().unwrap_or_default();
    if code == "WRONGTYPE" {
        return Trouble::Foreign(format!(
            "Redis holds another program's keys ({words}): choose another `store.prefix`"
        ));
    }
    let is_parse = matches!(why.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType);
    let help = match code {
        _ if why.kind() == ErrorKind::AuthenticationFailed => ": is user and password in `store.url` right?",
        "NOAUTH" | "WRONGPASS" | "NOPERM" => ": is user and password in `store.url` right?",
        "OOM" => ": its memory is full; raise its `maxmemory`",
        "READONLY" => ": this is a replica; name its primary in `store.url`",
        _ if why.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            ": name its primary in `store.url`"
        }
        _ if is_parse => ": is `store.url` the address of a Redis?",
        _ => "",
    };
    Trouble::Down(format!("Redis fails ({words}){help}"))
}
