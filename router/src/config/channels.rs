//! The platforms: section `channels`.
use super::secret::Secret;
use clawgate_core::event::Class;
use clawgate_core::id::AgentId;
use clawgate_core::plan::{DmPolicy, GroupPolicy};
use core::time::Duration;

/// One channel that is enabled.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Its name in the configuration, in session ids, metrics and its path `/webhooks/<name>`.
    pub name: String,
    /// What it speaks.
    pub platform: Platform,
    /// Who may write directly.
    pub dm: DmPolicy,
    /// Senders that may write directly, by the platform's ids.
    pub allow_from: Vec<String>,
    /// In which groups it answers.
    pub group: GroupPolicy,
    /// Those groups, by the platform's ids.
    pub groups: Vec<String>,
    /// In groups answer only what addresses the bot.
    pub mention_gating: bool,
    /// The agent that answers, if the channel has its own.
    pub agent: Option<AgentId>,
    /// The priority of what comes by it.
    pub class: Class,
}

/// What a channel speaks.
#[derive(Clone, Debug, PartialEq)]
pub enum Platform {
    /// Telegram's Bot API, by webhook.
    Telegram(Telegram),
    /// Any system that sends signed JSON.
    Webhook(Box<Webhook>),
}

/// A Telegram bot.
#[derive(Clone, Debug, PartialEq)]
pub struct Telegram {
    /// From @BotFather.
    pub token: Secret,
    /// What Telegram sends as `X-Telegram-Bot-Api-Secret-Token`.
    pub secret: Secret,
    /// Without the `@`; needed to see mentions.
    pub bot_username: Option<String>,
    /// Absolute, without a slash at its end.
    pub api_root: String,
}

/// A system that sends signed JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// How requests prove where they come from.
    pub signature: Signature,
    /// What they are signed with, or the token itself; several while one replaces another; never empty.
    pub secrets: Vec<Secret>,
    /// How far a signed time may be from ours, either way.
    pub tolerance: Duration,
    /// Where in the JSON is what.
    pub mapping: Mapping,
    /// Where answers go; absolute.
    pub reply_url: Option<String>,
    /// What answers are signed with, as Standard Webhooks has it.
    pub reply_secret: Option<Secret>,
    /// The longest text that the system takes, in characters.
    pub text_max: u32,
}

/// How requests prove where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
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

/// Where in the JSON is what: JSON pointers (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The event's id, for deduplication; the signature's own id where there is none.
    pub event_id: Option<String>,
    /// Who wrote.
    pub sender: String,
    /// Who wrote, as people see it.
    pub name: Option<String>,
    /// The conversation.
    pub chat: Option<String>,
    /// What was written.
    pub text: String,
    /// The thread in the conversation.
    pub thread: Option<String>,
    /// When: Unix seconds or milliseconds.
    pub timestamp: Option<String>,
    /// Who reads along.
    pub scope: ScopeRule,
}

/// Who reads along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopeRule {
    /// Every message is one person's.
    Direct,
    /// Every message is a group's.
    Group,
    /// A group's where the value at this JSON pointer is `true`, `"group"` or `"channel"`.
    Pointer(String),
}
