//! Agents that live elsewhere (row E2): HTTP endpoints, which are told of turns by signed posts, and workers, which connect
//! and are given turns. Whatever dies, nothing is lost and nothing is answered twice.
use super::durable::Data;
use crate::peers::ask_until;
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, merge, new_folder};
use crate::peers::model::Model;
use crate::peers::server::{After, Asked};
use crate::peers::socket::{Heard, Socket};
use crate::peers::telegram::{SECRET, Telegram, private};
use base64::Engine as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const AGENT_SECRET: &str = "canary-secret-of-the-agent";
const WORKER: &str = "canary-key-of-a-worker";
const ANA: &str = "canary-key-of-ana-12";

/// A gateway with an HTTP agent at this server.
fn with_endpoint(server: &Model, more: Value) -> Gateway {
    let mut config = json!({
        "agents": { "main": {
            "type": "http", "attemptsMax": 2, "system": "Be a canary.",
            "endpoint": {
                "url": format!("http://{}/turns?x=1", server.server.address), "secret": AGENT_SECRET,
                "breaker": { "callsMin": 1_000 },
            },
        } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

fn begin(gateway: &Gateway, session: &str) -> Events {
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true, "sessionId": session }));
    Events::begin(client)
}

/// The signature that Standard Webhooks wants of this request.
fn signed(asked: &Asked) -> String {
    let mut keyed = Hmac::<Sha256>::new_from_slice(AGENT_SECRET.as_bytes()).unwrap();
    let (id, time) = (asked.header("webhook-id").unwrap(), asked.header("webhook-timestamp").unwrap());
    keyed.update(format!("{id}.{time}.").as_bytes());
    keyed.update(&asked.bytes);
    format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(keyed.finalize().into_bytes()))
}

#[test]
fn an_endpoint_is_told_and_its_stream_is_shown() {
    let server = Model::start(|asked, speech| {
        if asked.number == 1 {
            let usage = json!({ "promptTokens": 9, "completionTokens": 2 });
            speech.line.answer(200, &[], &json!({ "text": "Whole.", "usage": usage }).to_string());
            return After::Keep;
        }
        speech.begin();
        for text in ["A ", "canary ", "sings."] {
            speech.raw(format!("event: delta\ndata: {}\n\n", json!({ "text": text })));
        }
        speech.raw("event: done\ndata: {\"usage\":{\"promptTokens\":15,\"completionTokens\":12}}\n\n");
        speech.line.send("0\r\n\r\n");
        After::Keep
    });
    let gateway = with_endpoint(&server, json!({}));
    let mut socket = gateway.socket();
    let reply = socket.ask("s", "Sing, canary");
    assert_eq!(reply.chunks, ["A ", "canary ", "sings."]);
    let usage = json!({ "promptTokens": 15, "completionTokens": 12, "totalTokens": 27 });
    assert_eq!((&reply.end["usage"], &reply.end["model"]), (&usage, &json!("agent:main")));
    gateway.post("/api/sessions/s", &json!({ "action": "set", "name": "city", "value": "canary town" }));
    assert_eq!(socket.ask("s", "Again").text(), "Whole.");
    // A client of OpenAI's brings its whole conversation, and the agent is told all of it.
    let door = json!({ "model": "main", "messages": [{ "role": "user", "content": "Hello" }], "seed": 7 });
    let answer = gateway.post("/v1/chat/completions", &door).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "A canary sings.");
    assert_eq!(answer["usage"]["total_tokens"], 27);
    let asked: Vec<Asked> = server.seen.with(|seen| seen.asked.clone());
    for request in &asked {
        assert_eq!(request.target, "/turns?x=1");
        assert_eq!(request.header("webhook-signature"), Some(signed(request).as_str()));
        assert_eq!(request.header("idempotency-key"), request.header("webhook-id"));
        assert_eq!(request.header("webhook-id"), request.json()["id"].as_str());
    }
    let ids: BTreeSet<_> =
        asked.iter().map(|request| request.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 3);
    let first = asked[0].json();
    let told = |body: &Value, key: &str| body[key].as_str().unwrap().to_owned();
    assert_eq!((told(&first, "session"), told(&first, "agent")), ("api:local:s".into(), "main".into()));
    assert_eq!(
        (told(&first, "system"), told(&first, "text")),
        ("Be a canary.".into(), "Sing, canary".into())
    );
    let second = asked[1].json();
    assert_eq!(second["context"], json!({ "city": "canary town" }));
    let said =
        json!([{ "role": "user", "text": "Sing, canary" }, { "role": "agent", "text": "A canary sings." }]);
    assert_eq!(second["history"], said);
    let third = asked[2].json();
    assert_eq!(
        (&third["format"], &third["text"], &third["request"]),
        (&json!("openai"), &json!("Hello"), &door)
    );
}

