//! An answer as OpenAI's responses: typed events with numbers, or one response.
//!
//! Owns the items. The format says everything twice, in pieces and whole, so that what was said is kept until the end,
//! within the bound of the reply.
use crate::answer::{Answer, Block};
use crate::door::Problem;
use crate::proof;
use crate::reply::{Title, write_count, write_field};
use crate::request::{Proof, Request};
use crate::said::{CallPart, Counts, End, Said, Stop, Thought};
use clawgate_core::event::Piece;
use clawgate_wire::{json, sse};

/// Fields of the request that a response repeats, with what stands there if the request has none.
const REPEATED: [(&str, &str); 10] = [
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("reasoning", "{\"effort\":null,\"summary\":null}"),
    ("temperature", "null"),
    ("text", "{\"format\":{\"type\":\"text\"}}"),
    ("tool_choice", "\"auto\""),
    ("tools", "[]"),
    ("top_p", "null"),
];

/// An item of the answer.
#[derive(Debug)]
struct Item {
    what: What,
    text: String,
    /// It is complete.
    done: bool,
}

#[derive(Debug)]
enum What {
    Message,
    /// With what the provider wants back.
    Reasoning(String),
    Call {
        index: u32,
        id: String,
        name: String,
    },
}

/// Writes one answer.
#[derive(Debug)]
pub(crate) struct Writer {
    id: String,
    /// The fields of the response that never change.
    title: Vec<u8>,
    items: Vec<Item>,
    begun: bool,
    counts: Option<Counts>,
    /// Events so far.
    events: u64,
    held: usize,
    held_bytes_max: usize,
}

