//! Bodies: chunks, lengths, JSON that is too deep, too large, or none.
use crate::peers::gateway::Gateway;
use crate::peers::telegram::{SECRET, Telegram};
use serde_json::{Value, json};

/// A configuration that takes bodies of so many bytes.
fn limited(bytes: u32) -> Value {
    json!({ "limits": { "bodyBytesMax": bytes, "bodyBytesUnauthenticatedMax": bytes, "textBytesMax": bytes } })
}

fn chunked(gateway: &Gateway, body: &str) -> (u16, String) {
    let mut client = gateway.connect();
    let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}{body}"));
    let answer = client.answer();
    (answer.status, answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn chunks_that_are_none_are_refused() {
    let gateway = Gateway::start(limited(1_024));
    let good = "14\r\n{\"message\":\"canary\"}\r\n0\r\n\r\n";
    assert_eq!(chunked(&gateway, good).0, 200);
    for body in [
        "14\n{\"message\":\"canary\"}\r\n0\r\n\r\n",
        "14\r\n{\"message\":\"canary\"}0\r\n\r\n",
        "14\r\n{\"message\":\"canary\"}\n0\r\n\r\n",
        "0x14\r\n{\"message\":\"canary\"}\r\n0\r\n\r\n",
        "+14\r\n{\"message\":\"canary\"}\r\n0\r\n\r\n",
        " 14\r\n{\"message\":\"canary\"}\r\n0\r\n\r\n",
        "-1\r\n\r\n",
        "\r\n\r\n",
        "g\r\n\r\n",
        "11111111111111111\r\n\r\n",
        "14;x=\u{1}\r\n{\"message\":\"canary\"}\r\n0\r\n\r\n",
        "14\r\n{\"message\":\"canary\"}\r\n0\r\nno colon\r\n\r\n",
    ] {
        assert_eq!(chunked(&gateway, body), (400, "HTTP_CHUNK_SYNTAX".to_owned()), "{body:?}");
    }
    let too_long = format!("401\r\n{}\r\n0\r\n\r\n", "x".repeat(0x401));
    assert_eq!(chunked(&gateway, &too_long), (413, "HTTP_BODY_TOO_LONG".to_owned()));
    assert_eq!(chunked(&gateway, "ffffffffffffffff\r\n"), (413, "HTTP_BODY_TOO_LONG".to_owned()));
    // A body of one byte a chunk, each with an extension; and trailers without an end.
    let slow = format!("1;{}\r\nx\r\n", "y".repeat(4_000)).repeat(40);
    assert_eq!(chunked(&gateway, &slow).0, 431);
    let trailers = format!("{}X: {}\r\n", "0\r\n", "y".repeat(40_000));
    assert_eq!(chunked(&gateway, &trailers).0, 431);
    gateway.assert_well();
}

#[test]
fn expectations_are_met_or_refused() {
    let gateway = Gateway::start(limited(1_024));
    let body = r#"{"message":"canary"}"#;
    let head = |length: usize, expect: &str| {
        format!(
            "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nExpect: {expect}\r\n\r\n"
        )
    };
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.send(head(body.len(), "100-continue"));
        assert_eq!(client.head().status, 100);
        client.send(body);
        assert_eq!(client.answer().json()["data"]["message"], "canary");
    }
    // One who does not wait for it gets no `100` that it would have to skip.
    client.send(format!("{}{body}", head(body.len(), "100-continue")));
    assert_eq!(client.answer().status, 200);
    // What will be refused is not asked for.
    client.send(head(1_025, "100-continue"));
    assert_eq!(client.answer().status, 413);
    client.assert_closed();
    let mut client = gateway.connect();
    client.send(
        "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.answer().status, 404);
    client.assert_closed();
}

#[test]
fn bodies_beyond_the_limits_are_refused_without_being_read() {
    let telegram = Telegram::start();
    let gateway = Gateway::start(json!({
        "keys": [{ "id": "ana", "key": "canary-key-of-ana" }],
        "limits": { "bodyBytesMax": 100_000, "bodyBytesUnauthenticatedMax": 10_000, "textBytesMax": 1_000 },
        "channels": { "telegram": telegram.config(json!({})) },
    }));
    let announce = |target: &str, more: &str, length: u64| {
        let mut client = gateway.connect();
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: {length}\r\n\r\n"
        ));
        let answer = client.answer();
        client.assert_closed();
        answer.refusal()
    };
    let key = "Authorization: Bearer canary-key-of-ana\r\n";
    let too_large = (413, "TOO_LARGE".to_owned());
    assert_eq!(announce("/api/chat", key, 100_001), too_large);
    assert_eq!(announce("/api/chat", key, u64::MAX), too_large);
    assert_eq!(
        announce("/webhooks/telegram", "", 10_001),
        too_large,
        "who has not proved anything gets less"
    );
    assert_eq!(announce("/api/chat", "", 5), (401, "UNAUTHENTICATED".to_owned()));
    // It may also come whole in one write.
    let body = format!("{{\"message\":\"{}\"}}", "x".repeat(100_000));
    let headers = [("authorization", "Bearer canary-key-of-ana"), ("content-type", "application/json")];
    assert_eq!(gateway.call("POST", "/api/chat", &headers, body.as_bytes()).refusal(), too_large);
    let small = format!("{{\"update_id\":1,\"x\":\"{}\"}}", "x".repeat(10_000));
    let secret = [("X-Telegram-Bot-Api-Secret-Token", SECRET)];
    assert_eq!(gateway.call("POST", "/webhooks/telegram", &secret, small.as_bytes()).refusal(), too_large);
    gateway.assert_well();
}

