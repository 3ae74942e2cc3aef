//! An answer as Anthropic's messages: events, or one message.
//!
//! Owns the blocks. One is open at a time, so that what belongs to another one while a tool call is open waits until the
//! call has ended.
use crate::answer::{Answer, Block};
use crate::door::{Problem, write_error};
use crate::format::Kind;
use crate::proof;
use crate::raw::Raw;
use crate::reply::{Title, write_count, write_field};
use crate::request::Proof;
use crate::said::{CallPart, Counts, End, Said, Stop, Thought};
use clawgate_core::event::Piece;
use clawgate_wire::{json, sse};

/// The block that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    None,
    Text,
    Thinking,
    /// A tool call.
    Call(u32),
}

/// What waits for the open call to end.
#[derive(Debug)]
enum Waiting {
    Text(String),
    Thinking(String),
    Call { index: u32, id: String, name: String, arguments: String, ended: bool },
}

/// Writes one answer.
#[derive(Debug)]
pub(crate) struct Writer {
    /// The fields of the message up to its content.
    title: Vec<u8>,
    begun: bool,
    counts: Counts,
    /// Blocks that began.
    blocks: u64,
    open: Open,
    waiting: Vec<Waiting>,
    held: usize,
    held_bytes_max: usize,
}

impl Writer {
    pub(crate) fn new(title: &Title<'_>, held_bytes_max: usize) -> Self {
        let mut head = Vec::new();
        head.extend_from_slice(b"{\"id\":\"msg_");
        json::write_str_body(&mut head, title.id);
        head.extend_from_slice(b"\",\"type\":\"message\",\"role\":\"assistant\"");
        write_field(&mut head, "model", title.model);
        let (counts, open, waiting) = (Counts::default(), Open::None, Vec::new());
        Self { title: head, begun: false, counts, blocks: 0, open, waiting, held: 0, held_bytes_max }
    }

