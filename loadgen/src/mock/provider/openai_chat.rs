//! OpenAI's `POST /v1/chat/completions`. <https://platform.openai.com/docs/api-reference/chat>

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::check::{At, Checked, Refusal};
use super::format::Voice;
use super::frames::{Frames, Quoted};
use super::script::{Finish, UsageStyle};
use super::turn::{Asked, Step, Tool, Turn, word};

const FIELDS: [&str; 37] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "temperature",
    "top_p",
    "n",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "response_format",
    "reasoning_effort",
    "verbosity",
    "modalities",
    "audio",
    "prediction",
    "service_tier",
    "store",
    "metadata",
    "web_search_options",
    "prompt_cache_retention",
    "thinking",
    "mock",
];

/// Reads a request, as strictly as the service does.
pub(super) fn read(body: &At<'_>) -> Checked<Asked> {
    body.only(&FIELDS)?;
    let mut asked = Asked { model: body.need("model")?.some_text()?.to_owned(), ..Asked::default() };
    asked.stream = body.get("stream").map_or(Ok(false), |stream| stream.bool())?;
    if let Some(options) = body.get("stream_options") {
        options.only(&["include_usage", "include_obfuscation"])?;
        if !asked.stream {
            return Err(options.wrong("is only allowed when 'stream' is enabled"));
        }
        asked.wants_usage = options.get("include_usage").map_or(Ok(false), |wants| wants.bool())?;
    }
    asked.script = body.get("mock").map(|mock| mock.text().map(str::to_owned)).transpose()?;
    read_messages(&body.need("messages")?, &mut asked)?;
    asked.tools = body.get("tools").map_or(Ok(Vec::new()), |tools| read_tools(&tools))?;
    for key in ["tool_choice", "parallel_tool_calls"] {
        if let Some(at) = body.get(key).filter(|_| asked.tools.is_empty()) {
            return Err(at.wrong("is only allowed when 'tools' are specified"));
        }
    }
    body.get("temperature").map_or(Ok(0.0), |degree| degree.number(0.0, 2.0))?;
    body.get("top_p").map_or(Ok(0.0), |share| share.number(0.0, 1.0))?;
    let limits = ["max_tokens", "max_completion_tokens"].map(|key| body.get(key));
    for limit in limits.iter().flatten() {
        limit.whole(1)?;
    }
    match limits {
        [Some(old), Some(_)] => Err(old.wrong("cannot be set beside max_completion_tokens")),
        _ => Ok(asked),
    }
}

fn read_messages(messages: &At<'_>, asked: &mut Asked) -> Checked<()> {
    // The calls of the last message of the model that have no result yet.
    let mut open: Vec<String> = Vec::new();
    for message in messages.some_list()? {
        let role = message.need("role")?.one_of(&[
            "developer",
            "system",
            "user",
            "assistant",
            "tool",
            "function",
        ])?;
        if role != "tool" && !open.is_empty() {
            return Err(
                message.wrong("the calls before it must be followed by tool messages that respond to each")
            );
        }
        asked.messages += 1;
        let text = match message.get("content") {
            Some(content) => read_content(&content, role, asked)?,
            None if role == "assistant" && message.get("tool_calls").is_some() => String::new(),
            None => return Err(message.wrong("content: field required")),
        };
        asked.prompt_bytes += text.len();
        match role {
            "assistant" => {
                asked.results.clear();
                if let Some(calls) = message.get("tool_calls") {
                    open = read_calls(&calls)?;
                }
            }
            "tool" => {
                let id = message.need("tool_call_id")?;
                let Some(at) = open.iter().position(|open| open == id.value) else {
                    return Err(id.wrong("must be a response to a preceding message with 'tool_calls'"));
                };
                open.remove(at);
                asked.results.push(text);
            }
            "user" => {
                asked.results.clear();
                asked.last_user = text;
            }
            _ => {}
        }
    }
    if open.is_empty() { Ok(()) } else { Err(messages.wrong("the last calls of tools have no response")) }
}

