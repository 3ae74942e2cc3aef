//! Times as the gateway writes them, and the time that it is, by its own account. Tests read no clock.
use super::http::Answer;

/// Unix seconds of an RFC 3339 time in UTC, with or without a fraction. Fails where it is no such time.
#[track_caller]
pub(crate) fn unix_seconds(text: &str) -> u64 {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let bare = shape.trim_end_matches('Z').split('.').next().unwrap();
    assert!(bare == "0000-00-00T00:00:00" && shape.ends_with('Z'), "{text:?} is no RFC 3339 time in UTC");
    let number = |at: std::ops::Range<usize>| text[at].parse::<u64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days of the civil calendar, counted in years that begin in March (Hinnant, "chrono-compatible low-level date
    // algorithms").
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    days * 86_400 + number(11..13) * 3_600 + number(14..16) * 60 + number(17..19)
}

/// When the gateway wrote this answer.
#[track_caller]
pub(crate) fn written_at(answer: &Answer) -> u64 {
    unix_seconds(answer.json()["timestamp"].as_str().unwrap())
}

#[test]
fn times_are_read() {
    assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), 0);
    assert_eq!(unix_seconds("2000-02-29T23:59:59.999Z"), 951_868_799);
    assert_eq!(unix_seconds("2026-03-10T08:30:00Z"), 1_773_131_400);
}
