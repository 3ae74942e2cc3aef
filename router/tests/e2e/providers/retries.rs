//! What is tried again, where, and what is not: only before anything was shown, and only what waiting or another model can
//! heal.
use super::{Heard, Rig, TEXT, request};
use crate::peers::simulator::Wire;
use serde_json::{Value, json};

/// For each format an agent that asks a model which fails as this script says, and then one of another format.
fn with_fallback(script: &str, attempts: u32) -> Rig {
    with_fallback_and(script, attempts, json!({}))
}

fn with_fallback_and(script: &str, attempts: u32, limits: Value) -> Rig {
    let simulator = crate::peers::simulator::Simulator::start();
    let (mut models, mut agents) = (json!({}), json!({}));
    for wire in Wire::ALL {
        let name = format!("bad-{}", wire.name());
        models[&name] = wire.entry(&simulator.origin(), json!({ "model": format!("mock:{script}") }));
        let spare = if wire == Wire::Messages { "chat" } else { "messages" };
        agents[&name] = json!({ "models": [name, spare], "attemptsMax": attempts, "history": false });
    }
    let more = json!({ "models": models, "agents": agents, "server": { "shards": 1 }, "limits": limits });
    let gateway = Rig::gateway(&simulator.origin(), json!({}), more);
    Rig { simulator, gateway }
}

/// A request without a script of its own.
fn plain(door: Wire, agent: &str, stream: bool) -> Value {
    let mut body = request(door, agent, "", stream);
    let key = if door == Wire::Responses { "input" } else { "messages" };
    body[key] = json!([{ "role": "user", "content": TEXT }]);
    body
}

/// "529 / 503 / reset before the first token: retried, then fallback, while nothing was shown".
#[test]
fn what_failed_before_the_first_token_goes_elsewhere() {
    for script in
        ["status=529", "status=503", "fault=reset", "fault=head", "fault=cut+at=0", "fault=error+at=0"]
    {
        let rig = with_fallback(script, 2);
        for wire in Wire::ALL {
            for stream in [true, false] {
                let answer =
                    rig.gateway.post(wire.door(), &plain(wire, &format!("bad-{}", wire.name()), stream));
                let heard = Heard::of(wire, &answer);
                assert_eq!((heard.text.as_str(), heard.ended), (TEXT, true), "{wire:?} {script}: {answer:?}");
            }
        }
        let stats = rig.simulator.stats();
        let asked = |model: &str| stats["models"][model].as_u64().unwrap_or(0);
        assert!(8 <= asked(&format!("mock:{script}")), "{script}: {stats}");
        assert_eq!(asked("chat") + asked("messages"), 8, "{script}: {stats}");
    }
}

/// "never after a token was shown".
#[test]
fn what_was_shown_is_never_begun_anew() {
    for script in
        ["reply=words+fault=cut+at=1", "reply=words+fault=error+at=1", "reply=words+fault=json+at=1"]
    {
        let rig = with_fallback(script, 3);
        for wire in Wire::ALL {
            let agent = format!("bad-{}", wire.name());
            let heard = Heard::of(wire, &rig.gateway.post(wire.door(), &plain(wire, &agent, true)));
            heard.assert_unfinished();
            assert_eq!(heard.text, "Messages", "{wire:?} {script}");
        }
        assert_eq!(rig.simulator.count("requests"), 4, "{script}");
    }
}

/// "spend-limit 429, 401, 402, 403, 400: not retried". A wrong request is nobody else's to answer either; for a key or a
/// budget that is at its end another model is asked at once.
#[test]
fn what_waiting_does_not_heal_is_not_tried_again() {
    for (script, elsewhere) in [
        ("status=429+spent", true),
        ("status=401", true),
        ("status=402", true),
        ("status=403", true),
        ("status=400", false),
    ] {
        let rig = with_fallback(script, 5);
        for wire in Wire::ALL {
            let answer = rig.gateway.post(wire.door(), &plain(wire, &format!("bad-{}", wire.name()), true));
            let heard = Heard::of(wire, &answer);
            assert_eq!(heard.error.is_none(), elsewhere, "{wire:?} {script}: {answer:?}");
        }
        let stats = rig.simulator.stats();
        assert_eq!(stats["models"][format!("mock:{script}")], 4, "{script} is asked once: {stats}");
        assert_eq!(stats["requests"], if elsewhere { 8 } else { 4 }, "{script}: {stats}");
    }
}

/// "upstream 429 with `retry-after` and rate headers: status and headers kept; cooldown for that model alone; the fallback
/// is tried at once".
#[test]
fn a_limited_model_is_passed_over() {
    // How long a model may ask to be left alone.
    let patient = json!({ "backoffMaxMillis": 30_000 });
    let rig = with_fallback_and("status=429+retry-after=20", 2, patient);
    for wire in Wire::ALL {
        for _ in 0..3 {
            let (text, last) = rig.gateway_events(&format!("bad-{}", wire.name()));
            assert_eq!((text.as_str(), &last["type"]), (TEXT, &json!("done")), "{wire:?}: {last}");
        }
    }
    let stats = rig.simulator.stats();
    assert_eq!(
        stats["models"]["mock:status=429+retry-after=20"], 4,
        "each asked for calm, and got it: {stats}"
    );
    let rig = Rig::new();
    for wire in Wire::ALL {
        let answer = rig.door(wire, wire.name(), "status=429,retry-after=7", true);
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")), "{wire:?}: {answer:?}");
        let heard = Heard::of(wire, &answer);
        assert!(heard.error.is_some_and(|words| words.contains("the script says so")), "{answer:?}");
    }
}

impl Rig {
    fn gateway_events(&self, agent: &str) -> (String, Value) {
        let mut client = self.gateway.connect();
        client.post("/api/chat", &[], &json!({ "message": TEXT, "stream": true, "agent": agent }));
        crate::peers::events::Events::begin(client).finish()
    }
}

/// "idle pooled connection closed by the peer while we write: retried once on a fresh one if no byte of an answer came".
#[test]
fn a_connection_that_closed_meanwhile_is_replaced() {
    let rig = Rig::with(json!({}), json!({ "server": { "shards": 1 } }));
    for wire in Wire::ALL {
        for script in ["then=close-on-next", "then=close-on-next", "then=close", "then=close", ""] {
            let (text, last) = rig.events(wire.name(), script);
            assert_eq!((text.as_str(), &last["type"]), (TEXT, &json!("done")), "{wire:?} {script}: {last}");
        }
    }
    assert_eq!(rig.gateway.metric("clawgate_call_retries_total", ""), 0, "it counts as no attempt");
}
