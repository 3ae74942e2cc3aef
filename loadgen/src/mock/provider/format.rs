//! The four formats, told apart by the path that they are asked at: who reads a request, who says an answer, and in whose
//! words an error is told.

use clawgate_wire::http1::{Headers, Length, write_response_head};
use serde_json::Value;

use super::check::{At, Checked, Refusal};
use super::frames::{Frames, Kind};
use super::script::Script;
use super::turn::{Asked, Step, Turn};
use super::{anthropic, ollama, openai, openai_chat, openai_responses};

/// What a request is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Ollama's chat.
    Ollama,
}

/// Says an answer piece by piece, in the order that the format has for it.
pub(super) trait Voice {
    fn begin(&mut self, turn: &Turn, out: &mut Frames<'_>);
    fn say(&mut self, turn: &Turn, step: Step, out: &mut Frames<'_>);
    fn end(&mut self, turn: &Turn, out: &mut Frames<'_>);
    /// An error in mid-stream.
    fn fail(&mut self, out: &mut Frames<'_>);
    /// A sign of life that is an event of the format's own.
    fn ping(&mut self, out: &mut Frames<'_>) {
        out.comment();
    }
    /// An event that carries text: its name, what stands before the text, and what behind it. For what is too long or
    /// broken.
    fn opening(&self) -> (&'static str, &'static str, &'static str);
}

impl Format {
    pub(super) fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" | "/chat/completions" => Some(Self::Chat),
            "/v1/responses" | "/responses" => Some(Self::Responses),
            "/v1/messages" | "/messages" => Some(Self::Messages),
            "/api/chat" => Some(Self::Ollama),
            _ => None,
        }
    }

    /// Its name in what is counted.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Chat => "openai_chat",
            Self::Responses => "openai_responses",
            Self::Messages => "anthropic",
            Self::Ollama => "ollama",
        }
    }

    pub(super) const fn frames(self) -> Kind {
        match self {
            Self::Ollama => Kind::Lines,
            Self::Chat | Self::Responses | Self::Messages => Kind::Events,
        }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Ollama => "application/x-ndjson",
            Self::Messages => "text/event-stream; charset=utf-8",
            Self::Chat | Self::Responses => "text/event-stream",
        }
    }

    /// Holds the head of a request against what the service asks for.
    pub(super) fn check_head(self, headers: &Headers<'_>, key: &str) -> Checked<()> {
        let bearer = headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let given = if self == Self::Messages { headers.get("x-api-key").or(bearer) } else { bearer };
        if !key.is_empty() && given != Some(key) {
            return Err(Refusal::new(401, "incorrect API key provided"));
        }
        let json = headers.get("content-type").is_some_and(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        });
        if !json && self != Self::Ollama {
            return Err(Refusal::new(400, "content-type: must be application/json"));
        }
        if self == Self::Messages {
            let version = headers.get("anthropic-version");
            let version =
                version.ok_or_else(|| Refusal::new(400, "anthropic-version: header is required"))?;
            if !is_date(version) {
                return Err(Refusal::new(400, "anthropic-version: is not a valid version"));
            }
        }
        Ok(())
    }

    pub(super) fn read(self, body: &Value) -> Checked<Asked> {
        let body = At::body(body);
        body.object()?;
        match self {
            Self::Chat => openai_chat::read(&body),
            Self::Responses => openai_responses::read(&body),
            Self::Messages => anthropic::read(&body),
            Self::Ollama => ollama::read(&body),
        }
    }

    pub(super) fn voice(self) -> Box<dyn Voice> {
        match self {
            Self::Chat => Box::new(openai_chat::Chat::default()),
            Self::Responses => Box::new(openai_responses::Items::default()),
            Self::Messages => Box::new(anthropic::Blocks::default()),
            Self::Ollama => Box::new(ollama::Lines),
        }
    }

    /// The body of an answer that is not streamed.
    pub(super) fn whole(self, turn: &Turn) -> Value {
        match self {
            Self::Chat => openai_chat::whole(turn),
            Self::Responses => openai_responses::whole(turn),
            Self::Messages => anthropic::whole(turn),
            Self::Ollama => ollama::whole(turn),
        }
    }

    /// An error, in the format's own shape.
    pub(super) fn write_refusal(self, out: &mut Vec<u8>, refusal: &Refusal, number: u64) {
        let body = match self {
            Self::Chat | Self::Responses => openai::error(refusal),
            Self::Messages => anthropic::error(refusal, number),
            Self::Ollama => ollama::error(refusal),
        };
        let body = body.to_string();
        let mut headers = vec![("Content-Type", "application/json")];
        let seconds = refusal.retry_after_seconds.map(|seconds| seconds.to_string());
        if let Some(seconds) = &seconds {
            headers.push(("Retry-After", seconds));
        }
        if refusal.status == 429 {
            headers.extend_from_slice(self.rates(true));
        }
        write_response_head(out, refusal.status, &headers, Length::Exact(body.len() as u64), true);
        out.extend_from_slice(body.as_bytes());
    }

    /// What is left of a rate.
    pub(super) const fn rates(self, used_up: bool) -> &'static [(&'static str, &'static str)] {
        match (self, used_up) {
            (Self::Chat | Self::Responses, true) => &openai::RATES_USED_UP,
            (Self::Chat | Self::Responses, false) => &openai::RATES,
            (Self::Messages, true) => &anthropic::RATES_USED_UP,
            (Self::Messages, false) => &anthropic::RATES,
            (Self::Ollama, _) => &[],
        }
    }

    /// The headers of an answer that is good.
    pub(super) fn headers(self, script: &Script, stream: bool) -> Vec<(&'static str, &'static str)> {
        let kind = if stream { self.content_type() } else { "application/json" };
        let mut headers = vec![("Content-Type", kind)];
        if stream {
            headers.push(("Cache-Control", "no-cache"));
        }
        if script.rates {
            headers.extend_from_slice(self.rates(false));
        }
        headers
    }
}

/// Versions are named by the day that they came out. All of them speak as the first one here.
fn is_date(text: &str) -> bool {
    let shape =
        |(at, byte): (usize, u8)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    text.len() == 10 && text.bytes().enumerate().all(shape)
}
