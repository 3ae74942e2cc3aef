//! Usage (row F6): what is charged is what the provider counted, or an estimate that is marked; budgets hold over both
//! shards and over restarts.
use super::durable::Data;
use crate::peers::ask_until;
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, merge, new_folder};
use crate::peers::http::Answer;
use crate::peers::model::{Model, chunk};
use crate::peers::server::After;
use rustix::process::Signal;
use serde_json::{Value, json};

const ROOT: &str = "canary-key-of-root-1";
const ANA: &str = "canary-key-of-ana-12";
const BEN: &str = "canary-key-of-ben-12";

fn call(gateway: &Gateway, key: &str, method: &str, target: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    gateway.call(method, target, &headers, body.as_bytes())
}

fn chat(gateway: &Gateway, key: &str, session: &str) -> Answer {
    call(gateway, key, "POST", "/api/chat", &json!({ "message": "canary", "sessionId": session }))
}

/// The rows of a question, and their total.
fn usage(gateway: &Gateway, key: &str, query: &str) -> (Vec<Value>, Value) {
    let answer = call(gateway, key, "GET", &format!("/api/usage?{query}"), &Value::Null);
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut data = answer.json()["data"].take();
    let rows = data["usage"].as_array_mut().unwrap().drain(..).collect();
    (rows, data["total"].take())
}

fn config(more: Value) -> Value {
    let mut config = json!({
        "keys": [
            { "id": "root", "key": ROOT, "scopes": ["chat", "read", "admin"] },
            { "id": "ana", "key": ANA },
            { "id": "ben", "key": BEN, "user": "ana" },
        ],
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    });
    merge(&mut config, more);
    config
}

fn numbers(row: &Value, names: &[&str]) -> Vec<u64> {
    names.iter().map(|name| row[name].as_u64().unwrap_or_else(|| panic!("{name} in {row}"))).collect()
}

const TOKENS: [&str; 3] = ["promptTokens", "completionTokens", "totalTokens"];

/// In streams too the figures are the provider's own, to the token: for each key, agent, model and session.
#[test]
fn what_is_charged_is_what_the_provider_counted() {
    let model = Model::start(|_, speech| {
        speech.begin();
        speech.token("Hello");
        speech.finish("stop");
        let mut last = chunk(&json!({}), None);
        last["choices"] = json!([]);
        last["usage"] = json!({
            "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
            "prompt_tokens_details": { "cached_tokens": 64 },
            "completion_tokens_details": { "reasoning_tokens": 7 },
        });
        speech.event(&last);
        speech.done();
        After::Keep
    });
    let gateway = Gateway::start(config(json!({
        "models": { "sim": model.config(json!({})), "copy": { "provider": "echo" } },
        "agents": { "main": { "models": ["sim"] }, "other": { "models": ["copy"] } },
        "route": "main",
    })));
    for (key, session) in [(ANA, "a"), (ANA, "a"), (ANA, "b"), (BEN, "a"), (ROOT, "r")] {
        assert_eq!(chat(&gateway, key, session).status, 200);
    }
    let door = json!({ "model": "main", "messages": [{ "role": "user", "content": "canary" }] });
    assert_eq!(call(&gateway, BEN, "POST", "/v1/chat/completions", &door).status, 200);
    let mut socket = gateway.socket();
    socket.authenticate(ANA);
    socket.ask("c", "canary");
    let (rows, total) = usage(&gateway, ROOT, "by=key,agent,model");
    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["key"].as_str().unwrap(),
                row["agent"].as_str().unwrap(),
                numbers(row, &["requests", "calls"]),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [("ana", "main", vec![4, 4]), ("ben", "main", vec![2, 2]), ("root", "main", vec![1, 1])]
    );
    assert_eq!(numbers(&total, &TOKENS), [700, 140, 840]);
    assert_eq!(numbers(&total, &["cachedTokens", "reasoningTokens", "estimatedCalls"]), [7 * 64, 7 * 7, 0]);
    assert_eq!(total["estimated"], false);
    // Who is no operator sees its own, though two keys have one user.
    let (rows, total) = usage(&gateway, ANA, "by=key,session");
    assert_eq!(numbers(&total, &TOKENS), [400, 80, 480]);
    let sessions: Vec<_> = rows.iter().map(|row| row["session"].as_str().unwrap()).collect();
    assert_eq!(sessions, ["api:ana:a", "api:ana:b", "api:ana:c"]);
    assert_eq!(
        call(&gateway, ANA, "GET", "/api/usage?key=ben", &Value::Null).refusal(),
        (403, "FORBIDDEN".to_owned())
    );
    // An echo counts nothing: that is an estimate, and says so.
    let asked = json!({ "message": "canary", "agent": "other" });
    assert_eq!(call(&gateway, ANA, "POST", "/api/chat", &asked).status, 200);
    let (rows, _) = usage(&gateway, ROOT, "by=model&agent=other&day=today");
    assert_eq!((rows.len(), &rows[0]["model"], &rows[0]["estimated"]), (1, &json!("copy"), &json!(true)));
    assert_eq!(numbers(&rows[0], &TOKENS), [2, 2, 4]);
    for bad in ["by=peer", "day=yesterday", "limit=0x", "limit=10001", "day=today&from=today"] {
        let refused = call(&gateway, ROOT, "GET", &format!("/api/usage?{bad}"), &Value::Null);
        assert_eq!(refused.status, 400, "{bad}");
    }
    let (page, _) = usage(&gateway, ROOT, "by=session&limit=2&offset=1");
    assert_eq!(page.len(), 2);
    let metrics = call(&gateway, ROOT, "GET", "/metrics", &Value::Null).text();
    let sum =
        r#"clawgate_gen_ai_client_token_usage_sum{gen_ai_request_model="sim",gen_ai_token_type="input"} 700"#;
    assert!(metrics.contains(sum), "{metrics}");
}

