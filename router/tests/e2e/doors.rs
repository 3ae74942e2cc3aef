//! The doors for clients of models: whole requests in the formats of OpenAI and Anthropic, each answered in its own.
use crate::peers::gateway::{Gateway, merge};
use crate::peers::http::Answer;
use crate::peers::model::{Model, Speech, chunk};
use crate::peers::server::{After, Asked};
use serde_json::{Value, json};
use std::process::Command;

const KEY: &str = "sk-canary-door-key-1234";

fn with_model(model: &Model, more: Value) -> Gateway {
    let mut config = json!({
        "models": { "sim": model.config(json!({ "breaker": { "callsMin": 1_000 } })) },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1 } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

/// A model that calls the tool `weather`, and says what it was told by it.
fn with_a_tool() -> Model {
    Model::start(|asked, speech| {
        speech.begin();
        let body = asked.json();
        let last = body["messages"].as_array().and_then(|messages| messages.last()).cloned();
        if last.is_some_and(|last| last["role"] == "tool" && last["content"] == "sunny") {
            speech.token("It is ");
            speech.token("sunny.");
            speech.finish("stop");
        } else {
            call_the_tool(speech);
        }
        speech.usage(15, 12);
        speech.done();
        After::Keep
    })
}

fn call_the_tool(speech: &mut Speech<'_>) {
    let function = json!({ "name": "weather", "arguments": "" });
    let call = json!({ "index": 0, "id": "call_1", "type": "function", "function": function });
    speech.event(&chunk(&json!({ "role": "assistant", "content": null, "tool_calls": [call] }), None));
    for part in ["{\"ci", "ty\":\"Ro", "me\"}"] {
        let call = json!({ "index": 0, "function": { "arguments": part } });
        speech.event(&chunk(&json!({ "tool_calls": [call] }), None));
    }
    speech.finish("tool_calls");
}

fn hello(stream: bool) -> Value {
    json!({ "model": "main", "stream": stream, "max_tokens": 50, "messages": [{ "role": "user", "content": "Hello" }] })
}

/// The data of a stream's events, which are JSON but for the last of OpenAI's.
fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/event-stream")),
        "{answer:?}"
    );
    let text = answer.text();
    let data =
        text.split("\n\n").filter_map(|block| block.lines().find_map(|line| line.strip_prefix("data: ")));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| json!(data))).collect()
}

#[test]
fn the_official_clients_run_unchanged() {
    let model = with_a_tool();
    let gateway = Gateway::start(json!({
        "keys": [{ "id": "me", "key": KEY, "scopes": ["chat"] }],
        "models": { "sim": model.config(json!({})), "echo": { "provider": "echo" }, "demo": { "provider": "scripted" } },
        "agents": {
            "main": { "models": ["echo"] }, "demo": { "models": ["demo"] }, "tools": { "models": ["sim"] },
        },
        "route": "main",
    }));
    let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/clients");
    let run = |arguments: &[&str]| {
        let output = Command::new(clients).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let address = gateway.address.to_string();
    run(&["install"]);
    run(&["python", &address, KEY]);
    run(&["node", &address, KEY]);
}

#[test]
fn a_request_reaches_its_model_as_it_was_written() {
    let model = with_a_tool();
    let gateway = with_model(&model, json!({ "agents": { "main": { "system": "You are a canary." } } }));
    let tools = json!([{ "type": "function", "function": { "name": "weather", "parameters": { "type": "object" } } }]);
    let mut asked = hello(false);
    merge(&mut asked, json!({ "tools": tools, "seed": 7, "x_unknown": [1.0, { "a": null }] }));
    let first = gateway.post("/v1/chat/completions", &asked).json();
    let call = &first["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({ "name": "weather", "arguments": "{\"city\":\"Rome\"}" }), "{first}");
    assert_eq!(
        (&first["choices"][0]["finish_reason"], &first["model"]),
        (&json!("tool_calls"), &json!("main"))
    );
    assert_eq!(first["usage"]["total_tokens"], 27);
    let body = &model.bodies()[0];
    assert_eq!(
        (&body["tools"], &body["seed"], &body["x_unknown"]),
        (&tools, &json!(7), &json!([1.0, { "a": null }]))
    );
    assert_eq!((&body["model"], &body["stream"]), (&json!("sim-1"), &json!(true)), "how we ask is ours");
    let system = json!({ "role": "system", "content": "You are a canary." });
    assert_eq!(body["messages"], json!([system, { "role": "user", "content": "Hello" }]));

    // The same agent by another door: its words are those of OpenAI's model.
    let schema = json!({ "type": "object" });
    let mut asked = hello(true);
    merge(&mut asked, json!({ "tools": [{ "name": "weather", "input_schema": schema }] }));
    let said = events(&gateway.post("/v1/messages", &asked));
    let kinds: Vec<_> = said.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], *kinds.last().unwrap()), ("message_start", "message_stop"), "{said:?}");
    let arguments: String = said.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(arguments, "{\"city\":\"Rome\"}");
    assert!(said.iter().any(|event| event["delta"]["stop_reason"] == "tool_use"), "{said:?}");
    assert_eq!(model.bodies()[1]["tools"][0]["function"]["name"], "weather");
}

