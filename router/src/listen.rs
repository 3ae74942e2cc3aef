//! Accepts on one core. All cores listen on the same addresses; the kernel spreads connections over them.
use crate::connection::{Connection, Protocol};
use crate::driver::{self, Socket};
use crate::gateway::{Crowded, Gateway};
use crate::http::Http;
use crate::net;
use crate::thread::Thread;
use crate::tls::ServerTls;
use clawgate_core::codes::Code;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// Connections taken in a row before others get their turn.
const ACCEPTS_A_TURN: usize = 64;
/// Pause after the kernel refused a descriptor: more would be refused too.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Accepts whenever the thread's doors are open, until it stops: also while it drains, to say so.
pub(crate) async fn accept_task(thread: Rc<Thread>, listener: OwnedFd) {
    let Ok(listener) = Socket::new(listener) else { return };
    let door = thread.new_door();
    while listener.readable().await.is_ok() {
        thread.touch();
        if thread.stop.get() {
            return;
        }
        if !thread.is_accepting() {
            // Whoever is there waits in the backlog: for us, or for the process that goes on.
            door.wait().await;
            continue;
        }
        for _ in 0..ACCEPTS_A_TURN {
            match net::accept(&listener) {
                Ok(Some((fd, peer))) => admit(&thread, fd, peer),
                Ok(None) => break,
                Err(why) => {
                    thread.count(|c| &mut c.accept_failures);
                    tracing::warn!(shard = thread.id.0, %why, "a connection could not be accepted: raise LimitNOFILE, or lower limits.connectionsMax");
                    driver::sleep(REFUSED_PAUSE).await;
                    break;
                }
            }
        }
    }
}

/// Accepts whoever waits at a listener that is to be closed: closing it would turn them away.
pub(crate) fn accept_last(thread: &Rc<Thread>, listener: &OwnedFd) {
    while let Ok(Some((fd, peer))) = net::accept(listener) {
        admit(thread, fd, peer);
    }
}

fn admit(thread: &Rc<Thread>, fd: OwnedFd, peer: SocketAddr) {
    let address = peer.ip();
    let gateway = thread.gateway();
    let descriptors = thread.shared.descriptors.get();
    let reserved = gateway.limits.descriptors_reserved;
    if descriptors.is_some_and(|descriptors| !descriptors.is_for_client(&fd, reserved)) {
        thread.count(|c| &mut c.descriptors_refused);
        return refuse(thread, &gateway, &fd, "limits.descriptorsReserved");
    }
    if let Err(crowded) = thread.shared.connection_opened(address, &gateway.limits) {
        let limit = match crowded {
            Crowded::Process => "limits.connectionsMax",
            Crowded::Address => "limits.connectionsPerAddressMax",
        };
        return refuse(thread, &gateway, &fd, limit);
    }
    let tls = match &gateway.server_tls {
        None => None,
        Some(config) => match ServerTls::new(config.clone()) {
            Ok(tls) => Some(Box::new(tls)),
            Err(_) => return thread.shared.connection_closed(address),
        },
    };
    let Ok(socket) = Socket::new(fd) else {
        return thread.shared.connection_closed(address);
    };
    thread.count(|c| &mut c.accepted);
    let now = thread.now();
    thread.admit(|place| Connection::new(place, address, socket, tls, Protocol::Http(Http::new(now)), now));
}

fn refuse(thread: &Thread, gateway: &Gateway, fd: &OwnedFd, limit: &str) {
    thread.refused(Code::TooManyConnections);
    tracing::debug!(shard = thread.id.0, limit, "a connection was refused");
    if gateway.server_tls.is_none() {
        // Best effort: a socket this new takes a short answer, and if not there is nobody to tell.
        net::send(fd, REFUSAL);
    }
}

/// What a client hears that finds no room.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
content-type: application/json\r\ncontent-length: 105\r\n\r\n\
{\"success\":false,\"error\":{\"code\":\"TOO_MANY_CONNECTIONS\",\"message\":\"too many connections\",\"retryAfter\":1}}";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn the_refusal_is_as_long_as_it_says() {
        let text = std::str::from_utf8(super::REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
