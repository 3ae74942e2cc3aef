//! Every bound, in users' terms: section `limits`.
use core::time::Duration;

/// Every bound: those of the core, and those of the shell around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The bounds of the core.
    pub core: clawgate_core::limits::Limits,
    /// Client connections, process.
    pub connections_max: u32,
    /// Client connections of one address, process; 0 for no bound but `connections_max`.
    pub connections_per_address_max: u32,
    /// Client addresses remembered for `connections_per_address_max` and the rate of addresses.
    pub addresses_max: u32,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Header lines of a request; at most 64.
    pub headers_max: usize,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// The same, before the client has authenticated (and of a webhook before its signature is checked).
    pub body_bytes_unauthenticated_max: usize,
    /// Bytes of a WebSocket message, all its fragments together.
    pub frame_bytes_max: usize,
    /// The same, before the client has authenticated.
    pub frame_bytes_unauthenticated_max: usize,
    /// Levels of nesting in JSON that we read.
    pub json_depth_max: usize,
    /// Keys in one JSON text that we read.
    pub json_keys_max: usize,
    /// Bytes owed to one client; beyond, it is given up.
    pub outbox_bytes_max: usize,
    /// Bytes owed to one client from which on its model is paused.
    pub outbox_high_bytes: usize,
    /// For a request's head, and for a TLS handshake.
    pub head_age_max: Duration,
    /// For a request's body.
    pub body_age_max: Duration,
    /// Until a WebSocket has authenticated.
    pub auth_age_max: Duration,
    /// A kept-alive connection without a request.
    pub idle_age_max: Duration,
    /// Between two heartbeats: WebSocket pings, SSE comments.
    pub heartbeat: Duration,
    /// Heartbeats in a row that a WebSocket may leave unanswered.
    pub missed_heartbeats_max: u16,
    /// Connections that subscribe to events, process.
    pub subscribers_max: u32,
    /// Pipelined requests of one connection that wait for their turn.
    pub pipeline_max: usize,
    /// Connections to one upstream (a model, a platform), process.
    pub upstream_connections_max: u32,
    /// An unused connection to an upstream is kept this long.
    pub upstream_idle_age_max: Duration,
    /// To connect to an upstream, its TLS handshake included.
    pub connect_age_max: Duration,
    /// Bytes of an upstream's answer that is not streamed, and of its errors.
    pub upstream_body_bytes_max: usize,
    /// Bytes of one event of an upstream's stream.
    pub upstream_event_bytes_max: usize,
}
