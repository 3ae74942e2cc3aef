//! A request as Anthropic's messages.
//!
//! Owns how the parts of a message are written as blocks. What came in this format goes on as it came.
use super::MAX_TOKENS;
use crate::endpoint::{Body, Endpoint};
use crate::format::Kind;
use crate::raw::{Raw, Text};
use crate::request::{
    Choice, Image, Part, Proof, Request, Role, Run, Shape, Tool, Unsupported, each_part, write_list,
    write_object, write_text,
};
use clawgate_wire::json;

const KIND: Kind = Kind::Anthropic;
/// The least that a model is let think: "Minimum budget is 1,024 tokens".
const BUDGET_MIN: u32 = 1_024;

/// Fields that are written anew, whatever the client wrote.
const OURS: [&str; 6] = ["model", "messages", "system", "tools", "stream", "max_tokens"];

/// Writes all of a body behind the opening of its messages.
pub(crate) fn write_request(
    body: &mut Body<'_>,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> Result<(), Unsupported> {
    let runs = request.runs(KIND);
    let is_system = |run: &&Run<'_, '_>| matches!(run.role, Role::System | Role::Developer);
    let leading = runs.iter().take_while(is_system).count();
    let (system, said) = runs.split_at(leading);
    if said.iter().any(|run| is_system(&run)) {
        return Err(Unsupported {
            what: "a system message after the first other message".into(),
            kind: KIND,
        });
    }
    let mut first = true;
    for run in said {
        write_run(body.out, &mut first, run)?;
    }
    body.out.push(b']');
    if !system.is_empty() && body.begin("system") {
        write_system(body.out, system)?;
    }
    if !request.tools.is_empty() && body.begin("tools") {
        write_list(body.out, &request.tools, |out, tool| write_tool(out, tool, request.keeps(KIND)));
    }
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    let keeps = request.keeps(KIND);
    let budget = if keeps { None } else { request.thinking.budget() };
    let tokens = endpoint.tokens(request.max_tokens);
    let tokens = tokens.unwrap_or_else(|| MAX_TOKENS.saturating_add(budget.unwrap_or(0).saturating_mul(2)));
    body.raw("max_tokens", &tokens.to_string());
    if keeps {
        body.pass(request, &OURS);
    } else {
        write_settings(body, request)?;
        write_thinking(body, budget, tokens);
    }
    if request.sampling.temperature.is_none()
        && let Some(degree) = endpoint.temperature
    {
        body.raw("temperature", &degree.to_string());
    }
    Ok(())
}

fn write_settings(body: &mut Body<'_>, request: &Request<'_>) -> Result<(), Unsupported> {
    let sampling = &request.sampling;
    for (what, value) in [
        ("`seed`", sampling.seed),
        ("`frequency_penalty`", sampling.frequency_penalty.filter(is_not_zero)),
        ("`presence_penalty`", sampling.presence_penalty.filter(is_not_zero)),
        (
            "a temperature above 1",
            sampling.temperature.filter(|value| value.f64().is_none_or(|value| 1.0 < value)),
        ),
    ] {
        if value.is_some() {
            return Err(Unsupported { what: what.into(), kind: KIND });
        }
    }
    for (name, value) in
        [("temperature", sampling.temperature), ("top_p", sampling.top_p), ("top_k", sampling.top_k)]
    {
        value.into_iter().for_each(|value| body.raw(name, value.as_str()));
    }
    if !sampling.stop.is_empty() && body.begin("stop_sequences") {
        write_list(body.out, &sampling.stop, |out, text| {
            text.write(out);
            true
        });
    }
    write_choice(body, request);
    match &request.shape {
        None | Some(Shape::Text) => {}
        Some(Shape::Object) => {
            return Err(Unsupported { what: "a JSON object of no schema as answer".into(), kind: KIND });
        }
        Some(Shape::Schema { schema, .. }) => {
            let schema = schema.as_str();
            body.raw(
                "output_config",
                &format!("{{\"format\":{{\"type\":\"json_schema\",\"schema\":{schema}}}}}"),
            );
        }
    }
    if let Some(user) = &request.user
        && body.begin("metadata")
    {
        body.out.extend_from_slice(b"{\"user_id\":");
        user.write(body.out);
        body.out.push(b'}');
    }
    Ok(())
}

