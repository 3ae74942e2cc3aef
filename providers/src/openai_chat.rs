//! OpenAI's chat completions, and all that are compatible with them (vLLM, Kimi, XRoute, OpenRouter, Ollama's `/v1`).
//!
//! Owns the request: its head, its body, and which of our fields the settings replace. What comes back is
//! [`Decoder`]'s. Obeys OpenAI's "Create chat completion" page.
mod response;

pub use response::{Decoder, Limits};

use crate::{Json, Turn, Unusable, failure};
use clawgate_core::event::Failure;
use clawgate_core::view::Role;
use clawgate_wire::http1::Headers;
use clawgate_wire::json;
use core::fmt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use simd_json::prelude::*;
use simd_json::tape::Value;

/// An endpoint and a model on it.
#[derive(Clone, PartialEq)]
#[expect(missing_debug_implementations, reason = "the key is not shown")]
pub struct Settings {
    /// What `/chat/completions` is appended to, if it is not its end already: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Sent as a bearer token, if there is one.
    pub api_key: Option<String>,
    /// The model's name at the endpoint.
    pub model: String,
    /// Ask for the answer in pieces.
    pub stream: bool,
    /// Tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Further header fields of the request.
    pub headers: Vec<(String, String)>,
    /// Further fields of the request's body, a JSON object; empty for none. They replace ours of the same name, and `null`
    /// takes ours out, for servers that refuse fields that they do not know.
    pub extra_body: String,
}

/// An endpoint, ready to be called: all of a request but the conversation is written once.
pub struct Endpoint {
    uri: Uri,
    headers: HeaderMap,
    secret: String,
    /// `{"model":…,` and the rest up to the messages.
    head: Vec<u8>,
    /// What follows the messages, with the closing brace.
    tail: Vec<u8>,
    says_user: bool,
}

impl fmt::Debug for Endpoint {
    /// Without the key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Endpoint").field("uri", &self.uri).finish_non_exhaustive()
    }
}

const PATH: &str = "/chat/completions";

impl Endpoint {
    /// An endpoint from its settings.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, Unusable> {
        let unusable = |key, text| Unusable { key, text };
        let base = settings.base_url.trim_end_matches('/').trim_end_matches(PATH);
        let uri = format!("{base}{PATH}").parse::<Uri>().ok();
        let uri = uri
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .ok_or_else(|| unusable("baseUrl", "the endpoint needs an absolute http or https URL"))?;
        let mut extra = settings.extra_body.clone().into_bytes();
        let extra = if extra.is_empty() {
            Vec::new()
        } else {
            Json::new()
                .read(&mut extra, fields_of)
                .flatten()
                .ok_or_else(|| unusable("extraBody", "further fields are a JSON object"))?
        };
        if extra.iter().any(|(name, _)| ["model", "messages", "stream"].contains(&name.as_str())) {
            return Err(unusable("extraBody", "model, messages and stream are not further fields"));
        }
        if settings.temperature.is_some_and(|degree| !degree.is_finite()) {
            return Err(unusable("temperature", "a temperature is a finite number"));
        }
        let mut head = Vec::from(*b"{\"model\":");
        json::write_str(&mut head, &settings.model);
        head.extend_from_slice(b",\"messages\":[");
        Ok(Self {
            uri,
            headers: headers_of(settings)?,
            secret: settings.api_key.clone().unwrap_or_default(),
            head,
            tail: tail_of(settings, &extra),
            says_user: extra.iter().all(|(name, _)| name != "user"),
        })
    }

    /// Writes the request. `body` is replaced; the shell adds `Host` and `Content-Length` and sends it.
    pub fn encode(&self, turn: Turn<'_>, body: &mut Vec<u8>) -> http::Request<()> {
        body.clear();
        body.extend_from_slice(&self.head);
        write_system(body, turn.system, turn.context);
        for (role, text) in turn.history {
            let role = match role {
                Role::User => "user",
                Role::Agent => "assistant",
            };
            begin_message(body, role);
            json::write_str(body, text);
            body.extend_from_slice(b"},");
        }
        begin_message(body, "user");
        json::write_str(body, turn.text);
        body.extend_from_slice(b"}]");
        if self.says_user && !turn.user.is_empty() {
            body.extend_from_slice(b",\"user\":");
            json::write_str(body, turn.user);
        }
        body.extend_from_slice(&self.tail);
        let mut request = http::Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Reads a response whose status is not 2xx. `detail` is replaced, and never holds the key.
    pub fn failure<'a>(
        &self,
        status: u16,
        headers: &Headers<'_>,
        body: &mut [u8],
        json: &mut Json,
        detail: &'a mut String,
    ) -> Failure<'a> {
        failure::read(status, headers, body, json, &self.secret, detail)
    }
}