#[test]
fn nothing_of_a_session_goes_with_it_and_nothing_stays() {
    let model = Model::saying(&["A canary ", "sings."]);
    let gateway = with_model(&model, json!({}));
    gateway.post("/api/chat", &json!({ "message": "canary one", "sessionId": "s" }));
    let ask = |headers: &[(&str, &str)]| {
        let json = [("content-type", "application/json")];
        let headers: Vec<_> = json.iter().chain(headers).copied().collect();
        let answer =
            gateway.call("POST", "/v1/chat/completions", &headers, hello(false).to_string().as_bytes());
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "A canary sings.", "{answer:?}");
    };
    ask(&[("x-session-id", "s")]);
    (0..20).for_each(|_| ask(&[]));
    assert_eq!(model.bodies()[1]["messages"].as_array().unwrap().len(), 1, "no history");
    let session = gateway.get("/api/sessions/s").json();
    assert_eq!(session["data"]["history"].as_array().unwrap().len(), 2, "{session}");
    let sessions = gateway.get("/api/sessions").json();
    assert_eq!(sessions["data"]["sessions"].as_array().unwrap().len(), 1, "those that were made up are gone");
    let answer = gateway.call(
        "POST",
        "/v1/chat/completions",
        &[("content-type", "application/json"), ("x-session-id", &"s".repeat(129))],
        hello(false).to_string().as_bytes(),
    );
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (400, &json!("INVALID_SESSION")));
}

#[test]
fn a_failure_is_told_in_the_clients_words_and_never_looks_complete() {
    let model = Model::start(|asked, speech| {
        let body = asked.json();
        let text = body["messages"][0]["content"].as_str().map(str::to_owned);
        match text.as_deref() {
            Some("slow down") => {
                return speech.error(429, &[("retry-after", "7")], "rate_limit_error", "canary: too fast");
            }
            Some("break") => {
                speech.begin();
                speech.token("half");
            }
            _ => {
                speech.begin();
                speech.token("half");
                speech
                    .event(&json!({ "error": { "message": "canary: overloaded", "type": "server_error" } }));
            }
        }
        After::Close
    });
    let gateway = with_model(&model, json!({}));
    let ask = |path: &str, content: &str, stream: bool| {
        let mut body = hello(stream);
        let messages = json!([{ "role": "user", "content": content }]);
        let key = if path == "/v1/responses" { "input" } else { "messages" };
        body["messages"].take();
        body.as_object_mut().unwrap().remove("messages");
        if path == "/v1/responses" {
            body.as_object_mut().unwrap().remove("max_tokens");
        }
        body[key] = messages;
        gateway.post(path, &body)
    };
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/messages"] {
        for stream in [false, true] {
            let limited = ask(path, "slow down", stream);
            assert_eq!(
                (limited.status, limited.header("retry-after")),
                (429, Some("7")),
                "{path} {limited:?}"
            );
            let error = &limited.json()["error"];
            assert_eq!(error["type"], "rate_limit_error", "{path}");
            assert!(error["message"].as_str().unwrap().contains("too fast"), "{error}");
        }
        assert_eq!(ask(path, "break", false).status, 502, "{path}");
        for (content, word) in [("break", "broke off"), ("fail", "overloaded")] {
            let answer = ask(path, content, true);
            let said = events(&answer);
            let last = said.last().unwrap();
            assert!(last.to_string().contains(word) && last.to_string().contains("error"), "{path}: {last}");
            let text = answer.text();
            assert!(text.contains("half"), "{path}: what came is shown");
            for end in ["[DONE]", "message_stop", "response.completed", "\"finish_reason\":\"stop\""] {
                assert!(!text.contains(end), "{path}: {end} after a failure: {text}");
            }
        }
    }
}