impl Writer {
    pub(crate) fn new(title: &Title<'_>, request: &Request<'_>, held_bytes_max: usize) -> Self {
        let mut head = Vec::new();
        head.extend_from_slice(b"{\"id\":\"resp_");
        json::write_str_body(&mut head, title.id);
        head.extend_from_slice(b"\",\"object\":\"response\"");
        write_count(&mut head, "created_at", title.created);
        write_field(&mut head, "model", title.model);
        for (name, otherwise) in REPEATED {
            let sent = request.fields.iter().find(|(field, value)| field.is(name) && !value.is_null());
            head.extend_from_slice(b",\"");
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b"\":");
            head.extend_from_slice(sent.map_or(otherwise, |(_, value)| value.as_str()).as_bytes());
        }
        head.extend_from_slice(b",\"previous_response_id\":null,\"store\":false,\"truncation\":\"disabled\"");
        Self {
            id: title.id.to_owned(),
            title: head,
            items: Vec::new(),
            begun: false,
            counts: None,
            events: 0,
            held: 0,
            held_bytes_max,
        }
    }

    /// Appends the events of what was said. `false` if the answer is larger than may be kept.
    pub(crate) fn write(&mut self, said: &Said<'_>, out: &mut Vec<u8>) -> bool {
        if let Said::Usage(counts) = said {
            self.counts = Some(*counts);
            return true;
        }
        if !core::mem::replace(&mut self.begun, true) {
            for name in ["response.created", "response.in_progress"] {
                self.response_event(name, "in_progress", "null", "null", out);
            }
        }
        match said {
            Said::Piece(Piece::Text(text)) => self.write_text(text, out),
            Said::Piece(Piece::Reasoning(text)) => self.write_thought(text, out),
            Said::Thought(thought) => self.on_proof(thought, out),
            Said::Call(part) => self.write_call(part, out),
            Said::Ended(End::Finished(stop)) => self.finish(*stop, out),
            Said::Usage(_) | Said::Piece(Piece::Alive | Piece::Usage(_)) | Said::Ended(End::Failed(_)) => {}
        }
        self.held <= self.held_bytes_max
    }

    pub(crate) fn fail(&mut self, problem: &Problem<'_>, out: &mut Vec<u8>) {
        self.event("error", out, |out| {
            write_field(out, "code", problem.code);
            write_field(out, "message", problem.message);
            out.extend_from_slice(b",\"param\":null");
        });
        let mut error = b"{\"code\":".to_vec();
        json::write_str(&mut error, problem.code);
        write_field(&mut error, "message", problem.message);
        error.push(b'}');
        self.response_event("response.failed", "failed", &String::from_utf8_lossy(&error), "null", out);
    }

    fn event(&mut self, name: &str, out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
        sse::begin_data(out, Some(name), None);
        out.extend_from_slice(b"{\"type\":");
        json::write_str(out, name);
        write_count(out, "sequence_number", self.events);
        self.events += 1;
        fields(out);
        out.push(b'}');
        sse::end_data(out);
    }

    fn response_event(&mut self, name: &str, status: &str, error: &str, why: &str, out: &mut Vec<u8>) {
        let mut response = Vec::new();
        let output = if status == "in_progress" { &[] } else { self.items.as_slice() };
        let counts = self.counts.filter(|_| status != "in_progress");
        write_response(&mut response, &self.title, status, error, why, counts, |out| {
            for (place, item) in output.iter().enumerate() {
                if 0 < place {
                    out.push(b',');
                }
                write_item(out, &self.id, place, item, if item.done { "completed" } else { "incomplete" });
            }
        });
        self.event(name, out, |out| {
            out.extend_from_slice(b",\"response\":");
            out.extend_from_slice(&response);
        });
    }

    /// An event of an item, with its place.
    fn item_event(&mut self, name: &str, place: usize, out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
        let id = self.items.get(place).map(|item| id_of(&self.id, place, item)).unwrap_or_default();
        self.event(name, out, |out| {
            write_field(out, "item_id", &id);
            write_count(out, "output_index", place as u64);
            fields(out);
        });
    }

    fn added(&mut self, what: What, out: &mut Vec<u8>) -> usize {
        let place = self.items.len();
        self.held += size_of::<Item>();
        self.items.push(Item { what, text: String::new(), done: false });
        self.told("response.output_item.added", place, "in_progress", out);
        place
    }

    fn told(&mut self, name: &str, place: usize, status: &str, out: &mut Vec<u8>) {
        let mut written = Vec::new();
        if let Some(item) = self.items.get(place) {
            write_item(&mut written, &self.id, place, item, status);
        }
        self.event(name, out, |out| {
            write_count(out, "output_index", place as u64);
            out.extend_from_slice(b",\"item\":");
            out.extend_from_slice(&written);
        });
    }

    /// The last item, if it is such a one and not complete.
    fn open(&self, is: impl Fn(&What) -> bool) -> Option<usize> {
        let place = self.items.len().checked_sub(1)?;
        self.items.get(place).filter(|item| !item.done && is(&item.what)).map(|_| place)
    }

    fn say(&mut self, place: usize, text: &str) {
        self.held += text.len();
        self.items.get_mut(place).into_iter().for_each(|item| item.text.push_str(text));
    }

    fn write_text(&mut self, text: &str, out: &mut Vec<u8>) {
        let place = self.open(|what| matches!(what, What::Message)).unwrap_or_else(|| {
            self.close(out);
            let place = self.added(What::Message, out);
            self.item_event("response.content_part.added", place, out, |out| {
                out.extend_from_slice(b",\"content_index\":0,\"part\":");
                write_text_part(out, "");
            });
            place
        });
        self.say(place, text);
        self.item_event("response.output_text.delta", place, out, |out| {
            out.extend_from_slice(b",\"content_index\":0");
            write_field(out, "delta", text);
            out.extend_from_slice(b",\"logprobs\":[]");
        });
    }

    fn write_thought(&mut self, text: &str, out: &mut Vec<u8>) {
        let place = self.open(|what| matches!(what, What::Reasoning(proof) if proof.is_empty()));
        let place = place.unwrap_or_else(|| {
            self.close(out);
            let place = self.added(What::Reasoning(String::new()), out);
            self.item_event("response.reasoning_summary_part.added", place, out, |out| {
                out.extend_from_slice(
                    b",\"summary_index\":0,\"part\":{\"type\":\"summary_text\",\"text\":\"\"}",
                );
            });
            place
        });
        self.say(place, text);
        self.item_event("response.reasoning_summary_text.delta", place, out, |out| {
            out.extend_from_slice(b",\"summary_index\":0");
            write_field(out, "delta", text);
        });
    }

    fn on_proof(&mut self, thought: &Thought<'_>, out: &mut Vec<u8>) {
        let text = match *thought {
            Thought::Signature(signature) => proof::of_signature(signature),
            Thought::Redacted(data) => proof::of_redacted(data),
            Thought::Item { id, encrypted } => proof::of_item(id, encrypted),
        };
        self.held += text.len();
        let alone = matches!(thought, Thought::Redacted(_));
        let open = self.open(|what| matches!(what, What::Reasoning(proof) if proof.is_empty() && !alone));
        let place = open.unwrap_or_else(|| {
            self.close(out);
            self.added(What::Reasoning(String::new()), out)
        });
        if let Some(Item { what: What::Reasoning(proof), .. }) = self.items.get_mut(place) {
            *proof = text;
        }
        self.complete(place, out);
    }

    fn write_call(&mut self, part: &CallPart<'_>, out: &mut Vec<u8>) {
        let place = |items: &[Item], wanted: u32| {
            items.iter().rposition(|item| matches!(item.what, What::Call { index, .. } if index == wanted))
        };
        match *part {
            CallPart::Begin { index, id, name } => {
                if self.open(|what| !matches!(what, What::Call { .. })).is_some() {
                    self.close(out);
                }
                self.held += id.len() + name.len();
                self.added(What::Call { index, id: id.to_owned(), name: name.to_owned() }, out);
            }
            CallPart::Arguments { index, text } => {
                let Some(place) = place(&self.items, index) else { return };
                self.say(place, text);
                self.item_event("response.function_call_arguments.delta", place, out, |out| {
                    write_field(out, "delta", text);
                });
            }
            CallPart::End { index } => {
                place(&self.items, index).into_iter().for_each(|place| self.complete(place, out));
            }
        }
    }

    /// Completes the last item, if it is no call: calls end by themselves.
    fn close(&mut self, out: &mut Vec<u8>) {
        if let Some(place) = self.open(|what| !matches!(what, What::Call { .. })) {
            self.complete(place, out);
        }
    }

    fn complete(&mut self, place: usize, out: &mut Vec<u8>) {
        let Some(item) = self.items.get_mut(place).filter(|item| !item.done) else { return };
        item.done = true;
        if matches!(item.what, What::Call { .. }) && item.text.is_empty() {
            item.text.push_str("{}");
        }
        let text = item.text.clone();
        match &item.what {
            What::Message => {
                self.item_event("response.output_text.done", place, out, |out| {
                    out.extend_from_slice(b",\"content_index\":0");
                    write_field(out, "text", &text);
                    out.extend_from_slice(b",\"logprobs\":[]");
                });
                self.item_event("response.content_part.done", place, out, |out| {
                    out.extend_from_slice(b",\"content_index\":0,\"part\":");
                    write_text_part(out, &text);
                });
            }
            What::Reasoning(_) if text.is_empty() => {}
            What::Reasoning(_) => {
                self.item_event("response.reasoning_summary_text.done", place, out, |out| {
                    out.extend_from_slice(b",\"summary_index\":0");
                    write_field(out, "text", &text);
                });
                self.item_event("response.reasoning_summary_part.done", place, out, |out| {
                    out.extend_from_slice(b",\"summary_index\":0,\"part\":{\"type\":\"summary_text\"");
                    write_field(out, "text", &text);
                    out.push(b'}');
                });
            }
            What::Call { name, .. } => {
                let name = name.clone();
                self.item_event("response.function_call_arguments.done", place, out, |out| {
                    write_field(out, "arguments", &text);
                    write_field(out, "name", &name);
                });
            }
        }
        self.told("response.output_item.done", place, "completed", out);
    }

    fn finish(&mut self, stop: Stop<'_>, out: &mut Vec<u8>) {
        for place in 0..self.items.len() {
            self.complete(place, out);
        }
        let (name, status, why) = end_of(stop);
        self.response_event(name, status, "null", why, out);
    }

    pub(crate) fn write_whole(&self, answer: &Answer, out: &mut Vec<u8>) {
        let (_, status, why) = end_of(answer.stop().unwrap_or_default());
        write_response(out, &self.title, status, "null", why, Some(answer.usage), |out| {
            for (place, block) in answer.blocks.iter().enumerate() {
                if 0 < place {
                    out.push(b',');
                }
                write_item(out, &self.id, place, &item_of(block), "completed");
            }
        });
    }
}

