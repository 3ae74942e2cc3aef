//! A Telegram update to an inbound event: who wrote, where, what kind of thing it is, and whether it addresses the bot.
//!
//! Never keeps an update: repeated ones are the core's to know by `update_id`. Obeys the Bot API page: "Update", "Message",
//! "MessageEntity" (offsets are UTF-16 code units). A text stays as it was written, `@bot` included.
use crate::{Ack, Bad, Digits, Value};
use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{Inbound, Kind, Mode, Scope};
use clawgate_core::id::ChannelId;
use clawgate_wire::json;

/// Entities of a message that are looked at; Telegram sends at most 100.
const ENTITIES_MAX: usize = 128;

/// Who the bot is, to know when it is meant.
#[derive(Debug)]
pub(super) struct Me {
    /// Without `@`; empty where unknown.
    pub(super) username: String,
    pub(super) id: u64,
}

impl Me {
    fn is(&self, user: Value<'_, '_>) -> bool {
        user.get("id").and_then(Value::u64) == Some(self.id)
    }

    fn is_called(&self, name: &str) -> bool {
        !name.is_empty() && name.eq_ignore_ascii_case(&self.username)
    }
}

/// The fields of an update that are looked at: its number, and what happened, of the kinds in [`KINDS`].
const FIELDS: [&str; 9] = [
    "update_id",
    "message",
    "callback_query",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "message_reaction",
    "my_chat_member",
    "chat_member",
];
const KINDS: [Kind; 8] = [
    Kind::Message,
    Kind::Interaction,
    Kind::Edit,
    Kind::Message,
    Kind::Edit,
    Kind::Reaction,
    Kind::Membership,
    Kind::Membership,
];

/// Reads one update: the sink takes the message in it, if there is one for us.
pub(super) fn read(
    update: Value<'_, '_>,
    me: &Me,
    channel: ChannelId,
    sink: &mut dyn FnMut(Inbound<'_>),
) -> Result<Ack, Bad> {
    let [number, events @ ..] = update.pick(&FIELDS);
    let Some(number) = number.and_then(Value::u64) else {
        return Err(Bad::new(Code::MissingField, "`update_id` must be a number"));
    };
    // "At most one of the optional parameters can be present in any given update." Kinds that are not listed are
    // acknowledged, or Telegram would send them again and again.
    let found = events.into_iter().zip(KINDS).find_map(|(event, kind)| Some((event?, kind)));
    let Some((event, kind)) = found else { return Ok(Ack::AfterDurable(Bytes::new())) };
    let (mut id, mut rest) = (Digits::default(), [Digits::default(); 3]);
    let id = id.write(false, number);
    if let Some(inbound) = inbound(event, kind, me, &mut rest) {
        sink(Inbound { id, channel, ..inbound });
    }
    Ok(Ack::AfterDurable(if kind == Kind::Interaction { answer_of(event) } else { Bytes::new() }))
}

/// An event of the listed kinds; `None` if it is of a bot, or of a shape that Telegram does not document.
fn inbound<'d>(
    event: Value<'_, 'd>,
    kind: Kind,
    me: &Me,
    digits: &'d mut [Digits; 3],
) -> Option<Inbound<'d>> {
    let [peer_digits, chat_digits, thread_digits] = digits;
    let [message, from, user, sender_chat, actor_chat, forwarded, edited, date] = event.pick(&[
        "message",
        "from",
        "user",
        "sender_chat",
        "actor_chat",
        "is_automatic_forward",
        "edit_date",
        "date",
    ]);
    let message = if kind == Kind::Interaction { message } else { Some(event) };
    let [chat, in_topic, topic] =
        message.map_or([None; 3], |message| message.pick(&["chat", "is_topic_message", "message_thread_id"]));
    let from = from.or(user);
    let is = |value: Option<Value<'_, '_>>| value.and_then(Value::bool) == Some(true);
    // "Sender of the message when sent on behalf of a chat ... the field `from` contains a fake sender user."
    let chat_sender = sender_chat.or(actor_chat);
    // Two bots that answer one another never end; nor does a channel's post that its own group hears.
    if (is(from.and_then(|from| from.get("is_bot"))) && chat_sender.is_none()) || is(forwarded) {
        return None;
    }
    let writer = chat_sender.or(from).or(chat)?;
    let [id, first_name, title, username] = writer.pick(&["id", "first_name", "title", "username"]);
    let direct = chat.is_none_or(|chat| chat.str_of("type") == Some("private"));
    let thread = topic.filter(|_| is(in_topic));
    let mut inbound = Inbound {
        chat: chat.and_then(|chat| chat.get("id")).and_then(|id| id.id(chat_digits)).unwrap_or_default(),
        thread: thread.and_then(|id| id.id(thread_digits)).unwrap_or_default(),
        peer: id?.id(peer_digits).filter(|id| !id.is_empty())?,
        name: [first_name, title, username].into_iter().find_map(|name| name?.str()).unwrap_or(""),
        sent_millis: [edited, date]
            .into_iter()
            .find_map(|time| time?.u64())
            .map_or(0, |seconds| seconds.saturating_mul(1_000)),
        kind,
        scope: if direct { Scope::Direct } else { Scope::Group },
        mode: Mode::Deliver,
        ..Inbound::default()
    };
    match kind {
        Kind::Interaction => {
            inbound.text = event.str_of("data").unwrap_or_default();
            inbound.mentioned = true;
        }
        Kind::Reaction => {
            let first = event.get("new_reaction").and_then(|list| list.items().next());
            inbound.text = first.and_then(|reaction| reaction.str_of("emoji")).unwrap_or_default();
        }
        Kind::Membership => {
            let member = event.get("new_chat_member");
            inbound.text = member.and_then(|member| member.str_of("status")).unwrap_or_default();
        }
        Kind::Message | Kind::Command | Kind::Mention | Kind::Edit | Kind::Deletion | Kind::Failure => {
            read_text(event, me, &mut inbound);
        }
    }
    Some(inbound)
}

