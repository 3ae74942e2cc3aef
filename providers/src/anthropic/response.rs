//! What Anthropic's messages answer: a stream of typed events, or one message.
//!
//! Owns what the events mean, and whether the answer is whole. A stream is whole once a stop reason came; `ping` and types
//! that nobody knows say nothing. Obeys Anthropic's "Streaming Messages" and "Errors" pages.
use crate::decoder::Out;
use crate::failure::cut;
use crate::raw::{Raw, Text};
use crate::said::{CallPart, Counts, Said, Stop};

/// A block that is a tool call and has not ended.
#[derive(Debug)]
struct Open {
    block: u64,
    index: u32,
    /// Arguments came.
    told: bool,
    /// Arguments that stood at its beginning, where compatible servers put them.
    whole: String,
}

/// Why the model stopped.
#[derive(Debug)]
enum Reason {
    Stop(Stop<'static>),
    Sequence(String),
}

/// Reads the events of one answer.
#[derive(Debug)]
pub(crate) struct Reader {
    open: Vec<Open>,
    calls: u32,
    counts: Tokens,
    reason: Option<Reason>,
}

/// Tokens as Anthropic counts them: those of caches apart.
#[derive(Clone, Copy, Debug)]
struct Tokens {
    input: u32,
    output: u32,
    cache_read: u32,
    cache_created: u32,
    thinking: u32,
}

impl Reader {
    pub(crate) const fn new() -> Self {
        let counts = Tokens { input: 0, output: 0, cache_read: 0, cache_created: 0, thinking: 0 };
        Self { open: Vec::new(), calls: 0, counts, reason: None }
    }

    pub(crate) fn on_event(&mut self, data: &[u8], out: &mut Out<'_>) -> bool {
        let (mut kind, mut index, mut body) = (Text::default(), 0, None);
        let (mut usage, mut error) = (None, None);
        let event = Raw::parse_fields(data, |key, value| match key.key() {
            _ if value.is_null() => {}
            "type" => kind = value.text().unwrap_or_default(),
            "index" => index = value.u64().unwrap_or(0),
            "message" | "content_block" | "delta" => body = body.or(Some(value)),
            "usage" => usage = Some(value),
            "error" => error = Some(value),
            _ => {}
        });
        let Some(event) = event else { return false };
        match (kind.key(), body) {
            ("content_block_delta", Some(delta)) => self.on_delta(index, delta, out),
            ("content_block_start", Some(block)) => self.on_block(index, block, out),
            ("content_block_stop", _) => self.on_block_end(index, out),
            ("message_start", Some(message)) => {
                out.alive();
                self.on_usage(message.field("usage"), out);
            }
            ("message_delta", body) => {
                self.on_reason(body);
                out.alive();
                self.on_usage(usage, out);
            }
            ("message_stop", _) => {
                self.reason.get_or_insert(Reason::Stop(Stop::Complete));
                self.on_end(out);
            }
            ("error", _) => out.fail(error.unwrap_or(event)),
            ("", _) => match error {
                Some(error) => out.fail(error),
                None => return false,
            },
            // `ping`, and what "may be added in the future".
            _ => {}
        }
        true
    }

    pub(crate) fn on_whole(&mut self, message: Raw<'_>, out: &mut Out<'_>) -> bool {
        let kind = message.get("type").and_then(Raw::text).unwrap_or_default();
        let error = message.field("error");
        if kind.key() == "error" || error.is_some() {
            out.fail(error.unwrap_or(message));
            return true;
        }
        let Some(content) = message.field("content").filter(|content| content.is_array()) else {
            return false;
        };
        for (index, block) in (0_u64..).zip(content.items()) {
            self.on_block(index, block, out);
            self.on_block_end(index, out);
            if out.is_ended() {
                return true;
            }
        }
        if self.calls == 0 {
            out.alive();
        }
        self.on_reason(Some(message));
        self.on_usage(message.field("usage"), out);
        self.reason.get_or_insert(Reason::Stop(Stop::Complete));
        self.on_end(out);
        true
    }

    /// The response is over.
    pub(crate) fn on_end(&mut self, out: &mut Out<'_>) {
        match &self.reason {
            None => {}
            Some(Reason::Stop(Stop::Complete)) if 0 < self.calls => out.finish(Stop::ToolCalls),
            Some(Reason::Stop(stop)) => out.finish(*stop),
            Some(Reason::Sequence(text)) => out.finish(Stop::Sequence(text)),
        }
    }

