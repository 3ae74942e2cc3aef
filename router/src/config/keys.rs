//! Who may use the API, and how often: sections `keys` and `rate`.
use super::path::Path;
use super::report::{Report, quoted};
use super::seconds::Seconds;
use super::secret::Secret;
use crate::usage::account::Budget;
use clawgate_core::event::Class;
use core::fmt;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// One API key. The key itself is not kept, only its digest.
#[derive(Clone, PartialEq)]
pub(crate) struct Key {
    /// Its name, in logs and metrics; unique.
    pub(crate) id: String,
    /// SHA-256 of the key; unique.
    pub(crate) digest: [u8; 32],
    /// Who it speaks for: the peer of its sessions.
    pub(crate) user: String,
    /// What it may do.
    pub(crate) scopes: Scopes,
    /// The priority of its messages.
    pub(crate) class: Class,
    /// The tools that its user's agents may use: those of this tier and below.
    pub(crate) tier: u8,
    /// How often, if there is a bound.
    pub(crate) rate: Option<Rate>,
    /// How much in a day.
    pub(crate) budget: Budget,
}

// The digest of a weak key can be guessed from, so it is not shown either.
impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Key")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("scopes", &self.scopes)
            .field("class", &self.class)
            .field("tier", &self.tier)
            .field("rate", &self.rate)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// What a key may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes {
    /// Talk to agents, see its own sessions.
    pub(crate) chat: bool,
    /// Read the state of the gateway and all sessions.
    pub(crate) read: bool,
    /// Operate sessions. Includes the others.
    pub(crate) admin: bool,
    /// Answer for agents, as their worker.
    pub(crate) agent: bool,
}

/// So many requests in so much time; all of them may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Requests; at least 1.
    pub(crate) requests: u32,
    /// The time in which they are granted.
    pub(crate) per: Duration,
}

/// The rates that hold where a key has none of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    /// For one client address, authenticated or not.
    pub(crate) address: Option<Rate>,
    /// For one key (already applied to [`Key::rate`]), and for the anonymous client of a gateway without keys.
    pub(crate) key: Option<Rate>,
}

/// A secret that lets someone in is at least this long, in characters.
pub(super) const SECRET_CHARS_MIN: usize = 16;

/// One API key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KeyEntry {
    /// Its name, in logs and metrics.
    pub(super) id: String,
    /// The key itself, at least 16 visible ASCII characters, better as `${VARIABLE}`. This or `sha256` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Secret>,
    /// The SHA-256 of the key in hexadecimal, in place of the key itself (`printf %s "$KEY" | sha256sum`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sha256: Option<Secret>,
    /// Who it speaks for: its sessions belong to this user. Without it: the `id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// What it may do.
    #[serde(default = "chat_only")]
    pub(super) scopes: Vec<ScopeName>,
    /// The priority of its messages.
    #[serde(default)]
    pub(super) class: ClassName,
    /// Its user's agents may use tools of this tier and below. Keys of one user have one tier, for sessions are the user's.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9))]
    pub(super) tier: u8,
    /// How often it may ask, if not as `rate.key` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<RateEntry>,
    /// How much it may use in a day. Days are those of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) budget: Option<BudgetEntry>,
}

impl KeyEntry {
    /// The key itself, if it may operate and stands here.
    pub(super) fn operates(&self) -> Option<&Secret> {
        self.key.as_ref().filter(|_| self.scopes.contains(&ScopeName::Admin))
    }
}

fn chat_only() -> Vec<ScopeName> {
    vec![ScopeName::Chat]
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ScopeName {
    /// Talk to agents, see its own sessions.
    Chat,
    /// Read the state of the gateway and all sessions.
    Read,
    /// Operate sessions; includes the others.
    Admin,
    /// Answer for agents of the type `worker`, by `/ws/agent`.
    Agent,
}

/// The priority of messages where they have to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ClassName {
    /// Weight 1.
    Low,
    /// Weight 4.
    #[default]
    Normal,
    /// Weight 16.
    Vip,
}

impl ClassName {
    /// As the core has it.
    pub(super) fn resolve(self) -> Class {
        match self {
            Self::Low => Class::Low,
            Self::Normal => Class::Normal,
            Self::Vip => Class::Vip,
        }
    }
}

/// How often clients may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct RateSection {
    /// One client address, whatever its keys.
    pub(super) address: RateEntry,
    /// One key that has no rate of its own.
    pub(super) key: RateEntry,
}

impl Default for RateSection {
    fn default() -> Self {
        Self {
            address: RateEntry { requests: 1_000, seconds: Seconds::whole(1) },
            key: RateEntry { requests: 100, seconds: Seconds::whole(1) },
        }
    }
}

/// So many requests in so much time; all of them may come at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RateEntry {
    /// Requests; 0 for no bound.
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub(super) requests: u32,
    /// The time in which they are granted again.
    #[serde(default = "one_second")]
    #[schemars(range(min = 0.001, max = 2_678_400))]
    pub(super) seconds: Seconds,
}

fn one_second() -> Seconds {
    Seconds::whole(1)
}

/// How much a key may use in a day. Beyond, its messages are refused with `BUDGET_SPENT` and the time to come back; what is
/// being answered then goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct BudgetEntry {
    /// Messages, and whole requests of models' clients; 0 for no bound.
    #[schemars(range(min = 0, max = 1_000_000_000_000_u64))]
    pub(super) requests: u64,
    /// Tokens of prompts and answers, together; 0 for no bound.
    #[schemars(range(min = 0, max = 1_000_000_000_000_u64))]
    pub(super) tokens: u64,
}

