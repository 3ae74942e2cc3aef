//! `/ws`: the client protocol, message by message (row A4). What breaks the protocol stands in `hostile.rs`.
use crate::peers::ask_until;
use crate::peers::gateway::Gateway;
use crate::peers::model::Model;
use crate::peers::server::After;
use crate::peers::socket::{Heard, Socket, frame, read_frame, upgrade_raw};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

const KEY: &str = "canary-key-of-an-admin";

/// A gateway whose clients must show a key: `ana` may chat, `root` may do everything.
fn with_keys() -> Gateway {
    Gateway::start(json!({
        "keys": [
            { "id": "root", "user": "admin", "key": KEY, "scopes": ["chat", "read", "admin"] },
            { "id": "ana", "key": "canary-key-of-ana" },
            { "id": "ben", "key": "canary-key-of-ben" },
        ],
    }))
}

#[test]
fn the_pages_messages_work_word_for_word() {
    let gateway = with_keys();
    let mut socket = gateway.socket();
    let mut say = |text: &'static str| socket.send(Message::text(text));
    say(r#"{"type": "auth", "token": "canary-key-of-an-admin"}"#);
    say(r#"{"type": "message", "channel": "api", "content": "Hello", "sessionId": "s1"}"#);
    say(r#"{"type": "ping"}"#);
    say(r#"{"type": "subscribe", "events": ["message", "status"]}"#);
    assert_eq!(socket.next(), json!({ "type": "auth_ok", "user": "admin" }));
    let (mut answer, mut pong) = (Vec::new(), None);
    while answer.len() < 2 || pong.is_none() {
        let message = socket.next();
        if message["type"] == "pong" { pong = Some(message) } else { answer.push(message) }
    }
    assert_eq!(pong, Some(json!({ "type": "pong" })));
    assert_eq!(answer[0], json!({ "type": "chunk", "content": "Hello", "sessionId": "s1", "seq": 1 }));
    assert_eq!((&answer[1]["type"], &answer[1]["sessionId"]), (&json!("done"), &json!("s1")));
    let usage = answer[1]["usage"].as_object().unwrap();
    assert!(usage.contains_key("totalTokens"), "{usage:?}");
    socket.send(Message::text(r#"{"type":"message","content":"x","sessionId":"a\u0000b"}"#));
    let error =
        ask_until("an error comes", || Some(socket.next()).filter(|message| message["type"] == "error"));
    assert_eq!(error["code"], "INVALID_SESSION");
    assert!(error["message"].is_string());
}

#[test]
fn an_answer_may_come_whole() {
    let gateway = Gateway::start(json!({ "models": { "echo": { "provider": "echo", "words": true } } }));
    let mut socket = gateway.socket();
    let text = "the canary sings a song";
    socket.say(json!({ "type": "message", "content": text, "sessionId": "s", "id": "1", "stream": false }));
    let whole = json!({ "type": "message", "content": text, "sessionId": "s", "id": "1" });
    assert_eq!(socket.next(), whole);
    let done = socket.next();
    assert_eq!((&done["type"], &done["id"], &done["model"]), (&json!("done"), &json!("1"), &json!("echo")));
    // The same streamed: in pieces, numbered, and the same text.
    let reply = socket.ask("s", text);
    assert_eq!((reply.text().as_str(), reply.chunks.len()), (text, 5));
    assert_eq!(reply.end["type"], "done");
}

#[test]
fn text_and_binary_frames_whole_and_in_fragments() {
    let gateway = Gateway::start(json!({}));
    let mut socket = gateway.socket();
    let content = "canary ✓ é 😀";
    let message = json!({ "type": "message", "content": content, "sessionId": "s" }).to_string();
    let bytes = message.as_bytes();
    socket.send(Message::binary(message.clone().into_bytes()));
    assert_eq!(socket.reply("s", "").text(), content);
    for (kind, step) in [(Data::Text, 1), (Data::Text, 7), (Data::Binary, 3), (Data::Text, bytes.len() - 1)] {
        let pieces: Vec<&[u8]> = bytes.chunks(step).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let opcode = OpCode::Data(if at == 0 { kind } else { Data::Continue });
            let last = at + 1 == pieces.len();
            socket.send(Message::Frame(Frame::message(piece.to_vec(), opcode, last)));
            if at == 0 {
                // Control frames may stand between fragments, and are answered at once.
                socket.send(Message::Ping("between".into()));
                assert_eq!(socket.hear(), Heard::Pong(b"between".to_vec()));
            }
        }
        assert_eq!(socket.reply("s", "").text(), content, "in pieces of {step}");
    }
}

#[test]
fn the_close_handshake_is_answered() {
    let gateway = Gateway::start(json!({}));
    let mut client = gateway.connect();
    upgrade_raw(&mut client);
    client.send(frame(0x88, &[&4_001u16.to_be_bytes()[..], b"bye"].concat()));
    let (mut stream, _, rest) = client.into_stream();
    assert_eq!(rest, b"");
    let (first, payload) = read_frame(&mut stream).unwrap();
    assert_eq!((first, &payload[..2]), (0x88, &4_001u16.to_be_bytes()[..]));
    assert_eq!(read_frame(&mut stream), None, "and the connection ends");
}

/// A receipt comes once the message is on disk, which the answer does not wait for.
#[test]
fn ids_are_echoed_and_a_receipt_comes_once_it_is_on_disk() {
    let gateway = Gateway::start(json!({}));
    let mut socket = gateway.socket();
    let message = json!({
        "type": "message", "content": "canary", "sessionId": "s", "id": "m-1", "receipt": true,
    });
    socket.say(message.clone());
    let accepted = json!({ "type": "accepted", "id": "m-1", "sessionId": "s", "duplicate": false });
    let heard: Vec<Value> = (0..3).map(|_| socket.next()).collect();
    assert_eq!(heard.iter().filter(|message| **message == accepted).count(), 1, "{heard:?}");
    let said: Vec<_> = heard.iter().filter(|message| **message != accepted).collect();
    assert_eq!((&said[0]["content"], &said[1]["type"]), (&json!("canary"), &json!("done")), "{heard:?}");
    // Sent again, here or elsewhere, it is known: no model is asked, and the same answer is said.
    let repeated = json!({ "type": "accepted", "id": "m-1", "sessionId": "s", "duplicate": true });
    let mut other = gateway.socket();
    for socket in [&mut socket, &mut other] {
        socket.say(message.clone());
        assert_eq!(socket.next(), repeated);
        assert_eq!(socket.reply("s", "m-1").text(), "canary");
    }
    // Who wants no receipt is only told that it was taken before.
    let mut third = gateway.socket();
    third.say(json!({ "type": "message", "content": "canary", "sessionId": "s", "id": "m-1" }));
    assert_eq!(third.next(), repeated);
    third.say(json!({ "type": "ping", "id": "p" }));
    assert_eq!(third.next(), json!({ "type": "pong", "id": "p" }), "nothing came in between");
    assert_eq!(gateway.metric("clawgate_messages_duplicate_total", ""), 3);
}

/// Messages without a session are one conversation of their connection.
#[test]
fn a_connection_has_a_session_of_its_own() {
    let gateway = Gateway::start(json!({}));
    let mut names = HashSet::new();
    for _ in 0..2 {
        let mut socket = gateway.socket();
        for _ in 0..2 {
            socket.say(json!({ "type": "message", "content": "canary" }));
            let chunk = socket.next();
            names.insert(chunk["sessionId"].as_str().unwrap().to_owned());
            assert_eq!(socket.next()["type"], "done");
        }
    }
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn who_does_not_authenticate_in_time_is_closed() {
    let gateway = Gateway::start(json!({
        "keys": [{ "id": "ana", "key": "canary-key-of-ana" }],
        "limits": { "authSeconds": 0.3 },
    }));
    let mut silent = gateway.socket();
    let mut talkative = gateway.socket();
    let mut good = gateway.socket();
    assert_eq!(good.authenticate("canary-key-of-ana")["type"], "auth_ok");
    for message in [
        json!({ "type": "message", "content": "canary", "sessionId": "s", "id": "1" }),
        json!({ "type": "subscribe", "events": ["status"] }),
        json!({ "type": "stop", "sessionId": "s" }),
    ] {
        talkative.say(message);
        assert_eq!(talkative.next()["code"], "UNAUTHENTICATED");
    }
    // It may ask whether we live; that does not count as authentication.
    talkative.say(json!({ "type": "ping" }));
    assert_eq!(talkative.next()["type"], "pong");
    for socket in [&mut silent, &mut talkative] {
        assert_eq!(socket.closed(), Some((4_401, "AUTH_TIMEOUT".to_owned())));
    }
    assert_eq!(good.ask("s", "canary").text(), "canary", "who has is left alone");
}

#[test]
fn a_wrong_token_closes_the_connection() {
    let gateway = with_keys();
    for token in ["", "canary-key-of-an", "canary-key-of-an-admin ", "Canary-key-of-an-admin"] {
        let mut socket = gateway.socket();
        assert_eq!(socket.authenticate(token)["code"], "UNAUTHENTICATED", "{token:?}");
        assert_eq!(socket.closed(), Some((4_501, "UNAUTHENTICATED".to_owned())), "{token:?}");
    }
}

/// Order inside a session, whichever connections its messages come by, and each answered exactly once.
#[test]
fn messages_of_a_session_keep_their_order() {
    const EACH: usize = 40;
    let gateway = Gateway::start(json!({
        "agents": { "main": { "models": ["echo"], "history": true } },
        "limits": { "sessionWaitingMax": 1000, "historyMessagesMax": 1000 },
    }));
    let mut sockets: Vec<Socket> = (0..3).map(|_| gateway.socket()).collect();
    for number in 0..EACH {
        for (at, socket) in sockets.iter_mut().enumerate() {
            let id = format!("{at}-{number}");
            let content = format!("canary {id}");
            socket.write(json!({ "type": "message", "content": content, "sessionId": "one", "id": id }));
            if number % 8 == 7 {
                socket.flush();
            }
        }
    }
    for (at, socket) in sockets.iter_mut().enumerate() {
        for number in 0..EACH {
            let id = format!("{at}-{number}");
            let reply = socket.reply("one", &id);
            assert_eq!((reply.text(), &reply.end["type"]), (format!("canary {id}"), &json!("done")));
        }
    }
    let session = gateway.get("/api/sessions/one").json();
    let history = session["data"]["history"].as_array().unwrap();
    assert_eq!(history.len(), 2 * 3 * EACH);
    let mut next: HashMap<String, usize> = HashMap::new();
    for pair in history.chunks(2) {
        // One turn after the other: question and answer stand together.
        assert_eq!((&pair[0]["role"], &pair[1]["role"]), (&json!("user"), &json!("assistant")));
        assert_eq!(pair[0]["content"], pair[1]["content"]);
        let text = pair[0]["content"].as_str().unwrap();
        let (connection, number) = text.trim_start_matches("canary ").split_once('-').unwrap();
        let expected = next.entry(connection.to_owned()).or_default();
        assert_eq!(number.parse(), Ok(*expected), "of connection {connection}");
        *expected += 1;
    }
}

/// A connection goes to the core of the session that it first speaks in; what it has sent already goes along.
#[test]
fn connections_move_to_their_session() {
    let gateway = Gateway::start(json!({}));
    let mut sockets: Vec<Socket> = (0..32).map(|_| gateway.socket()).collect();
    for (at, socket) in sockets.iter_mut().enumerate() {
        let session = format!("session-{at}");
        for number in 0..3 {
            let content = format!("canary {number}");
            socket.write(json!({ "type": "message", "content": content, "sessionId": session }));
        }
        // All three in one write: the first decides, the others are on their way already.
        socket.flush();
    }
    for (at, socket) in sockets.iter_mut().enumerate() {
        for number in 0..3 {
            let reply = socket.reply(&format!("session-{at}"), "");
            assert_eq!(reply.text(), format!("canary {number}"), "{reply:?}");
        }
    }
    let moved = gateway.metric("clawgate_connections_moved_total", "");
    assert!((1..32).contains(&moved), "{moved} of 32 moved: with two cores, some must and some need not");
    assert_eq!(gateway.metric("clawgate_messages_crossed_total", ""), 0, "nobody had to cross");
    for (at, socket) in sockets.iter_mut().enumerate() {
        assert_eq!(socket.ask(&format!("session-{at}"), "canary again").text(), "canary again");
    }
    assert_eq!(gateway.metric("clawgate_connections_moved_total", ""), moved, "once is enough");
    gateway.await_status("connections", 33);
}

#[test]
fn one_connection_reaches_the_sessions_of_all_cores() {
    let gateway = Gateway::start(json!({}));
    let mut socket = gateway.socket();
    for at in 0..64 {
        let content = format!("canary {at}");
        let session = format!("s{}", at % 16);
        socket.write(
            json!({ "type": "message", "content": content, "sessionId": session, "id": at.to_string() }),
        );
    }
    socket.flush();
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut done = 0;
    while done < 64 {
        let message = socket.next();
        let id: u64 = message["id"].as_str().unwrap().parse().unwrap();
        match message["type"].as_str().unwrap() {
            "chunk" => assert_eq!(message["content"], format!("canary {id}")),
            "done" => {
                let session = message["sessionId"].as_str().unwrap().to_owned();
                let before = last.insert(session, id);
                assert!(before.is_none_or(|before| before < id), "in order inside a session");
                done += 1;
            }
            other => panic!("{other}: {message}"),
        }
    }
    let crossed = gateway.metric("clawgate_messages_crossed_total", "");
    assert!((1..64).contains(&crossed), "{crossed} crossed");
    let shards = gateway.get("/health/detailed").json();
    let sessions: Vec<u64> = shards["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| shard["sessions"].as_u64().unwrap())
        .collect();
    assert_eq!(sessions.iter().sum::<u64>(), 16);
    assert!(sessions.iter().all(|count| 0 < *count), "both shards have some: {sessions:?}");
}

#[test]
fn an_answer_can_be_stopped() {
    let model = Model::start(|asked, speech| {
        speech.begin();
        if asked.json()["messages"].to_string().contains("short") {
            speech.token("canary short");
            speech.finish("stop");
            speech.done();
            return After::Keep;
        }
        speech.token("canary long");
        speech.fall_silent()
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"], "history": false } },
    }));
    let mut socket = gateway.socket();
    for (stop, round) in
        [(json!({ "type": "stop", "sessionId": "s" }), 1), (json!({ "type": "stop", "id": "m2" }), 2)]
    {
        let id = format!("m{round}");
        socket.say(json!({ "type": "message", "content": "long", "sessionId": "s", "id": id }));
        assert_eq!(socket.next()["content"], "canary long");
        socket.say(stop);
        let end = socket.next();
        assert_eq!(
            (&end["type"], &end["code"], &end["id"]),
            (&json!("error"), &json!("CANCELLED"), &json!(id))
        );
        model.seen.wait("the call is aborted", |seen| (seen.left.len() == round).then_some(()));
        // The session goes on.
        assert_eq!(socket.ask("s", "short").text(), "canary short");
    }
    gateway.await_status("running", 0);
}

/// A `stop` right behind its message reaches the turn even where that is still on its way to another core.
#[test]
fn a_stop_is_not_faster_than_its_message() {
    let model = Model::start(|_, speech| {
        speech.begin();
        speech.token("canary");
        speech.fall_silent()
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})), "echo": { "provider": "echo" } },
        "agents": { "main": { "models": ["sim"] }, "echo": { "models": ["echo"] } }, "route": "main",
    }));
    let mut socket = gateway.socket();
    // The connection has its core; sessions of the other one are reached from there.
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "first", "agent": "echo" }));
    assert_eq!(socket.reply("first", "").text(), "canary");
    for at in 0..16 {
        let session = format!("s{at}");
        socket.write(
            json!({ "type": "message", "content": "canary", "sessionId": session, "id": at.to_string() }),
        );
        socket.write(json!({ "type": "stop", "sessionId": session }));
    }
    socket.flush();
    let mut cancelled = HashSet::new();
    while cancelled.len() < 16 {
        let message = socket.next();
        if message["type"] == "error" {
            assert_eq!(message["code"], "CANCELLED", "{message}");
            assert!(cancelled.insert(message["id"].as_str().unwrap().to_owned()), "only once: {message}");
        }
    }
    gateway.await_status("running", 0);
    socket.say(json!({ "type": "ping" }));
    assert_eq!(socket.next(), json!({ "type": "pong" }), "and nothing more comes");
}

