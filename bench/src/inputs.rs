//! The bytes that the paths and the load work on: fixed, of real shapes and sizes.
//!
//! Nothing here is random, and nothing depends on the machine: the same call gives the same bytes in every run.
use clawgate_wire::websocket::{Opcode, write_frame};

/// A Telegram webhook's head. `Content-Length` is [`TELEGRAM_BYTES`].
pub const WEBHOOK_HEAD: &[u8] = b"POST /webhooks/telegram HTTP/1.1\r\n\
    Host: bot.example.com\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 901\r\n\
    X-Telegram-Bot-Api-Secret-Token: figures-0123456789abcdef\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Connection: keep-alive\r\n\r\n";

/// The secret in [`WEBHOOK_HEAD`].
pub const WEBHOOK_SECRET: &str = "figures-0123456789abcdef";

/// The head by which a browser asks for a WebSocket.
pub const UPGRADE_HEAD: &[u8] = b"GET /ws HTTP/1.1\r\n\
    Host: 127.0.0.1:8787\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: http://127.0.0.1:8787\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// The head of a model's streamed answer.
pub const STREAM_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Sat, 21 Nov 2026 10:00:00 GMT\r\n\
    Content-Type: text/event-stream; charset=utf-8\r\n\
    Transfer-Encoding: chunked\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: no-cache\r\n\
    X-Request-Id: req_0123456789abcdef0123456789abcdef\r\n\
    Openai-Processing-Ms: 231\r\n\r\n";

/// Bytes of an update of [`telegram_update`].
pub const TELEGRAM_BYTES: usize = 901;

/// The number that the ids of [`telegram_update`] count from: with it they keep their number of digits.
pub const TELEGRAM_ID: u64 = 100_000_000;

