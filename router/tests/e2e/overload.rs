//! Full: each bound that is reached is an answer, with the time to come back, and nothing that was taken is dropped.
use crate::peers::gateway::{Gateway, command_with_descriptors, new_folder, whole};
use crate::peers::model::Model;
use crate::peers::server::After;
use crate::peers::telegram::{SECRET, Telegram, private};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// An agent that answers one at a time, when the test lets it, with so many places to wait.
fn busy(model: &Model, waiting: u32, more: Value) -> Gateway {
    let mut config = json!({
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"], "runningMax": 1, "waitingMax": waiting, "history": false } },
    });
    crate::peers::gateway::merge(&mut config, more);
    Gateway::start(config)
}

/// A message of its own session, with its number as id.
fn say(at: usize) -> Value {
    json!({ "type": "message", "content": "canary", "sessionId": format!("s{at}"), "id": at.to_string() })
}

#[test]
fn a_full_agent_says_when_to_come_back() {
    let model = Model::held(1);
    let telegram = Telegram::start();
    let gateway = busy(&model, 2, json!({ "channels": { "telegram": telegram.config(json!({})) } }));
    let mut socket = gateway.socket();
    socket.say(say(0));
    model.await_asked(1);
    for at in 1..3 {
        socket.say(say(at));
    }
    gateway.await_status("waiting", 2);
    // Every door says so in its own way.
    socket.say(say(3));
    let refused = socket.next();
    assert_eq!(
        (&refused["type"], &refused["code"], &refused["id"]),
        (&json!("error"), &json!("AGENT_BUSY"), &json!("3"))
    );
    assert!(0 < refused["retryAfter"].as_u64().unwrap(), "{refused}");
    for stream in [false, true] {
        let answer = gateway.post("/api/chat", &json!({ "message": "canary", "stream": stream }));
        assert_eq!(answer.refusal(), (503, "AGENT_BUSY".to_owned()));
        assert!(0 < answer.number("retry-after"));
    }
    let headers = [("X-Telegram-Bot-Api-Secret-Token", SECRET)];
    let update = private(1, 77, "canary by telegram").to_string();
    let post = || gateway.call("POST", "/webhooks/telegram", &headers, update.as_bytes());
    let answer = post();
    assert_eq!(answer.status, 503);
    assert!(0 < answer.number("retry-after"));
    assert_eq!(gateway.metric("clawgate_refused_total", "AGENT_BUSY"), 4);
    gateway.assert_well();
    // What was taken is answered, and what was refused can come again: it is not held for a repetition.
    model.release(1);
    let done: BTreeSet<String> = (0..3)
        .map(|_| {
            assert_eq!(socket.next()["type"], "chunk");
            socket.next()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(done, BTreeSet::from(["0", "1", "2"].map(str::to_owned)));
    assert_eq!(post().status, 200);
    assert_eq!(telegram.await_posts(1)[0].text, "word0");
    socket.say(say(3));
    assert_eq!(socket.reply("s3", "3").text(), "word0 ");
}

#[test]
fn a_full_session_says_when_to_come_back() {
    let model = Model::held(1);
    let gateway = busy(&model, 100, json!({ "limits": { "sessionWaitingMax": 2 } }));
    let mut socket = gateway.socket();
    for at in 0..4 {
        socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s", "id": at.to_string() }));
    }
    let refused = socket.next();
    assert_eq!((&refused["id"], &refused["code"]), (&json!("3"), &json!("SESSION_FULL")));
    assert!(0 < refused["retryAfter"].as_u64().unwrap());
    let answer = gateway.post("/api/chat", &json!({ "message": "canary", "sessionId": "s" }));
    assert_eq!(answer.refusal(), (429, "SESSION_FULL".to_owned()));
    // Another session is not full.
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "other", "id": "5" }));
    model.release(1);
    for _ in 0..4 {
        assert_eq!(socket.next()["type"], "chunk");
        assert_eq!(socket.next()["type"], "done");
    }
}

#[test]
fn a_full_gateway_says_when_to_come_back() {
    let model = Model::held(1);
    let gateway = busy(&model, 100, json!({ "limits": { "turnsMax": 3 } }));
    let mut socket = gateway.socket();
    for at in 0..3 {
        socket.say(json!({ "type": "message", "content": "canary", "sessionId": format!("s{at}") }));
    }
    gateway.await_status("waiting", 2);
    let answer = gateway.post("/api/chat", &json!({ "message": "canary" }));
    assert_eq!(answer.refusal(), (503, "BUSY".to_owned()));
    assert!(0 < answer.number("retry-after"));
    model.release(1);
    for _ in 0..3 {
        assert_eq!(socket.next()["type"], "chunk");
        assert_eq!(socket.next()["type"], "done");
    }
    assert_eq!(gateway.post("/api/chat", &json!({ "message": "canary" })).status, 200);
}

