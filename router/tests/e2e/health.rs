//! `/health` and `/health/detailed` (row A1): they answer whatever goes on.
use crate::peers::gateway::Gateway;
use crate::peers::model::Model;
use crate::peers::server::After;
use serde_json::{Value, json};

#[test]
fn health_needs_no_key_and_says_no_more_than_that_we_live() {
    let gateway = Gateway::start(json!({
        "keys": [
            { "id": "ana", "key": "canary-key-of-ana" },
            { "id": "ops", "key": "canary-key-of-ops", "scopes": ["read"] },
        ],
    }));
    gateway.assert_well();
    assert_eq!(gateway.get("/health/detailed").refusal(), (401, "UNAUTHENTICATED".to_owned()));
    let with = |key: &str| {
        let bearer = format!("Bearer {key}");
        gateway.call("GET", "/health/detailed", &[("authorization", &bearer)], b"")
    };
    assert_eq!(with("canary-key-of-ana").refusal(), (403, "FORBIDDEN".to_owned()));
    assert_eq!(with("canary-key-of-ops").status, 200);
}

#[test]
fn the_details_name_every_part() {
    let gateway = Gateway::start(json!({
        "channels": { "shop": { "type": "webhook", "secret": "canary-secret-of-the-shop", "replyUrl": "http://127.0.0.1:9/x" } },
    }));
    gateway.post("/api/chat", &json!({ "message": "canary", "sessionId": "s" }));
    let detail = gateway.get("/health/detailed").json();
    assert_eq!((&detail["status"], &detail["store"]["status"]), (&json!("ok"), &json!("ok")));
    assert_eq!(detail["version"], env!("CARGO_PKG_VERSION"));
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&detail["providers"]), ["demo", "echo"]);
    assert_eq!(names(&detail["channels"]), ["api", "shop"]);
    let memory = |key: &str| detail["memory"][key].as_u64().unwrap();
    assert!((1..=memory("worstCaseBytes")).contains(&memory("residentBytes")), "{detail}");
    let shards = detail["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 2);
    for (at, shard) in shards.iter().enumerate() {
        assert_eq!(shard["shard"], at);
        let driver = shard["driver"].as_str().unwrap();
        assert!(driver.starts_with("io_uring") || driver.starts_with("epoll"), "{shard}");
    }
    let sessions: u64 = shards.iter().map(|shard| shard["sessions"].as_u64().unwrap()).sum();
    assert_eq!(sessions, 1);
}

/// A model that fails opens its breaker: health says so, and is well again after the breaker has closed.
#[test]
fn an_open_breaker_degrades_health() {
    let model = Model::start(|asked, speech| {
        if asked.number < 3 {
            return speech.error(500, &[], "server_error", "the canary is ill");
        }
        speech.begin();
        speech.token("canary");
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let breaker = json!({ "callsMin": 3, "failedPercent": 50, "openSeconds": 0.3 });
    let gateway = Gateway::start(json!({
        "server": { "shards": 1 },
        "models": { "sim": model.config(json!({ "breaker": breaker })) },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1 } },
    }));
    let ask = || gateway.post("/api/chat", &json!({ "message": "canary" }));
    for _ in 0..3 {
        assert_eq!(ask().refusal(), (502, "UPSTREAM_FAILED".to_owned()));
    }
    let detail = gateway.get("/health/detailed").json();
    assert_eq!(detail["status"], "degraded");
    let shown = &detail["providers"][0];
    assert_eq!((&shown["name"], &shown["breaker"]), (&json!("sim"), &json!("open")));
    assert_eq!((&shown["format"], &shown["can"]["tools"]), (&json!("openai"), &json!(true)));
    gateway.assert_well();
    assert_eq!(gateway.get("/api/models").json()["data"]["models"][0]["breaker"], "open");
    let refused = ask();
    assert_eq!(refused.refusal(), (503, "UPSTREAM_UNAVAILABLE".to_owned()));
    assert!(0 < refused.number("retry-after"));
    gateway.await_line("breaker");
    // Left alone for a while, it is tried again, and heals.
    crate::peers::ask_until("the breaker closes", || (ask().status == 200).then_some(()));
    assert_eq!(gateway.get("/health/detailed").json()["status"], "ok");
    assert_eq!(model.server.requests(), 4, "one trial, and nothing while it was left alone");
}

