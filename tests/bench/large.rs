//! A model of three gigabytes with external data, served by `flotilla serve`: the daemon's memory and the answer.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use flotilla::browser::{Build, Kind};
use flotilla_tests::onnx::{INT64, Sketch, integer, integers};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde_json::json;

use crate::{
    Arguments,
    figures::{DIFFERENCE, Figure, Place},
    serve::{Daemon, MEBIBYTE, Started, memory_bytes},
};

/// Rows and columns of a layer's matrix: 64 MiB, half of what the smallest WebGPU devices take in one binding.
const WIDTH: usize = 4096;
/// Layers: 3 GiB of matrices.
const LAYERS: usize = 48;
/// Rows of the table of tokens.
const TOKENS: usize = 256;
/// The token of the request.
const TOKEN: usize = 7;
/// Time between two looks at the daemon's memory.
const TICK: Duration = Duration::from_millis(20);
/// Longest load and answer.
const ANSWER_SECONDS_MAX: u64 = 900;

const CASE: &str = "model of 3 GiB";
/// The name that a folder of the model gives it.
const NAME: &str = "large";

/// What the daemon needs to import and serve the model, and how far its answer is from the right one.
pub(crate) async fn figures(build: &Build, arguments: &Arguments) -> Vec<Figure> {
    let place = Place { browser: build.name.clone(), backend: "webgpu".to_owned() };
    measure(build, &place, arguments)
        .await
        .unwrap_or_else(|error| vec![Figure::missing(CASE, &place, "ms", &error)])
}

async fn measure(
    build: &Build,
    place: &Place,
    arguments: &Arguments,
) -> anyhow::Result<Vec<Figure>> {
    ensure!(build.kind != Kind::Firefox, "a page of Firefox has too little memory for it");
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    let (model, home) = (folder.path().join(NAME), folder.path().join("home"));
    std::fs::create_dir(&model)?;
    let at = model.clone();
    let want = tokio::task::spawn_blocking(move || write(&at)).await??;
    let begin = Instant::now();
    let (builds, timeout) = (std::slice::from_ref(build), ANSWER_SECONDS_MAX.to_string());
    let daemon = Daemon::start(&Started {
        builds,
        program: &arguments.flotilla,
        model: &model,
        home: Some(&home),
        options: &["--backends", "webgpu", "--timeout", &timeout],
    })
    .await?;
    let import_ms = begin.elapsed().as_secs_f64() * 1e3;
    let pid = daemon.pid()?;
    let (ended, mut end) = tokio::sync::oneshot::channel::<()>();
    let watched = tokio::spawn(async move {
        let mut most = 0.0f64;
        while tokio::time::timeout(TICK, &mut end).await.is_err() {
            most = most.max(memory_bytes(pid, "status", "RssAnon:").unwrap_or_default());
        }
        most
    });
    let begin = Instant::now();
    let body = json!({ "model": NAME, "input": [[TOKEN]] }).to_string();
    let answered = daemon.api.request("POST", "/v1/embeddings", body).await;
    let answer_ms = begin.elapsed().as_secs_f64() * 1e3;
    drop(ended);
    let most_anonymous = watched.await?;
    let most = memory_bytes(pid, "status", "VmHWM:");
    daemon.stop().await?;
    let answer = answered?;
    let got = answer["data"][0]["embedding"].as_array().context("there is no embedding")?;
    ensure!(got.len() == want.len(), "the embedding has {} numbers", got.len());
    let difference = got
        .iter()
        .zip(&want)
        .map(|(got, want)| got.as_f64().map_or(f64::NAN, |got| (got - want).abs()));
    let difference = difference.fold(0.0, |most: f64, x| if x.is_nan() { x } else { most.max(x) });
    let figure = |what: &str, number: f64, unit| {
        Figure::alone(&format!("{CASE}: {what}"), place, number, unit)
    };
    Ok(vec![
        figure("import", import_ms, "ms"),
        figure("load and first answer", answer_ms, "ms"),
        figure("peak resident memory of the daemon", most? / MEBIBYTE, "MiB"),
        figure(
            "peak anonymous memory of the daemon while serving",
            most_anonymous / MEBIBYTE,
            "MiB",
        ),
        figure("first answer", difference, DIFFERENCE),
    ])
}

/// Writes the model, and computes its result for [`TOKEN`].
fn write(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let mut sketch = Sketch::new(17)
        .input_of(INT64, "input_ids", &[-1, -1])
        .output("embedding", &[-1, WIDTH as i64]);
    let mut weights = BufWriter::new(File::create(folder.join("weights.bin"))?);
    let mut at = 0u64;
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    // Of a variance of 1 / WIDTH, so that products of any number of layers stay of the same size.
    let most = (3.0 / WIDTH as f32).sqrt();
    let mut matrix = |rows: usize| -> anyhow::Result<(Vec<f32>, u64)> {
        let matrix: Vec<f32> =
            (0..rows * WIDTH).map(|_| random.random_range(-most..most)).collect();
        let offset = at;
        for number in &matrix {
            weights.write_all(&number.to_le_bytes())?;
        }
        at += (matrix.len() * size_of::<f32>()) as u64;
        Ok((matrix, offset))
    };
    let external = |sketch: Sketch, name: &str, rows: usize, offset: u64| {
        let bytes = rows * WIDTH * size_of::<f32>();
        let (offset, length) = (offset.to_string(), bytes.to_string());
        let entries = [("location", "weights.bin"), ("offset", &offset), ("length", &length)];
        sketch.external(name, &[rows as i64, WIDTH as i64], &entries)
    };
    let (table, offset) = matrix(TOKENS)?;
    sketch = external(sketch, "table", TOKENS, offset)
        .node("Gather", &["table", "input_ids"], &["rows"])
        .node_with(
            "",
            "ReduceMean",
            &["rows"],
            &["x0"],
            &[integers("axes", &[1]), integer("keepdims", 0)],
        );
    let mut x: Vec<f32> = table[TOKEN * WIDTH..][..WIDTH].to_vec();
    for layer in 0..LAYERS {
        let (w, offset) = matrix(WIDTH)?;
        let names = ["x", "w", "turned"].map(|name| format!("{name}{layer}"));
        let [from, name, turned] = names.each_ref().map(String::as_str);
        let to =
            if layer + 1 < LAYERS { format!("x{}", layer + 1) } else { "embedding".to_owned() };
        sketch = external(sketch, name, WIDTH, offset);
        // Every other one is stored transposed, as PyTorch stores its weights.
        let is_turned = layer % 2 == 1;
        if is_turned {
            let order = [integers("perm", &[1, 0])];
            sketch = sketch.node_with("", "Transpose", &[name], &[turned], &order);
        }
        sketch = sketch.node("MatMul", &[from, if is_turned { turned } else { name }], &[&to]);
        let mut y = vec![0.0f64; WIDTH];
        for (row, values) in w.chunks_exact(WIDTH).enumerate() {
            match is_turned {
                true => y[row] = values.iter().zip(&x).map(|(w, x)| f64::from(w * x)).sum(),
                false => {
                    let x = f64::from(x[row]);
                    y.iter_mut().zip(values).for_each(|(y, w)| *y += f64::from(*w) * x);
                }
            }
        }
        x = y.into_iter().map(|y| y as f32).collect();
    }
    weights.flush()?;
    std::fs::write(folder.join("model.onnx"), sketch.bytes())?;
    Ok(x.into_iter().map(f64::from).collect())
}
