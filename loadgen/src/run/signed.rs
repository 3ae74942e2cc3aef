//! Any program that posts signed JSON: the gateway's `webhook` channel, in the form of Standard Webhooks. Its answers are
//! posted to this process (`replyUrl`), signed too; one that comes again under its idempotency key is dropped, as its taker
//! should.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawgate_wire::http1::RequestHead;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::mock::peer::{self, write_json};
use crate::protocol::{Addressing, CHAT_BASE, Template, find};
use crate::run::lane::{Books, Lane};
use crate::run::platform::{Platform, Seal, judge};

/// The recommended schedule begins with 5 s, 5 min, half an hour; a run sees no more of it than this.
const RETRIES: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(300), Duration::from_secs(1800)];

/// Keys of answers that are remembered.
const KEYS_MAX: usize = 1_000_000;

/// What the signed part of a run needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedSettings {
    /// Where answers are taken in this process: the channel's `replyUrl`, whatever its path.
    pub listen: SocketAddr,
    /// The channel's name in the gateway: messages go to `/webhooks/<channel>`.
    pub channel: String,
    /// Its secret: `whsec_` and base64, or any other text as it stands.
    pub secret: String,
}

#[derive(Debug)]
pub(crate) struct SignedWebhook {
    listen: SocketAddr,
    channel: String,
    keyed: Hmac<Sha256>,
    /// The keys of the answers that came, as hashes, and their order.
    keys: Mutex<(HashSet<u64>, VecDeque<u64>)>,
}

impl SignedWebhook {
    pub(crate) fn new(settings: &SignedSettings) -> Result<Self, String> {
        let keyed = key_of(&settings.secret)?;
        let SignedSettings { listen, channel, .. } = settings.clone();
        Ok(Self { listen, channel, keyed, keys: Mutex::default() })
    }

    /// Whether a key comes for the first time. The oldest ones are forgotten.
    fn is_new(&self, key: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let key = hasher.finish();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *keys;
        if !known.insert(key) {
            return false;
        }
        order.push_back(key);
        if KEYS_MAX < order.len()
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        true
    }

    fn on_answer(&self, lane: &Lane, run: u32, books: &Books, head: &RequestHead<'_>, body: &[u8]) {
        let header = |name| head.headers.get(name).unwrap_or_default();
        let [id, time] = ["webhook-id", "webhook-timestamp"].map(|name| header(name).as_bytes());
        let is_signed = header("webhook-signature") == signature(&self.keyed, id, time, body);
        let text = |name: &[u8]| find(body, name)?.text();
        let session = text(b"sender").and_then(|sender| {
            let chat: u64 = core::str::from_utf8(&sender).ok()?.strip_prefix('u')?.parse().ok()?;
            u32::try_from(chat.checked_sub(CHAT_BASE)?).ok()
        });
        let Some(session) = session.filter(|session| *session < lane.settings.sessions) else {
            books.with(0, |ledger| ledger.tally_mut().strays += 1);
            return;
        };
        if !is_signed {
            books.with(session, |ledger| ledger.on_garbled());
            return;
        }
        if !self.is_new(header("idempotency-key")) {
            return;
        }
        let now_ns = lane.now();
        lane.recorder.borrow_mut().counts().pieces += 1;
        let times = judge(books, run, session, &text(b"text").unwrap_or_default(), now_ns);
        if let Some(times) = times {
            lane.recorder.borrow_mut().on_done(times, now_ns);
        }
    }
}

impl Platform for SignedWebhook {
    fn template(&self, to: &Addressing, _started_unix_seconds: u64) -> Template {
        Template::signed(to, &format!("/webhooks/{}", self.channel))
    }

    fn sign(&self, request: &mut [u8], seal: &Seal, unix_seconds: u64) {
        let mut digits = itoa::Buffer::new();
        let time = digits.format(unix_seconds).as_bytes();
        debug_assert_eq!(time.len(), seal.time.len(), "a moment of ten digits");
        request[seal.time.clone()].copy_from_slice(time);
        let (id, body) = (&request[seal.id.clone()], &request[seal.body.clone()]);
        let signature = signature(&self.keyed, id, time, body);
        request[seal.signature.clone()].copy_from_slice(signature.as_bytes());
    }

