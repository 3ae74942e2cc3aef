//! What the figures of the journal have in common: a gateway whose webhooks are written down before they are acknowledged,
//! and a turn that is over when all of it is kept, so that no work of one turn is done in the next.
use super::ask::metrics;
use super::chat::{WARM, numbers};
use super::load::{Load, Pace, connect};
use super::machine::Busy;
use super::server::Server;
use super::talk::{NUMBERED_MAX, Talk};
use crate::floor::append::Policy;
use crate::inputs::WEBHOOK_SECRET;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// The channel whose agent answers with a blank: nothing is delivered, and the turn is over.
pub(super) const SILENT: &str = "silent";
/// The channel whose model never says anything: its turns stay open.
pub(super) const HELD: &str = "held";
/// Turns that stay open, at the most.
const HELD_MAX: u32 = 10_000_000;
/// Chats that take turns on a connection.
pub(super) const CHATS: u64 = 16;

/// The gateway's configuration: webhooks to three channels, of which `telegram` is answered through this Bot API; kept as
/// the policy says, or not at all.
pub(super) fn sections(kept: Option<Policy>, api: SocketAddr) -> Vec<(&'static str, Value)> {
    let channel = |number: u32, agent: &str| {
        json!({
            "type": "telegram", "token": format!("{number}:FIGURES"), "secret": WEBHOOK_SECRET,
            "apiRoot": format!("http://{api}"), "dmPolicy": "open", "agent": agent,
        })
    };
    let patient = json!({
        "provider": "scripted", "script": [{ "fault": "stall" }],
        "firstTokenSeconds": 3_600, "callSeconds": 86_400, "headerSeconds": 3_600,
    });
    let kept = match kept {
        None => ("data", json!({ "folder": "" })),
        Some(policy) => ("journal", json!({ "mode": policy.name() })),
    };
    vec![
        kept,
        // As behind a proxy: requests name the host that Telegram knows.
        ("server", json!({ "hosts": ["bot.example.com"] })),
        (
            "channels",
            json!({ "telegram": channel(1, "main"), SILENT: channel(2, SILENT), HELD: channel(3, HELD) }),
        ),
        ("models", json!({ SILENT: { "provider": "scripted", "script": [{ "text": " " }] }, HELD: patient })),
        (
            "agents",
            json!({
                SILENT: { "models": [SILENT], "history": false },
                HELD: { "models": [HELD], "history": false, "waitingMax": 1_000_000, "waitTargetMillis": 0 },
            }),
        ),
        // Connections wait for their turn, the first time too.
        (
            "limits",
            json!({ "turnsMax": HELD_MAX, "waitingSeconds": 86_400, "headSeconds": 600, "idleSeconds": 3_600 }),
        ),
    ]
}

/// Connections that post updates to this channel; what they say is numbered from `first` on.
pub(super) fn load(
    server: SocketAddr,
    channel: &str,
    connections: usize,
    first: usize,
    chats: u64,
) -> Result<Load, String> {
    if NUMBERED_MAX < first + connections {
        return Err(format!("at most {NUMBERED_MAX} connections can have updates of their own"));
    }
    let talk = |number| Talk::webhook_to(channel, first + number, chats);
    Load::of(connections, |number| Ok((connect(server)?, talk(number))))
}

/// One gateway's turn. All that it causes counts as its cost, also what the store writes after it; how long the store took
/// for that is told.
pub(super) fn turn(
    load: &mut Load,
    server: &Server,
    pace: Pace,
    time: Duration,
) -> Result<Vec<(&'static str, f64)>, String> {
    let within = |why: String| server.blame(&why);
    load.run(pace, WARM).map_err(within)?;
    server.caught_up()?;
    let rows = || Ok::<f64, String>(metrics(server.address)?.sum("store_rows_total"));
    let (rows_before, before, busy) = (rows()?, server.usage()?, Busy::read());
    let measured = load.run(pace, time).map_err(within)?;
    let behind = server.caught_up()?;
    let cpu_ns = server.usage()?.cpu_ns - before.cpu_ns;
    let mut all = numbers(&measured, cpu_ns, &busy.since(cpu_ns));
    let messages = measured.messages.max(1) as f64;
    all.push(("behind_ms", behind.as_secs_f64() * 1_000.0));
    all.push(("refused_percent", 100.0 * measured.refused as f64 / messages));
    all.push(("store_rows_per_message", (rows()? - rows_before) / messages));
    Ok(all)
}

/// What the gateway has written to its journal for each message that it has accepted so far, bytes.
pub(super) fn journalled_bytes(server: &Server) -> Result<usize, String> {
    let counted = metrics(server.address)?;
    let each = counted.sum("journal_appended_bytes_total") / counted.sum("messages_accepted_total").max(1.0);
    if each < 1.0 {
        return Err("nothing was journalled".to_owned());
    }
    Ok(each.ceil() as usize)
}

/// How many turns of the gateway are open.
pub(super) fn held(server: &Server) -> Result<f64, String> {
    let counted = metrics(server.address)?;
    Ok(counted.sum("turns_running") + counted.sum("turns_waiting"))
}
