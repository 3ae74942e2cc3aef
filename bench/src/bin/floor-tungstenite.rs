//! The floor of the ordinary way: tokio-tungstenite with buffers of 4 KiB on one thread, echoing messages.
#![expect(clippy::print_stdout, reason = "it says where it listens")]
use clap::Parser;
use futures_util::{SinkExt as _, StreamExt as _};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Bytes of a connection's buffer, each way. The defaults of 128 KiB cost three times the processor and 117 KB of memory.
const BUFFER_BYTES: usize = 4 * 1024;

/// A WebSocket echo server of tokio-tungstenite on one thread, to hold others against.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8789")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let served = runtime.and_then(|runtime| LocalSet::new().block_on(&runtime, serve(arguments.listen)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("floor-tungstenite: {}: {why}", arguments.listen);
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::task::spawn_local(echo(socket));
    }
}

/// Ends with the connection, whatever ended it.
async fn echo(socket: TcpStream) {
    let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(BUFFER_BYTES);
    let Ok(mut connection) = accept_async_with_config(socket, Some(config)).await else { return };
    while let Some(Ok(message)) = connection.next().await {
        let said = message.is_text() || message.is_binary();
        if said && connection.send(message).await.is_err() {
            return;
        }
    }
}
