//! An answer as chat completions: chunks, or one body.
//!
//! Owns what a chunk holds. `[DONE]` follows a finish, never a failure.
use crate::answer::{Answer, Block};
use crate::door::{Problem, write_openai_error};
use crate::reply::{Title, write_count, write_field};
use crate::request::Request;
use crate::said::{CallPart, Counts, End, Said, Stop};
use clawgate_core::event::Piece;
use clawgate_wire::{json, sse};

/// Writes one answer.
#[derive(Debug)]
pub(crate) struct Writer {
    /// `"id":…,` behind the brace of a chunk and the object's name.
    title: Vec<u8>,
    include_usage: bool,
    begun: bool,
    counts: Counts,
    /// The calls that had no arguments yet.
    untold: Vec<u32>,
}

impl Writer {
    pub(crate) fn new(title: &Title<'_>, request: &Request<'_>) -> Self {
        let mut head = Vec::new();
        head.extend_from_slice(b",\"id\":\"chatcmpl-");
        json::write_str_body(&mut head, title.id);
        head.push(b'"');
        write_count(&mut head, "created", title.created);
        write_field(&mut head, "model", title.model);
        let counts = Counts::default();
        Self { title: head, include_usage: request.include_usage, begun: false, counts, untold: Vec::new() }
    }

