//! `flotilla embed`.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use flotilla::{
    browser::Builds,
    catalog::{Catalog, Model},
    client,
    embed::{self, Preparation, Text},
    local::Local,
};
use serde_json::{Value, json};

use crate::{PoolOptions, progress, serve::paths_or_pulled, table};

#[derive(Args)]
pub(crate) struct Options {
    /// Texts to embed.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    pool: PoolOptions,
    /// Folder or file of the model. Default: the first that was pulled.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Name of the prompt that is put before each text. Default: what the model's config_sentence_transformers.json says.
    #[arg(long, value_name = "NAME")]
    prompt_name: Option<String>,
    /// Ask a running daemon at this address instead of starting browsers.
    #[arg(long, value_name = "URL", conflicts_with_all = ["browsers", "simulate"])]
    connect: Option<String>,
    /// Print only JSON: the vectors whole, with what computed them.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(options: Options, builds: &Builds) -> anyhow::Result<ExitCode> {
    let answer = match &options.connect {
        Some(url) => remote(url, &options).await?,
        None => local(&options, builds).await?,
    };
    if options.json {
        print_json(&answer)?;
    } else {
        print(&options.texts, &answer);
    }
    Ok(ExitCode::SUCCESS)
}

async fn remote(url: &str, options: &Options) -> anyhow::Result<Value> {
    let model = match &options.model {
        Some(model) => model.display().to_string(),
        None => {
            let models = client::get(&format!("{url}/v1/models")).await?;
            models["data"][0]["id"].as_str().context("the daemon serves no model")?.to_owned()
        }
    };
    let answer = client::post(
        &format!("{url}/v1/embeddings"),
        &json!({ "model": model, "input": options.texts, "prompt_name": options.prompt_name }),
    )
    .await?;
    let runs = answer["flotilla"]["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let holds = |run: &&Value, index: usize| {
        run["indices"].as_array().is_some_and(|rows| rows.contains(&json!(index)))
    };
    let rows = options.texts.iter().zip(answer["data"].as_array().into_iter().flatten());
    Ok(rows
        .enumerate()
        .map(|(index, (text, row))| {
            let own: Vec<&Value> = runs.iter().filter(|run| holds(run, index)).collect();
            json!({ "text": text, "embedding": row["embedding"], "simulated": answer["simulated"], "runs": own })
        })
        .collect())
}

async fn local(options: &Options, builds: &Builds) -> anyhow::Result<Value> {
    let local_options = options.pool.local_options(builds)?;
    let paths = paths_or_pulled(options.model.clone().into_iter().collect())?;
    let catalog = progress::spinner(
        "importing the model",
        tokio::task::spawn_blocking(move || Catalog::open(&paths)),
    )
    .await?;
    let local = Local::start(&local_options, Arc::new(catalog), 0).await?;
    let bars = tokio::spawn(progress::loads(local.pool.clone()));
    let answer = embed_all(&local, options, local_options.http.timeout).await;
    local.stop().await;
    bars.abort();
    answer
}

async fn embed_all(local: &Local, options: &Options, timeout: Duration) -> anyhow::Result<Value> {
    let model: &Arc<Model> = local.catalog.models.first().context("no model is available")?;
    let texts: Vec<Text> = options.texts.iter().map(|text| Text::String(text.clone())).collect();
    let preparation = Preparation { cut: None, prompt: options.prompt_name.clone() };
    let embeddings = embed::embed(&local.pool, model, texts, preparation, timeout).await?;
    Ok(options
        .texts
        .iter()
        .zip(embeddings)
        .map(|(text, embedding)| {
            json!({
                "text": text,
                "tokens": embedding.tokens,
                "embedding": embedding.values,
                "simulated": embedding.provenance.simulated,
                "runs": [*embedding.provenance],
            })
        })
        .collect())
}

#[expect(clippy::print_stdout, reason = "a command's result")]
pub(crate) fn print_json(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn print(texts: &[String], answer: &Value) {
    let vectors: Vec<Vec<f32>> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| {
            row["embedding"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|x| Some(x.as_f64()? as f32))
                .collect()
        })
        .collect();
    let mut rows = Vec::new();
    for ((index, text), vector) in texts.iter().enumerate().zip(&vectors) {
        let run = &answer[index]["runs"][0];
        let word = |name: &str| run[name].as_str().unwrap_or("").to_owned();
        let shown: Vec<String> = vector.iter().take(4).map(|value| format!("{value:.4}")).collect();
        let mut row = vec![
            text.clone(),
            format!("[{}, ..] ({})", shown.join(", "), vector.len()),
            format!("{:.4}", embed::cosine(&vectors[0], vector)),
        ];
        let simulated = if run["simulated"] == true { " (simulated)" } else { "" };
        row.push(format!("{} {}{simulated}", word("browser"), word("browser_version")));
        row.push(format!("{} {}", word("backend"), word("adapter")));
        rows.push(row);
    }
    table::print(&["text", "embedding", "cosine to first", "browser", "backend"], &rows);
}
