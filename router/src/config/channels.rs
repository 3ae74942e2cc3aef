//! The platforms: section `channels`.
use super::agents::find_agent;
use super::keys::{ClassName, check_name, check_secret};
use super::path::Path;
use super::remote::{check_url, is_open};
use super::report::{Report, quoted};
use super::schema::{either, later, nearest};
use super::seconds::Seconds;
use super::secret::Secret;
use clawgate_core::event::Class;
use clawgate_core::id::AgentId;
use clawgate_core::plan::{DmPolicy, GroupPolicy};
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One channel that is enabled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Channel {
    /// Its name in the configuration, in session ids, metrics and its path `/webhooks/<name>`.
    pub(crate) name: String,
    /// What it speaks.
    pub(crate) platform: Platform,
    /// Who may write directly.
    pub(crate) dm: DmPolicy,
    /// Senders that may write directly, by the platform's ids.
    pub(crate) allow_from: Vec<String>,
    /// In which groups it answers.
    pub(crate) group: GroupPolicy,
    /// Those groups, by the platform's ids.
    pub(crate) groups: Vec<String>,
    /// In groups answer only what addresses the bot.
    pub(crate) mention_gating: bool,
    /// The agent that answers, if the channel has its own.
    pub(crate) agent: Option<AgentId>,
    /// How often the message is edited in which an answer is shown while it is written; zero for not at all.
    pub(crate) preview_every: Duration,
    /// The priority of what comes by it.
    pub(crate) class: Class,
    /// Tools of this tier and below may be used for what comes by it.
    pub(crate) tier: u8,
    /// The tier of people who have another one, by the platform's ids.
    pub(crate) tiers: BTreeMap<String, u8>,
}

/// What a channel speaks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Platform {
    /// Telegram's Bot API, by webhook.
    Telegram(Telegram),
    /// Any system that sends signed JSON.
    Webhook(Box<Webhook>),
}

/// A Telegram bot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Telegram {
    /// From @BotFather.
    pub(crate) token: Secret,
    /// What Telegram sends as `X-Telegram-Bot-Api-Secret-Token`.
    pub(crate) secret: Secret,
    /// Without the `@`; needed to see mentions.
    pub(crate) bot_username: Option<String>,
    /// Absolute, without a slash at its end.
    pub(crate) api_root: String,
}

/// A system that sends signed JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Webhook {
    /// How requests prove where they come from.
    pub(crate) signature: Signature,
    /// What they are signed with, or the token itself; several while one replaces another; never empty.
    pub(crate) secrets: Vec<Secret>,
    /// How far a signed time may be from ours, either way.
    pub(crate) tolerance: Duration,
    /// Where in the JSON is what.
    pub(crate) mapping: Mapping,
    /// Where answers go; absolute. Whoever knows it may post there, so it is a secret.
    pub(crate) reply_url: Option<Secret>,
    /// What answers are signed with, if not with the first of `secrets`.
    pub(crate) reply_secret: Option<Secret>,
    /// The longest text that the system takes, in characters.
    pub(crate) text_max: u32,
}

/// How requests prove where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    Standard,
    /// GitHub: `X-Hub-Signature-256`.
    Github,
    /// Stripe: `Stripe-Signature`.
    Stripe,
    /// Slack: `X-Slack-Signature`, version 0.
    Slack,
    /// `Authorization: Bearer <secret>`.
    Bearer,
    /// The secret in a header of this name (lower case).
    Header(String),
}

/// Where in the JSON is what: JSON pointers (RFC 6901); empty where there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// The event's id, for deduplication; empty for the signature's own.
    pub(crate) event_id: String,
    /// Who wrote; never empty.
    pub(crate) sender: String,
    /// Who wrote, as people see it.
    pub(crate) name: String,
    /// The conversation.
    pub(crate) chat: String,
    /// What was written; never empty.
    pub(crate) text: String,
    /// The thread in the conversation.
    pub(crate) thread: String,
    /// When.
    pub(crate) timestamp: String,
    /// Who reads along.
    pub(crate) scope: ScopeRule,
}

