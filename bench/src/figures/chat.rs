//! P1 and P2: WebSocket messages routed and answered, against the floors that only echo the same frames.
use super::Setup;
use super::ask::KEY;
use super::load::{Load, Measured, Pace, connect, connect_websocket};
use super::machine::{Busy, Disturbance};
use super::record::Table;
use super::server::Server;
use super::talk::Talk;
use crate::inputs::masked_frame;
use memchr::memmem;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a turn runs before it is measured.
pub(super) const WARM: Duration = Duration::from_millis(200);

/// Measures so many messages at once on each connection.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, burst: u32, table: &mut Table) -> Result<(), String> {
    let servers = [
        Server::floor_epoll(setup, false)?,
        Server::floor_tungstenite(setup)?,
        Server::gateway(setup, 1, &[])?,
    ];
    let (echo, frames, gateway) = (servers[0].address, servers[1].address, servers[2].address);
    let mut loads = [
        Load::of(setup.connections, |_| Ok((connect(echo)?, Talk::echo())))?,
        Load::of(setup.connections, |_| Ok((connect_websocket(frames)?, Talk::echo_frames())))?,
        Load::of(setup.connections, |at| open(gateway, &format!("s{at:04}")))?,
    ];
    for round in 0..setup.rounds {
        for at in order(servers.len(), round) {
            let numbers = turn(&mut loads[at], &servers[at], setup.pace(burst), setup.turn)?;
            table.add(&setting(setup, burst), servers[at].name, round, &numbers);
        }
    }
    table.add_ratio("cpu_ns_per_message", "floor-epoll", "cpu_ratio_to_epoll");
    Ok(())
}

/// In which order servers have their turns: there and back again, so that what drifts, drifts for all.
pub(super) fn order(servers: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..servers).collect();
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

/// What the table says of how it was measured.
pub(super) fn setting(setup: &Setup, burst: u32) -> String {
    let pin = match setup.pin {
        super::server::Pin::None => "unpinned",
        super::server::Pin::Apart => "two cores",
        super::server::Pin::Together => "one core",
    };
    let driver = if setup.driver.is_empty() { String::new() } else { format!("; {}", setup.driver) };
    match setup.pace(burst) {
        Pace::Closed { burst } | Pace::Exactly { burst, .. } => {
            format!("{} x {burst} in flight; {pin}{driver}", setup.connections)
        }
        Pace::Open { per_second } => format!("{per_second}/s over {}; {pin}{driver}", setup.connections),
    }
}

/// A connection to the gateway that speaks in this session.
pub(super) fn open(gateway: SocketAddr, session: &str) -> Result<(TcpStream, Talk), String> {
    let socket = connect_websocket(gateway)?;
    authenticate(&socket)?;
    Ok((socket, Talk::chat(session)))
}

/// Says who we are, whether that is asked for or not, and hears that we are welcome.
pub(super) fn authenticate(socket: &TcpStream) -> Result<(), String> {
    exchange(socket, format!(r#"{{"type":"auth","token":"{KEY}"}}"#).as_bytes(), "auth_ok")
}

/// Says one message on a socket that still blocks, and hears what comes up to the message of this type.
pub(super) fn exchange(mut socket: &TcpStream, said: &[u8], last: &str) -> Result<(), String> {
    let failed = |why: io::Error| format!("the gateway does not answer: {why}");
    socket.write_all(&masked_frame(said)).map_err(failed)?;
    let mut heard = Vec::new();
    let mut part = [0; 4_096];
    loop {
        match socket.read(&mut part).map_err(failed)? {
            0 => return Err(format!("the gateway closes: {}", String::from_utf8_lossy(&heard))),
            came => heard.extend_from_slice(&part[..came]),
        }
        let says = |kind: &str| memmem::find(&heard, format!("{{\"type\":\"{kind}\"").as_bytes()).is_some();
        if says("error") {
            return Err(format!("the gateway says {}", String::from_utf8_lossy(&heard)));
        }
        if says(last) && heard.ends_with(b"}") {
            return Ok(());
        }
    }
}

/// One server's turn: a little to warm up, then what is measured.
pub(super) fn turn(
    load: &mut Load,
    server: &Server,
    pace: Pace,
    time: Duration,
) -> Result<Vec<(&'static str, f64)>, String> {
    let within = |why: String| server.blame(&why);
    load.run(pace, WARM).map_err(within)?;
    let (before, busy) = (server.usage()?, Busy::read());
    let measured = load.run(pace, time).map_err(within)?;
    let cpu_ns = server.usage()?.cpu_ns - before.cpu_ns;
    Ok(numbers(&measured, cpu_ns, &busy.since(cpu_ns)))
}

/// What a turn comes to, by what was not refused of it.
pub(super) fn numbers(
    measured: &Measured,
    cpu_ns: u64,
    disturbance: &Disturbance,
) -> Vec<(&'static str, f64)> {
    let messages = measured.messages.saturating_sub(measured.refused).max(1) as f64;
    let cpu = cpu_ns as f64 / messages;
    let micros = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1_000.0;
    vec![
        ("cpu_ns_per_message", cpu),
        ("messages_per_core_second", 1e9 / cpu.max(1.0)),
        ("messages_per_second", messages / measured.took.as_secs_f64()),
        ("p50_us", micros(0.5)),
        ("p99_us", micros(0.99)),
        ("load_cpu_ns_per_message", disturbance.load_ns as f64 / messages),
        ("others_percent", disturbance.others_percent),
        ("stolen_percent", disturbance.stolen_percent),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_go_there_and_back() {
        assert_eq!((order(3, 0), order(3, 1), order(1, 5)), (vec![0, 1, 2], vec![2, 1, 0], vec![0]));
    }
}
