//! WebSocket frames and messages that break the protocol: RFC 6455's own close codes; what is only no message of ours is
//! answered, and the connection goes on.
use crate::peers::gateway::Gateway;
use crate::peers::http::Duplex;
use crate::peers::socket::{Heard, frame, read_frame, upgrade_raw};
use serde_json::{Value, json};
use tungstenite::Message;

/// Sends bytes on a fresh WebSocket: the close code that comes, and that nothing follows.
fn close_code(gateway: &Gateway, bytes: &[u8]) -> Option<u16> {
    let mut client = gateway.connect();
    upgrade_raw(&mut client);
    client.try_send(bytes);
    let (mut stream, _, rest) = client.into_stream();
    assert_eq!(rest, b"");
    let code = await_close(&mut stream);
    assert_eq!(read_frame(&mut stream), None, "nothing follows a close");
    code
}

fn await_close(stream: &mut Box<dyn Duplex>) -> Option<u16> {
    loop {
        match read_frame(stream) {
            None => return None,
            Some((0x88, payload)) => return Some(u16::from_be_bytes([payload[0], payload[1]])),
            Some(_) => {}
        }
    }
}

#[test]
fn frames_that_break_the_protocol_close_with_its_codes() {
    let gateway = Gateway::start(json!({
        "limits": { "frameBytesMax": 10_000, "frameBytesUnauthenticatedMax": 10_000, "textBytesMax": 10_000 },
    }));
    let mut other = gateway.socket();
    let start = |first: u8| frame(first, b"{\"type\":\"ping\"}");
    let table: Vec<(&str, Vec<u8>, u16)> = vec![
        ("not masked", vec![0x81, 2, b'{', b'}'], 1002),
        ("reserved bit 1", frame(0xC1, b"{}"), 1002),
        ("reserved bit 2", frame(0xA1, b"{}"), 1002),
        ("reserved bit 3", frame(0x91, b"{}"), 1002),
        ("reserved data opcode", frame(0x83, b"{}"), 1002),
        ("reserved control opcode", frame(0x8B, b""), 1002),
        ("a ping in fragments", frame(0x09, b""), 1002),
        ("a close in fragments", frame(0x08, b""), 1002),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"{}"), 1002),
        ("a message inside another", [frame(0x01, b"{"), frame(0x81, b"}")].concat(), 1002),
        ("half a close code", frame(0x88, &[3]), 1002),
        ("a close code that may not be sent", frame(0x88, &1005u16.to_be_bytes()), 1002),
        ("a close code of nobody", frame(0x88, &99u16.to_be_bytes()), 1002),
        ("a length with its top bit", [&[0x81, 0xFF, 0x80][..], &[0; 11]].concat(), 1002),
        ("a length that is longer than it needs", [&[0x81, 0xFE, 0, 1, 0, 0, 0, 0][..], b"x"].concat(), 1002),
        ("bytes that are no UTF-8", frame(0x81, b"{\"type\":\"\xff\"}"), 1007),
        ("a surrogate", frame(0x81, b"\xed\xa0\x80"), 1007),
        ("half a character", frame(0x81, b"\xf0\x9f\x98"), 1007),
        ("a reason that is no UTF-8", frame(0x88, &[&1000u16.to_be_bytes()[..], b"\xff"].concat()), 1007),
        ("no UTF-8 over two fragments", [frame(0x01, b"\xf0\x9f"), frame(0x80, b"\x28\x8c")].concat(), 1007),
        ("a long message", frame(0x81, &[b' '; 10_001]), 1009),
        ("an announced length of 2^62", [&[0x82, 0xFF, 0x40][..], &[0; 11]].concat(), 1009),
        ("fragments that add up", [frame(0x02, &[b' '; 6_000]), frame(0x80, &[b' '; 6_000])].concat(), 1009),
        ("an upper case of HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), 1002),
    ];
    for (what, bytes, code) in &table {
        assert_eq!(close_code(&gateway, bytes), Some(*code), "{what}");
        // What came before the violation is answered.
        let after = [start(0x81), bytes.clone()].concat();
        assert_eq!(close_code(&gateway, &after), Some(*code), "after a good message: {what}");
    }
    assert_eq!(other.ask("s", "canary").text(), "canary", "others are left alone");
    assert_eq!(gateway.metric("clawgate_refused_total", "BAD_FRAME"), 2 * table.len() as u64);
    gateway.await_status("connections", 2);
}

