//! Generic signed webhook: any program that posts JSON becomes a channel, by a mapping of JSON pointers.
//!
//! Owns the mapping, and the JSON that answers are posted as. Signatures are [`crate::signature`]'s. Obeys Standard
//! Webhooks for what it sends.
use crate::signature::{self, Scheme, Secret};
use crate::time::parse_rfc3339;
use crate::{
    Ack, Bad, Destination, Digits, Json, Request, Traits, Unusable, Value, push_detail, retry_after_of,
};
use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Delivery, Inbound, Kind, Mode};
use clawgate_core::id::ChannelId;
use clawgate_core::plan::Unit;
use clawgate_wire::json;
use http::{HeaderName, HeaderValue, Method, Uri, header};
use std::borrow::Cow;

/// Who may read a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The same for all messages of the channel.
    Always(event::Scope),
    /// What this JSON pointer leads to says it: `group`, `supergroup`, `channel`, `room` or `true` is a group, all else
    /// is direct.
    At(String),
}

/// Where a message's parts are: JSON pointers (RFC 6901) into the body. Where one leads nowhere, the part is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The event's id. Empty: what the signature's form says (`webhook-id`, `X-GitHub-Delivery`), or none.
    pub event_id: String,
    /// Who wrote; must be there.
    pub sender: String,
    /// Who wrote, as people see it.
    pub name: String,
    /// The conversation; must be there in a group.
    pub chat: String,
    /// What was written.
    pub text: String,
    /// The thread.
    pub thread: String,
    /// When: Unix seconds or milliseconds, as a number or text, or RFC 3339.
    pub timestamp: String,
    /// Who reads along.
    pub scope: Scope,
}

impl Mapping {
    /// The body that we post ourselves, for those who can choose: `{"event_id", "sender", "name", "chat", "text",
    /// "thread", "timestamp"}`, all direct.
    #[must_use]
    pub fn plain() -> Self {
        let at = |name: &str| format!("/{name}");
        Self {
            event_id: at("event_id"),
            sender: at("sender"),
            name: at("name"),
            chat: at("chat"),
            text: at("text"),
            thread: at("thread"),
            timestamp: at("timestamp"),
            scope: Scope::Always(event::Scope::Direct),
        }
    }
}

/// A webhook channel.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "secrets are not shown")]
pub struct Settings {
    /// How requests are signed.
    pub scheme: Scheme,
    /// The secrets that are accepted, `whsec_` base64 or raw; more than one while one replaces another.
    pub secrets: Vec<String>,
    /// How far a signed time may be from ours, either way: [`signature::TOLERANCE_SECS`].
    pub tolerance_secs: u64,
    /// Where a message's parts are.
    pub mapping: Mapping,
    /// Where answers are posted; without it none can be delivered.
    pub reply_url: Option<String>,
    /// What answers are signed with, if not with the first of `secrets`.
    pub reply_secret: Option<String>,
    /// The longest text of one answer in characters; longer ones are split.
    pub text_max: u32,
}

/// The longest text of one answer, unless the settings say otherwise.
pub const TEXT_CHARS_MAX: u32 = 65_536;

/// A channel of this kind.
#[derive(Debug)]
pub struct Webhook {
    scheme: Scheme,
    secrets: Vec<Secret>,
    tolerance_secs: u64,
    mapping: Mapping,
    reply: Option<Uri>,
    reply_secret: Secret,
    text_max: u32,
}

