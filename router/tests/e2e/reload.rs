//! Another configuration while everything runs (row G4): what runs goes on as it was started, what comes meets the new
//! one, and one that is not right changes nothing.
use crate::peers::ask_until;
use crate::peers::certificates::Certificate;
use crate::peers::gateway::{Gateway, command, merge, new_folder, whole};
use crate::peers::http::{Answer, Client};
use crate::peers::model::Model;
use crate::peers::server::{After, Server};
use crate::peers::socket::Socket;
use crate::peers::telegram::{SECRET, Telegram, private};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Reloads happen when the test asks for them, and at no other time.
fn by_signal(config: Value) -> Value {
    let mut all = json!({ "server": { "watch": false } });
    merge(&mut all, config);
    all
}

fn key(name: &str) -> String {
    format!("canary-key-of-{name}")
}

fn bearer(name: &str) -> String {
    format!("Bearer {}", key(name))
}

fn chat_as(gateway: &Gateway, name: &str) -> Answer {
    let bearer = bearer(name);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    gateway.call("POST", "/api/chat", &headers, br#"{"message":"canary"}"#)
}

fn socket_of(gateway: &Gateway, name: &str) -> Socket {
    Socket::open(gateway.address, "/ws", &[("authorization", &bearer(name))]).unwrap()
}

fn detailed(gateway: &Gateway) -> Value {
    gateway.get("/health/detailed").json()
}

#[test]
fn keys_come_and_go() {
    let keys = |list: Value| by_signal(json!({ "keys": list }));
    let gateway = Gateway::start(keys(json!([
        { "id": "ana", "key": key("ana") }, { "id": "ben", "key": key("ben") }, { "id": "cyd", "key": key("cyd") },
    ])));
    // Sessions of several names: the sockets live on both shards.
    let mut stays: Vec<_> = (0..4).map(|_| socket_of(&gateway, "ana")).collect();
    let mut goes: Vec<_> = (0..4).map(|_| socket_of(&gateway, "ben")).collect();
    let mut changes = socket_of(&gateway, "cyd");
    for (at, socket) in stays.iter_mut().chain(&mut goes).enumerate() {
        assert_eq!(socket.ask(&format!("s{at}"), "canary").text(), "canary");
    }
    assert_eq!(changes.ask("s", "canary").text(), "canary");
    let mut late = Socket::open(gateway.address, "/ws", &[]).unwrap();
    gateway.reload(
        keys(json!([
            { "id": "ana", "key": key("ana") },
            { "id": "cyd", "key": key("cyd"), "scopes": ["read"] },
            { "id": "dan", "key": key("dan") },
        ])),
        1,
    );
    for socket in &mut goes {
        assert_eq!(socket.closed(), Some((4_501, "UNAUTHENTICATED".to_owned())));
    }
    for (at, socket) in stays.iter_mut().enumerate() {
        assert_eq!(socket.ask(&format!("s{at}"), "canary again").text(), "canary again");
    }
    changes.say(json!({ "type": "message", "content": "canary", "sessionId": "s" }));
    assert_eq!(changes.next()["code"], "FORBIDDEN");
    // One that had not said who it is meets the new keys.
    assert_eq!(late.authenticate(&key("dan"))["type"], "auth_ok");
    for (name, status) in [("ana", 200), ("ben", 401), ("cyd", 403), ("dan", 200)] {
        assert_eq!(chat_as(&gateway, name).status, status, "{name}");
    }
    gateway.assert_well();
}

/// Reading the configuration again is no way to more requests than a rate allows.
#[test]
fn what_was_used_of_a_rate_stays_used() {
    let config = |others: u32| {
        let mut keys = vec![json!({
            "id": "ana", "key": key("ana"), "rate": { "requests": 3, "seconds": 2_000_000 },
        })];
        keys.extend((0..others).map(|n| json!({ "id": format!("o{n}"), "key": key(&format!("other{n}")) })));
        by_signal(json!({ "keys": keys }))
    };
    let gateway = Gateway::start(config(0));
    assert_eq!(chat_as(&gateway, "ana").number("x-ratelimit-remaining"), 2);
    gateway.reload(config(1), 1);
    assert_eq!(chat_as(&gateway, "ana").number("x-ratelimit-remaining"), 1);
    gateway.reload(config(2), 2);
    assert_eq!(chat_as(&gateway, "ana").number("x-ratelimit-remaining"), 0);
    gateway.reload(config(3), 3);
    assert_eq!(chat_as(&gateway, "ana").refusal(), (429, "RATE_LIMITED".to_owned()));
}

/// The file itself is watched: written in place, and replaced, as editors and deployments do.
#[test]
fn a_changed_file_is_noticed() {
    let gateway = Gateway::start(json!({}));
    let agents = |name: &str| {
        json!({
            "agents": { name: { "models": ["echo"] } }, "route": name,
            "models": { "echo": { "provider": "echo" } },
        })
    };
    gateway.rewrite(agents("first"));
    gateway.await_generation(1);
    assert_eq!(gateway.status()["agents"][0]["name"], "first");
    gateway.replace(&whole(agents("second")));
    gateway.await_generation(2);
    assert_eq!(gateway.status()["agents"][0]["name"], "second");
    // What is in the variables' file counts as well.
    let mut keyed = agents("third");
    merge(&mut keyed, json!({ "keys": [{ "id": "ana", "key": "${ANA}", "scopes": ["chat", "read"] }] }));
    std::fs::write(gateway.folder().join(".env"), format!("ANA={}\n", key("ana"))).unwrap();
    gateway.replace(&whole(keyed));
    gateway.await_line("in force generation=3");
    assert_eq!(chat_as(&gateway, "ana").status, 200);
    std::fs::write(gateway.folder().join(".env"), format!("ANA={}\n", key("another"))).unwrap();
    ask_until("the other key counts", || (chat_as(&gateway, "another").status == 200).then_some(()));
    assert_eq!(chat_as(&gateway, "ana").status, 401);
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let gateway = Gateway::start(json!({}));
    let model = Server::start(None, |_, _| After::Close);
    gateway.replace("{\n  \"agents\": { \"main\": { \"models\": [\"nobody\"], \"wings\": 2 } },\n}\n");
    // With file, line and column, as `clawgate check` does.
    let told = gateway.await_line("the last good configuration stays in force");
    assert!(told.contains("clawgate.json:2:"), "{told}");
    gateway.await_line("unknown key \"wings\"");
    assert_eq!(
        gateway.post("/api/chat", &json!({ "message": "canary" })).json()["data"]["message"],
        "canary"
    );
    let config = detailed(&gateway)["config"].take();
    assert_eq!((&config["status"], &config["generation"]), (&json!("refused"), &json!(0)));
    assert!(config["problems"].to_string().contains("clawgate.json:2:"), "{config}");
    assert_eq!(gateway.metric("clawgate_config_reloads_total", "outcome=\"failed\""), 1);
    // What cannot be read, and what cannot be compiled.
    gateway.replace("\u{0}");
    gateway.await_metric("clawgate_config_reloads_total", "outcome=\"failed\"", 2);
    let missing = format!("http://{}/v1", model.address);
    gateway.replace(&whole(json!({ "llm": {
        "provider": "openai-compatible", "baseUrl": missing, "model": "m", "caFile": "nowhere.pem",
    } })));
    gateway.await_metric("clawgate_config_reloads_total", "outcome=\"failed\"", 3);
    assert_eq!(gateway.metric("clawgate_config_reloads_total", "outcome=\"ok\""), 0);
    gateway.rewrite(json!({}));
    gateway.await_generation(1);
    let config = detailed(&gateway)["config"].take();
    assert_eq!((&config["status"], &config["problems"]), (&json!("ok"), &json!([])));
    assert_eq!(gateway.metric("clawgate_config_reloads_total", "outcome=\"ok\""), 1);
    assert!(gateway.metric("clawgate_config_age_seconds", "") <= 30);
}

/// A file may be right for the addresses that it names, and still open the ones where we listen to everybody.
#[test]
fn what_others_reach_is_never_left_open() {
    let open =
        json!({ "server": { "listen": ["0.0.0.0:0"], "insecure": true, "hosts": [], "watch": false } });
    let mut keyed = open.clone();
    merge(&mut keyed, json!({ "keys": [{ "id": "ana", "key": key("ana"), "scopes": ["chat", "read"] }] }));
    let mut gateway = Gateway::start(keyed.clone());
    gateway.address.set_ip([127, 0, 0, 1].into());
    gateway.rewrite(by_signal(json!({})));
    gateway.hang_up();
    gateway.await_line("without keys anyone could use the gateway");
    keyed["server"] = json!({ "watch": false });
    gateway.rewrite(keyed);
    gateway.hang_up();
    gateway.await_line("without TLS keys could be read");
    assert_eq!(chat_as(&gateway, "nobody").status, 401);
    assert_eq!(chat_as(&gateway, "ana").status, 200);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_applied() {
    let gateway = Gateway::start(by_signal(json!({})));
    let more = json!({
        "server": { "shards": 3, "driver": "epoll", "listen": ["127.0.0.1:9"] }, "logging": { "level": "trace" },
        "limits": { "addressesMax": 2048 }, "agents": { "main": { "models": ["m"] } },
        "models": { "m": { "provider": "echo" } },
    });
    gateway.reload(by_signal(more), 1);
    let mut named = vec!["server.listen", "server.shards", "server.driver", "limits.addressesMax"];
    for key in &named {
        gateway.await_line(&format!("{key} changed: that needs a restart"));
    }
    let detail = detailed(&gateway);
    named.sort_unstable();
    let mut told: Vec<_> = detail["config"]["needsRestart"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key.as_str().unwrap())
        .collect();
    told.sort_unstable();
    assert_eq!(told, named);
    assert_eq!(detail["shards"].as_array().unwrap().len(), 2);
    assert_eq!(detail["providers"][0]["name"], "m");
    gateway.reload(by_signal(json!({})), 2);
    assert_eq!(detailed(&gateway)["config"]["needsRestart"], json!([]));
}

/// An agent is renamed and its model moves to another place, while both are answering.
#[test]
fn what_runs_goes_on_as_it_was_started() {
    let (old, new) = (Model::held(3), Model::saying(&["new"]));
    let telegram = Telegram::start();
    let config = |model: &Model, agent: &str, more: Value| {
        let mut all = by_signal(json!({
            "models": { "sim": model.config(json!({})) }, "route": agent,
            "agents": { agent: { "models": ["sim"], "system": format!("canary of {agent}") } },
        }));
        merge(&mut all, more);
        all
    };
    let channels = json!({ "channels": { "telegram": telegram.config(json!({})) } });
    let gateway = Gateway::start(config(&old, "zoe", channels.clone()));
    let mut sockets: Vec<_> = (0..4).map(|_| gateway.socket()).collect();
    for (at, socket) in sockets.iter_mut().enumerate() {
        socket
            .say(json!({ "type": "message", "content": "canary", "sessionId": format!("s{at}"), "id": "1" }));
    }
    let update = private(1, 77, "canary").to_string();
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    assert_eq!(gateway.call("POST", "/webhooks/telegram", &headers, update.as_bytes()).status, 200);
    old.await_asked(5);
    old.release(1);
    for socket in &mut sockets {
        assert_eq!(socket.next()["content"], "word0 ");
    }
    let mut more = channels;
    merge(
        &mut more,
        json!({ "channels": { "alpha": {
        "type": "webhook", "secret": "canary-secret-of-alpha", "replyUrl": "http://127.0.0.1:9/",
    } } }),
    );
    gateway.reload(config(&new, "ada", more), 1);
    // A second message of the same session, meanwhile: its session's first one is answered before.
    sockets[0].say(json!({ "type": "message", "content": "canary", "sessionId": "s0", "id": "2" }));
    old.release(2);
    for (at, socket) in sockets.iter_mut().enumerate() {
        for word in ["word1 ", "word2 "] {
            assert_eq!(socket.next()["content"], word, "s{at}");
        }
        let done = socket.next();
        assert_eq!((&done["type"], &done["id"]), (&json!("done"), &json!("1")), "{done}");
    }
    // Delivered by the channel that it came by, whose place in the list has changed.
    let posts = telegram.await_posts(1);
    assert_eq!((posts[0].chat, posts[0].text.as_str()), (77, "word0 word1 word2"));
    assert_eq!(sockets[0].next()["content"], "new");
    assert_eq!(sockets[0].next()["type"], "done");
    for (at, socket) in sockets.iter_mut().enumerate().skip(1) {
        assert_eq!(socket.ask(&format!("s{at}"), "canary").text(), "new");
    }
    assert!(old.bodies().iter().all(|body| body["messages"][0]["content"] == "canary of zoe"));
    assert!(new.bodies().iter().all(|body| body["messages"][0]["content"] == "canary of ada"));
    assert_eq!(new.bodies().len(), 4);
    let known = gateway.get("/api/sessions").json()["data"]["sessions"].as_array().unwrap().len();
    assert_eq!(known, 5, "sessions stay what they were");
}

#[test]
fn a_channel_is_added_and_removed() {
    let telegram = Telegram::start();
    let gateway = Gateway::start(by_signal(json!({})));
    let headers = [("x-telegram-bot-api-secret-token", SECRET)];
    let post = |id: u64| {
        let update = private(id, 77, "canary").to_string();
        gateway.call("POST", "/webhooks/telegram", &headers, update.as_bytes()).status
    };
    assert_eq!(post(1), 404);
    gateway.reload(by_signal(json!({ "channels": { "telegram": telegram.config(json!({})) } })), 1);
    assert_eq!(post(1), 200);
    assert_eq!(telegram.await_posts(1)[0].text, "canary");
    gateway.reload(by_signal(json!({})), 2);
    assert_eq!(post(2), 404);
}

/// Two configurations in which every id means something else, put in each other's place again and again while both
/// shards work: whoever asks for an agent hears that agent, and the name of its model.
#[test]
fn ids_are_never_misread_in_a_storm_of_reloads() {
    let says = |text: &str| json!({ "provider": "scripted", "script": [{ "text": text }] });
    let one = by_signal(json!({
        "models": { "b-model": says("from b"), "c-model": says("from c") }, "route": "b",
        "agents": { "b": { "models": ["b-model"] }, "c": { "models": ["c-model"] } },
    }));
    let other = by_signal(json!({
        "models": { "a-model": says("from a"), "b-model": says("from b"), "bb-model": says("x"),
            "c-model": says("from c") },
        "agents": { "a": { "models": ["a-model"] }, "b": { "models": ["b-model"] },
            "bb": { "models": ["bb-model"] }, "c": { "models": ["c-model"] } },
        "channels": { "a": { "type": "webhook", "secret": "canary-secret-of-a", "replyUrl": "http://127.0.0.1:9/" } },
        "route": "a",
    }));
    let gateway = Gateway::start(one.clone());
    let (over, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (gateway, over, answers) = (&gateway, &over, &answers);
            scope.spawn(move || {
                let mut client = gateway.connect();
                for round in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let agent = if (worker + round) % 2 == 0 { "b" } else { "c" };
                    let session = format!("{worker}-{}", round % 16);
                    client.post(
                        "/api/chat",
                        &[],
                        &json!({ "message": "canary", "agent": agent, "sessionId": session }),
                    );
                    let answer = client.answer();
                    if answer.status == 503 {
                        // Sent by a core of one configuration to a core of the other: it is asked to come again.
                        assert_eq!(answer.refusal().1, "BUSY");
                        continue;
                    }
                    let json = answer.json();
                    assert_eq!(json["data"]["message"], format!("from {agent}"), "{answer:?}");
                    assert_eq!(json["data"]["model"], format!("{agent}-model"), "{answer:?}");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for generation in 1..=30 {
            let enough = answers.load(Ordering::Relaxed) + 20;
            gateway.reload(if generation % 2 == 0 { one.clone() } else { other.clone() }, generation);
            ask_until("work goes on", || (enough <= answers.load(Ordering::Relaxed)).then_some(()));
        }
        over.store(true, Ordering::Relaxed);
    });
    // A storm of signals: they fall together, the process takes it, and what stands in the file at the end is in force.
    gateway.rewrite(other);
    (0..500).for_each(|_| gateway.hang_up());
    ask_until("the last one is in force", || {
        (gateway.status()["agents"].as_array()?.len() == 4).then_some(())
    });
    gateway.assert_well();
}

#[test]
fn certificates_are_read_again() {
    let (old, new) = (Certificate::new(), Certificate::new());
    let folder = new_folder();
    old.write(&folder);
    let gateway = Gateway::start_in(
        folder,
        json!({
            "server": { "tls": { "cert": "cert.pem", "key": "key.pem" } },
            "keys": [{ "id": "ana", "key": key("ana"), "scopes": ["chat", "read"] }],
        }),
        &[],
    );
    let bearer = bearer("ana");
    let ask = |client: &mut Client| {
        client.post("/api/chat", &[("authorization", &bearer)], &json!({ "message": "canary" }));
        assert_eq!(client.answer().json()["data"]["message"], "canary");
    };
    let mut before = old.http(gateway.address);
    ask(&mut before);
    // A renewal writes one file after the other; the change is noticed without a signal.
    new.write(gateway.folder());
    ask_until("the new certificate is shown", || {
        let mut tcp = std::net::TcpStream::connect(gateway.address).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = rustls::ClientConnection::new(new.client(), name).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        stream.write_all(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    // Who was there goes on.
    ask(&mut before);
    ask(&mut new.http(gateway.address));
}

/// By the API, and from the command line: the answer comes when all threads work by it, and says what changed, or all that
/// is wrong.
#[test]
fn a_reload_that_is_asked_for_says_what_came_of_it() {
    const ADMIN: &str = "canary-key-of-an-admin";
    let config = |more: Value| {
        let keys = json!([
            { "id": "root", "key": ADMIN, "scopes": ["admin", "chat"] }, { "id": "ana", "key": key("ana") },
        ]);
        let mut config = by_signal(json!({
            "keys": keys, "models": { "e": { "provider": "echo" } }, "agents": { "main": { "models": ["e"] } },
            "limits": { "turnsMax": 1_000 },
        }));
        merge(&mut config, more);
        config
    };
    let gateway = Gateway::start(config(json!({})));
    let ask = |key: &str| {
        let bearer = format!("Bearer {key}");
        gateway.call("POST", "/api/reload", &[("authorization", &bearer)], b"")
    };
    let data = |answer: Answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["data"].take()
    };
    assert_eq!(ask(&key("ana")).refusal(), (403, "FORBIDDEN".to_owned()));
    assert_eq!(gateway.call("POST", "/api/reload", &[], b"").refusal().0, 401);
    let nothing = json!({ "generation": 1, "changed": [], "needsRestart": [], "warnings": [] });
    assert_eq!(data(ask(ADMIN)), nothing);
    let more = json!({
        "models": { "f": { "provider": "echo" } }, "agents": { "main": { "models": ["f"] } },
        "server": { "shards": 3 },
    });
    gateway.rewrite(config(more));
    let told = data(ask(ADMIN));
    assert_eq!(told["changed"], json!(["server", "models.f", "agents.main"]), "{told}");
    assert_eq!((&told["generation"], &told["needsRestart"]), (&json!(2), &json!(["server.shards"])));
    // All threads work by it as the answer comes.
    for _ in 0..8 {
        let bearer = format!("Bearer {ADMIN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = gateway.call("POST", "/api/chat", &headers, br#"{"message":"canary"}"#);
        assert_eq!(answer.json()["data"]["model"], "f");
    }
    gateway.rewrite(config(
        json!({ "agents": { "main": { "models": ["g"] } }, "limits": { "textBytesMax": 0 } }),
    ));
    let refused = ask(ADMIN);
    assert_eq!(refused.status, 422, "{refused:?}");
    let error = refused.json()["error"].take();
    let problems = error["problems"].as_array().unwrap();
    assert_eq!((&error["code"], problems.len()), (&json!("CONFIG_REFUSED"), 2), "{error}");
    assert!(problems.iter().all(|problem| problem.as_str().unwrap().contains("clawgate.json:")), "{error}");
    // Many at once: each hears, and what they hear is of a file as it was read after they asked.
    gateway.rewrite(config(json!({ "agents": { "main": { "system": "short" } } })));
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| data(ask(ADMIN)))).collect();
        let told: Vec<_> = all.into_iter().map(|one| one.join().unwrap()).collect();
        assert!(told.iter().any(|told| told["changed"] != json!([])), "{told:?}");
    });
    let run = |config: Value| {
        gateway.rewrite(config);
        let url = format!("http://{}", gateway.address);
        let arguments = ["reload", "--url", &url, "--key", ADMIN];
        let output = command(gateway.folder(), &arguments).stdout(Stdio::piped()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, _) = run(config(json!({ "agents": { "main": { "system": "long" } } })));
    assert_eq!((code, out.as_str()), (0, "in force: agents.main\n"));
    let (code, _, err) = run(config(json!({ "agents": { "main": { "models": ["g"] } } })));
    assert!(code == 5 && err.contains("clawgate.json:"), "{code} {err}");
    gateway.assert_well();
}
