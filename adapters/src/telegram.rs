//! Telegram: Bot API updates by webhook to inbound events, answers to `sendMessage` and `editMessageText`.
//!
//! Owns the account, its secret token, and the API's replies; updates have a file of their own. Obeys the Bot API page
//! (core.telegram.org/bots/api): "setWebhook", "Making requests", "sendMessage",
//! "editMessageText".
mod update;

use crate::signature::same;
use crate::{
    Ack, Adapter, Bad, Destination, Json, Request, Traits, Unusable, Value, push_detail, retry_after_of, web,
};
use clawgate_core::codes::Code;
use clawgate_core::event::{Delivery, Inbound, Mode};
use clawgate_core::id::ChannelId;
use clawgate_core::plan::Unit;
use clawgate_wire::json;
use core::fmt;
use core::time::Duration;
use http::Uri;
use update::Me;

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
pub const TRAITS: Traits = Traits {
    text_max: 4_096,
    unit: Unit::Utf16,
    mode: Mode::Deliver,
    body_bytes_max: 256 * 1024,
    edits: true,
};

/// A bot.
pub struct Telegram {
    secret: Option<String>,
    me: Me,
    send_message: Uri,
    edit_message: Uri,
}

impl fmt::Debug for Telegram {
    /// Without the token and the secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Telegram").field("me", &self.me).finish_non_exhaustive()
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
        let token =
            settings.token.split_once(':').filter(|(_, rest)| !rest.is_empty() && rest.bytes().all(plain));
        let Some((id, _)) = token else {
            return unusable("token", "a bot token has the form 123456:ABC-DEF");
        };
        let Some(id) = settings.bot_id.or_else(|| id.parse().ok()) else {
            return unusable("botId", "the token does not begin with the bot's id");
        };
        let secret = settings.secret.as_deref().unwrap_or("x");
        if !(1..=256).contains(&secret.len()) || !secret.bytes().all(plain) {
            return unusable("secret", "the secret is 1 to 256 of A-Z a-z 0-9 _ -");
        }
        let method = |name: &str| web::method(&settings.api_root, &format!("bot{}/{name}", settings.token));
        let (Some(send_message), Some(edit_message)) = (method("sendMessage"), method("editMessageText"))
        else {
            return unusable("apiRoot", "the address of the API is not an absolute URL");
        };
        let username = settings.bot_username.trim_start_matches('@').to_owned();
        Ok(Self { secret: settings.secret, me: Me { username, id }, send_message, edit_message })
    }
}

impl Adapter for Telegram {
    fn traits(&self) -> Traits {
        TRAITS
    }

    /// "If specified, the request will contain a header `X-Telegram-Bot-Api-Secret-Token` with the secret token as
    /// content."
    fn verify(&self, request: &Request<'_>, _body: &[u8]) -> Result<(), Bad> {
        let sent = request.header("x-telegram-bot-api-secret-token");
        match (sent, &self.secret) {
            (Some(sent), Some(secret)) if same(sent.as_bytes(), secret.as_bytes()) => Ok(()),
            _ => Err(Bad::new(Code::BadSignature, "the secret token is missing or wrong")),
        }
    }

    fn decode(
        &self,
        _request: &Request<'_>,
        body: &mut [u8],
        json: &mut Json,
        channel: ChannelId,
        sink: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<Ack, Bad> {
        let document = json.parse(body)?;
        update::read(document.root(), &self.me, channel, sink)
    }

    fn encode(
        &self,
        to: &Destination<'_>,
        text: &str,
        _part: u16,
        _unix_seconds: u64,
        body: &mut Vec<u8>,
    ) -> Result<http::Request<()>, Bad> {
        let refused = Bad::new(Code::DeliveryFailed, "this is no id of a Telegram chat, topic or message");
        let number = |id: &str| id.parse::<i64>().map_err(|_| refused.clone());
        body.extend_from_slice(b"{\"chat_id\":");
        json::write_i64(body, number(if to.chat.is_empty() { to.peer } else { to.chat })?);
        if !to.edits.is_empty() {
            body.extend_from_slice(b",\"message_id\":");
            json::write_i64(body, number(to.edits)?);
        // The topic "General" has the id 1, and is written to without it.
        } else if !matches!(to.thread, "" | "1") {
            body.extend_from_slice(b",\"message_thread_id\":");
            json::write_i64(body, number(to.thread)?);
        }
        body.extend_from_slice(b",\"text\":");
        json::write_str(body, text);
        body.push(b'}');
        Ok(web::post(if to.edits.is_empty() { &self.send_message } else { &self.edit_message }, None))
    }

    fn delivered<'a>(
        &self,
        status: u16,
        retry_after: Option<&str>,
        body: &mut [u8],
        json: &mut Json,
        detail: &'a mut String,
    ) -> Delivery<'a> {
        // What every delivered message is answered with, whatever follows, and the message's id most often comes first:
        // nothing else of it is needed.
        if status == 200 && body.starts_with(b"{\"ok\":true") {
            match message_id(body) {
                "" => {
                    let parsed = json.parse(body);
                    let root = parsed.as_ref().ok().map(|document| document.root());
                    let id = root.and_then(|reply| reply.get("result")?.get("message_id")?.u64());
                    push_detail(detail, &id.map_or_else(String::new, |id| id.to_string()));
                }
                id => push_detail(detail, id),
            }
            return Delivery::Confirmed { message: detail };
        }
        let Some(document) = web::reply(json, body) else {
            return web::not_from("the Bot API", retry_after, detail);
        };
        let reply = document.root();
        if reply.get("ok").and_then(Value::bool) == Some(true) {
            return Delivery::Confirmed { message: "" };
        }
        let description = reply.str_of("description").unwrap_or("refused without a description");
        // An edit that was made before: nobody sees the difference.
        if status == 400 && description.contains("message is not modified") {
            return Delivery::Confirmed { message: "" };
        }
        push_detail(detail, description);
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
}

