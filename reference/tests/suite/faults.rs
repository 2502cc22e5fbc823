//! Right and wrong kernels in each arithmetic. This file computes every network in several ways; each wrong way has one kernel
//! with a fault. The engines' answers must be among the right ones.

use flotilla_reference::{
    Arithmetic, OnnxFile, Wanted,
    compare::{Tolerance, compare},
};
use flotilla_tensor::{DType, NamedTensor};
use half::f16;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use tract_onnx::pb::tensor_proto::DataType;

use crate::sketch::{Model, engines, floats, tensor};

/// Reproducible numbers in `[-1, 1)`.
struct Numbers(Xoshiro256PlusPlus);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    fn next(&mut self) -> f32 {
        self.0.random_range(-1.0..1.0)
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        std::iter::repeat_with(|| self.next()).take(count).collect()
    }

    /// Integers from `-limit` to `limit`.
    fn integers(&mut self, count: usize, limit: f32) -> Vec<i32> {
        self.take(count).into_iter().map(|x| (x * limit).round() as i32).collect()
    }
}

/// `[rows, depth] x [depth, columns]`, with this way of adding.
fn product(
    a: &[f32],
    b: &[f32],
    [rows, depth, columns]: [usize; 3],
    sum: impl Fn(&mut dyn Iterator<Item = f32>) -> f32,
) -> Vec<f32> {
    let element = |at: usize| {
        let (row, column) = (at / columns, at % columns);
        sum(&mut (0..depth).map(|k| a[row * depth + k] * b[k * columns + column]))
    };
    (0..rows * columns).map(element).collect()
}

fn plain(terms: &mut dyn Iterator<Item = f32>) -> f32 {
    terms.sum()
}

fn all_but_last(terms: &mut dyn Iterator<Item = f32>) -> f32 {
    let all: Vec<f32> = terms.collect();
    all[..all.len() - 1].iter().sum()
}

fn transposed(b: &[f32], size: usize) -> Vec<f32> {
    (0..size * size).map(|at| b[(at % size) * size + at / size]).collect()
}

fn to_half(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| f16::from_f32(value).to_f32()).collect()
}

fn half_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
}

