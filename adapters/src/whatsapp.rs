//! WhatsApp: the Cloud API's webhook to inbound events, answers to its `messages`.
//!
//! Owns the business's number and the Graph API's replies; notifications have a file of their own. Obeys
//! developers.facebook.com/docs/whatsapp/cloud-api: "Webhooks", "Send messages", "Error codes".
mod notification;

use crate::signature::{self, Scheme, Secret, same};
use crate::{
    Ack, Adapter, Bad, Destination, Json, Request, Traits, Unusable, Value, push_detail, retry_after_of, web,
};
use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{Delivery, Inbound, Mode};
use clawgate_core::id::ChannelId;
use clawgate_core::plan::Unit;
use clawgate_wire::json;
use core::fmt;
use http::{HeaderValue, Uri};

/// A business's number.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "the token opens the account")]
pub struct Settings {
    /// An access token with `whatsapp_business_messaging`.
    pub token: String,
    /// The app secrets that are accepted; more than one while one replaces another.
    pub secrets: Vec<String>,
    /// What Meta repeats when it tries the address: chosen by us, entered there.
    pub verify_token: String,
    /// The number's id, not the number itself.
    pub phone_number_id: String,
    /// Where the Graph API is, with its version.
    pub api_root: String,
}

/// The Graph API of Meta's own servers.
pub const API_ROOT: &str = "https://graph.facebook.com/v23.0";

/// What holds for every number. "Maximum 4096 characters."
pub const TRAITS: Traits = Traits {
    text_max: 4_096,
    unit: Unit::Chars,
    mode: Mode::Deliver,
    body_bytes_max: 256 * 1024,
    edits: false,
};

/// A business's number.
pub struct WhatsApp {
    secrets: Vec<Secret>,
    verify_token: String,
    phone_number_id: String,
    authorization: HeaderValue,
    messages: Uri,
}

impl fmt::Debug for WhatsApp {
    /// Without what is secret.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("WhatsApp").field("phone_number_id", &self.phone_number_id).finish_non_exhaustive()
    }
}

impl WhatsApp {
    /// A number from its settings.
    ///
    /// # Errors
    /// The setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, Unusable> {
        let unusable = |key, text| Err(Unusable { key, text });
        let Some(authorization) = web::bearer(&settings.token) else {
            return unusable("token", "an access token of the Graph API is needed");
        };
        let secrets: Option<Vec<_>> = settings.secrets.iter().map(|text| Secret::new(text)).collect();
        let Some(secrets) = secrets.filter(|secrets| !secrets.is_empty()) else {
            return unusable("secret", "the app secret is needed");
        };
        if settings.verify_token.is_empty() {
            return unusable("verifyToken", "a word of your own is needed, which Meta repeats");
        }
        let id = settings.phone_number_id;
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
            return unusable("phoneNumberId", "the id of a phone number is digits");
        }
        let Some(messages) = web::method(&settings.api_root, &format!("{id}/messages")) else {
            return unusable("apiRoot", "the address of the API is not an absolute URL");
        };
        let verify_token = settings.verify_token;
        Ok(Self { secrets, verify_token, phone_number_id: id, authorization, messages })
    }
}

impl Adapter for WhatsApp {
    fn traits(&self) -> Traits {
        TRAITS
    }

    fn greet(&self, request: &Request<'_>) -> Result<Bytes, Bad> {
        let field = |name: &str| {
            let mut fields = form_urlencoded::parse(request.query.as_bytes());
            fields.find_map(|(key, value)| (key == name).then_some(value)).unwrap_or_default()
        };
        let (mode, token) = (field("hub.mode"), field("hub.verify_token"));
        if mode == "subscribe" && same(token.as_bytes(), self.verify_token.as_bytes()) {
            return Ok(Bytes::from(field("hub.challenge").into_owned()));
        }
        Err(Bad::new(Code::BadSignature, "the verify token is missing or wrong"))
    }

    /// "All Event Notification payloads are signed with a SHA256 signature", as GitHub does it.
    fn verify(&self, request: &Request<'_>, body: &[u8]) -> Result<(), Bad> {
        signature::verify(&Scheme::Github, &self.secrets, signature::TOLERANCE_SECS, request, body)
    }