/// An update as Telegram sends it: a person answers the bot in a private chat. Its `update_id` and its chat are
/// [`TELEGRAM_ID`] and so much.
///
/// # Panics
/// If an id has more digits than [`TELEGRAM_ID`].
#[must_use]
pub fn telegram_update(update: u64, chat: u64) -> Vec<u8> {
    let (update, chat) = (TELEGRAM_ID + update, TELEGRAM_ID + chat);
    let user = format!(
        r#""id":{chat},"is_bot":false,"first_name":"Mar\u00eda","last_name":"Fern\u00e1ndez","username":"maria_fz""#
    );
    let text = "Could you tell me when the parcel that I ordered last week will be here, and whether it needs \
                a signature? Thank you!";
    let quoted = "Your order 4711-0815 was handed to the carrier and is on its way to you.";
    let head = format!(
        r#"{{"update_id":{update},"message":{{"message_id":1365,"from":{{{user},"language_code":"es"}},"chat":{{"id":{chat},"first_name":"Mar\u00eda","last_name":"Fern\u00e1ndez","username":"maria_fz","type":"private"}},"date":1795255200,"#
    );
    let reply = format!(
        r#""reply_to_message":{{"message_id":1364,"from":{{"id":99,"is_bot":true,"first_name":"Parcels","username":"parcels_bot"}},"chat":{{{},"type":"private"}},"date":1795255140,"text":"{quoted}"}},"#,
        format_args!(r#""id":{chat},"first_name":"Mar\u00eda","username":"maria_fz""#),
    );
    let mut json = format!(r#"{head}{reply}"text":"{text}""#);
    json.push_str(r#","entities":[]"#);
    let closing = "}}";
    let room = TELEGRAM_BYTES.checked_sub(json.len() + closing.len()).expect("the ids have nine digits");
    json.extend(std::iter::repeat_n(' ', room));
    json.push_str(closing);
    json.into_bytes()
}

/// Bytes of the payload of a [`client_message`] of [`message_text`].
pub const CLIENT_MESSAGE_BYTES: usize = 128;

/// Words of so many bytes, ASCII, without anything to escape.
#[must_use]
pub fn message_text(bytes: usize) -> String {
    "every message gets its answer in order ".chars().cycle().take(bytes).collect()
}

/// The text that fills a [`client_message`] of a session's name of so many bytes up to [`CLIENT_MESSAGE_BYTES`].
#[must_use]
pub fn filling_text(session_bytes: usize) -> String {
    let frame = client_message(&"s".repeat(session_bytes), "").len();
    message_text(CLIENT_MESSAGE_BYTES.saturating_sub(frame))
}

/// A client's message for the agent, as JSON. Both texts are without anything to escape.
#[must_use]
pub fn client_message(session: &str, text: &str) -> Vec<u8> {
    format!(r#"{{"type":"message","channel":"api","content":"{text}","sessionId":"{session}"}}"#).into_bytes()
}

/// A frame of text as a client sends it.
#[must_use]
pub fn masked_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(&mut frame, Opcode::Text, true, Some([0x37, 0xFA, 0x21, 0x3D]), payload);
    frame
}

/// A model's streamed answer: the role, so many tokens, the end, the usage.
#[must_use]
pub fn openai_stream(tokens: usize) -> Vec<u8> {
    let head = r#"{"id":"chatcmpl-CfXq0123456789","object":"chat.completion.chunk","created":1795255200,"model":"gpt-5-mini-2025-08-07","service_tier":"default","system_fingerprint":null"#;
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"data: {head},"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}],"usage":null}}"#
        ) + "\n\n"
    };
    let mut stream = chunk(r#"{"role":"assistant","content":"","refusal":null}"#, "null");
    for token in 0..tokens {
        let word =
            ["The", " parcel", " will", " be", " with", " you", " on", " Tuesday", ",", "\\n"][token % 10];
        stream += &chunk(&format!(r#"{{"content":"{word}"}}"#), "null");
    }
    stream += &chunk("{}", r#""stop""#);
    stream += &format!(
        "data: {head},\"choices\":[],\"usage\":{{\"prompt_tokens\":57,\"completion_tokens\":{tokens},\"total_tokens\":{}}}}}\n\n",
        57 + tokens
    );
    stream += "data: [DONE]\n\n";
    stream.into_bytes()
}

/// The words of a streamed answer, as they stand in JSON.
const WORDS: [&str; 10] = ["The", " parcel", " will", " be", " with", " you", " on", " Tuesday", ",", "\\n"];

/// The same answer as Anthropic streams it.
#[must_use]
pub fn anthropic_stream(tokens: usize) -> Vec<u8> {
    let event = |name: &str, rest: &str| format!("event: {name}\ndata: {{\"type\":\"{name}\"{rest}}}\n\n");
    let message = r#"{"id":"msg_01CfXq0123456789","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":57,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}"#;
    let mut stream = event("message_start", &format!(",\"message\":{message}"));
    stream += &event("content_block_start", r#","index":0,"content_block":{"type":"text","text":""}"#);
    stream += &event("ping", "");
    for token in 0..tokens {
        let word = WORDS[token % 10];
        let delta = format!(r#","index":0,"delta":{{"type":"text_delta","text":"{word}"}}"#);
        stream += &event("content_block_delta", &delta);
    }
    stream += &event("content_block_stop", r#","index":0"#);
    let end = format!(
        r#","delta":{{"stop_reason":"end_turn","stop_sequence":null}},"usage":{{"output_tokens":{tokens}}}"#
    );
    stream += &event("message_delta", &end);
    stream += &event("message_stop", "");
    stream.into_bytes()
}

/// The same answer as OpenAI's responses stream it.
#[must_use]
pub fn responses_stream(tokens: usize) -> Vec<u8> {
    let mut number = 0;
    let mut event = |name: &str, rest: &str| {
        number += 1;
        format!("event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{number},{rest}}}\n\n")
    };
    let response = |status: &str, usage: &str| {
        format!(
            r#""response":{{"id":"resp_67CfXq0123456789","object":"response","created_at":1795255200,"status":"{status}","error":null,"incomplete_details":null,"model":"gpt-5-mini","output":[],"usage":{usage}}}"#
        )
    };
    let mut stream = event("response.created", &response("in_progress", "null"));
    let item = r#""output_index":0,"item":{"id":"msg_67","type":"message","status":"in_progress","role":"assistant","content":[]}"#;
    stream += &event("response.output_item.added", item);
    for token in 0..tokens {
        let word = WORDS[token % 10];
        let delta = format!(
            r#""item_id":"msg_67CfXq0123456789","output_index":0,"content_index":0,"delta":"{word}","logprobs":[],"obfuscation":"x8Yq2""#
        );
        stream += &event("response.output_text.delta", &delta);
    }
    stream += &event("response.output_item.done", &item.replace("in_progress", "completed"));
    let usage = format!(r#"{{"input_tokens":57,"output_tokens":{tokens},"total_tokens":{}}}"#, 57 + tokens);
    stream += &event("response.completed", &response("completed", &usage));
    stream.into_bytes()
}

/// The same answer as Ollama streams it.
#[must_use]
pub fn ollama_stream(tokens: usize) -> Vec<u8> {
    let head = r#"{"model":"llama3.2","created_at":"2026-08-04T08:52:19.385406455Z","message":{"role":"assistant","content":""#;
    let mut stream = String::new();
    for token in 0..tokens {
        stream += &format!("{head}{}\"}},\"done\":false}}\n", WORDS[token % 10]);
    }
    stream += &format!(
        "{head}\"}},\"done\":true,\"done_reason\":\"stop\",\"total_duration\":4883583458,\"load_duration\":1334875,\
         \"prompt_eval_count\":57,\"prompt_eval_duration\":342546000,\"eval_count\":{tokens},\"eval_duration\":4535599000}}\n"
    );
    stream.into_bytes()
}

/// A client's request for a chat completion: a system text, so many messages, a tool.
#[must_use]
pub fn chat_request(messages: usize) -> Vec<u8> {
    let mut said = String::from(r#"{"role":"system","content":"You are friendly and brief."}"#);
    for message in 0..messages {
        let role = ["user", "assistant"][message % 2];
        said += &format!(",{{\"role\":\"{role}\",\"content\":\"{}\\n\"}}", message_text(70));
    }
    let tool = r#"{"type":"function","function":{"name":"get_weather","description":"The weather of a city","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}"#;
    let settings =
        r#""temperature":0.7,"max_tokens":1024,"stream":true,"stream_options":{"include_usage":true}"#;
    format!(r#"{{"model":"support","messages":[{said}],"tools":[{tool}],{settings}}}"#).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_have_the_sizes_that_they_say() {
        for (update, chat) in [(0, 0), (7, 899_999_999), (12_345_678, 42)] {
            let bytes = telegram_update(update, chat);
            assert_eq!(bytes.len(), TELEGRAM_BYTES);
            assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
        }
        let length = format!("Content-Length: {TELEGRAM_BYTES}\r\n");
        assert!(String::from_utf8_lossy(WEBHOOK_HEAD).contains(&length));
        assert!(String::from_utf8_lossy(WEBHOOK_HEAD).contains(WEBHOOK_SECRET));
        assert_eq!(client_message("s0001", &filling_text(5)).len(), CLIENT_MESSAGE_BYTES);
        assert_eq!(masked_frame(&[b'x'; 128]).len(), 136, "two bytes of head, two of length, four of key");
        let stream = String::from_utf8_lossy(&openai_stream(50)).into_owned();
        assert_eq!(stream.matches("data: ").count(), 54);
    }
}
