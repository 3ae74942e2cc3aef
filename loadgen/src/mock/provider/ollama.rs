//! Ollama's `POST /api/chat`. <https://docs.ollama.com/api/chat>

use serde_json::{Value, json};

use super::check::{At, Checked, Refusal};
use super::format::Voice;
use super::frames::{Frames, Quoted};
use super::script::{Finish, UsageStyle};
use super::turn::{Asked, Step, Tool, Turn, word};

pub(super) fn error(refusal: &Refusal) -> Value {
    // A budget that is spent is told from a rate by these words alone.
    let words = if refusal.spent { "you have reached your usage limit: " } else { "" };
    json!({"error": format!("{words}{}", refusal.message)})
}

/// Reads a request. Fields that Ollama does not know it ignores.
pub(super) fn read(body: &At<'_>) -> Checked<Asked> {
    let mut asked = Asked { model: body.need("model")?.some_text()?.to_owned(), ..Asked::default() };
    asked.stream = body.get("stream").map_or(Ok(true), |stream| stream.bool())?;
    asked.wants_usage = true;
    asked.script = body.get("mock").map(|mock| mock.text().map(str::to_owned)).transpose()?;
    if let Some(options) = body.get("options") {
        options.object()?;
    }
    for message in body.need("messages")?.list()? {
        let role = message.need("role")?.one_of(&["system", "user", "assistant", "tool"])?;
        asked.messages += 1;
        let text = message.get("content").map_or(Ok(""), |content| content.text())?;
        asked.prompt_bytes += text.len();
        if let Some(images) = message.get("images") {
            for image in images.list()? {
                image.base64()?;
                asked.images += 1;
            }
        }
        if let Some(calls) = message.get("tool_calls") {
            for call in calls.list()? {
                let function = call.need("function")?;
                function.need("name")?.some_text()?;
                function.need("arguments")?.object()?;
            }
        }
        match role {
            "tool" => asked.results.push(text.to_owned()),
            "user" => {
                asked.results.clear();
                asked.last_user = text.to_owned();
            }
            _ => asked.results.clear(),
        }
    }
    asked.tools = body.get("tools").map_or(Ok(Vec::new()), |tools| read_tools(&tools))?;
    Ok(asked)
}

fn read_tools(tools: &At<'_>) -> Checked<Vec<Tool>> {
    let read = |tool: At<'_>| {
        tool.need("type")?.one_of(&["function"])?;
        let function = tool.need("function")?;
        let schema = function.get("parameters").map_or(Value::Null, |schema| schema.value.clone());
        Ok::<Tool, Refusal>(Tool { name: function.need("name")?.some_text()?.to_owned(), schema })
    };
    tools.list()?.into_iter().map(read).collect()
}

const CREATED: &str = "2026-08-04T19:22:45.499127Z";

fn calls(turn: &Turn, which: impl Iterator<Item = usize>) -> Value {
    let call = |number: usize| {
        let call = &turn.calls[number];
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        json!({"function": {"index": number, "name": call.name, "arguments": arguments}})
    };
    which.map(call).collect()
}

/// The last line of a stream, or all of an answer that is none.
fn last(turn: &Turn, message: &Value) -> Value {
    let reason = if turn.script.finish == Finish::Length { "length" } else { "stop" };
    let mut last = json!({
        "model": turn.model, "created_at": CREATED, "message": message, "done": true, "done_reason": reason,
        "total_duration": 4_883_583_458_u64, "load_duration": 1_334_875, "prompt_eval_duration": 342_546_000,
        "eval_duration": 4_535_599_000_u64,
    });
    if turn.script.usage != UsageStyle::Never {
        last["prompt_eval_count"] = turn.prompt_tokens.into();
        last["eval_count"] = turn.count().into();
    }
    last
}

/// An answer that is not streamed.
pub(super) fn whole(turn: &Turn) -> Value {
    let mut message = json!({"role": "assistant", "content": turn.whole_text()});
    if 0 < turn.script.thoughts {
        message["thinking"] = turn.whole_thought().into();
    }
    if !turn.calls.is_empty() {
        message["tool_calls"] = calls(turn, 0..turn.calls.len());
    }
    last(turn, &message)
}

/// The lines of a stream.
#[derive(Debug)]
pub(super) struct Lines;

impl Lines {
    fn line(turn: &Turn, out: &mut Frames<'_>, content: &str, rest: &str) {
        let (model, content, extra) = (Quoted(&turn.model), Quoted(content), out.extra());
        out.event(
            "",
            format_args!(
                r#"{{"model":{model},"created_at":"{CREATED}","message":{{"role":"assistant","content":{content}{rest}}},"done":false{extra}}}"#
            ),
        );
    }
}

impl Voice for Lines {
    fn begin(&mut self, _: &Turn, _: &mut Frames<'_>) {}

    fn say(&mut self, turn: &Turn, step: Step, out: &mut Frames<'_>) {
        match step {
            Step::Thought(number) => {
                Self::line(turn, out, "", &format!(r#","thinking":{}"#, Quoted(word(number))));
            }
            Step::Text(number) => Self::line(turn, out, &turn.token(number), ""),
            // A call comes whole.
            Step::CallBegin(_) | Step::Arguments { .. } => {}
            Step::CallEnd(call) => {
                let calls = calls(turn, std::iter::once(call));
                Self::line(turn, out, "", &format!(r#","tool_calls":{calls}"#));
            }
        }
    }

    fn end(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        let line = last(turn, &json!({"role": "assistant", "content": ""}));
        out.event("", format_args!("{line}"));
    }

    fn fail(&mut self, out: &mut Frames<'_>) {
        out.event("", format_args!(r#"{{"error":"the script says so"}}"#));
    }

    fn opening(&self) -> (&'static str, &'static str, &'static str) {
        ("", r#"{"message":{"role":"assistant","content":""#, r#""},"done":false}"#)
    }
}
