//! What it costs when a session lives on another shard than its connection. Two shards; each connection settles on one by
//! its first message, as the gateway has it, and then speaks in a session of the same shard, or of the other.
use super::Setup;
use super::ask::get;
use super::chat::{authenticate, exchange, order, setting, turn};
use super::load::{Load, Pace, connect_websocket};
use super::record::Table;
use super::server::Server;
use super::talk::Talk;
use crate::inputs::client_message;
use serde_json::Value;
use std::net::{SocketAddr, TcpStream};

/// Sessions that are made to see where they live.
const SESSIONS: usize = 64;
/// Messages a second in the open loop, where the command says none: few enough that nothing queues.
const RATE: u32 = 2_000;

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let server = Server::gateway(setup, 2, &[])?;
    let homes = homes(server.address)?;
    let load = |same: bool| {
        Load::of(setup.connections, |at| {
            // Connections take turns: every other one lives on the other shard.
            let here = &homes[at % 2];
            let there = if same { here } else { &homes[(at + 1) % 2] };
            let (first, session) = (&here[at % here.len()], &there[at % there.len()]);
            let socket = connect_websocket(server.address)?;
            authenticate(&socket)?;
            settle(&socket, first)?;
            Ok((socket, Talk::chat(session)))
        })
    };
    let mut loads = [("same", load(true)?), ("other", load(false)?)];
    let open = Pace::Open { per_second: if setup.rate == 0 { RATE } else { setup.rate } };
    for pace in [Pace::Closed { burst: 1 }, open] {
        let rate = if let Pace::Open { per_second } = pace { per_second } else { 0 };
        let setting = setting(&Setup { rate, ..setup.clone() }, 1);
        for round in 0..setup.rounds {
            for at in order(loads.len(), round) {
                let (name, load) = &mut loads[at];
                let numbers = turn(load, &server, pace, setup.turn)?;
                table.add(&setting, name, round, &numbers);
            }
        }
    }
    table.add_ratio("cpu_ns_per_message", "same", "cpu_ratio_to_same");
    table.add_ratio("p50_us", "same", "p50_ratio_to_same");
    Ok(())
}

/// Says one message in this session, and hears its answer.
fn settle(socket: &TcpStream, session: &str) -> Result<(), String> {
    exchange(socket, &client_message(session, "where am I"), "done")
}

/// Makes sessions, and asks which live on which of the two shards.
fn homes(gateway: SocketAddr) -> Result<[Vec<String>; 2], String> {
    let socket = connect_websocket(gateway)?;
    authenticate(&socket)?;
    for number in 0..SESSIONS {
        settle(&socket, &format!("x{number:04}"))?;
    }
    let body: Value = serde_json::from_slice(&get(gateway, "/api/sessions?limit=500")?)
        .map_err(|why| format!("the list of sessions: {why}"))?;
    let list = body.pointer("/data/sessions").or_else(|| body.get("sessions")).and_then(Value::as_array);
    let mut homes = [Vec::new(), Vec::new()];
    for session in list.ok_or_else(|| format!("there is no list of sessions in {body}"))? {
        let name = session["id"].as_str().and_then(|id| id.rsplit(':').next()).unwrap_or_default();
        let home = session["shard"].as_u64().and_then(|shard| homes.get_mut(usize::try_from(shard).ok()?));
        if let (Some(home), true) = (home, name.starts_with('x')) {
            home.push(name.to_owned());
        }
    }
    if homes.iter().any(Vec::is_empty) {
        return Err("all sessions live on one shard".to_owned());
    }
    Ok(homes)
}
