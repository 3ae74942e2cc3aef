//! A request as OpenAI's responses.
//!
//! Owns how messages and their parts are written as items. What came in this format goes on as it came, but that the
//! provider is told to keep nothing.
use crate::endpoint::{Body, Endpoint};
use crate::format::Kind;
use crate::raw::Text;
use crate::request::{
    Choice, Part, Proof, Request, Role, Run, Shape, Tool, Unsupported, each_part, write_list, write_text,
    write_url,
};
use clawgate_wire::json;

const KIND: Kind = Kind::OpenAiResponses;

/// Fields that are written anew, whatever the client wrote.
const OURS: [&str; 8] =
    ["model", "input", "instructions", "tools", "stream", "stream_options", "store", "max_output_tokens"];

/// Writes all of a body behind the opening of its input.
pub(crate) fn write_request(
    body: &mut Body<'_>,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> Result<(), Unsupported> {
    let runs = request.runs(KIND);
    // The one that came as a plain text stood beside the input.
    let is_beside =
        |run: &Run<'_, '_>| run.role == Role::System && run.raw.is_some_and(|raw| raw.text().is_some());
    let mut first = true;
    for run in runs.iter().filter(|run| !is_beside(run)) {
        write_run(body.out, &mut first, run);
    }
    body.out.push(b']');
    if let Some(raw) = runs.iter().find(|run| is_beside(run)).and_then(|run| run.raw) {
        body.raw("instructions", raw.as_str());
    }
    if !request.tools.is_empty() && body.begin("tools") {
        write_list(body.out, &request.tools, |out, tool| write_tool(out, tool, request.keeps(KIND)));
    }
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    body.raw("store", "false");
    if let Some(count) = endpoint.tokens(request.max_tokens) {
        body.raw("max_output_tokens", &count.to_string());
    }
    if request.keeps(KIND) {
        body.pass(request, &OURS);
    } else {
        write_settings(body, request)?;
        // What is not kept there can only be given back if it comes along.
        if endpoint.replay_reasoning {
            body.raw("include", "[\"reasoning.encrypted_content\"]");
        }
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
    for (what, is_set) in [
        ("`seed`", sampling.seed.is_some()),
        ("`top_k`", sampling.top_k.is_some()),
        ("`frequency_penalty`", sampling.frequency_penalty.is_some_and(|value| value.f64() != Some(0.0))),
        ("`presence_penalty`", sampling.presence_penalty.is_some_and(|value| value.f64() != Some(0.0))),
        ("a stop sequence", !sampling.stop.is_empty()),
    ] {
        if is_set {
            return Err(Unsupported { what: what.into(), kind: KIND });
        }
    }
    for (name, value) in [("temperature", sampling.temperature), ("top_p", sampling.top_p)] {
        value.into_iter().for_each(|value| body.raw(name, value.as_str()));
    }
    match &request.choice {
        None => {}
        Some(Choice::Auto) => body.raw("tool_choice", "\"auto\""),
        Some(Choice::None) => body.raw("tool_choice", "\"none\""),
        Some(Choice::Required) => body.raw("tool_choice", "\"required\""),
        Some(Choice::Tool(name)) => {
            let mut choice = b"{\"type\":\"function\"".to_vec();
            write_text(&mut choice, "name", name);
            choice.push(b'}');
            body.bytes("tool_choice", &choice);
        }
    }
    if let Some(parallel) = request.parallel.filter(|_| !request.tools.is_empty()) {
        body.raw("parallel_tool_calls", if parallel { "true" } else { "false" });
    }
    if let Some(shape) = &request.shape
        && body.begin("text")
    {
        write_shape(body.out, shape);
    }
    if let Some(effort) = request.thinking.effort()
        && body.begin("reasoning")
    {
        body.out.extend_from_slice(b"{\"effort\":");
        json::write_str(body.out, effort.name());
        request.thinking.summary.iter().for_each(|summary| write_text(body.out, "summary", summary));
        body.out.push(b'}');
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
        Shape::Text => out.extend_from_slice(b"{\"format\":{\"type\":\"text\"}}"),
        Shape::Object => out.extend_from_slice(b"{\"format\":{\"type\":\"json_object\"}}"),
        Shape::Schema { name, description, schema, strict } => {
            out.extend_from_slice(b"{\"format\":{\"type\":\"json_schema\",\"name\":");
            name.as_ref().unwrap_or(&"answer".into()).write(out);
            description.iter().for_each(|text| write_text(out, "description", text));
            out.extend_from_slice(b",\"schema\":");
            out.extend_from_slice(schema.as_str().as_bytes());
            if let Some(strict) = strict {
                out.extend_from_slice(b",\"strict\":");
                json::write_bool(out, *strict);
            }
            out.extend_from_slice(b"}}");
        }
    }
}

fn write_tool(out: &mut Vec<u8>, tool: &Tool<'_>, keeps: bool) -> bool {
    if let Some(raw) = tool.raw.filter(|_| keeps) {
        out.extend_from_slice(raw.as_str().as_bytes());
        return true;
    }
    out.extend_from_slice(b"{\"type\":\"function\"");
    write_text(out, "name", &tool.name);
    tool.description.iter().for_each(|text| write_text(out, "description", text));
    out.extend_from_slice(b",\"parameters\":");
    out.extend_from_slice(
        tool.parameters.map_or("{\"type\":\"object\",\"properties\":{}}", |p| p.as_str()).as_bytes(),
    );
    // Left out it would mean yes here, and no everywhere else.
    out.extend_from_slice(b",\"strict\":");
    json::write_bool(out, tool.strict.unwrap_or(false));
    out.push(b'}');
    true
}

fn write_run(out: &mut Vec<u8>, first: &mut bool, run: &Run<'_, '_>) {
    let mut item = |out: &mut Vec<u8>| {
        if !core::mem::take(first) {
            out.push(b',');
        }
    };
    if let Some(raw) = run.raw {
        item(out);
        out.extend_from_slice(raw.as_str().as_bytes());
        return;
    }
    // Texts and images of a message stand together; calls, results and thoughts are items of their own.
    let mut said: Vec<&Part<'_>> = Vec::new();
    for (part, own) in each_part(run.parts) {
        if matches!(part, Part::Text(_) | Part::Refusal(_) | Part::Image(_)) {
            said.push(part);
            continue;
        }
        // A thought goes back to its own provider, and only with what that can read: nothing was kept there.
        let is_theirs =
            |proof: &Proof<'_>| matches!(proof, Proof::Item { encrypted, .. } if !encrypted.is_empty());
        if matches!(part, Part::Reasoning { proof, .. } if !is_theirs(proof)) {
            continue;
        }
        if !said.is_empty() {
            item(out);
            write_message(out, run.role, &core::mem::take(&mut said));
        }
        item(out);
        write_item(out, part, own);
    }
    if !said.is_empty() || run.parts.is_empty() {
        item(out);
        write_message(out, run.role, &said);
    }
}

fn write_message(out: &mut Vec<u8>, role: Role, parts: &[&Part<'_>]) {
    let name = match role {
        Role::System => "system",
        Role::Developer => "developer",
        Role::User | Role::Tool => "user",
        Role::Assistant => "assistant",
    };
    crate::prompt::begin_message(out, name);
    match parts {
        [] => out.extend_from_slice(b"\"\""),
        [Part::Text(text)] => text.write(out),
        parts => write_list(out, parts, |out, part| write_part(out, part, role)),
    }
    out.push(b'}');
}

fn write_part(out: &mut Vec<u8>, part: &Part<'_>, role: Role) -> bool {
    match part {
        Part::Text(text) => {
            let kind: &[u8] = if role == Role::Assistant { b"output_text" } else { b"input_text" };
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind);
            out.push(b'"');
            write_text(out, "text", text);
        }
        Part::Refusal(text) => {
            out.extend_from_slice(b"{\"type\":\"refusal\"");
            write_text(out, "refusal", text);
        }
        Part::Image(image) => {
            out.extend_from_slice(b"{\"type\":\"input_image\",\"image_url\":");
            write_url(out, image);
        }
        Part::Reasoning { .. } | Part::Call { .. } | Part::Result { .. } => return false,
    }
    out.push(b'}');
    true
}

fn write_item(out: &mut Vec<u8>, part: &Part<'_>, own: &[Part<'_>]) {
    match part {
        Part::Call { id, name, arguments } => {
            out.extend_from_slice(b"{\"type\":\"function_call\"");
            write_text(out, "call_id", id);
            write_text(out, "name", name);
            let none = Text::from("{}");
            write_text(out, "arguments", if arguments.is_empty() { &none } else { arguments });
        }
        Part::Result { id, is_error, .. } => {
            out.extend_from_slice(b"{\"type\":\"function_call_output\"");
            write_text(out, "call_id", id);
            out.extend_from_slice(b",\"output\":");
            let failed = Part::Text("The tool failed:".into());
            let parts: Vec<&Part<'_>> = is_error.then_some(&failed).into_iter().chain(own).collect();
            match parts.as_slice() {
                [] => out.extend_from_slice(b"\"\""),
                [Part::Text(text)] => text.write(out),
                parts => write_list(out, parts, |out, part| write_part(out, part, Role::Tool)),
            }
        }
        Part::Reasoning { text, proof: Proof::Item { id, encrypted } } => {
            out.extend_from_slice(b"{\"type\":\"reasoning\"");
            write_text(out, "id", id);
            out.extend_from_slice(b",\"summary\":[");
            if !text.is_empty() {
                out.extend_from_slice(b"{\"type\":\"summary_text\"");
                write_text(out, "text", text);
                out.push(b'}');
            }
            out.push(b']');
            write_text(out, "encrypted_content", encrypted);
        }
        Part::Text(_) | Part::Refusal(_) | Part::Image(_) | Part::Reasoning { .. } => return,
    }
    out.push(b'}');
}
