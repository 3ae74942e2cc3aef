//! Anthropic's `POST /v1/messages`. <https://docs.claude.com/en/api/messages>

use serde_json::{Value, json};

use super::check::{At, Checked, IMAGES, Refusal};
use super::format::Voice;
use super::frames::{Frames, Quoted};
use super::script::{Finish, UsageStyle};
use super::turn::{Asked, Step, Tool, Turn, word};

pub(super) const RATES: [(&str, &str); 6] = [
    ("anthropic-ratelimit-requests-limit", "1000"),
    ("anthropic-ratelimit-requests-remaining", "999"),
    ("anthropic-ratelimit-requests-reset", "2026-11-27T00:00:01Z"),
    ("anthropic-ratelimit-tokens-limit", "90000"),
    ("anthropic-ratelimit-tokens-remaining", "89000"),
    ("anthropic-ratelimit-tokens-reset", "2026-11-27T00:00:01Z"),
];

pub(super) const RATES_USED_UP: [(&str, &str); 3] = [
    ("anthropic-ratelimit-requests-limit", "1000"),
    ("anthropic-ratelimit-requests-remaining", "0"),
    ("anthropic-ratelimit-requests-reset", "2026-11-27T00:00:01Z"),
];

const FIELDS: [&str; 20] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "stream",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "tools",
    "tool_choice",
    "thinking",
    "metadata",
    "service_tier",
    "container",
    "mcp_servers",
    "context_management",
    "output_config",
    "output_format",
    "mock",
];

/// An error's type.
const fn kind(refusal: &Refusal) -> &'static str {
    match refusal.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    }
}

pub(super) fn error(refusal: &Refusal, number: u64) -> Value {
    // A budget that is spent is told from a rate by these words alone.
    let message = match refusal.spent {
        true => format!("You have reached your specified API usage limits. {}", refusal.message),
        false => refusal.message.clone(),
    };
    json!({
        "type": "error", "error": {"type": kind(refusal), "message": message},
        "request_id": format!("req_{number}"),
    })
}

/// Reads a request, as strictly as the service does.
pub(super) fn read(body: &At<'_>) -> Checked<Asked> {
    body.only(&FIELDS)?;
    let mut asked = Asked { model: body.need("model")?.some_text()?.to_owned(), ..Asked::default() };
    let max = body.need("max_tokens")?.whole(1)?;
    asked.stream = body.get("stream").map_or(Ok(false), |stream| stream.bool())?;
    asked.wants_usage = true;
    asked.script = body.get("mock").map(|mock| mock.text().map(str::to_owned)).transpose()?;
    if let Some(system) = body.get("system") {
        let text = match system.value.as_str() {
            Some(text) => text.to_owned(),
            None => read_parts(&system, &["text"], &mut Vec::new(), &mut asked)?,
        };
        asked.prompt_bytes += text.len();
    }
    let thinks = body.get("thinking").map_or(Ok(false), |thinking| read_thinking(&thinking, max))?;
    if let Some(degree) = body.get("temperature") {
        let degree_is = degree.number(0.0, 1.0)?;
        if thinks && degree_is != 1.0 {
            return Err(degree.wrong("may only be set to 1 when thinking is enabled"));
        }
    }
    read_messages(&body.need("messages")?, &mut asked)?;
    asked.tools = body.get("tools").map_or(Ok(Vec::new()), |tools| read_tools(&tools))?;
    if let Some(choice) = body.get("tool_choice") {
        let kind = choice.need("type")?.one_of(&["auto", "any", "tool", "none"])?;
        if kind == "tool" {
            choice.need("name")?.tool_name()?;
        }
        if asked.tools.is_empty() {
            return Err(choice.wrong("may only be specified while providing tools"));
        }
    }
    Ok(asked)
}

fn read_thinking(thinking: &At<'_>, max: u64) -> Checked<bool> {
    match thinking.need("type")?.one_of(&["enabled", "disabled", "adaptive"])? {
        "enabled" => {
            let budget = thinking.need("budget_tokens")?;
            if budget.whole(1024)? < max {
                Ok(true)
            } else {
                Err(budget.wrong("must be less than max_tokens"))
            }
        }
        kind => Ok(kind == "adaptive"),
    }
}

