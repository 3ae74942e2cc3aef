//! A client's message request as a request.
//!
//! Owns what its blocks mean.
use crate::door::{
    At, Object, Refusal, array, count, number, object, optional, parts, required, text, texts, truth,
};
use crate::openai_chat::{effort, no_tool};
use crate::proof;
use crate::raw::{Raw, Text};
use crate::request::{Choice, Effort, Image, Message, Part, Proof, Request, Role, Shape, Tool};

/// Fields that are read.
const KNOWN: &[&str] = &[
    "model",
    "messages",
    "system",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "tools",
    "tool_choice",
    "metadata",
    "thinking",
    "output_config",
    "output_format",
    "stream",
];
/// Fields about cost and books: no answer is another for them.
const HINTS: &[&str] = &["service_tier", "inference_geo"];
/// What stands in blocks and tools for the same reason.
const CACHE: &str = "cache_control";

pub(crate) fn read_request<'a>(
    body: &[(Text<'a>, Raw<'a>)],
    request: &mut Request<'a>,
) -> Result<(), Refusal> {
    let top = At::Top;
    request.model = required(body, "model", top, text)?;
    request.max_tokens = Some(required(body, "max_tokens", top, count)?);
    let sampling = &mut request.sampling;
    sampling.temperature = optional(body, "temperature", top, number)?;
    sampling.top_p = optional(body, "top_p", top, number)?;
    sampling.top_k = optional(body, "top_k", top, number)?;
    sampling.stop = optional(body, "stop_sequences", top, texts)?.unwrap_or_default();
    request.stream = optional(body, "stream", top, truth)?.unwrap_or(false);
    request.include_usage = true;
    if let Some(metadata) = optional(body, "metadata", top, object)? {
        let at = top.field("metadata");
        request.user = optional(metadata, "user_id", at, text)?;
        request.keep_unknown(metadata, at, &["user_id"]);
    }
    optional(body, "thinking", top, |value, at| read_thinking(value, at, request))?;
    optional(body, "output_config", top, |value, at| read_output(value, at, request))?;
    if let Some(format) = optional(body, "output_format", top, object)? {
        request.shape = Some(shape(format, top.field("output_format"))?);
    }
    optional(body, "tool_choice", top, |value, at| read_choice(value, at, request))?;
    for (index, tool) in optional(body, "tools", top, array)?.into_iter().flat_map(Raw::items).enumerate() {
        read_tool(tool, top.field("tools").item(index), request)?;
    }
    if let Some(system) = body.field("system") {
        let from = request.parts.len();
        parts(system, top.field("system"), request, read_block)?;
        let to = request.parts.len();
        request.messages.push(Message { role: Role::System, from, to, raw: Some(system) });
    }
    let messages = required(body, "messages", top, array)?;
    for (index, message) in messages.items().enumerate() {
        read_message(message, top.field("messages").item(index), request)?;
    }
    if messages.items().next().is_none() {
        return Err(Refusal::value(top.field("messages"), "at least one message"));
    }
    request.keep_unknown_of(body, top, &[KNOWN, HINTS]);
    Ok(())
}

fn read_thinking(value: Raw<'_>, at: At<'_>, request: &mut Request<'_>) -> Result<(), Refusal> {
    match required(object(value, at)?, "type", at, text)?.key() {
        "enabled" => request.thinking.budget = Some(required(value, "budget_tokens", at, count)?),
        "disabled" => request.thinking.effort = Some(Effort::None),
        // As much as the model likes, unless `output_config` says how much.
        "adaptive" => request.thinking.effort = request.thinking.effort.or(Some(Effort::High)),
        _ => return Err(Refusal::value(at.field("type"), "enabled, disabled or adaptive")),
    }
    request.keep_unknown(value, at, &["type", "budget_tokens", "display"]);
    Ok(())
}

fn read_output<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    if let Some(effort) = optional(object(value, at)?, "effort", at, effort)?
        && request.thinking.effort != Some(Effort::None)
    {
        request.thinking.effort = Some(effort);
    }
    if let Some(format) = optional(value, "format", at, object)? {
        request.shape = Some(shape(format, at.field("format"))?);
    }
    request.keep_unknown(value, at, &["effort", "format"]);
    Ok(())
}

fn shape<'a>(value: Raw<'a>, at: At<'_>) -> Result<Shape<'a>, Refusal> {
    if !required(value, "type", at, text)?.is("json_schema") {
        return Err(Refusal::value(at.field("type"), "json_schema"));
    }
    let schema = required(value, "schema", at, object)?;
    Ok(Shape::Schema { name: None, description: None, schema, strict: Some(true) })
}

