//! Generic signed webhook: any program that posts JSON becomes a channel, by a mapping of JSON pointers.
//!
//! Owns the mapping, and the JSON that answers are posted as. Signatures are [`crate::signature`]'s. Obeys Standard
//! Webhooks for what it sends.
mod mapping;

pub use mapping::{Mapping, Scope};

use crate::signature::{self, Scheme, Secret};
use crate::slack;
use crate::{Ack, Adapter, Bad, Destination, Json, Request, Traits, Unusable, push_detail, retry_after_of};
use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{Delivery, Inbound, Mode};
use clawgate_core::id::ChannelId;
use clawgate_core::plan::Unit;
use clawgate_wire::json;
use http::{HeaderName, HeaderValue, Method, Uri, header};

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
        if !settings.mapping.is_usable() {
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

    /// The id that the signature's form carries beside the body. GitHub's is not signed: it keeps honest repeats apart.
    fn header_id<'a>(&self, request: &Request<'a>) -> &'a str {
        let name = match self.scheme {
            Scheme::Standard => "webhook-id",
            Scheme::Github => "x-github-delivery",
            Scheme::Stripe | Scheme::Slack | Scheme::Bearer | Scheme::Token { .. } => return "",
        };
        request.header(name).unwrap_or_default()
    }
}

impl Adapter for Webhook {
    fn traits(&self) -> Traits {
        Traits {
            text_max: self.text_max,
            unit: Unit::Chars,
            mode: Mode::Deliver,
            body_bytes_max: 256 * 1024,
            edits: false,
        }
    }

    fn verify(&self, request: &Request<'_>, body: &[u8]) -> Result<(), Bad> {
        signature::verify(&self.scheme, &self.secrets, self.tolerance_secs, request, body)
    }

    fn decode(
        &self,
        request: &Request<'_>,
        body: &mut [u8],
        json: &mut Json,
        channel: ChannelId,
        sink: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<Ack, Bad> {
        let document = json.parse(body)?;
        let root = document.root();
        if self.scheme == Scheme::Slack
            && let Some(challenge) = slack::challenge(root)
        {
            return Ok(Ack::Now(challenge));
        }
        let mut digits = Default::default();
        let inbound = self.mapping.read(root, &mut digits)?;
        let id = if inbound.id.is_empty() { self.header_id(request) } else { inbound.id };
        sink(Inbound { id, channel, ..inbound });
        Ok(Ack::AfterDurable(Bytes::new()))
    }

    fn encode(
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

    fn delivered<'a>(
        &self,
        status: u16,
        retry_after: Option<&str>,
        body: &mut [u8],
        _json: &mut Json,
        detail: &'a mut String,
    ) -> Delivery<'a> {
        if (200..300).contains(&status) {
            return Delivery::Confirmed { message: "" };
        }
        push_detail(detail, &format!("HTTP {status}: "));
        let start = body.get(..body.len().min(crate::DETAIL_BYTES_MAX)).unwrap_or_default();
        push_detail(detail, &String::from_utf8_lossy(start));
        match status {
            408 | 409 | 423 | 425 | 429 | 500.. => {
                Delivery::Retry { after: retry_after_of(retry_after), detail }
            }
            _ => Delivery::Refused { detail },
        }
    }

