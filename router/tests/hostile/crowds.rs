//! Crowds: thousands of connections that say half a thing, clients that never read, clients that come and go. Others go
//! on, and what was taken is given back.
use crate::peers::gateway::Gateway;
use crate::peers::http::Client;
use crate::peers::socket::{frame, upgrade_raw};
use crate::peers::{CANARY, ask_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Raises our descriptor limit, which the gateway inherits, as far as the system lets us; returns it.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // If it must not be raised, fewer connections are opened.
    let _ = setrlimit(Resource::Nofile, raised);
    let now = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(now).unwrap()
}

fn open_descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count()
}

/// Says that it is over, also when a test fails in between.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Chats over a WebSocket and over HTTP while `others` do what they do; every answer must be right.
fn chat_beside(gateway: &Gateway, others: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let chatting = scope.spawn(|| {
            let mut socket = gateway.socket();
            let mut client = gateway.connect();
            let mut rounds = 0;
            while !over.load(Ordering::Acquire) {
                let text = format!("{CANARY} {rounds}");
                assert_eq!(socket.ask(&format!("s{}", rounds % 7), &text).text(), text);
                client.post("/api/chat", &[], &json!({ "message": text }));
                assert_eq!(client.answer().json()["data"]["message"], text);
                rounds += 1;
            }
            rounds
        });
        let until = Until(&over);
        others();
        drop(until);
        chatting.join().unwrap()
    });
    assert!(10 < rounds, "{rounds} rounds of chat");
}

