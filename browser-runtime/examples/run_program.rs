//! Times a dumped program: `run_program DIR BACKEND [size...]...`, where `DIR` has `program.postcard` and `blobs/<hex>`, with
//! as many sizes per measurement as the program has symbols. Every input is filled with small token ids or ones.

use std::{collections::BTreeMap, fs, path::Path, process::ExitCode};

use anyhow::Context;
use flotilla_browser_runtime::{MemoryBlobs, Options, Runtime, now_us};
use flotilla_program::{DType, Program};
use flotilla_protocol::{Backend, BlobSource, LoadTerms, Tensor};

const RUNS: usize = 10;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a command")]
fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, backend, sizes @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: run_program DIR cpu|webgpu [size...]...");
    };
    let folder = Path::new(folder);
    let backend = if backend == "cpu" { Backend::Cpu } else { Backend::WebGpu };
    let program = Program::from_bytes(&fs::read(folder.join("program.postcard"))?)?;
    let mut blobs = BTreeMap::new();
    for blob in &program.blobs {
        blobs.insert(blob.id, fs::read(folder.join("blobs").join(blob.id.to_hex()))?);
    }
    println!(
        "{}: {} nodes, {} bytes of weights",
        program.name,
        program.nodes.len(),
        program.blobs.iter().map(|blob| blob.bytes).sum::<u64>()
    );
    let mut runtime = Runtime::native(Options::default());
    let source = BlobSource { url_prefix: String::new() };
    let start = now_us();
    let mut fetcher = MemoryBlobs { blobs, chunk_bytes: 1 << 20 };
    let mut ignored = |_, _| {};
    let terms = LoadTerms::default();
    let load = runtime.load(backend, program.clone(), &terms, &mut fetcher, &source, &mut ignored);
    let mut placement = pollster::block_on(load)?;
    println!("loaded on {} in {} us", placement.adapter().label(), now_us() - start);
    let sizes: Vec<i64> = sizes.iter().map(|size| size.parse()).collect::<Result<_, _>>()?;
    let symbols = program.symbols.len();
    let measured: Vec<&[i64]> =
        if symbols == 0 { vec![&[]] } else { sizes.chunks_exact(symbols).collect() };
    for symbols in measured {
        let mut inputs = Vec::new();
        for port in &program.inputs {
            let dims = program.value(port.value).shape.iter();
            let shape: Option<Vec<usize>> =
                dims.map(|dim| usize::try_from(dim.eval(symbols)?).ok()).collect();
            let shape = shape.with_context(|| format!("{} has no shape", port.name))?;
            inputs.push(filled(port.dtype, &port.name, &shape)?);
        }
        let mut times = Vec::new();
        for _ in 0..RUNS {
            times.push(pollster::block_on(placement.run(&inputs))?.1.run_us);
        }
        println!(
            "{symbols:?}: first {} us, best {} us",
            times[0],
            times.iter().min().unwrap_or(&0)
        );
    }
    Ok(())
}

fn filled(dtype: DType, name: &str, shape: &[usize]) -> anyhow::Result<Tensor> {
    let one = |index: usize| {
        if name.contains("ids") && !name.contains("type") { 1000 + index as i64 % 997 } else { 1 }
    };
    let values: Vec<i64> = (0..shape.iter().product()).map(one).collect();
    let bytes = match dtype {
        DType::I64 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::I32 => values.iter().flat_map(|&value| (value as i32).to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|_| 0.5f32.to_le_bytes()).collect(),
        other => anyhow::bail!("inputs of {other:?} are not filled"),
    };
    Ok(Tensor::new(dtype, shape.to_vec(), bytes)?)
}
