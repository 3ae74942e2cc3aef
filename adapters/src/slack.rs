//! Slack: Events API, buttons and slash commands by webhook to inbound events, answers to `chat.postMessage` and
//! `chat.update`.
//!
//! Owns the account and the Web API's replies; what comes in and how texts are written have files of their own. Obeys
//! docs.slack.dev: "Verifying requests from Slack", "Events API", "chat.postMessage", "chat.update", "Rate limits".
mod event;
mod form;
mod markup;

use crate::signature::{self, Scheme, Secret};
use crate::{
    Ack, Adapter, Bad, Destination, Json, Request, Traits, Unusable, Value, push_detail, retry_after_of, web,
};
use bytes::Bytes;
use clawgate_core::event::{Delivery, Inbound, Mode};
use clawgate_core::id::ChannelId;
use clawgate_core::plan::Unit;
use clawgate_wire::json;
use http::{HeaderValue, Uri, header};

/// An app in a workspace.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "the token opens the workspace")]
pub struct Settings {
    /// The bot's token, `xoxb-...`.
    pub token: String,
    /// The signing secrets that are accepted; more than one while one replaces another.
    pub secrets: Vec<String>,
    /// How far a signed time may be from ours, either way: [`signature::TOLERANCE_SECS`].
    pub tolerance_secs: u64,
    /// A message in a channel opens a thread, which is answered in; without this only those that are threads already are.
    pub threads: bool,
    /// Where the Web API is.
    pub api_root: String,
}

/// The Web API of Slack's own servers.
pub const API_ROOT: &str = "https://slack.com/api";

/// What holds for every app. "We recommend keeping the length of this to 4,000 characters."
pub const TRAITS: Traits = Traits {
    text_max: 4_000,
    unit: Unit::Chars,
    mode: Mode::Deliver,
    body_bytes_max: 256 * 1024,
    edits: true,
};

/// An app in a workspace.
#[derive(Debug)]
pub struct Slack {
    secrets: Vec<Secret>,
    tolerance_secs: u64,
    threads: bool,
    authorization: HeaderValue,
    post_message: Uri,
    update: Uri,
}

impl Slack {
    /// An app from its settings.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Unusable> {
        let unusable = |key, text| Err(Unusable { key, text });
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !settings.token.starts_with("xox") || !settings.token.bytes().all(plain) {
            return unusable("token", "a bot token has the form xoxb-...");
        }
        let Some(authorization) = web::bearer(&settings.token) else {
            return unusable("token", "this is no token");
        };
        let secrets: Option<Vec<_>> = settings.secrets.iter().map(|text| Secret::new(text)).collect();
        let Some(secrets) = secrets.filter(|secrets| !secrets.is_empty()) else {
            return unusable("secret", "the signing secret is needed");
        };
        let method = |name| web::method(&settings.api_root, name);
        let (Some(post_message), Some(update)) = (method("chat.postMessage"), method("chat.update")) else {
            return unusable("apiRoot", "the address of the API is not an absolute URL");
        };
        let Settings { tolerance_secs, threads, .. } = settings;
        Ok(Self { secrets, tolerance_secs, threads, authorization, post_message, update })
    }
}

/// Slack asks a new address to repeat a text before it sends anything else ("URL verification handshake").
pub(crate) fn challenge(root: Value<'_, '_>) -> Option<Bytes> {
    let challenge = root.str_of("challenge").filter(|_| root.str_of("type") == Some("url_verification"))?;
    let mut body = Vec::from(*b"{\"challenge\":");
    json::write_str(&mut body, challenge);
    body.push(b'}');
    Some(body.into())
}

impl Adapter for Slack {
    fn traits(&self) -> Traits {
        TRAITS
    }

    fn verify(&self, request: &Request<'_>, body: &[u8]) -> Result<(), Bad> {
        signature::verify(&Scheme::Slack, &self.secrets, self.tolerance_secs, request, body)
    }

