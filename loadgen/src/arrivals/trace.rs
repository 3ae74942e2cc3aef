//! Arrivals that were recorded: a file with the time of each message, a line each. Lines of numbers (and tables separated
//! by commas, whose first column it is) are in seconds; lines of JSON have a `timestamp` in milliseconds, as the traces
//! that model operators publish do, and may have a `session`, as those of `loadgen record` do.

use std::fmt;
use std::fs;

/// Messages of one trace.
pub const TRACE_MESSAGES_MAX: usize = 10_000_000;

/// Bytes of one trace's file.
pub const TRACE_BYTES_MAX: u64 = 1 << 30;

const HOW: &str = "write a line a message, in order: its time in seconds, as the first or only column, or JSON with \
                   \"timestamp\" in milliseconds";

/// When the messages of a recording came.
#[derive(Clone, PartialEq, Eq)]
pub struct Trace {
    name: String,
    /// After the first one, and never going back.
    times_ns: Vec<u64>,
    /// Whose they are; empty if not all lines say so.
    sessions: Vec<u32>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("name", &self.name).field("messages", &self.times_ns.len()).finish()
    }
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(path: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("the trace {path}: {error}");
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if TRACE_BYTES_MAX < bytes {
            return Err(format!("the trace {path} has {bytes} bytes; at most {TRACE_BYTES_MAX} are read"));
        }
        Self::parse(path, &fs::read_to_string(path).map_err(failed)?)
    }

    /// Reads a text; `name` is what it is called when something is wrong with it.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut times_ns: Vec<u64> = Vec::new();
        let mut sessions = Vec::new();
        let mut first = None;
        let mut begun = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let at = number + 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (seconds, session) = match read_line(line) {
                Some(read) => read,
                // A table's heading.
                None if !begun && !line.starts_with('{') => {
                    begun = true;
                    continue;
                }
                None => return Err(format!("{name}:{at}: no time; {HOW}")),
            };
            begun = true;
            if times_ns.len() == TRACE_MESSAGES_MAX {
                return Err(format!("{name}:{at}: there are more than {TRACE_MESSAGES_MAX} messages"));
            }
            let first = *first.get_or_insert(seconds);
            let time_ns = ((seconds - first) * 1e9).round();
            let last_ns = times_ns.last().copied().unwrap_or(0);
            if !(0.0..1e18).contains(&time_ns) || (time_ns as u64) < last_ns {
                return Err(format!("{name}:{at}: this time is before the last one; {HOW}"));
            }
            times_ns.push(time_ns as u64);
            sessions.extend(session);
        }
        if times_ns.last().is_none_or(|last| *last == 0) {
            return Err(format!("{name}: there are no two messages at different times; {HOW}"));
        }
        if sessions.len() != times_ns.len() {
            sessions.clear();
        }
        Ok(Self { name: name.to_owned(), times_ns, sessions })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Messages a second, on average.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.times_ns.len() as f64 / self.period_ns() * 1e9
    }

    /// How long it takes until it can begin again: to its last message, and a mean gap.
    fn period_ns(&self) -> f64 {
        let (count, last_ns) =
            (self.times_ns.len() as f64, self.times_ns.last().copied().unwrap_or(0) as f64);
        last_ns * count / (count - 1.0)
    }

    /// Whose message `index` is, if the trace says so.
    #[inline]
    #[must_use]
    pub fn session(&self, index: u64) -> Option<u32> {
        self.sessions.get((index % self.times_ns.len() as u64) as usize).copied()
    }

    /// When message `index` is due at `rate` messages a nanosecond. After its last message a trace begins again.
    #[inline]
    #[must_use]
    pub fn time_ns(&self, index: u64, rate: f64) -> u64 {
        let count = self.times_ns.len() as u64;
        let time_ns = self.times_ns.get((index % count) as usize).copied().unwrap_or(0) as f64;
        let round = (index / count) as f64;
        (round * count as f64 / rate + time_ns * (count as f64 / self.period_ns() / rate)).round() as u64
    }
}

/// When it was, in seconds, and whose.
fn read_line(line: &str) -> Option<(f64, Option<u32>)> {
    if line.starts_with('{') {
        let json: serde_json::Value = serde_json::from_str(line).ok()?;
        let session = json["session"].as_u64().and_then(|session| u32::try_from(session).ok());
        return Some((json["timestamp"].as_f64()? / 1e3, session));
    }
    let column = line.split([',', ';', '\t', ' ']).next()?;
    let seconds = column.trim_matches('"').parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
    Some((seconds, None))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_tables_and_json_are_read() {
        let plain = Trace::parse("t", "# a comment\n10\n10.5\n\n12.5\n").unwrap();
        let table = Trace::parse("t", "Timestamp,Model\n10,a\n10.5,b\n12.5,a\n").unwrap();
        let json = "{\"timestamp\":10000}\n{\"timestamp\":10500,\"hash_ids\":[1]}\n{\"timestamp\": 12500}";
        let json = Trace::parse("t", json).unwrap();
        assert_eq!(plain.times_ns, [0, 500_000_000, 2_500_000_000]);
        assert!(plain == table && plain == json);
    }

    #[test]
    fn a_trace_that_says_whose_its_messages_are_keeps_that_too() {
        let line = |millis: u32, session: u32| format!("{{\"timestamp\":{millis},\"session\":{session}}}\n");
        let whose = Trace::parse("t", &(line(0, 7) + &line(5, 3) + &line(9, 7))).unwrap();
        let sessions: Vec<_> = (0..4).map(|index| whose.session(index)).collect();
        assert_eq!(sessions, [Some(7), Some(3), Some(7), Some(7)]);
        let some = Trace::parse("t", &(line(0, 7) + "{\"timestamp\":5}\n")).unwrap();
        assert_eq!(some.session(0), None);
    }

    #[test]
    fn what_is_no_trace_is_told_with_its_line() {
        let table = [
            ("1\n2\nthree\n", "t:3: no time"),
            ("time\nagain\n", "t:2: no time"),
            ("{\"time\":3}\n", "t:1: no time"),
            ("5\n4\n", "t:2: this time is before"),
            ("1\nnan\n", "t:2: no time"),
            ("1\n1\n", "t: there are no two"),
            ("", "t: there are no two"),
        ];
        for (text, told) in table {
            let error = Trace::parse("t", text).unwrap_err();
            assert!(error.starts_with(told) && error.contains("timestamp"), "{text:?}: {error}");
        }
        assert!(Trace::read("/nowhere/at-all").unwrap_err().contains("/nowhere/at-all"));
    }

    #[test]
    fn a_trace_keeps_its_shape_at_any_rate_and_begins_again() {
        let trace = Trace::parse("t", "0\n1\n1\n6\n").unwrap();
        // Four messages in six seconds and a mean gap of two.
        assert_eq!(trace.rate(), 0.5);
        let millis =
            |rate: f64| (0..6).map(|index| trace.time_ns(index, rate / 1e9) / 1_000_000).collect::<Vec<_>>();
        assert_eq!(millis(0.5), [0, 1000, 1000, 6000, 8000, 9000]);
        assert_eq!(millis(5.0), [0, 100, 100, 600, 800, 900]);
    }
}
