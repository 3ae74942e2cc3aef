//! The provider simulator against the official clients of the services that it stands in for: what it says is what they
//! read.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc::channel;

use loadgen::driver;
use loadgen::mock::provider::{self, Settings};

/// Serves for as long as the process of the tests runs.
fn provider() -> SocketAddr {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        driver::run(|_| async move {
            let address = provider::serve(SocketAddr::from(([127, 0, 0, 1], 0)), Settings::default());
            tell.send(address.unwrap()).unwrap();
            std::future::pending::<()>().await;
        })
    });
    told.recv().unwrap()
}

#[test]
fn the_official_clients_read_every_format() {
    let clients = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/clients");
    let address = provider().to_string();
    for arguments in [&["install"][..], &["simulator", &address]] {
        let output = Command::new(clients).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}
