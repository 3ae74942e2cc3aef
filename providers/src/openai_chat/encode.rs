//! A request as chat completions.
//!
//! Owns how the parts of a message are written. What came in this format goes on as it came.
use crate::endpoint::{Body, Endpoint};
use crate::format::Kind;
use crate::raw::Text;
use crate::request::{
    Choice, Part, Request, Role, Run, Shape, Tool, Unsupported, each_part, write_joined, write_list,
    write_text, write_url,
};
use clawgate_wire::json;
use std::borrow::Cow;

const KIND: Kind = Kind::OpenAiChat;

/// Fields that are written anew, whatever the client wrote.
const OURS: [&str; 7] =
    ["model", "messages", "tools", "stream", "stream_options", "max_tokens", "max_completion_tokens"];

/// Writes all of a body behind the opening of its messages.
pub(crate) fn write_request(
    body: &mut Body<'_>,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> Result<(), Unsupported> {
    let runs = request.runs(KIND);
    let mut written: Result<(), Unsupported> = Ok(());
    let mut first = true;
    for run in runs {
        write_run(body.out, &mut first, run, endpoint.replay_reasoning)?;
    }
    body.out.push(b']');
    if !request.tools.is_empty() && body.begin("tools") {
        write_list(body.out, &request.tools, |out, tool| write_tool(out, tool, request.keeps(KIND)));
    }
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    if endpoint.stream {
        body.raw("stream_options", "{\"include_usage\":true}");
    }
    if let Some(count) = endpoint.tokens(request.max_tokens) {
        let newer = request.fields.iter().any(|(name, _)| name.is("max_completion_tokens"));
        let newer = newer && request.keeps(KIND);
        body.raw(if newer { "max_completion_tokens" } else { "max_tokens" }, &count.to_string());
    }
    if request.keeps(KIND) {
        body.pass(request, &OURS);
    } else {
        written = write_settings(body, request);
    }
    if request.sampling.temperature.is_none()
        && let Some(degree) = endpoint.temperature
    {
        body.raw("temperature", &degree.to_string());
    }
    written
}

fn write_settings(body: &mut Body<'_>, request: &Request<'_>) -> Result<(), Unsupported> {
    let sampling = &request.sampling;
    if sampling.top_k.is_some() {
        return Err(Unsupported { what: "`top_k`".into(), kind: KIND });
    }
    for (name, value) in [
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
        ("seed", sampling.seed),
        ("frequency_penalty", sampling.frequency_penalty),
        ("presence_penalty", sampling.presence_penalty),
    ] {
        value.into_iter().for_each(|value| body.raw(name, value.as_str()));
    }
    if !sampling.stop.is_empty() && body.begin("stop") {
        write_list(body.out, &sampling.stop, |out, text| {
            text.write(out);
            true
        });
    }
    match &request.choice {
        None => {}
        Some(Choice::Auto) => body.raw("tool_choice", "\"auto\""),
        Some(Choice::None) => body.raw("tool_choice", "\"none\""),
        Some(Choice::Required) => body.raw("tool_choice", "\"required\""),
        Some(Choice::Tool(name)) => {
            let mut choice = b"{\"type\":\"function\",\"function\":{\"name\":".to_vec();
            name.write(&mut choice);
            choice.extend_from_slice(b"}}");
            body.bytes("tool_choice", &choice);
        }
    }
    if let Some(parallel) = request.parallel.filter(|_| !request.tools.is_empty()) {
        body.raw("parallel_tool_calls", if parallel { "true" } else { "false" });
    }
    if let Some(shape) = &request.shape
        && body.begin("response_format")
    {
        write_shape(body.out, shape);
    }
    if let Some(effort) = request.thinking.effort() {
        body.raw("reasoning_effort", &format!("\"{}\"", effort.name()));
    }
    if let Some(user) = &request.user
        && body.begin("user")
    {
        user.write(body.out);
    }
    Ok(())
}

fn write_shape(out: &mut Vec<u8>, shape: &Shape<'_>) {
    match shape {
        Shape::Text => out.extend_from_slice(b"{\"type\":\"text\"}"),
        Shape::Object => out.extend_from_slice(b"{\"type\":\"json_object\"}"),
        Shape::Schema { name, description, schema, strict } => {
            out.extend_from_slice(b"{\"type\":\"json_schema\",\"json_schema\":{\"name\":");
            name.as_ref().unwrap_or(&"answer".into()).write(out);
            description.iter().for_each(|text| write_text(out, "description", text));
            out.extend_from_slice(b",\"schema\":");
            out.extend_from_slice(schema.as_str().as_bytes());
            strict.iter().for_each(|strict| write_strict(out, *strict));
            out.extend_from_slice(b"}}");
        }
    }
}

fn write_strict(out: &mut Vec<u8>, strict: bool) {
    out.extend_from_slice(b",\"strict\":");
    json::write_bool(out, strict);
}

pub(crate) fn write_tool(out: &mut Vec<u8>, tool: &Tool<'_>, keeps: bool) -> bool {
    if let Some(raw) = tool.raw.filter(|_| keeps) {
        out.extend_from_slice(raw.as_str().as_bytes());
        return true;
    }
    out.extend_from_slice(b"{\"type\":\"function\",\"function\":{\"name\":");
    tool.name.write(out);
    tool.description.iter().for_each(|text| write_text(out, "description", text));
    if let Some(parameters) = tool.parameters {
        out.extend_from_slice(b",\"parameters\":");
        out.extend_from_slice(parameters.as_str().as_bytes());
    }
    tool.strict.iter().for_each(|strict| write_strict(out, *strict));
    out.extend_from_slice(b"}}");
    true
}

