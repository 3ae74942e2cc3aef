//! What stands around the gateway in the tests of the whole process: the process itself, clients, and upstreams that
//! speak the real wire formats. Knows the gateway only by its command line, its sockets and its log.
//!
//! Nothing here reads a clock or sleeps: every wait is for an event, and has a bound ([`PATIENCE`]) after which it fails.
#![allow(dead_code, reason = "each of the two test binaries uses its part")]

pub(crate) mod certificates;
pub(crate) mod events;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod model;
pub(crate) mod server;
pub(crate) mod simulator;
pub(crate) mod slack;
pub(crate) mod socket;
pub(crate) mod telegram;
pub(crate) mod time;

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How long anything may take before a test gives it up. A busy machine needs seconds; nothing waits this long unless
/// it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// In every secret and in every text that tests send: where it shows up in a log, something leaked.
pub(crate) const CANARY: &str = "canary";

/// A value that threads change and tests wait for.
#[derive(Debug, Default)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    /// Looks at it, or changes it, and wakes whoever waits.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut T) -> R) -> R {
        let result = act(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `found` finds something in it.
    #[track_caller]
    pub(crate) fn wait<R>(&self, what: &str, mut found: impl FnMut(&mut T) -> Option<R>) -> R {
        match self.wait_within(PATIENCE, &mut found) {
            Some(result) => result,
            None => panic!("{what}: did not happen in {PATIENCE:?}"),
        }
    }

    /// As [`Self::wait`], with its own bound; `None` when it was reached.
    pub(crate) fn wait_within<R>(
        &self,
        bound: Duration,
        mut found: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<R> {
        let mut result = None;
        let nothing = |value: &mut T| {
            result = found(value);
            result.is_none()
        };
        drop(self.changed.wait_timeout_while(self.lock(), bound, nothing).unwrap());
        result
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // A test that failed elsewhere has said why; what it left is still worth looking at.
        self.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Asks again and again, with a short rest in between, until the answer is `Some`.
#[track_caller]
pub(crate) fn ask_until<R>(what: &str, mut ask: impl FnMut() -> Option<R>) -> R {
    const REST: Duration = Duration::from_millis(5);
    for _ in 0..PATIENCE.as_millis() / REST.as_millis() {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::park_timeout(REST);
    }
    panic!("{what}: did not happen")
}
