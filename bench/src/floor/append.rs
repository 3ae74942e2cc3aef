//! The least that a journal can do: bytes at the end of a file, synced as the policy says. One call returns when what it
//! was given is as safe as the policy makes it.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a new file; then it is written from its beginning again, as a journal uses its files again.
const FILE_BYTES: u64 = 256 << 20;
/// Between two syncs, at [`Policy::Interval`]; as the gateway has it without a word.
const INTERVAL: Duration = Duration::from_millis(100);

/// When what was appended is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Each time.
    Always,
    /// Once a while.
    Interval,
    /// When the system likes.
    Os,
}

impl Policy {
    /// All, the safest first.
    pub const ALL: [Self; 3] = [Self::Always, Self::Interval, Self::Os];

    /// Its name, which is that of the gateway's mode.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Os => "os",
        }
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| format!("{name}: always, interval or os"))
    }
}

/// A file that is appended to.
#[derive(Debug)]
pub struct Append {
    file: File,
    policy: Policy,
    at: u64,
    bytes_max: u64,
    synced: Instant,
}

impl Append {
    /// A new file.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path, policy: Policy) -> io::Result<Self> {
        let file = File::create_new(path)?;
        Ok(Self::to(file, FILE_BYTES, policy))
    }

    /// To a file that is there and has so many bytes, from its beginning on.
    #[must_use]
    pub fn to(file: File, bytes_max: u64, policy: Policy) -> Self {
        Self { file, policy, at: 0, bytes_max, synced: Instant::now() }
    }

    /// Appends, and syncs if it is time to.
    ///
    /// # Errors
    /// The disk's.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes_max < self.at + bytes.len() as u64 {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        match self.policy {
            Policy::Always => self.file.sync_data(),
            Policy::Interval if INTERVAL <= self.synced.elapsed() => {
                self.synced = Instant::now();
                self.file.sync_data()
            }
            Policy::Interval | Policy::Os => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_holds_what_was_appended_and_begins_anew_when_it_is_full() {
        let path = std::env::temp_dir().join(format!("clawgate-append-{}", std::process::id()));
        for policy in Policy::ALL {
            assert_eq!(Policy::named(policy.name()), Ok(policy));
            let mut append = Append::create(&path, policy).unwrap();
            append.append(b"one").unwrap();
            append.append(b"two").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"onetwo");
            append.at = FILE_BYTES;
            append.append(b"ten").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"tentwo");
            std::fs::remove_file(&path).unwrap();
        }
        assert!(Policy::named("never").is_err());
    }
}
