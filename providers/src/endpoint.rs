//! An endpoint and a model on it, whatever its format.
//!
//! Owns the head of a request, its secrets, and which of our fields the settings replace. What stands in a body is its
//! format's; what comes back is [`Decoder`]'s.
use crate::decoder::{Decoder, Limits};
use crate::format::Kind;
use crate::raw::Raw;
use crate::request::{Request, Unsupported};
use crate::{Turn, Unusable, anthropic, failure, ollama, openai_chat, openai_responses};
use clawgate_core::event::Failure;
use clawgate_wire::http1::Headers;
use clawgate_wire::json;
use core::fmt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

/// An endpoint and a model on it.
#[derive(Clone, PartialEq)]
#[expect(missing_debug_implementations, reason = "the key is not shown")]
pub struct Settings {
    /// What it speaks.
    pub kind: Kind,
    /// What the format's path is appended to, if it is not its end already: `https://api.openai.com/v1`,
    /// `https://api.anthropic.com`, `http://localhost:11434`.
    pub base_url: String,
    /// Sent as the format wants it, if there is one.
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
    /// Give the model its reasoning of earlier messages back, where the format leaves that to its servers (chat completions:
    /// Kimi's thinking models want it, OpenAI refuses it).
    pub replay_reasoning: bool,
}

/// An endpoint, ready to be called: all of a request but the conversation is written once.
pub struct Endpoint {
    kind: Kind,
    uri: Uri,
    headers: HeaderMap,
    secret: String,
    /// `{"model":…,` and the rest up to the messages.
    head: Vec<u8>,
    /// What follows the messages, with the closing brace.
    tail: Vec<u8>,
    says_user: bool,
    pub(crate) stream: bool,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: Option<f64>,
    pub(crate) replay_reasoning: bool,
    /// Further fields and their values as JSON.
    pub(crate) extra: Vec<(String, String)>,
}

impl fmt::Debug for Endpoint {
    /// Without the key.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Endpoint").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint from its settings.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, Unusable> {
        let unusable = |key, text| Unusable { key, text };
        let kind = settings.kind;
        let uri = address(kind, &settings.base_url).parse::<Uri>().ok();
        let uri = uri
            .filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .ok_or_else(|| unusable("baseUrl", "the endpoint needs an absolute http or https URL"))?;
        let extra = fields_of(&settings.extra_body)
            .ok_or_else(|| unusable("extraBody", "further fields are a JSON object"))?;
        if extra.iter().any(|(name, _)| ["model", kind.conversation(), "stream"].contains(&name.as_str())) {
            return Err(unusable("extraBody", "model, messages and stream are not further fields"));
        }
        if settings.temperature.is_some_and(|degree| !degree.is_finite()) {
            return Err(unusable("temperature", "a temperature is a finite number"));
        }
        let mut head = Vec::from(*b"{\"model\":");
        json::write_str(&mut head, &settings.model);
        head.push(b',');
        json::write_str(&mut head, kind.conversation());
        head.extend_from_slice(b":[");
        let mut endpoint = Self {
            kind,
            uri,
            headers: headers_of(settings)?,
            secret: settings.api_key.clone().unwrap_or_default(),
            head,
            tail: Vec::new(),
            says_user: extra.iter().all(|(name, _)| name != "user" && name != "metadata"),
            stream: settings.stream,
            max_tokens: settings.max_tokens,
            temperature: settings.temperature,
            replay_reasoning: settings.replay_reasoning,
            extra,
        };
        let mut tail = Vec::new();
        let mut body = endpoint.body(&mut tail);
        match kind {
            Kind::OpenAiChat => openai_chat::write_settings(&mut body, &endpoint),
            Kind::OpenAiResponses => openai_responses::write_settings(&mut body, &endpoint),
            Kind::Anthropic => anthropic::write_settings(&mut body, &endpoint),
            Kind::Ollama => ollama::write_settings(&mut body, &endpoint),
        }
        body.close();
        endpoint.tail = tail;
        Ok(endpoint)
    }

    /// What it speaks.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Is it asked for its answers in pieces?
    #[must_use]
    pub const fn streams(&self) -> bool {
        self.stream
    }

    /// Writes the request of a turn. `body` is replaced; the shell adds `Host` and `Content-Length`, and sends it.
    pub fn encode(&self, turn: Turn<'_, '_>, body: &mut Vec<u8>) -> http::Request<()> {
        body.clear();
        body.extend_from_slice(&self.head);
        match self.kind {
            Kind::OpenAiChat => openai_chat::write_turn(body, turn, self.says_user),
            Kind::OpenAiResponses => openai_responses::write_turn(body, turn, self.says_user),
            Kind::Anthropic => anthropic::write_turn(body, turn, self.says_user),
            Kind::Ollama => ollama::write_turn(body, turn),
        }
        body.extend_from_slice(&self.tail);
        self.head()
    }

    /// Writes a request in its neutral form. `body` is replaced.
    ///
    /// # Errors
    /// What the format cannot express.
    pub fn encode_request(
        &self,
        request: &Request<'_>,
        body: &mut Vec<u8>,
    ) -> Result<http::Request<()>, Unsupported> {
        request.check(self.kind)?;
        body.clear();
        body.extend_from_slice(&self.head);
        let mut fields = self.body(body);
        match self.kind {
            Kind::OpenAiChat => openai_chat::write_request(&mut fields, self, request)?,
            Kind::OpenAiResponses => openai_responses::write_request(&mut fields, self, request)?,
            Kind::Anthropic => anthropic::write_request(&mut fields, self, request)?,
            Kind::Ollama => ollama::write_request(&mut fields, self, request)?,
        }
        fields.close();
        let mut head = self.head();
        if self.kind == Kind::Anthropic
            && !request.beta.is_empty()
            && let Ok(value) = HeaderValue::from_str(request.beta)
        {
            head.headers_mut().append("anthropic-beta", value);
        }
        Ok(head)
    }

    /// Tokens of an answer: as many as the client wants, and no more than the settings allow.
    pub(crate) fn tokens(&self, wanted: Option<u32>) -> Option<u32> {
        match (wanted, self.max_tokens) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (wanted, most) => wanted.or(most),
        }
    }

    fn head(&self) -> http::Request<()> {
        let mut request = http::Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// What reads its answer.
    #[must_use]
    pub const fn decoder(&self, limits: Limits) -> Decoder {
        Decoder::new(self.kind, self.stream, limits)
    }

    /// Reads a response whose status is not 2xx. `detail` is replaced, and never holds the key.
    pub fn failure<'a>(
        &self,
        status: u16,
        headers: &Headers<'_>,
        body: &[u8],
        detail: &'a mut String,
    ) -> Failure<'a> {
        failure::read(status, headers, body, &self.secret, detail)
    }

    /// The fields of a body, as far as the settings leave them to us.
    pub(crate) const fn body<'x>(&'x self, out: &'x mut Vec<u8>) -> Body<'x> {
        Body { out, extra: self.extra.as_slice() }
    }
}

