//! The gateway's own HTTP interface: bodies of requests read, envelopes and event-stream records written.
//!
//! Owns the envelope `{success, data | error, timestamp}` and the names of its fields; heads, paths and keys are the
//! shell's. Records of a stream carry the same payloads as [`crate::websocket`], each as one server-sent event.
use crate::time::write_rfc3339;
use crate::{Bad, Json, websocket};
use clawgate_core::codes::Code;
use clawgate_core::event::Usage;
use clawgate_core::plan::RunningMode;
use clawgate_wire::{json, sse};

/// The body of `POST /api/chat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatRequest<'a> {
    /// The channel; empty for the default one.
    pub channel: &'a str,
    /// What is said.
    pub message: &'a str,
    /// The session; empty for the key's own.
    pub session_id: &'a str,
    /// Answer as an event stream.
    pub stream: bool,
    /// The client's own id of the message, for deduplication; empty for none.
    pub id: &'a str,
    /// The agent that is to answer; empty for the one that is configured.
    pub agent: &'a str,
}

/// Reads the body of `POST /api/chat`. Unknown fields are allowed.
///
/// # Errors
/// `BAD_JSON`, `TOO_LARGE`, `MISSING_FIELD`.
pub fn decode_chat<'a>(body: &'a mut [u8], json: &mut Json) -> Result<ChatRequest<'a>, Bad> {
    let names = ["channel", "message", "sessionId", "stream", "id", "agent"];
    json.fields(body, &names, |[channel, message, session_id, stream, id, agent], _| {
        Ok(ChatRequest {
            channel: channel.optional("channel")?,
            message: message.required("message")?,
            session_id: session_id.optional("sessionId")?,
            stream: stream.flag("stream", false)?,
            id: id.optional("id")?,
            agent: agent.optional("agent")?,
        })
    })?
}

/// The body of `POST /api/sessions/:id`: what an operator does to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAction<'a> {
    /// `{"action":"reset"}`: forget what was said.
    Reset,
    /// `{"action":"close"}`: forget the session.
    Close,
    /// `{"action":"send","text"}`: say this as the bot.
    Send(&'a str),
    /// `{"action":"set","name","value"}`: a context variable; no value removes it.
    Set {
        /// Its name.
        name: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// `{"action":"assign","agent"}`: this agent answers from now on.
    Assign {
        /// The agent, by the name in the configuration.
        agent: &'a str,
    },
    /// `{"action":"stop"}`: cancel the answer that runs.
    Stop,
    /// `{"action":"mode","mode"}`: what messages do that arrive while one is answered; no mode for what the agent has.
    Mode(Option<RunningMode>),
}

/// Reads the body of `POST /api/sessions/:id`.
///
/// # Errors
/// `BAD_JSON`, `TOO_LARGE`, `MISSING_FIELD`, `UNKNOWN_TYPE`.
pub fn decode_session<'a>(body: &'a mut [u8], json: &mut Json) -> Result<SessionAction<'a>, Bad> {
    let document = json.parse(body)?;
    let root = document.root();
    Ok(match root.required("action")? {
        "reset" => SessionAction::Reset,
        "close" => SessionAction::Close,
        "send" => SessionAction::Send(root.required("text")?),
        "set" => SessionAction::Set { name: root.required("name")?, value: root.optional("value")? },
        "assign" => SessionAction::Assign { agent: root.required("agent")? },
        "stop" => SessionAction::Stop,
        "mode" => SessionAction::Mode(decode_mode(root.optional("mode")?)?),
        _ => {
            let known = "`action` is one of reset, close, send, set, assign, stop, mode";
            return Err(Bad::new(Code::UnknownType, known));
        }
    })
}

fn decode_mode(name: &str) -> Result<Option<RunningMode>, Bad> {
    let found = RunningMode::ALL.into_iter().find(|mode| mode.name() == name);
    if found.is_none() && !name.is_empty() {
        let known =
            "`mode` is one of followup, collect, steer, interrupt, or left out for what the agent has";
        return Err(Bad::new(Code::UnknownType, known));
    }
    Ok(found)
}

pub(crate) fn write_timestamp(out: &mut Vec<u8>, unix_millis: u64) {
    out.extend_from_slice(b",\"timestamp\":\"");
    write_rfc3339(out, unix_millis);
    out.extend_from_slice(b"\"}");
}

/// The answer to `POST /api/chat`: `{success, data: {message, sessionId, model, usage}, timestamp}`.
pub fn write_envelope(
    out: &mut Vec<u8>,
    message: &str,
    session_id: &str,
    model: &str,
    usage: &Usage,
    unix_millis: u64,
) {
    out.extend_from_slice(b"{\"success\":true,\"data\":{\"message\":");
    json::write_str(out, message);
    out.extend_from_slice(b",\"sessionId\":");
    json::write_str(out, session_id);
    out.extend_from_slice(b",\"model\":");
    json::write_str(out, model);
    out.extend_from_slice(b",\"usage\":");
    websocket::write_usage(out, usage);
    out.push(b'}');
    write_timestamp(out, unix_millis);
}