fn read_content(content: &At<'_>, role: &str, asked: &mut Asked) -> Checked<String> {
    if let Some(text) = content.value.as_str() {
        return Ok(text.to_owned());
    }
    let kinds: &[&str] = match role {
        "user" => &["text", "image_url", "input_audio", "file"],
        "assistant" => &["text", "refusal"],
        _ => &["text"],
    };
    let mut text = String::new();
    for part in content.some_list()? {
        match part.need("type")?.one_of(kinds)? {
            "text" => text.push_str(part.need("text")?.text()?),
            "image_url" => {
                part.need("image_url")?.need("url")?.image_url()?;
                asked.images += 1;
            }
            _ => {}
        }
    }
    Ok(text)
}

fn read_calls(calls: &At<'_>) -> Checked<Vec<String>> {
    let read = |call: At<'_>| {
        call.need("type")?.one_of(&["function"])?;
        let function = call.need("function")?;
        function.need("name")?.tool_name()?;
        function.need("arguments")?.object_text()?;
        call.need("id")?.some_text().map(str::to_owned)
    };
    calls.some_list()?.into_iter().map(read).collect()
}

fn read_tools(tools: &At<'_>) -> Checked<Vec<Tool>> {
    let read = |tool: At<'_>| {
        tool.need("type")?.one_of(&["function"])?;
        let function = tool.need("function")?;
        function.only(&["name", "description", "parameters", "strict"])?;
        let name = function.need("name")?.tool_name()?.to_owned();
        let schema = function.get("parameters");
        schema.iter().try_for_each(|schema| schema.object().map(drop))?;
        Ok::<Tool, Refusal>(Tool { name, schema: schema.map_or(Value::Null, |schema| schema.value.clone()) })
    };
    tools.some_list()?.into_iter().map(read).collect()
}

const fn finish_of(turn: &Turn) -> &'static str {
    match turn.script.finish {
        Finish::Length => "length",
        Finish::Filter => "content_filter",
        Finish::Stop if turn.calls.is_empty() => "stop",
        Finish::Stop => "tool_calls",
    }
}

fn call_id(turn: &Turn, call: usize) -> String {
    format!("call_{}_{call}", turn.number)
}

fn usage(turn: &Turn) -> Value {
    let (prompt, completion, thoughts) = (turn.prompt_tokens, turn.count(), turn.script.thoughts);
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
    })
}

/// An answer that is not streamed.
pub(super) fn whole(turn: &Turn) -> Value {
    let call = |(number, call): (usize, &super::turn::Call)| {
        json!({
            "id": call_id(turn, number), "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        })
    };
    let text = turn.whole_text();
    let mut message = json!({"role": "assistant", "content": text, "refusal": null});
    if !turn.calls.is_empty() {
        message["tool_calls"] = turn.calls.iter().enumerate().map(call).collect();
        if text.is_empty() {
            message["content"] = Value::Null;
        }
    }
    if 0 < turn.script.thoughts {
        message["reasoning_content"] = turn.whole_thought().into();
    }
    let mut whole = json!({
        "id": format!("chatcmpl-{}", turn.number), "object": "chat.completion", "created": CREATED,
        "model": turn.model, "system_fingerprint": null,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_of(turn)}],
    });
    if turn.script.usage != UsageStyle::Never {
        whole["usage"] = usage(turn);
    }
    whole
}

const CREATED: u64 = 1_710_000_000;

/// The chunks of a stream.
#[derive(Debug, Default)]
pub(super) struct Chat {
    /// The first delta, with the role, was sent.
    begun: bool,
}

impl Chat {
    /// A chunk with these choices and what stands behind them.
    fn chunk(turn: &Turn, out: &mut Frames<'_>, choices: &str, rest: &str) {
        let (number, model, extra) = (turn.number, Quoted(&turn.model), out.extra());
        out.event(
            "",
            format_args!(
                r#"{{"id":"chatcmpl-{number}","object":"chat.completion.chunk","created":{CREATED},"model":{model},"system_fingerprint":null{extra}{choices}{rest}}}"#
            ),
        );
    }

