//! `cargo ci`: becomes `scripts/test` with the same arguments, because an alias of cargo cannot name a script.
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../test");
    // Comes back only if it could not start.
    let error = Command::new(&script).args(std::env::args_os().skip(1)).exec();
    #[allow(clippy::print_stderr, reason = "this is a command, and the one thing that it says")]
    {
        eprintln!("{}: {error}", script.display());
    }
    ExitCode::FAILURE
}
