//! Telegram's Bot API as a bot's server sees it: `sendMessage`, `editMessageText`, `getMe`, `setWebhook`, `sendChatAction`
//! and the like. <https://core.telegram.org/bots/api>
//!
//! Checks what Telegram checks (token, chat, length in UTF-16 units, that an edit changes a message that is there,
//! optionally rates) and answers in its words. Owns no socket but in [`serve`]; the same [`Bot`] answers inside a run, where
//! every message is held against the account.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use clawgate_wire::http1::RequestHead;
use clawgate_wire::json;
use serde::Serialize;

use crate::mock::peer::{self, Peer, query, write_json};
use crate::protocol::find;
use crate::scan::Value;
use crate::stamp;
use crate::sys;

/// `sendMessage`, `text`: "1-4096 characters after entities parsing", counted in UTF-16 code units.
pub const TEXT_UNITS_MAX: usize = 4096;

/// Chats that are kept account of; messages of more are answered but not recorded.
const CHATS_MAX: usize = 1_000_000;

/// The newest messages of a chat, which can be edited. Telegram sets no such bound; an answer has one message.
const EDITABLE_MAX: usize = 32;

/// How the simulated platform behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BotSettings {
    /// The bot's token; any is taken if it is empty.
    pub token: String,
    /// Every so many messages and edits are answered with 429; 0 for none.
    pub busy_every: u64,
    /// What such an answer tells to wait, in seconds.
    pub retry_after_seconds: u32,
    /// Messages and edits a second that one chat takes before it is 429; 0 for any number.
    pub chat_rate_max: u32,
    /// Messages that are remembered of each chat, for `GET /sent`.
    pub kept_per_chat: usize,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BotStats {
    /// `sendMessage` calls that were taken.
    pub sent: u64,
    /// `editMessageText` calls that were taken.
    pub edited: u64,
    /// Calls by method.
    pub calls: HashMap<String, u64>,
    /// Calls that were refused, by what Telegram says of them.
    pub refused: HashMap<String, u64>,
    /// Stamped messages that came after a later one of their chat.
    pub reordered: u64,
    /// Stamped messages that came again.
    pub doubled: u64,
    /// Chats that were written to.
    pub chats: usize,
}

/// One message that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// Its number.
    pub message_id: u64,
    /// Its chat.
    pub chat_id: i64,
    /// Its text, after all edits.
    pub text: String,
}

/// What a chat sees: a new message, or another text of one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The chat.
    pub chat: i64,
    /// The message; no other has its number, whatever its chat.
    pub message: u64,
    /// The text.
    pub text: &'a [u8],
    /// It took the place of another one.
    pub is_edit: bool,
}

/// A message that can be edited.
#[derive(Clone, Copy, Debug)]
struct Editable {
    message: u64,
    /// The hash of its text.
    text: u64,
    /// Its stamp was seen, and its place in the chat's order is known.
    is_placed: bool,
}

#[derive(Debug, Default)]
struct Chat {
    /// The run and place of the newest stamped message.
    newest: Option<(u32, u32)>,
    /// The second that is being counted for the rate, and its messages.
    second: u64,
    in_second: u32,
    editable: VecDeque<Editable>,
    kept: VecDeque<Sent>,
}

/// The platform.
#[derive(Debug)]
pub struct Bot {
    settings: BotSettings,
    stats: BotStats,
    messages: u64,
    attempts: u64,
    chats: HashMap<i64, Chat>,
}

/// An answer that is no success.
struct Refused {
    code: u16,
    description: &'static str,
    retry_after_seconds: Option<u32>,
}

const fn refused(code: u16, description: &'static str) -> Refused {
    Refused { code, description, retry_after_seconds: None }
}

