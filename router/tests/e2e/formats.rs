//! Models of every wire format: what each is asked, what is passed on, and the ways in which a stream goes wrong, each told
//! in the format's own words.
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, merge};
use crate::peers::model::{Model, Speech, chunk, completion};
use crate::peers::server::{After, Asked};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

/// A format: how it is configured, and how its models speak.
#[derive(Clone, Copy, Debug)]
struct Dialect {
    provider: &'static str,
    format: Option<&'static str>,
    /// What stands before the format's path in the configuration.
    base: &'static str,
    /// Where it is asked.
    target: &'static str,
    /// The header that carries the key, and what it is.
    key: (&'static str, &'static str),
    /// Says a word; the number is how many were said before.
    word: fn(&mut Speech<'_>, u32, &str) -> bool,
    /// Ends an answer as complete.
    finish: fn(&mut Speech<'_>),
    /// What keeps a connection alive and says nothing.
    ping: &'static str,
    /// An error in mid-stream with this message.
    error: fn(&str) -> String,
    /// A whole answer that is not streamed.
    whole: fn() -> Value,
}

const DIALECTS: [Dialect; 4] = [
    Dialect {
        provider: "openai",
        format: None,
        base: "/v1",
        target: "/v1/chat/completions",
        key: ("authorization", "Bearer sk-canary-model-key"),
        word: |speech, _, word| speech.event(&chunk(&json!({ "content": word }), None)),
        finish: |speech| {
            speech.finish("stop");
            speech.usage(15, 12);
            speech.done();
        },
        ping: ": OPENROUTER PROCESSING\n\n",
        error: |message| {
            format!("data: {}\n\n", json!({ "error": { "message": message, "type": "server_error" } }))
        },
        whole: || completion("A canary sings.", 15, 12),
    },
    Dialect {
        provider: "openai",
        format: Some("openai-responses"),
        base: "/v1",
        target: "/v1/responses",
        key: ("authorization", "Bearer sk-canary-model-key"),
        word: |speech, before, word| {
            if before == 0 {
                named(speech, json!({ "type": "response.created", "response": response("in_progress") }));
            }
            named(
                speech,
                json!({ "type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0,
                        "content_index": 0, "delta": word }),
            )
        },
        finish: |speech| {
            let completed = json!({ "type": "response.completed", "response": response("completed") });
            speech.last(event_of(&completed));
        },
        ping: ": ping\n\n",
        error: |message| {
            let error = json!({ "type": "error", "code": "server_error", "message": message, "param": null });
            format!("event: error\ndata: {error}\n\n")
        },
        whole: || response("completed"),
    },
    Dialect {
        provider: "anthropic",
        format: None,
        base: "",
        target: "/v1/messages",
        key: ("x-api-key", "sk-canary-model-key"),
        word: |speech, before, word| {
            if before == 0 {
                let message = json!({ "id": "msg_1", "type": "message", "role": "assistant", "content": [],
                    "model": "sim-1", "usage": { "input_tokens": 15, "output_tokens": 1 } });
                named(speech, json!({ "type": "message_start", "message": message }));
                let block = json!({ "type": "text", "text": "" });
                named(speech, json!({ "type": "content_block_start", "index": 0, "content_block": block }));
            }
            let delta = json!({ "type": "text_delta", "text": word });
            named(speech, json!({ "type": "content_block_delta", "index": 0, "delta": delta }))
        },
        finish: |speech| {
            named(speech, json!({ "type": "content_block_stop", "index": 0 }));
            let delta = json!({ "stop_reason": "end_turn", "stop_sequence": null });
            let usage = json!({ "output_tokens": 12 });
            named(speech, json!({ "type": "message_delta", "delta": delta, "usage": usage }));
            speech.last(event_of(&json!({ "type": "message_stop" })));
        },
        ping: "event: ping\ndata: {\"type\": \"ping\"}\n\n",
        error: |message| {
            let error = json!({ "type": "overloaded_error", "message": message });
            format!("event: error\ndata: {}\n\n", json!({ "type": "error", "error": error }))
        },
        whole: || {
            json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": "sim-1",
                "content": [{ "type": "text", "text": "A canary sings." }],
                "stop_reason": "end_turn", "stop_sequence": null,
                "usage": { "input_tokens": 15, "output_tokens": 12 },
            })
        },
    },
    Dialect {
        provider: "ollama",
        format: None,
        base: "",
        target: "/api/chat",
        key: ("authorization", "Bearer sk-canary-model-key"),
        word: |speech, _, word| {
            let message = json!({ "role": "assistant", "content": word });
            speech.raw(format!("{}\n", json!({ "model": "sim-1", "message": message, "done": false })))
        },
        finish: |speech| {
            speech.last(format!("{}\n", ollama("", true)));
        },
        ping: "\n",
        error: |message| format!("{}\n", json!({ "error": message })),
        whole: || ollama("A canary sings.", true),
    },
];

