//! Answers posted to platforms, and what is shown of them before: one part, one attempt, one request each. What the
//! platform says goes to the shard, which decides whether to try again.
use crate::clock::unix_seconds;
use crate::driver;
use crate::reload::Current;
use crate::thread::Thread;
use crate::upstream::{self, Control, Fault, Origin};
use clawgate_adapters::{Destination, Platform};
use clawgate_core::event::{Delivery, Event};
use clawgate_core::id::{ChannelId, TurnId, Uid};
use std::rc::Rc;
use std::time::Duration;

/// Which part of which turn's answer, and which attempt at it.
#[derive(Clone, Copy, Debug)]
struct Parcel {
    turn: TurnId,
    part: u16,
    attempt: u16,
}

/// Begins to post a part of an answer.
pub(crate) fn begin(
    thread: &Rc<Thread>,
    (turn, uid): (TurnId, Uid),
    channel: ChannelId,
    (part, attempt): (u16, u16),
    (text, edits): (&str, &str),
) {
    let parcel = Parcel { turn, part, attempt };
    let (shared, gateway) = (&thread.shared, thread.gateway());
    let platform = gateway.platforms.get(usize::from(channel.0)).and_then(Option::as_ref);
    let shard = thread.shard.borrow();
    let address = shard.destination(turn);
    let mut body = Vec::new();
    let request = match (platform, address) {
        (Some(platform), Some(address)) => {
            let to = Destination {
                chat: address.chat,
                thread: address.thread,
                peer: address.peer,
                idempotency_key: shared.idempotency_key(uid),
                edits,
            };
            platform.encode(&to, text, part, unix_seconds(), &mut body).map_err(|bad| bad.text.into_owned())
        }
        (None, _) | (_, None) => Err("the channel has no platform to post to".to_owned()),
    };
    drop(shard);
    driver::spawn(post(thread.clone(), gateway.clone(), channel, parcel, request, body));
}

async fn post(
    thread: Rc<Thread>,
    gateway: Current,
    channel: ChannelId,
    parcel: Parcel,
    request: Result<http::Request<()>, String>,
    body: Vec<u8>,
) {
    thread.touch();
    let platform = gateway.platforms.get(usize::from(channel.0)).and_then(Option::as_ref);
    let mut detail = String::new();
    let (Ok(request), Some(platform)) = (&request, platform) else {
        let detail = request.as_ref().err().map_or("", String::as_str);
        return tell(&thread, parcel, Delivery::Refused { detail });
    };
    let limit = gateway.plan.limits.delivery_age_max;
    let deadline = thread.now() + limit;
    let origin = Origin::of(request.uri(), &gateway.client_tls, gateway.limits.connect_age_max);
    let Some(origin) = origin.map(Origin::counted) else {
        return tell(&thread, parcel, Delivery::Refused { detail: "the platform's address has no host" });
    };
    let control = Control::default();
    let max = gateway.limits.upstream_body_bytes_max as u64;
    let exchanged = upstream::exchange(&thread, &origin, &control, request, &body, max, Some(deadline)).await;
    let answered = match exchanged {
        Ok((mut wire, mut answer)) => {
            let whole = upstream::read_whole(&thread, &mut wire, &mut answer, &control, Some(deadline)).await;
            if whole.is_ok() && answer.keep_alive && answer.body.is_done() {
                thread.upstreams.keep(wire, thread.now());
            }
            whole.map(|body| (answer, body))
        }
        Err(fault) => Err(fault),
    };
    thread.touch();
    match answered {
        Ok((answer, mut body)) => read_answer(&thread, parcel, platform, &answer, &mut body, &mut detail),
        Err(fault) => {
            thread.count(|c| &mut c.upstream_faults);
            detail.push_str("the platform ");
            detail.push_str(&fault.text());
            if fault == Fault::Full {
                detail.push_str("; raise it or wait");
            }
            tell(&thread, parcel, Delivery::Retry { after: Duration::ZERO, detail: &detail });
        }
    }
}

fn read_answer(
    thread: &Rc<Thread>,
    parcel: Parcel,
    platform: &Platform,
    answer: &upstream::Answer,
    body: &mut [u8],
    detail: &mut String,
) {
    let headers = answer.headers();
    let retry_after = headers.as_ref().and_then(|headers| headers.get("retry-after"));
    let mut json = thread.json.borrow_mut();
    let delivery = platform.delivered(answer.status, retry_after, body, &mut json, detail);
    drop(json);
    if !matches!(delivery, Delivery::Confirmed { .. }) {
        thread.count(|c| &mut c.deliveries_refused);
    }
    tell(thread, parcel, delivery);
}

fn tell(thread: &Rc<Thread>, parcel: Parcel, delivery: Delivery<'_>) {
    let Parcel { turn, part, attempt } = parcel;
    if let Delivery::Refused { detail } | Delivery::Retry { detail, .. } = delivery {
        // No louder than debug: a receiver may repeat what it was sent.
        let (shard, turn) = (thread.id.0, turn.slot);
        tracing::debug!(shard, turn, part, attempt, detail, "a part of an answer was not taken");
    }
    thread.handle(Event::Delivered { turn, part, attempt, delivery });
}
