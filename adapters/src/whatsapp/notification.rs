//! A notification of the Cloud API to inbound events: messages, and answers of ours that did not arrive.
//!
//! Obeys developers.facebook.com/docs/whatsapp/cloud-api: "Notification payload", "Messages object", "Statuses object".
use crate::Value;
use clawgate_core::event::{Inbound, Kind, Scope};

/// The messages and failures of one change of one entry.
pub(super) fn read(value: Value<'_, '_>, number: &str, sink: &mut dyn FnMut(Inbound<'_>)) {
    let [metadata, contacts, messages, statuses] =
        value.pick(&["metadata", "contacts", "messages", "statuses"]);
    // An app's numbers all post to one address.
    if of(metadata, "phone_number_id") != Some(number) {
        return;
    }
    for message in messages.into_iter().flat_map(Value::items) {
        let Some(inbound) = message_of(message) else { continue };
        let mut contacts = contacts.into_iter().flat_map(Value::items);
        let contact = contacts.find(|contact| contact.str_of("wa_id") == Some(inbound.peer));
        let name = of(contact.and_then(|contact| contact.get("profile")), "name").unwrap_or_default();
        sink(Inbound { name, ..inbound });
    }
    for status in statuses.into_iter().flat_map(Value::items) {
        let [id, kind, to, errors] = status.pick(&["id", "status", "recipient_id", "errors"]);
        let (to, is_failed) = (word(to), word(kind) == "failed");
        if !is_failed || to.is_empty() {
            continue;
        }
        let error = errors.and_then(|errors| errors.items().next());
        let text = of(error, "title").or(of(error, "message")).unwrap_or_default();
        // The same message may be said to be sent, and to have failed.
        let id = format!("{}/failed", word(id));
        sink(Inbound { id: &id, peer: to, text, kind: Kind::Failure, ..Inbound::default() });
    }
}

fn word<'b>(value: Option<Value<'_, 'b>>) -> &'b str {
    value.and_then(Value::str).unwrap_or_default()
}

fn of<'b>(value: Option<Value<'_, 'b>>, key: &str) -> Option<&'b str> {
    value.and_then(|value| value.str_of(key))
}

/// A message; `None` for a kind that says nothing to an agent (`unsupported`, `system`).
fn message_of<'b>(message: Value<'_, 'b>) -> Option<Inbound<'b>> {
    let [from, id, time, kind, group] = message.pick(&["from", "id", "timestamp", "type", "group_id"]);
    let said = kind.and_then(Value::str)?;
    let content = message.get(said);
    let (text, kind) = match said {
        "text" => (of(content, "body")?, Kind::Message),
        "image" | "video" | "document" | "audio" | "sticker" => {
            (of(content, "caption").unwrap_or_default(), Kind::Message)
        }
        "button" => (of(content, "payload").or(of(content, "text"))?, Kind::Interaction),
        "interactive" => {
            let reply = content.and_then(|content| content.get("button_reply").or(content.get("list_reply")));
            (of(reply, "id").or(of(reply, "title"))?, Kind::Interaction)
        }
        "reaction" => (of(content, "emoji").unwrap_or_default(), Kind::Reaction),
        _ => return None,
    };
    let (peer, group) = (word(from), word(group));
    (!peer.is_empty()).then(|| Inbound {
        id: word(id),
        chat: group,
        peer,
        text,
        sent_millis: word(time).parse::<u64>().map_or(0, |seconds| seconds.saturating_mul(1_000)),
        kind,
        scope: if group.is_empty() { Scope::Direct } else { Scope::Group },
        mentioned: kind == Kind::Interaction,
        ..Inbound::default()
    })
}
