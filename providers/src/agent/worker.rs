//! What an agent's worker says over its WebSocket, one JSON object a message. What it is told is [`super::AgentTurn`]'s.
//!
//! Total over hostile bytes: a message is read whole or refused with words.
use super::{counts_of, failure_of, stop_of};
use crate::Json;
use crate::raw::{Raw, Text};
use crate::said::{Counts, Stop};
use clawgate_core::event::Failure;

/// The most agents that one worker may name.
const AGENTS_MAX: usize = 256;

/// What a worker says.
#[derive(Debug)]
pub enum WorkerMessage<'a> {
    /// Its key, where it did not bring it with the upgrade.
    Auth {
        /// The key.
        token: Text<'a>,
    },
    /// It works for these agents, so many turns at once.
    Register {
        /// The agents' names.
        agents: Vec<Text<'a>>,
        /// Turns at once.
        capacity: u32,
    },
    /// More of an answer.
    Delta {
        /// Which call.
        call: Text<'a>,
        /// Text that people see; may be empty.
        text: Option<Text<'a>>,
        /// What was thought; may be empty.
        reasoning: Option<Text<'a>>,
    },
    /// An answer is complete.
    Done {
        /// Which call.
        call: Text<'a>,
        /// The rest of the text.
        text: Option<Text<'a>>,
        /// What it used, if it counts.
        usage: Option<Counts>,
        /// Why it stopped.
        stop: Stop<'static>,
    },
    /// An answer will not come.
    Error {
        /// Which call.
        call: Text<'a>,
        /// Its own words, and whether it may be tried again.
        error: Lost<'a>,
    },
    /// It wants to hear us.
    Ping,
}

/// A failure that is not read yet.
#[derive(Clone, Copy, Debug)]
pub struct Lost<'a>(Raw<'a>);

impl Lost<'_> {
    /// Reads it.
    pub fn failure<'s>(&self, json: &'s mut Json) -> Failure<'s> {
        failure_of(self.0, json.scratch())
    }
}

/// Reads a message.
///
/// # Errors
/// What is wrong with it.
pub fn read_worker_message(bytes: &[u8]) -> Result<WorkerMessage<'_>, &'static str> {
    let object =
        Raw::parse(bytes).filter(|object| object.is_object()).ok_or("a message is one JSON object")?;
    let text = |name: &str| object.get(name).and_then(Raw::text);
    let call = || text("call").filter(|call| !call.is_empty()).ok_or("`call` is missing: it names the call");
    let kind = text("type").ok_or("`type` is missing")?;
    Ok(match kind.key() {
        "auth" => WorkerMessage::Auth { token: text("token").ok_or("`token` is missing")? },
        "register" => {
            let list = object.get("agents").filter(|agents| agents.is_array());
            let list = list.ok_or("`agents` is missing: a list of names")?;
            let agents: Vec<_> = list.items().take(AGENTS_MAX + 1).map_while(Raw::text).collect();
            if agents.is_empty() || AGENTS_MAX < agents.len() || agents.len() != list.items().count() {
                return Err("`agents` is a list of 1 to 256 names");
            }
            let capacity = object.get("capacity").map_or(Some(1), Raw::count).filter(|count| *count != 0);
            WorkerMessage::Register { agents, capacity: capacity.ok_or("`capacity` is a number from 1 on")? }
        }
        "delta" => WorkerMessage::Delta { call: call()?, text: text("text"), reasoning: text("reasoning") },
        "done" => WorkerMessage::Done {
            call: call()?,
            text: text("text"),
            usage: object.get("usage").and_then(counts_of),
            stop: stop_of(object),
        },
        "error" => WorkerMessage::Error { call: call()?, error: Lost(object) },
        "ping" => WorkerMessage::Ping,
        _ => return Err("`type` is not known: auth, register, delta, done, error or ping"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_core::event::Retry;
    use core::time::Duration;

    #[test]
    fn messages_are_read_whole_or_refused() {
        for good in [
            r#"{"type":"auth","token":"k"}"#,
            r#"{"type":"register","agents":["a","b"],"capacity":4}"#,
            r#"{"type":"register","agents":["a"]}"#,
            r#"{"type":"delta","call":"c","text":"é\n"}"#,
            r#"{"type":"done","call":"c","usage":{"promptTokens":1,"completionTokens":2},"stop":"length"}"#,
            r#"{"type":"error","call":"c","message":"no"}"#,
            r#"{"type":"ping","more":[{}]}"#,
        ] {
            read_worker_message(good.as_bytes()).unwrap();
            for cut in 0..good.len() {
                assert!(read_worker_message(&good.as_bytes()[..cut]).is_err(), "{good} cut at {cut}");
            }
        }
        for bad in [
            "[]",
            "{}",
            r#"{"type":"shout"}"#,
            r#"{"type":"auth"}"#,
            r#"{"type":"register","agents":[]}"#,
            r#"{"type":"register","agents":["a",1]}"#,
            r#"{"type":"register","agents":["a"],"capacity":0}"#,
            r#"{"type":"register","agents":["a"],"capacity":-1}"#,
            r#"{"type":"delta","text":"x"}"#,
            r#"{"type":"delta","call":"","text":"x"}"#,
            r#"{"type":"done","call":7}"#,
        ] {
            assert!(read_worker_message(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_says_whether_to_try_again() {
        let read = |fields: &str| {
            let text = format!(r#"{{"type":"error","call":"c"{fields}}}"#);
            let Ok(WorkerMessage::Error { error, .. }) = read_worker_message(text.as_bytes()) else {
                panic!()
            };
            let mut json = Json::new();
            let failure = error.failure(&mut json);
            (failure.retry, failure.detail.to_owned())
        };
        assert_eq!(read(""), (Retry::Elsewhere, "the agent failed without a word".into()));
        assert_eq!(read(r#","message":"a\u0000b","retry":true"#), (Retry::Backoff, "ab".into()));
        let after = Retry::After(Duration::from_secs(3));
        assert_eq!(read(r#","error":{"message":"busy","retryAfter":3}"#), (after, "busy".into()));
    }

    #[test]
    fn counts_are_believed_within_reason() {
        let text =
            r#"{"type":"done","call":"c","usage":{"promptTokens":3,"completionTokens":2,"cachedTokens":9}}"#;
        let Ok(WorkerMessage::Done { usage, .. }) = read_worker_message(text.as_bytes()) else { panic!() };
        let counts = Counts { prompt: 3, completion: 2, cached: 3, ..Counts::default() };
        assert_eq!(usage, Some(counts));
    }
}
