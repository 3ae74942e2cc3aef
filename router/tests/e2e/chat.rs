//! `POST /api/chat`: JSON in, JSON out, and the same as an event stream (rows A2, A3). The example lines of the
//! protocol's page work word for word on the default configuration.
use crate::peers::ask_until;
use crate::peers::events::{Events, Record};
use crate::peers::gateway::Gateway;
use crate::peers::model::Model;
use crate::peers::time::unix_seconds;
use serde_json::{Value, json};
use std::process::Command;

/// The body of the page's first example, with its line breaks.
const PLAIN: &str = r#"{
"channel": "api",
"message": "Hello",
"sessionId": "session-123",
"stream": false
}"#;
/// The body of its second.
const STREAMED: &str = r#"{"channel": "api", "message": "Write a poem", "stream": true}"#;

const AUTHORIZATION: (&str, &str) = ("Authorization", "Bearer your-api-key");
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Exactly these keys, in this order on the wire.
#[track_caller]
fn assert_envelope(text: &str, message: &str, session: &str, model: &str) {
    let start = format!(
        r#"{{"success":true,"data":{{"message":{},"sessionId":"{session}","model":"{model}","usage":{{"promptTokens":"#,
        Value::from(message)
    );
    assert!(text.starts_with(&start), "{text}");
    let json: Value = serde_json::from_str(text).unwrap();
    let usage = &json["data"]["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("{key}: {text}"));
    assert_eq!(count("promptTokens") + count("completionTokens"), count("totalTokens"));
    unix_seconds(json["timestamp"].as_str().unwrap());
}

#[test]
fn the_pages_example_works_word_for_word_without_any_file() {
    let gateway = Gateway::start_default();
    let answer = gateway.call("POST", "/api/chat", &[AUTHORIZATION, JSON], PLAIN.as_bytes());
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_envelope(&answer.text(), "Hello", "session-123", "echo");
}

#[test]
fn the_pages_streamed_example_works_word_for_word_without_any_file() {
    let gateway = Gateway::start_default();
    let mut client = gateway.connect();
    let headers = [AUTHORIZATION, JSON, ("Accept", "text/event-stream")];
    client.request("POST", "/api/chat", &headers, STREAMED.as_bytes());
    let mut events = Events::begin(client);
    assert_eq!(events.head.header("cache-control"), Some("no-cache, no-transform"));
    let Some(Record::Event { name, id, data }) = events.next() else { panic!("no event") };
    assert_eq!((name.as_str(), id.as_str(), &data["type"]), ("message", "1", &json!("chunk")));
    assert_eq!(data["content"], "Write a poem");
    let Some(Record::Event { name, data, .. }) = events.next() else { panic!("no second event") };
    assert_eq!((name.as_str(), &data["type"]), ("message", &json!("done")));
    assert!(data["usage"]["totalTokens"].as_u64().is_some(), "{data}");
    assert_eq!(events.next(), None);
}

/// The same lines by the tool that the page names, where there is one: it shows what our own client might forgive.
#[test]
fn curl_sends_the_pages_lines() {
    if Command::new("curl").arg("--version").output().is_err() {
        return;
    }
    let gateway = Gateway::start_default();
    let url = format!("http://{}/api/chat", gateway.address);
    let curl = |more: &[&str], body: &str| {
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--max-time",
            "20",
            "-X",
            "POST",
            &url,
            "-H",
            "Authorization: Bearer your-api-key",
        ]);
        command.args(["-H", "Content-Type: application/json"]).args(more).args(["-d", body]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_envelope(&curl(&[], PLAIN), "Hello", "session-123", "echo");
    let streamed = curl(&["-N", "-H", "Accept: text/event-stream"], STREAMED);
    assert!(streamed.starts_with("event: message\n"), "{streamed}");
    assert!(streamed.contains(r#"data: {"type":"chunk","content":"Write a poem""#), "{streamed}");
    assert!(streamed.contains(r#"data: {"type":"done""#), "{streamed}");
}

#[test]
fn both_versions_of_the_path_are_the_same() {
    let gateway = Gateway::start(json!({}));
    let body = json!({ "message": "the canary sings", "sessionId": "one" });
    for path in ["/api/chat", "/api/v1/chat"] {
        let answer = gateway.post(path, &body);
        assert_envelope(&answer.text(), "the canary sings", "one", "echo");
    }
    for path in ["/api/v2/chat", "/api/v0/chat", "/api/v10/sessions"] {
        let answer = gateway.post(path, &body);
        assert_eq!(answer.refusal(), (404, "UNKNOWN_VERSION".to_owned()), "{path}");
        assert!(
            answer.json()["error"]["message"].as_str().unwrap().contains("v1"),
            "it says which there are"
        );
    }
}

/// A session that the client does not name is made up, told, and can be used.
#[test]
fn a_session_without_a_name_gets_one() {
    let gateway = Gateway::start(json!({ "agents": { "main": { "models": ["echo"], "history": true } } }));
    let first = gateway.post("/api/chat", &json!({ "message": "canary one" })).json();
    let session = first["data"]["sessionId"].as_str().unwrap().to_owned();
    let second = gateway.post("/api/chat", &json!({ "message": "canary two" })).json();
    assert_ne!(second["data"]["sessionId"], first["data"]["sessionId"]);
    gateway.post("/api/chat", &json!({ "message": "canary three", "sessionId": session }));
    let shown = gateway.get(&format!("/api/sessions/{session}")).json();
    assert_eq!(shown["data"]["messages"], 2, "{shown}");
}

#[test]
fn the_demo_agent_speaks_piece_by_piece() {
    let gateway = Gateway::start_default();
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true, "agent": "demo" }));
    let mut events = Events::begin(client);
    let (mut pieces, mut text) = (0, String::new());
    let last = loop {
        let data = events.data().unwrap();
        if data["type"] != "chunk" {
            break data;
        }
        pieces += 1;
        assert_eq!(data["seq"], pieces);
        text += data["content"].as_str().unwrap();
    };
    assert_eq!((&last["type"], &last["model"]), (&json!("done"), &json!("demo")));
    assert!(text.contains("“canary”") && 20 < pieces, "{pieces} pieces: {text}");
    // It pauses between its words, so they cannot all have come in a few reads.
    assert!(10 < events.client.reads, "{pieces} pieces in {} reads", events.client.reads);
}

/// A token is on its way to the client before the model has said the next one.
#[test]
fn tokens_are_passed_on_one_by_one() {
    let model = Model::held(5);
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    }));
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true, "sessionId": "s" }));
    let mut events = Events::begin(client);
    for number in 0..5 {
        // The next token exists only once this one has been read.
        model.release(1);
        let data = events.data().unwrap();
        assert_eq!((&data["content"], &data["sessionId"]), (&json!(format!("word{number} ")), &json!("s")));
    }
    assert_eq!(events.data().unwrap()["type"], "done");
    assert_eq!(events.data(), None);
}

