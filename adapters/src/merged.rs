//! What a client is told whose message is answered together with another one of its session, to that one's client: the
//! end of an answer without one, in each form in which clients wait.
use crate::json::write::{number, text, text_if_any};
use crate::rest::write_timestamp;
use crate::websocket::write_usage;
use clawgate_core::event::Usage;
use clawgate_wire::{json, sse};

/// A WebSocket's `done`. `into` is the other message's id, where that came by this connection; it and `id` may be empty.
pub fn write_done(out: &mut Vec<u8>, session_id: &str, id: &str, into: &str, seq: u32) {
    text(out, "{\"type\":\"done\",\"sessionId\":", session_id);
    out.extend_from_slice(b",\"usage\":");
    write_usage(out, &Usage::default());
    text_if_any(out, ",\"id\":", id);
    text(out, ",\"mergedInto\":", into);
    number(out, ",\"seq\":", u64::from(seq));
    out.push(b'}');
}

/// The same as a server-sent event.
pub fn write_sse_done(out: &mut Vec<u8>, session_id: &str, id: &str, seq: u32) {
    sse::begin_data(out, Some("message"), Some(u64::from(seq)));
    write_done(out, session_id, id, "", seq);
    sse::end_data(out);
}

/// The answer to `POST /api/chat`: `{success, data: {message: "", sessionId, model: "", usage, mergedInto: ""}, timestamp}`.
pub fn write_envelope(out: &mut Vec<u8>, session_id: &str, unix_millis: u64) {
    out.extend_from_slice(b"{\"success\":true,\"data\":{\"message\":\"\",\"sessionId\":");
    json::write_str(out, session_id);
    out.extend_from_slice(b",\"model\":\"\",\"usage\":");
    write_usage(out, &Usage::default());
    out.extend_from_slice(b",\"mergedInto\":\"\"}");
    write_timestamp(out, unix_millis);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn said(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_form_says_the_same() {
        let frame = concat!(
            r#"{"type":"done","sessionId":"s1","#,
            r#""usage":{"promptTokens":0,"completionTokens":0,"totalTokens":0},"id":"m1","mergedInto":"m2","seq":1}"#
        );
        assert_eq!(said(|out| write_done(out, "s1", "m1", "m2", 1)), frame);
        let event = frame.replace(r#""m2""#, r#""""#);
        let event = format!("event: message\nid: 1\ndata: {event}\n\n");
        assert_eq!(said(|out| write_sse_done(out, "s1", "m1", 1)), event);
        assert_eq!(
            said(|out| write_envelope(out, "s1", 0)),
            concat!(
                r#"{"success":true,"data":{"message":"","sessionId":"s1","model":"","#,
                r#""usage":{"promptTokens":0,"completionTokens":0,"totalTokens":0},"mergedInto":""},"#,
                r#""timestamp":"1970-01-01T00:00:00Z"}"#
            )
        );
    }
}
