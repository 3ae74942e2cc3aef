//! Side threads: a current-thread tokio runtime for what needs one (Redis and PostgreSQL on one, MCP servers on another,
//! so that neither holds the other up). No message is handled here;
//! what runs on it must not block, and speaks to the shards through queues and the mesh.
use std::io;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::LocalSet;

/// Tasks that may wait to begin.
const STARTING_MAX: usize = 1_024;

/// The thread is gone, or too much waits to begin on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the side thread takes no more tasks")
    }
}

type Start = Box<dyn FnOnce() + Send>;

/// The way to the side thread.
#[derive(Clone)]
pub(crate) struct Side(Sender<Start>);

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Side")
    }
}

impl Side {
    /// Starts the thread. It ends when the last handle is gone; tasks that still run end with it.
    ///
    /// # Errors
    /// No thread, or no runtime.
    pub(crate) fn start() -> io::Result<Self> {
        Self::start_named("side")
    }

    /// The same, under another name.
    ///
    /// # Errors
    /// No thread, or no runtime.
    pub(crate) fn start_named(name: &str) -> io::Result<Self> {
        let (starts, mut coming) = channel::<Start>(STARTING_MAX);
        thread(name, move || async move {
            while let Some(start) = coming.recv().await {
                start();
            }
        })?;
        Ok(Self(starts))
    }

    /// Begins a task on the thread. What `begin` makes stays there, so it need not be `Send`.
    ///
    /// # Errors
    /// Too many wait to begin.
    pub(crate) fn spawn<F>(&self, begin: impl FnOnce() -> F + Send + 'static) -> Result<(), Busy>
    where
        F: Future<Output = ()> + 'static,
    {
        let start = Box::new(move || {
            tokio::task::spawn_local(begin());
        });
        self.0.try_send(start).map_err(|_| Busy)
    }
}

/// A thread of its own for one task, with a runtime to wait on: for what blocks.
///
/// # Errors
/// No thread, or no runtime.
pub(crate) fn thread<F>(name: &str, begin: impl FnOnce() -> F + Send + 'static) -> io::Result<()>
where
    F: Future<Output = ()>,
{
    let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        LocalSet::new().block_on(&runtime, begin());
    })?;
    Ok(())
}