/// What is cut short waits; what never comes is given up like any silent peer.
#[test]
fn a_frame_that_does_not_end_is_only_waited_for() {
    let gateway = Gateway::start(json!({ "limits": { "heartbeatSeconds": 0.1, "missedHeartbeatsMax": 1 } }));
    let whole = frame(0x81, br#"{"type":"ping","id":"canary"}"#);
    for cut in 1..whole.len() {
        let mut client = gateway.connect();
        upgrade_raw(&mut client);
        client.send(&whole[..cut]);
        if cut % 8 != 0 {
            // Left in the middle.
            continue;
        }
        client.send(&whole[cut..]);
        let (mut stream, _, _) = client.into_stream();
        loop {
            match read_frame(&mut stream) {
                Some((0x89, _)) => {}
                answer => {
                    assert_eq!(answer, Some((0x81, br#"{"type":"pong","id":"canary"}"#.to_vec())));
                    break;
                }
            }
        }
    }
    gateway.await_status("connections", 1);
}

#[test]
fn messages_that_are_none_are_answered() {
    let gateway = Gateway::start(json!({
        "limits": { "jsonDepthMax": 64, "textBytesMax": 1_000 },
    }));
    let mut socket = gateway.socket();
    let deep = format!("{{\"type\":\"message\",\"content\":{}{}}}", "[".repeat(70), "]".repeat(70));
    let table: Vec<(String, &str)> = vec![
        (String::new(), "BAD_JSON"),
        ("canary".into(), "BAD_JSON"),
        ("{\"type\":\"ping\"".into(), "BAD_JSON"),
        ("{\"type\":\"ping\"}{\"type\":\"ping\"}".into(), "BAD_JSON"),
        ("null".into(), "MISSING_FIELD"),
        ("[{\"type\":\"ping\"}]".into(), "MISSING_FIELD"),
        ("{}".into(), "MISSING_FIELD"),
        ("{\"type\":5}".into(), "MISSING_FIELD"),
        ("{\"type\":\"\"}".into(), "UNKNOWN_TYPE"),
        ("{\"type\":\"PING\"}".into(), "UNKNOWN_TYPE"),
        ("{\"type\":\"resume\",\"seq\":5}".into(), "UNKNOWN_TYPE"),
        ("{\"type\":\"message\"}".into(), "MISSING_FIELD"),
        ("{\"type\":\"message\",\"content\":{}}".into(), "MISSING_FIELD"),
        ("{\"type\":\"message\",\"content\":\"\"}".into(), "TEXT_EMPTY"),
        ("{\"type\":\"message\",\"content\":\"x\",\"sessionId\":\"\\u0007\"}".into(), "INVALID_SESSION"),
        (
            format!("{{\"type\":\"message\",\"content\":\"x\",\"sessionId\":\"{}\"}}", "y".repeat(129)),
            "INVALID_SESSION",
        ),
        (format!("{{\"type\":\"message\",\"content\":\"{}\"}}", "y".repeat(1_001)), "TOO_LARGE"),
        (format!("{{\"type\":\"message\",\"content\":\"x\",\"id\":\"{}\"}}", "y".repeat(257)), "TOO_LARGE"),
        ("{\"type\":\"message\",\"content\":\"x\",\"channel\":\"telegram\"}".into(), "NOT_FOUND"),
        ("{\"type\":\"subscribe\",\"events\":[\"everything\"]}".into(), "UNKNOWN_TYPE"),
        ("{\"type\":\"subscribe\"}".into(), "MISSING_FIELD"),
        (deep, "BAD_JSON"),
    ];
    for (text, code) in &table {
        for message in [Message::text(text.clone()), Message::binary(text.clone().into_bytes())] {
            socket.send(message);
            let error = socket.next();
            assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{text}");
            assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        }
    }
    // Binary frames need not be UTF-8 for the protocol; for JSON they must.
    socket.send(Message::binary(b"{\"type\":\"\xff\"}".to_vec()));
    assert_eq!(socket.next()["code"], "BAD_JSON");
    assert_eq!(socket.ask("s", "canary").text(), "canary", "and it goes on");
    let refused: u64 = gateway.metric("clawgate_refused_total", "");
    assert_eq!(refused, 2 * table.len() as u64 + 1, "each was counted once");
    // `stop` of what does not run, and `unsubscribe` from what was never asked for, are no errors.
    socket.say(json!({ "type": "stop", "sessionId": "nothing" }));
    socket.say(json!({ "type": "unsubscribe", "events": ["message"] }));
    socket.say(json!({ "type": "ping" }));
    assert_eq!(socket.next(), json!({ "type": "pong" }));
}

/// Before it has authenticated a client may say little.
#[test]
fn strangers_may_say_little() {
    let gateway = Gateway::start(json!({
        "keys": [{ "id": "ana", "key": "canary-key-of-ana" }],
        "limits": { "frameBytesUnauthenticatedMax": 1_000, "frameBytesMax": 100_000 },
    }));
    assert_eq!(close_code(&gateway, &frame(0x81, &[b' '; 1_001])), Some(1009));
    let mut socket = gateway.socket();
    socket.authenticate("canary-key-of-ana");
    let long = "canary ".repeat(1_000);
    assert_eq!(socket.ask("s", &long).text(), long);
}

/// A thousand messages in one write to an agent that is full: each is answered exactly once, taken or refused.
#[test]
fn a_flood_of_messages_gets_as_many_answers() {
    const COUNT: usize = 5_000;
    let gateway = Gateway::start(json!({
        "models": { "slow": { "provider": "scripted", "script": [{ "text": "canary", "afterMillis": 2 }] } },
        "agents": { "main": { "models": ["slow"], "runningMax": 4, "waitingMax": 50, "history": false } },
        "logging": { "level": "info" },
    }));
    let before = gateway.resident_bytes();
    let mut flooding = gateway.socket();
    let mut calm = gateway.socket();
    for at in 0..COUNT {
        let session = format!("s{}", at % 100);
        flooding.write(
            json!({ "type": "message", "content": "canary", "sessionId": session, "id": at.to_string() }),
        );
    }
    flooding.flush();
    let (mut ended, mut refused) = (vec![0; COUNT], 0);
    while ended.iter().sum::<usize>() < COUNT {
        let message: Value = flooding.next();
        let id: usize = message["id"].as_str().unwrap().parse().unwrap();
        match message["type"].as_str().unwrap() {
            "chunk" => assert_eq!(message["content"], "canary"),
            "done" => ended[id] += 1,
            "error" => {
                let code = message["code"].as_str().unwrap();
                assert!(matches!(code, "AGENT_BUSY" | "SESSION_FULL"), "{message}");
                assert!(0 < message["retryAfter"].as_u64().unwrap(), "{message}");
                ended[id] += 1;
                refused += 1;
            }
            other => panic!("{other}: {message}"),
        }
    }
    assert!(ended.iter().all(|count| *count == 1), "each ends once");
    assert!((1..COUNT).contains(&refused), "{refused} were refused");
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    assert_eq!(calm.ask("calm", "canary").text(), "canary");
    flooding.say(json!({ "type": "ping" }));
    assert_eq!(flooding.hear(), Heard::Said(json!({ "type": "pong" })), "nothing more came");
}
