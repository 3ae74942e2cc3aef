//! What an endpoint answers, whatever its format: a stream of events, lines of JSON, or one body.
//!
//! Owns where an event ends, the bounds, and that every answer ends once: finished only if its format says so. What an event
//! means is its format's. Obeys WHATWG HTML 9.2.6 by [`clawgate_wire::sse`].
use crate::failure::{COMPRESSED, TRUNCATED, inside};
use crate::format::Kind;
use crate::raw::{Raw, Text};
use crate::said::{CallPart, Counts, End, Said, Stop, Thought};
use crate::{Json, anthropic, ollama, openai_chat, openai_responses};
use clawgate_core::codes::Code;
use clawgate_core::event::{Failure, Piece, Retry};
use clawgate_wire::sse;

/// Bounds of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one event of a stream.
    pub event_bytes_max: usize,
    /// Bytes of a response that is no stream.
    pub body_bytes_max: usize,
    /// Tool calls of one answer.
    pub calls_max: u32,
}

impl Limits {
    /// Tool calls of one answer, unless a configuration says otherwise. Models ask for a dozen at most.
    pub const CALLS_MAX: u32 = 128;
    /// Small enough that every limit is reached in a test.
    pub const TEST: Self = Self { event_bytes_max: 4_096, body_bytes_max: 8_192, calls_max: 4 };
}

/// What a response turned out to be.
#[derive(Debug)]
enum Form {
    /// Nothing but white space came.
    Unknown,
    Events(sse::Decoder),
    /// Lines of JSON. Holds how much of what is kept has no line end.
    Lines(usize),
    Whole,
}

/// What the events of each format mean.
#[derive(Debug)]
enum Reader {
    Chat(openai_chat::Reader),
    Responses(openai_responses::Reader),
    Anthropic(anthropic::Reader),
    Ollama(ollama::Reader),
}

/// Reads one response whose status is 2xx.
#[derive(Debug)]
pub struct Decoder {
    form: Form,
    reader: Reader,
    limits: Limits,
    /// What sets the ids of tool calls apart where the provider gives none.
    seed: u64,
    ended: bool,
}

/// Where readers put what was said.
pub(crate) struct Out<'x> {
    pub(crate) sink: &'x mut dyn FnMut(Said<'_>),
    pub(crate) scratch: &'x mut String,
    pub(crate) ended: &'x mut bool,
    pub(crate) limits: &'x Limits,
    pub(crate) seed: u64,
}

impl Decoder {
    /// A decoder for a response that is a stream, unless it begins like a JSON object; or that is none.
    #[must_use]
    pub const fn new(kind: Kind, stream: bool, limits: Limits) -> Self {
        let reader = match kind {
            Kind::OpenAiChat => Reader::Chat(openai_chat::Reader::new()),
            Kind::OpenAiResponses => Reader::Responses(openai_responses::Reader::new()),
            Kind::Anthropic => Reader::Anthropic(anthropic::Reader::new()),
            Kind::Ollama => Reader::Ollama(ollama::Reader::new()),
        };
        let form = if stream { Form::Unknown } else { Form::Whole };
        Self { form, reader, limits, seed: 0, ended: false }
    }

