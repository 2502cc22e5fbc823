//! Passing HTTP requests on, under the receiver's own name.

use std::net::SocketAddr;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// Sends requests on.
#[derive(Clone, Debug)]
pub(crate) struct Forwarder {
    pub(crate) upstream: SocketAddr,
    client: Client<HttpConnector, Body>,
}

impl Forwarder {
    pub(crate) fn new(upstream: SocketAddr) -> Forwarder {
        Forwarder { upstream, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Bodies stream through in both directions. A receiver that does not answer is status 502.
    pub(crate) async fn forward(&self, mut request: Request) -> Response {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let uri = format!("http://{}{path}", self.upstream);
        let own = format!("http://{}", self.upstream);
        let (Ok(uri), Ok(origin)) = (uri.parse::<Uri>(), HeaderValue::from_str(&own)) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.remove(header::HOST);
        headers.remove(header::CONNECTION);
        if headers.contains_key(header::ORIGIN) {
            headers.insert(header::ORIGIN, origin);
        }
        match self.client.request(request).await {
            Ok(response) => response.map(Body::new),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }
}
