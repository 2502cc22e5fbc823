//! all-MiniLM-L6-v2 with its real weights against PyTorch's embeddings. Needs `FLOTILLA_MINILM`, the folder with its
//! `model.safetensors`, and `FLOTILLA_MINILM_REFERENCE`, the file with texts' token ids and embeddings.
#![expect(clippy::print_stdout, reason = "a skipped test is said so")]

mod bert;

use std::{collections::BTreeMap, env, fs, path::Path};

use flotilla_browser_runtime::{MemoryBlobs, Options, Runtime};
use flotilla_model::program::{BlobId, Program, Source};
use flotilla_protocol::{Backend, BlobSource, LoadError, Tensor};

const SIZES: bert::Sizes = bert::Sizes {
    layers: 6,
    hidden: 384,
    heads: 12,
    intermediate: 1536,
    vocabulary: 30522,
    positions: 512,
};

/// Names of the weights in the order in which the builder asks for them; `true` for matrices stored as `[out, in]`.
fn names() -> Vec<(String, bool)> {
    let pair = |name: String, matrix: bool| {
        [(format!("{name}.weight"), matrix), (format!("{name}.bias"), false)]
    };
    let mut names: Vec<(String, bool)> = ["word", "position", "token_type"]
        .map(|name| (format!("embeddings.{name}_embeddings.weight"), false))
        .to_vec();
    names.extend(pair("embeddings.LayerNorm".to_owned(), false));
    for layer in 0..SIZES.layers {
        for (name, matrix) in [
            ("attention.self.query", true),
            ("attention.self.key", true),
            ("attention.self.value", true),
            ("attention.output.dense", true),
            ("attention.output.LayerNorm", false),
            ("intermediate.dense", true),
            ("output.dense", true),
            ("output.LayerNorm", false),
        ] {
            names.extend(pair(format!("encoder.layer.{layer}.{name}"), matrix));
        }
    }
    names
}

/// The builder's program with the weights of the file.
fn minilm(folder: &Path) -> anyhow::Result<(Program, BTreeMap<BlobId, Vec<u8>>)> {
    let file = fs::read(folder.join("model.safetensors"))?;
    let head_bytes = u64::from_le_bytes(*file.first_chunk().expect("a header")) as usize;
    let head: serde_json::Value = serde_json::from_slice(&file[8..8 + head_bytes])?;
    let (mut program, blobs) = bert::bert(SIZES);
    let mut blob = blobs.into_values().next().expect("one blob");
    let constants = program.values.iter().filter_map(|value| match value.source {
        Source::Constant(constant) => {
            Some((constant, value.shape.iter().filter_map(|dim| dim.as_fixed()).collect()))
        }
        Source::Input | Source::Node => None,
    });
    let mut names = names().into_iter();
    for (constant, shape) in constants.collect::<Vec<(_, Vec<i64>)>>() {
        let (name, transposed) = names.next().expect("as many names as constants");
        let start = head[&name]["data_offsets"][0].as_u64().expect(&name) as usize + 8 + head_bytes;
        let source = &file[start..];
        let target = &mut blob[constant.offset as usize..][..constant.bytes as usize];
        let columns = *shape.last().expect("no scalars") as usize;
        for (index, target) in target.chunks_exact_mut(4).enumerate() {
            let rows = shape[0] as usize;
            let from = if transposed { index % columns * rows + index / columns } else { index };
            target.copy_from_slice(&source[4 * from..4 * from + 4]);
        }
    }
    assert!(names.next().is_none(), "as many constants as names");
    let id = BlobId(*blake3::hash(&blob).as_bytes());
    program.blobs[0].id = id;
    for value in &mut program.values {
        if let Source::Constant(constant) = &mut value.source {
            constant.blob = id;
        }
    }
    Ok((program, BTreeMap::from([(id, blob)])))
}

/// Mean over the tokens, then length 1.
fn pooled(states: &[f32]) -> Vec<f64> {
    let width = SIZES.hidden as usize;
    let sums: Vec<f64> = (0..width)
        .map(|at| states.iter().skip(at).step_by(width).map(|&x| f64::from(x)).sum())
        .collect();
    let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
    sums.into_iter().map(|x| x / length).collect()
}

#[test]
fn embeddings_are_those_of_pytorch() {
    let (Some(folder), Some(reference)) =
        (env::var_os("FLOTILLA_MINILM"), env::var_os("FLOTILLA_MINILM_REFERENCE"))
    else {
        return println!("skipped: FLOTILLA_MINILM and FLOTILLA_MINILM_REFERENCE are not set");
    };
    let (program, blobs) = minilm(Path::new(&folder)).expect("the model is read");
    let rows: serde_json::Value =
        serde_json::from_slice(&fs::read(reference).expect("the reference is read"))
            .expect("it is JSON");
    let mut runtime = Runtime::new(Options::default());
    let source = BlobSource { url_prefix: String::new() };
    for backend in [Backend::Cpu, Backend::WebGpu] {
        let mut blobs = MemoryBlobs { blobs: blobs.clone(), chunk_bytes: 1 << 20 };
        let mut ignored = |_, _| {};
        let load = runtime.load(backend, program.clone(), &mut blobs, &source, &mut ignored);
        let mut placement = match pollster::block_on(load) {
            Ok(placement) => placement,
            Err(LoadError::BackendUnavailable { reason, .. }) => {
                println!("skipped: {backend}: {reason}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        for row in rows.as_array().expect("a list") {
            let numbers = |name: &str| row[name].as_array().expect(name).clone();
            let ids: Vec<i64> = numbers("input_ids").iter().filter_map(|id| id.as_i64()).collect();
            let inputs = [ids.clone(), vec![1; ids.len()]]
                .map(|values| Tensor::from_i64(vec![1, values.len()], &values).expect("it fits"));
            let (outputs, report) = pollster::block_on(placement.run(&inputs)).expect("it runs");
            let got = pooled(&outputs[0].to_f32().expect("floats"));
            let want: Vec<f64> = numbers("embedding").iter().filter_map(|x| x.as_f64()).collect();
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            println!("{backend}: {} tokens in {} us, worst {worst:e}", ids.len(), report.run_us);
            assert!(worst <= 1e-5, "{backend} is wrong by {worst:e} for {}", row["text"]);
            assert_eq!(got.len(), want.len());
        }
    }
}