/// The id of the message, which is the first thing that the Bot API's own servers say of one; empty where it is not.
fn message_id(body: &[u8]) -> &str {
    let digits = body.strip_prefix(b"{\"ok\":true,\"result\":{\"message_id\":").unwrap_or_default();
    let len = digits.iter().take(20).take_while(|byte| byte.is_ascii_digit()).count();
    core::str::from_utf8(&digits[..len]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_wire::http1::{HeadLimits, parse_request};

    fn settings() -> Settings {
        Settings {
            token: "99:TEST".into(),
            secret: Some("s3cret_-".into()),
            bot_username: "my_bot".into(),
            bot_id: None,
            api_root: API_ROOT.into(),
        }
    }

    #[test]
    fn the_secret_token_opens_and_nothing_else_does() {
        let check = |bot: &Telegram, fields: &str| {
            let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
            let head = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
            let request =
                Request { method: "POST", path_rest: "", query: "", headers: &head.headers, unix_seconds: 0 };
            bot.verify(&request, b"").map_err(|bad| bad.code)
        };
        let bot = Telegram::new(settings()).unwrap();
        let field = |value: &str| format!("X-Telegram-Bot-Api-Secret-Token: {value}\r\n");
        assert_eq!(check(&bot, &field("s3cret_-")), Ok(()));
        let twice = field("s3cret_-") + &field("s3cret_-");
        for wrong in
            [String::new(), field(""), field("s3cret_"), field("S3cret_-"), field("s3cret_-x"), twice]
        {
            assert_eq!(check(&bot, &wrong), Err(Code::BadSignature), "{wrong}");
        }
        let open = Telegram::new(Settings { secret: None, ..settings() }).unwrap();
        for wrong in [String::new(), field("x"), field("s3cret_-")] {
            assert_eq!(
                check(&open, &wrong),
                Err(Code::BadSignature),
                "without a secret no webhook is accepted"
            );
        }
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let check = |change: fn(&mut Settings)| {
            let mut changed = settings();
            change(&mut changed);
            Telegram::new(changed).map(|_| ()).map_err(|unusable| unusable.key)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|s| s.secret = Some("x".repeat(256))), Ok(()));
        assert_eq!(check(|s| s.secret = Some("x".repeat(257))), Err("secret"));
        assert_eq!(check(|s| s.secret = Some(String::new())), Err("secret"));
        assert_eq!(check(|s| s.secret = Some("a b".into())), Err("secret"));
        for token in ["", "99", "99:", "99:a/b", "99:a\r\nb"] {
            let changed = Settings { token: token.into(), ..settings() };
            assert_eq!(Telegram::new(changed).unwrap_err().key, "token", "{token}");
        }
        assert_eq!(check(|s| s.token = "bot:x".into()), Err("botId"));
        assert_eq!(check(|s| (s.token, s.bot_id) = ("bot:x".into(), Some(99))), Ok(()));
        for root in ["", "api.telegram.org", "/bots", "http://", "http://a b"] {
            let changed = Settings { api_root: root.into(), ..settings() };
            assert_eq!(Telegram::new(changed).unwrap_err().key, "apiRoot", "{root}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?}", Telegram::new(settings()).unwrap());
        assert!(shown.contains("my_bot") && !shown.contains("TEST") && !shown.contains("s3cret"), "{shown}");
    }

    /// A long answer of the API must not look like a failure: the message would be sent again.
    #[test]
    fn an_answer_beyond_the_limits_is_still_a_delivery() {
        let mut body =
            format!("{{\"ok\":true,\"result\":{}0{}}}", "[".repeat(99), "]".repeat(99)).into_bytes();
        let (mut json, mut detail) = (Json::new(crate::JsonLimits::TEST), String::new());
        let bot = Telegram::new(settings()).unwrap();
        assert_eq!(
            bot.delivered(200, None, &mut body, &mut json, &mut detail),
            Delivery::Confirmed { message: "" }
        );
    }
}