impl Webhook {
    /// A channel from its settings.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Unusable> {
        let unusable = |key, text| Err(Unusable { key, text });
        let secrets: Option<Vec<_>> = settings.secrets.iter().map(|text| Secret::new(text)).collect();
        let first = settings.secrets.first();
        let reply_secret = settings.reply_secret.as_ref().or(first).and_then(|text| Secret::new(text));
        let (Some(secrets), Some(reply_secret)) = (secrets, reply_secret) else {
            return unusable("secrets", "at least one secret is needed; after whsec_ comes base64");
        };
        if let Scheme::Token { header } = &settings.scheme
            && HeaderName::from_bytes(header.as_bytes()).is_err()
        {
            return unusable("header", "this is no name of a header");
        }
        let Mapping { event_id, sender, name, chat, text, thread, timestamp, scope } = &settings.mapping;
        let scope = if let Scope::At(pointer) = scope { pointer } else { "" };
        let pointers = [event_id, name, chat, text, thread, timestamp, scope];
        if !sender.starts_with('/') || pointers.iter().any(|at| !at.is_empty() && !at.starts_with('/')) {
            return unusable("mapping", "a JSON pointer begins with a slash, and the sender needs one");
        }
        let reply = settings.reply_url.map(|url| url.parse::<Uri>().ok());
        let absolute = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
        if reply.as_ref().is_some_and(|uri| !uri.as_ref().is_some_and(absolute)) {
            return unusable("replyUrl", "answers need an absolute http or https URL");
        }
        if settings.text_max == 0 {
            return unusable("textMax", "an answer needs at least one character");
        }
        Ok(Self {
            scheme: settings.scheme,
            secrets,
            tolerance_secs: settings.tolerance_secs,
            mapping: settings.mapping,
            reply: reply.flatten(),
            reply_secret,
            text_max: settings.text_max,
        })
    }

    pub(crate) fn traits(&self) -> Traits {
        Traits { text_max: self.text_max, unit: Unit::Chars, mode: Mode::Deliver, body_bytes_max: 256 * 1024 }
    }

    pub(crate) fn verify(&self, request: &Request<'_>, body: &[u8]) -> Result<(), Bad> {
        signature::verify(&self.scheme, &self.secrets, self.tolerance_secs, request, body)
    }

    pub(crate) fn decode(
        &self,
        request: &Request<'_>,
        body: &mut [u8],
        json: &mut Json,
        channel: ChannelId,
        sink: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<Ack, Bad> {
        let document = json.parse(body)?;
        let root = document.root();
        if let Some(challenge) = self.challenge(root) {
            return Ok(Ack::Now(challenge));
        }
        let mut digits = [Digits::default(); 4];
        let [id, sender, chat, thread] = &mut digits;
        let found = |pointer: &str| root.pointer(pointer).filter(|_| !pointer.is_empty());
        let part =
            |pointer: &str, digits| found(pointer).and_then(|value| value.id(digits)).unwrap_or_default();
        let id = match part(&self.mapping.event_id, id) {
            "" => self.header_id(request),
            mapped => mapped,
        };
        let scope = match &self.mapping.scope {
            Scope::Always(scope) => *scope,
            Scope::At(pointer) => scope_of(found(pointer)),
        };
        let text = found(&self.mapping.text).and_then(Value::str).unwrap_or_default();
        let inbound = Inbound {
            id,
            chat: part(&self.mapping.chat, chat),
            thread: part(&self.mapping.thread, thread),
            peer: part(&self.mapping.sender, sender),
            name: found(&self.mapping.name).and_then(Value::str).unwrap_or_default(),
            text,
            sent_millis: found(&self.mapping.timestamp).and_then(millis_of).unwrap_or(0),
            channel,
            kind: if text.starts_with('/') { Kind::Command } else { Kind::Message },
            scope,
            mentioned: true,
            mode: Mode::Deliver,
            ..Inbound::default()
        };
        let missing = |pointer: &str, what| {
            let text = format!("`{pointer}` must lead to the {what}: text or a whole number, not empty");
            Err(Bad { code: Code::MissingField, text: Cow::Owned(text) })
        };
        if inbound.peer.is_empty() {
            return missing(&self.mapping.sender, "sender");
        }
        if inbound.chat.is_empty() && scope == event::Scope::Group {
            return missing(&self.mapping.chat, "chat of the group");
        }
        sink(inbound);
        Ok(Ack::AfterDurable(Bytes::new()))
    }

    /// Slack asks a new endpoint to repeat a text before it sends anything else.
    fn challenge(&self, root: Value<'_, '_>) -> Option<Bytes> {
        let asked = self.scheme == Scheme::Slack && root.str_of("type") == Some("url_verification");
        let challenge = root.str_of("challenge").filter(|_| asked)?;
        let mut body = Vec::from(*b"{\"challenge\":");
        json::write_str(&mut body, challenge);
        body.push(b'}');
        Some(body.into())
    }

    /// The id that the signature's form carries beside the body. GitHub's is not signed: it keeps honest repeats apart.
    fn header_id<'a>(&self, request: &Request<'a>) -> &'a str {
        let name = match self.scheme {
            Scheme::Standard => "webhook-id",
            Scheme::Github => "x-github-delivery",
            Scheme::Stripe | Scheme::Slack | Scheme::Bearer | Scheme::Token { .. } => return "",
        };
        request.header(name).unwrap_or_default()
    }

    pub(crate) fn encode(
        &self,
        to: &Destination<'_>,
        text: &str,
        part: u16,
        unix_seconds: u64,
        body: &mut Vec<u8>,
    ) -> Result<http::Request<()>, Bad> {
        let Some(reply) = self.reply.clone() else {
            return Err(Bad::new(Code::DeliveryFailed, "the channel has no replyUrl"));
        };
        // One id for all attempts at this part: what the receiver has had already, it can drop.
        let id = format!("{:032x}-{part}", to.idempotency_key);
        let fields = [("{\"event_id\":", id.as_str()), (",\"chat\":", to.chat), (",\"thread\":", to.thread)];
        for (name, value) in fields.into_iter().chain([(",\"sender\":", to.peer), (",\"text\":", text)]) {
            body.extend_from_slice(name.as_bytes());
            json::write_str(body, value);
        }
        body.extend_from_slice(b",\"part\":");
        json::write_u64(body, u64::from(part));
        body.push(b'}');
        let signature = self.reply_secret.sign(&id, unix_seconds, body);
        http::Request::builder()
            .method(Method::POST)
            .uri(reply)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("webhook-id", &id)
            .header("webhook-timestamp", unix_seconds)
            .header("webhook-signature", signature)
            .header("idempotency-key", &id)
            .body(())
            .map_err(|_| Bad::new(Code::DeliveryFailed, "the answer makes no request"))
    }
}