fn write_run(out: &mut Vec<u8>, first: &mut bool, run: Run<'_, '_>, replay: bool) -> Result<(), Unsupported> {
    let mut begin = |out: &mut Vec<u8>| {
        if !core::mem::take(first) {
            out.push(b',');
        }
    };
    if let Some(raw) = run.raw {
        begin(out);
        out.extend_from_slice(raw.as_str().as_bytes());
        return Ok(());
    }
    let mut rest = Vec::new();
    for (part, own) in each_part(run.parts) {
        let Part::Result { id, is_error, .. } = part else {
            rest.push(part);
            continue;
        };
        // Results follow their calls at once, whatever else a message says.
        begin(out);
        out.extend_from_slice(b"{\"role\":\"tool\",\"tool_call_id\":");
        id.write(out);
        out.extend_from_slice(b",\"content\":");
        write_result(out, own, *is_error, KIND)?;
        out.push(b'}');
    }
    if rest.is_empty() && run.role == Role::Tool || rest.is_empty() && run.parts.len() != rest.len() {
        return Ok(());
    }
    begin(out);
    match run.role {
        Role::Assistant => write_assistant(out, &rest, replay),
        Role::System => write_content(out, "system", &rest),
        Role::Developer => write_content(out, "developer", &rest),
        Role::User | Role::Tool => write_content(out, "user", &rest),
    }
    Ok(())
}

/// Writes what a tool answered: this format has no images there, and no word for a failure but words.
fn write_result(
    out: &mut Vec<u8>,
    parts: &[Part<'_>],
    is_error: bool,
    kind: Kind,
) -> Result<(), Unsupported> {
    let texts = result_texts(parts, is_error, kind)?;
    match texts.as_slice() {
        [] => out.extend_from_slice(b"\"\""),
        [text] => text.write(out),
        texts => write_list(out, texts, |out, text| {
            out.extend_from_slice(b"{\"type\":\"text\"");
            write_text(out, "text", text);
            out.push(b'}');
            true
        }),
    }
    Ok(())
}

/// The texts of a result, in formats that have nothing else there. That the tool failed is the first of them.
pub(crate) fn result_texts<'p, 'a>(
    parts: &'p [Part<'a>],
    is_error: bool,
    kind: Kind,
) -> Result<Vec<Cow<'p, Text<'a>>>, Unsupported> {
    let mut texts = Vec::new();
    if is_error {
        texts.push(Cow::Owned(Text::from("The tool failed:")));
    }
    for part in parts {
        match part {
            Part::Text(text) | Part::Refusal(text) => texts.push(Cow::Borrowed(text)),
            Part::Image(_) => {
                return Err(Unsupported { what: "an image in the result of a tool".into(), kind });
            }
            Part::Reasoning { .. } | Part::Call { .. } | Part::Result { .. } => {}
        }
    }
    Ok(texts)
}

fn write_content(out: &mut Vec<u8>, role: &str, parts: &[&Part<'_>]) {
    crate::prompt::begin_message(out, role);
    match parts {
        [] => out.extend_from_slice(b"\"\""),
        [Part::Text(text)] => text.write(out),
        parts => write_list(out, parts, |out, part| write_part(out, part)),
    }
    out.push(b'}');
}

fn write_part(out: &mut Vec<u8>, part: &Part<'_>) -> bool {
    match part {
        Part::Text(text) => {
            out.extend_from_slice(b"{\"type\":\"text\"");
            write_text(out, "text", text);
        }
        Part::Refusal(text) => {
            out.extend_from_slice(b"{\"type\":\"refusal\"");
            write_text(out, "refusal", text);
        }
        Part::Image(image) => {
            out.extend_from_slice(b"{\"type\":\"image_url\",\"image_url\":{\"url\":");
            write_url(out, image);
            out.push(b'}');
        }
        Part::Reasoning { .. } | Part::Call { .. } | Part::Result { .. } => return false,
    }
    out.push(b'}');
    true
}

fn write_assistant(out: &mut Vec<u8>, parts: &[&Part<'_>], replay: bool) {
    let is_said = |part: &&&Part<'_>| matches!(part, Part::Text(_) | Part::Refusal(_) | Part::Image(_));
    let said: Vec<&Part<'_>> = parts.iter().filter(is_said).copied().collect();
    let calls: Vec<&Part<'_>> =
        parts.iter().filter(|part| matches!(part, Part::Call { .. })).copied().collect();
    crate::prompt::begin_message(out, "assistant");
    match said.as_slice() {
        [] if calls.is_empty() => out.extend_from_slice(b"\"\""),
        [] => out.extend_from_slice(b"null"),
        [Part::Text(text)] => text.write(out),
        [Part::Refusal(text)] => {
            out.extend_from_slice(b"null");
            write_text(out, "refusal", text);
        }
        said => write_list(out, said, |out, part| write_part(out, part)),
    }
    let thoughts: Vec<&Text<'_>> = parts
        .iter()
        .filter_map(|part| if let Part::Reasoning { text, .. } = part { Some(text) } else { None })
        .filter(|text| replay && !text.is_empty())
        .collect();
    if !thoughts.is_empty() {
        out.extend_from_slice(b",\"reasoning_content\":");
        write_joined(out, thoughts, "");
    }
    if !calls.is_empty() {
        out.extend_from_slice(b",\"tool_calls\":");
        write_list(out, calls, |out, part| {
            let Part::Call { id, name, arguments } = part else { return false };
            out.extend_from_slice(b"{\"id\":");
            id.write(out);
            out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
            name.write(out);
            out.extend_from_slice(b",\"arguments\":");
            if arguments.is_empty() {
                Text::from("{}").write(out)
            } else {
                arguments.write(out)
            }
            out.extend_from_slice(b"}}");
            true
        });
    }
    out.push(b'}');
}
