//! Agents that live elsewhere and mean ill (row E2): endpoints that flood, stall, lie about what they send or lead
//! elsewhere, and workers that do. Each turn ends once and with its code, what fails is left alone, and the neighbours of
//! a hostile agent are answered all the while.
use crate::peers::certificates::Certificate;
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, merge};
use crate::peers::model::{Model, Speech};
use crate::peers::server::After;
use crate::peers::socket::Socket;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const WORKER: &str = "canary-key-of-a-worker";
const ADMIN: &str = "canary-key-of-an-admin";
/// Bytes of what has no end, at most: what the gateway has not refused by then it never will.
const FLOOD_BYTES_MAX: usize = 64 << 20;

/// A gateway with the agent `bad`, which is this, and the agent `good`, which is well. Its limits are small, so that a
/// flood is short.
fn beside(bad: Value, more: Value) -> Gateway {
    let mut config = json!({
        "server": { "shards": 1 },
        "keys": [
            { "id": "root", "key": ADMIN, "scopes": ["chat", "read", "admin"] },
            { "id": "worker", "key": WORKER, "scopes": ["agent"] },
        ],
        "models": { "copy": { "provider": "echo" } },
        "agents": { "bad": { "attemptsMax": 1 }, "good": { "models": ["copy"] } },
        "route": "good",
        "limits": {
            "upstreamEventBytesMax": 65_536, "upstreamBodyBytesMax": 65_536, "replyBytesMax": 65_536,
            "outboxBytesMax": 65_536, "outboxHighBytes": 16_384, "backoffMinMillis": 1, "backoffMaxMillis": 5,
        },
    });
    merge(&mut config, json!({ "agents": { "bad": bad } }));
    merge(&mut config, more);
    Gateway::start(config)
}

fn endpoint(url: &str) -> Value {
    json!({
        "type": "http",
        "endpoint": {
            "url": url, "secret": "canary-secret-of-the-agent", "headerSeconds": 0.5, "firstTokenSeconds": 0.5,
            "breaker": { "callsMin": 2, "failedPercent": 50, "openSeconds": 600, "openMaxSeconds": 600 },
        },
    })
}

