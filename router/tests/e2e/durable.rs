//! What was acknowledged outlives the process: killed and started again, it answers, once, and knows its sessions; what
//! no platform takes is a dead letter until somebody deals with it (rows D5, G2, G3).
use crate::peers::ask_until;
use crate::peers::gateway::{Gateway, merge, new_folder};
use crate::peers::http::Answer;
use crate::peers::model::Model;
use crate::peers::server::After;
use crate::peers::telegram::{SECRET, Telegram, Verdict, private};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A data directory, removed when whoever uses it is gone.
pub(super) struct Data(pub(super) PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn start(data: &Data, more: Value) -> Gateway {
    let folder: &Path = &data.0;
    let mut config = json!({
        "data": { "folder": folder },
        "keys": [{ "id": "root", "key": "canary-key-of-an-admin", "scopes": ["chat", "read", "admin"] }],
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 10, "deliveryAttemptsMax": 2 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

pub(super) fn update(gateway: &Gateway, number: u64, text: &str) {
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    let user = i64::try_from(number).unwrap();
    let body = private(number, user, text).to_string();
    assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, body.as_bytes()).status, 200);
}

pub(super) fn admin(gateway: &Gateway, method: &str, target: &str, body: &Value) -> Answer {
    let headers = [("authorization", "Bearer canary-key-of-an-admin"), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    gateway.call(method, target, &headers, body.as_bytes())
}

pub(super) fn letters(gateway: &Gateway) -> Vec<Value> {
    let mut data = admin(gateway, "GET", "/api/dlq", &Value::Null).json()["data"].take();
    data["letters"].as_array_mut().unwrap().drain(..).collect()
}

/// Killed while twenty answers are under way; the platform repeats everything, because it may not have heard us.
#[test]
fn what_was_acknowledged_is_answered_once_after_a_kill() {
    let (telegram, data, model) = (Telegram::start(), Data(new_folder()), Model::held(1));
    let config = json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "telegram": telegram.config(json!({})) },
    });
    let gateway = start(&data, config.clone());
    for number in 1..=20 {
        update(&gateway, number, "canary");
    }
    model.await_asked(20);
    drop(gateway);
    assert_eq!(telegram.posts().len(), 0);
    model.release(1);
    let gateway = start(&data, config);
    for number in 1..=20 {
        update(&gateway, number, "canary");
    }
    let mut chats: Vec<i64> = telegram.await_posts(20).iter().map(|post| post.chat).collect();
    chats.sort_unstable();
    assert_eq!(chats, (1..=20).collect::<Vec<_>>());
    ask_until("all is settled", || {
        let status = admin(&gateway, "GET", "/api/status", &Value::Null).json();
        (status["data"]["running"] == 0).then_some(())
    });
    assert_eq!(telegram.posts().len(), 20, "nobody was answered twice");
}

/// A session goes on where it was: its history is in the next prompt, its variables and its agent are there.
#[test]
fn sessions_outlive_the_process() {
    let (data, model) = (Data(new_folder()), Model::saying(&["the ", "answer"]));
    let config = json!({
        "models": { "sim": model.config(json!({})), "echo": { "provider": "echo" } },
        "agents": { "main": { "models": ["sim"] }, "other": { "models": ["echo"] } }, "route": "main",
    });
    let mut gateway = start(&data, config.clone());
    let say = |gateway: &Gateway, session: &str, text: &str| {
        let body = json!({ "message": text, "sessionId": session });
        let answer = admin(gateway, "POST", "/api/chat", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["data"]["message"].as_str().unwrap().to_owned()
    };
    say(&gateway, "s1", "canary of the first question");
    say(&gateway, "s2", "canary");
    for (session, body) in [
        ("s1", json!({ "action": "set", "name": "lang", "value": "pl" })),
        ("s2", json!({ "action": "assign", "agent": "other" })),
    ] {
        let answer = admin(&gateway, "POST", &format!("/api/sessions/{session}"), &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    gateway.terminate();
    assert!(gateway.ended().success());
    drop(gateway);
    let gateway = start(&data, config);
    say(&gateway, "s1", "canary of the second");
    let prompt = model.bodies().last().unwrap()["messages"].to_string();
    assert!(prompt.contains("canary of the first question") && prompt.contains("the answer"), "{prompt}");
    let shown = admin(&gateway, "GET", "/api/sessions/s1", &Value::Null).json();
    assert_eq!(shown["data"]["context"], json!({ "lang": "pl" }), "{shown}");
    assert_eq!(say(&gateway, "s2", "canary echoed"), "canary echoed", "by the agent that it was given");
}

/// An answer that was known and not confirmed at a kill is posted by the next process, and remembered: what is said next
/// is said with it. Its session had never been saved, and the store did not show what was said in one that was not.
#[test]
fn what_was_answered_and_not_confirmed_is_remembered() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = is_broken.clone();
    let judge = move |_: &_, _| if broken.load(Ordering::SeqCst) { Verdict::Broken } else { Verdict::Sent };
    let (telegram, data) = (Telegram::start_with(judge), Data(new_folder()));
    let model = Model::saying(&["the ", "answer"]);
    let config = json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "telegram": telegram.config(json!({})) }, "limits": { "deliveryAttemptsMax": 100 },
    });
    let say = |gateway: &Gateway, number: u64, text: &str| {
        let headers = [("x-telegram-bot-api-secret-token", SECRET)];
        let body = private(number, 7, text).to_string();
        assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, body.as_bytes()).status, 200);
    };
    let gateway = start(&data, config.clone());
    say(&gateway, 1, "canary of the first question");
    telegram.seen.wait("it is tried", |seen| (!seen.attempts.is_empty()).then_some(()));
    drop(gateway);
    is_broken.store(false, Ordering::SeqCst);
    let gateway = start(&data, config);
    telegram.await_posts(1);
    say(&gateway, 2, "canary of the second");
    telegram.await_posts(2);
    let prompt = model.bodies().last().unwrap()["messages"].to_string();
    assert!(prompt.contains("canary of the first question") && prompt.contains("the answer"), "{prompt}");
}

