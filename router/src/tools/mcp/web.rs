//! A server that is reached by HTTP: what the SDK's streamable HTTP transport sends its requests with.
//!
//! One connection for each request, to an address that may be reached ([`Reach`]), by our own TLS; redirects are not
//! followed, and of an answer no more is read than a message may have. An answer that is a stream of events is metered as
//! the output of a process is.
use super::meter::{Fault, Meter, Stream};
use crate::config::mcp::Http as Settings;
use crate::tools::address::Reach;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpClientTransportConfig, StreamableHttpError,
    StreamableHttpPostResponse,
};
use sse_stream::{Sse, SseStream};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// To connect, TLS included.
const CONNECT_AGE_MAX: Duration = Duration::from_secs(10);
/// Bytes of the body of a refusal that are told.
const TOLD_BYTES_MAX: usize = 512;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Why a request got no answer, in words.
#[derive(Debug)]
pub(super) struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

type Refused = StreamableHttpError<Failed>;

fn failed(why: impl fmt::Display) -> Refused {
    StreamableHttpError::Client(Failed(why.to_string()))
}

/// The way to one server.
#[derive(Clone)]
pub(super) struct Web {
    reach: Arc<Reach>,
    tls: Arc<rustls::ClientConfig>,
    meter: Arc<Meter>,
    message_bytes_max: usize,
}

