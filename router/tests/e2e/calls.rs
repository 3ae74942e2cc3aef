//! Calls to models: each limit on its time and size by itself, what leaves together, and what is granted in a minute.
use crate::peers::events::{Events, Record};
use crate::peers::gateway::{Gateway, merge};
use crate::peers::model::{Model, chunk};
use crate::peers::server::After;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

/// A gateway whose agent has this model; `more` is added to the configuration.
fn with_model(model: Value, more: Value) -> Gateway {
    let mut config = json!({
        "models": { "sim": model }, "agents": { "main": { "models": ["sim"], "attemptsMax": 1 } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

fn ask(gateway: &Gateway) -> (String, Value) {
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true }));
    Events::begin(client).finish()
}

/// A listener that takes no connection any more: whoever connects is not answered at all.
fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 64, "the kernel holds no more than it was told");
    }
    (listener, held)
}

/// "separate limits, per model: connect": it is not the limit on the head that ends this call.
#[test]
fn connecting_has_its_own_limit_for_each_model() {
    let (listener, _held) = full_listener();
    let base = format!("http://{}/v1", listener.local_addr().unwrap());
    let model = json!({
        "provider": "openai-compatible", "baseUrl": base, "model": "x", "connectSeconds": 0.3,
    });
    let gateway = with_model(model, json!({}));
    let (_, last) = ask(&gateway);
    assert_eq!(last["code"], "UPSTREAM_FAILED", "{last}");
    assert!(last["message"].as_str().unwrap().contains("cannot be reached"), "{last}");
}

/// "all events of one upstream read leave in one write".
#[test]
fn what_is_read_together_leaves_together() {
    const WORDS: usize = 200;
    let model = Model::start(|_, speech| {
        speech.begin();
        let event = format!("data: {}\n\n", chunk(&json!({ "content": "canary " }), None));
        speech.raw(event.repeat(WORDS));
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let gateway = with_model(model.config(json!({})), json!({}));
    let before = gateway.metric("clawgate_writes_total", "");
    let (text, last) = ask(&gateway);
    assert_eq!((text.len(), &last["type"]), (7 * WORDS, &json!("done")));
    let writes = gateway.metric("clawgate_writes_total", "") - before;
    // The head, a few reads of what is some 50 KB, the end, and those of the questions for the metric.
    assert!(writes <= 20, "{writes} writes for {WORDS} pieces");
}

/// "explicit criteria (status, error, timeout, truncated)", of each model: what is tried again on it, and what leads on.
#[test]
fn a_model_says_which_of_its_failures_are_tried_again_or_lead_on() {
    let model =
        Model::start(|asked, speech| match asked.json()["messages"][0]["content"].as_str().unwrap() {
            "cut" => {
                speech.begin();
                After::Close
            }
            status => speech.error(status.parse().unwrap(), &[], "canary_error", "the canary is moody"),
        });
    let spare = Model::saying(&["The spare."]);
    let moody = |retry: Value, fallback: Value| {
        model.config(json!({ "retryOn": retry, "fallbackOn": fallback, "breaker": { "failedPercent": 0 } }))
    };
    let agent = |name: &str| json!({ "models": [name, "spare"], "attemptsMax": 2 });
    let gateway = Gateway::start(json!({
        "models": {
            "stubborn": moody(json!(["4xx", "truncated"]), json!([])), "hasty": moody(json!([]), json!(["500", "400"])),
            "spare": spare.config(json!({})),
        },
        "agents": { "stubborn": agent("stubborn"), "hasty": agent("hasty") },
        "route": "hasty",
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    }));
    for (agent, text, calls, leads_on) in [
        ("stubborn", "400", 2, false),
        ("stubborn", "cut", 2, false),
        ("stubborn", "500", 1, false),
        ("hasty", "400", 1, true),
        ("hasty", "500", 1, true),
        ("hasty", "503", 1, false),
        ("hasty", "cut", 1, false),
    ] {
        let before = model.bodies().len();
        let answer = gateway.post("/api/chat", &json!({ "message": text, "agent": agent }));
        let seen = (model.bodies().len() - before, answer.status == 200);
        assert_eq!(seen, (calls, leads_on), "{agent} {text}: {answer:?}");
    }
}

#[test]
fn more_tool_calls_than_the_limit_are_no_answer() {
    let model = Model::start(|_, speech| {
        speech.begin();
        for index in 0..3 {
            let function = json!({ "name": "sing", "arguments": "{}" });
            let call = json!({ "index": index, "id": format!("c{index}"), "type": "function",
                "function": function });
            speech.event(&chunk(&json!({ "tool_calls": [call] }), None));
        }
        speech.finish("tool_calls");
        speech.done();
        After::Close
    });
    let gateway = with_model(model.config(json!({})), json!({ "limits": { "toolCallsMax": 2 } }));
    let (_, last) = ask(&gateway);
    assert_eq!(last["code"], "UPSTREAM_MALFORMED", "{last}");
    let gateway = with_model(model.config(json!({})), json!({ "limits": { "toolCallsMax": 3 } }));
    assert_eq!(ask(&gateway).1["type"], "done");
}

/// What a model grants in a minute is granted to all shards together; who waits is told at which place, and who would wait
/// too long, when to come back.
#[test]
fn so_many_calls_in_a_minute_over_all_shards() {
    let model = Model::saying(&["canary"]);
    let gateway = with_model(
        model.config(json!({ "requestsPerMinute": 2 })),
        json!({ "agents": { "main": { "waitTargetMillis": 1000 } } }),
    );
    let mut socket = gateway.socket();
    for session in 0..2 {
        assert_eq!(socket.ask(&format!("s{session}"), "canary").text(), "canary");
    }
    for session in 2..8 {
        socket.say(json!({ "type": "message", "content": "canary", "sessionId": format!("s{session}") }));
    }
    for _ in 2..8 {
        let heard = socket.next_of_all();
        if heard["type"] == "queued" {
            assert!(1 <= heard["position"].as_u64().unwrap(), "{heard}");
        } else {
            assert_eq!(heard["code"], "AGENT_BUSY", "{heard}");
            assert!(1 <= heard["retryAfter"].as_u64().unwrap(), "{heard}");
        }
    }
    assert_eq!(model.server.requests(), 2);
}

/// Tokens are charged by what the model counted.
#[test]
fn so_many_tokens_in_a_minute() {
    let model = Model::saying(&["canary"]);
    // It says that it took 27.
    let gateway = with_model(model.config(json!({ "tokensPerMinute": 27 })), json!({}));
    assert_eq!(ask(&gateway).0, "canary");
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true }));
    let Some(Record::Event { data: first, .. }) = Events::begin(client).next() else { panic!("no event") };
    assert_eq!((&first["type"], &first["position"]), (&json!("queued"), &json!(1)), "{first}");
    assert_eq!(model.server.requests(), 1);
}
