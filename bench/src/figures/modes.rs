//! Durable acceptance in each mode of the journal: webhooks that are journalled to their end and acknowledged, a second;
//! beside a plain append to a file with the same bytes a message, as many messages at once as the load has in flight, and
//! the same policy of syncing; and beside the epoll floor that appends each request before it answers it.
use super::Setup;
use super::chat::{order, setting, turn};
use super::durable::{self, CHATS, SILENT, sections};
use super::journal::{FILE_BYTES, Made, make};
use super::load::{Load, Pace, connect};
use super::machine::Busy;
use super::record::Table;
use super::server::{Folder, Server};
use super::talk::Talk;
use crate::floor::append::{Append, Policy};
use std::io;
use std::time::{Duration, Instant};

/// Messages of each connection from which the bytes of a message are known.
const CALIBRATING: u64 = 20;

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let folder = Folder::new()?;
    let mut contests =
        Policy::ALL.into_iter().map(|mode| Contest::begin(setup, mode)).collect::<Result<Vec<_>, _>>()?;
    for round in 0..setup.rounds {
        for contest in &mut contests {
            contest.round(setup, &folder, round, table)?;
        }
    }
    table.add_ratio("messages_per_second", "plain append", "rate_ratio_to_plain");
    table.add_ratio("messages_per_second", "floor-epoll, appending", "rate_ratio_to_appending");
    Ok(())
}

/// The three that have their turns in a mode.
struct Contest {
    mode: Policy,
    floor: Server,
    floor_load: Load,
    gateway: Server,
    gateway_load: Load,
    /// What the gateway writes for each message; the plain append writes as much.
    record_bytes: usize,
}

impl Contest {
    fn begin(setup: &Setup, mode: Policy) -> Result<Self, String> {
        let floor = Server::floor_appending(setup, mode)?;
        // Nothing is delivered: there is no Bot API.
        let gateway = Server::gateway(setup, 1, &sections(Some(mode), ([127, 0, 0, 1], 9).into()))?;
        let address = floor.address;
        let talk = |number| Talk::webhook(number, CHATS, "message");
        let floor_load = Load::of(setup.connections, |number| Ok((connect(address)?, talk(number))))?;
        let mut gateway_load = durable::load(gateway.address, SILENT, setup.connections, 0, CHATS)?;
        gateway_load.run(Pace::Exactly { burst: 1, each: CALIBRATING }, Duration::ZERO)?;
        gateway.caught_up()?;
        let record_bytes = durable::journalled_bytes(&gateway)?;
        Ok(Self { mode, floor, floor_load, gateway, gateway_load, record_bytes })
    }

    fn round(&mut self, setup: &Setup, folder: &Folder, round: u32, table: &mut Table) -> Result<(), String> {
        let setting = format!("{}; {}", self.mode.name(), setting(setup, 1));
        for at in order(4, round) {
            let plain = |made| self.plain(setup, folder, made).map_err(|why| why.to_string());
            let (name, numbers) = match at {
                0 => ("plain append", plain(Made::Growing)?),
                1 => ("append to a file used before", plain(Made::Used)?),
                2 => (self.floor.name, turn(&mut self.floor_load, &self.floor, setup.pace(1), setup.turn)?),
                _ => {
                    let load = &mut self.gateway_load;
                    (self.gateway.name, durable::turn(load, &self.gateway, setup.pace(1), setup.turn)?)
                }
            };
            table.add(&setting, name, round, &numbers);
        }
        Ok(())
    }

    /// One thread that appends, again and again, what would be in flight.
    fn plain(&self, setup: &Setup, folder: &Folder, made: Made) -> io::Result<Vec<(&'static str, f64)>> {
        let path = folder.path().join("plain");
        let mut append = match made {
            Made::Growing => Append::create(&path, self.mode)?,
            Made::Allocated | Made::Used => Append::to(make(&path, made)?, FILE_BYTES, self.mode),
        };
        let bytes = vec![0x5A; self.record_bytes * setup.connections];
        let (busy, began, mut times) = (Busy::read(), Instant::now(), 0_u64);
        while began.elapsed() < setup.turn {
            append.append(&bytes)?;
            times += 1;
        }
        let took = began.elapsed().as_secs_f64();
        let disturbance = busy.since(0);
        std::fs::remove_file(&path)?;
        Ok(vec![
            ("messages_per_second", times as f64 * setup.connections as f64 / took),
            ("bytes_per_message", self.record_bytes as f64),
            ("append_ms", 1e3 * took / times.max(1) as f64),
            ("others_percent", disturbance.others_percent),
            ("stolen_percent", disturbance.stolen_percent),
        ])
    }
}