/// "Alternatively, the reply to the webhook may contain a method call": this one stops the button's spinner, which the
/// user would otherwise see until the query expires.
fn answer_of(query: Value<'_, '_>) -> Bytes {
    let Some(id) = query.str_of("id") else { return Bytes::new() };
    let mut body = Vec::from(*b"{\"method\":\"answerCallbackQuery\",\"callback_query_id\":");
    json::write_str(&mut body, id);
    body.push(b'}');
    body.into()
}

/// The text, what kind of text it is, and whether it addresses the bot.
fn read_text<'b>(message: Value<'_, 'b>, me: &Me, inbound: &mut Inbound<'b>) {
    let [text, entities, caption, caption_entities, reply, joined, left] = message.pick(&[
        "text",
        "entities",
        "caption",
        "caption_entities",
        "reply_to_message",
        "new_chat_members",
        "left_chat_member",
    ]);
    let (text, entities) = if text.is_some() { (text, entities) } else { (caption, caption_entities) };
    inbound.text = text.and_then(Value::str).unwrap_or_default();
    let mut command = false;
    let entities = entities.into_iter().flat_map(Value::items).take(ENTITIES_MAX);
    for entity in entities {
        let place =
            |key| entity.get(key).and_then(Value::u64).and_then(|number| usize::try_from(number).ok());
        let (Some(offset), Some(length)) = (place("offset"), place("length")) else { continue };
        let Some(text) = utf16_slice(inbound.text, offset, length) else { continue };
        let is_ours = |name: &str| me.is_called(name);
        match entity.str_of("type") {
            Some("mention") => inbound.mentioned |= text.strip_prefix('@').is_some_and(is_ours),
            Some("text_mention") => inbound.mentioned |= entity.get("user").is_some_and(|user| me.is(user)),
            // `/start` is for whoever reads it, `/start@name` for one bot only.
            Some("bot_command") => {
                let ours = text.split_once('@').map(|(_, name)| is_ours(name));
                inbound.mentioned |= ours == Some(true);
                command |= offset == 0 && ours != Some(false);
            }
            _ => {}
        }
    }
    // In a topic every message replies to the service message that opened it, which may be the bot's.
    let reply = reply.filter(|reply| reply.get("forum_topic_created").is_none());
    inbound.mentioned |= reply.and_then(|reply| reply.get("from")).is_some_and(|user| me.is(user));
    let changed = joined.is_some() || left.is_some();
    inbound.kind = match (inbound.kind == Kind::Edit, changed, command) {
        (true, _, _) => Kind::Edit,
        (_, true, _) => Kind::Membership,
        (_, _, true) => Kind::Command,
        (..) if inbound.mentioned && inbound.scope == Scope::Group => Kind::Mention,
        (..) => Kind::Message,
    };
}

/// The part of a text at these UTF-16 offsets ("Offset in UTF-16 code units"); `None` if they lie outside it, or within
/// a character.
fn utf16_slice(text: &str, offset: usize, length: usize) -> Option<&str> {
    let end = offset.checked_add(length)?;
    let (mut at, mut start) = (0, None);
    for (index, char) in text.char_indices() {
        if at == offset {
            start = Some(index);
        }
        if at == end {
            return text.get(start?..index);
        }
        at += char.len_utf16();
    }
    let start = if at == offset { text.len() } else { start? };
    if at == end { text.get(start..) } else { None }
}
