//! Names to addresses, on a thread of its own: the system's resolver blocks, and a shard's thread must not.
use crate::gateway::Shared;
use crate::thread::Thread;
use clawgate_core::id::ShardId;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

/// Names that may wait to be resolved, process.
const WAITING_MAX: usize = 1_024;

/// What is done with the addresses, on the asker's own thread.
type Answer = Box<dyn FnOnce(&Rc<Thread>, Result<Vec<SocketAddr>, String>) + Send>;

struct Query {
    host: String,
    port: u16,
    asker: ShardId,
    shared: Arc<Shared>,
    answer: Answer,
}

/// The way to the resolver's thread.
#[derive(Debug)]
pub(crate) struct Resolver(SyncSender<Query>);

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host)
    }
}

impl Resolver {
    /// # Errors
    /// No thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (queries, incoming) = sync_channel::<Query>(WAITING_MAX);
        std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
            while let Ok(Query { host, port, asker, shared, answer }) = incoming.recv() {
                let found = match (host.as_str(), port).to_socket_addrs() {
                    Ok(addresses) => Ok(addresses.collect()),
                    Err(why) => Err(why.to_string()),
                };
                // A thread that takes no errand has thousands waiting: the asker's own deadline ends this.
                let _ = shared.mesh.errand(asker, Box::new(move |thread| answer(thread, found)));
            }
        })?;
        Ok(Self(queries))
    }

    /// Asks for the addresses of a host; the answer comes on the asker's own thread.
    ///
    /// # Errors
    /// Too many names wait already.
    pub(crate) fn ask(
        &self,
        thread: &Thread,
        host: &str,
        port: u16,
        answer: impl FnOnce(&Rc<Thread>, Result<Vec<SocketAddr>, String>) + Send + 'static,
    ) -> Result<(), String> {
        let query = Query {
            host: host.to_owned(),
            port,
            asker: thread.id,
            shared: thread.shared.clone(),
            answer: Box::new(answer),
        };
        match self.0.try_send(query) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                Err("too many names wait to be resolved".to_owned())
            }
        }
    }
}
