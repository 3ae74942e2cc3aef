//! What the gateway tells and lets operate: status, models, channels, sessions (rows A5, A6), its own description, and
//! its metrics.
use crate::peers::ask_until;
use crate::peers::gateway::{Gateway, samples};
use crate::peers::http::Answer;
use crate::peers::model::Model;
use crate::peers::time::{unix_seconds, written_at};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const ADMIN: &str = "canary-key-of-an-admin";
const ANA: &str = "canary-key-of-ana";

fn as_key(gateway: &Gateway, key: &str, method: &str, target: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    gateway.call(method, target, &headers, body.as_bytes())
}

/// With a history, two agents, and three keys.
fn with_history() -> Gateway {
    Gateway::start(json!({
        "keys": [
            { "id": "root", "key": ADMIN, "scopes": ["chat", "read", "admin"] },
            { "id": "ana", "key": ANA },
            { "id": "eye", "key": "canary-key-of-eye", "scopes": ["read"] },
        ],
        "models": { "echo": { "provider": "echo" }, "demo": { "provider": "scripted", "script": [{ "text": "canary" }] } },
        "agents": { "main": { "models": ["echo"] }, "other": { "models": ["demo"] } },
        "route": "main",
    }))
}

fn say(gateway: &Gateway, key: &str, session: &str, text: &str) -> Value {
    let body = json!({ "message": text, "sessionId": session });
    let answer = as_key(gateway, key, "POST", "/api/chat", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["data"].take()
}

fn list(gateway: &Gateway, query: &str) -> (Vec<String>, Option<String>) {
    let data =
        as_key(gateway, ADMIN, "GET", &format!("/api/sessions{query}"), &Value::Null).json()["data"].take();
    let ids = data["sessions"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
    (ids.collect(), data["next"].as_str().map(str::to_owned))
}

/// "history policy": two agents of one session, each of which is sent its own share of what was said.
#[test]
fn each_agent_is_sent_as_much_of_the_history_as_it_is_said() {
    let model = Model::saying(&["Of course."]);
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) },
        "agents": {
            "all": {}, "none": { "historyMessagesMax": 0 }, "three": { "historyMessagesMax": 3 },
            // "Of course." is ten characters, "canary 0" eight: the last two messages, which make five tokens.
            "short": { "historyTokensMax": 6 },
        },
        "route": "all",
    }));
    let asked = [("all", 0), ("all", 2), ("none", 0), ("three", 3), ("short", 2), ("all", 10)];
    for (said, (agent, past)) in asked.into_iter().enumerate() {
        let message = format!("canary {said}");
        let body = json!({ "message": message, "sessionId": "s", "agent": agent });
        assert_eq!(gateway.post("/api/chat", &body).status, 200);
        let sent = model.bodies().pop().unwrap()["messages"].take();
        let sent = sent.as_array().unwrap();
        assert_eq!(sent.len(), past + 1, "{agent}: {sent:?}");
        assert_eq!(sent.last().unwrap()["content"], message.as_str());
        if let Some(before) = past.checked_sub(1) {
            assert_eq!(sent[before]["content"], "Of course.", "the last of what was said: {sent:?}");
        }
    }
}

#[test]
fn sessions_are_listed_a_page_at_a_time() {
    let gateway = with_history();
    let expected: BTreeSet<String> = (0..23).map(|at| format!("api:ana:s{at}")).collect();
    for at in 0..23 {
        say(&gateway, ANA, &format!("s{at}"), "canary");
    }
    for limit in [1, 5, 22, 23, 500] {
        let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let (ids, next) = list(&gateway, &format!("?limit={limit}{cursor}"));
            assert!(ids.len() <= limit);
            seen.extend(ids);
            pages += 1;
            match next {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen.len(), 23, "none twice, with pages of {limit}");
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
        assert!(pages <= 23 / limit + 1, "{pages} pages of {limit}");
    }
    assert_eq!(list(&gateway, "").0.len(), 23, "fifty are shown where nobody says how many");
    for bad in
        ["limit=0", "limit=501", "limit=x", "limit=-1", "cursor=x", "cursor=1.0", "cursor=m1.x", "state=busy"]
    {
        let answer = as_key(&gateway, ADMIN, "GET", &format!("/api/sessions?{bad}"), &Value::Null);
        assert_eq!(answer.refusal(), (400, "BAD_REQUEST".to_owned()), "{bad}");
    }
    for far in ["cursor=m9.0", "cursor=m0.4294967295", "cursor=n65535.0", "cursor=s7a", "cursor=a1"] {
        assert_eq!(list(&gateway, &format!("?{far}&limit=500")).1, None, "{far} is behind all");
    }
}