/// What was begun is paid for: a stream that its client leaves, one that breaks off, and one of a door.
#[test]
fn what_is_cut_is_estimated_and_marked() {
    let model = Model::start(|asked, speech| {
        if asked.number == 3 {
            return speech.error(500, &[], "server_error", "canary");
        }
        speech.begin();
        speech.token("12345678");
        speech.token("12345678");
        match asked.number {
            0 => speech.fall_silent(),
            1 => After::Close,
            _ => {
                speech.finish("stop");
                speech.done();
                After::Keep
            }
        }
    });
    let gateway = Gateway::start(config(json!({
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1, "history": false } },
    })));
    let begin = || {
        let mut client = gateway.connect();
        let bearer = format!("Bearer {ANA}");
        let body = json!({ "message": "12345678", "stream": true });
        client.post("/api/chat", &[("authorization", &bearer)], &body);
        Events::begin(client)
    };
    let mut left = begin();
    assert_eq!(left.data().unwrap()["content"], "12345678");
    assert_eq!(left.data().unwrap()["content"], "12345678");
    drop(left);
    let charged = |calls: u64| {
        ask_until("the call is charged", || {
            let (_, total) = usage(&gateway, ROOT, "by=");
            (total["calls"] == calls).then_some(total)
        })
    };
    let total = charged(1);
    assert_eq!(numbers(&total, &TOKENS), [2, 4, 6]);
    assert_eq!(numbers(&total, &["unfinishedCalls", "estimatedCalls", "estimatedTokens"]), [1, 1, 6]);
    assert_eq!(begin().finish().1["code"], "UPSTREAM_TRUNCATED");
    assert_eq!(numbers(&charged(2), &TOKENS), [4, 8, 12]);
    // A client of a model's reads past the mark.
    let door = json!({ "model": "main", "messages": [{ "role": "user", "content": "12345678" }] });
    let answer = call(&gateway, ANA, "POST", "/v1/chat/completions", &door).json();
    assert_eq!((&answer["usage"]["estimated"], &answer["usage"]["total_tokens"]), (&json!(true), &json!(6)));
    let total = charged(3);
    assert_eq!(numbers(&total, &["unfinishedCalls", "estimatedCalls", "totalTokens"]), [2, 3, 18]);
    // What a model refuses costs nothing.
    assert_eq!(begin().finish().1["code"], "UPSTREAM_FAILED");
    let total = charged(4);
    assert_eq!(numbers(&total, &["requests", "unfinishedCalls", "totalTokens"]), [4, 3, 18]);
}

