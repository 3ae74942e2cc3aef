//! Figures: the gateway and the floors under the same load, in turns, in the same minute; what that took goes into a
//! folder of `results/`.
//!
//! Owns the load (closed loop, or open at a rate), the servers' processes, and what is read of them in `/proc`. Never
//! compares across runs or machines, and never says that a time is good: it says what was measured, and how disturbed
//! the machine was while it was.
pub mod chat;
pub mod cross;
pub mod idle;
pub mod journal;
pub mod load;
pub mod machine;
pub mod record;
pub mod server;
pub mod start;
pub mod talk;
pub mod webhook;

use load::Pace;
use record::Table;
use server::{Pin, Programs};
use std::time::Duration;

/// What all figures have in common: the programs, and how long and how often they are measured.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The programs to run.
    pub programs: Programs,
    /// Where server and load run.
    pub pin: Pin,
    /// Rounds; in each, every server has its turn.
    pub rounds: u32,
    /// How long a turn is measured.
    pub turn: Duration,
    /// Connections, where the figure does not say how many.
    pub connections: usize,
    /// Messages a second over all connections, for an open loop; 0 for a closed one.
    pub rate: u32,
    /// What the gateway is told about its driver; empty for its own choice.
    pub driver: String,
}

impl Setup {
    /// The pace that is asked for; in a closed loop so many messages at once on each connection.
    #[must_use]
    pub const fn pace(&self, burst: u32) -> Pace {
        if self.rate == 0 { Pace::Closed { burst } } else { Pace::Open { per_second: self.rate } }
    }
}

/// A figure of the list in the project's targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// WebSocket, one message in flight.
    P1,
    /// WebSocket, 16 messages a read.
    P2,
    /// Telegram webhooks.
    P3,
    /// Idle WebSockets.
    P9,
    /// The start.
    P11,
    /// Sessions on another shard than their connection.
    Cross,
    /// How a journal is best written to this disk.
    Journal,
}

impl Figure {
    /// All, in the order of the tables.
    pub const ALL: [Self; 7] =
        [Self::P1, Self::P2, Self::P3, Self::P9, Self::P11, Self::Cross, Self::Journal];

    /// Its name in commands and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P1 => "p1",
            Self::P2 => "p2",
            Self::P3 => "p3",
            Self::P9 => "p9",
            Self::P11 => "p11",
            Self::Cross => "cross",
            Self::Journal => "journal",
        }
    }

    /// What it is, and what is aimed at.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::P1 => {
                "P1: a WebSocket message routed, one in flight a connection. Target: CPU a message at most 1.3 times \
                 the epoll floor's, better 1.15"
            }
            Self::P2 => {
                "P2: the same, 16 messages a read. Target on one core for both (`--pin together`): at most 0.5 µs of CPU \
                 a message, better 0.3"
            }
            Self::P3 => {
                "P3: a Telegram update by webhook, its secret checked, acknowledged, answered through the Bot API; \
                 without a journal. Target: at most 6 µs of CPU, 150,000 a second on a core; better 4 µs, 200,000"
            }
            Self::P9 => {
                "P9: an idle WebSocket with heartbeat and one subscription. Target: at most 3 KB resident, better 1.5"
            }
            Self::P11 => {
                "P11: from start to the first answer, and resident memory then. Target: at most 50 ms and 20 MB, better \
                 20 ms and 10 MB"
            }
            Self::Journal => {
                "Journal: a write and its sync, one after the other; one writer for two shards against one for each, beside \
                 plain appends to a file that grows"
            }
            Self::Cross => {
                "Cross-core: a session on another shard than its connection (`other`) against one on the same (`same`)"
            }
        }
    }

    /// Measures it.
    ///
    /// # Errors
    /// What stood in the way; a server that answered wrongly, or not at all, is such a thing.
    pub fn measure(self, setup: &Setup, table: &mut Table) -> Result<(), String> {
        match self {
            Self::P1 => chat::measure(setup, 1, table),
            Self::P2 => chat::measure(setup, 16, table),
            Self::P3 => webhook::measure(setup, table),
            Self::P9 => idle::measure(setup, table),
            Self::P11 => start::measure(setup, table),
            Self::Cross => cross::measure(setup, table),
            Self::Journal => journal::measure(setup, table),
        }
    }
}
