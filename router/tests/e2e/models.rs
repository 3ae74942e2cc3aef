//! Models behind OpenAI-compatible endpoints: what is asked, what is passed on, and each way in which a model fails.
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, merge};
use crate::peers::model::{Model, Speech, chunk, completion};
use crate::peers::server::{After, Asked};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

/// A gateway whose agent has this model; `more` is added to the configuration.
fn with_model(model: &Model, settings: Value, more: Value) -> Gateway {
    let mut config = json!({
        "models": { "sim": model.config(settings) },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1 } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    });
    merge(&mut config, more);
    Gateway::start(config)
}

fn begin(gateway: &Gateway, message: &str) -> Events {
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": message, "stream": true, "sessionId": "s" }));
    Events::begin(client)
}

/// The text and the last event of one streamed answer.
fn ask(gateway: &Gateway) -> (String, Value) {
    begin(gateway, "canary").finish()
}

/// Says `count` words and nothing else.
fn words(speech: &mut Speech<'_>, count: u32) {
    for number in 0..count {
        speech.token(&format!("word{number} "));
    }
}

#[test]
fn the_model_is_asked_as_its_page_says() {
    let model = Model::saying(&["A ", "canary ", "sings."]);
    let gateway = Gateway::start(json!({
        "models": { "sim": model.config(json!({
            "maxTokens": 100, "temperature": 0.5,
            "headers": { "x-team": "canary-team" }, "extraBody": { "seed": 7, "top_p": 0.9 },
        })) },
        "agents": { "main": { "models": ["sim"], "system": "You are a canary." } },
    }));
    let mut socket = gateway.socket();
    for _ in 0..2 {
        let reply = socket.ask("s", "Sing, canary");
        assert_eq!(reply.chunks, ["A ", "canary ", "sings."]);
        let usage = json!({ "promptTokens": 15, "completionTokens": 12, "totalTokens": 27 });
        assert_eq!((&reply.end["usage"], &reply.end["model"]), (&usage, &json!("sim")));
    }
    gateway.post("/api/sessions/s", &json!({ "action": "set", "name": "city", "value": "canary town" }));
    socket.ask("s", "Again, canary");
    let bodies = model.bodies();
    let say = |role: &str, content: &str| json!({ "role": role, "content": content });
    let (system, user) = (say("system", "You are a canary."), say("user", "Sing, canary"));
    let answer = say("assistant", "A canary sings.");
    assert_eq!(bodies[0]["messages"], json!([system, user]));
    assert_eq!(bodies[1]["messages"], json!([system, user, answer, user]));
    let third = bodies[2]["messages"].as_array().unwrap();
    assert!(third[0]["content"].as_str().unwrap().contains("canary town"), "{third:?}");
    assert_eq!((third.len(), &third[5]), (6, &say("user", "Again, canary")));
    for body in &bodies {
        assert_eq!((&body["model"], &body["stream"]), (&json!("sim-1"), &json!(true)));
        assert_eq!(body["stream_options"], json!({ "include_usage": true }));
        assert_eq!(
            (&body["temperature"], &body["seed"], &body["top_p"]),
            (&json!(0.5), &json!(7), &json!(0.9))
        );
        let max = body.get("max_completion_tokens").or_else(|| body.get("max_tokens"));
        assert_eq!(max, Some(&json!(100)));
    }
    let asked: Vec<Asked> = model.seen.with(|seen| seen.asked.clone());
    for request in &asked {
        assert_eq!(request.target, "/v1/chat/completions");
        assert_eq!(request.header("authorization"), Some("Bearer sk-canary-model-key"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("x-team"), Some("canary-team"));
        assert_eq!(request.header("host"), Some(model.server.address.to_string().as_str()));
    }
    assert_eq!(model.server.connections(), 1, "its connection is kept and used again");
}

#[test]
fn an_answer_that_is_not_streamed_by_the_model_serves_all() {
    let model = Model::start(|_, speech| {
        speech.line.answer(200, &[], &completion("A canary sings.", 15, 12).to_string());
        After::Keep
    });
    let gateway = with_model(&model, json!({ "stream": false }), json!({}));
    let whole = gateway.post("/api/chat", &json!({ "message": "canary" })).json();
    assert_eq!(whole["data"]["message"], "A canary sings.");
    assert_eq!(
        whole["data"]["usage"],
        json!({ "promptTokens": 15, "completionTokens": 12, "totalTokens": 27 })
    );
    let (text, last) = ask(&gateway);
    assert_eq!((text.as_str(), &last["usage"]["totalTokens"]), ("A canary sings.", &json!(27)));
    assert_eq!(model.bodies()[0]["stream"], false);
}

/// "upstream closes after 20 tokens without a finish": an error that says so, nothing that looks complete, and no turn in
/// the history.
#[test]
fn a_truncated_answer_is_no_answer() {
    let how = AtomicU32::new(0);
    let model = Model::start(move |_, speech| {
        speech.begin();
        words(speech, 20);
        match how.fetch_add(1, Ordering::Relaxed) {
            // The connection ends inside the body; the body ends; an event is cut in two; a reset.
            0 => {}
            1 => assert!(speech.line.send("0\r\n\r\n")),
            2 => assert!(speech.raw("data: {\"choices\":[{\"delta\":{\"conte")),
            _ => speech.line.reset(),
        }
        After::Close
    });
    let gateway = with_model(&model, json!({}), json!({}));
    for how in 0..4 {
        let (text, last) = ask(&gateway);
        assert_eq!(text.split_whitespace().count(), 20, "what came is shown ({how})");
        assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("UPSTREAM_TRUNCATED")), "{how}");
        assert_eq!(last["sessionId"], "s");
    }
    let whole = gateway.post("/api/chat", &json!({ "message": "canary", "sessionId": "s" }));
    assert_eq!(whole.refusal(), (502, "UPSTREAM_TRUNCATED".to_owned()));
    let session = gateway.get("/api/sessions/s").json();
    assert_eq!(session["data"]["history"], json!([]), "half an answer is not remembered");
    assert_eq!(gateway.metric("clawgate_failed_total", "UPSTREAM_TRUNCATED"), 5);
}