impl Bot {
    /// A platform that has seen nothing yet.
    #[must_use]
    pub fn new(settings: BotSettings) -> Self {
        Self { settings, stats: BotStats::default(), messages: 0, attempts: 0, chats: HashMap::new() }
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> BotStats {
        BotStats { chats: self.chats.len(), ..self.stats.clone() }
    }

    /// The messages that are remembered of a chat, oldest first.
    #[must_use]
    pub fn sent(&self, chat_id: i64) -> Vec<Sent> {
        self.chats.get(&chat_id).map(|chat| chat.kept.iter().cloned().collect()).unwrap_or_default()
    }

    /// Answers one call. `on_shown` gets every message and every edit that is taken.
    pub fn answer(
        &mut self,
        target: &str,
        body: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
        on_shown: &mut dyn FnMut(Shown<'_>),
    ) {
        if target.starts_with("/stats") {
            return write_json(out, 200, &serde_json::to_vec(&self.stats()).unwrap_or_default());
        }
        if target.starts_with("/sent") {
            let chat = query(target, "chat").and_then(|chat| chat.parse().ok()).unwrap_or(0);
            return write_json(out, 200, &serde_json::to_vec(&self.sent(chat)).unwrap_or_default());
        }
        let mut result = Vec::new();
        match self.call(target, body, now_ns, &mut result, on_shown) {
            Ok(()) => {
                let mut answer = br#"{"ok":true,"result":"#.to_vec();
                answer.extend_from_slice(&result);
                answer.push(b'}');
                write_json(out, 200, &answer);
            }
            Err(refused) => {
                *self.stats.refused.entry(refused.description.to_owned()).or_default() += 1;
                write_json(out, refused.code, &refused.to_json());
            }
        }
    }

    fn call(
        &mut self,
        target: &str,
        body: &[u8],
        now_ns: u64,
        result: &mut Vec<u8>,
        on_shown: &mut dyn FnMut(Shown<'_>),
    ) -> Result<(), Refused> {
        let path = target.split('?').next().unwrap_or_default();
        let (token, method) = path
            .strip_prefix("/bot")
            .and_then(|rest| rest.rsplit_once('/'))
            .ok_or(refused(404, "Not Found"))?;
        if !self.settings.token.is_empty() && token != self.settings.token {
            return Err(refused(401, "Unauthorized"));
        }
        match self.stats.calls.get_mut(method) {
            Some(count) => *count += 1,
            None => {
                self.stats.calls.insert(method.chars().take(64).collect(), 1);
            }
        }
        match method.to_ascii_lowercase().as_str() {
            "sendmessage" => self.send_message(body, now_ns, result, on_shown),
            "editmessagetext" => self.edit_message(body, now_ns, result, on_shown),
            "getme" => {
                result.extend_from_slice(
                    br#"{"id":1,"is_bot":true,"first_name":"Simulated","username":"simulated_bot"}"#,
                );
                Ok(())
            }
            "setwebhook" | "deletewebhook" | "sendchataction" | "answercallbackquery" | "setmycommands" => {
                result.extend_from_slice(b"true");
                Ok(())
            }
            "getwebhookinfo" => {
                result.extend_from_slice(
                    br#"{"url":"","has_custom_certificate":false,"pending_update_count":0}"#,
                );
                Ok(())
            }
            _ => Err(refused(404, "Not Found")),
        }
    }

    fn send_message(
        &mut self,
        body: &[u8],
        now_ns: u64,
        result: &mut Vec<u8>,
        on_shown: &mut dyn FnMut(Shown<'_>),
    ) -> Result<(), Refused> {
        let written = Written::read(body)?;
        self.on_attempt()?;
        let Written { chat_id, text, value } = &written;
        self.messages += 1;
        let message = self.messages;
        if let Some(chat) = self.chat(*chat_id, now_ns)? {
            let placed = place(&mut chat.newest, text);
            if EDITABLE_MAX <= chat.editable.len() {
                chat.editable.pop_front();
            }
            chat.editable.push_back(Editable { message, text: hash(text), is_placed: placed.is_some() });
            self.count(placed);
            self.keep(message, *chat_id, text);
        }
        self.stats.sent += 1;
        on_shown(Shown { chat: *chat_id, message, text, is_edit: false });
        write_message(result, message, *chat_id, value);
        Ok(())
    }

    fn edit_message(
        &mut self,
        body: &[u8],
        now_ns: u64,
        result: &mut Vec<u8>,
        on_shown: &mut dyn FnMut(Shown<'_>),
    ) -> Result<(), Refused> {
        let written = Written::read(body)?;
        self.on_attempt()?;
        let Written { chat_id, text, value } = &written;
        let message = find(body, b"message_id").as_ref().and_then(read_id);
        let message = message.and_then(|message| u64::try_from(message).ok());
        let message = message.ok_or(refused(400, "Bad Request: message identifier is not specified"))?;
        let missing = refused(400, "Bad Request: message to edit not found");
        if !self.chats.contains_key(chat_id) {
            return Err(missing);
        }
        let Some(chat) = self.chat(*chat_id, now_ns)? else { return Err(missing) };
        let editable =
            chat.editable.iter_mut().find(|editable| editable.message == message).ok_or(missing)?;
        if std::mem::replace(&mut editable.text, hash(text)) == hash(text) {
            return Err(refused(400, NOT_MODIFIED));
        }
        // A message has one place in its chat, from when its stamp can be read on.
        let placed = if editable.is_placed { None } else { place(&mut chat.newest, text) };
        editable.is_placed |= placed.is_some();
        if let Some(kept) = chat.kept.iter_mut().find(|kept| kept.message_id == message) {
            kept.text = String::from_utf8_lossy(text).into_owned();
        }
        self.count(placed);
        self.stats.edited += 1;
        on_shown(Shown { chat: *chat_id, message, text, is_edit: true });
        write_message(result, message, *chat_id, value);
        Ok(())
    }

    /// A message or an edit that can be taken, unless it is the one that is refused.
    fn on_attempt(&mut self) -> Result<(), Refused> {
        self.attempts += 1;
        let every = self.settings.busy_every;
        if every != 0 && self.attempts.is_multiple_of(every) {
            return Err(self.too_many_requests());
        }
        Ok(())
    }

    /// The account of a chat, if one is kept of it and it is not written to too often.
    fn chat(&mut self, chat_id: i64, now_ns: u64) -> Result<Option<&mut Chat>, Refused> {
        if CHATS_MAX <= self.chats.len() && !self.chats.contains_key(&chat_id) {
            return Ok(None);
        }
        let busy = self.too_many_requests();
        let rate_max = self.settings.chat_rate_max;
        let chat = self.chats.entry(chat_id).or_default();
        let second = now_ns / 1_000_000_000;
        if chat.second != second {
            (chat.second, chat.in_second) = (second, 0);
        }
        chat.in_second += 1;
        if rate_max != 0 && rate_max < chat.in_second {
            return Err(busy);
        }
        Ok(Some(chat))
    }

    fn count(&mut self, placed: Option<Placed>) {
        self.stats.doubled += u64::from(placed == Some(Placed::Again));
        self.stats.reordered += u64::from(placed == Some(Placed::Before));
    }

    fn keep(&mut self, message_id: u64, chat_id: i64, text: &[u8]) {
        let kept_max = self.settings.kept_per_chat;
        let Some(chat) = self.chats.get_mut(&chat_id).filter(|_| kept_max != 0) else { return };
        if kept_max <= chat.kept.len() {
            chat.kept.pop_front();
        }
        let text = String::from_utf8_lossy(text).into_owned();
        chat.kept.push_back(Sent { message_id, chat_id, text });
    }

    const fn too_many_requests(&self) -> Refused {
        Refused {
            code: 429,
            description: "Too Many Requests: retry later",
            retry_after_seconds: Some(self.settings.retry_after_seconds),
        }
    }
}

const NOT_MODIFIED: &str = "Bad Request: message is not modified: specified new message content and reply markup are exactly \
                            the same as a current content and reply markup of the message";

/// What a message or an edit says.
struct Written<'a> {
    chat_id: i64,
    text: Cow<'a, [u8]>,
    value: Value<'a>,
}

impl<'a> Written<'a> {
    /// Reads it, and checks what Telegram checks of every text.
    fn read(body: &'a [u8]) -> Result<Self, Refused> {
        let chat_id = find(body, b"chat_id").as_ref().and_then(read_id);
        let chat_id = chat_id.ok_or(refused(400, "Bad Request: chat_id is empty"))?;
        let value = find(body, b"text").ok_or(refused(400, "Bad Request: message text is empty"))?;
        let text = value.text().ok_or(refused(400, "Bad Request: can't parse message text"))?;
        let units = core::str::from_utf8(&text)
            .map_err(|_| refused(400, "Bad Request: strings must be encoded in UTF-8"))?
            .encode_utf16()
            .count();
        match units {
            0 => Err(refused(400, "Bad Request: message text is empty")),
            1..=TEXT_UNITS_MAX => Ok(Self { chat_id, text, value }),
            _ => Err(refused(400, "Bad Request: message is too long")),
        }
    }
}

/// Where a stamped message stands among those of its chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    After,
    Again,
    Before,
}

/// Takes a message's place by its stamp; `None` if it has none that can be read.
fn place(newest: &mut Option<(u32, u32)>, text: &[u8]) -> Option<Placed> {
    let stamp = stamp::peek(text)?;
    let place = (stamp.run, stamp.seq);
    Some(match *newest {
        Some(newest) if newest == place => Placed::Again,
        Some((run, seq)) if run == stamp.run && stamp.seq < seq => Placed::Before,
        Some(_) | None => {
            *newest = Some(place);
            Placed::After
        }
    })
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn write_message(out: &mut Vec<u8>, message: u64, chat_id: i64, text: &Value<'_>) {
    out.extend_from_slice(br#"{"message_id":"#);
    json::write_u64(out, message);
    out.extend_from_slice(
        br#","from":{"id":1,"is_bot":true,"first_name":"Simulated","username":"simulated_bot"},"chat":{"id":"#,
    );
    json::write_i64(out, chat_id);
    out.extend_from_slice(br#","type":"private"},"date":1710000000,"text":"#);
    if let Value::Text { quoted, .. } = text {
        out.extend_from_slice(quoted);
    }
    out.push(b'}');
}

impl Refused {
    fn to_json(&self) -> Vec<u8> {
        let mut json = br#"{"ok":false,"error_code":"#.to_vec();
        json::write_u64(&mut json, u64::from(self.code));
        json.extend_from_slice(br#","description":"#);
        json::write_str(&mut json, self.description);
        if let Some(seconds) = self.retry_after_seconds {
            json.extend_from_slice(br#","parameters":{"retry_after":"#);
            json::write_u64(&mut json, u64::from(seconds));
            json.push(b'}');
        }
        json.push(b'}');
        json
    }
}

/// An id, as a number or as the text of one.
fn read_id(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Plain(_) => value.number(),
        Value::Text { .. } => core::str::from_utf8(&value.text()?).ok()?.parse().ok(),
        Value::Nested(_) => None,
    }
}

/// Serves one connection. `on_shown` gets every message and every edit that is taken.
pub async fn serve_peer(mut peer: Peer, bot: Arc<Mutex<Bot>>, mut on_shown: impl FnMut(Shown<'_>)) {
    let mut answer = |head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>| {
        let mut bot = bot.lock().unwrap_or_else(PoisonError::into_inner);
        bot.answer(head.target, body, sys::now_ns(), out, &mut on_shown);
    };
    // A connection that breaks is the gateway's to open again.
    while let Ok(Some(())) = peer.next(&mut answer).await {}
}

/// Serves an address on the calling thread, for as long as it runs. Tells where it listens.
///
/// # Errors
/// The system's, if nothing can listen there.
pub fn serve(address: SocketAddr, settings: BotSettings) -> io::Result<SocketAddr> {
    let bot = Arc::new(Mutex::new(Bot::new(settings)));
    peer::listen(address, move |peer| serve_peer(peer, Arc::clone(&bot), |_| {}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::stamp::Stamp;

    fn bot() -> Bot {
        let settings = BotSettings { token: "1:abc".to_owned(), kept_per_chat: 2, ..BotSettings::default() };
        Bot::new(settings)
    }

    /// Calls a method and tells the status, the answer's JSON, and what was taken.
    fn call(bot: &mut Bot, target: &str, body: &str) -> (u16, serde_json::Value, Vec<(i64, String)>) {
        let mut out = Vec::new();
        let mut taken = Vec::new();
        bot.answer(target, body.as_bytes(), 0, &mut out, &mut |shown| {
            taken.push((shown.chat, String::from_utf8(shown.text.to_vec()).unwrap()));
        });
        let text = String::from_utf8(out).unwrap();
        let (head, json) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(json).unwrap(), taken)
    }

    #[test]
    fn a_message_is_taken_recorded_and_answered_as_telegram_does() {
        let mut bot = bot();
        let body = r#"{"chat_id":-1001234567890,"text":"h\u00e9llo \"you\"","message_thread_id":4}"#;
        let (status, json, taken) = call(&mut bot, "/bot1:abc/sendMessage", body);
        assert_eq!((status, json["ok"].as_bool()), (200, Some(true)));
        assert_eq!(json["result"]["chat"]["id"], -1_001_234_567_890_i64);
        assert_eq!(json["result"]["text"], "héllo \"you\"");
        assert_eq!(taken, [(-1_001_234_567_890, "héllo \"you\"".to_owned())]);
        for text in ["two", "three"] {
            call(&mut bot, "/bot1:abc/sendMessage", &format!(r#"{{"chat_id":"7","text":"{text}"}}"#));
        }
        call(&mut bot, "/bot1:abc/sendMessage", r#"{"chat_id":7,"text":"four"}"#);
        let texts: Vec<String> = bot.sent(7).into_iter().map(|sent| sent.text).collect();
        assert_eq!(texts, ["three", "four"]);
        let (_, stats, _) = call(&mut bot, "/stats", "");
        assert_eq!((stats["sent"].as_u64(), stats["chats"].as_u64()), (Some(4), Some(2)));
        let (_, sent, _) = call(&mut bot, "/sent?chat=7", "");
        assert_eq!(sent[1]["text"], "four");
    }

    #[test]
    fn what_telegram_refuses_is_refused_in_its_words() {
        let mut bot = bot();
        let long = format!(r#"{{"chat_id":1,"text":"{}"}}"#, "𝄞".repeat(TEXT_UNITS_MAX / 2 + 1));
        let table = [
            ("/bot2:xyz/sendMessage", r#"{"chat_id":1,"text":"x"}"#, 401, "Unauthorized"),
            ("/bot1:abc/sendNonsense", "{}", 404, "Not Found"),
            ("/elsewhere", "{}", 404, "Not Found"),
            ("/bot1:abc/sendMessage", r#"{"text":"x"}"#, 400, "Bad Request: chat_id is empty"),
            ("/bot1:abc/sendMessage", r#"{"chat_id":1}"#, 400, "Bad Request: message text is empty"),
            (
                "/bot1:abc/sendMessage",
                r#"{"chat_id":1,"text":""}"#,
                400,
                "Bad Request: message text is empty",
            ),
            ("/bot1:abc/sendMessage", &long, 400, "Bad Request: message is too long"),
        ];
        for (target, body, code, words) in table {
            let (status, json, taken) = call(&mut bot, target, body);
            assert_eq!((status, json["description"].as_str()), (code, Some(words)));
            assert_eq!(json["error_code"], code);
            assert!(taken.is_empty());
        }
        let fits = format!(r#"{{"chat_id":1,"text":"{}"}}"#, "𝄞".repeat(TEXT_UNITS_MAX / 2));
        assert_eq!(call(&mut bot, "/bot1:abc/sendMessage", &fits).0, 200);
    }

    #[test]
    fn an_edit_changes_a_message_that_is_there_and_nothing_else_is_one() {
        let mut bot = bot();
        let edit = |bot: &mut Bot, chat: i64, message: u64, text: &str| {
            let body = format!(r#"{{"chat_id":{chat},"message_id":{message},"text":"{text}"}}"#);
            let (status, json, taken) = call(bot, "/bot1:abc/editMessageText", &body);
            assert_eq!(taken.len(), usize::from(status == 200));
            (status, json["description"].as_str().unwrap_or_default().to_owned(), json)
        };
        let sent = call(&mut bot, "/bot1:abc/sendMessage", r#"{"chat_id":7,"text":"Hel"}"#).1;
        let message = sent["result"]["message_id"].as_u64().unwrap();
        let (status, _, json) = edit(&mut bot, 7, message, "Hello");
        assert_eq!((status, json["result"]["message_id"].as_u64()), (200, Some(message)));
        assert_eq!(json["result"]["text"], "Hello");
        let texts: Vec<String> = bot.sent(7).into_iter().map(|sent| sent.text).collect();
        assert_eq!(texts, ["Hello"]);
        let (status, words, _) = edit(&mut bot, 7, message, "Hello");
        assert!(status == 400 && words.starts_with("Bad Request: message is not modified"), "{words}");
        for (chat, message) in [(7, message + 1), (8, message)] {
            let (status, words, _) = edit(&mut bot, chat, message, "Hello you");
            assert_eq!((status, words.as_str()), (400, "Bad Request: message to edit not found"));
        }
        let long = "x".repeat(TEXT_UNITS_MAX + 1);
        assert_eq!(edit(&mut bot, 7, message, &long).1, "Bad Request: message is too long");
        assert_eq!(edit(&mut bot, 7, message, "").1, "Bad Request: message text is empty");
        let (_, json, _) = call(&mut bot, "/bot1:abc/editMessageText", r#"{"chat_id":7,"text":"x"}"#);
        assert_eq!(json["description"], "Bad Request: message identifier is not specified");
        assert_eq!((bot.stats().sent, bot.stats().edited), (1, 1));
        for _ in 0..EDITABLE_MAX {
            call(&mut bot, "/bot1:abc/sendMessage", r#"{"chat_id":7,"text":"more"}"#);
        }
        assert_eq!(edit(&mut bot, 7, message, "too late").0, 400);
    }

    #[test]
    fn the_other_methods_answer_what_a_bot_expects() {
        let mut bot = bot();
        assert_eq!(call(&mut bot, "/bot1:abc/getMe", "").1["result"]["is_bot"], true);
        assert_eq!(call(&mut bot, "/bot1:abc/setWebhook?url=x", "{}").1["result"], true);
        assert_eq!(call(&mut bot, "/bot1:abc/sendChatAction", "{}").1["result"], true);
    }

    #[test]
    fn rates_are_limited_when_asked_for_with_the_time_to_wait() {
        let settings = BotSettings { busy_every: 3, retry_after_seconds: 5, ..BotSettings::default() };
        let mut bot = Bot::new(settings);
        let statuses: Vec<u16> =
            (0..6).map(|_| call(&mut bot, "/botany/sendMessage", r#"{"chat_id":1,"text":"x"}"#).0).collect();
        assert_eq!(statuses, [200, 200, 429, 200, 200, 429]);
        let mut bot =
            Bot::new(BotSettings { chat_rate_max: 1, retry_after_seconds: 1, ..BotSettings::default() });
        call(&mut bot, "/botany/sendMessage", r#"{"chat_id":1,"text":"x"}"#);
        let (status, json, _) = call(&mut bot, "/botany/sendMessage", r#"{"chat_id":1,"text":"x"}"#);
        assert_eq!((status, json["parameters"]["retry_after"].as_u64()), (429, Some(1)));
        assert_eq!(call(&mut bot, "/botany/sendMessage", r#"{"chat_id":2,"text":"x"}"#).0, 200);
    }

    #[test]
    fn order_and_doubles_of_stamped_messages_are_seen() {
        let mut bot = bot();
        let mut send = |seq| {
            let mut text = vec![0; 80];
            stamp::write(&mut text, &Stamp { run: 1, session: 0, seq, due_ns: 0 });
            let text = String::from_utf8(text).unwrap();
            call(&mut bot, "/bot1:abc/sendMessage", &format!(r#"{{"chat_id":1,"text":"{text}"}}"#));
        };
        [0, 1, 1, 3, 2].into_iter().for_each(&mut send);
        assert_eq!((bot.stats().doubled, bot.stats().reordered), (1, 1));
        // A message whose stamp is seen by an edit has its place then, and once.
        let begun = call(&mut bot, "/bot1:abc/sendMessage", r#"{"chat_id":1,"text":"lg1."}"#).1;
        let message = &begun["result"]["message_id"];
        for (seq, padding) in [(4, 80), (4, 90), (4, 100)] {
            let mut text = vec![0; padding];
            stamp::write(&mut text, &Stamp { run: 1, session: 0, seq, due_ns: 0 });
            let text = String::from_utf8(text).unwrap();
            let body = format!(r#"{{"chat_id":1,"message_id":{message},"text":"{text}"}}"#);
            assert_eq!(call(&mut bot, "/bot1:abc/editMessageText", &body).0, 200);
        }
        assert_eq!((bot.stats().doubled, bot.stats().reordered), (1, 1));
    }
}
