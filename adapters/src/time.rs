//! RFC 3339 dates, from and to Unix milliseconds. Owns the calendar; reads no clock.

const DAY_SECS: u64 = 86_400;
/// 9999-12-31T23:59:59Z: RFC 3339 section 5.6 has four digits for the year.
const LAST_SECS: u64 = 253_402_300_799;

/// Writes a time in UTC, whole seconds: `2026-03-10T08:30:00Z`. Times after the year 9999 are written as its end.
pub fn write_rfc3339(out: &mut Vec<u8>, unix_millis: u64) {
    let secs = (unix_millis / 1_000).min(LAST_SECS);
    let (year, month, day) = civil_of(secs / DAY_SECS);
    let of_day = secs % DAY_SECS;
    let mut text = *b"0000-00-00T00:00:00Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], of_day / 3_600);
    digits(&mut text[14..16], of_day / 60 % 60);
    digits(&mut text[17..19], of_day % 60);
    out.extend_from_slice(&text);
}

fn digits(out: &mut [u8], mut number: u64) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The civil date of a day counted from 1970-01-01: Howard Hinnant's `civil_from_days`, for days that are not negative.
const fn civil_of(day: u64) -> (u64, u64, u64) {
    // Years that begin in March put the leap day last, and eras of 400 years are all of one length.
    let shifted = day + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day_of_month)
}

/// Reads an RFC 3339 date as Unix milliseconds; `None` for what is none, and for times before 1970.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let fixed = bytes.get(..19)?;
    let separators = [(4, b"-"), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")] as [(usize, &[u8]); 5];
    if !separators.iter().all(|(at, allowed)| allowed.contains(&fixed[*at])) {
        return None;
    }
    let (year, month, day) = (number(&fixed[0..4])?, number(&fixed[5..7])?, number(&fixed[8..10])?);
    let (hour, minute) = (number(&fixed[11..13])?, number(&fixed[14..16])?);
    // A leap second is counted as the one before it, as Unix time does.
    let second = number(&fixed[17..19])?;
    let known = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
    if !known || 23 < hour || 59 < minute || 60 < second {
        return None;
    }
    let (millis, zone) = fraction_of(bytes.get(19..)?)?;
    let secs = days_before(year, month, day)? * DAY_SECS + hour * 3_600 + minute * 60 + second.min(59);
    let utc = secs.checked_add_signed(-offset_secs_of(zone)?)?;
    Some(utc * 1_000 + millis)
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// The milliseconds of a fraction of a second, and what follows it.
fn fraction_of(rest: &[u8]) -> Option<(u64, &[u8])> {
    let Some(rest) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, zone) = rest.split_at(count);
    let padded = [0, 1, 2].map(|at| fraction.get(at).copied().unwrap_or(b'0'));
    Some((number(&padded)?, zone)).filter(|_| 0 < count)
}

/// Seconds that the zone is ahead of UTC.
fn offset_secs_of(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            let secs = i64::try_from(hours * 3_600 + minutes * 60).ok()?;
            (hours < 24 && minutes < 60).then_some(if *sign == b'+' { secs } else { -secs })
        }
        _ => None,
    }
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this date: Hinnant's `days_from_civil`.
fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let month_from_march = if 2 < month { month - 3 } else { month + 9 };
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let year_of_era = year % 400;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    (year / 400 * 146_097 + of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn written(unix_millis: u64) -> String {
        let mut out = Vec::new();
        write_rfc3339(&mut out, unix_millis);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_dates() {
        // From `date -u -d @SECONDS +%FT%TZ`.
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (68_256_000, "1972-03-01T00:00:00Z"),
            (946_684_799, "1999-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_020_800, "2024-02-27T08:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_773_131_400, "2026-03-10T08:30:00Z"),
            (2_147_483_648, "2038-01-19T03:14:08Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST_SECS, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(written(secs * 1_000 + 999), text);
            assert_eq!(parse_rfc3339(text), Some(secs * 1_000), "{text}");
        }
        assert_eq!(written(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn every_day_is_one_after_the_day_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for count in 0..=LAST_SECS / DAY_SECS {
            assert_eq!((civil_of(count), days_before(year, month, day)), ((year, month, day), Some(count)));
            day += 1;
            if days_of(year, month) < day {
                (month, day) = (month + 1, 1);
            }
            if 12 < month {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn forms_of_rfc3339() {
        for (text, millis) in [
            ("1985-04-12T23:20:50.52Z", Some(482_196_050_520)),
            ("1996-12-19T16:39:57-08:00", Some(851_042_397_000)),
            ("1990-12-31T23:59:60Z", Some(662_687_999_000)),
            ("1990-12-31T15:59:60-08:00", Some(662_687_999_000)),
            ("1970-01-01t00:00:00.0009z", Some(0)),
            ("1970-01-01T00:00:00+01:00", None),
            ("1969-12-31T23:59:59Z", None),
            ("0000-01-01T00:00:00Z", None),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00:00.Z", None),
            ("2026-01-01T00:00:00+0100", None),
            ("2026-01-01T00:00:00Zx", None),
            ("2026-01-01", None),
            ("+026-01-01T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), millis, "{text}");
        }
    }
}