fn read_messages(messages: &At<'_>, asked: &mut Asked) -> Checked<()> {
    let mut open: Vec<String> = Vec::new();
    for (number, message) in messages.some_list()?.into_iter().enumerate() {
        message.only(&["role", "content"])?;
        let role = message.need("role")?.one_of(&["user", "assistant"])?;
        if number == 0 && role != "user" {
            return Err(message.wrong("first message must use the \"user\" role"));
        }
        asked.messages += 1;
        asked.results.clear();
        let content = message.need("content")?;
        let text = match content.value.as_str() {
            Some(_) => content.some_text()?.to_owned(),
            None if role == "user" => {
                read_parts(&content, &["text", "image", "document", "tool_result"], &mut open, asked)?
            }
            None => {
                let kinds = ["text", "tool_use", "thinking", "redacted_thinking"];
                let mut begun = Vec::new();
                let text = read_parts(&content, &kinds, &mut begun, asked)?;
                if open.is_empty() {
                    open = begun;
                }
                text
            }
        };
        if role == "user" {
            if let Some(id) = open.first() {
                return Err(
                    message.wrong(&format!("`tool_use` ids were found without `tool_result` blocks: {id}"))
                );
            }
            asked.last_user.clone_from(&text);
        }
        asked.prompt_bytes += text.len();
    }
    match open.first() {
        None => Ok(()),
        Some(id) => Err(messages.wrong(&format!("the last `tool_use` has no `tool_result`: {id}"))),
    }
}

/// The text of blocks. `open` are the ids of calls: those that are to be answered, or, in what the model said, that began.
fn read_parts(
    content: &At<'_>,
    kinds: &[&str],
    open: &mut Vec<String>,
    asked: &mut Asked,
) -> Checked<String> {
    let mut text = String::new();
    for block in content.some_list()? {
        match block.need("type")?.one_of(kinds)? {
            "text" => text.push_str(block.need("text")?.some_text()?),
            "image" => {
                read_image(&block.need("source")?)?;
                asked.images += 1;
            }
            "tool_use" => {
                block.need("name")?.tool_name()?;
                block.need("input")?.object()?;
                open.push(block.need("id")?.some_text()?.to_owned());
            }
            "tool_result" => {
                let id = block.need("tool_use_id")?;
                let Some(at) = open.iter().position(|open| open == id.value) else {
                    return Err(id.wrong("unexpected `tool_use_id` found in `tool_result` blocks"));
                };
                open.remove(at);
                let result = match block.get("content") {
                    None => String::new(),
                    Some(content) => match content.value.as_str() {
                        Some(text) => text.to_owned(),
                        None => read_result(&content, asked)?,
                    },
                };
                asked.results.push(result);
            }
            "thinking" => {
                block.need("thinking")?.text()?;
                block.need("signature")?.some_text()?;
            }
            "redacted_thinking" => drop(block.need("data")?.some_text()?),
            _ => {}
        }
    }
    Ok(text)
}

fn read_result(content: &At<'_>, asked: &mut Asked) -> Checked<String> {
    let mut text = String::new();
    for block in content.list()? {
        if block.need("type")?.one_of(&["text", "image"])? == "text" {
            text.push_str(block.need("text")?.text()?);
        } else {
            read_image(&block.need("source")?)?;
            asked.images += 1;
        }
    }
    Ok(text)
}

fn read_image(source: &At<'_>) -> Checked<()> {
    match source.need("type")?.one_of(&["base64", "url"])? {
        "base64" => {
            source.need("media_type")?.one_of(&IMAGES)?;
            source.need("data")?.base64()
        }
        _ => source.need("url")?.image_url(),
    }
}

fn read_tools(tools: &At<'_>) -> Checked<Vec<Tool>> {
    let read = |tool: At<'_>| {
        let name = tool.need("name")?.tool_name()?.to_owned();
        let schema = tool.need("input_schema")?;
        schema.need("type")?.one_of(&["object"])?;
        Ok::<Tool, Refusal>(Tool { name, schema: schema.value.clone() })
    };
    tools.list()?.into_iter().map(read).collect()
}

const fn stop_reason(turn: &Turn) -> &'static str {
    match turn.script.finish {
        Finish::Length => "max_tokens",
        Finish::Filter => "refusal",
        Finish::Stop if turn.calls.is_empty() => "end_turn",
        Finish::Stop => "tool_use",
    }
}

fn call_id(turn: &Turn, call: usize) -> String {
    format!("toolu_{}_{call}", turn.number)
}

/// What a thought is signed with.
const SIGNATURE: &str = "EqQBCkYIBxgC+/=";

fn message(turn: &Turn, content: &[Value], stop: Value, output_tokens: u64) -> Value {
    let mut message = json!({
        "id": format!("msg_{}", turn.number), "type": "message", "role": "assistant", "model": turn.model,
        "content": content, "stop_reason": stop, "stop_sequence": null,
        "usage": {
            "input_tokens": turn.prompt_tokens, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output_tokens,
        },
    });
    if turn.script.usage == UsageStyle::Never {
        message["usage"] = json!({});
    }
    message
}

/// An answer that is not streamed.
pub(super) fn whole(turn: &Turn) -> Value {
    let mut content = Vec::new();
    if 0 < turn.script.thoughts {
        content.push(json!({"type": "thinking", "thinking": turn.whole_thought(), "signature": SIGNATURE}));
    }
    let text = turn.whole_text();
    if !text.is_empty() {
        content.push(json!({"type": "text", "text": text}));
    }
    for (number, call) in turn.calls.iter().enumerate() {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        content.push(
            json!({"type": "tool_use", "id": call_id(turn, number), "name": call.name, "input": input}),
        );
    }
    message(turn, &content, stop_reason(turn).into(), turn.count())
}

