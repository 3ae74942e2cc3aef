//! Calls to models over the network: an endpoint chosen, the request written, the answer read as it comes, pieces handed to
//! the shard; and, as long as nothing of an answer was said, the model's next endpoint after one that failed.
//!
//! Owns the order of the attempts. Which endpoint is next is [`clawgate_core::outlets`]'s to say; whether the model is
//! called again, or another one, is the shard's.
use crate::call::{Started, hand};
use crate::config::remote::Place as Settings;
use crate::gateway::Upstream;
use crate::reading;
use crate::thread::Thread;
use crate::tools;
use crate::upstream::{self, Control, Fault, Origin};
use crate::usage::Meter;
use crate::voice::{self, Voice};
use clawgate_core::codes::Code;
use clawgate_core::event::{self, Event, Failure, Piece, Retry};
use clawgate_core::id::CallId;
use clawgate_core::outlets::{Outlets, Tried as Called, Verdict};
use clawgate_core::time::Time;
use clawgate_providers::rates::Rates;
use clawgate_providers::request::{Request, Unsupported};
use clawgate_providers::{End, Endpoint, Said, Turn, failure};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A model that is called over the network.
#[derive(Debug)]
pub(crate) struct Remote {
    /// The provider's name in the configuration.
    pub(crate) provider: String,
    /// Where it is reached, by which key; as many as there are outlets, in the same order. Never empty.
    pub(crate) places: Vec<Place>,
    pub(crate) outlets: Outlets,
    /// What TLS trusts there.
    pub(crate) tls: Arc<rustls::ClientConfig>,
    /// To connect, the TLS handshake included.
    pub(crate) connect_age_max: Duration,
    /// To the head of the response, of each endpoint after the first: of that one, and of all together, the shard keeps the
    /// time.
    pub(crate) header_age_max: Duration,
}

/// One endpoint of a model.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) settings: Settings,
    pub(crate) endpoint: Endpoint,
}

impl Remote {
    /// What it is and can do, for people.
    pub(crate) fn describe(&self, now: Time, shown: &mut serde_json::Value) {
        let endpoint = &self.places[0].endpoint;
        let can = endpoint.kind().abilities();
        shown["provider"] = self.provider.as_str().into();
        shown["format"] = endpoint.kind().name().into();
        shown["can"] = serde_json::json!({
            "stream": can.stream && endpoint.streams(), "tools": can.tools, "vision": can.vision,
            "imageUrls": can.image_urls, "reasoning": can.reasoning,
        });
        let standings = self.places.iter().zip(self.outlets.standings(now));
        let endpoints = standings.map(|(place, standing)| {
            let state = match (standing.calm.is_zero(), standing.failed) {
                (false, _) => "cooling",
                (true, 0) => "ready",
                (true, _) => "trying",
            };
            serde_json::json!({
                "name": place.settings.name, "weight": place.settings.weight, "state": state,
                "coolingMillis": u64::try_from(standing.calm.as_millis()).unwrap_or(u64::MAX),
                "running": standing.running, "calls": standing.calls, "failed": standing.failures,
                "latencyMillis": u64::try_from(standing.latency.as_millis()).unwrap_or(u64::MAX),
            })
        });
        shown["endpoints"] = endpoints.collect();
    }
}

/// A call that runs.
struct Job<'a> {
    thread: &'a Rc<Thread>,
    call: CallId,
    control: &'a Rc<Control>,
    target: &'a Remote,
    /// What the agent's prompts begin with.
    system: &'a str,
    /// What is asked, where it is not the turn's own prompt.
    request: Option<&'a Request<'a>>,
}

/// How an attempt failed, where the shard was not told.
struct Failed {
    code: Code,
    retry: Retry,
    status: u16,
    detail: String,
    /// No other endpoint of the model would do better, or may.
    is_final: bool,
}

/// What follows an attempt.
enum Next {
    /// Nothing: it was given up.
    Over,
    /// Nothing: it was heard to its end, good or bad.
    Heard,
    /// Another endpoint, or the shard's decision.
    Failed(Failed),
}

/// What came of one request to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    /// The call is over, and its shard knows.
    Over,
    /// The model was heard to its end.
    Heard,
}

