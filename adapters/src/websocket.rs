//! The gateway's own WebSocket protocol: a client's messages read, ours written. Payloads only; frames are the shell's.
//!
//! Owns the names and the order of the fields. Obeys the protocol's own page: `auth`, `message`, `ping`, `subscribe` in;
//! `auth_ok`, `message`, `chunk`, `done`, `pong`, `error` out, with their fields first and in that order; what we add
//! comes after them. The writers are the hot path: they append to the connection's outbox and allocate nothing else.
use crate::json::write::{number, text, text_if_any};
use crate::{Bad, Held, Json, Value};
use clawgate_core::codes::Code;
use clawgate_core::effect::Notice;
use clawgate_core::event::Usage;
use clawgate_wire::json;

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Who it is; comes first.
    Auth {
        /// The API key.
        token: &'a str,
    },
    /// A message for the agent.
    Message {
        /// The client's own id of it: deduplicates, and is echoed in every answer. Empty for none.
        id: &'a str,
        /// The channel; empty for the default one.
        channel: &'a str,
        /// The text.
        content: &'a str,
        /// The session; empty for the key's own.
        session_id: &'a str,
        /// Answer in pieces (the default), or whole.
        stream: bool,
        /// Say `accepted` once the message is durable.
        receipt: bool,
        /// The agent that is to answer; empty for the one that is configured.
        agent: &'a str,
    },
    /// Are you there?
    Ping {
        /// Echoed; empty for none.
        id: &'a str,
    },
    /// Tell me of these from now on.
    Subscribe {
        /// Complete messages and answers.
        message: bool,
        /// State changes.
        status: bool,
    },
    /// No longer tell me of these.
    Unsubscribe {
        /// Complete messages and answers.
        message: bool,
        /// State changes.
        status: bool,
    },
    /// Stop the answer that runs: of this session, or to the message of this id.
    Stop {
        /// The session; empty if the id says it.
        session_id: &'a str,
        /// The message; empty for whatever runs in the session.
        id: &'a str,
    },
}

/// The fields of all messages but the list of `subscribe`.
const FIELDS: [&str; 9] =
    ["type", "id", "channel", "content", "sessionId", "stream", "receipt", "agent", "token"];

/// Reads one message. Unknown fields are allowed.
///
/// # Errors
/// `BAD_JSON`, `TOO_LARGE`, `MISSING_FIELD`, `UNKNOWN_TYPE`.
pub fn decode<'a>(frame: &'a mut [u8], json: &mut Json) -> Result<ClientMessage<'a>, Bad> {
    json.fields(frame, &FIELDS, read)?
}

/// What a message's fields say. A list, which only the tape reads, is looked for in `root`.
fn read<'a>(fields: [Held<'a>; 9], root: Option<Value<'_, 'a>>) -> Result<ClientMessage<'a>, Bad> {
    let [kind, id, channel, content, session_id, stream, receipt, agent, token] = fields;
    Ok(match kind.required("type")? {
        "message" => ClientMessage::Message {
            id: id.optional("id")?,
            channel: channel.optional("channel")?,
            content: content.required("content")?,
            session_id: session_id.optional("sessionId")?,
            stream: stream.flag("stream", true)?,
            receipt: receipt.flag("receipt", false)?,
            agent: agent.optional("agent")?,
        },
        "ping" => ClientMessage::Ping { id: id.optional("id")? },
        "auth" => ClientMessage::Auth { token: token.required("token")? },
        "subscribe" => {
            let (message, status) = topics(root)?;
            ClientMessage::Subscribe { message, status }
        }
        "unsubscribe" => {
            let (message, status) = topics(root)?;
            ClientMessage::Unsubscribe { message, status }
        }
        "stop" => {
            ClientMessage::Stop { session_id: session_id.optional("sessionId")?, id: id.optional("id")? }
        }
        _ => {
            let known = "`type` is one of auth, message, ping, subscribe, unsubscribe, stop";
            return Err(Bad::new(Code::UnknownType, known));
        }
    })
}

fn topics(root: Option<Value<'_, '_>>) -> Result<(bool, bool), Bad> {
    let (mut message, mut status) = (false, false);
    for event in root.and_then(|root| root.get("events")).into_iter().flat_map(Value::items) {
        match event.str() {
            Some("message") => message = true,
            Some("status") => status = true,
            _ => return Err(Bad::new(Code::UnknownType, "`events` holds `message`, `status` or both")),
        }
    }
    if message || status {
        return Ok((message, status));
    }
    Err(Bad::new(Code::MissingField, "`events` must be a list of `message`, `status` or both"))
}