/// "client leaves after token 5": the upstream call is aborted within one token.
#[test]
fn a_client_that_leaves_ends_the_call_to_the_model() {
    let model = Model::start(|_, speech| {
        speech.begin();
        for _ in 0..5 {
            speech.token("canary ");
        }
        speech.seen.with(|seen| seen.released += 1);
        speech.fall_silent()
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    }));
    for streamed in [true, false] {
        let mut client = gateway.connect();
        client.post("/api/chat", &[], &json!({ "message": "canary", "stream": streamed }));
        if streamed {
            let mut events = Events::begin(client);
            for _ in 0..5 {
                assert_eq!(events.data().unwrap()["content"], "canary ");
            }
            drop(events);
        } else {
            model.seen.wait("five tokens are said", |seen| (seen.released == 2).then_some(()));
            client.leave();
        }
        let expected = if streamed { vec![5] } else { vec![5, 5] };
        let left = model.seen.wait("the call is aborted", |seen| {
            (seen.left.len() == expected.len()).then(|| seen.left.clone())
        });
        assert_eq!(left, expected);
    }
    gateway.await_status("running", 0);
    assert_eq!(gateway.metric("clawgate_turns_total", "outcome=\"cancelled\""), 2);
}

#[test]
fn comments_keep_a_silent_stream_alive() {
    let model = Model::held(2);
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "limits": { "heartbeatSeconds": 0.1 },
    }));
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true }));
    let mut events = Events::begin(client);
    // Before the first token, and between two.
    for number in 0..2 {
        for _ in 0..3 {
            assert_eq!(events.next(), Some(Record::Comment));
        }
        model.release(1);
        assert_eq!(events.data().unwrap()["content"], format!("word{number} "));
    }
    let (_, last) = events.finish();
    assert_eq!(last["type"], "done");
}

