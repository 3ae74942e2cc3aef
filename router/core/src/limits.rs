//! Every bound of a shard, in one struct, in users' terms. There is no `Default`: the configuration states each.
use core::time::Duration;

/// Bounds of the core. `*_max` that say "process" hold over all shards together (see [`crate::bounds`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Sessions in memory, process. When full, the longest idle one makes room; if none is idle, new ones are refused.
    pub sessions_max: u32,
    /// Turns admitted and not yet settled, process: running, waiting and being delivered.
    pub turns_max: u32,
    /// Messages of one session that may wait behind the one that is running.
    pub session_waiting_max: u16,
    /// Bytes of one message's text.
    pub text_bytes_max: u32,
    /// Bytes of one whole request to a model, and of its answer as the client reads it.
    pub request_bytes_max: u32,
    /// Bytes of one answer's text; longer ones end with `REPLY_TOO_LONG`.
    pub reply_bytes_max: u32,
    /// Bytes of ids, names, chats and threads, each.
    pub name_bytes_max: u16,
    /// Messages of history that a session keeps in memory.
    pub history_messages_max: u16,
    /// Bytes of history that a session keeps in memory.
    pub history_bytes_max: u32,
    /// Context variables of a session.
    pub context_entries_max: u16,
    /// Bytes of a session's context variables, names and values together.
    pub context_bytes_max: u32,
    /// Event ids remembered against repetition, process (each shard holds its share).
    pub dedup_ids_max: u32,
    /// Bytes in which is noted which older ids the store may have, process: two for each.
    pub dedup_filter_bytes_max: u32,
    /// Messages that wait for the store's word whether their id was seen, process (each shard has its share, and at least
    /// one).
    pub lookups_max: u32,
    /// How long an event id is remembered.
    pub dedup_age_max: Duration,
    /// Answers kept for clients that asked for a receipt and may ask again, process (each shard holds its share).
    pub kept_answers_max: u32,
    /// Bytes of them, process.
    pub kept_answer_bytes_max: u32,
    /// A session without a message for this long is forgotten.
    pub session_idle_max: Duration,
    /// A message that has waited this long without being started is refused.
    pub waiting_age_max: Duration,
    /// A client that does not take what is sent to it for this long is given up.
    pub slow_client_age_max: Duration,
    /// Attempts to deliver one part of an answer to a platform.
    pub delivery_attempts_max: u16,
    /// One attempt to deliver may take this long before it counts as failed.
    pub delivery_age_max: Duration,
    /// First pause between attempts (upstream and delivery); doubles up to [`Self::backoff_max`], with jitter.
    pub backoff_min: Duration,
    /// The store may take this long to say what it knows of a session, or of an event id.
    pub load_age_max: Duration,
    /// Longest pause between attempts; a platform's own Retry-After is honoured up to this.
    pub backoff_max: Duration,
}

impl Limits {
    /// Small enough that every limit is reached in a test.
    pub const TEST: Self = Self {
        sessions_max: 64,
        turns_max: 96,
        session_waiting_max: 4,
        text_bytes_max: 2_048,
        request_bytes_max: 8_192,
        reply_bytes_max: 8_192,
        name_bytes_max: 128,
        history_messages_max: 6,
        history_bytes_max: 1_024,
        context_entries_max: 4,
        context_bytes_max: 256,
        dedup_ids_max: 512,
        dedup_filter_bytes_max: 4_096,
        lookups_max: 16,
        dedup_age_max: Duration::from_secs(600),
        kept_answers_max: 64,
        kept_answer_bytes_max: 16_384,
        session_idle_max: Duration::from_secs(120),
        waiting_age_max: Duration::from_secs(20),
        slow_client_age_max: Duration::from_secs(5),
        delivery_attempts_max: 3,
        delivery_age_max: Duration::from_secs(10),
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(30),
        load_age_max: Duration::from_secs(2),
    };
}
