//! How long a provider asks to wait, and what it leaves: the rate headers of all formats, read into one form.
//!
//! Owns their spellings: seconds, durations, dates. There is no clock here, so that a date is read against the response's
//! own `Date`, which is the clock that it was written by.
use clawgate_wire::http1::Headers;
use core::time::Duration;

/// A longer wait than a day is a mistake, or a spent budget.
pub const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// What is left of one thing that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// How many there are in all.
    pub limit: Option<u64>,
    /// How many are left.
    pub remaining: Option<u64>,
    /// When it is full again.
    pub reset: Option<Duration>,
}

/// What the head of a response says about its provider's rate limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The least wait before the next request.
    pub retry_after: Option<Duration>,
    /// Requests.
    pub requests: Window,
    /// Tokens.
    pub tokens: Window,
    /// Tokens of prompts, where they are counted apart.
    pub input_tokens: Window,
    /// Tokens of answers, where they are counted apart.
    pub output_tokens: Window,
}

impl Rates {
    /// Reads a head.
    #[must_use]
    pub fn read(headers: &Headers<'_>) -> Self {
        let now = headers.get("date").and_then(http_date);
        let millis = headers.get("retry-after-ms").and_then(|value| value.trim().parse::<u32>().ok());
        let millis = millis.map(|millis| Duration::from_millis(u64::from(millis)));
        let after = || headers.get("retry-after").and_then(|value| wait_of(value, now));
        let window = |openai: Option<[&str; 3]>, anthropic: [&str; 3]| {
            let field = |at: usize| {
                openai.and_then(|names| headers.get(names[at])).or_else(|| headers.get(anthropic[at]))
            };
            let count = |at| field(at).and_then(|value| value.trim().parse::<u64>().ok());
            let reset = field(2).and_then(|value| wait_of(value, now)).map(|wait| wait.min(WAIT_MAX));
            Window { limit: count(0), remaining: count(1), reset }
        };
        let openai = |names: [&'static str; 3]| Some(names);
        Self {
            retry_after: millis.or_else(after).map(|wait| wait.min(WAIT_MAX)),
            requests: window(
                openai([
                    "x-ratelimit-limit-requests",
                    "x-ratelimit-remaining-requests",
                    "x-ratelimit-reset-requests",
                ]),
                [
                    "anthropic-ratelimit-requests-limit",
                    "anthropic-ratelimit-requests-remaining",
                    "anthropic-ratelimit-requests-reset",
                ],
            ),
            tokens: window(
                openai([
                    "x-ratelimit-limit-tokens",
                    "x-ratelimit-remaining-tokens",
                    "x-ratelimit-reset-tokens",
                ]),
                [
                    "anthropic-ratelimit-tokens-limit",
                    "anthropic-ratelimit-tokens-remaining",
                    "anthropic-ratelimit-tokens-reset",
                ],
            ),
            input_tokens: window(
                None,
                [
                    "anthropic-ratelimit-input-tokens-limit",
                    "anthropic-ratelimit-input-tokens-remaining",
                    "anthropic-ratelimit-input-tokens-reset",
                ],
            ),
            output_tokens: window(
                None,
                [
                    "anthropic-ratelimit-output-tokens-limit",
                    "anthropic-ratelimit-output-tokens-remaining",
                    "anthropic-ratelimit-output-tokens-reset",
                ],
            ),
        }
    }

    /// How long a request that was refused has to wait; zero where nothing says.
    #[must_use]
    pub fn wait(&self) -> Duration {
        if let Some(wait) = self.retry_after {
            return wait;
        }
        // Each is counted apart: what is used up says how long; where none or all are, the longest, since the request
        // needed more of one of them than was left.
        let windows = [self.requests, self.tokens, self.input_tokens, self.output_tokens];
        let resets = windows.iter().filter_map(|window| window.reset.map(|reset| (window.remaining, reset)));
        let used_up = resets.clone().filter(|(remaining, _)| *remaining == Some(0));
        let longest = |waits: &mut dyn Iterator<Item = Duration>| waits.max();
        longest(&mut used_up.map(|(_, reset)| reset))
            .or_else(|| longest(&mut resets.map(|(_, reset)| reset)))
            .unwrap_or_default()
    }

    /// How long nothing more is granted, of a response that was granted itself: until what is used up is full again.
    /// `None` where something of everything is left, or nothing says when there will be.
    #[must_use]
    pub fn used_up(&self) -> Option<Duration> {
        let windows = [self.requests, self.tokens, self.input_tokens, self.output_tokens];
        let used_up = windows.iter().filter(|window| window.remaining == Some(0));
        used_up.filter_map(|window| window.reset).max().filter(|reset| !reset.is_zero())
    }
}

/// A wait in any of its spellings; `now` is what the response calls now, in Unix seconds.
fn wait_of(value: &str, now: Option<f64>) -> Option<Duration> {
    /// Plain numbers from here on are a time and no wait: seconds since 1970.
    const TIME_MIN: f64 = 1e9;
    let value = value.trim();
    let until = |time: f64| Duration::try_from_secs_f64((time - now?).max(0.0)).ok();
    match value.parse::<f64>() {
        Ok(millis) if 1000.0 * TIME_MIN <= millis && millis.is_finite() => until(millis / 1000.0),
        Ok(seconds) if TIME_MIN <= seconds && seconds.is_finite() && now.is_some() => until(seconds),
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => duration(value).or_else(|| until(rfc3339(value).or_else(|| http_date(value))?)),
    }
}

/// A duration as the rate headers write it: `12ms`, `7s`, `1m30s`, `6m0s`, `1h2m3.5s`.
fn duration(value: &str) -> Option<Duration> {
    let mut rest = value;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) =
            rest.split_at(rest.find(|char: char| char.is_ascii_alphabetic() || char == 'µ')?);
        let unit = tail.find(|char: char| !(char.is_ascii_alphabetic() || char == 'µ')).unwrap_or(tail.len());
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

/// `2026-10-21T07:28:00.5Z`, or with an offset, in Unix seconds.
fn rfc3339(value: &str) -> Option<f64> {
    let (date, time) = value.split_once(['T', 't', ' '])?;
    let mut date = date.split('-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let offset = match zone.as_bytes().first()? {
        b'Z' | b'z' => 0.0,
        sign => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = 3_600.0 * number(hours)? + 60.0 * number(minutes)?;
            if *sign == b'-' { -seconds } else { seconds }
        }
    };
    Some(days(number(year)?, number(month)?, number(day)?)? * 86_400.0 + clock(time)? - offset)
}

