//! A simulated Bot API: `sendMessage` and `editMessageText` as Telegram's servers answer them, and updates as they post
//! them to a webhook. Obeys "Making requests", "sendMessage", "editMessageText" and "Update" of core.telegram.org/bots/api.
use super::Watched;
use super::gateway::merge;
use super::server::{After, Asked, Line, Server};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// The bot's token and the webhook's secret.
pub(crate) const TOKEN: &str = "424242:canary-bot-token";
pub(crate) const SECRET: &str = "canary-webhook-secret";

/// A message that the bot sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Post {
    pub(crate) chat: i64,
    pub(crate) thread: Option<i64>,
    pub(crate) text: String,
}

/// What the API says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sent,
    /// 429 with `retry_after` in seconds.
    Flooded(u32),
    /// Another error: its code and description.
    Failed(u16, &'static str),
    /// The connection breaks before an answer, and the message is not sent.
    Broken,
}

/// What the API saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// What was sent, in order, as it reads after all edits.
    pub(crate) posts: Vec<Post>,
    /// Texts that took the place of another one, in order.
    pub(crate) edits: Vec<String>,
    /// Every request, whatever became of it.
    pub(crate) attempts: Vec<Post>,
    attempts_to: HashMap<i64, u32>,
}

/// A running Bot API.
#[derive(Debug)]
pub(crate) struct Telegram {
    pub(crate) server: Server,
    pub(crate) seen: Arc<Watched<Seen>>,
}

impl Telegram {
    /// One that sends everything.
    pub(crate) fn start() -> Self {
        Self::start_with(|_, _| Verdict::Sent)
    }

    /// One that asks `judge` about each request: the post, and how many requests to its chat came before.
    pub(crate) fn start_with(judge: impl Fn(&Post, u32) -> Verdict + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Watched::<Seen>::default());
        let noted = seen.clone();
        let server = Server::start(None, move |asked, line| answer(asked, line, &noted, &judge));
        Self { server, seen }
    }

    /// What stands in the configuration for it, beside what `more` says.
    pub(crate) fn config(&self, more: Value) -> Value {
        let mut config = json!({
            "type": "telegram", "token": TOKEN, "secret": SECRET, "botUsername": "canary_bot",
            "apiRoot": format!("http://{}", self.server.address), "dmPolicy": "open",
        });
        merge(&mut config, more);
        config
    }

    /// Waits until so many messages were sent, and returns all.
    #[track_caller]
    pub(crate) fn await_posts(&self, count: usize) -> Vec<Post> {
        self.seen.wait("answers arrive", |seen| (count <= seen.posts.len()).then(|| seen.posts.clone()))
    }

    /// What was sent so far.
    pub(crate) fn posts(&self) -> Vec<Post> {
        self.seen.with(|seen| seen.posts.clone())
    }
}

fn answer(
    asked: &Asked,
    line: &mut Line,
    seen: &Watched<Seen>,
    judge: &(impl Fn(&Post, u32) -> Verdict + Send + Sync),
) -> After {
    let failed = |line: &mut Line, code: u16, text: &str| {
        line.answer(code, &[], &json!({ "ok": false, "error_code": code, "description": text }).to_string());
        After::Keep
    };
    let is_edit = asked.target == format!("/bot{TOKEN}/editMessageText");
    if !is_edit && asked.target != format!("/bot{TOKEN}/sendMessage") {
        return failed(line, 404, "Not Found");
    }
    let body = asked.json();
    let text = body["text"].as_str().unwrap_or_default().to_owned();
    let (Some(chat), thread) = (body["chat_id"].as_i64(), body["message_thread_id"].as_i64()) else {
        return failed(line, 400, "Bad Request: chat_id is empty");
    };
    if text.is_empty() {
        return failed(line, 400, "Bad Request: message text is empty");
    }
    if 4_096 < text.encode_utf16().count() {
        return failed(line, 400, "Bad Request: message is too long");
    }
    if is_edit {
        return match edit(&body, chat, &text, seen) {
            Ok(result) => {
                line.answer(200, &[], &json!({ "ok": true, "result": result }).to_string());
                After::Keep
            }
            Err(why) => failed(line, 400, why),
        };
    }
    let post = Post { chat, thread, text };
    let before = seen.with(|seen| {
        seen.attempts.push(post.clone());
        let attempts = seen.attempts_to.entry(chat).or_default();
        *attempts += 1;
        *attempts - 1
    });
    match judge(&post, before) {
        Verdict::Sent => {
            let number = seen.with(|seen| {
                seen.posts.push(post.clone());
                seen.posts.len()
            });
            let result = json!({
                "message_id": number, "from": { "id": 424_242, "is_bot": true, "first_name": "Bot" },
                "chat": { "id": chat, "type": "private" }, "date": 1_773_131_400, "text": post.text,
            });
            line.answer(200, &[], &json!({ "ok": true, "result": result }).to_string());
            After::Keep
        }
        Verdict::Flooded(seconds) => {
            let text = format!("Too Many Requests: retry after {seconds}");
            let body = json!({
                "ok": false, "error_code": 429, "description": text, "parameters": { "retry_after": seconds },
            });
            line.answer(429, &[("retry-after", &seconds.to_string())], &body.to_string());
            After::Keep
        }
        Verdict::Failed(code, text) => failed(line, code, text),
        Verdict::Broken => After::Close,
    }
}

/// Gives a message another text, as the API's own servers do it.
fn edit(body: &Value, chat: i64, text: &str, seen: &Watched<Seen>) -> Result<Value, &'static str> {
    let number = body["message_id"].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0);
    seen.with(|seen| {
        let post = number.checked_sub(1).and_then(|index| seen.posts.get_mut(index));
        let post = post.filter(|post| post.chat == chat).ok_or("Bad Request: message to edit not found")?;
        if post.text == text {
            return Err(
                "Bad Request: message is not modified: specified new message content and reply markup \
                        are exactly the same as a current content and reply markup of the message",
            );
        }
        text.clone_into(&mut post.text);
        seen.edits.push(text.to_owned());
        Ok(json!({ "message_id": number, "chat": { "id": chat, "type": "private" }, "text": text }))
    })
}

/// A text message in a private chat, as Telegram posts it.
pub(crate) fn private(update: u64, user: i64, text: &str) -> Value {
    json!({
        "update_id": update,
        "message": {
            "message_id": update, "date": 1_773_131_400, "text": text,
            "from": {
                "id": user, "is_bot": false, "first_name": "Ana", "username": format!("ana{user}"),
                "language_code": "en",
            },
            "chat": { "id": user, "first_name": "Ana", "username": format!("ana{user}"), "type": "private" },
        },
    })
}

/// A text message in a supergroup, with its entities.
pub(crate) fn group(update: u64, chat: i64, user: i64, text: &str, entities: &Value) -> Value {
    json!({
        "update_id": update,
        "message": {
            "message_id": update, "date": 1_773_131_400, "text": text, "entities": entities,
            "from": { "id": user, "is_bot": false, "first_name": "Ana" },
            "chat": { "id": chat, "title": "Room", "type": "supergroup" },
        },
    })
}