fn named(speech: &mut Speech<'_>, data: Value) -> bool {
    speech.raw(event_of(&data))
}

fn event_of(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

fn response(status: &str) -> Value {
    let text = json!({ "type": "output_text", "text": "A canary sings.", "annotations": [] });
    let item = json!({ "id": "msg_1", "type": "message", "status": status, "role": "assistant",
        "content": [text] });
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_741_476_542, "status": status, "error": null,
        "model": "sim-1", "output": if status == "completed" { json!([item]) } else { json!([]) },
        "usage": if status == "completed" {
            json!({ "input_tokens": 15, "output_tokens": 12, "total_tokens": 27 })
        } else {
            Value::Null
        },
    })
}

fn ollama(text: &str, done: bool) -> Value {
    json!({
        "model": "sim-1", "message": { "role": "assistant", "content": text }, "done": done,
        "done_reason": "stop", "prompt_eval_count": 15, "eval_count": 12,
    })
}

impl Dialect {
    /// A gateway with this model alone; `more` is added to the model's section.
    fn gateway(&self, model: &Model, more: Value) -> Gateway {
        let base = format!("http://{}{}", model.server.address, self.base);
        let mut entry = json!({
            "provider": self.provider, "baseUrl": base, "model": "sim-1", "apiKey": "sk-canary-model-key",
        });
        if let Some(format) = self.format {
            entry["format"] = json!(format);
        }
        merge(&mut entry, more);
        Gateway::start(json!({
            "models": { "sim": entry },
            "agents": { "main": { "models": ["sim"], "attemptsMax": 1, "system": "Be brief." } },
            "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
        }))
    }

    fn say(&self, speech: &mut Speech<'_>, words: &[&str]) -> bool {
        (0..).zip(words).all(|(before, word)| (self.word)(speech, before, word))
    }
}

fn ask(gateway: &Gateway) -> (String, Value) {
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "Sing, canary", "stream": true, "sessionId": "s" }));
    Events::begin(client).finish()
}

#[test]
fn every_format_is_configured_asked_and_read() {
    for dialect in DIALECTS {
        let model = Model::start(move |asked, speech| {
            if asked.json()["stream"] == false {
                speech.line.answer(200, &[], &(dialect.whole)().to_string());
            } else {
                speech.begin();
                assert!(dialect.say(speech, &["A ", "canary ", "sings."]));
                (dialect.finish)(speech);
            }
            After::Keep
        });
        let usage = json!({ "promptTokens": 15, "completionTokens": 12, "totalTokens": 27 });
        let gateway = dialect.gateway(&model, json!({ "maxTokens": 100, "headers": { "x-team": "blue" } }));
        for _ in 0..2 {
            let (text, last) = ask(&gateway);
            assert_eq!((text.as_str(), &last["usage"]), ("A canary sings.", &usage), "{dialect:?}: {last}");
        }
        let asked: Vec<Asked> = model.seen.with(|seen| seen.asked.clone());
        assert_eq!(asked[0].target, dialect.target);
        assert_eq!(asked[0].header(dialect.key.0), Some(dialect.key.1), "{dialect:?}");
        assert_eq!(asked[0].header("x-team"), Some("blue"));
        let version = asked[0].header("anthropic-version");
        assert_eq!(version, (dialect.provider == "anthropic").then_some("2023-06-01"));
        // The second one remembers the first.
        let second = asked[1].json();
        let said = second["messages"].as_array().or_else(|| second["input"].as_array()).unwrap();
        let roles: Vec<_> =
            said.iter().filter(|one| one["role"] != "system").map(|one| &one["role"]).collect();
        assert_eq!(roles, ["user", "assistant", "user"], "{second}");
        assert!(second.to_string().contains("Be brief."), "{second}");
        assert_eq!(model.server.connections(), 1, "its connection is kept and used again: {dialect:?}");
        // A model that does not stream serves clients that do.
        let gateway = dialect.gateway(&model, json!({ "stream": false }));
        let (text, last) = ask(&gateway);
        assert_eq!((text.as_str(), &last["usage"]), ("A canary sings.", &usage), "{dialect:?}: {last}");
    }
}

