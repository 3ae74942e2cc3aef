//! Who waits for whom, and for how long: limits of time for each part of a call, clients that leave.
use super::{Heard, Rig, request};
use crate::peers::events::Events;
use crate::peers::simulator::Wire;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// "upstream falls silent: the idle-token timeout fires (comments and pings do not reset it)"; "separate limits, per model".
#[test]
fn each_part_of_a_call_has_a_limit_of_its_own() {
    let settings = |header: f64, first: f64, silence: f64, call: f64| {
        json!({ "connectSeconds": header, "headerSeconds": header, "firstTokenSeconds": first,
            "silenceSeconds": silence, "callSeconds": call })
    };
    // Each limit is passed while the others would still wait; then each wait is within its own, and longer than others.
    for (limits, slow, shown, good) in [
        (settings(0.3, 60.0, 60.0, 60.0), "header=20s", 0, "ttft=400ms,gap=400ms,tokens=2"),
        (settings(0.4, 0.4, 60.0, 60.0), "ttft=20s,comments,pings", 0, "gap=500ms,tokens=2"),
        (settings(20.0, 60.0, 0.3, 60.0), "fault=silence,at=2", 2, "header=400ms,ttft=400ms"),
        (settings(20.0, 60.0, 0.3, 60.0), "fault=silence,at=2,comments,pings", 2, "ttft=500ms,gap=20ms"),
        (settings(1.0, 1.0, 1.0, 1.0), "reply=words,tokens=1000,gap=50ms", 3, "gap=50ms,tokens=3"),
    ] {
        let rig = Rig::with(limits, json!({}));
        std::thread::scope(|scope| {
            for wire in Wire::ALL {
                let rig = &rig;
                scope.spawn(move || {
                    let slow = if slow.starts_with("fault") {
                        format!("reply=words,{slow}")
                    } else {
                        slow.to_owned()
                    };
                    let (text, last) = rig.events(wire.name(), &slow);
                    assert_eq!(last["code"], "UPSTREAM_TIMEOUT", "{wire:?} {slow}: {last}");
                    if 2 < shown {
                        assert!(text.starts_with("Messages go in"), "{wire:?} {slow}: {text}");
                    } else {
                        assert_eq!(text, ["", "Messages", "Messages go"][shown], "{wire:?} {slow}");
                    }
                    let answer = rig.door(wire, wire.name(), &slow, true);
                    Heard::of(wire, &answer).assert_unfinished();
                    assert_eq!(answer.status, if shown == 0 { 504 } else { 200 }, "{wire:?} {slow}");
                    let whole = rig.door(wire, wire.name(), &slow, false);
                    assert_eq!(whole.status, 504, "{wire:?} {slow}: {whole:?}");
                    let (_, last) = rig.events(wire.name(), good);
                    assert_eq!(last["type"], "done", "{wire:?} {good}: {last}");
                });
            }
        });
        rig.simulator.await_count("aborted", 4 * 3);
        assert_eq!(rig.simulator.count("in_flight"), 0, "nobody is left to talk to");
    }
}

/// A listener whose queue is full: the kernel answers no more, and whoever connects waits.
fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200)) {
        waiting.push(stream);
    }
    (listener, waiting)
}

/// A provider that cannot be connected to is given up by the limit for connecting, not by that for the header.
#[test]
fn who_does_not_take_connections_is_given_up_soon() {
    let (listener, waiting) = full_listener();
    let address: SocketAddr = listener.local_addr().unwrap();
    let limits = json!({ "connectSeconds": 0.3, "headerSeconds": 600, "firstTokenSeconds": 600,
        "callSeconds": 600 });
    let gateway = Rig::gateway(&format!("http://{address}"), limits, json!({}));
    for wire in Wire::ALL {
        let answer = gateway.post(wire.door(), &request(wire, wire.name(), "", true));
        assert!([502, 504].contains(&answer.status), "{wire:?}: {answer:?}");
    }
    drop(waiting);
}

/// "client leaves after token 5: the upstream call is aborted within one token".
#[test]
fn who_leaves_stops_the_model_within_a_token() {
    let rig = Rig::new();
    let script = "reply=words,tokens=200,gap=250ms";
    let left = std::thread::scope(|scope| {
        let leave = |wire: Wire, by_door: bool| {
            let rig = &rig;
            scope.spawn(move || {
                let mut client = rig.gateway.connect();
                let body = match by_door {
                    true => request(wire, wire.name(), script, true),
                    false => {
                        json!({ "message": super::prompt(script), "stream": true, "agent": wire.name() })
                    }
                };
                let path = if by_door { wire.door() } else { "/api/chat" };
                client.post(path, &[], &body);
                let mut events = Events::begin(client);
                let mut words = 0;
                while words < 5 {
                    let data = events.data().unwrap();
                    words += usize::from(is_word(&data));
                }
                events.client.leave();
            })
        };
        let all: Vec<_> =
            Wire::ALL.into_iter().flat_map(|wire| [leave(wire, false), leave(wire, true)]).collect();
        let count = all.len() as u64;
        all.into_iter().for_each(|one| one.join().unwrap());
        count
    });
    rig.simulator.await_count("aborted", left);
    let stats = rig.simulator.stats();
    for stream in stats["left"].as_array().unwrap() {
        let tokens = stream["tokens"].as_u64().unwrap();
        assert!((5..=6).contains(&tokens), "{stream}");
    }
    rig.gateway.await_status("running", 0);
}

/// Does an event of any format carry a word of the answer?
fn is_word(event: &Value) -> bool {
    let text = [
        &event["content"],
        &event["choices"][0]["delta"]["content"],
        &event["delta"]["text"],
        if event["type"] == "response.output_text.delta" { &event["delta"] } else { &Value::Null },
    ];
    text.iter().any(|text| text.as_str().is_some_and(|text| !text.is_empty()))
}

/// A reader that leaves before the model has said anything costs the model nothing more either.
#[test]
fn who_leaves_before_the_first_token_stops_the_model() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        let mut client = rig.gateway.connect();
        client.post(wire.door(), &[], &request(wire, wire.name(), "ttft=600s", true));
        crate::peers::ask_until("the model is asked", || {
            (rig.simulator.count("in_flight") == 1).then_some(())
        });
        client.leave();
        rig.simulator.await_count("in_flight", 0);
    }
    assert_eq!((rig.simulator.count("aborted"), rig.simulator.count("tokens")), (4, 0));
}