/// Who reads along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ScopeRule {
    /// Every message is one person's.
    Direct,
    /// Every message is a group's.
    Group,
    /// The value at this JSON pointer says it.
    Pointer(String),
}

/// The first part of the client API's session ids; no channel can have this name.
pub(super) const API: &str = "api";

/// One channel. Keys that its type has no use for are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ChannelEntry {
    /// A channel that is not enabled is only checked for its form.
    pub(super) enabled: bool,
    /// What it speaks: `telegram` or `webhook`. Without it: the channel's name.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// The agent that answers, if not the one that `route` finds.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// The priority of its messages.
    class: ClassName,
    /// Tools of this tier and below may be used for its people and groups.
    #[schemars(range(min = 0, max = 9))]
    tier: u8,
    /// The tier of people who have another one, by the platform's ids; where they write directly, for what is said in a
    /// group is everyone's.
    tiers: BTreeMap<String, Tier>,
    /// Who may write directly. Without it: `allowlist`; with the type `webhook`, `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    dm_policy: Option<PolicyName>,
    /// Who may write directly under the policy `allowlist`: the platform's ids of the senders.
    allow_from: Vec<String>,
    /// In which groups it answers. Without it: `allowlist`; with the type `webhook`, `open`.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_policy: Option<PolicyName>,
    /// The groups under the policy `allowlist`: the platform's ids of the chats.
    groups: Vec<String>,
    /// In groups answer only what addresses the bot. Without it: true; with the type `webhook`, false.
    #[serde(skip_serializing_if = "Option::is_none")]
    mention_gating: Option<bool>,
    /// Only `telegram`: the bot's token, from @BotFather. Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Secret>,
    /// What proves where a request comes from. Needed. `telegram`: the `secret_token` given to `setWebhook`, 16 to 256
    /// letters, digits, `_` and `-`. `webhook`: what requests are signed with; `whsec_` and base64, or any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Secret>,
    /// Only `webhook`: several secrets in place of `secret`, while one replaces another.
    secrets: Vec<Secret>,
    /// Only `telegram`: the bot's name, without which mentions by name are not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    bot_username: Option<String>,
    /// Only `telegram`: where the Bot API is, if not at <https://api.telegram.org>.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_root: Option<String>,
    /// Only `webhook`: how requests prove where they come from. Without it: `standard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<SignatureName>,
    /// Only `webhook` with the signature `token`: the header that has the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// Only `webhook`: how far a signed time may be from ours, either way. Without it: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    tolerance_seconds: Option<Seconds>,
    /// Only `telegram`: `partial` shows an answer while it is written, in a message that grows; `off` posts it when it is
    /// whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    streaming: Option<StreamingName>,
    /// Only `telegram`: with `streaming`, milliseconds between two edits. Without it: 1000, as platforms ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 250, max = 60_000))]
    streaming_millis: Option<u32>,
    /// Only `webhook`: where in the JSON is what.
    #[serde(skip_serializing_if = "Option::is_none")]
    mapping: Option<MappingSection>,
    /// Only `webhook`: where answers are posted; without it none can be delivered.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_url: Option<Secret>,
    /// Only `webhook`: what answers are signed with, if not with the first secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_secret: Option<Secret>,
    /// Only `webhook`: characters of one answer; a longer one is split. Without it: 65536.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    text_chars_max: Option<u32>,
}

impl Default for ChannelEntry {
    fn default() -> Self {
        Self {
            enabled: true,
            kind: None,
            agent: None,
            class: ClassName::Normal,
            tier: 0,
            tiers: BTreeMap::new(),
            dm_policy: None,
            allow_from: Vec::new(),
            group_policy: None,
            groups: Vec::new(),
            mention_gating: None,
            token: None,
            secret: None,
            secrets: Vec::new(),
            bot_username: None,
            api_root: None,
            streaming: None,
            streaming_millis: None,
            signature: None,
            header: None,
            tolerance_seconds: None,
            mapping: None,
            reply_url: None,
            reply_secret: None,
            text_chars_max: None,
        }
    }
}

/// Which tools somebody's agents may use: those of this tier and below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Tier(#[schemars(range(min = 0, max = 9))] u8);

