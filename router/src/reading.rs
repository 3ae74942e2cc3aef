//! Answers over HTTP as they come, whoever gives them: read, decoded, and handed to whoever hears the call. Bounded by the
//! limits of upstreams; the clocks are the shard's, which cancels.
use crate::call::flow;
use crate::config;
use crate::thread::Thread;
use crate::upstream::{self, Answer, Control, Fault, Wire};
use clawgate_core::codes::Code;
use clawgate_providers::agent::AgentDecoder;
use clawgate_providers::{Decoder, End, Json, Limits, Said};
use std::rc::Rc;
use std::time::Duration;

/// What understands an answer.
pub(crate) trait Reading {
    /// Reads on; how many bytes are done with.
    fn decode(&mut self, buf: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> usize;

    /// Nothing more comes.
    fn finish(&mut self, rest: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>));

    /// Has it said its end?
    fn is_ended(&self) -> bool;
}

/// How long the end of a body may follow the end of its answer. One that does not come costs the connection.
const REST_AGE_MAX: Duration = Duration::from_secs(1);

/// Reads an answer to its end. `hear` says whether anything more is wanted. All pieces of one read leave in one write,
/// because the loop writes once a turn.
pub(crate) async fn read(
    thread: &Rc<Thread>,
    control: &Control,
    mut decoder: impl Reading,
    mut hear: impl FnMut(Said<'_>) -> bool,
    (wire, answer): (&mut Wire, &mut Answer),
) -> Result<(), Fault> {
    let mut json = Json::new();
    let mut text = Vec::new();
    let (mut failed, mut rest) = (false, None);
    loop {
        upstream::take_body(wire, answer, &mut text)?;
        let used = decoder.decode(&mut text, &mut json, &mut |said| {
            let finished = matches!(said, Said::Ended(End::Finished(_)));
            failed |= !hear(said) && !finished;
        });
        text.drain(..used);
        // Nobody hears what follows a failure: whoever speaks must not go on.
        if answer.body.is_done() || control.is_cancelled() || failed {
            break;
        }
        if !decoder.is_ended() {
            flow(thread, control).await;
            if wire.fill(thread, control, None).await? == 0 {
                break;
            }
            continue;
        }
        let deadline = *rest.get_or_insert_with(|| thread.now() + REST_AGE_MAX);
        if !matches!(wire.fill(thread, control, Some(deadline)).await, Ok(1..)) {
            break;
        }
    }
    if !decoder.is_ended() {
        decoder.finish(&mut text, &mut json, &mut |said| {
            hear(said);
        });
    }
    Ok(())
}

/// The bounds of an answer.
pub(crate) const fn limits(limits: &config::limits::Limits) -> Limits {
    Limits {
        event_bytes_max: limits.upstream_event_bytes_max,
        body_bytes_max: limits.upstream_body_bytes_max,
        calls_max: limits.tool_calls_max,
    }
}

/// An error's body, as far as it comes: what it says is welcome, not needed.
pub(crate) async fn error_body(
    thread: &Rc<Thread>,
    wire: &mut Wire,
    answer: &mut Answer,
    control: &Control,
) -> Vec<u8> {
    let gateway = thread.gateway();
    let limits = &gateway.limits;
    let deadline = thread.now() + limits.connect_age_max;
    let mut body = Vec::new();
    while body.len() < limits.upstream_body_bytes_max {
        let taken = upstream::take_body(wire, answer, &mut body);
        if taken.is_err() || answer.body.is_done() {
            break;
        }
        if !matches!(wire.fill(thread, control, Some(deadline)).await, Ok(1..)) {
            break;
        }
    }
    body.truncate(limits.upstream_body_bytes_max);
    body
}

/// What clients hear of a fault.
pub(crate) const fn code_of(fault: &Fault) -> Code {
    match fault {
        Fault::Unreachable(_) | Fault::Forbidden(_) | Fault::Cancelled => Code::UpstreamFailed,
        Fault::Full | Fault::NoDescriptor => Code::UpstreamUnavailable,
        Fault::Closed => Code::UpstreamTruncated,
        Fault::TimedOut => Code::UpstreamTimeout,
        Fault::Malformed(_) => Code::UpstreamMalformed,
    }
}

impl Reading for Decoder {
    fn decode(&mut self, buf: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> usize {
        Self::decode(self, buf, json, sink)
    }

    fn finish(&mut self, rest: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) {
        Self::finish(self, rest, json, sink);
    }

    fn is_ended(&self) -> bool {
        Self::is_ended(self)
    }
}

impl Reading for AgentDecoder {
    fn decode(&mut self, buf: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) -> usize {
        Self::decode(self, buf, json, sink)
    }

    fn finish(&mut self, rest: &mut [u8], json: &mut Json, sink: &mut dyn FnMut(Said<'_>)) {
        Self::finish(self, rest, json, sink);
    }

    fn is_ended(&self) -> bool {
        Self::is_ended(self)
    }
}
