//! Every bound, in users' terms: section `limits`.
use super::mcp;
use super::path::Path;
use super::report::Report;
use super::seconds::Seconds;
use super::tools;
use core::time::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Every bound: those of the core, and those of the shell around it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Bytes of whole requests under way, and of the answers that they may have at once, process.
    pub(crate) requests_bytes_max: u64,
    /// The bounds of the core.
    pub(crate) core: clawgate_core::limits::Limits,
    /// Bytes of rows that the store did not take, process.
    pub(crate) unsaved_bytes_max: usize,
    /// Client connections, process.
    pub(crate) connections_max: u32,
    /// Client connections of one address, process; 0 for no bound but `connections_max`.
    pub(crate) connections_per_address_max: u32,
    /// Descriptors that client connections leave to others, process.
    pub(crate) descriptors_reserved: u32,
    /// Client addresses remembered for `connections_per_address_max` and the rate of addresses.
    pub(crate) addresses_max: u32,
    /// Bytes of a request's head.
    pub(crate) head_bytes_max: usize,
    /// Header lines of a request; at most 64.
    pub(crate) headers_max: usize,
    /// Bytes of a request's body.
    pub(crate) body_bytes_max: usize,
    /// The same, before the client has authenticated (and of a webhook before its signature is checked).
    pub(crate) body_bytes_unauthenticated_max: usize,
    /// Bytes of a WebSocket message, all its fragments together.
    pub(crate) frame_bytes_max: usize,
    /// The same, before the client has authenticated.
    pub(crate) frame_bytes_unauthenticated_max: usize,
    /// Levels of nesting in JSON that we read.
    pub(crate) json_depth_max: usize,
    /// Keys in one JSON text that we read.
    pub(crate) json_keys_max: usize,
    /// Bytes owed to one client; beyond, it is given up.
    pub(crate) outbox_bytes_max: usize,
    /// Bytes owed to one client from which on its model is paused.
    pub(crate) outbox_high_bytes: usize,
    /// For a request's head, and for a TLS handshake.
    pub(crate) head_age_max: Duration,
    /// For a request's body.
    pub(crate) body_age_max: Duration,
    /// Until a WebSocket has authenticated.
    pub(crate) auth_age_max: Duration,
    /// A kept-alive connection without a request.
    pub(crate) idle_age_max: Duration,
    /// Between two heartbeats: WebSocket pings, SSE comments.
    pub(crate) heartbeat: Duration,
    /// Heartbeats in a row that a WebSocket may leave unanswered.
    pub(crate) missed_heartbeats_max: u16,
    /// Connections that subscribe to events, process.
    pub(crate) subscribers_max: u32,
    /// Calls of one model, and connections to one platform, process.
    pub(crate) upstream_connections_max: u32,
    /// An unused connection to an upstream is kept this long.
    pub(crate) upstream_idle_age_max: Duration,
    /// To connect to an upstream, its TLS handshake included.
    pub(crate) connect_age_max: Duration,
    /// Bytes of an upstream's answer that is not streamed, and of its errors.
    pub(crate) upstream_body_bytes_max: usize,
    /// Bytes of one event of an upstream's stream.
    pub(crate) upstream_event_bytes_max: usize,
    /// Tool calls of one answer.
    pub(crate) tool_calls_max: u32,
    /// Workers of agents that are connected, process.
    pub(crate) workers_max: u32,
    /// Turns that one worker may have at once.
    pub(crate) worker_turns_max: u32,
    /// Rows of the usage accounts, process.
    pub(crate) usage_rows_max: usize,
    /// Days that they are kept.
    pub(crate) usage_days_max: u32,
    /// Of tool calls.
    pub(crate) tools: tools::Limits,
    pub(crate) mcp: mcp::Limits,
}

