//! `loadgen run`: its options, and what becomes of them.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use hdrhistogram::serialization::V2DeflateSerializer;

use super::plan::{Aim, Defaults};
use super::{Failure, parse_address, print};
use crate::arrivals::Arrivals;
use crate::formats::{self, Forms};
use crate::hazards::{Brownout, Ending, Hazards, Restart, Slow, Storm, parse_span};
use crate::host::Fingerprint;
use crate::ledger::Expect;
use crate::measure::Interval;
use crate::mock::provider::Script;
use crate::preflight::{self, Limits, Needs};
use crate::protocol::Addressing;
use crate::report::{Chronicle, Circumstances, Places, Report, answers_per_second};
use crate::rng::mix;
use crate::run::{Flaws, Observer, Settings, SignedSettings, Spread, TelegramSettings, Trust, drive};
use crate::slo::{Slo, parse_duration};
use crate::verdict;
use crate::view::View;

const HELP: &str = "Scenarios:
  ws-chat           /ws, answers whole
  ws-stream         /ws, answers in chunks
  rest              POST /api/chat, JSON
  sse-stream        POST /api/chat, server-sent events
  ws-churn          /ws, a connection for each message; with TLS, if the URL begins with wss:// (--ca)
  webhook-telegram  updates to /webhooks/<channel>; the gateway's apiRoot is --telegram-listen
  webhook-signed    signed JSON to /webhooks/<channel>; the channel's replyUrl is --answers-listen
Mixed, with all their settings: see `loadgen scenarios`. Yours: a file that ends in .toml.

The default agent of the gateway echoes, and every answer is checked to the byte; with another agent say --expect \
anything. Sessions are laid onto connections, many to one; messages of one session are answered in order or counted as \
reordered. Over HTTP a session has one request in flight, and what waits for a connection is late: raise --connections \
until the lag is small.

Verdicts: VALID; NOISY (the machine was busy); NOT-STEADY (the times rose or fell to the end); GENERATOR-LIMITED (lag at p99 above 1 ms and half of the median response, \
less than 99 % sent in time, a thread above 90 % of a core with a lag at p99 above 0.5 ms); INTERRUPTED.";

