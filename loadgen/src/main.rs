//! The binary `loadgen`. What it can do is in the library; `loadgen --help` tells.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadgen::cli::main()
}