/// Calls a model over the network.
pub(crate) async fn remote(thread: Rc<Thread>, started: Started) {
    started.count(&thread);
    thread.touch();
    if let Some(exchange) = tools::turn::begin(&thread, &started) {
        return tools::turn::run(thread, started, exchange).await;
    }
    let mut voice = Voice::Words;
    if let Tried::Heard = ask(&thread, &started, None, &mut voice).await
        && !started.control.is_cancelled()
    {
        thread.upstreams.end(started.call);
    }
}

/// One request of a turn whose model may call tools.
pub(crate) async fn attempt(
    thread: &Rc<Thread>,
    started: &Started,
    request: &Request<'_>,
    voice: &mut Voice,
) -> Tried {
    ask(thread, started, Some(request), voice).await
}

/// Asks one endpoint after the other, until one was heard or none is left.
async fn ask(
    thread: &Rc<Thread>,
    started: &Started,
    request: Option<&Request<'_>>,
    voice: &mut Voice,
) -> Tried {
    let Started { gateway, call, agent, model, control } = started;
    let Upstream::Remote(target) = &gateway.upstreams[usize::from(model.0)] else { return Tried::Over };
    let system = gateway.systems.get(usize::from(agent.0)).map_or("", String::as_str);
    let job = Job { thread, call: *call, control, target, system, request };
    let mut called = Called::default();
    let mut failed = asked_for_calm(&target.outlets, thread.now());
    while failed.as_ref().is_none_or(|failed: &Failed| !failed.is_final) {
        let Some(at) = target.outlets.choose(thread.now(), called, thread.random()) else { break };
        let first = called.is_empty();
        if !first {
            thread.count(|c| &mut c.endpoint_retries);
        }
        called.add(at);
        match call_one(&job, at, first, voice).await {
            Next::Over => return Tried::Over,
            Next::Heard => return Tried::Heard,
            Next::Failed(other) => failed = Some(milder(failed, other)),
        }
    }
    let Some(Failed { code, mut retry, status, detail, .. }) = failed else { return Tried::Over };
    if let Retry::After(wait) = &mut retry {
        // Before that nobody would be called.
        *wait = target.outlets.asked(thread.now()).max(*wait);
    }
    thread.upstreams.end(*call);
    let failure = Failure { code, retry: voice.retry(retry), status, detail: &detail };
    thread.handle(Event::Ended { call: *call, end: event::End::Failed(failure) });
    Tried::Over
}

/// Every one of several endpoints asked to be left alone: that is heeded by all shards, without another request. Of a model
/// with one alone the shards know themselves, and ask it if there is no other.
fn asked_for_calm(outlets: &Outlets, now: Time) -> Option<Failed> {
    let wait = if 1 < outlets.len() { outlets.asked(now) } else { Duration::ZERO };
    let detail = "the model's provider asked to be left alone until then".to_owned();
    let (code, retry) = (Code::UpstreamRateLimited, Retry::After(wait));
    (!wait.is_zero()).then_some(Failed { code, retry, status: 429, detail, is_final: true })
}

/// Of two failures of one call the one that leaves more hope: it is what the shard hears.
fn milder(before: Option<Failed>, other: Failed) -> Failed {
    let hope = |failed: &Failed| match failed.retry {
        _ if failed.is_final => (4, Duration::ZERO),
        Retry::After(wait) => (3, Duration::MAX.saturating_sub(wait)),
        Retry::AtOnce | Retry::Backoff => (2, Duration::ZERO),
        Retry::Elsewhere => (1, Duration::ZERO),
        Retry::Never => (0, Duration::ZERO),
    };
    match before {
        Some(before) if hope(&other) < hope(&before) => before,
        Some(_) | None => other,
    }
}

