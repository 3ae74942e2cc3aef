//! What the web APIs of platforms have in common: methods below one address, a bearer token, JSON in and out.
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
