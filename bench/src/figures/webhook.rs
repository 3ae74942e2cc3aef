//! P3: Telegram's updates by webhook. The gateway checks the secret, acknowledges, and posts the answer to a Bot API that
//! the load itself plays; `ack only` has nothing to post. Once without keeping anything, where what is only acknowledged are
//! edits, about which no agent is asked; once with the journal in its default mode, where the agent answers with a blank,
//! so that what is acknowledged is journalled to its end.
use super::Setup;
use super::chat::{order, setting, turn};
use super::durable::{self, CHATS, SILENT, sections};
use super::load::{Load, connect};
use super::record::Table;
use super::server::Server;
use super::talk::{NUMBERED_MAX, Talk};
use crate::floor::append::Policy;
use crate::floor::{Answer, Floor};
use std::net::{SocketAddr, TcpListener};

/// The rows, in their order.
const ROWS: [&str; 6] = [
    "floor-epoll",
    "clawgate",
    "clawgate (ack only)",
    "floor-epoll, appending",
    "clawgate, journal always",
    "clawgate, journal always (ack only)",
];

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    if NUMBERED_MAX < 2 * setup.connections {
        return Err(format!("at most {} connections can have updates of their own", NUMBERED_MAX / 2));
    }
    let (plain, journalled) = (BotApi::new()?, BotApi::new()?);
    let kept = Some(Policy::Always);
    let servers = [
        Server::floor_epoll(setup, true)?,
        Server::gateway(setup, 1, &sections(None, plain.address))?,
        Server::floor_appending(setup, Policy::Always)?,
        Server::gateway(setup, 1, &sections(kept, journalled.address))?,
    ];
    let addresses = servers.each_ref().map(|server| server.address);
    // An update that came before, of whatever kind, is a repetition, and not answered.
    let webhooks = |server: usize, first: usize, kind: &'static str| {
        let talk = move |number| Talk::webhook(first + number, CHATS, kind);
        Load::of(setup.connections, |number| Ok((connect(addresses[server])?, talk(number))))
    };
    let mut loads = [
        (0, webhooks(0, 0, "message")?),
        (1, plain.hears(webhooks(1, 0, "message")?)?),
        (1, webhooks(1, setup.connections, "edited_message")?),
        (2, webhooks(2, 0, "message")?),
        (3, journalled.hears(durable::load(addresses[3], "telegram", setup.connections, 0, CHATS)?)?),
        (3, durable::load(addresses[3], SILENT, setup.connections, 0, CHATS)?),
    ];
    for round in 0..setup.rounds {
        for at in order(loads.len(), round) {
            let (server, load) = &mut loads[at];
            let measure = if *server == 3 { durable::turn } else { turn };
            let numbers = measure(load, &servers[*server], setup.pace(1), setup.turn)?;
            table.add(&setting(setup, 1), ROWS[at], round, &numbers);
        }
    }
    table.add_ratio("cpu_ns_per_message", ROWS[0], "cpu_ratio_to_epoll");
    table.add_ratio("messages_per_second", ROWS[3], "rate_ratio_to_appending");
    Ok(())
}

/// A Bot API that the load plays.
struct BotApi {
    listener: TcpListener,
    address: SocketAddr,
}

impl BotApi {
    fn new() -> Result<Self, String> {
        let told = |why: std::io::Error| why.to_string();
        let listener = TcpListener::bind("127.0.0.1:0").map_err(told)?;
        Ok(Self { address: listener.local_addr().map_err(told)?, listener })
    }

    /// The load plays it.
    fn hears(self, mut load: Load) -> Result<Load, String> {
        load.deliver_to(Floor::new(self.listener, Answer::Http).map_err(|why| why.to_string())?)?;
        Ok(load)
    }
}
