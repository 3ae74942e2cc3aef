//! The client's side of a whole request to a model (`/v1/…`): what became of it, in the format that the client speaks.
//! What the model says was written in that format by its call (`voice`) and is passed on as it is.
use crate::connection::Connection;
use crate::http;
use crate::mesh::Reply;
use crate::thread::Thread;
use crate::tickets::Form;
use clawgate_core::codes::Code;
use clawgate_providers::Kind;
use clawgate_providers::door::{Problem, write_error};
use clawgate_providers::reply;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells the client what became of its request.
pub(crate) fn reply(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32, reply: Reply, text: &str) {
    let mut tickets = connection.tickets.borrow_mut();
    let Some(ticket) = tickets.get(number) else { return };
    match reply {
        // The head waits for the first piece: a model that fails before it is told by the status.
        Reply::Accepted { shard, turn, .. } => ticket.turn = Some((shard, turn)),
        Reply::Piece { seq, .. } => {
            let first = !std::mem::replace(&mut ticket.started, true);
            ticket.shown = seq;
            ticket.events += u32::try_from(text.matches("\n\n").count()).unwrap_or(0);
            let began = ticket.began;
            drop(tickets);
            if first {
                http::begin_stream(thread, connection);
                thread.first_piece_took(began);
            }
            http::stream(thread, connection, |out| out.extend_from_slice(text.as_bytes()));
            connection.check_pressure(thread);
        }
        Reply::Done { .. } => {
            let (form, started, began) = (ticket.form, ticket.started, ticket.began);
            tickets.close(number);
            drop(tickets);
            thread.took(began);
            if form == Form::Request {
                http::respond_json(thread, connection, 200, text.as_bytes());
            } else {
                if !started {
                    http::begin_stream(thread, connection);
                }
                http::end_stream(thread, connection);
            }
        }
        Reply::Failed { code, retry_after_millis, .. } | Reply::Refused { code, retry_after_millis } => {
            let shown = ticket.started.then_some(ticket.events);
            tickets.close(number);
            drop(tickets);
            fail(thread, connection, shown, code, text, retry_after_millis);
        }
        Reply::Duplicate | Reply::Merged { .. } | Reply::Ignored(_) => {
            let shown = ticket.started.then_some(ticket.events);
            tickets.close(number);
            drop(tickets);
            fail(thread, connection, shown, Code::PolicyDenied, "", 0);
        }
        Reply::Durable | Reply::Operated { .. } => {}
    }
}

/// The end without an answer: `shown` are the events that are out, if the stream began.
/// by its status, or, where a part of the answer is out, as the stream's last event, behind which
/// nothing says that it is complete.
fn fail(
    thread: &Rc<Thread>,
    connection: &Rc<Connection>,
    shown: Option<u32>,
    code: Code,
    text: &str,
    wait_millis: u32,
) {
    let words = if text.is_empty() { code.advice() } else { text };
    let Some(events) = shown else {
        return http::respond_error(thread, connection, code, words, wait_millis);
    };
    let dialect = dialect_of(connection).unwrap_or(Kind::OpenAiChat);
    let problem = Problem::of(code, words);
    http::stream(thread, connection, |out| reply::write_failure(dialect, &problem, events.into(), out));
    http::end_stream(thread, connection);
}

/// Ends what is under way for a process that stops.
pub(crate) fn part(thread: &Rc<Thread>, connection: &Rc<Connection>, number: u32) {
    let mut tickets = connection.tickets.borrow_mut();
    let shown = tickets.get(number).and_then(|ticket| ticket.started.then_some(ticket.events));
    tickets.close(number);
    drop(tickets);
    fail(thread, connection, shown, Code::Draining, "", 1_000);
}

/// The format of the client whose request is being answered, where it is not ours.
pub(crate) fn dialect_of(connection: &Connection) -> Option<Kind> {
    http::with(connection, |http| Some(http.exchange.as_ref()?.visit.as_ref()?.dialect)).flatten()
}

/// The request on this connection came to a door, where this format is spoken.
pub(crate) fn begin(connection: &Connection, dialect: Kind) {
    http::with(connection, |http| {
        if let Some(exchange) = &mut http.exchange {
            exchange.visit = Some(Box::new(Visit { dialect, reserved: None }));
        }
    });
}

/// Until it is answered it takes this of the bound on all requests.
pub(crate) fn reserve(connection: &Connection, reserved: Reserved) {
    http::with(connection, |http| {
        if let Some(visit) = http.exchange.as_mut().and_then(|exchange| exchange.visit.as_mut()) {
            visit.reserved = Some(reserved);
        }
    });
}

/// What a request at a door has beside any other.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The format of its client.
    dialect: Kind,
    /// What it takes of the bound on all of them, until it is dropped.
    reserved: Option<Reserved>,
}

/// An error's body in a client's format.
pub(crate) fn error_body(dialect: Kind, code: Code, text: &str) -> Vec<u8> {
    let mut body = Vec::new();
    write_error(dialect, &Problem::of(code, text), &mut body);
    body
}

/// Bytes of whole requests under way, and of the answers that they may have at once, over all threads.
#[derive(Debug, Default)]
pub(crate) struct Budget(Arc<AtomicU64>);

/// A part of the budget; it goes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    taken: Arc<AtomicU64>,
    bytes: u64,
}

impl Budget {
    /// Takes so many bytes of at most `max`.
    pub(crate) fn take(&self, bytes: u64, max: u64) -> Option<Reserved> {
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= max);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).ok()?;
        Some(Reserved { taken: self.0.clone(), bytes })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept_and_given_back() {
        let budget = Budget::default();
        let first = budget.take(60, 100);
        assert!(first.is_some() && budget.take(41, 100).is_none() && budget.take(u64::MAX, 100).is_none());
        let second = budget.take(40, 100);
        assert!(second.is_some());
        drop(first);
        assert!(budget.take(60, 100).is_some());
    }
}
