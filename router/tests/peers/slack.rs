//! A simulated Web API of Slack: `chat.postMessage` and `chat.update` as Slack answers them, and events as it posts them.
//! Obeys docs.slack.dev: "chat.postMessage", "chat.update", "Verifying requests from Slack", "Events API".
use super::Watched;
use super::gateway::{Gateway, merge};
use super::http::{Answer, Client};
use super::server::{After, Asked, Line, Server};
use super::time::written_at;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::fmt::Write;
use std::sync::Arc;

/// The bot's token, the app's signing secret, and the bot's user.
pub(crate) const TOKEN: &str = "xoxb-canary-bot-token";
pub(crate) const SECRET: &str = "canary-signing-secret";
pub(crate) const BOT: &str = "U0BOT";

/// A message that the bot posted, as it reads after all edits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Post {
    pub(crate) channel: String,
    pub(crate) thread: Option<String>,
    pub(crate) text: String,
}

/// What the API saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) posts: Vec<Post>,
    /// Texts that took the place of another one, in order.
    pub(crate) edits: Vec<String>,
    /// Posts that come before one is taken: each is refused as the rate limit does it.
    pub(crate) refuse: usize,
}

/// A running Web API.
#[derive(Debug)]
pub(crate) struct Slack {
    pub(crate) server: Server,
    pub(crate) seen: Arc<Watched<Seen>>,
}

impl Slack {
    pub(crate) fn start() -> Self {
        let seen = Arc::new(Watched::<Seen>::default());
        let noted = seen.clone();
        let server = Server::start(None, move |asked, line| answer(asked, line, &noted));
        Self { server, seen }
    }

    /// What stands in the configuration for it, beside what `more` says.
    pub(crate) fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "type": "slack", "token": TOKEN, "secrets": [SECRET], "dmPolicy": "open", "groupPolicy": "open",
            "apiRoot": format!("http://{}/api", self.server.address),
        });
        merge(&mut config, more);
        config
    }

    /// Waits until so many messages were posted, and returns all.
    #[track_caller]
    pub(crate) fn await_posts(&self, count: usize) -> Vec<Post> {
        self.seen.wait("answers arrive", |seen| (count <= seen.posts.len()).then(|| seen.posts.clone()))
    }
}

/// The time that it is, by the gateway's own account.
pub(crate) fn now(gateway: &Gateway) -> u64 {
    written_at(&gateway.get("/api/status"))
}

/// Posts a body as Slack does: signed with its time.
pub(crate) fn post(gateway: &Gateway, kind: &str, body: &str) -> Answer {
    post_as(&mut gateway.connect(), kind, body, now(gateway), SECRET)
}

/// As [`post`], signed at another time, or with another secret.
pub(crate) fn post_as(client: &mut Client, kind: &str, body: &str, time: u64, secret: &str) -> Answer {
    let mut keyed = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    keyed.update(format!("v0:{time}:{body}").as_bytes());
    let mut signature = String::from("v0=");
    keyed.finalize().into_bytes().iter().for_each(|byte| write!(signature, "{byte:02x}").unwrap());
    let time = time.to_string();
    let headers =
        [("Content-Type", kind), ("X-Slack-Request-Timestamp", &time), ("X-Slack-Signature", &signature)];
    client.request("POST", "/webhooks/slack", &headers, body.as_bytes());
    client.answer()
}

/// A callback with this event in it.
pub(crate) fn callback(event_id: &str, event: &Value) -> String {
    json!({
        "token": "t", "team_id": "T01", "api_app_id": "A01", "type": "event_callback", "event_id": event_id,
        "event_time": 1_710_000_000, "event": event,
        "authorizations": [{ "team_id": "T01", "user_id": BOT, "is_bot": true }],
    })
    .to_string()
}

/// A message in the bot's chat with one person.
pub(crate) fn direct(user: &str, ts: &str, text: &str) -> Value {
    json!({ "type": "message", "channel": format!("D{user}"), "channel_type": "im", "user": user,
        "text": text, "ts": ts, "team": "T01" })
}

/// A message in a channel.
pub(crate) fn said(kind: &str, user: &str, ts: &str, text: &str) -> Value {
    json!({ "type": kind, "channel": "C01", "channel_type": "channel", "user": user, "text": text, "ts": ts,
        "team": "T01" })
}

fn answer(asked: &Asked, line: &mut Line, seen: &Watched<Seen>) -> After {
    let failed = |line: &mut Line, error: &str| {
        line.answer(200, &[], &json!({ "ok": false, "error": error }).to_string());
        After::Keep
    };
    if asked.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return failed(line, "invalid_auth");
    }
    let body = asked.json();
    let word = |key: &str| body[key].as_str().map(str::to_owned);
    let (Some(channel), Some(text)) = (word("channel"), word("text")) else {
        return failed(line, "invalid_arguments");
    };
    if text.is_empty() || 40_000 < text.chars().count() {
        return failed(line, if text.is_empty() { "no_text" } else { "msg_too_long" });
    }
    let number = match asked.target.as_str() {
        "/api/chat.postMessage" => seen.with(|seen| {
            if 0 < seen.refuse {
                seen.refuse -= 1;
                return None;
            }
            seen.posts.push(Post { channel: channel.clone(), thread: word("thread_ts"), text: text.clone() });
            Some(seen.posts.len())
        }),
        "/api/chat.update" => {
            let number = word("ts").and_then(|ts| ts.strip_prefix("1720000000.")?.parse::<usize>().ok());
            let found = seen.with(|seen| {
                let post = seen.posts.get_mut(number?.checked_sub(1)?)?;
                post.text.clone_from(&text);
                seen.edits.push(text.clone());
                number
            });
            if found.is_none() {
                return failed(line, "message_not_found");
            }
            found
        }
        _ => return failed(line, "unknown_method"),
    };
    match number {
        Some(number) => {
            let ts = format!("1720000000.{number:06}");
            let said = json!({ "ok": true, "channel": channel, "ts": ts, "message": { "text": text } });
            line.answer(200, &[], &said.to_string());
        }
        None => {
            let body = json!({ "ok": false, "error": "ratelimited" });
            line.answer(429, &[("Retry-After", "1")], &body.to_string());
        }
    }
    After::Keep
}
