//! Heads of requests: whatever two parsers could read differently is refused, by RFC 9112, and ends the connection.
use crate::peers::gateway::Gateway;
use crate::peers::socket::{frame, read_frame};
use serde_json::json;

/// A request that must never be heard: it stands behind one that is refused.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends a head, and something behind it; exactly one answer comes, with this status and code, and then the end.
#[track_caller]
fn refused(gateway: &Gateway, head: impl AsRef<[u8]>, status: u16, code: &str) {
    let head = head.as_ref();
    let mut client = gateway.connect();
    client.send([head, SMUGGLED.as_bytes()].concat());
    let shown = String::from_utf8_lossy(&head[..head.len().min(120)]).into_owned();
    let answer = client.answer();
    assert_eq!(answer.status, status, "{shown:?}: {answer:?}");
    let json = answer.json();
    assert_eq!((&json["success"], &json["error"]["message"]), (&json!(false), &json!(code)), "{shown:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
    client.assert_closed();
}

#[test]
fn ambiguous_heads_are_refused() {
    let gateway = Gateway::start(json!({}));
    let table: &[(&str, &str)] = &[
        // RFC 9112 2.2: lines end in CRLF.
        ("GET /health HTTP/1.1\nHost: localhost\n\n", "HTTP_BARE_LF"),
        ("GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", "HTTP_BARE_LF"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\n\n", "HTTP_BARE_LF"),
        ("GET /health HTTP/1.1\r\nHost: localhost\rX: y\r\n\r\n", "HTTP_BARE_CR"),
        ("GET /health\rHTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_BARE_CR"),
        // 5.1: no space before the colon; 5.2: no folded lines.
        ("GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n", "HTTP_SPACE_BEFORE_COLON"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX\t: y\r\n\r\n", "HTTP_SPACE_BEFORE_COLON"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX: y\r\n z\r\n\r\n", "HTTP_OBS_FOLD"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\tz\r\n\r\n", "HTTP_OBS_FOLD"),
        ("GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n", "HTTP_OBS_FOLD"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", "HTTP_BAD_NAME"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\n: y\r\n\r\n", "HTTP_BAD_NAME"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX(: y\r\n\r\n", "HTTP_BAD_NAME"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\u{0}b\r\n\r\n", "HTTP_CONTROL_BYTE"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\u{7f}b\r\n\r\n", "HTTP_CONTROL_BYTE"),
        // 6.1 to 6.3: one length, and one way to say it.
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP_BOTH_LENGTHS",
        ),
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
            "HTTP_BOTH_LENGTHS",
        ),
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP_TWO_LENGTHS",
        ),
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP_TWO_LENGTHS",
        ),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\n", "HTTP_TWO_LENGTHS"),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n", "HTTP_BAD_LENGTH"),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", "HTTP_BAD_LENGTH"),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 0x5\r\n\r\n", "HTTP_BAD_LENGTH"),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5 5\r\n\r\n", "HTTP_BAD_LENGTH"),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\n", "HTTP_BAD_LENGTH"),
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "HTTP_BAD_LENGTH",
        ),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \r\n\r\n", "HTTP_BAD_CODING"),
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
            "HTTP_BAD_CODING",
        ),
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "HTTP_BAD_CODING",
        ),
        ("POST /api/chat HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n", "HTTP_BAD_CODING"),
        (
            "POST /api/chat HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP_BAD_CODING",
        ),
        ("POST /api/chat HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP_CODING_IN_HTTP10"),
        // 3.2: one host, and it is one.
        ("GET /health HTTP/1.1\r\n\r\n", "HTTP_NO_HOST"),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", "HTTP_TWO_HOSTS"),
        ("GET /health HTTP/1.1\r\nHost: local host\r\n\r\n", "HTTP_BAD_HOST"),
        ("GET /health HTTP/1.1\r\nHost: user@localhost\r\n\r\n", "HTTP_BAD_HOST"),
        ("GET /health HTTP/1.1\r\nHost: localhost/x\r\n\r\n", "HTTP_BAD_HOST"),
        ("GET /health HTTP/1.1\r\nHost: localhost, evil\r\n\r\n", "HTTP_BAD_HOST"),
        ("GET /health HTTP/1.1\r\nHost: localhost:99999999\r\n\r\n", "HTTP_BAD_HOST"),
        ("GET http://evil.example.com/health HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_HOST_MISMATCH"),
        // 3: the request line.
        ("GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_SYNTAX"),
        ("GET health HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_BAD_TARGET"),
        ("GET /heal th HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_SYNTAX"),
        ("GET /health\r\nHost: localhost\r\n\r\n", "HTTP_SYNTAX"),
        ("G(T /health HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP_SYNTAX"),
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\r\n\r\n", "HTTP_SYNTAX"),
    ];
    let mut wrong = Vec::new();
    for (head, code) in table {
        let mut client = gateway.connect();
        client.send([head.as_bytes(), SMUGGLED.as_bytes()].concat());
        let answer = client.answer();
        let json = answer.json();
        if answer.status != 400 || json["error"]["message"] != *code || json["error"]["code"] != "BAD_REQUEST"
        {
            wrong.push(format!("{head:?} is {} {}, not {code}", answer.status, json["error"]));
        }
        client.assert_closed();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(gateway.metric("clawgate_refused_total", "BAD_REQUEST"), table.len() as u64);
    assert_eq!(gateway.metric("clawgate_refused_total", "NOT_FOUND"), 0, "nothing smuggled was heard");
    gateway.assert_well();
}