fn is_not_zero(value: &Raw<'_>) -> bool {
    value.f64() != Some(0.0)
}

fn write_choice(body: &mut Body<'_>, request: &Request<'_>) {
    let single = request.parallel == Some(false) && !request.tools.is_empty();
    let (kind, name) = match &request.choice {
        None if single => ("auto", None),
        None => return,
        Some(Choice::Auto) => ("auto", None),
        Some(Choice::None) => ("none", None),
        Some(Choice::Required) => ("any", None),
        Some(Choice::Tool(name)) => ("tool", Some(name)),
    };
    if !body.begin("tool_choice") {
        return;
    }
    body.out.extend_from_slice(b"{\"type\":");
    json::write_str(body.out, kind);
    name.into_iter().for_each(|name| write_text(body.out, "name", name));
    if single && kind != "none" {
        body.out.extend_from_slice(b",\"disable_parallel_tool_use\":true");
    }
    body.out.push(b'}');
}

/// Half of the tokens are left for the answer.
fn write_thinking(body: &mut Body<'_>, budget: Option<u32>, tokens: u32) {
    match budget {
        None => {}
        Some(0) => body.raw("thinking", "{\"type\":\"disabled\"}"),
        Some(budget) => {
            let budget = budget.min(tokens / 2);
            if BUDGET_MIN <= budget {
                body.raw("thinking", &format!("{{\"type\":\"enabled\",\"budget_tokens\":{budget}}}"));
            }
        }
    }
}

fn write_system(out: &mut Vec<u8>, runs: &[Run<'_, '_>]) -> Result<(), Unsupported> {
    match runs {
        [Run { raw: Some(raw), .. }] => out.extend_from_slice(raw.as_str().as_bytes()),
        [Run { parts: [Part::Text(text)], .. }] => text.write(out),
        runs => {
            let mut first = true;
            out.push(b'[');
            for run in runs {
                match run.raw.filter(|raw| raw.is_array()) {
                    Some(raw) => {
                        for block in raw.items() {
                            comma(out, &mut first);
                            out.extend_from_slice(block.as_str().as_bytes());
                        }
                    }
                    None => write_blocks(out, &mut first, run.parts)?,
                }
            }
            out.push(b']');
        }
    }
    Ok(())
}

fn write_tool(out: &mut Vec<u8>, tool: &Tool<'_>, keeps: bool) -> bool {
    if let Some(raw) = tool.raw.filter(|_| keeps) {
        out.extend_from_slice(raw.as_str().as_bytes());
        return true;
    }
    out.extend_from_slice(b"{\"name\":");
    tool.name.write(out);
    tool.description.iter().for_each(|text| write_text(out, "description", text));
    out.extend_from_slice(b",\"input_schema\":");
    let schema = tool.parameters.map_or("{\"type\":\"object\",\"properties\":{}}", Raw::as_str);
    out.extend_from_slice(schema.as_bytes());
    if tool.strict == Some(true) {
        out.extend_from_slice(b",\"strict\":true");
    }
    out.push(b'}');
    true
}

fn comma(out: &mut Vec<u8>, first: &mut bool) {
    if !core::mem::take(first) {
        out.push(b',');
    }
}

