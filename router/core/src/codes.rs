//! Every public error code, once: its name on the wire, its HTTP status, its WebSocket close code, what to do.
//!
//! A code never changes its meaning or its number. Ranges: 1xxx the request (the sender's fault), 2xxx identity and
//! policy, 3xxx full (a limit of ours: try again later), 4xxx the upstream failed, 5xxx the gateway itself.
//! Close codes below 4500 say "reconnect", those from 4500 on say "do not".

macro_rules! codes {
    ($($variant:ident $number:literal $name:literal $status:literal $close:literal $advice:literal)*) => {
        /// A public error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Code {
            $(#[doc = $advice] $variant = $number,)*
        }

        impl Code {
            /// All codes, by number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable name that clients see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status that it is answered with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The WebSocket close code, where the connection ends with it; 0 where it goes on.
            #[must_use]
            pub const fn close(self) -> u16 {
                match self { $(Self::$variant => $close,)* }
            }

            /// What the reader of the error can do about it.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

codes! {
    BadRequest          1000 "BAD_REQUEST"          400 0    "The request could not be read; its message says where."
    BadJson             1001 "BAD_JSON"             400 0    "The body is not JSON, or deeper or larger than the limits allow."
    MissingField        1002 "MISSING_FIELD"        400 0    "A required field is absent or of another type; its message names it."
    UnknownType         1003 "UNKNOWN_TYPE"         400 0    "This `type` is not known; the message lists those that are."
    InvalidSession      1004 "INVALID_SESSION"      400 0    "A session id is 1 to 128 bytes of printable ASCII or UTF-8 without control characters."
    NotFound            1005 "NOT_FOUND"            404 0    "There is no such path, session, agent or channel."
    UnknownVersion      1006 "UNKNOWN_VERSION"      404 0    "This API version does not exist; the message lists those that do."
    MethodNotAllowed    1007 "METHOD_NOT_ALLOWED"   405 0    "The path exists for another method; see the Allow header."
    TooLarge            1008 "TOO_LARGE"            413 4509 "The message or body is larger than the limit; the message names the limit."
    BadMediaType        1009 "BAD_MEDIA_TYPE"       415 0    "Send application/json."
    BadFrame            1010 "BAD_FRAME"            400 4500 "The peer broke the protocol; the connection is closed."
    TextEmpty           1011 "TEXT_EMPTY"           400 0    "The message has no text."
    Duplicate           1012 "DUPLICATE"            409 0    "A message with this id was admitted before."
    ConfigRefused       1013 "CONFIG_REFUSED"       422 0    "The configuration is not right; the last good one stays in force. The message says what is wrong, and where."
    Unauthenticated     2000 "UNAUTHENTICATED"      401 4501 "Send a valid key: `Authorization: Bearer KEY`, or the `auth` message first."
    AuthTimeout         2001 "AUTH_TIMEOUT"         401 4401 "The connection did not authenticate in time."
    Forbidden           2002 "FORBIDDEN"            403 0    "This key does not have the scope that the call needs."
    BadOrigin           2003 "BAD_ORIGIN"           403 4503 "The browser's origin or host is not allowed; add it to `server.origins` or `server.hosts`."
    BadSignature        2004 "BAD_SIGNATURE"        401 0    "The webhook's signature, secret or time does not match."
    PolicyDenied        2005 "POLICY_DENIED"        403 0    "The channel's policy does not let this sender in."
    RateLimited         3000 "RATE_LIMITED"         429 0    "Too many requests for this key or address; wait for Retry-After."
    SessionFull         3001 "SESSION_FULL"         429 0    "Too many messages of this session are waiting; wait for answers."
    AgentBusy           3002 "AGENT_BUSY"           503 0    "Too many messages wait for this agent; wait for Retry-After."
    Busy                3003 "BUSY"                 503 0    "The gateway is at a limit; wait for Retry-After."
    TooManyConnections  3004 "TOO_MANY_CONNECTIONS" 503 4408 "The gateway or this address has too many connections."
    SlowConsumer        3005 "SLOW_CONSUMER"        503 4409 "The client did not read what was sent to it in time."
    WaitedTooLong       3006 "WAITED_TOO_LONG"      503 0    "The message waited longer than the limit without being started."
    Draining            3007 "DRAINING"             503 4410 "The gateway is restarting; reconnect."
    HeadTimeout         3008 "HEAD_TIMEOUT"         408 4411 "The request or its next part did not arrive in time."
    ReplyTooLong        3009 "REPLY_TOO_LONG"       502 0    "The answer grew beyond the limit and was cut."
    JournalFull         3010 "JOURNAL_FULL"         503 0    "The journal has reached its bound on disk; wait for Retry-After. Operators: `journal.diskBytesMax`, or a store that does not keep up."
    BudgetSpent         3011 "BUDGET_SPENT"         429 0    "This key has used what it may in a day; wait for Retry-After."
    UpstreamFailed      4000 "UPSTREAM_FAILED"      502 0    "The model refused or failed; its own words are in the message."
    UpstreamTimeout     4001 "UPSTREAM_TIMEOUT"     504 0    "The model did not answer, or fell silent, within its limits."
    UpstreamTruncated   4002 "UPSTREAM_TRUNCATED"   502 0    "The model's answer broke off; what came is not complete."
    UpstreamMalformed   4003 "UPSTREAM_MALFORMED"   502 0    "The model sent what is not its protocol."
    UpstreamUnavailable 4004 "UPSTREAM_UNAVAILABLE" 503 0    "The model's breaker is open; wait for Retry-After."
    UpstreamRateLimited 4005 "UPSTREAM_RATE_LIMITED" 429 0   "The model's provider limits the rate; wait for Retry-After."
    DeliveryFailed      4006 "DELIVERY_FAILED"      502 0    "The platform did not take the answer."
    Cancelled           4007 "CANCELLED"            499 0    "The turn was cancelled by its client or an operator."
    ChannelGone         4008 "CHANNEL_GONE"         409 0    "The message's channel is no longer configured, or its account no longer linked. Operators: configure it again, or drop the dead letter."
    ToolLimit           4009 "TOOL_LIMIT"           502 0    "The model called more tools, or exchanged more with them, than `limits.tools` allows."
    ToolUnknown         4010 "TOOL_UNKNOWN"         404 0    "The model called a tool that it was not offered."
    ToolArguments       4011 "TOOL_ARGUMENTS"       400 0    "The arguments of a tool call do not fit the tool's schema."
    ToolFailed          4012 "TOOL_FAILED"          502 0    "A tool failed; its own words are in the message."
    ToolTimeout         4013 "TOOL_TIMEOUT"         504 0    "A tool did not answer within its limit."
    ToolUnavailable     4014 "TOOL_UNAVAILABLE"     503 0    "A tool cannot be called now: its server is down, or too much waits for it or for the audit log."
    ToolAddress         4015 "TOOL_ADDRESS"         403 0    "A tool's address is not to be reached; operators: `allowAddresses` of the tool."
    Internal            5000 "INTERNAL"             500 1011 "A fault of the gateway; please report it."
    JournalFailed       5001 "JOURNAL_FAILED"       503 0    "The journal cannot be written, so that nothing new is acknowledged; operators: see the log and the disk."
    StoreUnavailable    5002 "STORE_UNAVAILABLE"    503 0    "The store did not say in time what it knows of the session, or whether the message was seen before; try again."
}