/// "error event in mid-stream": its message reaches the client, and nothing after it.
#[test]
fn an_error_in_mid_stream_reaches_the_client() {
    let model = Model::start(|_, speech| {
        speech.begin();
        words(speech, 2);
        speech.event(
            &json!({ "error": { "message": "the canary fell off its perch", "type": "server_error" } }),
        );
        speech.token("never shown");
        speech.done();
        After::Close
    });
    let gateway = with_model(&model, json!({}), json!({}));
    let (text, last) = ask(&gateway);
    assert_eq!((text.as_str(), &last["code"]), ("word0 word1 ", &json!("UPSTREAM_FAILED")));
    assert!(last["message"].as_str().unwrap().contains("fell off its perch"), "{last}");
}

/// "upstream falls silent": comments and empty pieces are no sign of life.
#[test]
fn a_silent_model_is_given_up() {
    let how = AtomicU32::new(0);
    let model = Model::start(move |_, speech| {
        match how.fetch_add(1, Ordering::Relaxed) {
            // Not even a head; a head and no more; comments for ever; two words, then comments for ever.
            0 => {}
            1 => speech.begin(),
            n => {
                speech.begin();
                words(speech, if n == 2 { 0 } else { 2 });
                while speech.raw(": OPENROUTER PROCESSING\n\n") {
                    std::thread::park_timeout(std::time::Duration::from_millis(10));
                }
                speech.left();
                return After::Close;
            }
        }
        speech.fall_silent()
    });
    let ages = json!({ "headerSeconds": 0.3, "firstTokenSeconds": 0.4, "silenceSeconds": 0.3 });
    let gateway = with_model(&model, ages, json!({}));
    for (how, shown) in [(0, 0), (1, 0), (2, 0), (3, 2)] {
        let (text, last) = ask(&gateway);
        assert_eq!(text.split_whitespace().count(), shown, "{how}");
        assert_eq!(
            (&last["type"], &last["code"]),
            (&json!("error"), &json!("UPSTREAM_TIMEOUT")),
            "{how}: {last}"
        );
        model.seen.wait("the call is aborted", |seen| (seen.left.len() == how + 1).then_some(()));
    }
    let whole = gateway.post("/api/chat", &json!({ "message": "canary" }));
    assert_eq!(whole.refusal(), (504, "UPSTREAM_TIMEOUT".to_owned()));
}

