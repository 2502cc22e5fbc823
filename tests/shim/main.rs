//! A WebDriver that takes the place of Microsoft Edge's where Edge and its driver are not available. It accepts `MicrosoftEdge`
//! and `ms:edgeOptions`, refuses what is not Edge's, and forwards the work to ChromeDriver and Chromium. Its sessions have the
//! capability `flotilla:shim`, by which the daemon recognizes that this is not Edge and says so wherever it names the browser.

use std::{
    io::Write as _,
    process::{ExitCode, Stdio},
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use flotilla::browser::{Kind, install, owner::SHIM};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::Command,
};

/// The text that ChromeDriver and its forks print before their port.
const PORT_AFTER: &str = "started successfully on port ";
/// Longest body of a command that is inspected.
const BODY_MAX: usize = 1 << 20;
/// The names of the same things in the two drivers.
const NAMES: [(&str, &str); 3] = [
    ("ms:edgeOptions", "goog:chromeOptions"),
    ("ms:processID", "goog:processID"),
    ("msedge", "chrome"),
];
const BROWSER: &str = "MicrosoftEdge";

#[derive(Clone, Debug)]
struct Shim {
    driver: String,
    client: Client<HttpConnector, Body>,
}

fn main() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}

/// Serves until the real driver ends.
async fn run() -> anyhow::Result<ExitCode> {
    let installed = install::find(&Kind::Chrome.into())?;
    let mut driver = Command::new(&installed.driver)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", installed.driver.display()))?;
    let mut lines = BufReader::new(driver.stdout.take().context("no output")?).lines();
    let mut port = None;
    while let Some(line) = lines.next_line().await? {
        if let Some((_, rest)) = line.split_once(PORT_AFTER) {
            port = rest.trim_end_matches('.').parse::<u16>().ok();
            break;
        }
    }
    let port = port.context("the driver printed no port")?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let own = listener.local_addr()?.port();
    let mut output = std::io::stdout();
    writeln!(output, "Microsoft Edge WebDriver was {PORT_AFTER}{own}.")?;
    output.flush()?;
    let shim = Shim {
        driver: format!("http://127.0.0.1:{port}"),
        client: Client::builder(TokioExecutor::new()).build_http(),
    };
    let router = Router::new().fallback(command).with_state(shim);
    // Read on, so that the driver never waits for a full pipe.
    let reading = async { while let Ok(Some(_)) = lines.next_line().await {} };
    let ended = async {
        reading.await;
        driver.wait().await
    };
    tokio::select! {
        served = axum::serve(listener, router) => served.map(|()| ExitCode::FAILURE).map_err(Into::into),
        status = ended => Ok(if status?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

async fn command(State(shim): State<Shim>, request: Request) -> Response {
    let is_new_session = request.method() == "POST" && request.uri().path() == "/session";
    let passed =
        if is_new_session { shim.new_session(request).await } else { shim.pass(request).await };
    passed.unwrap_or_else(|error| {
        failure(StatusCode::BAD_GATEWAY, "unknown error", &format!("{error:#}"))
    })
}

impl Shim {
    async fn pass(&self, mut request: Request) -> anyhow::Result<Response> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("{}{path}", self.driver).parse::<Uri>()?;
        request.headers_mut().remove(header::HOST);
        Ok(self.client.request(request).await?.map(Body::new))
    }

    async fn new_session(&self, request: Request) -> anyhow::Result<Response> {
        let body = to_bytes(request.into_body(), BODY_MAX).await?;
        let mut asked: Value = serde_json::from_slice(&body)?;
        if let Err(refused) = to_chrome(&mut asked) {
            return Ok(refused.answer());
        }
        let request = Request::post(format!("{}/session", self.driver))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(json!({ "capabilities": asked["capabilities"] }).to_string()))?;
        let (head, body) = self.client.request(request).await?.into_parts();
        let mut answer: Value =
            serde_json::from_slice(&to_bytes(Body::new(body), BODY_MAX).await?)?;
        if let Some(capabilities) = answer["value"]["capabilities"].as_object_mut() {
            to_edge(capabilities);
        }
        Ok((head.status, Json(answer)).into_response())
    }
}

/// Why Edge's driver, or this one in its place, refuses a session.
#[derive(Debug, PartialEq)]
enum Refused {
    /// It is not for this browser.
    Browser,
    /// An option of another driver, except `w3c`, which WebDriver clients send to every driver. The real driver ignores such an
    /// option and starts the browser without it; here that must not be overlooked.
    Option(String),
}

impl Refused {
    fn answer(&self) -> Response {
        match self {
            Refused::Browser => failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                "session not created",
                "session not created: No matching capabilities found",
            ),
            Refused::Option(name) => failure(
                StatusCode::BAD_REQUEST,
                "invalid argument",
                &format!("invalid argument: {name} is no option of {BROWSER}"),
            ),
        }
    }
}

