//! The end: on SIGTERM what is under way is answered, clients are told to come back, and the process ends well.
use crate::peers::events::Events;
use crate::peers::gateway::Gateway;
use crate::peers::model::Model;
use crate::peers::telegram::{SECRET, Telegram, private};
use serde_json::json;

#[test]
fn answers_under_way_are_finished() {
    let model = Model::held(3);
    let telegram = Telegram::start();
    let mut gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "channels": { "telegram": telegram.config(json!({})) },
    }));
    let mut idle = gateway.socket();
    let mut kept = gateway.connect();
    kept.request("GET", "/health", &[], b"");
    assert_eq!(kept.answer().status, 200);
    // On both shards: streamed, whole, over a WebSocket, and for a platform.
    let mut sockets: Vec<_> = (0..4).map(|_| gateway.socket()).collect();
    for (at, socket) in sockets.iter_mut().enumerate() {
        socket
            .say(json!({ "type": "message", "content": "canary", "sessionId": format!("w{at}"), "id": "1" }));
    }
    let mut streamed = gateway.connect();
    streamed.post("/api/chat", &[], &json!({ "message": "canary", "stream": true }));
    let mut whole = gateway.connect();
    whole.post("/api/chat", &[], &json!({ "message": "canary" }));
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    let update = private(1, 77, "canary").to_string();
    assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, update.as_bytes()).status, 200);
    model.await_asked(7);
    model.release(1);
    for socket in &mut sockets {
        assert_eq!(socket.next()["content"], "word0 ");
    }
    gateway.terminate();
    // Who has nothing under way is told at once.
    let told = idle.next();
    assert_eq!((&told["type"], &told["code"]), (&json!("error"), &json!("DRAINING")), "{told}");
    assert_eq!(told["retryAfter"], 1, "and when to come back");
    assert_eq!(idle.closed(), Some((4_410, "DRAINING".to_owned())));
    kept.assert_closed();
    // Nobody begins anything new, not even on a connection that goes on.
    sockets[0].say(json!({ "type": "message", "content": "canary", "sessionId": "w0", "id": "2" }));
    let refused = sockets[0].next();
    assert_eq!((&refused["id"], &refused["code"]), (&json!("2"), &json!("DRAINING")));
    let refused =
        gateway.call("POST", "/webhooks/telegram", &headers, private(2, 78, "canary").to_string().as_bytes());
    assert_eq!(refused.status, 503);
    assert!(0 < refused.number("retry-after"));
    model.release(2);
    for (at, socket) in sockets.iter_mut().enumerate() {
        for (seq, word) in [(2, "word1 "), (3, "word2 ")] {
            let chunk = socket.next();
            assert_eq!((&chunk["content"], &chunk["seq"]), (&json!(word), &json!(seq)), "of w{at}");
        }
        assert_eq!(socket.next()["type"], "done");
        assert_eq!(socket.closed(), Some((4_410, "DRAINING".to_owned())));
    }
    assert_eq!(Events::begin(streamed).finish().0, "word0 word1 word2 ");
    let answer = whole.answer();
    assert_eq!(answer.json()["data"]["message"], "word0 word1 word2 ");
    assert_eq!(answer.header("connection"), Some("close"));
    let posts = telegram.await_posts(1);
    assert_eq!((posts.len(), posts[0].chat, posts[0].text.as_str()), (1, 77, "word0 word1 word2"));
    assert!(gateway.ended().success());
}

/// Who stops the last answer under way is told to come back, as after an answer.
#[test]
fn a_stopped_answer_is_an_end_too() {
    let model = Model::held(1);
    let mut gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    }));
    let mut socket = gateway.socket();
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s" }));
    model.await_asked(1);
    gateway.terminate();
    gateway.await_line("draining");
    socket.say(json!({ "type": "stop", "sessionId": "s" }));
    assert_eq!(socket.next()["code"], "CANCELLED");
    assert_eq!(socket.closed(), Some((4_410, "DRAINING".to_owned())));
    assert!(gateway.ended().success());
}

/// What does not end is not waited for longer than was configured. Whoever waits is told that no answer comes, in the
/// way of its protocol, and when to come back.
#[test]
fn a_drain_has_an_end() {
    let model = Model::held(2);
    let mut gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "server": { "drainSeconds": 0.3 },
    }));
    let mut socket = gateway.socket();
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s", "id": "m" }));
    let mut streamed = gateway.connect();
    streamed.post("/api/chat", &[], &json!({ "message": "canary", "stream": true, "id": "n" }));
    let mut whole = gateway.connect();
    whole.post("/api/chat", &[], &json!({ "message": "canary" }));
    model.await_asked(3);
    model.release(1);
    assert_eq!(socket.next()["content"], "word0 ");
    let mut streamed = Events::begin(streamed);
    assert_eq!(streamed.data().unwrap()["content"], "word0 ");
    gateway.terminate();
    let told = gateway.await_line("the drain's time is up");
    assert!(told.contains("turns="), "{told}");
    let last = socket.next();
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("DRAINING")), "{last}");
    assert_eq!((&last["id"], &last["sessionId"]), (&json!("m"), &json!("s")), "{last}");
    assert_eq!(last["retryAfter"], 1);
    assert_eq!(socket.closed(), Some((4_410, "DRAINING".to_owned())));
    let last = streamed.data().unwrap();
    assert_eq!(
        (&last["type"], &last["code"], &last["id"]),
        (&json!("error"), &json!("DRAINING"), &json!("n"))
    );
    assert_eq!(last["retryAfter"], 1, "{last}");
    assert_eq!(streamed.data(), None);
    assert_eq!(whole.answer().refusal(), (503, "DRAINING".to_owned()));
    assert!(gateway.ended().success());
}

/// A connection that says nothing, or stops in the middle of a request, holds nobody up for long.
#[test]
fn silent_connections_do_not_hold_up_a_drain() {
    let mut gateway =
        Gateway::start(json!({ "server": { "drainSeconds": 3600 }, "limits": { "headSeconds": 1 } }));
    let mut silent = gateway.connect();
    let mut half = gateway.connect();
    half.send("GET /health HTTP/1.1\r\nHost: lo");
    gateway.await_status("connections", 3);
    gateway.terminate();
    assert!(gateway.ended().success());
    silent.assert_closed();
    drop(half);
}

/// An answer that a client is still reading is not cut off.
#[test]
fn what_is_owed_is_delivered() {
    let mut gateway =
        Gateway::start(json!({ "limits": { "textBytesMax": 900_000, "replyBytesMax": 900_000 } }));
    let text = "canary ".repeat(100_000);
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": text }));
    gateway.await_metric("clawgate_turns_total", "outcome=\"answered\"", 1);
    gateway.terminate();
    gateway.await_line("draining");
    assert_eq!(client.answer().json()["data"]["message"], text);
    client.assert_closed();
    assert!(gateway.ended().success());
}