/// Many at once on both shards: exactly as many are let in as the budget says; the others hear when it is filled again, in
/// the words of their protocol; and a restart fills nothing.
#[test]
fn a_budget_holds_over_shards_and_restarts() {
    const REQUESTS: usize = 40;
    let data = Data(new_folder());
    let config = json!({
        "data": { "folder": data.0 },
        "keys": [
            { "id": "root", "key": ROOT, "scopes": ["chat", "read", "admin"] },
            { "id": "ana", "key": ANA, "budget": { "requests": REQUESTS } },
        ],
    });
    let mut gateway = Gateway::start(config.clone());
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let ask = |at: usize| (0..15).map(|n| chat(&gateway, ANA, &format!("s{at}-{n}"))).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|at| scope.spawn(move || ask(at))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (granted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!((granted.len(), refused.len()), (REQUESTS, 60 - REQUESTS));
    for answer in &refused {
        assert_eq!(answer.refusal(), (429, "BUDGET_SPENT".to_owned()));
        assert!((1..=86_400).contains(&answer.number("retry-after")), "{answer:?}");
    }
    let door =
        json!({ "model": "default", "max_tokens": 5, "messages": [{ "role": "user", "content": "canary" }] });
    let agent = call(&gateway, ROOT, "GET", "/v1/models", &Value::Null).json()["data"][0]["id"].take();
    let door = {
        let mut door = door;
        door["model"] = agent;
        door
    };
    let by_openai = call(&gateway, ANA, "POST", "/v1/chat/completions", &door);
    assert_eq!((by_openai.status, &by_openai.json()["error"]["code"]), (429, &json!("BUDGET_SPENT")));
    let by_anthropic = call(&gateway, ANA, "POST", "/v1/messages", &door);
    assert_eq!(
        (by_anthropic.status, &by_anthropic.json()["error"]["type"]),
        (429, &json!("rate_limit_error"))
    );
    let mut socket = gateway.socket();
    socket.authenticate(ANA);
    let refused = socket.ask("s", "canary").end;
    assert_eq!(refused["code"], "BUDGET_SPENT");
    assert!((1..=86_400).contains(&refused["retryAfter"].as_u64().unwrap()), "{refused}");
    assert_eq!(chat(&gateway, ROOT, "r").status, 200, "another key is free");
    drop(socket);
    gateway.terminate();
    assert!(gateway.ended().success());
    drop(gateway);
    // Started again, and killed, and started again.
    for _ in 0..2 {
        let gateway = Gateway::start(config.clone());
        assert_eq!(chat(&gateway, ANA, "s").refusal(), (429, "BUDGET_SPENT".to_owned()));
        let (_, total) = usage(&gateway, ROOT, "by=&key=ana");
        assert_eq!(numbers(&total, &["requests", "calls"]), [REQUESTS as u64, REQUESTS as u64]);
        gateway.signal(Signal::KILL);
        let mut gateway = gateway;
        gateway.may_end();
        gateway.ended();
    }
}

/// A budget of tokens: what is under way when it is used up goes on, and what comes then is refused.
#[test]
fn a_budget_of_tokens_cuts_nothing_that_runs() {
    let model = Model::start(|asked, speech| {
        speech.begin();
        if asked.number == 0 {
            let seen = speech.seen.clone();
            seen.wait("the test lets it go on", |seen| (seen.released == 1).then_some(()));
        }
        speech.token("Hello");
        speech.finish("stop");
        speech.usage(60, 40);
        speech.done();
        After::Keep
    });
    let gateway = Gateway::start(json!({
        "keys": [
            { "id": "root", "key": ROOT, "scopes": ["chat", "read", "admin"] },
            { "id": "ana", "key": ANA, "budget": { "tokens": 100 } },
        ],
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"] } },
    }));
    let mut client = gateway.connect();
    let bearer = format!("Bearer {ANA}");
    client.post(
        "/api/chat",
        &[("authorization", &bearer)],
        &json!({ "message": "canary", "sessionId": "slow" }),
    );
    model.await_asked(1);
    assert_eq!(chat(&gateway, ANA, "fast").status, 200);
    assert_eq!(chat(&gateway, ANA, "fast").refusal(), (429, "BUDGET_SPENT".to_owned()));
    model.release(1);
    assert_eq!(client.answer().status, 200, "what was let in is answered");
    let (_, total) = usage(&gateway, ROOT, "by=&key=ana");
    assert_eq!(numbers(&total, &TOKENS), [120, 80, 200]);
    // A larger budget is in force at once.
    gateway.reload(
        json!({
            "keys": [
                { "id": "root", "key": ROOT, "scopes": ["chat", "read", "admin"] },
                { "id": "ana", "key": ANA, "budget": { "tokens": 201 } },
            ],
            "models": { "sim": model.config(json!({})) },
            "agents": { "main": { "models": ["sim"] } },
        }),
        1,
    );
    assert_eq!(chat(&gateway, ANA, "fast").status, 200);
    assert_eq!(chat(&gateway, ANA, "fast").status, 429);
}