/// Every bound. All have a default; a file names those that it changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct LimitsSection {
    /// Sessions in memory, all together. When full, the one idle for longest makes room; if none is idle, new ones are
    /// refused.
    #[schemars(range(min = 1, max = 50_000_000))]
    sessions_max: u32,
    /// Messages admitted and not yet answered, all together: waiting, running and being delivered.
    #[schemars(range(min = 1, max = 10_000_000))]
    turns_max: u32,
    /// Messages of one session that wait behind the one that is answered.
    #[schemars(range(min = 1, max = 10_000))]
    session_waiting_max: u16,
    /// Bytes of one message's text.
    #[schemars(range(min = 1, max = 16_777_216))]
    text_bytes_max: u32,
    /// Bytes of one whole request to a model (`/v1/chat/completions` and the like), and of its answer as the client reads
    /// it; no more than `bodyBytesMax` and `outboxBytesMax`.
    #[schemars(range(min = 1_024, max = 67_108_864))]
    request_bytes_max: u32,
    /// Bytes of all whole requests that are not answered yet, and of the answers that they may have at once.
    #[schemars(range(min = 1_048_576, max = 1_099_511_627_776_u64))]
    requests_bytes_max: u64,
    /// Bytes of one answer's text; a longer one ends with an error.
    #[schemars(range(min = 1_024, max = 67_108_864))]
    reply_bytes_max: u32,
    /// Bytes of an id, a name, a chat or a thread, each.
    #[schemars(range(min = 16, max = 4_096))]
    name_bytes_max: u16,
    /// Messages of its history that a session keeps in memory.
    #[schemars(range(min = 0, max = 10_000))]
    history_messages_max: u16,
    /// Bytes of its history that a session keeps in memory.
    #[schemars(range(min = 0, max = 16_777_216))]
    history_bytes_max: u32,
    /// Context variables of a session.
    #[schemars(range(min = 0, max = 1_000))]
    context_entries_max: u16,
    /// Bytes of a session's context variables, names and values together.
    #[schemars(range(min = 0, max = 1_048_576))]
    context_bytes_max: u32,
    /// Event ids remembered in memory, so that a repeated message is answered once, all together. Older ones are in the
    /// store.
    #[schemars(range(min = 0, max = 100_000_000))]
    dedup_ids_max: u32,
    /// Bytes in which is noted which older ids may be in the store, all together: two for each. The store is asked about
    /// those alone; about each one where there is no more room.
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    dedup_filter_bytes_max: u32,
    /// Messages that wait until the store has said whether their id was seen, all together. Beyond, they are refused with
    /// `BUSY`; one that it says nothing about within `store.loadSeconds`, with `STORE_UNAVAILABLE`.
    #[schemars(range(min = 1, max = 1_000_000))]
    dedup_lookups_max: u32,
    /// How long an event id is remembered. Platforms repeat for up to seven days.
    #[schemars(range(min = 1, max = 2_678_400))]
    dedup_seconds: Seconds,
    /// Answers kept for clients that asked for a receipt, all together: who sends the message again under its id gets the
    /// same answer.
    #[schemars(range(min = 0, max = 10_000_000))]
    kept_answers_max: u32,
    /// Bytes of them, all together.
    #[schemars(range(min = 0, max = 1_073_741_824))]
    kept_answer_bytes_max: u32,
    /// A session without a message for this long is forgotten.
    #[schemars(range(min = 1, max = 31_536_000))]
    session_idle_seconds: Seconds,
    /// A message that has waited this long without being started is refused.
    #[schemars(range(min = 0.1, max = 86_400))]
    waiting_seconds: Seconds,
    /// A client that takes nothing of what is sent to it for this long is given up.
    #[schemars(range(min = 0.1, max = 3_600))]
    slow_client_seconds: Seconds,
    /// Attempts to deliver one part of an answer to a platform. Ten more where it says itself when to come back.
    #[schemars(range(min = 1, max = 100))]
    delivery_attempts_max: u16,
    /// One attempt to deliver may take this long.
    #[schemars(range(min = 0.1, max = 600))]
    delivery_seconds: Seconds,
    /// The first pause between attempts, towards models and platforms; it doubles, with jitter.
    #[schemars(range(min = 1, max = 3_600_000))]
    backoff_min_millis: u32,
    /// The longest pause between attempts. A platform's Retry-After is honoured up to this.
    #[schemars(range(min = 1, max = 3_600_000))]
    backoff_max_millis: u32,
    /// Bytes of rows that wait in memory because the store does not take them, all threads together. Beyond, new messages
    /// that must be kept are refused with `JOURNAL_FULL`, and what is said on connections without receipts is not kept.
    #[schemars(range(min = 1_048_576, max = 17_179_869_184_u64))]
    unsaved_bytes_max: u64,
    /// Client connections, all together.
    #[schemars(range(min = 1, max = 10_000_000))]
    connections_max: u32,
    /// Client connections from one address, all together. 0: no bound but `connectionsMax`.
    #[schemars(range(min = 0, max = 10_000_000))]
    connections_per_address_max: u32,
    /// Descriptors that client connections leave to models, platforms, the journal and the store; of few at most half. A
    /// connection that would take one of them is refused, as beyond `connectionsMax`.
    #[schemars(range(min = 0, max = 1_000_000))]
    descriptors_reserved: u32,
    /// Client addresses remembered for `connectionsPerAddressMax` and `rate.address`.
    #[schemars(range(min = 1_024, max = 10_000_000))]
    addresses_max: u32,
    /// Bytes of a request's head.
    #[schemars(range(min = 1_024, max = 1_048_576))]
    head_bytes_max: u32,
    /// Header lines of a request.
    #[schemars(range(min = 8, max = 64))]
    headers_max: u16,
    /// Bytes of a request's body.
    #[schemars(range(min = 1_024, max = 67_108_864))]
    body_bytes_max: u32,
    /// Bytes of a request's body before it has proved where it comes from, webhooks included.
    #[schemars(range(min = 1_024, max = 67_108_864))]
    body_bytes_unauthenticated_max: u32,
    /// Bytes of a WebSocket message, all its fragments together.
    #[schemars(range(min = 1_024, max = 67_108_864))]
    frame_bytes_max: u32,
    /// The same, before the client has authenticated.
    #[schemars(range(min = 256, max = 67_108_864))]
    frame_bytes_unauthenticated_max: u32,
    /// Levels of nesting in JSON that is read.
    #[schemars(range(min = 4, max = 1_024))]
    json_depth_max: u16,
    /// Keys in one JSON text that is read.
    #[schemars(range(min = 16, max = 1_000_000))]
    json_keys_max: u32,
    /// Bytes that may be owed to one client; beyond, it is given up.
    #[schemars(range(min = 4_096, max = 268_435_456))]
    outbox_bytes_max: u32,
    /// Bytes owed to one client from which on its model is paused.
    #[schemars(range(min = 1_024, max = 268_435_456))]
    outbox_high_bytes: u32,
    /// A request's head must be there within this time, and a TLS handshake done.
    #[schemars(range(min = 0.1, max = 600))]
    head_seconds: Seconds,
    /// A request's body must be there within this time.
    #[schemars(range(min = 0.1, max = 3_600))]
    body_seconds: Seconds,
    /// A WebSocket must have authenticated within this time.
    #[schemars(range(min = 0.1, max = 600))]
    auth_seconds: Seconds,
    /// A connection is kept this long without a request.
    #[schemars(range(min = 0.1, max = 3_600))]
    idle_seconds: Seconds,
    /// Between two heartbeats: WebSocket pings, comments in event streams.
    #[schemars(range(min = 0.1, max = 3_600))]
    heartbeat_seconds: Seconds,
    /// Pings in a row that a WebSocket may leave unanswered.
    #[schemars(range(min = 1, max = 100))]
    missed_heartbeats_max: u16,
    /// Connections that subscribe to events, all together.
    #[schemars(range(min = 0, max = 1_000_000))]
    subscribers_max: u32,
    /// Calls of one model at once, and connections to one platform, all together.
    #[schemars(range(min = 1, max = 100_000))]
    upstream_connections_max: u32,
    /// An unused connection to a model or platform is kept this long.
    #[schemars(range(min = 0, max = 3_600))]
    upstream_idle_seconds: Seconds,
    /// To connect to a model or platform, the TLS handshake included. A model may have its own.
    #[schemars(range(min = 0.1, max = 120))]
    connect_seconds: Seconds,
    /// Bytes of a model's or platform's answer that does not stream, and of its errors.
    #[schemars(range(min = 4_096, max = 268_435_456))]
    upstream_body_bytes_max: u32,
    /// Bytes of one event of a model's stream.
    #[schemars(range(min = 4_096, max = 67_108_864))]
    upstream_event_bytes_max: u32,
    /// Tool calls in one answer of a model; an answer with more ends as malformed.
    #[schemars(range(min = 1, max = 10_000))]
    tool_calls_max: u32,
    /// Workers of agents that are connected, all together.
    #[schemars(range(min = 0, max = 100_000))]
    workers_max: u32,
    /// Turns that one worker may have at once, however many it registers for.
    #[schemars(range(min = 1, max = 1_000_000))]
    worker_turns_max: u32,
    /// Rows of the usage accounts: one for each day, key, agent, model and session. Beyond, sessions are no longer told
    /// apart, those of the oldest day first. A change needs a restart.
    #[schemars(range(min = 100, max = 10_000_000))]
    usage_rows_max: u32,
    /// Days that the usage accounts are kept, today among them. A change needs a restart.
    #[schemars(range(min = 1, max = 3_650))]
    usage_days_max: u32,
    /// The bounds of tool calls.
    tools: tools::LimitsSection,
    /// Servers of tools.
    mcp: mcp::LimitsSection,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            turns_max: 20_000,
            session_waiting_max: 32,
            text_bytes_max: 64 << 10,
            request_bytes_max: 768 << 10,
            requests_bytes_max: 512 << 20,
            reply_bytes_max: 256 << 10,
            name_bytes_max: 256,
            history_messages_max: 40,
            history_bytes_max: 64 << 10,
            context_entries_max: 32,
            context_bytes_max: 8 << 10,
            dedup_ids_max: 200_000,
            dedup_filter_bytes_max: 16 << 20,
            dedup_lookups_max: 1_024,
            dedup_seconds: Seconds::whole(604_800),
            kept_answers_max: 10_000,
            kept_answer_bytes_max: 16 << 20,
            session_idle_seconds: Seconds::whole(86_400),
            waiting_seconds: Seconds::whole(120),
            slow_client_seconds: Seconds::whole(30),
            delivery_attempts_max: 3,
            delivery_seconds: Seconds::whole(20),
            backoff_min_millis: 1_000,
            backoff_max_millis: 30_000,
            unsaved_bytes_max: 32 << 20,
            connections_max: 20_000,
            connections_per_address_max: 1_000,
            descriptors_reserved: 512,
            addresses_max: 65_536,
            head_bytes_max: 16 << 10,
            headers_max: 64,
            body_bytes_max: 1 << 20,
            body_bytes_unauthenticated_max: 256 << 10,
            frame_bytes_max: 1 << 20,
            frame_bytes_unauthenticated_max: 64 << 10,
            json_depth_max: 64,
            json_keys_max: 10_000,
            outbox_bytes_max: 1 << 20,
            outbox_high_bytes: 64 << 10,
            head_seconds: Seconds::whole(10),
            body_seconds: Seconds::whole(30),
            auth_seconds: Seconds::whole(10),
            idle_seconds: Seconds::whole(75),
            heartbeat_seconds: Seconds::whole(30),
            missed_heartbeats_max: 2,
            subscribers_max: 10_000,
            upstream_connections_max: 256,
            upstream_idle_seconds: Seconds::whole(30),
            connect_seconds: Seconds::whole(5),
            upstream_body_bytes_max: 4 << 20,
            upstream_event_bytes_max: 1 << 20,
            tool_calls_max: clawgate_providers::Limits::CALLS_MAX,
            workers_max: 1_000,
            worker_turns_max: 1_000,
            usage_rows_max: 100_000,
            usage_days_max: 35,
            tools: tools::LimitsSection::default(),
            mcp: mcp::LimitsSection::default(),
        }
    }
}

