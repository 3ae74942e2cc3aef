//! What is driven: the built-in scenarios, and their mixtures by weight. Names and nothing else; how each is driven is
//! `run`'s.

use std::fmt;
use std::str::FromStr;

/// One way in and out of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Over `/ws`, answers whole.
    WsChat,
    /// Over `/ws`, answers in chunks.
    WsStream,
    /// `POST /api/chat`, answers as JSON.
    Rest,
    /// `POST /api/chat`, answers as server-sent events.
    SseStream,
    /// Over `/ws`, a connection for each message.
    Churn,
    /// Telegram updates by webhook; answers by `sendMessage` to the simulator in this process.
    WebhookTelegram,
    /// Signed JSON by webhook; answers are posted to this process.
    WebhookSigned,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::WsChat,
        Self::WsStream,
        Self::Rest,
        Self::SseStream,
        Self::Churn,
        Self::WebhookTelegram,
        Self::WebhookSigned,
    ];

    /// Its name on the command line and in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WsChat => "ws-chat",
            Self::WsStream => "ws-stream",
            Self::Rest => "rest",
            Self::SseStream => "sse-stream",
            Self::Churn => "ws-churn",
            Self::WebhookTelegram => "webhook-telegram",
            Self::WebhookSigned => "webhook-signed",
        }
    }

    /// Whether answers come in parts.
    #[must_use]
    pub const fn streams(self) -> bool {
        match self {
            Self::WsStream | Self::SseStream => true,
            Self::WsChat | Self::Rest | Self::Churn | Self::WebhookTelegram | Self::WebhookSigned => false,
        }
    }

    /// Whether a platform posts it, and its answers come where the platform is.
    #[must_use]
    pub const fn is_webhook(self) -> bool {
        match self {
            Self::WebhookTelegram | Self::WebhookSigned => true,
            Self::WsChat | Self::WsStream | Self::Rest | Self::SseStream | Self::Churn => false,
        }
    }
}

/// One part of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Its share of the messages.
    pub weight: u32,
}

/// Most parts that one scenario mixes.
pub const PARTS_MAX: usize = 8;

/// What a run does: one kind of traffic, or several at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    parts: Vec<Part>,
}

impl Scenario {
    /// Of parts, of which there are 1 to [`PARTS_MAX`].
    #[must_use]
    pub const fn from_parts(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// Its parts, at least one and at most [`PARTS_MAX`].
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether it has a part of this kind.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.parts.iter().any(|part| part.kind == kind)
    }
}

impl From<Kind> for Scenario {
    fn from(kind: Kind) -> Self {
        Self { parts: vec![Part { kind, weight: 1 }] }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [part] = self.parts() {
            return f.write_str(part.kind.name());
        }
        for (place, part) in self.parts.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}={}", part.kind.name(), part.weight)?;
        }
        Ok(())
    }
}

/// Why a text names no scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadScenario(String);

impl fmt::Display for BadScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; scenarios are ", self.0)?;
        for kind in Kind::ALL {
            write!(f, "{}, ", kind.name())?;
        }
        f.write_str("or a mixture such as ws-chat=3,rest=1")
    }
}

impl std::error::Error for BadScenario {}

impl FromStr for Scenario {
    type Err = BadScenario;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<Part> = text.split(',').map(parse_part).collect::<Result<_, _>>()?;
        if PARTS_MAX < parts.len() {
            return Err(BadScenario(format!("more than {PARTS_MAX} parts")));
        }
        Ok(Self { parts })
    }
}

fn parse_part(text: &str) -> Result<Part, BadScenario> {
    let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == name.trim())
        .ok_or_else(|| BadScenario(format!("there is no scenario {name:?}")))?;
    let weight = weight.trim().parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
    let weight =
        weight.ok_or_else(|| BadScenario(format!("the weight in {text:?} is no number from 1 on")))?;
    Ok(Part { kind, weight })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_mixtures_are_read_and_shown_the_same() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse::<Scenario>().unwrap(), Scenario::from(kind));
            assert_eq!(Scenario::from(kind).to_string(), kind.name());
        }
        let mixed: Scenario = "ws-chat=3,rest=1".parse().unwrap();
        assert_eq!(mixed.parts()[0], Part { kind: Kind::WsChat, weight: 3 });
        assert_eq!(mixed.to_string(), "ws-chat=3,rest=1");
        assert!(mixed.has(Kind::Rest) && !mixed.has(Kind::SseStream));
    }

    #[test]
    fn what_is_no_scenario_is_told_what_there_is() {
        for bad in ["", "chat", "ws-chat=0", "ws-chat=x", "ws-chat,", "rest=-1"] {
            let error = bad.parse::<Scenario>().unwrap_err().to_string();
            assert!(error.contains("webhook-telegram"), "{error}");
        }
    }
}
