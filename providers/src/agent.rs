//! Agents that live elsewhere: what they are told of a turn, and what they answer, over HTTP or as a worker's messages.
//!
//! Owns the gateway's own format, which stands in `router/docs/agents.md`. Signing, sending and waiting are the shell's.
mod answer;
mod worker;

pub use answer::AgentDecoder;
pub use worker::{Lost, WorkerMessage, read_worker_message};

use crate::failure;
use crate::raw::Raw;
use crate::said::{Counts, Stop};
use clawgate_core::codes::Code;
use clawgate_core::event::{Failure, Retry};
use clawgate_core::view::Role;
use clawgate_wire::http1::Headers;
use clawgate_wire::json;
use core::time::Duration;

/// What an agent is told of a turn.
#[expect(missing_debug_implementations, reason = "iterators have none, and texts do not belong into logs")]
pub struct AgentTurn<'i, 'a> {
    /// The same for every attempt at this turn's answer, and for no other turn.
    pub id: &'a str,
    /// Which attempt this is, from 1.
    pub attempt: u16,
    /// The agent, as the configuration names it.
    pub agent: &'a str,
    /// The session, as the API lists it.
    pub session: &'a str,
    /// The channel.
    pub channel: &'a str,
    /// Who wrote; empty in a group.
    pub peer: &'a str,
    /// Who wrote, as people see it; may be empty.
    pub name: &'a str,
    /// What the agent is told first; may be empty.
    pub system: &'a str,
    /// The session's context variables.
    pub context: &'i mut dyn Iterator<Item = (&'a str, &'a str)>,
    /// What was said before, oldest first.
    pub history: &'i mut dyn Iterator<Item = (Role, &'a str)>,
    /// The message.
    pub text: &'a str,
    /// A whole request of a model's client, as it was written, and its format; `None` for what somebody wrote.
    pub request: Option<(&'a str, &'a str)>,
}

impl AgentTurn<'_, '_> {
    /// Writes the turn's fields, between the braces of an object that the caller opens and closes.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut field = |name: &str, text: &str| {
            out.push(b',');
            json::write_str(out, name);
            out.push(b':');
            json::write_str(out, text);
        };
        field("id", self.id);
        field("agent", self.agent);
        field("session", self.session);
        field("channel", self.channel);
        field("peer", self.peer);
        field("name", self.name);
        if !self.system.is_empty() {
            field("system", self.system);
        }
        field("text", self.text);
        out.extend_from_slice(b",\"attempt\":");
        json::write_u64(out, self.attempt.into());
        if let Some((format, request)) = self.request {
            out.extend_from_slice(b",\"format\":");
            json::write_str(out, format);
            // It was read when it came in: it is JSON.
            out.extend_from_slice(b",\"request\":");
            out.extend_from_slice(request.trim().as_bytes());
        }
        out.extend_from_slice(b",\"context\":{");
        let mut first = true;
        for (name, value) in self.context {
            comma(out, &mut first);
            json::write_str(out, name);
            out.push(b':');
            json::write_str(out, value);
        }
        out.extend_from_slice(b"},\"history\":[");
        let mut first = true;
        for (role, text) in self.history {
            comma(out, &mut first);
            let role = match role {
                Role::User => "user",
                Role::Agent => "agent",
            };
            out.extend_from_slice(b"{\"role\":");
            json::write_str(out, role);
            out.extend_from_slice(b",\"text\":");
            json::write_str(out, text);
            out.push(b'}');
        }
        out.push(b']');
    }
}

fn comma(out: &mut Vec<u8>, first: &mut bool) {
    if !core::mem::replace(first, false) {
        out.push(b',');
    }
}

/// Writes the body of a signed POST to an agent.
pub fn write_event(out: &mut Vec<u8>, turn: AgentTurn<'_, '_>) {
    out.clear();
    out.extend_from_slice(b"{\"type\":\"turn\"");
    turn.write(out);
    out.push(b'}');
}