/// Options of `loadgen run`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct RunArgs {
    /// What to drive: a name, a mixture such as ws-chat=3,rest=1, or a file such as mine.toml; what stands on the command
    /// line goes before what a file says
    #[arg(default_value = "ws-chat")]
    scenario: Aim,
    /// The gateway: ws://host:port or http://host:port
    #[arg(long, default_value = "ws://127.0.0.1:8787", value_parser = parse_url)]
    url: Url,
    /// The gateway is not on this machine, and it is yours to load
    #[arg(long)]
    i_own_this: bool,
    /// Whom clients trust that speak TLS: a PEM file with certificates
    #[arg(long)]
    ca: Option<PathBuf>,
    /// The key; none if empty
    #[arg(long, default_value = "")]
    key: String,
    /// Messages a second, all together
    #[arg(long, default_value_t = 12_000.0)]
    rate: f64,
    /// Sessions of each part of the scenario
    #[arg(long, default_value_t = 1000, visible_alias = "chats")]
    sessions: u32,
    /// Of a hundred messages of each part, how many are one session's beside what it gets as the others do
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    hot_percent: u32,
    /// The exponent of Zipf's law by which messages are spread over sessions: few have many, many have few; 0 for evenly
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Of a hundred connections, how many read slowly or not at all; when everything is sent they read what they are owed
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    slow_percent: u32,
    /// Bytes a second that each of these reads; 0 for none
    #[arg(long, default_value_t = 0)]
    slow_rate: u64,
    /// When all WebSockets are dropped at once, after the start of the run: 5s,12s
    #[arg(long, value_delimiter = ',', value_parser = parse_duration)]
    storms: Vec<u64>,
    /// How they end then: abort, with a reset, or polite, with a close frame
    #[arg(long, default_value = "abort")]
    storm_end: Ending,
    /// For how long a client waits at most, drawn evenly, before it comes back
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    storm_jitter: u64,
    /// When the gateway is restarted, after the start of the run: 5s,12s; what it had not taken then is sent again
    #[arg(long, value_delimiter = ',', value_parser = parse_duration)]
    restarts: Vec<u64>,
    /// With what, for a shell: 'clawgate serve --takeover --config FILE', or what makes the gateway replace itself. What
    /// goes on when the run is over is left running: it is the gateway
    #[arg(long, default_value = "", hide_default_value = true)]
    restart_with: String,
    /// When the provider's simulator in this process is not well, after the start of the run: 10s..20s,40s..45s
    #[arg(long, value_delimiter = ',', value_parser = parse_span)]
    brownouts: Vec<Range<u64>>,
    /// What it does then, as a script of `loadgen mock provider`
    #[arg(long, default_value = "status=500")]
    brownout: Script,
    /// Where it listens, if there are brownouts: the baseUrl of the gateway's endpoint, with /v1 behind it
    #[arg(long, default_value = "127.0.0.1:9101", value_parser = parse_address)]
    provider_listen: SocketAddr,
    /// Connections of each part
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// What is measured
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: u64,
    /// What is sent before it, counted but not timed
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    warmup: u64,
    /// How messages arrive: constant, poisson, burst:100 (so many at once), bursty:400%,20%,500ms (bursts at so much of the
    /// rate, for so much of the time, so long on average), ramp:1000 (from so many a second to the rate), trace:FILE (as
    /// recorded, at the recording's own rate if no other is asked for, and again from its start)
    #[arg(long, default_value = "poisson")]
    arrivals: Arrivals,
    /// The same seed and arguments give the same schedule, on any number of threads
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Bytes of a message's text, at least 64
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Generator threads
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// How sessions are laid onto connections
    #[arg(long, default_value = "even")]
    spread: SpreadName,
    /// What answers have to say
    #[arg(long, default_value = "echo")]
    expect: ExpectName,
    /// Burn a core to wake in time: sharper times, if there is a core to burn
    #[arg(long)]
    spin: bool,
    /// How long answers are waited for at the end
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    drain: u64,
    /// Unanswered messages of a thread above which what is due is not sent but counted as shed
    #[arg(long, default_value_t = 1_000_000)]
    inflight_max: u64,
    /// The value of `channel` in messages
    #[arg(long, default_value = "api")]
    channel: String,
    /// What session ids start with; by default something new with each run
    #[arg(long)]
    session_prefix: Option<String>,
    /// Objectives, such as p99<45ms,loss=0,first_p95<300ms
    #[arg(long)]
    pub(super) slo: Option<Slo>,
    /// The gateway's process, whose processor time and memory are measured
    #[arg(long)]
    gateway_pid: Option<u32>,
    /// The gateway's commit, for the result
    #[arg(long)]
    commit: Option<String>,
    /// Write the result as JSON
    #[arg(long)]
    pub(super) json: Option<PathBuf>,
    /// Write an HDR interval log
    #[arg(long)]
    hlog: Option<PathBuf>,
    /// Write all forms of the result into a folder: result.json, latency.hlog, report.html, summary.txt, summary.md,
    /// times.csv, seconds.csv, junit.xml
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
    /// Neither a view of the run nor a line a second
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// A line a second, also in a terminal
    #[arg(long)]
    plain: bool,
    #[command(flatten)]
    platforms: PlatformArgs,
}

impl RunArgs {
    /// Checks that the target may be loaded.
    pub(super) fn check_target(&self) -> Result<(), Failure> {
        self.url.check_owner(self.i_own_this)
    }

    /// Takes over from the scenario's file what the command line does not say, and a trace's own rate where nobody says one.
    pub(super) fn fill_in(&mut self, is_given: &dyn Fn(&str) -> bool) {
        let plan = self.scenario.plan().cloned().unwrap_or_default();
        let mut defaults = Defaults { is_given };
        defaults.set("arrivals", &mut self.arrivals, plan.arrivals);
        if let Arrivals::Trace(trace) = &self.arrivals {
            defaults.set("rate", &mut self.rate, Some(trace.rate()));
        }
        defaults.set("rate", &mut self.rate, plan.rate);
        defaults.set("sessions", &mut self.sessions, plan.sessions);
        defaults.set("hot_percent", &mut self.hot_percent, plan.hot_percent);
        defaults.set("zipf", &mut self.zipf, plan.zipf);
        defaults.set("repeats", &mut self.platforms.repeats, plan.repeats);
        defaults.set("late", &mut self.platforms.late, plan.late);
        defaults.set("malformed", &mut self.platforms.malformed, plan.malformed);
        defaults.set("slow_percent", &mut self.slow_percent, plan.slow_percent);
        defaults.set("slow_rate", &mut self.slow_rate, plan.slow_rate);
        defaults.set("storms", &mut self.storms, plan.storms);
        defaults.set("storm_end", &mut self.storm_end, plan.storm_end);
        defaults.set("storm_jitter", &mut self.storm_jitter, plan.storm_jitter);
        defaults.set("restarts", &mut self.restarts, plan.restarts);
        defaults.set("restart_with", &mut self.restart_with, plan.restart_with);
        defaults.set("brownouts", &mut self.brownouts, plan.brownouts);
        defaults.set("brownout", &mut self.brownout, plan.brownout);
        defaults.set("connections", &mut self.connections, plan.connections);
        defaults.set("duration", &mut self.duration, plan.duration);
        defaults.set("warmup", &mut self.warmup, plan.warmup);
        defaults.set("drain", &mut self.drain, plan.drain);
        defaults.set("seed", &mut self.seed, plan.seed);
        defaults.set("payload", &mut self.payload, plan.payload);
        defaults.set("threads", &mut self.threads, plan.threads);
        defaults.set("slo", &mut self.slo, plan.slo.map(Some));
    }
}