    fn decode(
        &self,
        request: &Request<'_>,
        body: &mut [u8],
        json: &mut Json,
        channel: ChannelId,
        sink: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<Ack, Bad> {
        let sink = &mut |inbound: Inbound<'_>| sink(Inbound { channel, mode: Mode::Deliver, ..inbound });
        let kind = request.header("content-type").unwrap_or_default();
        if kind.starts_with("application/x-www-form-urlencoded") {
            return form::read(body, json, sink);
        }
        let document = json.parse(body)?;
        if let Some(challenge) = challenge(document.root()) {
            return Ok(Ack::Now(challenge));
        }
        event::read(document.root(), self.threads, sink)?;
        Ok(Ack::AfterDurable(Bytes::new()))
    }

    fn encode(
        &self,
        to: &Destination<'_>,
        text: &str,
        _part: u16,
        _unix_seconds: u64,
        body: &mut Vec<u8>,
    ) -> Result<http::Request<()>, Bad> {
        // "Pass an IM channel's ID or a user's ID": the bot's direct chat with a person has the person's id, too.
        let chat = if to.chat.is_empty() { to.peer } else { to.chat };
        body.extend_from_slice(b"{\"channel\":");
        json::write_str(body, chat);
        if !to.edits.is_empty() {
            body.extend_from_slice(b",\"ts\":");
            json::write_str(body, to.edits);
        } else if !to.thread.is_empty() {
            body.extend_from_slice(b",\"thread_ts\":");
            json::write_str(body, to.thread);
        }
        body.extend_from_slice(b",\"text\":");
        json::write_str(body, &markup::escape(text));
        body.push(b'}');
        let method = if to.edits.is_empty() { &self.post_message } else { &self.update };
        let mut request = web::post(method, Some(&self.authorization));
        // Without the character set Slack warns with each answer (`missing_charset`).
        let kind = HeaderValue::from_static("application/json; charset=utf-8");
        request.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(request)
    }

    fn delivered<'a>(
        &self,
        status: u16,
        retry_after: Option<&str>,
        body: &mut [u8],
        json: &mut Json,
        detail: &'a mut String,
    ) -> Delivery<'a> {
        let Some(document) = web::reply(json, body) else {
            return web::not_from("Slack's Web API", retry_after, detail);
        };
        let reply = document.root();
        if reply.get("ok").and_then(Value::bool) == Some(true) {
            push_detail(detail, reply.str_of("ts").unwrap_or_default());
            return Delivery::Confirmed { message: detail };
        }
        let error = reply.str_of("error").unwrap_or("refused without an error");
        push_detail(detail, error);
        if let Some(needed) = reply.str_of("needed") {
            push_detail(detail, &format!("; the app needs the scope {needed}"));
        }
        // Errors that Slack's pages call temporary; all others say what is wrong with the message or the app.
        let passes = matches!(
            error,
            "ratelimited"
                | "rate_limited"
                | "internal_error"
                | "fatal_error"
                | "service_unavailable"
                | "request_timeout"
        );
        if passes || matches!(status, 408 | 429 | 500..) {
            return Delivery::Retry { after: retry_after_of(retry_after), detail };
        }
        Delivery::Refused { detail }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_core::codes::Code;
    use clawgate_wire::http1::{HeadLimits, parse_request};

    fn settings() -> Settings {
        Settings {
            token: "xoxb-1-2-canary".into(),
            secrets: vec!["8f742231b10e8888abcd99yyyzzz85a5".into()],
            tolerance_secs: signature::TOLERANCE_SECS,
            threads: true,
            api_root: API_ROOT.into(),
        }
    }

    /// The vector is `slack_sdk`'s own.
    #[test]
    fn requests_are_slacks_if_they_are_signed_so_and_not_otherwise() {
        let slack = Slack::new(settings()).unwrap();
        let check = |fields: &str, body: &[u8], unix_seconds| {
            let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
            let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
            let head = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
            let (headers, path_rest, query) = (&head.headers, "", "");
            let request = Request { method: "POST", path_rest, query, headers, unix_seconds };
            slack.verify(&request, body).map_err(|bad| bad.code)
        };
        let body = br#"{"type":"event_callback","event_id":"Ev1"}"#;
        let good = format!("X-Slack-Request-Timestamp: 1710000000\r\nX-Slack-Signature: {GOLDEN}\r\n");
        assert_eq!(check(&good, body, 1_710_000_000), Ok(()));
        assert_eq!(check(&good, body, 1_710_000_300), Ok(()));
        let wrong = Err(Code::BadSignature);
        assert_eq!(check(&good, body, 1_710_000_301), wrong, "old");
        assert_eq!(check(&good, body, 1_709_999_699), wrong, "of tomorrow");
        assert_eq!(check(&good, b"{}", 1_710_000_000), wrong);
        assert_eq!(check(&good.replace("v0=", "v1="), body, 1_710_000_000), wrong);
        assert_eq!(check(&good.replace("1710000000", "1710000001"), body, 1_710_000_000), wrong);
        assert_eq!(check("", body, 1_710_000_000), wrong);
    }

    const GOLDEN: &str = "v0=2c1d2ee42f6acc432a83ca83ab082ed0e04af2934fc4580fbe2fd2545ade6d5e";

    #[test]
    fn settings_that_cannot_be_used() {
        let check = |change: fn(&mut Settings)| {
            let mut changed = settings();
            change(&mut changed);
            Slack::new(changed).map(|_| ()).map_err(|unusable| unusable.key)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|s| s.token = "hunter2".into()), Err("token"));
        assert_eq!(check(|s| s.token = "xoxb-a\r\nb".into()), Err("token"));
        assert_eq!(check(|s| s.secrets = vec![]), Err("secret"));
        assert_eq!(check(|s| s.secrets = vec!["ok".into(), String::new()]), Err("secret"));
        assert_eq!(check(|s| s.api_root = "slack.com/api".into()), Err("apiRoot"));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let shown = format!("{:?}", Slack::new(settings()).unwrap());
        assert!(!shown.contains("canary") && !shown.contains("8f7422"), "{shown}");
    }
}