/// An operator who knows that a model is well again need not wait for the breaker.
#[test]
fn a_model_is_reset_by_api_and_command() {
    // The test says when it is ill: while nothing is released.
    let model = Model::start(|_, speech| {
        if speech.seen.with(|seen| seen.released) == 0 {
            return speech.error(500, &[], "server_error", "the canary is ill");
        }
        speech.begin();
        speech.token("canary");
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let breaker = json!({ "callsMin": 3, "failedPercent": 50, "openSeconds": 600, "openMaxSeconds": 600 });
    let gateway = Gateway::start(json!({
        "server": { "shards": 2 },
        "models": { "sim": model.config(json!({ "breaker": breaker })) },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1 } },
        "keys": [{ "id": "root", "key": "canary-key-of-an-admin", "scopes": ["chat", "read", "admin"] }],
    }));
    let bearer = ("authorization", "Bearer canary-key-of-an-admin");
    let ask = || {
        let headers = [bearer, ("content-type", "application/json")];
        // One session: one shard learns of it.
        gateway.call("POST", "/api/chat", &headers, br#"{"message":"canary","sessionId":"s"}"#)
    };
    // The breaker of all shards, and those of each: how many are open, and for how long at least.
    let breakers = || {
        let all = gateway.call("GET", "/api/models", &[bearer], b"").json();
        let model = all["data"]["models"][0].clone();
        let shards = model["shards"].as_array().unwrap();
        let numbers: Vec<u64> = shards.iter().map(|shard| shard["shard"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [0, 1]);
        let open = shards.iter().filter(|shard| shard["breaker"] == "open").count();
        for shard in shards {
            let is_open = 300_000 < shard["openMillis"].as_u64().unwrap();
            assert_eq!(
                (is_open, &shard["coolingMillis"]),
                (shard["breaker"] == "open", &json!(0)),
                "{shard}"
            );
        }
        (model["breaker"].as_str().unwrap().to_owned(), open)
    };
    assert_eq!(breakers(), ("closed".to_owned(), 0));
    for by_command in [false, true] {
        model.seen.with(|seen| seen.released = 0);
        for _ in 0..3 {
            ask();
        }
        assert_eq!(ask().refusal(), (503, "UPSTREAM_UNAVAILABLE".to_owned()));
        assert_eq!(breakers(), ("open".to_owned(), 1));
        model.release(1);
        if by_command {
            let url = format!("http://{}", gateway.address);
            let mut command = crate::peers::gateway::command(gateway.folder(), &["models", "reset", "sim"]);
            command.args(["--url", &url, "--key", "canary-key-of-an-admin"]);
            assert!(command.status().unwrap().success());
        } else {
            let answer = gateway.call("POST", "/api/models/sim/reset", &[bearer], b"");
            assert_eq!((answer.status, &answer.json()["data"]["breaker"]), (200, &json!("closed")));
        }
        assert_eq!(breakers(), ("closed".to_owned(), 0));
        assert_eq!(ask().json()["data"]["message"], "canary");
    }
    let unknown = gateway.call("POST", "/api/models/none/reset", &[bearer], b"");
    assert_eq!(unknown.refusal(), (404, "NOT_FOUND".to_owned()));
}

/// With everything taken that can be taken, health still answers.
#[test]
fn health_answers_under_overload() {
    let model = Model::held(1);
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"], "runningMax": 1, "waitingMax": 1 } },
        "rate": { "address": { "requests": 1, "seconds": 3600 }, "key": { "requests": 0 } },
    }));
    let mut socket = gateway.socket();
    for at in 0..3 {
        socket.say(json!({ "type": "message", "content": "canary", "sessionId": format!("s{at}") }));
    }
    for _ in 0..20 {
        gateway.assert_well();
    }
}

/// While it drains, a load balancer that asks hears that it should go elsewhere.
#[test]
fn health_answers_while_draining() {
    let model = Model::held(1);
    let mut gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    }));
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "sessionId": "s" }));
    model.await_asked(1);
    gateway.terminate();
    gateway.await_line("draining");
    crate::peers::ask_until("health says that it drains", || {
        let health = gateway.get("/health");
        assert_eq!(health.status, 200);
        (health.json()["status"] == "draining").then_some(())
    });
    assert_eq!(gateway.get("/health/detailed").json()["status"], "draining");
    let refused = gateway.post("/api/chat", &json!({ "message": "canary" }));
    assert_eq!(refused.refusal(), (503, "DRAINING".to_owned()));
    model.release(1);
    let answer = client.answer();
    assert_eq!((answer.status, answer.json()["data"]["message"].as_str()), (200, Some("word0 ")));
    assert!(gateway.ended().success());
}