/// Writes the fields of a request's body behind its first one. Those that the settings replace are left out, and written
/// at the end.
pub(crate) struct Body<'x> {
    pub(crate) out: &'x mut Vec<u8>,
    extra: &'x [(String, String)],
}

impl Body<'_> {
    /// Do the settings leave this field to us?
    pub(crate) fn is_ours(&self, name: &str) -> bool {
        self.extra.iter().all(|(other, _)| other != name)
    }

    /// Begins a field, if it is ours to write: the value is the caller's.
    pub(crate) fn begin(&mut self, name: &str) -> bool {
        let ours = self.is_ours(name);
        if ours {
            self.out.push(b',');
            json::write_str(self.out, name);
            self.out.push(b':');
        }
        ours
    }

    /// Writes a field whose value is written already.
    pub(crate) fn raw(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
    }

    /// The same.
    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) {
        if self.begin(name) {
            self.out.extend_from_slice(value);
        }
    }

    /// Writes the fields of a request as they came, but those that are written anew.
    pub(crate) fn pass(&mut self, request: &Request<'_>, ours: &[&str]) {
        for (name, value) in &request.fields {
            if !ours.contains(&name.key()) && self.begin(name.key()) {
                self.out.extend_from_slice(value.as_str().as_bytes());
            }
        }
    }

    /// Writes the settings' own fields.
    pub(crate) fn close(self) {
        for (name, value) in self.extra.iter().filter(|(_, value)| value != "null") {
            self.out.push(b',');
            json::write_str(self.out, name);
            self.out.push(b':');
            self.out.extend_from_slice(value.as_bytes());
        }
        self.out.push(b'}');
    }
}

/// The format's address under a base that may name it already, or its version.
fn address(kind: Kind, base: &str) -> String {
    let path = kind.path();
    let base = base.trim_end_matches('/').trim_end_matches(path);
    let base = match kind {
        Kind::Anthropic => base.trim_end_matches("/v1/messages").trim_end_matches("/v1"),
        Kind::Ollama => base.trim_end_matches("/api"),
        Kind::OpenAiChat | Kind::OpenAiResponses => base,
    };
    format!("{base}{path}")
}

/// The fields of an object and their values as JSON; `None` if it is none.
fn fields_of(extra: &str) -> Option<Vec<(String, String)>> {
    if extra.is_empty() {
        return Some(Vec::new());
    }
    let object = Raw::parse(extra.as_bytes()).filter(|value| value.is_object())?;
    let fields = object.fields();
    Some(fields.map(|(name, value)| (name.plain().into_owned(), value.as_str().to_owned())).collect())
}

