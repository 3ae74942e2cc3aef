//! A disk for tests: it keeps what was synced, and of the rest what it likes. It tears writes at sectors of 512 bytes,
//! forgets, lies after a failed sync as kernels do, fills up, flips bits, and is slow. All from one seed.
//!
//! [`Disk::begin`] takes what a writer asks for, [`Disk::next`] says what became of it; [`Disk::kill`] ends the process,
//! [`Disk::cut`] the power, whatever was under way. [`Disk::recover`] reads what is left as a start of the gateway does.
use crate::dice::Dice;
use clawgate_core::journal::format::{HEADER_BYTES, Header, Name, Opened, Unreadable};
use clawgate_core::journal::reader::{Chain, End, Found, Lost};
use clawgate_core::journal::writer::{Deed, Done, Fault};
use clawgate_core::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SECTOR: usize = 512;

/// How often what goes wrong, of a thousand operations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Troubles {
    pub(crate) write: u32,
    pub(crate) sync: u32,
    pub(crate) create: u32,
    pub(crate) delete: u32,
    /// Milliseconds that an operation takes, at the most.
    pub(crate) slow_millis: u64,
    /// Bytes that fit.
    pub(crate) bytes_max: u64,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// As the process sees it.
    seen: Vec<u8>,
    /// As it is on the platter.
    kept: Vec<u8>,
    /// Sectors that were written and not synced.
    dirty: BTreeSet<usize>,
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    fn keep(&mut self, sector: usize) {
        let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(self.seen.len()));
        if self.kept.len() < self.seen.len() {
            self.kept.resize(self.seen.len(), 0);
        }
        if from < to {
            self.kept[from..to].copy_from_slice(&self.seen[from..to]);
        }
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }
}

/// Something under way.
#[derive(Clone, Debug)]
struct Work {
    due: Time,
    order: u64,
    name: Name,
    deed: Deed,
}

/// Everything that one start of the gateway finds of one lineage and shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) records: Vec<(u64, Vec<u8>)>,
    pub(crate) lost: Vec<Lost>,
    pub(crate) unreadable: Vec<(Name, Unreadable)>,
    pub(crate) last: Option<End>,
}

/// The disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    dice: Dice,
    pub(crate) troubles: Troubles,
    files: BTreeMap<Name, File>,
    work: Vec<Work>,
    order: u64,
    /// A sync failed once: what the process reads is not what the platter has, and nobody will say so.
    pub(crate) has_lied: bool,
    /// Files that were used again.
    pub(crate) reused: u64,
}

impl Disk {
    pub(crate) fn new(seed: u64, troubles: Troubles) -> Self {
        let dice = Dice::new(seed ^ 0xD15C);
        Self {
            dice,
            troubles,
            files: BTreeMap::new(),
            work: Vec::new(),
            order: 0,
            has_lied: false,
            reused: 0,
        }
    }

    /// Takes a deed for the disk of this lineage and shard. What is not for a disk is given back.
    pub(crate) fn begin(&mut self, now: Time, (lineage, shard): (u64, u16), deed: Deed) -> Option<Deed> {
        let segment = match &deed {
            Deed::Create { segment, .. }
            | Deed::Write { segment, .. }
            | Deed::Sync { segment }
            | Deed::Delete { segment } => *segment,
            Deed::Durable { .. } | Deed::Carry { .. } | Deed::State { .. } | Deed::Closed => {
                return Some(deed);
            }
        };
        let due = now + Duration::from_micros(self.dice.below(self.troubles.slow_millis * 1_000 + 1));
        self.order += 1;
        self.work.push(Work { due, order: self.order, name: Name { lineage, shard, segment }, deed });
        None
    }

    /// When the next operation is done.
    pub(crate) fn due(&self) -> Option<Time> {
        self.work.iter().map(|work| work.due).min()
    }

    /// Does the operation that is due first, and says whose it was and what became of it.
    pub(crate) fn next(&mut self, now: Time) -> Option<(Name, Done)> {
        let due = self.work.iter().enumerate().filter(|(_, work)| work.due <= now);
        let (at, _) = due.min_by_key(|(_, work)| (work.due, work.order))?;
        let Work { name, deed, .. } = self.work.remove(at);
        Some((name, self.act(name, deed)))
    }

    fn act(&mut self, name: Name, deed: Deed) -> Done {
        match deed {
            Deed::Create { bytes, reuse, .. } => Done::Created(self.create(name, bytes, reuse)),
            Deed::Write { offset, bytes, .. } => {
                let result = self.write(name, offset, &bytes);
                Done::Written { bytes, result }
            }
            Deed::Sync { .. } => Done::Synced(self.sync(name)),
            Deed::Delete { .. } => Done::Deleted(self.delete(name)),
            Deed::Durable { .. } | Deed::Carry { .. } | Deed::State { .. } | Deed::Closed => {
                unreachable!("only what is for a disk is begun")
            }
        }
    }

    fn create(&mut self, name: Name, bytes: u64, reuse: Option<u64>) -> Result<(), Fault> {
        let fails = self.dice.chance(self.troubles.create);
        let happens = !fails || self.dice.chance(500);
        let used: u64 = self.files.values().map(|file| file.seen.len() as u64).sum();
        let old = reuse.map(|segment| Name { segment, ..name });
        if old.is_none() && self.troubles.bytes_max < used + bytes {
            return Err(Fault::NoSpace);
        }
        if happens {
            let file = match old {
                Some(old) => match self.files.remove(&old) {
                    Some(file) => {
                        assert_eq!(file.seen.len() as u64, bytes, "what is used again is as long as it says");
                        self.reused += 1;
                        file
                    }
                    None => return Err(Fault::Broken),
                },
                None => {
                    let blank = vec![0; usize::try_from(bytes).unwrap()];
                    File { seen: blank.clone(), kept: blank, dirty: BTreeSet::new() }
                }
            };
            self.files.insert(name, file);
        }
        if fails { Err(Fault::Broken) } else { Ok(()) }
    }

