//! Clawgate: the gateway between people in chats and the agents that answer them.
//!
//! The shell around `clawgate_core`: it owns sockets, clocks, files, threads and randomness, moves bytes, and takes no
//! decision about a message. `ARCHITECTURE.md` says where everything happens.
mod again;
mod agents;
mod api;
mod auth;
mod call;
mod cli;
mod clock;
mod config;
mod connection;
mod crew;
mod data;
mod deliver;
mod descriptors;
mod door;
mod drain;
mod driver;
mod events;
mod execute;
mod gateway;
mod gather;
mod helm;
mod http;
mod inquire;
mod journal;
mod keep;
mod kept;
mod listen;
mod loads;
mod log;
mod mesh;
mod metrics;
mod net;
mod place;
mod reading;
mod recall;
mod reload;
mod remote;
mod resolve;
mod scaling;
mod serve;
mod sessions;
mod side;
mod signal;
mod sockets;
mod store;
mod takeover;
mod thread;
mod tickets;
mod tls;
mod tools;
mod upstream;
mod usage;
mod voice;
mod watch;
mod websocket;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all, because a huge page that is there stays. The allocator asks for them, and the kernel then counts two
    // megabytes for each place where a thread keeps a few kilobytes. A kernel that refuses gives more memory than is
    // needed, and nothing worse.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    cli::execute(cli::parse(), |orders| {
        let written = log::start(orders.config.logging);
        let ended = serve::run(orders);
        // The log is written to its end before the process is another one.
        drop(written);
        ended.finish()
    })
}
