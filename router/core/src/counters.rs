//! What a shard counts. Plain numbers that only grow; the shell adds the shards up and names them for its metrics.
use crate::codes::Code;
use crate::effect::Ignored;
use crate::stage::Stage;

/// The counters of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    stages: [u64; Stage::ALL.len()],
    ignored: [u64; 5],
    refused: [u64; Code::ALL.len()],
    failed: [u64; Code::ALL.len()],
    /// Messages admitted.
    pub accepted: u64,
    /// Messages that had been admitted before.
    pub duplicate: u64,
    /// Turns answered in full.
    pub answered: u64,
    /// Turns that their client left or an operator stopped.
    pub cancelled: u64,
    /// Turns whose message is answered by another one's.
    pub merged: u64,
    /// Turns whose answer no platform took.
    pub dead: u64,
    /// Calls repeated on the same model.
    pub retries: u64,
    /// Calls that went to the next model of a chain.
    pub fallbacks: u64,
    /// Sessions forgotten early to make room.
    pub evicted: u64,
    /// Sessions forgotten because they were idle for too long.
    pub expired: u64,
    /// Sessions that the store was asked for.
    pub loads: u64,
    /// Sessions that the store answered for.
    pub loaded: u64,
    /// Sessions that the store did not answer for, or not in time.
    pub not_loaded: u64,
    /// Event ids that the store was asked about.
    pub lookups: u64,
    /// Event ids that only the store knew.
    pub lookups_seen: u64,
    /// Event ids that the store did not say anything about, or not in time.
    pub lookups_failed: u64,
}

impl Counters {
    pub(crate) const fn new() -> Self {
        Self {
            stages: [0; Stage::ALL.len()],
            ignored: [0; 5],
            refused: [0; Code::ALL.len()],
            failed: [0; Code::ALL.len()],
            accepted: 0,
            duplicate: 0,
            answered: 0,
            cancelled: 0,
            merged: 0,
            dead: 0,
            retries: 0,
            fallbacks: 0,
            evicted: 0,
            expired: 0,
            loads: 0,
            loaded: 0,
            not_loaded: 0,
            lookups: 0,
            lookups_seen: 0,
            lookups_failed: 0,
        }
    }

    /// Messages that passed this stage.
    #[must_use]
    pub const fn stage(&self, stage: Stage) -> u64 {
        self.stages[stage as usize]
    }

    /// Messages ignored for this reason.
    #[must_use]
    pub const fn ignored(&self, why: Ignored) -> u64 {
        self.ignored[place_of_why(why)]
    }

    /// Messages refused with this code.
    #[must_use]
    pub fn refused(&self, code: Code) -> u64 {
        self.refused[place_of(code)]
    }

    /// Turns that ended with this code, told to a client or left as dead letters.
    #[must_use]
    pub fn failed(&self, code: Code) -> u64 {
        self.failed[place_of(code)]
    }

    pub(crate) const fn pass(&mut self, stage: Stage) {
        self.stages[stage as usize] += 1;
    }

    pub(crate) const fn ignore(&mut self, why: Ignored) {
        self.ignored[place_of_why(why)] += 1;
    }

    pub(crate) fn refuse(&mut self, code: Code) {
        self.refused[place_of(code)] += 1;
    }

    pub(crate) fn fail(&mut self, code: Code) {
        self.failed[place_of(code)] += 1;
    }
}

fn place_of(code: Code) -> usize {
    Code::ALL.binary_search(&code).unwrap_or(Code::ALL.len() - 1)
}

const fn place_of_why(why: Ignored) -> usize {
    match why {
        Ignored::Sender => 0,
        Ignored::Group => 1,
        Ignored::Unmentioned => 2,
        Ignored::Kind => 3,
        Ignored::Empty => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_own_place() {
        let mut counters = Counters::new();
        for (n, &code) in Code::ALL.iter().enumerate() {
            assert_eq!(place_of(code), n, "Code::ALL is sorted by number");
            counters.refuse(code);
            counters.fail(code);
            counters.fail(code);
        }
        assert!(Code::ALL.iter().all(|&code| counters.refused(code) == 1 && counters.failed(code) == 2));
    }

    #[test]
    fn stages_and_reasons_are_counted_apart() {
        let mut counters = Counters::new();
        for stage in Stage::ALL {
            counters.pass(stage);
        }
        for why in [Ignored::Sender, Ignored::Group, Ignored::Unmentioned, Ignored::Kind, Ignored::Empty] {
            counters.ignore(why);
            assert_eq!(counters.ignored(why), 1);
        }
        assert!(Stage::ALL.iter().all(|&stage| counters.stage(stage) == 1));
    }
}
