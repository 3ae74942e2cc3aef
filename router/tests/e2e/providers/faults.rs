//! Streams that go wrong: each is told once, with its code, looks complete to nobody, and costs nobody else anything.
use super::{Heard, Rig};
use crate::peers::simulator::Wire;
use serde_json::json;

/// A way to fail: the script, the code, and the tokens that were shown before.
struct Case(&'static str, &'static str, u32);

/// "upstream closes after 20 tokens without a finish", "error event in mid-stream", "broken JSON in one event", and what a
/// provider or whoever stands before it may do beside.
const CASES: [Case; 16] = [
    Case("reply=words,tokens=30,fault=cut,at=20", "UPSTREAM_TRUNCATED", 20),
    Case("reply=words,tokens=30,fault=no-finish,at=20", "UPSTREAM_TRUNCATED", 20),
    Case("reply=words,tokens=30,fault=error,at=5", "UPSTREAM_FAILED", 5),
    Case("reply=words,tokens=30,fault=json,at=5", "UPSTREAM_MALFORMED", 5),
    Case("reply=words,tokens=30,fault=cut,at=0", "UPSTREAM_TRUNCATED", 0),
    Case("reply=words,tokens=30,fault=error,at=0", "UPSTREAM_FAILED", 0),
    Case("reply=words,tokens=30,fault=json,at=0", "UPSTREAM_MALFORMED", 0),
    Case("fault=head", "UPSTREAM_TRUNCATED", 0),
    Case("fault=reset", "UPSTREAM_TRUNCATED", 0),
    Case("fault=hang-up", "UPSTREAM_TRUNCATED", 0),
    Case("fault=gzip", "UPSTREAM_MALFORMED", 0),
    Case("fault=redirect", "UPSTREAM_FAILED", 0),
    Case("fault=html", "UPSTREAM_TRUNCATED", 0),
    Case("reply=words,tokens=30,fault=huge,at=3", "UPSTREAM_MALFORMED", 3),
    Case("reply=words,tokens=30,fault=endless,at=3", "UPSTREAM_MALFORMED", 3),
    Case("reply=words,tokens=30,fault=huge,at=0,bytes=3000000", "UPSTREAM_MALFORMED", 0),
];

const WORDS: [&str; 12] =
    ["Messages", " go", " in", " and", " answers", " come", " out", ",", " one", " by", " one", ". "];

fn shown(tokens: u32) -> String {
    WORDS.iter().cycle().take(tokens as usize).copied().collect()
}

#[test]
fn what_goes_wrong_is_told_once_and_costs_nobody_else_anything() {
    let rig = Rig::new();
    // Neighbours: answers that are being given all the while.
    let mut neighbours: Vec<_> =
        Wire::ALL.iter().map(|wire| rig.begin(wire.name(), "reply=words,tokens=300,gap=20ms")).collect();
    let first: Vec<_> = neighbours.iter_mut().map(|events| events.data().unwrap()).collect();
    let mut failed = 0;
    for wire in Wire::ALL {
        for Case(script, code, tokens) in CASES {
            let expected = shown(tokens);
            let (text, last) = rig.events(wire.name(), script);
            assert_eq!(
                (&last["type"], &last["code"]),
                (&json!("error"), &json!(code)),
                "{wire:?} {script}: {last}"
            );
            assert_eq!(text, expected, "{wire:?} {script}");
            let (text, last) = rig.socket(wire.name(), script);
            assert_eq!((text, &last["code"]), (expected.clone(), &json!(code)), "{wire:?} {script}: {last}");
            if script.contains("fault=error") {
                assert!(last["message"].as_str().unwrap().contains("the script says so"), "{wire:?}: {last}");
            }
            let streamed = rig.door(wire, wire.name(), script, true);
            let heard = Heard::of(wire, &streamed);
            heard.assert_unfinished();
            assert_eq!(heard.text, expected, "{wire:?} {script}: {heard:?}");
            if tokens == 0 {
                assert_eq!(streamed.status, 502, "{wire:?} {script}: {streamed:?}");
            }
            let whole = rig.door(wire, wire.name(), script, false);
            assert_eq!(whole.status, 502, "{wire:?} {script}: {whole:?}");
            failed += 4;
        }
    }
    assert_eq!(rig.gateway.metric("clawgate_failed_total", ""), failed, "each ends once");
    for (events, first) in neighbours.into_iter().zip(first) {
        let (text, last) = events.finish();
        let text = format!("{}{text}", first["content"].as_str().unwrap());
        assert_eq!((text, &last["type"]), (shown(300), &json!("done")));
    }
    rig.gateway.await_status("running", 0);
    rig.gateway.assert_well();
    rig.simulator.assert_none_refused();
}