/// A whole call has its own limit: a model that never stops speaking is stopped.
#[test]
fn an_endless_answer_is_stopped() {
    let speak = |_: &Asked, speech: &mut Speech<'_>| {
        speech.begin();
        while speech.token("canary ") {
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        After::Close
    };
    let model = Model::start(speak);
    let gateway = with_model(&model, json!({ "callSeconds": 0.5 }), json!({}));
    let (text, last) = ask(&gateway);
    assert!(text.starts_with("canary "));
    assert_eq!(last["code"], "UPSTREAM_TIMEOUT");
    let model = Model::start(speak);
    let gateway = with_model(&model, json!({}), json!({ "limits": { "replyBytesMax": 1_024 } }));
    let (text, last) = ask(&gateway);
    assert_eq!((text.len(), &last["code"]), (1_024, &json!("REPLY_TOO_LONG")));
    model.seen.wait("the call is aborted", |seen| (seen.left.len() == 1).then_some(()));
}

/// "broken JSON in one event": the stream ends as failed, and is counted.
#[test]
fn broken_events_end_the_answer_as_failed() {
    let broken = [
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}\n\n",
        "data: <html>canary</html>\n\n",
        "data: \u{0}\n\n",
        "data: [1,2]\n\n",
    ];
    let at = AtomicU32::new(0);
    let model = Model::start(move |_, speech| {
        speech.begin();
        words(speech, 1);
        speech.raw(broken[at.fetch_add(1, Ordering::Relaxed) as usize % broken.len()]);
        speech.token("never shown");
        speech.finish("stop");
        speech.done();
        After::Close
    });
    let gateway = with_model(&model, json!({}), json!({}));
    for event in broken {
        let (text, last) = ask(&gateway);
        assert_eq!((text.as_str(), &last["code"]), ("word0 ", &json!("UPSTREAM_MALFORMED")), "{event:?}");
    }
    assert_eq!(gateway.metric("clawgate_failed_total", "UPSTREAM_MALFORMED"), 4);
}

/// What is no HTTP, or no chunk, or too long, ends the call and nothing else.
#[test]
fn what_is_no_http_ends_the_call() {
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100_000));
    let event =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}", "z".repeat(200_000));
    let answers: Vec<(String, &str)> = vec![
        ("SSH-2.0-canary\r\n\r\n".to_owned(), "UPSTREAM_MALFORMED"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            "UPSTREAM_MALFORMED",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n".to_owned(),
            "UPSTREAM_MALFORMED",
        ),
        (endless, "UPSTREAM_MALFORMED"),
        (event, "UPSTREAM_MALFORMED"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), "UPSTREAM_TRUNCATED"),
        (String::new(), "UPSTREAM_TRUNCATED"),
    ];
    let (at, expected) = (AtomicU32::new(0), answers.clone());
    let model = Model::start(move |_, speech| {
        let answer = &answers[at.fetch_add(1, Ordering::Relaxed) as usize].0;
        speech.line.send(answer);
        After::Close
    });
    let gateway = with_model(&model, json!({}), json!({ "limits": { "upstreamEventBytesMax": 100_000 } }));
    for (answer, code) in expected {
        let start: String = answer.chars().take(60).collect();
        let (text, last) = ask(&gateway);
        assert_eq!((text.as_str(), &last["code"]), ("", &json!(code)), "{start:?}");
    }
    gateway.assert_well();
}

