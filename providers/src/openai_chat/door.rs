//! A client's chat completion as a request.
//!
//! Owns what its fields mean. What asks for more than one answer, or for what no answer of ours carries, is refused.
use crate::door::{
    At, Object, Refusal, array, count, image, number, object, optional, parts, required, text, texts, truth,
};
use crate::raw::{Raw, Text};
use crate::request::{Choice, Effort, Message, Part, Proof, Request, Role, Shape, Tool};

/// Fields that are read.
const KNOWN: &[&str] = &[
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "stop",
    "response_format",
    "reasoning_effort",
    "user",
    "stream",
    "stream_options",
    "n",
];
/// Fields about cost and books: no answer is another for them, so that they may be left out in another format.
const HINTS: &[&str] =
    &["metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"];

pub(crate) fn read_request<'a>(
    body: &[(Text<'a>, Raw<'a>)],
    request: &mut Request<'a>,
) -> Result<(), Refusal> {
    let top = At::Top;
    request.model = required(body, "model", top, text)?;
    for (name, why) in
        [("functions", "use `tools`"), ("function_call", "use `tool_choice`"), ("audio", "answers are text")]
    {
        if body.field(name).is_some() {
            return Err(Refusal::unsupported(top.field(name), why));
        }
    }
    if optional(body, "n", top, count)?.is_some_and(|n| n != 1) {
        return Err(Refusal::unsupported(top.field("n"), "there is one choice"));
    }
    if optional(body, "logprobs", top, truth)? == Some(true) {
        return Err(Refusal::unsupported(top.field("logprobs"), "they are not passed on"));
    }
    read_sampling(body, request)?;
    request.stream = optional(body, "stream", top, truth)?.unwrap_or(false);
    if let Some(options) = optional(body, "stream_options", top, object)? {
        let at = top.field("stream_options");
        request.include_usage = optional(options, "include_usage", at, truth)?.unwrap_or(false);
    }
    request.user = optional(body, "user", top, text)?;
    request.parallel = optional(body, "parallel_tool_calls", top, truth)?;
    request.choice = optional(body, "tool_choice", top, choice)?;
    request.shape = optional(body, "response_format", top, shape)?;
    request.thinking.effort = optional(body, "reasoning_effort", top, effort)?;
    for (index, tool) in optional(body, "tools", top, array)?.into_iter().flat_map(Raw::items).enumerate() {
        read_tool(tool, top.field("tools").item(index), request)?;
    }
    let messages = required(body, "messages", top, array)?;
    for (index, message) in messages.items().enumerate() {
        read_message(message, top.field("messages").item(index), request)?;
    }
    if request.messages.is_empty() {
        return Err(Refusal::value(top.field("messages"), "at least one message"));
    }
    request.keep_unknown_of(body, top, &[KNOWN, HINTS, &["logprobs"]]);
    Ok(())
}

fn read_sampling<'a>(body: &[(Text<'a>, Raw<'a>)], request: &mut Request<'a>) -> Result<(), Refusal> {
    let top = At::Top;
    let newer = optional(body, "max_completion_tokens", top, count)?;
    request.max_tokens = newer.or(optional(body, "max_tokens", top, count)?);
    let sampling = &mut request.sampling;
    sampling.temperature = optional(body, "temperature", top, number)?;
    sampling.top_p = optional(body, "top_p", top, number)?;
    sampling.seed = optional(body, "seed", top, number)?;
    sampling.frequency_penalty = optional(body, "frequency_penalty", top, number)?;
    sampling.presence_penalty = optional(body, "presence_penalty", top, number)?;
    sampling.stop = optional(body, "stop", top, texts)?.unwrap_or_default();
    Ok(())
}

pub(crate) fn effort(value: Raw<'_>, at: At<'_>) -> Result<Effort, Refusal> {
    let name = text(value, at)?;
    let names = "one of none, minimal, low, medium, high, xhigh";
    Effort::of(name.key()).ok_or_else(|| Refusal::value(at, names))
}

/// `"auto"`, `"none"`, `"required"`, or `{"type":"function","function":{"name"}}`, which the responses write without the
/// inner object.
pub(crate) fn choice<'a>(value: Raw<'a>, at: At<'_>) -> Result<Choice<'a>, Refusal> {
    if let Some(word) = value.text() {
        return match word.key() {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::None),
            "required" => Ok(Choice::Required),
            _ => Err(Refusal::value(at, "auto, none, required or a function")),
        };
    }
    let kind = required(object(value, at)?, "type", at, text)?;
    if !kind.is("function") {
        return Err(Refusal::unsupported(at.field("type"), "a function can be chosen, nothing else"));
    }
    match value.field("function") {
        Some(function) => Ok(Choice::Tool(required(function, "name", at.field("function"), text)?)),
        None => Ok(Choice::Tool(required(value, "name", at, text)?)),
    }
}

fn shape<'a>(value: Raw<'a>, at: At<'_>) -> Result<Shape<'a>, Refusal> {
    let kind = required(object(value, at)?, "type", at, text)?;
    match kind.key() {
        "json_schema" => {
            let inner = required(value, "json_schema", at, object)?;
            schema(inner, at.field("json_schema"))
        }
        kind => plain_shape(kind, at),
    }
}

