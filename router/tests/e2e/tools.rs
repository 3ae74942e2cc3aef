//! Tools of the gateway's own agents: what a model is offered, what becomes of its calls, what it hears of them, and what
//! stands in the audit log.
use crate::peers::events::{Events, Record};
use crate::peers::gateway::{Gateway, merge};
use crate::peers::model::{Model, Speech, chunk};
use crate::peers::server::{After, Asked, Server};
use crate::peers::{Watched, ask_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const KEY: &str = "canary-key-of-the-operator";

/// Says that these tools are to be called: names and arguments.
pub(crate) fn call(speech: &mut Speech<'_>, calls: &[(&str, &str)]) {
    call_for(speech, calls, 10);
}

/// The same, after a prompt of so many tokens.
fn call_for(speech: &mut Speech<'_>, calls: &[(&str, &str)], prompt: u32) {
    for (index, (name, arguments)) in calls.iter().enumerate() {
        let function = json!({ "name": name, "arguments": "" });
        let id = format!("call_{index}");
        let begin = json!({ "index": index, "id": id, "type": "function", "function": function });
        speech.event(&chunk(&json!({ "tool_calls": [begin] }), None));
        let (one, other) = arguments.split_at(arguments.len() / 2);
        for part in [one, other] {
            let part = json!({ "index": index, "function": { "arguments": part } });
            speech.event(&chunk(&json!({ "tool_calls": [part] }), None));
        }
    }
    speech.finish("tool_calls");
    speech.usage(prompt, 2);
    speech.done();
}

/// A model that calls these tools, round by round, and then says `done`.
fn calling(rounds: &'static [&'static [(&'static str, &'static str)]]) -> Model {
    Model::start(move |asked, speech| {
        speech.begin();
        match rounds.get(results(&asked.json()).len().min(rounds.len())) {
            Some(calls) if results(&asked.json()).is_empty() || 1 < rounds.len() => call(speech, calls),
            _ => {
                speech.token("done");
                speech.finish("stop");
                speech.usage(20, 1);
                speech.done();
            }
        }
        After::Keep
    })
}

/// What tools said, in the order of their calls.
fn results(body: &Value) -> Vec<String> {
    let messages = body["messages"].as_array().unwrap().iter();
    messages.filter(|message| message["role"] == "tool").map(|message| result(&message["content"])).collect()
}

/// What a tool said. That it failed stands before it, in a part of its own.
pub(crate) fn result(content: &Value) -> String {
    let last = |parts: &Vec<Value>| parts.last().map(|part| part["text"].clone());
    let text = content.as_array().and_then(last).unwrap_or_else(|| content.clone());
    text.as_str().unwrap_or_else(|| panic!("{content}")).to_owned()
}

/// The code of an error that a model was told.
pub(crate) fn code(result: &str) -> String {
    let value: Value = serde_json::from_str(result).unwrap_or_else(|_| panic!("{result}"));
    value["error"]["code"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
}

/// A tool at this server.
fn tool_at(server: &Server, path: &str, more: Value) -> Value {
    let mut tool = json!({
        "type": "http", "description": "A tool of a test.", "url": format!("http://{}{path}", server.address),
        "allowAddresses": ["127.0.0.1"],
    });
    merge(&mut tool, more);
    tool
}

fn with_tools(model: &Model, tools: Value, more: Value) -> Gateway {
    let mut config = json!({
        "models": { "sim": model.config(json!({})) },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1, "tools": ["*"] } },
        "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
        "tools": tools,
    });
    merge(&mut config, more);
    Gateway::start(config)
}

fn ask(gateway: &Gateway) -> Value {
    gateway.post("/api/chat", &json!({ "message": "canary?", "sessionId": "s" })).json()
}

/// The lines of the audit log, once there are so many.
pub(crate) fn audit(gateway: &Gateway, lines: usize) -> Vec<Value> {
    let path = gateway.folder().join("data/audit/tools.jsonl");
    ask_until("the audit log has its lines", || {
        let text = std::fs::read_to_string(&path).ok()?;
        let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines <= all.len()).then_some(all)
    })
}

