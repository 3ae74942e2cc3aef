//! What is shown of the store: metrics, and a part of `/health/detailed`.
use super::{Counters, Health, Store};
use serde_json::{Value, json};

/// A number of the store: its name, its help, whether it only grows, and where it stands.
type Number = (&'static str, &'static str, bool, fn(&Counters) -> u64);

/// All of them.
pub(crate) const NUMBERS: [Number; 11] = [
    ("store_rows", "Rows that became durable in the store", true, |c| c.ops),
    ("store_batches", "Transactions of the store", true, |c| c.batches),
    ("store_failures", "Attempts to connect to the store, to write or to read that failed", true, |c| {
        c.failures
    }),
    ("store_rows_refused", "Rows that the store's queue did not take at once", true, |c| c.refused),
    ("store_rows_set_aside", "Rows that the store can never hold", true, |c| c.set_aside),
    ("store_reads", "Questions that the store answered", true, |c| c.reads),
    ("store_sessions_loaded", "Sessions that the store answered for", true, |c| c.loads),
    ("store_read_failures", "Questions that the store did not answer, or not in time", true, |c| {
        c.read_failures
    }),
    ("store_waiting_rows", "Rows that wait to be written", false, |c| c.waiting_ops as u64),
    ("store_waiting_bytes", "Bytes of rows that wait to be written", false, |c| c.waiting_bytes as u64),
    ("store_waiting_reads", "Questions that wait", false, |c| c.waiting_reads as u64),
];

/// The part of `/health/detailed`.
pub(crate) fn health(store: Option<&Store>) -> Value {
    let Some(store) = store else { return json!({ "status": "off" }) };
    let counters = store.counters();
    let mut shown = json!({
        "kind": store.kind(),
        "status": "ok",
        "waitingRows": counters.waiting_ops,
        "waitingBytes": counters.waiting_bytes,
        "failures": counters.failures,
    });
    if let Health::Degraded { since, why } = store.health() {
        let mut at = Vec::new();
        clawgate_adapters::time::write_rfc3339(&mut at, since);
        shown["status"] = "degraded".into();
        shown["since"] = String::from_utf8(at).unwrap_or_default().into();
        shown["why"] = why.into();
    }
    shown
}
