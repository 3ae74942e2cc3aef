//! OpenAI's chat completions, and all that are compatible with them (vLLM, Kimi, XRoute, OpenRouter, Ollama's `/v1`).
//!
//! Owns the body of a turn's request. Obeys OpenAI's "Create chat completion" page.
mod door;
mod encode;
mod response;
mod write;

pub(crate) use door::{choice, effort, no_tool, plain_shape, read_request, schema, tool};
pub(crate) use encode::{result_texts, write_request, write_tool};
pub(crate) use response::Reader;
pub(crate) use write::{Writer, write_failure};

use crate::Turn;
use crate::endpoint::{Body, Endpoint};
use crate::prompt::{role_of, write_message, write_system};
use clawgate_wire::json;

/// Writes what follows the messages of a turn.
pub(crate) fn write_settings(body: &mut Body<'_>, endpoint: &Endpoint) {
    body.raw("stream", if endpoint.stream { "true" } else { "false" });
    // "an additional chunk will be streamed before the data: [DONE] message ... token usage statistics"
    if endpoint.stream {
        body.raw("stream_options", "{\"include_usage\":true}");
    }
    if let Some(count) = endpoint.max_tokens {
        body.raw("max_tokens", &count.to_string());
    }
    if let Some(degree) = endpoint.temperature {
        body.raw("temperature", &degree.to_string());
    }
}

/// Writes the messages of a turn, and who asks.
pub(crate) fn write_turn(body: &mut Vec<u8>, turn: Turn<'_, '_>, says_user: bool) {
    if write_system(body, "{\"role\":\"system\",\"content\":", turn.system, turn.context) {
        body.extend_from_slice(b"},");
    }
    for (role, text) in turn.history {
        write_message(body, role_of(role), text);
        body.push(b',');
    }
    write_message(body, "user", turn.text);
    body.push(b']');
    if says_user && !turn.user.is_empty() {
        body.extend_from_slice(b",\"user\":");
        json::write_str(body, turn.user);
    }
}