#[test]
fn other_refusals_of_heads_have_their_status() {
    let gateway = Gateway::start(json!({ "limits": { "headBytesMax": 8_192, "headersMax": 20 } }));
    let get = "GET /health HTTP/1.1\r\nHost: localhost\r\n";
    refused(&gateway, "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", 501, "HTTP_BAD_METHOD");
    let gzip = "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    refused(&gateway, gzip, 501, "HTTP_UNKNOWN_CODING");
    refused(&gateway, "GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", 505, "HTTP_VERSION");
    refused(&gateway, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP_VERSION");
    refused(&gateway, format!("{get}{}\r\n", "X: y\r\n".repeat(20)), 431, "HTTP_TOO_MANY_HEADERS");
    refused(&gateway, format!("{get}X: {}\r\n\r\n", "y".repeat(8_192)), 431, "HTTP_HEAD_TOO_LONG");
    let unended = format!("{get}X: {}", "y".repeat(9_000));
    let mut client = gateway.connect();
    client.send(unended);
    assert_eq!(client.answer().status, 431, "a head without an end is not waited for");
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(8_300));
    let mut client = gateway.connect();
    client.send(long);
    assert!(matches!(client.answer().status, 414 | 431));
    // The longest that are allowed are taken.
    let mut client = gateway.connect();
    client.send(format!("{get}{}\r\n", "X: y\r\n".repeat(19)));
    assert_eq!(client.answer().status, 200);
    let room = 8_192 - get.len() - "X: \r\n\r\n".len();
    client.send(format!("{get}X: {}\r\n\r\n", "y".repeat(room)));
    assert_eq!(client.answer().status, 200);
}

/// Methods, paths and targets that are none of ours are answered, and the connection goes on.
#[test]
fn what_is_not_ours_is_answered_and_goes_on() {
    let gateway = Gateway::start(json!({}));
    let mut client = gateway.connect();
    for (method, target, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/", 404),
        ("GET", "//health", 404),
        ("GET", "/health/", 404),
        ("GET", "/HEALTH", 404),
        ("GET", "/health/../health", 404),
        ("GET", "/api/%73tatus", 404),
        ("GET", "/health?x=%00%ff&&==", 200),
        ("GET", "http://localhost/health?x", 200),
        ("DELETE", "/health", 405),
        ("PUT", "/api/chat", 405),
        ("BREW", "/api/chat", 405),
        ("GET", "/api/chat", 405),
        ("GET", "/api/v1/v1/chat", 404),
        ("GET", "/api/sessions/%2e%2e%2f", 404),
        ("GET", "/api/sessions/a/b", 404),
        ("GET", "/api/sessions?limit=99999999999999999999", 400),
        ("GET", "/api/sessions?cursor=%F0%9F%98%80", 400),
        ("GET", "/webhooks/%00", 404),
        ("OPTIONS", "/api/chat", 204),
        ("TRACE", "/health", 405),
    ] {
        let host = [("Host", "localhost")];
        client.request(method, target, &host, b"");
        let answer = client.answer();
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
    }
    client.request("OPTIONS", "*", &[], b"");
    assert!(client.answer().status < 500);
}

