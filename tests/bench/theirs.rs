//! onnxruntime-web in the runner page, next to our own runtime.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use flotilla::pool::Pool;
use flotilla_protocol::BrowserId;
use serde_json::{Value, json};

/// The worker; served under `/extra/`.
pub(crate) const WORKER: &str = include_str!("theirs.js");
/// The script that sends a request to the worker.
const ASK: &str = include_str!("ask.js");
/// How long a script waits for an answer, below the drivers' limit of 30 seconds for a script.
const PATIENCE_MS: u64 = 15_000;
/// Longest wait for an answer, over all scripts.
const ANSWER_MAX: Duration = Duration::from_secs(300);

static ASKED: AtomicU64 = AtomicU64::new(0);

/// What onnxruntime-web computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    WebGpu,
    /// A graph has fixed shapes, so there is a session for each length.
    WebNn {
        tokens: usize,
    },
    Wasm {
        threads: u32,
    },
}

/// A session in a page.
pub(crate) struct Session<'a> {
    pool: &'a Pool,
    browser: BrowserId,
    provider: Provider,
    /// The package's version, as it reports it.
    pub(crate) version: String,
    /// How long the session took to make, in milliseconds.
    pub(crate) create_ms: f64,
}

/// One run.
pub(crate) struct Run {
    /// From inputs in memory to the embedding in memory.
    pub(crate) ms: f64,
    /// The embedding, if it was requested.
    pub(crate) values: Vec<f32>,
}

impl<'a> Session<'a> {
    /// Loads the model in a worker of the page.
    pub(crate) async fn create(
        pool: &'a Pool,
        browser: BrowserId,
        provider: Provider,
    ) -> anyhow::Result<Session<'a>> {
        let mut session =
            Session { pool, browser, provider, version: String::new(), create_ms: f64::NAN };
        let (name, threads, tokens) = match provider {
            Provider::WebGpu => ("webgpu", 1, None),
            Provider::WebNn { tokens } => ("webnn", 1, Some(tokens)),
            Provider::Wasm { threads } => ("wasm", threads, None),
        };
        let create = json!({
            "provider": name, "threads": threads, "tokens": tokens, "model": "/extra/minilm.onnx",
        });
        let answer = session.ask(json!({ "create": create })).await?;
        session.version = answer["version"].as_str().unwrap_or("unknown").to_owned();
        session.create_ms =
            answer["ms"].as_f64().context("onnxruntime-web's worker gave no time")?;
        Ok(session)
    }

    /// Embeds one row of tokens.
    pub(crate) async fn run(&self, ids: &[u32], values: bool) -> anyhow::Result<Run> {
        let answer = self.ask(json!({ "run": { "ids": ids, "values": values } })).await?;
        let ms = answer["ms"].as_f64().context("onnxruntime-web's worker gave no time")?;
        let values = answer["values"].as_array().into_iter().flatten();
        Ok(Run { ms, values: values.filter_map(|value| Some(value.as_f64()? as f32)).collect() })
    }

    async fn ask(&self, message: Value) -> anyhow::Result<Value> {
        let number = ASKED.fetch_add(1, Ordering::Relaxed);
        let ask = json!({ "number": number, "worker": format!("{:?}", self.provider), "message": message });
        let begin = Instant::now();
        while begin.elapsed() < ANSWER_MAX {
            let arguments = vec![ask.clone(), json!(PATIENCE_MS)];
            let answer = self
                .pool
                .execute(self.browser, ASK, arguments)
                .await
                .map_err(anyhow::Error::msg)?;
            if let Some(error) = answer["error"].as_str() {
                bail!("onnxruntime-web: {error}");
            }
            if !answer.is_null() {
                return Ok(answer["answer"].clone());
            }
        }
        bail!("onnxruntime-web did not answer within {ANSWER_MAX:?}")
    }
}