/// Long messages arrive in many reads and leave in many writes, also as the first one of a connection that moves.
#[test]
fn long_messages_pass_whole() {
    let gateway = Gateway::start(json!({ "limits": { "textBytesMax": 600_000, "replyBytesMax": 600_000 } }));
    let long = "the canary sings and sings ".repeat(20_000);
    for at in 0..8 {
        let mut socket = gateway.socket();
        for _ in 0..2 {
            assert_eq!(socket.ask(&format!("s{at}"), &long).text(), long);
        }
    }
}

/// An answer of very many small pieces is no reason to give up a client that reads.
#[test]
fn many_small_pieces_are_all_delivered() {
    let gateway = Gateway::start(json!({
        "models": { "echo": { "provider": "echo", "words": true } }, "logging": { "level": "info" },
    }));
    let text = "a ".repeat(32_000);
    let mut socket = gateway.socket();
    for at in 0..4 {
        let reply = socket.ask(&format!("s{at}"), &text);
        assert_eq!((reply.text().len(), &reply.end["type"]), (text.len(), &json!("done")));
    }
}

#[test]
fn a_client_that_leaves_ends_its_calls() {
    let model = Model::start(|_, speech| {
        speech.begin();
        speech.token("canary");
        speech.fall_silent()
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    }));
    // On both shards, so that the news must also reach the other core.
    let mut socket = gateway.socket();
    for at in 0..8 {
        socket.say(json!({ "type": "message", "content": "canary", "sessionId": format!("s{at}") }));
    }
    for _ in 0..8 {
        assert_eq!(socket.next()["content"], "canary");
    }
    drop(socket);
    let left =
        model.seen.wait("the calls are aborted", |seen| (seen.left.len() == 8).then(|| seen.left.clone()));
    assert_eq!(left, [1; 8]);
    gateway.await_status("running", 0);
    gateway.await_status("connections", 1);
}

