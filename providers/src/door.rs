//! The doors: what clients ask us, in the formats of others, and how they are refused.
//!
//! Owns how a field is read, and the words of a refusal: each says which field, and is written in the format's own shape.
//! What a field means is its format's. A request that asks for what would be lost is refused here.
use crate::format::Kind;
use crate::raw::{Raw, Text};
use crate::request::{Image, Part, Request, Unsupported};
use crate::{anthropic, openai_chat, openai_responses};
use clawgate_core::codes::Code;
use clawgate_wire::json;
use core::fmt;
use std::borrow::Cow;

/// Why a request is refused: the client's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it counts as.
    pub code: Code,
    /// What OpenAI calls it.
    pub name: &'static str,
    /// The field, as its path.
    pub param: Option<String>,
    /// For people.
    pub message: String,
}

/// An error as clients are told it, whatever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem<'a> {
    /// The HTTP status, also where it can no longer be sent.
    pub status: u16,
    /// Its stable name.
    pub code: &'a str,
    /// For people.
    pub message: &'a str,
    /// The field that it is about.
    pub param: Option<&'a str>,
}

impl Refusal {
    /// As clients are told it.
    #[must_use]
    pub fn problem(&self) -> Problem<'_> {
        let (status, param) = (self.code.status(), self.param.as_deref());
        Problem { status, code: self.name, message: &self.message, param }
    }

    fn new(name: &'static str, at: At<'_>, message: String) -> Self {
        let code = if name == "missing_required_parameter" { Code::MissingField } else { Code::BadRequest };
        Self { code, name, param: Some(at.to_string()), message }
    }

    pub(crate) fn missing(at: At<'_>) -> Self {
        Self::new("missing_required_parameter", at, format!("Missing required parameter: '{at}'."))
    }

    pub(crate) fn kind(at: At<'_>, expected: &str) -> Self {
        Self::new("invalid_type", at, format!("Invalid type for '{at}': expected {expected}."))
    }

    pub(crate) fn value(at: At<'_>, expected: &str) -> Self {
        Self::new("invalid_value", at, format!("Invalid value for '{at}': expected {expected}."))
    }

    pub(crate) fn unsupported(at: At<'_>, why: &str) -> Self {
        Self::new("unsupported_parameter", at, format!("Unsupported parameter: '{at}': {why}."))
    }
}

impl From<Unsupported> for Refusal {
    fn from(unsupported: Unsupported) -> Self {
        let message = format!("Unsupported: {unsupported}.");
        Self { code: Code::BadRequest, name: "unsupported_parameter", param: None, message }
    }
}

impl<'a> Problem<'a> {
    /// A code of ours, with the words that come with it.
    #[must_use]
    pub const fn of(code: Code, detail: &'a str) -> Self {
        let message = if detail.is_empty() { code.advice() } else { detail };
        Self { status: code.status(), code: code.name(), message, param: None }
    }
}

/// Where in a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'p> {
    Top,
    Field(&'p Self, &'p str),
    Item(&'p Self, usize),
}

impl At<'_> {
    pub(crate) const fn field<'p>(&'p self, name: &'p str) -> At<'p> {
        At::Field(self, name)
    }

    pub(crate) const fn item(&self, index: usize) -> At<'_> {
        At::Item(self, index)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Field(Self::Top, name) => out.write_str(name),
            Self::Field(parent, name) => write!(out, "{parent}.{name}"),
            Self::Item(parent, index) => write!(out, "{parent}[{index}]"),
        }
    }
}

/// Reads a client's request. Its texts are borrowed from `body`.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read<'a>(kind: Kind, body: &'a [u8]) -> Result<Request<'a>, Refusal> {
    let broken = || Refusal {
        code: Code::BadJson,
        name: "invalid_json",
        param: None,
        message: "The body is not JSON, or deeper than 64.".to_owned(),
    };
    let body = Raw::parse(body).ok_or_else(broken)?;
    if !body.is_object() {
        return Err(Refusal { message: "The body is no JSON object.".to_owned(), ..broken() });
    }
    let fields: Vec<(Text<'a>, Raw<'a>)> = body.fields().collect();
    let mut request = Request { source: Some(kind), ..Request::default() };
    // A name that is written with escapes would be ours to one reader and unknown to another.
    if let Some((name, _)) = fields.iter().find(|(name, _)| matches!(name, Text::Escaped(_))) {
        return Err(Refusal::unsupported(At::Top.field(&name.plain()), "names of fields have no escapes"));
    }
    match kind {
        Kind::OpenAiChat => openai_chat::read_request(&fields, &mut request)?,
        Kind::OpenAiResponses => openai_responses::read_request(&fields, &mut request)?,
        Kind::Anthropic => anthropic::read_request(&fields, &mut request)?,
        Kind::Ollama => return Err(Refusal::unsupported(At::Top, "this format has no door")),
    }
    request.fields = fields;
    Ok(request)
}

