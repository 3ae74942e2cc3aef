//! Streams that are good, in every shape that the formats allow, and what goes with the text: thoughts, usage, why it ended.
use super::{Heard, Rig, TEXT, request};
use crate::peers::simulator::Wire;
use serde_json::{Value, json};

/// "CRLF, `data:` without a space, comments, multi-line data, UTF-8 split over reads", "`choices: null` or missing, usage on
/// a chunk that still has choices, unknown event types and fields".
const SHAPES: [&str; 18] = [
    "",
    "tokens=3",
    "crlf",
    "no-space",
    "multi-line",
    "comments",
    "pings",
    "bom",
    "unknown",
    "split=1",
    "split=7,crlf,comments,pings,no-space,multi-line,unknown",
    "role-late",
    "usage=never",
    "usage=always",
    "usage=with-choices",
    "usage=null-choices",
    "usage=no-choices",
    "then=close",
];

#[test]
fn a_good_stream_is_read_in_every_shape() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        for shape in SHAPES {
            let (text, last) = rig.events(wire.name(), shape);
            assert_eq!((text.as_str(), &last["type"]), (TEXT, &json!("done")), "{wire:?} {shape}: {last}");
            let estimated = last["usage"]["estimated"] == true;
            assert_eq!(estimated, shape == "usage=never", "{wire:?} {shape}: {last}");
            assert!(last["usage"]["completionTokens"].as_u64().is_some_and(|count| 0 < count), "{last}");
            let (text, last) = rig.socket(wire.name(), shape);
            assert_eq!((text.as_str(), &last["type"]), (TEXT, &json!("done")), "{wire:?} {shape}: {last}");
            for stream in [true, false] {
                let heard = Heard::of(wire, &rig.door(wire, wire.name(), shape, stream));
                assert_eq!(heard.text, TEXT, "{wire:?} {shape} {stream}: {heard:?}");
                assert!(heard.ended && heard.error.is_none() && heard.stop.is_some(), "{heard:?}");
                assert!(
                    heard.usage.is_some_and(|(prompt, completion)| 0 < prompt && 0 < completion),
                    "{heard:?}"
                );
            }
        }
    }
    rig.simulator.assert_none_refused();
    assert_eq!(rig.gateway.metric("clawgate_failed_total", ""), 0);
}

/// "`reasoning_content`, thinking blocks: kept apart from the text, passed through".
#[test]
fn thoughts_stay_apart_from_the_text_through_every_door() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        let (text, last) = rig.events(wire.name(), "thoughts=3");
        assert_eq!((text.as_str(), &last["type"]), (TEXT, &json!("done")), "{wire:?}");
        for door in Wire::DOORS {
            for stream in [true, false] {
                let heard = Heard::of(door, &rig.door(door, wire.name(), "thoughts=3", stream));
                assert_eq!(
                    (heard.text.as_str(), heard.thoughts.as_str()),
                    (TEXT, "Messages go in"),
                    "{wire:?} by {door:?}, {stream}: {heard:?}"
                );
            }
        }
    }
    rig.simulator.assert_none_refused();
}

/// Why an answer ended is told in the words of whoever asked, whatever the model's own are.
#[test]
fn the_reason_of_an_end_is_translated() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        for (script, of_chat, of_responses, of_messages) in [
            ("", "stop", "completed", "end_turn"),
            ("finish=length", "length", "incomplete", "max_tokens"),
            ("finish=filter", "content_filter", "incomplete", "refusal"),
        ] {
            // Ollama has no word for it.
            if script == "finish=filter" && wire == Wire::Ollama {
                continue;
            }
            for (door, expected) in Wire::DOORS.into_iter().zip([of_chat, of_responses, of_messages]) {
                let heard = Heard::of(door, &rig.door(door, wire.name(), script, true));
                assert_eq!(heard.stop.as_deref(), Some(expected), "{wire:?} by {door:?}: {heard:?}");
                assert!(heard.ended, "{heard:?}");
            }
        }
    }
}

/// Usage as the model counts it, in every pair of formats.
#[test]
fn usage_is_the_models_own_through_every_door() {
    let rig = Rig::new();
    for wire in Wire::ALL {
        let (_, last) = rig.events(wire.name(), "tokens=9");
        assert_eq!(last["usage"]["completionTokens"], 9, "{wire:?}: {last}");
        let prompt = last["usage"]["promptTokens"].as_u64().unwrap();
        for door in Wire::DOORS {
            for stream in [true, false] {
                let heard = Heard::of(door, &rig.door(door, wire.name(), "tokens=9", stream));
                assert_eq!(heard.usage, Some((prompt, 9)), "{wire:?} by {door:?}, {stream}: {heard:?}");
            }
        }
    }
}

/// Images go from every format into every other.
#[test]
fn images_arrive_in_every_format() {
    let rig = Rig::new();
    let data = "iVBORw0KGgo=";
    let url = format!("data:image/png;base64,{data}");
    let (mut images, mut asked) = (0, 0);
    for wire in Wire::ALL {
        for door in Wire::DOORS {
            let mut body = request(door, wire.name(), "", false);
            let (key, parts) = match door {
                Wire::Responses => (
                    "input",
                    json!([{ "type": "input_text", "text": TEXT }, { "type": "input_image", "image_url": url }]),
                ),
                Wire::Messages => (
                    "messages",
                    json!([{ "type": "text", "text": TEXT }, { "type": "image",
                        "source": { "type": "base64", "media_type": "image/png", "data": data } }]),
                ),
                Wire::Chat | Wire::Ollama => (
                    "messages",
                    json!([{ "type": "text", "text": TEXT }, { "type": "image_url", "image_url": { "url": url } }]),
                ),
            };
            body[key] = json!([{ "role": "user", "content": parts }]);
            let heard = Heard::of(door, &rig.gateway.post(door.door(), &body));
            assert_eq!(heard.text, TEXT, "{wire:?} by {door:?}: {heard:?}");
            (images, asked) = (images + 1, asked + 1);
            assert_eq!(rig.simulator.count("images"), images, "{wire:?} by {door:?}");
        }
    }
    let stats = rig.simulator.stats();
    assert_eq!((&stats["requests"], &stats["refusals"]), (&json!(asked), &Value::Array(Vec::new())));
}
