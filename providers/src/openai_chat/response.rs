//! What an endpoint answers: a stream of chunks, or one body.
//!
//! Owns what the events mean, and whether the answer is whole. Keeps of a stream only whether a finish was seen: text is
//! handed on as it comes. Obeys OpenAI's "Streaming" page, and accepts what compatible servers make of it: `choices` null or
//! absent, usage on any chunk or inside a choice, a whole JSON body where a stream was asked for.
use crate::failure::{TRUNCATED, classify, cut, message_of, reason_of};
use crate::{Json, Said};
use clawgate_core::codes::Code;
use clawgate_core::event::{End, Failure, Piece, Retry, Stop, Usage};
use clawgate_wire::sse;
use simd_json::prelude::*;
use simd_json::tape::Value;

/// Bounds of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one event of a stream.
    pub event_bytes_max: usize,
    /// Bytes of a response that is no stream.
    pub body_bytes_max: usize,
}

impl Limits {
    /// Small enough that every limit is reached in a test.
    pub const TEST: Self = Self { event_bytes_max: 4_096, body_bytes_max: 8_192 };
}

/// What a response turned out to be.
#[derive(Debug)]
enum Form {
    /// Nothing but white space came.
    Unknown,
    Events(sse::Decoder),
    Whole,
}

/// Reads one response whose status is 2xx.
#[derive(Debug)]
pub struct Decoder {
    form: Form,
    limits: Limits,
    /// The finish that was seen.
    stop: Option<Stop>,
    /// A choice was seen.
    answered: bool,
    ended: bool,
}

impl Decoder {
    /// A decoder for a response that is a stream, unless it begins like a JSON object; or that is none.
    #[must_use]
    pub const fn new(stream: bool, limits: Limits) -> Self {
        let form = if stream { Form::Unknown } else { Form::Whole };
        Self { form, limits, stop: None, answered: false, ended: false }
    }