/// Whom a channel listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum PolicyName {
    /// Everyone.
    Open,
    /// Those on the list.
    Allowlist,
    /// Nobody.
    Disabled,
}

impl PolicyName {
    fn dm(self) -> DmPolicy {
        match self {
            Self::Open => DmPolicy::Open,
            Self::Allowlist => DmPolicy::Allowlist,
            Self::Disabled => DmPolicy::Disabled,
        }
    }

    fn group(self) -> GroupPolicy {
        match self {
            Self::Open => GroupPolicy::Open,
            Self::Allowlist => GroupPolicy::Allowlist,
            Self::Disabled => GroupPolicy::Disabled,
        }
    }
}

/// What a platform shows of an answer while it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum StreamingName {
    /// Nothing.
    #[default]
    Off,
    /// What was said so far, in a message that is edited.
    Partial,
}

/// How requests prove where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SignatureName {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    Standard,
    /// GitHub: `X-Hub-Signature-256`. Carries no time: a copy of a request stays valid.
    Github,
    /// Stripe: `Stripe-Signature`.
    Stripe,
    /// Slack: `X-Slack-Signature`.
    Slack,
    /// The secret itself, as `Authorization: Bearer`. Only over connections that are trusted.
    Bearer,
    /// The secret itself, in the header that `header` names. Only over connections that are trusted.
    Token,
}

/// Where in the JSON of a request is what: JSON pointers (RFC 6901), as `/message/from/id`; empty where there is
/// nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct MappingSection {
    /// The event's id, so that a repeated one is answered once. Left empty: what the signature's form carries.
    event_id: String,
    /// Who wrote.
    sender: String,
    /// Who wrote, as people see it.
    name: String,
    /// The conversation.
    chat: String,
    /// What was written.
    text: String,
    /// The thread in the conversation.
    thread: String,
    /// When: Unix seconds or milliseconds, or RFC 3339.
    timestamp: String,
    /// Who reads along: `direct`, `group`, or a JSON pointer to what says it (`group`, `supergroup`, `channel`, `room`
    /// or `true` is a group).
    scope: String,
}

impl Default for MappingSection {
    fn default() -> Self {
        let at = |name: &str| format!("/{name}");
        Self {
            event_id: at("event_id"),
            sender: at("sender"),
            name: at("name"),
            chat: at("chat"),
            text: at("text"),
            thread: at("thread"),
            timestamp: at("timestamp"),
            scope: "direct".to_owned(),
        }
    }
}

/// What a channel can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Telegram,
    Webhook,
}

const KINDS: &[(&str, Kind)] = &[("telegram", Kind::Telegram), ("webhook", Kind::Webhook)];

/// Time between two edits, where none is written: platforms ask for a second.
const STREAMING_MILLIS: u32 = 1_000;

// Of the keys of a channel, those that only one type has a use for.
const TELEGRAM: &[&str] = &["token", "botUsername", "apiRoot", "streaming", "streamingMillis"];
const WEBHOOK: &[&str] = &[
    "secrets",
    "signature",
    "header",
    "toleranceSeconds",
    "mapping",
    "replyUrl",
    "replySecret",
    "textCharsMax",
];

impl ChannelEntry {
    /// Checks and resolves. `None` if it is not enabled, or unusable.
    pub(super) fn resolve(&self, name: &str, agents: &[&str], report: &mut Report<'_>) -> Option<Channel> {
        if !self.enabled {
            return None;
        }
        let at = Path::of("channels").key(name);
        check_name(name, &at, report);
        if name == API || name == clawgate_core::links::CHANNEL {
            let whose = if name == API { "the client API" } else { "conversations of linked accounts" };
            let message = format!("this name is taken by {whose}");
            report.error(&at, message, "choose another, and set its `type`");
        }
        let agent = self.agent.as_ref();
        let agent = agent.and_then(|agent| find_agent(agent, agents, &at.key("agent"), report));
        let kind = self.kind(name, &at, report)?;
        self.check_useless(kind, &at, report);
        let platform = match kind {
            Kind::Telegram => self.telegram(&at, report).map(Platform::Telegram),
            Kind::Webhook => self.webhook(&at, report).map(|webhook| Platform::Webhook(Box::new(webhook))),
        }?;
        let (dm, group) = self.policies(kind, &at, report);
        Some(Channel {
            name: name.to_owned(),
            platform,
            dm: dm.dm(),
            allow_from: self.allow_from.clone(),
            group: group.group(),
            groups: self.groups.clone(),
            mention_gating: self.mention_gating.unwrap_or(kind == Kind::Telegram),
            agent,
            preview_every: match self.streaming.unwrap_or_default() {
                StreamingName::Off => Duration::ZERO,
                StreamingName::Partial => {
                    Duration::from_millis(self.streaming_millis.unwrap_or(STREAMING_MILLIS).into())
                }
            },
            class: self.class.resolve(),
            tier: self.tier,
            tiers: self.tiers.iter().map(|(peer, Tier(tier))| (peer.clone(), *tier)).collect(),
        })
    }

