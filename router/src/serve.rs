//! The process: its parts put together, what it says at its start, and how it ends.
use crate::cli::Orders;
use crate::clock::Clock;
use crate::config::Config;
use crate::crew::Crew;
use crate::descriptors::{self, Descriptors};
use crate::driver::Kind;
use crate::gateway::{Gateway, Shared};
use crate::helm::{self, End, Helm, Source, Steered};
use crate::kept::Kept;
use crate::place::{self, Claim, Place};
use crate::sockets::Sockets;
use crate::takeover::{self, Door};
use crate::tools::audit::Audit;
use crate::usage::books::Books;
use clawgate_core::id::ShardId;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::sync::Arc;

/// The exit code of a gateway that could not start.
const COULD_NOT_START: u8 = 3;

/// How the process ends.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With this code.
    Exit(ExitCode),
    /// By beginning anew, with its listeners.
    Again(Command),
}

impl Ended {
    /// Ends.
    pub(crate) fn finish(self) -> ExitCode {
        match self {
            Self::Exit(code) => code,
            Self::Again(mut command) => {
                let why = command.exec();
                // The log is closed: whoever started us has our words and our code.
                let _ = writeln!(std::io::stderr(), "cannot begin anew: {why}");
                ExitCode::from(COULD_NOT_START)
            }
        }
    }
}

/// Runs the gateway until a signal ends it, or another process goes on.
pub(crate) fn run(orders: Orders) -> Ended {
    let clock = Clock::start();
    match start(orders, clock) {
        Ok(ended) => ended,
        Err(why) => {
            tracing::error!("{why}");
            Ended::Exit(ExitCode::from(COULD_NOT_START))
        }
    }
}

fn start(orders: Orders, clock: Clock) -> Result<Ended, String> {
    let Orders { config, overrides, takeover } = orders;
    let descriptors_max = descriptors::raise();
    let program = std::env::current_exe().ok();
    let gateway = Arc::new(Gateway::compile(&config, None)?);
    let claim = Claim::stake(&config, takeover)?;
    let mut signals = helm::take_signals().map_err(|why| format!("cannot take signals: {why}"))?;
    // All that may fail is done before another process is asked for its place.
    let crew = Crew::muster(&config, &gateway, clock)?;
    let place = claim.take(&config, crew.shared.cores(), &mut signals, clock)?;
    let Some(place) = place else { return Ok(Ended::Exit(ExitCode::SUCCESS)) };
    let (held, Sockets { all, bound, by_thread, retired }, before) = place.into_parts();
    let folder = held.as_ref().map(|held| &held.folder);
    // Nothing was kept before.
    let _ = crew.shared.kept.set(Kept::open(folder, &config, &gateway, &crew.shared)?);
    // Nor was anything counted.
    let _ = crew.shared.books.set(Books::open(folder, &gateway)?);
    if let (Some(plan), Some(folder)) = (&config.audit, folder) {
        // Nothing was written down before.
        let _ = crew.shared.audit.set(Arc::new(Audit::start(folder, plan)?));
    }
    let door = held.as_ref().map(|held| Door::open(&held.folder)).transpose();
    let door = door.map_err(|why| format!("the data directory takes no control socket: {why}"))?;
    let shared = &crew.shared;
    let open =
        descriptors::next(shared.mesh.bell(ShardId(0))).map_err(|why| format!("cannot start: {why}"))?;
    // Nothing was shared before.
    let _ = shared.descriptors.set(Descriptors::new(
        descriptors_max,
        u64::from(open.unsigned_abs()),
        shared.cores(),
    ));
    gateway.tools.begin_servers(&crew.shared.quay, clock);
    crew.open(by_thread, retired)?;
    Place::accepting(before);
    announce(&config, &crew.shared, &gateway, &bound, crew.kind);
    let source = Source { started: config, overrides, bound, program };
    let helm = Helm::new(crew.shared.clone(), clock, signals, source, gateway, (door, all));
    let Steered { end, listeners, mut signals } = helm.steer();
    crew.dismiss()?;
    if let End::HandOver(line) = end {
        return Ok(place::leave(&line, held, listeners, &mut signals));
    }
    if let Some(held) = &held {
        takeover::close_door(&held.folder);
    }
    tracing::info!("stopped");
    Ok(Ended::Exit(ExitCode::SUCCESS))
}

