//! The tool that sends a request to its one configured address.
//!
//! The model gives arguments, never an address: see [`template`](super::template). The name is resolved by the gateway, once
//! for each connection, and what is connected to is the address that was checked ([`Reach`]). Redirects are not followed,
//! certificates are checked, and of a body no more is read than may be told.
use super::address::Reach;
use super::template::Template;
use super::tool::{Outcome, Refusal};
use crate::config::secret::Secret;
use crate::thread::Thread;
use crate::upstream::{self, Control, Fault, Origin};
use clawgate_core::codes::Code;
use clawgate_core::time::Time;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Map, Value};
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of an error's body that the model is told.
const TOLD_BYTES_MAX: usize = 2_048;

/// A request with places for arguments.
pub(crate) struct HttpTool {
    method: Method,
    url: Template,
    headers: HeaderMap,
    secrets: Vec<Secret>,
    reach: Arc<Reach>,
    tls: Arc<rustls::ClientConfig>,
}

impl std::fmt::Debug for HttpTool {
    /// Without its headers, which hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.url.authority())
    }
}

impl HttpTool {
    /// A tool from its settings.
    ///
    /// # Errors
    /// A header that cannot be sent, by its name.
    pub(crate) fn new(
        method: Method,
        url: Template,
        headers: &[(String, Secret)],
        reach: Reach,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, String> {
        let mut map = HeaderMap::new();
        map.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/*;q=0.9, */*;q=0.5"));
        map.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("clawgate/", env!("CARGO_PKG_VERSION"))),
        );
        for (name, value) in headers {
            let key = HeaderName::from_bytes(name.as_bytes());
            let pair = key.ok().zip(HeaderValue::from_str(value.expose()).ok());
            let (key, mut value) = pair.ok_or_else(|| format!("headers.{name} cannot be sent"))?;
            value.set_sensitive(true);
            map.insert(key, value);
        }
        let secrets = headers.iter().map(|(_, value)| value.clone()).collect();
        Ok(Self { method, url, headers: map, secrets, reach: Arc::new(reach), tls })
    }

    /// What must not be told to anybody.
    pub(crate) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// Are arguments without a place sent as a body?
    fn has_body(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD | Method::DELETE)
    }

    /// The request for these arguments.
    ///
    /// # Errors
    /// They make none, in words for the model.
    fn request(&self, arguments: &Map<String, Value>) -> Result<(http::Request<()>, Vec<u8>), String> {
        let url = self.url.url(arguments, !self.has_body())?;
        let uri = url.parse::<http::Uri>().map_err(|_| "the arguments make no URL".to_owned())?;
        let mut request = http::Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        if !self.has_body() {
            return Ok((request, Vec::new()));
        }
        let own: Vec<&str> = self.url.names().collect();
        let rest = arguments.iter().filter(|(name, _)| !own.contains(&name.as_str()));
        let rest: Map<String, Value> = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().entry(header::CONTENT_TYPE).or_insert(json);
        Ok((request, Value::Object(rest).to_string().into_bytes()))
    }

    /// Sends the request and tells what is answered, `None` if it was cancelled.
    pub(super) async fn call(
        &self,
        thread: &Rc<Thread>,
        arguments: &Map<String, Value>,
        control: &Control,
        (deadline, output_bytes_max): (Time, usize),
    ) -> Option<Outcome> {
        let failed = |code: Code, why: String| Some(Outcome::failed(&Refusal::new(code, why)));
        let (request, body) = match self.request(arguments) {
            Ok(request) => request,
            Err(why) => return failed(Code::ToolArguments, why),
        };
        let connect_age_max = thread.gateway().limits.connect_age_max;
        let Some(origin) = Origin::of(request.uri(), &self.tls, connect_age_max) else {
            return failed(Code::ToolArguments, "the arguments make no URL".to_owned());
        };
        let origin = origin.counted().guarded(&self.reach);
        let sent =
            upstream::exchange(thread, &origin, control, &request, &body, u64::MAX, Some(deadline)).await;
        let (mut wire, mut answer) = match sent {
            Ok(answered) => answered,
            Err(fault) => return told(&fault),
        };
        // One byte more says that there is more.
        let most = if (200..300).contains(&answer.status) { output_bytes_max } else { TOLD_BYTES_MAX };
        let mut text = Vec::new();
        loop {
            if let Err(fault) = upstream::take_body(&mut wire, &mut answer, &mut text) {
                return told(&fault);
            }
            if answer.body.is_done() || most < text.len() {
                break;
            }
            match wire.fill(thread, control, Some(deadline)).await {
                Ok(0) if answer.body.may_close() => break,
                Ok(0) => return told(&Fault::Closed),
                Ok(_) => {}
                Err(fault) => return told(&fault),
            }
        }
        let (status, encoding) = (answer.status, encoding_of(&answer));
        if answer.body.is_done() && answer.keep_alive {
            thread.upstreams.keep(wire, thread.now());
        }
        Some(read(status, encoding.as_deref(), text, output_bytes_max))
    }
}

