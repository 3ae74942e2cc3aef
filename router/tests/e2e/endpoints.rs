//! Several endpoints and keys behind one model: each call goes to one of them, one that fails is left alone, alone, and
//! nobody notices as long as another can answer.
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, samples};
use crate::peers::model::{Model, Speech};
use crate::peers::server::After;
use serde_json::{Value, json};

const KEYS: [&str; 2] = ["sk-canary-one", "sk-canary-two"];

/// A configuration whose one model has two keys at this server; `more` are further keys of the model.
fn config(model: &Model, more: &Value) -> Value {
    let mut sim = json!({
        "provider": "openai-compatible", "baseUrl": format!("http://{}/v1", model.server.address),
        "model": "sim-1",
        "endpoints": [{ "name": "one", "apiKey": KEYS[0] }, { "name": "two", "apiKey": KEYS[1] }],
    });
    crate::peers::gateway::merge(&mut sim, more.clone());
    json!({
        "models": { "sim": sim },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1, "history": false } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
        "keys": [{ "id": "root", "key": KEY, "scopes": ["chat", "read", "admin"] }],
    })
}

fn answer(speech: &mut Speech<'_>) -> After {
    speech.begin();
    speech.token("canary");
    speech.finish("stop");
    speech.done();
    After::Keep
}

const KEY: &str = "canary-key-of-an-admin";
const BEARER: (&str, &str) = ("authorization", "Bearer canary-key-of-an-admin");

fn ask(gateway: &Gateway) -> (String, Value) {
    let mut client = gateway.connect();
    client.post("/api/chat", &[BEARER], &json!({ "message": "canary", "stream": true }));
    Events::begin(client).finish()
}

fn metric(gateway: &Gateway, name: &str, labels: &str) -> u64 {
    let text = gateway.call("GET", "/metrics", &[BEARER], b"").text();
    let rows = samples(&text).into_iter().filter(|(n, l, _)| n == name && l.contains(labels));
    rows.map(|(_, _, value)| value as u64).sum()
}

/// How often each key was used.
fn used(model: &Model) -> [usize; 2] {
    KEYS.map(|key| {
        let bearer = format!("Bearer {key}");
        model.seen.with(|seen| {
            let by = |asked: &&crate::peers::server::Asked| asked.header("authorization") == Some(&bearer);
            seen.asked.iter().filter(by).count()
        })
    })
}

/// The endpoints of the model as `/api/models` shows them.
fn shown(gateway: &Gateway) -> Vec<Value> {
    let all = gateway.call("GET", "/api/models", &[BEARER], b"").json();
    all["data"]["models"][0]["endpoints"].as_array().unwrap().clone()
}

#[test]
fn calls_are_spread_over_the_keys() {
    let model = Model::start(|_, speech| answer(speech));
    let gateway = Gateway::start(config(&model, &json!({})));
    for _ in 0..60 {
        assert_eq!(ask(&gateway).0, "canary");
    }
    let used = used(&model);
    // One that was slow once, on a busy machine, may be left alone for the rest: how calls are spread is a test of the core.
    assert!(used.iter().all(|count| 1 <= *count) && used.iter().sum::<usize>() == 60, "{used:?}");
    let endpoints = shown(&gateway);
    for (endpoint, (name, count)) in endpoints.iter().zip(["one", "two"].into_iter().zip(used)) {
        assert_eq!((&endpoint["name"], &endpoint["state"]), (&json!(name), &json!("ready")), "{endpoint}");
        assert_eq!((&endpoint["calls"], &endpoint["running"]), (&json!(count), &json!(0)), "{endpoint}");
        let labels = format!("endpoint=\"{name}\"");
        assert_eq!(metric(&gateway, "clawgate_endpoint_calls_total", &labels), count as u64);
    }
}

/// "upstream 429 with `retry-after`": cooldown for that key alone, over all shards; the other is asked at once.
#[test]
fn a_limited_key_is_left_alone_and_the_other_answers() {
    let model = Model::start(|asked, speech| {
        if asked.header("authorization") == Some("Bearer sk-canary-one") {
            return speech.error(429, &[("retry-after", "50")], "rate_limit_exceeded", "the canary is busy");
        }
        answer(speech)
    });
    let gateway = Gateway::start(config(&model, &json!({})));
    for _ in 0..30 {
        let (text, last) = ask(&gateway);
        assert_eq!((text.as_str(), &last["type"]), ("canary", &json!("done")));
    }
    assert_eq!(used(&model), [1, 30], "it asked for calm once, and every shard gives it");
    let endpoints = shown(&gateway);
    assert_eq!((&endpoints[0]["state"], &endpoints[1]["state"]), (&json!("cooling"), &json!("ready")));
    assert!((40_000..56_000).contains(&endpoints[0]["coolingMillis"].as_u64().unwrap()), "{endpoints:?}");
    assert_eq!(metric(&gateway, "clawgate_endpoint_retries_total", ""), 1);
    assert_eq!(metric(&gateway, "clawgate_call_retries_total", ""), 0);
    // What is known of an endpoint outlives a reload, and an operator ends it.
    let mut again = config(&model, &json!({}));
    again["models"]["sim"]["temperature"] = json!(0.5);
    gateway.reload(again, 1);
    assert_eq!(shown(&gateway)[0]["state"], "cooling");
    assert_eq!(gateway.call("POST", "/api/models/sim/reset", &[BEARER], b"").status, 200);
    assert_eq!(shown(&gateway)[0]["state"], "ready");
    for _ in 0..30 {
        assert_eq!(ask(&gateway).0, "canary");
    }
    assert_eq!(used(&model), [2, 60]);
}