/// `Wed, 21 Oct 2026 07:28:00 GMT`, in Unix seconds: the form of RFC 9110 5.6.7 that senders must write.
fn http_date(value: &str) -> Option<f64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = value.split_once(", ")?.1.split(' ');
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)?;
    let days = days(number(year)?, f64::from(u8::try_from(month + 1).ok()?), number(day)?)?;
    (words.next() == Some("GMT")).then_some(())?;
    Some(days * 86_400.0 + clock(time)?)
}

/// `07:28:00.25`, in seconds.
fn clock(time: &str) -> Option<f64> {
    let mut parts = time.split(':');
    let seconds = 3_600.0 * number(parts.next()?)? + 60.0 * number(parts.next()?)? + number(parts.next()?)?;
    parts.next().is_none().then_some(seconds)
}

/// A number of digits and one point, within what dates hold.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && text.len() <= 20;
    text.parse().ok().filter(|number| plain && *number < 10_000.0)
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days(year: f64, month: f64, day: f64) -> Option<f64> {
    if !(1.0..=12.0).contains(&month) || !(1.0..=31.0).contains(&day) || year < 1970.0 {
        return None;
    }
    // A year that begins in March has its leap day at its end.
    let (year, month) = if month <= 2.0 { (year - 1.0, month + 9.0) } else { (year, month - 3.0) };
    let leap_days = (year / 4.0).floor() - (year / 100.0).floor() + (year / 400.0).floor();
    Some(365.0 * year + leap_days + ((153.0 * month + 2.0) / 5.0).floor() + day - 1.0 - 719_468.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clawgate_wire::http1::{HeadLimits, parse_response};

    fn read(fields: &str) -> Rates {
        let head = format!("HTTP/1.1 429 X\r\nContent-Length: 0\r\n{fields}\r\n");
        let limits = HeadLimits { head_bytes_max: 8_192, headers_max: 32, target_bytes_max: 64 };
        Rates::read(&parse_response(head.as_bytes(), &limits, false).unwrap().unwrap().headers)
    }

    #[test]
    fn waits() {
        let date = "Date: Wed, 21 Oct 2026 07:28:00 GMT\r\n";
        for (fields, millis) in [
            ("", 0),
            ("Retry-After: 1.5\r\n", 1_500),
            ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n", 0),
            (&format!("{date}Retry-After: Wed, 21 Oct 2026 07:28:09 GMT\r\n"), 9_000),
            (&format!("{date}Retry-After: Wed, 21 Oct 2026 07:00:00 GMT\r\n"), 0),
            (&format!("{date}Retry-After: Thu, 22 Oct 2099 07:28:09 GMT\r\n"), 86_400_000),
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
            (&format!("{date}anthropic-ratelimit-tokens-reset: 2026-10-21T07:28:30Z\r\n"), 30_000),
            (&format!("{date}anthropic-ratelimit-tokens-reset: 2026-10-21T09:28:30.5+02:00\r\n"), 30_500),
            ("anthropic-ratelimit-tokens-reset: 2026-10-21T07:28:30Z\r\n", 0),
            (&format!("{date}x-ratelimit-reset-requests: 1792567690\r\n"), 10_000),
            (&format!("{date}x-ratelimit-reset-requests: 1792567690500\r\n"), 10_500),
        ] {
            assert_eq!(read(fields).wait(), Duration::from_millis(millis), "{fields}");
        }
    }

    #[test]
    fn what_is_used_up() {
        for (fields, millis) in [
            ("", None),
            ("Retry-After: 3\r\n", None),
            ("x-ratelimit-remaining-requests: 1\r\nx-ratelimit-reset-requests: 7s\r\n", None),
            ("x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 7s\r\n", Some(7_000)),
            ("x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 0s\r\n", None),
            ("x-ratelimit-remaining-requests: 0\r\n", None),
            ("x-ratelimit-remaining-requests: -1\r\nx-ratelimit-reset-requests: 7s\r\n", None),
            (
                "x-ratelimit-remaining-requests: 0\r\nx-ratelimit-reset-requests: 7s\r\n\
                 x-ratelimit-remaining-tokens: 0\r\nx-ratelimit-reset-tokens: 900ms\r\n",
                Some(7_000),
            ),
        ] {
            assert_eq!(read(fields).used_up(), millis.map(Duration::from_millis), "{fields}");
        }
    }

    #[test]
    fn windows() {
        let rates = read(
            "Date: Wed, 21 Oct 2026 07:28:00 GMT\r\nanthropic-ratelimit-requests-limit: 50\r\n\
             anthropic-ratelimit-requests-remaining: 49\r\nanthropic-ratelimit-requests-reset: 2026-10-21T07:29:00Z\r\n\
             anthropic-ratelimit-input-tokens-remaining: 0\r\nanthropic-ratelimit-output-tokens-limit: 8000\r\n\
             x-ratelimit-limit-tokens: 150000\r\nx-ratelimit-remaining-tokens: -1\r\n",
        );
        let minute = Some(Duration::from_secs(60));
        assert_eq!(rates.requests, Window { limit: Some(50), remaining: Some(49), reset: minute });
        assert_eq!(rates.input_tokens, Window { remaining: Some(0), ..Window::default() });
        assert_eq!(rates.output_tokens, Window { limit: Some(8_000), ..Window::default() });
        assert_eq!(rates.tokens, Window { limit: Some(150_000), ..Window::default() });
        assert_eq!(rates.retry_after, None);
    }

    #[test]
    fn spellings() {
        for (text, micros) in [
            ("12ms", Some(12_000)),
            ("7s", Some(7_000_000)),
            ("1m30s", Some(90_000_000)),
            ("6m0s", Some(360_000_000)),
            ("1h2m3.5s", Some(3_723_500_000)),
            ("2d", Some(172_800_000_000)),
            ("500us", Some(500)),
            ("500µs", Some(500)),
            ("3", Some(3_000_000)),
            ("0.25", Some(250_000)),
            ("-1", None),
            ("-1s", None),
            ("s", None),
            ("1x", None),
            ("1m30", None),
            ("ms12", None),
            ("1e400s", None),
            ("é", None),
        ] {
            assert_eq!(wait_of(text, None), micros.map(Duration::from_micros), "{text}");
        }
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0.0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600.0)),
            ("2026-11-27T18:33:08Z", Some(1_795_804_388.0)),
            ("2026-11-27T18:33:08-01:00", Some(1_795_807_988.0)),
            ("2026-13-27T18:33:08Z", None),
            ("2026-11-27", None),
            ("2026-11-27T18:33Z", None),
            ("T", None),
            ("é-1-1TZ", None),
        ] {
            assert_eq!(rfc3339(text), seconds, "{text}");
        }
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777.0));
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 CET"), None);
        assert_eq!(http_date("Sunday, 06-Nov-94 08:49:37 GMT"), None);
    }
}