#[test]
fn who_waited_too_long_is_told() {
    let model = Model::held(1);
    let gateway = busy(&model, 100, json!({ "limits": { "waitingSeconds": 0.3 } }));
    let mut socket = gateway.socket();
    for at in 0..3 {
        socket.say(say(at));
    }
    let codes: Vec<Value> = (0..2).map(|_| socket.next()["code"].take()).collect();
    assert_eq!(codes, ["WAITED_TOO_LONG", "WAITED_TOO_LONG"]);
    model.release(1);
    assert_eq!(socket.next()["type"], "chunk");
    assert_eq!(socket.next()["type"], "done");
}

/// A burst clogs its client and is written at the end of the same turn of the loop. The core once heard of the room
/// before it heard that there was none, and the model stayed paused until its client was given up.
#[test]
fn room_after_a_burst_is_heard_of() {
    let model = Model::start(|_, speech| {
        speech.begin();
        let long = "canary ".repeat(100);
        for _ in 0..64 {
            speech.token(&long);
        }
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
        "limits": { "outboxHighBytes": 1_024, "slowClientSeconds": 5 },
    }));
    let mut socket = gateway.socket();
    for at in 0..8 {
        let reply = socket.ask(&format!("s{at}"), "canary");
        assert_eq!((reply.text().len(), &reply.end["type"]), (64 * 700, &json!("done")));
    }
}

/// More calls than there may be connections to a model wait for one another; none fails for it.
#[test]
fn calls_wait_for_connections() {
    let model = Model::held(1);
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1 } },
        "limits": { "upstreamConnectionsMax": 4 },
    }));
    let mut socket = gateway.socket();
    for at in 0..20 {
        socket.say(say(at));
    }
    model.await_asked(4);
    assert_eq!(model.server.connections(), 4);
    model.release(1);
    let mut said = 0;
    let mut done = BTreeSet::new();
    while done.len() < 20 {
        let message = socket.next();
        match message["type"].as_str().unwrap() {
            "chunk" => said += 1,
            "done" => {
                assert!(done.insert(message["id"].as_str().unwrap().to_owned()), "only once: {message}")
            }
            _ => panic!("{message}"),
        }
    }
    assert_eq!(said, 20);
}

/// When the memory for sessions is full, the one that was idle for longest makes room.
#[test]
fn the_longest_idle_session_makes_room() {
    let gateway = Gateway::start(json!({ "server": { "shards": 1 }, "limits": { "sessionsMax": 5 } }));
    for at in 0..8 {
        let answer =
            gateway.post("/api/chat", &json!({ "message": "canary", "sessionId": format!("s{at}") }));
        assert_eq!(answer.status, 200);
    }
    assert_eq!(gateway.status()["sessions"], 5);
    assert_eq!(gateway.metric("clawgate_sessions_evicted_total", ""), 3);
}

#[test]
fn too_many_connections_are_told_so() {
    for limit in ["connectionsMax", "connectionsPerAddressMax"] {
        let gateway = Gateway::start(json!({ "limits": { limit: 3 } }));
        let mut kept: Vec<_> = (0..3).map(|_| gateway.socket()).collect();
        let mut refused = gateway.connect();
        let answer = refused.answer();
        assert_eq!(answer.status, 503, "{limit}");
        assert_eq!(answer.json()["error"]["code"], "TOO_MANY_CONNECTIONS");
        assert!(0 < answer.number("retry-after"));
        refused.assert_closed();
        for (at, socket) in kept.iter_mut().enumerate() {
            assert_eq!(socket.ask(&format!("s{at}"), "canary").text(), "canary", "the others go on");
        }
        drop(kept.pop());
        // A place that was given back can be taken.
        crate::peers::ask_until("there is room again", || {
            let mut client = gateway.connect();
            client.request("GET", "/health", &[], b"");
            (client.try_head().is_some_and(|head| head.status == 200)).then_some(())
        });
    }
}

