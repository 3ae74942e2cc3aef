//! What an adapter is: the one trait that every platform implements, so that a platform is named in one match and nowhere
//! else.
//!
//! What only some platforms have gets a default here, and is not mentioned by the others.
use crate::{Ack, Bad, Destination, Json, Request, Traits};
use bytes::Bytes;
use clawgate_core::codes::Code;
use clawgate_core::event::{Delivery, Inbound};
use clawgate_core::id::ChannelId;
use core::fmt;

/// A configured account on a platform: a codec without state.
pub trait Adapter: fmt::Debug + Send + Sync {
    /// What the core and the shell must know about it.
    fn traits(&self) -> Traits;

    /// What a `GET` to the channel's address is answered, as text: some platforms try an address so before they post to it.
    ///
    /// # Errors
    /// `BAD_SIGNATURE`; `METHOD_NOT_ALLOWED` where the platform does not do that.
    fn greet(&self, _request: &Request<'_>) -> Result<Bytes, Bad> {
        Err(Bad::new(Code::MethodNotAllowed, "this channel's platform posts, and asks nothing before"))
    }

    /// Is this request from the platform? Reads the raw bytes, before anything is parsed, in constant time.
    ///
    /// # Errors
    /// `BAD_SIGNATURE`.
    fn verify(&self, request: &Request<'_>, body: &[u8]) -> Result<(), Bad>;

    /// Reads a verified request: the sink takes zero or more messages, then the [`Ack`] says what to answer.
    ///
    /// # Errors
    /// `BAD_JSON`, `TOO_LARGE`, `MISSING_FIELD`. The sink was not called then.
    fn decode(
        &self,
        request: &Request<'_>,
        body: &mut [u8],
        json: &mut Json,
        channel: ChannelId,
        sink: &mut dyn FnMut(Inbound<'_>),
    ) -> Result<Ack, Bad>;

    /// Writes the request that posts one part of an answer: appends its body to the empty `body`. The URI is absolute; the
    /// shell adds `Host` and `Content-Length` and sends it.
    ///
    /// # Errors
    /// `DELIVERY_FAILED` for a destination that the platform cannot have.
    fn encode(
        &self,
        to: &Destination<'_>,
        text: &str,
        part: u16,
        unix_seconds: u64,
        body: &mut Vec<u8>,
    ) -> Result<http::Request<()>, Bad>;

    /// Reads the platform's answer to what [`Self::encode`] wrote. `detail` is empty.
    fn delivered<'a>(
        &self,
        status: u16,
        retry_after: Option<&str>,
        body: &mut [u8],
        json: &mut Json,
        detail: &'a mut String,
    ) -> Delivery<'a>;

    /// The status and body that make the platform come back later. The shell adds `Retry-After`.
    fn busy(&self, _retry_after_secs: u32) -> (u16, Bytes) {
        (503, Bytes::new())
    }
}