#[test]
fn sessions_are_filtered_and_shown_to_those_who_may() {
    let model = Model::held(1);
    let gateway = Gateway::start(json!({
        "keys": [
            { "id": "root", "key": ADMIN, "scopes": ["chat", "read", "admin"] },
            { "id": "ana", "key": ANA },
        ],
        "models": { "echo": { "provider": "echo" }, "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["echo"] }, "slow": { "models": ["sim"] } }, "route": "main",
    }));
    say(&gateway, ANA, "of ana", "canary");
    say(&gateway, ADMIN, "of root", "canary");
    let mut socket = gateway.socket();
    socket.authenticate(ADMIN);
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "busy", "agent": "slow" }));
    model.await_asked(1);
    assert_eq!(list(&gateway, "?state=processing").0, ["api:root:busy"]);
    assert_eq!(list(&gateway, "?state=idle").0.len(), 2);
    assert_eq!(list(&gateway, "?channel=api").0.len(), 3);
    assert_eq!(list(&gateway, "?channel=telegram").0.len(), 0);
    let own = as_key(&gateway, ANA, "GET", "/api/sessions", &Value::Null).json();
    let rows = own["data"]["sessions"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "a plain key sees its own: {own}");
    let row = &rows[0];
    assert_eq!((&row["id"], &row["peer"]), (&json!("api:ana:of ana"), &json!("ana")));
    assert_eq!((&row["state"], &row["messages"]), (&json!("idle"), &json!(1)));
    assert!(
        unix_seconds(row["createdAt"].as_str().unwrap())
            <= unix_seconds(row["lastActiveAt"].as_str().unwrap())
    );
    model.release(1);
    assert_eq!(socket.reply("busy", "").text(), "word0 ");
}

#[test]
fn one_session_is_shown_with_what_it_remembers() {
    let gateway = with_history();
    say(&gateway, ANA, "s 1/ü", "canary one");
    say(&gateway, ANA, "s 1/ü", "canary two");
    for (key, id) in
        [(ANA, "s%201%2F%C3%BC"), (ANA, "api:ana:s%201%2F%C3%BC"), (ADMIN, "api%3Aana%3As%201%2f%c3%bc")]
    {
        let shown = as_key(&gateway, key, "GET", &format!("/api/sessions/{id}"), &Value::Null).json();
        let data = &shown["data"];
        assert_eq!((&data["id"], &data["messages"]), (&json!("api:ana:s 1/ü"), &json!(2)), "{shown}");
        let line = |role: &str, content: &str| json!({ "role": role, "content": content });
        let history = [
            line("user", "canary one"),
            line("assistant", "canary one"),
            line("user", "canary two"),
            line("assistant", "canary two"),
        ];
        assert_eq!(data["history"], json!(history));
        assert_eq!(data["context"], json!({}));
    }
    let get =
        |key: &str, id: &str| as_key(&gateway, key, "GET", &format!("/api/sessions/{id}"), &Value::Null);
    assert_eq!(get(ANA, "nothing").refusal(), (404, "NOT_FOUND".to_owned()));
    assert_eq!(get(ANA, "api:root:x").refusal(), (403, "FORBIDDEN".to_owned()), "whether it is there or not");
    assert_eq!(get(ANA, "%ff").refusal(), (400, "BAD_REQUEST".to_owned()));
}

#[test]
fn sessions_are_operated() {
    let gateway = with_history();
    let operate =
        |key: &str, action: Value| as_key(&gateway, key, "POST", "/api/sessions/api:ana:s", &action);
    let done = |action: Value| {
        let answer = operate(ANA, action);
        assert_eq!((answer.status, &answer.json()["data"]), (200, &json!({ "done": true })), "{answer:?}");
    };
    let shown = || as_key(&gateway, ANA, "GET", "/api/sessions/s", &Value::Null).json()["data"].take();
    assert_eq!(operate(ANA, json!({ "action": "reset" })).refusal(), (404, "NOT_FOUND".to_owned()));
    say(&gateway, ANA, "s", "canary one");
    // set: a context variable, changed, and taken away.
    done(json!({ "action": "set", "name": "city", "value": "canary town" }));
    done(json!({ "action": "set", "name": "tone", "value": "canary kind" }));
    assert_eq!(shown()["context"], json!({ "city": "canary town", "tone": "canary kind" }));
    done(json!({ "action": "set", "name": "city", "value": "canary port" }));
    done(json!({ "action": "set", "name": "tone" }));
    assert_eq!(shown()["context"], json!({ "city": "canary port" }));
    // assign: another agent answers from here on.
    done(json!({ "action": "assign", "agent": "other" }));
    let answer = say(&gateway, ANA, "s", "canary two");
    assert_eq!((&answer["message"], &answer["model"]), (&json!("canary"), &json!("demo")));
    assert_eq!(shown()["agent"], "other");
    // send: the bot says something by itself.
    done(json!({ "action": "send", "text": "the canary calls" }));
    assert_eq!(shown()["history"].as_array().unwrap().last().unwrap()["content"], "the canary calls");
    // reset: nothing is remembered; close: nothing is there.
    done(json!({ "action": "reset" }));
    assert_eq!(shown()["history"], json!([]));
    done(json!({ "action": "close" }));
    let gone = as_key(&gateway, ANA, "GET", "/api/sessions/s", &Value::Null);
    assert_eq!(gone.refusal(), (404, "NOT_FOUND".to_owned()));
    // Others' sessions are an admin's to operate; to read is not enough.
    say(&gateway, ANA, "s", "canary three");
    assert_eq!(
        operate("canary-key-of-eye", json!({ "action": "reset" })).refusal(),
        (403, "FORBIDDEN".to_owned())
    );
    assert_eq!(operate(ADMIN, json!({ "action": "reset" })).status, 200);
    for (action, status, code) in [
        (json!({}), 400, "MISSING_FIELD"),
        (json!({ "action": "explode" }), 400, "UNKNOWN_TYPE"),
        (json!({ "action": "send" }), 400, "MISSING_FIELD"),
        (json!({ "action": "set", "value": "canary" }), 400, "MISSING_FIELD"),
        (json!({ "action": "assign", "agent": "nobody" }), 404, "NOT_FOUND"),
    ] {
        assert_eq!(operate(ANA, action.clone()).refusal(), (status, code.to_owned()), "{action}");
    }
}

