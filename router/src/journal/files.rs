//! The thread that makes, removes and syncs files, so that no shard's thread waits for a disk. One for the process; where
//! there is no ring, it also writes and syncs the records. It knows nothing of what is in a file.
use super::name;
use crate::gateway::Shared;
use crate::mesh::Errand;
use clawgate_core::id::ShardId;
use clawgate_core::journal::format::Name;
use clawgate_core::journal::writer::Fault;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// When an answer is offered again that a thread had no room for.
const OFFER_AGAIN: Duration = Duration::from_millis(5);

/// What is to be done. A shard has at most one of the first two and one of the next two under way.
#[derive(Debug)]
pub(crate) enum Work {
    /// Make a file of this size, or give this name to one that has it.
    Create { name: Name, bytes: u64, reuse: Option<Name> },
    /// Remove a file. That it is not there is as good.
    Delete { name: Name },
    /// Write all of these bytes.
    Write { file: Arc<File>, offset: u64, bytes: Vec<u8> },
    /// Make sure that they are on the disk.
    Sync { file: Arc<File> },
    /// Remove the files of earlier starts, in this order; those that are damaged are put aside.
    Discard { older: Vec<Older> },
}

/// A file of an earlier start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Older {
    pub(crate) path: PathBuf,
    /// Something in it could not be read: it is kept beside the journal for who wants to look.
    pub(crate) is_damaged: bool,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Created(io::Result<File>),
    Deleted(io::Result<()>),
    Written(Vec<u8>, io::Result<()>),
    Synced(io::Result<()>),
    /// Those that are left.
    Discarded(Vec<Older>),
}

struct Job {
    work: Work,
    asker: ShardId,
    shared: Arc<Shared>,
}

/// What comes to the thread.
#[derive(Debug)]
enum Ask {
    Job(Job),
    /// Everything that came before is done.
    Settle(SyncSender<()>),
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Files(SyncSender<Ask>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.work)
    }
}

impl Files {
    /// Starts the thread, for files in this folder. It ends when this is dropped.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn start(folder: PathBuf, shards: u16) -> io::Result<Self> {
        // Two of each shard are under way at most, and a discard.
        let (jobs, incoming) = sync_channel(usize::from(shards) * 2 + 2);
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || serve(&folder, &incoming))?;
        Ok(Self(jobs))
    }

    /// Asks for work; the answer comes on the asker's own thread. False if it cannot be asked: the thread is gone.
    pub(crate) fn ask(&self, shared: &Arc<Shared>, asker: ShardId, work: Work) -> bool {
        // The queue has room for all that can be under way.
        self.0.try_send(Ask::Job(Job { work, asker, shared: shared.clone() })).is_ok()
    }

    /// Waits until all that was asked for is done. Not for a shard's thread.
    pub(crate) fn settle(&self) {
        let (done, settled) = sync_channel(1);
        // A thread that is gone does nothing more either.
        if self.0.send(Ask::Settle(done)).is_ok() {
            let _ = settled.recv();
        }
    }
}

fn serve(folder: &Path, incoming: &Receiver<Ask>) {
    let mut unsent: Vec<(Arc<Shared>, ShardId, Errand)> = Vec::new();
    loop {
        let job = if unsent.is_empty() {
            incoming.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            incoming.recv_timeout(OFFER_AGAIN)
        };
        match job {
            Ok(Ask::Settle(done)) => {
                // Who asked may have given up.
                let _ = done.send(());
            }
            Ok(Ask::Job(Job { work, asker, shared })) => {
                let outcome = carry_out(folder, work);
                let answer: Errand = Box::new(move |thread| super::on_outcome(thread, outcome));
                unsent.push((shared, asker, answer));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        for (shared, asker, answer) in std::mem::take(&mut unsent) {
            if let Err(answer) = shared.mesh.errand(asker, answer) {
                unsent.push((shared, asker, answer));
            }
        }
    }
}

fn carry_out(folder: &Path, work: Work) -> Outcome {
    match work {
        Work::Create { name, bytes, reuse } => Outcome::Created(create(folder, name, bytes, reuse)),
        Work::Delete { name } => Outcome::Deleted(remove(folder, &folder.join(name::of(name)))),
        Work::Write { file, offset, bytes } => {
            let result = file.write_all_at(&bytes, offset);
            Outcome::Written(bytes, result)
        }
        Work::Sync { file } => Outcome::Synced(file.sync_data()),
        Work::Discard { older } => Outcome::Discarded(discard(folder, older)),
    }
}

fn create(folder: &Path, name: Name, bytes: u64, reuse: Option<Name>) -> io::Result<File> {
    let path = folder.join(name::of(name));
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    let file = match reuse {
        Some(old) => {
            std::fs::rename(folder.join(name::of(old)), &path)?;
            options.open(&path)?
        }
        None => {
            let file = options.create_new(true).open(&path)?;
            allocate(&file, bytes)?;
            file
        }
    };
    file.sync_all()?;
    sync_folder(folder)?;
    Ok(file)
}

/// Takes the space, so that a full disk is met here and not when a record is written.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // Some file systems cannot: the size is set, and the space is taken as it is written.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(bytes),
        Err(why) => Err(why.into()),
    }
}

fn remove(folder: &Path, path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        Ok(()) | Err(_) => sync_folder(folder),
    }
}

/// In order, each for good before the next: no record may outlive a later one that settles it.
fn discard(folder: &Path, older: Vec<Older>) -> Vec<Older> {
    let mut left = older.into_iter();
    while let Some(old) = left.next() {
        let done = if old.is_damaged {
            let aside = old.path.with_extension(name::DAMAGED);
            std::fs::rename(&old.path, aside).and_then(|()| sync_folder(folder))
        } else {
            remove(folder, &old.path)
        };
        if let Err(why) = done {
            tracing::warn!(%why, file = %old.path.display(), "a file of the journal's past cannot be removed yet");
            return std::iter::once(old).chain(left).collect();
        }
    }
    Vec::new()
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// What the writer makes of an error.
pub(super) fn fault(why: &io::Error) -> Fault {
    let is_full = matches!(
        why.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    if is_full { Fault::NoSpace } else { Fault::Broken }
}
