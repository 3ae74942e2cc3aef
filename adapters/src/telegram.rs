//! Telegram: Bot API updates by webhook to inbound events, answers to `sendMessage`.
//!
//! Owns the shapes of `Update` and of the API's replies. Never keeps an update: repeated ones are the core's to know by
//! `update_id`. Obeys the Bot API page (core.telegram.org/bots/api): "Getting updates", "Message", "MessageEntity",
//! "sendMessage".
use crate::signature::same;
use crate::{
    Ack, Bad, Destination, Digits, Json, Request, Traits, Unusable, Value, push_detail, retry_after_of,
};
use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{Delivery, Inbound, Kind, Mode, Scope};
use clawgate_core::id::ChannelId;
use clawgate_core::plan::Unit;
use clawgate_wire::json;
use core::fmt;
use core::time::Duration;
use http::{HeaderValue, Method, Uri, header};

/// An account: what BotFather gave, and where the API is.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "the token opens the bot")]
pub struct Settings {
    /// The bot's token, `ID:SECRET`.
    pub token: String,
    /// What Telegram sends back in `X-Telegram-Bot-Api-Secret-Token`: 1 to 256 of `A-Z a-z 0-9 _ -`. Without one, no
    /// webhook is accepted.
    pub secret: Option<String>,
    /// The bot's name, with or without `@`; empty where mentions by name need not be seen.
    pub bot_username: String,
    /// The bot's user id, if it is not the number in front of the token.
    pub bot_id: Option<u64>,
    /// Where the API is.
    pub api_root: String,
}

/// The API of Telegram's own servers.
pub const API_ROOT: &str = "https://api.telegram.org";

/// What holds for every bot. "Text of the message to be sent, 1-4096 characters after entities parsing", counted as
/// offsets are: in UTF-16 code units.
pub const TRAITS: Traits =
    Traits { text_max: 4_096, unit: Unit::Utf16, mode: Mode::Deliver, body_bytes_max: 256 * 1024 };

/// Entities of a message that are looked at; Telegram sends at most 100.
const ENTITIES_MAX: usize = 128;

/// A bot.
pub struct Telegram {
    secret: Option<String>,
    username: String,
    id: u64,
    send_message: Uri,
}

impl fmt::Debug for Telegram {
    /// Without the token and the secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Telegram")
            .field("username", &self.username)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Telegram {
    /// A bot from its settings.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Unusable> {
        let unusable = |key, text| Err(Unusable { key, text });
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let Some((id, rest)) = settings.token.split_once(':') else {
            return unusable("token", "a bot token has the form 123456:ABC-DEF");
        };
        if rest.is_empty() || !rest.bytes().all(plain) {
            return unusable("token", "a bot token has the form 123456:ABC-DEF");
        }
        let Some(id) = settings.bot_id.or_else(|| id.parse().ok()) else {
            return unusable("botId", "the token does not begin with the bot's id");
        };
        let secret = settings.secret.as_deref().unwrap_or("x");
        if !(1..=256).contains(&secret.len()) || !secret.bytes().all(plain) {
            return unusable("secret", "the secret is 1 to 256 of A-Z a-z 0-9 _ -");
        }
        let root = settings.api_root.trim_end_matches('/');
        let uri = format!("{root}/bot{}/sendMessage", settings.token).parse::<Uri>();
        let Some(send_message) = uri.ok().filter(|uri| uri.scheme().is_some() && uri.authority().is_some())
        else {
            return unusable("apiRoot", "the address of the API is not an absolute URL");
        };
        let username = settings.bot_username.trim_start_matches('@').to_owned();
        Ok(Self { secret: settings.secret, username, id, send_message })
    }

    /// "If specified, the request will contain a header `X-Telegram-Bot-Api-Secret-Token` with the secret token as
    /// content."
    pub(crate) fn verify(&self, request: &Request<'_>) -> Result<(), Bad> {
        let sent = request.header("x-telegram-bot-api-secret-token");
        match (sent, &self.secret) {
            (Some(sent), Some(secret)) if same(sent.as_bytes(), secret.as_bytes()) => Ok(()),
            _ => Err(Bad::new(Code::BadSignature, "the secret token is missing or wrong")),
        }
    }