fn call(gateway: &Gateway, method: &str, target: &str) -> Value {
    let bearer = format!("Bearer {ADMIN}");
    let answer = gateway.call(method, target, &[("authorization", &bearer)], b"");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn ask(gateway: &Gateway, agent: &str) -> Events {
    let mut client = gateway.connect();
    let bearer = format!("Bearer {ADMIN}");
    let body = json!({ "message": "canary", "stream": true, "sessionId": agent, "agent": agent });
    client.post("/api/chat", &[("authorization", &bearer)], &body);
    Events::begin(client)
}

/// The neighbours are answered.
#[track_caller]
fn assert_neighbours(gateway: &Gateway) {
    let (text, end) = ask(gateway, "good").finish();
    assert_eq!((text.as_str(), &end["type"]), ("canary", &json!("done")), "{end}");
}

/// What the breaker of `bad` lets pass.
fn breaker(gateway: &Gateway) -> String {
    let all = call(gateway, "GET", "/api/models");
    let models = all["data"]["models"].as_array().unwrap();
    let model = models.iter().find(|model| model["name"] == "agent:bad").unwrap();
    model["breaker"].as_str().unwrap().to_owned()
}

/// Says this over and over, until the other side is gone.
fn flood(speech: &mut Speech<'_>, part: &str) -> After {
    let part = part.repeat((16 << 10) / part.len());
    for _ in 0..FLOOD_BYTES_MAX / part.len() {
        if !speech.raw(&part) {
            return After::Close;
        }
    }
    panic!("all of a flood was taken");
}

/// How an endpoint behaves, the code that its turns end with, what is shown before, and whether it is left alone for it.
type Way = (fn(&mut Speech<'_>) -> After, &'static str, &'static str, bool);

const WAYS: &[(&str, Way)] = &[
    ("one event without an end", (one_event, "UPSTREAM_MALFORMED", "", true)),
    ("a line without an end", (one_line, "UPSTREAM_MALFORMED", "", true)),
    ("an object without an end", (one_object, "UPSTREAM_MALFORMED", "", true)),
    ("a coding that nobody asked for", (compressed, "UPSTREAM_MALFORMED", "", true)),
    ("another address", (elsewhere, "UPSTREAM_FAILED", "", true)),
    ("nothing after its head", (only_a_head, "UPSTREAM_TRUNCATED", "", true)),
    ("nothing at all", (nothing, "UPSTREAM_TIMEOUT", "", true)),
    ("a head and silence", (head_and_silence, "UPSTREAM_TIMEOUT", "", true)),
    ("a head without an end", (endless_head, "UPSTREAM_MALFORMED", "", true)),
    ("an error without an end", (endless_error, "UPSTREAM_FAILED", "", true)),
    ("pieces without an end", (pieces, "REPLY_TOO_LONG", "word ", false)),
    ("two answers", (twice, "", "one", false)),
];

fn one_event(speech: &mut Speech<'_>) -> After {
    speech.begin();
    flood(speech, "data: more of the same event\n")
}

fn one_line(speech: &mut Speech<'_>) -> After {
    speech.begin();
    speech.raw("data: ");
    flood(speech, "more of the same line ")
}

fn one_object(speech: &mut Speech<'_>) -> After {
    speech
        .line
        .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    speech.raw("{\"text\":\"");
    flood(speech, "more of the same object ")
}

fn compressed(speech: &mut Speech<'_>) -> After {
    let gzip = ("content-encoding", "gzip");
    speech.line.answer(200, &[gzip], "\u{1f}and so on");
    After::Keep
}

fn elsewhere(speech: &mut Speech<'_>) -> After {
    speech.line.answer(307, &[("location", "/elsewhere")], "");
    After::Keep
}

fn only_a_head(speech: &mut Speech<'_>) -> After {
    speech.begin();
    After::Close
}

fn nothing(speech: &mut Speech<'_>) -> After {
    speech.fall_silent()
}

fn head_and_silence(speech: &mut Speech<'_>) -> After {
    speech.begin();
    speech.fall_silent()
}

fn endless_head(speech: &mut Speech<'_>) -> After {
    speech.line.send("HTTP/1.1 200 OK\r\n");
    let field = "x-more: of the same head\r\n".repeat(512);
    for _ in 0..FLOOD_BYTES_MAX / field.len() {
        if !speech.line.send(&field) {
            return After::Close;
        }
    }
    panic!("all of a head was taken");
}

fn endless_error(speech: &mut Speech<'_>) -> After {
    speech
        .line
        .send("HTTP/1.1 500 No\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    flood(speech, "more of the same error ")
}

fn pieces(speech: &mut Speech<'_>) -> After {
    speech.begin();
    flood(speech, "event: delta\ndata: {\"text\":\"word \"}\n\n")
}

fn twice(speech: &mut Speech<'_>) -> After {
    speech.begin();
    let answer = |text: &str| {
        format!(
            "event: delta\ndata: {{\"text\":\"{text}\"}}\n\nevent: done\ndata: {{\"stop\":\"complete\"}}\n\n"
        )
    };
    speech.last(answer("one") + &answer("two"));
    After::Keep
}

#[test]
fn an_endpoint_that_means_ill_harms_only_its_own_turns() {
    let way = Arc::new(AtomicUsize::new(0));
    let wanted = way.clone();
    let server = Model::start(move |asked, speech| {
        assert_eq!(asked.target, "/turns", "nobody follows where it leads");
        let (_, (behave, ..)) = WAYS[wanted.load(Ordering::SeqCst)];
        behave(speech)
    });
    let gateway = beside(endpoint(&format!("http://{}/turns", server.server.address)), json!({}));
    for (number, (name, (_, code, begins, learns))) in WAYS.iter().enumerate() {
        way.store(number, Ordering::SeqCst);
        for _ in 0..2 {
            let asked = ask(&gateway, "bad");
            assert_neighbours(&gateway);
            // `finish` holds that nothing follows the end.
            let (text, end) = asked.finish();
            assert_eq!(end["code"].as_str().unwrap_or_default(), *code, "{name}: {end}");
            assert!(text.starts_with(begins) && text.len() <= 65_536, "{name}: {} bytes", text.len());
            assert!(!begins.is_empty() || text.is_empty(), "{name}: {text}");
            if code.is_empty() {
                assert_eq!(text, *begins, "{name}: the second answer is nobody's");
            }
        }
        assert_eq!(breaker(&gateway) == "open", *learns, "{name}");
        call(&gateway, "POST", "/api/models/agent:bad/reset");
    }
    let status = call(&gateway, "GET", "/api/status");
    assert_eq!((&status["data"]["running"], &status["data"]["waiting"]), (&json!(0), &json!(0)));
    assert!(gateway.resident_bytes() < 256 << 20, "floods are not kept");
    gateway.assert_well();
}

/// One that presents a certificate that nobody vouches for is told nothing.
#[test]
fn an_endpoint_with_a_bad_certificate_is_told_nothing() {
    let certificate = Certificate::new();
    let server = Model::start_with(Some(certificate.server()), |_, _| panic!("it was told"));
    let gateway = beside(endpoint(&format!("https://{}/turns", server.server.address)), json!({}));
    for _ in 0..2 {
        let (text, end) = ask(&gateway, "bad").finish();
        assert_eq!((text.as_str(), &end["code"]), ("", &json!("UPSTREAM_FAILED")), "{end}");
    }
    assert_eq!((breaker(&gateway).as_str(), server.bodies().len()), ("open", 0));
    assert_neighbours(&gateway);
}

fn worker(gateway: &Gateway) -> Socket {
    let bearer = format!("Bearer {WORKER}");
    let mut socket = Socket::open(gateway.address, "/ws/agent", &[("authorization", &bearer)]).unwrap();
    socket.say(json!({ "type": "register", "agents": ["bad"], "capacity": 4 }));
    assert_eq!(socket.next()["type"], "registered");
    socket
}

fn with_workers(more: Value) -> Gateway {
    let breaker = json!({ "callsMin": 2, "openSeconds": 600, "openMaxSeconds": 600 });
    let mut bad = json!({ "type": "worker", "worker": { "breaker": breaker } });
    merge(&mut bad, more);
    beside(bad, json!({ "limits": { "slowClientSeconds": 2 } }))
}

/// One that never answers is told that nobody waits any more, and left alone.
#[test]
fn a_worker_that_never_answers_is_left_alone() {
    let gateway = with_workers(json!({ "worker": { "waitSeconds": 0.1, "firstTokenSeconds": 0.5 } }));
    let mut silent = worker(&gateway);
    for _ in 0..2 {
        let asked = ask(&gateway, "bad");
        let turn = silent.next();
        assert_neighbours(&gateway);
        let (text, end) = asked.finish();
        assert_eq!((text.as_str(), &end["code"]), ("", &json!("UPSTREAM_TIMEOUT")), "{end}");
        let cancel = silent.next();
        assert_eq!((&cancel["type"], &cancel["call"]), (&json!("cancel"), &turn["call"]));
    }
    assert_eq!(breaker(&gateway), "open");
    assert_neighbours(&gateway);
}

/// What a worker says of turns that it does not have, or has no more, reaches nobody.
#[test]
fn a_worker_answers_its_own_turns_and_each_once() {
    let gateway = with_workers(json!({}));
    let (mut honest, asked) = (worker(&gateway), ask(&gateway, "bad"));
    let turn = honest.next();
    let mut other = worker(&gateway);
    other.say(json!({ "type": "done", "call": turn["call"], "text": "not mine" }));
    let refused = other.next();
    assert_eq!((&refused["code"], &refused["call"]), (&json!("NOT_FOUND"), &turn["call"]));
    assert_neighbours(&gateway);
    for text in ["mine", "twice"] {
        honest.say(json!({ "type": "done", "call": turn["call"], "text": text }));
    }
    honest.say(json!({ "type": "delta", "call": turn["call"], "text": "and more" }));
    honest.say(json!({ "type": "ping" }));
    assert_eq!(honest.next()["type"], "pong", "what comes late is no fault");
    let (text, end) = asked.finish();
    assert_eq!((text.as_str(), &end["type"]), ("mine", &json!("done")));
    assert_eq!(breaker(&gateway), "closed");
}

/// One that says more than an answer may have is stopped, and so is its turn.
#[test]
fn a_worker_that_floods_pieces_is_stopped() {
    let gateway = with_workers(json!({}));
    let (mut flooding, asked) = (worker(&gateway), ask(&gateway, "bad"));
    let turn = flooding.next();
    let piece = json!({ "type": "delta", "call": turn["call"], "text": "word ".repeat(200) });
    // As late words of a call that is over these are not heard.
    for _ in 0..200 {
        flooding.say(piece.clone());
    }
    assert_neighbours(&gateway);
    let (text, end) = asked.finish();
    let code = end["code"].as_str().unwrap();
    assert!(matches!(code, "UPSTREAM_MALFORMED" | "REPLY_TOO_LONG"), "{end}");
    assert!(text.starts_with("word ") && text.len() <= 65_536, "{} bytes", text.len());
    loop {
        let said = flooding.next();
        if said["type"] == "cancel" {
            assert_eq!(said["call"], turn["call"]);
            break;
        }
    }
}