/// "upstream 429 with retry-after": the fallback is asked at once, and the limited model is left alone meanwhile.
#[test]
fn a_limited_model_is_passed_over() {
    let limited = Model::start(|_, speech| {
        let headers = [("retry-after", "20"), ("x-ratelimit-remaining-requests", "0")];
        speech.error(429, &headers, "rate_limit_exceeded", "Rate limit reached for the canary")
    });
    let spare = Model::saying(&["The ", "spare."]);
    let gateway = Gateway::start(json!({
        // One shard: what a model said is known to the shard that asked it.
        "server": { "shards": 1 },
        "models": { "first": limited.config(json!({})), "second": spare.config(json!({})) },
        "agents": {
            "main": { "models": ["first", "second"] },
            "alone": { "models": ["first"], "attemptsMax": 1 },
        },
        "route": "main",
    }));
    for _ in 0..3 {
        let (text, last) = ask(&gateway);
        assert_eq!((text.as_str(), &last["model"]), ("The spare.", &json!("second")));
    }
    assert_eq!(limited.bodies().len(), 1, "it asked for calm, and got it");
    let refused = gateway.post("/api/chat", &json!({ "message": "canary", "agent": "alone" }));
    assert_eq!(refused.refusal(), (429, "UPSTREAM_RATE_LIMITED".to_owned()));
    assert!((1..=20).contains(&refused.number("retry-after")), "{refused:?}");
    assert!(gateway.metric("clawgate_call_fallbacks_total", "") >= 1);
}