/// The block that is being told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Open {
    #[default]
    Nothing,
    Thinking,
    Text,
}

/// The events of a stream.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    open: Open,
    /// Blocks that were begun; of calls, which place each has.
    begun: usize,
    places: Vec<usize>,
}

impl Blocks {
    fn start(&mut self, out: &mut Frames<'_>, block: &str) {
        let (index, extra) = (self.begun, out.extra());
        out.event(
            "content_block_start",
            format_args!(
                r#"{{"type":"content_block_start","index":{index},"content_block":{block}{extra}}}"#
            ),
        );
        self.begun += 1;
    }

    fn delta(out: &mut Frames<'_>, index: usize, kind: &str, field: &str, text: &str) {
        let (text, extra) = (Quoted(text), out.extra());
        out.event(
            "content_block_delta",
            format_args!(
                r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"{kind}","{field}":{text}}}{extra}}}"#
            ),
        );
    }

    fn stop(out: &mut Frames<'_>, index: usize) {
        out.event("content_block_stop", format_args!(r#"{{"type":"content_block_stop","index":{index}}}"#));
    }

    /// Ends what is told, unless it is this.
    fn turn_to(&mut self, open: Open, out: &mut Frames<'_>) {
        if self.open == open {
            return;
        }
        let index = self.begun.saturating_sub(1);
        if self.open == Open::Thinking {
            Self::delta(out, index, "signature_delta", "signature", SIGNATURE);
        }
        if self.open != Open::Nothing {
            Self::stop(out, index);
        }
        self.open = open;
        match open {
            Open::Nothing => {}
            Open::Thinking => self.start(out, r#"{"type":"thinking","thinking":"","signature":""}"#),
            Open::Text => self.start(out, r#"{"type":"text","text":""}"#),
        }
    }
}

impl Voice for Blocks {
    fn begin(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        let message = message(turn, &[], Value::Null, 1);
        let extra = out.extra();
        out.event("message_start", format_args!(r#"{{"type":"message_start","message":{message}{extra}}}"#));
        self.ping(out);
        if out.has_unknown() {
            out.event("sparkle", format_args!(r#"{{"type":"sparkle","delta":{{"text":"never text"}}}}"#));
        }
    }

    fn say(&mut self, turn: &Turn, step: Step, out: &mut Frames<'_>) {
        match step {
            Step::Thought(number) => {
                self.turn_to(Open::Thinking, out);
                Self::delta(out, self.begun - 1, "thinking_delta", "thinking", word(number));
            }
            Step::Text(number) => {
                self.turn_to(Open::Text, out);
                Self::delta(out, self.begun - 1, "text_delta", "text", &turn.token(number));
            }
            Step::CallBegin(call) => {
                self.turn_to(Open::Nothing, out);
                self.places.push(self.begun);
                let (id, name) = (call_id(turn, call), &turn.calls[call].name);
                let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
                self.start(out, &block.to_string());
                Self::delta(out, self.begun - 1, "input_json_delta", "partial_json", "");
            }
            Step::Arguments { call, from, to } => {
                let index = self.places.get(call).copied().unwrap_or(0);
                // No arguments at all are told by no fragment.
                let piece = turn.fragment(call, from, to);
                Self::delta(out, index, "input_json_delta", "partial_json", piece);
            }
            Step::CallEnd(call) => Self::stop(out, self.places.get(call).copied().unwrap_or(0)),
        }
    }

    fn end(&mut self, turn: &Turn, out: &mut Frames<'_>) {
        self.turn_to(Open::Nothing, out);
        let (reason, extra) = (stop_reason(turn), out.extra());
        let usage = if turn.script.usage == UsageStyle::Never {
            "{}".to_owned()
        } else {
            format!(r#"{{"output_tokens":{}}}"#, turn.count())
        };
        out.event(
            "message_delta",
            format_args!(
                r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_sequence":null}},"usage":{usage}{extra}}}"#
            ),
        );
        out.event("message_stop", format_args!(r#"{{"type":"message_stop"}}"#));
    }

    fn fail(&mut self, out: &mut Frames<'_>) {
        out.event(
            "error",
            format_args!(
                r#"{{"type":"error","error":{{"type":"overloaded_error","message":"the script says so"}}}}"#
            ),
        );
    }

    fn ping(&mut self, out: &mut Frames<'_>) {
        out.event("ping", format_args!(r#"{{"type":"ping"}}"#));
    }

    fn opening(&self) -> (&'static str, &'static str, &'static str) {
        (
            "content_block_delta",
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""#,
            r#""}}"#,
        )
    }
}
