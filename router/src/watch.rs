//! Have the files that make up the configuration changed? Noticed by inotify on their folders, so that editors and
//! tools that put a new file in place of the old one, or turn a link, are noticed too; then looked at by their stamps,
//! because folders hold other files. It reads no file.
use clawgate_core::time::Time;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files are looked at when their folders were quiet for so long: who writes several writes them one after the other.
const SETTLE: Duration = Duration::from_millis(100);
/// They are looked at after so long in any case.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Bytes of events read at once; each has a name of at most 255.
const EVENT_BYTES: usize = 4_096;

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// `None` while there is no such file.
    fn of(path: &Path) -> Option<Self> {
        let about = std::fs::metadata(path).ok()?;
        Some(Self {
            device: about.dev(),
            inode: about.ino(),
            bytes: about.size(),
            modified: (about.mtime(), about.mtime_nsec()),
        })
    }
}

/// The files that are watched.
#[derive(Debug)]
pub(crate) struct Watch {
    events: OwnedFd,
    files: Vec<(PathBuf, Option<Stamp>)>,
    folders: BTreeMap<PathBuf, i32>,
    /// When the first and the last event came that was not looked into.
    stirred: Option<(Time, Time)>,
}

impl Watch {
    /// # Errors
    /// The kernel gives no more watches, or a folder is not there.
    pub(crate) fn start(files: &[PathBuf]) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut watch = Self { events, files: Vec::new(), folders: BTreeMap::new(), stirred: None };
        watch.follow(files)?;
        Ok(watch)
    }

    /// Watches these files, and no others.
    ///
    /// # Errors
    /// As for [`Self::start`]; the folders that could be watched are.
    pub(crate) fn follow(&mut self, files: &[PathBuf]) -> io::Result<()> {
        let mut stale = std::mem::take(&mut self.folders);
        let mut outcome = Ok(());
        for folder in files.iter().flat_map(|file| folders_of(file)) {
            // Asked anew each time: the folder of this name may be another one by now.
            match inotify::add_watch(&self.events, &folder, mask()) {
                Ok(watch) => {
                    stale.retain(|_, known| *known != watch);
                    self.folders.insert(folder, watch);
                }
                Err(why) => outcome = Err(why.into()),
            }
        }
        for watch in stale.into_values() {
            // One whose folder was removed is gone already.
            let _ = inotify::remove_watch(&self.events, watch);
        }
        self.files = files.iter().map(|file| (file.clone(), Stamp::of(file))).collect();
        outcome
    }

    /// The descriptor that becomes readable when something happens.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Takes in what happened.
    pub(crate) fn hear(&mut self, now: Time) {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = inotify::Reader::new(self.events.as_fd(), &mut buffer);
        let mut any = false;
        while let Ok(event) = events.next() {
            any |= !event.events().contains(ReadFlags::IGNORED);
        }
        if any {
            let (first, _) = self.stirred.unwrap_or((now, now));
            self.stirred = Some((first, now));
        }
    }

    /// When to look at the files.
    pub(crate) fn due(&self) -> Option<Time> {
        let (first, last) = self.stirred?;
        Some((last + SETTLE).min(first + SETTLE_MAX))
    }

    /// Looks at the files: has one of them changed? One that is missing has not: it is being put in place.
    pub(crate) fn look(&mut self) -> bool {
        self.stirred = None;
        let mut changed = false;
        for (file, seen) in &mut self.files {
            let stamp = Stamp::of(file);
            if stamp.is_some() && stamp != *seen {
                *seen = stamp;
                changed = true;
            }
        }
        let files: Vec<_> = self.files.iter().map(|(file, _)| file.clone()).collect();
        // A folder that is not there now is asked for again when something else stirs, or by SIGHUP.
        let _ = self.follow(&files);
        changed
    }
}

/// Where a change of the file shows: beside its name, and beside what its name leads to.
fn folders_of(file: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        Some(_) | None => PathBuf::from("."),
    };
    let target = std::fs::canonicalize(file).ok().map(|target| folder(&target));
    std::iter::once(folder(file)).chain(target)
}

fn mask() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("clawgate-watch-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// What happened is heard at once; time is ours to say.
    fn stirs(watch: &mut Watch, now: Time) -> Option<Time> {
        watch.hear(now);
        watch.due()
    }

    #[test]
    fn each_way_of_changing_a_file_is_noticed() {
        let folder = folder("ways");
        let (file, other) = (folder.join("clawgate.json"), folder.join("new"));
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::start(&[file.clone(), folder.join(".env")]).unwrap();
        assert_eq!(stirs(&mut watch, Time::ZERO), None);
        // Written in place.
        fs::write(&file, "22").unwrap();
        assert_eq!(stirs(&mut watch, Time::ZERO), Some(Time::ZERO + SETTLE));
        assert!(watch.look() && !watch.look());
        // Replaced.
        fs::write(&other, "333").unwrap();
        fs::rename(&other, &file).unwrap();
        assert!(stirs(&mut watch, Time::ZERO).is_some() && watch.look());
        // Away, and back.
        fs::rename(&file, &other).unwrap();
        assert!(stirs(&mut watch, Time::ZERO).is_some() && !watch.look());
        fs::write(&file, "4444").unwrap();
        assert!(stirs(&mut watch, Time::ZERO).is_some() && watch.look());
        // Another file of the folder; then one that was not there.
        fs::write(&other, "x").unwrap();
        assert!(stirs(&mut watch, Time::ZERO).is_some() && !watch.look());
        fs::write(folder.join(".env"), "x").unwrap();
        assert!(stirs(&mut watch, Time::ZERO).is_some() && watch.look());
        fs::remove_dir_all(&folder).unwrap();
    }

    /// As container platforms mount configurations: the file is a link through a folder that is itself a link, and that
    /// one is turned.
    #[test]
    fn links_that_turn_are_noticed() {
        let folder = folder("links");
        for name in ["one", "two"] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("clawgate.json"), name).unwrap();
        }
        std::os::unix::fs::symlink("one", folder.join("..data")).unwrap();
        let file = folder.join("clawgate.json");
        std::os::unix::fs::symlink("..data/clawgate.json", &file).unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&file)).unwrap();
        std::os::unix::fs::symlink("two", folder.join("..tmp")).unwrap();
        fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
        assert!(stirs(&mut watch, Time::ZERO).is_some() && watch.look());
        // The new target is watched too.
        watch.hear(Time::ZERO);
        watch.look();
        fs::write(folder.join("two").join("clawgate.json"), "changed").unwrap();
        assert!(stirs(&mut watch, Time::ZERO).is_some() && watch.look());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn one_who_writes_on_and_on_is_not_waited_for() {
        let folder = folder("storm");
        let file = folder.join("clawgate.json");
        fs::write(&file, "").unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&file)).unwrap();
        for millis in (0..3_000).step_by(50) {
            fs::write(&file, "x".repeat(millis)).unwrap();
            let due = stirs(&mut watch, Time::from_millis(millis as u64)).unwrap();
            assert!(due <= Time::ZERO + SETTLE_MAX, "{millis}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
