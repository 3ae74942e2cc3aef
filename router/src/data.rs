//! The data directory: made where it is missing, and held by one process at a time. What lies in it is for others to say.
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The file that the lock is on. It holds the process id of who has it.
const LOCK: &str = "lock";
/// The file of the secret, and what it is called until it is whole.
const SECRET: &str = "secret";
const SECRET_DRAFT: &str = "secret.new";
/// Bytes of the secret.
pub(crate) const SECRET_BYTES: usize = 32;

/// The data directory, not yet held.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    folder: OwnedFd,
}

/// The data directory is ours until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held, not read")] OwnedFd);

/// Why the data directory is not ours.
#[derive(Debug)]
pub(crate) enum NotOurs {
    /// Another process has it; 0 where it does not say which.
    Held { pid: u32 },
    /// It cannot be used at all.
    Unusable(String),
}

impl Folder {
    /// Opens it, and makes it where it is missing: for its owner alone.
    ///
    /// # Errors
    /// It cannot be made or opened, in words for the operator.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let bad = |why: io::Error| format!("the data directory {} cannot be used: {why}", path.display());
        let is_new = !path.exists();
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true).mode(0o700).create(path).map_err(bad)?;
        if is_new {
            // A disk that is not mounted looks like this too.
            tracing::info!(
                folder = %path.display(),
                "the data directory was not there, and is made: there are no sessions and no journal of an earlier run"
            );
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|why| bad(why.into()))?;
        Ok(Self { path: path.to_path_buf(), folder })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor: what lies in it is named relative to that.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Takes it, if nobody has it.
    ///
    /// # Errors
    /// Somebody has it, or it takes no files.
    pub(crate) fn lock(&self) -> Result<Lock, NotOurs> {
        let bad = |why: io::Error| {
            let path = self.path.display();
            NotOurs::Unusable(format!("the data directory {path} takes no files: {why}; may we write there?"))
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.folder, LOCK, flags, mode).map_err(|why| bad(why.into()))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(NotOurs::Held { pid: self.holder(file) }),
            Err(why) => return Err(bad(why.into())),
        }
        let mut file = std::fs::File::from(file);
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(bad)?;
        Ok(Lock(file.into()))
    }

    /// The secret that lies in it, made where there is none: random, for its owner alone, and the same as long as the
    /// directory lives. Sessions and event ids are hashed with it.
    ///
    /// # Errors
    /// It cannot be read or made, or is damaged, in words for the operator.
    pub(crate) fn secret(&self) -> Result<[u8; SECRET_BYTES], String> {
        let path = self.path.join(SECRET);
        let bad = |why: io::Error| format!("the secret {} cannot be used: {why}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| {
                format!(
                    "the secret {} has {} bytes and not {SECRET_BYTES}: put it back from a backup. Without it what is \
                     journalled finds its sessions no more; where that is all right, remove the file",
                    path.display(),
                    bytes.len()
                )
            }),
            Err(why) if why.kind() == io::ErrorKind::NotFound => self.make_secret(&path).map_err(bad),
            Err(why) => Err(bad(why)),
        }
    }

    fn make_secret(&self, path: &Path) -> io::Result<[u8; SECRET_BYTES]> {
        let mut secret = [0; SECRET_BYTES];
        rustix::rand::getrandom(&mut secret[..], rustix::rand::GetRandomFlags::empty())?;
        // Under its name it is there as a whole or not at all.
        let draft = self.path.join(SECRET_DRAFT);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&secret)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        rustix::fs::fsync(&self.folder)?;
        Ok(secret)
    }

    /// A folder in it, made where it is missing: for its owner alone.
    ///
    /// # Errors
    /// It cannot be made, in words for the operator.
    pub(crate) fn below(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path.join(name);
        let mut make = std::fs::DirBuilder::new();
        let made = make
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .and_then(|()| Ok(rustix::fs::fsync(&self.folder)?));
        made.map_err(|why| format!("{} cannot be made: {why}; may we write there?", path.display()))?;
        Ok(path)
    }

    fn holder(&self, file: OwnedFd) -> u32 {
        // Who has it may be writing its number this moment.
        let text = io::read_to_string(std::fs::File::from(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn one_holds_it_at_a_time() {
        let path = std::env::temp_dir().join(format!("clawgate-data-{}/a/b", std::process::id()));
        let (first, second) = (Folder::open(&path).unwrap(), Folder::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let held = first.lock().unwrap();
        let NotOurs::Held { pid } = second.lock().unwrap_err() else { panic!("taken twice") };
        assert_eq!(pid, std::process::id());
        drop(held);
        let held = second.lock().unwrap();
        assert!(matches!(first.lock(), Err(NotOurs::Held { .. })));
        drop(held);
        std::fs::remove_dir_all(path.parent().unwrap().parent().unwrap()).unwrap();
    }

    #[test]
    fn the_secret_stays() {
        let path = std::env::temp_dir().join(format!("clawgate-secret-{}", std::process::id()));
        let folder = Folder::open(&path).unwrap();
        let secret = folder.secret().unwrap();
        assert!(secret.iter().any(|byte| *byte != 0));
        assert_eq!(Folder::open(&path).unwrap().secret(), Ok(secret));
        assert_eq!(std::fs::metadata(path.join(SECRET)).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(path.join(SECRET), &secret[..31]).unwrap();
        let refused = folder.secret().unwrap_err();
        assert!(refused.contains("has 31 bytes") && refused.contains("backup"), "{refused}");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let path = std::env::temp_dir().join(format!("clawgate-no-data-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let refused = Folder::open(&path).unwrap_err();
        assert!(refused.contains("cannot be used"), "{refused}");
        let below = Folder::open(&path.join("below")).unwrap_err();
        assert!(below.contains("cannot be used"), "{below}");
        std::fs::remove_file(&path).unwrap();
    }
}