/// The audit log comes and goes with a reload, and its bounds change with it.
#[test]
fn the_audit_log_follows_a_reload() {
    let model = calling(&[&[("time", "{}")], &[("time", "{}")]]);
    let config = |audit: Value| {
        json!({
            "models": { "sim": model.config(json!({})) },
            "agents": { "main": { "models": ["sim"], "history": false, "tools": ["*"] } },
            "tools": { "time": { "type": "time" } }, "audit": audit,
        })
    };
    let mut gateway = Gateway::start(config(json!({ "enabled": false })));
    let folder = gateway.folder().join("data/audit");
    let shown = |gateway: &Gateway| gateway.get("/health/detailed").json();
    let answered = |gateway: &Gateway| assert_eq!(ask(gateway)["data"]["message"], "done");
    answered(&gateway);
    assert_eq!((folder.exists(), &shown(&gateway)["tools"]["audit"]), (false, &json!("off")));
    gateway.reload(config(json!({})), 1);
    answered(&gateway);
    assert_eq!(audit(&gateway, 4).len(), 4, "two calls, and nothing of those before");
    let health = shown(&gateway);
    assert_eq!((&health["tools"]["audit"], &health["config"]["needsRestart"]), (&json!("ok"), &json!([])));
    // Bounds change with it, and while it is off nothing is written down. The lines of a whole turn have room: how soon
    // those of its first call are on the disk is not known.
    for (generation, changed) in [(2, json!({ "enabled": false })), (3, json!({ "waitingMax": 4 }))] {
        gateway.reload(config(changed), generation);
        answered(&gateway);
    }
    gateway.terminate();
    assert!(gateway.ended().success());
    let lines = audit(&gateway, 8);
    let turns: BTreeSet<&str> = lines.iter().filter_map(|line| line["turn"].as_str()).collect();
    assert_eq!((lines.len(), turns.len()), (8, 2), "{lines:?}");
}

/// What the rounds of a turn use is looked at before each: whose budget of the day is used up by then is told so, and when
/// it is filled again, and its model is asked no more.
#[test]
fn a_budget_that_is_used_up_ends_a_turn_before_its_next_round() {
    let model = calling(&[&[("time", "{}")], &[("time", "{}")]]);
    // A round takes twelve tokens.
    let keys = json!([{ "id": "ana", "key": KEY, "budget": { "tokens": 24 } }]);
    let gateway = with_tools(&model, json!({ "time": { "type": "time" } }), json!({ "keys": keys }));
    let bearer = format!("Bearer {KEY}");
    let ask =
        || gateway.call("POST", "/api/chat", &[("authorization", &bearer)], br#"{"message":"canary?"}"#);
    for (number, why) in [(1, "while this answer's tools worked"), (2, "in a day")] {
        let answer = ask();
        assert_eq!(answer.refusal(), (429, "BUDGET_SPENT".to_owned()), "{number}: {answer:?}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(why), "{answer:?}");
        let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&wait), "{wait}");
        assert_eq!(model.server.requests(), 2, "the third round, or the second message, is not asked");
    }
    gateway.assert_well();
}

/// Each round is one of the requests that a model grants in a minute, and a turn whose next one would come after its time is
/// over is told so at once.
#[test]
fn each_round_is_a_request_of_the_models_minute() {
    let model = calling(&[&[("time", "{}")], &[("time", "{}")]]);
    for (requests, asked) in [(3, 3), (2, 2)] {
        let before = model.server.requests();
        let sim = model.config(json!({ "requestsPerMinute": requests, "callSeconds": 20 }));
        let gateway =
            with_tools(&model, json!({ "time": { "type": "time" } }), json!({ "models": { "sim": sim } }));
        let answer = ask(&gateway);
        if asked < 3 {
            assert_eq!(answer["error"]["code"], "UPSTREAM_RATE_LIMITED", "{answer}");
            assert!(10 < answer["error"]["retryAfter"].as_u64().unwrap(), "{answer}");
        } else {
            assert_eq!(answer["data"]["message"], "done", "{answer}");
        }
        let mut client = gateway.connect();
        client.post("/api/chat", &[], &json!({ "message": "canary?", "sessionId": "other", "stream": true }));
        let Some(Record::Event { data: first, .. }) = Events::begin(client).next() else {
            panic!("no event")
        };
        assert_eq!(
            (&first["type"], &first["position"]),
            (&json!("queued"), &json!(1)),
            "the minute is spent"
        );
        assert_eq!(model.server.requests() - before, asked);
    }
}