/// The way to a server, and what the SDK is to know of it.
///
/// # Errors
/// A header that cannot be sent, by its name.
pub(super) fn way(
    settings: &Settings,
    tls: &Arc<rustls::ClientConfig>,
    (meter, message_bytes_max): (Arc<Meter>, usize),
    calls_max: usize,
) -> Result<(Web, StreamableHttpClientTransportConfig), String> {
    let mut headers = HashMap::new();
    for (name, value) in &settings.headers {
        let key = HeaderName::from_bytes(name.as_bytes());
        let pair = key.ok().zip(HeaderValue::from_str(value.expose()).ok());
        let (key, mut value) = pair.ok_or_else(|| format!("headers.{name} cannot be sent"))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    let reach = Arc::new(Reach { allowed: settings.allowed.clone() });
    let web = Web { reach, tls: tls.clone(), meter, message_bytes_max };
    let mut config = StreamableHttpClientTransportConfig::with_uri(settings.url.as_str())
        // What is beside the calls: that it is asked whether it lives, and for its list.
        .max_concurrent_requests(calls_max.saturating_add(2));
    config.custom_headers = headers;
    config.max_sse_event_size = message_bytes_max;
    config.max_json_response_size = message_bytes_max;
    Ok((web, config))
}

trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

impl Web {
    /// A connection to where the request goes.
    async fn connect(&self, uri: &http::Uri) -> Result<Box<dyn Line>, String> {
        let host = uri.host().ok_or("its address has no host")?.trim_matches(['[', ']']);
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let unreachable = |why: io::Error| format!("its address cannot be reached: {why}");
        let mut last = "its name means no address".to_owned();
        for address in tokio::net::lookup_host((host, port)).await.map_err(unreachable)? {
            if !self.reach.permits(address.ip()) {
                let address = address.ip();
                last = format!("its address is {address}, which is not to be reached (allowAddresses)");
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(socket) => return self.secured(socket, host, secure).await,
                Err(why) => last = unreachable(why),
            }
        }
        Err(last)
    }

    async fn secured(&self, socket: TcpStream, host: &str, secure: bool) -> Result<Box<dyn Line>, String> {
        // Requests are small, and waited for.
        let _ = socket.set_nodelay(true);
        if !secure {
            return Ok(Box::new(socket));
        }
        let name = rustls_pki_types::ServerName::try_from(host.to_owned())
            .map_err(|_| "its host is no name for TLS".to_owned())?;
        let line = TlsConnector::from(self.tls.clone()).connect(name, socket).await;
        Ok(Box::new(line.map_err(|why| format!("its TLS fails: {why}"))?))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Refused> {
        let connect = tokio::time::timeout(CONNECT_AGE_MAX, self.connect(request.uri()));
        let line = connect.await.map_err(|_| failed("its address cannot be reached in time"))?;
        let line = TokioIo::new(line.map_err(failed)?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(line).await.map_err(failed)?;
        tokio::spawn(async move {
            // Why it ended is told to whoever waits for the answer.
            let _ = connection.await;
        });
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, body);
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        *request.uri_mut() = path.parse().map_err(failed)?;
        sender.send_request(request).await.map_err(failed)
    }

    fn request(
        method: Method,
        uri: &str,
        session: Option<&str>,
        token: Option<&str>,
        headers: HashMap<HeaderName, HeaderValue>,
        body: Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, Refused> {
        let uri: http::Uri = uri.parse().map_err(failed)?;
        let host = uri.authority().map_or("", http::uri::Authority::as_str);
        let mut request = Request::builder().method(method).header(header::HOST, host);
        request = request.header(header::USER_AGENT, concat!("clawgate/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request = request.header(header::ACCEPT, "application/json, text/event-stream");
        if let Some(session) = session {
            request = request.header(SESSION, session);
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.uri(uri).body(Full::new(body.into())).map_err(failed)
    }

    fn events(&self, response: Response<Incoming>) -> BoxStream<'static, Result<Sse, SseError>> {
        let (mut stream, meter) = (Stream::of_events(self.meter.clone()), self.meter.clone());
        let pieces = response.into_body().into_data_stream().map_err(|why| Failed(why.to_string()));
        let pieces = pieces.and_then(move |piece| {
            let heard = stream.hear(&piece, meter.now()).map_err(Failed);
            std::future::ready(heard.map(|()| piece))
        });
        SseStream::from_bytes_stream(pieces).boxed()
    }

    /// The whole of an answer.
    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, Refused> {
        let most = self.message_bytes_max;
        match Limited::new(response.into_body(), most).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(why) if why.is::<http_body_util::LengthLimitError>() => {
                let why = format!("it sent a message of more than {most} bytes (limits.mcp.messageBytesMax)");
                self.fault().tell(super::Reason::Flooded, why.clone());
                Err(failed(why))
            }
            Err(why) => Err(failed(why)),
        }
    }

    fn fault(&self) -> &Arc<Fault> {
        self.meter.fault()
    }

    /// An answer that is no success.
    async fn refusal(response: Response<Incoming>) -> Refused {
        let status = response.status();
        if status.is_redirection() {
            let why = format!("it answered with a redirect ({status}), which is not followed");
            return StreamableHttpError::UnexpectedServerResponse(why.into());
        }
        let mut told = Vec::new();
        let mut pieces = response.into_body().into_data_stream();
        while let Some(Ok(piece)) = pieces.next().await
            && told.len() < TOLD_BYTES_MAX
        {
            told.extend_from_slice(&piece[..piece.len().min(TOLD_BYTES_MAX)]);
        }
        told.truncate(TOLD_BYTES_MAX);
        let why = format!("it answered {status}: {:?}", String::from_utf8_lossy(&told));
        StreamableHttpError::UnexpectedServerResponse(why.into())
    }
}

fn kind(response: &Response<Incoming>) -> &str {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim()
}

impl StreamableHttpClient for Web {
    type Error = Failed;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Refused> {
        let body = serde_json::to_vec(&message)?;
        let (session, token) = (session_id.as_deref(), auth_header.as_deref());
        let request = Self::request(Method::POST, &uri, session, token, custom_headers, body)?;
        let response = self.send(request).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND && session.is_some() {
            return Err(StreamableHttpError::SessionExpired);
        }
        if !status.is_success() {
            return Err(Self::refusal(response).await);
        }
        let is_request = matches!(message, ClientJsonRpcMessage::Request(_));
        if !is_request || matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        let session = response.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        match kind(&response) {
            "text/event-stream" => Ok(StreamableHttpPostResponse::Sse(self.events(response), session)),
            "application/json" => {
                let body = self.whole(response).await?;
                let message: ServerJsonRpcMessage = serde_json::from_slice(&body)?;
                Ok(StreamableHttpPostResponse::Json(message, session))
            }
            other => Err(StreamableHttpError::UnexpectedContentType(Some(other.to_owned()))),
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Refused> {
        let (session, token) = (Some(&*session_id), auth_header.as_deref());
        let request = Self::request(Method::DELETE, &uri, session, token, custom_headers, Vec::new())?;
        let response = self.send(request).await?;
        if response.status().is_success() || response.status() == StatusCode::METHOD_NOT_ALLOWED {
            return Ok(());
        }
        Err(Self::refusal(response).await)
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        mut custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Refused> {
        if let Some(id) = last_event_id {
            custom_headers.insert(LAST_EVENT, HeaderValue::from_str(&id).map_err(failed)?);
        }
        let (session, token) = (session_id.as_deref(), auth_header.as_deref());
        let request = Self::request(Method::GET, &uri, session, token, custom_headers, Vec::new())?;
        let response = self.send(request).await?;
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            return Err(StreamableHttpError::ServerDoesNotSupportSse);
        }
        if !response.status().is_success() {
            return Err(Self::refusal(response).await);
        }
        if kind(&response) != "text/event-stream" {
            let kind = kind(&response).to_owned();
            return Err(StreamableHttpError::UnexpectedContentType(Some(kind)));
        }
        Ok(self.events(response))
    }
}