#[derive(Debug, Args)]
struct PlatformArgs {
    /// Where the Bot API simulator of webhook-telegram listens: the gateway's apiRoot
    #[arg(long, default_value = "127.0.0.1:9102", value_parser = parse_address)]
    telegram_listen: SocketAddr,
    /// The Telegram channel's name in the gateway
    #[arg(long, default_value = "telegram")]
    telegram_channel: String,
    /// The bot's token
    #[arg(long)]
    bot_token: Option<String>,
    /// The webhook's secret
    #[arg(long)]
    webhook_secret: Option<String>,
    /// Where answers of webhook-signed are taken: the channel's replyUrl, whatever its path
    #[arg(long, default_value = "127.0.0.1:9103", value_parser = parse_address)]
    answers_listen: SocketAddr,
    /// The signed webhook's name in the gateway
    #[arg(long, default_value = "signed")]
    signed_channel: String,
    /// Its secret, with which both sides sign
    #[arg(long)]
    signed_secret: Option<String>,
    /// The share of a platform's messages that are delivered twice and have to be answered once
    #[arg(long, default_value_t = 0.03)]
    repeats: f64,
    /// The share that is delivered once more two seconds later
    #[arg(long, default_value_t = 0.0)]
    late: f64,
    /// The share beside which something is delivered that has to be refused: what cannot be read, or is not signed well
    #[arg(long, default_value_t = 0.0)]
    malformed: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SpreadName {
    /// Each connection has as many
    Even,
    /// By a seeded hash
    Random,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExpectName {
    /// What was asked, to the byte
    Echo,
    /// Anything; tokens of the provider simulator's `reply=stamps` are timed from their emission
    Anything,
}

/// Where the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Its authority, for `Host`.
    pub(crate) host: String,
    /// It is spoken to in TLS.
    pub(crate) is_secure: bool,
}

/// Reads `ws://host:port`, `http://host:port`, and with an `s` for TLS, with or without a path, which is not looked at.
pub(crate) fn parse_url(text: &str) -> Result<Url, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("ws", text));
    let is_secure = matches!(scheme, "wss" | "https");
    if !is_secure && !matches!(scheme, "ws" | "http") {
        return Err(format!(
            "{scheme}: is not spoken; write ws://host:port, http://host:port, or wss://host:port"
        ));
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port {
        authority.to_owned()
    } else {
        format!("{authority}:{}", if is_secure { 443 } else { 80 })
    };
    Ok(Url { address: parse_address(&host)?, host, is_secure })
}

impl Url {
    /// As below, for what speaks no TLS.
    pub(super) fn check_abused(&self, is_owned: bool) -> Result<(), Failure> {
        if self.is_secure {
            return Err(Failure::usage("bad input is sent without TLS; write ws://host:port"));
        }
        self.check_owner(is_owned)
    }

    /// Nothing but this machine is loaded unless somebody says that the other one is theirs.
    pub(super) fn check_owner(&self, is_owned: bool) -> Result<(), Failure> {
        if is_owned || self.address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{} is not on this machine's loopback: a load on what belongs to others is an attack; if it is yours, say \
             --i-own-this",
            self.address
        )))
    }
}

