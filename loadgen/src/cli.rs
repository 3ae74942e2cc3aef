//! The command line: what can be said, and what is made of it. Every default is here.

mod capacity;
mod compare;
mod crash;
mod plan;
mod report;
mod run;
mod search;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::mock::gateway::{Faults, GatewaySettings};
use crate::mock::provider::tls::TlsSettings;
use crate::mock::telegram::BotSettings;
use crate::mock::{gateway, provider, telegram};
use crate::report::{EXIT_INVALID, EXIT_LACKING, EXIT_USAGE};
use crate::{abuse, doctor, driver, record, self_test, sys};

/// Open-loop load for a chat gateway, with an exact account of every message.
///
/// Messages are sent when they are due, whatever has come back, and timed from when they were due: a gateway that stalls
/// cannot hide it. Every answer is held against its message to the byte; lost, doubled, reordered and corrupted ones are
/// counted, not sampled. A run ends with a verdict on itself, so that a slow generator or a busy machine is not taken for
/// the gateway.
#[derive(Debug, Parser)]
#[command(
    name = "loadgen",
    version,
    max_term_width = 110,
    after_help = "Try it without a gateway:\n  loadgen self-test\n  loadgen mock gateway --listen 127.0.0.1:8787 --key k &\n  \
                  loadgen run ws-stream --url ws://127.0.0.1:8787 --key k --rate 5000 --duration 5s\n\nExit codes: 0 good, 2 \
                  bad arguments, 3 an objective was not met, 4 a message was lost, doubled, reordered or corrupted, 5 \
                  a regression, 6 the run is not valid or could not be made, 7 this machine does not allow it \
                  descriptors or ports enough."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive a gateway by a schedule and report
    Run(Box<run::RunArgs>),
    /// The scenarios that come with the program, or the file of one of them
    Scenarios(plan::ScenariosArgs),
    /// Stand in for what the gateway talks to
    #[command(subcommand)]
    Mock(Mock),
    /// Show that the measuring itself is right, and how much this machine can generate
    SelfTest(SelfTestArgs),
    /// What this machine is worth as a place to measure, and the smallest change that can be proved on it
    Doctor(DoctorArgs),
    /// Bad input from thousands of connections, while good traffic beside it has to stay exact
    Abuse(AbuseArgs),
    /// Kill the gateway again and again under load, and hold what it acknowledged against what it answered
    Crash(Box<crash::CrashArgs>),
    /// Find the largest rate that meets the objectives, and what bound it
    Search(Box<search::SearchArgs>),
    /// Tell whether anything changed between two sets of results, or between two gateways run in turn
    Compare(Box<compare::CompareArgs>),
    /// Tell how many machines a load needs, from what was measured
    Capacity(Box<capacity::CapacityArgs>),
    /// Pass on what comes to a gateway, and note when it came, on which connection and how long it was: never what it says
    Record(RecordArgs),
    /// Show what runs have written: a page, Markdown, CSV, JUnit
    Report(report::ReportArgs),
    /// Write the page over all measurements: folders, machines, figures, and where those changed
    Index(report::IndexArgs),
}

#[derive(Debug, Subcommand)]
enum Mock {
    /// Model providers in four formats, scripted: OpenAI's chat completions and responses, Anthropic's messages, Ollama's
    /// chat
    #[command(after_help = provider::HELP)]
    Provider(ProviderArgs),
    /// Telegram's Bot API
    Telegram(TelegramArgs),
    /// An echoing gateway, with faults on demand
    Gateway(GatewayArgs),
}

#[derive(Debug, Args)]
struct ProviderArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9101", value_parser = parse_address)]
    listen: SocketAddr,
    /// What is answered when a request does not say: see below
    #[arg(long, default_value = "")]
    script: provider::Script,
    /// The API key that is asked for; none if empty
    #[arg(long, default_value = "")]
    key: String,
    /// Where to listen for TLS too, with a certificate that is signed by itself
    #[arg(long, value_parser = parse_address)]
    listen_tls: Option<SocketAddr>,
    /// How long a TLS handshake is kept waiting
    #[arg(long, default_value = "0s", value_parser = crate::slo::parse_duration)]
    handshake: u64,
}

