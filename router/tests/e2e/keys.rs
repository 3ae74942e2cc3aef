//! Who may call (row A8): keys and their scopes, by header, query, subprotocol and first message; and which pages of
//! browsers may.
use crate::peers::gateway::Gateway;
use crate::peers::socket::Socket;
use serde_json::json;

const CHAT: &str = "canary-key-that-may-chat";
const READ: &str = "canary-key-that-may-read";
const ADMIN: &str = "canary-key-that-may-all";

fn with_keys() -> Gateway {
    Gateway::start(json!({
        "keys": [
            { "id": "chat", "key": CHAT },
            { "id": "read", "key": READ, "scopes": ["read"] },
            // "canary-key-that-may-all", as its digest.
            { "id": "admin", "sha256": sha256_of_admin(), "scopes": ["admin"] },
        ],
        "channels": { "shop": { "type": "webhook", "secret": "canary-secret-of-the-shop" } },
    }))
}

fn sha256_of_admin() -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(ADMIN.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn status(gateway: &Gateway, authorization: &[&str], method: &str, target: &str) -> u16 {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(authorization.iter().map(|value| ("authorization", *value)));
    gateway
        .call(method, target, &headers, if method == "POST" { b"{\"message\":\"canary\"}" } else { b"" })
        .status
}

#[test]
fn every_route_asks_for_its_scope() {
    let gateway = with_keys();
    // Route, and what no key, a key that may chat, read, and all are answered.
    let table = [
        ("GET", "/health", [200, 200, 200, 200]),
        ("GET", "/api/openapi.json", [200, 200, 200, 200]),
        ("GET", "/health/detailed", [401, 403, 200, 200]),
        ("GET", "/metrics", [401, 403, 200, 200]),
        ("GET", "/api/status", [401, 403, 200, 200]),
        ("GET", "/api/channels", [401, 403, 200, 200]),
        ("GET", "/api/models", [401, 200, 403, 200]),
        ("POST", "/api/models/none/reset", [401, 403, 403, 404]),
        ("GET", "/api/sessions", [401, 200, 403, 200]),
        ("GET", "/api/sessions/none", [401, 404, 403, 404]),
        ("POST", "/api/sessions/none", [401, 400, 403, 400]),
        ("POST", "/api/chat", [401, 200, 403, 200]),
        ("POST", "/webhooks/shop", [401, 401, 401, 401]),
    ];
    for (method, target, expected) in table {
        let keys = [None, Some(CHAT), Some(READ), Some(ADMIN)];
        for (key, expected) in keys.into_iter().zip(expected) {
            let bearer = key.map(|key| format!("Bearer {key}"));
            let sent: Vec<&str> = bearer.iter().map(String::as_str).collect();
            assert_eq!(status(&gateway, &sent, method, target), expected, "{method} {target} with {key:?}");
        }
    }
}

/// Whatever is wrong with a key, the answer is the same.
#[test]
fn keys_that_are_wrong_are_all_answered_alike() {
    let gateway = with_keys();
    let long = format!("Bearer {}", "x".repeat(4_000));
    let wrong = [
        "Bearer canary-key-that-may-cha",
        "Bearer canary-key-that-may-chat-",
        "Bearer Canary-key-that-may-chat",
        "Bearer",
        "Bearer ",
        "Basic canary-key-that-may-chat",
        "canary-key-that-may-chat",
        "Bearer é",
        &long,
    ];
    let mut answers = Vec::new();
    for value in wrong {
        let answer = gateway.call("GET", "/api/models", &[("authorization", value)], b"");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{value}");
        answers.push(answer.refusal());
    }
    answers.push(gateway.get("/api/models").refusal());
    let twice = [
        ("authorization", "Bearer canary-key-that-may-chat"),
        ("authorization", "Bearer canary-key-that-may-chat"),
    ];
    answers.push(gateway.call("GET", "/api/models", &twice, b"").refusal());
    // A key in the query is for WebSockets only: URLs end up in logs.
    answers.push(gateway.get(&format!("/api/models?token={CHAT}")).refusal());
    assert!(answers.iter().all(|answer| *answer == (401, "UNAUTHENTICATED".to_owned())), "{answers:?}");
    for right in [
        "Bearer canary-key-that-may-chat",
        "bearer canary-key-that-may-chat",
        "BEARER  canary-key-that-may-chat ",
    ] {
        assert_eq!(status(&gateway, &[right], "GET", "/api/models"), 200, "{right}");
    }
    // The body of a request without a key is not waited for.
    let mut client = gateway.connect();
    client.send("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
    assert_eq!(client.answer().refusal(), (401, "UNAUTHENTICATED".to_owned()));
    client.assert_closed();
}

#[test]
fn a_websocket_brings_its_key_in_one_of_four_ways() {
    let gateway = with_keys();
    let bearer = format!("Bearer {CHAT}");
    let protocols = format!("bearer, {CHAT}");
    let query = format!("/ws?token={CHAT}");
    let open = |target: &str, headers: &[(&str, &str)]| Socket::open(gateway.address, target, headers);
    let ways = [
        open("/ws", &[("authorization", &bearer)]),
        open(&query, &[]),
        open("/ws", &[("sec-websocket-protocol", &protocols)]),
    ];
    for (way, socket) in ways.into_iter().enumerate() {
        let mut socket = socket.unwrap();
        assert_eq!(socket.protocol.as_deref(), (way == 2).then_some("bearer"), "the key is never repeated");
        assert_eq!(socket.ask("s", "canary").text(), "canary");
    }
    let mut socket = open("/ws", &[]).unwrap();
    assert_eq!(socket.authenticate(CHAT), json!({ "type": "auth_ok", "user": "chat" }));
    assert_eq!(socket.ask("s", "canary").text(), "canary");
    // A wrong one is refused before the upgrade.
    let wrong = [
        open("/ws", &[("authorization", "Bearer canary-key-of-nobody")]),
        open("/ws?token=canary-key-of-nobody", &[]),
        open("/ws?token=", &[]),
        open("/ws", &[("sec-websocket-protocol", "bearer, canary-key-of-nobody")]),
    ];
    for (way, socket) in wrong.into_iter().enumerate() {
        assert_eq!(socket.err(), Some(401), "way {way}");
    }
    // To read is not to chat.
    let mut reader = open(&format!("/ws?token={READ}"), &[]).unwrap();
    assert_eq!(reader.ask("s", "canary").end["code"], "FORBIDDEN");
}

/// The sessions of two keys are apart, even under the same name.
#[test]
fn sessions_belong_to_their_user() {
    let keys = [("a", "ana"), ("b", "ana"), ("c", "ben")];
    let entries: Vec<_> = keys
        .iter()
        .map(|(id, user)| json!({ "id": id, "user": user, "key": format!("canary-key-number-{id}") }))
        .collect();
    let gateway = Gateway::start(
        json!({ "keys": entries, "agents": { "main": { "models": ["echo"], "history": true } } }),
    );
    for (id, _) in keys {
        let mut socket = gateway.socket();
        socket.authenticate(&format!("canary-key-number-{id}"));
        socket.ask("shared", &format!("canary of {id}"));
    }
    for (id, messages) in [("a", 2), ("b", 2), ("c", 1)] {
        let bearer = format!("Bearer canary-key-number-{id}");
        let shown = gateway.call("GET", "/api/sessions/shared", &[("authorization", &bearer)], b"").json();
        assert_eq!(shown["data"]["messages"], messages, "{shown}");
    }
}

/// A page of another site, or a name that was made to point here, gets nothing on any route.
#[test]
fn foreign_pages_and_hosts_are_refused_everywhere() {
    let gateway = Gateway::start(json!({
        "server": { "origins": ["https://app.example.com"], "hosts": ["gateway.example.com"] },
        "channels": { "shop": { "type": "webhook", "secret": "canary-secret-of-the-shop" } },
    }));
    let own = format!("http://{}", gateway.address);
    let routes = [
        ("GET", "/health"),
        ("GET", "/health/detailed"),
        ("GET", "/metrics"),
        ("GET", "/ws"),
        ("POST", "/webhooks/shop"),
        ("GET", "/api/openapi.json"),
        ("POST", "/api/chat"),
        ("GET", "/api/status"),
        ("GET", "/api/models"),
        ("GET", "/api/channels"),
        ("GET", "/api/sessions"),
        ("GET", "/api/sessions/x"),
        ("POST", "/api/sessions/x"),
        ("GET", "/nothing"),
        ("OPTIONS", "/api/chat"),
    ];
    for (method, target) in routes {
        for (name, value) in [
            ("Origin", "https://evil.example.com"),
            ("Origin", "null"),
            ("Origin", "https://app.example.com.evil.com"),
            ("Origin", "http://localhost:1"),
            ("Host", "evil.example.com"),
            ("Host", "127.0.0.1.evil.com:80"),
        ] {
            let answer = gateway.call(method, target, &[(name, value)], b"");
            assert_eq!(
                answer.refusal(),
                (403, "BAD_ORIGIN".to_owned()),
                "{method} {target} with {name}: {value}"
            );
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    for origin in [own.as_str(), "https://app.example.com", "HTTPS://APP.example.com"] {
        let answer = gateway.call("GET", "/api/status", &[("Origin", origin)], b"");
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(origin)));
        assert!(answer.header("vary").unwrap().to_lowercase().contains("origin"));
        let mut socket = Socket::open(gateway.address, "/ws", &[("origin", origin)]).unwrap();
        assert_eq!(socket.ask("s", "canary").text(), "canary");
    }
    for origin in ["https://evil.example.com", "null"] {
        assert_eq!(Socket::open(gateway.address, "/ws", &[("origin", origin)]).err(), Some(403));
    }
    for host in ["localhost", "127.0.0.1:9", "gateway.example.com", "gateway.example.com:443", "[::1]"] {
        assert_eq!(gateway.call("GET", "/health", &[("Host", host)], b"").status, 200, "{host}");
    }
    let preflight = gateway.call("OPTIONS", "/api/chat", &[("Origin", "https://app.example.com")], b"");
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
}