/// What is compared: the file, its input and output, the right result, and other ways to compute it.
struct Trial {
    file: OnnxFile,
    arithmetic: Arithmetic,
    input: NamedTensor,
    right: Vec<f32>,
    /// Right ways by name; each must pass.
    also_right: Vec<(&'static str, Vec<f32>)>,
    /// Wrong ways by the name of their fault; each must fail.
    wrong: Vec<(&'static str, Vec<f32>)>,
}

impl Trial {
    fn judge(self) {
        let precision = self.file.precision(None);
        assert_eq!(precision.arithmetic, self.arithmetic);
        let tolerance = Tolerance::of(precision);
        let is_half = self.arithmetic == Arithmetic::F16;
        let output = |values: &[f32]| {
            let (dtype, bytes) = if is_half {
                (DType::F16, half_bytes(values))
            } else {
                (DType::F32, floats(values))
            };
            tensor("y", dtype, &[values.len() / 4, 4], bytes)
        };
        let want = output(&self.right);
        let compared = |values: &[f32]| {
            compare(&[output(values)], std::slice::from_ref(&want), &tolerance).expect("comparable")
        };
        for (how, values) in &self.also_right {
            let difference = compared(values);
            assert!(difference.rms_rel > 0.0, "{how}: it is another way");
            assert_eq!(difference.wrong, None, "{how}: {difference:?}");
        }
        for (fault, values) in &self.wrong {
            let difference = compared(values);
            let wrong = difference.wrong.as_ref().map(ToString::to_string);
            assert!(wrong.is_some(), "{fault} passes: {difference:?}");
        }
        for engine in engines() {
            let inputs = std::slice::from_ref(&self.input);
            let answer = engine.open(&self.file).and_then(|mut it| it.run(inputs, Wanted::All));
            // tract does not have every operator, and it does not keep sums of half precision in single precision.
            let Ok(mut answer) = answer else { continue };
            if is_half && engine.name() == "tract" {
                continue;
            }
            answer[0].tensor.shape = want.tensor.shape.clone();
            let difference = compare(&answer, std::slice::from_ref(&want), &tolerance);
            let difference = difference.expect("comparable");
            assert_eq!(difference.wrong, None, "{}: {difference:?}", engine.name());
        }
    }
}

#[test]
fn half_precision() {
    const ROWS: usize = 8;
    const DEPTH: usize = 256;
    const WIDE: usize = 64;
    let mut numbers = Numbers::new(1);
    let x = to_half(&numbers.take(ROWS * DEPTH));
    let first = to_half(&numbers.take(DEPTH * WIDE));
    let second = to_half(&numbers.take(WIDE * WIDE));
    let half = DataType::Float16;
    let (depth, wide) = (DEPTH as i64, WIDE as i64);
    let model = Model::default().input("x", half, &["n", &DEPTH.to_string()]);
    let model = model.constant("first", half, &[depth, wide], &half_bytes(&first));
    let model = model.constant("second", half, &[wide, wide], &half_bytes(&second));
    let model = model.node("MatMul", &["x", "first"], &["a"], &[]);
    let model = model.node("Relu", &["a"], &["b"], &[]);
    let model = model.node("MatMul", &["b", "second"], &["y"], &[]);
    let file = model.output("y", half, &["n", &WIDE.to_string()]).file();

    let relu =
        |values: Vec<f32>| values.into_iter().map(|value| value.max(0.0)).collect::<Vec<_>>();
    let sizes = ([ROWS, DEPTH, WIDE], [ROWS, WIDE, WIDE]);
    type Sum = fn(&mut dyn Iterator<Item = f32>) -> f32;
    let network = |sum: Sum, between: fn(&[f32]) -> Vec<f32>, second: &[f32]| {
        let hidden = relu(between(&product(&x, &first, sizes.0, sum)));
        product(&hidden, second, sizes.1, sum)
    };
    let halved: Sum = |terms| {
        terms.fold(0.0, |sum, term| f16::from_f32(sum + f16::from_f32(term).to_f32()).to_f32())
    };
    let keep: fn(&[f32]) -> Vec<f32> = <[f32]>::to_vec;
    Trial {
        file,
        arithmetic: Arithmetic::F16,
        input: tensor("x", DType::F16, &[ROWS, DEPTH], half_bytes(&x)),
        right: network(plain, keep, &second),
        also_right: vec![("rounded after each node", network(plain, to_half, &second))],
        wrong: vec![
            ("sums in half precision", network(halved, to_half, &second)),
            ("the last channel dropped", network(all_but_last, to_half, &second)),
            ("transposed weights", network(plain, to_half, &transposed(&second, WIDE))),
        ],
    }
    .judge();
}

#[test]
fn half_precision_windows() {
    const CHANNELS: usize = 4;
    const LENGTH: usize = 64;
    let mut numbers = Numbers::new(2);
    let x = to_half(&numbers.take(CHANNELS * LENGTH));
    let kernel = to_half(&numbers.take(CHANNELS * CHANNELS * 3));
    let half = DataType::Float16;
    let model = Model::default().input("x", half, &["1", "4", &LENGTH.to_string()]);
    let model = model.constant("kernel", half, &[4, 4, 3], &half_bytes(&kernel));
    // SAME_LOWER and SAME_UPPER are the same for three taps, so explicit padding is given.
    let model = model.node("Conv", &["x", "kernel"], &["c"], &[]);
    let model = model.node("Tanh", &["c"], &["y"], &[]);
    let file = model.output("y", half, &["1", "4", &(LENGTH - 2).to_string()]).file();
    let convolved = |shift: usize, taps: usize| {
        let element = |at: usize| {
            let (channel, place) = (at / (LENGTH - 2), at % (LENGTH - 2));
            let mut sum = 0.0f32;
            for from in 0..CHANNELS {
                for tap in 0..taps {
                    let at = (place + tap + shift).min(LENGTH - 1);
                    sum += x[from * LENGTH + at] * kernel[(channel * CHANNELS + from) * 3 + tap];
                }
            }
            sum
        };
        (0..CHANNELS * (LENGTH - 2)).map(element).collect::<Vec<f32>>()
    };
    let tanh = |values: Vec<f32>| values.into_iter().map(f32::tanh).collect::<Vec<_>>();
    Trial {
        file,
        arithmetic: Arithmetic::F16,
        input: tensor("x", DType::F16, &[1, CHANNELS, LENGTH], half_bytes(&x)),
        right: tanh(convolved(0, 3)),
        also_right: vec![("rounded after each node", tanh(to_half(&convolved(0, 3))))],
        wrong: vec![
            ("a window that begins one too late", tanh(convolved(1, 3))),
            ("a window that is one too short", tanh(convolved(0, 2))),
        ],
    }
    .judge();
}

const ROWS: usize = 8;
const SIZE: usize = 64;

/// `x` in steps of `scale`, as 8-bit numbers around `zero`.
fn quantized(x: &[f32], scale: f32, zero: i32) -> Vec<i32> {
    let one = |&x: &f32| ((x / scale).round_ties_even() as i32 + zero).clamp(0, 255);
    x.iter().map(one).collect()
}

/// ONNX's `DynamicQuantizeLinear`, with a scale that is off by this part.
fn dynamically(x: &[f32], off: f32) -> (Vec<i32>, f32, i32) {
    let low = x.iter().fold(0.0f32, |low, &x| low.min(x));
    let high = x.iter().fold(0.0f32, |high, &x| high.max(x));
    let scale = (high - low) / 255.0 * (1.0 + off);
    let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0) as i32;
    (quantized(x, scale, zero), scale, zero)
}

type IntegerProduct = fn(&[i32], i32, &[i32], i32) -> Vec<i32>;

/// `[ROWS, SIZE] x [SIZE, SIZE]` of 8-bit numbers.
fn integers(a: &[i32], zero: i32, b: &[i32], depth: i32) -> Vec<i32> {
    let element = |at: usize| {
        let (row, column) = (at / SIZE, at % SIZE);
        let terms = (0..depth as usize).map(|k| (a[row * SIZE + k] - zero) * b[k * SIZE + column]);
        terms.sum()
    };
    (0..ROWS * SIZE).map(element).collect()
}

#[test]
fn eight_bits_with_scales_of_the_data() {
    let mut numbers = Numbers::new(3);
    let x = numbers.take(ROWS * SIZE);
    let weights = [numbers.integers(SIZE * SIZE, 120.0), numbers.integers(SIZE * SIZE, 120.0)];
    let float = DataType::Float;
    let size = SIZE as i64;
    let scale = 0.01f32;
    let mut model = Model::default().input("x", float, &["n", &SIZE.to_string()]);
    model = model.constant("scale", float, &[], &scale.to_le_bytes());
    let mut last = "x".to_owned();
    for (layer, weights) in weights.iter().enumerate() {
        let name = |of: &str| format!("{of}{layer}");
        let bytes: Vec<u8> = weights.iter().map(|&weight| weight as i8 as u8).collect();
        model = model.constant(&name("w"), DataType::Int8, &[size, size], &bytes);
        let (q, s, z) = (name("q"), name("s"), name("z"));
        model = model.node("DynamicQuantizeLinear", &[&last], &[&q, &s, &z], &[]);
        model = model.node("MatMulInteger", &[&q, &name("w"), &z], &[&name("i")], &[]);
        model = model.node("Cast", &[&name("i")], &[&name("f")], &[("to", float as i64)]);
        model = model.node("Mul", &[&s, "scale"], &[&name("both")], &[]);
        let out = if layer == 1 { "y".to_owned() } else { name("h") };
        model = model.node("Mul", &[&name("f"), &name("both")], &[&out], &[]);
        last = out;
    }
    let file = model.output("y", float, &["n", &SIZE.to_string()]).file();

    let network = |weights: [&[i32]; 2], off: f32, integers: IntegerProduct, depth: i32| {
        weights.iter().fold(x.clone(), |x, weights| {
            let (q, s, zero) = dynamically(&x, off);
            let sums = integers(&q, zero, weights, depth);
            sums.into_iter().map(|sum| sum as f32 * (s * scale)).collect()
        })
    };
    let [first, second] = &weights;
    let all = SIZE as i32;
    let turned: Vec<i32> =
        (0..SIZE * SIZE).map(|at| second[(at % SIZE) * SIZE + at / SIZE]).collect();
    let moved: Vec<i32> = second.iter().map(|weight| weight + 2).collect();
    // What VPMADDUBSW adds: two products in 16 bits.
    let saturated: IntegerProduct = |a, zero, b, depth| {
        let element = |at: usize| {
            let (row, column) = (at / SIZE, at % SIZE);
            let term = |k: usize| a[row * SIZE + k] * b[k * SIZE + column];
            let pairs = (0..depth as usize).step_by(2);
            let sums: i32 = pairs.map(|k| (term(k) + term(k + 1)).clamp(-32768, 32767)).sum();
            let column: i32 = (0..depth as usize).map(|k| b[k * SIZE + column]).sum();
            sums - zero * column
        };
        (0..ROWS * SIZE).map(element).collect()
    };
    Trial {
        file,
        arithmetic: Arithmetic::Int8Dynamic,
        input: tensor("x", DType::F32, &[ROWS, SIZE], floats(&x)),
        right: network([first, second], 0.0, integers, all),
        also_right: vec![("scales off by an ulp", network([first, second], 2e-7, integers, all))],
        wrong: vec![
            ("the last channel dropped", network([first, second], 0.0, integers, all - 1)),
            ("transposed weights", network([first, &turned], 0.0, integers, all)),
            (
                "a zero point of the weights that is off by two",
                network([first, &moved], 0.0, integers, all),
            ),
            ("sums that saturate at 16 bits", network([first, second], 0.0, saturated, all)),
        ],
    }
    .judge();
}

#[test]
fn eight_bits_with_scales_of_the_file() {
    let mut numbers = Numbers::new(4);
    let x = numbers.take(ROWS * SIZE);
    let weights = numbers.integers(SIZE * SIZE, 120.0);
    let bytes: Vec<u8> = weights.iter().map(|&weight| weight as i8 as u8).collect();
    let float = DataType::Float;
    let size = SIZE as i64;
    let (scale, zero, of_weights, of_result) = (2.0f32 / 255.0, 128, 0.01f32, 0.06f32);
    let model = Model::default().input("x", float, &["n", &SIZE.to_string()]);
    let model = model.constant("s", float, &[], &scale.to_le_bytes());
    let model = model.constant("z", DataType::Uint8, &[], &[zero as u8]);
    let model = model.constant("ws", float, &[], &of_weights.to_le_bytes());
    let model = model.constant("wz", DataType::Int8, &[], &[0]);
    let model = model.constant("ys", float, &[], &of_result.to_le_bytes());
    let model = model.constant("w", DataType::Int8, &[size, size], &bytes);
    let model = model.node("QuantizeLinear", &["x", "s", "z"], &["q"], &[]);
    let inputs = ["q", "s", "z", "w", "ws", "wz", "ys", "z"];
    let model = model.node("QLinearMatMul", &inputs, &["i"], &[]);
    let model = model.node("DequantizeLinear", &["i", "ys", "z"], &["y"], &[]);
    let file = model.output("y", float, &["n", &SIZE.to_string()]).file();

    let network = |weights: &[i32], depth: i32, scale: f32, of_result: f32| {
        let q = quantized(&x, scale, zero);
        let sums = integers(&q, zero, weights, depth);
        let real: Vec<f32> =
            sums.into_iter().map(|sum| sum as f32 * (scale * of_weights)).collect();
        let rounded = quantized(&real, of_result, zero);
        rounded.into_iter().map(|step| (step - zero) as f32 * of_result).collect::<Vec<f32>>()
    };
    let turned: Vec<i32> =
        (0..SIZE * SIZE).map(|at| weights[(at % SIZE) * SIZE + at / SIZE]).collect();
    let all = SIZE as i32;
    let shifted: Vec<f32> = {
        let sums = integers(&quantized(&x, scale, zero), zero + 1, &weights, all);
        let real: Vec<f32> =
            sums.into_iter().map(|sum| sum as f32 * (scale * of_weights)).collect();
        let rounded = quantized(&real, of_result, zero);
        rounded.into_iter().map(|step| (step - zero) as f32 * of_result).collect()
    };
    Trial {
        file,
        arithmetic: Arithmetic::Int8Static,
        input: tensor("x", DType::F32, &[ROWS, SIZE], floats(&x)),
        right: network(&weights, all, scale, of_result),
        also_right: vec![(
            "a multiplier of 15 bits",
            network(&weights, all, scale, of_result * (1.0 + 3e-5)),
        )],
        wrong: vec![
            ("the last channel dropped", network(&weights, all - 1, scale, of_result)),
            ("transposed weights", network(&turned, all, scale, of_result)),
            ("a zero point of the activations that is off by one", shifted),
        ],
    }
    .judge();
}

#[test]
fn four_bits() {
    const BLOCK: usize = 32;
    let mut numbers = Numbers::new(5);
    let x = numbers.take(ROWS * SIZE);
    // `[SIZE, SIZE]` weights by column, in blocks of 32 along the depth: numbers 0 to 15 around 8.
    let steps: Vec<u8> =
        numbers.take(SIZE * SIZE).into_iter().map(|x| ((x + 1.0) * 8.0) as u8).collect();
    let scales: Vec<f32> =
        numbers.take(SIZE * SIZE / BLOCK).into_iter().map(|x| 0.05 + 0.04 * x).collect();
    let packed: Vec<u8> =
        steps.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4).collect();
    let float = DataType::Float;
    let size = SIZE as i64;
    let model = Model::default().input("x", float, &["n", &SIZE.to_string()]);
    let model = model.constant("w", DataType::Uint8, &[size, 2, 16], &packed);
    let model = model.constant("s", float, &[size * 2], &floats(&scales));
    let attributes = [("K", size), ("N", size), ("bits", 4), ("block_size", BLOCK as i64)];
    let model =
        model.node_of("com.microsoft", "MatMulNBits", &["x", "w", "s"], &["y"], &attributes);
    let file = model.output("y", float, &["n", &SIZE.to_string()]).file();