#[derive(Debug, Args)]
struct TelegramArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9102", value_parser = parse_address)]
    listen: SocketAddr,
    /// The bot's token; any is taken if empty
    #[arg(long, default_value = "")]
    token: String,
    /// Answer every so many messages with 429
    #[arg(long, default_value_t = 0)]
    busy_every: u64,
    /// What a 429 tells to wait, in seconds
    #[arg(long, default_value_t = 1)]
    retry_after: u32,
    /// Messages a second that one chat takes; 0 for any number (Telegram: about 1)
    #[arg(long, default_value_t = 0)]
    chat_rate: u32,
    /// Messages that are remembered of each chat, for GET /sent?chat=
    #[arg(long, default_value_t = 100)]
    keep: usize,
}

#[derive(Debug, Args)]
struct GatewayArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8787", value_parser = parse_address)]
    listen: SocketAddr,
    /// The key that is taken
    #[arg(long, default_value = "")]
    key: String,
    /// Bytes of a chunk of a streamed answer; 0 for one chunk
    #[arg(long, default_value_t = 0)]
    chunk_bytes: usize,
    /// Do not answer every nth message
    #[arg(long, default_value_t = 0)]
    lose_every: u64,
    /// Answer every nth message twice
    #[arg(long, default_value_t = 0)]
    double_every: u64,
    /// Answer every nth message after the next one
    #[arg(long, default_value_t = 0)]
    swap_every: u64,
    /// Change a byte of every nth answer
    #[arg(long, default_value_t = 0)]
    corrupt_every: u64,
    /// Refuse every nth message
    #[arg(long, default_value_t = 0)]
    refuse_every: u64,
    /// Hang up instead of every nth answer
    #[arg(long, default_value_t = 0)]
    hang_up_every: u64,
    /// Hang up before every nth message is taken, as a gateway that is restarted
    #[arg(long, default_value_t = 0)]
    leave_every: u64,
    /// Give up a client that is owed more bytes than this; 0 for any number
    #[arg(long, default_value_t = 0)]
    owed_max: usize,
}

#[derive(Debug, Args)]
struct SelfTestArgs {
    /// The stall test alone, without the search for the ceiling
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// Write what was found as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RecordArgs {
    /// Where the trace goes; `loadgen run --arrivals trace:FILE` replays it
    file: PathBuf,
    /// Where clients connect
    #[arg(long, default_value = "127.0.0.1:8788", value_parser = parse_address)]
    listen: SocketAddr,
    /// The gateway, without TLS
    #[arg(long, default_value = "127.0.0.1:8787", value_parser = parse_address)]
    to: SocketAddr,
}

#[derive(Debug, Args)]
struct AbuseArgs {
    /// The gateway
    #[arg(long, default_value = "ws://127.0.0.1:8787", value_parser = run::parse_url)]
    url: run::Url,
    /// The gateway is not on this machine, and it is yours to load
    #[arg(long)]
    i_own_this: bool,
    /// The key
    #[arg(long, default_value = "")]
    key: String,
    /// Bad connections, all held open together where the gateway lets them; as many as descriptors allow
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// How long they are held
    #[arg(long, default_value = "15s", value_parser = crate::slo::parse_duration)]
    duration: u64,
    /// Messages a second of the good traffic beside it
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// The seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let read =
        Cli::command().try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match read {
        Ok(read) => read,
        Err(error) => {
            // Nobody can be told that nobody can be told.
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    sys::watch_interrupt();
    // Where the limit cannot be raised, the connections that it allows are there all the same.
    sys::raise_descriptor_limit().ok();
    let done = match cli.command {
        Command::Run(args) => run::run(*args, &|name| is_given(&matches, name)),
        Command::Scenarios(args) => plan::run(&args),
        Command::Mock(mock) => serve(mock),
        Command::SelfTest(args) => self_test::main(args.quick, &mut print),
        Command::Doctor(args) => examine(&args),
        Command::Record(args) => record(&args),
        Command::Abuse(args) => {
            args.url.check_abused(args.i_own_this).and_then(|()| abuse::main(&args.into(), &mut print))
        }
        Command::Crash(args) => crash::run(*args),
        Command::Search(args) => search::main(*args, &|name| is_given(&matches, name)),
        Command::Compare(args) => compare::main(*args, &|name| is_given(&matches, name)),
        Command::Capacity(args) => capacity::main(&args),
        Command::Report(args) => report::run(args),
        Command::Index(args) => report::index(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            complain(&failure.text);
            ExitCode::from(failure.code)
        }
    }
}

/// Examines the machine, and tells what was found.
fn examine(args: &DoctorArgs) -> Result<u8, Failure> {
    let found = doctor::examine(&mut complain)?;
    print(&found.to_table());
    if let Some(place) = &args.json {
        let failed = |error: std::io::Error| Failure::invalid(format!("{}: {error}", place.display()));
        let json = found.to_json().map_err(|error| failed(error.into()))?;
        std::fs::write(place, json).map_err(failed)?;
    }
    Ok(0)
}

/// Passes on and notes, until the user ends it.
fn record(args: &RecordArgs) -> Result<u8, Failure> {
    let noted = record::record(args.listen, args.to, &args.file, &mut print)
        .map_err(|error| Failure::invalid(format!("{}: {error}", args.file.display())))?;
    let record::Noted { messages, connections, blind } = noted;
    print(&format!(
        "{messages} messages of {connections} connections, {blind} of them not noted to their end"
    ));
    Ok(0)
}

/// Whether an option of the subcommand stands on the command line.
fn is_given(matches: &ArgMatches, name: &str) -> bool {
    matches.subcommand().is_some_and(|(_, of)| of.value_source(name) == Some(ValueSource::CommandLine))
}

/// Why a command could not be carried out.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub code: u8,
    /// What is told.
    pub text: String,
}

impl Failure {
    /// The arguments cannot be.
    #[must_use]
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, text: text.into() }
    }

    /// The machine lacks what the run needs.
    #[must_use]
    pub fn lacking(text: impl Into<String>) -> Self {
        Self { code: EXIT_LACKING, text: text.into() }
    }

    /// The run could not be made.
    #[must_use]
    pub fn invalid(text: impl Into<String>) -> Self {
        Self { code: EXIT_INVALID, text: text.into() }
    }
}

