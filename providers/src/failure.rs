//! How providers fail: HTTP statuses, rate headers and error bodies to a failure and whether it may be tried again.
//!
//! Owns the decision for one call; what is done with it (back-off, next model, breaker) is the core's.
use crate::rates::Rates;
use crate::raw::{Raw, Text};
use clawgate_core::codes::Code;
use clawgate_core::event::{Failure, Retry};
use clawgate_wire::http1::Headers;
use core::time::Duration;

/// Bytes of the upstream's own words that are kept.
pub const DETAIL_BYTES_MAX: usize = 512;
/// The answer broke off.
pub(crate) const TRUNCATED: Failure<'static> = Failure {
    code: Code::UpstreamTruncated,
    retry: Retry::Backoff,
    status: 0,
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
    /// The provider has no room, or is broken.
    Overloaded,
}

/// What to do about a failed response, or about an error inside a response whose status was good (then `status` is 200,
/// or what the error itself says). `wait` is how long the headers ask to wait; zero where they do not.
#[must_use]
pub const fn classify(status: u16, reason: Option<Reason>, wait: Duration) -> (Code, Retry) {
    let after = if wait.is_zero() { Retry::Backoff } else { Retry::After(wait) };
    match (status, reason) {
        (429 | 400, Some(Reason::Spent)) => (Code::UpstreamFailed, Retry::Elsewhere),
        (429, _) | (200, Some(Reason::Limited)) => (Code::UpstreamRateLimited, after),
        (200, Some(Reason::Spent | Reason::Denied)) => (Code::UpstreamFailed, Retry::Elsewhere),
        (200, Some(Reason::Wrong)) => (Code::UpstreamFailed, Retry::Never),
        // Some servers tell overload with the status of a bad request.
        (200 | 400 | 500.., Some(Reason::Overloaded)) => (Code::UpstreamFailed, after),
        (200, None) | (408 | 409 | 425, _) => (Code::UpstreamFailed, Retry::Backoff),
        // A redirect is not followed: the key would go where nobody configured it. Who redirects every call is broken.
        (..=399, _) => (Code::UpstreamFailed, Retry::Backoff),
        (401..=407 | 410, _) => (Code::UpstreamFailed, Retry::Elsewhere),
        (500.., _) => (Code::UpstreamFailed, after),
        _ => (Code::UpstreamFailed, Retry::Never),
    }
}

/// Reads a response that is no answer. `detail` is replaced; `secret` never shows in it.
pub(crate) fn read<'a>(
    status: u16,
    headers: &Headers<'_>,
    body: &[u8],
    secret: &str,
    detail: &'a mut String,
) -> Failure<'a> {
    detail.clear();
    let mut reason = None;
    if let Some(body) = Raw::parse(body) {
        let error = body.field("error").unwrap_or(body);
        push(detail, &message_of(error).unwrap_or_default().plain());
        reason = reason_of(error);
    }
    if detail.is_empty() {
        push(detail, "HTTP ");
        push(detail, &status.to_string());
    }
    // Some upstreams repeat the key that they refuse.
    if 8 <= secret.len() && detail.contains(secret) {
        *detail = detail.replace(secret, "…");
    }
    let (code, retry) = classify(status, reason, Rates::read(headers).wait());
    Failure { code, retry, status, detail }
}

/// A response whose body nobody here can read, told by its head: it came in a coding that was not asked for.
#[must_use]
pub fn unreadable(headers: &Headers<'_>) -> Option<Failure<'static>> {
    let coding = headers.get("content-encoding").map(str::trim).unwrap_or_default();
    (!coding.is_empty() && !coding.eq_ignore_ascii_case("identity")).then_some(COMPRESSED)
}

/// The answer is compressed, though nobody asked for it. Who does that with every answer is as broken as who sends none.
pub(crate) const COMPRESSED: Failure<'static> = Failure {
    code: Code::UpstreamMalformed,
    retry: Retry::Backoff,
    status: 0,
    detail: "the answer is compressed, which was not asked for",
};

/// An error inside a response whose status was good: what to do about it, and its words.
pub(crate) fn inside<'a>(error: Raw<'_>, scratch: &'a mut String) -> Failure<'a> {
    // OpenRouter puts the status that the head could no longer carry into `code`.
    let status = error.get("code").and_then(Raw::u64).and_then(|code| u16::try_from(code).ok());
    let status = status.filter(|code| 400 <= *code);
    let (code, retry) = classify(status.unwrap_or(200), reason_of(error), Duration::ZERO);
    scratch.clear();
    match message_of(error) {
        Some(message) => message.push_to(scratch),
        None => scratch.push_str("the model failed without a word"),
    }
    Failure { code, retry, status: status.unwrap_or(0), detail: cut(scratch) }
}

fn push(detail: &mut String, text: &str) {
    detail.extend(cut(text).chars().filter(|char| !char.is_control()));
}