    fn kind(&self, name: &str, at: &Path, report: &mut Report<'_>) -> Option<Kind> {
        let word = self.kind.as_deref().unwrap_or(name);
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == word) {
            return Some(*kind);
        }
        if self.kind.is_none() && report.is_written(&at.key("type")) {
            return None;
        }
        let all: Vec<String> = KINDS.iter().map(|(known, _)| format!("{known:?}")).collect();
        let help = match (later("type", word), nearest(word, KINDS.iter().map(|(known, _)| *known))) {
            (Some(later), _) => later.to_owned(),
            (None, Some(known)) => format!("did you mean {known:?}?"),
            (None, None) => format!("set `type` to {}", either(&all)),
        };
        let (at, message) = match &self.kind {
            Some(kind) => {
                let at = at.key("type");
                let message = format!("there is no channel of type {}", report.quote(&at, kind));
                (at, message)
            }
            None => {
                (at.clone(), format!("there is no channel of type {}, and no `type` is set", quoted(name)))
            }
        };
        report.error(&at, message, help);
        None
    }

    fn check_useless(&self, kind: Kind, at: &Path, report: &mut Report<'_>) {
        let (useless, other) = match kind {
            Kind::Telegram => (WEBHOOK, "webhook"),
            Kind::Webhook => (TELEGRAM, "telegram"),
        };
        let why = format!("is for channels of type {other:?}");
        report.useless(at, useless, &why, "leave it out, or set `type`");
    }

    fn policies(&self, kind: Kind, at: &Path, report: &mut Report<'_>) -> (PolicyName, PolicyName) {
        let default = match kind {
            Kind::Telegram => PolicyName::Allowlist,
            Kind::Webhook => PolicyName::Open,
        };
        let dm = self.dm_policy.unwrap_or(default);
        let group = self.group_policy.unwrap_or(default);
        let nobody = dm != PolicyName::Open && (dm == PolicyName::Disabled || self.allow_from.is_empty());
        let nowhere = group != PolicyName::Open && (group == PolicyName::Disabled || self.groups.is_empty());
        let is_unfit = self.dm_policy.is_none() && report.is_written(&at.key("dmPolicy"));
        if nobody && nowhere && !is_unfit {
            report.warning(
                at,
                "nobody may write here: `allowFrom` and `groups` are empty",
                "name senders in `allowFrom`, or set `\"dmPolicy\": \"open\"` to answer everyone",
            );
        }
        for (key, list) in [("allowFrom", &self.allow_from), ("groups", &self.groups)] {
            for (index, _) in list.iter().enumerate().filter(|(_, id)| id.trim().is_empty()) {
                report.error(&at.key(key).index(index), "an empty id matches nobody", "leave it out");
            }
        }
        (dm, group)
    }

    fn telegram(&self, at: &Path, report: &mut Report<'_>) -> Option<Telegram> {
        let token = needed(
            &self.token,
            &at.key("token"),
            "get one from @BotFather in Telegram and write \"token\": \"${TELEGRAM_BOT_TOKEN}\"",
            report,
        );
        let secret = needed(
            &self.secret,
            &at.key("secret"),
            "make one (openssl rand -hex 32), give it to setWebhook as `secret_token`, and write it here",
            report,
        );
        if let Some(token) = &token {
            check_bot_token(token, &at.key("token"), report);
        }
        if let Some(secret) = &secret {
            let at = at.key("secret");
            check_secret(secret, &at, report);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if 256 < secret.expose().len() || !secret.expose().bytes().all(plain) {
                let message = "Telegram takes up to 256 letters, digits, `_` and `-`";
                report.error(&at, message, "make one: openssl rand -hex 32");
            }
        }
        let api_root = self.api_root.as_ref();
        let api_root = api_root.map_or_else(
            || "https://api.telegram.org".to_owned(),
            |url| check_url(url, &at.key("apiRoot"), report),
        );
        if is_open(&api_root) {
            let help = "use https, or an address on this machine";
            report.warning(&at.key("apiRoot"), "the bot's token travels there without TLS", help);
        }
        let bot_username = self.bot_username.as_ref();
        let bot_username = bot_username.map(|name| name.trim_start_matches('@').to_owned());
        Some(Telegram {
            token: token?,
            secret: secret?,
            bot_username: bot_username.filter(|name| !name.is_empty()),
            api_root,
        })
    }

    fn webhook(&self, at: &Path, report: &mut Report<'_>) -> Option<Webhook> {
        let secrets = self.webhook_secrets(at, report);
        let reply_url = self.reply_url.as_ref();
        // A query is part of many systems' addresses, so only the rest is checked as other addresses are.
        let reply_url = reply_url.map(|url| {
            let bare = url.expose().split('?').next().unwrap_or_default();
            check_url(bare, &at.key("replyUrl"), report);
            url.clone()
        });
        if reply_url.is_none() && !report.is_written(&at.key("replyUrl")) {
            let help = "add `replyUrl`: where the other side takes answers";
            let message = "answers have nowhere to go: `replyUrl` is missing here";
            report.warning(&at.key("replyUrl"), message, help);
        }
        if let Some(secret) = &self.reply_secret {
            check_secret(secret, &at.key("replySecret"), report);
            check_base64(secret, &at.key("replySecret"), report);
        }
        let mapping = self.mapping.clone().unwrap_or_default().resolve(&at.key("mapping"), report);
        let signature = self.signature(at, report)?;
        Some(Webhook {
            signature,
            secrets: secrets?,
            tolerance: self.tolerance_seconds.unwrap_or(Seconds::whole(300)).duration(),
            mapping,
            reply_url,
            reply_secret: self.reply_secret.clone(),
            text_max: self.text_chars_max.unwrap_or(65_536),
        })
    }

    fn webhook_secrets(&self, at: &Path, report: &mut Report<'_>) -> Option<Vec<Secret>> {
        let both = self.secret.is_some() && !self.secrets.is_empty();
        if both {
            report.error(&at.key("secrets"), "`secret` and `secrets` are both set", "put all into `secrets`");
        }
        let single = self.secret.iter().map(|secret| (secret, at.key("secret")));
        let several = self.secrets.iter().enumerate();
        let several = several.map(|(index, secret)| (secret, at.key("secrets").index(index)));
        let mut all = Vec::new();
        for (secret, at) in single.chain(several) {
            check_secret(secret, &at, report);
            check_base64(secret, &at, report);
            all.push(secret.clone());
        }
        let written = report.is_written(&at.key("secret")) || report.is_thinned(&at.key("secrets"));
        if all.is_empty() && !written {
            let help = "agree on one with the other side (openssl rand -hex 32) and write it here";
            report.error(&at.key("secret"), "`secret` is missing here", help);
        }
        (!all.is_empty()).then_some(all)
    }

    fn signature(&self, at: &Path, report: &mut Report<'_>) -> Option<Signature> {
        let name = self.signature.unwrap_or(SignatureName::Standard);
        if name != SignatureName::Token && self.header.is_some() {
            let message = "only the signature \"token\" has a header of its own";
            report.error(&at.key("header"), message, "leave it out, or write \"signature\": \"token\"");
        }
        Some(match name {
            SignatureName::Standard => Signature::Standard,
            SignatureName::Github => Signature::Github,
            SignatureName::Stripe => Signature::Stripe,
            SignatureName::Slack => Signature::Slack,
            SignatureName::Bearer => Signature::Bearer,
            SignatureName::Token => {
                let header = self.header.as_ref().map(|header| header.to_ascii_lowercase());
                let fit = header.filter(|name| http::HeaderName::from_bytes(name.as_bytes()).is_ok());
                if fit.is_none() {
                    let help = "add the header that has the secret: \"header\": \"x-token\"";
                    report.error(
                        &at.key("header"),
                        "the signature \"token\" needs the name of a header",
                        help,
                    );
                }
                Signature::Header(fit?)
            }
        })
    }
}