/// A gateway that gave its last descriptors to clients could not make the journal's next file, and acknowledged nothing.
#[test]
fn clients_leave_descriptors_to_the_journal() {
    const MESSAGES: u64 = 120;
    let telegram = Telegram::start();
    let folder = new_folder();
    let config = json!({
        "channels": { "telegram": telegram.config(json!({})) },
        "data": { "folder": "data" },
        "journal": { "segmentBytes": 131_072, "diskBytesMax": 16_777_216 },
        "limits": { "connectionsPerAddressMax": 0 },
    });
    std::fs::write(folder.join("clawgate.json"), whole(config)).unwrap();
    let gateway = Gateway::begin_by(command_with_descriptors(&folder, 96), folder).serving();
    let mut kept = Vec::new();
    let refused = loop {
        let mut client = gateway.connect();
        client.request("GET", "/health", &[], b"");
        let answer = client.answer();
        if answer.status != 200 {
            break answer.refusal();
        }
        kept.push(client);
    };
    assert_eq!(refused, (503, "TOO_MANY_CONNECTIONS".to_owned()));
    assert!(8 <= kept.len(), "{} got in", kept.len());
    let text = "canary ".repeat(500);
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    for at in 0..MESSAGES {
        let client = &mut kept[0];
        let user = 100 + i64::try_from(at).unwrap();
        client.request(
            "POST",
            "/webhooks/telegram",
            &headers,
            private(at, user, &text).to_string().as_bytes(),
        );
        assert_eq!(client.answer().status, 200, "message {at} is acknowledged");
    }
    assert_eq!(telegram.await_posts(MESSAGES as usize).len(), MESSAGES as usize);
    kept.clear();
    gateway.await_status("connections", 1);
    assert!(1 <= gateway.metric("clawgate_descriptors_refused_total", ""));
    assert!(6 <= gateway.metric("clawgate_journal_segments_begun_total", ""), "files were made meanwhile");
}

/// Classes: who is in a hurry overtakes, and nobody starves.
#[test]
fn important_messages_overtake() {
    let model = Model::held(1);
    let gateway = busy(
        &model,
        100,
        json!({
            "server": { "shards": 1 },
            "keys": [
                { "id": "low", "key": "canary-key-of-the-low", "class": "low", "scopes": ["chat", "read"] },
                { "id": "vip", "key": "canary-key-of-the-vip", "class": "vip" },
            ],
        }),
    );
    let mut low = gateway.socket();
    low.authenticate("canary-key-of-the-low");
    let mut vip = gateway.socket();
    vip.authenticate("canary-key-of-the-vip");
    let say = |text: String| json!({ "type": "message", "content": text, "sessionId": text });
    low.say(say("canary first".to_owned()));
    model.await_asked(1);
    for at in 0..20 {
        low.say(say(format!("canary low {at}")));
    }
    let waiting = |count: u64| {
        crate::peers::ask_until("they wait", || {
            let headers = [("authorization", "Bearer canary-key-of-the-low")];
            (gateway.call("GET", "/api/status", &headers, b"").json()["data"]["waiting"] == count)
                .then_some(())
        });
    };
    waiting(20);
    for at in 0..20 {
        vip.say(say(format!("canary vip {at}")));
    }
    waiting(40);
    model.release(1);
    model.await_asked(41);
    let asked: Vec<String> = model
        .bodies()
        .iter()
        .map(|body| {
            body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned()
        })
        .collect();
    let place = |text: &str| asked.iter().position(|asked| asked == text).unwrap();
    assert!(place("canary vip 19") < place("canary low 9"), "the hurried came first: {asked:?}");
    assert!(place("canary low 0") < place("canary vip 19"), "and the others were not forgotten: {asked:?}");
    for socket in [&mut low, &mut vip] {
        assert_eq!(socket.next()["type"], "chunk");
    }
}

/// What a client of the flood heard: ids that were answered, and ids that were refused.
type Heard = (BTreeSet<String>, BTreeSet<String>);

/// Says so many messages of sessions of their own, and hears all that comes of them.
fn flood(gateway: &Gateway, name: &str, count: usize) -> Heard {
    let mut socket = gateway.socket();
    socket.authenticate("canary-key-of-the-many");
    for at in 0..count {
        let id = format!("{name}-{at}");
        socket.say(json!({ "type": "message", "content": id, "sessionId": id, "id": id, "stream": false }));
    }
    let (mut answered, mut refused) = Heard::default();
    while answered.len() + refused.len() < count {
        let said = socket.next();
        let id = said["id"].as_str().unwrap().to_owned();
        match said["type"].as_str().unwrap() {
            "message" => assert_eq!(said["content"], format!("so: {id}"), "each is answered with its own"),
            "done" => assert!(answered.insert(id), "{said} comes twice"),
            "error" => {
                assert_eq!(said["code"], "AGENT_BUSY");
                assert!(0 < said["retryAfter"].as_u64().unwrap(), "{said}");
                assert!(refused.insert(id), "{said} comes twice");
            }
            other => panic!("{other}: {said}"),
        }
    }
    (answered, refused)
}

