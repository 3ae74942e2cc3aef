//! What platforms send and what we send them, as files: `tests/data/<platform>/`, each `x.json` with its `x.expected`.
//!
//! `in-*` is the body of a webhook, JSON or, where it ends in `.form`, a form; expected are the inbound events, a line each,
//! and the acknowledgement. `reply-*` is an answer and where it goes; expected is the request. `answer-*` is what the
//! platform says to it; expected is what became of it.
//!
//! `UPDATE_GOLDEN=1 cargo test -p clawgate-adapters --test golden` writes what comes out: read the difference.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the files are read here; the adapters never do")]
use clawgate_adapters::signature::{Scheme, TOLERANCE_SECS};
use clawgate_adapters::webhook::{self, Mapping};
use clawgate_adapters::{
    Ack, Bad, Destination, Json, JsonLimits, Platform, Request, slack, telegram, whatsapp,
};
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Delivery, Inbound};
use clawgate_core::id::ChannelId;
use clawgate_wire::http1::{HeadLimits, parse_request};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const CHANNEL: ChannelId = ChannelId(3);
const SIGNED: &str = "webhook-id: msg_1\r\nX-GitHub-Delivery: 72d3162e-cc78-11e3\r\n";

fn platform(folder: &str) -> Platform {
    let telegram = telegram::Settings {
        token: "99:TEST-token_1".into(),
        secret: Some("s3cret".into()),
        bot_username: "@my_bot".into(),
        bot_id: None,
        api_root: "http://127.0.0.1:9102/".into(),
    };
    let webhook = |scheme, mapping| {
        let settings = webhook::Settings {
            scheme,
            secrets: vec!["s3cr3t".into()],
            tolerance_secs: TOLERANCE_SECS,
            mapping,
            reply_url: Some("https://client.example/reply?x=1".into()),
            reply_secret: None,
            text_max: webhook::TEXT_CHARS_MAX,
        };
        Platform::Webhook(Box::new(webhook::Webhook::new(settings).unwrap()))
    };
    let slack = slack::Settings {
        token: "xoxb-1-2-TEST".into(),
        secrets: vec!["s3cr3t".into()],
        tolerance_secs: TOLERANCE_SECS,
        threads: true,
        api_root: "http://127.0.0.1:9102/api/".into(),
    };
    let whatsapp = whatsapp::Settings {
        token: "EAAG-TEST".into(),
        secrets: vec!["s3cr3t".into()],
        verify_token: "my word".into(),
        phone_number_id: "106540352242922".into(),
        api_root: "http://127.0.0.1:9102/v23.0/".into(),
    };
    match folder {
        "whatsapp" => Platform::WhatsApp(Box::new(whatsapp::WhatsApp::new(whatsapp).unwrap())),
        "slack" => Platform::Slack(Box::new(slack::Slack::new(slack).unwrap())),
        "telegram" => Platform::Telegram(Box::new(telegram::Telegram::new(telegram).unwrap())),
        "webhook" => webhook(Scheme::Standard, Mapping::plain()),
        "webhook-github" => webhook(
            Scheme::Github,
            Mapping {
                event_id: String::new(),
                sender: "/comment/user/id".into(),
                name: "/comment/user/login".into(),
                chat: "/repository/full_name".into(),
                text: "/comment/body".into(),
                thread: "/issue/number".into(),
                timestamp: "/comment/created_at".into(),
                scope: webhook::Scope::Always(event::Scope::Group),
            },
        ),
        "webhook-pointers" => webhook(
            Scheme::Bearer,
            Mapping {
                sender: "/events/0/m~0/from~1".into(),
                chat: "/events/0/room/id".into(),
                text: "/events/0/body".into(),
                scope: webhook::Scope::At("/events/0/room/kind".into()),
                ..Mapping::plain()
            },
        ),
        other => panic!("tests/data/{other}: add the settings of this platform to tests/golden.rs"),
    }
}

