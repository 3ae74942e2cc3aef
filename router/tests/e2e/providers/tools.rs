//! Tools: calls come whole, however they were cut and mixed, from every format into every other, and their results go back.
use super::{Heard, Rig, request};
use crate::peers::simulator::Wire;
use serde_json::{Value, json};

fn with_tools(door: Wire, agent: &str, script: &str, stream: bool) -> Value {
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" }, "n": { "type": "integer" } } });
    let mut body = request(door, agent, script, stream);
    body["tools"] = match door {
        Wire::Chat | Wire::Ollama => json!([{ "type": "function",
            "function": { "name": "weather", "description": "The weather", "parameters": schema } }]),
        Wire::Responses => json!([{ "type": "function", "name": "weather", "description": "The weather",
            "parameters": schema, "strict": false }]),
        Wire::Messages => {
            json!([{ "name": "weather", "description": "The weather", "input_schema": schema }])
        }
    };
    body
}

/// "interleaved tool-call fragments, arguments split anywhere, missing index: one whole call per index; nothing added".
#[test]
fn calls_come_whole_however_they_were_cut() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        for script in [
            "tools=1",
            "tools=3",
            "tools=3,arguments=1",
            "tools=3,interleave,arguments=2",
            "tools=2,tokens=3,thoughts=2",
            "tools=2,no-index",
            "tools=3,no-index,interleave,arguments=3",
            "tools=2,split=3,crlf,pings,unknown",
        ] {
            let count = script[6..7].parse().unwrap();
            for door in Wire::DOORS {
                for stream in [true, false] {
                    let body = with_tools(door, wire.name(), script, stream);
                    let heard = Heard::of(door, &rig.gateway.post(door.door(), &body));
                    let at = format!("{wire:?} by {door:?}, {script}, {stream}: {heard:?}");
                    assert_eq!((heard.calls.len(), heard.ended), (count, true), "{at}");
                    for (number, (name, arguments)) in heard.calls.iter().enumerate() {
                        let arguments: Value = serde_json::from_str(arguments).unwrap();
                        let expected = json!({ "city": format!("Zürich \"{number}\" 😀"), "n": number + 7 });
                        assert_eq!((name.as_str(), arguments), ("weather", expected), "{at}");
                    }
                    let stop = ["tool_calls", "completed", "tool_use"];
                    assert!(heard.stop.as_deref().is_some_and(|word| stop.contains(&word)), "{at}");
                }
            }
        }
    }
    rig.simulator.assert_none_refused();
}

/// What a client sends back after a call: what the model said as it came, and the result.
fn with_result(door: Wire, mut body: Value, answer: &Value) -> Value {
    let (key, said): (_, Vec<Value>) = match door {
        Wire::Chat | Wire::Ollama => {
            let message = answer["choices"][0]["message"].clone();
            let results = message["tool_calls"]
                .as_array()
                .unwrap()
                .iter()
                .map(|call| json!({ "role": "tool", "tool_call_id": call["id"], "content": "sunny" }));
            ("messages", std::iter::once(message.clone()).chain(results).collect())
        }
        Wire::Responses => {
            let output = answer["output"].as_array().unwrap();
            let calls = output.iter().filter(|item| item["type"] == "function_call");
            let results = calls
                .map(|call| json!({ "type": "function_call_output", "call_id": call["call_id"], "output": "sunny" }));
            ("input", output.iter().cloned().chain(results).collect())
        }
        Wire::Messages => {
            let content = &answer["content"];
            let calls = content.as_array().unwrap().iter().filter(|block| block["type"] == "tool_use");
            let results: Vec<_> = calls
                .map(|call| json!({ "type": "tool_result", "tool_use_id": call["id"], "content": "sunny" }))
                .collect();
            let said = json!({ "role": "assistant", "content": content });
            ("messages", vec![said, json!({ "role": "user", "content": results })])
        }
    };
    body[key].as_array_mut().unwrap().extend(said);
    body
}

/// A tool loop from every format into every other: the simulator takes only what the real services would.
#[test]
fn results_go_back_in_every_format() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        for door in Wire::DOORS {
            for script in ["tools=2", "tools=2,thoughts=2,tokens=2"] {
                let body = with_tools(door, wire.name(), script, false);
                let first = rig.gateway.post(door.door(), &body);
                assert_eq!(first.status, 200, "{wire:?} by {door:?}: {first:?}");
                let last = rig.gateway.post(door.door(), &with_result(door, body, &first.json()));
                let heard = Heard::of(door, &last);
                assert!(heard.ended && heard.calls.is_empty(), "{wire:?} by {door:?}: {last:?}");
                assert_eq!(heard.text, "sunny sunny", "{wire:?} by {door:?}");
            }
        }
    }
    rig.simulator.assert_none_refused();
}
