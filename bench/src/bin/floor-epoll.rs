//! The floor: a bare epoll server on one thread, that echoes or, with `--http`, answers each request with the same 200;
//! with `--append`, once it has written it down; with `--answers`, as a model does.
#![expect(clippy::print_stdout, reason = "it says where it listens")]
use clap::Parser;
use clawgate_bench::floor::append::{Append, Policy};
use clawgate_bench::floor::{Answer, serve};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

/// A bare epoll server on one thread, to hold others against.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8788")]
    listen: SocketAddr,
    /// Answer each HTTP request with a fixed 200 instead of echoing.
    #[arg(long)]
    http: bool,
    /// Answer each HTTP request as a model: completion, stream.
    #[arg(long, conflicts_with = "http", value_parser = named)]
    answers: Option<Answer>,
    /// With --http: append what comes to this new file before it is answered.
    #[arg(long, requires = "http")]
    append: Option<PathBuf>,
    /// When that is synced: always, interval, os.
    #[arg(long, default_value = "always", value_parser = Policy::named)]
    sync: Policy,
}

fn named(name: &str) -> Result<Answer, String> {
    match name {
        "completion" => Ok(Answer::Completion),
        "stream" => Ok(Answer::Stream),
        _ => Err("completion, or stream".to_owned()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let answer = if arguments.http { Answer::Http } else { arguments.answers.unwrap_or(Answer::Echo) };
    let served = TcpListener::bind(arguments.listen).and_then(|listener| {
        println!("listening on {}", listener.local_addr()?);
        let file = arguments.append.as_deref().map(|path| Append::create(path, arguments.sync));
        serve(listener, answer, file.transpose()?)
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("floor-epoll: {}: {why}", arguments.listen);
            ExitCode::FAILURE
        }
    }
}