pub(crate) fn plain_shape<'a>(kind: &str, at: At<'_>) -> Result<Shape<'a>, Refusal> {
    match kind {
        "text" => Ok(Shape::Text),
        "json_object" => Ok(Shape::Object),
        _ => Err(Refusal::value(at.field("type"), "text, json_object or json_schema")),
    }
}

pub(crate) fn schema<'a>(value: Raw<'a>, at: At<'_>) -> Result<Shape<'a>, Refusal> {
    Ok(Shape::Schema {
        name: optional(value, "name", at, text)?,
        description: optional(value, "description", at, text)?,
        schema: required(value, "schema", at, object)?,
        strict: optional(value, "strict", at, truth)?,
    })
}

fn read_tool<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let kind = required(object(value, at)?, "type", at, text)?;
    if !kind.is("function") {
        request.keep_foreign(at.field("type"));
        request.tools.push(Tool { raw: Some(value), ..no_tool() });
        return Ok(());
    }
    let function = required(value, "function", at, object)?;
    request.keep_unknown(value, at, &["type", "function"]);
    let at = at.field("function");
    let tool = tool(function, at, value)?;
    request.keep_unknown(function, at, &["name", "description", "parameters", "strict"]);
    request.tools.push(tool);
    Ok(())
}

pub(crate) fn no_tool<'a>() -> Tool<'a> {
    Tool { name: "".into(), description: None, parameters: None, strict: None, raw: None }
}

/// A function: its fields stand in an object of their own, or beside its type.
pub(crate) fn tool<'a>(function: Raw<'a>, at: At<'_>, raw: Raw<'a>) -> Result<Tool<'a>, Refusal> {
    Ok(Tool {
        name: required(function, "name", at, text)?,
        description: optional(function, "description", at, text)?,
        parameters: optional(function, "parameters", at, object)?,
        strict: optional(function, "strict", at, truth)?,
        raw: Some(raw),
    })
}

fn read_message<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let from = request.parts.len();
    let name = required(object(value, at)?, "role", at, text)?;
    let role = match name.key() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        _ => return Err(Refusal::value(at.field("role"), "system, developer, user, assistant or tool")),
    };
    match role {
        Role::Tool => {
            let id = required(value, "tool_call_id", at, text)?;
            request.parts.push(Part::Result { id, is_error: false, parts: 0 });
            let before = request.parts.len();
            required(value, "content", at, |content, at| parts(content, at, request, read_part))?;
            let count = request.parts.len() - before;
            if let Some(Part::Result { parts, .. }) = request.parts.get_mut(from) {
                *parts = count;
            }
            request.keep_unknown(value, at, &["role", "content", "tool_call_id", "name"]);
        }
        Role::Assistant => read_assistant(value, at, request)?,
        Role::System | Role::Developer | Role::User => {
            required(value, "content", at, |content, at| parts(content, at, request, read_part))?;
            request.keep_unknown(value, at, &["role", "content"]);
        }
    }
    request.messages.push(Message { role, from, to: request.parts.len(), raw: Some(value) });
    Ok(())
}

fn read_assistant<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let thought = optional(value, "reasoning_content", at, text)?;
    let thought = if thought.is_some() { thought } else { value.field("reasoning").and_then(Raw::text) };
    if let Some(text) = thought.filter(|text| !text.is_empty()) {
        request.parts.push(Part::Reasoning { text, proof: Proof::None });
    }
    if let Some(content) = value.field("content") {
        parts(content, at.field("content"), request, read_part)?;
    }
    if let Some(text) = optional(value, "refusal", at, text)? {
        request.parts.push(Part::Refusal(text));
    }
    let calls = optional(value, "tool_calls", at, array)?;
    for (index, call) in calls.into_iter().flat_map(Raw::items).enumerate() {
        let calls = at.field("tool_calls");
        let at = calls.item(index);
        let id = required(object(call, at)?, "id", at, text)?;
        let function = required(call, "function", at, object)?;
        request.keep_unknown(call, at, &["id", "type", "function", "index"]);
        let at = at.field("function");
        let name = required(function, "name", at, text)?;
        let arguments = required(function, "arguments", at, text)?;
        request.keep_unknown(function, at, &["name", "arguments"]);
        request.parts.push(Part::Call { id, name, arguments });
    }
    if value.field("function_call").is_some() {
        return Err(Refusal::unsupported(at.field("function_call"), "use `tool_calls`"));
    }
    let known = ["role", "content", "refusal", "tool_calls", "reasoning_content", "reasoning", "annotations"];
    request.keep_unknown(value, at, &known);
    Ok(())
}

/// A part of a text, or of a list.
fn read_part<'a>(part: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let kind = required(object(part, at)?, "type", at, text)?;
    match kind.key() {
        "text" => {
            request.parts.push(Part::Text(required(part, "text", at, text)?));
            request.keep_unknown(part, at, &["type", "text"]);
        }
        "refusal" => request.parts.push(Part::Refusal(required(part, "refusal", at, text)?)),
        "image_url" => {
            let url = required(part, "image_url", at, object)?;
            let at = at.field("image_url");
            request.parts.push(Part::Image(image(required(url, "url", at, text)?)));
            // How closely it is looked at is a matter of cost.
            request.keep_unknown(url, at, &["url", "detail"]);
        }
        _ => request.keep_foreign(at.field("type")),
    }
    Ok(())
}