fn read_choice<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    request.choice = Some(match required(object(value, at)?, "type", at, text)?.key() {
        "auto" => Choice::Auto,
        "any" => Choice::Required,
        "none" => Choice::None,
        "tool" => Choice::Tool(required(value, "name", at, text)?),
        _ => return Err(Refusal::value(at.field("type"), "auto, any, tool or none")),
    });
    let single = optional(value, "disable_parallel_tool_use", at, truth)?;
    request.parallel = single.map(|single| !single);
    request.keep_unknown(value, at, &["type", "name", "disable_parallel_tool_use"]);
    Ok(())
}

fn read_tool<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let kind = optional(object(value, at)?, "type", at, text)?;
    if kind.is_some_and(|kind| !kind.is("custom")) {
        request.keep_foreign(at.field("type"));
        request.tools.push(Tool { raw: Some(value), ..no_tool() });
        return Ok(());
    }
    request.tools.push(Tool {
        name: required(value, "name", at, text)?,
        description: optional(value, "description", at, text)?,
        parameters: Some(required(value, "input_schema", at, object)?),
        strict: optional(value, "strict", at, truth)?,
        raw: Some(value),
    });
    request.keep_unknown(value, at, &["type", "name", "description", "input_schema", "strict", CACHE]);
    Ok(())
}

fn read_message<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let from = request.parts.len();
    let role = match required(object(value, at)?, "role", at, text)?.key() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return Err(Refusal::value(at.field("role"), "user or assistant")),
    };
    required(value, "content", at, |content, at| parts(content, at, request, read_block))?;
    request.keep_unknown(value, at, &["role", "content"]);
    request.messages.push(Message { role, from, to: request.parts.len(), raw: Some(value) });
    Ok(())
}

fn read_block<'a>(block: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let field = |name: &str| required(block, name, at, text);
    let known: &[&str] = match required(object(block, at)?, "type", at, text)?.key() {
        "text" => {
            request.parts.push(Part::Text(field("text")?));
            // Citations were made by a model, for people.
            &["type", "text", "citations", CACHE]
        }
        "image" => {
            let source = required(block, "source", at, object)?;
            let at = at.field("source");
            let of = |name: &str| required(source, name, at, text);
            match of("type")?.key() {
                "base64" => {
                    let (media, data) = (of("media_type")?, of("data")?);
                    request.parts.push(Part::Image(Image::Data { media, data }));
                }
                "url" => request.parts.push(Part::Image(Image::Url(of("url")?))),
                _ => request.keep_foreign(at.field("type")),
            }
            &["type", "source", CACHE]
        }
        "thinking" => {
            let signature = optional(block, "signature", at, text)?.filter(|text| !text.is_empty());
            let proof = signature.map_or(Proof::None, |signature| {
                proof::read(&signature).unwrap_or(Proof::Signature(signature))
            });
            request.parts.push(Part::Reasoning { text: field("thinking")?, proof });
            &["type", "thinking", "signature"]
        }
        "redacted_thinking" => {
            let proof = Proof::Redacted(field("data")?);
            request.parts.push(Part::Reasoning { text: "".into(), proof });
            &["type", "data"]
        }
        "tool_use" => {
            let arguments = required(block, "input", at, object)?.as_str().into();
            request.parts.push(Part::Call { id: field("id")?, name: field("name")?, arguments });
            &["type", "id", "name", "input", CACHE, "caller"]
        }
        "tool_result" => {
            let from = request.parts.len();
            let is_error = optional(block, "is_error", at, truth)?.unwrap_or(false);
            request.parts.push(Part::Result { id: field("tool_use_id")?, is_error, parts: 0 });
            optional(block, "content", at, |content, at| read_result(content, at, request))?;
            let count = request.parts.len() - from - 1;
            if let Some(Part::Result { parts, .. }) = request.parts.get_mut(from) {
                *parts = count;
            }
            &["type", "tool_use_id", "content", "is_error", CACHE]
        }
        _ => {
            request.keep_foreign(at.field("type"));
            return Ok(());
        }
    };
    request.keep_unknown(block, at, known);
    Ok(())
}

/// What a tool answered: texts and images, and nothing that contains others.
fn read_result<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let is_plain = |block: &Raw<'_>| {
        block.get("type").and_then(Raw::text).is_some_and(|kind| matches!(kind.key(), "text" | "image"))
    };
    if let Some(index) = value.items().position(|block| !is_plain(&block)) {
        request.keep_foreign(at.item(index));
        return Ok(());
    }
    parts(value, at, request, read_block)
}