/// Makes the run and reports it. Tells what the process ends with.
pub(crate) fn run(mut args: RunArgs, is_given: &dyn Fn(&str) -> bool) -> Result<u8, Failure> {
    args.fill_in(is_given);
    args.check_target()?;
    let slo = args.slo.clone().unwrap_or_default();
    let (commit, quiet) = (args.commit.clone(), args.quiet);
    let is_seen = !quiet && !args.plain && std::io::stdout().is_terminal();
    let mut places = Places { json: args.json.clone(), hlog: args.hlog.clone(), folder: args.out.clone() };
    let settings = settings(args)?;
    check(&settings)?;
    let failed = |error: std::io::Error| Failure::invalid(format!("a result cannot be written: {error}"));
    places.prepare().map_err(failed)?;
    let mut log = places.open_hlog().map_err(failed)?;
    let machine = Fingerprint::read();
    let mut serializer = V2DeflateSerializer::new();
    let (outcome, rows) = {
        let log = log.as_mut().map(|log| (log, &mut serializer));
        let has_lines = !quiet && !is_seen;
        let chronicle = Chronicle::new(log, SystemTime::now(), has_lines).map_err(Failure::invalid)?;
        let view = is_seen.then(|| View::new(&settings)).transpose();
        let view = view.map_err(|error| Failure::invalid(format!("the run cannot be shown: {error}")))?;
        let mut watched = Watched { chronicle, view };
        let outcome = drive(settings.clone(), &mut watched).map_err(Failure::invalid)?;
        let chronicle = watched.chronicle;
        if let Some(failure) = chronicle.failure {
            return Err(Failure::invalid(failure));
        }
        (outcome, chronicle.rows)
    };
    if let Some(log) = &mut log {
        log.flush().map_err(failed)?;
    }
    let verdict = verdict::judge(&outcome, settings.duration_ns, settings.spin);
    let held = slo.hold(&outcome, answers_per_second(&settings, &outcome));
    let command = without_secrets(std::env::args());
    let of = Circumstances { settings: &settings, command, commit, machine, rows };
    let report = Report::new(of, &outcome, verdict, held);
    print(&report.to_table());
    places.write(&report).map_err(failed)?;
    if let Some(folder) = &places.folder {
        let stored = formats::Run::read(folder).map_err(|error| Failure::invalid(error.to_string()))?;
        Forms::all_in(folder).write(&[stored]).map_err(failed)?;
    }
    Ok(report.exit_code())
}

/// A run that is written down, and seen in a terminal.
struct Watched<'a, W: Write> {
    chronicle: Chronicle<'a, W>,
    view: Option<View>,
}

impl<W: Write> Observer for Watched<'_, W> {
    fn on_second(&mut self, second: u64, interval: &Interval) {
        self.chronicle.on_second(second, interval);
        if let Some(view) = &mut self.view {
            view.on_second(second, interval);
        }
    }
}

/// Checks that the settings can be, and that this machine allows them.
pub(super) fn check(settings: &Settings) -> Result<(), Failure> {
    settings.check().map_err(Failure::usage)?;
    let limits = Limits::read(settings.target);
    preflight::check(&Needs::of(settings), &limits).map_err(|lack| Failure::lacking(lack.to_string()))
}

/// What platforms do, and what those need that are spoken for.
fn platforms(platforms: PlatformArgs) -> (Flaws, Option<TelegramSettings>, Option<SignedSettings>) {
    let flaws = Flaws { repeats: platforms.repeats, late: platforms.late, malformed: platforms.malformed };
    let telegram = match (platforms.bot_token, platforms.webhook_secret) {
        (Some(token), Some(secret)) => Some(TelegramSettings {
            listen: platforms.telegram_listen,
            channel: platforms.telegram_channel,
            token,
            secret,
        }),
        (None, _) | (_, None) => None,
    };
    let signed = platforms.signed_secret.map(|secret| SignedSettings {
        listen: platforms.answers_listen,
        channel: platforms.signed_channel,
        secret,
    });
    (flaws, telegram, signed)
}