/// "upstream closes after 20 tokens without a finish", "error event in mid-stream", "broken JSON in one event".
#[test]
fn a_stream_that_goes_wrong_is_no_answer_in_any_format() {
    for dialect in DIALECTS {
        let turn = AtomicU32::new(0);
        let model = Model::start(move |_, speech| {
            speech.begin();
            dialect.say(speech, &["one ", "two "]);
            match turn.fetch_add(1, Ordering::Relaxed) {
                0 => {}
                1 => assert!(speech.line.send("0\r\n\r\n")),
                2 => assert!(speech.raw((dialect.error)("the canary fell off its perch"))),
                _ => assert!(speech.raw("data: {\"canary\n\n{]\n")),
            }
            After::Close
        });
        let gateway = dialect.gateway(&model, json!({}));
        let codes = ["UPSTREAM_TRUNCATED", "UPSTREAM_TRUNCATED", "UPSTREAM_FAILED", "UPSTREAM_MALFORMED"];
        for (at, code) in codes.into_iter().enumerate() {
            let (text, last) = ask(&gateway);
            assert_eq!(text, "one two ", "{dialect:?} {at}");
            assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!(code)), "{dialect:?} {at}");
            if at == 2 {
                assert!(last["message"].as_str().unwrap().contains("fell off its perch"), "{last}");
            }
        }
        let session = gateway.get("/api/sessions/s").json();
        assert_eq!(session["data"]["history"], json!([]), "half an answer is not remembered");
    }
}

/// "upstream falls silent": what only keeps the connection alive resets neither the wait for the first token nor the one
/// between two.
#[test]
fn pings_are_no_signs_of_life_in_any_format() {
    for dialect in DIALECTS {
        let turn = AtomicU32::new(0);
        let model = Model::start(move |_, speech| {
            speech.begin();
            if turn.fetch_add(1, Ordering::Relaxed) == 1 {
                dialect.say(speech, &["one ", "two "]);
            }
            while speech.raw(dialect.ping) {
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
            speech.left();
            After::Close
        });
        let ages = json!({ "headerSeconds": 0.4, "firstTokenSeconds": 0.4, "silenceSeconds": 0.3 });
        let gateway = dialect.gateway(&model, ages);
        for (number, shown) in [(1, ""), (2, "one two ")] {
            let (text, last) = ask(&gateway);
            assert_eq!((text.as_str(), &last["code"]), (shown, &json!("UPSTREAM_TIMEOUT")), "{dialect:?}");
            model.seen.wait("the call is aborted", |seen| (seen.left.len() == number).then_some(()));
        }
    }
}

/// "client leaves after token 5": the model is left while it thinks about the next one.
#[test]
fn a_client_that_leaves_stops_the_model_in_every_format() {
    for dialect in DIALECTS {
        let model = Model::start(move |_, speech| {
            speech.begin();
            assert!(dialect.say(speech, &["word "; 5]));
            speech.fall_silent()
        });
        let gateway = dialect.gateway(&model, json!({}));
        let mut client = gateway.connect();
        client.post("/api/chat", &[], &json!({ "message": "canary", "stream": true }));
        let mut events = Events::begin(client);
        for _ in 0..5 {
            assert_eq!(events.data().unwrap()["content"], "word ", "{dialect:?}");
        }
        drop(events);
        model.seen.wait("the model is left", |seen| (seen.left.len() == 1).then_some(()));
        gateway.await_status("running", 0);
        assert_eq!(gateway.metric("clawgate_turns_total", "outcome=\"cancelled\""), 1);
    }
}
