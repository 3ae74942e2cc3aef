//! A client's response request as a request.
//!
//! Owns what its items mean. Nothing is kept here between requests, so that what refers to an earlier one is refused.
use crate::door::{
    At, Object, Refusal, array, count, image, number, object, optional, parts, required, text, truth,
};
use crate::openai_chat::{choice, effort, no_tool, plain_shape, schema, tool};
use crate::proof;
use crate::raw::{Raw, Text};
use crate::request::{Message, Part, Proof, Request, Role, Tool};

/// Fields that are read.
const KNOWN: &[&str] = &[
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_output_tokens",
    "temperature",
    "top_p",
    "text",
    "reasoning",
    "user",
    "stream",
    "stream_options",
    "store",
    "background",
];
/// Fields about cost and books, and what only says more of an answer that is the same.
const HINTS: &[&str] =
    &["metadata", "service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"];

pub(crate) fn read_request<'a>(
    body: &[(Text<'a>, Raw<'a>)],
    request: &mut Request<'a>,
) -> Result<(), Refusal> {
    let top = At::Top;
    request.model = required(body, "model", top, text)?;
    for (name, why) in [
        ("previous_response_id", "no response is kept: send the conversation as `input`"),
        ("conversation", "no conversation is kept: send it as `input`"),
        ("prompt", "there are no stored prompts"),
    ] {
        if body.field(name).is_some() {
            return Err(Refusal::unsupported(top.field(name), why));
        }
    }
    if optional(body, "background", top, truth)? == Some(true) {
        return Err(Refusal::unsupported(top.field("background"), "responses are not kept"));
    }
    request.max_tokens = optional(body, "max_output_tokens", top, count)?;
    request.sampling.temperature = optional(body, "temperature", top, number)?;
    request.sampling.top_p = optional(body, "top_p", top, number)?;
    request.stream = optional(body, "stream", top, truth)?.unwrap_or(false);
    request.include_usage = true;
    request.user = optional(body, "user", top, text)?;
    request.parallel = optional(body, "parallel_tool_calls", top, truth)?;
    request.choice = optional(body, "tool_choice", top, choice)?;
    optional(body, "text", top, |value, at| read_text(value, at, request))?;
    optional(body, "reasoning", top, |value, at| read_reasoning(value, at, request))?;
    read_include(body, request)?;
    for (index, tool) in optional(body, "tools", top, array)?.into_iter().flat_map(Raw::items).enumerate() {
        read_tool(tool, top.field("tools").item(index), request)?;
    }
    if let Some(instructions) = body.field("instructions") {
        let part = Part::Text(text(instructions, top.field("instructions"))?);
        let from = request.parts.len();
        request.parts.push(part);
        request.messages.push(Message { role: Role::System, from, to: from + 1, raw: Some(instructions) });
    }
    let at = top.field("input");
    let input = body.field("input").ok_or_else(|| Refusal::missing(at))?;
    if let Some(text) = input.text() {
        request.say(Role::User, [Part::Text(text)]);
    } else {
        for (index, item) in array(input, at)?.items().enumerate() {
            read_item(item, at.item(index), request)?;
        }
        if input.items().next().is_none() {
            return Err(Refusal::value(at, "at least one item"));
        }
    }
    if body.field("truncation").and_then(Raw::text).is_some_and(|text| !text.is("disabled")) {
        request.keep_foreign(top.field("truncation"));
    }
    request.keep_unknown_of(body, top, &[KNOWN, HINTS, &["include", "truncation"]]);
    Ok(())
}

/// Reasoning that only its provider can read is left out where another one answers, whoever asked for it.
fn read_include(body: &[(Text<'_>, Raw<'_>)], request: &mut Request<'_>) -> Result<(), Refusal> {
    let at = At::Top.field("include");
    for (index, item) in
        optional(body, "include", At::Top, array)?.into_iter().flat_map(Raw::items).enumerate()
    {
        if !text(item, at.item(index))?.is("reasoning.encrypted_content") {
            request.keep_foreign(at.item(index));
        }
    }
    Ok(())
}

fn read_text<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let format = optional(object(value, at)?, "format", at, object)?;
    if let Some(format) = format {
        let at = at.field("format");
        let kind = required(format, "type", at, text)?;
        request.shape = Some(match kind.key() {
            "json_schema" => schema(format, at)?,
            kind => plain_shape(kind, at)?,
        });
    }
    request.keep_unknown(value, at, &["format"]);
    Ok(())
}

