//! OpenAI's responses.
//!
//! Owns the body of a turn's request. The conversation is ours to keep, so that the provider is told not to. Obeys OpenAI's
//! "Create a model response" page.
mod door;
mod encode;
mod response;
mod write;

pub(crate) use door::read_request;
pub(crate) use encode::write_request;
pub(crate) use response::Reader;
pub(crate) use write::{Writer, write_failure};

use crate::Turn;
use crate::endpoint::{Body, Endpoint};
use crate::prompt::{role_of, write_message, write_system};
use clawgate_wire::json;

/// Writes what follows the messages of a turn.
pub(crate) fn write_settings(body: &mut Body<'_>, endpoint: &Endpoint) {
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    body.raw("store", "false");
    if let Some(count) = endpoint.max_tokens {
        body.raw("max_output_tokens", &count.to_string());
    }
    if let Some(degree) = endpoint.temperature {
        body.raw("temperature", &degree.to_string());
    }
}

/// Writes the messages of a turn, and who asks.
pub(crate) fn write_turn(body: &mut Vec<u8>, turn: Turn<'_, '_>, says_user: bool) {
    for (role, text) in turn.history {
        write_message(body, role_of(role), text);
        body.push(b',');
    }
    write_message(body, "user", turn.text);
    body.push(b']');
    write_system(body, ",\"instructions\":", turn.system, turn.context);
    if says_user && !turn.user.is_empty() {
        body.extend_from_slice(b",\"user\":");
        json::write_str(body, turn.user);
    }
}