/// What has fields: an object, or the fields of one that are looked up often.
pub(crate) trait Object<'a>: Copy {
    /// The field of this name, unless it is `null`.
    fn field(self, name: &str) -> Option<Raw<'a>>;
    /// All of them.
    fn each(self, told: impl FnMut(&Text<'a>, Raw<'a>));
}

impl<'a> Object<'a> for Raw<'a> {
    fn field(self, name: &str) -> Option<Self> {
        Raw::field(self, name)
    }

    fn each(self, mut told: impl FnMut(&Text<'a>, Self)) {
        self.fields().for_each(|(name, value)| told(&name, value));
    }
}

impl<'a> Object<'a> for &[(Text<'a>, Raw<'a>)] {
    fn field(self, name: &str) -> Option<Raw<'a>> {
        let found = self.iter().find(|(key, _)| key.key() == name);
        found.map(|(_, value)| *value).filter(|value| !value.is_null())
    }

    fn each(self, mut told: impl FnMut(&Text<'a>, Raw<'a>)) {
        self.iter().for_each(|(name, value)| told(name, *value));
    }
}

/// Reads a string.
pub(crate) fn text<'a>(value: Raw<'a>, at: At<'_>) -> Result<Text<'a>, Refusal> {
    value.text().ok_or_else(|| Refusal::kind(at, "a string"))
}

/// Reads a truth.
pub(crate) fn truth(value: Raw<'_>, at: At<'_>) -> Result<bool, Refusal> {
    value.bool().ok_or_else(|| Refusal::kind(at, "a boolean"))
}

/// Reads a whole number.
pub(crate) fn count(value: Raw<'_>, at: At<'_>) -> Result<u32, Refusal> {
    let count = value.u64().ok_or_else(|| Refusal::kind(at, "a whole number"))?;
    u32::try_from(count).map_err(|_| Refusal::value(at, "a smaller number"))
}

/// Reads a number, as it was written.
pub(crate) fn number<'a>(value: Raw<'a>, at: At<'_>) -> Result<Raw<'a>, Refusal> {
    if value.is_number() { Ok(value) } else { Err(Refusal::kind(at, "a number")) }
}

pub(crate) fn object<'a>(value: Raw<'a>, at: At<'_>) -> Result<Raw<'a>, Refusal> {
    if value.is_object() { Ok(value) } else { Err(Refusal::kind(at, "an object")) }
}

pub(crate) fn array<'a>(value: Raw<'a>, at: At<'_>) -> Result<Raw<'a>, Refusal> {
    if value.is_array() { Ok(value) } else { Err(Refusal::kind(at, "an array")) }
}

/// Reads a field that must be there.
pub(crate) fn required<'a, T>(
    object: impl Object<'a>,
    name: &str,
    at: At<'_>,
    read: impl FnOnce(Raw<'a>, At<'_>) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let at = at.field(name);
    read(object.field(name).ok_or_else(|| Refusal::missing(at))?, at)
}

/// Reads a field that may be absent or `null`.
pub(crate) fn optional<'a, T>(
    object: impl Object<'a>,
    name: &str,
    at: At<'_>,
    read: impl FnOnce(Raw<'a>, At<'_>) -> Result<T, Refusal>,
) -> Result<Option<T>, Refusal> {
    object.field(name).map(|value| read(value, at.field(name))).transpose()
}

/// Reads what was said: a text, or a list of parts, each by the format's own `read`.
pub(crate) fn parts<'a>(
    value: Raw<'a>,
    at: At<'_>,
    request: &mut Request<'a>,
    read: fn(Raw<'a>, At<'_>, &mut Request<'a>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if let Some(text) = value.text() {
        request.parts.push(Part::Text(text));
        return Ok(());
    }
    if !value.is_array() {
        return Err(Refusal::kind(at, "a string or an array"));
    }
    value.items().enumerate().try_for_each(|(index, part)| read(part, at.item(index), request))
}

/// Reads an array of strings, or one string.
pub(crate) fn texts<'a>(value: Raw<'a>, at: At<'_>) -> Result<Vec<Text<'a>>, Refusal> {
    if let Some(text) = value.text() {
        return Ok(vec![text]);
    }
    let items = array(value, at)?.items().enumerate();
    items.map(|(index, value)| text(value, at.item(index))).collect()
}

