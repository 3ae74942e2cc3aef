//! A model provider in this process that is well until the scenario says otherwise: a thread of its own, so that the lanes
//! keep their time. Owns the simulator and what was asked of it; what became of the messages is the lanes' to tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::driver;
use crate::hazards::Brownout;
use crate::mock::provider::{self, Script};
use crate::sys;

/// How often the simulator looks whether the run is over.
const LOOK: Duration = Duration::from_millis(5);

/// The simulator, while it runs.
#[derive(Debug)]
pub(super) struct Station {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    /// What was asked in each brownout.
    asked: Arc<Vec<AtomicU64>>,
}

impl Station {
    /// Starts it; `start_ns` is the machine's clock at the start of the run, once it is known.
    pub(super) fn start(brownout: &Brownout, start_ns: Arc<AtomicU64>) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let asked: Arc<Vec<_>> = Arc::new(brownout.during.iter().map(|_| AtomicU64::new(0)).collect());
        let (ready_in, ready) = channel();
        let (brownout, stopped, counts) = (brownout.clone(), Arc::clone(&stop), Arc::clone(&asked));
        let listen = brownout.listen;
        let failed =
            |error: std::io::Error| format!("the provider's simulator cannot listen on {listen}: {error}");
        let thread = std::thread::Builder::new().name("provider".to_owned()).spawn(move || {
            let ran = driver::run(|_| serve(brownout, start_ns, counts, ready_in.clone(), stopped));
            if let Err(error) = ran {
                // Nobody listens only when the run is given up already.
                ready_in.send(Err(error)).ok();
            }
        });
        let thread = thread.map_err(failed)?;
        match ready.recv() {
            Ok(Ok(())) => Ok(Self { stop, thread, asked }),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err("the provider's simulator ended before the run".to_owned()),
        }
    }

    /// Ends it, and tells what was asked in each brownout.
    pub(super) fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Release);
        // A panic of it was told on the standard error; what it had counted counts.
        self.thread.join().ok();
        self.asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect()
    }
}

async fn serve(
    brownout: Brownout,
    start_ns: Arc<AtomicU64>,
    asked: Arc<Vec<AtomicU64>>,
    ready: Sender<std::io::Result<()>>,
    stop: Arc<AtomicBool>,
) {
    let listen = brownout.listen;
    let script = move || choose(&brownout, start_ns.load(Ordering::Acquire), &asked);
    let served = provider::serve_by(listen, String::new(), script).map(drop);
    let is_well = served.is_ok();
    // Nobody listens only when the run is given up already.
    ready.send(served).ok();
    while is_well && !stop.load(Ordering::Acquire) {
        driver::sleep(LOOK).await;
    }
}

/// The script of this moment.
fn choose(brownout: &Brownout, start_ns: u64, asked: &[AtomicU64]) -> Script {
    // Before the start and after a run that was given up there is no brownout.
    let is_running = start_ns != 0 && start_ns != u64::MAX;
    let now_ns = sys::now_ns().saturating_sub(start_ns);
    let current = brownout.during.iter().position(|during| is_running && during.contains(&now_ns));
    match current.and_then(|number| asked.get(number)) {
        Some(asked) => {
            asked.fetch_add(1, Ordering::Relaxed);
            brownout.script.clone()
        }
        None => Script::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_of_a_brownout_holds_for_its_time_and_what_is_asked_then_is_counted() {
        let now_ns = sys::now_ns();
        let script: Script = "status=500".parse().unwrap_or_default();
        let brownout = Brownout {
            listen: ([127, 0, 0, 1], 0).into(),
            during: vec![0..1, 1_000..u64::MAX],
            script: script.clone(),
        };
        let asked = [AtomicU64::new(0), AtomicU64::new(0)];
        assert_eq!(choose(&brownout, 0, &asked), Script::default(), "the run has not begun");
        assert_eq!(choose(&brownout, now_ns - 5_000, &asked), script);
        assert_eq!(choose(&brownout, u64::MAX, &asked), Script::default(), "the run was given up");
        let asked = asked.map(|asked| asked.load(Ordering::Relaxed));
        assert_eq!(asked, [0, 1]);
    }
}