/// A round that the model's minute does not grant yet is asked as soon as it does.
#[test]
fn a_round_waits_for_the_models_minute() {
    let model = Model::start(|asked, speech| {
        speech.begin();
        if results(&asked.json()).is_empty() {
            call_for(speech, &[("time", "{}")], 6_010);
        } else {
            speech.token("done");
            speech.finish("stop");
            speech.done();
        }
        After::Keep
    });
    // Ten tokens more than there are: a tenth of a second, and some more for what is told next.
    let sim = model.config(json!({ "tokensPerMinute": 6000 }));
    let models = json!({ "models": { "sim": sim } });
    let gateway = with_tools(&model, json!({ "time": { "type": "time" } }), models);
    assert_eq!(ask(&gateway)["data"]["message"], "done");
    assert_eq!(model.server.requests(), 2);
}

#[test]
fn a_model_asks_the_time_and_says_it() {
    let model = Model::start(|asked, speech| {
        speech.begin();
        match results(&asked.json()).as_slice() {
            [] => {
                speech.token("Let me look.");
                call(speech, &[("time", "{\"timezone\":\"Europe/Rome\"}")]);
            }
            [time] => {
                let said: Value = serde_json::from_str(time).unwrap();
                speech.token(&format!("It is {}.", said["time"].as_str().unwrap()));
                speech.finish("stop");
                speech.usage(20, 5);
                speech.done();
            }
            more => panic!("{more:?}"),
        }
        After::Keep
    });
    let gateway = with_tools(
        &model,
        json!({ "time": { "type": "time" } }),
        json!({ "agents": { "main": { "system": "Be kind." } } }),
    );
    let mut socket = gateway.socket();
    let reply = socket.ask("s", "canary, what time is it?");
    let text = reply.chunks.concat();
    assert!(
        text.starts_with("Let me look.\n\nIt is 20")
            && (text.ends_with("+01:00.") || text.ends_with("+02:00.")),
        "{text}"
    );
    assert_eq!(reply.chunks[0], "Let me look.", "what is said before a call is shown at once");
    assert_eq!(reply.end["usage"]["totalTokens"], 37, "both rounds count");
    socket.ask("s", "canary, and now?");
    let bodies = model.bodies();
    let tool = &bodies[0]["tools"][0]["function"];
    assert_eq!((&tool["name"], &tool["parameters"]["type"]), (&json!("time"), &json!("object")));
    let say = |role: &str, content: &str| json!({ "role": role, "content": content });
    let first = [say("system", "Be kind."), say("user", "canary, what time is it?")];
    assert_eq!(bodies[0]["messages"], json!(first));
    let second = bodies[1]["messages"].as_array().unwrap();
    assert_eq!((&second[..2], second.len()), (&first[..], 4));
    assert_eq!(second[2]["content"], "Let me look.");
    let function = json!({ "name": "time", "arguments": "{\"timezone\":\"Europe/Rome\"}" });
    assert_eq!(
        (&second[2]["tool_calls"][0]["id"], &second[2]["tool_calls"][0]["function"]),
        (&json!("call_0"), &function)
    );
    assert_eq!((&second[3]["role"], &second[3]["tool_call_id"]), (&json!("tool"), &json!("call_0")));
    let third = bodies[2]["messages"].as_array().unwrap();
    assert_eq!(third[2], say("assistant", &text), "of the exchange only what was shown stays");
    assert_eq!(third.len(), 4);
    let lines = audit(&gateway, 4);
    let (called, ended) = (&lines[0], &lines[1]);
    assert_eq!(
        (&called["event"], &called["tool"], &called["channel"], &called["peer"]),
        (&json!("call"), &json!("time"), &json!("api"), &json!("local"))
    );
    assert_eq!(
        (&called["arguments"]["timezone"], &called["agent"], &called["model"], &called["round"]),
        (&json!("Europe/Rome"), &json!("main"), &json!("sim"), &json!(1))
    );
    assert_eq!(
        (&ended["event"], &ended["outcome"], &ended["turn"]),
        (&json!("result"), &json!("ok"), &called["turn"])
    );
    assert_eq!(gateway.metric("clawgate_tool_calls_total", "tool=\"time\",outcome=\"ok\""), 2);
    assert_eq!(gateway.metric("clawgate_tool_call_seconds_count", "tool=\"time\""), 2);
}