/// Whatever goes wrong before the first token, the other endpoint answers within the same attempt; after it, none does.
#[test]
fn a_failure_before_the_first_token_goes_on_at_the_next_endpoint() {
    for fault in ["status", "key", "event", "cut", "reset", "empty", "late"] {
        let model = Model::start(move |asked, speech| {
            if asked.number != 0 {
                return answer(speech);
            }
            match fault {
                "status" => return speech.error(503, &[], "server_error", "the canary is ill"),
                "key" => return speech.error(401, &[], "invalid_api_key", "the canary knows you not"),
                "event" => {
                    speech.begin();
                    speech.event(&json!({ "error": { "message": "no", "type": "server_error" } }));
                }
                "cut" => speech.begin(),
                "reset" => speech.line.reset(),
                "empty" => {}
                _ => {
                    speech.begin();
                    speech.token("half of a ");
                }
            }
            After::Close
        });
        let gateway = Gateway::start(config(&model, &json!({})));
        let (text, last) = ask(&gateway);
        if fault == "late" {
            assert_eq!((text.as_str(), &last["code"]), ("half of a ", &json!("UPSTREAM_TRUNCATED")));
            assert_eq!(model.server.requests(), 1, "what was shown cannot be taken back");
        } else {
            assert_eq!((text.as_str(), &last["type"]), ("canary", &json!("done")), "{fault}: {last}");
            assert_eq!(model.server.requests(), 2, "{fault}");
        }
        let failed: Vec<u64> = shown(&gateway).iter().map(|one| one["failed"].as_u64().unwrap()).collect();
        assert_eq!(failed.iter().sum::<u64>(), 1, "{fault}: {failed:?}");
    }
}

/// All keys are limited: the client hears until when, and the provider is not asked in vain.
#[test]
fn where_all_keys_are_limited_nobody_is_asked() {
    let model = Model::start(|asked, speech| {
        let wait = if asked.header("authorization") == Some("Bearer sk-canary-one") { "50" } else { "20" };
        speech.error(429, &[("retry-after", wait)], "rate_limit_exceeded", "the canary is busy")
    });
    let gateway = Gateway::start(config(&model, &json!({})));
    for _ in 0..10 {
        let headers = [BEARER, ("content-type", "application/json")];
        let refused = gateway.call("POST", "/api/chat", &headers, br#"{"message":"canary"}"#);
        assert_eq!(refused.refusal(), (429, "UPSTREAM_RATE_LIMITED".to_owned()));
        assert!((1..=20).contains(&refused.number("retry-after")), "{refused:?}");
    }
    assert_eq!(used(&model), [1, 1]);
}

/// An answer whose head says that nothing is left until some time is the last that is asked for until then.
#[test]
fn a_key_that_is_used_up_is_left_alone_before_it_fails() {
    let model = Model::start(|asked, speech| {
        if asked.header("authorization") == Some("Bearer sk-canary-one") {
            let body = crate::peers::model::completion("canary", 1, 1).to_string();
            let rates = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "50s")];
            speech.line.answer(200, &rates, &body);
            return After::Keep;
        }
        answer(speech)
    });
    let gateway = Gateway::start(config(&model, &json!({})));
    for _ in 0..30 {
        assert_eq!(ask(&gateway).0, "canary");
    }
    assert_eq!(used(&model)[0], 1, "nobody is asked who has nothing left");
}

/// A model that falls silent teaches its endpoint's cooldown, though the shard gave the call up.
#[test]
fn a_silent_endpoint_is_left_alone() {
    let model =
        Model::start(|asked, speech| if asked.number == 0 { speech.fall_silent() } else { answer(speech) });
    let mut config = config(&model, &json!({ "headerSeconds": 0.3 }));
    config["agents"]["main"]["attemptsMax"] = json!(2);
    let gateway = Gateway::start(config);
    assert_eq!(ask(&gateway).0, "canary");
    let cooling = shown(&gateway).iter().filter(|one| one["state"] == "cooling").count();
    assert_eq!(cooling, 1);
}
