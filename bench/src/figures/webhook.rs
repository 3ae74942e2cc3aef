//! P3: Telegram's updates by webhook. The gateway checks the secret, acknowledges, and posts the answer to a Bot API that
//! the load itself plays; `ack only` are edits, which it reads and acknowledges and no agent is asked about.
use super::Setup;
use super::chat::{order, setting, turn};
use super::load::{Load, connect};
use super::record::Table;
use super::server::Server;
use super::talk::{NUMBERED_MAX, Talk};
use crate::floor::{Answer, Floor};
use crate::inputs::WEBHOOK_SECRET;
use serde_json::json;
use std::net::TcpListener;

/// Chats that take turns on a connection.
const CHATS: u64 = 16;

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let bot_api = TcpListener::bind("127.0.0.1:0").map_err(|why| why.to_string())?;
    let api = bot_api.local_addr().map_err(|why| why.to_string())?;
    let channels = json!({ "telegram": {
        "token": "99:FIGURES", "secret": WEBHOOK_SECRET, "apiRoot": format!("http://{api}"), "dmPolicy": "open",
    } });
    // As behind a proxy: requests name the host that Telegram knows.
    let host = json!({ "hosts": ["bot.example.com"] });
    let gateway = Server::gateway(setup, 1, &[("channels", channels), ("server", host)])?;
    let servers = [Server::floor_epoll(setup, true)?, gateway];
    if NUMBERED_MAX < 2 * setup.connections {
        return Err(format!("at most {} connections can have updates of their own", NUMBERED_MAX / 2));
    }
    let load = |at: usize, kind: &'static str| {
        let address = servers[at].address;
        // An update that came before, of whatever kind, is a repetition, and not answered.
        let first = if kind == "message" { 0 } else { setup.connections };
        let talk = move |number| Talk::webhook(first + number, CHATS, kind);
        Load::of(setup.connections, move |number| Ok((connect(address)?, talk(number))))
    };
    let mut routed = load(1, "message")?;
    routed.deliver_to(Floor::new(bot_api, Answer::Http).map_err(|why| why.to_string())?)?;
    let mut loads = [
        (0, "floor-epoll", load(0, "message")?),
        (1, "clawgate", routed),
        (1, "clawgate (ack only)", load(1, "edited_message")?),
    ];
    for round in 0..setup.rounds {
        for at in order(loads.len(), round) {
            let (server, name, load) = &mut loads[at];
            let numbers = turn(load, &servers[*server], setup.pace(1), setup.turn)?;
            table.add(&setting(setup, 1), name, round, &numbers);
        }
    }
    table.add_ratio("cpu_ns_per_message", "floor-epoll", "cpu_ratio_to_epoll");
    Ok(())
}
