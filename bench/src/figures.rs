//! Figures: the gateway and the floors under the same load, in turns, in the same minute; what that took goes into a
//! folder of `results/`.
//!
//! Owns the load (closed loop, or open at a rate), the servers' processes, and what is read of them in `/proc`. Never
//! compares across runs or machines, and never says that a time is good: it says what was measured, and how disturbed
//! the machine was while it was.
pub mod ack;
pub mod ask;
pub mod calls;
pub mod chat;
pub mod cross;
pub mod crowd;
mod durable;
pub mod idle;
pub mod journal;
pub mod load;
pub mod machine;
pub mod memory;
pub mod models;
pub mod modes;
pub mod overload;
pub mod proxy;
pub mod record;
pub mod restart;
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
    /// Sessions, or messages, where a figure is of very many.
    pub count: usize,
    /// Only to see that the figure can be measured: what comes out means nothing.
    pub quick: bool,
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

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Rounds.
    pub rounds: u32,
    /// Seconds of a turn.
    pub seconds: f64,
    /// Connections.
    pub connections: usize,
    /// Sessions, or messages, where a figure is of very many.
    pub count: usize,
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
    /// Durable acceptance in each mode of the journal.
    Modes,
    /// How long an acknowledgement takes.
    Ack,
    /// How long a start takes with a long journal.
    Restart,
    /// Sessions in memory, idle and dormant.
    P10,
    /// Many sessions against few.
    P13,
    /// Overload.
    P15,
    /// Calls of a model, not streamed.
    P5,
    /// Streams of a model, at once and at a pace.
    P6,
    /// The first token of a stream.
    P7,
    /// Clients that leave in mid-stream.
    Leave,
    /// Memory over many streams.
    Streams,
}

impl Figure {
    /// All, in the order of the tables.
    pub const ALL: [Self; 18] = [
        Self::P1,
        Self::P2,
        Self::P3,
        Self::P5,
        Self::P6,
        Self::P7,
        Self::Leave,
        Self::Streams,
        Self::P9,
        Self::P10,
        Self::P11,
        Self::P13,
        Self::P15,
        Self::Cross,
        Self::Journal,
        Self::Modes,
        Self::Ack,
        Self::Restart,
    ];

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
            Self::Modes => "modes",
            Self::Ack => "ack",
            Self::Restart => "restart",
            Self::P10 => "p10",
            Self::P13 => "p13",
            Self::P15 => "p15",
            Self::P5 => "p5",
            Self::P6 => "p6",
            Self::P7 => "p7",
            Self::Leave => "leave",
            Self::Streams => "streams",
        }
    }

    /// How much of it is measured, unless the command says otherwise.
    #[must_use]
    pub const fn sizes(self, quick: bool) -> Sizes {
        let usual = Sizes { rounds: 5, seconds: 2.0, connections: 64, count: 0 };
        let sizes = match self {
            Self::P1 | Self::P2 | Self::P3 | Self::P5 | Self::P6 | Self::Cross | Self::Journal => usual,
            Self::P7 => Sizes { connections: 4, ..usual },
            Self::Leave => Sizes { rounds: 3, connections: 20, ..usual },
            Self::Streams => Sizes { rounds: 1, seconds: 20.0, ..usual },
            Self::P9 => Sizes { rounds: 1, connections: idle::CONNECTIONS, ..usual },
            Self::P10 => Sizes { rounds: 1, connections: 50, count: crowd::SESSIONS, ..usual },
            Self::P11 => Sizes { rounds: start::ROUNDS, connections: 1, ..usual },
            Self::P13 => Sizes { connections: 50, count: crowd::SESSIONS, ..usual },
            Self::P15 => Sizes { rounds: 2, seconds: 5.0, ..usual },
            Self::Modes => Sizes { rounds: 3, seconds: 1.0, ..usual },
            Self::Ack => Sizes { rounds: 3, connections: 16, ..usual },
            Self::Restart => Sizes { rounds: 3, connections: 50, count: restart::MESSAGES, ..usual },
        };
        if !quick {
            return sizes;
        }
        let Sizes { connections, count, .. } = sizes;
        Sizes {
            rounds: 1,
            seconds: 0.1,
            connections: if 1 < connections { 4 } else { 1 },
            count: if 0 < count { 4_000 } else { 0 },
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
                 with nothing kept, and with the journal in the mode `always`. Target: at most 6 µs of CPU, 150,000 a \
                 second on a core; better 4 µs, 200,000"
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
            Self::Modes => {
                "Durable acceptance: webhooks journalled to their end and acknowledged, by the journal's mode; beside \
                 appends of as many bytes a message, as many messages at once and synced as often. Target in `always`: at \
                 least 0.5 of the append's rate, better 0.8"
            }
            Self::Ack => {
                "Acknowledgement: how long it takes in the mode `always`, at a rate that leaves time, beside the disk's own \
                 append and sync. Target: p50 at most 2 times the disk's, better 1.3"
            }
            Self::Restart => {
                "Restart: from the start of a gateway to its first answer after it was killed with so many messages in its \
                 journal"
            }
            Self::P10 => {
                "P10: a session with ten messages of history and two context variables, idle in memory and dormant in the \
                 store. Target: at most 1,024 bytes resident at 1 M sessions, better 400"
            }
            Self::P13 => {
                "P13: a message while very many sessions are in memory, against few. Target: at most 1.2 times the CPU at \
                 1 M sessions of that at 1,000, better 1.05"
            }
            Self::P15 => {
                "P15: ten times what an agent can answer. Target: goodput at least 95 % of the capacity, memory flat, p99 of \
                 what was accepted at most 3 times that at 0.8 of the capacity, better 1.5"
            }
            Self::P5 => {
                "P5: a call of a model, not streamed, through `/v1/chat/completions` in the model's own format. Target: at \
                 most 25 µs of CPU a call, 100 µs added at p50 and 250 at p99 of one alone; better 15 µs of CPU"
            }
            Self::P6 => {
                "P6: streams of fifty tokens. Target: at once, 12,000 a second on a core, better 30,000; at a pace, a token's \
                 way at most 0.5 ms at p99 and 12 µs of CPU, better 0.32 ms and 8 µs"
            }
            Self::P7 => "P7: the first token of a stream. Target: at most 0.5 ms added at p50, better 0.2",
            Self::Leave => {
                "Leaving: tokens that a model goes on to write after the client has left in mid-stream. Target: at most one"
            }
            Self::Streams => "Streams: resident memory over many of them. Target: flat",
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
            Self::Modes => modes::measure(setup, table),
            Self::Ack => ack::measure(setup, table),
            Self::Restart => restart::measure(setup, table),
            Self::P10 => memory::measure(setup, table),
            Self::P13 => crowd::measure(setup, table),
            Self::P15 => overload::measure(setup, table),
            Self::P5 => models::whole(setup, table),
            Self::P6 => models::streamed(setup, table),
            Self::P7 => models::first(setup, table),
            Self::Leave => models::leave(setup, table),
            Self::Streams => models::memory(setup, table),
        }
    }
}