/// `subscribe` to `message`: complete messages and replies. To `status`: what changes its state.
#[test]
fn listeners_hear_of_the_sessions_that_they_may_see() {
    let gateway = with_keys();
    let listen = |key: &str, events: Value| {
        let mut socket = gateway.socket();
        socket.authenticate(key);
        socket.say(json!({ "type": "subscribe", "events": events }));
        socket.say(json!({ "type": "ping" }));
        assert_eq!(socket.next()["type"], "pong");
        socket
    };
    let mut all = listen(KEY, json!(["message", "status"]));
    let mut messages = listen(KEY, json!(["message"]));
    let mut own = listen("canary-key-of-ana", json!(["message"]));
    let mut foreign = listen("canary-key-of-ben", json!(["message", "status"]));
    let mut ana = gateway.socket();
    ana.authenticate("canary-key-of-ana");
    assert_eq!(ana.ask("s", "the canary sings").text(), "the canary sings");
    for socket in [&mut messages, &mut own] {
        for (event, content) in [
            ("message.received", json!("the canary sings")),
            ("response.generated", json!("the canary sings")),
            ("response.delivered", Value::Null),
        ] {
            let heard = socket.next();
            assert_eq!((&heard["type"], &heard["event"]), (&json!("event"), &json!(event)));
            assert_eq!((&heard["sessionId"], &heard["channel"]), (&json!("api:ana:s"), &json!("api")));
            assert_eq!((&heard["peer"], &heard["content"]), (&json!("ana"), &content), "{heard}");
            crate::peers::time::unix_seconds(heard["timestamp"].as_str().unwrap());
        }
    }
    let mut heard = Vec::new();
    while !heard.iter().any(|event| event == "response.delivered") {
        heard.push(all.next()["event"].as_str().unwrap().to_owned());
    }
    for event in ["session.created", "message.received", "message.routed", "response.generated"] {
        assert!(heard.iter().any(|heard| heard == event), "{event} is missing: {heard:?}");
    }
    // Whoever has heard enough says so.
    messages.say(json!({ "type": "unsubscribe", "events": ["message"] }));
    messages.say(json!({ "type": "ping" }));
    assert_eq!(messages.next()["type"], "pong");
    ana.ask("s", "canary once more");
    assert_eq!(own.next()["content"], "canary once more");
    // Others' sessions are none of a plain key's business.
    for socket in [&mut messages, &mut foreign] {
        socket.say(json!({ "type": "ping" }));
        assert_eq!(socket.next(), json!({ "type": "pong" }), "and nothing before it");
    }
}

