//! A channel of a system that sends signed JSON.
use super::ChannelEntry;
use crate::config::keys::check_secret;
use crate::config::path::Path;
use crate::config::remote::check_url;
use crate::config::report::Report;
use crate::config::seconds::Seconds;
use crate::config::secret::Secret;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// How requests prove where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SignatureName {
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
pub(crate) struct MappingSection {
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

impl ChannelEntry {
    pub(super) fn webhook(&self, at: &Path, report: &mut Report<'_>) -> Option<Webhook> {
        let help = "agree on one with the other side (openssl rand -hex 32) and write it here";
        let secrets = self.all_secrets(at, help, report);
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

// RFC 6901: `""` is the whole document, everything else begins with a slash; `~` stands only before 0 or 1.
fn is_pointer(text: &str) -> bool {
    let escapes = |step: &str| step.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.starts_with('/') && text.split('/').all(escapes)
}

// Standard Webhooks: after `whsec_` comes base64 (RFC 4648 section 4, padded).
pub(super) fn check_base64(secret: &Secret, at: &Path, report: &mut Report<'_>) {
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
