//! What OpenAI's responses answer: a stream of typed events, or one response.
//!
//! Owns what the events mean, and whether the answer is whole: only `response.completed` and `response.incomplete` end it.
//! Whatever begins with `response.` is a sign of life. Obeys OpenAI's "Streaming events" page; servers that leave out the
//! small events are read from the large ones.
use crate::decoder::Out;
use crate::raw::{Raw, Text};
use crate::said::{CallPart, Counts, Said, Stop, Thought};

/// A tool call that began.
#[derive(Debug)]
struct Call {
    /// Its place among the items of the answer.
    place: u64,
    /// Arguments came.
    told: bool,
    ended: bool,
}

/// Reads the events of one answer.
#[derive(Debug)]
pub(crate) struct Reader {
    calls: Vec<Call>,
    /// Text of the item that is being told came.
    told: bool,
    /// Reasoning of that item came.
    thought: bool,
    /// Some item was told.
    answered: bool,
    refused: bool,
}

impl Reader {
    pub(crate) const fn new() -> Self {
        Self { calls: Vec::new(), told: false, thought: false, answered: false, refused: false }
    }

    pub(crate) fn on_event(&mut self, data: &[u8], out: &mut Out<'_>) -> bool {
        let (mut kind, mut place, mut part) = (Text::default(), 0, 0);
        let (mut text, mut item, mut response) = (None, None, None);
        let event = Raw::parse_fields(data, |key, value| match key.key() {
            _ if value.is_null() => {}
            "type" => kind = value.text().unwrap_or_default(),
            "output_index" => place = value.u64().unwrap_or(0),
            "summary_index" => part = value.u64().unwrap_or(0),
            "delta" | "arguments" => text = value.text(),
            "item" => item = Some(value),
            "response" => response = Some(value),
            _ => {}
        });
        let Some(event) = event else { return false };
        match (kind.key(), item, response) {
            ("response.output_text.delta", ..) => self.on_text(text.as_ref(), out),
            ("response.refusal.delta", ..) => {
                self.refused = true;
                self.on_text(text.as_ref(), out);
            }
            ("response.reasoning_summary_text.delta" | "response.reasoning_text.delta", ..) => {
                self.on_thought(text.as_ref(), out);
            }
            ("response.reasoning_summary_part.added", ..) if 0 < part && self.thought => {
                self.on_thought(Some(&"\n\n".into()), out);
            }
            ("response.function_call_arguments.delta", ..) => self.on_arguments(place, text, false, out),
            ("response.function_call_arguments.done", ..) => self.on_arguments(place, text, true, out),
            ("response.output_item.added", Some(item), _) => self.on_item(place, item, out),
            ("response.output_item.done", Some(item), _) => self.on_item_end(place, item, out),
            ("response.completed" | "response.incomplete" | "response.failed", _, Some(response)) => {
                return self.on_response(response, out);
            }
            ("response.cancelled", ..) => out.malformed("the answer was cancelled by its provider"),
            ("error", ..) => out.fail(event.field("error").unwrap_or(event)),
            ("", ..) => match event.field("error") {
                Some(error) => out.fail(error),
                None => return false,
            },
            (kind, ..) if kind.starts_with("response.") => out.alive(),
            _ => {}
        }
        true
    }

    pub(crate) fn on_whole(&mut self, response: Raw<'_>, out: &mut Out<'_>) -> bool {
        // Events of a stream may come as one body too, from servers that were asked for none.
        if response.get("output").is_none() && response.field("error").is_none() {
            return false;
        }
        self.on_response(response, out)
    }

    fn on_text(&mut self, text: Option<&Text<'_>>, out: &mut Out<'_>) {
        self.answered = true;
        if out.text(text) {
            self.told = true;
        } else {
            out.alive();
        }
    }

    fn on_thought(&mut self, text: Option<&Text<'_>>, out: &mut Out<'_>) {
        self.answered = true;
        if out.reasoning(text) {
            self.thought = true;
        } else {
            out.alive();
        }
    }

    fn on_item(&mut self, place: u64, item: Raw<'_>, out: &mut Out<'_>) {
        (self.told, self.thought) = (false, false);
        if item.get("type").and_then(Raw::text).is_some_and(|kind| kind.is("function_call")) {
            self.on_call(place, item, out);
        } else {
            out.alive();
        }
    }

    fn on_call(&mut self, place: u64, item: Raw<'_>, out: &mut Out<'_>) {
        let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        if out.is_full(index) {
            return;
        }
        self.answered = true;
        let text = |key: &str| item.get(key).and_then(Raw::text).unwrap_or_default();
        self.calls.push(Call { place, told: false, ended: false });
        out.begin(index, &text("call_id").plain(), &text("name"));
    }

