//! The built-in tool that says what time it is, anywhere. The rules of time zones are compiled in: a container has none, and
//! to read files would hold up a shard.
use super::tool::{Outcome, Refusal};
use clawgate_core::codes::Code;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

/// What it is good for, for models.
pub(crate) const DESCRIPTION: &str = "Tells the current date and time. Use it whenever the answer depends on today's date \
                                      or on what time it is now, here or in another time zone.";

/// The schema of its arguments.
pub(crate) fn parameters() -> Value {
    json!({
        "type": "object",
        "properties": {
            "timezone": {
                "type": "string",
                "maxLength": 64,
                "description": "An IANA time zone, such as Europe/Rome or America/New_York. Left out: UTC.",
            },
        },
        "additionalProperties": false,
    })
}

/// What time it is.
pub(crate) fn call(unix_millis: u64, arguments: &Map<String, Value>) -> Outcome {
    let name = arguments.get("timezone").and_then(Value::as_str).unwrap_or("UTC");
    let refuse = |code, why: String| Outcome::failed(&Refusal::new(code, why));
    let Ok(zone) = TimeZone::get(name) else {
        return refuse(Code::ToolArguments, format!("{name:?} is no IANA time zone, such as Europe/Rome"));
    };
    let at = i64::try_from(unix_millis).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    let Some(at) = at else { return refuse(Code::ToolFailed, "the clock is wrong".to_owned()) };
    let local = at.to_zoned_datetime(zone);
    let text = json!({
        "time": local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        "weekday": local.strftime("%A").to_string(),
        "timezone": name,
        "unixSeconds": unix_millis / 1_000,
    });
    Outcome::said(text.to_string(), usize::MAX)
}

/// A time as people and programs read it: RFC 3339, UTC.
pub(crate) fn rfc3339(unix_millis: u64) -> String {
    let at = i64::try_from(unix_millis).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::schema::Schema;
    use super::*;

    #[test]
    fn it_says_the_time_anywhere() {
        // 2026-03-29 01:00 UTC: in Rome summer time begins.
        let at = 1_774_746_000_000;
        for (zone, time, weekday) in [
            (json!({}), "2026-03-29T01:00:00+00:00", "Sunday"),
            (json!({ "timezone": "Europe/Rome" }), "2026-03-29T03:00:00+02:00", "Sunday"),
            (json!({ "timezone": "America/New_York" }), "2026-03-28T21:00:00-04:00", "Saturday"),
            (json!({ "timezone": "Asia/Kathmandu" }), "2026-03-29T06:45:00+05:45", "Sunday"),
        ] {
            assert!(Schema::compile(&parameters()).unwrap().check(&zone).is_ok());
            let outcome = call(at, zone.as_object().unwrap());
            let said: Value = serde_json::from_str(&outcome.text).unwrap();
            assert_eq!((said["time"].as_str(), said["weekday"].as_str()), (Some(time), Some(weekday)));
        }
        for name in ["Mars/Olympus", "../../etc/passwd", "", "/etc/localtime"] {
            let outcome = call(at, json!({ "timezone": name }).as_object().unwrap());
            assert_eq!(outcome.code, Some(Code::ToolArguments), "{name}");
        }
        assert_eq!(rfc3339(at + 7), "2026-03-29T01:00:00.007Z");
    }
}