    pub(crate) fn write(&mut self, said: &Said<'_>, out: &mut Vec<u8>) {
        if let Said::Usage(counts) = said {
            self.counts = *counts;
            return;
        }
        if !core::mem::replace(&mut self.begun, true) {
            self.chunk(out, "null", |out| {
                out.extend_from_slice(b"\"role\":\"assistant\",\"content\":\"\"");
            });
        }
        match said {
            Said::Piece(Piece::Text(text)) => self.chunk(out, "null", |out| {
                out.extend_from_slice(b"\"content\":");
                json::write_str(out, text);
            }),
            Said::Piece(Piece::Reasoning(text)) => self.chunk(out, "null", |out| {
                out.extend_from_slice(b"\"reasoning_content\":");
                json::write_str(out, text);
            }),
            Said::Call(part) => self.write_call(part, out),
            Said::Ended(End::Finished(stop)) => {
                self.chunk(out, finish_of(*stop), |_| ());
                if self.include_usage {
                    self.begin(out);
                    out.extend_from_slice(b",\"choices\":[],\"usage\":");
                    write_usage(out, &self.counts);
                    out.push(b'}');
                    sse::end_data(out);
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            // This format has no place for what a provider wants back.
            Said::Thought(_) => {}
            Said::Usage(_) | Said::Piece(Piece::Alive | Piece::Usage(_)) | Said::Ended(End::Failed(_)) => {}
        }
    }

    fn begin(&self, out: &mut Vec<u8>) {
        sse::begin_data(out, None, None);
        out.extend_from_slice(b"{\"object\":\"chat.completion.chunk\"");
        out.extend_from_slice(&self.title);
    }

    fn chunk(&self, out: &mut Vec<u8>, finish: &str, delta: impl FnOnce(&mut Vec<u8>)) {
        self.begin(out);
        out.extend_from_slice(b",\"choices\":[{\"index\":0,\"delta\":{");
        delta(out);
        out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":");
        out.extend_from_slice(finish.as_bytes());
        out.extend_from_slice(if self.include_usage { b"}],\"usage\":null}".as_slice() } else { b"}]}" });
        sse::end_data(out);
    }

    fn write_call(&mut self, part: &CallPart<'_>, out: &mut Vec<u8>) {
        match *part {
            CallPart::Begin { index, id, name } => {
                self.untold.push(index);
                self.chunk(out, "null", |out| {
                    begin_call(out, index);
                    write_field(out, "id", id);
                    out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
                    json::write_str(out, name);
                    out.extend_from_slice(b",\"arguments\":\"\"}}]");
                });
            }
            CallPart::Arguments { index, text } => {
                self.untold.retain(|untold| *untold != index);
                self.chunk(out, "null", |out| {
                    begin_call(out, index);
                    out.extend_from_slice(b",\"function\":{\"arguments\":");
                    json::write_str(out, text);
                    out.extend_from_slice(b"}}]");
                });
            }
            // Clients parse what they put together, and nothing is no JSON.
            CallPart::End { index } if self.untold.contains(&index) => {
                self.write_call(&CallPart::Arguments { index, text: "{}" }, out);
            }
            CallPart::End { .. } => {}
        }
    }

    pub(crate) fn write_whole(&self, answer: &Answer, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"object\":\"chat.completion\"");
        out.extend_from_slice(&self.title);
        out.extend_from_slice(b",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
        let text = answer.text();
        if text.is_empty() && answer.calls().next().is_some() {
            out.extend_from_slice(b"null");
        } else {
            json::write_str(out, &text);
        }
        out.extend_from_slice(b",\"refusal\":null");
        let thoughts = answer.blocks.iter().filter_map(|block| match block {
            Block::Reasoning { text, .. } => Some(text.as_str()),
            Block::Text(_) | Block::Call { .. } => None,
        });
        let thoughts: String = thoughts.collect();
        if !thoughts.is_empty() {
            write_field(out, "reasoning_content", &thoughts);
        }
        let mut before = ",\"tool_calls\":[";
        for (_, id, name, arguments) in answer.calls() {
            out.extend_from_slice(before.as_bytes());
            out.extend_from_slice(b"{\"type\":\"function\"");
            write_field(out, "id", id);
            out.extend_from_slice(b",\"function\":{\"name\":");
            json::write_str(out, name);
            write_field(out, "arguments", if arguments.is_empty() { "{}" } else { arguments });
            out.extend_from_slice(b"}}");
            before = ",";
        }
        out.extend_from_slice(if before == "," { b"]},\"logprobs\":null" } else { b"},\"logprobs\":null" });
        out.extend_from_slice(b",\"finish_reason\":");
        out.extend_from_slice(finish_of(answer.stop().unwrap_or_default()).as_bytes());
        out.extend_from_slice(b"}],\"usage\":");
        write_usage(out, &answer.usage);
        out.push(b'}');
    }
}

fn begin_call(out: &mut Vec<u8>, index: u32) {
    out.extend_from_slice(b"\"tool_calls\":[{\"index\":");
    json::write_u64(out, u64::from(index));
}

const fn finish_of(stop: Stop<'_>) -> &'static str {
    match stop {
        Stop::Complete | Stop::Sequence(_) => "\"stop\"",
        Stop::Length => "\"length\"",
        Stop::Filtered => "\"content_filter\"",
        Stop::ToolCalls => "\"tool_calls\"",
    }
}

/// An estimate is marked by a field that the format does not have: clients read past what they do not know.
fn write_usage(out: &mut Vec<u8>, counts: &Counts) {
    let count = u64::from;
    out.extend_from_slice(b"{\"prompt_tokens\":");
    json::write_u64(out, count(counts.prompt));
    write_count(out, "completion_tokens", count(counts.completion));
    write_count(out, "total_tokens", count(counts.prompt) + count(counts.completion));
    out.extend_from_slice(b",\"prompt_tokens_details\":{\"cached_tokens\":");
    json::write_u64(out, count(counts.cached));
    write_count(out, "cache_write_tokens", count(counts.cache_created));
    out.extend_from_slice(b"},\"completion_tokens_details\":{\"reasoning_tokens\":");
    json::write_u64(out, count(counts.reasoning));
    out.extend_from_slice(if counts.estimated { b"},\"estimated\":true}" } else { b"}}" });
}

/// An error where the status can no longer say it. Nothing follows it.
pub(crate) fn write_failure(problem: &Problem<'_>, out: &mut Vec<u8>) {
    sse::begin_data(out, None, None);
    out.extend_from_slice(b"{\"error\":");
    write_openai_error(problem, out);
    out.push(b'}');
    sse::end_data(out);
}
