//! The circuit breaker of one model on one shard: closed, open, half open.

/// What a breaker lets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Everything.
    #[default]
    Closed,
    /// Nothing.
    Open,
    /// A few probes.
    HalfOpen,
}
