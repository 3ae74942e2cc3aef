//! How long an acknowledgement takes at a rate that leaves everybody time, in the mode `always`, against the disk's own
//! sync. All count from the moment when a message is due: the disk too, which appends and syncs what is due and knows no
//! socket. Beside it what the sockets alone take, and the floor that appends.
use super::Setup;
use super::chat::{order, setting, turn};
use super::durable::{self, CHATS, SILENT, sections};
use super::journal::{FILE_BYTES, Made, make};
use super::load::{Load, connect, histogram};
use super::machine::Busy;
use super::record::Table;
use super::server::{Folder, Server, pause};
use super::talk::Talk;
use crate::floor::append::{Append, Policy};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// Messages a second, where the command says none.
pub const RATE: u32 = 1_000;
/// Bytes of a message in a journal, about; the disk writes whole blocks.
const RECORD_BYTES: usize = 400;
/// The rows, in their order.
const ROWS: [&str; 6] = [
    "the disk: append and sync",
    "the disk, without a pause",
    "floor-epoll",
    "floor-epoll, appending",
    "clawgate",
    "clawgate, journal always",
];

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let setup = &Setup { rate: if setup.rate == 0 { RATE } else { setup.rate }, ..setup.clone() };
    let folder = Folder::new()?;
    let nowhere = ([127, 0, 0, 1], 9).into();
    let servers = [
        Server::floor_epoll(setup, true)?,
        Server::floor_appending(setup, Policy::Always)?,
        Server::gateway(setup, 1, &sections(None, nowhere))?,
        Server::gateway(setup, 1, &sections(Some(Policy::Always), nowhere))?,
    ];
    let [echo, appending, plain, journalled] = servers.each_ref().map(|server| server.address);
    let floor = |address| {
        Load::of(setup.connections, |number| Ok((connect(address)?, Talk::webhook(number, CHATS, "message"))))
    };
    let gateway = |address| durable::load(address, SILENT, setup.connections, 0, CHATS);
    let mut loads = [floor(echo)?, floor(appending)?, gateway(plain)?, gateway(journalled)?];
    for round in 0..setup.rounds {
        for at in order(ROWS.len(), round) {
            let numbers = match at {
                0 | 1 => disk(setup, &folder, at == 0)?,
                5 => durable::turn(&mut loads[3], &servers[3], setup.pace(1), setup.turn)?,
                _ => turn(&mut loads[at - 2], &servers[at - 2], setup.pace(1), setup.turn)?,
            };
            table.add(&setting(setup, 1), ROWS[at], round, &numbers);
        }
    }
    table.add_ratio("p50_us", ROWS[0], "p50_ratio_to_disk");
    table.add_ratio("p99_us", ROWS[0], "p99_ratio_to_disk");
    Ok(())
}

/// Appends and syncs what is due, or one after the other without a pause.
fn disk(setup: &Setup, folder: &Folder, at_a_rate: bool) -> Result<Vec<(&'static str, f64)>, String> {
    let path = folder.path().join("disk");
    let told = |why: std::io::Error| format!("{}: {why}", path.display());
    // As the journal's files are after a while: so the disk syncs fastest.
    let file = make(&path, Made::Used).map_err(told)?;
    let mut append = Append::to(file, FILE_BYTES, Policy::Always);
    let busy = Busy::read();
    let (latency, took) = if at_a_rate {
        paced(&mut append, setup.rate, setup.turn)?
    } else {
        unpaced(&mut append, setup.turn)?
    };
    let disturbance = busy.since(0);
    drop(append);
    std::fs::remove_file(&path).map_err(told)?;
    let micros = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(vec![
        ("messages_per_second", latency.len() as f64 / took.as_secs_f64()),
        ("p50_us", micros(0.5)),
        ("p99_us", micros(0.99)),
        ("others_percent", disturbance.others_percent),
        ("stolen_percent", disturbance.stolen_percent),
    ])
}

type Timed = (Histogram<u64>, Duration);

fn paced(append: &mut Append, per_second: u32, time: Duration) -> Result<Timed, String> {
    let (mut latency, began) = (histogram()?, Instant::now());
    let due = |number: u64| Duration::from_nanos(number * 1_000_000_000 / u64::from(per_second.max(1)));
    let (mut next, mut bytes) = (0_u64, Vec::new());
    while due(next) < time {
        let now = began.elapsed();
        if now < due(next) {
            pause(due(next) - now)?;
            continue;
        }
        // What became due while the disk was busy goes together.
        let first = next;
        while due(next) <= now && due(next) < time {
            bytes.resize(bytes.len() + RECORD_BYTES, 0x5A);
            next += 1;
        }
        append.append(&bytes).map_err(|why| why.to_string())?;
        bytes.clear();
        let done = began.elapsed();
        (first..next).for_each(|number| latency.saturating_record(nanos(done.saturating_sub(due(number)))));
    }
    Ok((latency, began.elapsed()))
}

fn unpaced(append: &mut Append, time: Duration) -> Result<Timed, String> {
    let (mut latency, began) = (histogram()?, Instant::now());
    while began.elapsed() < time {
        let begin = Instant::now();
        append.append(&[0x5A; RECORD_BYTES]).map_err(|why| why.to_string())?;
        latency.saturating_record(nanos(begin.elapsed()));
    }
    Ok((latency, began.elapsed()))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_due_is_appended_and_counted_once() {
        let folder = Folder::new().unwrap();
        let mut append = Append::create(&folder.path().join("disk"), Policy::Os).unwrap();
        let (latency, _) = paced(&mut append, 1_000, Duration::from_millis(30)).unwrap();
        assert_eq!(latency.len(), 30);
        assert_eq!(std::fs::metadata(folder.path().join("disk")).unwrap().len(), 30 * RECORD_BYTES as u64);
        assert!(!unpaced(&mut append, Duration::from_millis(1)).unwrap().0.is_empty());
    }
}