/// What a run depends on, as it was asked for.
pub(super) fn settings(args: RunArgs) -> Result<Settings, Failure> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Runs tell their messages apart by it; a gateway remembers ids for days.
    let run = (mix(since_1970.as_nanos() as u64 ^ u64::from(std::process::id())) >> 32) as u32;
    let (flaws, telegram, signed) = platforms(args.platforms);
    let slow = Slow { percent: args.slow_percent, bytes_per_second: args.slow_rate };
    let storm = Storm { at_ns: args.storms, ending: args.storm_end, jitter_ns: args.storm_jitter };
    let restart = Restart { at_ns: args.restarts, command: args.restart_with };
    let brownout = Brownout { listen: args.provider_listen, during: args.brownouts, script: args.brownout };
    let hazards = Hazards {
        brownout: (!brownout.during.is_empty()).then_some(brownout),
        slow: (slow.percent != 0).then_some(slow),
        storm: (!storm.at_ns.is_empty()).then_some(storm),
        restart: (!restart.at_ns.is_empty()).then_some(restart),
    };
    let trust = match (args.url.is_secure, &args.ca) {
        (false, None) => None,
        (true, Some(file)) => Some(Trust::read(file, &args.url.host).map_err(Failure::usage)?),
        (true, None) => {
            return Err(Failure::usage("wss:// needs --ca FILE: the certificates that are trusted"));
        }
        (false, Some(_)) => return Err(Failure::usage("--ca is for wss://; this URL is without TLS")),
    };
    Ok(Settings {
        target: args.url.address,
        trust,
        to: Addressing {
            run,
            payload_bytes: args.payload,
            session_prefix: args.session_prefix.unwrap_or_else(|| format!("lg-{run:08x}-")),
            channel: args.channel,
            host: args.url.host,
            key: args.key,
        },
        scenario: args.scenario.scenario(),
        rate: args.rate,
        sessions: args.sessions,
        hot_percent: args.hot_percent,
        hazards,
        connections: args.connections,
        duration_ns: args.duration,
        warmup_ns: args.warmup,
        arrivals: args.arrivals,
        seed: args.seed,
        threads: args.threads,
        spread: match args.spread {
            SpreadName::Even => Spread::Even,
            SpreadName::Random => Spread::Random,
        },
        expect: match args.expect {
            ExpectName::Echo => Expect::Echo,
            ExpectName::Anything => Expect::Anything,
        },
        drain_ns: args.drain,
        linger_ns: 100_000_000,
        inflight_max: args.inflight_max,
        spin: args.spin,
        telegram,
        signed,
        flaws,
        zipf: args.zipf,
        started_unix_seconds: since_1970.as_secs(),
        gateway_pid: args.gateway_pid,
    })
}

/// Options whose value is nobody's business.
const SECRETS: [&str; 4] = ["--key", "--bot-token", "--webhook-secret", "--signed-secret"];

/// A command line, for the result that others read.
pub(super) fn without_secrets(args: impl Iterator<Item = String>) -> Vec<String> {
    let mut told = Vec::new();
    let mut hide = false;
    for arg in args {
        if std::mem::take(&mut hide) {
            told.push("***".to_owned());
            continue;
        }
        match arg.split_once('=') {
            Some((name, _)) if SECRETS.contains(&name) => told.push(format!("{name}=***")),
            Some(_) | None => {
                hide = SECRETS.contains(&arg.as_str());
                told.push(arg);
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_url_is_an_address_and_an_authority() {
        let url = parse_url("ws://127.0.0.1:8787/ws").unwrap();
        assert_eq!((url.address, url.host.as_str()), ("127.0.0.1:8787".parse().unwrap(), "127.0.0.1:8787"));
        assert_eq!(parse_url("http://127.0.0.1").unwrap().address.port(), 80);
        assert_eq!(parse_url("[::1]:99").unwrap().address, "[::1]:99".parse().unwrap());
        let secure = parse_url("wss://127.0.0.1").unwrap();
        assert!(secure.is_secure && secure.address.port() == 443);
        assert!(parse_url("ftp://127.0.0.1:1").unwrap_err().contains("not spoken"));
    }

    #[test]
    fn what_is_not_on_this_machine_needs_an_owner() {
        for (url, here) in [
            ("ws://127.0.0.1:1", true),
            ("ws://127.8.9.1:1", true),
            ("[::1]:1", true),
            ("ws://192.0.2.1:1", false),
        ] {
            let url = parse_url(url).unwrap();
            assert_eq!(url.check_owner(false).is_ok(), here, "{url:?}");
            assert!(url.check_owner(true).is_ok());
        }
        let mapped = parse_url("[::ffff:127.0.0.1]:1").unwrap();
        assert!(mapped.check_owner(false).is_ok());
        let refused = parse_url("ws://192.0.2.1:1").unwrap().check_owner(false).unwrap_err();
        assert!(refused.code == crate::report::EXIT_USAGE && refused.text.contains("--i-own-this"));
    }

    #[test]
    fn secrets_are_not_in_the_command_that_is_told() {
        let args =
            ["loadgen", "run", "--key", "k1", "--bot-token=t2", "--rate", "5", "--webhook-secret", "w3"];
        let told = without_secrets(args.into_iter().map(str::to_owned)).join(" ");
        assert_eq!(told, "loadgen run --key *** --bot-token=*** --rate 5 --webhook-secret ***");
    }
}