/// Each way in which an endpoint fails has its code; what may be tried again is, under the same id.
#[test]
fn an_endpoint_that_fails() {
    let way = Arc::new(AtomicU32::new(0));
    let wanted = way.clone();
    let server = Model::start(move |_, speech| {
        match wanted.load(Ordering::SeqCst) {
            0 => return speech.error(500, &[], "broken", "the canary is ill"),
            1 => return speech.error(400, &[], "wrong", "canary-secret-of-the-agent is no secret"),
            2 => {
                speech.begin();
                speech.raw("event: delta\ndata: {\"text\":\"Hel\"}\n\n");
                return After::Close;
            }
            3 => {
                speech.begin();
                speech.raw("event: error\ndata: {\"message\":\"no such customer\"}\n\n");
            }
            4 => {
                speech.begin();
                speech.raw("data: nonsense\n\n");
            }
            _ => {
                speech.line.answer(200, &[], "");
                return After::Keep;
            }
        }
        speech.line.send("0\r\n\r\n");
        After::Keep
    });
    let gateway = with_endpoint(&server, json!({}));
    let expected = [
        ("UPSTREAM_FAILED", "the canary is ill", 2),
        ("UPSTREAM_FAILED", "… is no secret", 1),
        ("UPSTREAM_TRUNCATED", "", 1),
        ("UPSTREAM_FAILED", "no such customer", 1),
        ("UPSTREAM_MALFORMED", "", 2),
        ("UPSTREAM_TRUNCATED", "", 2),
    ];
    let mut asked = 0;
    for (number, (code, words, attempts)) in (0..).zip(expected) {
        way.store(number, Ordering::SeqCst);
        let (_, end) = begin(&gateway, "s").finish();
        assert_eq!(end["code"], code, "way {number}: {end}");
        assert!(end["message"].as_str().unwrap().contains(words), "way {number}: {end}");
        let all = server.bodies();
        assert_eq!(all.len() - asked, attempts, "way {number}");
        assert!(all[asked..].iter().all(|body| body["id"] == all[asked]["id"]));
        let numbers: Vec<_> = all[asked..].iter().map(|body| body["attempt"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=attempts as u64).collect::<Vec<_>>());
        asked = all.len();
    }
    gateway.assert_well();
}

