//! A blocking HTTP client that returns error statuses as answers.

use std::time::Duration;

use serde_json::Value;
use ureq::http::Request;

/// Longest wait for an answer.
pub const ANSWER_MAX: Duration = Duration::from_secs(150);
/// Largest answer that is read.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body, as text.
    pub text: String,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// It is not JSON.
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.text) {
            Ok(value) => value,
            Err(error) => panic!("the body is not JSON: {error}\n{self:?}"),
        }
    }

    /// The body of a success.
    ///
    /// # Panics
    /// The status is not 200.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// Message of an error in OpenAI's format.
    ///
    /// # Panics
    /// The body has another format.
    pub fn error(&self) -> String {
        let body = self.json();
        let error = &body["error"];
        assert!(self.status >= 400, "no error: {self:?}");
        for field in ["message", "type", "code"] {
            assert!(
                error[field].as_str().is_some_and(|text| !text.is_empty()),
                "error.{field} is missing: {self:?}"
            );
        }
        assert!(error.get("param").is_some(), "error.param is missing: {self:?}");
        error["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends a request; without a body unless one is given.
///
/// # Errors
/// There is no answer.
pub fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Result<Answer, ureq::Error> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_MAX))
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .new_agent();
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = match body {
        Some(body) => agent.run(request.body(body)?)?,
        None => agent.run(request.body(())?)?,
    };
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let bytes = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Answer { status: response.status().as_u16(), headers, text })
}
