//! Parrot: a format that nobody speaks, for the README: all that a new wire format needs, in one file.
use crate::Turn;
use crate::decoder::Out;
use crate::endpoint::{Body, Endpoint};
use crate::prompt::{role_of, write_message, write_system};
use crate::raw::Raw;
use crate::request::{Part, Request, Role, Unsupported};
use crate::said::{Counts, Stop};

/// What follows the messages of a request: what the settings say, as far as they leave it to us.
pub(crate) fn write_settings(body: &mut Body<'_>, endpoint: &Endpoint) {
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    if let Some(count) = endpoint.max_tokens {
        body.raw("length", &count.to_string());
    }
}

/// The messages of a turn: what the agent is told, what was said, what is said.
pub(crate) fn write_turn(body: &mut Vec<u8>, turn: Turn<'_, '_>) {
    if write_system(body, "{\"role\":\"keeper\",\"content\":", turn.system, turn.context) {
        body.extend_from_slice(b"},");
    }
    for (role, text) in turn.history {
        write_message(body, role_of(role), text);
        body.push(b',');
    }
    write_message(body, "user", turn.text);
    body.push(b']');
}

/// A whole request, as a client of another format brought it. What the format has no word for is refused.
pub(crate) fn write_request(
    body: &mut Body<'_>,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> Result<(), Unsupported> {
    let unsupported = |what: &'static str| Unsupported { what: what.into(), kind: endpoint.kind() };
    if !request.tools.is_empty() {
        return Err(unsupported("tools"));
    }
    for (at, message) in request.messages.iter().enumerate() {
        let role = match message.role {
            Role::System | Role::Developer => "keeper",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => return Err(unsupported("the result of a tool")),
        };
        let mut words = String::new();
        for part in request.parts_of(message) {
            match part {
                Part::Text(text) | Part::Refusal(text) => text.push_to(&mut words),
                // It goes back to whom it came from alone.
                Part::Reasoning { .. } => {}
                Part::Image(_) => return Err(unsupported("an image")),
                Part::Call { .. } | Part::Result { .. } => return Err(unsupported("a tool call")),
            }
        }
        if at != 0 {
            body.out.push(b',');
        }
        write_message(body.out, role, &words);
    }
    body.out.push(b']');
    write_settings(body, endpoint);
    Ok(())
}

/// Reads one answer: `{"squawk":"…"}` for each piece, then `{"end":"full"}` or `{"end":"hungry"}` with the counts.
#[derive(Debug)]
pub(crate) struct Reader;

impl Reader {
    /// Reads the data of one event. False if it is not the protocol: the answer then ends as failed.
    pub(crate) fn on_event(&mut self, data: &[u8], out: &mut Out<'_>) -> bool {
        let Some(event) = Raw::parse(data).filter(|event| event.is_object()) else { return false };
        if let Some(error) = event.get("error") {
            out.fail(error);
            return true;
        }
        let squawk = event.get("squawk").and_then(Raw::text);
        if !out.text(squawk.as_ref()) {
            // It says nothing yet, but it lives.
            out.alive();
        }
        let Some(end) = event.get("end").and_then(Raw::text) else { return true };
        let count = |name| event.get(name).and_then(Raw::count).unwrap_or(0);
        out.usage(Counts { prompt: count("heard"), completion: count("said"), ..Counts::default() });
        out.finish(if end.key() == "hungry" { Stop::Length } else { Stop::Complete });
        true
    }
}
