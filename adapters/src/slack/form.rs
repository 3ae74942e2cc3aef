//! What Slack posts as a form: slash commands, and buttons and shortcuts, whose form has JSON in it.
//!
//! Obeys docs.slack.dev: "Slash commands", "Handling user interaction", "Interaction payloads".
use super::markup;
use crate::{Ack, Bad, Json, Value};
use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{Inbound, Kind, Scope};
use std::borrow::Cow;

/// Fields of a form that are looked at: a slash command has about fifteen.
const FIELDS_MAX: usize = 64;

/// Reads a form: the sink takes the command or the interaction in it.
pub(super) fn read(body: &[u8], json: &mut Json, sink: &mut dyn FnMut(Inbound<'_>)) -> Result<Ack, Bad> {
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(body).take(FIELDS_MAX);
        fields.find_map(|(key, value)| (key == name).then_some(value))
    };
    if let Some(payload) = field("payload") {
        let mut payload = payload.into_owned().into_bytes();
        let document = json.parse(&mut payload)?;
        interaction(document.root(), sink);
        return Ok(Ack::AfterDurable(Bytes::new()));
    }
    let Some(command) = field("command") else {
        // `ssl_check=1`: is the certificate good?
        return match field("ssl_check") {
            Some(_) => Ok(Ack::Now(Bytes::new())),
            None => Err(Bad::new(Code::MissingField, "the form has neither `payload` nor `command`")),
        };
    };
    let [text, peer, name, chat, id] = ["text", "user_id", "user_name", "channel_id", "trigger_id"]
        .map(|name| field(name).unwrap_or_default());
    if peer.is_empty() || chat.is_empty() {
        return Err(Bad::new(Code::MissingField, "`user_id` and `channel_id` must be there"));
    }
    let said = if text.is_empty() { command } else { Cow::Owned(format!("{command} {text}")) };
    sink(Inbound {
        id: &id,
        chat: &chat,
        peer: &peer,
        name: &name,
        text: &markup::plain(&said),
        kind: Kind::Command,
        scope: scope_of(&chat),
        mentioned: true,
        ..Inbound::default()
    });
    Ok(Ack::AfterDurable(Bytes::new()))
}

fn interaction(root: Value<'_, '_>, sink: &mut dyn FnMut(Inbound<'_>)) {
    let [user, channel, container, message, actions, trigger, callback] =
        root.pick(&["user", "channel", "container", "message", "actions", "trigger_id", "callback_id"]);
    let Some(peer) = of(user, "id").filter(|peer| !peer.is_empty()) else { return };
    let name = of(user, "name").or(of(user, "username")).unwrap_or_default();
    // A form in a window of its own belongs to no channel: its answer goes to the person.
    let chat = of(channel, "id").or(of(container, "channel_id")).unwrap_or_default();
    let action = actions.and_then(|actions| actions.items().next());
    let chosen = action.and_then(|action| action.get("selected_option"));
    let text = of(action, "value")
        .or(of(chosen, "value"))
        .or(of(action, "action_id"))
        .or(callback.and_then(Value::str))
        .unwrap_or_default();
    let thread = of(message, "thread_ts").or(of(container, "thread_ts")).unwrap_or_default();
    sink(Inbound {
        id: trigger.and_then(Value::str).unwrap_or_default(),
        chat,
        thread,
        peer,
        name,
        text,
        kind: Kind::Interaction,
        scope: scope_of(chat),
        mentioned: true,
        ..Inbound::default()
    });
}

fn of<'b>(value: Option<Value<'_, 'b>>, key: &str) -> Option<&'b str> {
    value.and_then(|value| value.str_of(key))
}

/// The bot's chats with one person have ids that begin with `D`.
fn scope_of(chat: &str) -> Scope {
    if chat.is_empty() || chat.starts_with('D') { Scope::Direct } else { Scope::Group }
}
