//! A request as Ollama's chat.
//!
//! Owns how the parts of a message are written: one text, images beside it, calls with objects for arguments.
use crate::endpoint::{Body, Endpoint};
use crate::format::Kind;
use crate::openai_chat::{result_texts, write_tool};
use crate::raw::Text;
use crate::request::{
    Choice, Effort, Image, Part, Request, Role, Run, Shape, Unsupported, each_part, write_joined, write_list,
    write_object, write_text,
};
use clawgate_wire::json;

const KIND: Kind = Kind::Ollama;

/// Writes all of a body behind the opening of its messages.
pub(crate) fn write_request(
    body: &mut Body<'_>,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> Result<(), Unsupported> {
    let unsupported = |what: &'static str| Err(Unsupported { what: what.into(), kind: KIND });
    let mut first = true;
    for run in request.runs(KIND) {
        write_run(body.out, &mut first, run, request, endpoint.replay_reasoning)?;
    }
    body.out.push(b']');
    let forbidden = match &request.choice {
        None | Some(Choice::Auto) => false,
        Some(Choice::None) => true,
        Some(Choice::Required | Choice::Tool(_)) => return unsupported("a tool that must be called"),
    };
    if request.parallel == Some(false) && !request.tools.is_empty() {
        return unsupported("one tool call at a time");
    }
    if !request.tools.is_empty() && !forbidden && body.begin("tools") {
        write_list(body.out, &request.tools, |out, tool| write_tool(out, tool, false));
    }
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    match &request.shape {
        None | Some(Shape::Text) => {}
        Some(Shape::Object) => body.raw("format", "\"json\""),
        Some(Shape::Schema { schema, .. }) => body.raw("format", schema.as_str()),
    }
    match request.thinking.effort() {
        None => {}
        Some(Effort::None) => body.raw("think", "false"),
        Some(Effort::Minimal | Effort::Low) => body.raw("think", "\"low\""),
        Some(Effort::Medium) => body.raw("think", "\"medium\""),
        Some(Effort::High | Effort::Max) => body.raw("think", "\"high\""),
    }
    write_options(body, endpoint, request);
    Ok(())
}

fn write_options(body: &mut Body<'_>, endpoint: &Endpoint, request: &Request<'_>) {
    let sampling = &request.sampling;
    let mut options = Vec::new();
    let mut option = |name: &str, value: &str| {
        options.push(if options.is_empty() { b'{' } else { b',' });
        json::write_str(&mut options, name);
        options.push(b':');
        options.extend_from_slice(value.as_bytes());
    };
    if let Some(count) = endpoint.tokens(request.max_tokens) {
        option("num_predict", &count.to_string());
    }
    match (sampling.temperature, endpoint.temperature) {
        (Some(degree), _) => option("temperature", degree.as_str()),
        (None, Some(degree)) => option("temperature", &degree.to_string()),
        (None, None) => {}
    }
    for (name, value) in [
        ("top_p", sampling.top_p),
        ("top_k", sampling.top_k),
        ("seed", sampling.seed),
        ("frequency_penalty", sampling.frequency_penalty),
        ("presence_penalty", sampling.presence_penalty),
    ] {
        value.into_iter().for_each(|value| option(name, value.as_str()));
    }
    if !sampling.stop.is_empty() {
        options.extend_from_slice(if options.is_empty() { b"{\"stop\":" } else { b",\"stop\":" });
        write_list(&mut options, &sampling.stop, |out, text| {
            text.write(out);
            true
        });
    }
    if !options.is_empty() && body.begin("options") {
        body.out.extend_from_slice(&options);
        body.out.push(b'}');
    }
}

fn write_run(
    out: &mut Vec<u8>,
    first: &mut bool,
    run: Run<'_, '_>,
    request: &Request<'_>,
    replay: bool,
) -> Result<(), Unsupported> {
    let mut begin = |out: &mut Vec<u8>, role: &str| {
        if !core::mem::take(first) {
            out.push(b',');
        }
        crate::prompt::begin_message(out, role);
    };
    let mut rest = Vec::new();
    for (part, own) in each_part(run.parts) {
        let Part::Result { id, is_error, .. } = part else {
            rest.push(part);
            continue;
        };
        begin(out, "tool");
        let texts = result_texts(own, *is_error, KIND)?;
        write_joined(out, texts.iter().map(AsRef::as_ref), "\n");
        if let Some(name) = name_of(request, id) {
            write_text(out, "tool_name", name);
        }
        write_text(out, "tool_call_id", id);
        out.push(b'}');
    }
    if rest.is_empty() && !run.parts.is_empty() {
        return Ok(());
    }
    begin(
        out,
        match run.role {
            Role::System | Role::Developer => "system",
            Role::User | Role::Tool => "user",
            Role::Assistant => "assistant",
        },
    );
    write_message(out, &rest, replay)?;
    out.push(b'}');
    Ok(())
}

/// The tool that a call was of.
fn name_of<'r, 'a>(request: &'r Request<'a>, call: &Text<'_>) -> Option<&'r Text<'a>> {
    request.parts.iter().rev().find_map(|part| match part {
        Part::Call { id, name, .. } if id == call => Some(name),
        Part::Text(_) | Part::Refusal(_) | Part::Image(_) | Part::Reasoning { .. } => None,
        Part::Call { .. } | Part::Result { .. } => None,
    })
}

fn write_message(out: &mut Vec<u8>, parts: &[&Part<'_>], replay: bool) -> Result<(), Unsupported> {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text(text) | Part::Refusal(text) => Some(text),
        Part::Image(_) | Part::Reasoning { .. } | Part::Call { .. } | Part::Result { .. } => None,
    });
    write_joined(out, texts, "\n");
    let thoughts: Vec<&Text<'_>> = parts
        .iter()
        .filter_map(|part| if let Part::Reasoning { text, .. } = part { Some(text) } else { None })
        .filter(|text| replay && !text.is_empty())
        .collect();
    if !thoughts.is_empty() {
        out.extend_from_slice(b",\"thinking\":");
        write_joined(out, thoughts, "");
    }
    let mut images = Vec::new();
    for part in parts {
        match part {
            Part::Image(Image::Data { data, .. }) => images.push(data),
            Part::Image(Image::Url(_)) => {
                return Err(Unsupported { what: "an image by its address".into(), kind: KIND });
            }
            Part::Text(_) | Part::Refusal(_) | Part::Reasoning { .. } => {}
            Part::Call { .. } | Part::Result { .. } => {}
        }
    }
    if !images.is_empty() {
        out.extend_from_slice(b",\"images\":");
        write_list(out, images, |out, data| {
            data.write(out);
            true
        });
    }
    let mut calls = parts.iter().filter_map(|part| match part {
        Part::Call { id, name, arguments } => Some((id, name, arguments)),
        Part::Text(_) | Part::Refusal(_) | Part::Image(_) | Part::Reasoning { .. } => None,
        Part::Result { .. } => None,
    });
    let Some(call) = calls.next() else { return Ok(()) };
    let mut before = ",\"tool_calls\":[";
    for (id, name, arguments) in core::iter::once(call).chain(calls) {
        out.extend_from_slice(before.as_bytes());
        before = ",";
        out.extend_from_slice(b"{\"id\":");
        id.write(out);
        out.extend_from_slice(b",\"function\":{\"name\":");
        name.write(out);
        out.extend_from_slice(b",\"arguments\":");
        write_object(out, arguments, KIND)?;
        out.extend_from_slice(b"}}");
    }
    out.push(b']');
    Ok(())
}