/// `auth_ok`: the key is good.
pub fn write_auth_ok(out: &mut Vec<u8>, user: &str) {
    text(out, "{\"type\":\"auth_ok\",\"user\":", user);
    out.push(b'}');
}

/// `accepted`: the message is admitted, and durable.
pub fn write_accepted(out: &mut Vec<u8>, id: &str, session_id: &str, duplicate: bool) {
    text(out, "{\"type\":\"accepted\",\"id\":", id);
    text(out, ",\"sessionId\":", session_id);
    out.extend_from_slice(b",\"duplicate\":");
    json::write_bool(out, duplicate);
    out.push(b'}');
}

/// `queued`: the message waits for its agent, at this place. `id` may be empty.
pub fn write_queued(out: &mut Vec<u8>, id: &str, session_id: &str, place: u32) {
    text(out, "{\"type\":\"queued\",\"sessionId\":", session_id);
    text_if_any(out, ",\"id\":", id);
    number(out, ",\"position\":", u64::from(place));
    out.push(b'}');
}

/// `chunk`: a piece of an answer. `id` may be empty.
#[inline]
pub fn write_chunk(out: &mut Vec<u8>, content: &str, session_id: &str, id: &str, seq: u32) {
    text(out, "{\"type\":\"chunk\",\"content\":", content);
    text(out, ",\"sessionId\":", session_id);
    text_if_any(out, ",\"id\":", id);
    number(out, ",\"seq\":", u64::from(seq));
    out.push(b'}');
}

/// `message`: a whole answer. `id` may be empty.
pub fn write_message(out: &mut Vec<u8>, content: &str, session_id: &str, id: &str) {
    text(out, "{\"type\":\"message\",\"content\":", content);
    text(out, ",\"sessionId\":", session_id);
    text_if_any(out, ",\"id\":", id);
    out.push(b'}');
}

/// `done`: the answer is complete. `id` and `model` may be empty.
pub fn write_done(out: &mut Vec<u8>, session_id: &str, usage: &Usage, id: &str, model: &str, seq: u32) {
    text(out, "{\"type\":\"done\",\"sessionId\":", session_id);
    out.extend_from_slice(b",\"usage\":");
    write_usage(out, usage);
    text_if_any(out, ",\"id\":", id);
    text_if_any(out, ",\"model\":", model);
    number(out, ",\"seq\":", u64::from(seq));
    out.push(b'}');
}

/// The token counts: `{"promptTokens", "completionTokens", "totalTokens"}`, and `"estimated":true` if nobody counted.
pub(crate) fn write_usage(out: &mut Vec<u8>, usage: &Usage) {
    let (prompt, completion) = (u64::from(usage.prompt), u64::from(usage.completion));
    number(out, "{\"promptTokens\":", prompt);
    number(out, ",\"completionTokens\":", completion);
    number(out, ",\"totalTokens\":", prompt + completion);
    out.extend_from_slice(if usage.estimated { b",\"estimated\":true}" } else { b"}" });
}

/// `pong`. `id` may be empty.
pub fn write_pong(out: &mut Vec<u8>, id: &str) {
    out.extend_from_slice(b"{\"type\":\"pong\"");
    text_if_any(out, ",\"id\":", id);
    out.push(b'}');
}

/// `error`: this failed. `id` and `session_id` may be empty; `retry_after_secs` of 0 says "not by waiting".
pub fn write_error(
    out: &mut Vec<u8>,
    code: Code,
    message: &str,
    id: &str,
    session_id: &str,
    retry_after_secs: u32,
) {
    text(out, "{\"type\":\"error\",\"code\":", code.name());
    text(out, ",\"message\":", message);
    text_if_any(out, ",\"id\":", id);
    text_if_any(out, ",\"sessionId\":", session_id);
    if 0 < retry_after_secs {
        number(out, ",\"retryAfter\":", u64::from(retry_after_secs));
    }
    out.push(b'}');
}

/// What a subscriber asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Complete messages and answers.
    Message,
    /// State changes.
    Status,
}

