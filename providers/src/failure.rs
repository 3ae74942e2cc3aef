//! How providers fail: HTTP statuses, rate headers and error bodies to a failure and whether it may be tried again.
//!
//! Owns the decision for one call; what is done with it (back-off, next model, breaker) is the core's.
use crate::Json;
use clawgate_core::codes::Code;
use clawgate_core::event::{Failure, Retry};
use clawgate_wire::http1::Headers;
use core::time::Duration;
use simd_json::prelude::*;
use simd_json::tape::Value;

/// Bytes of the upstream's own words that are kept.
pub const DETAIL_BYTES_MAX: usize = 512;
/// A longer wait than a day is a mistake, or a spent budget.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// The answer broke off.
pub(crate) const TRUNCATED: Failure<'static> = Failure {
    code: Code::UpstreamTruncated,
    retry: Retry::Backoff,
    detail: "the answer broke off before its end",
};

/// What an error body says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The account's budget is spent: waiting does not help.
    Spent,
    /// The key, the account or the model is refused.
    Denied,
    /// The request itself is wrong.
    Wrong,
    /// Too many requests.
    Limited,
}

/// What to do about a failed response, or about an error inside a response whose status was good (then `status` is 200,
/// or what the error itself says). `wait` is how long the headers ask to wait; zero where they do not.
#[must_use]
pub const fn classify(status: u16, reason: Option<Reason>, wait: Duration) -> (Code, Retry) {
    let after = if wait.is_zero() { Retry::Backoff } else { Retry::After(wait) };
    match (status, reason) {
        (429, Some(Reason::Spent)) => (Code::UpstreamFailed, Retry::Elsewhere),
        (429, _) | (200, Some(Reason::Limited)) => (Code::UpstreamRateLimited, after),
        (200, Some(Reason::Spent | Reason::Denied)) => (Code::UpstreamFailed, Retry::Elsewhere),
        (200, Some(Reason::Wrong)) => (Code::UpstreamFailed, Retry::Never),
        (200, None) | (408 | 409 | 425, _) => (Code::UpstreamFailed, Retry::Backoff),
        // A redirect is not followed: the key would go where nobody configured it.
        (..=399 | 401..=407 | 410, _) => (Code::UpstreamFailed, Retry::Elsewhere),
        (500.., _) => (Code::UpstreamFailed, after),
        _ => (Code::UpstreamFailed, Retry::Never),
    }
}

/// Reads a response that is no answer. `detail` is replaced; `secret` never shows in it.
pub(crate) fn read<'a>(
    status: u16,
    headers: &Headers<'_>,
    body: &mut [u8],
    json: &mut Json,
    secret: &str,
    detail: &'a mut String,
) -> Failure<'a> {
    detail.clear();
    let reason = json.read(body, |value| {
        let error = value.get("error").unwrap_or(value);
        push(detail, message_of(error).unwrap_or_default());
        reason_of(error)
    });
    if detail.is_empty() {
        push(detail, "HTTP ");
        push(detail, &status.to_string());
    }
    // Some upstreams repeat the key that they refuse.
    if 8 <= secret.len() && detail.contains(secret) {
        *detail = detail.replace(secret, "…");
    }
    let (code, retry) = classify(status, reason.flatten(), wait_of(headers));
    Failure { code, retry, detail }
}

fn push(detail: &mut String, text: &str) {
    detail.extend(cut(text).chars().filter(|char| !char.is_control()));
}

/// The start of a text, within [`DETAIL_BYTES_MAX`].
pub(crate) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(DETAIL_BYTES_MAX)).unwrap_or(text)
}

/// The words of an error: `{"message"}`, or the error itself if it is a text.
pub(crate) fn message_of<'b>(error: Value<'_, 'b>) -> Option<&'b str> {
    let at = |key| error.get(key).and_then(ValueIntoString::into_string);
    error.into_string().or_else(|| at("message")).or_else(|| at("detail"))
}