impl LimitsSection {
    /// Checks and resolves.
    pub(super) fn resolve(&self, report: &mut Report<'_>) -> Limits {
        self.check(report);
        Limits {
            core: self.core(),
            unsaved_bytes_max: usize::try_from(self.unsaved_bytes_max).unwrap_or(usize::MAX),
            requests_bytes_max: self.requests_bytes_max,
            connections_max: self.connections_max,
            connections_per_address_max: self.connections_per_address_max,
            descriptors_reserved: self.descriptors_reserved,
            addresses_max: self.addresses_max,
            head_bytes_max: bytes(self.head_bytes_max),
            headers_max: usize::from(self.headers_max),
            body_bytes_max: bytes(self.body_bytes_max),
            body_bytes_unauthenticated_max: bytes(self.body_bytes_unauthenticated_max),
            frame_bytes_max: bytes(self.frame_bytes_max),
            frame_bytes_unauthenticated_max: bytes(self.frame_bytes_unauthenticated_max),
            json_depth_max: usize::from(self.json_depth_max),
            json_keys_max: bytes(self.json_keys_max),
            outbox_bytes_max: bytes(self.outbox_bytes_max),
            outbox_high_bytes: bytes(self.outbox_high_bytes),
            head_age_max: self.head_seconds.duration(),
            body_age_max: self.body_seconds.duration(),
            auth_age_max: self.auth_seconds.duration(),
            idle_age_max: self.idle_seconds.duration(),
            heartbeat: self.heartbeat_seconds.duration(),
            missed_heartbeats_max: self.missed_heartbeats_max,
            subscribers_max: self.subscribers_max,
            upstream_connections_max: self.upstream_connections_max,
            upstream_idle_age_max: self.upstream_idle_seconds.duration(),
            connect_age_max: self.connect_seconds.duration(),
            upstream_body_bytes_max: bytes(self.upstream_body_bytes_max),
            upstream_event_bytes_max: bytes(self.upstream_event_bytes_max),
            tool_calls_max: self.tool_calls_max,
            workers_max: self.workers_max,
            worker_turns_max: self.worker_turns_max,
            usage_rows_max: bytes(self.usage_rows_max),
            usage_days_max: self.usage_days_max,
            tools: self.tools.resolve(),
            mcp: self.mcp.resolve(report),
        }
    }