/// Ten times as many as an agent can answer in the time for which people wait: what is accepted is answered, the rest is
/// told at once when to come back, whoever is in a hurry comes through, and memory stays flat.
#[test]
fn what_would_wait_too_long_is_refused_at_once() {
    const CLIENTS: usize = 8;
    const EACH: usize = 200;
    let gateway = Gateway::start(json!({
        "models": {
            "slow": { "provider": "scripted", "script": [{ "text": "so: {prompt}", "afterMillis": 20 }] },
        },
        "agents": { "main": {
            "models": ["slow"], "history": false,
            "runningMax": 4, "waitTargetMillis": 100, "waitingMax": 100_000,
        } },
        "keys": [
            {
                "id": "many", "key": "canary-key-of-the-many", "scopes": ["chat", "read"],
                "rate": { "requests": 0 },
            },
            { "id": "vip", "key": "canary-key-of-the-vip", "class": "vip" },
        ],
        "rate": { "address": { "requests": 0 } },
    }));
    let mut vip = gateway.socket();
    vip.authenticate("canary-key-of-the-vip");
    // From the first answer on the gateway knows how long a turn takes.
    assert_eq!(vip.ask("first", "first").text(), "so: first");
    let before = gateway.resident_bytes();
    let heard: Vec<Heard> = std::thread::scope(|scope| {
        let flood = |client: usize| flood(&gateway, &format!("c{client}"), EACH);
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || flood(client))).collect();
        for at in 0..10 {
            let text = format!("vip {at}");
            assert_eq!(vip.ask("vip", &text).text(), format!("so: {text}"), "no VIP is refused");
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    let answered: usize = heard.iter().map(|(answered, _)| answered.len()).sum();
    let refused: usize = heard.iter().map(|(_, refused)| refused.len()).sum();
    assert_eq!(answered + refused, CLIENTS * EACH, "nothing is lost");
    // How many is a matter of how fast this machine sends them.
    assert!(0 < refused && 20 < answered, "{answered} answered, {refused} refused");
    let headers = [("authorization", "Bearer canary-key-of-the-many")];
    let scaling = gateway.call("GET", "/api/v1/scaling", &headers, b"").json()["data"].take();
    let agent = &scaling["agents"][0];
    assert_eq!((&agent["name"], &agent["refused"]), (&json!("main"), &json!(refused)));
    assert_eq!((&agent["running"], &agent["waiting"]), (&json!(0), &json!(0)));
    assert_eq!((&agent["waitTargetMillis"], &agent["runningMax"]), (&json!(100), &json!(4)));
    assert_eq!((&scaling["desiredReplicas"], &scaling["load"]), (&json!(1), &json!(0.0)), "it is over");
}

/// The signals while there is more to do than places: by the endpoint, and by the metrics.
#[test]
fn an_autoscaler_is_told_what_is_needed() {
    let model = Model::held(1);
    let gateway = busy(&model, 100, json!({ "server": { "shards": 2 }, "limits": { "turnsMax": 10 } }));
    let mut socket = gateway.socket();
    for at in 0..4 {
        socket.say(say(at));
    }
    gateway.await_status("waiting", 3);
    let scaling = gateway.get("/api/scaling").json()["data"].take();
    let agent = &scaling["agents"][0];
    assert_eq!((&agent["running"], &agent["waiting"]), (&json!(1), &json!(3)));
    // Full, and with each moment that the model says nothing those that wait would wait longer.
    assert!(1.0 <= scaling["load"].as_f64().unwrap(), "{scaling}");
    assert!(2 <= scaling["desiredReplicas"].as_u64().unwrap(), "{scaling}");
    assert_eq!(scaling["shards"].as_array().unwrap().len(), 2);
    assert!(0.5 <= scaling["hottestShardShare"].as_f64().unwrap(), "{scaling}");
    assert_eq!(gateway.metric("clawgate_agent_waiting", "main"), 3);
    assert_eq!(gateway.metric("clawgate_agent_running", "main"), 1);
    assert!(2 <= gateway.metric("clawgate_desired_replicas", ""));
    assert!(100 <= gateway.metric("clawgate_load_percent", ""));
    model.release(1);
    for _ in 0..8 {
        socket.next();
    }
    assert_eq!(gateway.metric("clawgate_agent_refused_total", "main"), 0);
}
