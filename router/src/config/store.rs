//! Where sessions, history, dead letters and marks are kept: section `store`.
use super::data::Data;
use super::path::Path;
use super::report::Report;
use super::seconds::Seconds;
use super::secret::Secret;
use super::server::pem_file;
use crate::store::{self, Keep, MemoryPlace, PostgresPlace, QueuePlan, RedisPlace, SqlitePlace};
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path as FilePath, PathBuf};

/// The first pause after the store failed; it doubles, with jitter.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long another process may hold the file of the store before an attempt fails.
const BUSY_AGE_MAX: Duration = Duration::from_secs(5);
/// Where archived sessions lie, in the data directory.
const ARCHIVE: &str = "archive";
/// Where what the store can never hold lies, in the data directory.
pub(crate) const REFUSED: &str = "refused.jsonl";

/// Where sessions, history, dead letters and marks are kept.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Store {
    /// Which database, and how it is used.
    pub(crate) plan: store::Plan,
    /// A turn waits this long for its session.
    pub(crate) load_age_max: Duration,
    /// A session that nobody spoke in leaves memory after this.
    pub(crate) cache_age_max: Duration,
    /// A session that nobody spoke in leaves the store after this.
    pub(crate) archive_age_min: Duration,
}

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StoreKind {
    /// None: all is lost when the gateway ends.
    Memory,
    /// A file in the data directory.
    Sqlite,
    /// A server of Redis, 6.2 or later.
    Redis,
    /// A server of PostgreSQL, 13 or later.
    Postgres,
}

/// Where sessions, history, dead letters and marks are kept. What each database guarantees stands in `stores.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct StoreSection {
    /// Which database. Without it: `sqlite` if there is a `data.folder`, else `memory`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<StoreKind>,
    /// Only `sqlite`: the file, relative to `data.folder`.
    path: String,
    /// Only `redis` and `postgres`, and needed there: `redis://user:password@host:6379/0` (with TLS `rediss://`), or
    /// `postgres://user:password@host:5432/database` (`?sslmode=require` insists on TLS).
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<Secret>,
    /// Only `redis` and `postgres`: what all keys begin with, or the schema of the tables. Gateways that share a server
    /// have one each.
    prefix: String,
    /// Only `redis` and `postgres`: PEM file with the certificates to trust instead of the public ones. Relative to the
    /// configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
    /// Only `redis` and `postgres`: connections that read. One more writes.
    #[schemars(range(min = 1, max = 64))]
    connections: u16,
    /// Rows that wait to be written. Beyond, the journal keeps what comes.
    #[schemars(range(min = 16, max = 10_000_000))]
    waiting_max: u32,
    /// Bytes of rows that wait to be written.
    #[schemars(range(min = 65_536, max = 17_179_869_184_u64))]
    waiting_bytes_max: u64,
    /// Rows of one transaction.
    #[schemars(range(min = 1, max = 100_000))]
    batch_max: u32,
    /// A transaction begins so long after the one before, unless `batchMax` or half of what may wait is there sooner: rows
    /// that come one by one share the disk's work. The first after a pause is written at once.
    #[schemars(range(min = 0, max = 1_000))]
    batch_millis: u16,
    /// Questions that wait, most of them for sessions to load. Those take half of it, and wait for their turn beyond;
    /// other questions are refused.
    #[schemars(range(min = 1, max = 1_000_000))]
    reads_waiting_max: u32,
    /// A turn waits this long for its session.
    #[schemars(range(min = 0.1, max = 600))]
    load_seconds: Seconds,
    /// To connect, or to write one transaction; then it is tried again.
    #[schemars(range(min = 0.1, max = 600))]
    attempt_seconds: Seconds,
    /// A session that nobody spoke in leaves memory after this, and is loaded when somebody does.
    #[schemars(range(min = 1, max = 31_536_000))]
    cache_seconds: Seconds,
    /// A session that nobody spoke in leaves the store after this, for the archive.
    #[schemars(range(min = 60, max = 3_153_600_000_u64))]
    archive_seconds: Seconds,
    /// Sessions that leave the store are kept as JSON lines in `archive/` in `data.folder`. Without it they are dropped.
    archive: bool,
    /// Messages of a session's history in the store, and up to 64 more; the oldest go.
    #[schemars(range(min = 1, max = 1_000_000))]
    history_messages_max: u32,
    /// Bytes of a session's history in the store; the oldest messages go.
    #[schemars(range(min = 1_024, max = 1_073_741_824))]
    history_bytes_max: u32,
    /// Only `sqlite` and `memory`: bytes that all of it may take. Left out: 64 GiB on disk, 256 MiB in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576, max = 17_592_186_044_416_u64))]
    bytes_max: Option<u64>,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            kind: None,
            path: "store.db".to_owned(),
            url: None,
            prefix: "clawgate".to_owned(),
            ca_file: None,
            connections: 4,
            waiting_max: 16_384,
            waiting_bytes_max: 64 << 20,
            batch_max: 2_048,
            batch_millis: 50,
            reads_waiting_max: 4_096,
            load_seconds: Seconds::whole(5),
            attempt_seconds: Seconds::whole(15),
            cache_seconds: Seconds::whole(3_600),
            archive_seconds: Seconds::whole(2_592_000),
            archive: true,
            history_messages_max: 1_000,
            history_bytes_max: 1 << 20,
            bytes_max: None,
        }
    }
}

