//! What chat completions answer: a stream of chunks, or one body.
//!
//! Owns what the events mean, and whether the answer is whole. Keeps of a stream whether a finish was seen and which tool
//! calls began: texts are handed on as they come. Obeys OpenAI's "Streaming" page, and accepts what compatible servers make
//! of it: `choices` null or absent, usage on any chunk or inside a choice, a whole JSON body where a stream was asked for,
//! tool calls without index or id.
use crate::decoder::Out;
use crate::raw::{Fields, Raw, Text};
use crate::said::{CallPart, Counts, Said, Stop};

/// A tool call that began.
#[derive(Debug)]
struct Call {
    /// What the provider counts it as.
    number: Option<u64>,
    /// What the provider names it; empty where it does not.
    id: Box<str>,
    /// Its name is known, so that it was told.
    begun: bool,
    /// Arguments that came before the name.
    early: String,
}

/// The fields of a choice.
#[derive(Default)]
struct Choice<'c> {
    index: Option<u64>,
    delta: Option<Raw<'c>>,
    message: Option<Raw<'c>>,
    finish: Option<Text<'c>>,
    usage: Option<Raw<'c>>,
}

impl<'c> Choice<'c> {
    fn of(fields: Fields<'c>) -> Self {
        let mut choice = Self::default();
        for (key, value) in fields {
            match key.key() {
                "index" => choice.index = Some(value.u64().unwrap_or(u64::MAX)),
                "delta" => choice.delta = choice.delta.or(Some(value)),
                "message" => choice.message = choice.message.or(Some(value)),
                "finish_reason" => choice.finish = value.text(),
                "usage" => choice.usage = Some(value),
                _ => {}
            }
        }
        choice
    }

    /// One answer was asked for: some servers leave its index out.
    fn is_ours(&self) -> bool {
        self.index.unwrap_or(0) == 0
    }
}

/// Reads the events of one answer.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The finish that was seen.
    stop: Option<Stop<'static>>,
    /// A choice was seen.
    answered: bool,
    calls: Vec<Call>,
    /// Bytes that are kept of the calls.
    held: usize,
}

impl Reader {
    pub(crate) const fn new() -> Self {
        Self { stop: None, answered: false, calls: Vec::new(), held: 0 }
    }

    pub(crate) fn on_event(&mut self, name: &str, data: &[u8], out: &mut Out<'_>) -> bool {
        let (mut error, mut choices, mut usage) = (None, None, None);
        let chunk = Raw::parse_fields(data, |key, value| match key.key() {
            _ if value.is_null() => {}
            "error" => error = error.or(Some(value)),
            "choices" => choices = choices.or(Some(value)),
            "usage" => usage = usage.or(Some(value)),
            _ => {}
        });
        let Some(chunk) = chunk else { return false };
        if let Some(error) = error.or((name == "error").then_some(chunk)) {
            out.fail(error);
            return true;
        }
        // Nearly every chunk has one choice, and it is ours.
        let first = choices.and_then(Raw::first_fields).map(Choice::of);
        let others = || choices.into_iter().flat_map(Raw::items).map(|item| Choice::of(item.fields()));
        let choice = first.filter(Choice::is_ours).or_else(|| others().find(Choice::is_ours));
        // Kimi counts inside the choice.
        let usage =
            usage.filter(|usage| usage.is_object()).or(choice.as_ref().and_then(|choice| choice.usage));
        if let Some(choice) = choice {
            self.on_choice(choice, out);
        }
        if let Some(usage) = usage.filter(|usage| usage.is_object()) {
            out.usage(counts_of(usage));
        }
        true
    }

    pub(crate) fn on_whole(&mut self, body: &[u8], out: &mut Out<'_>) -> bool {
        self.on_event("message", body, out) && (self.answered || out.is_ended())
    }

    pub(crate) fn on_done(&mut self, out: &mut Out<'_>) {
        self.finish(self.stop.unwrap_or_default(), out);
    }

    /// Some servers leave the reason out of a body, which says by its length that it is whole.
    pub(crate) fn on_end(&mut self, whole: bool, out: &mut Out<'_>) {
        if let Some(stop) = self.stop.or(whole.then_some(Stop::Complete)) {
            self.finish(stop, out);
        }
    }

    fn finish(&mut self, stop: Stop<'static>, out: &mut Out<'_>) {
        if self.calls.iter().any(|call| !call.begun) {
            return out.malformed("a tool call of the answer has no name");
        }
        for index in (0..).take(self.calls.len()) {
            out.say(Said::Call(CallPart::End { index }));
        }
        // Some servers say `stop` where they mean their calls.
        let calls = stop == Stop::Complete && !self.calls.is_empty();
        out.finish(if calls { Stop::ToolCalls } else { stop });
    }

    fn on_choice(&mut self, choice: Choice<'_>, out: &mut Out<'_>) {
        self.answered = true;
        let Choice { delta, message, finish, .. } = choice;
        if !delta.or(message).is_some_and(|delta| self.on_delta(delta, out)) {
            out.alive();
        }
        self.stop = match finish.as_ref().map(Text::key) {
            None => self.stop,
            Some("") => self.stop,
            Some("length") => Some(Stop::Length),
            Some("content_filter") => Some(Stop::Filtered),
            Some("tool_calls" | "function_call") => Some(Stop::ToolCalls),
            // `stop`, and what compatible servers call the same.
            Some(_) => Some(Stop::Complete),
        };
    }

