//! What the web APIs of platforms have in common: methods below one address, a bearer token, JSON in and out.
use crate::{Document, Json, push_detail, retry_after_of};
use clawgate_core::event::Delivery;
use http::{HeaderValue, Method, Request, Uri, header};

/// The address of a method below the API's own. `None` unless that is absolute.
pub(crate) fn method(root: &str, name: &str) -> Option<Uri> {
    let uri = format!("{}/{name}", root.trim_end_matches('/')).parse::<Uri>().ok()?;
    (uri.scheme().is_some() && uri.authority().is_some()).then_some(uri)
}

/// `Authorization: Bearer TOKEN`, which no log shows. `None` for what no header can hold.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

/// The request that posts JSON there.
pub(crate) fn post(uri: &Uri, authorization: Option<&HeaderValue>) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(authorization) = authorization {
        headers.insert(header::AUTHORIZATION, authorization.clone());
    }
    request
}

/// What an API answered, if that is an object of JSON.
pub(crate) fn reply<'j, 'b>(json: &'j mut Json, body: &'b mut [u8]) -> Option<Document<'j, 'b>> {
    json.parse(body).ok().filter(|document| document.root().is_object())
}

/// What became of a message where something else was answered, as a proxy's page: whatever its status, nobody knows what
/// the API did.
pub(crate) fn not_from<'a>(api: &str, retry_after: Option<&str>, detail: &'a mut String) -> Delivery<'a> {
    push_detail(detail, &format!("the answer was not from {api}"));
    Delivery::Retry { after: retry_after_of(retry_after), detail }
}
