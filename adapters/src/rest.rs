//! The gateway's own HTTP interface: bodies of requests read, envelopes and event-stream records written.
//!
//! Owns the envelope `{success, data | error, timestamp}` and the names of its fields; heads, paths and keys are the
//! shell's. Records of a stream carry the same payloads as [`crate::websocket`], each as one server-sent event.
use crate::time::write_rfc3339;
use crate::{Bad, Json, websocket};
use clawgate_core::codes::Code;
use clawgate_core::event::Usage;
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
    let document = json.parse(body)?;
    let root = document.root();
    Ok(ChatRequest {
        channel: root.optional("channel")?,
        message: root.required("message")?,
        session_id: root.optional("sessionId")?,
        stream: root.flag("stream", false)?,
        id: root.optional("id")?,
        agent: root.optional("agent")?,
    })
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
        _ => {
            let known = "`action` is one of reset, close, send, set, assign, stop";
            return Err(Bad::new(Code::UnknownType, known));
        }
    })
}

fn write_timestamp(out: &mut Vec<u8>, unix_millis: u64) {
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
