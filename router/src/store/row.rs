//! What the store keeps, as values: sessions, what was said in them, dead letters, cursors, marks of messages seen.
//!
//! Each is also a JSON text, which is what the databases hold of it beside the columns that they search by; unknown
//! fields are left out when it is read, so that an older gateway reads what a newer one wrote.
use clawgate_core::event::Scope;
use clawgate_core::view::Role;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Between the parts of a [`Key`]. No name has a control character in it.
const SEPARATOR: char = '\u{1f}';
/// What a row costs in memory beside its texts, bytes: counted against the bounds of queues.
const ROW_BYTES: usize = 96;

/// A conversation's name in the store: channel, `d` or `g`, party, thread.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Box<str>);

impl Key {
    /// The key of the conversation with this party: the peer of a direct one, the chat of a group.
    pub(crate) fn new(channel: &str, scope: Scope, party: &str, thread: &str) -> Self {
        let scope = match scope {
            Scope::Direct => "d",
            Scope::Group => "g",
        };
        let mut key = String::with_capacity(channel.len() + party.len() + thread.len() + 4);
        for part in [channel, scope, party] {
            key.push_str(part);
            key.push(SEPARATOR);
        }
        key.push_str(thread);
        Self(key.into_boxed_str())
    }

    /// A key as it was stored.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The text of it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// What the JSON of its session begins with, as [`SessionRow`] writes it. Others may begin so too.
    pub(super) fn beginning(&self) -> String {
        let mut parts = self.0.split(SEPARATOR);
        let mut part = || serde_json::Value::from(parts.next().unwrap_or_default());
        let (channel, scope, party) = (part(), part(), part());
        let scope = if scope == "g" { "group" } else { "direct" };
        format!("{{\"channel\":{channel},\"scope\":\"{scope}\",\"party\":{party}")
    }

    /// What the keys of a channel begin with.
    pub(super) fn prefix(channel: &str) -> String {
        format!("{channel}{SEPARATOR}")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.replace(SEPARATOR, ":"))
    }
}

/// A message of a conversation: one row, written once and never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Orders the rows of a session; a turn's question and answer share it. Below 2^63.
    pub(crate) uid: u64,
    /// Who said it.
    #[serde(with = "role")]
    pub(crate) role: Role,
    /// What was said.
    pub(crate) text: String,
    /// When, milliseconds since 1970.
    #[serde(rename = "at")]
    pub(crate) unix_millis: u64,
}

/// Where a session stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Somebody spoke not long ago.
    #[default]
    Active,
    /// It left memory; the next message brings it back.
    Dormant,
    /// It has been silent for longer than sessions live.
    Expired,
    /// It is in the archive.
    Archived,
    /// An operator ended it.
    Closed,
}

/// A session without what was said in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionRow {
    /// The channel's name.
    pub(crate) channel: String,
    /// Direct or group.
    #[serde(with = "scope")]
    pub(crate) scope: Scope,
    /// The peer of a direct session, the chat of a group.
    pub(crate) party: String,
    /// The thread or topic, or the client's session id; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) thread: String,
    /// The chat that answers go to; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) chat: String,
    /// What people call the party; empty if nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// The agent that an operator gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    /// What an operator said about messages that arrive while a turn runs, as the configuration names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) running_mode: Option<String>,
    /// Where it stands in its life.
    #[serde(default)]
    pub(crate) state: State,
    /// Context variables in the order in which they were set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) context: Vec<(String, String)>,
    /// The tools that it is bound to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tools: Vec<String>,
    /// Messages of people so far.
    #[serde(default)]
    pub(crate) messages: u64,
    /// When it began, milliseconds since 1970.
    #[serde(default)]
    pub(crate) created_millis: u64,
    /// When somebody spoke last, milliseconds since 1970.
    #[serde(default)]
    pub(crate) active_millis: u64,
    /// Rows before this uid were forgotten: by a reset, or because the session was closed and began anew.
    #[serde(default)]
    pub(crate) history_from: u64,
    /// A row takes the place of one with a lower revision only. From 1; below 2^63.
    pub(crate) revision: u64,
}