    fn busy(&self, retry_after_secs: u32) -> (u16, Bytes) {
        let mut body = Vec::new();
        crate::rest::write_busy(&mut body, retry_after_secs);
        (503, body.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{JsonLimits, Platform};
    use clawgate_wire::http1::{HeadLimits, parse_request};

    fn settings() -> Settings {
        Settings {
            scheme: Scheme::Standard,
            secrets: vec!["s3cr3t".into(), "whsec_czNjcjN0".into()],
            tolerance_secs: signature::TOLERANCE_SECS,
            mapping: Mapping::plain(),
            reply_url: Some("https://client.example/reply".into()),
            reply_secret: None,
            text_max: TEXT_CHARS_MAX,
        }
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let check = |change: fn(&mut Settings)| {
            let mut changed = settings();
            change(&mut changed);
            Webhook::new(changed).map(|_| ()).map_err(|unusable| unusable.key)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|s| s.reply_url = None), Ok(()));
        assert_eq!(check(|s| s.secrets = vec![]), Err("secrets"));
        assert_eq!(check(|s| s.secrets[1] = String::new()), Err("secrets"));
        assert_eq!(check(|s| s.reply_secret = Some("whsec_?".into())), Err("secrets"));
        assert_eq!(check(|s| s.scheme = Scheme::Token { header: "a b".into() }), Err("header"));
        assert_eq!(check(|s| s.mapping.sender = String::new()), Err("mapping"));
        assert_eq!(check(|s| s.mapping.text = "text".into()), Err("mapping"));
        assert_eq!(check(|s| s.mapping.scope = Scope::At("scope".into())), Err("mapping"));
        assert_eq!(check(|s| s.reply_url = Some("/reply".into())), Err("replyUrl"));
        assert_eq!(check(|s| s.reply_url = Some("ftp://x/y".into())), Err("replyUrl"));
        assert_eq!(check(|s| s.text_max = 0), Err("textMax"));
    }

    /// What we post is what we accept: the receiver can be another gateway.
    #[test]
    fn our_answers_verify_as_requests() {
        let channel = Platform::Webhook(Box::new(Webhook::new(settings()).unwrap()));
        let to = Destination { chat: "c", thread: "t", peer: "u", idempotency_key: u128::MAX, edits: "" };
        let mut body = Vec::new();
        let sent = channel.encode(&to, "Hi", u16::MAX, 1_710_000_000, &mut body).unwrap();
        let mut head = String::from("POST /reply HTTP/1.1\r\nHost: h\r\n");
        for (name, value) in sent.headers() {
            head += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        head += "\r\n";
        let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
        let head = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
        let request = Request {
            method: "POST",
            path_rest: "",
            query: "",
            headers: &head.headers,
            unix_seconds: 1_710_000_300,
        };
        assert_eq!(channel.adapter().verify(&request, &body), Ok(()));
        let (mut json, mut seen) = (Json::new(JsonLimits::TEST), 0);
        let ack = channel.adapter().decode(&request, &mut body, &mut json, ChannelId(1), &mut |inbound| {
            let id = format!("{:032x}-65535", u128::MAX);
            assert_eq!((inbound.id, inbound.peer, inbound.text), (id.as_str(), "u", "Hi"));
            seen += 1;
        });
        assert_eq!((ack, seen), (Ok(Ack::AfterDurable(Bytes::new())), 1));
        body.push(b' ');
        assert_eq!(channel.adapter().verify(&request, &body).unwrap_err().code, Code::BadSignature);
    }

    #[test]
    fn without_an_address_there_is_no_answer() {
        let channel = Webhook::new(Settings { reply_url: None, ..settings() }).unwrap();
        let sent = channel.encode(&Destination::default(), "Hi", 0, 0, &mut Vec::new());
        assert_eq!(sent.unwrap_err().code, Code::DeliveryFailed);
    }

    #[test]
    fn slack_may_check_the_endpoint() {
        let head = "POST / HTTP/1.1\r\nHost: h\r\n\r\n";
        let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
        let head = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
        let request =
            Request { method: "POST", path_rest: "", query: "", headers: &head.headers, unix_seconds: 0 };
        let asks = |scheme| {
            let channel = Webhook::new(Settings { scheme, ..settings() }).unwrap();
            let mut body = br#"{"token":"x","challenge":"3eZ\"b","type":"url_verification"}"#.to_vec();
            channel.decode(&request, &mut body, &mut Json::new(JsonLimits::TEST), ChannelId(1), &mut |_| ())
        };
        assert_eq!(asks(Scheme::Slack), Ok(Ack::Now(Bytes::from_static(br#"{"challenge":"3eZ\"b"}"#))));
        assert_eq!(asks(Scheme::Standard).unwrap_err().code, Code::MissingField);
    }

    #[test]
    fn busy_is_an_envelope() {
        let channel = Platform::Webhook(Box::new(Webhook::new(settings()).unwrap()));
        let (status, body) = channel.adapter().busy(7);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (status, &body["error"]["code"], &body["error"]["retryAfter"]),
            (503, &"BUSY".into(), &7.into())
        );
    }

    #[test]
    fn times_of_every_form() {
        let mut json = Json::new(JsonLimits::TEST);
        for (text, expected) in [
            ("1710000000", Some(1_710_000_000_000)),
            ("1710000000123", Some(1_710_000_000_123)),
            ("1710000000.5", Some(1_710_000_000_500)),
            ("\"1710000000\"", Some(1_710_000_000_000)),
            ("\"2024-03-09T16:00:00Z\"", Some(1_710_000_000_000)),
            ("0", Some(0)),
            ("-1", None),
            ("1e300", None),
            ("\"inf\"", None),
            ("\"NaN\"", None),
            ("\"yesterday\"", None),
            ("true", None),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            let document = json.parse(&mut bytes).unwrap();
            assert_eq!(mapping::millis_of(document.root()), expected, "{text}");
        }
    }
}