/// The fields of an object and their values as JSON; `None` for another type.
fn fields_of(value: Value<'_, '_>) -> Option<Vec<(String, String)>> {
    let fields = value.as_object()?;
    Some(fields.iter().map(|(name, value)| (name.to_owned(), value.encode())).collect())
}

fn headers_of(settings: &Settings) -> Result<HeaderMap, Unusable> {
    let unusable = |key, text| Unusable { key, text };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let accept = if settings.stream { "text/event-stream" } else { "application/json" };
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    if let Some(key) = &settings.api_key {
        let value = HeaderValue::from_str(&format!("Bearer {key}"));
        let mut value = value.map_err(|_| unusable("apiKey", "a key is printable ASCII"))?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    for (name, value) in &settings.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        let name = name.map_err(|_| unusable("headers", "a header's name is a token"))?;
        let value = HeaderValue::from_str(value);
        headers.insert(name, value.map_err(|_| unusable("headers", "a header's value is printable ASCII"))?);
    }
    Ok(headers)
}

/// What follows the messages.
fn tail_of(settings: &Settings, extra: &[(String, String)]) -> Vec<u8> {
    let mut tail = Vec::new();
    let mut field = |name: &str, value: &str| {
        tail.push(b',');
        json::write_str(&mut tail, name);
        tail.push(b':');
        tail.extend_from_slice(value.as_bytes());
    };
    let ours = [
        ("stream", Some(settings.stream.to_string())),
        // "an additional chunk will be streamed before the data: [DONE] message ... token usage statistics"
        ("stream_options", settings.stream.then(|| String::from("{\"include_usage\":true}"))),
        ("max_tokens", settings.max_tokens.map(|count| count.to_string())),
        ("temperature", settings.temperature.map(|degree| degree.to_string())),
    ];
    let replaced = |name: &str| extra.iter().any(|(other, _)| other == name);
    ours.iter().filter(|(name, _)| !replaced(name)).for_each(|(name, value)| {
        value.iter().for_each(|value| field(name, value));
    });
    extra.iter().filter(|(_, value)| value != "null").for_each(|(name, value)| field(name, value));
    tail.push(b'}');
    tail
}

fn begin_message(body: &mut Vec<u8>, role: &str) {
    body.extend_from_slice(b"{\"role\":\"");
    body.extend_from_slice(role.as_bytes());
    body.extend_from_slice(b"\",\"content\":");
}