    fn write(&mut self, name: Name, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        let fails = self.dice.chance(self.troubles.write);
        let len = if fails { self.dice.index(bytes.len() + 1) } else { bytes.len() };
        let Some(file) = self.files.get_mut(&name) else { return Err(Fault::Broken) };
        file.write(usize::try_from(offset).unwrap(), &bytes[..len]);
        if fails { Err(Fault::Broken) } else { Ok(()) }
    }

    fn sync(&mut self, name: Name) -> Result<(), Fault> {
        let fails = self.dice.chance(self.troubles.sync);
        let Some(file) = self.files.get_mut(&name) else { return Err(Fault::Broken) };
        if !fails {
            file.sync();
            return Ok(());
        }
        self.has_lied = true;
        // Some of it is on the disk, and the kernel calls all of it clean: the next sync will succeed, and do nothing.
        for sector in std::mem::take(&mut file.dirty) {
            if self.dice.chance(500) {
                file.keep(sector);
            }
        }
        Err(Fault::Broken)
    }

    fn delete(&mut self, name: Name) -> Result<(), Fault> {
        let fails = self.dice.chance(self.troubles.delete);
        if !fails || self.dice.chance(500) {
            self.files.remove(&name);
        }
        if fails { Err(Fault::Broken) } else { Ok(()) }
    }

    /// The process ends: what is under way is done, in part, or not at all; the system keeps what was written.
    pub(crate) fn kill(&mut self) {
        let troubles = std::mem::take(&mut self.troubles);
        self.troubles.bytes_max = u64::MAX;
        for Work { name, deed, .. } in std::mem::take(&mut self.work) {
            if self.dice.chance(500) {
                continue;
            }
            let mut deed = deed;
            if let Deed::Write { bytes, .. } = &mut deed {
                bytes.truncate(self.dice.index(bytes.len() + 1));
            }
            self.act(name, deed);
        }
        self.troubles = troubles;
    }

    /// The power goes: of what was not synced, any sectors are there.
    pub(crate) fn cut(&mut self) {
        self.kill();
        for file in self.files.values_mut() {
            for sector in std::mem::take(&mut file.dirty) {
                if self.dice.chance(500) {
                    file.keep(sector);
                }
            }
            file.seen.clone_from(&file.kept);
        }
    }

    /// Changes one bit of what is kept, if there is a file; says of which.
    pub(crate) fn flip(&mut self) -> Option<(Name, usize)> {
        let at = self.dice.index(self.files.len());
        let (name, file) = self.files.iter_mut().nth(at)?;
        let byte = self.dice.index(file.seen.len());
        let bit = 1 << self.dice.below(8);
        file.seen[byte] ^= bit;
        if let Some(kept) = file.kept.get_mut(byte) {
            *kept ^= bit;
        }
        Some((*name, byte))
    }

    /// The files, in order.
    pub(crate) fn names(&self) -> Vec<Name> {
        self.files.keys().copied().collect()
    }

    /// Removes a file for good, as a start does with those of earlier ones.
    pub(crate) fn remove(&mut self, name: Name) {
        self.files.remove(&name);
    }

    /// Everything that was written is on the platter: what a start does with the files that it finds.
    pub(crate) fn sync_all(&mut self) {
        self.files.values_mut().for_each(File::sync);
    }

    /// What a start of the gateway reads, by lineage and shard, in order.
    pub(crate) fn recover(&mut self) -> BTreeMap<(u64, u16), Shelf> {
        let mut all: BTreeMap<(u64, u16), (Vec<Header>, Shelf)> = BTreeMap::new();
        for (name, file) in &self.files {
            let (headers, found) = all.entry((name.lineage, name.shard)).or_default();
            let block = &file.seen[..file.seen.len().min(HEADER_BYTES)];
            match Header::open(block, *name) {
                Ok(Opened::Segment(header)) => headers.push(header),
                Ok(Opened::Unused) => {}
                Err(why) => found.unreadable.push((*name, why)),
            }
        }
        let mut read = BTreeMap::new();
        for (key, (headers, mut found)) in all {
            self.read_chain(&Chain::new(headers), &mut found);
            read.insert(key, found);
        }
        read
    }

    fn read_chain(&mut self, chain: &Chain, found: &mut Shelf) {
        for (at, header) in chain.segments().iter().enumerate() {
            let Some(mut reader) = chain.reader(at, found.last.as_ref()) else { continue };
            let mut rest = self.files[&header.name].seen.get(HEADER_BYTES..).unwrap_or_default();
            let mut lost: Vec<Lost> = Vec::new();
            let end = loop {
                match reader.step() {
                    Found::Record { lsn, payload, proves } => {
                        found.records.push((lsn, payload.to_vec()));
                        lost.iter_mut().filter(|_| proves).for_each(|lost| lost.proven = true);
                    }
                    Found::Lost(gap) => lost.push(gap),
                    Found::End(end) => break end,
                    Found::More if rest.is_empty() => reader.finish(),
                    Found::More => {
                        let len = 1 + self.dice.index(rest.len().min(3_000));
                        reader.feed(&rest[..len]);
                        rest = &rest[len..];
                    }
                }
            };
            found.lost.append(&mut lost);
            found.lost.extend(chain.lost_behind(at, &end));
            found.last = Some(end);
        }
    }
}
