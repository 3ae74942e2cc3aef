//! Rates (row A7): what the headers say adds up, also while many ask at once on both shards.
use crate::peers::ask_until;
use crate::peers::gateway::Gateway;
use crate::peers::http::Answer;
use crate::peers::time::written_at;
use serde_json::json;
use std::collections::BTreeSet;
use tungstenite::Message;

fn chat(gateway: &Gateway, key: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    gateway.call("POST", "/api/chat", &headers, br#"{"message":"canary"}"#)
}

/// Several connections ask at once, on both shards: exactly as many are granted as the rate says, each of them with
/// another number left, and the others are told when to come back.
#[test]
fn the_headers_add_up_under_concurrent_load() {
    const GRANTED: usize = 60;
    let gateway = Gateway::start(json!({
        "keys": [
            { "id": "ana", "key": "canary-key-of-ana", "rate": { "requests": GRANTED, "seconds": 2_000_000 } },
            { "id": "ben", "key": "canary-key-of-ben", "rate": { "requests": 3, "seconds": 2_000_000 } },
        ],
    }));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    for _ in 0..5 {
                        // Two connections a round: the kernel spreads them over both shards.
                        answers.push(chat(&gateway, "canary-key-of-ana"));
                        answers.push(chat(&gateway, "canary-key-of-ana"));
                    }
                    answers
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (granted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((granted.len(), refused.len()), (GRANTED, 80 - GRANTED));
    let left: BTreeSet<u64> = granted.iter().map(|answer| answer.number("x-ratelimit-remaining")).collect();
    assert_eq!(left, (0..GRANTED as u64).collect(), "each grant is counted once");
    for answer in granted.iter().chain(&refused) {
        assert_eq!(answer.number("x-ratelimit-limit"), GRANTED as u64);
        let reset = answer.number("x-ratelimit-reset");
        let now = written_at(answer);
        assert!(now < reset && reset <= now + 2_000_001, "{reset} is Unix seconds, and it is {now}");
    }
    for answer in &refused {
        assert_eq!(answer.refusal(), (429, "RATE_LIMITED".to_owned()));
        assert_eq!(answer.number("x-ratelimit-remaining"), 0);
        // One comes back every 33,333 seconds.
        assert!((30_000..=33_334).contains(&answer.number("retry-after")), "{answer:?}");
    }
    // Another key's rate is its own.
    let other: Vec<u64> =
        (0..3).map(|_| chat(&gateway, "canary-key-of-ben").number("x-ratelimit-remaining")).collect();
    assert_eq!(other, [2, 1, 0]);
    assert_eq!(chat(&gateway, "canary-key-of-ben").status, 429);
    gateway.assert_well();
}

#[test]
fn an_address_has_a_rate_of_its_own() {
    let gateway = Gateway::start(json!({
        "keys": [{ "id": "ana", "key": "canary-key-of-ana", "rate": { "requests": 1000, "seconds": 2_000_000 } }],
        "rate": { "address": { "requests": 10, "seconds": 2_000_000 } },
    }));
    // The tighter of the two is told.
    for left in (5..10).rev() {
        let answer = chat(&gateway, "canary-key-of-ana");
        assert_eq!((answer.number("x-ratelimit-limit"), answer.number("x-ratelimit-remaining")), (10, left));
    }
    // Who tries keys pays from it too.
    for _ in 0..5 {
        assert_eq!(chat(&gateway, "canary-key-of-nobody").status, 401);
    }
    for key in ["canary-key-of-ana", "canary-key-of-nobody"] {
        assert_eq!(chat(&gateway, key).refusal(), (429, "RATE_LIMITED".to_owned()));
    }
    gateway.assert_well();
}

/// A message over a WebSocket counts as a request does, and a refused one says when to come back.
#[test]
fn messages_over_websockets_count() {
    let gateway = Gateway::start(json!({
        "keys": [{ "id": "ana", "key": "canary-key-of-ana", "rate": { "requests": 5, "seconds": 2_000_000 } }],
    }));
    let mut socket = gateway.socket();
    socket.authenticate("canary-key-of-ana");
    for at in 0..5 {
        assert_eq!(socket.ask(&format!("s{at}"), "canary").text(), "canary");
    }
    let refused = socket.ask("s0", "canary").end;
    assert_eq!(refused["code"], "RATE_LIMITED");
    assert!((300_000..=400_000).contains(&refused["retryAfter"].as_u64().unwrap()), "{refused}");
    assert_eq!(chat(&gateway, "canary-key-of-ana").status, 429);
    // The connection lives on.
    socket.send(Message::text(r#"{"type":"ping"}"#));
    assert_eq!(socket.next()["type"], "pong");
}

#[test]
fn what_was_taken_comes_back() {
    let gateway = Gateway::start(json!({
        "keys": [{ "id": "ana", "key": "canary-key-of-ana", "rate": { "requests": 2, "seconds": 0.4 } }],
    }));
    let refused = ask_until("the rate is used up", || {
        Some(chat(&gateway, "canary-key-of-ana")).filter(|answer| answer.status == 429)
    });
    assert_eq!(refused.number("retry-after"), 1, "rounded up to whole seconds");
    ask_until("it comes back", || (chat(&gateway, "canary-key-of-ana").status == 200).then_some(()));
}

/// Where no rate is configured nothing is promised.
#[test]
fn without_a_rate_there_are_no_headers() {
    let gateway = Gateway::start(json!({}));
    let answer = gateway.post("/api/chat", &json!({ "message": "canary" }));
    assert_eq!((answer.status, answer.header("x-ratelimit-limit")), (200, None));
    let default = Gateway::start_default();
    let answer = default.post("/api/chat", &json!({ "message": "canary" }));
    assert_eq!((answer.number("x-ratelimit-limit"), answer.number("x-ratelimit-remaining")), (100, 99));
}
