//! What earlier starts of the gateway left in the journal, read once before the shards begin. It changes nothing but that
//! it syncs what it read; the files go when what they hold was taken over.
use super::files::Older;
use super::name;
use clawgate_core::journal::format::{HEADER_BYTES, Header, Name, Opened, Unreadable};
use clawgate_core::journal::reader::{Chain, End, Found, Lost, Reader};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A record of an earlier start. They come by lineage, then by shard, then by lsn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'r> {
    /// Counts the starts.
    pub(crate) lineage: u64,
    /// Whose it was; there may be fewer shards by now, or more.
    pub(crate) shard: u16,
    pub(crate) lsn: u64,
    pub(crate) payload: &'r [u8],
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// Of the start that reads.
    pub(crate) lineage: u64,
    /// The files, in the order in which they may go.
    pub(crate) older: Vec<Older>,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// Records that were on disk once and cannot be read.
    pub(crate) records_lost: u64,
    /// Files that are not read at all.
    pub(crate) unreadable: u64,
}

/// Reads all, and hands each record to `each`.
///
/// # Errors
/// In words for the operator: the folder or a file cannot be read, or is of a later version of the gateway.
pub(crate) fn read(folder: &Path, mut each: impl FnMut(Record<'_>)) -> Result<Past, String> {
    let mut past = Past { lineage: 1, ..Past::default() };
    let mut chains: BTreeMap<(u64, u16), Vec<Header>> = BTreeMap::new();
    for (name, path) in list(folder)? {
        past.lineage = past.lineage.max(name.lineage.saturating_add(1));
        if let Some(header) = open(name, &path, &mut past)? {
            chains.entry((name.lineage, name.shard)).or_default().push(header);
        }
    }
    for headers in chains.into_values() {
        read_chain(folder, &Chain::new(headers), &mut past, &mut each)?;
    }
    Ok(past)
}

/// The files of the journal, in their order.
fn list(folder: &Path) -> Result<BTreeMap<Name, PathBuf>, String> {
    let bad = |why: io::Error| format!("the journal {} cannot be read: {why}", folder.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let file = entry.file_name();
        match file.to_str().and_then(name::parse) {
            Some(name) => drop(files.insert(name, entry.path())),
            None if entry.path().extension().is_some_and(|extension| extension == name::DAMAGED) => {}
            None => {
                tracing::warn!(file = %entry.path().display(), "this file is not the journal's: it is left alone")
            }
        }
    }
    Ok(files)
}

/// The header of a file, if records can be read from it.
fn open(name: Name, path: &Path, past: &mut Past) -> Result<Option<Header>, String> {
    let bad = |why: io::Error| format!("the journal's file {} cannot be read: {why}", path.display());
    let mut block = Vec::with_capacity(HEADER_BYTES);
    let file = File::open(path).map_err(bad)?;
    // What an earlier process wrote and never synced must not be lost by a later loss of power: it is relied on now.
    file.sync_all().map_err(bad)?;
    file.take(HEADER_BYTES as u64).read_to_end(&mut block).map_err(bad)?;
    let mut older = |is_damaged| past.older.push(Older { path: path.to_path_buf(), is_damaged });
    let file = path.display();
    match Header::open(&block, name) {
        Ok(Opened::Segment(header)) => {
            older(false);
            return Ok(Some(header));
        }
        Ok(Opened::Unused) => {
            older(false);
            return Ok(None);
        }
        Err(Unreadable::Newer { version }) => {
            return Err(format!(
                "the journal's file {file} has the format {version}, of a later Clawgate; this one reads {}. Start that \
                 one, or move the file away and lose what it holds",
                clawgate_core::journal::format::VERSION
            ));
        }
        Err(Unreadable::Foreign) => {
            tracing::error!(%file, "this file has a name of the journal's and is none of its: it is left alone");
        }
        Err(Unreadable::Misplaced { says }) => {
            let says = name::of(says);
            tracing::error!(%file, says, "this file was renamed, or copied here from elsewhere: it is left alone");
        }
        Err(Unreadable::Damaged) => {
            // It may just have been begun when the machine stopped. If not, its records are missing behind the one before.
            tracing::warn!(%file, "the header of this file is not whole: it is put aside");
            older(true);
        }
    }
    past.unreadable += 1;
    Ok(None)
}

fn read_chain(
    folder: &Path,
    chain: &Chain,
    past: &mut Past,
    each: &mut impl FnMut(Record<'_>),
) -> Result<(), String> {
    let mut before = None;
    for (at, header) in chain.segments().iter().enumerate() {
        let path = folder.join(name::of(header.name));
        let Some(reader) = chain.reader(at, before.as_ref()) else { continue };
        let end = read_segment(&path, header.name, reader, past, each)
            .map_err(|why| format!("the journal's file {} cannot be read: {why}", path.display()))?;
        if let Some(lost) = chain.lost_behind(at, &end) {
            report(&path, &lost, past);
        }
        before = Some(end);
    }
    Ok(())
}

fn read_segment(
    path: &Path,
    name: Name,
    mut reader: Reader,
    past: &mut Past,
    each: &mut impl FnMut(Record<'_>),
) -> io::Result<End> {
    let mut file = File::open(path)?;
    io::copy(&mut (&mut file).take(HEADER_BYTES as u64), &mut io::sink())?;
    let mut chunk = vec![0; reader.wants()];
    let mut lost: Vec<Lost> = Vec::new();
    let end = loop {
        match reader.step() {
            Found::Record { lsn, payload, proves } => {
                lost.iter_mut().filter(|_| proves).for_each(|lost| lost.proven = true);
                past.records += 1;
                past.bytes += payload.len() as u64;
                each(Record { lineage: name.lineage, shard: name.shard, lsn, payload });
            }
            Found::Lost(gap) => lost.push(gap),
            Found::End(end) => break end,
            Found::More => match file.read(&mut chunk)? {
                0 => reader.finish(),
                len => reader.feed(&chunk[..len]),
            },
        }
    };
    lost.iter().for_each(|lost| report(path, lost, past));
    if end.torn {
        tracing::info!(file = %path.display(), offset = end.offset, "what was being written when we stopped is not whole");
    }
    Ok(end)
}

/// Says what is missing.
fn report(path: &Path, lost: &Lost, past: &mut Past) {
    let Lost { first_lsn, last_lsn, offset, proven } = *lost;
    let file = path.display();
    if !proven {
        tracing::warn!(%file, offset, first_lsn, last_lsn, "records are missing that were not known to be on disk");
        return;
    }
    tracing::error!(
        %file,
        offset,
        first_lsn,
        last_lsn,
        "records are damaged: they are skipped, and the file is put aside; check the disk"
    );
    past.records_lost += last_lsn - first_lsn + 1;
    if let Some(older) = past.older.iter_mut().find(|older| older.path == path) {
        older.is_damaged = true;
    }
}