impl MappingSection {
    fn resolve(self, at: &Path, report: &mut Report<'_>) -> Mapping {
        let scope = match self.scope.as_str() {
            "direct" => ScopeRule::Direct,
            "group" => ScopeRule::Group,
            _ => ScopeRule::Pointer(self.scope.clone()),
        };
        for (key, pointer, is_needed) in [
            ("eventId", &self.event_id, false),
            ("sender", &self.sender, true),
            ("name", &self.name, false),
            ("chat", &self.chat, scope != ScopeRule::Direct),
            ("text", &self.text, true),
            ("thread", &self.thread, false),
            ("timestamp", &self.timestamp, false),
        ] {
            if pointer.is_empty() && is_needed {
                let message = format!("without `{key}` no message can be understood");
                report.error(&at.key(key), message, "write a JSON pointer, as /message/from/id");
            } else if !pointer.is_empty() && !is_pointer(pointer) {
                let message = format!("{} is not a JSON pointer", report.quote(&at.key(key), pointer));
                report.error(&at.key(key), message, "begin each step with a slash: /message/from/id");
            }
        }
        if matches!(&scope, ScopeRule::Pointer(pointer) if !is_pointer(pointer)) {
            let message = format!("{} is no scope", report.quote(&at.key("scope"), &self.scope));
            report.error(
                &at.key("scope"),
                message,
                "write \"direct\", \"group\" or a JSON pointer, as /chat/type",
            );
        }
        Mapping {
            event_id: self.event_id,
            sender: self.sender,
            name: self.name,
            chat: self.chat,
            text: self.text,
            thread: self.thread,
            timestamp: self.timestamp,
            scope,
        }
    }
}