#[test]
fn what_a_model_gets_wrong_is_told_to_it_and_the_turn_goes_on() {
    let model = calling(&[&[
        ("time", "{\"timezone\":7}"),
        ("time", "{\"timezone\":\"Mars/Olympus\"}"),
        ("time", "{\"time"),
        ("erase", "{}"),
        ("hidden", "{}"),
        ("time", ""),
    ]]);
    let tools = json!({ "time": { "type": "time" }, "hidden": { "type": "time" } });
    let gateway = with_tools(&model, tools, json!({ "agents": { "main": { "tools": ["ti*"] } } }));
    assert_eq!(ask(&gateway)["data"]["message"], "done");
    let bodies = model.bodies();
    assert_eq!(bodies[0]["tools"].as_array().unwrap().len(), 1);
    let said = results(&bodies[1]);
    let codes: Vec<_> = said[..5].iter().map(|result| code(result)).collect();
    assert_eq!(codes, ["TOOL_ARGUMENTS", "TOOL_ARGUMENTS", "TOOL_ARGUMENTS", "TOOL_UNKNOWN", "TOOL_UNKNOWN"]);
    assert!(said[5].contains("unixSeconds"), "{}", said[5]);
    assert!(said[0].contains("/timezone"), "{}", said[0]);
    let outcomes: Vec<_> =
        audit(&gateway, 12).iter().filter_map(|line| line["outcome"].as_str().map(str::to_owned)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "ok").count(), 1, "{outcomes:?}");
    assert_eq!(gateway.metric("clawgate_tool_calls_total", "tool=\"unknown\",outcome=\"TOOL_UNKNOWN\""), 2);
}

#[test]
fn tiers_say_who_may_use_what() {
    let model = calling(&[&[("order", "{}")]]);
    let tools = json!({ "time": { "type": "time" }, "order": { "type": "time", "tier": 2 } });
    let gateway = with_tools(
        &model,
        tools,
        json!({
            "keys": [
                { "id": "ops", "key": KEY, "tier": 2, "scopes": ["chat"] },
                { "id": "guest", "key": "canary-key-of-a-guest", "scopes": ["chat"] },
            ],
        }),
    );
    for (key, offered, outcome) in [(KEY, 2, None), ("canary-key-of-a-guest", 1, Some("TOOL_UNKNOWN"))] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = gateway.call("POST", "/api/chat", &headers, b"{\"message\":\"canary?\"}").json();
        assert_eq!(answer["data"]["message"], "done");
        let bodies = model.bodies();
        let [.., first, second] = bodies.as_slice() else { panic!("{bodies:?}") };
        assert_eq!(first["tools"].as_array().unwrap().len(), offered);
        assert_eq!(outcome.map(|_| code(&results(second)[0])).as_deref(), outcome);
    }
}

#[test]
fn after_the_last_round_the_model_must_answer() {
    let stubborn = Model::start(|asked, speech| {
        speech.begin();
        if asked.json()["tool_choice"] == "none" {
            speech.token("Well then.");
            speech.finish("stop");
            speech.done();
        } else {
            call(speech, &[("time", "{}"), ("time", "{}"), ("time", "{}")]);
        }
        After::Keep
    });
    let limits = json!({ "limits": { "tools": { "roundsMax": 3, "callsMax": 2 } } });
    let gateway = with_tools(&stubborn, json!({ "time": { "type": "time" } }), limits.clone());
    assert_eq!(ask(&gateway)["data"]["message"], "Well then.");
    let bodies = stubborn.bodies();
    assert_eq!(bodies.len(), 4);
    let said = results(&bodies[3]);
    assert_eq!(
        (said.len(), code(&said[2]).as_str(), code(&said[8]).as_str()),
        (9, "TOOL_LIMIT", "TOOL_LIMIT")
    );
    let deaf = Model::start(|_, speech| {
        speech.begin();
        call(speech, &[("time", "{}")]);
        After::Keep
    });
    let gateway = with_tools(&deaf, json!({ "time": { "type": "time" } }), limits);
    let answer = gateway.post("/api/chat", &json!({ "message": "canary?" }));
    assert_eq!(answer.refusal(), (502, "TOOL_LIMIT".to_owned()));
    assert_eq!(deaf.bodies().len(), 4, "the turn is over, and is not begun again");
}

