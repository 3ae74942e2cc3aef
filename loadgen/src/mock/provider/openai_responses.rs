//! OpenAI's `POST /v1/responses`. <https://platform.openai.com/docs/api-reference/responses>

use serde_json::{Value, json};

use super::check::{At, Checked, Refusal};
use super::format::Voice;
use super::frames::{Frames, Quoted};
use super::script::{Finish, UsageStyle};
use super::turn::{Asked, Step, Tool, Turn, word};

const FIELDS: [&str; 29] = [
    "model",
    "input",
    "instructions",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "include",
    "reasoning",
    "text",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "truncation",
    "previous_response_id",
    "conversation",
    "background",
    "service_tier",
    "top_logprobs",
    "prompt",
    "prompt_cache_retention",
    "mock",
];

/// Reads a request, as strictly as the service does.
pub(super) fn read(body: &At<'_>) -> Checked<Asked> {
    body.only(&FIELDS)?;
    let mut asked = Asked { model: body.need("model")?.some_text()?.to_owned(), ..Asked::default() };
    asked.stream = body.get("stream").map_or(Ok(false), |stream| stream.bool())?;
    asked.wants_usage = true;
    body.get("stream_options").map_or(Ok(()), |options| options.only(&["include_obfuscation"]))?;
    asked.script = body.get("mock").map(|mock| mock.text().map(str::to_owned)).transpose()?;
    if let Some(previous) = body.get("previous_response_id") {
        return Err(previous.wrong("there is no such response: nothing is stored here"));
    }
    if let Some(instructions) = body.get("instructions") {
        asked.prompt_bytes += instructions.text()?.len();
    }
    let input = body.need("input")?;
    match input.value.as_str() {
        Some(text) => {
            asked.prompt_bytes += text.len();
            (asked.messages, asked.last_user) = (1, text.to_owned());
        }
        None => read_items(&input, &mut asked)?,
    }
    asked.tools = body.get("tools").map_or(Ok(Vec::new()), |tools| read_tools(&tools))?;
    body.get("temperature").map_or(Ok(0.0), |degree| degree.number(0.0, 2.0))?;
    body.get("max_output_tokens").map_or(Ok(16), |limit| limit.whole(16))?;
    Ok(asked)
}

fn read_items(input: &At<'_>, asked: &mut Asked) -> Checked<()> {
    let mut open: Vec<&str> = Vec::new();
    for item in input.some_list()? {
        let kinds =
            ["message", "function_call", "function_call_output", "reasoning", "item_reference", "compaction"];
        match item.get("type").map_or(Ok("message"), |kind| kind.one_of(&kinds))? {
            "message" => read_message(&item, asked)?,
            "function_call" => {
                item.need("name")?.tool_name()?;
                item.need("arguments")?.object_text()?;
                open.push(item.need("call_id")?.some_text()?);
                asked.results.clear();
            }
            "function_call_output" => {
                let id = item.need("call_id")?;
                let Some(at) = open.iter().position(|open| open == id.value) else {
                    return Err(id.wrong("no tool call found for this function call output"));
                };
                open.remove(at);
                let output = item.need("output")?;
                let text = match output.value.as_str() {
                    Some(text) => text.to_owned(),
                    None => read_parts(&output, &["input_text", "input_image", "input_file"], asked)?,
                };
                asked.prompt_bytes += text.len();
                asked.results.push(text);
            }
            "reasoning" => {
                item.need("id")?.some_text()?;
                item.need("summary")?.list()?;
            }
            _ => return Err(item.wrong("nothing is stored here")),
        }
    }
    match open.first() {
        None => Ok(()),
        Some(id) => Err(input.wrong(&format!("no tool output found for function call {id}"))),
    }
}

fn read_message(item: &At<'_>, asked: &mut Asked) -> Checked<()> {
    let role = item.need("role")?.one_of(&["user", "assistant", "system", "developer"])?;
    let content = item.need("content")?;
    let kinds: &[&str] = match role {
        "assistant" => &["output_text", "refusal"],
        _ => &["input_text", "input_image", "input_file"],
    };
    let text = match content.value.as_str() {
        Some(text) => text.to_owned(),
        None => read_parts(&content, kinds, asked)?,
    };
    asked.messages += 1;
    asked.prompt_bytes += text.len();
    asked.results.clear();
    if role == "user" {
        asked.last_user = text;
    }
    Ok(())
}

fn read_parts(content: &At<'_>, kinds: &[&str], asked: &mut Asked) -> Checked<String> {
    let mut text = String::new();
    for part in content.list()? {
        match part.need("type")?.one_of(kinds)? {
            "input_text" | "output_text" => text.push_str(part.need("text")?.text()?),
            "input_image" => {
                part.need("image_url")?.image_url()?;
                asked.images += 1;
            }
            _ => {}
        }
    }
    Ok(text)
}