/// Many requests in one write, each answered, in order; and the same bytes cut at every place.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let gateway = Gateway::start(json!({}));
    let chat = |number: usize, chunked: bool| {
        let body = json!({ "message": format!("canary {number}") }).to_string();
        let head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        if chunked {
            let (one, two) = body.split_at(5);
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:X};x=y\r\n{two}\r\n0\r\nTrailer: z\r\n\r\n",
                one.len(),
                two.len()
            )
        } else {
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
        }
    };
    let mut client = gateway.connect();
    let all: String = (0..200).map(|number| chat(number, number % 3 == 0)).collect();
    client.send(all);
    for number in 0..200 {
        assert_eq!(client.answer().json()["data"]["message"], format!("canary {number}"));
    }
    let pair =
        format!("{}\r\n{}GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", chat(1, true), chat(2, false));
    for cut in 0..pair.len() {
        client.send(&pair[..cut]);
        client.send(&pair[cut..]);
        for number in 1..3 {
            assert_eq!(client.answer().json()["data"]["message"], format!("canary {number}"), "cut at {cut}");
        }
        assert_eq!(client.answer().text(), "{\"status\":\"ok\"}", "cut at {cut}");
    }
    for byte in pair.bytes() {
        client.send([byte]);
    }
    for _ in 0..3 {
        assert_eq!(client.answer().status, 200);
    }
}

/// A request behind a refused one is never heard, and one behind `Connection: close` neither.
#[test]
fn nothing_is_heard_behind_the_last_request() {
    let gateway = Gateway::start(json!({}));
    let mut client = gateway.connect();
    let last = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    client.send(format!("{last}{SMUGGLED}"));
    assert_eq!(client.answer().status, 200);
    client.assert_closed();
    let mut client = gateway.connect();
    client.send(format!("GET /health HTTP/1.0\r\n\r\n{SMUGGLED}"));
    let answer = client.answer();
    assert!(answer.status == 200 || answer.status == 403, "HTTP/1.0 needs no Host: {answer:?}");
    client.assert_closed();
    assert_eq!(gateway.metric("clawgate_refused_total", "NOT_FOUND"), 0);
}

#[test]
fn upgrades_that_are_none_are_refused() {
    let gateway = Gateway::start(json!({}));
    let good = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let with = |name: &str, value: Option<&'static str>| -> Vec<(&'static str, &'static str)> {
        good.iter()
            .filter_map(|(n, v)| if *n == name { value.map(|value| (*n, value)) } else { Some((*n, *v)) })
            .collect()
    };
    let call = |method: &str, headers: &[(&str, &str)], body: &[u8]| {
        let mut client = gateway.connect();
        client.request(method, "/ws", headers, body);
        client.head()
    };
    for (headers, status) in [
        (with("Upgrade", None), 426),
        (with("Upgrade", Some("h2c")), 426),
        (with("Connection", None), 426),
        (with("Connection", Some("keep-alive")), 426),
        (with("Sec-WebSocket-Version", None), 426),
        (with("Sec-WebSocket-Version", Some("8")), 426),
        (with("Sec-WebSocket-Key", None), 400),
        (with("Sec-WebSocket-Key", Some("")), 400),
        (with("Sec-WebSocket-Key", Some("c2hvcnQ=")), 400),
        (with("Sec-WebSocket-Key", Some("not base64 at all!!!!!!!")), 400),
        (with("Upgrade", Some("WebSocket")), 101),
        (with("Connection", Some("keep-alive, upgrade")), 101),
    ] {
        let head = call("GET", &headers, b"");
        assert_eq!(head.status, status, "{headers:?}");
        if status == 426 {
            // RFC 9110 15.5.22: the answer says what to upgrade to; RFC 6455 4.2.2: or which version.
            let told = [head.header("upgrade"), head.header("sec-websocket-version")];
            assert!(matches!(told, [Some("websocket"), _] | [_, Some("13")]), "{headers:?}: {head:?}");
        }
    }
    assert_eq!(call("POST", &good, b"").status, 405);
    assert_eq!(call("GET", &good, b"body").status, 400, "frames could hide in a body");
    let twice = [&good[..], &good[3..]].concat();
    assert_eq!(call("GET", &twice, b"").status, 400);
}

/// What stands behind an upgrade in the same read are frames already.
#[test]
fn frames_may_follow_the_upgrade_at_once() {
    let gateway = Gateway::start(json!({}));
    let mut client = gateway.connect();
    let upgrade = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let ping = frame(0x81, br#"{"type":"ping"}"#);
    client.send([upgrade.as_bytes(), &ping, &ping].concat());
    assert_eq!(client.head().status, 101);
    let (stream, _, rest) = client.into_stream();
    let mut both = std::io::Read::chain(&rest[..], stream);
    for _ in 0..2 {
        let (first, payload) = read_frame(&mut both).unwrap();
        assert_eq!((first, payload.as_slice()), (0x81, &br#"{"type":"pong"}"#[..]));
    }
}