/// Reads a response of an agent whose status is not 2xx. `detail` is replaced, and never holds the secret.
pub fn read_failure<'a>(
    status: u16,
    headers: &Headers<'_>,
    body: &[u8],
    secret: &str,
    detail: &'a mut String,
) -> Failure<'a> {
    failure::read(status, headers, body, secret, detail)
}

/// Token counts as an agent tells them: `{"promptTokens", "completionTokens"}`, and what of these was cached or reasoning.
fn counts_of(usage: Raw<'_>) -> Option<Counts> {
    let count = |name: &str| usage.get(name).and_then(Raw::count);
    let (prompt, completion) = (count("promptTokens")?, count("completionTokens")?);
    Some(Counts {
        prompt,
        completion,
        cached: count("cachedTokens").unwrap_or(0).min(prompt),
        cache_created: 0,
        reasoning: count("reasoningTokens").unwrap_or(0).min(completion),
        estimated: usage.get("estimated").and_then(Raw::bool).unwrap_or(false),
    })
}

/// Why an agent stopped; complete where it does not say.
fn stop_of(object: Raw<'_>) -> Stop<'static> {
    let text = object.get("stop").and_then(Raw::text);
    match text.as_ref().map_or("", |text| text.key()) {
        "length" => Stop::Length,
        "filtered" => Stop::Filtered,
        _ => Stop::Complete,
    }
}

/// An agent's own failure: it may be tried again where it says so, or says when.
fn failure_of<'s>(object: Raw<'_>, scratch: &'s mut String) -> Failure<'s> {
    let inner = object.field("error").filter(|error| !error.is_null());
    let error = inner.filter(|error| error.is_object()).unwrap_or(object);
    let after = error.get("retryAfter").and_then(Raw::count).filter(|seconds| *seconds != 0);
    let again = error.get("retry").and_then(Raw::bool).unwrap_or(false);
    let retry = match after {
        Some(seconds) => Retry::After(Duration::from_secs(seconds.into())),
        None if again => Retry::Backoff,
        None => Retry::Elsewhere,
    };
    scratch.clear();
    match failure::message_of(inner.unwrap_or(object)) {
        Some(message) => message.push_to(scratch),
        None => scratch.push_str("the agent failed without a word"),
    }
    scratch.retain(|char| !char.is_control());
    Failure { code: Code::UpstreamFailed, retry, status: 0, detail: failure::cut(scratch) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_turn_as_it_is_told() {
        let mut out = b"left over".to_vec();
        let turn = AgentTurn {
            id: "turn_1",
            attempt: 2,
            agent: "support",
            session: "api:ana:s1",
            channel: "api",
            peer: "ana",
            name: "",
            system: "Be \"kind\".",
            context: &mut [("city", "Rome\n")].into_iter(),
            history: &mut [(Role::User, "Hi"), (Role::Agent, "Hello")].into_iter(),
            text: "Where?",
            request: None,
        };
        write_event(&mut out, turn);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"type":"turn","id":"turn_1","agent":"support","session":"api:ana:s1","channel":"api","#,
                r#""peer":"ana","name":"","system":"Be \"kind\".","text":"Where?","attempt":2,"#,
                r#""context":{"city":"Rome\n"},"#,
                r#""history":[{"role":"user","text":"Hi"},{"role":"agent","text":"Hello"}]}"#
            )
        );
    }

    #[test]
    fn a_whole_request_goes_as_it_came() {
        let mut out = Vec::new();
        let turn = AgentTurn {
            id: "t",
            attempt: 1,
            agent: "a",
            session: "s",
            channel: "api",
            peer: "p",
            name: "",
            system: "",
            context: &mut core::iter::empty(),
            history: &mut core::iter::empty(),
            text: "Hi",
            request: Some(("openai", " {\"model\": \"a\", \"seed\": 1e2}\n")),
        };
        write_event(&mut out, turn);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(r#","format":"openai","request":{"model": "a", "seed": 1e2},"context":{}"#),
            "{text}"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}