    pub(crate) fn decode(
        &self,
        body: &mut [u8],
        json: &mut Json,
        channel: ChannelId,
        sink: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<Ack, Bad> {
        let document = json.parse(body)?;
        let update = document.root();
        let Some(number) = update.get("update_id").and_then(Value::u64) else {
            return Err(Bad::new(Code::MissingField, "`update_id` must be a number"));
        };
        // "At most one of the optional parameters can be present in any given update." Kinds that are not listed are
        // acknowledged, or Telegram would send them again and again.
        let kinds = [
            ("message", Kind::Message),
            ("callback_query", Kind::Interaction),
            ("edited_message", Kind::Edit),
            ("channel_post", Kind::Message),
            ("edited_channel_post", Kind::Edit),
            ("message_reaction", Kind::Reaction),
            ("my_chat_member", Kind::Membership),
            ("chat_member", Kind::Membership),
        ];
        let found = kinds.into_iter().find_map(|(key, kind)| Some((update.get(key)?, kind)));
        let Some((event, kind)) = found else { return Ok(Ack::AfterDurable(Bytes::new())) };
        let (mut id, mut rest) = (Digits::default(), [Digits::default(); 3]);
        let id = id.write(false, number);
        if let Some(inbound) = self.inbound(event, kind, &mut rest) {
            sink(Inbound { id, channel, ..inbound });
        }
        Ok(Ack::AfterDurable(if kind == Kind::Interaction { answer_of(event) } else { Bytes::new() }))
    }

    /// An event of the listed kinds; `None` if it is of a bot, or of a shape that Telegram does not document.
    fn inbound<'d>(
        &self,
        event: Value<'_, 'd>,
        kind: Kind,
        digits: &'d mut [Digits; 3],
    ) -> Option<Inbound<'d>> {
        let [peer_digits, chat_digits, thread_digits] = digits;
        let message = if kind == Kind::Interaction { event.get("message") } else { Some(event) };
        let chat = message.and_then(|message| message.get("chat"));
        let from = event.get("from").or_else(|| event.get("user"));
        let is =
            |value: Option<Value<'_, '_>>, key| value.and_then(|value| value.get(key)?.bool()) == Some(true);
        // "Sender of the message when sent on behalf of a chat ... the field `from` contains a fake sender user."
        let chat_sender = event.get("sender_chat").or_else(|| event.get("actor_chat"));
        // Two bots that answer one another never end; nor does a channel's post that its own group hears.
        if (is(from, "is_bot") && chat_sender.is_none()) || is(Some(event), "is_automatic_forward") {
            return None;
        }
        let writer = chat_sender.or(from).or(chat)?;
        let direct = chat.is_none_or(|chat| chat.str_of("type") == Some("private"));
        let thread =
            message.filter(|_| is(message, "is_topic_message")).and_then(|m| m.get("message_thread_id"));
        let mut inbound = Inbound {
            chat: chat.and_then(|chat| chat.get("id")).and_then(|id| id.id(chat_digits)).unwrap_or_default(),
            thread: thread.and_then(|id| id.id(thread_digits)).unwrap_or_default(),
            peer: writer.get("id")?.id(peer_digits).filter(|id| !id.is_empty())?,
            name: ["first_name", "title", "username"]
                .into_iter()
                .find_map(|key| writer.str_of(key))
                .unwrap_or(""),
            sent_millis: ["edit_date", "date"]
                .into_iter()
                .find_map(|key| event.get(key)?.u64())
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
                self.read_message(event, &mut inbound);
            }
        }
        Some(inbound)
    }

    /// The text, what kind of text it is, and whether it addresses the bot.
    fn read_message<'b>(&self, message: Value<'_, 'b>, inbound: &mut Inbound<'b>) {
        let key = if message.get("text").is_some() {
            ("text", "entities")
        } else {
            ("caption", "caption_entities")
        };
        inbound.text = message.str_of(key.0).unwrap_or_default();
        let mut command = false;
        let entities = message.get(key.1).into_iter().flat_map(Value::items).take(ENTITIES_MAX);
        for entity in entities {
            let place =
                |key| entity.get(key).and_then(Value::u64).and_then(|number| usize::try_from(number).ok());
            let (Some(offset), Some(length)) = (place("offset"), place("length")) else { continue };
            let Some(text) = utf16_slice(inbound.text, offset, length) else { continue };
            let is_ours = |name: &str| !name.is_empty() && name.eq_ignore_ascii_case(&self.username);
            match entity.str_of("type") {
                Some("mention") => inbound.mentioned |= text.strip_prefix('@').is_some_and(is_ours),
                Some("text_mention") => {
                    inbound.mentioned |= entity.get("user").is_some_and(|user| self.is_bot(user))
                }
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
        let reply =
            message.get("reply_to_message").filter(|reply| reply.get("forum_topic_created").is_none());
        inbound.mentioned |= reply.and_then(|reply| reply.get("from")).is_some_and(|user| self.is_bot(user));
        let changed = ["new_chat_members", "left_chat_member"].iter().any(|key| message.get(key).is_some());
        inbound.kind = match (inbound.kind == Kind::Edit, changed, command) {
            (true, _, _) => Kind::Edit,
            (_, true, _) => Kind::Membership,
            (_, _, true) => Kind::Command,
            (..) if inbound.mentioned && inbound.scope == Scope::Group => Kind::Mention,
            (..) => Kind::Message,
        };
    }

    fn is_bot(&self, user: Value<'_, '_>) -> bool {
        user.get("id").and_then(Value::u64) == Some(self.id)
    }

    pub(crate) fn encode(
        &self,
        to: &Destination<'_>,
        text: &str,
        body: &mut Vec<u8>,
    ) -> Result<http::Request<()>, Bad> {
        let refused = Bad::new(Code::DeliveryFailed, "this is no id of a Telegram chat or topic");
        let number = |id: &str| id.parse::<i64>().map_err(|_| refused.clone());
        body.extend_from_slice(b"{\"chat_id\":");
        json::write_i64(body, number(if to.chat.is_empty() { to.peer } else { to.chat })?);
        // The topic "General" has the id 1, and is written to without it.
        if !matches!(to.thread, "" | "1") {
            body.extend_from_slice(b",\"message_thread_id\":");
            json::write_i64(body, number(to.thread)?);
        }
        body.extend_from_slice(b",\"text\":");
        json::write_str(body, text);
        body.push(b'}');
        let mut request = http::Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.send_message.clone();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }
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

pub(crate) fn delivered<'a>(
    status: u16,
    retry_after: Option<&str>,
    body: &mut [u8],
    json: &mut Json,
    detail: &'a mut String,
) -> Delivery<'a> {
    let parsed = json.parse(body);
    let reply = parsed.as_ref().ok().map(|document| document.root()).filter(|reply| reply.is_object());
    let Some(reply) = reply else {
        // A proxy's page: whatever its status, nobody knows what the API did.
        push_detail(detail, "the answer was not from the Bot API");
        return Delivery::Retry { after: retry_after_of(retry_after), detail };
    };
    if reply.get("ok").and_then(Value::bool) == Some(true) {
        return Delivery::Confirmed;
    }
    push_detail(detail, reply.str_of("description").unwrap_or("refused without a description"));
    let parameter = |key| reply.get("parameters").and_then(|parameters| parameters.get(key));
    if let Some(chat) = parameter("migrate_to_chat_id").and_then(|id| id.i64()) {
        push_detail(detail, &format!("; the group is now the supergroup {chat}"));
    }
    let code = reply.get("error_code").and_then(Value::u64).unwrap_or(u64::from(status));
    match (code, parameter("retry_after").and_then(|seconds| seconds.u64())) {
        // "In case of exceeding flood control, the number of seconds left to wait before the request can be repeated."
        (_, Some(seconds)) => {
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
            Delivery::Retry { after: Duration::from_secs(u64::from(seconds)), detail }
        }
        (408 | 429 | 500.., None) => Delivery::Retry { after: retry_after_of(retry_after), detail },
        (_, None) => Delivery::Refused { detail },
    }
}
