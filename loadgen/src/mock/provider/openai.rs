//! What both of OpenAI's formats share: errors, rates, why an answer ends.
//! <https://platform.openai.com/docs/guides/error-codes>

use serde_json::{Value, json};

use super::check::Refusal;

pub(super) const RATES: [(&str, &str); 6] = [
    ("x-ratelimit-limit-requests", "5000"),
    ("x-ratelimit-remaining-requests", "4999"),
    ("x-ratelimit-reset-requests", "12ms"),
    ("x-ratelimit-limit-tokens", "160000"),
    ("x-ratelimit-remaining-tokens", "159000"),
    ("x-ratelimit-reset-tokens", "6m0s"),
];

pub(super) const RATES_USED_UP: [(&str, &str); 4] = [
    ("x-ratelimit-limit-requests", "5000"),
    ("x-ratelimit-remaining-requests", "0"),
    ("x-ratelimit-reset-requests", "1s"),
    ("x-ratelimit-remaining-tokens", "0"),
];

/// An error's type and code.
const fn names(refusal: &Refusal) -> (&'static str, Option<&'static str>) {
    match (refusal.status, refusal.spent) {
        (_, true) => ("insufficient_quota", Some("insufficient_quota")),
        (401, _) => ("invalid_request_error", Some("invalid_api_key")),
        (402, _) => ("billing_not_active", Some("billing_not_active")),
        (403, _) => ("permission_denied", Some("permission_denied")),
        (404, _) => ("invalid_request_error", Some("model_not_found")),
        (429, _) => ("rate_limit_exceeded", Some("rate_limit_exceeded")),
        (400..500, _) => ("invalid_request_error", None),
        (503, _) => ("overloaded_error", None),
        _ => ("server_error", None),
    }
}

pub(super) fn error(refusal: &Refusal) -> Value {
    let (kind, code) = names(refusal);
    let param = Some(&refusal.param).filter(|param| !param.is_empty());
    json!({"error": {"message": refusal.message, "type": kind, "param": param, "code": code}})
}
