//! Ollama's own chat.
//!
//! Owns the body of a turn's request: what other formats write beside the messages stands under `options`. Obeys Ollama's
//! "Generate a chat message" page.
mod encode;
mod response;

pub(crate) use encode::write_request;
pub(crate) use response::Reader;

use crate::Turn;
use crate::endpoint::{Body, Endpoint};
use crate::prompt::{role_of, write_message, write_system};

/// Writes what follows the messages of a turn.
pub(crate) fn write_settings(body: &mut Body<'_>, endpoint: &Endpoint) {
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    let count = endpoint.max_tokens.map(|count| format!("\"num_predict\":{count}"));
    let degree = endpoint.temperature.map(|degree| format!("\"temperature\":{degree}"));
    let options: Vec<String> = [count, degree].into_iter().flatten().collect();
    if !options.is_empty() {
        body.raw("options", &format!("{{{}}}", options.join(",")));
    }
}

/// Writes the messages of a turn.
pub(crate) fn write_turn(body: &mut Vec<u8>, turn: Turn<'_, '_>) {
    if write_system(body, "{\"role\":\"system\",\"content\":", turn.system, turn.context) {
        body.extend_from_slice(b"},");
    }
    for (role, text) in turn.history {
        write_message(body, role_of(role), text);
        body.push(b',');
    }
    write_message(body, "user", turn.text);
    body.push(b']');
}