    fn delta(&mut self, turn: &Turn, out: &mut Frames<'_>, delta: &str, finish: Option<&str>) {
        let role = if self.begun { "" } else { r#""role":"assistant""# };
        self.begun = true;
        let comma = if role.is_empty() || delta.is_empty() { "" } else { "," };
        let finish = finish.map_or("null".to_owned(), |finish| format!("\"{finish}\""));
        let choices = format!(
            r#","choices":[{{"index":0,"delta":{{{role}{comma}{delta}}},"logprobs":null,"finish_reason":{finish}}}]"#
        );
        // Where usage is to come, every chunk before it says that it has none.
        let asked = turn.wants_usage && turn.script.usage == UsageStyle::Asked;
        Self::chunk(turn, out, &choices, if asked { r#","usage":null"# } else { "" });
    }
}

impl Voice for Chat {
    fn begin(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        if !turn.script.role_late {
            self.delta(turn, out, r#""content":"""#, None);
        }
    }

    fn say(&mut self, turn: &Turn, step: Step, out: &mut Frames<'_>) {
        let place = |call: usize| {
            if turn.script.no_index { String::new() } else { format!(r#""index":{call},"#) }
        };
        // Without an index there is nothing but the id to tell calls apart by.
        let named = |call: usize| match turn.script.no_index && turn.script.interleave {
            true => format!(r#""id":"{}","#, call_id(turn, call)),
            false => String::new(),
        };
        let mut delta = String::new();
        let written = match step {
            Step::Thought(number) => write!(delta, r#""reasoning_content":{}"#, Quoted(word(number))),
            Step::Text(number) => write!(delta, r#""content":{}"#, Quoted(&turn.token(number))),
            Step::CallBegin(call) => write!(
                delta,
                r#""tool_calls":[{{{}"id":"{}","type":"function","function":{{"name":{},"arguments":""}}}}]"#,
                place(call),
                call_id(turn, call),
                Quoted(&turn.calls[call].name)
            ),
            Step::Arguments { call, from, to } => write!(
                delta,
                r#""tool_calls":[{{{}{}"function":{{"arguments":{}}}}}]"#,
                place(call),
                named(call),
                Quoted(turn.fragment(call, from, to))
            ),
            Step::CallEnd(_) => return,
        };
        debug_assert!(written.is_ok(), "a text takes what is written");
        self.delta(turn, out, &delta, None);
    }

    fn end(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        let style = turn.script.usage;
        let usage = || format!(r#","usage":{}"#, usage(turn));
        let finish = format!(
            r#","choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{}"}}]"#,
            finish_of(turn)
        );
        let beside = if style == UsageStyle::WithChoices { usage() } else { String::new() };
        Self::chunk(turn, out, &finish, &beside);
        let choices = match style {
            UsageStyle::Asked if turn.wants_usage => Some(r#","choices":[]"#),
            UsageStyle::Always => Some(r#","choices":[]"#),
            UsageStyle::NullChoices => Some(r#","choices":null"#),
            UsageStyle::NoChoices => Some(""),
            UsageStyle::Asked | UsageStyle::Never | UsageStyle::WithChoices => None,
        };
        if let Some(choices) = choices {
            Self::chunk(turn, out, choices, &usage());
        }
        out.raw("", b"[DONE]");
    }

    fn fail(&mut self, out: &mut Frames<'_>) {
        out.event(
            "",
            format_args!(
                r#"{{"error":{{"message":"the script says so","type":"server_error","param":null,"code":null}}}}"#
            ),
        );
    }

    fn opening(&self) -> (&'static str, &'static str, &'static str) {
        ("", r#"{"choices":[{"delta":{"content":""#, r#""},"logprobs":null,"finish_reason":null}]}"#)
    }
}