/// Half an answer is no part of a conversation.
#[test]
fn half_an_answer_is_not_remembered() {
    let agents: serde_json::Map<_, _> =
        Wire::ALL.iter().map(|wire| (wire.name().to_owned(), json!({ "history": true }))).collect();
    let rig = Rig::with(json!({}), json!({ "agents": agents }));
    for wire in Wire::ALL {
        for script in ["reply=words,tokens=30,fault=cut,at=20", "fault=error,at=2", "fault=json,at=2"] {
            assert_eq!(rig.socket(wire.name(), script).1["type"], "error", "{wire:?} {script}");
        }
        let session = rig.gateway.get(&format!("/api/sessions/ws-{}", wire.name())).json();
        assert_eq!(session["data"]["history"], json!([]), "{wire:?}");
        assert_eq!(rig.socket(wire.name(), "").1["type"], "done");
        let session = rig.gateway.get(&format!("/api/sessions/ws-{}", wire.name())).json();
        assert_eq!(session["data"]["history"].as_array().unwrap().len(), 2, "{wire:?}");
    }
}

/// "usage: estimated and marked as an estimate when the stream is cut": whoever asked is charged for what came until then.
#[test]
fn what_was_cut_is_charged_as_an_estimate() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        rig.events(wire.name(), "reply=words,tokens=30,fault=cut,at=20");
        rig.door(wire, wire.name(), "reply=words,tokens=30,fault=error,at=20", true);
        let usage = rig.gateway.get(&format!("/api/usage?by=model&model={}", wire.name())).json();
        let row = &usage["data"]["usage"][0];
        assert_eq!(
            (&row["estimated"], &row["calls"], &row["unfinishedCalls"], &row["estimatedCalls"]),
            (&json!(true), &json!(2), &json!(2), &json!(2)),
            "{wire:?}: {usage}"
        );
        // Twenty words each time, at four characters a token.
        let said = shown(20).len().div_ceil(4) as u64;
        assert!(2 * said <= row["completionTokens"].as_u64().unwrap(), "{wire:?}: {usage}");
        assert!(2 <= row["promptTokens"].as_u64().unwrap(), "{wire:?}: {usage}");
    }
}

/// The breaker learns from each of them, for that model alone.
#[test]
fn the_breaker_learns_from_every_fault() {
    let faults = ["fault=cut,at=2", "fault=error,at=2", "fault=json,at=2", "fault=huge,at=2,bytes=3000000"];
    let faults = faults.iter().chain(&[
        "fault=gzip",
        "fault=head",
        "fault=reset",
        "fault=html",
        "fault=redirect",
        "status=500",
    ]);
    for fault in faults {
        let breaker = json!({ "callsMin": 3, "failedPercent": 50, "openSeconds": 600 });
        let rig = Rig::with(json!({ "breaker": breaker }), json!({ "server": { "shards": 1 } }));
        for _ in 0..3 {
            assert_eq!(rig.events("messages", fault).1["type"], "error", "{fault}");
        }
        let refused = rig.gateway.post("/api/chat", &json!({ "message": "canary", "agent": "messages" }));
        assert_eq!(refused.status, 503, "{fault}: {refused:?}");
        assert_eq!(refused.refusal(), (503, "UPSTREAM_UNAVAILABLE".to_owned()), "{fault}");
        assert_eq!(rig.simulator.count("requests"), 3, "{fault}: it is left alone");
        for wire in [Wire::Chat, Wire::Responses, Wire::Ollama] {
            assert_eq!(rig.events(wire.name(), "").1["type"], "done", "{fault}: {wire:?} is another model");
        }
    }
}

/// A certificate that nobody has reason to trust ends the call before anything is said: the key goes nowhere.
#[test]
fn a_bad_certificate_ends_the_call() {
    let simulator = crate::peers::simulator::Simulator::start();
    let gateway = Rig::gateway(&format!("https://{}", simulator.tls), json!({}), json!({}));
    let rig = Rig { simulator, gateway };
    for wire in Wire::ALL {
        let (text, last) = rig.events(wire.name(), "");
        assert_eq!((text.as_str(), &last["code"]), ("", &json!("UPSTREAM_FAILED")), "{wire:?}: {last}");
        let answer = rig.door(wire, wire.name(), "", true);
        assert_eq!(answer.status, 502, "{wire:?}: {answer:?}");
    }
    assert_eq!(rig.simulator.count("requests"), 0);
}