fn headers_of(settings: &Settings) -> Result<HeaderMap, Unusable> {
    let unusable = |key, text| Unusable { key, text };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let accept = match (settings.stream, settings.kind) {
        (true, Kind::Ollama) => "application/x-ndjson",
        (true, _) => "text/event-stream",
        (false, _) => "application/json",
    };
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    if settings.kind == Kind::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    if let Some(key) = &settings.api_key {
        let (name, value) = match settings.kind {
            Kind::Anthropic => (HeaderName::from_static("x-api-key"), key.clone()),
            Kind::OpenAiChat | Kind::OpenAiResponses | Kind::Ollama => {
                (header::AUTHORIZATION, format!("Bearer {key}"))
            }
        };
        let value = HeaderValue::from_str(&value);
        let mut value = value.map_err(|_| unusable("apiKey", "a key is printable ASCII"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    for (name, value) in &settings.headers {
        let name = HeaderName::from_bytes(name.as_bytes());
        let name = name.map_err(|_| unusable("headers", "a header's name is a token"))?;
        let value = HeaderValue::from_str(value);
        headers.insert(name, value.map_err(|_| unusable("headers", "a header's value is printable ASCII"))?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_core::view::Role;

    fn settings() -> Settings {
        Settings {
            kind: Kind::OpenAiChat,
            replay_reasoning: false,
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
            kind: Kind::OpenAiChat,
            replay_reasoning: false,
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
                r#""top_p":0.5,"n":1,"seed":18446744073709551615,"stop":["\n", "é"],"o":{"a": null}}"#
            )
        );
        assert_eq!(request.uri(), "http://127.0.0.1:9101/openai/v1/chat/completions");
        assert_eq!(request.headers().get("authorization").unwrap(), "Key k");
        assert_eq!(request.headers().get("x-title").unwrap(), "Clawgate");
        assert_eq!(request.headers().get("accept").unwrap(), "application/json");
    }

    /// The same turn in every format.
    #[test]
    fn a_turn_in_every_format() {
        for (kind, url, expected) in [
            (
                Kind::OpenAiResponses,
                "https://api.example/v1/responses",
                concat!(
                    r#"{"model":"m","input":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},"#,
                    r#"{"role":"user","content":"d"}],"instructions":"Be brief.\n\nlang: de","user":"u1","stream":true,"#,
                    r#""store":false,"max_output_tokens":100,"temperature":0.5,"top_p":0.5}"#
                ),
            ),
            (
                Kind::Anthropic,
                "https://api.example/v1/messages",
                concat!(
                    r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},"#,
                    r#"{"role":"user","content":"d"}],"system":"Be brief.\n\nlang: de","metadata":{"user_id":"u1"},"#,
                    r#""stream":true,"max_tokens":100,"temperature":0.5,"top_p":0.5}"#
                ),
            ),
            (
                Kind::Ollama,
                "https://api.example/v1/api/chat",
                concat!(
                    r#"{"model":"m","messages":[{"role":"system","content":"Be brief.\n\nlang: de"},"#,
                    r#"{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"d"}],"#,
                    r#""stream":true,"options":{"num_predict":100,"temperature":0.5},"top_p":0.5}"#
                ),
            ),
        ] {
            let settings = Settings {
                kind,
                base_url: "https://api.example/v1".into(),
                model: "m".into(),
                max_tokens: Some(100),
                temperature: Some(0.5),
                extra_body: r#"{"top_p":0.5}"#.into(),
                ..settings()
            };
            let history = [(Role::User, "a"), (Role::Agent, "b")];
            let (request, body) = encode(&settings, "Be brief.", &[("lang", "de")], &history, "d", "u1");
            assert_eq!(body, expected);
            assert_eq!(request.uri(), url);
        }
    }

    #[test]
    fn what_anthropic_demands() {
        let settings = Settings {
            kind: Kind::Anthropic,
            base_url: "https://api.anthropic.com".into(),
            headers: vec![("anthropic-beta".into(), "x-2026".into())],
            ..settings()
        };
        let history = [(Role::Agent, "Hi!"), (Role::User, "a"), (Role::Agent, ""), (Role::User, "b")];
        let (request, body) = encode(&settings, "", &[], &history, "c", "");
        let messages = concat!(
            r#"[{"role":"user","content":"a"},{"role":"user","content":"b"},{"role":"user","content":"c"}],"#,
            r#""stream":true,"max_tokens":4096}"#
        );
        assert!(body.ends_with(messages), "{body}");
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(header("x-api-key"), Some("sk-test-1234567890"));
        assert_eq!((header("authorization"), header("anthropic-beta")), (None, Some("x-2026")));
        assert_eq!(header("anthropic-version"), Some("2023-06-01"));
    }

    #[test]
    fn addresses() {
        for (kind, base, expected) in [
            (Kind::OpenAiChat, "https://x/v1", "https://x/v1/chat/completions"),
            (Kind::OpenAiChat, "https://x/v1/chat/completions", "https://x/v1/chat/completions"),
            (Kind::OpenAiResponses, "https://x/v1/", "https://x/v1/responses"),
            (Kind::Anthropic, "https://x", "https://x/v1/messages"),
            (Kind::Anthropic, "https://x/anthropic/v1", "https://x/anthropic/v1/messages"),
            (Kind::Anthropic, "https://x/v1/messages", "https://x/v1/messages"),
            (Kind::Ollama, "http://localhost:11434", "http://localhost:11434/api/chat"),
            (Kind::Ollama, "http://localhost:11434/api", "http://localhost:11434/api/chat"),
            (Kind::Ollama, "http://localhost:11434/api/chat/", "http://localhost:11434/api/chat"),
        ] {
            assert_eq!(address(kind, base), expected, "{base}");
        }
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
