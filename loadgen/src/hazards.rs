//! What a scenario does to its own clients while it drives the gateway: some read slowly or not at all, all are
//! dropped at once; and to the gateway: its model fails for a time, it is restarted. Says what; how it is done is `run`'s.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::str::FromStr;

use crate::mock::provider::Script;
use crate::slo::parse_duration;

/// All that is done. None by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hazards {
    /// Clients that read slowly.
    pub slow: Option<Slow>,
    /// Moments at which all connections are dropped.
    pub storm: Option<Storm>,
    /// A provider in this process that fails for a time.
    pub brownout: Option<Brownout>,
    /// The gateway is replaced by another one while it works.
    pub restart: Option<Restart>,
}

/// Clients that read slowly, or not at all, until everything is sent: then they read what they are owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Of a hundred connections, how many; 1 to 100.
    pub percent: u32,
    /// What each of them reads; 0 for nothing.
    pub bytes_per_second: u64,
}

/// All WebSockets are dropped at once, and opened again; what is unanswered then is sent again under its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storm {
    /// When, in nanoseconds after the start of the run; in order.
    pub at_ns: Vec<u64>,
    /// How they end.
    pub ending: Ending,
    /// A client waits for up to so long, drawn evenly, before it comes back.
    pub jitter_ns: u64,
}

/// The gateway is replaced again and again, by a command. What it closes meanwhile is opened again, and what it had not
/// taken is sent again under its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// When, in nanoseconds after the start of the run; in order.
    pub at_ns: Vec<u64>,
    /// What replaces it, for a shell: a gateway that takes over, or what makes one do so.
    pub command: String,
}

/// The gateway's model is this process's simulator, which is well but for some time.
#[derive(Clone, Debug, PartialEq)]
pub struct Brownout {
    /// Where it listens: the `baseUrl` of the gateway's endpoint.
    pub listen: SocketAddr,
    /// When it is not well, in nanoseconds after the start of the run; in order.
    pub during: Vec<Range<u64>>,
    /// What it does then.
    pub script: Script,
}

/// Reads `10s..20s`.
///
/// # Errors
/// What is wrong, and what to write.
pub fn parse_span(text: &str) -> Result<Range<u64>, String> {
    let bad = || format!("{text:?} is no stretch of time; write 10s..20s");
    let (from, to) = text.split_once("..").ok_or_else(bad)?;
    let span = parse_duration(from).map_err(|_| bad())?..parse_duration(to).map_err(|_| bad())?;
    if span.is_empty() { Err(bad()) } else { Ok(span) }
}

/// How a client ends its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a reset, as when a network goes away.
    Abort,
    /// With a close frame.
    Polite,
}

impl FromStr for Ending {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "abort" => Ok(Self::Abort),
            "polite" => Ok(Self::Polite),
            other => Err(format!("{other:?} ends no connection; write abort or polite")),
        }
    }
}

impl Slow {
    /// How many of so many connections; one at least.
    #[must_use]
    pub const fn of(&self, connections: u32) -> u32 {
        (connections as u64 * self.percent as u64).div_ceil(100) as u32
    }
}

impl Hazards {
    /// What is done, as words: `slow:20%,0B/s`. Empty if nothing is.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let slow = self.slow.iter().map(ToString::to_string);
        let storm = self.storm.iter().map(ToString::to_string);
        let restart = self.restart.iter().map(ToString::to_string);
        slow.chain(storm).chain(self.brownout.iter().map(ToString::to_string)).chain(restart).collect()
    }

    /// Whether what was unanswered when a connection went away is sent again.
    #[must_use]
    pub const fn is_resent(&self) -> bool {
        self.storm.is_some() || self.restart.is_some()
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slow:{}%,{}B/s", self.percent, self.bytes_per_second)
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at: Vec<String> = self.at_ns.iter().map(|at_ns| format!("{}s", *at_ns as f64 / 1e9)).collect();
        let ending = match self.ending {
            Ending::Abort => "abort",
            Ending::Polite => "polite",
        };
        write!(f, "storm:{},{ending},{}s", at.join("+"), self.jitter_ns as f64 / 1e9)
    }
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at: Vec<String> = self.at_ns.iter().map(|at_ns| format!("{}s", *at_ns as f64 / 1e9)).collect();
        write!(f, "restart:{}", at.join("+"))
    }
}

impl fmt::Display for Brownout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |span: &Range<u64>| format!("{}s..{}s", span.start as f64 / 1e9, span.end as f64 / 1e9);
        let spans: Vec<String> = self.during.iter().map(span).collect();
        write!(f, "brownout:{}", spans.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_time_has_a_length() {
        assert_eq!(parse_span("10s..12.5s"), Ok(10_000_000_000..12_500_000_000));
        for bad in ["10s", "10s..", "10s..10s", "20s..10s", "a..b"] {
            assert!(parse_span(bad).is_err_and(|words| words.contains("10s..20s")), "{bad}");
        }
    }

    #[test]
    fn a_share_of_the_connections_is_at_least_one_of_them() {
        let of = |percent, connections| Slow { percent, bytes_per_second: 0 }.of(connections);
        assert_eq!((of(20, 100), of(1, 10), of(100, 7), of(50, 0)), (20, 1, 7, 0));
    }
}