    fn core(&self) -> clawgate_core::limits::Limits {
        clawgate_core::limits::Limits {
            sessions_max: self.sessions_max,
            turns_max: self.turns_max,
            session_waiting_max: self.session_waiting_max,
            text_bytes_max: self.text_bytes_max,
            // A request that is longer than a body does not come, and an answer that is longer than an outbox does not go.
            request_bytes_max: self.request_bytes_max.min(self.body_bytes_max).min(self.outbox_bytes_max),
            reply_bytes_max: self.reply_bytes_max,
            name_bytes_max: self.name_bytes_max,
            history_messages_max: self.history_messages_max,
            history_bytes_max: self.history_bytes_max,
            context_entries_max: self.context_entries_max,
            context_bytes_max: self.context_bytes_max,
            dedup_ids_max: self.dedup_ids_max,
            dedup_filter_bytes_max: self.dedup_filter_bytes_max,
            lookups_max: self.dedup_lookups_max,
            dedup_age_max: self.dedup_seconds.duration(),
            kept_answers_max: self.kept_answers_max,
            kept_answer_bytes_max: self.kept_answer_bytes_max,
            session_idle_max: self.session_idle_seconds.duration(),
            waiting_age_max: self.waiting_seconds.duration(),
            slow_client_age_max: self.slow_client_seconds.duration(),
            delivery_attempts_max: self.delivery_attempts_max,
            delivery_age_max: self.delivery_seconds.duration(),
            backoff_min: Duration::from_millis(u64::from(self.backoff_min_millis)),
            backoff_max: Duration::from_millis(u64::from(self.backoff_max_millis)),
            // The store's own: see `Config::resolve`.
            load_age_max: Duration::from_secs(5),
        }
    }