/// The start of a text, within [`DETAIL_BYTES_MAX`].
pub(crate) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(DETAIL_BYTES_MAX)).unwrap_or(text)
}

/// The words of an error: `{"message"}`, or the error itself if it is a text.
pub(crate) fn message_of(error: Raw<'_>) -> Option<Text<'_>> {
    let at = |key| error.get(key).and_then(Raw::text);
    error.text().or_else(|| at("message")).or_else(|| at("detail"))
}

/// What an error says of itself in `code` and `type`.
pub(crate) fn reason_of(error: Raw<'_>) -> Option<Reason> {
    let at = |key| error.get(key).and_then(Raw::text);
    let named = [at("code"), at("type")].into_iter().flatten().find_map(|name| match name.key() {
        "insufficient_quota"
        | "billing_hard_limit_reached"
        | "billing_not_active"
        | "billing_error"
        | "exceeded_current_quota_error" => Some(Reason::Spent),
        "invalid_api_key" | "authentication_error" | "permission_denied" | "permission_error" => {
            Some(Reason::Denied)
        }
        "invalid_authentication_error" | "permission_denied_error" | "resource_not_found_error" => {
            Some(Reason::Denied)
        }
        "model_not_found" | "not_found_error" => Some(Reason::Denied),
        "invalid_request_error" | "context_length_exceeded" | "content_filter" => Some(Reason::Wrong),
        "request_too_large" | "invalid_prompt" | "unsupported_value" => Some(Reason::Wrong),
        "rate_limit_exceeded" | "rate_limit_error" | "rate_limit_reached_error" => Some(Reason::Limited),
        "overloaded_error" | "server_error" | "api_error" | "timeout_error" => Some(Reason::Overloaded),
        "engine_overloaded_error" => Some(Reason::Overloaded),
        _ => None,
    });
    // Anthropic tells a spent budget from a rate by its words alone.
    match named {
        None | Some(Reason::Limited | Reason::Wrong) if speaks_of_money(error) => Some(Reason::Spent),
        named => named,
    }
}

fn speaks_of_money(error: Raw<'_>) -> bool {
    let words = message_of(error).map(|words| cut(&words.plain()).to_ascii_lowercase());
    let said = ["usage limit", "spend limit", "spending limit", "spend cap", "credit balance"];
    words.is_some_and(|words| said.iter().any(|phrase| words.contains(phrase)))
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
        let failure = read(status, &head.headers, body.as_bytes(), KEY, &mut detail);
        (failure.code, failure.retry, failure.detail.to_owned())
    }

    #[test]
    fn statuses() {
        use Code::{UpstreamFailed, UpstreamRateLimited};
        use Retry::{After, Backoff, Elsewhere, Never};
        let secs = |secs| After(Duration::from_secs(secs));
        let anthropic = |kind: &str, words: &str| {
            format!(
                r#"{{"type":"error","error":{{"type":"{kind}","message":"{words}"}},"request_id":"req_1"}}"#
            )
        };
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
            (302, "", "", UpstreamFailed, Backoff),
            (
                429,
                "Retry-After: 7\r\n",
                anthropic("rate_limit_error", "x").as_str(),
                UpstreamRateLimited,
                secs(7),
            ),
            (
                429,
                "",
                &anthropic("rate_limit_error", "You have reached your API usage limits."),
                UpstreamFailed,
                Elsewhere,
            ),
            (
                400,
                "",
                &anthropic("invalid_request_error", "Your credit balance is too low"),
                UpstreamFailed,
                Elsewhere,
            ),
            (400, "", &anthropic("invalid_request_error", "max_tokens: required"), UpstreamFailed, Never),
            (402, "", &anthropic("billing_error", "x"), UpstreamFailed, Elsewhere),
            (403, "", &anthropic("permission_error", "x"), UpstreamFailed, Elsewhere),
            (413, "", &anthropic("request_too_large", "x"), UpstreamFailed, Never),
            (500, "", &anthropic("api_error", "x"), UpstreamFailed, Backoff),
            (529, "", &anthropic("overloaded_error", "Overloaded"), UpstreamFailed, Backoff),
            (400, "", &anthropic("overloaded_error", "Overloaded"), UpstreamFailed, Backoff),
        ] {
            let (got_code, got_retry, _) = check(status, fields, body);
            assert_eq!((got_code, got_retry), (code, retry), "{status} {fields} {body}");
        }
    }

    #[test]
    fn codings() {
        for (fields, is_readable) in [
            ("", true),
            ("Content-Encoding: identity\r\n", true),
            ("Content-Encoding:\r\n", true),
            ("content-encoding: gzip\r\n", false),
            ("Content-Encoding: BR, identity\r\n", false),
        ] {
            let head = format!("HTTP/1.1 200 X\r\nContent-Length: 0\r\n{fields}\r\n");
            let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
            let head = parse_response(head.as_bytes(), &limits, false).unwrap().unwrap();
            assert_eq!(unreadable(&head.headers).is_none(), is_readable, "{fields}");
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
