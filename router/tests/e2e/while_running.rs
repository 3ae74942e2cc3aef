//! Messages that arrive while one of their session is being answered (row D7), by each door.
use crate::peers::gateway::Gateway;
use crate::peers::model::Model;
use crate::peers::telegram::{SECRET, Telegram, private};
use serde_json::{Value, json};

fn gateway(model: &Model, while_running: Value, more: Value) -> Gateway {
    let mut config = json!({
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"], "history": false, "whileRunning": while_running } },
    });
    crate::peers::gateway::merge(&mut config, more);
    Gateway::start(config)
}

fn message(id: &str, text: &str) -> Value {
    json!({ "type": "message", "content": text, "sessionId": "s", "id": id })
}

/// The last thing that a model was asked in each call.
fn asked(model: &Model) -> Vec<String> {
    let last = |body: &Value| body["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    model.bodies().iter().map(|body| last(body).as_str().unwrap().to_owned()).collect()
}

fn kinds(said: &Value) -> (&str, &str, Option<&str>) {
    (said["type"].as_str().unwrap(), said["id"].as_str().unwrap(), said["mergedInto"].as_str())
}

#[test]
fn what_waits_is_answered_together() {
    let model = Model::held(1);
    let gateway = gateway(&model, json!({ "mode": "collect" }), json!({}));
    let mut socket = gateway.socket();
    socket.say(message("1", "canary one"));
    model.await_asked(1);
    socket.say(message("2", "canary two"));
    socket.say(message("3", "canary three"));
    gateway.await_status("waiting", 2);
    let rest = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            gateway.post("/api/chat", &json!({ "message": "canary four", "sessionId": "s", "stream": false }))
        });
        gateway.await_status("waiting", 3);
        socket.say(message("5", "canary five"));
        gateway.await_status("waiting", 4);
        model.release(1);
        call.join().unwrap()
    });
    assert_eq!(kinds(&socket.next()), ("chunk", "1", None));
    let mut ends: Vec<Value> = (0..3).map(|_| socket.next()).collect();
    ends.sort_by_key(|said| said["id"].as_str().unwrap().to_owned());
    let ends: Vec<_> = ends.iter().map(kinds).collect();
    assert_eq!(ends, [("done", "1", None), ("done", "2", Some("5")), ("done", "3", Some("5"))]);
    assert_eq!(socket.reply("s", "5").text(), "word0 ");
    assert_eq!(rest.status, 200);
    let data = &rest.json()["data"];
    assert_eq!((&data["message"], &data["mergedInto"]), (&json!(""), &json!("")), "{data}");
    assert_eq!(asked(&model), ["canary one", "canary two\ncanary three\ncanary four\ncanary five"]);
    assert_eq!(gateway.metric("clawgate_turns_total", "merged"), 3);
}

#[test]
fn a_steered_message_joins_the_call_before_anything_is_shown() {
    let model = Model::held(2);
    let gateway = gateway(&model, json!({ "mode": "steer" }), json!({}));
    let mut socket = gateway.socket();
    socket.say(message("1", "canary one"));
    model.await_asked(1);
    socket.say(message("2", "canary two"));
    assert_eq!(kinds(&socket.next()), ("done", "2", Some("1")));
    model.await_asked(2);
    assert_eq!(asked(&model)[1], "canary one\ncanary two");
    model.release(1);
    assert_eq!(kinds(&socket.next()), ("chunk", "1", None));
    socket.say(message("3", "canary three"));
    gateway.await_status("waiting", 1);
    model.release(1);
    assert_eq!(kinds(&socket.next()), ("chunk", "1", None));
    assert_eq!(kinds(&socket.next()), ("done", "1", None));
    assert_eq!(socket.reply("s", "3").text(), "word0 word1 ");
}

#[test]
fn a_newer_message_interrupts_where_an_operator_says_so() {
    let model = Model::held(1);
    let gateway = gateway(&model, json!({}), json!({}));
    let mut socket = gateway.socket();
    socket.say(message("1", "canary one"));
    model.await_asked(1);
    let path = "/api/sessions/s";
    assert_eq!(gateway.post(path, &json!({ "action": "mode", "mode": "interrupt" })).status, 200);
    assert_eq!(gateway.get(path).json()["data"]["whileRunning"], "interrupt");
    assert_eq!(gateway.post(path, &json!({ "action": "mode", "mode": "shout" })).refusal().1, "UNKNOWN_TYPE");
    socket.say(message("2", "canary two"));
    let said = socket.next();
    assert_eq!((kinds(&said), &said["code"]), (("error", "1", None), &json!("CANCELLED")));
    model.release(1);
    assert_eq!(socket.reply("s", "2").text(), "word0 ");
    assert_eq!(gateway.post(path, &json!({ "action": "mode" })).status, 200);
    assert_eq!(gateway.get(path).json()["data"]["whileRunning"], Value::Null);
}

#[test]
fn at_the_cap_the_oldest_gives_way() {
    let model = Model::held(1);
    let gateway = gateway(&model, json!({ "cap": 1, "drop": "oldest" }), json!({}));
    let mut socket = gateway.socket();
    for id in ["1", "2", "3"] {
        socket.say(message(id, "canary"));
    }
    let said = socket.next();
    assert_eq!((kinds(&said), &said["code"]), (("error", "2", None), &json!("SESSION_FULL")));
    model.release(1);
    assert_eq!(socket.reply("s", "1").text(), "word0 ");
    assert_eq!(socket.reply("s", "3").text(), "word0 ");
}

/// On a platform nobody is told of it: one answer comes for several messages.
#[test]
fn a_platforms_messages_are_collected_into_one_answer() {
    let model = Model::held(1);
    let telegram = Telegram::start();
    let channels = json!({ "channels": { "telegram": telegram.config(json!({})) } });
    let gateway = gateway(&model, json!({ "mode": "collect" }), channels);
    let headers = [("X-Telegram-Bot-Api-Secret-Token", SECRET)];
    for (update, text) in [(1, "canary one"), (2, "canary two"), (3, "canary three")] {
        let body = private(update, 77, text).to_string();
        assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, body.as_bytes()).status, 200);
        model.await_asked(1);
    }
    gateway.await_status("waiting", 2);
    model.release(1);
    let posts = telegram.await_posts(2);
    assert_eq!(posts.iter().map(|post| post.text.trim()).collect::<Vec<_>>(), ["word0", "word0"]);
    assert_eq!(asked(&model), ["canary one", "canary two\ncanary three"]);
}
