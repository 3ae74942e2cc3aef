//! The floor of the ordinary way to call a model: a proxy of hyper on one thread that passes requests and responses on as
//! they come. Each connection has one of its own to the provider.
#![expect(clippy::print_stdout, reason = "it says where it listens")]
use clap::Parser;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// A proxy of hyper on one thread, to hold others against.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8790")]
    listen: SocketAddr,
    /// Where to pass requests on to.
    #[arg(long)]
    provider: SocketAddr,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let served = runtime
        .and_then(|runtime| LocalSet::new().block_on(&runtime, serve(arguments.listen, arguments.provider)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("floor-hyper: {}: {why}", arguments.listen);
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: SocketAddr, provider: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::task::spawn_local(pass(socket, provider));
    }
}

/// Ends with either connection, whatever ended it.
async fn pass(socket: TcpStream, provider: SocketAddr) {
    let Ok(upstream) = TcpStream::connect(provider).await else { return };
    if upstream.set_nodelay(true).is_err() {
        return;
    }
    let Ok((sender, connection)) = handshake(TokioIo::new(upstream)).await else { return };
    tokio::task::spawn_local(connection);
    let sender: RefCell<SendRequest<hyper::body::Incoming>> = RefCell::new(sender);
    let service = service_fn(|request| sender.borrow_mut().send_request(request));
    // A connection that broke is over, and so is its other half.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}