impl Request<'_> {
    /// Remembers what no other format has.
    pub(crate) fn keep_foreign(&mut self, at: At<'_>) {
        self.foreign.get_or_insert_with(|| format!("`{at}`"));
    }

    /// Remembers the first field of an object that is not among these. `null` says nothing.
    pub(crate) fn keep_unknown<'a>(&mut self, object: impl Object<'a>, at: At<'_>, known: &[&str]) {
        self.keep_unknown_of(object, at, &[known]);
    }

    /// The same with several lists.
    pub(crate) fn keep_unknown_of<'a>(&mut self, object: impl Object<'a>, at: At<'_>, known: &[&[&str]]) {
        object.each(|name, value| {
            if !value.is_null() && !known.iter().any(|known| known.contains(&name.key())) {
                self.keep_foreign(at.field(&name.plain()));
            }
        });
    }
}

/// An image by its address, or by one that holds its bytes.
pub(crate) fn image<'a>(url: Text<'a>) -> Image<'a> {
    fn split(url: &str) -> Option<(&str, &str)> {
        url.strip_prefix("data:")?.split_once(";base64,")
    }
    if let Text::Plain(Cow::Borrowed(plain)) = url {
        return match split(plain) {
            Some((media, data)) => Image::Data { media: media.into(), data: data.into() },
            None => Image::Url(plain.into()),
        };
    }
    let plain = url.plain();
    let Some((media, data)) = split(&plain) else { return Image::Url(url.clone()) };
    Image::Data { media: media.to_owned().into(), data: data.to_owned().into() }
}

/// Writes an error as a body of its own.
pub fn write_error(kind: Kind, problem: &Problem<'_>, out: &mut Vec<u8>) {
    match kind {
        Kind::OpenAiChat | Kind::OpenAiResponses => {
            out.extend_from_slice(b"{\"error\":");
            write_openai_error(problem, out);
            out.push(b'}');
        }
        Kind::Anthropic => {
            out.extend_from_slice(b"{\"type\":\"error\",\"error\":{\"type\":");
            json::write_str(out, anthropic_type(problem.status));
            out.extend_from_slice(b",\"message\":");
            json::write_str(out, problem.message);
            out.extend_from_slice(b"}}");
        }
        Kind::Ollama => {
            out.extend_from_slice(b"{\"error\":");
            json::write_str(out, problem.message);
            out.push(b'}');
        }
    }
}

pub(crate) fn write_openai_error(problem: &Problem<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"message\":");
    json::write_str(out, problem.message);
    out.extend_from_slice(b",\"type\":");
    json::write_str(out, openai_type(problem.status));
    out.extend_from_slice(b",\"param\":");
    match problem.param {
        Some(param) => json::write_str(out, param),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"code\":");
    json::write_str(out, problem.code);
    out.push(b'}');
}

/// What OpenAI calls errors of this status.
const fn openai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

/// What Anthropic calls errors of this status.
const fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// A model as a list of them shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model<'a> {
    /// Its name.
    pub id: &'a str,
    /// When it came to be, in Unix seconds.
    pub created: u64,
    /// `created` as RFC 3339 has it.
    pub created_at: &'a str,
}

/// Writes the answer to `GET /v1/models`: OpenAI's, or Anthropic's.
pub fn write_models<'a>(kind: Kind, models: impl Iterator<Item = Model<'a>>, out: &mut Vec<u8>) {
    let anthropic = kind == Kind::Anthropic;
    out.extend_from_slice(if anthropic { b"{\"data\":[" } else { b"{\"object\":\"list\",\"data\":[" });
    let (mut first, mut last) = (None, None);
    for model in models {
        if first.is_some() {
            out.push(b',');
        }
        first = first.or(Some(model.id));
        last = Some(model.id);
        write_model(kind, &model, out);
    }
    out.push(b']');
    if anthropic {
        for (name, id) in [("first_id", first), ("last_id", last)] {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            match id {
                Some(id) => json::write_str(out, id),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.extend_from_slice(b",\"has_more\":false");
    }
    out.push(b'}');
}

/// Writes one model: the answer to `GET /v1/models/ID`.
pub fn write_model(kind: Kind, model: &Model<'_>, out: &mut Vec<u8>) {
    if kind == Kind::Anthropic {
        out.extend_from_slice(b"{\"type\":\"model\",\"id\":");
        json::write_str(out, model.id);
        out.extend_from_slice(b",\"display_name\":");
        json::write_str(out, model.id);
        out.extend_from_slice(b",\"created_at\":");
        json::write_str(out, model.created_at);
        out.push(b'}');
        return;
    }
    out.extend_from_slice(b"{\"id\":");
    json::write_str(out, model.id);
    out.extend_from_slice(b",\"object\":\"model\",\"created\":");
    json::write_u64(out, model.created);
    out.extend_from_slice(b",\"owned_by\":\"clawgate\"}");
}
