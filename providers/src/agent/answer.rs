//! What an agent answers over HTTP: one JSON object, or a stream of `delta`, `done` and `error` events.
//!
//! Owns that every answer ends once, and is finished only if the agent says so. Obeys WHATWG HTML 9.2.6 by
//! [`clawgate_wire::sse`].
use super::{counts_of, failure_of, stop_of};
use crate::Json;
use crate::decoder::Limits;
use crate::failure::{COMPRESSED, TRUNCATED};
use crate::raw::Raw;
use crate::said::{End, Said};
use clawgate_core::codes::Code;
use clawgate_core::event::{Failure, Piece, Retry};
use clawgate_wire::sse;

#[derive(Debug)]
enum Form {
    /// Nothing but white space came.
    Unknown,
    Events(sse::Decoder),
    Whole,
}

/// Reads one response of an agent whose status is 2xx.
#[derive(Debug)]
pub struct AgentDecoder {
    form: Form,
    limits: Limits,
    ended: bool,
}

const MALFORMED: Failure<'static> = Failure {
    code: Code::UpstreamMalformed,
    retry: Retry::Backoff,
    status: 0,
    detail: "the answer is not what agents say",
};

impl AgentDecoder {
    /// What the response is shows its first byte.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { form: Form::Unknown, limits, ended: false }
    }

    /// Did [`Said::Ended`] come? What follows it is ignored.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// As [`crate::Decoder::decode`].
    pub fn decode(&mut self, buf: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> usize {
        if self.ended {
            return buf.len();
        }
        let blank = buf.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if matches!(self.form, Form::Unknown) {
            self.form = match buf.get(blank) {
                None => return blank,
                // The first byte of gzip, and of no text.
                Some(0x1F) => {
                    self.end(End::Failed(COMPRESSED), sink);
                    return buf.len();
                }
                Some(b'{') => Form::Whole,
                Some(_) => Form::Events(sse::Decoder::new(self.limits.event_bytes_max)),
            };
        }
        let mut at = 0;
        while !self.ended {
            let Form::Events(events) = &mut self.form else {
                if buf.len() <= self.limits.body_bytes_max {
                    return 0;
                }
                self.end(too_long("the answer is larger than the limit"), sink);
                break;
            };
            match events.decode(buf.get_mut(at..).unwrap_or(&mut [])) {
                Ok(sse::Step::NeedMore) => return at,
                // A comment keeps the connection alive, and says nothing about the agent.
                Ok(sse::Step::Comment { consumed } | sse::Step::Skip { consumed }) => at += consumed,
                Ok(sse::Step::Id { consumed, .. }) => at += consumed,
                Ok(sse::Step::Event { consumed, event, data, .. }) => {
                    on_event(event, data, json, &mut self.ended, sink);
                    at += consumed;
                }
                Err(sse::TooLong) => {
                    self.end(too_long("an event of the answer is larger than the limit"), sink);
                }
            }
        }
        buf.len()
    }

    /// The response is over: `rest` is what [`Self::decode`] left. An answer without its end is truncated.
    pub fn finish(&mut self, rest: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) {
        if self.ended {
            return;
        }
        match &mut self.form {
            Form::Unknown => {}
            Form::Whole => {
                if let Some(answer) = Raw::parse(rest).filter(|answer| answer.is_object()) {
                    // An object that says neither is somebody else's.
                    if answer.get("text").is_none() && answer.get("error").is_none() {
                        return self.end(End::Failed(MALFORMED), sink);
                    }
                    on_whole(answer, json, &mut self.ended, sink);
                }
            }
            // Some servers leave out the empty line behind the last event.
            Form::Events(events) => {
                let mut tail = [&*rest, b"\n\n"].concat();
                if let Ok(sse::Step::Event { event, data, .. }) = events.decode(&mut tail)
                    && Raw::parse(data).is_some()
                {
                    on_event(event, data, json, &mut self.ended, sink);
                }
            }
        }
        if !self.ended {
            self.end(End::Failed(TRUNCATED), sink);
        }
    }

    fn end(&mut self, end: End<'_>, sink: &mut dyn FnMut(Said<'_>)) {
        self.ended = true;
        sink(Said::Ended(end));
    }
}

const fn too_long(detail: &'static str) -> End<'static> {
    End::Failed(Failure { code: Code::UpstreamMalformed, retry: Retry::Backoff, status: 0, detail })
}

fn on_event(name: &str, data: &[u8], json: &mut Json, ended: &mut bool, sink: &mut dyn FnMut(Said<'_>)) {
    if data.trim_ascii().is_empty() {
        return sink(Said::Piece(Piece::Alive));
    }
    let Some(object) = Raw::parse(data).filter(|object| object.is_object()) else {
        *ended = true;
        return sink(Said::Ended(End::Failed(MALFORMED)));
    };
    // A server that cannot name its events says it inside.
    let inner = object.get("type").and_then(Raw::text);
    let name = match name {
        "message" => inner.as_ref().map_or("message", |text| text.key()),
        name => name,
    };
    match name {
        "delta" => {
            say(object, json, sink);
        }
        "done" => on_whole(object, json, ended, sink),
        "error" => {
            *ended = true;
            let failure = failure_of(object, json.scratch());
            sink(Said::Ended(End::Failed(failure)));
        }
        // Of a later version, perhaps: the agent lives.
        _ => sink(Said::Piece(Piece::Alive)),
    }
}

/// Says the reasoning and the text of an object.
fn say(object: Raw<'_>, json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) {
    let reasoning = object.get("reasoning").and_then(Raw::text).filter(|text| !text.is_empty());
    let text = object.get("text").and_then(Raw::text).filter(|text| !text.is_empty());
    if reasoning.is_none() && text.is_none() {
        return sink(Said::Piece(Piece::Alive));
    }
    if let Some(reasoning) = reasoning {
        sink(Said::Piece(Piece::Reasoning(reasoning.plain_in(json.scratch()))));
    }
    if let Some(text) = text {
        sink(Said::Piece(Piece::Text(text.plain_in(json.scratch()))));
    }
}

/// A whole answer, or what a stream says at its end: an error, or the rest and the counts.
fn on_whole(object: Raw<'_>, json: &mut Json, ended: &mut bool, sink: &mut dyn FnMut(Said<'_>)) {
    *ended = true;
    if object.field("error").is_some_and(|error| !error.is_null()) {
        let failure = failure_of(object, json.scratch());
        return sink(Said::Ended(End::Failed(failure)));
    }
    if object.get("text").is_some() || object.get("reasoning").is_some() {
        say(object, json, sink);
    }
    if let Some(counts) = object.get("usage").and_then(counts_of) {
        sink(Said::Usage(counts));
    }
    sink(Said::Ended(End::Finished(stop_of(object))));
}
