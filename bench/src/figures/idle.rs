//! P9: what an idle connection keeps in memory. On the gateway each has said who it is, has subscribed, and has answered
//! two heartbeats; then each has one message answered, in a session of its own, and is idle again.
use super::Setup;
use super::chat::{authenticate, exchange};
use super::load::{Load, Pace, connect, connect_websocket};
use super::machine::Busy;
use super::record::Table;
use super::server::{Server, Usage};
use super::talk::Talk;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::time::Duration;

/// Connections, unless the command says how many.
pub const CONNECTIONS: usize = 10_000;
/// Between two heartbeats of the gateway, seconds. Twice this is what a connection may stay silent, and so how long opening
/// all of them may take: none answers before the last one is open.
const HEARTBEAT_SECONDS: u64 = 10;
/// How long two heartbeats may take to come on all connections.
const PATIENCE: Duration = Duration::from_secs(60);
/// Descriptors beside those of the connections.
const DESCRIPTORS: u64 = 64;

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    allow_descriptors(setup.connections as u64 + DESCRIPTORS)?;
    let setting = format!("{} connections", setup.connections);
    for round in 0..setup.rounds {
        let floor = Server::floor_epoll(setup, false)?;
        let idle = Idle::begin(&floor)?;
        let load = Load::of(setup.connections, |_| Ok((connect(floor.address)?, Talk::echo())))?;
        let numbers = idle.numbers(setup.connections, load, floor)?;
        table.add(&setting, "floor-epoll", round, &numbers);

        let floor = Server::floor_tungstenite(setup)?;
        let idle = Idle::begin(&floor)?;
        let load =
            Load::of(setup.connections, |_| Ok((connect_websocket(floor.address)?, Talk::echo_frames())))?;
        let numbers = idle.numbers(setup.connections, load, floor)?;
        table.add(&setting, "floor-tungstenite", round, &numbers);

        gateway(setup, &setting, round, table)?;
    }
    Ok(())
}

fn gateway(setup: &Setup, setting: &str, round: u32, table: &mut Table) -> Result<(), String> {
    let limits = json!({ "heartbeatSeconds": HEARTBEAT_SECONDS });
    let server = Server::gateway(setup, 1, &[("limits", limits)])?;
    let idle = Idle::begin(&server)?;
    let mut load = Load::of(setup.connections, |at| {
        let socket = connect_websocket(server.address)?;
        authenticate(&socket)?;
        // A subscription is not answered; what comes after it is.
        socket_says(&socket, br#"{"type":"subscribe","events":["status"]}"#)?;
        exchange(&socket, br#"{"type":"ping"}"#, "pong")?;
        Ok((socket, Talk::chat(&format!("s{at:05}"))))
    })?;
    load.listen(PATIENCE, |talk| matches!(talk, Talk::Chat(chat) if 2 <= chat.pings))?;
    table.add(setting, "clawgate", round, &idle.so_far(setup.connections, &server)?);
    drop(load);

    // Others in their place say something, and are not told of one another: what they subscribed to would be work.
    let server = Server::gateway(setup, 1, &[])?;
    let idle = Idle::begin(&server)?;
    let mut load = Load::of(setup.connections, |at| super::chat::open(server.address, &format!("s{at:05}")))?;
    let rate = u32::try_from(setup.connections).unwrap_or(u32::MAX);
    // At a rate of one a second on each connection: every one of them has had its message.
    let measured = load.run(Pace::Open { per_second: rate }, Duration::from_secs(1))?;
    if measured.messages != setup.connections as u64 {
        return Err(format!("{} of {} connections said something", measured.messages, setup.connections));
    }
    let numbers = idle.numbers(setup.connections, load, server)?;
    table.add(setting, "clawgate (after a message each)", round, &numbers);
    Ok(())
}

fn socket_says(mut socket: &std::net::TcpStream, said: &[u8]) -> Result<(), String> {
    std::io::Write::write_all(&mut socket, &crate::inputs::masked_frame(said)).map_err(|why| why.to_string())
}

/// A server before its connections came.
struct Idle {
    before: Usage,
    busy: Busy,
}

impl Idle {
    fn begin(server: &Server) -> Result<Self, String> {
        Ok(Self { before: server.usage()?, busy: Busy::read() })
    }

    fn so_far(&self, connections: usize, server: &Server) -> Result<Vec<(&'static str, f64)>, String> {
        let Usage { cpu_ns, resident_kib, anonymous_kib, .. } = server.usage()?;
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 / connections.max(1) as f64;
        let cpu_ns = cpu_ns.saturating_sub(self.before.cpu_ns);
        Ok(vec![
            ("resident_kib_each", each(resident_kib, self.before.resident_kib)),
            ("anonymous_kib_each", each(anonymous_kib, self.before.anonymous_kib)),
            ("resident_mib_before", self.before.resident_kib as f64 / 1024.0),
            ("cpu_us_each", each(cpu_ns, 0) / 1_000.0),
            ("others_percent", self.busy.since(cpu_ns).others_percent),
        ])
    }

    /// The numbers, with all connections open until they are read; then they end, and the server with them.
    fn numbers(
        &self,
        connections: usize,
        load: Load,
        server: Server,
    ) -> Result<Vec<(&'static str, f64)>, String> {
        let numbers = self.so_far(connections, &server);
        drop((load, server));
        numbers
    }
}

/// Servers that we start have the same limit.
fn allow_descriptors(wanted: u64) -> Result<(), String> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| wanted <= current) {
        return Ok(());
    }
    let raised = Rlimit { current: maximum.map(|maximum| maximum.max(wanted)).or(Some(wanted)), maximum };
    let refused = |why| format!("{wanted} open files are needed and not allowed ({why}): ulimit -n {wanted}");
    setrlimit(Resource::Nofile, raised).map_err(refused)
}
