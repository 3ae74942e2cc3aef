//! Measures figures: the gateway and the floors under one load, in turns, and writes a folder of `results/`.
//!
//! `scripts/figures` builds what is measured and calls this.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a command")]
use clap::{Parser, ValueEnum};
use clawgate_bench::figures::machine::cores;
use clawgate_bench::figures::record::{Folder, Table};
use clawgate_bench::figures::server::{Pin, Programs};
use clawgate_bench::figures::{Figure, Setup};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures the gateway against the floors; all servers are started, loaded and ended here, on loopback.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; several are measured one after the other
    #[arg(required = true)]
    figures: Vec<Choice>,
    /// Rounds; in each, every server has its turn [default: 5, but for the longer figures]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds of a turn [default: 2; modes: 1; p15: 5; streams: 20]
    #[arg(long)]
    seconds: Option<f64>,
    /// Connections [default: 64; p7: 4; ack: 16; leave: 20; p10, p13, restart: 50; p9: 10000]
    #[arg(long)]
    connections: Option<usize>,
    /// Sessions of p10 and p13, messages of restart [default: 1000000]
    #[arg(long)]
    count: Option<usize>,
    /// Messages a second over all connections, in an open loop; without it, a closed loop
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// On which processors server and load run
    #[arg(long, default_value = "none")]
    pin: Placing,
    /// How the gateway asks the kernel for work: auto, io_uring, epoll
    #[arg(long, default_value = "")]
    driver: String,
    /// The gateway, if not beside this program
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// The folder to write to, if not today's, this machine's and this commit's below `results`
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print the tables, and write nothing
    #[arg(long)]
    dry: bool,
    /// Measure next to nothing, and write nothing: to see that a figure can be measured
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// WebSocket, one message in flight a connection
    P1,
    /// WebSocket, 16 messages a read
    P2,
    /// Telegram webhooks
    P3,
    /// Calls of a model, not streamed
    P5,
    /// Streams of a model
    P6,
    /// The first token of a stream
    P7,
    /// Clients that leave in mid-stream
    Leave,
    /// Memory over many streams
    Streams,
    /// Idle WebSockets
    P9,
    /// The start
    P11,
    /// Sessions on another shard than their connection
    Cross,
    /// How a journal is best written to this disk
    Journal,
    /// Webhooks accepted in each mode of the journal, beside plain appends
    Modes,
    /// How long an acknowledgement takes, beside the disk's sync
    Ack,
    /// The start after a kill with a long journal
    Restart,
    /// Sessions in memory, idle and dormant
    P10,
    /// A message among very many sessions
    P13,
    /// Ten times as much as an agent can answer
    P15,
    /// All of them
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Placing {
    /// Where the system puts them
    None,
    /// Server on the first, load on the second
    Apart,
    /// Both on the first
    Together,
}

impl Choice {
    const fn figures(self) -> &'static [Figure] {
        match self {
            Self::P1 => &[Figure::P1],
            Self::P2 => &[Figure::P2],
            Self::P3 => &[Figure::P3],
            Self::P5 => &[Figure::P5],
            Self::P6 => &[Figure::P6],
            Self::P7 => &[Figure::P7],
            Self::Leave => &[Figure::Leave],
            Self::Streams => &[Figure::Streams],
            Self::P9 => &[Figure::P9],
            Self::P11 => &[Figure::P11],
            Self::Cross => &[Figure::Cross],
            Self::Journal => &[Figure::Journal],
            Self::Modes => &[Figure::Modes],
            Self::Ack => &[Figure::Ack],
            Self::Restart => &[Figure::Restart],
            Self::P10 => &[Figure::P10],
            Self::P13 => &[Figure::P13],
            Self::P15 => &[Figure::P15],
            Self::All => &Figure::ALL,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("figures: {why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), String> {
    // Before anything is pinned.
    let _ = cores();
    let folder = Folder::named(arguments.out.as_deref());
    let writes = !(arguments.dry || arguments.quick);
    for figure in arguments.figures.iter().flat_map(|choice| choice.figures()) {
        let setup = setup(arguments, *figure)?;
        println!("{}", figure.title());
        let mut table = Table::new(*figure);
        figure.measure(&setup, &mut table).map_err(|why| format!("{}: {why}", figure.name()))?;
        println!("\n{}", table.text());
        if writes {
            folder.add(&table, &command(*figure))?;
        }
    }
    if writes {
        println!("written to {}", folder.path().display());
    }
    Ok(())
}

fn setup(arguments: &Arguments, figure: Figure) -> Result<Setup, String> {
    let own = std::env::current_exe().map_err(|why| format!("where am I: {why}"))?;
    let beside = |name: &str| own.with_file_name(name);
    let sizes = figure.sizes(arguments.quick);
    let seconds = arguments.seconds.unwrap_or(sizes.seconds);
    let turn = Duration::try_from_secs_f64(seconds).map_err(|why| format!("--seconds: {why}"))?;
    Ok(Setup {
        programs: Programs {
            gateway: arguments.gateway.clone().unwrap_or_else(|| beside("clawgate")),
            floor_epoll: beside("floor-epoll"),
            floor_tungstenite: beside("floor-tungstenite"),
            floor_hyper: beside("floor-hyper"),
            loadgen: beside("loadgen"),
        },
        pin: match arguments.pin {
            Placing::None => Pin::None,
            Placing::Apart => Pin::Apart,
            Placing::Together => Pin::Together,
        },
        rounds: arguments.rounds.unwrap_or(sizes.rounds),
        turn,
        connections: arguments.connections.unwrap_or(sizes.connections).max(1),
        count: arguments.count.unwrap_or(sizes.count).max(1),
        quick: arguments.quick,
        rate: arguments.rate,
        driver: arguments.driver.clone(),
    })
}

/// The command that makes these rows again: the options as they were, without the paths of this machine.
fn command(figure: Figure) -> String {
    let profile = std::env::var("FIGURES_PROFILE").ok().map(|profile| format!("FIGURES_PROFILE={profile}"));
    let mut words: Vec<String> = profile.into_iter().collect();
    words.extend(["scripts/figures".to_owned(), figure.name().to_owned()]);
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        let (name, joined) = word.split_once('=').map_or((word.as_str(), false), |(name, _)| (name, true));
        match name {
            "--gateway" | "--out" if joined => {}
            "--gateway" | "--out" => drop(given.next()),
            "--dry" | "--quick" => {}
            _ if name.starts_with("--") && joined => words.push(word),
            _ if name.starts_with("--") => words.extend([word].into_iter().chain(given.next())),
            // The names of figures: this row is of one of them.
            _ => {}
        }
    }
    words.join(" ")
}
