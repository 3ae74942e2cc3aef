//! Telegram's Bot API as a bot's server sees it: `sendMessage`, `getMe`, `setWebhook`, `sendChatAction` and the like.
//! <https://core.telegram.org/bots/api>
//!
//! Checks what Telegram checks (token, chat, length in UTF-16 units, optionally rates) and answers in its words. Owns
//! no socket but in [`serve`]; the same [`Bot`] answers inside a run, where every message is held against the account.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

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

/// How the simulated platform behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BotSettings {
    /// The bot's token; any is taken if it is empty.
    pub token: String,
    /// Every so many `sendMessage` calls are answered with 429; 0 for none.
    pub busy_every: u64,
    /// What such an answer tells to wait, in seconds.
    pub retry_after_seconds: u32,
    /// Messages a second that one chat takes before it is 429; 0 for any number.
    pub chat_rate_max: u32,
    /// Messages that are remembered of each chat, for `GET /sent`.
    pub kept_per_chat: usize,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BotStats {
    /// `sendMessage` calls that were taken.
    pub sent: u64,
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
    /// Its text.
    pub text: String,
}

#[derive(Debug, Default)]
struct Chat {
    /// The run and place of the newest stamped message.
    newest: Option<(u32, u32)>,
    /// The second that is being counted for the rate, and its messages.
    second: u64,
    in_second: u32,
    kept: VecDeque<Sent>,
}

/// The platform.
#[derive(Debug)]
pub struct Bot {
    settings: BotSettings,
    stats: BotStats,
    messages: u64,
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
        Self { settings, stats: BotStats::default(), messages: 0, chats: HashMap::new() }
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

    /// Answers one call. `on_message` gets every message that is taken: chat and text.
    pub fn answer(
        &mut self,
        target: &str,
        body: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
        on_message: &mut dyn FnMut(i64, &[u8]),
    ) {
        if target.starts_with("/stats") {
            return write_json(out, 200, &serde_json::to_vec(&self.stats()).unwrap_or_default());
        }
        if target.starts_with("/sent") {
            let chat = query(target, "chat").and_then(|chat| chat.parse().ok()).unwrap_or(0);
            return write_json(out, 200, &serde_json::to_vec(&self.sent(chat)).unwrap_or_default());
        }
        let mut result = Vec::new();
        match self.call(target, body, now_ns, &mut result, on_message) {
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
        on_message: &mut dyn FnMut(i64, &[u8]),
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
            "sendmessage" => self.send_message(body, now_ns, result, on_message),
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
        on_message: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), Refused> {
        let chat_id = find(body, b"chat_id").as_ref().and_then(read_chat_id);
        let chat_id = chat_id.ok_or(refused(400, "Bad Request: chat_id is empty"))?;
        let value = find(body, b"text").ok_or(refused(400, "Bad Request: message text is empty"))?;
        let text = value.text().ok_or(refused(400, "Bad Request: can't parse message text"))?;
        let units = core::str::from_utf8(&text)
            .map_err(|_| refused(400, "Bad Request: strings must be encoded in UTF-8"))?
            .encode_utf16()
            .count();
        if units == 0 {
            return Err(refused(400, "Bad Request: message text is empty"));
        }
        if TEXT_UNITS_MAX < units {
            return Err(refused(400, "Bad Request: message is too long"));
        }
        self.messages += 1;
        if self.settings.busy_every != 0 && self.messages.is_multiple_of(self.settings.busy_every) {
            return Err(self.too_many_requests());
        }
        self.record(chat_id, &text, now_ns)?;
        self.stats.sent += 1;
        on_message(chat_id, &text);
        result.extend_from_slice(br#"{"message_id":"#);
        json::write_u64(result, self.messages);
        result.extend_from_slice(
            br#","from":{"id":1,"is_bot":true,"first_name":"Simulated","username":"simulated_bot"},"chat":{"id":"#,
        );
        json::write_i64(result, chat_id);
        result.extend_from_slice(br#","type":"private"},"date":1710000000,"text":"#);
        if let Value::Text { quoted, .. } = value {
            result.extend_from_slice(quoted);
        }
        result.push(b'}');
        Ok(())
    }

    /// Keeps account of a message by its chat.
    fn record(&mut self, chat_id: i64, text: &[u8], now_ns: u64) -> Result<(), Refused> {
        if CHATS_MAX <= self.chats.len() && !self.chats.contains_key(&chat_id) {
            return Ok(());
        }
        let message_id = self.messages;
        let chat = self.chats.entry(chat_id).or_default();
        let second = now_ns / 1_000_000_000;
        if chat.second != second {
            (chat.second, chat.in_second) = (second, 0);
        }
        chat.in_second += 1;
        if self.settings.chat_rate_max != 0 && self.settings.chat_rate_max < chat.in_second {
            return Err(self.too_many_requests());
        }
        if let Some(stamp) = stamp::peek(text) {
            let place = (stamp.run, stamp.seq);
            match chat.newest {
                Some(newest) if newest == place => self.stats.doubled += 1,
                Some((run, seq)) if run == stamp.run && stamp.seq < seq => self.stats.reordered += 1,
                Some(_) | None => chat.newest = Some(place),
            }
        }
        if self.settings.kept_per_chat != 0 {
            if self.settings.kept_per_chat <= chat.kept.len() {
                chat.kept.pop_front();
            }
            let text = String::from_utf8_lossy(text).into_owned();
            chat.kept.push_back(Sent { message_id, chat_id, text });
        }
        Ok(())
    }

    const fn too_many_requests(&self) -> Refused {
        Refused {
            code: 429,
            description: "Too Many Requests: retry later",
            retry_after_seconds: Some(self.settings.retry_after_seconds),
        }
    }
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

/// A chat's id, as a number or as the text of one.
fn read_chat_id(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Plain(_) => value.number(),
        Value::Text { .. } => core::str::from_utf8(&value.text()?).ok()?.parse().ok(),
        Value::Nested(_) => None,
    }
}

/// Serves one connection. `on_message` gets every message that is taken.
pub async fn serve_peer(mut peer: Peer, bot: Rc<RefCell<Bot>>, mut on_message: impl FnMut(i64, &[u8])) {
    let mut answer = |head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>| {
        bot.borrow_mut().answer(head.target, body, sys::now_ns(), out, &mut on_message);
    };
    // A connection that breaks is the gateway's to open again.
    while let Ok(Some(())) = peer.next(&mut answer).await {}
}

/// Serves an address on the calling thread, for as long as it runs. Tells where it listens.
///
/// # Errors
/// The system's, if nothing can listen there.
pub fn serve(address: SocketAddr, settings: BotSettings) -> io::Result<SocketAddr> {
    let bot = Rc::new(RefCell::new(Bot::new(settings)));
    peer::listen(address, move |peer| serve_peer(peer, Rc::clone(&bot), |_, _| {}))
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
        bot.answer(target, body.as_bytes(), 0, &mut out, &mut |chat, text| {
            taken.push((chat, String::from_utf8(text.to_vec()).unwrap()));
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
    }
}