    fn on_arguments(&mut self, place: u64, text: Option<Text<'_>>, whole: bool, out: &mut Out<'_>) {
        let Some(at) = self.calls.iter().rposition(|call| call.place == place && !call.ended) else {
            return out.alive();
        };
        let Some(call) = self.calls.get_mut(at) else { return };
        let repeated = whole && call.told;
        let text = text.filter(|text| !repeated && !text.is_empty());
        match text {
            Some(text) => {
                call.told = true;
                out.arguments(u32::try_from(at).unwrap_or(u32::MAX), &text);
            }
            None => out.alive(),
        }
    }

    /// An item is complete: what its small events left out is said.
    fn on_item_end(&mut self, place: u64, item: Raw<'_>, out: &mut Out<'_>) {
        self.answered = true;
        let text = |key: &str| item.get(key).and_then(Raw::text);
        match text("type").unwrap_or_default().key() {
            "function_call" => {
                if !self.calls.iter().any(|call| call.place == place && !call.ended) {
                    self.on_call(place, item, out);
                }
                let open = self.calls.iter().rposition(|call| call.place == place && !call.ended);
                let Some(at) = open.filter(|_| !out.is_ended()) else { return };
                let index = u32::try_from(at).unwrap_or(u32::MAX);
                let Some(call) = self.calls.get_mut(at) else { return };
                if !call.told {
                    out.arguments(index, &text("arguments").unwrap_or_default());
                }
                call.ended = true;
                out.say(Said::Call(CallPart::End { index }));
            }
            "message" if !self.told => {
                for part in item.get("content").into_iter().flat_map(Raw::items) {
                    let refusal = part.get("refusal").and_then(Raw::text);
                    self.refused |= refusal.is_some();
                    let text = part.get("text").and_then(Raw::text).or(refusal);
                    self.on_text(text.as_ref(), out);
                }
            }
            "reasoning" => {
                let told = self.thought;
                let parts = |key: &str| item.get(key).into_iter().flat_map(Raw::items);
                for (at, part) in parts("summary").chain(parts("content")).enumerate().filter(|_| !told) {
                    if 0 < at {
                        out.reasoning(Some(&"\n\n".into()));
                    }
                    out.reasoning(part.get("text").and_then(Raw::text).as_ref());
                }
                let (id, encrypted) = (text("id").unwrap_or_default(), text("encrypted_content"));
                let (id, encrypted) = (id.plain(), encrypted.unwrap_or_default());
                if encrypted.is_empty() {
                    out.alive();
                } else {
                    out.say(Said::Thought(Thought::Item { id: &id, encrypted: &encrypted.plain() }));
                }
            }
            _ => out.alive(),
        }
        (self.told, self.thought) = (false, false);
    }

    /// The answer as a whole, at the end of a stream or instead of one.
    fn on_response(&mut self, response: Raw<'_>, out: &mut Out<'_>) -> bool {
        let text = |key: &str| response.get(key).and_then(Raw::text).unwrap_or_default();
        if let Some(error) = response.field("error") {
            out.fail(error);
            return true;
        }
        if matches!(text("status").key(), "failed" | "cancelled") {
            out.malformed("the answer failed without a word");
            return true;
        }
        if !self.answered {
            for (place, item) in (0_u64..).zip(response.get("output").into_iter().flat_map(Raw::items)) {
                self.on_item_end(place, item, out);
            }
            out.alive();
        }
        if let Some(usage) = response.field("usage") {
            out.usage(counts_of(usage));
        }
        let why = response.field("incomplete_details").and_then(|details| details.get("reason"));
        let why = why.and_then(Raw::text).unwrap_or_default();
        out.finish(match (text("status").key(), why.key()) {
            ("incomplete", "content_filter") => Stop::Filtered,
            ("incomplete", _) => Stop::Length,
            _ if !self.calls.is_empty() => Stop::ToolCalls,
            _ if self.refused => Stop::Filtered,
            _ => Stop::Complete,
        });
        true
    }
}

pub(crate) fn counts_of(usage: Raw<'_>) -> Counts {
    let mut counts = Counts::default();
    for (key, value) in usage.fields() {
        let inside = |key: &str| value.get(key).and_then(Raw::count).unwrap_or(0);
        match key.key() {
            "input_tokens" => counts.prompt = value.count().unwrap_or(0),
            "output_tokens" => counts.completion = value.count().unwrap_or(0),
            "input_tokens_details" => {
                (counts.cached, counts.cache_created) =
                    (inside("cached_tokens"), inside("cache_write_tokens"));
            }
            "output_tokens_details" => counts.reasoning = inside("reasoning_tokens"),
            _ => {}
        }
    }
    counts
}