/// The connection of a stream is kept: its end is marked, not guessed.
#[test]
fn one_connection_carries_many_requests() {
    let gateway = Gateway::start(json!({}));
    let mut client = gateway.connect();
    for round in 0..3 {
        client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true }));
        let mut events = Events::begin(client);
        assert_eq!(events.data().unwrap()["content"], "canary");
        assert_eq!(events.data().unwrap()["type"], "done");
        assert_eq!(events.next(), None);
        client = events.client;
        client.post("/api/chat", &[], &json!({ "message": format!("canary {round}") }));
        assert_eq!(client.answer().json()["data"]["message"], format!("canary {round}"));
        client.request("HEAD", "/health", &[], b"");
        assert_eq!(client.head().status, 200);
        client.no_body();
    }
    ask_until("the connection is counted out", || {
        let status = gateway.status();
        (status["connections"] == 2).then_some(())
    });
    client.request("GET", "/health", &[("Connection", "close")], b"");
    assert_eq!(client.answer().header("connection"), Some("close"));
    client.assert_closed();
}

/// A connection that nobody uses is closed, without a word that could be taken for an answer.
#[test]
fn idle_connections_are_closed() {
    let gateway = Gateway::start(json!({ "limits": { "idleSeconds": 0.2 } }));
    let mut client = gateway.connect();
    for _ in 0..2 {
        client.request("GET", "/health", &[], b"");
        assert_eq!(client.answer().status, 200);
    }
    client.assert_closed();
}

/// A client of HTTP/1.0 knows no chunks: its stream ends with the connection.
#[test]
fn a_stream_for_http_1_0_ends_with_its_connection() {
    let gateway = Gateway::start(json!({}));
    let mut client = gateway.connect();
    let body = r#"{"message":"canary","stream":true}"#;
    client.send(format!(
        "POST /api/chat HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let events = Events::begin(client);
    assert_eq!(events.head.header("transfer-encoding"), None);
    let (text, last) = events.finish();
    assert_eq!((text.as_str(), &last["type"]), ("canary", &json!("done")));
}

#[test]
fn what_cannot_be_a_message_is_refused_with_its_code() {
    let gateway = Gateway::start(json!({ "limits": { "textBytesMax": 100 } }));
    let table = [
        (json!({}), 400, "MISSING_FIELD"),
        (json!({ "message": 5 }), 400, "MISSING_FIELD"),
        (json!({ "message": "canary", "stream": "yes" }), 400, "MISSING_FIELD"),
        (json!({ "message": "" }), 400, "TEXT_EMPTY"),
        (json!({ "message": " \n\t" }), 400, "TEXT_EMPTY"),
        (json!({ "message": "canary", "sessionId": "a\nb" }), 400, "INVALID_SESSION"),
        (json!({ "message": "canary", "sessionId": "x".repeat(129) }), 400, "INVALID_SESSION"),
        (json!({ "message": "canary", "channel": "telegram" }), 404, "NOT_FOUND"),
        (json!({ "message": "canary", "agent": "nobody" }), 404, "NOT_FOUND"),
        (json!({ "message": "x".repeat(101) }), 413, "TOO_LARGE"),
        (json!({ "message": "canary", "id": "x".repeat(257) }), 413, "TOO_LARGE"),
    ];
    for (body, status, code) in table {
        for stream in [false, true] {
            let mut body = body.clone();
            if body.get("stream").is_none() {
                body["stream"] = json!(stream);
            }
            assert_eq!(gateway.post("/api/chat", &body).refusal(), (status, code.to_owned()), "{body}");
        }
    }
    for (media, status, code) in
        [("text/plain", 415, "BAD_MEDIA_TYPE"), ("application/json; charset=utf-8", 400, "BAD_JSON")]
    {
        let answer = gateway.call("POST", "/api/chat", &[("content-type", media)], b"{canary");
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{media}");
    }
}

/// The client's own id of a message: what was sent twice is answered once.
#[test]
fn a_repeated_id_is_refused() {
    let gateway = Gateway::start(json!({}));
    let body = json!({ "message": "canary", "sessionId": "s", "id": "order-7" });
    assert_eq!(gateway.post("/api/chat", &body).status, 200);
    assert_eq!(gateway.post("/api/chat", &body).refusal(), (409, "DUPLICATE".to_owned()));
    let other = json!({ "message": "canary", "sessionId": "s", "id": "order-8" });
    assert_eq!(gateway.post("/api/chat", &other).status, 200);
}