fn item_of(block: &Block) -> Item {
    let (what, text) = match block {
        Block::Text(text) => (What::Message, text.clone()),
        Block::Reasoning { text, proof } => {
            let mark = match proof {
                Proof::None => String::new(),
                Proof::Signature(signature) => proof::of_signature(&signature.plain()),
                Proof::Redacted(data) => proof::of_redacted(&data.plain()),
                Proof::Item { id, encrypted } => proof::of_item(&id.plain(), &encrypted.plain()),
            };
            (What::Reasoning(mark), text.clone())
        }
        Block::Call { index, id, name, arguments } => {
            let text = if arguments.is_empty() { "{}".to_owned() } else { arguments.clone() };
            (What::Call { index: *index, id: id.clone(), name: name.clone() }, text)
        }
    };
    Item { what, text, done: true }
}

const fn end_of(stop: Stop<'_>) -> (&'static str, &'static str, &'static str) {
    match stop {
        Stop::Complete | Stop::ToolCalls | Stop::Sequence(_) => ("response.completed", "completed", "null"),
        Stop::Length => ("response.incomplete", "incomplete", "{\"reason\":\"max_output_tokens\"}"),
        Stop::Filtered => ("response.incomplete", "incomplete", "{\"reason\":\"content_filter\"}"),
    }
}