#[test]
fn an_http_tool_asks_its_address_and_no_other() {
    let seen: Arc<Watched<Vec<Asked>>> = Arc::default();
    let noted = seen.clone();
    let server = Server::start(None, move |asked, line| {
        noted.with(|seen| seen.push(asked.clone()));
        match asked.target.split('?').next().unwrap() {
            "/w/S%C3%A3o%20Paulo" => line.answer(200, &[], "{\"sky\":\"blue\"}"),
            "/redirect" => line.answer(302, &[("location", "/secret")], ""),
            "/missing" => line.answer(404, &[], "no such city"),
            "/gzip" => line.answer(200, &[("content-encoding", "gzip")], "\u{1f}"),
            "/big" => line.answer(200, &[], &"x".repeat(10 << 20)),
            "/orders" => line.answer(200, &[], "ordered"),
            other => panic!("asked for {other}"),
        };
        After::Keep
    });
    let model = calling(&[&[
        ("weather", "{\"city\":\"São Paulo\",\"units\":\"C\"}"),
        ("redirect", ""),
        ("missing", ""),
        ("gzip", ""),
        ("big", ""),
        ("order", "{\"item\":\"tea & milk\",\"secret\":\"canary-tool-key\"}"),
        ("forbidden", ""),
        ("named", ""),
        ("closed", ""),
    ]]);
    let port = server.address.port();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = |path: &str, more: Value| tool_at(&server, path, more);
    let tools = json!({
        "weather": at("/w/{city}?units={units}", json!({ "headers": { "x-key": "canary-tool-key" } })),
        "redirect": at("/redirect", json!({})), "missing": at("/missing", json!({})),
        "gzip": at("/gzip", json!({})),
        "big": at("/big", json!({ "outputBytesMax": 1_000 })),
        "order": at("/orders", json!({
            "method": "POST", "headers": { "x-key": "canary-tool-key" }, "parameters": { "type": "object" },
        })),
        // A literal would be refused when the configuration is read; a name is only known once it is resolved.
        "forbidden": { "type": "http", "description": "x", "url": format!("http://localhost:{port}/secret") },
        "named": { "type": "http", "description": "x", "url": format!("http://2130706433:{port}/secret") },
        "closed": { "type": "http", "description": "x", "url": format!("http://{gone}/"), "allowAddresses": ["127.0.0.0/8"] },
    });
    let gateway = with_tools(&model, tools, json!({}));
    assert_eq!(ask(&gateway)["data"]["message"], "done");
    let said = results(&model.bodies()[1]);
    assert_eq!(said[0], "{\"sky\":\"blue\"}");
    let failures = [(1, "redirect (302)"), (2, "404: no such city"), (3, "gzip"), (8, "refused")];
    for (at, part) in failures {
        assert_eq!(code(&said[at]), "TOOL_FAILED");
        assert!(said[at].contains(part), "{}", said[at]);
    }
    assert!(
        said[4].starts_with("xxxx") && said[4].len() < 1_100 && said[4].contains("[cut"),
        "{} bytes",
        said[4].len()
    );
    assert_eq!(said[5], "ordered");
    assert_eq!(code(&said[6]), "TOOL_ADDRESS");
    assert_eq!(code(&said[7]), "TOOL_ADDRESS");
    let asked = seen.with(|seen| seen.clone());
    assert!(asked.iter().all(|asked| asked.target != "/secret"));
    let of = |path: &str| asked.iter().find(|asked| asked.target.starts_with(path)).unwrap();
    assert_eq!(of("/w/").target, "/w/S%C3%A3o%20Paulo?units=C");
    assert_eq!(of("/w/").header("x-key"), Some("canary-tool-key"));
    assert_eq!(of("/orders").json(), json!({ "item": "tea & milk", "secret": "canary-tool-key" }));
    let text = std::fs::read_to_string(gateway.folder().join("data/audit/tools.jsonl"));
    let lines = audit(&gateway, 18);
    assert!(!text.unwrap_or_default().contains("canary-tool-key"), "{lines:?}");
    let order = lines.iter().find(|line| line["tool"] == "order").unwrap();
    assert_eq!(order["arguments"]["secret"], "********");
    assert!(lines.iter().any(|line| line["outcome"] == "TOOL_ADDRESS"));
}