#[test]
fn an_operator_can_stop_an_answer() {
    let model = Model::start(|_, speech| {
        speech.begin();
        speech.token("canary");
        speech.fall_silent()
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({})) }, "agents": { "main": { "models": ["sim"] } },
    }));
    let mut socket = gateway.socket();
    socket.say(json!({ "type": "message", "content": "canary", "sessionId": "s", "id": "1" }));
    assert_eq!(socket.next()["content"], "canary");
    assert_eq!(gateway.post("/api/sessions/s", &json!({ "action": "stop" })).status, 200);
    let end = socket.next();
    assert_eq!((&end["code"], &end["id"]), (&json!("CANCELLED"), &json!("1")));
    model.seen.wait("the call is aborted", |seen| (seen.left == [1]).then_some(()));
}

#[test]
fn status_models_and_channels_say_what_there_is() {
    let gateway = Gateway::start(json!({
        "models": { "a": { "provider": "echo" }, "b": { "provider": "echo" } },
        "agents": { "main": { "models": ["a", "b"] } },
        "channels": {
            "telegram": { "token": "42:canary-token", "secret": "canary-secret-of-telegram", "dmPolicy": "open" },
            "shop": { "type": "webhook", "secret": "canary-secret-of-the-shop", "agent": "main" },
        },
    }));
    gateway.post("/api/chat", &json!({ "message": "canary", "sessionId": "s" }));
    for prefix in ["/api", "/api/v1"] {
        let status = gateway.get(&format!("{prefix}/status"));
        assert_eq!((status.status, status.header("cache-control")), (200, Some("no-store")));
        let data = &status.json()["data"];
        assert_eq!(
            (&data["shards"], &data["sessions"], &data["draining"]),
            (&json!(2), &json!(1), &json!(false))
        );
        assert_eq!((&data["messages"]["accepted"], &data["messages"]["answered"]), (&json!(1), &json!(1)));
        assert_eq!(
            data["agents"],
            json!([{ "name": "main", "models": ["a", "b"], "running": 0, "waiting": 0 }])
        );
        let models = gateway.get(&format!("{prefix}/models")).json();
        let shard = |n| json!({ "shard": n, "breaker": "closed", "openMillis": 0, "coolingMillis": 0 });
        let shards = json!([shard(0), shard(1)]);
        let closed =
            |name: &str| json!({ "name": name, "provider": "echo", "breaker": "closed", "shards": shards });
        assert_eq!(models["data"]["models"], json!([closed("a"), closed("b")]));
        let channels = gateway.get(&format!("{prefix}/channels"));
        let text = channels.text();
        let rows = channels.json()["data"]["channels"].take();
        let name = |row: &Value| row["name"].as_str().unwrap().to_owned();
        let rows: BTreeMap<String, Value> =
            rows.as_array().unwrap().iter().map(|row| (name(row), row.clone())).collect();
        assert_eq!(rows.keys().collect::<Vec<_>>(), ["api", "shop", "telegram"]);
        assert_eq!(rows["telegram"]["path"], "/webhooks/telegram");
        assert_eq!(
            (&rows["telegram"]["dmPolicy"], &rows["telegram"]["mentionGating"]),
            (&json!("open"), &json!(true))
        );
        assert_eq!(rows["shop"]["agent"], "main");
        assert!(!text.contains("canary"), "no secret is told: {text}");
        assert!(0 < written_at(&channels));
    }
}

