//! One writer for a disk or one for each shard, over files that grow, that were allocated, and that were used before:
//! what the journal's format and layout rest on. No gateway runs; what is measured is the disk and the kernel.
use super::Setup;
use super::machine::Busy;
use super::record::Table;
use super::server::Folder;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a record: a message of a chat, with what the journal needs beside its text.
const RECORD_BYTES: usize = 320;
/// Bytes of a file.
pub(super) const FILE_BYTES: u64 = 64 << 20;
/// Shards that write.
const SHARDS: usize = 2;
/// Records that each shard has waiting whenever a sync is done.
const WAITING: [usize; 3] = [1, 16, 256];

/// How a file came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// It is empty, and grows with each write.
    Growing,
    /// Its space was allocated, and holds nothing yet.
    Allocated,
    /// It was written before.
    Used,
}

/// What has its turn.
const TURNS: [(&str, Made, usize); 5] = [
    ("plain append", Made::Growing, 1),
    ("one writer; allocated", Made::Allocated, 1),
    ("a writer a shard; allocated", Made::Allocated, SHARDS),
    ("one writer; used before", Made::Used, 1),
    ("a writer a shard; used before", Made::Used, SHARDS),
];

/// Measures it.
///
/// # Errors
/// What stood in the way.
pub fn measure(setup: &Setup, table: &mut Table) -> Result<(), String> {
    let folder = Folder::new()?;
    let measured = measure_in(setup, folder.path(), table);
    measured.map_err(|why| format!("{}: {why}", folder.path().display()))?;
    table.add_ratio("records_per_second", "plain append", "records_ratio");
    Ok(())
}

fn measure_in(setup: &Setup, folder: &Path, table: &mut Table) -> io::Result<()> {
    for round in 0..setup.rounds {
        for waiting in WAITING {
            for at in super::chat::order(TURNS.len(), round) {
                let (name, made, writers) = TURNS[at];
                let busy = Busy::read();
                let files = (0..writers).map(|n| make(&folder.join(n.to_string()), made));
                let files = files.collect::<io::Result<Vec<_>>>()?;
                let batch = waiting * SHARDS / writers;
                let took = write_all(files, made, batch, setup.turn)?;
                let mut syncs: Vec<Duration> = took.into_iter().flatten().collect();
                syncs.sort_unstable();
                let quantile = |of: usize| {
                    syncs.get((syncs.len() * of / 100).min(syncs.len().saturating_sub(1))).map_or(0.0, millis)
                };
                let records = (syncs.len() * batch) as f64 / setup.turn.as_secs_f64();
                let numbers = [
                    ("records_per_second", records),
                    ("sync_p50_ms", quantile(50)),
                    ("sync_p99_ms", quantile(99)),
                    ("others_percent", busy.since(0).others_percent),
                ];
                table.add(&format!("{waiting} waiting a shard"), name, round, &numbers);
            }
        }
    }
    Ok(())
}

fn millis(time: &Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// A new file that came to be so.
pub(super) fn make(path: &Path, made: Made) -> io::Result<File> {
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    let file = File::create_new(path)?;
    match made {
        Made::Growing => {}
        Made::Allocated => rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, FILE_BYTES)?,
        Made::Used => {
            let chunk = vec![0xA5; 1 << 20];
            for at in 0..FILE_BYTES >> 20 {
                file.write_all_at(&chunk, at << 20)?;
            }
        }
    }
    file.sync_all()?;
    Ok(file)
}

/// All writers at once, for so long: how long each write with its sync took, by writer.
fn write_all(files: Vec<File>, made: Made, batch: usize, turn: Duration) -> io::Result<Vec<Vec<Duration>>> {
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            files.into_iter().map(|file| scope.spawn(move || write(&file, made, batch, turn))).collect();
        let failed = |_| io::Error::other("a writer failed");
        writers.into_iter().map(|writer| writer.join().map_err(failed)?).collect()
    })
}

fn write(file: &File, made: Made, batch: usize, turn: Duration) -> io::Result<Vec<Duration>> {
    let bytes = vec![0x5A; batch * RECORD_BYTES];
    let (began, mut took, mut offset) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < turn {
        let sync = Instant::now();
        file.write_all_at(&bytes, offset)?;
        file.sync_data()?;
        took.push(sync.elapsed());
        offset += bytes.len() as u64;
        if made != Made::Growing && FILE_BYTES < offset + bytes.len() as u64 {
            // A file that is full is followed by one of the same kind; this stands for it.
            offset = 0;
        }
    }
    Ok(took)
}