    fn retries(&self) -> &'static [Duration] {
        &RETRIES
    }

    fn listen(self: Arc<Self>, lane: &Rc<Lane>, run: u32, books: &Books) -> Result<(), String> {
        let (address, lane, books) = (self.listen, Rc::clone(lane), books.clone());
        let listening = peer::listen(address, move |mut peer| {
            let (webhook, lane, books) = (Arc::clone(&self), Rc::clone(&lane), books.clone());
            async move {
                let mut answer = |head: &RequestHead<'_>, body: &[u8], out: &mut Vec<u8>| {
                    webhook.on_answer(&lane, run, &books, head, body);
                    write_json(out, 200, b"{}");
                };
                // A connection that breaks is the gateway's to open again.
                while let Ok(Some(())) = peer.next(&mut answer).await {}
            }
        });
        listening.map(drop).map_err(|error| format!("answers cannot be taken on {address}: {error}"))
    }

    /// Every answer is whole when it comes.
    fn close(&self, _books: &Books) {}
}

/// The key of a secret.
///
/// # Errors
/// What the secret lacks.
pub(crate) fn key_of(secret: &str) -> Result<Hmac<Sha256>, String> {
    let key = match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD
            .decode(encoded)
            .map_err(|_| "the signed webhook's secret is whsec_ and base64, or any other text".to_owned())?,
        None => secret.as_bytes().to_vec(),
    };
    Hmac::new_from_slice(&key).map_err(|_| "the signed webhook's secret is no key".to_owned())
}

/// `v1,` and the base64 of the code over `id.time.body`.
pub(crate) fn signature(keyed: &Hmac<Sha256>, id: &[u8], time: &[u8], body: &[u8]) -> String {
    let mut keyed = keyed.clone();
    for part in [id, b".", time, b".", body] {
        keyed.update(part);
    }
    format!("v1,{}", STANDARD.encode(keyed.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn webhook(secret: &str) -> Result<SignedWebhook, String> {
        SignedWebhook::new(&SignedSettings {
            listen: ([127, 0, 0, 1], 0).into(),
            channel: "shop".to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// The example of the specification, "Signature scheme" of Standard Webhooks, as its libraries test it.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let webhook = webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = signature(
            &webhook.keyed,
            b"msg_p5jXN8AQM9LWM0D4loKWxJek",
            b"1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_message_is_signed_where_its_headers_say() {
        let to = Addressing {
            run: 7,
            payload_bytes: 80,
            session_prefix: "s".to_owned(),
            channel: "api".to_owned(),
            host: "127.0.0.1:1".to_owned(),
            key: String::new(),
        };
        let webhook = webhook("a secret that is a text").unwrap();
        let mut template = webhook.template(&to, 0);
        template.fill(3, 4, 5, 6);
        let (request, seal) = template.sealed();
        webhook.sign(request, seal, 1_773_131_400);
        let text = core::str::from_utf8(request).unwrap().to_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let field = |name: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).unwrap();
            line.split_once(": ").unwrap().1.to_owned()
        };
        assert_eq!(field("webhook-timestamp"), "1773131400");
        let id = field("webhook-id");
        assert!(
            body.contains(&format!(r#""event_id":"{id}""#)) && id.ends_with("-00000003-00000004"),
            "{id}"
        );
        let signature = signature(&webhook.keyed, id.as_bytes(), b"1773131400", body.as_bytes());
        assert_eq!(field("webhook-signature"), signature);
        assert!(body.contains(r#""sender":"u5000000003""#), "{body}");
    }

    #[test]
    fn an_answer_counts_once_by_its_key_and_a_secret_is_checked() {
        let taker = webhook("a secret that is a text").unwrap();
        assert!(taker.is_new("a") && taker.is_new("b") && !taker.is_new("a"));
        assert!(webhook("whsec_***").unwrap_err().contains("base64"));
    }
}