fn write_response(
    out: &mut Vec<u8>,
    title: &[u8],
    status: &str,
    error: &str,
    why: &str,
    counts: Option<Counts>,
    output: impl FnOnce(&mut Vec<u8>),
) {
    out.extend_from_slice(title);
    write_field(out, "status", status);
    for (name, value) in [("error", error), ("incomplete_details", why)] {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(b",\"output\":[");
    output(out);
    out.extend_from_slice(b"],\"usage\":");
    match counts {
        None => out.extend_from_slice(b"null"),
        Some(counts) => write_usage(out, &counts),
    }
    out.push(b'}');
}

fn id_of(id: &str, place: usize, item: &Item) -> String {
    let kind = match item.what {
        What::Message => "msg",
        What::Reasoning(_) => "rs",
        What::Call { .. } => "fc",
    };
    format!("{kind}_{id}_{place}")
}

fn write_item(out: &mut Vec<u8>, id: &str, place: usize, item: &Item, status: &str) {
    out.extend_from_slice(b"{\"id\":");
    json::write_str(out, &id_of(id, place, item));
    match &item.what {
        What::Message => {
            out.extend_from_slice(b",\"type\":\"message\",\"role\":\"assistant\"");
            write_field(out, "status", status);
            out.extend_from_slice(b",\"content\":[");
            if status != "in_progress" {
                write_text_part(out, &item.text);
            }
            out.push(b']');
        }
        What::Reasoning(proof) => {
            out.extend_from_slice(b",\"type\":\"reasoning\",\"summary\":[");
            if !item.text.is_empty() {
                out.extend_from_slice(b"{\"type\":\"summary_text\"");
                write_field(out, "text", &item.text);
                out.push(b'}');
            }
            out.push(b']');
            if !proof.is_empty() {
                write_field(out, "encrypted_content", proof);
            }
        }
        What::Call { id, name, .. } => {
            out.extend_from_slice(b",\"type\":\"function_call\"");
            write_field(out, "status", status);
            write_field(out, "call_id", id);
            write_field(out, "name", name);
            write_field(out, "arguments", &item.text);
        }
    }
    out.push(b'}');
}

fn write_text_part(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b"{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[]");
    write_field(out, "text", text);
    out.push(b'}');
}

/// An estimate is marked by a field that the format does not have: clients read past what they do not know.
fn write_usage(out: &mut Vec<u8>, counts: &Counts) {
    let count = u64::from;
    out.extend_from_slice(b"{\"input_tokens\":");
    json::write_u64(out, count(counts.prompt));
    out.extend_from_slice(b",\"input_tokens_details\":{\"cached_tokens\":");
    json::write_u64(out, count(counts.cached));
    write_count(out, "cache_write_tokens", count(counts.cache_created));
    out.push(b'}');
    write_count(out, "output_tokens", count(counts.completion));
    out.extend_from_slice(b",\"output_tokens_details\":{\"reasoning_tokens\":");
    json::write_u64(out, count(counts.reasoning));
    out.push(b'}');
    write_count(out, "total_tokens", count(counts.prompt) + count(counts.completion));
    out.extend_from_slice(if counts.estimated { b",\"estimated\":true}" } else { b"}" });
}

/// Writes the event of a failure by itself.
pub(crate) fn write_failure(problem: &Problem<'_>, sequence: u64, out: &mut Vec<u8>) {
    sse::begin_data(out, Some("error"), None);
    out.extend_from_slice(b"{\"type\":\"error\"");
    write_count(out, "sequence_number", sequence);
    write_field(out, "code", problem.code);
    write_field(out, "message", problem.message);
    out.extend_from_slice(b",\"param\":null}");
    sse::end_data(out);
}