    /// Did it say anything?
    fn on_delta(&mut self, delta: Raw<'_>, out: &mut Out<'_>) -> bool {
        let (mut content, mut refusal, mut calls, mut legacy) = (None, None, None, None);
        let (mut thought, mut other_thought) = (None, None);
        for (key, value) in delta.fields().filter(|(_, value)| !value.is_null()) {
            match key.key() {
                "content" => content = content.or(Some(value)),
                "refusal" => refusal = value.text(),
                "tool_calls" => calls = Some(value),
                "function_call" => legacy = Some(value),
                // Kimi and DeepSeek write `reasoning_content`, OpenRouter and newer vLLM `reasoning`.
                "reasoning_content" => thought = value.text().filter(|text| !text.is_empty()),
                "reasoning" => other_thought = value.text(),
                _ => {}
            }
        }
        let mut said = out.reasoning(thought.or(other_thought).as_ref());
        let text = content.and_then(Raw::text).filter(|text| !text.is_empty());
        // A refusal stands where the text would.
        said |= out.text(text.or(refusal).as_ref());
        // Mistral's reasoning models send a list of parts.
        for part in content.into_iter().flat_map(Raw::items) {
            said |= out.text(part.get("text").and_then(Raw::text).as_ref());
        }
        for (place, call) in calls.into_iter().flat_map(Raw::items).enumerate() {
            said |= self.on_call(Some(place), call.get("index").and_then(Raw::u64), call, out);
        }
        if let Some(function) = legacy {
            said |= self.on_function(None, Some(0), "", function, out);
        }
        said
    }

    fn on_call(
        &mut self,
        place: Option<usize>,
        number: Option<u64>,
        call: Raw<'_>,
        out: &mut Out<'_>,
    ) -> bool {
        let id = call.get("id").and_then(Raw::text).map(|id| id.plain().into_owned()).unwrap_or_default();
        let Some(function) = call.field("function") else { return false };
        self.on_function(place, number, &id, function, out)
    }

    /// A fragment of a call. Which one is told by its number; where there is none, by its id, or by its place among those
    /// of its chunk.
    fn on_function(
        &mut self,
        place: Option<usize>,
        number: Option<u64>,
        id: &str,
        function: Raw<'_>,
        out: &mut Out<'_>,
    ) -> bool {
        let name = function.get("name").and_then(Raw::text).filter(|name| !name.is_empty());
        let arguments = function.get("arguments").and_then(Raw::text).unwrap_or_default();
        let by_id = || self.calls.iter().rposition(|call| !id.is_empty() && *call.id == *id);
        let found = match number {
            // Some servers number all calls of an answer 0: another id with another name is another call.
            Some(_) => self.calls.iter().rposition(|call| {
                let other = !id.is_empty() && !call.id.is_empty() && *call.id != *id && name.is_some();
                call.number == number && !other
            }),
            None if id.is_empty() && name.is_some() => None,
            None if id.is_empty() => place.filter(|place| *place < self.calls.len()),
            None => by_id(),
        };
        // A fragment with neither id nor name begins no call: where its number or place is nobody's, it goes on with the
        // last one.
        let alone =
            id.is_empty() && name.is_none() && (found.is_none() || number.is_none() && place == Some(0));
        let found = if alone { self.calls.len().checked_sub(1) } else { found };
        let at = match found {
            Some(at) => at,
            None => {
                if out.is_full(u32::try_from(self.calls.len()).unwrap_or(u32::MAX)) {
                    return true;
                }
                self.calls.push(Call { number, id: id.into(), begun: false, early: String::new() });
                self.calls.len() - 1
            }
        };
        let index = u32::try_from(at).unwrap_or(u32::MAX);
        self.held += id.len();
        let Some(call) = self.calls.get_mut(at) else { return false };
        if call.begun {
            out.arguments(index, &arguments);
        } else if let Some(name) = name {
            if call.id.is_empty() {
                call.id = id.into();
            }
            call.begun = true;
            out.begin(index, &call.id, &name);
            out.arguments(index, &core::mem::take(&mut call.early).into());
            out.arguments(index, &arguments);
        } else {
            let before = call.early.len();
            arguments.push_to(&mut call.early);
            self.held += call.early.len() - before;
            if call.id.is_empty() {
                call.id = id.into();
            }
            if out.limits.body_bytes_max < self.held {
                out.malformed("the tool calls of the answer are larger than the limit");
            }
            return false;
        }
        true
    }
}

pub(crate) fn counts_of(usage: Raw<'_>) -> Counts {
    let mut counts = Counts::default();
    let inside = |details: Raw<'_>, key: &str| details.get(key).and_then(Raw::count);
    for (key, value) in usage.fields() {
        match key.key() {
            "prompt_tokens" => counts.prompt = value.count().unwrap_or(0),
            "completion_tokens" => counts.completion = value.count().unwrap_or(0),
            "prompt_tokens_details" => {
                counts.cached = inside(value, "cached_tokens").unwrap_or(counts.cached);
                counts.cache_created = inside(value, "cache_write_tokens").unwrap_or(0);
            }
            "completion_tokens_details" => {
                counts.reasoning = inside(value, "reasoning_tokens").unwrap_or(0);
            }
            // Kimi and DeepSeek.
            "cached_tokens" | "prompt_cache_hit_tokens" => {
                counts.cached = value.count().unwrap_or(counts.cached);
            }
            _ => {}
        }
    }
    counts
}
