//! An event of the Events API to an inbound event.
//!
//! Obeys docs.slack.dev: "Events API", "message event" and its subtypes, "app_mention", "reaction_added",
//! "member_joined_channel". A message that mentions the bot comes twice, as `message` and as `app_mention`, under two event
//! ids: it is known by its time, which is unique in its channel.
use super::markup;
use crate::{Bad, Value};
use clawgate_core::codes::Code;
use clawgate_core::event::{Inbound, Kind, Scope};
use std::borrow::Cow;

/// Reads one callback: the sink takes the event in it, if there is one for us.
pub(super) fn read(root: Value<'_, '_>, threads: bool, sink: &mut dyn FnMut(Inbound<'_>)) -> Result<(), Bad> {
    let [kind, event, event_id, authorizations] = root.pick(&["type", "event", "event_id", "authorizations"]);
    match kind.and_then(Value::str) {
        Some("event_callback") => {}
        // `app_rate_limited`, and what may come yet: acknowledged, or Slack would send it again.
        Some(_) => return Ok(()),
        None => return Err(Bad::new(Code::MissingField, "`type` must be a text")),
    }
    let (Some(event), Some(event_id)) = (event, event_id.and_then(Value::str)) else {
        return Err(Bad::new(Code::MissingField, "`event` and `event_id` must be there"));
    };
    // "Describes one of the installations that the event is visible to": the bot's own, by its user id.
    let authorized = authorizations.and_then(|all| all.items().next());
    let bot = authorized.filter(|one| one.get("is_bot").and_then(Value::bool) == Some(true));
    let me = bot.and_then(|one| one.str_of("user_id")).unwrap_or_default();
    if let Some(event) = Event::of(event, me, threads) {
        sink(event.inbound(event_id));
    }
    Ok(())
}

/// An event that is told.
struct Event<'b> {
    kind: Kind,
    /// Of a message: its time, which is its id in its channel.
    ts: &'b str,
    chat: &'b str,
    thread: &'b str,
    peer: &'b str,
    text: Cow<'b, str>,
    scope: Scope,
    mentioned: bool,
    /// Whether it addresses the bot is known.
    is_sure: bool,
}

impl<'b> Event<'b> {
    /// `None` for what is of a bot, or of a kind that is not told.
    fn of(event: Value<'_, 'b>, me: &str, threads: bool) -> Option<Self> {
        let [kind, subtype, hidden, item] = event.pick(&["type", "subtype", "message", "item"]);
        let subtype = subtype.and_then(Value::str).unwrap_or_default();
        let (kind, message) = match (kind?.str()?, subtype) {
            ("app_mention", _) | ("message", "" | "file_share" | "thread_broadcast" | "me_message") => {
                (Kind::Message, event)
            }
            ("message", "message_changed") => (Kind::Edit, hidden?),
            ("message", "message_deleted") => (Kind::Deletion, event.get("previous_message")?),
            ("reaction_added", _) => (Kind::Reaction, item?),
            ("member_joined_channel" | "member_left_channel", _) => (Kind::Membership, event),
            _ => return None,
        };
        let is_call = event.str_of("type") == Some("app_mention");
        let [text, ts, thread, user, bot] = message.pick(&["text", "ts", "thread_ts", "user", "bot_id"]);
        let word = |value: Option<Value<'_, 'b>>| value.and_then(Value::str).unwrap_or_default();
        let peer = if kind == Kind::Reaction { event.str_of("user")? } else { user?.str()? };
        // Two bots that answer one another never end.
        if peer.is_empty() || bot.is_some_and(|bot| !bot.is_null()) || peer == me {
            return None;
        }
        let chat = event.str_of("channel").or_else(|| message.str_of("channel"))?;
        let direct = event.str_of("channel_type") == Some("im") || chat.starts_with('D');
        let scope = if direct { Scope::Direct } else { Scope::Group };
        let (ts, text) = (word(ts), word(text));
        let opens = threads && kind == Kind::Message && scope == Scope::Group;
        let thread = match word(thread) {
            "" if opens => ts,
            thread => thread,
        };
        let mentioned = is_call || mentions(text, me);
        let kind = match (kind, scope) {
            (Kind::Message, Scope::Group) if mentioned => Kind::Mention,
            (kind, _) => kind,
        };
        let text = match kind {
            Kind::Reaction => Cow::Borrowed(event.str_of("reaction").unwrap_or_default()),
            Kind::Membership => Cow::Borrowed(event.str_of("type").unwrap_or_default()),
            Kind::Message
            | Kind::Command
            | Kind::Mention
            | Kind::Interaction
            | Kind::Edit
            | Kind::Deletion
            | Kind::Failure => markup::plain(text),
        };
        let is_sure = is_call || !me.is_empty();
        Some(Self { kind, ts, chat, thread, peer, text, scope, mentioned, is_sure })
    }

    fn inbound<'s>(&'s self, event_id: &'s str) -> Inbound<'s> {
        let is_said = matches!(self.kind, Kind::Message | Kind::Mention);
        // A message that may address the bot, for all that this event tells, must not be the one that is known when
        // the event comes which says so.
        let id = if is_said && self.is_sure && !self.ts.is_empty() { self.ts } else { event_id };
        Inbound {
            id,
            chat: self.chat,
            thread: self.thread,
            peer: self.peer,
            text: &self.text,
            sent_millis: millis(self.ts),
            kind: self.kind,
            scope: self.scope,
            mentioned: self.mentioned,
            ..Inbound::default()
        }
    }
}

/// Does this text say `<@ID>`, or `<@ID|name>`?
fn mentions(text: &str, id: &str) -> bool {
    !id.is_empty()
        && text.match_indices("<@").any(|(at, mark)| {
            let rest = &text[at + mark.len()..];
            rest.strip_prefix(id).is_some_and(|rest| rest.starts_with(['>', '|']))
        })
}

/// `1710000000.000100`: seconds and a part of them.
pub(super) fn millis(ts: &str) -> u64 {
    let (seconds, part) = ts.split_once('.').unwrap_or((ts, ""));
    let part = part.get(..3).and_then(|part| part.parse().ok()).unwrap_or(0);
    seconds.parse::<u64>().map_or(0, |seconds| seconds.saturating_mul(1_000).saturating_add(part))
}