/// A line for the reader.
#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "this is where complaints go")]
fn complain(text: &str) {
    eprintln!("loadgen: {text}");
}

/// Runs a simulator until it is interrupted.
fn serve(mock: Mock) -> Result<u8, Failure> {
    let served = driver::run(|_| async move {
        let (name, address) = match mock {
            Mock::Provider(args) => ("provider", serve_provider(args)?),
            Mock::Telegram(args) => {
                let settings = BotSettings {
                    token: args.token,
                    busy_every: args.busy_every,
                    retry_after_seconds: args.retry_after,
                    chat_rate_max: args.chat_rate,
                    kept_per_chat: args.keep,
                };
                ("telegram", telegram::serve(args.listen, settings)?)
            }
            Mock::Gateway(args) => ("gateway", gateway::serve(args.listen, args.into())?),
        };
        print(&format!("mock {name} listens on {address}"));
        while !sys::interrupted() {
            driver::sleep(core::time::Duration::from_millis(50)).await;
        }
        Ok(())
    });
    let served: std::io::Result<()> = served.and_then(|served| served);
    served.map(|()| 0).map_err(|error| Failure::invalid(error.to_string()))
}

fn serve_provider(args: ProviderArgs) -> std::io::Result<SocketAddr> {
    let settings = provider::Settings { key: args.key, script: args.script };
    let address = provider::serve(args.listen, settings)?;
    if let Some(listen) = args.listen_tls {
        let settings = TlsSettings { name: String::new(), handshake_ns: args.handshake };
        print(&format!("and for TLS on {}", provider::tls::serve(listen, address, settings)?));
    }
    Ok(address)
}

impl From<AbuseArgs> for abuse::Abuse {
    fn from(args: AbuseArgs) -> Self {
        Self {
            target: args.url.address,
            host: args.url.host,
            key: args.key,
            connections: args.connections,
            duration_ns: args.duration,
            rate: args.rate,
            seed: args.seed,
        }
    }
}

impl From<GatewayArgs> for GatewaySettings {
    fn from(args: GatewayArgs) -> Self {
        Self {
            key: args.key,
            chunk_bytes: args.chunk_bytes,
            remembers: true,
            faults: Faults {
                stall: None,
                lose_every: args.lose_every,
                double_every: args.double_every,
                swap_every: args.swap_every,
                corrupt_every: args.corrupt_every,
                refuse_every: args.refuse_every,
                hang_up_every: args.hang_up_every,
                leave_every: args.leave_every,
                owed_max: args.owed_max,
            },
            telegram: None,
            signed: None,
        }
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| format!("{text}: {error}"))?;
    found.next().ok_or_else(|| format!("{text} has no address"))
}