impl SessionRow {
    /// Under which it is found.
    pub(crate) fn key(&self) -> Key {
        Key::new(&self.channel, self.scope, &self.party, &self.thread)
    }

    /// What it costs in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let context: usize = self.context.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        let tools: usize = self.tools.iter().map(|tool| tool.len() + 24).sum();
        let names = [&self.channel, &self.party, &self.thread, &self.chat, &self.name];
        let names: usize = names.into_iter().chain(&self.agent).map(String::len).sum();
        2 * ROW_BYTES + names + context + tools
    }
}

/// A message that could not be answered, or whose answer could not be delivered, with all that a replay needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadLetter {
    /// The message's own. Below 2^63.
    pub(crate) uid: u64,
    /// The channel's name.
    pub(crate) channel: String,
    /// Direct or group.
    #[serde(with = "scope")]
    pub(crate) scope: Scope,
    /// Who wrote it.
    pub(crate) peer: String,
    /// The chat it was written in; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) chat: String,
    /// The thread or topic, or the client's session id; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) thread: String,
    /// What people call the writer; empty if nobody said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// The platform's id of the message; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) event: String,
    /// What was asked.
    pub(crate) text: String,
    /// It is what an operator said as the bot: nobody was asked.
    #[serde(default)]
    pub(crate) outbound: bool,
    /// The answer, if there was one: then only its delivery failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reply: Option<String>,
    /// The first part of the answer that was not delivered.
    #[serde(default)]
    pub(crate) next_part: u32,
    /// The name of the public error code.
    pub(crate) code: String,
    /// What the upstream or the platform said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
    /// How often it was tried.
    #[serde(default)]
    pub(crate) attempts: u32,
    /// When it was admitted, milliseconds since 1970.
    #[serde(default)]
    pub(crate) accepted_millis: u64,
    /// When it was given up, milliseconds since 1970.
    #[serde(default)]
    pub(crate) failed_millis: u64,
}

impl DeadLetter {
    /// The session that it belongs to.
    pub(crate) fn key(&self) -> Key {
        let party = match self.scope {
            Scope::Direct => &self.peer,
            Scope::Group => &self.chat,
        };
        Key::new(&self.channel, self.scope, party, &self.thread)
    }

    fn bytes(&self) -> usize {
        let names = [&self.channel, &self.peer, &self.chat, &self.thread, &self.name, &self.event];
        let texts = [&self.text, &self.code, &self.detail];
        let all = names.into_iter().chain(texts).chain(&self.reply);
        2 * ROW_BYTES + all.map(String::len).sum::<usize>()
    }
}

/// How far a channel that is polled or streamed was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CursorRow {
    /// The channel's name.
    pub(crate) channel: String,
    /// The platform's own.
    pub(crate) value: String,
    /// A row takes the place of one with a lower revision only. Below 2^63.
    pub(crate) revision: u64,
}

/// The digest of a message's channel, account and native id.
pub(crate) type Mark = [u8; 16];

/// One write. A repeated one, and one that comes late, changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub(crate) enum Op {
    /// A message of a conversation. It is kept unless its key, uid and role are there already, or its session has
    /// forgotten what was before a later uid.
    Said {
        #[serde(with = "key")]
        key: Key,
        said: Said,
    },
    /// A session, unless the one that is there is as new.
    Session(Box<SessionRow>),
    /// The end of a session, unless the one that is there is newer, and of what was said in it under names before
    /// `before`. What was said later is of the session that began anew under the key, whose own row may come after it; that
    /// has a `history_from` past what was said before.
    Close {
        #[serde(with = "key")]
        key: Key,
        revision: u64,
        #[serde(default = "all")]
        before: u64,
    },
    /// A dead letter, unless it is there.
    Dead(Box<DeadLetter>),
    /// A dead letter was replayed or dropped.
    DeadDrop { uid: u64 },
    /// A cursor, unless the one that is there is as new.
    Cursor(CursorRow),
    /// A message was seen.
    Seen { mark: Mark, unix_millis: u64 },
}

