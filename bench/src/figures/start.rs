//! P11: from the asking for a process to its first answer, and what it has in memory then.
use super::Setup;
use super::chat::order;
use super::machine::Busy;
use super::record::Table;
use super::server::Server;
use std::time::Duration;

/// Starts, unless the command says how many.
pub const ROUNDS: u32 = 20;

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    for round in 0..setup.rounds {
        for at in order(2, round) {
            let busy = Busy::read();
            let server =
                if at == 0 { Server::floor_epoll(setup, true)? } else { Server::gateway(setup, 0, &[])? };
            let ready = server.ready()?;
            let usage = server.usage()?;
            let others = busy.since(usage.cpu_ns).others_percent;
            let numbers = [
                ("ready_ms", millis(ready)),
                ("start_cpu_ms", millis(Duration::from_nanos(usage.cpu_ns))),
                ("resident_mib", usage.resident_kib as f64 / 1024.0),
                ("anonymous_mib", usage.anonymous_kib as f64 / 1024.0),
                ("others_percent", others),
            ];
            table.add("a thread for each core", server.name, round, &numbers);
        }
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