/// The most memory, in bytes, that the limits let us take: every bound reached at once.
pub(crate) fn worst_case(gateway: &Gateway, cores: u16) -> u64 {
    let limits = &gateway.limits;
    let core = &limits.core;
    let names = 4 * u64::from(core.name_bytes_max);
    let session = 512 + names + u64::from(core.history_bytes_max) + u64::from(core.context_bytes_max);
    let turn = 512 + names + u64::from(core.text_bytes_max) + u64::from(core.reply_bytes_max);
    let request = (limits.head_bytes_max + limits.body_bytes_max.max(limits.frame_bytes_max)) as u64;
    let connection = 2_048 + limits.outbox_bytes_max as u64 + request;
    let upstream = (limits.upstream_event_bytes_max.max(limits.upstream_body_bytes_max)) as u64 + 64 * 1024;
    let upstreams = gateway.upstreams.len() as u64 + gateway.platforms.len() as u64;
    // What tools said is held by the turn, and once more while its model is asked again.
    let exchanges =
        if gateway.tools.are_used() { upstreams * u64::from(limits.upstream_connections_max) } else { 0 };
    let thread = 16 * 1024 * 1024;
    u64::from(core.sessions_max) * session
        + u64::from(core.turns_max) * turn
        + u64::from(limits.connections_max) * connection
        + upstreams * u64::from(limits.upstream_connections_max) * upstream
        + exchanges * 2 * limits.tools.exchange_bytes_max as u64
        + gateway.tools.servers().map(|server| server.bytes_max()).sum::<u64>()
        + limits.requests_bytes_max
        + u64::from(core.dedup_ids_max) * 48
        + u64::from(core.dedup_filter_bytes_max)
        + u64::from(core.lookups_max) * (512 + names + u64::from(core.text_bytes_max))
        + u64::from(core.kept_answer_bytes_max)
        + u64::from(core.kept_answers_max) * 64
        + u64::from(limits.addresses_max) * 16
        + limits.usage_rows_max as u64 * (256 + names)
        + u64::from(cores) * thread
}

fn announce(config: &Config, shared: &Shared, gateway: &Gateway, bound: &[SocketAddr], kind: Kind) {
    let scheme = if gateway.server_tls.is_some() { "https" } else { "http" };
    for address in bound {
        tracing::info!("listening on {scheme}://{address}");
    }
    let gib = (worst_case(gateway, shared.cores()) + shared.keeping_bytes()) as f64 / f64::from(1u32 << 30);
    tracing::info!(
        shards = shared.cores(),
        driver = kind.name(),
        config =
            config.file.as_ref().map_or_else(|| "built in".to_owned(), |file| file.display().to_string()),
        "memory, if every limit is reached at once: {gib:.1} GiB"
    );
    if let Some(descriptors) = shared.descriptors.get() {
        let (limit, reserved) =
            (descriptors.limit(), descriptors.reserve(gateway.limits.descriptors_reserved));
        tracing::info!(limit, reserved, "descriptors: clients leave those that are reserved to others");
    }
    if config.data.folder.is_none() {
        if config.channels.is_empty() {
            tracing::info!("nothing is kept: there is no data directory (`data.folder`)");
        } else {
            tracing::warn!(
                "nothing is kept: what channels were told is accepted is lost when this process ends; set `data.folder`"
            );
        }
    }
    if gateway.keys.is_open() {
        tracing::info!("no keys are configured: whoever can reach this machine's loopback may chat");
    }
    let agents: Vec<_> = config.agents.iter().map(|agent| agent.name.as_str()).collect();
    let channels: Vec<_> = config.channels.iter().map(|channel| channel.name.as_str()).collect();
    tracing::info!(agents = agents.join(", "), channels = channels.join(", "), "ready");
}