/// "529 / 503 / reset before the first token": tried again while nothing was shown, then elsewhere.
#[test]
fn what_failed_before_the_first_token_is_tried_again() {
    let statuses = [529, 503, 500, 0];
    let model = Model::start(move |asked, speech| {
        match statuses.get(asked.number as usize) {
            Some(0) => {
                speech.line.reset();
                return After::Close;
            }
            Some(status) => return speech.error(*status, &[], "overloaded_error", "the canary is busy"),
            None => {}
        }
        speech.begin();
        speech.token("At last.");
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let gateway = with_model(&model, json!({}), json!({ "agents": { "main": { "attemptsMax": 5 } } }));
    let (text, last) = ask(&gateway);
    assert_eq!((text.as_str(), &last["type"]), ("At last.", &json!("done")));
    assert_eq!(model.bodies().len(), 5);
    assert_eq!(gateway.metric("clawgate_call_retries_total", ""), 4);
    // A model that is not there at all: the next one answers.
    let spare = Model::saying(&["The spare."]);
    let gateway = Gateway::start(json!({
        "models": {
            "gone": { "provider": "openai-compatible", "baseUrl": "http://127.0.0.1:1/v1", "model": "x" },
            "spare": spare.config(json!({})),
        },
        "agents": { "main": { "models": ["gone", "spare"], "attemptsMax": 2 } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    }));
    assert_eq!(ask(&gateway).0, "The spare.");
}

/// An agent says itself what leads to its next model; what it does not name ends the turn.
#[test]
fn the_criteria_of_an_agent_lead_to_its_next_model() {
    let model =
        Model::start(|asked, speech| match asked.json()["messages"][0]["content"].as_str().unwrap() {
            "stall" => speech.fall_silent(),
            "cut" => {
                speech.begin();
                After::Close
            }
            "reset" => {
                speech.line.reset();
                After::Close
            }
            status => {
                let status = status.parse().unwrap();
                speech.error(status, &[], "canary_error", "the canary is moody")
            }
        });
    let spare = Model::saying(&["The spare."]);
    let agent = |on: Value| json!({ "models": ["first", "second"], "attemptsMax": 1, "fallbackOn": on });
    let quick = json!({ "headerSeconds": 0.3, "breaker": { "failedPercent": 0 } });
    let gateway = Gateway::start(json!({
        "models": { "first": model.config(quick), "second": spare.config(json!({})) },
        "agents": {
            "statuses": agent(json!(["503", "4xx"])), "kinds": agent(json!(["timeout", "truncated", "error"])),
        },
        "route": "statuses",
    }));
    for (agent, text, leads_on) in [
        ("statuses", "503", true),
        ("statuses", "500", false),
        ("statuses", "400", true),
        ("statuses", "stall", false),
        ("statuses", "cut", false),
        ("kinds", "503", false),
        ("kinds", "400", false),
        ("kinds", "stall", true),
        ("kinds", "cut", true),
        ("kinds", "reset", true),
    ] {
        let answer = gateway.post("/api/chat", &json!({ "message": text, "agent": agent }));
        let answered = answer.status == 200;
        assert_eq!(answered, leads_on, "{agent} {text}: {answer:?}");
        if answered {
            assert_eq!(answer.json()["data"]["message"], "The spare.");
        }
    }
}

/// What was shown cannot be taken back: after the first token nothing is tried again.
#[test]
fn what_was_shown_is_never_begun_anew() {
    let model = Model::start(|_, speech| {
        speech.begin();
        words(speech, 1);
        After::Close
    });
    let spare = Model::saying(&["The spare."]);
    let gateway = Gateway::start(json!({
        "models": { "first": model.config(json!({})), "second": spare.config(json!({})) },
        "agents": { "main": { "models": ["first", "second"], "attemptsMax": 3 } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
    }));
    let (text, last) = ask(&gateway);
    assert_eq!((text.as_str(), &last["code"]), ("word0 ", &json!("UPSTREAM_TRUNCATED")));
    assert_eq!((model.bodies().len(), spare.bodies().len()), (1, 0));
}

/// "spend-limit 429, 401, 402, 403, 400": not tried again on the same model; its words reach the client.
#[test]
fn what_waiting_does_not_heal_is_not_tried_again() {
    let failures = [
        (429, "insufficient_quota"),
        (401, "invalid_api_key"),
        (402, "billing_not_active"),
        (403, "permission_denied"),
        (400, "invalid_request_error"),
    ];
    let model = Model::start(move |asked, speech| {
        let (status, kind) = failures[asked.number as usize];
        // Some endpoints repeat the key that they refuse.
        speech.error(status, &[], kind, &format!("{kind}: sk-canary-model-key is not welcome"))
    });
    let gateway = with_model(&model, json!({}), json!({ "agents": { "main": { "attemptsMax": 5 } } }));
    for (at, (status, kind)) in failures.into_iter().enumerate() {
        let answer = gateway.post("/api/chat", &json!({ "message": "canary" }));
        assert_eq!(answer.refusal(), (502, "UPSTREAM_FAILED".to_owned()), "{status}");
        let text = answer.text();
        assert!(text.contains(kind) && !text.contains("sk-canary"), "{text}");
        assert_eq!(model.bodies().len(), at + 1, "{status} is asked once");
    }
}

/// "idle pooled connection closed by the peer while we write": once more on a fresh one, and nobody notices.
#[test]
fn a_connection_that_closed_meanwhile_is_replaced() {
    let model = Model::start(|asked, speech| {
        speech.begin();
        speech.token(&format!("answer{}", asked.number));
        speech.finish("stop");
        speech.done();
        if asked.connection == 0 { After::CloseOnNext } else { After::Keep }
    });
    let gateway = with_model(&model, json!({}), json!({ "server": { "shards": 1 } }));
    for number in 0..3 {
        let (text, last) = ask(&gateway);
        assert_eq!((text, &last["type"]), (format!("answer{number}"), &json!("done")));
    }
    assert_eq!(model.server.connections(), 2);
    assert_eq!(gateway.metric("clawgate_call_retries_total", ""), 0, "it counts as no attempt");
}

/// A model that closes idle connections in good time: they are not used at all.
#[test]
fn a_connection_that_was_closed_is_not_used() {
    let model = Model::start(|_, speech| {
        speech.begin();
        speech.token("canary");
        speech.finish("stop");
        speech.done();
        After::Close
    });
    let gateway = with_model(&model, json!({}), json!({}));
    for _ in 0..5 {
        assert_eq!(ask(&gateway).0, "canary");
    }
    assert_eq!(gateway.metric("clawgate_upstream_faults_total", ""), 0);
}

/// CRLF, no space after `data:`, comments, several data lines, a byte-order mark, UTF-8 cut anywhere: all the same.
#[test]
fn every_shape_of_a_stream_is_read() {
    let event = |text: &str| chunk(&json!({ "content": text }), None).to_string();
    let stop = chunk(&json!({}), Some("stop")).to_string();
    let pretty = serde_json::to_string_pretty(&chunk(&json!({ "content": "é😀 " }), None)).unwrap();
    let lines: String = pretty.lines().map(|line| format!("data: {line}\n")).collect();
    let null_choices = "data: {\"id\":\"x\",\"choices\":null}\n\n";
    let shapes = [
        format!("data: {}\n\ndata: {stop}\n\ndata: [DONE]\n\n", event("é😀 ")),
        format!("data: {}\r\n\r\ndata: {stop}\r\n\r\ndata: [DONE]\r\n\r\n", event("é😀 ")),
        format!("data:{}\n\ndata:{stop}\n\ndata:[DONE]\n\n", event("é😀 ")),
        format!(
            ": hello\n\n\u{feff}data: {}\n\n: still here\n\ndata: {stop}\n\ndata: [DONE]\n\n",
            event("é😀 ")
        )
        .replacen(": hello\n\n\u{feff}", "\u{feff}: hello\n\n", 1),
        format!("{lines}\ndata: {stop}\n\ndata: [DONE]\n\n"),
        format!(
            "event: x\nid: 5\nretry: 9\ndata: {}\n\n{null_choices}data: {stop}\n\ndata: [DONE]\n\n",
            event("é😀 ")
        ),
    ];
    let (count, at) = (shapes.len(), AtomicU32::new(0));
    let model = Model::start(move |_, speech| {
        let number = at.fetch_add(1, Ordering::Relaxed) as usize;
        let bytes = shapes[number % count].as_bytes();
        speech.begin();
        // Cut everywhere, characters included.
        for piece in bytes.chunks(1 + number / count * 6) {
            speech.raw(piece);
        }
        speech.line.send("0\r\n\r\n");
        After::Keep
    });
    let gateway = with_model(&model, json!({}), json!({}));
    for number in 0..3 * count {
        let (text, last) = ask(&gateway);
        assert_eq!((text.as_str(), &last["type"]), ("é😀 ", &json!("done")), "shape {}", number % count);
    }
}

/// Usage comes from the stream; where the model says nothing it is estimated, and marked.
#[test]
fn usage_is_told_or_estimated() {
    let model = Model::start(|asked, speech| {
        speech.begin();
        match asked.number {
            0 => {
                words(speech, 2);
                speech.finish("stop");
                speech.usage(100, 50);
            }
            1 => {
                words(speech, 2);
                // On a chunk that still has choices, as some servers write it.
                let mut last = chunk(&json!({ "content": "x" }), Some("stop"));
                last["usage"] = json!({ "prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15 });
                speech.event(&last);
            }
            _ => {
                words(speech, 2);
                speech.finish("stop");
            }
        }
        speech.done();
        After::Keep
    });
    let gateway = with_model(&model, json!({}), json!({}));
    let counts = |prompt: u32, completion: u32| {
        let total = prompt + completion;
        json!({ "promptTokens": prompt, "completionTokens": completion, "totalTokens": total })
    };
    assert_eq!(ask(&gateway).1["usage"], counts(100, 50));
    assert_eq!(ask(&gateway).1["usage"], counts(7, 8));
    let guess = ask(&gateway).1["usage"].take();
    assert_eq!(guess["estimated"], true, "{guess}");
    assert!(guess["promptTokens"].as_u64().is_some_and(|tokens| 0 < tokens), "{guess}");
    assert!(guess["completionTokens"].as_u64().is_some_and(|tokens| 0 < tokens), "{guess}");
}

/// What a model thinks is no part of its answer.
#[test]
fn thoughts_are_kept_apart_from_the_text() {
    let model = Model::start(|_, speech| {
        speech.begin();
        speech.event(&chunk(&json!({ "role": "assistant", "content": "" }), None));
        speech.event(&chunk(&json!({ "reasoning_content": "the canary thinks" }), None));
        speech.token("42");
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let gateway = with_model(&model, json!({}), json!({}));
    assert_eq!(ask(&gateway).0, "42");
}

/// A model that goes on after its answer has failed is hung up on; one that never ends its response after the answer's end
/// costs its connection and no more.
#[test]
fn nothing_is_left_over_of_a_call() {
    let model = Model::start(|asked, speech| {
        speech.begin();
        words(speech, 1);
        if asked.number == 0 {
            speech.raw("data: nonsense\n\n");
        } else {
            speech.finish("stop");
            speech.raw("data: [DONE]\n\n");
        }
        speech.fall_silent()
    });
    let gateway = with_model(&model, json!({}), json!({}));
    assert_eq!(ask(&gateway).1["code"], "UPSTREAM_MALFORMED");
    model.seen.wait("it is hung up on", |seen| (seen.left.len() == 1).then_some(()));
    assert_eq!(ask(&gateway).1["type"], "done");
    model.seen.wait("its connection is closed", |seen| (seen.left.len() == 2).then_some(()));
    gateway.assert_well();
}

/// A client that reads slowly slows its model down, and gets everything; what piles up in between is bounded.
#[test]
fn a_slow_reader_slows_its_model_down() {
    const WORDS: u32 = 40_000;
    let model = Model::start(|_, speech| {
        speech.begin();
        let long = "canary ".repeat(200);
        for number in 0..WORDS {
            if !speech.token(&long) {
                return After::Close;
            }
            speech.seen.with(|seen| seen.released = number + 1);
        }
        speech.finish("stop");
        speech.done();
        After::Keep
    });
    let gateway = with_model(
        &model,
        json!({}),
        json!({
            "limits": { "replyBytesMax": 67_000_000, "outboxHighBytes": 65_536, "outboxBytesMax": 67_108_864 },
            "agents": { "main": { "history": false } }, "logging": { "level": "info" },
        }),
    );
    let before = gateway.resident_bytes();
    let mut events = begin(&gateway, "canary");
    assert!(events.data().is_some());
    // Nothing more is read for a while: the model is held up long before its end, by what fits into all the buffers.
    let mut last_seen = u32::MAX;
    let stuck = crate::peers::ask_until("the model is held up", || {
        std::thread::park_timeout(std::time::Duration::from_millis(100));
        let said = model.seen.with(|seen| seen.released);
        (std::mem::replace(&mut last_seen, said) == said).then_some(said)
    });
    assert!(stuck < WORDS, "all {stuck} words were taken for a client that reads none");
    let grown = gateway.resident_bytes().saturating_sub(before);
    // Up to `outboxBytesMax`: on a busy machine its core may be brought that much before it says that it is full.
    assert!(grown < 64 << 20, "{grown} bytes more are held for it");
    let (text, last) = events.finish();
    assert_eq!((&last["type"], &last["seq"]), (&json!("done"), &json!(WORDS + 1)));
    assert_eq!(text.len(), (WORDS as usize - 1) * 1_400);
}