/// What an answer says to the model.
fn read(status: u16, encoding: Option<&str>, body: Vec<u8>, output_bytes_max: usize) -> Outcome {
    let failed = |why: String| Outcome::failed(&Refusal::new(Code::ToolFailed, why));
    if let Some(encoding) = encoding.filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return failed(format!("it answered in an encoding that was not asked for: {encoding}"));
    }
    if (300..400).contains(&status) {
        return failed(format!("it answered with a redirect ({status}), which is not followed"));
    }
    let text = match String::from_utf8(body) {
        Ok(text) => text,
        // It may have been cut inside a character.
        Err(bad) if bad.utf8_error().error_len().is_none() => {
            String::from_utf8_lossy(bad.as_bytes()).trim_end_matches('\u{fffd}').to_owned()
        }
        Err(_) => return failed("it answered with what is no text".to_owned()),
    };
    if !(200..300).contains(&status) {
        let text = &text[..text.floor_char_boundary(TOLD_BYTES_MAX)];
        return failed(format!("it answered {status}: {text}"));
    }
    Outcome::said(text, output_bytes_max)
}

fn encoding_of(answer: &upstream::Answer) -> Option<String> {
    answer.headers()?.get("content-encoding").map(str::to_owned)
}

/// A request that got no answer; `None` if it was cancelled.
fn told(fault: &Fault) -> Option<Outcome> {
    let code = match fault {
        Fault::Cancelled => return None,
        Fault::TimedOut => Code::ToolTimeout,
        Fault::Forbidden(_) => Code::ToolAddress,
        Fault::Full | Fault::NoDescriptor => Code::ToolUnavailable,
        Fault::Unreachable(_) | Fault::Closed | Fault::Malformed(_) => Code::ToolFailed,
    };
    Some(Outcome::failed(&Refusal::new(code, format!("its address {}", fault.text()))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn tool(method: Method, url: &str) -> HttpTool {
        let tls = crate::tls::client_config(None).unwrap();
        let headers = [("x-key".to_owned(), Secret::new("s3cret".to_owned()))];
        HttpTool::new(method, Template::parse(url).unwrap(), &headers, Reach::default(), tls).unwrap()
    }

    #[test]
    fn arguments_go_where_they_belong() {
        let request = |method, arguments: Value| {
            let tool = tool(method, "https://example.com/{id}");
            tool.request(arguments.as_object().unwrap()).unwrap()
        };
        let (get, body) = request(Method::GET, json!({ "id": "a b", "q": 1 }));
        assert_eq!(
            (get.uri().to_string().as_str(), body.as_slice()),
            ("https://example.com/a%20b?q=1", &b""[..])
        );
        assert!(get.headers().get("content-type").is_none() && get.headers()["x-key"].is_sensitive());
        let (post, body) = request(Method::POST, json!({ "id": 7, "q": { "deep": [1] } }));
        assert_eq!(post.uri().to_string(), "https://example.com/7");
        assert_eq!(body, b"{\"q\":{\"deep\":[1]}}");
        assert_eq!(post.headers()["content-type"], "application/json");
    }

    #[test]
    fn answers_are_told_or_refused() {
        let read = |status, encoding, body: &[u8]| read(status, encoding, body.to_vec(), 6);
        assert_eq!(read(200, None, b"sunny"), Outcome::said("sunny".to_owned(), 6));
        assert_eq!(read(200, Some("identity"), b"").code, None);
        assert!(read(201, None, b"very sunny").text.starts_with("very s\n[cut"));
        for (status, encoding, body, part) in [
            (200, Some("gzip"), &b"\x1f\x8b"[..], "encoding"),
            (200, None, b"\xff\xfe\x00", "no text"),
            (302, None, b"", "redirect (302)"),
            (404, None, b"no such city", "404: no such city"),
            (500, None, b"", "500"),
        ] {
            let outcome = read(status, encoding, body);
            assert_eq!(outcome.code, Some(Code::ToolFailed));
            assert!(outcome.text.contains(part), "{}", outcome.text);
        }
        // Cut inside of a character.
        assert_eq!(read(200, None, "sunné".as_bytes()[..5].as_ref()).text, "sunn");
    }
}
