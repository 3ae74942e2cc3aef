//! What a model is asked, between the formats: the neutral form of a request.
//!
//! Owns the words that all formats share, borrowed from the request that a client sent. What has no word here stays as it
//! was written: a request that goes on in its own format keeps every field, and one that is translated is refused if it has
//! a field that would be lost. Texts, schemas and arguments are never read, only copied.
use crate::Turn;
use crate::format::Kind;
use crate::raw::{Raw, Text};
use clawgate_core::view;
use core::fmt;
use std::borrow::Cow;

/// A request to a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request<'a> {
    /// The format that it came in, whose own fields it still has; `None` for one of ours.
    pub source: Option<Kind>,
    /// What the client calls the model.
    pub model: Text<'a>,
    /// What was said, oldest first.
    pub messages: Vec<Message<'a>>,
    /// The parts of all messages, one after another.
    pub parts: Vec<Part<'a>>,
    /// What the model may call.
    pub tools: Vec<Tool<'a>>,
    /// What it is to call.
    pub choice: Option<Choice<'a>>,
    /// May it call several tools at once?
    pub parallel: Option<bool>,
    /// Tokens of the answer.
    pub max_tokens: Option<u32>,
    /// How it picks its words.
    pub sampling: Sampling<'a>,
    /// The shape of its answer.
    pub shape: Option<Shape<'a>>,
    /// How much it is to think.
    pub thinking: Thinking<'a>,
    /// Who asks.
    pub user: Option<Text<'a>>,
    /// The client wants the answer in pieces.
    pub stream: bool,
    /// The client wants token counts at the end of a stream.
    pub include_usage: bool,
    /// What the client's `anthropic-beta` header says; the shell's to set.
    pub beta: &'a str,
    /// The request's own fields, as they came.
    pub fields: Vec<(Text<'a>, Raw<'a>)>,
    /// The first of its fields that no other format has, if there is one.
    pub foreign: Option<String>,
}

/// Whose words a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The application's.
    System,
    /// The application's, as newer models of OpenAI call it.
    Developer,
    /// The person's.
    User,
    /// The model's.
    Assistant,
    /// A tool's: its parts begin with a result.
    Tool,
}

/// A message: some of the request's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Whose it is.
    pub role: Role,
    /// Its first part.
    pub from: usize,
    /// Behind its last part.
    pub to: usize,
    /// As it came; `None` for one of ours.
    pub raw: Option<Raw<'a>>,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Part<'a> {
    /// Text.
    Text(Text<'a>),
    /// What the model said instead of an answer.
    Refusal(Text<'a>),
    /// An image.
    Image(Image<'a>),
    /// What the model thought.
    Reasoning {
        /// As people may read it.
        text: Text<'a>,
        /// What its provider wants to have back with it.
        proof: Proof<'a>,
    },
    /// A call of a tool.
    Call {
        /// Its id.
        id: Text<'a>,
        /// The tool.
        name: Text<'a>,
        /// Its arguments: JSON, as a text.
        arguments: Text<'a>,
    },
    /// What a tool answered: the parts behind it.
    Result {
        /// The id of the call.
        id: Text<'a>,
        /// The tool failed.
        is_error: bool,
        /// How many parts it has.
        parts: usize,
    },
}

/// An image.
#[derive(Clone, Debug, PartialEq)]
pub enum Image<'a> {
    /// Where it is.
    Url(Text<'a>),
    /// What it is.
    Data {
        /// Its media type.
        media: Text<'a>,
        /// Its bytes in base64.
        data: Text<'a>,
    },
}

/// What a provider wants to have back with reasoning.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof<'a> {
    /// Nothing.
    None,
    /// Anthropic's signature of it.
    Signature(Text<'a>),
    /// The reasoning itself, which only Anthropic can read.
    Redacted(Text<'a>),
    /// An item of OpenAI's responses.
    Item {
        /// Its id.
        id: Text<'a>,
        /// The reasoning itself, which only OpenAI can read; may be empty.
        encrypted: Text<'a>,
    },
}

/// Something that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool<'a> {
    /// Its name.
    pub name: Text<'a>,
    /// What it is good for.
    pub description: Option<Text<'a>>,
    /// The JSON Schema of its arguments.
    pub parameters: Option<Raw<'a>>,
    /// The model must keep to the schema.
    pub strict: Option<bool>,
    /// As it came; `None` for one of ours.
    pub raw: Option<Raw<'a>>,
}

/// What a model is to call.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice<'a> {
    /// What it likes.
    Auto,
    /// Nothing.
    None,
    /// Something.
    Required,
    /// This tool.
    Tool(Text<'a>),
}

/// How a model picks its words. Numbers are kept as they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling<'a> {
    /// Temperature.
    pub temperature: Option<Raw<'a>>,
    /// Nucleus.
    pub top_p: Option<Raw<'a>>,
    /// The likeliest so many.
    pub top_k: Option<Raw<'a>>,
    /// Seed.
    pub seed: Option<Raw<'a>>,
    /// Penalty on words by how often they came.
    pub frequency_penalty: Option<Raw<'a>>,
    /// Penalty on words that came.
    pub presence_penalty: Option<Raw<'a>>,
    /// Texts that end the answer.
    pub stop: Vec<Text<'a>>,
}

/// The shape of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape<'a> {
    /// Text.
    Text,
    /// Some JSON object.
    Object,
    /// JSON of this schema.
    Schema {
        /// Its name.
        name: Option<Text<'a>>,
        /// What it is for.
        description: Option<Text<'a>>,
        /// The JSON Schema.
        schema: Raw<'a>,
        /// The model must keep to it.
        strict: Option<bool>,
    },
}

/// How much a model is to think: in words, in tokens, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thinking<'a> {
    /// In words.
    pub effort: Option<Effort>,
    /// In tokens.
    pub budget: Option<u32>,
    /// How it is to be summed up.
    pub summary: Option<Text<'a>>,
}