    let widened = |steps: &[u8], zero: f32, block: fn(usize) -> usize| -> Vec<f32> {
        // By row, the order in which a product reads them.
        let element = |at: usize| {
            let (k, column) = (at / SIZE, at % SIZE);
            let place = column * SIZE + k;
            (f32::from(steps[place]) - zero) * scales[block(place / BLOCK)]
        };
        (0..SIZE * SIZE).map(element).collect()
    };
    let own: fn(usize) -> usize = |block| block;
    let neighbours: fn(usize) -> usize = |block| block ^ 1;
    let swapped: Vec<u8> =
        steps.as_chunks::<2>().0.iter().flat_map(|[low, high]| [*high, *low]).collect();
    let sizes = [ROWS, SIZE, SIZE];
    let weights = widened(&steps, 8.0, own);
    Trial {
        file,
        arithmetic: Arithmetic::Int4,
        input: tensor("x", DType::F32, &[ROWS, SIZE], floats(&x)),
        right: product(&x, &weights, sizes, plain),
        also_right: vec![(
            "weights in half precision",
            product(&x, &to_half(&weights), sizes, plain),
        )],
        wrong: vec![
            ("the last channel dropped", product(&x, &weights, sizes, all_but_last)),
            ("transposed weights", product(&x, &transposed(&weights, SIZE), sizes, plain)),
            ("a zero point of 7", product(&x, &widened(&steps, 7.0, own), sizes, plain)),
            ("nibbles in the other order", product(&x, &widened(&swapped, 8.0, own), sizes, plain)),
            (
                "the next block's scale",
                product(&x, &widened(&steps, 8.0, neighbours), sizes, plain),
            ),
        ],
    }
    .judge();
}
