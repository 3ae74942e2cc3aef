//! `GET /ws` and `GET /ws/agent`: the upgrade to a WebSocket.
use super::Call;
use crate::connection::Protocol;
use crate::drain::Parting;
use crate::http;
use crate::websocket::WebSocket;
use clawgate_core::codes::Code;
use clawgate_wire::http1::RequestHead;
use clawgate_wire::websocket::{check_upgrade, write_upgrade_refusal, write_upgrade_response};

/// Browsers cannot set headers on a WebSocket: they offer the subprotocols `bearer` and the key.
const BEARER: &str = "bearer";

/// The key among the subprotocols that a client offers.
pub(super) fn protocol_token<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    let mut offered = head.headers.get("sec-websocket-protocol")?.split(',').map(str::trim);
    offered.find(|name| *name == BEARER)?;
    offered.next()
}

/// Turns the connection into a WebSocket. A key that is wrong is refused here; without one, the first message must
/// bring it.
pub(super) fn upgrade(call: &mut Call<'_>) {
    upgrade_to(call, |websocket| websocket);
}

/// The same for the worker of an agent.
pub(super) fn upgrade_worker(call: &mut Call<'_>) {
    upgrade_to(call, WebSocket::for_worker);
}

fn upgrade_to(call: &mut Call<'_>, kind: impl FnOnce(WebSocket) -> WebSocket) {
    let (thread, connection) = (call.thread, call.connection);
    let upgrade = match check_upgrade(call.head) {
        Ok(upgrade) => upgrade,
        Err(refusal) => {
            thread.refused(Code::BadRequest);
            http::with(connection, |http| http.exchange = None);
            connection.write(thread, |out| write_upgrade_refusal(out, refusal));
            connection.end(thread);
            return;
        }
    };
    let brought = call.head.headers.get("authorization").is_some()
        || call.parameter("token").is_some()
        || protocol_token(call.head).is_some();
    if brought && call.identity.is_none() {
        return call.refuse(Code::Unauthenticated, Code::Unauthenticated.advice());
    }
    if thread.draining.get() == Some(Parting::Stop) {
        return http::respond_error(thread, connection, Code::Draining, Code::Draining.advice(), 1_000);
    }
    let protocol = upgrade.protocols().find(|name| *name == BEARER);
    connection.write(thread, |out| write_upgrade_response(out, &upgrade.accept, protocol));
    thread.count(|c| &mut c.upgrades);
    let identity = call.identity.take();
    let websocket = kind(WebSocket::new(thread, identity));
    connection.protocol.replace(Protocol::WebSocket(Box::new(websocket)));
    let next = crate::websocket::on_alarm(thread, connection);
    connection.wake_at(thread, next);
    if thread.draining.get().is_some() {
        // It came before the process that goes on was there to take it: it is told to come again.
        crate::websocket::drain(thread, connection);
    }
}