/// Converts a request to Edge's driver to one for ChromeDriver.
fn to_chrome(asked: &mut Value) -> Result<(), Refused> {
    let capabilities = &mut asked["capabilities"];
    let mut sets: Vec<Value> = vec![capabilities["alwaysMatch"].take()];
    sets.extend(capabilities["firstMatch"].take().as_array().cloned().unwrap_or_default());
    let mut sets = sets.into_iter().map(|set| match set {
        Value::Object(set) => edge_set(set),
        _ => Ok(Map::new()),
    });
    let always = sets.next().unwrap_or_else(|| Ok(Map::new()))?;
    let first = sets.collect::<Result<Vec<_>, Refused>>()?;
    *capabilities = json!({ "alwaysMatch": always });
    if !first.is_empty() {
        capabilities["firstMatch"] = json!(first);
    }
    Ok(())
}

fn edge_set(set: Map<String, Value>) -> Result<Map<String, Value>, Refused> {
    set.into_iter()
        .filter(|(name, value)| !(name == "goog:chromeOptions" && *value == json!({ "w3c": true })))
        .map(|(name, value)| {
            let ours = NAMES.iter().find(|(edge, _)| *edge == name);
            match (name.as_str(), ours) {
                ("browserName", _) if value != BROWSER => Err(Refused::Browser),
                ("browserName", _) => Ok((name, json!("chrome"))),
                (_, Some((_, chrome))) => Ok(((*chrome).to_owned(), value)),
                (other, None) if other.contains(':') => Err(Refused::Option(name)),
                (_, None) => Ok((name, value)),
            }
        })
        .collect()
}

/// Converts ChromeDriver's answer to one of Edge's driver.
fn to_edge(capabilities: &mut Map<String, Value>) {
    for (edge, chrome) in NAMES {
        if let Some(value) = capabilities.remove(chrome) {
            capabilities.insert(edge.to_owned(), value);
        }
    }
    if let Some(Value::Object(driver)) = capabilities.get_mut("msedge")
        && let Some(version) = driver.remove("chromedriverVersion")
    {
        driver.insert("msedgedriverVersion".to_owned(), version);
    }
    capabilities.insert("browserName".to_owned(), json!(BROWSER));
    capabilities.insert(SHIM.to_owned(), json!(true));
}

/// An error in WebDriver's format. Source: W3C WebDriver 2, section 6.6.
fn failure(status: StatusCode, error: &str, message: &str) -> Response {
    let value = json!({ "error": error, "message": message, "stacktrace": "" });
    (status, Json(json!({ "value": value }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(always: Value) -> Result<Value, Refused> {
        let mut asked = json!({ "capabilities": { "alwaysMatch": always } });
        to_chrome(&mut asked).map(|()| asked["capabilities"].take())
    }

    #[test]
    fn only_edges_own_options_are_passed_on() {
        let options = json!({ "binary": "/edge", "args": ["--x"] });
        let good = asked(json!({ "browserName": BROWSER, "ms:edgeOptions": options }));
        let want = json!({ "browserName": "chrome", "goog:chromeOptions": options });
        assert_eq!(good, Ok(json!({ "alwaysMatch": want })));
        assert_eq!(asked(json!({ "browserName": "chrome" })), Err(Refused::Browser));
        let of_clients = json!({ "browserName": BROWSER, "goog:chromeOptions": { "w3c": true } });
        assert_eq!(asked(of_clients), Ok(json!({ "alwaysMatch": { "browserName": "chrome" } })));
        for name in ["goog:chromeOptions", "moz:firefoxOptions"] {
            let refused = asked(json!({ "browserName": BROWSER, name: options }));
            assert_eq!(refused, Err(Refused::Option(name.to_owned())));
        }
    }

    #[test]
    fn answers_have_edges_names_and_the_shims_mark() {
        let answer = json!({
            "browserName": "chrome",
            "browserVersion": "156.0.1.2",
            "chrome": { "chromedriverVersion": "156.0.1.2" },
            "goog:chromeOptions": { "debuggerAddress": "localhost:1" },
            "goog:processID": 7,
        });
        let Value::Object(mut answer) = answer else { panic!("an object") };
        to_edge(&mut answer);
        let want = json!({
            "browserName": "MicrosoftEdge",
            "browserVersion": "156.0.1.2",
            "msedge": { "msedgedriverVersion": "156.0.1.2" },
            "ms:edgeOptions": { "debuggerAddress": "localhost:1" },
            "ms:processID": 7,
            "flotilla:shim": true,
        });
        assert_eq!(Value::Object(answer), want);
    }
}
