//! A turn's texts as the messages of a request: what the formats have in common.
//!
//! Owns how the system text and the session's context variables are joined.
use clawgate_core::view::Role;
use clawgate_wire::json;

pub(crate) const fn role_of(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Agent => "assistant",
    }
}

/// Writes a message that is one text, and no comma.
pub(crate) fn write_message(body: &mut Vec<u8>, role: &str, text: &str) {
    begin_message(body, role);
    json::write_str(body, text);
    body.push(b'}');
}

pub(crate) fn begin_message(body: &mut Vec<u8>, role: &str) {
    body.extend_from_slice(b"{\"role\":\"");
    body.extend_from_slice(role.as_bytes());
    body.extend_from_slice(b"\",\"content\":");
}

/// Writes what the agent is told first, with the session's context variables behind it as lines, as a string of JSON behind
/// `before`. Says whether there was either; nothing is written if there was not.
pub(crate) fn write_system<'a>(
    body: &mut Vec<u8>,
    before: &str,
    system: &str,
    context: &mut dyn Iterator<Item = (&'a str, &'a str)>,
) -> bool {
    let mut context = context.peekable();
    if system.is_empty() && context.peek().is_none() {
        return false;
    }
    body.extend_from_slice(before.as_bytes());
    body.push(b'"');
    json::write_str_body(body, system);
    if !system.is_empty() && context.peek().is_some() {
        json::write_str_body(body, "\n\n");
    }
    for (index, (name, value)) in context.enumerate() {
        for text in [if index == 0 { "" } else { "\n" }, name, ": ", value] {
            json::write_str_body(body, text);
        }
    }
    body.push(b'"');
    true
}
