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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_wire::http1::{HeadLimits, parse_request};

    const NOW: u64 = 1_710_000_000;

    /// Verifies a request with these header fields, as they stand in a head.
    fn check(
        scheme: &Scheme,
        secrets: &[&str],
        fields: &str,
        body: &[u8],
        unix_seconds: u64,
    ) -> Result<(), Bad> {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
        let head = parse_request(head.as_bytes(), &limits).unwrap().unwrap();
        let request =
            Request { method: "POST", path_rest: "", query: "", headers: &head.headers, unix_seconds };
        let secrets: Vec<_> = secrets.iter().map(|text| Secret::new(text).unwrap()).collect();
        verify(scheme, &secrets, TOLERANCE_SECS, &request, body)
    }

    fn standard(signature: &str) -> String {
        format!("webhook-id: msg_1\r\nwebhook-timestamp: {NOW}\r\nwebhook-signature: {signature}\r\n")
    }

    /// `{"a":1}` signed with the raw secret `s3cr3t` by Python's hmac.
    const GOOD: &str = "v1,wq8oSSBsfXjQEp+cv7mL3XN93LhcT6mD3w5mB5/qJjI=";
    const BODY: &[u8] = b"{\"a\":1}";

    #[test]
    fn golden_vectors_of_independent_libraries() {
        assert_eq!(check(&Scheme::Standard, &["s3cr3t"], &standard(GOOD), BODY, NOW), Ok(()));
        assert_eq!(Secret::new("s3cr3t").unwrap().sign("msg_1", NOW, BODY), GOOD);
        // The same secret in base64, as Standard Webhooks writes it.
        assert_eq!(check(&Scheme::Standard, &["whsec_czNjcjN0"], &standard(GOOD), BODY, NOW), Ok(()));
        // Of the Standard Webhooks libraries' own tests.
        let fields = "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek\r\nwebhook-timestamp: 1614265330\r\n\
            webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\r\n";
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(
            check(&Scheme::Standard, &[secret], fields, b"{\"test\": 2432232314}", 1_614_265_330),
            Ok(())
        );
        // slack_sdk's SignatureVerifier.
        let fields = "X-Slack-Request-Timestamp: 1710000000\r\nX-Slack-Signature: \
            v0=2c1d2ee42f6acc432a83ca83ab082ed0e04af2934fc4580fbe2fd2545ade6d5e\r\n";
        let body = b"{\"type\":\"event_callback\",\"event_id\":\"Ev1\"}";
        let secret = "8f742231b10e8888abcd99yyyzzz85a5";
        assert_eq!(check(&Scheme::Slack, &[secret], fields, body, NOW), Ok(()));
        assert_eq!(check(&Scheme::Slack, &[secret], fields, body, NOW + 301), Err(EXPIRED));
        // WhatsApp signs as GitHub does.
        let fields = "X-Hub-Signature-256: sha256=f6491327cb5b041cdf4fe69b94711c7b68bb0aef719854bae676a59788a2b6b6\r\n";
        let body = b"{\"object\":\"whatsapp_business_account\"}";
        assert_eq!(check(&Scheme::Github, &["appsecret"], fields, body, NOW), Ok(()));
        // GitHub's own example, "Validating webhook deliveries".
        let fields = "X-Hub-Signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17\r\n";
        assert_eq!(
            check(&Scheme::Github, &["It's a Secret to Everybody"], fields, b"Hello, World!", NOW),
            Ok(())
        );
    }

    #[test]
    fn stripe_takes_any_of_its_signatures() {
        // By Python: hmac.new(b"stripe-secret", b"1710000000.{}", "sha256").hexdigest().
        let tag = "9d67e87f86ed24b0af14873641dac5485207af4c05d7b6dbf1896e6a598f8385";
        let sent = |value: &str| format!("Stripe-Signature: {value}\r\n");
        let ok = |value: &str| check(&Scheme::Stripe, &["stripe-secret"], &sent(value), b"{}", NOW);
        let zeros = "0".repeat(64);
        assert_eq!(ok(&format!("t={NOW},v1={tag}")), Ok(()));
        assert_eq!(ok(&format!("t={NOW},v1={zeros},v1={tag},v0=x")), Ok(()));
        assert_eq!(ok(&format!("t={NOW},v0={tag}")), Err(WRONG));
        assert_eq!(ok(&format!("t={},v1={tag}", NOW + 1)), Err(WRONG));
        assert_eq!(ok(&format!("v1={tag}")), Err(MISSING));
        assert_eq!(
            check(&Scheme::Stripe, &["other"], &sent(&format!("t={NOW},v1={tag}")), b"{}", NOW),
            Err(WRONG)
        );
    }

    #[test]
    fn secrets_and_signatures_rotate() {
        let other = Secret::new("other").unwrap().sign("msg_1", NOW, BODY);
        for secrets in [&["s3cr3t", "new"][..], &["new", "s3cr3t"]] {
            assert_eq!(check(&Scheme::Standard, secrets, &standard(GOOD), BODY, NOW), Ok(()));
        }
        for both in [format!("{other} {GOOD}"), format!("{GOOD} {other}"), format!("v1a,xx {GOOD}")] {
            assert_eq!(check(&Scheme::Standard, &["s3cr3t"], &standard(&both), BODY, NOW), Ok(()));
        }
        let late = [other.as_str(); SIGNATURES_MAX].join(" ") + " " + GOOD;
        assert_eq!(check(&Scheme::Standard, &["s3cr3t"], &standard(&late), BODY, NOW), Err(WRONG), "bounded");
    }

    #[test]
    fn signatures_that_do_not_hold() {
        let table = [
            (standard(""), MISSING),
            (standard("v1,"), WRONG),
            (standard(&GOOD[3..]), WRONG),
            (standard(&GOOD.replacen("v1", "v2", 1)), WRONG),
            (standard(&GOOD.replace('=', "")), WRONG),
            (standard(&GOOD.replace('/', "_").replace('+', "-")), WRONG),
            // The last digit's unused bits are not zero: another text for the same bytes.
            (standard(&GOOD.replace("JjI=", "JjJ=")), WRONG),
            (standard("v1,c2af2849206c7d78d0129f9cbfb98bdd737ddcb85c4fa983df0e66079fea2632"), WRONG),
            (standard(GOOD).replace("msg_1", "msg_2"), WRONG),
            (standard(GOOD).replace("webhook-id: msg_1\r\n", ""), MISSING),
            (standard(GOOD).replace("webhook-id: msg_1", "webhook-id: "), MISSING),
            (standard(GOOD) + &standard(GOOD), MISSING),
            (standard(GOOD).replace("1710000000", "1710000001"), WRONG),
            (standard(GOOD).replace("1710000000", "+1710000000"), EXPIRED),
            (standard(GOOD).replace("1710000000", "1710000000.0"), EXPIRED),
            (standard(GOOD).replace("1710000000", "99999999999999999999999"), EXPIRED),
            (String::new(), MISSING),
        ];
        for (fields, expected) in table {
            assert_eq!(check(&Scheme::Standard, &["s3cr3t"], &fields, BODY, NOW), Err(expected), "{fields}");
        }
        for body in [&b"{\"a\": 1}"[..], b"{\"a\":1}\n", b"", b"{\"a\":2}"] {
            assert_eq!(check(&Scheme::Standard, &["s3cr3t"], &standard(GOOD), body, NOW), Err(WRONG));
        }
        assert_eq!(check(&Scheme::Standard, &["S3cr3t"], &standard(GOOD), BODY, NOW), Err(WRONG));
    }

    #[test]
    fn time_is_checked_both_ways() {
        let at = |now| check(&Scheme::Standard, &["s3cr3t"], &standard(GOOD), BODY, now);
        assert_eq!((at(NOW - TOLERANCE_SECS), at(NOW + TOLERANCE_SECS)), (Ok(()), Ok(())));
        assert_eq!(
            (at(NOW - TOLERANCE_SECS - 1), at(NOW + TOLERANCE_SECS + 1)),
            (Err(EXPIRED), Err(EXPIRED))
        );
        assert_eq!((at(0), at(u64::MAX)), (Err(EXPIRED), Err(EXPIRED)));
    }

    #[test]
    fn hex_is_lower_case_and_whole() {
        let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let ok = |value: &str| {
            let field = format!("X-Hub-Signature-256: {value}\r\n");
            check(&Scheme::Github, &["It's a Secret to Everybody"], &field, b"Hello, World!", NOW)
        };
        assert_eq!(ok(good), Ok(()));
        for bad in [
            &good[7..],
            &good.to_uppercase(),
            &good[..70],
            &format!("{good}0"),
            &good.replace("757", "7g7"),
            "sha256=",
        ] {
            assert_eq!(ok(bad), Err(WRONG), "{bad}");
        }
    }

    #[test]
    fn tokens() {
        let bearer = |field: &str| check(&Scheme::Bearer, &["k1", "k2"], field, b"", 0);
        assert_eq!(
            (bearer("Authorization: Bearer k2\r\n"), bearer("authorization: bearer k1\r\n")),
            (Ok(()), Ok(()))
        );
        for wrong in ["Bearer k", "Bearer k11", "Bearer  k1", "Basic k1", "k1", "Bearer", "Béarer k1"] {
            assert_eq!(bearer(&format!("Authorization: {wrong}\r\n")), Err(WRONG), "{wrong}");
        }
        assert_eq!(bearer(""), Err(MISSING));
        assert_eq!(bearer("Authorization: Bearer k1\r\nAuthorization: Bearer k1\r\n"), Err(MISSING));
        let scheme = Scheme::Token { header: String::from("X-Token") };
        assert_eq!(check(&scheme, &["k1"], "x-token: k1\r\n", b"", 0), Ok(()));
        assert_eq!(check(&scheme, &["k1"], "x-token: k2\r\n", b"", 0), Err(WRONG));
    }

    #[test]
    fn secrets_are_checked_and_not_shown() {
        assert!(["", "whsec_", "whsec_%%%", "whsec_abc"].iter().all(|text| Secret::new(text).is_none()));
        assert_eq!(format!("{:?}", Secret::new("hunter2").unwrap()), "Secret(…)");
    }
}
