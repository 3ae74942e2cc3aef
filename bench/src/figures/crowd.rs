//! P13: what a message costs while very many sessions are in memory, against the same with few. Each message is for
//! another session than the one before, and far from it; all of them were written to before. Two gateways, in turns.
use super::Setup;
use super::chat::{authenticate, order, setting};
use super::durable::turn;
use super::load::{Load, Pace, connect_websocket};
use super::record::Table;
use super::server::Server;
use super::talk::{FAR, Talk};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// Sessions of the larger crowd, unless the command says how many.
pub const SESSIONS: usize = 1_000_000;
/// Sessions of the smaller one.
const FEW: usize = 1_000;
/// Messages at once on a connection.
const BURSTS: [u32; 2] = [1, 16];
/// Messages, all connections together, after which the store is waited for: what it has not taken must not be too much.
const SLICE: u64 = 32_000;

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let mut sides = [Side::begin(setup, FEW)?, Side::begin(setup, setup.count)?];
    for burst in BURSTS {
        for round in 0..setup.rounds {
            for at in order(sides.len(), round) {
                let Side { name, server, load } = &mut sides[at];
                let numbers = turn(load, server, setup.pace(burst), setup.turn)?;
                table.add(&setting(setup, burst), name, round, &numbers);
            }
        }
    }
    let few = sides[0].name.clone();
    table.add_ratio("cpu_ns_per_message", &few, "cpu_ratio_to_few");
    Ok(())
}

/// One gateway and its sessions.
struct Side {
    name: String,
    server: Server,
    load: Load,
}

impl Side {
    fn begin(setup: &Setup, sessions: usize) -> Result<Self, String> {
        let each = each(setup, sessions);
        let sessions = each * setup.connections as u64;
        let server = Server::gateway(setup, 1, &[room_for(sessions)])?;
        fill(&server, setup, each, 1, &[])?;
        let load = open(server.address, setup, each, FAR)?;
        let counted = super::ask::metrics(server.address)?;
        if counted.sum("sessions") != sessions as f64 {
            return Err(format!("{} of {sessions} sessions are in memory", counted.sum("sessions")));
        }
        Ok(Self { name: format!("clawgate, {sessions} sessions"), server, load })
    }
}

/// How many sessions each connection has.
pub(super) fn each(setup: &Setup, sessions: usize) -> u64 {
    (sessions / setup.connections).max(1) as u64
}

/// As much room as so many sessions need; and connections that wait for their turn are not asked whether they are there.
pub(super) fn room_for(sessions: u64) -> (&'static str, Value) {
    ("limits", json!({ "sessionsMax": sessions + sessions / 10 + 1_000, "heartbeatSeconds": 3_600 }))
}

/// Connections that each go through their own part of the sessions.
pub(super) fn open(gateway: SocketAddr, setup: &Setup, each: u64, step: u64) -> Result<Load, String> {
    Load::of(setup.connections, |at| {
        let socket = connect_websocket(gateway)?;
        authenticate(&socket)?;
        Ok((socket, Talk::crowd(at as u64 * each, each, step)))
    })
}

/// So many messages in each session, answered and kept; then these operations on each, as the user `figures`.
pub(super) fn fill(
    server: &Server,
    setup: &Setup,
    each: u64,
    messages: u64,
    operations: &[&str],
) -> Result<(), String> {
    let mut load = open(server.address, setup, each, 1)?;
    say_all(server, setup, &mut load, each * messages)?;
    for operation in operations {
        let talk = |at: usize| Talk::operate("figures", at as u64 * each, operation);
        let mut load =
            Load::of(setup.connections, |at| Ok((super::load::connect(server.address)?, talk(at))))?;
        say_all(server, setup, &mut load, each)?;
    }
    Ok(())
}

/// As fast as they are answered, and no faster than they are kept.
fn say_all(server: &Server, setup: &Setup, load: &mut Load, each: u64) -> Result<(), String> {
    let slice = (SLICE / setup.connections as u64).max(1);
    let mut left = each;
    while 0 < left {
        let now = left.min(slice);
        let burst = BURSTS[1].min(u32::try_from(each).unwrap_or(u32::MAX));
        load.run(Pace::Exactly { burst, each: now }, Duration::ZERO)
            .map_err(|why| format!("{}: {why}", server.name))?;
        server.caught_up()?;
        left -= now;
    }
    Ok(())
}
