//! Times single operators on a backend: `time_kernels webgpu|cpu [part of a name]`. Besides the time, the processors' time of
//! all threads is told, which other processes disturb less.

use std::collections::BTreeMap;

use flotilla_browser_runtime::{MemoryBlobs, Options, Runtime, now_us};
use flotilla_program::{
    ArgReduce, Attention, Cumulative, DType, LayerNorm, MatMul, Node, Op, PROGRAM_VERSION, Port,
    Program, Reduce, ReduceKind, Softmax, Source, TopK, Unary, Value, ValueId, dim::Dim,
};
use flotilla_protocol::{Backend, BlobSource, LoadTerms, Tensor};

/// Times that an operator is computed in one run.
const REPEATS: usize = 20;
/// Runs that are timed; the fastest counts.
const RUNS: usize = 7;

type Shapes = Vec<Vec<usize>>;

fn program(name: &str, op: &Op, shapes: &Shapes, output: &[usize], dtype: DType) -> Program {
    let value = |dtype, shape: &[usize], source| Value {
        dtype,
        shape: shape.iter().map(|&size| Dim::Fixed(size as i64)).collect(),
        source,
    };
    let mut values: Vec<Value> =
        shapes.iter().map(|shape| value(DType::F32, shape, Source::Input)).collect();
    values.extend((0..REPEATS).map(|_| value(dtype, output, Source::Node)));
    let inputs: Vec<ValueId> = (0..shapes.len() as u32).map(ValueId).collect();
    let first = shapes.len() as u32;
    Program {
        version: PROGRAM_VERSION,
        name: name.to_owned(),
        symbols: Vec::new(),
        values,
        nodes: (0..REPEATS as u32)
            .map(|index| Node {
                name: format!("node{index}"),
                op: op.clone(),
                inputs: inputs.clone(),
                outputs: vec![ValueId(first + index)],
            })
            .collect(),
        inputs: inputs
            .iter()
            .map(|&value| Port { name: format!("in{}", value.0), dtype: DType::F32, value })
            .collect(),
        outputs: vec![Port { name: "out".to_owned(), dtype, value: ValueId(first) }],
        assumptions: Vec::new(),
        counts: Vec::new(),
        allowed_paddings: Vec::new(),
        blobs: Vec::new(),
    }
}

/// What all threads of this process have used.
fn cpu_us() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let used = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    used.sum::<u64>() / 1000
}

