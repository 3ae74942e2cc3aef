//! The platforms: section `channels`. What all have in common is here; each platform's own in a file of its name.
mod slack;
mod telegram;
mod webhook;
mod whatsapp;

pub(crate) use slack::Slack;
pub(crate) use telegram::Telegram;
pub(crate) use webhook::{ScopeRule, Signature, Webhook};
pub(crate) use whatsapp::WhatsApp;

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
use webhook::{MappingSection, SignatureName, check_base64};

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
    /// Slack's Events API.
    Slack(Slack),
    /// WhatsApp's Cloud API.
    WhatsApp(WhatsApp),
    /// Any system that sends signed JSON.
    Webhook(Box<Webhook>),
}

/// The first part of the client API's session ids; no channel can have this name.
pub(super) const API: &str = "api";

/// One channel. Keys that its type has no use for are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ChannelEntry {
    /// A channel that is not enabled is only checked for its form.
    pub(super) enabled: bool,
    /// What it speaks: `telegram`, `slack`, `whatsapp` or `webhook`. Without it: the channel's name.
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
    /// `telegram`: the bot's token, from @BotFather. `slack`: the bot token, `xoxb-...`.
    /// `whatsapp`: an access token of the Graph API. Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Secret>,
    /// What proves where a request comes from. Needed. `telegram`: the `secret_token` given to `setWebhook`, 16 to 256
    /// letters, digits, `_` and `-`. `slack`: the app's signing secret. `whatsapp`: the app secret. `webhook`: what requests
    /// are signed with; `whsec_` and base64, or any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Secret>,
    /// Only `slack`, `whatsapp` and `webhook`: several secrets in place of `secret`, while one replaces another.
    secrets: Vec<Secret>,
    /// Only `telegram`: the bot's name, without which mentions by name are not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    bot_username: Option<String>,
    /// Only `telegram`, `slack` and `whatsapp`: where the platform's API is, if not at <https://api.telegram.org>,
    /// <https://slack.com/api> or <https://graph.facebook.com/v23.0>.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_root: Option<String>,
    /// Only `webhook`: how requests prove where they come from. Without it: `standard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<SignatureName>,
    /// Only `webhook` with the signature `token`: the header that has the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    /// Only `slack` and `webhook`: how far a signed time may be from ours, either way. Without it: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    tolerance_seconds: Option<Seconds>,
    /// Only `telegram` and `slack`: `partial` shows an answer while it is written, in a message that grows; `off` posts it
    /// when it is whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    streaming: Option<StreamingName>,
    /// Only `telegram` and `slack`: with `streaming`, milliseconds between two edits. Without it: 1000, as platforms ask
    /// for; with `slack`, 1500.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 250, max = 60_000))]
    streaming_millis: Option<u32>,
    /// Only `slack`: a message in a channel opens a thread, and is answered in it. Without it: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<bool>,
    /// Only `whatsapp`: the id of the business's phone number (not the number). Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_number_id: Option<String>,
    /// Only `whatsapp`: a word of your own, which is entered at Meta beside the address, and which Meta then repeats.
    /// Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    verify_token: Option<Secret>,
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
            threads: None,
            phone_number_id: None,
            verify_token: None,
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

/// What a channel can speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Telegram,
    Slack,
    WhatsApp,
    Webhook,
}

const KINDS: &[(&str, Kind)] = &[
    ("telegram", Kind::Telegram),
    ("slack", Kind::Slack),
    ("whatsapp", Kind::WhatsApp),
    ("webhook", Kind::Webhook),
];

/// Of the keys of a channel, those that not all types have a use for, and which have.
const USES: &[(&str, &[Kind])] = &[
    ("token", &[Kind::Telegram, Kind::Slack, Kind::WhatsApp]),
    ("botUsername", &[Kind::Telegram]),
    ("apiRoot", &[Kind::Telegram, Kind::Slack, Kind::WhatsApp]),
    ("streaming", &[Kind::Telegram, Kind::Slack]),
    ("streamingMillis", &[Kind::Telegram, Kind::Slack]),
    ("threads", &[Kind::Slack]),
    ("phoneNumberId", &[Kind::WhatsApp]),
    ("verifyToken", &[Kind::WhatsApp]),
    ("secrets", &[Kind::Slack, Kind::WhatsApp, Kind::Webhook]),
    ("toleranceSeconds", &[Kind::Slack, Kind::Webhook]),
    ("signature", &[Kind::Webhook]),
    ("header", &[Kind::Webhook]),
    ("mapping", &[Kind::Webhook]),
    ("replyUrl", &[Kind::Webhook]),
    ("replySecret", &[Kind::Webhook]),
    ("textCharsMax", &[Kind::Webhook]),
];

impl Kind {
    /// Time between two edits, where none is written: platforms ask for a second, Slack for about 50 a minute.
    const fn streaming_millis(self) -> u32 {
        match self {
            Self::Slack => 1_500,
            Self::Telegram | Self::WhatsApp | Self::Webhook => 1_000,
        }
    }
}

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
            Kind::Slack => self.slack(&at, report).map(Platform::Slack),
            Kind::WhatsApp => self.whatsapp(&at, report).map(Platform::WhatsApp),
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
            mention_gating: self.mention_gating.unwrap_or(kind != Kind::Webhook),
            agent,
            preview_every: match self.streaming.unwrap_or_default() {
                StreamingName::Off => Duration::ZERO,
                StreamingName::Partial => {
                    Duration::from_millis(self.streaming_millis.unwrap_or(kind.streaming_millis()).into())
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
        for (key, uses) in USES.iter().filter(|(_, uses)| !uses.contains(&kind)) {
            let named = KINDS.iter().filter(|(_, kind)| uses.contains(kind));
            let named: Vec<String> = named.map(|(name, _)| format!("{name:?}")).collect();
            let why = format!("is for channels of type {}", either(&named));
            report.useless(at, &[key], &why, "leave it out, or set `type`");
        }
    }

    fn policies(&self, kind: Kind, at: &Path, report: &mut Report<'_>) -> (PolicyName, PolicyName) {
        let default = match kind {
            Kind::Telegram | Kind::Slack | Kind::WhatsApp => PolicyName::Allowlist,
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

    /// `secret`, or all of `secrets`.
    fn all_secrets(&self, at: &Path, help: &str, report: &mut Report<'_>) -> Option<Vec<Secret>> {
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
            report.error(&at.key("secret"), "`secret` is missing here", help);
        }
        (!all.is_empty()).then_some(all)
    }
}

/// Where a platform's API is; its token goes there.
fn api_root(given: Option<&String>, usual: &str, at: &Path, report: &mut Report<'_>) -> String {
    let at = at.key("apiRoot");
    let api_root = given.map_or_else(|| usual.to_owned(), |url| check_url(url, &at, report));
    if is_open(&api_root) {
        let help = "use https, or an address on this machine";
        report.warning(&at, "the bot's token travels there without TLS", help);
    }
    api_root
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
