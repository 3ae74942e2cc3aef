//! Where a message's parts are in a body that somebody else designed.
//!
//! Owns the JSON pointers and what counts as an id, a time and a group at their ends. Obeys RFC 6901.
use crate::time::parse_rfc3339;
use crate::{Bad, Digits, Value};
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Inbound, Kind, Mode};

/// Who may read a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The same for all messages of the channel.
    Always(event::Scope),
    /// What this JSON pointer leads to says it: `group`, `supergroup`, `channel`, `room` or `true` is a group, all else
    /// is direct.
    At(String),
}

/// Where a message's parts are: JSON pointers (RFC 6901) into the body. Where one leads nowhere, the part is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The event's id. Empty: what the signature's form says (`webhook-id`, `X-GitHub-Delivery`), or none.
    pub event_id: String,
    /// Who wrote; must be there.
    pub sender: String,
    /// Who wrote, as people see it.
    pub name: String,
    /// The conversation; must be there in a group.
    pub chat: String,
    /// What was written.
    pub text: String,
    /// The thread.
    pub thread: String,
    /// When: Unix seconds or milliseconds, as a number or text, or RFC 3339.
    pub timestamp: String,
    /// Who reads along.
    pub scope: Scope,
}

impl Mapping {
    /// The body that we post ourselves, for those who can choose: `{"event_id", "sender", "name", "chat", "text",
    /// "thread", "timestamp"}`, all direct.
    #[must_use]
    pub fn plain() -> Self {
        let at = |name: &str| format!("/{name}");
        Self {
            event_id: at("event_id"),
            sender: at("sender"),
            name: at("name"),
            chat: at("chat"),
            text: at("text"),
            thread: at("thread"),
            timestamp: at("timestamp"),
            scope: Scope::Always(event::Scope::Direct),
        }
    }

    /// Does every pointer have the form of one, and is there one for the sender?
    pub(super) fn is_usable(&self) -> bool {
        let scope = if let Scope::At(pointer) = &self.scope { pointer } else { "" };
        let optional =
            [&self.event_id, &self.name, &self.chat, &self.text, &self.thread, &self.timestamp, scope];
        self.sender.starts_with('/') && optional.iter().all(|at| at.is_empty() || at.starts_with('/'))
    }

    /// The message in a body.
    pub(super) fn read<'d>(
        &self,
        root: Value<'_, 'd>,
        digits: &'d mut [Digits; 4],
    ) -> Result<Inbound<'d>, Bad> {
        let [id, sender, chat, thread] = digits;
        let found = |pointer: &str| root.pointer(pointer).filter(|_| !pointer.is_empty());
        let text = |pointer: &str| found(pointer).and_then(Value::str).unwrap_or_default();
        let part =
            |pointer: &str, digits| found(pointer).and_then(|value| value.id(digits)).unwrap_or_default();
        let inbound = Inbound {
            id: part(&self.event_id, id),
            chat: part(&self.chat, chat),
            thread: part(&self.thread, thread),
            peer: part(&self.sender, sender),
            name: text(&self.name),
            text: text(&self.text),
            sent_millis: found(&self.timestamp).and_then(millis_of).unwrap_or(0),
            kind: if text(&self.text).starts_with('/') { Kind::Command } else { Kind::Message },
            scope: match &self.scope {
                Scope::Always(scope) => *scope,
                Scope::At(pointer) => scope_of(found(pointer)),
            },
            mentioned: true,
            mode: Mode::Deliver,
            ..Inbound::default()
        };
        let missing = |pointer: &str, what| {
            let text = format!("`{pointer}` must lead to the {what}: text or a whole number, not empty");
            Err(Bad { code: Code::MissingField, text: text.into() })
        };
        if inbound.peer.is_empty() {
            return missing(&self.sender, "sender");
        }
        if inbound.chat.is_empty() && inbound.scope == event::Scope::Group {
            return missing(&self.chat, "chat of the group");
        }
        Ok(inbound)
    }
}

fn scope_of(value: Option<Value<'_, '_>>) -> event::Scope {
    let group = value.is_some_and(|value| match value.str() {
        Some(text) => matches!(text, "group" | "supergroup" | "channel" | "room"),
        None => value.bool() == Some(true),
    });
    if group { event::Scope::Group } else { event::Scope::Direct }
}

/// Unix milliseconds of any form that senders use. 10^11 seconds are the year 5138; as milliseconds they are 1973.
pub(super) fn millis_of(value: Value<'_, '_>) -> Option<u64> {
    let number = match value.str() {
        Some(text) => match text.parse::<f64>() {
            Ok(number) => number,
            Err(_) => return parse_rfc3339(text),
        },
        None => value.f64()?,
    };
    let millis = if number < 1e11 { number * 1e3 } else { number };
    // Up to the year 9999; the cast drops what is less than a millisecond.
    (0.0..2.534e14).contains(&millis).then_some(millis as u64)
}
