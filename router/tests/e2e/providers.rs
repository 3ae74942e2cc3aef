//! What must hold when a model is streamed through a gateway, for every wire format, against the provider simulator: good
//! streams in every shape, each way in which one goes wrong, limits, retries, tools, usage. Each through `/api/chat`, as
//! events and over a WebSocket, and through the door that speaks the model's own format.
//!
//! What is to happen stands in the prompt, as a script of the simulator's.
use crate::peers::events::Events;
use crate::peers::gateway::{Gateway, merge};
use crate::peers::http::Answer;
use crate::peers::simulator::{Simulator, Wire};
use serde_json::{Value, json};

#[path = "providers/faults.rs"]
mod faults;
#[path = "providers/limits.rs"]
mod limits;
#[path = "providers/retries.rs"]
mod retries;
#[path = "providers/shapes.rs"]
mod shapes;
#[path = "providers/tools.rs"]
mod tools;

/// What is asked, and said again.
const TEXT: &str = "Grüße, \"canary\"\n🦀 {\"data\": 1} and more";

/// The simulator, and a gateway with a model and an agent for each format.
struct Rig {
    simulator: Simulator,
    gateway: Gateway,
}

impl Rig {
    fn new() -> Self {
        Self::with(json!({}), json!({}))
    }

    /// `settings` are added to each model, `more` to the configuration.
    fn with(settings: Value, more: Value) -> Self {
        let simulator = Simulator::start();
        let gateway = Self::gateway(&simulator.origin(), settings, more);
        Self { simulator, gateway }
    }

    fn gateway(origin: &str, settings: Value, more: Value) -> Gateway {
        let (mut models, mut agents) = (json!({}), json!({}));
        for wire in Wire::ALL {
            // What fails on purpose must not open the breaker for the next case.
            let mut entry = wire.entry(origin, json!({ "breaker": { "callsMin": 10_000 } }));
            merge(&mut entry, settings.clone());
            models[wire.name()] = entry;
            agents[wire.name()] = json!({ "models": [wire.name()], "attemptsMax": 1, "history": false });
        }
        let mut config = json!({
            "models": models, "agents": agents, "route": "chat", "logging": { "level": "info" },
            "limits": { "backoffMinMillis": 1, "backoffMaxMillis": 5 },
        });
        merge(&mut config, more);
        Gateway::start(config)
    }

    /// An answer by `/api/chat`, as events: its text, and the event that ended it.
    fn events(&self, agent: &str, script: &str) -> (String, Value) {
        self.begin(agent, script).finish()
    }

    fn begin(&self, agent: &str, script: &str) -> Events {
        let mut client = self.gateway.connect();
        client.post("/api/chat", &[], &json!({ "message": prompt(script), "stream": true, "agent": agent }));
        Events::begin(client)
    }

    /// An answer over a WebSocket: its text, and the message that ended it.
    fn socket(&self, agent: &str, script: &str) -> (String, Value) {
        let mut socket = self.gateway.socket();
        let session = format!("ws-{agent}");
        socket.say(json!({
            "type": "message", "channel": "api", "content": prompt(script), "sessionId": session,
            "agent": agent,
        }));
        let reply = socket.reply(&session, "");
        (reply.text(), reply.end)
    }

    /// An answer through a door.
    fn door(&self, door: Wire, agent: &str, script: &str, stream: bool) -> Answer {
        self.gateway.post(door.door(), &request(door, agent, script, stream))
    }
}

fn prompt(script: &str) -> String {
    format!("[mock:{script}] {TEXT}")
}

/// A request in a format.
fn request(door: Wire, agent: &str, script: &str, stream: bool) -> Value {
    let said = json!([{ "role": "user", "content": prompt(script) }]);
    let mut request = json!({ "model": agent, "stream": stream });
    match door {
        Wire::Chat | Wire::Ollama => {
            request["messages"] = said;
            if stream {
                request["stream_options"] = json!({ "include_usage": true });
            }
        }
        Wire::Responses => request["input"] = said,
        Wire::Messages => {
            request["messages"] = said;
            request["max_tokens"] = json!(1_000);
        }
    }
    request
}

/// What an answer of a door says, in whatever format.
#[derive(Clone, Debug, Default, PartialEq)]
struct Heard {
    text: String,
    thoughts: String,
    /// Name and arguments of each call.
    calls: Vec<(String, String)>,
    /// Tokens of the prompt and of the answer.
    usage: Option<(u64, u64)>,
    /// Why it ended, in the format's word.
    stop: Option<String>,
    error: Option<String>,
    /// The last thing that a complete stream says.
    ended: bool,
}

impl Heard {
    /// Reads an answer, whole or streamed.
    #[track_caller]
    fn of(door: Wire, answer: &Answer) -> Self {
        let mut heard = Self::default();
        if answer.header("content-type") == Some("text/event-stream") {
            assert_eq!(answer.status, 200, "{answer:?}");
            let text = answer.text();
            assert!(text.ends_with("\n\n"), "an event was cut: {text:?}");
            for block in text.split("\n\n") {
                let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
                assert!(!heard.ended && heard.error.is_none(), "after the end: {data}");
                heard.on_event(door, data);
            }
        } else {
            let body = answer.json();
            if let Some(error) = body["error"]["message"].as_str() {
                heard.error = Some(error.to_owned());
            } else {
                heard.on_whole(door, &body);
                heard.ended = true;
            }
        }
        heard
    }