/// How much a model is to think, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// As usual.
    Medium,
    /// Much.
    High,
    /// As much as it can.
    Max,
}

impl Effort {
    const ALL: [(Self, &'static str, u32); 6] = [
        (Self::None, "none", 0),
        (Self::Minimal, "minimal", 1_024),
        (Self::Low, "low", 2_048),
        (Self::Medium, "medium", 8_192),
        (Self::High, "high", 24_576),
        (Self::Max, "xhigh", 32_768),
    ];

    /// Its name in OpenAI's formats.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(effort, ..)| *effort == self).map_or("medium", |(_, name, _)| name)
    }

    /// By that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let name = if name == "max" { "xhigh" } else { name };
        Self::ALL.iter().find(|(_, other, _)| *other == name).map(|(effort, ..)| *effort)
    }

    /// In tokens, for formats that count them.
    #[must_use]
    pub fn budget(self) -> u32 {
        Self::ALL.iter().find(|(effort, ..)| *effort == self).map_or(0, |(_, _, budget)| *budget)
    }

    /// The least effort that so many tokens suffice for.
    #[must_use]
    pub fn of_budget(budget: u32) -> Self {
        Self::ALL.iter().find(|(_, _, most)| budget <= *most).map_or(Self::Max, |(effort, ..)| *effort)
    }
}

impl Thinking<'_> {
    /// In words, whichever way it was said.
    #[must_use]
    pub fn effort(&self) -> Option<Effort> {
        self.effort.or_else(|| self.budget.map(Effort::of_budget))
    }

    /// In tokens, whichever way it was said.
    #[must_use]
    pub fn budget(&self) -> Option<u32> {
        self.budget.or_else(|| self.effort.map(Effort::budget))
    }
}

/// What a format cannot express: the request is refused, since it would be answered as if it had asked for less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// What it is, as its sender calls it.
    pub what: Cow<'static, str>,
    /// The format that has no word for it.
    pub kind: Kind,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} cannot be expressed in the format `{}` of the model", self.what, self.kind.name())
    }
}

impl<'a> Request<'a> {
    /// A turn as a request: what the tool loop begins with.
    #[must_use]
    pub fn of_turn(turn: Turn<'_, 'a>) -> Self {
        let mut request = Self { user: (!turn.user.is_empty()).then(|| turn.user.into()), ..Self::default() };
        let mut system = turn.system.to_owned();
        for (index, (name, value)) in turn.context.enumerate() {
            system += match (index, system.is_empty()) {
                (_, true) => "",
                (0, false) => "\n\n",
                _ => "\n",
            };
            system += name;
            system += ": ";
            system += value;
        }
        if !system.is_empty() {
            request.say(Role::System, [Part::Text(system.into())]);
        }
        for (role, text) in turn.history {
            let role = match role {
                view::Role::User => Role::User,
                view::Role::Agent => Role::Assistant,
            };
            request.say(role, [Part::Text(text.into())]);
        }
        request.say(Role::User, [Part::Text(turn.text.into())]);
        request
    }

    /// Appends a message.
    pub fn say(&mut self, role: Role, parts: impl IntoIterator<Item = Part<'a>>) {
        let from = self.parts.len();
        self.parts.extend(parts);
        self.messages.push(Message { role, from, to: self.parts.len(), raw: None });
    }

    /// The parts of a message.
    #[must_use]
    pub fn parts_of(&self, message: &Message<'a>) -> &[Part<'a>] {
        self.parts.get(message.from..message.to).unwrap_or(&[])
    }

    /// Does it go on in the format that it came in?
    pub(crate) fn keeps(&self, kind: Kind) -> bool {
        self.source == Some(kind)
    }

    /// Refuses what would be lost in another format.
    pub(crate) fn check(&self, kind: Kind) -> Result<(), Unsupported> {
        match &self.foreign {
            Some(what) if !self.keeps(kind) => Err(Unsupported { what: what.clone().into(), kind }),
            _ => Ok(()),
        }
    }