fn scope_of(value: Option<Value<'_, '_>>) -> event::Scope {
    let group = value.is_some_and(|value| match value.str() {
        Some(text) => matches!(text, "group" | "supergroup" | "channel" | "room"),
        None => value.bool() == Some(true),
    });
    if group { event::Scope::Group } else { event::Scope::Direct }
}

/// Unix milliseconds of any form that senders use. 10^11 seconds are the year 5138; as milliseconds they are 1973.
fn millis_of(value: Value<'_, '_>) -> Option<u64> {
    let number = match value.str() {
        Some(text) => match text.parse::<f64>() {
            Ok(number) => number,
            Err(_) => return parse_rfc3339(text),
        },
        None => value.f64()?,
    };
    // The cast saturates: what is negative or no number is 0, unknown.
    let millis = if number < 1e11 { number * 1e3 } else { number };
    Some(millis as u64)
}

pub(crate) fn delivered<'a>(
    status: u16,
    retry_after: Option<&str>,
    body: &[u8],
    detail: &'a mut String,
) -> Delivery<'a> {
    if (200..300).contains(&status) {
        return Delivery::Confirmed;
    }
    push_detail(detail, &format!("HTTP {status}: "));
    let start = body.get(..body.len().min(crate::DETAIL_BYTES_MAX)).unwrap_or_default();
    push_detail(detail, &String::from_utf8_lossy(start));
    match status {
        408 | 409 | 423 | 425 | 429 | 500.. => Delivery::Retry { after: retry_after_of(retry_after), detail },
        _ => Delivery::Refused { detail },
    }
}

pub(crate) fn busy_body(retry_after_secs: u32) -> Bytes {
    let mut body = Vec::new();
    crate::rest::write_busy(&mut body, retry_after_secs);
    body.into()
}
