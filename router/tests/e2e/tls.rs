//! TLS on both sides: listeners with a certificate, and upstreams behind one that only `caFile` trusts.
use crate::peers::certificates::Certificate;
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, new_folder};
use crate::peers::model::Model;
use crate::peers::server::After;
use crate::peers::socket::Socket;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;

#[test]
fn listeners_speak_tls() {
    let certificate = Certificate::new();
    let folder = new_folder();
    certificate.write(&folder);
    let gateway = Gateway::start_in(
        folder,
        json!({
            "server": { "tls": { "cert": "cert.pem", "key": "key.pem" } },
            "keys": [{ "id": "ana", "key": "canary-key-of-ana", "scopes": ["chat", "read"] }],
        }),
        &[],
    );
    gateway.await_line("listening on https://");
    let bearer = ("authorization", "Bearer canary-key-of-ana");
    let mut client = certificate.http(gateway.address);
    for _ in 0..3 {
        client.post("/api/chat", &[bearer], &json!({ "message": "canary", "sessionId": "s" }));
        assert_eq!(client.answer().json()["data"]["message"], "canary");
    }
    client.post("/api/chat", &[bearer], &json!({ "message": "canary", "stream": true }));
    let events = Events::begin(client);
    assert_eq!(events.finish().0, "canary");
    // Long both ways: more than one TLS record, and more than one read.
    let long = "canary ".repeat(9_000);
    let mut client = certificate.http(gateway.address);
    client.post("/api/chat", &[bearer], &json!({ "message": long }));
    assert_eq!(client.answer().json()["data"]["message"], long);
    // WebSockets move to their session's core with their TLS.
    let mut sockets: Vec<Socket> = (0..16)
        .map(|_| {
            let (stream, tcp) = certificate.connect(gateway.address);
            let url = format!("ws://localhost:{}/ws", gateway.address.port());
            Socket::open_over(stream, tcp, &url, &[bearer]).unwrap()
        })
        .collect();
    for (at, socket) in sockets.iter_mut().enumerate() {
        for round in 0..3 {
            let content = format!("canary {round}");
            assert_eq!(socket.ask(&format!("s{at}"), &content).text(), content);
        }
    }
    client.request("GET", "/metrics", &[bearer], b"");
    let metrics = client.answer().text();
    let moved: u64 = metrics
        .lines()
        .filter(|line| line.starts_with("clawgate_connections_moved_total"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert!((1..16).contains(&moved), "{moved} moved");
}

/// Who speaks no TLS, or breaks it, gets nothing; the others go on.
#[test]
fn what_is_no_tls_is_dropped() {
    let certificate = Certificate::new();
    let folder = new_folder();
    certificate.write(&folder);
    let config = json!({
        "server": { "tls": { "cert": "cert.pem", "key": "key.pem" } },
        "limits": { "headSeconds": 0.5 },
    });
    let gateway = Gateway::start_in(folder, config, &[]);
    let hello = [0x16u8, 3, 1, 0xFF, 0xFF, 1];
    for bytes in [&b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"\0\0\0\0", &hello, b""] {
        let mut tcp = TcpStream::connect(gateway.address).unwrap();
        tcp.set_read_timeout(Some(crate::peers::PATIENCE)).unwrap();
        tcp.write_all(bytes).unwrap();
        let mut said = Vec::new();
        // A handshake that does not come is given up like a head that does not.
        let _ = tcp.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP"), "nothing is said in clear");
    }
    let mut client = certificate.http(gateway.address);
    client.request("GET", "/health", &[], b"");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn upstreams_are_trusted_by_their_ca_file_alone() {
    let certificate = Certificate::new();
    let say = |_: &_, speech: &mut crate::peers::model::Speech<'_>| {
        speech.begin();
        speech.token("the canary ");
        speech.token("sings");
        speech.finish("stop");
        speech.usage(3, 4);
        speech.done();
        After::Keep
    };
    let model = Model::start_with(Some(certificate.server()), say);
    let folder = new_folder();
    certificate.write(&folder);
    let base = format!("https://localhost:{}/v1", model.server.address.port());
    let gateway = Gateway::start_in(
        folder,
        json!({
            "models": {
                "good": model.config_at(&base, json!({ "caFile": "cert.pem" })),
                "strange": model.config_at(&base, json!({})),
            },
            "agents": {
                "main": { "models": ["good"] },
                "strange": { "models": ["strange"], "attemptsMax": 1 },
            },
            "route": "main",
        }),
        &[],
    );
    for _ in 0..3 {
        let answer = gateway.post("/api/chat", &json!({ "message": "canary" })).json();
        assert_eq!(answer["data"]["message"], "the canary sings", "{answer}");
        assert_eq!(answer["data"]["usage"]["totalTokens"], 7);
    }
    // Its certificate is none that the public trusts.
    let refused = gateway.post("/api/chat", &json!({ "message": "canary", "agent": "strange" }));
    assert_eq!(refused.refusal(), (502, "UPSTREAM_FAILED".to_owned()));
    let said = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(said.to_lowercase().contains("certificate"), "it says why: {said}");
    assert_eq!(model.bodies().len(), 3, "and nothing was sent there");
}