#[expect(clippy::print_stdout, clippy::expect_used, reason = "this is a command")]
fn main() {
    let backend = match std::env::args().nth(1).as_deref() {
        Some("cpu") => Backend::Cpu,
        _ => Backend::WebGpu,
    };
    let filter = std::env::args().nth(2).unwrap_or_default();
    let norm = |residual| Op::LayerNorm(LayerNorm { epsilon: 1e-12, residual });
    let softmax = |axis| Op::Softmax(Softmax { axis });
    let reduce = |kind, axes: &[u32]| Op::Reduce(Reduce { kind, axes: axes.to_vec() });
    let product = |activation| {
        Op::MatMul(MatMul {
            transpose_b: false,
            alpha: 1.0,
            bias: true,
            activation,
            residual: false,
        })
    };
    let attention = Op::Attention(Attention { heads: 12, scale: 0.17, mask: false });
    let largest = |axis| Op::ArgReduce(ArgReduce { axis, largest: true, last: false });
    let running = |axis| {
        Op::Cumulative(Cumulative { axis, product: false, exclusive: false, reverse: false })
    };
    let table: Vec<(&str, Op, Shapes, Vec<usize>, DType)> = vec![
        (
            "layer norm [128,384]",
            norm(true),
            vec![vec![128, 384], vec![384], vec![384], vec![128, 384]],
            vec![128, 384],
            DType::F32,
        ),
        (
            "layer norm [8,4096]",
            norm(false),
            vec![vec![8, 4096], vec![4096], vec![4096]],
            vec![8, 4096],
            DType::F32,
        ),
        ("softmax [12*128,128]", softmax(1), vec![vec![1536, 128]], vec![1536, 128], DType::F32),
        ("softmax [512,2048]", softmax(1), vec![vec![512, 2048]], vec![512, 2048], DType::F32),
        ("softmax [1,32000]", softmax(1), vec![vec![1, 32000]], vec![1, 32000], DType::F32),
        (
            "matmul 128x384x1536",
            product(Some(Unary::GeluErf)),
            vec![vec![128, 384], vec![384, 1536], vec![1536]],
            vec![128, 1536],
            DType::F32,
        ),
        (
            "matmul 128x1536x384",
            product(None),
            vec![vec![128, 1536], vec![1536, 384], vec![384]],
            vec![128, 384],
            DType::F32,
        ),
        (
            "matmul 1x4096x4096",
            product(None),
            vec![vec![1, 4096], vec![4096, 4096], vec![4096]],
            vec![1, 4096],
            DType::F32,
        ),
        (
            "matmul 1x40000x16",
            product(None),
            vec![vec![1, 40000], vec![40000, 16], vec![16]],
            vec![1, 16],
            DType::F32,
        ),
        (
            "attention [1,128,384]",
            attention.clone(),
            vec![vec![1, 128, 384]; 3],
            vec![1, 128, 384],
            DType::F32,
        ),
        (
            "attention 1 of 4096",
            attention,
            vec![vec![1, 1, 384], vec![1, 4096, 384], vec![1, 4096, 384]],
            vec![1, 1, 384],
            DType::F32,
        ),
        ("sum of 2^20", reduce(ReduceKind::Sum, &[0]), vec![vec![1 << 20]], vec![1], DType::F32),
        (
            "mean [1,256,56,56] over 2,3",
            reduce(ReduceKind::Mean, &[2, 3]),
            vec![vec![1, 256, 56, 56]],
            vec![1, 256, 1, 1],
            DType::F32,
        ),
        (
            "mean [32,64,28,28] over 0,2,3",
            reduce(ReduceKind::Mean, &[0, 2, 3]),
            vec![vec![32, 64, 28, 28]],
            vec![1, 64, 1, 1],
            DType::F32,
        ),
        (
            "mean [1,128,384] over 1",
            reduce(ReduceKind::Mean, &[1]),
            vec![vec![1, 128, 384]],
            vec![1, 1, 384],
            DType::F32,
        ),
        ("argmax [1,151936]", largest(1), vec![vec![1, 151_936]], vec![1, 1], DType::I32),
        ("cumsum [1,60000]", running(1), vec![vec![1, 60_000]], vec![1, 60_000], DType::F32),
        (
            "top 50 of 32000",
            Op::TopK(TopK { axis: 1, largest: true }),
            vec![vec![1, 32_000]],
            vec![1, 50],
            DType::I32,
        ),
    ];
    let mut runtime = Runtime::native(Options::default());
    for (name, op, shapes, output, dtype) in
        table.into_iter().filter(|(name, ..)| name.contains(&filter))
    {
        let program = program(name, &op, &shapes, &output, dtype);
        let inputs: Vec<Tensor> = shapes
            .iter()
            .map(|shape| {
                let count = shape.iter().product::<usize>();
                let numbers: Vec<f32> =
                    (0..count).map(|at| ((at * 7919) % 2003) as f32 / 1001.0 - 1.0).collect();
                Tensor::from_f32(shape.clone(), &numbers).expect("it fits")
            })
            .collect();
        let mut blobs = MemoryBlobs { blobs: BTreeMap::new(), chunk_bytes: 1 << 20 };
        let source = BlobSource { url_prefix: String::new() };
        let mut ignored = |_, _| {};
        let terms = LoadTerms::default();
        let start = now_us();
        let load = runtime.load(backend, program, &terms, &mut blobs, &source, &mut ignored);
        let mut placement = match pollster::block_on(load) {
            Ok(placement) => placement,
            Err(error) => {
                println!("{name}: {error}");
                continue;
            }
        };
        let loaded = now_us() - start;
        let (mut fastest, mut least) = (u64::MAX, u64::MAX);
        for _ in 0..RUNS {
            let (start, start_cpu) = (now_us(), cpu_us());
            pollster::block_on(placement.run(&inputs)).expect("it runs");
            fastest = fastest.min(now_us() - start);
            least = least.min(cpu_us() - start_cpu);
        }
        let [fastest, least] = [fastest, least].map(|us| us as f64 / REPEATS as f64);
        println!(
            "{name}: {fastest:.1} us each, {least:.1} us of processors; loaded in {loaded} us"
        );
    }
}
