//! Accounts of one person on several channels share a conversation where the configuration says so, and nobody else's do
//! (row D1).
use super::durable::{Data, admin, start};
use crate::peers::gateway::{Gateway, new_folder};
use crate::peers::http::Answer;
use crate::peers::model::Model;
use crate::peers::server::{After, Server};
use crate::peers::telegram::{SECRET, Telegram, private};
use crate::peers::{Watched, ask_until};
use serde_json::{Value, json};
use std::sync::Arc;

const TOKEN: &str = "canary-token-of-the-shop";

/// Two platforms: Telegram, and a program that posts webhooks and takes answers.
struct Platforms {
    telegram: Telegram,
    shop: Server,
    /// To whom the shop was answered, and what.
    answers: Arc<Watched<Vec<(String, String)>>>,
}

impl Platforms {
    fn start() -> Self {
        let answers = Arc::new(Watched::<Vec<(String, String)>>::default());
        let noted = answers.clone();
        let shop = Server::start(None, move |asked, line| {
            let body = asked.json();
            let text = |key: &str| body[key].as_str().unwrap().to_owned();
            noted.with(|answers| answers.push((text("sender"), text("text"))));
            line.answer(204, &[], "");
            After::Keep
        });
        Self { telegram: Telegram::start(), shop, answers }
    }

    fn config(&self, model: &Model, links: &Value) -> Value {
        json!({
            "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
            "channels": {
                "telegram": self.telegram.config(json!({})),
                "shop": {
                    "type": "webhook", "signature": "token", "header": "x-token", "secret": TOKEN,
                    "replyUrl": format!("http://{}/answers", self.shop.address), "dmPolicy": "open",
                },
            },
            "session": { "identityLinks": links },
        })
    }

    fn await_answers(&self, count: usize) -> Vec<(String, String)> {
        self.answers.wait("the shop is answered", |all| (count <= all.len()).then(|| all.clone()))
    }
}

fn from_telegram(gateway: &Gateway, update: u64, user: i64, text: &str) {
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    let body = private(update, user, text).to_string();
    assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, body.as_bytes()).status, 200);
}

fn from_shop(gateway: &Gateway, id: &str, sender: &str, text: &str) {
    let headers = [("x-token", TOKEN), ("content-type", "application/json")];
    let body = json!({ "event_id": id, "sender": sender, "chat": "desk", "text": text }).to_string();
    assert_eq!(gateway.call("POST", "/webhooks/shop", &headers, body.as_bytes()).status, 200);
}

/// A model that says back what it was asked last.
fn parrot() -> Model {
    Model::start(|asked, speech| {
        let body = asked.json();
        let question = body["messages"].as_array().unwrap().last().unwrap()["content"].clone();
        speech.begin();
        speech.token("re: ");
        speech.token(question.as_str().unwrap());
        speech.finish("stop");
        speech.done();
        After::Keep
    })
}

