//! HTTP/1.1 messages: heads in, bodies in, heads and chunks out. RFC 9112 (syntax) and RFC 9110 (fields).
//!
//! Owns the question where a message ends. Whatever two parsers could answer differently is refused, because a proxy
//! that guesses is how requests are smuggled. Never decides what a request means, never buffers a body.

mod body;
mod head;
mod headers;
mod write;

pub use body::{Body, BodyDecoder};
pub(crate) use head::has_token;
pub use head::{HeadLimits, RequestHead, ResponseHead, parse_request, parse_response};
pub use headers::{HEADERS_MAX, Headers};
pub use write::{
    CONTINUE, ChunkStart, begin_chunk, end_chunk, reason, write_chunk, write_last_chunk, write_request_head,
    write_response_head,
};
pub(crate) use write::{write_fields, write_target, write_visible};

/// How a message's body is delimited (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// No body follows, and none is announced.
    None,
    /// This many bytes, by `Content-Length`.
    Exact(u64),
    /// Chunks, by `Transfer-Encoding: chunked`.
    Chunked,
    /// All that comes before the connection closes. Responses only.
    UntilClose,
}

/// Why a peer's bytes are no message that we take. The connection cannot be used after any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A CR that no LF follows.
    BareCr,
    /// A line ended by LF alone.
    BareLf,
    /// A field folded over two lines, or white space before the first field.
    ObsFold,
    /// White space between a field's name and its colon.
    SpaceBeforeColon,
    /// A field name that is no token, or a line without a colon.
    BadName,
    /// NUL or another control byte where a field's value allows none.
    ControlByte,
    /// Both `Transfer-Encoding` and `Content-Length`.
    BothLengths,
    /// A `Content-Length` that is no plain decimal number of 64 bits.
    BadLength,
    /// More than one `Content-Length`, in one field or in two, even where they agree.
    TwoLengths,
    /// `chunked` is last, but a coding that we do not know lies under it.
    UnknownCoding,
    /// `Transfer-Encoding` that is empty, or where `chunked` is absent, repeated or not last.
    BadCoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    CodingInHttp10,
    /// An HTTP/1.1 request without `Host`.
    NoHost,
    /// More than one `Host`.
    TwoHosts,
    /// A `Host` that is no host with an optional port.
    BadHost,
    /// A request target in absolute form that names another authority than `Host`.
    HostMismatch,
    /// The head is longer than [`HeadLimits::head_bytes_max`].
    HeadTooLong,
    /// More fields than [`HeadLimits::headers_max`].
    TooManyHeaders,
    /// The request target is longer than [`HeadLimits::target_bytes_max`].
    TargetTooLong,
    /// A request target in none of the forms that we serve, or with a byte that a target cannot have.
    BadTarget,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// A status outside 100 to 999.
    BadStatus,
    /// Not HTTP.
    Syntax,
    /// `CONNECT`, or a method longer than any in use.
    BadMethod,
    /// A malformed chunk: size, line end, extension or trailer.
    ChunkSyntax,
    /// More chunk extensions and trailers than anybody needs.
    ChunkOverhead,
    /// The body is longer than the caller allows.
    BodyTooLong,
}

impl Refusal {
    /// The status that a server answers with before it closes the connection.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BareCr
            | Self::BareLf
            | Self::ObsFold
            | Self::SpaceBeforeColon
            | Self::BadName
            | Self::ControlByte
            | Self::BothLengths
            | Self::BadLength
            | Self::TwoLengths
            | Self::BadCoding
            | Self::CodingInHttp10
            | Self::NoHost
            | Self::TwoHosts
            | Self::BadHost
            | Self::HostMismatch
            | Self::BadTarget
            | Self::BadStatus
            | Self::Syntax
            | Self::ChunkSyntax => 400,
            Self::BodyTooLong => 413,
            Self::TargetTooLong => 414,
            Self::HeadTooLong | Self::TooManyHeaders | Self::ChunkOverhead => 431,
            // RFC 9112 6.1: "a server that receives a request message with a transfer coding it does not understand
            // SHOULD respond with 501 (Not Implemented)."
            Self::UnknownCoding | Self::BadMethod => 501,
            Self::Version => 505,
        }
    }

    /// A stable name for logs, metrics and answers.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::BareCr => "HTTP_BARE_CR",
            Self::BareLf => "HTTP_BARE_LF",
            Self::ObsFold => "HTTP_OBS_FOLD",
            Self::SpaceBeforeColon => "HTTP_SPACE_BEFORE_COLON",
            Self::BadName => "HTTP_BAD_NAME",
            Self::ControlByte => "HTTP_CONTROL_BYTE",
            Self::BothLengths => "HTTP_BOTH_LENGTHS",
            Self::BadLength => "HTTP_BAD_LENGTH",
            Self::TwoLengths => "HTTP_TWO_LENGTHS",
            Self::UnknownCoding => "HTTP_UNKNOWN_CODING",
            Self::BadCoding => "HTTP_BAD_CODING",
            Self::CodingInHttp10 => "HTTP_CODING_IN_HTTP10",
            Self::NoHost => "HTTP_NO_HOST",
            Self::TwoHosts => "HTTP_TWO_HOSTS",
            Self::BadHost => "HTTP_BAD_HOST",
            Self::HostMismatch => "HTTP_HOST_MISMATCH",
            Self::HeadTooLong => "HTTP_HEAD_TOO_LONG",
            Self::TooManyHeaders => "HTTP_TOO_MANY_HEADERS",
            Self::TargetTooLong => "HTTP_TARGET_TOO_LONG",
            Self::BadTarget => "HTTP_BAD_TARGET",
            Self::Version => "HTTP_VERSION",
            Self::BadStatus => "HTTP_BAD_STATUS",
            Self::Syntax => "HTTP_SYNTAX",
            Self::BadMethod => "HTTP_BAD_METHOD",
            Self::ChunkSyntax => "HTTP_CHUNK_SYNTAX",
            Self::ChunkOverhead => "HTTP_CHUNK_OVERHEAD",
            Self::BodyTooLong => "HTTP_BODY_TOO_LONG",
        }
    }
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.code())
    }
}

impl core::error::Error for Refusal {}

/// RFC 9110 5.6.2: `tchar`, the bytes of methods, field names and coding names.
#[inline]
const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// RFC 9110 5.5: what a field's value may hold; obs-text (0x80 and above) is passed on as it is.
#[inline]
const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7E | 0x80..=0xFF)
}
