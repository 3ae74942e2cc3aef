//! Who signed a webhook, and how ours are signed: HMAC-SHA256 in the forms that senders use, and shared tokens.
//!
//! Obeys the Standard Webhooks specification, and the forms of GitHub, Stripe and Slack. Works on the raw bytes, before
//! anything is parsed; compares in constant time; tries every configured secret, so that one can be exchanged while
//! both are in use. Where a header comes twice, nothing is verified.
use crate::{Bad, Request};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clawgate_core::codes::Code;
use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

/// How far a signed time may be from ours, either way, unless the settings say otherwise (Standard Webhooks advises 300).
pub const TOLERANCE_SECS: u64 = 300;
/// Signatures of one request that are looked at: more than any sender rotates at once.
const SIGNATURES_MAX: usize = 8;

/// The form of a signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64 ...` over `id.time.body`.
    #[default]
    Standard,
    /// `X-Hub-Signature-256: sha256=HEX` over the body. Carries no time: a copy of a request stays valid.
    Github,
    /// `Stripe-Signature: t=TIME,v1=HEX,...` over `time.body`.
    Stripe,
    /// `X-Slack-Request-Timestamp`, `X-Slack-Signature: v0=HEX` over `v0:time:body`.
    Slack,
    /// `Authorization: Bearer SECRET`. Signs nothing: only for connections that are trusted.
    Bearer,
    /// The secret in a header of this name. Signs nothing, as `Bearer`.
    Token {
        /// The header's name.
        header: String,
    },
}

/// A shared secret, ready to sign. Never shown by `Debug`.
pub struct Secret {
    text: Box<str>,
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret(…)")
    }
}

impl Secret {
    /// A secret as it is configured: `whsec_` and base64 (Standard Webhooks), or any other text as it stands. `None` if
    /// it is empty or no base64.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let key = match text.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).ok()?,
            None => text.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return None;
        }
        Some(Self { text: text.into(), keyed: Hmac::new_from_slice(&key).ok()? })
    }

    /// The tag of these bytes, one after another.
    fn tag(&self, content: &[&[u8]]) -> [u8; 32] {
        let mut keyed = self.keyed.clone();
        content.iter().for_each(|part| keyed.update(part));
        keyed.finalize().into_bytes().into()
    }

    /// The value of `webhook-signature` for what we send.
    #[must_use]
    pub fn sign(&self, id: &str, unix_seconds: u64, body: &[u8]) -> String {
        let time = unix_seconds.to_string();
        let tag = self.tag(&[id.as_bytes(), b".", time.as_bytes(), b".", body]);
        let mut value = String::from("v1,");
        STANDARD.encode_string(tag, &mut value);
        value
    }
}

/// Compares without telling by its time where two texts differ; their lengths are not secret.
#[must_use]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

const MISSING: Bad = Bad::new(Code::BadSignature, "the signature is missing, or its header comes twice");
const WRONG: Bad = Bad::new(Code::BadSignature, "the signature does not match");
const EXPIRED: Bad = Bad::new(Code::BadSignature, "the signed time is too far from ours");

/// Is this request from one who has one of these secrets?
///
/// # Errors
/// `BAD_SIGNATURE`.
pub fn verify(
    scheme: &Scheme,
    secrets: &[Secret],
    tolerance_secs: u64,
    request: &Request<'_>,
    body: &[u8],
) -> Result<(), Bad> {
    let check_time = |time| check_time(time, request.unix_seconds, tolerance_secs);
    let header = |name: &str| request.header(name).ok_or(MISSING);
    let mut tags = Tags::default();
    match scheme {
        Scheme::Standard => {
            let (id, time) = (header("webhook-id")?, header("webhook-timestamp")?);
            check_time(time)?;
            for signature in header("webhook-signature")?.split(' ') {
                tags.push(signature.strip_prefix("v1,").and_then(of_base64));
            }
            matches(secrets, &tags, &[id.as_bytes(), b".", time.as_bytes(), b".", body])
        }
        Scheme::Github => {
            tags.push(header("x-hub-signature-256")?.strip_prefix("sha256=").and_then(of_hex));
            matches(secrets, &tags, &[body])
        }
        Scheme::Stripe => {
            let fields = || header("stripe-signature").map(|value| value.split(','));
            let time = fields()?.find_map(|field| field.strip_prefix("t=")).ok_or(MISSING)?;
            check_time(time)?;
            for field in fields()? {
                tags.push(field.strip_prefix("v1=").and_then(of_hex));
            }
            matches(secrets, &tags, &[time.as_bytes(), b".", body])
        }
        Scheme::Slack => {
            let time = header("x-slack-request-timestamp")?;
            check_time(time)?;
            tags.push(header("x-slack-signature")?.strip_prefix("v0=").and_then(of_hex));
            matches(secrets, &tags, &[b"v0:", time.as_bytes(), b":", body])
        }
        Scheme::Bearer => {
            let value = header("authorization")?;
            // RFC 9110 section 11.1: the name of the scheme is case-insensitive.
            let (name, token) = value.split_at_checked(7).ok_or(WRONG)?;
            if name.eq_ignore_ascii_case("bearer ") { matches_token(secrets, token) } else { Err(WRONG) }
        }
        Scheme::Token { header: name } => matches_token(secrets, header(name)?),
    }
}

/// The tags that a request carries.
#[derive(Default)]
struct Tags {
    list: [[u8; 32]; SIGNATURES_MAX],
    count: usize,
}

impl Tags {
    fn push(&mut self, tag: Option<[u8; 32]>) {
        if let (Some(tag), Some(place)) = (tag, self.list.get_mut(self.count)) {
            *place = tag;
            self.count += 1;
        }
    }
}

/// Every secret against every tag, whichever matched before.
fn matches(secrets: &[Secret], tags: &Tags, content: &[&[u8]]) -> Result<(), Bad> {
    let found = secrets.iter().fold(Choice::from(0), |found, secret| {
        let tag = secret.tag(content);
        tags.list.iter().take(tags.count).fold(found, |found, sent| found | sent.ct_eq(&tag))
    });
    if found.into() { Ok(()) } else { Err(WRONG) }
}

fn matches_token(secrets: &[Secret], token: &str) -> Result<(), Bad> {
    let found = secrets
        .iter()
        .fold(Choice::from(0), |found, secret| found | secret.text.as_bytes().ct_eq(token.as_bytes()));
    if found.into() { Ok(()) } else { Err(WRONG) }
}

fn check_time(text: &str, unix_seconds: u64, tolerance_secs: u64) -> Result<(), Bad> {
    let plain = text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    let time = text.parse::<u64>().ok().filter(|_| plain).ok_or(EXPIRED)?;
    if unix_seconds.abs_diff(time) <= tolerance_secs { Ok(()) } else { Err(EXPIRED) }
}

/// 32 bytes in base64 with its padding, as the specification writes it and in no other form.
fn of_base64(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 36];
    let count = STANDARD.decode_slice(text, &mut bytes).ok()?;
    bytes.get(..count)?.try_into().ok()
}

/// 32 bytes in lower-case hex, as all senders write it.
fn of_hex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}