    fn on_event(&mut self, door: Wire, data: &str) {
        if data == "[DONE]" {
            self.ended = true;
            return;
        }
        let event: Value = serde_json::from_str(data).unwrap_or_else(|_| panic!("no JSON: {data}"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match door {
            Wire::Chat | Wire::Ollama => self.on_chunk(&event),
            Wire::Responses => match event["type"].as_str().unwrap() {
                "response.output_text.delta" => self.text += &text(&event["delta"]),
                "response.completed" | "response.incomplete" => {
                    let told = std::mem::take(&mut self.text);
                    self.on_whole(door, &event["response"]);
                    assert_eq!(told, self.text, "what was told is what it comes to");
                    self.ended = true;
                }
                "error" => self.error = Some(text(&event["message"])),
                "response.failed" => self.error = Some(text(&event["response"]["error"]["message"])),
                _ => {}
            },
            Wire::Messages => match event["type"].as_str().unwrap() {
                "message_start" => {
                    self.usage = event["message"]["usage"]["input_tokens"].as_u64().map(|input| (input, 0));
                }
                "content_block_start" if event["content_block"]["type"] == "tool_use" => {
                    self.calls.push((text(&event["content_block"]["name"]), String::new()));
                }
                "content_block_delta" => {
                    let delta = &event["delta"];
                    self.text += delta["text"].as_str().unwrap_or_default();
                    self.thoughts += delta["thinking"].as_str().unwrap_or_default();
                    if let Some(part) = delta["partial_json"].as_str() {
                        self.calls.last_mut().unwrap().1 += part;
                    }
                }
                "message_delta" => {
                    self.stop = event["delta"]["stop_reason"].as_str().map(str::to_owned);
                    let input = event["usage"]["input_tokens"].as_u64();
                    let input = input.or(self.usage.map(|(input, _)| input)).unwrap_or(0);
                    self.usage = event["usage"]["output_tokens"].as_u64().map(|output| (input, output));
                }
                "message_stop" => self.ended = true,
                "error" => self.error = Some(text(&event["error"]["message"])),
                _ => {}
            },
        }
    }

    fn on_chunk(&mut self, chunk: &Value) {
        if let Some(error) = chunk["error"]["message"].as_str() {
            self.error = Some(error.to_owned());
            return;
        }
        let choice = &chunk["choices"][0];
        let delta = &choice["delta"];
        self.text += delta["content"].as_str().unwrap_or_default();
        self.thoughts += delta["reasoning_content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            for field in [&call["id"], &call["function"]["name"]] {
                // "nothing added (`id: null`, `name: \"\"`)"
                assert!(!field.is_null() || index < self.calls.len(), "a call begins with its name: {call}");
            }
            assert!(call.get("id").is_none_or(Value::is_string), "{call}");
            assert_ne!(call["function"]["name"], "", "{call}");
            if let Some(name) = call["function"]["name"].as_str() {
                assert_eq!(index, self.calls.len(), "each call begins once: {call}");
                self.calls.push((name.to_owned(), String::new()));
            }
            self.calls[index].1 += call["function"]["arguments"].as_str().unwrap_or_default();
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.stop = Some(reason.to_owned());
        }
        self.usage = usage(&chunk["usage"], "prompt_tokens", "completion_tokens").or(self.usage);
    }

    fn on_whole(&mut self, door: Wire, body: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match door {
            Wire::Chat | Wire::Ollama => {
                let message = &body["choices"][0]["message"];
                (self.text, self.thoughts) = (text(&message["content"]), text(&message["reasoning_content"]));
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    self.calls.push((text(&call["function"]["name"]), text(&call["function"]["arguments"])));
                }
                self.stop = body["choices"][0]["finish_reason"].as_str().map(str::to_owned);
                self.usage = usage(&body["usage"], "prompt_tokens", "completion_tokens");
            }
            Wire::Responses => {
                for item in body["output"].as_array().into_iter().flatten() {
                    let parts =
                        ["content", "summary"].map(|key| item[key].as_array().cloned().unwrap_or_default());
                    match item["type"].as_str() {
                        Some("message") => parts[0].iter().for_each(|part| self.text += &text(&part["text"])),
                        Some("reasoning") => {
                            parts[1].iter().for_each(|part| self.thoughts += &text(&part["text"]));
                        }
                        Some("function_call") => {
                            self.calls.push((text(&item["name"]), text(&item["arguments"])));
                        }
                        _ => panic!("an unknown item: {item}"),
                    }
                }
                self.stop = body["status"].as_str().map(str::to_owned);
                self.usage = usage(&body["usage"], "input_tokens", "output_tokens");
            }
            Wire::Messages => {
                for block in body["content"].as_array().into_iter().flatten() {
                    self.text += &text(&block["text"]);
                    self.thoughts += &text(&block["thinking"]);
                    if block["type"] == "tool_use" {
                        self.calls.push((text(&block["name"]), block["input"].to_string()));
                    }
                }
                self.stop = body["stop_reason"].as_str().map(str::to_owned);
                self.usage = usage(&body["usage"], "input_tokens", "output_tokens");
            }
        }
    }

    /// It looks complete in no way.
    #[track_caller]
    fn assert_unfinished(&self) {
        assert!(self.error.is_some() && self.stop.is_none() && !self.ended, "{self:?}");
    }
}

fn usage(usage: &Value, prompt: &str, completion: &str) -> Option<(u64, u64)> {
    Some((usage[prompt].as_u64()?, usage[completion].as_u64()?))
}