/// What the agent is told first, with the session's context variables behind it as lines; nothing if there is neither.
fn write_system<'a>(body: &mut Vec<u8>, system: &str, context: &mut dyn Iterator<Item = (&'a str, &'a str)>) {
    let mut context = context.peekable();
    if system.is_empty() && context.peek().is_none() {
        return;
    }
    begin_message(body, "system");
    body.push(b'"');
    json::write_str_body(body, system);
    if !system.is_empty() && context.peek().is_some() {
        json::write_str_body(body, "\n\n");
    }
    for (index, (name, value)) in context.enumerate() {
        for text in [if index == 0 { "" } else { "\n" }, name, ": ", value] {
            json::write_str_body(body, text);
        }
    }
    body.extend_from_slice(b"\"},");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings() -> Settings {
        Settings {
            base_url: "https://api.openai.com/v1".into(),
            api_key: Some("sk-test-1234567890".into()),
            model: "gpt-4o".into(),
            stream: true,
            max_tokens: None,
            temperature: None,
            headers: Vec::new(),
            extra_body: String::new(),
        }
    }

    /// The request for a turn: its head, and its body as it is written.
    fn encode(
        settings: &Settings,
        system: &str,
        context: &[(&str, &str)],
        history: &[(Role, &str)],
        text: &str,
        user: &str,
    ) -> (http::Request<()>, String) {
        let mut body = b"left over".to_vec();
        let turn = Turn {
            system,
            context: &mut context.iter().copied(),
            history: &mut history.iter().copied(),
            text,
            user,
        };
        let request = Endpoint::new(settings).unwrap().encode(turn, &mut body);
        let text = String::from_utf8(body).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&text).unwrap().is_object(), "{text}");
        (request, text)
    }

    #[test]
    fn the_least_that_is_asked() {
        let (request, body) = encode(&settings(), "", &[], &[], "Hi \"you\"\n", "");
        assert_eq!(
            body,
            concat!(
                r#"{"model":"gpt-4o","messages":[{"role":"user","content":"Hi \"you\"\n"}],"#,
                r#""stream":true,"stream_options":{"include_usage":true}}"#
            )
        );
        assert_eq!(request.uri(), "https://api.openai.com/v1/chat/completions");
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("authorization"), Some("Bearer sk-test-1234567890"));
        assert_eq!(
            (header("content-type"), header("accept")),
            (Some("application/json"), Some("text/event-stream"))
        );
    }

    #[test]
    fn all_that_can_be_asked() {
        let settings = Settings {
            base_url: "http://127.0.0.1:9101/openai/v1/chat/completions/".into(),
            api_key: None,
            model: "m \"1\"".into(),
            stream: false,
            max_tokens: Some(100),
            temperature: Some(0.3),
            headers: vec![("X-Title".into(), "Clawgate".into()), ("authorization".into(), "Key k".into())],
            extra_body: concat!(
                r#" {"top_p": 0.5, "n": 1, "seed": 18446744073709551615, "#,
                r#""stop": ["\n", "é"], "o": {"a": null}} "#
            )
            .into(),
        };
        let context = [("lang", "de"), ("plan", "pro\"")];
        let history = [(Role::User, "a"), (Role::Agent, "b"), (Role::User, "c")];
        let (request, body) = encode(&settings, "Be\nbrief.", &context, &history, "d", "u1");
        assert_eq!(
            body,
            concat!(
                r#"{"model":"m \"1\"","messages":[{"role":"system","content":"Be\nbrief.\n\nlang: de\nplan: pro\""},"#,
                r#"{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},"#,
                r#"{"role":"user","content":"d"}],"user":"u1","stream":false,"max_tokens":100,"temperature":0.3,"#,
                r#""top_p":0.5,"n":1,"seed":18446744073709551615,"stop":["\n","é"],"o":{"a":null}}"#
            )
        );
        assert_eq!(request.uri(), "http://127.0.0.1:9101/openai/v1/chat/completions");
        assert_eq!(request.headers().get("authorization").unwrap(), "Key k");
        assert_eq!(request.headers().get("x-title").unwrap(), "Clawgate");
        assert_eq!(request.headers().get("accept").unwrap(), "application/json");
    }

    #[test]
    fn context_without_a_system_text() {
        let (_, body) = encode(&settings(), "", &[("lang", "de")], &[], "x", "");
        assert!(body.contains(r#"[{"role":"system","content":"lang: de"},"#), "{body}");
        let (_, body) = encode(&settings(), "Be brief.", &[], &[], "x", "");
        assert!(body.contains(r#"[{"role":"system","content":"Be brief."},"#), "{body}");
    }

    /// Some servers refuse fields that they do not know, and newer models of OpenAI's refuse `max_tokens`.
    #[test]
    fn further_fields_replace_ours_and_null_takes_them_out() {
        let changed = Settings {
            max_tokens: Some(100),
            extra_body: r#"{"stream_options":null,"user":null,"max_tokens":null,"max_completion_tokens":7}"#
                .into(),
            ..settings()
        };
        let (_, body) = encode(&changed, "", &[], &[], "x", "u1");
        let tail = r#"[{"role":"user","content":"x"}],"stream":true,"max_completion_tokens":7}"#;
        assert!(body.ends_with(tail), "{body}");
        let changed = Settings { extra_body: r#"{"user":"fixed","temperature":1}"#.into(), ..settings() };
        let (_, body) = encode(&changed, "", &[], &[], "x", "u1");
        assert_eq!(
            (body.matches("\"user\":").count(), body.contains(r#""user":"fixed","temperature":1}"#)),
            (1, true)
        );
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let check = |change: &dyn Fn(&mut Settings)| {
            let mut changed = settings();
            change(&mut changed);
            Endpoint::new(&changed).map(|_| ()).map_err(|unusable| unusable.key)
        };
        assert_eq!(check(&|_| ()), Ok(()));
        for url in ["", "api.openai.com/v1", "/v1", "ftp://x/v1", "http://a b/v1", "https://"] {
            assert_eq!(check(&|s| s.base_url = url.into()), Err("baseUrl"), "{url}");
        }
        for extra in ["x", "[]", "1", "{\"a\":}", "{\"model\":1}", "{\"messages\":[]}", "{\"stream\":null}"] {
            assert_eq!(check(&|s| s.extra_body = extra.into()), Err("extraBody"), "{extra}");
        }
        assert_eq!(check(&|s| s.api_key = Some("a\nb".into())), Err("apiKey"));
        assert_eq!(check(&|s| s.headers = vec![("a b".into(), "c".into())]), Err("headers"));
        assert_eq!(check(&|s| s.headers = vec![("a".into(), "c\r\nd".into())]), Err("headers"));
        assert_eq!(check(&|s| s.temperature = Some(f64::NAN)), Err("temperature"));
    }

    #[test]
    fn the_key_is_not_shown() {
        let endpoint = Endpoint::new(&settings()).unwrap();
        assert!(!format!("{endpoint:?}{:?}", endpoint.headers).contains("sk-test"));
    }
}