/// A row longer than this is not one: the databases end at about twice as much, each elsewhere.
const OP_BYTES_MAX: usize = 256 << 20;
/// Databases have signed numbers.
const NUMBER_MAX: u64 = i64::MAX.unsigned_abs();

/// After every name: of a session that ends as a whole.
pub(super) const fn all() -> u64 {
    NUMBER_MAX
}

impl Op {
    /// What no database of ours can hold; the words say why.
    pub(super) fn unfit(&self) -> Option<String> {
        let numbers: &[u64] = match self {
            Self::Said { said, .. } => &[said.uid, said.unix_millis],
            Self::Session(row) => {
                &[row.revision, row.active_millis, row.created_millis, row.history_from, row.messages]
            }
            Self::Close { revision, before, .. } => &[*revision, *before],
            Self::Dead(letter) => &[letter.uid],
            Self::DeadDrop { uid } => &[*uid],
            Self::Cursor(row) => &[row.revision],
            Self::Seen { unix_millis, .. } => &[*unix_millis],
        };
        if let Some(number) = numbers.iter().find(|number| NUMBER_MAX < **number) {
            return Some(format!("{number} is too large a number"));
        }
        (OP_BYTES_MAX < self.bytes()).then(|| format!("{} bytes are too much for a row", self.bytes()))
    }

    /// The latest of the gateway's own names in it. None is ever given twice.
    pub(super) fn last_uid(&self) -> u64 {
        match self {
            Self::Said { said, .. } => said.uid,
            Self::Session(row) => row.revision.max(row.history_from),
            Self::Close { revision, .. } => *revision,
            Self::Dead(letter) => letter.uid,
            Self::DeadDrop { uid } => *uid,
            Self::Cursor(_) | Self::Seen { .. } => 0,
        }
    }

    /// What it costs in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Said { key, said } => ROW_BYTES + key.0.len() + said.text.len(),
            Self::Session(row) => row.bytes(),
            Self::Close { key, .. } => ROW_BYTES + key.0.len(),
            Self::Dead(letter) => letter.bytes(),
            Self::DeadDrop { .. } | Self::Seen { .. } => ROW_BYTES,
            Self::Cursor(row) => ROW_BYTES + row.channel.len() + row.value.len(),
        }
    }
}

/// The days since 1970 that a time lies in, and the milliseconds of that day: marks are kept by the day.
pub(super) fn day_of(unix_millis: u64) -> (u64, u32) {
    const DAY_MILLIS: u64 = 86_400_000;
    (unix_millis / DAY_MILLIS, u32::try_from(unix_millis % DAY_MILLIS).unwrap_or(0))
}

/// The reverse of [`day_of`].
pub(super) fn millis_of(day: u64, millis: u32) -> u64 {
    day.saturating_mul(86_400_000).saturating_add(u64::from(millis))
}

/// Who said it, as a number in keys: a turn's question stands before its answer.
pub(super) fn role_number(role: Role) -> u8 {
    match role {
        Role::User => 0,
        Role::Agent => 1,
    }
}

/// The reverse of [`role_number`].
pub(super) fn role_of(number: u8) -> Option<Role> {
    match number {
        0 => Some(Role::User),
        1 => Some(Role::Agent),
        _ => None,
    }
}

/// A [`Role`] in JSON.
mod role {
    use super::Role;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match role {
            Role::User => "user",
            Role::Agent => "agent",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        match String::deserialize(from)?.as_str() {
            "user" => Ok(Role::User),
            "agent" => Ok(Role::Agent),
            other => Err(D::Error::custom(format!("`{other}` is no role"))),
        }
    }
}

/// A [`Scope`] in JSON.
mod scope {
    use super::Scope;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(scope: &Scope, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match scope {
            Scope::Direct => "direct",
            Scope::Group => "group",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Scope, D::Error> {
        match String::deserialize(from)?.as_str() {
            "direct" => Ok(Scope::Direct),
            "group" => Ok(Scope::Group),
            other => Err(D::Error::custom(format!("`{other}` is no scope"))),
        }
    }
}

/// A [`Key`] in JSON.
mod key {
    use super::Key;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &Key, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(key.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Key, D::Error> {
        String::deserialize(from).map(|text| Key::stored(&text))
    }
}