/// A peer that answers no heartbeat is dead, and dropped; one that does lives on.
#[test]
fn dead_peers_are_dropped() {
    let gateway = Gateway::start(json!({ "limits": { "heartbeatSeconds": 0.1, "missedHeartbeatsMax": 2 } }));
    let mut client = gateway.connect();
    upgrade_raw(&mut client);
    let (mut stream, _, _) = client.into_stream();
    let mut pings = 0;
    while let Some((first, payload)) = read_frame(&mut stream) {
        assert_eq!((first, payload.as_slice()), (0x89, &b""[..]), "only pings come");
        pings += 1;
    }
    assert!((2..=4).contains(&pings), "{pings} pings before it was given up");
    assert_eq!(gateway.metric("clawgate_dead_peers_total", ""), 1);
    let mut alive = gateway.socket();
    for _ in 0..6 {
        assert_eq!(alive.hear(), Heard::Ping);
    }
    assert_eq!(alive.ask("s", "canary").text(), "canary");
    assert_eq!(gateway.metric("clawgate_dead_peers_total", ""), 1);
}

/// An agent that is not the default one can be asked for.
#[test]
fn a_message_may_name_its_agent() {
    let gateway = Gateway::start_default();
    let mut socket = gateway.socket();
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s", "agent": "demo" }));
    let reply = socket.reply("s", "");
    assert!(reply.text().contains("“canary”"), "{reply:?}");
    assert_eq!(reply.end["model"], "demo");
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s", "agent": "nobody" }));
    assert_eq!(socket.next()["code"], "NOT_FOUND");
}