#[test]
fn a_tool_that_hangs_is_given_up_and_others_run_beside_it() {
    let held: Arc<Watched<u32>> = Arc::default();
    let count = held.clone();
    let server = Server::start(None, move |asked, line| {
        if asked.target == "/hang" {
            // Until all the others have been answered.
            count.with(|held| *held += 1);
            line.await_leaving();
            return After::Close;
        }
        count.wait("one hangs while others are asked", |held| (0 < *held).then_some(()));
        line.answer(200, &[], "quick");
        After::Keep
    });
    let model = calling(&[&[("hang", ""), ("quick", ""), ("quick", ""), ("quick", "")]]);
    let tools = json!({
        "hang": tool_at(&server, "/hang", json!({ "seconds": 0.5 })),
        "quick": tool_at(&server, "/quick", json!({})),
    });
    let gateway = with_tools(&model, tools, json!({ "limits": { "tools": { "parallelMax": 2 } } }));
    assert_eq!(ask(&gateway)["data"]["message"], "done");
    let said = results(&model.bodies()[1]);
    assert_eq!(
        (code(&said[0]).as_str(), &said[1..]),
        ("TOOL_TIMEOUT", &["quick", "quick", "quick"].map(str::to_owned)[..])
    );
    assert_eq!(gateway.metric("clawgate_tool_calls_total", "tool=\"hang\",outcome=\"TOOL_TIMEOUT\""), 1);
}

#[test]
fn a_client_that_leaves_stops_its_tools() {
    let left: Arc<Watched<(u32, u32)>> = Arc::default();
    let noted = left.clone();
    let server = Server::start(None, move |_, line| {
        noted.with(|(came, _)| *came += 1);
        assert!(line.await_leaving());
        noted.with(|(_, left)| *left += 1);
        After::Close
    });
    let model = calling(&[&[("hang", ""), ("hang", "")]]);
    let gateway = with_tools(&model, json!({ "hang": tool_at(&server, "/hang", json!({})) }), json!({}));
    let mut client = gateway.connect();
    client.post("/api/chat", &[], &json!({ "message": "canary?", "stream": true, "sessionId": "s" }));
    let events = Events::begin(client);
    left.wait("both tools are asked", |(came, _)| (*came == 2).then_some(()));
    drop(events);
    left.wait("both are given up", |(_, left)| (*left == 2).then_some(()));
    gateway.await_status("running", 0);
    assert_eq!(model.bodies().len(), 1, "the model is not asked again");
    let cancelled = audit(&gateway, 4).iter().filter(|line| line["outcome"] == "CANCELLED").count();
    assert_eq!(cancelled, 2);
    gateway.assert_well();
}

/// A second attempt would order a second time.
#[test]
fn a_tool_that_must_not_run_twice_does_not() {
    let server = Server::start(None, |_, line| {
        line.answer(200, &[], "ordered");
        After::Keep
    });
    let model = Model::start(|asked, speech| {
        if results(&asked.json()).is_empty() {
            speech.begin();
            call(speech, &[("order", "{}")]);
            return After::Keep;
        }
        speech.error(503, &[], "server_error", "overloaded")
    });
    for (repeatable, orders) in [(false, 1), (true, 2)] {
        let before = server.requests();
        let tool = tool_at(
            &server,
            "/orders",
            json!({ "method": "POST", "repeatable": repeatable, "parameters": { "type": "object" } }),
        );
        let gateway = with_tools(
            &model,
            json!({ "order": tool }),
            json!({ "agents": { "main": { "attemptsMax": 2 } } }),
        );
        let answer = gateway.post("/api/chat", &json!({ "message": "canary?" }));
        assert!(!answer.json()["success"].as_bool().unwrap());
        assert_eq!(server.requests() - before, orders, "repeatable: {repeatable}");
    }
}