    fn on_block(&mut self, block: u64, content: Raw<'_>, out: &mut Out<'_>) {
        let text = |key: &str| content.get(key).and_then(Raw::text);
        match text("type").unwrap_or_default().key() {
            "text" if out.text(text("text").as_ref()) => {}
            "thinking" => {
                if !out.reasoning(text("thinking").as_ref()) {
                    out.alive();
                }
                if let Some(signature) = text("signature").filter(|text| !text.is_empty()) {
                    out.signature(&signature);
                }
            }
            "redacted_thinking" => out.redacted(&text("data").unwrap_or_default()),
            "tool_use" => {
                if out.is_full(self.calls) {
                    return;
                }
                let index = self.calls;
                self.calls += 1;
                let id = text("id").unwrap_or_default();
                out.begin(index, &id.plain(), &text("name").unwrap_or_default());
                // The documented beginning is `{}`, whatever follows.
                let input = content.field("input").filter(|input| input.fields().next().is_some());
                let whole = input.map(Raw::as_str).unwrap_or_default().to_owned();
                let held: usize = self.open.iter().map(|open| open.whole.len()).sum();
                if out.limits.body_bytes_max < held + whole.len() {
                    return out.malformed("the tool calls of the answer are larger than the limit");
                }
                self.open.push(Open { block, index, told: false, whole });
            }
            _ => out.alive(),
        }
    }

    fn on_delta(&mut self, block: u64, delta: Raw<'_>, out: &mut Out<'_>) {
        let (mut kind, mut text) = (Text::default(), None);
        for (key, value) in delta.fields() {
            match key.key() {
                "type" => kind = value.text().unwrap_or_default(),
                "text" | "thinking" | "partial_json" | "signature" => text = text.or(value.text()),
                _ => {}
            }
        }
        let said = match kind.key() {
            "text_delta" => out.text(text.as_ref()),
            "thinking_delta" => out.reasoning(text.as_ref()),
            "signature_delta" => {
                out.signature(&text.unwrap_or_default());
                true
            }
            "input_json_delta" => {
                let text = text.filter(|text| !text.is_empty());
                match (self.open.iter_mut().find(|open| open.block == block), text) {
                    (Some(open), Some(text)) => {
                        open.told = true;
                        out.arguments(open.index, &text);
                        true
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        if !said {
            out.alive();
        }
    }

    fn on_block_end(&mut self, block: u64, out: &mut Out<'_>) {
        let Some(at) = self.open.iter().position(|open| open.block == block) else { return };
        let open = self.open.remove(at);
        if !open.told && !open.whole.is_empty() {
            out.arguments(open.index, &open.whole.into());
        }
        out.say(Said::Call(CallPart::End { index: open.index }));
    }

    fn on_reason(&mut self, body: Option<Raw<'_>>) {
        let Some(body) = body else { return };
        let text = |key: &str| body.get(key).and_then(Raw::text);
        let Some(reason) = text("stop_reason") else { return };
        self.reason = Some(match reason.key() {
            "max_tokens" | "model_context_window_exceeded" => Reason::Stop(Stop::Length),
            "tool_use" => Reason::Stop(Stop::ToolCalls),
            "refusal" => Reason::Stop(Stop::Filtered),
            "stop_sequence" => {
                Reason::Sequence(cut(&text("stop_sequence").unwrap_or_default().plain()).to_owned())
            }
            _ => Reason::Stop(Stop::Complete),
        });
    }

    /// Counts are cumulative, and what a later event leaves out stays as it was.
    fn on_usage(&mut self, usage: Option<Raw<'_>>, out: &mut Out<'_>) {
        let Some(usage) = usage else { return };
        let mut counted = false;
        for (key, value) in usage.fields() {
            let Some(count) = value.count() else {
                if key.key() == "output_tokens_details" {
                    self.counts.thinking =
                        value.get("thinking_tokens").and_then(Raw::count).unwrap_or(self.counts.thinking);
                }
                continue;
            };
            match key.key() {
                "input_tokens" => self.counts.input = count,
                "output_tokens" => self.counts.output = count,
                "cache_read_input_tokens" => self.counts.cache_read = count,
                "cache_creation_input_tokens" => self.counts.cache_created = count,
                _ => continue,
            }
            counted = true;
        }
        // No count is not a count of nothing: it is estimated.
        if !counted {
            return;
        }
        let Tokens { input, output, cache_read, cache_created, thinking } = self.counts;
        out.usage(Counts {
            prompt: input.saturating_add(cache_read).saturating_add(cache_created),
            completion: output,
            cached: cache_read,
            cache_created,
            reasoning: thinking,
            estimated: false,
        });
    }
}