fn read_reasoning<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    request.thinking.effort = optional(object(value, at)?, "effort", at, effort)?;
    request.thinking.summary = optional(value, "summary", at, text)?;
    request.keep_unknown(value, at, &["effort", "summary", "generate_summary"]);
    Ok(())
}

fn read_tool<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let kind = required(object(value, at)?, "type", at, text)?;
    if kind.is("function") {
        let tool = tool(value, at, value)?;
        request.keep_unknown(value, at, &["type", "name", "description", "parameters", "strict"]);
        request.tools.push(tool);
    } else {
        request.keep_foreign(at.field("type"));
        request.tools.push(Tool { raw: Some(value), ..no_tool() });
    }
    Ok(())
}

fn read_item<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let from = request.parts.len();
    let kind = optional(object(value, at)?, "type", at, text)?.unwrap_or_else(|| "message".into());
    let role = match kind.key() {
        "message" => read_message(value, at, request)?,
        "function_call" => {
            let id = required(value, "call_id", at, text)?;
            let name = required(value, "name", at, text)?;
            let arguments = required(value, "arguments", at, text)?;
            request.parts.push(Part::Call { id, name, arguments });
            request.keep_unknown(value, at, &["type", "id", "call_id", "name", "arguments", "status"]);
            Role::Assistant
        }
        "function_call_output" => {
            let id = required(value, "call_id", at, text)?;
            request.parts.push(Part::Result { id, is_error: false, parts: 0 });
            required(value, "output", at, |content, at| parts(content, at, request, read_part))?;
            let count = request.parts.len() - from - 1;
            if let Some(Part::Result { parts, .. }) = request.parts.get_mut(from) {
                *parts = count;
            }
            request.keep_unknown(value, at, &["type", "id", "call_id", "output", "status"]);
            Role::Tool
        }
        "reasoning" => {
            read_thought(value, at, request)?;
            Role::Assistant
        }
        "item_reference" => return Err(Refusal::unsupported(at, "no item is kept: send it whole")),
        _ => {
            request.keep_foreign(at.field("type"));
            Role::Assistant
        }
    };
    request.messages.push(Message { role, from, to: request.parts.len(), raw: Some(value) });
    Ok(())
}

fn read_message<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<Role, Refusal> {
    let role = match required(value, "role", at, text)?.key() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return Err(Refusal::value(at.field("role"), "system, developer, user or assistant")),
    };
    required(value, "content", at, |content, at| parts(content, at, request, read_part))?;
    request.keep_unknown(value, at, &["type", "role", "content", "id", "status", "phase"]);
    Ok(role)
}

fn read_thought<'a>(value: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let id = optional(value, "id", at, text)?.unwrap_or_default();
    let encrypted = optional(value, "encrypted_content", at, text)?.unwrap_or_default();
    let mut texts = Vec::new();
    for name in ["summary", "content"] {
        let list = at.field(name);
        for (index, part) in optional(value, name, at, array)?.into_iter().flat_map(Raw::items).enumerate() {
            texts.push(required(part, "text", list.item(index), text)?);
        }
    }
    let text = match (texts.len(), texts.pop()) {
        (1, Some(text)) => text,
        (0, _) | (_, None) => "".into(),
        (_, Some(last)) => {
            texts.push(last);
            texts.iter().map(|text| text.plain()).collect::<Vec<_>>().join("\n\n").into()
        }
    };
    let proof = match proof::read(&encrypted) {
        Some(proof) => proof,
        None if encrypted.is_empty() => Proof::None,
        None => Proof::Item { id, encrypted },
    };
    request.parts.push(Part::Reasoning { text, proof });
    request.keep_unknown(value, at, &["type", "id", "summary", "content", "encrypted_content", "status"]);
    Ok(())
}

/// A part of a text, or of a list.
fn read_part<'a>(part: Raw<'a>, at: At<'_>, request: &mut Request<'a>) -> Result<(), Refusal> {
    let kind = required(object(part, at)?, "type", at, text)?;
    match kind.key() {
        "input_text" | "output_text" | "text" => {
            request.parts.push(Part::Text(required(part, "text", at, text)?));
            // Annotations were made by a model, for people.
            request.keep_unknown(part, at, &["type", "text", "annotations", "logprobs"]);
        }
        "refusal" => request.parts.push(Part::Refusal(required(part, "refusal", at, text)?)),
        "input_image" if part.field("image_url").is_some() => {
            request.parts.push(Part::Image(image(required(part, "image_url", at, text)?)));
            request.keep_unknown(part, at, &["type", "image_url", "detail"]);
        }
        _ => request.keep_foreign(at.field("type")),
    }
    Ok(())
}