/// The description that is served is the file, and every path in it is served.
#[test]
fn the_description_is_served_and_true() {
    let gateway = Gateway::start(json!({}));
    let answer = gateway.get("/api/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.text(), include_str!("../../src/api/openapi.json"));
    let description = answer.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3."));
    let methods = ["get", "post"];
    for (path, item) in description["paths"].as_object().unwrap() {
        let target = path.replace("{id}", "nothing");
        for method in methods {
            let answer = gateway.call(&method.to_uppercase(), &target, &[], b"");
            let described = item.get(method);
            if described.is_none() {
                assert_eq!(answer.status, 405, "{method} {path}");
                let allowed = answer.header("allow").unwrap_or_default().to_lowercase();
                assert!(
                    methods.iter().all(|m| allowed.contains(m) == item.get(m).is_some()),
                    "{path}: {allowed}"
                );
                continue;
            }
            let status = answer.status.to_string();
            assert!(
                described.unwrap()["responses"].get(&status).is_some(),
                "{method} {path}: {status} is not described"
            );
            assert_ne!(answer.status, 405, "{method} {path}");
        }
        if path.starts_with("/api/") {
            let versioned = target.replacen("/api/", "/api/v1/", 1);
            let method = methods.iter().find(|method| item.get(**method).is_some()).unwrap().to_uppercase();
            let plain = gateway.call(&method, &target, &[], b"").status;
            assert_eq!(gateway.call(&method, &versioned, &[], b"").status, plain, "{versioned}");
        }
    }
    assert_eq!(gateway.get("/api/nothing").refusal(), (404, "NOT_FOUND".to_owned()));
    assert_eq!(gateway.get("/v1/health").refusal(), (404, "NOT_FOUND".to_owned()));
}

#[test]
fn metrics_are_text_that_can_be_parsed_and_move() {
    let gateway = Gateway::start(json!({}));
    let read = || {
        let answer = gateway.get("/metrics");
        let kind = answer.header("content-type").unwrap();
        assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        let text = answer.text();
        let rows = samples(&text);
        let types: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .map(|line| line.split_once(' ').unwrap())
            .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
            .collect();
        for (name, ..) in &rows {
            let of_type = |(family, kind): (&String, &String)| match kind.as_str() {
                "counter" => *name == format!("{family}_total"),
                "histogram" => name
                    .strip_prefix(family.as_str())
                    .is_some_and(|end| matches!(end, "_bucket" | "_sum" | "_count")),
                _ => name == family,
            };
            assert!(types.iter().any(of_type), "{name} has no type");
        }
        rows
    };
    let sum = |rows: &[(String, String, f64)], name: &str| -> f64 {
        rows.iter().filter(|(known, ..)| known == name).map(|(.., value)| value).sum()
    };
    let before = read();
    assert!(before.iter().all(|(name, ..)| name.starts_with("clawgate_")));
    let mut socket = gateway.socket();
    for at in 0..3 {
        socket.ask(&format!("s{at}"), "canary");
        gateway.post("/api/chat", &json!({ "message": "canary", "sessionId": format!("r{at}") }));
    }
    gateway.post("/api/chat", &json!({ "message": "" }));
    let after = read();
    for (name, by) in [
        ("clawgate_messages_accepted_total", 6.0),
        ("clawgate_websocket_messages_total", 3.0),
        ("clawgate_websocket_upgrades_total", 1.0),
        ("clawgate_refused_total", 1.0),
        ("clawgate_turn_seconds_count", 6.0),
        ("clawgate_sessions", 6.0),
    ] {
        assert_eq!(sum(&after, name) - sum(&before, name), by, "{name}");
    }
    assert!(
        6.0 <= sum(&after, "clawgate_http_requests_total") - sum(&before, "clawgate_http_requests_total")
    );
    let stage = |name: &str| {
        let labels = format!("stage=\"{name}\"");
        after
            .iter()
            .filter(|(n, l, _)| n == "clawgate_stage_messages_total" && l.contains(&labels))
            .map(|(.., v)| v)
            .sum::<f64>()
    };
    for name in ["ingest", "validate", "enrich", "route", "dispatch", "respond"] {
        assert!(6.0 <= stage(name), "{name}: {}", stage(name));
    }
    // Cumulative, as a histogram is: the last bucket counts all.
    let buckets: Vec<f64> = after
        .iter()
        .filter(|(name, ..)| name == "clawgate_turn_seconds_bucket")
        .map(|(.., value)| *value)
        .collect();
    assert!(buckets.is_sorted() && buckets.last() == Some(&6.0), "{buckets:?}");
    drop(socket);
    ask_until("the connection is counted out", || {
        (gateway.metric("clawgate_connections", "") == 1).then_some(())
    });
}