/// What an error says of itself in `code` and `type`.
pub(crate) fn reason_of(error: Value<'_, '_>) -> Option<Reason> {
    let at = |key| error.get(key).and_then(ValueIntoString::into_string);
    [at("code"), at("type")].into_iter().flatten().find_map(|name| match name {
        "insufficient_quota"
        | "billing_hard_limit_reached"
        | "billing_not_active"
        | "exceeded_current_quota_error" => Some(Reason::Spent),
        "invalid_api_key" | "authentication_error" | "permission_denied" | "model_not_found" => {
            Some(Reason::Denied)
        }
        "invalid_authentication_error" | "permission_denied_error" | "resource_not_found_error" => {
            Some(Reason::Denied)
        }
        "invalid_request_error" | "context_length_exceeded" | "content_filter" => Some(Reason::Wrong),
        "rate_limit_exceeded" | "rate_limit_error" | "rate_limit_reached_error" => Some(Reason::Limited),
        _ => None,
    })
}

/// How long the headers ask to wait; zero where they do not say.
fn wait_of(headers: &Headers<'_>) -> Duration {
    let millis = headers.get("retry-after-ms").and_then(|value| value.trim().parse::<u32>().ok());
    if let Some(millis) = millis {
        return Duration::from_millis(u64::from(millis)).min(WAIT_MAX);
    }
    let seconds = headers.get("retry-after").and_then(seconds_of);
    // Requests and tokens are counted apart: what is used up says how long; if both are left, the larger, since the request
    // needed more of one of them than was left.
    let reset = |kind: [&str; 2]| {
        let left = headers.get(kind[0]).and_then(|value| value.trim().parse::<i64>().ok());
        let wait = headers.get(kind[1]).and_then(duration_of).unwrap_or_default();
        (left == Some(0), wait)
    };
    let requests = reset(["x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]);
    let tokens = reset(["x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]);
    let resets = match (requests, tokens) {
        ((true, wait), (false, _)) | ((false, _), (true, wait)) => wait,
        ((_, requests), (_, tokens)) => requests.max(tokens),
    };
    seconds.unwrap_or(resets).min(WAIT_MAX)
}

/// `Retry-After` in seconds, with a fraction if need be. A date says nothing to one without a clock.
fn seconds_of(value: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(value.trim().parse().ok()?).ok()
}

/// A duration as the rate headers write it: `12ms`, `7s`, `1m30s`, `6m0s`, `1h2m3.5s`, or plain seconds.
fn duration_of(value: &str) -> Option<Duration> {
    let mut rest = value.trim();
    if let Some(seconds) = seconds_of(rest) {
        return Some(seconds);
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|char: char| char.is_ascii_alphabetic())?);
        let unit = tail.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let secs = match unit {
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * secs).ok()?)?;
        rest = tail;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_wire::http1::{HeadLimits, parse_response};

    const KEY: &str = "sk-test-1234567890";

    /// Reads a failed response with these header fields, as they stand in a head.
    fn check(status: u16, fields: &str, body: &str) -> (Code, Retry, String) {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{fields}\r\n");
        let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
        let head = parse_response(head.as_bytes(), &limits, false).unwrap().unwrap();
        let mut detail = String::from("left over");
        let mut bytes = body.as_bytes().to_vec();
        let failure = read(status, &head.headers, &mut bytes, &mut Json::new(), KEY, &mut detail);
        (failure.code, failure.retry, failure.detail.to_owned())
    }

    #[test]
    fn statuses() {
        use Code::{UpstreamFailed, UpstreamRateLimited};
        use Retry::{After, Backoff, Elsewhere, Never};
        let secs = |secs| After(Duration::from_secs(secs));
        let spent = r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota"}}"#;
        for (status, fields, body, code, retry) in [
            (400, "", "", UpstreamFailed, Never),
            (401, "", "", UpstreamFailed, Elsewhere),
            (402, "", "", UpstreamFailed, Elsewhere),
            (403, "", "", UpstreamFailed, Elsewhere),
            (404, "", "", UpstreamFailed, Elsewhere),
            (408, "", "", UpstreamFailed, Backoff),
            (409, "", "", UpstreamFailed, Backoff),
            (413, "", "", UpstreamFailed, Never),
            (422, "", "", UpstreamFailed, Never),
            (429, "", "", UpstreamRateLimited, Backoff),
            (429, "Retry-After: 7\r\n", "", UpstreamRateLimited, secs(7)),
            (429, "Retry-After: 7\r\n", spent, UpstreamFailed, Elsewhere),
            (500, "", "", UpstreamFailed, Backoff),
            (502, "", "<html>", UpstreamFailed, Backoff),
            (503, "Retry-After: 2\r\n", "", UpstreamFailed, secs(2)),
            (529, "retry-after: 30\r\n", "", UpstreamFailed, secs(30)),
            (302, "", "", UpstreamFailed, Elsewhere),
        ] {
            let (got_code, got_retry, _) = check(status, fields, body);
            assert_eq!((got_code, got_retry), (code, retry), "{status} {fields} {body}");
        }
    }

    #[test]
    fn waits() {
        let wait = |fields: &str| match check(429, fields, "").1 {
            Retry::After(wait) => wait,
            Retry::Backoff => Duration::ZERO,
            Retry::Elsewhere | Retry::Never => Duration::MAX,
        };
        let millis = Duration::from_millis;
        for (fields, expected) in [
            ("Retry-After: 1.5\r\n", 1_500),
            ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", 0),
            ("Retry-After: -1\r\n", 0),
            ("Retry-After: inf\r\n", 0),
            ("Retry-After: 1e30\r\n", 0),
            ("Retry-After: 999999999\r\n", 86_400_000),
            ("retry-after-ms: 250\r\nRetry-After: 1\r\n", 250),
            ("Retry-After: 3\r\nx-ratelimit-reset-tokens: 9s\r\n", 3_000),
            ("x-ratelimit-reset-requests: 12ms\r\n", 12),
            ("x-ratelimit-reset-requests: 12ms\r\nx-ratelimit-reset-tokens: 1m30s\r\n", 90_000),
            (
                "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 7s\r\n\
                 x-ratelimit-remaining-tokens: 500\r\nx-ratelimit-reset-tokens: 6m0s\r\n",
                7_000,
            ),
            (
                "x-ratelimit-remaining-requests: 3\r\nx-ratelimit-reset-requests: 7s\r\n\
                 x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 2s\r\n",
                2_000,
            ),
            ("x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: -1\r\n", 0),
        ] {
            assert_eq!(wait(fields), millis(expected), "{fields}");
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("12ms", Some(12_000)),
            ("7s", Some(7_000_000)),
            ("1m30s", Some(90_000_000)),
            ("6m0s", Some(360_000_000)),
            ("1h2m3.5s", Some(3_723_500_000)),
            ("2d", Some(172_800_000_000)),
            ("500us", Some(500)),
            ("3", Some(3_000_000)),
            ("0.25", Some(250_000)),
            ("", Some(0)),
            ("-1", None),
            ("-1s", None),
            ("s", None),
            ("1x", None),
            ("1m30", None),
            ("ms12", None),
            ("1e400s", None),
            ("é", None),
        ] {
            assert_eq!(duration_of(text), expected.map(Duration::from_micros), "{text}");
        }
    }

    #[test]
    fn words() {
        let words = |body: &str| check(400, "", body).2;
        for (body, expected) in [
            (r#"{"error":{"message":"bad \u0007 thing","type":"x"}}"#, "bad  thing"),
            (r#"{"error":"plain words"}"#, "plain words"),
            (r#"{"message":"of vLLM","code":400}"#, "of vLLM"),
            (r#"{"detail":"of FastAPI"}"#, "of FastAPI"),
            (r#"{"error":{"message":7}}"#, "HTTP 400"),
            ("<html>no</html>", "HTTP 400"),
            ("", "HTTP 400"),
            ("[", "HTTP 400"),
        ] {
            assert_eq!(words(body), expected, "{body}");
        }
        let echoed = format!(r#"{{"error":{{"message":"Incorrect API key provided: {KEY}."}}}}"#);
        assert_eq!(check(401, "", &echoed).2, "Incorrect API key provided: ….");
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "é".repeat(DETAIL_BYTES_MAX));
        assert_eq!(words(&long).len(), DETAIL_BYTES_MAX);
    }
}