#[test]
fn a_request_that_brings_its_own_tools_is_its_clients_affair() {
    let model = calling(&[&[("mine", "{}")]]);
    let gateway = with_tools(&model, json!({ "time": { "type": "time" } }), json!({}));
    let tools =
        json!([{ "type": "function", "function": { "name": "mine", "parameters": { "type": "object" } } }]);
    let messages = json!([{ "role": "user", "content": "canary?" }]);
    let asked = json!({ "model": "main", "messages": messages, "tools": tools });
    let answer = gateway.post("/v1/chat/completions", &asked).json();
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "mine", "{answer}");
    assert_eq!((model.bodies().len(), &model.bodies()[0]["tools"]), (1, &tools));
}

/// The same loop in another format: what goes back is in Anthropic's own words.
#[test]
fn a_model_of_anthropic_calls_tools_too() {
    let say = |speech: &mut Speech<'_>, data: Value| {
        speech.raw(format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap()));
    };
    let model = Model::start(move |asked, speech| {
        let body = asked.json();
        let messages = body["messages"].as_array().unwrap();
        let results = messages.last().unwrap()["content"]
            .as_array()
            .map_or(0, |parts| parts.iter().filter(|part| part["type"] == "tool_result").count());
        speech.begin();
        let usage = json!({ "input_tokens": 10, "output_tokens": 1 });
        say(
            speech,
            json!({ "type": "message_start", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
            "usage": usage } }),
        );
        let stop = if results == 0 {
            for (index, arguments) in ["{\"timezone\":\"UTC\"}", "{\"timezone\":1}"].into_iter().enumerate() {
                let id = format!("toolu_{index}");
                let block = json!({ "type": "tool_use", "id": id, "name": "time", "input": {} });
                say(speech, json!({ "type": "content_block_start", "index": index, "content_block": block }));
                let delta = json!({ "type": "input_json_delta", "partial_json": arguments });
                say(speech, json!({ "type": "content_block_delta", "index": index, "delta": delta }));
                say(speech, json!({ "type": "content_block_stop", "index": index }));
            }
            "tool_use"
        } else {
            say(
                speech,
                json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            );
            say(
                speech,
                json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "done" } }),
            );
            say(speech, json!({ "type": "content_block_stop", "index": 0 }));
            "end_turn"
        };
        say(
            speech,
            json!({ "type": "message_delta", "delta": { "stop_reason": stop }, "usage": { "output_tokens": 5 } }),
        );
        say(speech, json!({ "type": "message_stop" }));
        speech.line.send("0\r\n\r\n");
        After::Keep
    });
    let gateway = Gateway::start(json!({
        "models": { "sim": {
            "provider": "anthropic", "baseUrl": format!("http://{}", model.server.address), "model": "claude",
            "apiKey": "sk-canary-model-key", "maxTokens": 100,
        } },
        "agents": { "main": { "models": ["sim"], "attemptsMax": 1, "tools": ["time"] } },
        "tools": { "time": { "type": "time" } },
    }));
    let answer = ask(&gateway);
    assert_eq!(
        (&answer["data"]["message"], &answer["data"]["usage"]["totalTokens"]),
        (&json!("done"), &json!(30)),
        "{answer}"
    );
    let bodies = model.bodies();
    assert_eq!(
        (&bodies[0]["tools"][0]["name"], &bodies[0]["tools"][0]["input_schema"]["type"]),
        (&json!("time"), &json!("object"))
    );
    let messages = bodies[1]["messages"].as_array().unwrap();
    let (calls, results) = (&messages[1], &messages[2]);
    assert_eq!((&calls["role"], &results["role"], messages.len()), (&json!("assistant"), &json!("user"), 3));
    assert_eq!(
        (&calls["content"][0]["type"], &calls["content"][0]["input"]),
        (&json!("tool_use"), &json!({ "timezone": "UTC" }))
    );
    let (first, second) = (&results["content"][0], &results["content"][1]);
    assert_eq!((&first["tool_use_id"], &second["tool_use_id"]), (&json!("toolu_0"), &json!("toolu_1")));
    assert!(first["is_error"] != true && second["is_error"] == true, "{results}");
    assert!(second.to_string().contains("TOOL_ARGUMENTS"), "{second}");
}