    /// The text of the last message of a person, where the shell wants words: for routing, for the history.
    #[must_use]
    pub fn last_text(&self) -> String {
        let message = self.messages.iter().rev().find(|message| message.role == Role::User);
        let mut text = String::new();
        for part in message.map(|message| self.parts_of(message)).unwrap_or(&[]) {
            if let Part::Text(part) = part {
                part.push_to(&mut text);
            }
        }
        text
    }
}

/// Goes through parts: each with the parts of its own behind it, where it is a result.
pub(crate) fn each_part<'p, 'a>(
    parts: &'p [Part<'a>],
) -> impl Iterator<Item = (&'p Part<'a>, &'p [Part<'a>])> {
    let mut rest = parts;
    core::iter::from_fn(move || {
        let (part, behind) = rest.split_first()?;
        let count = if let Part::Result { parts, .. } = part { (*parts).min(behind.len()) } else { 0 };
        let (own, after) = behind.split_at(count);
        rest = after;
        Some((part, own))
    })
}

/// Messages that become one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'p, 'a> {
    pub(crate) role: Role,
    pub(crate) parts: &'p [Part<'a>],
    /// As it came in, if it goes on in the same format.
    pub(crate) raw: Option<Raw<'a>>,
}

impl<'a> Request<'a> {
    /// The messages, those of one side joined where a call, a result or a thought among them belongs to what is beside it:
    /// formats that write each apart are so read by formats that write all of a side together.
    pub(crate) fn runs(&self, kind: Kind) -> Vec<Run<'_, 'a>> {
        let side = |role: Role| if role == Role::Tool && kind == Kind::Anthropic { Role::User } else { role };
        let apart = |parts: &[Part<'_>]| {
            !parts
                .iter()
                .any(|part| matches!(part, Part::Call { .. } | Part::Result { .. } | Part::Reasoning { .. }))
        };
        let joins = |role: Role| match kind {
            Kind::OpenAiResponses => false,
            Kind::OpenAiChat | Kind::Ollama => role == Role::Assistant,
            Kind::Anthropic => matches!(role, Role::Assistant | Role::User),
        };
        let mut runs: Vec<(Role, usize, usize, Option<Raw<'a>>)> = Vec::new();
        for message in &self.messages {
            let role = side(message.role);
            let raw = message.raw.filter(|_| self.keeps(kind));
            let parts = self.parts_of(message);
            if let Some((last, from, to, None)) = runs.last_mut()
                && raw.is_none()
                && *last == role
                && joins(role)
                && *to == message.from
                && !(apart(parts) && apart(self.parts.get(*from..*to).unwrap_or(&[])))
            {
                *to = message.to;
                continue;
            }
            runs.push((role, message.from, message.to, raw));
        }
        let run = |(role, from, to, raw)| Run { role, parts: self.parts.get(from..to).unwrap_or(&[]), raw };
        runs.into_iter().map(run).collect()
    }
}

/// Writes a list of values, each by `write`, which says whether it wrote one.
pub(crate) fn write_list<T>(
    out: &mut Vec<u8>,
    values: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T) -> bool,
) {
    out.push(b'[');
    let first = out.len();
    for value in values {
        if out.len() != first && out.last() != Some(&b',') {
            out.push(b',');
        }
        write(out, value);
    }
    if out.len() != first && out.last() == Some(&b',') {
        out.pop();
    }
    out.push(b']');
}

/// Writes a text field of an object that has fields before it.
pub(crate) fn write_text(out: &mut Vec<u8>, name: &str, text: &Text<'_>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    text.write(out);
}

/// Writes the address of an image: its own, or one that holds its bytes.
pub(crate) fn write_url(out: &mut Vec<u8>, image: &Image<'_>) {
    match image {
        Image::Url(url) => url.write(out),
        Image::Data { media, data } => {
            out.extend_from_slice(b"\"data:");
            media.write_body(out);
            out.extend_from_slice(b";base64,");
            data.write_body(out);
            out.push(b'"');
        }
    }
}

/// Writes texts as one string, with `between` between them.
pub(crate) fn write_joined<'t, 'a: 't>(
    out: &mut Vec<u8>,
    texts: impl IntoIterator<Item = &'t Text<'a>>,
    between: &str,
) {
    out.push(b'"');
    for (index, text) in texts.into_iter().enumerate() {
        if 0 < index {
            clawgate_wire::json::write_str_body(out, between);
        }
        text.write_body(out);
    }
    out.push(b'"');
}

/// The arguments of a call as an object, for formats that write one.
pub(crate) fn write_object(out: &mut Vec<u8>, arguments: &Text<'_>, kind: Kind) -> Result<(), Unsupported> {
    let text = arguments.plain();
    if text.trim().is_empty() {
        out.extend_from_slice(b"{}");
        return Ok(());
    }
    let object = Raw::parse(text.as_bytes()).filter(|value| value.is_object());
    let object =
        object.ok_or(Unsupported { what: "a tool call whose arguments are no JSON object".into(), kind })?;
    out.extend_from_slice(object.as_str().as_bytes());
    Ok(())
}