fn needed(value: &Option<Secret>, at: &Path, help: &str, report: &mut Report<'_>) -> Option<Secret> {
    if value.as_ref().is_none_or(|secret| secret.expose().is_empty()) {
        if value.is_some() || !report.is_written(at) {
            let key = at.last_key().unwrap_or_default();
            report.error(at, format!("`{key}` is missing here"), help);
        }
        return None;
    }
    value.clone()
}

// "123456:ABC-DEF", as the Bot API page has it under "Authorizing your bot".
fn check_bot_token(token: &Secret, at: &Path, report: &mut Report<'_>) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let fits = token
        .expose()
        .split_once(':')
        .is_some_and(|(id, rest)| id.parse::<u64>().is_ok() && !rest.is_empty() && rest.bytes().all(plain));
    if !fits {
        let message = "this is not a bot's token";
        report.error(at, message, "it has the form 123456:ABC-DEF; @BotFather shows it again with /token");
    }
}

// RFC 6901: `""` is the whole document, everything else begins with a slash; `~` stands only before 0 or 1.
fn is_pointer(text: &str) -> bool {
    let escapes = |step: &str| step.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.starts_with('/') && text.split('/').all(escapes)
}

// Standard Webhooks: after `whsec_` comes base64 (RFC 4648 section 4, padded).
fn check_base64(secret: &Secret, at: &Path, report: &mut Report<'_>) {
    let Some(encoded) = secret.expose().strip_prefix("whsec_") else { return };
    let digits = encoded.trim_end_matches('=');
    let fits = encoded.len().is_multiple_of(4)
        && encoded.len() - digits.len() <= 2
        && !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte));
    if !fits {
        let message = "what follows `whsec_` is not base64";
        report.error(at, message, "take the secret as the other side shows it, padding included");
    }
}