/// Calls one endpoint.
async fn call_one(job: &Job<'_>, at: usize, first: bool, voice: &mut Voice) -> Next {
    let Job { thread, control, target, .. } = *job;
    let place = &target.places[at];
    let mut body = Vec::new();
    let request = match write_request(job, &place.endpoint, voice, &mut body) {
        Some(Ok(written)) => written,
        // Another model of the agent's may speak a format that can say it.
        Some(Err(why)) => return Next::Failed(Failed::finally(Code::BadRequest, Retry::Elsewhere, why)),
        None => return Next::Over,
    };
    control.meter(|meter| meter.heard_by(voice));
    if control.is_cancelled() {
        return Next::Over;
    }
    let Some(origin) = Origin::of(request.uri(), &target.tls, target.connect_age_max) else {
        let fault = Fault::Unreachable("its address has no host".to_owned());
        return Next::Failed(Failed::of_fault(&fault));
    };
    target.outlets.begin(at);
    let began = thread.now();
    let mut ear = Ear { voice, spoke: None, failed: None, told: false };
    let deadline = (!first).then(|| began + target.header_age_max);
    let outcome = converse(job, at, &mut ear, (&origin, deadline), (&request, &body)).await;
    thread.touch();
    let failed = match outcome {
        Ok(()) => ear.failed,
        Err(fault) => {
            thread.count(|c| &mut c.upstream_faults);
            Some(Failed::of_fault(&fault))
        }
    };
    let now = thread.now();
    let waited = ear.spoke.unwrap_or(now).since(began);
    let verdict = match &failed {
        _ if control.is_cancelled() && control.is_overdue() => Verdict::Failed,
        _ if control.is_cancelled() && ear.spoke.is_none() => Verdict::Neutral,
        Some(failed) if !control.is_cancelled() => failed.verdict(),
        Some(_) | None => Verdict::Good,
    };
    target.outlets.end(at, now, waited, verdict, thread.random());
    match failed {
        _ if control.is_cancelled() => Next::Over,
        _ if ear.told => Next::Heard,
        Some(failed) => Next::Failed(Failed { is_final: failed.is_final || ear.spoke.is_some(), ..failed }),
        None => Next::Heard,
    }
}

/// Writes what is asked, and says who hears the answer if it is the turn's own prompt; `None` if the turn was over before
/// this task ran.
fn write_request(
    job: &Job<'_>,
    endpoint: &Endpoint,
    voice: &mut Voice,
    body: &mut Vec<u8>,
) -> Option<Result<http::Request<()>, String>> {
    let (thread, system) = (job.thread, job.system);
    let unspeakable =
        |unsupported: Unsupported| format!("the model's format has no word for it: {unsupported}");
    if let Some(request) = job.request {
        return Some(endpoint.encode_request(request, body).map_err(unspeakable));
    }
    let shard = thread.shard.borrow();
    let prompt = shard.prompt(job.call.turn)?;
    if let Some(kind) = voice::door_of(prompt.content) {
        let bytes_max = thread.gateway().limits.core.request_bytes_max as usize;
        return Some(voice::request_of(&prompt, kind, system).and_then(|request| {
            let head = endpoint.encode_request(&request, body).map_err(unspeakable)?;
            *voice = Voice::of_request(&request, thread.random(), bytes_max);
            Ok(head)
        }));
    }
    let (mut context, mut history) = (prompt.variables, prompt.history);
    let turn = Turn {
        system,
        context: &mut context,
        history: &mut history,
        text: prompt.text,
        user: prompt.address.peer,
    };
    Some(Ok(endpoint.encode(turn, body)))
}

/// Who hears an attempt. Its failure is kept back as long as nothing was said: another endpoint may do better.
struct Ear<'v> {
    voice: &'v mut Voice,
    /// When the first of an answer was said.
    spoke: Option<Time>,
    failed: Option<Failed>,
    /// The shard knows that the call is over.
    told: bool,
}

impl Ear<'_> {
    /// Passes on what was said. False once nothing more is wanted of the call.
    fn hear(&mut self, job: &Job<'_>, said: Said<'_>) -> bool {
        match &said {
            Said::Ended(End::Failed(failure)) => {
                self.failed = Some(Failed::of(failure));
                if self.spoke.is_none() {
                    return false;
                }
            }
            Said::Piece(Piece::Text(_) | Piece::Reasoning(_)) | Said::Call(_) | Said::Thought(_) => {
                self.spoke.get_or_insert_with(|| job.thread.now());
            }
            Said::Piece(Piece::Usage(_) | Piece::Alive) | Said::Usage(_) | Said::Ended(End::Finished(_)) => {}
        }
        let goes_on = hand(job.thread, job.call, job.control, self.voice, said);
        self.told |= !goes_on;
        goes_on
    }
}

