//! What stands around the gateway when it calls models: providers that answer at once or at a pace, and two proxies that do
//! nothing but pass bytes on, to hold the gateway against.
use super::Setup;
use super::server::{Folder, Server};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;

/// The bare proxy of hyper.
pub const HYPER: &str = "floor-hyper";
/// nginx, passing bytes.
pub const NGINX: &str = "nginx";

/// A provider that answers every call with the same bytes: a completion, or a stream of fifty tokens in one write.
///
/// # Errors
/// Why it does not run.
pub fn fixed(setup: &Setup, streamed: bool) -> Result<Server, String> {
    let mut command = Command::new(&setup.programs.floor_epoll);
    command.arg("--answers").arg(if streamed { "stream" } else { "completion" });
    Server::start("direct", command, super::server::Pin::None, Folder::new()?)
}

/// The load generator's provider simulator, which stamps each token with the time when it wrote it.
///
/// # Errors
/// Why it does not run.
pub fn paced(setup: &Setup, script: &str) -> Result<Server, String> {
    let mut command = Command::new(&setup.programs.loadgen);
    command.args(["mock", "provider", "--script", script]);
    Server::start("direct", command, super::server::Pin::None, Folder::new()?)
}

/// The gateway with one model there, as the agent `main`.
///
/// # Errors
/// Why it does not run.
pub fn gateway(setup: &Setup, provider: SocketAddr) -> Result<Server, String> {
    gateway_within(setup, provider, json!({}))
}

/// The same, within other limits.
///
/// # Errors
/// Why it does not run.
pub fn gateway_within(setup: &Setup, provider: SocketAddr, limits: Value) -> Result<Server, String> {
    let model: Value = json!({ "upstream": {
        "provider": "openai-compatible", "baseUrl": format!("http://{provider}/v1"), "model": "main",
    } });
    let agents = json!({ "main": { "models": ["upstream"], "history": false } });
    Server::gateway(setup, 1, &[("models", model), ("agents", agents), ("limits", limits)])
}

/// A proxy of hyper on one thread: each connection has one of its own to the provider.
///
/// # Errors
/// Why it does not run.
pub fn hyper(setup: &Setup, provider: SocketAddr) -> Result<Server, String> {
    let mut command = Command::new(&setup.programs.floor_hyper);
    command.arg("--provider").arg(provider.to_string());
    Server::start(HYPER, command, setup.pin, Folder::new()?)
}

/// nginx as a proxy that keeps its connections and holds nothing back, on one thread.
///
/// # Errors
/// Why it does not run; where it is not installed, that.
pub fn nginx(setup: &Setup, provider: SocketAddr) -> Result<Server, String> {
    let folder = Folder::new()?;
    let path = folder.path().to_owned();
    let write = |address: SocketAddr| {
        let config = nginx_config(&path.display().to_string(), address, provider);
        std::fs::write(path.join("nginx.conf"), config).map_err(|why| format!("{NGINX}: {why}"))
    };
    let command = |_| {
        // Debian puts it where only root looks.
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter();
        let program = program.clone().find(|path| std::path::Path::new(path).exists()).unwrap_or("nginx");
        let mut command = Command::new(program);
        command.arg("-p").arg(&path).arg("-c").arg(path.join("nginx.conf")).arg("-e").arg("stderr");
        command
    };
    Server::start_by(NGINX, setup.pin, folder, |address| write(address).map(|()| command(address)))
}

fn nginx_config(folder: &str, listen: SocketAddr, provider: SocketAddr) -> String {
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders: String = folders.map(|name| format!("{name}_temp_path {folder}/{name};\n")).concat();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nevents {{ worker_connections 4096; }}\n\
         http {{\naccess_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 1h;\n{folders}\
         upstream provider {{ server {provider}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         server {{\nlisten {listen};\nlocation / {{\nproxy_pass http://provider;\nproxy_http_version 1.1;\n\
         proxy_set_header Connection \"\";\nproxy_buffering off;\n}}\n}}\n}}\n"
    )
}