    /// Appends the events of what was said. `false` if more waits than may.
    pub(crate) fn write(&mut self, said: &Said<'_>, out: &mut Vec<u8>) -> bool {
        if let Said::Usage(counts) = said {
            self.counts = *counts;
            return true;
        }
        if !core::mem::replace(&mut self.begun, true) {
            begin(out, "message_start");
            out.extend_from_slice(b",\"message\":");
            out.extend_from_slice(&self.title);
            out.extend_from_slice(b",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
            write_usage(out, &self.counts);
            out.extend_from_slice(b"}}");
            sse::end_data(out);
        }
        match said {
            Said::Piece(Piece::Text(text)) => self.write_text(text, out),
            Said::Piece(Piece::Reasoning(text)) => self.write_thinking(text, out),
            Said::Thought(thought) => self.write_thought(thought, out),
            Said::Call(CallPart::Begin { index, id, name }) => {
                if matches!(self.open, Open::Call(_)) {
                    let (id, name) = ((*id).to_owned(), (*name).to_owned());
                    self.held += id.len() + name.len() + size_of::<Waiting>();
                    let call =
                        Waiting::Call { index: *index, id, name, arguments: String::new(), ended: false };
                    self.waiting.push(call);
                } else {
                    self.begin_call(*index, id, name, out);
                }
            }
            Said::Call(CallPart::Arguments { index, text }) => {
                if self.open == Open::Call(*index) {
                    self.delta("input_json_delta", "partial_json", text, out);
                } else if let Some((arguments, _)) = self.waiting_call(*index) {
                    arguments.push_str(text);
                    self.held += text.len();
                }
            }
            Said::Call(CallPart::End { index }) => {
                if self.open == Open::Call(*index) {
                    self.close(out);
                    self.release(out);
                } else if let Some((_, ended)) = self.waiting_call(*index) {
                    *ended = true;
                }
            }
            Said::Ended(End::Finished(stop)) => self.finish(*stop, out),
            Said::Usage(_) | Said::Piece(Piece::Alive | Piece::Usage(_)) | Said::Ended(End::Failed(_)) => {}
        }
        self.held <= self.held_bytes_max
    }

    fn waiting_call(&mut self, wanted: u32) -> Option<(&mut String, &mut bool)> {
        self.waiting.iter_mut().find_map(|waiting| match waiting {
            Waiting::Call { index, arguments, ended, .. } if *index == wanted => Some((arguments, ended)),
            Waiting::Text(_) | Waiting::Thinking(_) | Waiting::Call { .. } => None,
        })
    }

    fn write_text(&mut self, text: &str, out: &mut Vec<u8>) {
        if matches!(self.open, Open::Call(_)) {
            self.held += text.len() + size_of::<Waiting>();
            return self.waiting.push(Waiting::Text(text.to_owned()));
        }
        if self.open != Open::Text {
            self.start(Open::Text, out, |out| out.extend_from_slice(b"{\"type\":\"text\",\"text\":\"\"}"));
        }
        self.delta("text_delta", "text", text, out);
    }

    fn write_thinking(&mut self, text: &str, out: &mut Vec<u8>) {
        if matches!(self.open, Open::Call(_)) {
            self.held += text.len() + size_of::<Waiting>();
            return self.waiting.push(Waiting::Thinking(text.to_owned()));
        }
        if self.open != Open::Thinking {
            self.start(Open::Thinking, out, |out| {
                out.extend_from_slice(b"{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
            });
        }
        if !text.is_empty() {
            self.delta("thinking_delta", "thinking", text, out);
        }
    }

    /// A proof ends the block that it proves.
    fn write_thought(&mut self, thought: &Thought<'_>, out: &mut Vec<u8>) {
        if matches!(self.open, Open::Call(_)) {
            return;
        }
        let marked;
        let signature = match *thought {
            Thought::Redacted(data) => {
                self.start(Open::None, out, |out| {
                    out.extend_from_slice(b"{\"type\":\"redacted_thinking\"");
                    write_field(out, "data", data);
                    out.push(b'}');
                });
                return self.stop(out);
            }
            Thought::Signature(signature) => signature,
            Thought::Item { id, encrypted } => {
                marked = proof::of_item(id, encrypted);
                &marked
            }
        };
        self.write_thinking("", out);
        self.delta("signature_delta", "signature", signature, out);
        self.close(out);
    }

    fn begin_call(&mut self, index: u32, id: &str, name: &str, out: &mut Vec<u8>) {
        self.start(Open::Call(index), out, |out| {
            out.extend_from_slice(b"{\"type\":\"tool_use\"");
            write_field(out, "id", id);
            write_field(out, "name", name);
            out.extend_from_slice(b",\"input\":{}}");
        });
    }

    fn start(&mut self, open: Open, out: &mut Vec<u8>, block: impl FnOnce(&mut Vec<u8>)) {
        self.close(out);
        begin(out, "content_block_start");
        write_count(out, "index", self.blocks);
        out.extend_from_slice(b",\"content_block\":");
        block(out);
        out.push(b'}');
        sse::end_data(out);
        self.blocks += 1;
        self.open = open;
    }

    fn delta(&self, kind: &str, name: &str, text: &str, out: &mut Vec<u8>) {
        begin(out, "content_block_delta");
        write_count(out, "index", self.blocks.saturating_sub(1));
        out.extend_from_slice(b",\"delta\":{\"type\":");
        json::write_str(out, kind);
        write_field(out, name, text);
        out.extend_from_slice(b"}}");
        sse::end_data(out);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open != Open::None {
            self.stop(out);
        }
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        self.open = Open::None;
        begin(out, "content_block_stop");
        write_count(out, "index", self.blocks.saturating_sub(1));
        out.push(b'}');
        sse::end_data(out);
    }

    /// Writes what waited, up to the next call that has not ended.
    fn release(&mut self, out: &mut Vec<u8>) {
        while !matches!(self.open, Open::Call(_)) && !self.waiting.is_empty() {
            match self.waiting.remove(0) {
                Waiting::Text(text) => self.write_text(&text, out),
                Waiting::Thinking(text) => self.write_thinking(&text, out),
                Waiting::Call { index, id, name, arguments, ended } => {
                    self.begin_call(index, &id, &name, out);
                    if !arguments.is_empty() {
                        self.delta("input_json_delta", "partial_json", &arguments, out);
                    }
                    if ended {
                        self.close(out);
                    }
                }
            }
        }
        if self.waiting.is_empty() {
            self.held = 0;
        }
    }

    fn finish(&mut self, stop: Stop<'_>, out: &mut Vec<u8>) {
        self.close(out);
        while !self.waiting.is_empty() {
            self.release(out);
            self.close(out);
        }
        begin(out, "message_delta");
        out.extend_from_slice(b",\"delta\":{");
        write_stop(out, stop);
        out.extend_from_slice(b"},\"usage\":");
        write_usage(out, &self.counts);
        out.push(b'}');
        sse::end_data(out);
        begin(out, "message_stop");
        out.push(b'}');
        sse::end_data(out);
    }

    /// Writes an answer whole. `false` if a call has arguments that are no object.
    pub(crate) fn write_whole(&self, answer: &Answer, out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&self.title);
        out.extend_from_slice(b",\"content\":[");
        let mut first = true;
        for block in &answer.blocks {
            if matches!(block, Block::Text(text) if text.is_empty()) {
                continue;
            }
            if !core::mem::take(&mut first) {
                out.push(b',');
            }
            if !write_block(block, out) {
                return false;
            }
        }
        out.extend_from_slice(b"],");
        write_stop(out, answer.stop().unwrap_or_default());
        out.extend_from_slice(b",\"usage\":");
        write_usage(out, &answer.usage);
        out.push(b'}');
        true
    }
}

fn write_block(block: &Block, out: &mut Vec<u8>) -> bool {
    match block {
        Block::Text(text) => {
            out.extend_from_slice(b"{\"type\":\"text\"");
            write_field(out, "text", text);
        }
        Block::Reasoning { proof: Proof::Redacted(data), .. } => {
            out.extend_from_slice(b"{\"type\":\"redacted_thinking\"");
            write_field(out, "data", &data.plain());
        }
        Block::Reasoning { text, proof } => {
            out.extend_from_slice(b"{\"type\":\"thinking\"");
            write_field(out, "thinking", text);
            match proof {
                Proof::Signature(signature) => write_field(out, "signature", &signature.plain()),
                Proof::Item { id, encrypted } => {
                    write_field(out, "signature", &proof::of_item(&id.plain(), &encrypted.plain()));
                }
                Proof::None | Proof::Redacted(_) => write_field(out, "signature", ""),
            }
        }
        Block::Call { id, name, arguments, .. } => {
            let input = match arguments.trim() {
                "" => Some(Raw::EMPTY),
                text => Raw::parse(text.as_bytes()).filter(|input| input.is_object()),
            };
            let Some(input) = input else { return false };
            out.extend_from_slice(b"{\"type\":\"tool_use\"");
            write_field(out, "id", id);
            write_field(out, "name", name);
            out.extend_from_slice(b",\"input\":");
            out.extend_from_slice(input.as_str().as_bytes());
        }
    }
    out.push(b'}');
    true
}

fn begin(out: &mut Vec<u8>, name: &str) {
    sse::begin_data(out, Some(name), None);
    out.extend_from_slice(b"{\"type\":");
    json::write_str(out, name);
}

fn write_stop(out: &mut Vec<u8>, stop: Stop<'_>) {
    let (reason, sequence) = match stop {
        Stop::Complete => ("end_turn", None),
        Stop::Length => ("max_tokens", None),
        Stop::Filtered => ("refusal", None),
        Stop::ToolCalls => ("tool_use", None),
        Stop::Sequence(text) => ("stop_sequence", Some(text)),
    };
    out.extend_from_slice(b"\"stop_reason\":");
    json::write_str(out, reason);
    match sequence {
        Some(text) => write_field(out, "stop_sequence", text),
        None => out.extend_from_slice(b",\"stop_sequence\":null"),
    }
}

/// Tokens from and to caches are counted apart here. An estimate is marked by a field that the format does not have.
fn write_usage(out: &mut Vec<u8>, counts: &Counts) {
    let apart = counts.cached.saturating_add(counts.cache_created);
    out.extend_from_slice(b"{\"input_tokens\":");
    json::write_u64(out, u64::from(counts.prompt.saturating_sub(apart)));
    write_count(out, "cache_creation_input_tokens", u64::from(counts.cache_created));
    write_count(out, "cache_read_input_tokens", u64::from(counts.cached));
    write_count(out, "output_tokens", u64::from(counts.completion));
    if 0 < counts.reasoning {
        out.extend_from_slice(b",\"output_tokens_details\":{\"thinking_tokens\":");
        json::write_u64(out, u64::from(counts.reasoning));
        out.push(b'}');
    }
    out.extend_from_slice(if counts.estimated { b",\"estimated\":true}" } else { b"}" });
}

/// An error where the status can no longer say it. Nothing follows it.
pub(crate) fn write_failure(problem: &Problem<'_>, out: &mut Vec<u8>) {
    sse::begin_data(out, Some("error"), None);
    write_error(Kind::Anthropic, problem, out);
    sse::end_data(out);
}

pub(crate) fn write_ping(out: &mut Vec<u8>) {
    begin(out, "ping");
    out.push(b'}');
    sse::end_data(out);
}
