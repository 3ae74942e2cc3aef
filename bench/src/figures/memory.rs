//! P10: what a session keeps in memory that nobody speaks in: ten messages were said in it, and two context variables are
//! set. Idle, it is in memory with what its agent may be asked next; dormant, it has left memory for the store. Then the
//! gateway is started anew, beside a store with all of them.
use super::Setup;
use super::ask::{KEY, metrics};
use super::chat::authenticate;
use super::crowd::{each, fill, room_for};
use super::load::{Load, Pace, connect_websocket};
use super::machine::Busy;
use super::record::Table;
use super::server::{Folder, Server, Usage, pause};
use super::talk::Talk;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

/// Messages of a client in each session; each is answered with as much.
const ASKED: u64 = 5;
/// What is set in each session.
const VARIABLES: [&str; 2] = [
    r#"{"action":"set","name":"city","value":"Buenos Aires"}"#,
    r#"{"action":"set","name":"language","value":"es"}"#,
];
/// How long sessions may take to leave memory.
const LEAVING_MAX: Duration = Duration::from_secs(120);
/// A few other clients go on talking for so long before memory is read: the allocator gives back what it does not need
/// when it is asked for something else.
const SETTLING: Duration = Duration::from_secs(2);
/// What they say in all, messages a second.
const OTHERS_RATE: u32 = 1_000;

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let each = each(setup, setup.count);
    let sessions = each * setup.connections as u64;
    let data = Folder::new()?;
    let scopes = ["chat", "read", "admin"];
    let sections = [
        ("data", json!({ "folder": data.path() })),
        ("keys", json!([{ "id": "figures", "key": KEY, "scopes": scopes }])),
        ("agents", json!({ "main": { "models": ["echo"] } })),
        room_for(sessions),
    ];
    let setting = format!("{sessions} sessions");
    let measured = Measured { sessions: sessions as f64, busy: Busy::read(), began: Instant::now() };
    let mut server = Server::gateway(setup, 1, &sections)?;
    server.ready()?;
    let before = server.usage()?;
    fill(&server, setup, each, ASKED, &VARIABLES)?;
    let counted = metrics(server.address)?;
    let (there, dropped) = (counted.sum("sessions"), counted.sum("store_rows_dropped_total"));
    if there != measured.sessions || dropped != 0.0 {
        return Err(format!("{there} of {sessions} sessions are in memory, {dropped} rows were dropped"));
    }
    settle(&server, setup, sessions)?;
    let idle = measured.numbers(before, server.usage()?, data.path());
    table.add(&setting, "clawgate, idle", 0, &idle);

    server.reconfigure(&[("limits", json!({ "sessionIdleSeconds": 1 }))])?;
    let began = Instant::now();
    while metrics(server.address)?.sum("sessions") != 0.0 {
        if LEAVING_MAX < began.elapsed() {
            return Err("sessions do not leave memory".to_owned());
        }
        pause(Duration::from_millis(100))?;
    }
    settle(&server, setup, sessions)?;
    table.add(&setting, "clawgate, dormant", 0, &measured.numbers(before, server.usage()?, data.path()));

    drop(server);
    let server = Server::gateway(setup, 1, &sections)?;
    server.ready()?;
    settle(&server, setup, sessions)?;
    table.add(&setting, "clawgate, started anew", 0, &measured.numbers(before, server.usage()?, data.path()));
    Ok(())
}

/// Other sessions than those that are measured have their messages answered.
fn settle(server: &Server, setup: &Setup, others: u64) -> Result<(), String> {
    let mut load = Load::of(setup.connections, |at| {
        let socket = connect_websocket(server.address)?;
        authenticate(&socket)?;
        Ok((socket, Talk::crowd(others + at as u64, 1, 1)))
    })?;
    load.run(Pace::Open { per_second: OTHERS_RATE }, SETTLING).map_err(|why| server.blame(&why))?;
    server.caught_up().map(drop)
}

struct Measured {
    sessions: f64,
    busy: Busy,
    began: Instant,
}

impl Measured {
    fn numbers(&self, before: Usage, now: Usage, data: &Path) -> Vec<(&'static str, f64)> {
        let each = |now: u64, then: u64| (now as f64 - then as f64) * 1_024.0 / self.sessions;
        vec![
            ("resident_bytes_each", each(now.resident_kib, before.resident_kib)),
            ("anonymous_bytes_each", each(now.anonymous_kib, before.anonymous_kib)),
            ("resident_mib", now.resident_kib as f64 / 1_024.0),
            ("resident_mib_before", before.resident_kib as f64 / 1_024.0),
            ("store_bytes_each", bytes_in(data) as f64 / self.sessions),
            ("seconds_so_far", self.began.elapsed().as_secs_f64()),
            ("others_percent", self.busy.since(now.cpu_ns).others_percent),
        ]
    }
}

/// Bytes of the store's files.
fn bytes_in(data: &Path) -> u64 {
    let files = std::fs::read_dir(data).into_iter().flatten().flatten();
    let store = files.filter(|file| file.file_name().to_string_lossy().starts_with("store."));
    store.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}