fn write_run(out: &mut Vec<u8>, first: &mut bool, run: &Run<'_, '_>) -> Result<(), Unsupported> {
    if let Some(raw) = run.raw {
        comma(out, first);
        out.extend_from_slice(raw.as_str().as_bytes());
        return Ok(());
    }
    let (start, was_first) = (out.len(), *first);
    comma(out, first);
    crate::prompt::begin_message(out, if run.role == Role::Assistant { "assistant" } else { "user" });
    let is_empty = match run.parts {
        [Part::Text(text)] => {
            text.write(out);
            text.is_empty()
        }
        parts => {
            let mut first = true;
            out.push(b'[');
            write_blocks(out, &mut first, parts)?;
            out.push(b']');
            first
        }
    };
    out.push(b'}');
    // "messages: text content blocks must be non-empty"
    if is_empty {
        out.truncate(start);
        *first = was_first;
    }
    Ok(())
}

fn write_blocks(out: &mut Vec<u8>, first: &mut bool, parts: &[Part<'_>]) -> Result<(), Unsupported> {
    for (part, own) in each_part(parts) {
        match part {
            Part::Text(text) | Part::Refusal(text) if text.is_empty() => {}
            // A thought of another provider's cannot be shown to this one: it takes back only what it signed.
            Part::Reasoning { proof: Proof::None | Proof::Item { .. }, .. } => {}
            Part::Text(_)
            | Part::Refusal(_)
            | Part::Image(_)
            | Part::Reasoning { .. }
            | Part::Call { .. }
            | Part::Result { .. } => {
                comma(out, first);
                write_block(out, part, own)?;
            }
        }
    }
    Ok(())
}

fn write_block(out: &mut Vec<u8>, part: &Part<'_>, own: &[Part<'_>]) -> Result<(), Unsupported> {
    match part {
        Part::Text(text) | Part::Refusal(text) => {
            out.extend_from_slice(b"{\"type\":\"text\"");
            write_text(out, "text", text);
        }
        Part::Image(Image::Url(url)) => {
            out.extend_from_slice(b"{\"type\":\"image\",\"source\":{\"type\":\"url\"");
            write_text(out, "url", url);
            out.push(b'}');
        }
        Part::Image(Image::Data { media, data }) => {
            out.extend_from_slice(b"{\"type\":\"image\",\"source\":{\"type\":\"base64\"");
            write_text(out, "media_type", media);
            write_text(out, "data", data);
            out.push(b'}');
        }
        Part::Reasoning { proof: Proof::Redacted(data), .. } => {
            out.extend_from_slice(b"{\"type\":\"redacted_thinking\"");
            write_text(out, "data", data);
        }
        Part::Reasoning { text, proof } => {
            out.extend_from_slice(b"{\"type\":\"thinking\"");
            write_text(out, "thinking", text);
            if let Proof::Signature(signature) = proof {
                write_text(out, "signature", signature);
            }
        }
        Part::Call { id, name, arguments } => {
            out.extend_from_slice(b"{\"type\":\"tool_use\"");
            write_id(out, "id", id);
            write_text(out, "name", name);
            out.extend_from_slice(b",\"input\":");
            write_object(out, arguments, KIND)?;
        }
        Part::Result { id, is_error, .. } => {
            out.extend_from_slice(b"{\"type\":\"tool_result\"");
            write_id(out, "tool_use_id", id);
            match own {
                [] => {}
                [Part::Text(text)] => write_text(out, "content", text),
                own => {
                    let mut first = true;
                    out.extend_from_slice(b",\"content\":[");
                    write_blocks(out, &mut first, own)?;
                    out.push(b']');
                }
            }
            if *is_error {
                out.extend_from_slice(b",\"is_error\":true");
            }
        }
    }
    out.push(b'}');
    Ok(())
}

/// Ids are letters, digits, `_` and `-` here; those of other providers have dots and colons too.
fn write_id(out: &mut Vec<u8>, name: &str, id: &Text<'_>) {
    let plain = id.plain();
    let is_fine = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    if plain.chars().all(is_fine) {
        return write_text(out, name, id);
    }
    let fine: String = plain.chars().map(|letter| if is_fine(letter) { letter } else { '_' }).collect();
    write_text(out, name, &fine.into());
}