fn read_tools(tools: &At<'_>) -> Checked<Vec<Tool>> {
    let read = |tool: At<'_>| {
        tool.need("type")?.one_of(&["function"])?;
        tool.only(&["type", "name", "description", "parameters", "strict"])?;
        let name = tool.need("name")?.tool_name()?.to_owned();
        let schema = tool.get("parameters");
        schema.iter().try_for_each(|schema| schema.object().map(drop))?;
        Ok::<Tool, Refusal>(Tool { name, schema: schema.map_or(Value::Null, |schema| schema.value.clone()) })
    };
    tools.list()?.into_iter().map(read).collect()
}

const CREATED: u64 = 1_741_476_542;

/// The response as it stands, with these items.
fn response(turn: &Turn, status: &str, output: &[Value], usage: Value) -> Value {
    let reason = match (status, turn.script.finish) {
        ("incomplete", Finish::Filter) => json!({"reason": "content_filter"}),
        ("incomplete", _) => json!({"reason": "max_output_tokens"}),
        _ => Value::Null,
    };
    json!({
        "id": format!("resp_{}", turn.number), "object": "response", "created_at": CREATED, "status": status,
        "error": null, "incomplete_details": reason, "instructions": null, "max_output_tokens": null,
        "model": turn.model, "output": output, "parallel_tool_calls": true, "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null}, "store": false, "temperature": 1.0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "truncation": "disabled", "usage": usage, "user": null, "metadata": {},
    })
}

fn usage(turn: &Turn) -> Value {
    if turn.script.usage == UsageStyle::Never {
        return Value::Null;
    }
    let (input, output) = (turn.prompt_tokens, turn.count());
    json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": turn.script.thoughts}, "total_tokens": input + output,
    })
}

const fn status_of(turn: &Turn) -> &'static str {
    match turn.script.finish {
        Finish::Stop => "completed",
        Finish::Length | Finish::Filter => "incomplete",
    }
}

fn reasoning(turn: &Turn, text: &str) -> Value {
    json!({
        "id": format!("rs_{}", turn.number), "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text}],
    })
}

fn message(turn: &Turn, text: &str) -> Value {
    json!({
        "id": format!("msg_{}", turn.number), "type": "message", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    })
}

fn function_call(turn: &Turn, call: usize, arguments: &str, status: &str) -> Value {
    json!({
        "id": format!("fc_{}_{call}", turn.number), "type": "function_call", "status": status,
        "call_id": format!("call_{}_{call}", turn.number), "name": turn.calls[call].name,
        "arguments": arguments,
    })
}

/// An answer that is not streamed.
pub(super) fn whole(turn: &Turn) -> Value {
    let mut items = Vec::new();
    if 0 < turn.script.thoughts {
        items.push(reasoning(turn, &turn.whole_thought()));
    }
    let text = turn.whole_text();
    if !text.is_empty() || turn.calls.is_empty() {
        items.push(message(turn, &text));
    }
    let calls = (0..turn.calls.len()).map(|call| (call, turn.calls[call].arguments.as_str()));
    items.extend(calls.map(|(call, arguments)| function_call(turn, call, arguments, "completed")));
    response(turn, status_of(turn), &items, usage(turn))
}

/// The item that is being told.
#[derive(Debug, Default, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    Reasoning(String),
    Message(String),
}

/// The events of a stream.
#[derive(Debug, Default)]
pub(super) struct Items {
    sequence: u64,
    open: Open,
    /// Items that were added; of calls, which place each has.
    added: usize,
    places: Vec<usize>,
    done: Vec<Value>,
}

