//! Anthropic's messages.
//!
//! Owns the body of a turn's request. Obeys Anthropic's "Create a Message" page.
mod door;
mod encode;
mod response;
mod write;

pub(crate) use door::read_request;
pub(crate) use encode::write_request;
pub(crate) use response::Reader;
pub(crate) use write::{Writer, write_failure, write_ping};

use crate::Turn;
use crate::endpoint::{Body, Endpoint};
use crate::prompt::{role_of, write_message, write_system};
use clawgate_core::view::Role;
use clawgate_wire::json;

/// Tokens of an answer where nobody says: the format demands a number, and every model takes this one.
pub(crate) const MAX_TOKENS: u32 = 4_096;

/// Writes what follows the messages of a turn.
pub(crate) fn write_settings(body: &mut Body<'_>, endpoint: &Endpoint) {
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    body.raw("max_tokens", &endpoint.max_tokens.unwrap_or(MAX_TOKENS).to_string());
    if let Some(degree) = endpoint.temperature {
        body.raw("temperature", &degree.to_string());
    }
}

/// Writes the messages of a turn, and who asks. The first message is a user's and no message is empty, or the request is
/// refused: a history whose beginning was forgotten may begin with an answer.
pub(crate) fn write_turn(body: &mut Vec<u8>, turn: Turn<'_, '_>, says_user: bool) {
    let mut begun = false;
    for (role, text) in turn.history {
        begun |= role == Role::User && !text.is_empty();
        if begun && !text.is_empty() {
            write_message(body, role_of(role), text);
            body.push(b',');
        }
    }
    write_message(body, "user", turn.text);
    body.push(b']');
    write_system(body, ",\"system\":", turn.system, turn.context);
    if says_user && !turn.user.is_empty() {
        body.extend_from_slice(b",\"metadata\":{\"user_id\":");
        json::write_str(body, turn.user);
        body.push(b'}');
    }
}