    // Bounds that contradict each other: the first of each pair must not be above the second.
    fn check(&self, report: &mut Report<'_>) {
        let pairs = [
            ("outboxHighBytes", self.outbox_high_bytes, "outboxBytesMax", self.outbox_bytes_max),
            ("replyBytesMax", self.reply_bytes_max, "outboxBytesMax", self.outbox_bytes_max),
            ("textBytesMax", self.text_bytes_max, "bodyBytesMax", self.body_bytes_max),
            ("textBytesMax", self.text_bytes_max, "frameBytesMax", self.frame_bytes_max),
            (
                "bodyBytesUnauthenticatedMax",
                self.body_bytes_unauthenticated_max,
                "bodyBytesMax",
                self.body_bytes_max,
            ),
            (
                "frameBytesUnauthenticatedMax",
                self.frame_bytes_unauthenticated_max,
                "frameBytesMax",
                self.frame_bytes_max,
            ),
            ("backoffMinMillis", self.backoff_min_millis, "backoffMaxMillis", self.backoff_max_millis),
        ];
        let at = Path::of("limits");
        for (low, low_value, high, high_value) in pairs {
            if low_value <= high_value {
                continue;
            }
            let (low_at, high_at) = (at.key(low), at.key(high));
            let (shown, other) =
                if report.is_written(&low_at) { (low_at, high_at) } else { (high_at, low_at) };
            let origin = if report.is_written(&other) { "" } else { ", by default" };
            let (shown_value, other_value, relation) = if shown == at.key(low) {
                (low_value, high_value, "above")
            } else {
                (high_value, low_value, "below")
            };
            let name = other.last_key().unwrap_or_default();
            report.error(
                &shown,
                format!("{shown_value} is {relation} `{name}`, which is {other_value}{origin}"),
                format!("`{low}` must not be above `{high}`: change one of them"),
            );
        }
    }
}

fn bytes(count: u32) -> usize {
    // Not even a 32-bit machine loses anything here.
    usize::try_from(count).unwrap_or(usize::MAX)
}