/// A notice's name on the wire, and who wants to know.
#[must_use]
pub const fn topic_of(notice: Notice) -> (&'static str, Topic) {
    match notice {
        Notice::Received => ("message.received", Topic::Message),
        Notice::Routed => ("message.routed", Topic::Status),
        Notice::Generated => ("response.generated", Topic::Message),
        Notice::Delivered => ("response.delivered", Topic::Message),
        Notice::Created => ("session.created", Topic::Status),
        Notice::Updated => ("session.updated", Topic::Status),
        Notice::Failed => ("failure", Topic::Status),
    }
}

/// Something that a subscriber is told. Empty fields are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published<'a> {
    /// What happened, by its name (see [`topic_of`]).
    pub event: &'a str,
    /// In which session.
    pub session_id: &'a str,
    /// On which channel.
    pub channel: &'a str,
    /// With whom.
    pub peer: &'a str,
    /// What was said, or what changed.
    pub content: &'a str,
    /// When, Unix milliseconds.
    pub unix_millis: u64,
}

/// `event`: for subscribers.
pub fn write_event(out: &mut Vec<u8>, event: &Published<'_>) {
    text(out, "{\"type\":\"event\",\"event\":", event.event);
    text(out, ",\"sessionId\":", event.session_id);
    text_if_any(out, ",\"channel\":", event.channel);
    text_if_any(out, ",\"peer\":", event.peer);
    text_if_any(out, ",\"content\":", event.content);
    out.extend_from_slice(b",\"timestamp\":\"");
    crate::time::write_rfc3339(out, event.unix_millis);
    out.extend_from_slice(b"\"}");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::JsonLimits;

    fn read(frame: &str) -> Result<String, Bad> {
        let mut json = Json::new(JsonLimits::TEST);
        decode(&mut frame.as_bytes().to_vec(), &mut json).map(|message| format!("{message:?}"))
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object(), "{text}");
        text
    }

    /// The client's messages of the protocol's page, word for word, and what we add to them.
    #[test]
    fn messages_of_clients() {
        for (frame, expected) in [
            (r#"{"type": "auth", "token": "api-key"}"#, r#"Auth { token: "api-key" }"#),
            (
                r#"{"type": "message", "channel": "api", "content": "Hello", "sessionId": "s1"}"#,
                r#"Message { id: "", channel: "api", content: "Hello", session_id: "s1", stream: true, receipt: false, agent: "" }"#,
            ),
            (r#"{"type": "ping"}"#, r#"Ping { id: "" }"#),
            (
                r#"{"type": "subscribe", "events": ["message", "status"]}"#,
                "Subscribe { message: true, status: true }",
            ),
            (
                r#"{"content":"a\u00e9\n","type":"message","stream":false,"receipt":true,"id":"7","sessionId":null,"x":[{}]}"#,
                "Message { id: \"7\", channel: \"\", content: \"aé\\n\", session_id: \"\", stream: false, receipt: true, agent: \"\" }",
            ),
            (r#"{"type":"ping","id":"p1"}"#, r#"Ping { id: "p1" }"#),
            (r#"{"type":"unsubscribe","events":["status"]}"#, "Unsubscribe { message: false, status: true }"),
            (r#"{"type":"stop","sessionId":"s1"}"#, r#"Stop { session_id: "s1", id: "" }"#),
            (r#"{"type":"stop","id":"7"}"#, r#"Stop { session_id: "", id: "7" }"#),
        ] {
            assert_eq!(read(frame).as_deref(), Ok(expected), "{frame}");
        }
    }

    #[test]
    fn messages_that_are_refused() {
        for (frame, code, word) in [
            ("", Code::BadJson, ""),
            ("{", Code::BadJson, ""),
            ("[]", Code::MissingField, "type"),
            ("{}", Code::MissingField, "type"),
            (r#"{"type":1}"#, Code::MissingField, "type"),
            (r#"{"type":"hello"}"#, Code::UnknownType, "subscribe"),
            (r#"{"type":"Message","content":"x"}"#, Code::UnknownType, "message"),
            (r#"{"type":"auth"}"#, Code::MissingField, "token"),
            (r#"{"type":"message"}"#, Code::MissingField, "content"),
            (r#"{"type":"message","content":"x","sessionId":5}"#, Code::MissingField, "sessionId"),
            (r#"{"type":"message","content":"x","stream":"no"}"#, Code::MissingField, "stream"),
            (r#"{"type":"subscribe"}"#, Code::MissingField, "events"),
            (r#"{"type":"subscribe","events":[]}"#, Code::MissingField, "events"),
            (r#"{"type":"subscribe","events":"message"}"#, Code::MissingField, "events"),
            (r#"{"type":"subscribe","events":["message","typing"]}"#, Code::UnknownType, "status"),
        ] {
            let bad = read(frame).unwrap_err();
            assert_eq!(bad.code, code, "{frame}");
            assert!(bad.text.contains(word), "{frame}: {}", bad.text);
        }
    }

    /// The server's messages: the page's fields first and in its order, byte for byte.
    #[test]
    fn messages_of_ours() {
        let usage = Usage { prompt: 15, completion: 12, estimated: false };
        let guess = Usage { prompt: u32::MAX, completion: u32::MAX, estimated: true };
        let table = [
            (written(|out| write_auth_ok(out, "admin")), r#"{"type":"auth_ok","user":"admin"}"#),
            (
                written(|out| write_message(out, "Hello!", "s1", "")),
                r#"{"type":"message","content":"Hello!","sessionId":"s1"}"#,
            ),
            (
                written(|out| write_chunk(out, "partial", "s1", "", 3)),
                r#"{"type":"chunk","content":"partial","sessionId":"s1","seq":3}"#,
            ),
            (
                written(|out| write_chunk(out, "a\"\\\n\u{1}é😀", "s\"1", "i\t", u32::MAX)),
                r#"{"type":"chunk","content":"a\"\\\n\u0001é😀","sessionId":"s\"1","id":"i\t","seq":4294967295}"#,
            ),
            (
                written(|out| write_done(out, "s1", &usage, "m7", "gpt-4o", 4)),
                concat!(
                    r#"{"type":"done","sessionId":"s1","#,
                    r#""usage":{"promptTokens":15,"completionTokens":12,"totalTokens":27},"#,
                    r#""id":"m7","model":"gpt-4o","seq":4}"#
                ),
            ),
            (
                written(|out| write_done(out, "s1", &guess, "", "", 1)),
                concat!(
                    r#"{"type":"done","sessionId":"s1","usage":{"promptTokens":4294967295,"#,
                    r#""completionTokens":4294967295,"totalTokens":8589934590,"estimated":true},"seq":1}"#
                ),
            ),
            (written(|out| write_pong(out, "")), r#"{"type":"pong"}"#),
            (written(|out| write_pong(out, "p1")), r#"{"type":"pong","id":"p1"}"#),
            (
                written(|out| write_error(out, Code::InvalidSession, "...", "", "", 0)),
                r#"{"type":"error","code":"INVALID_SESSION","message":"..."}"#,
            ),
            (
                written(|out| write_error(out, Code::SessionFull, "wait", "m1", "s1", 2)),
                concat!(
                    r#"{"type":"error","code":"SESSION_FULL","message":"wait","#,
                    r#""id":"m1","sessionId":"s1","retryAfter":2}"#
                ),
            ),
            (
                written(|out| write_accepted(out, "m1", "s1", true)),
                r#"{"type":"accepted","id":"m1","sessionId":"s1","duplicate":true}"#,
            ),
            (
                written(|out| write_queued(out, "m1", "s1", 7)),
                r#"{"type":"queued","sessionId":"s1","id":"m1","position":7}"#,
            ),
        ];
        for (text, expected) in table {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn events_for_subscribers() {
        let event = Published {
            event: topic_of(Notice::Generated).0,
            session_id: "s1",
            channel: "api",
            content: "Hi",
            unix_millis: 1_773_131_400_999,
            ..Published::default()
        };
        assert_eq!(
            written(|out| write_event(out, &event)),
            concat!(
                r#"{"type":"event","event":"response.generated","sessionId":"s1","channel":"api","#,
                r#""content":"Hi","timestamp":"2026-03-10T08:30:00Z"}"#
            )
        );
        let notices = [
            Notice::Received,
            Notice::Routed,
            Notice::Generated,
            Notice::Delivered,
            Notice::Created,
            Notice::Updated,
            Notice::Failed,
        ];
        let messages = notices.iter().filter(|notice| topic_of(**notice).1 == Topic::Message).count();
        let names: std::collections::BTreeSet<_> = notices.iter().map(|notice| topic_of(*notice).0).collect();
        assert_eq!((messages, names.len()), (3, notices.len()));
    }
}