impl RateEntry {
    fn resolve(&self) -> Option<Rate> {
        (0 < self.requests).then(|| Rate { requests: self.requests, per: self.seconds.duration() })
    }
}

impl RateSection {
    /// Resolves.
    pub(super) fn resolve(&self) -> Rates {
        Rates { address: self.address.resolve(), key: self.key.resolve() }
    }
}

/// Checks and resolves the keys.
pub(super) fn resolve(entries: &[KeyEntry], rates: &Rates, report: &mut Report<'_>) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let at = Path::of("keys").index(index);
        let Some(key) = entry.resolve(rates, &at, report) else { continue };
        if keys.iter().any(|other| other.id == key.id) {
            let message = format!("two keys have the id {}", report.quote(&at.key("id"), &key.id));
            report.error(&at.key("id"), message, "give each its own, so that logs tell them apart");
        }
        if let Some(other) = keys.iter().find(|other| other.digest == key.digest) {
            let message = format!("this is the same key as that of {}", quoted(&other.id));
            report.error(&at, message, "make a new one: openssl rand -hex 32");
        }
        if let Some(other) = keys.iter().find(|other| other.user == key.user && other.tier != key.tier) {
            let message = format!("{} has tier {} for the same user", quoted(&other.id), other.tier);
            report.error(
                &at.key("tier"),
                message,
                "give all keys of a user one tier, or give them users of their own",
            );
        }
        keys.push(key);
    }
    keys
}

/// The tier of each user.
pub(crate) fn tiers(keys: &[Key]) -> BTreeMap<String, u8> {
    keys.iter().map(|key| (key.user.clone(), key.tier)).collect()
}

impl KeyEntry {
    fn resolve(&self, rates: &Rates, at: &Path, report: &mut Report<'_>) -> Option<Key> {
        check_name(&self.id, &at.key("id"), report);
        let user = self.user.clone().unwrap_or_else(|| self.id.clone());
        if user.is_empty() || 128 < user.len() || user.chars().any(char::is_control) {
            report.error(
                &at.key("user"),
                "this is no name for a user",
                "write 1 to 128 bytes without control characters",
            );
        }
        if self.scopes.is_empty() && !report.is_thinned(&at.key("scopes")) {
            report.error(
                &at.key("scopes"),
                "a key without scopes may do nothing",
                "name chat, read, admin or agent",
            );
        }
        let digest = self.digest(at, report)?;
        let has = |scope| self.scopes.contains(&scope);
        let admin = has(ScopeName::Admin);
        Some(Key {
            id: self.id.clone(),
            digest,
            user,
            scopes: Scopes {
                chat: admin || has(ScopeName::Chat),
                read: admin || has(ScopeName::Read),
                admin,
                agent: admin || has(ScopeName::Agent),
            },
            class: self.class.resolve(),
            tier: self.tier,
            rate: self.rate.as_ref().map_or(rates.key, RateEntry::resolve),
            budget: self.budget.map_or_else(Budget::default, |budget| Budget {
                requests: budget.requests,
                tokens: budget.tokens,
            }),
        })
    }

    fn digest(&self, at: &Path, report: &mut Report<'_>) -> Option<[u8; 32]> {
        match (&self.key, &self.sha256) {
            (Some(_), Some(_)) => {
                report.error(&at.key("sha256"), "`key` and `sha256` are both set", "keep one of the two");
                None
            }
            (Some(key), None) => {
                let at = at.key("key");
                check_secret(key, &at, report);
                if !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
                    let message = "a key has visible ASCII characters only, or clients cannot send it";
                    report.error(&at, message, "make one: openssl rand -hex 32");
                }
                Some(Sha256::digest(key.expose().as_bytes()).into())
            }
            (None, Some(digest)) => {
                let bytes = from_hex(digest.expose());
                if bytes.is_none() {
                    let message = "`sha256` is not 64 hexadecimal digits";
                    report.error(
                        &at.key("sha256"),
                        message,
                        "take what `printf %s \"$KEY\" | sha256sum` prints",
                    );
                }
                bytes
            }
            (None, None) => {
                if !report.is_written(&at.key("key")) && !report.is_written(&at.key("sha256")) {
                    let help =
                        "add `key`, as \"${CLAWGATE_KEY}\", or its `sha256`; make one: openssl rand -hex 32";
                    report.error(at, "the key itself is missing here", help);
                }
                None
            }
        }
    }
}

/// A secret that lets someone in must not be guessable.
pub(super) fn check_secret(secret: &Secret, at: &Path, report: &mut Report<'_>) {
    let length = secret.expose().chars().count();
    if length == 0 {
        report.error(at, "it is empty", "make one: openssl rand -hex 32");
    } else if length < SECRET_CHARS_MIN {
        let message = format!("it has {length} characters and could be guessed");
        report.error(at, message, format!("use at least {SECRET_CHARS_MIN}: openssl rand -hex 32"));
    }
}

/// Names of keys, models, agents and channels stand in paths, metrics and session ids.
pub(super) fn check_name(name: &str, at: &Path, report: &mut Report<'_>) {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if name.is_empty() || 64 < name.len() || !name.bytes().all(fits) {
        let message = format!("{} is not a name", report.quote(at, name));
        report.error(at, message, "use 1 to 64 letters, digits and `_` `-` `.`");
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut out = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}