/// Decodes a body as the shell does.
fn decode(
    platform: &Platform,
    kind: &str,
    body: &[u8],
    json: &mut Json,
    sink: &mut dyn FnMut(Inbound<'_>),
) -> Result<Ack, Bad> {
    let head = format!("POST /webhooks/x HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\n{SIGNED}\r\n");
    let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
    let head = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
    let request = Request {
        method: "POST",
        path_rest: "",
        query: "",
        headers: &head.headers,
        unix_seconds: 1_710_000_000,
    };
    platform.adapter().decode(&request, &mut body.to_vec(), json, CHANNEL, sink)
}

fn line_of(inbound: &Inbound<'_>) -> Value {
    assert_eq!(inbound.channel, CHANNEL);
    json!({
        "id": inbound.id, "chat": inbound.chat, "thread": inbound.thread, "peer": inbound.peer,
        "name": inbound.name, "text": inbound.text, "sent_millis": inbound.sent_millis,
        "kind": format!("{:?}", inbound.kind), "scope": format!("{:?}", inbound.scope),
        "mentioned": inbound.mentioned, "mode": format!("{:?}", inbound.mode),
    })
}

fn refusal(bad: &Bad) -> Value {
    json!({"refused": bad.code.name(), "text": bad.text})
}

/// What a file's ending says of its content.
fn kind_of(path: &Path) -> &'static str {
    if path.extension().is_some_and(|extension| extension == "form") {
        "application/x-www-form-urlencoded"
    } else {
        "application/json"
    }
}

fn run_in(platform: &Platform, kind: &str, body: &[u8]) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut json = Json::new(JsonLimits::TEST);
    let ack = decode(platform, kind, body, &mut json, &mut |inbound| lines.push(line_of(&inbound)));
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
    lines.push(match ack {
        Ok(Ack::Now(body)) => json!({"ack": "now", "body": text(&body)}),
        Ok(Ack::AfterDurable(body)) => json!({"ack": "after durable", "body": text(&body)}),
        Ok(Ack::InResponse) => json!({"ack": "in response"}),
        Err(bad) => refusal(&bad),
    });
    lines
}

fn run_reply(platform: &Platform, case: &Value) -> Vec<Value> {
    let text = |key: &str| case[key].as_str().unwrap();
    let to = Destination {
        chat: text("chat"),
        thread: text("thread"),
        peer: text("peer"),
        idempotency_key: u128::from_str_radix(text("key"), 16).unwrap(),
        edits: case["edits"].as_str().unwrap_or_default(),
    };
    let part = u16::try_from(case["part"].as_u64().unwrap()).unwrap();
    let mut body = b"left over".to_vec();
    let seconds = case["unix_seconds"].as_u64().unwrap();
    match platform.encode(&to, text("text"), part, seconds, &mut body) {
        Err(bad) => vec![refusal(&bad)],
        Ok(request) => {
            let sent = serde_json::from_slice::<Value>(&body).unwrap();
            let sent = sent["text"].as_str().or(sent["text"]["body"].as_str()).unwrap();
            // Slack's texts have entities.
            let read = sent.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            assert!([sent, &read].contains(&text("text")));
            let headers: serde_json::Map<_, _> = request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
                .collect();
            let (method, uri) = (request.method().as_str(), request.uri().to_string());
            vec![
                json!({"method": method, "uri": uri, "headers": headers}),
                json!(String::from_utf8(body).unwrap()),
            ]
        }
    }
}

fn run_answer(platform: &Platform, case: &Value) -> Vec<Value> {
    let (mut json, mut detail) = (Json::new(JsonLimits::TEST), String::from("left over"));
    let mut body = case["body"].as_str().unwrap().as_bytes().to_vec();
    let status = u16::try_from(case["status"].as_u64().unwrap()).unwrap();
    let delivery =
        platform.delivered(status, case["retry_after"].as_str(), &mut body, &mut json, &mut detail);
    vec![match delivery {
        Delivery::Confirmed { .. } => json!("confirmed"),
        Delivery::Retry { after, detail } => json!({"retry_after_secs": after.as_secs(), "detail": detail}),
        Delivery::Refused { detail } => json!({"refused": detail}),
    }]
}

/// Every file of every platform: its folder, its path, its bytes.
fn inputs() -> Vec<(String, PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut found = Vec::new();
    for folder in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "json" || extension == "form") {
                let bytes = std::fs::read(&path).unwrap();
                found.push((name.clone(), path, bytes));
            }
        }
    }
    found.sort();
    found
}

