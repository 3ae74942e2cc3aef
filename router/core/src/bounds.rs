//! Limits that hold for the whole process, over all shards.
use crate::plan::Plan;
use core::sync::atomic::{AtomicU32, Ordering};

/// The counters behind the process-wide limits, shared by all shards.
#[derive(Debug)]
pub struct Bounds {
    sessions: AtomicU32,
    turns: AtomicU32,
    shards: u16,
}

impl Bounds {
    /// Counters for this plan and this many shards.
    #[must_use]
    pub fn new(_plan: &Plan, shards: u16) -> Self {
        Self { sessions: AtomicU32::new(0), turns: AtomicU32::new(0), shards: shards.max(1) }
    }

    /// The number of shards that share them.
    #[must_use]
    pub const fn shards(&self) -> u16 {
        self.shards
    }

    /// Sessions taken by all shards, with those that shards hold in reserve.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Turns taken by all shards, with those that shards hold in reserve.
    #[must_use]
    pub fn turns(&self) -> u32 {
        self.turns.load(Ordering::Relaxed)
    }
}