/// What people said in the prompt of the model's last call.
fn prompt(model: &Model) -> Vec<String> {
    let body = model.bodies().pop().unwrap();
    let messages = body["messages"].as_array().unwrap();
    let asked = messages.iter().filter(|message| message["role"] == "user");
    asked.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

fn links() -> Value {
    json!({ "ana": ["telegram:7", "shop:ana@example.com"] })
}

fn get(gateway: &Gateway, target: &str) -> Answer {
    admin(gateway, "GET", target, &Value::Null)
}

#[test]
fn linked_accounts_share_a_conversation_and_nobody_else_does() {
    let (platforms, data, model) = (Platforms::start(), Data(new_folder()), parrot());
    let gateway = start(&data, platforms.config(&model, &links()));
    from_telegram(&gateway, 1, 7, "canary one");
    platforms.telegram.await_posts(1);
    from_shop(&gateway, "1", "ana@example.com", "canary two");
    assert_eq!(platforms.await_answers(1), [("ana@example.com".to_owned(), "re: canary two".to_owned())]);
    assert_eq!(prompt(&model), ["canary one", "canary two"]);
    from_telegram(&gateway, 2, 7, "canary three");
    platforms.telegram.await_posts(2);
    assert_eq!(prompt(&model), ["canary one", "canary two", "canary three"]);
    // The same person's id on another channel is somebody else, and so is everybody who is not named.
    from_shop(&gateway, "2", "7", "canary of seven");
    platforms.await_answers(2);
    assert_eq!(prompt(&model), ["canary of seven"]);
    from_telegram(&gateway, 3, 8, "canary of eight");
    platforms.telegram.await_posts(3);
    assert_eq!(prompt(&model), ["canary of eight"]);
    let listed = get(&gateway, "/api/sessions").json();
    let mut ids: Vec<_> = listed["data"]["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, ["person:dm:ana", "shop:dm:7", "telegram:dm:8"]);
    let channels = get(&gateway, "/api/channels").text();
    assert!(!channels.contains("person"), "nobody writes there: {channels}");
    // Each of its names means the same session.
    for id in ["person:dm:ana", "telegram:dm:7", "shop:dm:ana@example.com"] {
        let shown = get(&gateway, &format!("/api/sessions/{id}")).json();
        assert_eq!(shown["data"]["id"], "person:dm:ana", "{shown}");
        assert_eq!(shown["data"]["history"].as_array().unwrap().len(), 6);
    }
    // What the bot says by itself goes to where its person wrote from last.
    let send = |id: &str, text: &str| {
        let action = json!({ "action": "send", "text": text });
        let answer = admin(&gateway, "POST", &format!("/api/sessions/{id}"), &action);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    send("shop:dm:ana@example.com", "a canary for you");
    let post = platforms.telegram.await_posts(4).pop().unwrap();
    assert_eq!((post.chat, post.text.as_str()), (7, "a canary for you"));
    from_shop(&gateway, "3", "ana@example.com", "canary four");
    platforms.await_answers(3);
    send("person:dm:ana", "another canary");
    let to = ("ana@example.com".to_owned(), "another canary".to_owned());
    assert_eq!(platforms.await_answers(4).pop(), Some(to));
}

/// Killed while the first of three is answered: the others, of both accounts, follow in their order, each to where it
/// came from, once, although both platforms repeat what they sent.
#[test]
fn a_shared_conversation_survives_a_kill_in_its_order() {
    let (platforms, data, model) = (Platforms::start(), Data(new_folder()), Model::held(1));
    let config = platforms.config(&model, &links());
    let gateway = start(&data, config.clone());
    let send_all = |gateway: &Gateway| {
        from_telegram(gateway, 1, 7, "canary one");
        // Ids of two accounts are two, whatever they say.
        from_shop(gateway, "1", "ana@example.com", "canary two");
        from_telegram(gateway, 2, 7, "canary three");
    };
    send_all(&gateway);
    model.await_asked(1);
    drop(gateway);
    assert_eq!((platforms.telegram.posts().len(), platforms.answers.with(|all| all.len())), (0, 0));
    model.release(1);
    let gateway = start(&data, config);
    send_all(&gateway);
    assert_eq!(platforms.telegram.await_posts(2).len(), 2);
    assert_eq!(platforms.await_answers(1).len(), 1);
    ask_until("all is settled, and on disk", || {
        let status = get(&gateway, "/api/status").json();
        let is_over = status["data"]["running"] == 0 && status["data"]["waiting"] == 0;
        let journal = &get(&gateway, "/health/detailed").json()["journal"];
        (is_over && journal["bufferedBytes"] == 0).then_some(())
    });
    assert_eq!(prompt(&model), ["canary one", "canary two", "canary three"]);
    assert_eq!(model.bodies().len(), 4, "one was asked again, and none but that");
    assert_eq!((platforms.telegram.posts().len(), platforms.answers.with(|all| all.len())), (2, 1));
    drop(gateway);
    // By another start, with nothing left in the journal, the store knows the conversation and where its person wrote from.
    let gateway = start(&data, platforms.config(&model, &links()));
    let action = json!({ "action": "send", "text": "still there?" });
    // Until the store has what the journal held, it does not answer for the session: nothing was done then.
    ask_until("the store tells of the session", || {
        let status = admin(&gateway, "POST", "/api/sessions/person:dm:ana", &action).status;
        assert!(status == 200 || status == 503, "{status}");
        (status == 200).then_some(())
    });
    let post = platforms.telegram.await_posts(3).pop().unwrap();
    assert_eq!((post.chat, post.text.as_str()), (7, "still there?"));
    from_shop(&gateway, "2", "ana@example.com", "canary five");
    platforms.await_answers(2);
    let asked = prompt(&model);
    assert_eq!(asked, ["canary one", "canary two", "canary three", "canary five"]);
}

#[test]
fn a_change_of_the_links_waits_for_a_restart() {
    let (platforms, data, model) = (Platforms::start(), Data(new_folder()), parrot());
    let folder: &std::path::Path = &data.0;
    let with = |links: &Value| {
        let mut config = platforms.config(&model, links);
        config["data"] = json!({ "folder": folder });
        config
    };
    let mut gateway = Gateway::start(with(&links()));
    from_telegram(&gateway, 1, 7, "canary one");
    platforms.telegram.await_posts(1);
    gateway.reload(with(&json!({ "ana": ["telegram:7"] })), 1);
    gateway.await_line("session.identityLinks changed: that needs a restart");
    from_shop(&gateway, "1", "ana@example.com", "canary two");
    platforms.await_answers(1);
    assert_eq!(prompt(&model), ["canary one", "canary two"]);
    // What is in doubt at a kill would be posted again.
    gateway.terminate();
    assert!(gateway.ended().success());
    drop(gateway);
    let gateway = Gateway::start(with(&json!({})));
    from_shop(&gateway, "2", "ana@example.com", "canary three");
    platforms.await_answers(2);
    let asked = prompt(&model);
    assert!(!asked.contains(&"canary one".to_owned()), "apart again: {asked:?}");
}