impl StoreSection {
    /// Checks and resolves. `folder` is where the configuration lies.
    pub(super) fn resolve(&self, folder: &FilePath, data: &Data, report: &mut Report<'_>) -> Store {
        let kind = match (self.kind, &data.folder) {
            (Some(kind), _) => kind,
            (None, Some(_)) => StoreKind::Sqlite,
            (None, None) => StoreKind::Memory,
        };
        self.check(kind, report);
        let in_data = |name: &str| data.folder.as_ref().map(|data| data.join(name));
        let plan = store::Plan {
            kind: self.place(kind, folder, data, report),
            queue: QueuePlan {
                ops_max: size(u64::from(self.waiting_max)),
                bytes_max: size(self.waiting_bytes_max),
                batch_ops_max: size(u64::from(self.batch_max)),
                batch_interval: Duration::from_millis(u64::from(self.batch_millis)),
                reads_max: size(u64::from(self.reads_waiting_max)),
                connections: usize::from(self.connections),
            },
            archive: in_data(ARCHIVE).filter(|_| self.archive),
            refused: in_data(REFUSED),
            attempt_age_max: self.attempt_seconds.duration(),
            pause_min: PAUSE_MIN,
            pause_max: PAUSE_MAX,
        };
        Store {
            plan,
            load_age_max: self.load_seconds.duration(),
            cache_age_max: self.cache_seconds.duration(),
            archive_age_min: self.archive_seconds.duration(),
        }
    }

    fn place(&self, kind: StoreKind, folder: &FilePath, data: &Data, report: &mut Report<'_>) -> store::Kind {
        let keep = Keep {
            messages_max: size(u64::from(self.history_messages_max)),
            bytes_max: size(u64::from(self.history_bytes_max)),
        };
        let connect_age_max = self.attempt_seconds.duration();
        let url = || self.url.clone().unwrap_or_else(|| Secret::new(String::new()));
        let mut ca_file = || -> Option<PathBuf> {
            let at = Path::of("store").key("caFile");
            self.ca_file.as_ref().map(|name| pem_file(name, "CERTIFICATE-----", folder, &at, report))
        };
        match kind {
            StoreKind::Memory => store::Kind::Memory(MemoryPlace {
                bytes_max: size(self.bytes_max.unwrap_or(256 << 20)),
                keep,
            }),
            StoreKind::Sqlite => store::Kind::Sqlite(SqlitePlace {
                file: data.folder.as_deref().unwrap_or(folder).join(&self.path),
                bytes_max: self.bytes_max.unwrap_or(64 << 30),
                busy_age_max: BUSY_AGE_MAX,
                keep,
            }),
            StoreKind::Redis => store::Kind::Redis(RedisPlace {
                url: url(),
                ca_file: ca_file(),
                prefix: self.prefix.clone(),
                connect_age_max,
                keep,
            }),
            StoreKind::Postgres => store::Kind::Postgres(PostgresPlace {
                url: url(),
                ca_file: ca_file(),
                schema: self.prefix.clone(),
                connect_age_max,
                keep,
            }),
        }
    }

    fn check(&self, kind: StoreKind, report: &mut Report<'_>) {
        let at = Path::of("store");
        let (name, useless): (_, &[&str]) = match kind {
            StoreKind::Memory => ("memory", &["url", "caFile"]),
            StoreKind::Sqlite => ("sqlite", &["url", "caFile"]),
            StoreKind::Redis => ("redis", &["bytesMax"]),
            StoreKind::Postgres => ("postgres", &["bytesMax"]),
        };
        report.useless(
            &at,
            useless,
            &format!("has no use with the store `{name}`"),
            "leave it out, or set `kind`",
        );
        if kind == StoreKind::Sqlite && (self.path.is_empty() || self.path.ends_with('/')) {
            report.error(&at.key("path"), "this names no file", "name one, as \"store.db\"");
        }
        let schemes: &[&str] = match kind {
            StoreKind::Memory | StoreKind::Sqlite => return,
            StoreKind::Redis => &["redis://", "rediss://"],
            StoreKind::Postgres => &["postgres://", "postgresql://"],
        };
        let help = format!("write {}user:password@host:port/database, better with ${{VARIABLE}}", schemes[0]);
        let url = self.url.as_ref().map(|url| url.expose().to_owned());
        match url {
            None if report.is_written(&at.key("url")) => {}
            None => report.error(&at.key("url"), format!("the store `{name}` needs a `url`"), help),
            Some(url) => {
                let rest = schemes.iter().find_map(|scheme| url.strip_prefix(scheme));
                let host = rest.map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
                let host = host.map(|authority| authority.rsplit('@').next().unwrap_or_default());
                if host.is_none_or(str::is_empty) {
                    report.error(&at.key("url"), format!("this is no address of a store `{name}`"), help);
                }
            }
        }
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let begins = self.prefix.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
        if !begins || 63 < self.prefix.len() || !self.prefix.bytes().all(is_plain) {
            let message = format!("{} is no prefix", report.quote(&at.key("prefix"), &self.prefix));
            let help =
                "write a word of small letters, digits and `_`, 63 at the most, that begins with a letter";
            report.error(&at.key("prefix"), message, help);
        }
    }
}

fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
