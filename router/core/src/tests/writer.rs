//! The writer of the journal, a step at a time.
use crate::journal::writer::{Deed, Done, Fault, Mode, Owner, Settings, State, Writer};
use crate::time::Time;
use alloc::vec::Vec;
use core::time::Duration;

const SEGMENT_BYTES: u64 = 16_384;
/// Six of them fill a segment.
const RECORD: [u8; 1_900] = [7; 1_900];

/// One that its shard has released nothing of, on a disk that does all at once.
struct Journal(Writer);

impl Journal {
    fn new() -> Self {
        let settings = Settings {
            mode: Mode::Always,
            segment_bytes: SEGMENT_BYTES,
            disk_bytes_max: 16 * SEGMENT_BYTES,
            buffer_bytes_max: 65_536,
            failures_max: 3,
            retry_min: Duration::from_millis(10),
            retry_max: Duration::from_millis(200),
        };
        let owner = Owner { lineage: 1, shard: 0, salt: 77, first_lsn: 1, has_older: false };
        Self(Writer::new(settings, owner))
    }

    fn advance(&mut self) -> Vec<Deed> {
        let mut deeds = Vec::new();
        self.0.advance(Time::from_millis(1), 1_790_000_000_000, &mut deeds);
        deeds
    }

    fn carry_out(&mut self, deed: &Deed) {
        let done = match deed {
            Deed::Create { .. } => Done::Created(Ok(())),
            Deed::Write { bytes, .. } => Done::Written { bytes: bytes.clone(), result: Ok(()) },
            Deed::Sync { .. } => Done::Synced(Ok(())),
            Deed::Delete { .. } => Done::Deleted(Ok(())),
            Deed::Durable { .. } | Deed::Carry { .. } | Deed::State { .. } | Deed::Closed => return,
        };
        self.0.on_done(Time::from_millis(1), done);
    }

    /// All that there is to do.
    fn settle(&mut self) -> Vec<Deed> {
        let mut all = Vec::new();
        loop {
            let deeds = self.advance();
            if deeds.is_empty() {
                return all;
            }
            deeds.iter().for_each(|deed| self.carry_out(deed));
            all.extend(deeds);
        }
    }
}

fn goes(deed: &Deed) -> bool {
    matches!(deed, Deed::Delete { .. } | Deed::Create { reuse: Some(_), .. })
}

#[test]
fn old_files_go_once_what_replaces_them_is_safe() {
    let mut journal = Journal::new();
    for lsn in 1..=40 {
        journal.0.append(lsn, &RECORD);
        journal.settle();
    }
    assert!(6 < journal.0.segments());
    // The shard writes again what it still needs, and releases all before.
    journal.0.append(41, &RECORD);
    journal.0.release(40);
    let deeds = journal.advance();
    assert!(!deeds.is_empty() && !deeds.iter().any(goes), "it is not on disk yet: {deeds:?}");
    deeds.iter().for_each(|deed| journal.carry_out(deed));
    let rest = journal.settle();
    let synced = rest.iter().position(|deed| matches!(deed, Deed::Sync { .. })).unwrap();
    let gone = rest.iter().position(goes).unwrap();
    assert!(synced < gone, "{rest:?}");
    assert!(journal.0.segments() <= 3, "{}", journal.0.segments());
}

#[test]
fn the_shard_is_asked_to_carry_at_half_of_the_bound() {
    let mut journal = Journal::new();
    let mut asked = None;
    for lsn in 1..=80 {
        journal.0.append(lsn, &RECORD);
        let deeds = journal.settle();
        asked = deeds.iter().find_map(|deed| match deed {
            Deed::Carry { lsn } => Some(*lsn),
            _ => None,
        });
        if asked.is_some() {
            break;
        }
    }
    assert!(asked.is_some_and(|lsn| 0 < lsn && lsn <= 12), "the oldest file, and no more: {asked:?}");
    let segments = journal.0.segments() as u64;
    assert!(8 < segments && segments < 12, "{segments}");
}

/// What runs takes more than its half of the disk, down to the last byte: none of it could ever go on.
#[test]
fn what_frees_a_file_is_written_where_nothing_fits() {
    let mut journal = Journal::new();
    let mut lsn = 0;
    let mut fill = |journal: &mut Journal| loop {
        lsn += 1;
        journal.0.append(lsn, &RECORD);
        journal.settle();
        if journal.0.durable() < lsn {
            return lsn;
        }
    };
    fill(&mut journal);
    assert_eq!(journal.0.segments(), 15, "the last one is kept for what frees others");
    journal.0.release(1);
    journal.settle();
    let last = fill(&mut journal);
    assert_eq!(journal.0.segments(), 16);
    journal.0.release(20);
    let deeds = journal.settle();
    assert_eq!(journal.0.durable(), last, "{deeds:?}");
    assert!(deeds.iter().any(goes), "{deeds:?}");
    assert!(journal.0.disk_bytes() <= 16 * SEGMENT_BYTES, "it is below its bound again");
}

/// Whoever is refused hears that the disk is full, before what waits for it takes all memory.
#[test]
fn a_disk_without_room_refuses_new_work_and_takes_it_again_once_there_is() {
    let mut journal = Journal::new();
    journal.0.append(1, &RECORD);
    let (mut now, mut attempts, mut told) = (Time::from_millis(1), 0, None);
    for _ in 0..20 {
        let mut deeds = Vec::new();
        journal.0.advance(now, 1_790_000_000_000, &mut deeds);
        for deed in &deeds {
            match deed {
                Deed::Create { .. } => {
                    attempts += 1;
                    journal.0.on_done(now, Done::Created(Err(Fault::NoSpace)));
                }
                Deed::State { .. } => told = told.or(Some((attempts, deed.clone()))),
                Deed::Write { .. }
                | Deed::Sync { .. }
                | Deed::Delete { .. }
                | Deed::Durable { .. }
                | Deed::Carry { .. }
                | Deed::Closed => journal.carry_out(deed),
            }
        }
        now = now + Duration::from_secs(1);
    }
    let full = Deed::State { state: State::Full, fault: Some(Fault::NoSpace) };
    assert_eq!(told, Some((3, full)), "one that passes is not told");
    assert_eq!(journal.0.state(), State::Full);
    let mut deeds = Vec::new();
    for _ in 0..20 {
        journal.0.advance(now, 1_790_000_000_000, &mut deeds);
        deeds.drain(..).for_each(|deed| journal.carry_out(&deed));
        now = now + Duration::from_secs(1);
    }
    assert_eq!(journal.0.state(), State::Open);
}