/// Ten thousand connections that send half a head (or as many as the system lets us open): each is given up in time, and
/// told why; nobody else notices.
#[test]
fn ten_thousand_half_heads() {
    // The gateway keeps `limits.descriptorsReserved` to itself.
    let count = 10_000.min(descriptors().saturating_sub(1_000));
    let gateway = Gateway::start(json!({
        "limits": { "connectionsMax": 20_000, "connectionsPerAddressMax": 0, "headSeconds": 25 },
        "logging": { "level": "info" },
    }));
    let (fds, memory) = (open_descriptors(&gateway), gateway.resident_bytes());
    chat_beside(&gateway, || {
        let half: Vec<TcpStream> = (0..count)
            .map(|_| {
                let mut tcp = TcpStream::connect(gateway.address).unwrap();
                tcp.write_all(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Ty").unwrap();
                tcp
            })
            .collect();
        let held = gateway.status()["connections"].as_u64().unwrap();
        assert!(count as u64 <= held, "{held} are held at once");
        let each = gateway.resident_bytes().saturating_sub(memory) / count as u64;
        assert!(each < 6_000, "{each} bytes each");
        for tcp in half {
            let mut client = Client::over(Box::new(tcp.try_clone().unwrap()), tcp, "localhost");
            assert_eq!(client.answer().refusal(), (408, "HEAD_TIMEOUT".to_owned()));
            client.assert_closed();
        }
        assert_eq!(gateway.metric("clawgate_refused_total", "HEAD_TIMEOUT"), count as u64);
    });
    ask_until("the descriptors are given back", || (open_descriptors(&gateway) <= fds + 4).then_some(()));
    gateway.await_status("connections", 1);
    gateway.assert_well();
}

/// A client that sends and never reads: held up, then dropped by what it is owed or by its time; memory stays flat.
#[test]
fn clients_that_never_read_are_dropped() {
    let gateway = Gateway::start(json!({
        "limits": {
            "outboxHighBytes": 65_536, "outboxBytesMax": 262_144, "slowClientSeconds": 2,
            "textBytesMax": 60_000, "replyBytesMax": 60_000,
        },
        "agents": { "main": { "models": ["echo"], "history": false } },
        "logging": { "level": "info" },
    }));
    for wave in 1..=3 {
        chat_beside(&gateway, || never_read(&gateway, 3 * wave));
        gateway.await_status("connections", 1);
        gateway.await_status("running", 0);
        // Without bounds the outboxes alone would take gigabytes: all that fits through a socket until it is given up.
        let held = gateway.resident_bytes();
        assert!(held < 128 << 20, "{held} bytes are held after wave {wave}");
    }
    gateway.assert_well();
}

/// Three clients that never read, until `given_up` have been given up.
fn never_read(gateway: &Gateway, given_up: u64) {
    // A WebSocket that asks for long answers.
    let mut greedy = gateway.socket();
    let long = json!({ "type": "message", "content": "x".repeat(50_000), "sessionId": "greedy" }).to_string();
    while greedy.try_send(tungstenite::Message::text(long.clone())) {}
    // HTTP, pipelined.
    let mut piping = gateway.connect();
    let many = "GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    while piping.try_send(&many) {}
    // A listener that hears all that is said beside it.
    let mut listener = gateway.connect();
    upgrade_raw(&mut listener);
    listener.send(frame(0x81, br#"{"type":"subscribe","events":["message","status"]}"#));
    let mut loud = gateway.socket();
    let text = "y".repeat(50_000);
    ask_until("three are given up", || {
        assert_eq!(loud.ask("loud", &text).text().len(), text.len());
        (given_up <= gateway.metric("clawgate_slow_consumers_total", "")).then_some(())
    });
}

/// Clients that come and go in every way leave nothing behind.
#[test]
fn who_leaves_leaves_nothing_behind() {
    let endless = json!({ "text": "canary ", "afterMillis": 5, "times": 100_000 });
    let gateway = Gateway::start(json!({
        "models": { "demo": { "provider": "scripted", "script": [endless] } },
        "agents": { "main": { "models": ["demo"] } },
        "logging": { "level": "info" },
    }));
    let fds = open_descriptors(&gateway);
    for round in 0..200 {
        let mut client = gateway.connect();
        match round % 5 {
            // Silent; with a reset; in a stream; in a WebSocket, with a reset; in the middle of a body.
            0 => {}
            1 => {
                client.send("GET /hea");
                reset(&client);
            }
            2 => {
                client.post("/api/chat", &[], &json!({ "message": CANARY, "stream": true }));
                assert_eq!(client.head().status, 200);
                assert!(client.piece().is_some());
            }
            3 => {
                upgrade_raw(&mut client);
                let message =
                    json!({ "type": "message", "content": CANARY, "sessionId": format!("s{round}") });
                client.send(frame(0x81, message.to_string().as_bytes()));
                reset(&client);
            }
            _ => client.send(
                "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"message\":",
            ),
        }
        drop(client);
    }
    gateway.await_status("connections", 1);
    gateway.await_status("running", 0);
    ask_until("the descriptors are given back", || (open_descriptors(&gateway) <= fds + 4).then_some(()));
    gateway.assert_well();
}

/// The connection ends with a reset when it is dropped.
fn reset(client: &Client) {
    rustix::net::sockopt::set_socket_linger(client.tcp(), Some(std::time::Duration::ZERO)).unwrap();
}

/// A head that comes a byte at a time is a head like any other; one that comes for ever has its time.
#[test]
fn a_dripping_head_has_its_time() {
    let gateway = Gateway::start(json!({ "limits": { "headSeconds": 0.5 } }));
    let mut client = gateway.connect();
    for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.answer().status, 200);
    let mut endless = gateway.connect();
    endless.send("GET /health HTTP/1.1\r\nHost: localhost\r\n");
    let mut drops = 0;
    while endless.tcp().write(b"X: y\r\n").is_ok() && drops < 10_000 {
        drops += 1;
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    let told = endless.try_answer();
    assert!(told.is_none_or(|answer| answer.status == 408 || answer.status == 431));
    assert!(drops < 1_000, "it dripped {drops} times");
    assert!(gateway.metric("clawgate_refused_total", "") >= 1);
}
