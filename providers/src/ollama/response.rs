//! What Ollama's chat answers: a line of JSON for each piece, or one object.
//!
//! Owns what a line means. The answer is whole once a line says `done`. Tool calls come whole, with an object for arguments
//! and mostly without an id. Obeys Ollama's "Generate a chat message" page.
use crate::decoder::Out;
use crate::raw::{Raw, Text};
use crate::said::{CallPart, Counts, Said, Stop};

/// Reads the lines of one answer.
#[derive(Debug)]
pub(crate) struct Reader {
    calls: u32,
}

impl Reader {
    pub(crate) const fn new() -> Self {
        Self { calls: 0 }
    }

    pub(crate) fn on_line(&mut self, data: &[u8], out: &mut Out<'_>) -> bool {
        let (mut message, mut done, mut reason, mut error) = (None, None, Text::default(), None);
        let mut counts = Counts::default();
        let mut counted = false;
        let line = Raw::parse_fields(data, |key, value| match key.key() {
            _ if value.is_null() => {}
            "message" => message = Some(value),
            "done" => done = value.bool(),
            "done_reason" => reason = value.text().unwrap_or_default(),
            "error" => error = Some(value),
            // Absent where the whole prompt was cached.
            "prompt_eval_count" => counts.prompt = value.count().unwrap_or(0),
            "eval_count" => {
                counts.completion = value.count().unwrap_or(0);
                counted = true;
            }
            _ => {}
        });
        if line.is_none() {
            return false;
        }
        if let Some(error) = error {
            out.fail(error);
            return true;
        }
        if message.is_none() && done.is_none() {
            return false;
        }
        if !message.is_some_and(|message| self.on_message(message, out)) {
            out.alive();
        }
        if done == Some(true) {
            if counted {
                out.usage(counts);
            }
            out.finish(match reason.key() {
                "length" => Stop::Length,
                _ if 0 < self.calls => Stop::ToolCalls,
                _ => Stop::Complete,
            });
        }
        true
    }

    /// Did it say anything?
    fn on_message(&mut self, message: Raw<'_>, out: &mut Out<'_>) -> bool {
        let (mut content, mut thinking, mut calls) = (None, None, None);
        for (key, value) in message.fields() {
            match key.key() {
                "content" => content = value.text(),
                "thinking" => thinking = value.text(),
                "tool_calls" => calls = Some(value),
                _ => {}
            }
        }
        let mut said = out.reasoning(thinking.as_ref());
        said |= out.text(content.as_ref());
        for call in calls.into_iter().flat_map(Raw::items) {
            if out.is_full(self.calls) {
                return true;
            }
            said = true;
            self.on_call(call, out);
        }
        said
    }

    fn on_call(&mut self, call: Raw<'_>, out: &mut Out<'_>) {
        let index = self.calls;
        self.calls += 1;
        let id = call.get("id").and_then(Raw::text).unwrap_or_default();
        let function = call.get("function").unwrap_or(Raw::EMPTY);
        out.begin(index, &id.plain(), &function.get("name").and_then(Raw::text).unwrap_or_default());
        if let Some(arguments) = function.field("arguments") {
            // Some compatible servers write the text that OpenAI writes.
            out.arguments(index, &arguments.text().unwrap_or_else(|| arguments.as_str().into()));
        }
        out.say(Said::Call(CallPart::End { index }));
    }
}