/// What no platform takes is a dead letter, over a restart too; tried again it is answered once, and is gone.
#[test]
fn dead_letters_are_kept_tried_again_and_dropped() {
    let is_blocked = Arc::new(AtomicBool::new(true));
    let blocked = is_blocked.clone();
    let telegram = Telegram::start_with(move |_, _| {
        let blocked = blocked.load(Ordering::SeqCst);
        if blocked { Verdict::Failed(403, "Forbidden: bot was blocked") } else { Verdict::Sent }
    });
    let data = Data(new_folder());
    let config = json!({
        "agents": { "main": { "models": ["echo"] } },
        "channels": { "telegram": telegram.config(json!({})) },
    });
    let gateway = start(&data, config.clone());
    for number in 1..=3 {
        update(&gateway, number, "canary");
    }
    ask_until("three letters", || (letters(&gateway).len() == 3).then_some(()));
    drop(gateway);
    let gateway = start(&data, config);
    let found = letters(&gateway);
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0]["code"], "DELIVERY_FAILED");
    assert!(found[0]["message"].is_null(), "a list shows no texts");
    let target = |letter: &Value| format!("/api/dlq/{}", letter["id"].as_str().unwrap());
    let shown = admin(&gateway, "GET", &target(&found[0]), &Value::Null).json();
    assert_eq!(shown["data"]["reply"], "canary", "{shown}");
    assert!(shown["data"]["detail"].as_str().unwrap().contains("blocked"), "{shown}");
    is_blocked.store(false, Ordering::SeqCst);
    let operate = |letter: &Value, action: &str| {
        admin(&gateway, "POST", &target(letter), &json!({ "action": action })).status
    };
    assert_eq!(operate(&found[0], "replay"), 200);
    assert_eq!(operate(&found[1], "drop"), 200);
    assert_ne!(operate(&found[0], "replay"), 200, "not twice");
    assert_eq!(operate(&json!({ "id": "1" }), "replay"), 404);
    assert_eq!(operate(&found[2], "eat"), 400);
    let posts = telegram.await_posts(1);
    assert_eq!(posts[0].chat.to_string(), found[0]["chat"].as_str().unwrap());
    ask_until("one is left", || {
        let left = letters(&gateway);
        (left.len() == 1 && left[0]["id"] == found[2]["id"]).then_some(())
    });
    assert_eq!(telegram.posts().len(), 1);
}

/// A letter that was dropped came back after a kill: the store had forgotten it, and the journal, which was kept for what
/// still ran, told again of the end that had made it.
#[test]
fn a_dropped_letter_stays_dropped_after_a_kill() {
    let telegram = Telegram::start_with(|_, _| Verdict::Failed(403, "Forbidden: bot was blocked"));
    let model = Model::start(|asked, speech| {
        speech.begin();
        if asked.json()["messages"].to_string().contains("canary that waits") {
            return speech.fall_silent();
        }
        speech.token("so");
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let data = Data(new_folder());
    let config = json!({
        "server": { "shards": 1 },
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "telegram": telegram.config(json!({})) },
    });
    let gateway = start(&data, config.clone());
    update(&gateway, 1, "canary that waits");
    model.await_asked(1);
    update(&gateway, 2, "canary");
    let letter = ask_until("a letter", || letters(&gateway).pop());
    let target = format!("/api/dlq/{}", letter["id"].as_str().unwrap());
    assert_eq!(admin(&gateway, "POST", &target, &json!({ "action": "drop" })).status, 200);
    ask_until("the store has forgotten it", || letters(&gateway).is_empty().then_some(()));
    drop(gateway);
    let gateway = start(&data, config);
    let nobody = json!({ "action": "drop" });
    ask_until("the store has what was left", || {
        (admin(&gateway, "POST", "/api/dlq/1", &nobody).status == 404).then_some(())
    });
    assert_eq!(letters(&gateway), [Value::Null; 0]);
}

/// A client with a receipt whose gateway died gets its answer by asking again under the same id.
#[test]
fn a_receipt_is_worth_its_answer() {
    let (data, model) = (Data(new_folder()), Model::held(1));
    let config = json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    });
    let message = json!({
        "type": "message", "content": "canary", "sessionId": "s", "id": "m-1", "receipt": true,
    });
    let gateway = start(&data, config.clone());
    let mut socket = gateway.socket();
    socket.authenticate("canary-key-of-an-admin");
    socket.say(message.clone());
    assert_eq!(socket.next()["type"], "accepted");
    model.await_asked(1);
    drop((socket, gateway));
    let gateway = start(&data, config);
    model.await_asked(2);
    let mut socket = gateway.socket();
    socket.authenticate("canary-key-of-an-admin");
    socket.say(message.clone());
    assert_eq!(socket.next()["type"], "accepted");
    model.release(1);
    assert_eq!(socket.reply("s", "m-1").text(), "word0 ");
    assert_eq!(model.bodies().len(), 2, "asked once in each life");
}