/// A gateway whose agent has workers.
fn with_workers(more: Value) -> Gateway {
    let mut config = json!({
        "keys": [
            { "id": "ana", "key": ANA, "scopes": ["chat", "read"] },
            { "id": "worker", "key": WORKER, "scopes": ["agent"] },
        ],
        "agents": { "main": { "type": "worker" } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

fn connect(gateway: &Gateway) -> Socket {
    let bearer = format!("Bearer {WORKER}");
    Socket::open(gateway.address, "/ws/agent", &[("authorization", &bearer)]).unwrap()
}

fn worker(gateway: &Gateway, capacity: u32) -> Socket {
    let mut socket = connect(gateway);
    socket.say(json!({ "type": "register", "agents": ["main"], "capacity": capacity }));
    let registered = socket.next();
    assert_eq!((&registered["type"], &registered["capacity"]), (&json!("registered"), &json!(capacity)));
    socket
}

fn client(gateway: &Gateway) -> Socket {
    let mut socket = gateway.socket();
    socket.authenticate(ANA);
    socket
}

fn say(socket: &mut Socket, session: &str, stream: bool) {
    socket.say(json!({
        "type": "message", "content": "canary", "sessionId": session, "id": session, "stream": stream,
    }));
}

fn delta(socket: &mut Socket, turn: &Value, text: &str) {
    socket.say(json!({ "type": "delta", "call": turn["call"], "text": text }));
}

fn done(socket: &mut Socket, turn: &Value, text: &str) {
    let usage = json!({ "promptTokens": 3, "completionTokens": 2 });
    socket.say(json!({ "type": "done", "call": turn["call"], "text": text, "usage": usage }));
}

#[test]
fn a_worker_gets_turns_and_its_pieces_are_shown() {
    let gateway = with_workers(json!({}));
    let mut working = worker(&gateway, 2);
    let mut asking = client(&gateway);
    for session in ["a", "b", "c"] {
        say(&mut asking, session, true);
    }
    let (first, second) = (working.next(), working.next());
    assert_eq!(
        (&first["type"], &first["text"], &first["attempt"]),
        (&json!("turn"), &json!("canary"), &json!(1))
    );
    assert_ne!(first["id"], second["id"]);
    delta(&mut working, &first, "A ");
    delta(&mut working, &first, "canary");
    done(&mut working, &first, ".");
    let session = first["session"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let reply = asking.reply(&session, &session);
    assert_eq!(reply.chunks, ["A ", "canary", "."]);
    assert_eq!(reply.end["usage"], json!({ "promptTokens": 3, "completionTokens": 2, "totalTokens": 5 }));
    // There is room for the third now, and not before.
    let third = working.next();
    assert_eq!(third["type"], "turn");
    // Whose client leaves is cancelled, and nobody else.
    drop(asking);
    let cancelled: BTreeSet<String> = (0..2)
        .map(|_| working.next())
        .inspect(|message| assert_eq!(message["type"], "cancel"))
        .map(call_of)
        .collect();
    assert_eq!(cancelled, [call_of(second.clone()), call_of(third)].into());
    // What is said of them comes too late, and is no fault.
    delta(&mut working, &second, "late");
    let mut asking = client(&gateway);
    say(&mut asking, "d", false);
    let turn = working.next();
    assert_eq!(turn["type"], "turn");
    done(&mut working, &turn, "whole");
    let whole = asking.next();
    assert_eq!((&whole["type"], &whole["content"]), (&json!("message"), &json!("whole")));
    assert_eq!(asking.next()["type"], "done");
    let bearer = format!("Bearer {ANA}");
    let health = gateway.call("GET", "/health/detailed", &[("authorization", &bearer)], b"").json();
    assert_eq!((&health["workers"][0]["capacity"], &health["workers"][0]["running"]), (&json!(2), &json!(0)));
    gateway.assert_well();
}

fn call_of(message: Value) -> String {
    message["call"].as_str().unwrap().to_owned()
}

/// A worker dies: of what nothing was shown another takes over at once; what was shown in part ends in a coded error.
#[test]
fn what_a_dead_worker_had_goes_to_another() {
    let gateway = with_workers(json!({}));
    let mut dying = worker(&gateway, 4);
    let mut asking = client(&gateway);
    say(&mut asking, "shown", true);
    let shown = dying.next();
    delta(&mut dying, &shown, "Half ");
    assert_eq!(asking.next()["content"], "Half ");
    say(&mut asking, "silent", true);
    let silent = dying.next();
    // Said, but to a client that wants its answer whole: nothing was shown.
    say(&mut asking, "whole", false);
    let whole = dying.next();
    delta(&mut dying, &whole, "Half ");
    let mut other = worker(&gateway, 4);
    dying.tcp().shutdown(std::net::Shutdown::Both).unwrap();
    let again: BTreeMap<String, Value> =
        (0..2).map(|_| other.next()).map(|turn| (turn["id"].as_str().unwrap().to_owned(), turn)).collect();
    let ids: BTreeSet<_> = [&silent, &whole].map(|turn| turn["id"].as_str().unwrap().to_owned()).into();
    assert_eq!(again.keys().cloned().collect::<BTreeSet<_>>(), ids, "under the same id");
    assert!(again.values().all(|turn| turn["attempt"] == 2));
    assert_eq!(asking.reply("shown", "shown").end["code"], "UPSTREAM_TRUNCATED");
    for turn in again.values() {
        done(&mut other, turn, "Whole.");
    }
    let mut heard: Vec<(String, String)> = (0..4)
        .map(|_| asking.next())
        .map(|message| {
            let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
            (text("id"), format!("{} {}", text("type"), text("content")))
        })
        .collect();
    heard.sort();
    let pair = |id: &str, said: &str| (id.to_owned(), said.to_owned());
    let expected = [
        pair("silent", "chunk Whole."),
        pair("silent", "done "),
        pair("whole", "done "),
        pair("whole", "message Whole."),
    ];
    assert_eq!(heard, expected);
}

/// Without a worker turns wait, as many as may and as long as may; then they fail in words. One that comes serves them.
#[test]
fn turns_wait_for_a_worker() {
    let gateway = with_workers(json!({
        "agents": { "main": { "waitingMax": 2, "worker": { "waitSeconds": 60 } } },
    }));
    let mut asking = client(&gateway);
    say(&mut asking, "a", true);
    say(&mut asking, "b", true);
    let bearer = format!("Bearer {ANA}");
    ask_until("two wait", || {
        let text = gateway.call("GET", "/metrics", &[("authorization", &bearer)], b"").text();
        text.contains("clawgate_worker_turns_waiting{} 2\n").then_some(())
    });
    say(&mut asking, "c", true);
    let refused = asking.reply("c", "c").end;
    assert_eq!(refused["code"], "AGENT_BUSY", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("no worker"), "{refused}");
    let mut working = worker(&gateway, 8);
    for _ in 0..2 {
        let turn = working.next();
        done(&mut working, &turn, "served");
    }
    // They are turns of two sessions, on one core or two: either may be first.
    let mut served = Vec::new();
    while served.len() < 2 {
        let frame = asking.next();
        match frame["type"].as_str() {
            Some("chunk") => assert_eq!(frame["content"], "served", "{frame}"),
            Some("done") => served.push(frame["id"].as_str().unwrap().to_owned()),
            _ => panic!("{frame}"),
        }
    }
    served.sort();
    assert_eq!(served, ["a", "b"]);
    let gateway = with_workers(json!({ "agents": { "main": { "worker": { "waitSeconds": 0.2 } } } }));
    let mut asking = client(&gateway);
    say(&mut asking, "d", true);
    let late = asking.reply("d", "d").end;
    assert_eq!(late["code"], "AGENT_BUSY", "{late}");
}

/// The model that an agent names is asked where it has no worker.
#[test]
fn a_model_stands_in_for_workers() {
    let gateway = with_workers(json!({
        "models": { "copy": { "provider": "echo" } },
        "agents": { "main": { "models": ["copy"], "waitingMax": 0 } },
    }));
    let mut asking = client(&gateway);
    say(&mut asking, "a", true);
    let reply = asking.reply("a", "a");
    assert_eq!((reply.text(), &reply.end["model"]), ("canary".to_owned(), &json!("copy")));
}

#[test]
fn a_worker_that_makes_no_sense() {
    let gateway = with_workers(json!({ "limits": { "workersMax": 2, "workerTurnsMax": 3 } }));
    // Without the scope, and without a key.
    let bearer = format!("Bearer {ANA}");
    let mut wrong = Socket::open(gateway.address, "/ws/agent", &[("authorization", &bearer)]).unwrap();
    wrong.say(json!({ "type": "register", "agents": ["main"] }));
    assert_eq!(wrong.next()["code"], "FORBIDDEN");
    assert!(wrong.closed().is_some());
    let mut nobody = Socket::open(gateway.address, "/ws/agent", &[]).unwrap();
    nobody.say(json!({ "type": "register", "agents": ["main"] }));
    assert_eq!(nobody.next()["code"], "UNAUTHENTICATED");
    let mut socket = connect(&gateway);
    let mut refused = |message: Value, code: &str| {
        socket.say(message.clone());
        assert_eq!(socket.next()["code"], code, "{message}");
    };
    refused(json!({ "type": "shout" }), "BAD_REQUEST");
    refused(json!({ "type": "register", "agents": ["nobody"] }), "NOT_FOUND");
    refused(json!({ "type": "register", "agents": [] }), "BAD_REQUEST");
    refused(json!({ "type": "delta", "call": "call_0000000000000001", "text": "x" }), "NOT_FOUND");
    refused(json!({ "type": "done", "call": "nonsense" }), "NOT_FOUND");
    socket.say(json!({ "type": "register", "agents": ["main", "main"], "capacity": 4_000_000 }));
    assert_eq!(socket.next()["capacity"], 3);
    let mut asking = client(&gateway);
    say(&mut asking, "a", true);
    let turn = socket.next();
    socket.say(json!({ "type": "delta", "call": turn["call"], "text": "" }));
    assert_eq!(socket.next()["code"], "MISSING_FIELD");
    socket.say(json!({ "type": "error", "call": turn["call"], "message": "I am only a canary" }));
    let end = asking.reply("a", "a").end;
    assert_eq!((&end["code"], &end["message"]), (&json!("UPSTREAM_FAILED"), &json!("I am only a canary")));
    let _second = worker(&gateway, 1);
    let mut third = connect(&gateway);
    third.say(json!({ "type": "register", "agents": ["main"] }));
    assert_eq!(third.next()["code"], "TOO_MANY_CONNECTIONS");
    // At the sixteenth it is enough.
    for _ in 0..10 {
        socket.say(json!({ "type": "done", "call": "nonsense" }));
    }
    loop {
        match socket.hear() {
            Heard::Said(message) => assert_eq!(message["type"], "error"),
            Heard::Closed(code, _) => break assert_eq!(code, 4500),
            other @ (Heard::Ping | Heard::Pong(_) | Heard::Gone) => panic!("{other:?}"),
        }
    }
    gateway.assert_well();
}

/// A worker as the page for those who write one has it, in a process of its own.
struct Process(Child);

impl Process {
    /// `pause` is what it waits before each word.
    fn start(gateway: &Gateway, folder: &Path, pause: &str) -> Self {
        let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/clients");
        let install = Command::new(clients).arg("install").output().unwrap();
        assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
        let page = include_str!("../../docs/agents.md");
        let script = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
        let word = "        await socket.send(json.dumps({\"type\": \"delta\"";
        assert!(script.contains(word));
        let script = script.replace("\"support\"", "\"main\"");
        let script = script.replace(word, &format!("        await asyncio.sleep({pause})\n{word}"));
        let file = folder.join("worker.py");
        std::fs::write(&file, script).unwrap();
        let mut command = Command::new(clients);
        command.arg("worker").arg(file).arg(format!("ws://{}/ws/agent", gateway.address)).arg(WORKER);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: as a machine dies.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn await_workers(gateway: &Gateway, count: usize) {
    let bearer = format!("Bearer {ANA}");
    ask_until("the workers are there", || {
        let health = gateway.call("GET", "/health/detailed", &[("authorization", &bearer)], b"").json();
        (health["workers"].as_array().unwrap().len() == count).then_some(())
    });
}

/// Workers are killed while they answer: of sixty messages of a platform each is answered once, and each of sixty that
/// clients stream has one end; what was shown in part says so.
#[test]
fn workers_killed_in_mid_load_lose_nothing() {
    const MESSAGES: u64 = 60;
    let (telegram, data) = (Telegram::start(), Data(new_folder()));
    let gateway = with_workers(json!({
        "data": { "folder": data.0 },
        "agents": { "main": { "attemptsMax": 10, "failureText": "canary failed" } },
        "channels": { "telegram": telegram.config(json!({})) },
        "limits": { "sessionWaitingMax": 100 },
    }));
    let first = Process::start(&gateway, &data.0, "0.02");
    let second = Process::start(&gateway, &data.0, "0.02");
    await_workers(&gateway, 2);
    let mut asking = client(&gateway);
    for number in 1..=MESSAGES {
        let body = private(number, i64::try_from(number).unwrap(), &format!("canary {number}")).to_string();
        let headers = [("x-telegram-bot-api-secret-token", SECRET)];
        assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, body.as_bytes()).status, 200);
        let session = format!("s{number}");
        asking.say(json!({
            "type": "message", "content": format!("one two three {number}"),
            "sessionId": session, "id": session,
        }));
    }
    // They die in turn, and others come in their place.
    let mut ends: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut workers = vec![first, second];
    while ends.len() < usize::try_from(MESSAGES).unwrap() {
        let message = asking.next();
        let id = message["id"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap() {
            "chunk" => *texts.entry(id).or_default() += message["content"].as_str().unwrap(),
            kind => {
                let code = message["code"].as_str().unwrap_or_default().to_owned();
                assert!(ends.insert(id, (kind.to_owned(), code)).is_none(), "two ends: {message}");
                if matches!(ends.len(), 5 | 15 | 25) {
                    drop(workers.remove(0));
                    workers.push(Process::start(&gateway, &data.0, "0.02"));
                }
            }
        }
    }
    for (id, (kind, code)) in &ends {
        let whole = format!("one two three {} ", id.trim_start_matches('s'));
        let text = texts.get(id).cloned().unwrap_or_default();
        match kind.as_str() {
            "done" => assert_eq!(text, whole),
            _ => assert!(
                code == "UPSTREAM_TRUNCATED" && !text.is_empty() && whole.starts_with(&text),
                "{id}: {code} after {text:?}"
            ),
        }
    }
    let posts = telegram.await_posts(usize::try_from(MESSAGES).unwrap());
    let said: BTreeMap<i64, String> = posts.iter().map(|post| (post.chat, post.text.clone())).collect();
    for number in 1..=i64::try_from(MESSAGES).unwrap() {
        assert_eq!(said[&number].trim(), format!("canary {number}"));
    }
    let bearer = format!("Bearer {ANA}");
    ask_until("all is settled", || {
        let status = gateway.call("GET", "/api/status", &[("authorization", &bearer)], b"").json();
        (status["data"]["running"] == 0 && status["data"]["waiting"] == 0).then_some(())
    });
    assert_eq!(telegram.posts().len(), posts.len(), "nobody was answered twice");
}
