//! What is left of a batch for whoever has to find out why a promise was broken: the data directory as each kill left it
//! and as it was at the end, the log, and the story of each message concerned. All of it goes when nothing was broken.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::history::{Judgement, Key};
use super::{Plan, World, senders};

/// Kills of which the data directory is kept; the oldest goes first.
const KILLS_KEPT: u32 = 64;

fn kill_folder(work: &Path, life: u32) -> PathBuf {
    work.join("kills").join(format!("life-{life}"))
}

/// Copies what a killed gateway left, before the next one reads it. A copy that fails is one the less to look at.
pub(super) fn keep_kill(world: &World, life: u32) {
    let work = &world.plan.work;
    if let Err(error) = copy(&world.plan.data, &kill_folder(work, life)) {
        world.note(&format!("of life {life} nothing is kept: {error}"));
    }
    if let Some(oldest) = life.checked_sub(KILLS_KEPT) {
        remove(&kill_folder(work, oldest)).ok();
    }
}

/// Keeps the data directory as it is, and what happened to those messages for which a promise was broken.
///
/// # Errors
/// The system's.
pub(super) fn keep_all(world: &World) -> io::Result<PathBuf> {
    let judgement = super::history::judge(&world.history.borrow(), world.plan.in_flight_ns);
    tell_stories(world, &judgement, &world.plan.work.join("evidence.json"));
    let end = world.plan.work.join("data-at-the-end");
    if let Err(error) = copy(&world.plan.data, &end) {
        world.note(&error);
    }
    Ok(world.plan.work.clone())
}

/// Writes down all that is known of the messages for which a promise was broken, and of the lives of the gateway.
pub(super) fn tell_stories(world: &World, judgement: &Judgement, file: &Path) {
    let text = |key: Key| senders::text_of(world.run_of(key.door), key.chat, key.seq);
    let stories = world.history.borrow().stories(judgement, world.begin_ns, text);
    let told = serde_json::to_vec_pretty(&stories).unwrap_or_default();
    if let Err(error) = fs::write(file, told) {
        world.note(&format!("{}: {error}", file.display()));
    }
}

/// Removes what a batch left that is in order.
///
/// # Errors
/// The system's.
pub(super) fn clear(plan: &Plan) -> io::Result<()> {
    for name in ["kills", "strace-1", "strace-2", "log", "clawgate.json"] {
        remove(&plan.work.join(name)).map_err(io::Error::other)?;
    }
    empty(&plan.data)
}

/// Removes what is in a folder, and leaves the folder: something may be mounted there.
///
/// # Errors
/// The system's.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        remove(&entry?.path()).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Removes a file or a folder, if there is one.
pub(super) fn remove(path: &Path) -> Result<(), String> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", path.display())),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Copies a folder; what is neither a file nor a folder is left out.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let bad = |error: io::Error| format!("{}: {error}", to.display());
    fs::create_dir_all(to).map_err(bad)?;
    for entry in fs::read_dir(from).map_err(bad)? {
        let entry = entry.map_err(bad)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(bad)?);
        let Some(name) = path.file_name() else { continue };
        if kind.is_dir() {
            copy(&path, &to.join(name))?;
        } else if kind.is_file() {
            fs::copy(&path, to.join(name)).map_err(bad)?;
        }
    }
    Ok(())
}
