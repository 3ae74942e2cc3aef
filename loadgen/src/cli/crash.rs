//! `loadgen crash`: its options, and what becomes of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Failure, print};
use crate::crash::{Kill, Plan};
use crate::mock::provider::Script;
use crate::slo::parse_duration;

const HELP: &str = "The gateway is started on a port and a data directory of its own, with simulators of Telegram, of a \
signed webhook's program and of a model that live through all its lives. Exit code 4: something that was acknowledged \
was not answered, was answered twice without an excuse, or out of order. The excuse is a send that was in flight at the \
kill, to a platform that has no key by which a repetition could be known (Telegram).";

/// Options of `loadgen crash`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CrashArgs {
    /// The gateway's binary
    #[arg(long)]
    gateway: PathBuf,
    /// JSON that is laid over the configuration which the gateway is given
    #[arg(long)]
    config: Option<PathBuf>,
    /// `server.driver`: auto, io_uring, epoll
    #[arg(long, default_value = "auto")]
    driver: String,
    /// Kills
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Instead of kills so many losses of power: a run is recorded by strace (on epoll, whose file work is plain system
    /// calls), then cut at so many moments, and the gateway started on what a disk may hold after each
    #[arg(long, default_value_t = 0)]
    power_cuts: u32,
    /// After so many of them data directory and ledger begin anew, under the next seed: what breaks is found where it is,
    /// and is repeated by that seed and this many. 0: never
    #[arg(long, default_value_t = 0)]
    batch: u32,
    /// The seed of all that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What ends it, one of these each round, drawn: random, syscall, term, takeover, eio, slow, full, descriptors
    #[arg(long = "kill", value_delimiter = ',', default_value = "random")]
    kills: Vec<Kill>,
    /// System calls to kill at
    #[arg(long = "syscall", value_delimiter = ',', default_value = "io_uring_enter")]
    calls: Vec<String>,
    /// The highest count of that call, of one thread, at which it is killed
    #[arg(long, default_value_t = 2000)]
    syscalls_max: u64,
    /// Messages a second to each webhook
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Connections of each posting platform: so many messages of it wait for their acknowledgement at most
    #[arg(long, default_value_t = 16)]
    lanes: u32,
    /// Conversations of each posting platform
    #[arg(long, default_value_t = 320)]
    chats: u32,
    /// WebSocket clients
    #[arg(long, default_value_t = 4)]
    sockets: u32,
    /// Messages a second of all of them
    #[arg(long, default_value_t = 100.0)]
    socket_rate: f64,
    /// Connections for calls that wait for their answer
    #[arg(long, default_value_t = 2)]
    rest_lanes: u32,
    /// Such calls a second
    #[arg(long, default_value_t = 50.0)]
    rest_rate: f64,
    /// How the model answers: see loadgen mock provider --help
    #[arg(long, default_value = "ttft=10ms,tokens=4,gap=2ms")]
    script: Script,
    /// The longest that a platform takes to confirm an answer, in milliseconds
    #[arg(long, default_value_t = 4)]
    platform_millis: u64,
    /// How long before a kill an answer may have been confirmed and still count as in flight, beside the longest that an
    /// acknowledgement took in that life
    #[arg(long, default_value = "250ms", value_parser = parse_duration)]
    in_flight: u64,
    /// How long a start or an end may take
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    start: u64,
    /// How long is waited at the end until all is answered
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    drain: u64,
    /// Where configuration, log and evidence go; a fresh folder if not said, removed when all is well
    #[arg(long)]
    work: Option<PathBuf>,
    /// The data directory: `data` in that folder if not said. What is in it is removed
    #[arg(long)]
    data: Option<PathBuf>,
    /// Write the account to this file, as JSON
    #[arg(long)]
    out: Option<PathBuf>,
    /// Add a row to this table, in Markdown
    #[arg(long)]
    table: Option<PathBuf>,
    /// What the run is called there
    #[arg(long, default_value = "crash")]
    name: String,
}

/// Runs the rounds.
pub(crate) fn run(args: CrashArgs) -> Result<u8, Failure> {
    if args.lanes == 0 || args.chats < args.lanes {
        return Err(Failure::usage("--lanes is at least 1, and --chats at least as many"));
    }
    let fresh = args.work.is_none();
    let work = args.work.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("clawgate-crash-{}-{}", args.seed, std::process::id()))
    });
    let work = std::path::absolute(&work).unwrap_or(work);
    let done = crate::crash::main(args.into_plan(work.clone()), &mut print);
    match done {
        Ok(0) if fresh => {
            // What cannot be removed is in nobody's way.
            std::fs::remove_dir_all(&work).ok();
        }
        Ok(0) => {}
        Ok(_) | Err(_) => print(&format!("  configuration, log and evidence are kept in {}", work.display())),
    }
    done
}

impl CrashArgs {
    fn into_plan(self, work: PathBuf) -> Plan {
        Plan {
            gateway: self.gateway,
            config: self.config,
            driver: if self.power_cuts == 0 { self.driver } else { "epoll".to_owned() },
            name: self.name,
            data: self
                .data
                .map_or_else(|| work.join("data"), |data| std::path::absolute(&data).unwrap_or(data)),
            work,
            rounds: self.rounds,
            batch: self.batch,
            power_cuts: self.power_cuts,
            seed: self.seed,
            kills: self.kills,
            calls: self.calls,
            calls_max: self.syscalls_max,
            rate: self.rate,
            lanes: self.lanes,
            chats: self.chats,
            sockets: self.sockets,
            socket_rate: self.socket_rate,
            rest_lanes: self.rest_lanes,
            rest_rate: self.rest_rate,
            script: self.script,
            platform_millis: self.platform_millis,
            in_flight_ns: self.in_flight,
            start_limit: Duration::from_nanos(self.start),
            drain_limit: Duration::from_nanos(self.drain),
            out: self.out,
            table: self.table,
        }
    }
}
