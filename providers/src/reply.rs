//! What a client is answered in the format that it speaks: as a stream of events, or whole.
//!
//! Owns the order that all formats share: a beginning, what was said, one end. After a failure nothing follows that a client
//! could take for an end. What an event looks like is its format's.
use crate::answer::Answer;
use crate::door::{Problem, write_error};
use crate::format::Kind;
use crate::request::Request;
use crate::said::{End, Said};
use crate::{anthropic, openai_chat, openai_responses};
use clawgate_core::codes::Code;
use clawgate_core::event::Piece;
use clawgate_wire::json;

/// What a reply is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Title<'a> {
    /// Its id, without the beginning that the format gives it.
    pub id: &'a str,
    /// When it began, in Unix seconds.
    pub created: u64,
    /// The model, as the client is told.
    pub model: &'a str,
}

/// Writes one reply.
#[derive(Debug)]
pub struct Reply {
    form: Form,
    ended: bool,
}

#[derive(Debug)]
enum Form {
    Chat(openai_chat::Writer),
    Responses(Box<openai_responses::Writer>),
    Anthropic(Box<anthropic::Writer>),
}

impl Reply {
    /// A reply to a request that came through this door. It keeps back at most `held_bytes_max`: of tool calls that come
    /// interleaved where the format has them one after another, and of an answer that the format says twice.
    #[must_use]
    pub fn new(kind: Kind, title: &Title<'_>, request: &Request<'_>, held_bytes_max: usize) -> Self {
        let form = match kind {
            Kind::OpenAiChat | Kind::Ollama => Form::Chat(openai_chat::Writer::new(title, request)),
            Kind::OpenAiResponses => {
                Form::Responses(Box::new(openai_responses::Writer::new(title, request, held_bytes_max)))
            }
            Kind::Anthropic => Form::Anthropic(Box::new(anthropic::Writer::new(title, held_bytes_max))),
        };
        Self { form, ended: false }
    }

    /// Did it end?
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// Appends the events of what was said.
    pub fn write(&mut self, said: &Said<'_>, out: &mut Vec<u8>) {
        if self.ended || matches!(said, Said::Piece(Piece::Alive)) {
            return;
        }
        let fits = match (&mut self.form, said) {
            (_, Said::Ended(End::Failed(failure))) => {
                return self.fail(&Problem::of(failure.code, failure.detail), out);
            }
            (Form::Chat(writer), said) => {
                writer.write(said, out);
                true
            }
            (Form::Responses(writer), said) => writer.write(said, out),
            (Form::Anthropic(writer), said) => writer.write(said, out),
        };
        if !fits {
            return self.fail(&Problem::of(Code::ReplyTooLong, ""), out);
        }
        self.ended = matches!(said, Said::Ended(_));
    }

    /// Appends the event of a failure: the last one.
    pub fn fail(&mut self, problem: &Problem<'_>, out: &mut Vec<u8>) {
        if self.ended {
            return;
        }
        self.ended = true;
        match &mut self.form {
            Form::Chat(_) => openai_chat::write_failure(problem, out),
            Form::Responses(writer) => writer.fail(problem, out),
            Form::Anthropic(_) => anthropic::write_failure(problem, out),
        }
    }

    /// Appends what keeps an idle stream open.
    pub fn ping(&self, out: &mut Vec<u8>) {
        match &self.form {
            Form::Chat(_) | Form::Responses(_) => clawgate_wire::sse::write_comment(out, "alive"),
            Form::Anthropic(_) => anthropic::write_ping(out),
        }
    }

    /// Writes an answer whole. Says whether the format can carry it: where arguments are an object, a call with others
    /// cannot be told, and an error is written instead.
    pub fn write_whole(&mut self, answer: &Answer, out: &mut Vec<u8>) -> bool {
        self.ended = true;
        let start = out.len();
        let (kind, fits) = match &mut self.form {
            Form::Chat(writer) => {
                writer.write_whole(answer, out);
                (Kind::OpenAiChat, true)
            }
            Form::Responses(writer) => {
                writer.write_whole(answer, out);
                (Kind::OpenAiResponses, true)
            }
            Form::Anthropic(writer) => (Kind::Anthropic, writer.write_whole(answer, out)),
        };
        if !fits {
            out.truncate(start);
            let text = "the model called a tool with arguments that are no JSON object";
            write_error(kind, &Problem::of(Code::UpstreamMalformed, text), out);
        }
        fits
    }
}

/// Appends the event of a failure, where whoever wrote the reply is gone: behind it nothing follows. `sequence` counts the
/// events of the reply so far, for the format that numbers them.
pub fn write_failure(kind: Kind, problem: &Problem<'_>, sequence: u64, out: &mut Vec<u8>) {
    match kind {
        Kind::OpenAiChat | Kind::Ollama => openai_chat::write_failure(problem, out),
        Kind::OpenAiResponses => openai_responses::write_failure(problem, sequence, out),
        Kind::Anthropic => anthropic::write_failure(problem, out),
    }
}

/// Writes a string behind a name, with a comma before both.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json::write_str(out, text);
}

/// Writes a count behind a name, with a comma before both.
pub(crate) fn write_count(out: &mut Vec<u8>, name: &str, count: u64) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    json::write_u64(out, count);
}