#[test]
fn json_that_is_none_is_refused() {
    let telegram = Telegram::start();
    let gateway = Gateway::start(json!({
        "limits": { "jsonDepthMax": 64, "jsonKeysMax": 1_000 },
        "channels": { "telegram": telegram.config(json!({})) },
    }));
    let deep = |open: &str, close: &str, levels: usize| {
        format!("{{\"message\":\"canary\",\"x\":{}1{}}}", open.repeat(levels), close.repeat(levels))
    };
    let keys: String = (0..1_001).map(|at| format!(",\"k{at}\":1")).collect();
    let bad: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null garbage".to_vec(),
        b"{\"message\":\"canary\"} {}".to_vec(),
        b"{\"message\":\"canary\",}".to_vec(),
        b"{'message':'canary'}".to_vec(),
        b"{\"message\":\"can\nary\"}".to_vec(),
        b"{\"message\":\"\\ud800\"}".to_vec(),
        b"{\"message\":\"\\x\"}".to_vec(),
        b"{\"message\":\"canary \xff\"}".to_vec(),
        b"{\"message\":\"canary \xed\xa0\x80\"}".to_vec(),
        b"{\"message\":\"canary \xc0\xaf\"}".to_vec(),
        b"\xef\xbb\xbf{\"message\":\"canary\"}".to_vec(),
        deep("[", "]", 65).into_bytes(),
        deep("{\"a\":", "}", 65).into_bytes(),
        deep("[", "]", 100_000).into_bytes(),
        "[".repeat(200_000).into_bytes(),
        "{\"a\":".repeat(100_000).into_bytes(),
        format!("{{\"message\":\"canary\"{keys}}}").into_bytes(),
        b"{\"message\":1e999999999999}".to_vec(),
        b"{\"message\":\"canary\",\"x\":01}".to_vec(),
    ];
    let secret = [("X-Telegram-Bot-Api-Secret-Token", SECRET), ("content-type", "application/json")];
    for body in &bad {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        for (target, headers) in [
            ("/api/chat", &secret[1..]),
            ("/api/sessions/x", &secret[1..]),
            ("/webhooks/telegram", &secret[..]),
        ] {
            let (status, code) = gateway.call("POST", target, headers, body).refusal();
            let fits = matches!((status, code.as_str()), (400, "BAD_JSON") | (413, "TOO_LARGE"));
            assert!(fits, "{target} {shown:?}: {status} {code}");
        }
    }
    // Within the limits everything is allowed.
    for body in
        [deep("[", "]", 60), deep("{\"a\":", "}", 60), "{\"message\":\"canary\",\"message2\":{}}".to_owned()]
    {
        assert_eq!(gateway.call("POST", "/api/chat", &secret[1..], body.as_bytes()).status, 200);
    }
    assert_eq!(telegram.posts().len(), 0);
}

/// What people write comes back as it was, and changes no format around it.
#[test]
fn texts_are_only_texts() {
    let gateway = Gateway::start(json!({}));
    let mut socket = gateway.socket();
    for text in [
        "canary\n\ndata: {\"type\":\"done\"}\n\nevent: x",
        "canary\r\ndata: x\r\n\r\n",
        "\u{0}\u{1}\u{7f} canary",
        "canary \" \\ / \u{8}\u{c}",
        "canary \u{2028}\u{2029}\u{feff}\u{202e}",
        "canary 👩‍👩‍👧‍👦 é e\u{301} \u{10ffff}",
        "canary {prompt} ${HOME} %s {{}}",
        "</script><!-- canary",
    ] {
        let body = json!({ "message": text, "sessionId": text.replace(char::is_control, ""), "id": "" });
        assert_eq!(gateway.post("/api/chat", &body).json()["data"]["message"], text, "{text:?}");
        let mut client = gateway.connect();
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        client.post("/api/chat", &[], &streamed);
        let events = crate::peers::events::Events::begin(client);
        assert_eq!(events.finish().0, text, "{text:?}");
        socket.say(json!({ "type": "message", "content": text, "sessionId": "s", "id": text }));
        assert_eq!(socket.reply("s", text).text(), text);
    }
}

/// A body that drips in is given up after its time, and its sender is told.
#[test]
fn a_body_that_does_not_come_is_given_up() {
    let gateway = Gateway::start(json!({ "limits": { "headSeconds": 0.2, "bodySeconds": 0.2 } }));
    let mut client = gateway.connect();
    client.send("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{");
    assert_eq!(client.answer().refusal(), (408, "HEAD_TIMEOUT".to_owned()));
    client.assert_closed();
    assert_eq!(gateway.metric("clawgate_refused_total", "HEAD_TIMEOUT"), 1);
}
