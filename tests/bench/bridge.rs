//! The cost of an answer in addition to its run.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use crate::{
    figures::{Figure, median},
    page::Page,
};

const SENTENCE: &str = "That is a happy person";

/// Answers before the first that counts.
const WARM_ANSWERS: usize = 5;
/// Answers that count.
const ANSWERS: usize = 51;

/// An HTTP client that keeps its connection, as clients of a model server do.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
}

impl Api {
    /// A client of a daemon at `http://HOST:PORT`.
    pub(crate) fn new(base: String) -> Api {
        Api { client: Client::builder(TokioExecutor::new()).build_http(), base }
    }

    /// Embeds one sentence over HTTP; returns the answer and its time in milliseconds.
    pub(crate) async fn embed(&self, model: &str) -> anyhow::Result<(Value, f64)> {
        let body = json!({ "model": model, "input": SENTENCE }).to_string();
        let begin = Instant::now();
        let answer = self.request("POST", "/v1/embeddings", body).await?;
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        ensure!(answer["simulated"] == false, "the answer is not a browser's");
        ensure!(answer["data"][0]["embedding"].is_array(), "the answer holds no embedding");
        Ok((answer, ms))
    }

    /// A JSON document.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.request("GET", path, String::new()).await
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        body: String,
    ) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.base);
        let request =
            Request::builder().method(method).uri(&url).header("content-type", "application/json");
        let response = self.client.request(request.body(Full::new(body.into()))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let answer: Value =
            serde_json::from_slice(&body).with_context(|| format!("{url} answered {status}"))?;
        ensure!(status.is_success(), "{url} answered {status}: {}", answer["error"]["message"]);
        Ok(answer)
    }
}

/// Time of a request over HTTP minus the in-page time of its run.
pub(crate) async fn figure(page: &Page) -> anyhow::Result<Figure> {
    let api = Api::new(format!("http://{}", page.local.address));
    let mut costs = Vec::new();
    for answer in 0..WARM_ANSWERS + ANSWERS {
        let (body, ms) = api.embed(&page.model.name).await?;
        let run_ms = body["flotilla"]["runs"][0]["run_ms"]
            .as_f64()
            .context("the answer does not say its in-page time")?;
        if answer >= WARM_ANSWERS {
            costs.push(ms - run_ms);
        }
    }
    Ok(Figure::alone(
        "HTTP request to answer less in-page time",
        &page.place,
        median(&costs)?,
        "ms",
    ))
}
