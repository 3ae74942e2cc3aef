//! An agent behind an address: each turn is a signed POST, the answer one JSON object or a stream of events.
use super::{turn_name, write_turn};
use crate::call::{Started, hand};
use crate::clock::unix_seconds;
use crate::config::{limits::Limits, outside};
use crate::gateway::Upstream;
use crate::thread::Thread;
use crate::upstream::{self, Fault, Origin};
use crate::usage::Meter;
use crate::voice::Voice;
use crate::{reading, tls};
use clawgate_adapters::signature::Secret;
use clawgate_core::event::{End, Event, Failure, Piece, Retry};
use clawgate_providers::agent::{AgentDecoder, read_failure, write_event};
use clawgate_providers::{Said, failure};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// An agent's endpoint, ready to be called.
#[derive(Debug)]
pub(crate) struct AgentEndpoint {
    pub(crate) uri: ::http::Uri,
    pub(crate) secret: Secret,
    /// As it is configured: it must not show in what the endpoint says.
    pub(crate) hidden: String,
    /// What TLS trusts there.
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// To connect, the TLS handshake included.
    pub(crate) connect_age_max: Duration,
}

impl AgentEndpoint {
    /// The endpoint of this agent.
    ///
    /// # Errors
    /// What cannot be used, in words for the operator.
    pub(crate) fn compile(
        name: &str,
        endpoint: &outside::Endpoint,
        limits: &Limits,
        client_tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Self, String> {
        let tls = match &endpoint.ca_file {
            Some(file) => tls::client_config(Some(file))?,
            None => client_tls.clone(),
        };
        let uri =
            endpoint.url.parse().map_err(|_| format!("{name}: the endpoint's address cannot be used"))?;
        let hidden = endpoint.secret.expose().to_owned();
        let secret =
            Secret::new(&hidden).ok_or_else(|| format!("{name}: the endpoint's secret cannot be used"))?;
        Ok(Self { uri, secret, hidden, tls, connect_age_max: limits.connect_age_max })
    }

    fn request(&self, id: &str, body: &[u8]) -> Result<::http::Request<()>, ::http::Error> {
        let now = unix_seconds();
        ::http::Request::post(self.uri.clone())
            .header("content-type", "application/json")
            .header("accept", "text/event-stream, application/json")
            .header("user-agent", concat!("clawgate/", env!("CARGO_PKG_VERSION")))
            .header("idempotency-key", id)
            .header("webhook-id", id)
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", self.secret.sign(id, now, body))
            .body(())
    }
}

/// Calls it.
pub(crate) async fn call(thread: Rc<Thread>, started: Started) {
    started.count(&thread);
    let Upstream::Agent(target) = &started.gateway.upstreams[usize::from(started.model.0)] else { return };
    thread.touch();
    let Some(name) = turn_name(&thread, &started) else { return };
    let mut body = Vec::new();
    let Some(mut voice) = write_turn(&thread, &started, &name, |turn| write_event(&mut body, turn)) else {
        return;
    };
    started.control.meter(|meter: &mut Meter| meter.heard_by(&voice));
    if started.control.is_cancelled() {
        return;
    }
    let asked = target.request(&name, &body).ok().and_then(|request| {
        let origin = Origin::of(request.uri(), &target.tls, target.connect_age_max)?;
        Some((request, origin))
    });
    let outcome = match &asked {
        Some((request, origin)) => {
            converse(&thread, &started, target, (origin, request, &body), &mut voice).await
        }
        None => Err(Fault::Unreachable("its address cannot be used".to_owned())),
    };
    thread.touch();
    if let Err(fault) = outcome
        && !started.control.is_cancelled()
    {
        thread.count(|c| &mut c.upstream_faults);
        let detail = format!("the agent {}", fault.text());
        let code = reading::code_of(&fault);
        failed(&thread, &started, Failure { code, retry: Retry::Backoff, status: 0, detail: &detail });
    }
}

/// Sends the turn and reads what comes. The shard hears of the end here, unless it is our side that failed.
async fn converse(
    thread: &Rc<Thread>,
    started: &Started,
    target: &AgentEndpoint,
    (origin, request, body): (&Origin, &::http::Request<()>, &[u8]),
    voice: &mut Voice,
) -> Result<(), Fault> {
    let (call, control) = (started.call, &*started.control);
    // The shard's own deadlines cancel; a stream may be as long as they let it.
    let (mut wire, mut answer) =
        upstream::exchange(thread, origin, control, request, body, u64::MAX, None).await?;
    thread.handle(Event::Piece { call, piece: Piece::Alive });
    if !(200..300).contains(&answer.status) {
        let body = reading::error_body(thread, &mut wire, &mut answer, control).await;
        let Some(headers) = answer.headers() else { return Err(Fault::Closed) };
        let mut detail = String::new();
        let failure = read_failure(answer.status, &headers, &body, &target.hidden, &mut detail);
        thread.touch();
        failed(thread, started, failure);
        return Ok(());
    }
    if let Some(failure) = answer.headers().and_then(|headers| failure::unreadable(&headers)) {
        failed(thread, started, failure);
        return Ok(());
    }
    control.meter(Meter::answering);
    let decoder = AgentDecoder::new(reading::limits(&thread.gateway().limits));
    let hear = |said: Said<'_>| hand(thread, call, control, voice, said);
    reading::read(thread, control, decoder, hear, (&mut wire, &mut answer)).await?;
    if answer.keep_alive && answer.body.is_done() && !control.is_cancelled() {
        thread.upstreams.keep(wire, thread.now());
    }
    Ok(())
}

/// The call failed.
fn failed(thread: &Rc<Thread>, started: &Started, failure: Failure<'_>) {
    if started.control.is_cancelled() {
        return;
    }
    thread.upstreams.end(started.call);
    thread.handle(Event::Ended { call: started.call, end: End::Failed(failure) });
}