    /// Did [`Said::Ended`] come? What follows it is ignored.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// Reads on. Returns how many bytes of `buf` are done with; the rest is to be given again, with what came behind it, and
    /// its bytes unchanged. The rest is never longer than the larger of the two limits.
    pub fn decode(&mut self, buf: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> usize {
        if self.ended {
            return buf.len();
        }
        // Servers send white space ahead of an answer to keep the connection alive.
        let blank = buf.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if matches!(self.form, Form::Unknown | Form::Whole) && blank == buf.len() {
            return blank;
        }
        if matches!(self.form, Form::Unknown) {
            let events = sse::Decoder::new(self.limits.event_bytes_max);
            self.form = if buf.get(blank) == Some(&b'{') { Form::Whole } else { Form::Events(events) };
        }
        if matches!(self.form, Form::Events(_)) {
            return self.decode_events(buf, json, sink);
        }
        if buf.len() <= self.limits.body_bytes_max {
            return 0;
        }
        self.malformed("the answer is larger than the limit", sink);
        buf.len()
    }

    fn decode_events(&mut self, buf: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> usize {
        let mut at = 0;
        while !self.ended {
            let Form::Events(events) = &mut self.form else { break };
            at += match events.decode(&mut buf[at..]) {
                Ok(sse::Step::NeedMore) => return at,
                // A comment keeps the connection alive, and says nothing about the model.
                Ok(sse::Step::Comment { consumed } | sse::Step::Skip { consumed }) => consumed,
                Ok(sse::Step::Id { consumed, .. }) => consumed,
                Ok(sse::Step::Event { consumed, event, data, .. }) => {
                    let is_error = event == "error";
                    if !self.on_event(is_error, data, json, sink) {
                        self.malformed("an event of the answer is not the protocol of its provider", sink);
                    }
                    consumed
                }
                Err(sse::TooLong) => {
                    self.malformed("an event of the answer is larger than the limit", sink);
                    break;
                }
            };
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
                let whole = is_closed(rest);
                if whole && !(self.on_event(false, rest, json, sink) && (self.answered || self.ended)) {
                    self.malformed("the answer is not the protocol of its provider", sink);
                }
                // A body says by its length that it is whole, and some servers leave the reason out.
                self.stop = self.stop.or(whole.then_some(Stop::Complete));
            }
            // Some servers leave out the empty line behind the last event. One that is cut itself is no news.
            Form::Events(events) => {
                let mut tail = [&*rest, b"\n\n"].concat();
                if let Ok(sse::Step::Event { event, data, .. }) = events.decode(&mut tail) {
                    let is_error = event == "error";
                    self.on_event(is_error, data, json, sink);
                }
            }
        }
        match self.stop {
            Some(stop) => self.end(End::Finished(stop), sink),
            None => self.end(End::Failed(TRUNCATED), sink),
        }
    }

    /// Reads one event's data. Is it the protocol?
    fn on_event(
        &mut self,
        is_error: bool,
        data: &mut [u8],
        json: &mut Json,
        sink: &mut dyn FnMut(Said<'_>),
    ) -> bool {
        match data.trim_ascii() {
            b"" => return true,
            b"[DONE]" => {
                self.end(End::Finished(self.stop.unwrap_or_default()), sink);
                return true;
            }
            _ => {}
        }
        let read = json.read(data, |value| {
            let known = value.is_object();
            if known {
                self.on_chunk(is_error, value, sink);
            }
            known
        });
        read == Some(true)
    }

    fn on_chunk(&mut self, is_error: bool, chunk: Value<'_, '_>, sink: &mut dyn FnMut(Said<'_>)) {
        let error = chunk.get("error").filter(|error| !error.is_null());
        if let Some(error) = error.or(is_error.then_some(chunk)) {
            // OpenRouter puts the status that the head could no longer carry into `code`.
            let status =
                error.get("code").and_then(|code| code.as_u16()).filter(|code| 400 <= *code).unwrap_or(200);
            let (code, retry) = classify(status, reason_of(error), core::time::Duration::ZERO);
            let detail = cut(message_of(error).unwrap_or("the model failed without a word"));
            return self.end(End::Failed(Failure { code, retry, detail }), sink);
        }
        let choices = chunk.get("choices").and_then(|choices| choices.as_array());
        let choice = choices.and_then(|choices| {
            let ours =
                |choice: &Value<'_, '_>| choice.get("index").is_none_or(|index| index.as_u64() == Some(0));
            choices.iter().find(ours)
        });
        if let Some(choice) = choice {
            self.on_choice(choice, sink);
        }
        // Kimi counts inside the choice.
        let usage = chunk.get("usage").filter(|usage| usage.is_object());
        let usage = usage.or_else(|| choice.and_then(|choice| choice.get("usage")));
        if let Some(usage) = usage.filter(|usage| usage.is_object()) {
            let count = |key: &str| {
                let count = usage.get(key).and_then(|count| count.as_u64()).unwrap_or(0);
                u32::try_from(count).unwrap_or(u32::MAX)
            };
            let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
            sink(Said::Piece(Piece::Usage(Usage { prompt, completion, estimated: false })));
        }
    }

    fn on_choice(&mut self, choice: Value<'_, '_>, sink: &mut dyn FnMut(Said<'_>)) {
        self.answered = true;
        let mut said = false;
        let mut piece = |piece: Piece<'_>| {
            said = true;
            sink(Said::Piece(piece));
        };
        if let Some(delta) = choice.get("delta").or_else(|| choice.get("message")) {
            let text = |key: &str| {
                let text = delta.get(key).and_then(ValueIntoString::into_string);
                text.filter(|text| !text.is_empty())
            };
            // Kimi and DeepSeek write `reasoning_content`, OpenRouter and newer vLLM `reasoning`.
            let thought = text("reasoning_content").or_else(|| text("reasoning"));
            thought.into_iter().for_each(|text| piece(Piece::Reasoning(text)));
            // A refusal stands where the text would.
            text("content").or_else(|| text("refusal")).into_iter().for_each(|text| piece(Piece::Text(text)));
            // Mistral's reasoning models send a list of parts.
            for part in
                delta.get("content").and_then(|parts| parts.as_array()).iter().flat_map(|parts| parts.iter())
            {
                part.get("text")
                    .and_then(ValueIntoString::into_string)
                    .into_iter()
                    .for_each(|text| piece(Piece::Text(text)));
            }
        }
        if !said {
            sink(Said::Piece(Piece::Alive));
        }
        self.stop = match choice.get("finish_reason").and_then(ValueIntoString::into_string) {
            None | Some("") => self.stop,
            Some("length") => Some(Stop::Length),
            Some("content_filter") => Some(Stop::Filtered),
            // `stop`, `tool_calls`, `function_call`, and what compatible servers call the same.
            Some(_) => Some(Stop::Complete),
        };
    }

    fn malformed(&mut self, detail: &'static str, sink: &mut dyn FnMut(Said<'_>)) {
        let failure = Failure { code: Code::UpstreamMalformed, retry: Retry::Backoff, detail };
        self.end(End::Failed(failure), sink);
    }

    fn end(&mut self, end: End<'_>, sink: &mut dyn FnMut(Said<'_>)) {
        if !self.ended {
            self.ended = true;
            sink(Said::Ended(end));
        }
    }
}

/// Has every bracket and text of this JSON its end? What broke off has not, what is wrong in itself may.
fn is_closed(json: &[u8]) -> bool {
    let (mut open, mut in_text, mut escaped) = (0_i64, false, false);
    for byte in json {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'{' | b'[') => open += 1,
            (false, b'}' | b']') => open -= 1,
            _ => {}
        }
    }
    open <= 0 && !in_text && !json.is_empty()
}