/// The envelope around data that the caller writes: call this, write one JSON value, call [`end_data`].
pub fn begin_data(out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"success\":true,\"data\":");
}

/// See [`begin_data`].
pub fn end_data(out: &mut Vec<u8>, unix_millis: u64) {
    write_timestamp(out, unix_millis);
}

/// A failure: `{success: false, error: {code, message, retryAfter?}, timestamp}`. `retry_after_secs` of 0 says "not by
/// waiting".
pub fn write_error(out: &mut Vec<u8>, code: Code, message: &str, retry_after_secs: u32, unix_millis: u64) {
    write_failure(out, code, message, retry_after_secs);
    write_timestamp(out, unix_millis);
}

/// The same where nobody knows the time.
pub(crate) fn write_busy(out: &mut Vec<u8>, retry_after_secs: u32) {
    write_failure(out, Code::Busy, Code::Busy.advice(), retry_after_secs);
    out.push(b'}');
}

fn write_failure(out: &mut Vec<u8>, code: Code, message: &str, retry_after_secs: u32) {
    out.extend_from_slice(b"{\"success\":false,\"error\":{\"code\":");
    json::write_str(out, code.name());
    out.extend_from_slice(b",\"message\":");
    json::write_str(out, message);
    if 0 < retry_after_secs {
        out.extend_from_slice(b",\"retryAfter\":");
        json::write_u64(out, u64::from(retry_after_secs));
    }
    out.push(b'}');
}

/// A piece of an answer as a server-sent event, whose id is its place in the answer.
#[inline]
pub fn write_sse_chunk(out: &mut Vec<u8>, content: &str, session_id: &str, id: &str, seq: u32) {
    sse::begin_data(out, Some("message"), Some(u64::from(seq)));
    websocket::write_chunk(out, content, session_id, id, seq);
    sse::end_data(out);
}

/// A place in a queue as a server-sent event. It is no part of the answer, and has no number in it.
pub fn write_sse_queued(out: &mut Vec<u8>, session_id: &str, id: &str, place: u32) {
    sse::begin_data(out, Some("message"), None);
    websocket::write_queued(out, id, session_id, place);
    sse::end_data(out);
}

/// The end of a complete answer as a server-sent event.
pub fn write_sse_done(out: &mut Vec<u8>, session_id: &str, usage: &Usage, id: &str, model: &str, seq: u32) {
    sse::begin_data(out, Some("message"), Some(u64::from(seq)));
    websocket::write_done(out, session_id, usage, id, model, seq);
    sse::end_data(out);
}