#[test]
fn what_is_wrong_is_said_in_the_clients_words() {
    let model = Model::saying(&["A canary sings."]);
    let gateway = with_model(
        &model,
        json!({
            "keys": [{ "id": "me", "key": KEY, "scopes": ["chat", "read", "admin"] }],
            "limits": { "requestBytesMax": 4096 },
        }),
    );
    let bearer = format!("Bearer {KEY}");
    let ask = |path: &str, more: &[(&str, &str)], body: &str| {
        let json = [("content-type", "application/json")];
        let headers: Vec<_> = json.iter().chain(more).copied().collect();
        gateway.call("POST", path, &headers, body.as_bytes())
    };
    let openai = |answer: &Answer| {
        let error = answer.json()["error"].clone();
        (
            answer.status,
            error["type"].as_str().unwrap().to_owned(),
            error["code"].as_str().unwrap().to_owned(),
        )
    };
    let told = |status, kind: &str, code: &str| (status, kind.to_owned(), code.to_owned());
    let key = [("authorization", bearer.as_str())];
    let chat = "/v1/chat/completions";
    let body = hello(false).to_string();
    assert_eq!(openai(&ask(chat, &[], &body)), told(401, "authentication_error", "UNAUTHENTICATED"));
    assert_eq!(openai(&ask(chat, &key, "{")), told(400, "invalid_request_error", "invalid_json"));
    assert_eq!(openai(&ask(chat, &key, "{}")).0, 400);
    let unknown = body.replace("main", "canary-nobody");
    assert_eq!(openai(&ask(chat, &key, &unknown)), told(404, "invalid_request_error", "NOT_FOUND"));
    let long = body.replace("Hello", &"x".repeat(5_000));
    assert_eq!(openai(&ask(chat, &key, &long)), told(413, "invalid_request_error", "TOO_LARGE"));
    let anthropic = ask("/v1/messages", &[("x-api-key", "sk-wrong")], &body);
    assert_eq!((anthropic.status, &anthropic.json()["error"]["type"]), (401, &json!("authentication_error")));
    // Anthropic's has no word for a seed of OpenAI's, and the model that answers has none for `top_k`.
    let mut asked = hello(false);
    asked["top_k"] = json!(5);
    let refused = ask("/v1/messages", &[("x-api-key", KEY)], &asked.to_string());
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    assert!(refused.text().contains("top_k"), "{refused:?}");
    assert_eq!(model.bodies().len(), 0, "none of these cost a call");
    let models = gateway.call("GET", "/v1/models", &key, b"").json();
    assert_eq!(models["data"][0]["id"], "main", "{models}");
    let missing = gateway.call("GET", "/v1/models/canary", &key, b"");
    assert_eq!(missing.status, 404, "{missing:?}");
}

#[test]
fn whole_requests_have_a_bound_together() {
    let model = Model::held(2);
    let gateway = with_model(
        &model,
        json!({ "limits": { "requestBytesMax": 600_000, "requestsBytesMax": 1_048_576 } }),
    );
    let mut first = gateway.connect();
    first.post("/v1/chat/completions", &[], &hello(false));
    model.await_asked(1);
    let second = gateway.post("/v1/chat/completions", &hello(false));
    assert_eq!((second.status, &second.json()["error"]["code"]), (503, &json!("BUSY")), "{second:?}");
    assert!(second.header("retry-after").is_some());
    model.release(2);
    assert_eq!(first.answer().status, 200);
    let asks = |asked: &Asked| asked.json()["messages"][0]["content"] == "Hello";
    assert!(model.seen.with(|seen| seen.asked.iter().all(asks)));
    model.release(2);
    assert_eq!(gateway.post("/v1/chat/completions", &hello(false)).status, 200, "the place was given back");
}

#[test]
fn who_leaves_stops_the_model() {
    let model = Model::start(|_, speech| {
        speech.begin();
        speech.token("word");
        speech.fall_silent()
    });
    let gateway = with_model(&model, json!({}));
    let mut client = gateway.connect();
    client.post("/v1/chat/completions", &[], &hello(true));
    assert_eq!(client.head().status, 200);
    assert!(client.piece().is_some());
    client.leave();
    assert_eq!(model.seen.wait("the model is left", |seen| seen.left.first().copied()), 1);
}