fn stem(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

fn check(folder: &str, path: &Path, bytes: &[u8]) -> Result<(), String> {
    let platform = platform(folder);
    let case = || serde_json::from_slice(bytes).unwrap();
    let lines = match stem(path).split_once('-').unwrap().0 {
        "in" => run_in(&platform, kind_of(path), bytes),
        "reply" => run_reply(&platform, &case()),
        "answer" => run_answer(&platform, &case()),
        other => panic!("{}: {other} is neither in, reply nor answer", path.display()),
    };
    let actual: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let expected = path.with_extension("expected");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&expected, &actual).unwrap();
    }
    let expected = std::fs::read_to_string(&expected).unwrap_or_default();
    if actual == expected {
        Ok(())
    } else {
        Err(format!("{}\n expected: {expected}\n actual:   {actual}", path.display()))
    }
}

#[test]
fn every_file_gives_what_is_written_beside_it() {
    let inputs = inputs();
    assert!(60 < inputs.len(), "tests/data is not there");
    let wrong: Vec<_> =
        inputs.iter().filter_map(|(folder, path, bytes)| check(folder, path, bytes).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// xorshift64*: the same bytes on every run.
struct Bytes(u64);

impl Bytes {
    fn next(&mut self) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
    }
}

/// A damaged body is refused or read; what is read is well-formed, and JSON for us is JSON for an independent parser.
fn survive(platform: &Platform, kind: &str, json: &mut Json, body: &[u8]) -> bool {
    let read = decode(platform, kind, body, json, &mut |inbound| {
        assert!(!inbound.peer.is_empty(), "{}", String::from_utf8_lossy(body));
        let texts = [inbound.id, inbound.chat, inbound.thread, inbound.peer, inbound.name, inbound.text];
        assert!(texts.iter().all(|text| core::str::from_utf8(text.as_bytes()).is_ok()));
    });
    if kind != "application/json" {
        return read.is_ok();
    }
    let is_json = !read.as_ref().is_err_and(|bad| bad.code == Code::BadJson);
    let independent = serde_json::from_slice::<Value>(body);
    assert_eq!(is_json, independent.is_ok(), "{independent:?}: {}", String::from_utf8_lossy(body));
    read.is_ok()
}

#[test]
fn every_prefix_and_every_damaged_byte_of_every_input() {
    let (mut json, mut random, mut read) = (Json::new(JsonLimits::TEST), Bytes(0x00C1_A6A7_E5EE_D001), 0_u32);
    for (folder, path, bytes) in inputs().iter().filter(|(_, path, _)| stem(path).starts_with("in-")) {
        let (platform, kind) = (platform(folder), kind_of(path));
        for end in 0..bytes.len() {
            survive(&platform, kind, &mut json, &bytes[..end]);
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            // What JSON is made of, every bit of the byte itself, and anything.
            let kinds = *b"\"\\{}[],:0-e \n\0";
            let flips = [0, 1, 2, 3, 4, 5, 6, 7].map(|bit| bytes[at] ^ (1 << bit));
            let others = [random.next(), random.next(), random.next()];
            for byte in kinds.into_iter().chain(flips).chain(others) {
                damaged[at] = byte;
                read += u32::from(survive(&platform, kind, &mut json, &damaged));
            }
        }
    }
    assert!(10_000 < read, "damage that leaves JSON must be tried too: {read}");
}

#[test]
fn every_prefix_and_every_damaged_byte_of_every_answer() {
    let (mut json, mut random, mut retried) = (Json::new(JsonLimits::TEST), Bytes(0x00C1_A6A7_E5EE_D002), 0);
    for (folder, _, bytes) in inputs().iter().filter(|(_, path, _)| stem(path).starts_with("answer-")) {
        let platform = platform(folder);
        let case: Value = serde_json::from_slice(bytes).unwrap();
        let body = case["body"].as_str().unwrap().as_bytes();
        for at in 0..body.len() {
            let mut damaged = body.to_vec();
            damaged[at] = random.next();
            for bytes in [&body[..at], &damaged] {
                let mut detail = String::new();
                let delivery = platform.delivered(502, None, &mut bytes.to_vec(), &mut json, &mut detail);
                retried += u32::from(matches!(delivery, Delivery::Retry { .. }));
                assert!(detail.len() <= 512 && !detail.contains(char::is_control));
            }
        }
    }
    assert!(100 < retried);
}
