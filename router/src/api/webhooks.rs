//! `/webhooks/:id`: what platforms send. Verified on its raw bytes, read by its adapter, acknowledged once every
//! message in it is admitted; a message that finds no room makes the platform come back.
use super::{Call, other_method};
use crate::clock::unix_seconds;
use crate::connection::Connection;
use crate::http;
use crate::mesh::Reply;
use crate::thread::Thread;
use crate::tickets::Form;
use clawgate_adapters::{Ack, Bad, Request};
use clawgate_core::codes::Code;
use std::rc::Rc;

const NO_CHANNEL: &str = "there is no channel of this name that takes webhooks";

/// `GET`: a platform tries the address before it posts to it.
pub(super) fn greet(call: &mut Call<'_>) {
    let gateway = call.thread.gateway();
    let Some((_, platform)) = gateway.webhook(&call.id) else {
        return call.refuse(Code::NotFound, NO_CHANNEL);
    };
    let request = Request {
        method: call.head.method,
        path_rest: "",
        query: call.query,
        headers: &call.head.headers,
        unix_seconds: unix_seconds(),
    };
    match platform.adapter().greet(&request) {
        // What is repeated may be anything: nobody must take it for a page.
        Ok(body) => {
            let extra = [("x-content-type-options", "nosniff"), ("cache-control", "no-store")];
            http::respond(call.thread, call.connection, 200, "text/plain; charset=utf-8", &extra, &body);
        }
        Err(Bad { code: Code::MethodNotAllowed, .. }) => other_method(call, "POST"),
        Err(Bad { code, text }) => call.refuse(code, &text),
    }
}

/// Takes a platform's request.
pub(super) fn receive(call: &mut Call<'_>) {
    let (thread, connection) = (call.thread, call.connection);
    let gateway = thread.gateway();
    let Some((channel, platform)) = gateway.webhook(&call.id) else {
        return call.refuse(Code::NotFound, NO_CHANNEL);
    };
    // A body that came with its head has not been measured against what strangers may send.
    let body_max =
        platform.adapter().traits().body_bytes_max.min(gateway.limits.body_bytes_unauthenticated_max);
    if body_max < call.body.len() {
        return call.refuse(Code::TooLarge, "the body is longer than this platform's messages can be");
    }
    let request = Request {
        method: call.head.method,
        path_rest: "",
        query: call.query,
        headers: &call.head.headers,
        unix_seconds: unix_seconds(),
    };
    if let Err(Bad { code, text }) = platform.adapter().verify(&request, call.body) {
        return call.refuse(code, &text);
    }
    http::with(connection, |http| {
        if let Some(exchange) = &mut http.exchange {
            exchange.webhook = Some((gateway.clone(), channel));
        }
    });
    let opened = connection.tickets.borrow_mut().open(Form::Webhook, "", "", thread.now());
    let Some(ticket) = opened else { return call.refuse(Code::Busy, Code::Busy.advice()) };
    // One for the decoding itself, so that the answer waits for all.
    expect(connection, ticket, 1);
    let client = connection.client(thread, ticket);
    let mut json = thread.json.borrow_mut();
    let read = platform.adapter().decode(&request, call.body, &mut json, channel, &mut |inbound| {
        expect(connection, ticket, 1);
        thread.submit(client, &inbound);
    });
    drop(json);
    match read {
        Ok(Ack::Now(body) | Ack::AfterDurable(body)) => {
            http::with(connection, |http| {
                if let Some(exchange) = &mut http.exchange {
                    exchange.ack = body;
                }
            });
        }
        Ok(Ack::InResponse) => {}
        Err(Bad { code, text }) => {
            thread.refused(code);
            connection.tickets.borrow_mut().close(ticket);
            return http::respond_error(thread, connection, code, &text, 0);
        }
    }
    settle(thread, connection, ticket, None);
}

fn expect(connection: &Connection, ticket: u32, more: u32) {
    if let Some(ticket) = connection.tickets.borrow_mut().get(ticket) {
        ticket.waits += more;
    }
}

/// One message of a webhook was admitted, ignored or refused.
pub(crate) fn reply(thread: &Rc<Thread>, connection: &Rc<Connection>, ticket: u32, reply: Reply) {
    let refused = match reply {
        // `Durable` follows, and says that it may be acknowledged.
        Reply::Accepted { durable: true, .. } => return,
        // Waiting helps: the platform is asked to come back. Whatever else was admitted is known by its id then.
        Reply::Refused { code, retry_after_millis } if matches!(code.status(), 429 | 503) => {
            Some(retry_after_millis.max(1_000))
        }
        Reply::Accepted { .. }
        | Reply::Durable
        | Reply::Duplicate
        | Reply::Ignored(_)
        | Reply::Refused { .. }
        | Reply::Operated { .. }
        | Reply::Piece { .. }
        | Reply::Done { .. }
        | Reply::Merged { .. }
        | Reply::Failed { .. } => None,
    };
    settle(thread, connection, ticket, refused);
}

fn settle(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32, refused: Option<u32>) {
    let verdict = {
        let mut tickets = connection.tickets.borrow_mut();
        let Some(ticket) = tickets.get(number) else { return };
        ticket.refused = ticket.refused.max(refused);
        ticket.waits = ticket.waits.saturating_sub(1);
        if ticket.waits != 0 {
            return;
        }
        let verdict = ticket.refused;
        tickets.close(number);
        verdict
    };
    let Some(((gateway, channel), ack)) = http::with(connection, |http| {
        let exchange = http.exchange.as_mut()?;
        Some((exchange.webhook.take()?, std::mem::take(&mut exchange.ack)))
    })
    .flatten() else {
        return;
    };
    match verdict {
        None => http::respond_json(thread, connection, 200, &ack),
        Some(millis) => {
            let seconds = millis.div_ceil(1_000);
            let Some(Some(platform)) = gateway.platforms.get(usize::from(channel.0)) else { return };
            let (status, body) = platform.adapter().busy(seconds);
            let retry_after = seconds.to_string();
            let extra = [("retry-after", retry_after.as_str()), ("cache-control", "no-store")];
            http::respond(thread, connection, status, "application/json", &extra, &body);
        }
    }
}