impl Items {
    fn event(&mut self, out: &mut Frames<'_>, kind: &str, rest: &str) {
        let (sequence, extra) = (self.sequence, out.extra());
        self.sequence += 1;
        out.event(kind, format_args!(r#"{{"type":"{kind}","sequence_number":{sequence}{extra}{rest}}}"#));
    }

    fn add(&mut self, out: &mut Frames<'_>, item: &Value) {
        self.event(
            out,
            "response.output_item.added",
            &format!(r#","output_index":{},"item":{item}"#, self.added),
        );
        self.added += 1;
    }

    fn done(&mut self, out: &mut Frames<'_>, place: usize, item: Value) {
        self.event(out, "response.output_item.done", &format!(r#","output_index":{place},"item":{item}"#));
        self.done.push(item);
    }

    /// Where a part of the open item stands.
    fn part(&self, turn: &Turn, kind: &str, index: &str) -> String {
        let place = self.added.saturating_sub(1);
        format!(r#","item_id":"{kind}_{}","output_index":{place},"{index}":0"#, turn.number)
    }

    fn open_reasoning(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        if !matches!(self.open, Open::Reasoning(_)) {
            self.close(turn, out);
            let item = json!({"id": format!("rs_{}", turn.number), "type": "reasoning", "summary": []});
            self.add(out, &item);
            let part = self.part(turn, "rs", "summary_index");
            let rest = format!(r#"{part},"part":{{"type":"summary_text","text":""}}"#);
            self.event(out, "response.reasoning_summary_part.added", &rest);
            self.open = Open::Reasoning(String::new());
        }
    }

    fn open_message(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        if !matches!(self.open, Open::Message(_)) {
            self.close(turn, out);
            let mut item = message(turn, "");
            (item["status"], item["content"]) = ("in_progress".into(), json!([]));
            self.add(out, &item);
            let part = self.part(turn, "msg", "content_index");
            let rest =
                format!(r#"{part},"part":{{"type":"output_text","text":"","annotations":[],"logprobs":[]}}"#);
            self.event(out, "response.content_part.added", &rest);
            self.open = Open::Message(String::new());
        }
    }

    /// Ends the item of text that is open.
    fn close(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        let place = self.added.saturating_sub(1);
        match std::mem::take(&mut self.open) {
            Open::Nothing => {}
            Open::Reasoning(text) => {
                let (part, quoted) = (self.part(turn, "rs", "summary_index"), Quoted(&text));
                self.event(
                    out,
                    "response.reasoning_summary_text.done",
                    &format!(r#"{part},"text":{quoted}"#),
                );
                let rest = format!(r#"{part},"part":{{"type":"summary_text","text":{quoted}}}"#);
                self.event(out, "response.reasoning_summary_part.done", &rest);
                self.done(out, place, reasoning(turn, &text));
            }
            Open::Message(text) => {
                let (part, quoted) = (self.part(turn, "msg", "content_index"), Quoted(&text));
                self.event(
                    out,
                    "response.output_text.done",
                    &format!(r#"{part},"text":{quoted},"logprobs":[]"#),
                );
                let rest = format!(
                    r#"{part},"part":{{"type":"output_text","text":{quoted},"annotations":[],"logprobs":[]}}"#
                );
                self.event(out, "response.content_part.done", &rest);
                self.done(out, place, message(turn, &text));
            }
        }
    }

    /// Where a part of a call stands.
    fn call(&self, turn: &Turn, call: usize) -> String {
        let place = self.places.get(call).copied().unwrap_or(0);
        format!(r#","item_id":"fc_{}_{call}","output_index":{place}"#, turn.number)
    }
}

impl Voice for Items {
    fn begin(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        let rest = format!(r#","response":{}"#, response(turn, "in_progress", &[], Value::Null));
        self.event(out, "response.created", &rest);
        self.event(out, "response.in_progress", &rest);
        if out.has_unknown() {
            self.event(out, "response.sparkle.delta", r#","delta":"never text""#);
            out.event("sparkle", format_args!(r#"{{"type":"sparkle","delta":"never text"}}"#));
        }
    }

    fn say(&mut self, turn: &Turn, step: Step, out: &mut Frames<'_>) {
        match step {
            Step::Thought(number) => {
                self.open_reasoning(turn, out);
                if let Open::Reasoning(told) = &mut self.open {
                    told.push_str(word(number));
                }
                let part = self.part(turn, "rs", "summary_index");
                let rest = format!(r#"{part},"delta":{}"#, Quoted(word(number)));
                self.event(out, "response.reasoning_summary_text.delta", &rest);
            }
            Step::Text(number) => {
                self.open_message(turn, out);
                let token = turn.token(number);
                if let Open::Message(told) = &mut self.open {
                    told.push_str(&token);
                }
                let part = self.part(turn, "msg", "content_index");
                let rest = format!(r#"{part},"delta":{},"logprobs":[]"#, Quoted(&token));
                self.event(out, "response.output_text.delta", &rest);
            }
            Step::CallBegin(call) => {
                self.close(turn, out);
                self.places.push(self.added);
                self.add(out, &function_call(turn, call, "", "in_progress"));
            }
            Step::Arguments { call, from, to } => {
                let rest =
                    format!(r#"{},"delta":{}"#, self.call(turn, call), Quoted(turn.fragment(call, from, to)));
                self.event(out, "response.function_call_arguments.delta", &rest);
            }
            Step::CallEnd(call) => {
                let arguments = turn.calls[call].arguments.as_str();
                let name = &turn.calls[call].name;
                let rest = format!(
                    r#"{},"name":{},"arguments":{}"#,
                    self.call(turn, call),
                    Quoted(name),
                    Quoted(arguments)
                );
                self.event(out, "response.function_call_arguments.done", &rest);
                let place = self.places.get(call).copied().unwrap_or(0);
                self.done(out, place, function_call(turn, call, arguments, "completed"));
            }
        }
    }

    fn end(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        if self.added == 0 {
            self.open_message(turn, out);
        }
        self.close(turn, out);
        let status = status_of(turn);
        let response = response(turn, status, &std::mem::take(&mut self.done), usage(turn));
        let kind = if status == "completed" { "response.completed" } else { "response.incomplete" };
        self.event(out, kind, &format!(r#","response":{response}"#));
    }

    fn fail(&mut self, out: &mut Frames<'_>) {
        let rest = r#","code":"server_error","message":"the script says so","param":null"#;
        self.event(out, "error", rest);
    }

    fn opening(&self) -> (&'static str, &'static str, &'static str) {
        (
            "response.output_text.delta",
            r#"{"type":"response.output_text.delta","output_index":0,"delta":""#,
            r#""}"#,
        )
    }
}