    fn decode(
        &self,
        _request: &Request<'_>,
        body: &mut [u8],
        json: &mut Json,
        channel: ChannelId,
        sink: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<Ack, Bad> {
        let document = json.parse(body)?;
        let Some(entries) = document.root().get("entry") else {
            return Err(Bad::new(Code::MissingField, "`entry` must be there"));
        };
        let sink = &mut |inbound: Inbound<'_>| sink(Inbound { channel, mode: Mode::Deliver, ..inbound });
        for change in entries.items().filter_map(|entry| entry.get("changes")).flat_map(Value::items) {
            if let Some(value) = change.get("value").filter(|_| change.str_of("field") == Some("messages")) {
                notification::read(value, &self.phone_number_id, sink);
            }
        }
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
        let (kind, id) = if to.chat.is_empty() { ("individual", to.peer) } else { ("group", to.chat) };
        body.extend_from_slice(b"{\"messaging_product\":\"whatsapp\",\"recipient_type\":\"");
        body.extend_from_slice(kind.as_bytes());
        body.extend_from_slice(b"\",\"to\":");
        json::write_str(body, id);
        body.extend_from_slice(b",\"type\":\"text\",\"text\":{\"preview_url\":false,\"body\":");
        json::write_str(body, text);
        body.extend_from_slice(b"}}");
        Ok(web::post(&self.messages, Some(&self.authorization)))
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
            return web::not_from("the Graph API", retry_after, detail);
        };
        let reply = document.root();
        let Some(error) = reply.get("error") else {
            if (200..300).contains(&status) {
                let message = reply.get("messages").and_then(|messages| messages.items().next());
                push_detail(detail, message.and_then(|message| message.str_of("id")).unwrap_or_default());
                return Delivery::Confirmed { message: detail };
            }
            push_detail(detail, &format!("HTTP {status} without an error"));
            return Delivery::Retry { after: retry_after_of(retry_after), detail };
        };
        let code = error.get("code").and_then(Value::u64).unwrap_or_default();
        push_detail(detail, &format!("{code}: "));
        push_detail(detail, error.str_of("message").unwrap_or("refused without a message"));
        // Those that "Error codes" says to try again: throttling (4, 80007, 130429, 131048, 131056), and what is temporary.
        let passes = matches!(code, 1 | 2 | 4 | 80_007 | 130_429 | 131_000 | 131_016 | 131_048 | 131_056);
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
    use clawgate_wire::http1::{HeadLimits, parse_request};

    fn settings() -> Settings {
        Settings {
            token: "EAAG-canary".into(),
            secrets: vec!["appsecret".into()],
            verify_token: "canary word".into(),
            phone_number_id: "106540352242922".into(),
            api_root: API_ROOT.into(),
        }
    }

    /// Asks with a request of these header fields and this query.
    fn ask<T>(fields: &str, query: &str, asks: impl FnOnce(&WhatsApp, &Request<'_>) -> T) -> T {
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
        let head = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
        let (headers, path_rest) = (&head.headers, "");
        let request = Request { method: "GET", path_rest, query, headers, unix_seconds: 0 };
        asks(&WhatsApp::new(settings()).unwrap(), &request)
    }

    #[test]
    fn an_address_is_verified_by_the_word_that_was_agreed() {
        let greet =
            |query: &str| ask("", query, |whatsapp, request| whatsapp.greet(request)).map_err(|bad| bad.code);
        let good = "hub.mode=subscribe&hub.verify_token=canary+word&hub.challenge=1158201444";
        assert_eq!(greet(good), Ok(Bytes::from_static(b"1158201444")));
        for wrong in [good.replace("canary", "Canary"), good.replace("subscribe", "x"), String::new()] {
            assert_eq!(greet(&wrong), Err(Code::BadSignature), "{wrong}");
        }
    }

    /// The vector is computed with Python's hmac.
    #[test]
    fn requests_are_metas_if_they_are_signed_so_and_not_otherwise() {
        let body = br#"{"object":"whatsapp_business_account"}"#;
        let tag = "f6491327cb5b041cdf4fe69b94711c7b68bb0aef719854bae676a59788a2b6b6";
        let check = |field: &str, body: &[u8]| {
            ask(field, "", |whatsapp, request| whatsapp.verify(request, body)).map_err(|bad| bad.code)
        };
        let good = format!("X-Hub-Signature-256: sha256={tag}\r\n");
        assert_eq!(check(&good, body), Ok(()));
        assert_eq!(check(&good, b"{}"), Err(Code::BadSignature));
        assert_eq!(check(&good.replace("sha256", "sha1"), body), Err(Code::BadSignature));
        assert_eq!(check("", body), Err(Code::BadSignature));
    }

    #[test]
    fn settings_that_cannot_be_used() {
        let check = |change: fn(&mut Settings)| {
            let mut changed = settings();
            change(&mut changed);
            WhatsApp::new(changed).map(|_| ()).map_err(|unusable| unusable.key)
        };
        assert_eq!(check(|_| ()), Ok(()));
        assert_eq!(check(|s| s.token = String::new()), Err("token"));
        assert_eq!(check(|s| s.token = "a\r\nb".into()), Err("token"));
        assert_eq!(check(|s| s.secrets = vec![]), Err("secret"));
        assert_eq!(check(|s| s.verify_token = String::new()), Err("verifyToken"));
        assert_eq!(check(|s| s.phone_number_id = "+1 555".into()), Err("phoneNumberId"));
        assert_eq!(check(|s| s.api_root = "graph".into()), Err("apiRoot"));
        let shown = format!("{:?}", WhatsApp::new(settings()).unwrap());
        assert!(shown.contains("106540352242922") && !shown.contains("canary"), "{shown}");
    }
}