/// A failure as a server-sent event; nothing follows it. `seq` of 0 for one that belongs to no answer.
pub fn write_sse_error(
    out: &mut Vec<u8>,
    code: Code,
    message: &str,
    id: &str,
    session_id: &str,
    retry_after_secs: u32,
    seq: u32,
) {
    sse::begin_data(out, Some("message"), Some(u64::from(seq)).filter(|seq| 0 < *seq));
    websocket::write_error(out, code, message, id, session_id, retry_after_secs);
    sse::end_data(out);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::JsonLimits;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// The bodies of the protocol's page, word for word.
    #[test]
    fn bodies_of_chat() {
        let mut json = Json::new(JsonLimits::TEST);
        let plain =
            ChatRequest { channel: "api", message: "", session_id: "", stream: false, id: "", agent: "" };
        let mut body = b"{
\"channel\": \"api\",
\"message\": \"Hello\",
\"sessionId\": \"session-123\",
\"stream\": false
}"
        .to_vec();
        let expected = ChatRequest { message: "Hello", session_id: "session-123", ..plain };
        assert_eq!(decode_chat(&mut body, &mut json), Ok(expected));
        let mut body = br#"{"channel": "api", "message": "Write a poem", "stream": true}"#.to_vec();
        let expected = ChatRequest { message: "Write a poem", stream: true, ..plain };
        assert_eq!(decode_chat(&mut body, &mut json), Ok(expected));
        let mut body = br#"{"message":"x","id":"7","agent":"poet","later":1}"#.to_vec();
        let expected = ChatRequest { channel: "", message: "x", id: "7", agent: "poet", ..plain };
        assert_eq!(decode_chat(&mut body, &mut json), Ok(expected));
        for (body, code) in [
            ("", Code::BadJson),
            ("[1]", Code::MissingField),
            (r#"{"channel":"api"}"#, Code::MissingField),
            (r#"{"message":null}"#, Code::MissingField),
            (r#"{"message":"x","stream":1}"#, Code::MissingField),
        ] {
            let mut body = body.as_bytes().to_vec();
            assert_eq!(decode_chat(&mut body, &mut json).map_err(|bad| bad.code), Err(code));
        }
    }

    #[test]
    fn actions_on_sessions() {
        let mut json = Json::new(JsonLimits::TEST);
        for (body, expected) in [
            (r#"{"action":"reset"}"#, Ok(SessionAction::Reset)),
            (r#"{"action":"close"}"#, Ok(SessionAction::Close)),
            (r#"{"action":"stop"}"#, Ok(SessionAction::Stop)),
            (r#"{"action":"send","text":"Hi"}"#, Ok(SessionAction::Send("Hi"))),
            (
                r#"{"action":"set","name":"lang","value":"de"}"#,
                Ok(SessionAction::Set { name: "lang", value: "de" }),
            ),
            (r#"{"action":"set","name":"lang"}"#, Ok(SessionAction::Set { name: "lang", value: "" })),
            (r#"{"action":"assign","agent":"poet"}"#, Ok(SessionAction::Assign { agent: "poet" })),
            (r#"{"action":"mode","mode":"steer"}"#, Ok(SessionAction::Mode(Some(RunningMode::Steer)))),
            (r#"{"action":"mode"}"#, Ok(SessionAction::Mode(None))),
            (r#"{"action":"mode","mode":"later"}"#, Err(Code::UnknownType)),
            (r#"{"action":"send"}"#, Err(Code::MissingField)),
            (r#"{"action":"set","value":"de"}"#, Err(Code::MissingField)),
            (r#"{"action":"assign","agent":3}"#, Err(Code::MissingField)),
            (r#"{"action":"fly"}"#, Err(Code::UnknownType)),
            (r#"{}"#, Err(Code::MissingField)),
            ("x", Err(Code::BadJson)),
        ] {
            let mut bytes = body.as_bytes().to_vec();
            assert_eq!(decode_session(&mut bytes, &mut json).map_err(|bad| bad.code), expected, "{body}");
        }
    }

    /// The page's answer, with its fields in its order.
    #[test]
    fn envelopes() {
        let usage = Usage { prompt: 15, completion: 12, estimated: false };
        let millis = 1_773_131_400_000;
        let answer = text(|out| {
            write_envelope(out, "Hello! How can I help you?", "session-123", "gpt-4o", &usage, millis)
        });
        assert_eq!(
            answer,
            concat!(
                r#"{"success":true,"data":{"message":"Hello! How can I help you?","sessionId":"session-123","#,
                r#""model":"gpt-4o","usage":{"promptTokens":15,"completionTokens":12,"totalTokens":27}},"#,
                r#""timestamp":"2026-03-10T08:30:00Z"}"#
            )
        );
        let error = text(|out| write_error(out, Code::AgentBusy, "say \"when\"", 3, millis));
        assert_eq!(
            error,
            concat!(
                r#"{"success":false,"error":{"code":"AGENT_BUSY","message":"say \"when\"","retryAfter":3},"#,
                r#""timestamp":"2026-03-10T08:30:00Z"}"#
            )
        );
        let data = text(|out| {
            begin_data(out);
            out.extend_from_slice(b"[]");
            end_data(out, 0);
        });
        assert_eq!(data, r#"{"success":true,"data":[],"timestamp":"1970-01-01T00:00:00Z"}"#);
    }

    /// What a browser's EventSource would make of the records, read by the independent rules of `wire::sse`.
    #[test]
    fn records() {
        let usage = Usage { prompt: 1, completion: 2, estimated: false };
        let mut stream = text(|out| {
            write_sse_chunk(out, "Roses\n\nid: 9", "s1", "", 1);
            write_sse_done(out, "s1", &usage, "m1", "", 2);
            write_sse_error(out, Code::UpstreamTruncated, "cut", "", "s1", 0, 3);
            write_sse_error(out, Code::Busy, "later", "", "", 5, 0);
        });
        assert!(stream.starts_with(
            "event: message\nid: 1\ndata: {\"type\":\"chunk\",\"content\":\"Roses\\n\\nid: 9\""
        ));
        let mut bytes = core::mem::take(&mut stream).into_bytes();
        let (mut decoder, mut at, mut seen) = (sse::Decoder::new(1_024), 0, Vec::new());
        while let sse::Step::Event { consumed, event, id, data } = decoder.decode(&mut bytes[at..]).unwrap() {
            let data: serde_json::Value = serde_json::from_slice(data).unwrap();
            let kind = data["type"].as_str().unwrap().to_owned();
            seen.push((event.to_owned(), id.map(str::to_owned), kind));
            at += consumed;
        }
        let record = |id: &str, kind: &str| {
            ("message".to_owned(), Some(id.to_owned()).filter(|id| !id.is_empty()), kind.to_owned())
        };
        assert_eq!(
            seen,
            [record("1", "chunk"), record("2", "done"), record("3", "error"), record("", "error")]
        );
        assert_eq!(at, bytes.len());
    }
}