async fn converse(
    job: &Job<'_>,
    at: usize,
    ear: &mut Ear<'_>,
    (origin, deadline): (&Origin, Option<Time>),
    (request, body): (&http::Request<()>, &[u8]),
) -> Result<(), Fault> {
    let Job { thread, call, control, target, .. } = *job;
    // The shard's own deadlines cancel; a stream may be as long as they let it.
    let (mut wire, mut answer) =
        upstream::exchange(thread, origin, control, request, body, u64::MAX, deadline).await?;
    thread.handle(Event::Piece { call, piece: Piece::Alive });
    let endpoint = &target.places[at].endpoint;
    if !(200..300).contains(&answer.status) {
        let body = reading::error_body(thread, &mut wire, &mut answer, control).await;
        let Some(headers) = answer.headers() else { return Err(Fault::Closed) };
        let mut detail = String::new();
        ear.failed = Some(Failed::of(&endpoint.failure(answer.status, &headers, &body, &mut detail)));
        return Ok(());
    }
    if let Some(headers) = answer.headers() {
        if let Some(failure) = failure::unreadable(&headers) {
            ear.failed = Some(Failed::of(&failure));
            return Ok(());
        }
        if let Some(wait) = Rates::read(&headers).used_up() {
            target.outlets.calm(at, thread.now(), wait, thread.random());
        }
    }
    control.meter(Meter::answering);
    // No two answers of a conversation give their calls the same ids.
    let decoder = endpoint.decoder(reading::limits(&thread.gateway().limits)).with_seed(thread.random());
    reading::read(thread, control, decoder, |said| ear.hear(job, said), (&mut wire, &mut answer)).await?;
    if answer.keep_alive && answer.body.is_done() && !control.is_cancelled() {
        thread.upstreams.keep(wire, thread.now());
    }
    Ok(())
}

impl Failed {
    fn of(failure: &Failure<'_>) -> Self {
        let Failure { code, retry, status, detail } = *failure;
        Self { code, retry, status, detail: detail.to_owned(), is_final: retry == Retry::Never }
    }

    fn finally(code: Code, retry: Retry, detail: String) -> Self {
        Self { code, retry, status: 0, detail, is_final: true }
    }

    fn of_fault(fault: &Fault) -> Self {
        let detail = format!("the model {}", fault.text());
        Self { code: reading::code_of(fault), retry: Retry::Backoff, status: 0, detail, is_final: false }
    }

    /// What it says about the endpoint.
    const fn verdict(&self) -> Verdict {
        match (self.code, self.retry) {
            // Our own bounds.
            (Code::UpstreamUnavailable, _) | (_, Retry::Never) => Verdict::Neutral,
            (_, Retry::After(wait)) => Verdict::Calm(wait),
            (_, Retry::AtOnce | Retry::Backoff) => Verdict::Failed,
            (_, Retry::Elsewhere) => Verdict::Denied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(retry: Retry) -> Failed {
        Failed { code: Code::UpstreamFailed, retry, status: 0, detail: String::new(), is_final: false }
    }

    #[test]
    fn the_failure_that_leaves_more_hope_is_told() {
        let seconds = |seconds| Retry::After(Duration::from_secs(seconds));
        for (one, other, told) in [
            (Retry::Elsewhere, Retry::Backoff, Retry::Backoff),
            (Retry::Backoff, Retry::Elsewhere, Retry::Backoff),
            (seconds(9), Retry::Backoff, seconds(9)),
            (seconds(9), seconds(3), seconds(3)),
            (seconds(3), seconds(9), seconds(3)),
        ] {
            assert_eq!(milder(Some(failed(one)), failed(other)).retry, told, "{one:?} {other:?}");
        }
        let last = Failed { is_final: true, ..failed(Retry::Never) };
        assert_eq!(milder(Some(failed(seconds(3))), last).retry, Retry::Never, "it ends the call");
    }

    #[test]
    fn what_a_failure_says_about_its_endpoint() {
        let wait = Duration::from_secs(3);
        assert_eq!(failed(Retry::After(wait)).verdict(), Verdict::Calm(wait));
        assert_eq!(failed(Retry::Backoff).verdict(), Verdict::Failed);
        assert_eq!(failed(Retry::Elsewhere).verdict(), Verdict::Denied);
        assert_eq!(failed(Retry::Never).verdict(), Verdict::Neutral);
        assert_eq!(Failed::of_fault(&Fault::Full).verdict(), Verdict::Neutral);
        assert_eq!(Failed::of_fault(&Fault::Closed).verdict(), Verdict::Failed);
    }
}