    /// The same, where the ids of tool calls that the provider leaves out are made from a number that no other answer of
    /// the conversation has.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
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
            let lines = matches!(self.reader, Reader::Ollama(_));
            self.form = match buf.get(blank) {
                // The first byte of gzip, and of no text.
                Some(0x1F) => {
                    self.fail(COMPRESSED, json, sink);
                    return buf.len();
                }
                _ if lines => Form::Lines(0),
                Some(b'{') => Form::Whole,
                _ => Form::Events(sse::Decoder::new(self.limits.event_bytes_max)),
            };
        }
        if matches!(self.form, Form::Events(_) | Form::Lines(_)) {
            return self.decode_events(buf, json, sink);
        }
        if buf.len() <= self.limits.body_bytes_max {
            return 0;
        }
        self.malformed("the answer is larger than the limit", json, sink);
        buf.len()
    }

    fn decode_events(&mut self, buf: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> usize {
        let mut at = 0;
        while !self.ended {
            let rest = buf.get_mut(at..).unwrap_or(&mut []);
            let step = match &mut self.form {
                Form::Events(events) => events.decode(rest),
                Form::Lines(scanned) => next_line(rest, scanned, self.limits.event_bytes_max),
                Form::Unknown | Form::Whole => break,
            };
            at += match step {
                Ok(sse::Step::NeedMore) => return at,
                // A comment keeps the connection alive, and says nothing about the model.
                Ok(sse::Step::Comment { consumed } | sse::Step::Skip { consumed }) => consumed,
                Ok(sse::Step::Id { consumed, .. }) => consumed,
                Ok(sse::Step::Event { consumed, event, data, .. }) => {
                    if !self.on_event(event, data, json, sink) {
                        let text = "an event of the answer is not the protocol of its provider";
                        self.malformed(text, json, sink);
                    }
                    consumed
                }
                Err(sse::TooLong) => {
                    self.malformed("an event of the answer is larger than the limit", json, sink);
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
        let mut whole = false;
        match &mut self.form {
            Form::Unknown => {}
            Form::Whole => {
                whole = is_closed(rest);
                if whole && !self.on_whole(rest, json, sink) {
                    self.malformed("the answer is not the protocol of its provider", json, sink);
                }
            }
            // Some servers leave out the empty line behind the last event. One that is cut itself is no news.
            Form::Events(events) => {
                let mut tail = [&*rest, b"\n\n"].concat();
                if let Ok(sse::Step::Event { event, data, .. }) = events.decode(&mut tail) {
                    self.on_event(event, data, json, sink);
                }
            }
            Form::Lines(_) => {
                self.on_event("message", rest, json, sink);
            }
        }
        if !self.ended {
            self.read(json, sink, |reader, out| reader.on_end(whole, out));
        }
        self.fail(TRUNCATED, json, sink);
    }

    /// Reads one event's data. Is it the protocol?
    fn on_event(&mut self, name: &str, data: &[u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> bool {
        match data.trim_ascii() {
            b"" => return true,
            b"[DONE]" => {
                self.read(json, sink, Reader::on_done);
                return true;
            }
            _ => {}
        }
        self.read(json, sink, |reader, out| match reader {
            Reader::Chat(reader) => reader.on_event(name, data, out),
            Reader::Responses(reader) => reader.on_event(data, out),
            Reader::Anthropic(reader) => reader.on_event(data, out),
            Reader::Ollama(reader) => reader.on_line(data, out),
        })
    }

    fn on_whole(&mut self, data: &[u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> bool {
        self.read(json, sink, |reader, out| match reader {
            Reader::Chat(reader) => reader.on_whole(data, out),
            Reader::Responses(reader) => Raw::parse(data)
                .filter(|data| data.is_object())
                .is_some_and(|data| reader.on_whole(data, out)),
            Reader::Anthropic(reader) => Raw::parse(data)
                .filter(|data| data.is_object())
                .is_some_and(|data| reader.on_whole(data, out)),
            Reader::Ollama(reader) => reader.on_line(data, out),
        })
    }

    fn read<R>(
        &mut self,
        json: &mut Json,
        sink: &mut dyn FnMut(Said<'_>),
        read: impl FnOnce(&mut Reader, &mut Out<'_>) -> R,
    ) -> R {
        let ended = &mut self.ended;
        let mut out = Out { sink, scratch: json.scratch(), ended, limits: &self.limits, seed: self.seed };
        read(&mut self.reader, &mut out)
    }

    fn malformed(&mut self, detail: &'static str, json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) {
        self.fail(malformed(detail), json, sink);
    }

    fn fail(&mut self, failure: Failure<'static>, json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) {
        self.read(json, sink, |_, out| out.end(End::Failed(failure)));
    }
}

impl Reader {
    /// The marker that ends OpenAI's streams came.
    fn on_done(&mut self, out: &mut Out<'_>) {
        match self {
            Self::Chat(reader) => reader.on_done(out),
            Self::Responses(_) | Self::Anthropic(_) | Self::Ollama(_) => {}
        }
    }

    /// The response is over, and no end was said. A body that is `whole` says by its length that nothing is missing.
    fn on_end(&mut self, whole: bool, out: &mut Out<'_>) {
        match self {
            Self::Chat(reader) => reader.on_end(whole, out),
            Self::Responses(_) | Self::Ollama(_) => {}
            Self::Anthropic(reader) => reader.on_end(out),
        }
    }
}

/// A line, in the words of the other form.
fn next_line<'b>(
    buf: &'b mut [u8],
    scanned: &mut usize,
    bytes_max: usize,
) -> Result<sse::Step<'b>, sse::TooLong> {
    Ok(match sse::next_line(buf, scanned, bytes_max)? {
        None => sse::Step::NeedMore,
        Some(sse::Line { consumed, line }) => {
            sse::Step::Event { consumed, event: "message", id: None, data: line }
        }
    })
}

const fn malformed(detail: &'static str) -> Failure<'static> {
    Failure { code: Code::UpstreamMalformed, retry: Retry::Backoff, status: 0, detail }
}

impl Out<'_> {
    pub(crate) fn say(&mut self, said: Said<'_>) {
        if !*self.ended {
            (self.sink)(said);
        }
    }

    pub(crate) fn alive(&mut self) {
        self.say(Said::Piece(Piece::Alive));
    }

    /// Says a text, if there is one.
    pub(crate) fn text(&mut self, text: Option<&Text<'_>>) -> bool {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return false };
        (self.sink)(Said::Piece(Piece::Text(text.plain_in(self.scratch))));
        true
    }

    pub(crate) fn reasoning(&mut self, text: Option<&Text<'_>>) -> bool {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return false };
        (self.sink)(Said::Piece(Piece::Reasoning(text.plain_in(self.scratch))));
        true
    }

    pub(crate) fn usage(&mut self, counts: Counts) {
        self.say(Said::Usage(counts));
    }

    /// A call begins. `id` is made up where there is none.
    pub(crate) fn begin(&mut self, index: u32, id: &str, name: &Text<'_>) {
        let made = if id.is_empty() { format!("call_{:x}_{index}", self.seed) } else { String::new() };
        let id = if id.is_empty() { made.as_str() } else { id };
        (self.sink)(Said::Call(CallPart::Begin { index, id, name: name.plain_in(self.scratch) }));
    }

    pub(crate) fn arguments(&mut self, index: u32, text: &Text<'_>) {
        if !text.is_empty() {
            let text = text.plain_in(self.scratch);
            (self.sink)(Said::Call(CallPart::Arguments { index, text }));
        }
    }

    pub(crate) fn signature(&mut self, text: &Text<'_>) {
        let text = text.plain_in(self.scratch);
        (self.sink)(Said::Thought(Thought::Signature(text)));
    }

    pub(crate) fn redacted(&mut self, text: &Text<'_>) {
        let text = text.plain_in(self.scratch);
        (self.sink)(Said::Thought(Thought::Redacted(text)));
    }

    /// More calls than an answer may have?
    pub(crate) fn is_full(&mut self, calls: u32) -> bool {
        let full = self.limits.calls_max <= calls;
        if full {
            self.end(End::Failed(malformed("the answer has more tool calls than the limit")));
        }
        full
    }

    pub(crate) fn finish(&mut self, stop: Stop<'_>) {
        self.end(End::Finished(stop));
    }

    /// An error that the model's own events tell.
    pub(crate) fn fail(&mut self, error: Raw<'_>) {
        if !*self.ended {
            *self.ended = true;
            let failure = inside(error, self.scratch);
            (self.sink)(Said::Ended(End::Failed(failure)));
        }
    }

    pub(crate) fn malformed(&mut self, detail: &'static str) {
        self.end(End::Failed(malformed(detail)));
    }

    pub(crate) fn end(&mut self, end: End<'_>) {
        if !*self.ended {
            *self.ended = true;
            (self.sink)(Said::Ended(end));
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        *self.ended
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
