//! Cases at the ends of types and functions: narrow integers, conversions, infinities.

use flotilla_program::{Binary, Expr, Op, Step, Test, Unary};
use flotilla_tensor::DType;

use super::table::case;
use crate::suite::{Array, Case, Sketch, Tolerance};

pub(super) fn cases() -> Vec<Case> {
    [
        functions(),
        ends(),
        powers(),
        integers(),
        divisions(),
        conversions(),
        constants(),
        not_numbers(),
        remainders(),
    ]
    .concat()
}

/// Functions for which WGSL's own are too inexact, over their whole domains.
fn functions() -> Vec<Case> {
    [
        (Unary::Acos, -1.0, 1.0),
        (Unary::Asin, -1.0, 1.0),
        (Unary::Atan, -50.0, 50.0),
        (Unary::Atan, -2.6, 2.6),
        (Unary::Atanh, -0.99, 0.99),
        (Unary::Acosh, 1.0, 5.0),
        (Unary::Acosh, 5.0, 1e20),
        (Unary::Asinh, -3.0, 3.0),
        (Unary::Asinh, -1e20, 1e20),
        (Unary::Sinh, -4.0, 4.0),
        (Unary::Sinh, -85.0, 85.0),
        (Unary::Cosh, -85.0, 85.0),
        (Unary::Softplus, -30.0, 90.0),
        (Unary::Ln, 0.001, 3.0),
    ]
    .into_iter()
    .map(|(function, low, high): (Unary, f64, f64)| {
        let step = (high - low) / 399.0;
        let line = (0..400).map(|index| low + step * f64::from(index)).collect();
        case(
            &format!("{function:?} from {low:e} to {high:e}"),
            vec![Step::Input(0), Step::Unary(function, 0)],
            &[Array::f32(&[400], line)],
            &[400],
            Tolerance::Approximate,
        )
    })
    .collect()
}

/// Functions of zeros, of very small and very large numbers, of infinities and NaN. Small results must be as exact as large
/// ones.
fn ends() -> Vec<Case> {
    let sizes = [0.0, 1e-30, 1e-10, 1e-4, 0.3, 1.0, 3.0, 20.0, 88.0, 89.0, 100.0, 1e10, 3e38];
    let both = sizes.into_iter().flat_map(|x| [x, -x]);
    let numbers: Vec<f64> = both.chain([f64::INFINITY, f64::NEG_INFINITY, f64::NAN]).collect();
    [
        Unary::Neg,
        Unary::Abs,
        Unary::Sign,
        Unary::Square,
        Unary::Sqrt,
        Unary::Rsqrt,
        Unary::Recip,
        Unary::Exp,
        Unary::Ln,
        Unary::Sin,
        Unary::Cos,
        Unary::Tan,
        Unary::Tanh,
        Unary::Sigmoid,
        Unary::Silu,
        Unary::GeluErf,
        Unary::GeluTanh,
        Unary::Erf,
        Unary::Relu,
        Unary::Floor,
        Unary::Ceil,
        Unary::Round,
        Unary::Acos,
        Unary::Acosh,
        Unary::Asin,
        Unary::Asinh,
        Unary::Atan,
        Unary::Atanh,
        Unary::Cosh,
        Unary::Sinh,
        Unary::Softplus,
    ]
    .into_iter()
    .map(|function| {
        let name = format!("{function:?} of extremes");
        let steps = vec![Step::Input(0), Step::Unary(function, 0)];
        // Mesa's OpenGL compiles it to a maximum, which drops NaN.
        let drops = |x: &&f64| function == Unary::Relu && x.is_nan();
        let numbers: Vec<f64> = numbers.iter().filter(|x| !drops(x)).copied().collect();
        let x = Array::f32(&[numbers.len()], numbers.clone());
        // Their small results are differences of 1 and a number near 1.
        let is_gelu = matches!(function, Unary::GeluErf | Unary::GeluTanh);
        let tolerance = if is_gelu { Tolerance::Approximate } else { Tolerance::Relative };
        case(&name, steps, &[x], &[numbers.len()], tolerance).of_own_kernels()
    })
    .collect()
}

/// Powers whose base or exponent is extreme.
fn powers() -> Vec<Case> {
    let (infinity, nan) = (f64::INFINITY, f64::NAN);
    let pairs = [
        (0.0, 0.0),
        (0.0, -1.0),
        (0.0, 2.5),
        (-2.0, 3.0),
        (-2.0, 101.0),
        (-8.0, 0.25),
        (2.0, 200.0),
        (2.0, -200.0),
        (1.0, infinity),
        (0.5, infinity),
        (2.0, infinity),
        (2.0, -infinity),
        (infinity, 0.5),
        (infinity, -2.0),
        (-infinity, 3.0),
        (nan, 2.0),
        (nan, 0.0),
        (2.0, nan),
        (1.0, nan),
        (-1.0, infinity),
        (3.0, 70.0),
        (1.5, -70.5),
    ];
    let base = Array::f32(&[22], pairs.iter().map(|pair| pair.0).collect());
    let exponent = Array::f32(&[22], pairs.iter().map(|pair| pair.1).collect());
    let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(Binary::Pow, 0, 1)];
    vec![case("Pow of extremes", steps, &[base, exponent], &[22], Tolerance::Relative)]
}

/// Division by zero, and of the smallest integer by -1, as WGSL defines them.
fn divisions() -> Vec<Case> {
    let (least, most) = (f64::from(i32::MIN), f64::from(i32::MAX));
    let all = f64::from(u32::MAX);
    let table: [(Binary, DType, [f64; 6], [f64; 6], [f64; 6]); 4] = [
        (
            Binary::Div,
            DType::I32,
            [7.0, -7.0, least, most, least, 0.0],
            [0.0, 0.0, -1.0, -1.0, 0.0, 0.0],
            [7.0, -7.0, least, -most, least, 0.0],
        ),
        (
            Binary::Rem,
            DType::I32,
            [7.0, -7.0, least, most, least, -7.0],
            [0.0, 0.0, -1.0, -1.0, 0.0, 4.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, -3.0],
        ),
        (
            Binary::Div,
            DType::U32,
            [7.0, 0.0, all, all, 9.0, 4e9],
            [0.0, 0.0, 0.0, 1.0, 4.0, 3e9],
            [7.0, 0.0, all, all, 2.0, 1.0],
        ),
        (
            Binary::Rem,
            DType::U32,
            [7.0, 0.0, all, all, 9.0, 4e9],
            [0.0, 0.0, 0.0, 1.0, 4.0, 3e9],
            [0.0, 0.0, 0.0, 0.0, 1.0, 1e9],
        ),
    ];
    let mut cases = Vec::new();
    for (function, dtype, left, right, results) in table {
        let array = |numbers: [f64; 6]| Array::of(dtype, &[6], numbers.to_vec());
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
        let name = format!("elementwise/{function:?} of {dtype:?} by nothing");
        let (left, right, expected) = (array(left), array(right), array(results));
        let op = Op::Elementwise(Expr { steps });
        cases.push(Sketch::single(&name, op, &[&left, &right], &expected, Tolerance::Exact));
    }
    // A number that does not fit becomes the nearest one that does; NaN becomes 0.
    let (infinity, nan) = (f64::INFINITY, f64::NAN);
    let floats = [infinity, -infinity, nan, 3e9, -3e9, 1e20, -1e20, 2_147_483_520.0, -0.9, 4e9];
    let i32s = [most, least, 0.0, most, least, most, least, 2_147_483_520.0, 0.0, most];
    // A negative number wraps around, within the range of `I32`.
    let half = 2_147_483_648.0;
    let u32s = [all, half, 0.0, 3e9, half, all, half, 2_147_483_520.0, 0.0, 4e9];
    for (dtype, results) in [(DType::I32, i32s), (DType::U32, u32s)] {
        let (x, expected) =
            (Array::f32(&[10], floats.to_vec()), Array::of(dtype, &[10], results.to_vec()));
        let op = Op::Elementwise(Expr { steps: vec![Step::Input(0), Step::Cast(dtype, 0)] });
        let name = format!("elementwise/what is too large as {dtype:?}");
        cases.push(Sketch::single(&name, op, &[&x], &expected, Tolerance::Exact).of_own_kernels());
    }
    cases
}

/// Integers of all widths at the ends of their ranges.
fn integers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (dtype, low, high) in [
        (DType::I8, -128.0, 127.0),
        (DType::U8, 0.0, 255.0),
        (DType::I16, -32768.0, 32767.0),
        (DType::U16, 0.0, 65535.0),
    ] {
        let left = Array::of(dtype, &[2, 3], vec![low, high, 7.0, 5.0, high, low]);
        let right = Array::of(dtype, &[3], vec![1.0, 3.0, high]);
        let wrapped = |name: &str, steps: &[Step], inputs: &[Array]| {
            let last = steps.len() as u32 - 1;
            let steps = [steps, &[Step::Cast(dtype, last)]].concat();
            case(&format!("{name} of {dtype:?}"), steps, inputs, &[2, 3], Tolerance::Exact)
        };
        for function in [
            Binary::Add,
            Binary::Sub,
            Binary::Mul,
            Binary::Div,
            Binary::Rem,
            Binary::Min,
            Binary::And,
        ] {
            let steps = [Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
            let inputs = [left.clone(), right.clone()];
            cases.push(wrapped(&format!("{function:?}"), &steps, &inputs));
        }
        let steps = [Step::Input(0), Step::Unary(Unary::Not, 0)];
        cases.push(wrapped("Not", &steps, &[left]));
    }
    let shifted = [-8.0, 4.0, -1.0, 2_147_483_647.0, -2_147_483_648.0, 5.0];
    let by = [1.0, 31.0, 32.0, 3.0, -1.0, 100.0];
    for dtype in [DType::I32, DType::U32] {
        let sign = |x: f64| if dtype == DType::U32 { x.abs() } else { x };
        let bases = [3.0, 2.0, 1.0, 0.0, 7.0, -2.0];
        let exponents = [5.0, 30.0, -3.0, 0.0, 1.0, 3.0];
        for (function, left, right) in [
            (Binary::ShiftLeft, shifted, by),
            (Binary::ShiftRight, shifted, by),
            (Binary::Pow, bases, exponents),
        ] {
            let left = Array::of(dtype, &[6], left.map(sign).to_vec());
            let right = Array::of(dtype, &[6], right.map(sign).to_vec());
            cases.push(case(
                &format!("{function:?} of {dtype:?}"),
                vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)],
                &[left, right],
                &[6],
                Tolerance::Exact,
            ));
        }
    }
    cases
}

/// Every conversion, with numbers that do not fit the narrower type.
fn conversions() -> Vec<Case> {
    let mut cases = Vec::new();
    let halves = vec![
        1.0,
        1.000_488_281_25,
        1.001_464_843_75,
        -3.1,
        65504.0,
        65519.996,
        65520.0,
        -1e30,
        6.103_515_625e-5,
        6.1e-5,
        -5.960_464_5e-8,
        2.980_232_2e-8,
        2.980_233e-8,
        8.9e-8,
        1e-20,
        0.0,
    ];
    let mut convert = |name: String, step: Step, input: Array| {
        let shape = input.shape.clone();
        cases.push(case(&name, vec![Step::Input(0), step], &[input], &shape, Tolerance::Exact));
    };
    for to in [DType::F16, DType::BF16] {
        let numbers = Array::f32(&[16], halves.clone());
        convert(format!("F32 rounded to {to:?}"), Step::Cast(to, 0), numbers);
    }
    let any = Array::noise(3820, &[300]).map(|x| f64::from((x * 1000.0) as f32));
    let whole = |dtype: DType| {
        let sign = |x: f64| if dtype == DType::U32 { x.abs() } else { x };
        Array { dtype, ..any.map(|x| sign((x * 300.0).round())) }
    };
    for from in [DType::F32, DType::I32, DType::U32, DType::Bool] {
        for to in DType::ALL {
            let input = match from {
                DType::F32 => any.clone(),
                DType::Bool => Array { dtype: from, ..any.map(|x| f64::from(u8::from(x > 0.0))) },
                _ => whole(from),
            };
            convert(format!("{from:?} to {to:?}"), Step::Cast(to, 0), input);
        }
    }
    for to in [DType::I32, DType::U32] {
        convert(format!("bits of F32 as {to:?}"), Step::Bits(to, 0), any.clone());
        convert(format!("bits of I32 as {to:?}"), Step::Bits(to, 0), whole(DType::I32));
    }
    let large = whole(DType::U32).map(|x| x + 1e9);
    convert("bits of U32 as F32".to_owned(), Step::Bits(DType::F32, 0), large);
    cases
}

/// Constants that have a narrow type in their blob.
fn constants() -> Vec<Case> {
    [DType::F16, DType::BF16, DType::I16, DType::U8, DType::Bool]
        .into_iter()
        .map(|dtype| {
            let mut sketch = Sketch::new(&format!("elementwise/a constant of {dtype:?}"));
            let numbers = vec![1.0, 0.0, 1.0, 1.0, 0.0];
            let constant = sketch.constant(&Array::of(dtype, &[5], numbers.clone()));
            let input = sketch.input(&Array::f32(&[5], vec![3.0; 5]));
            let steps = vec![
                Step::Input(0),
                Step::Input(1),
                Step::Cast(DType::F32, 1),
                Step::Binary(Binary::Mul, 0, 2),
            ];
            let op = Op::Elementwise(Expr { steps });
            let output = sketch.node(op, &[input, constant], DType::F32, &[5]);
            let expected = Array::f32(&[5], numbers.iter().map(|number| 3.0 * number).collect());
            sketch.case(output, &expected, Tolerance::Exact)
        })
        .collect()
}

/// Infinities and NaN.
fn not_numbers() -> Vec<Case> {
    let (infinity, nan) = (f64::INFINITY, f64::NAN);
    let numbers = vec![infinity, -infinity, nan, 0.0, -1.5, 3.4e38, nan, -0.0];
    let special = Array::f32(&[8], numbers);
    let other = Array::f32(&[8], vec![1.0, 2.0, 3.0, -infinity, infinity, 4.0, nan, 5.0]);
    let mut cases = Vec::new();
    let mut add = |name: String, steps: Vec<Step>, inputs: &[&Array]| {
        let inputs: Vec<Array> = inputs.iter().map(|&array| array.clone()).collect();
        cases.push(case(&name, steps, &inputs, &[8], Tolerance::Exact));
    };
    for test in [Test::Nan, Test::PositiveInfinity, Test::NegativeInfinity] {
        let steps = vec![Step::Input(0), Step::Test(test, 0)];
        add(format!("is {test:?}"), steps, &[&special]);
    }
    for function in [Binary::Min, Binary::Max] {
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
        add(format!("{function:?} of what is not a number"), steps, &[&special, &other]);
    }
    for to in [DType::F16, DType::BF16, DType::Bool] {
        let steps = vec![Step::Input(0), Step::Cast(to, 0)];
        add(format!("what is not a number as {to:?}"), steps, &[&special]);
    }
    let chosen = vec![
        Step::Input(0),
        Step::Test(Test::Nan, 0),
        Step::Float(f32::NEG_INFINITY),
        Step::Float(f32::NAN),
        Step::Float(2.5),
        Step::Input(1),
        Step::Binary(Binary::Gt, 5, 4),
        Step::Select(6, 2, 3),
        Step::Select(1, 7, 0),
    ];
    add("constants without a literal".to_owned(), chosen, &[&special, &other]);
    cases
}

/// Remainders of floating-point numbers of very different sizes.
fn remainders() -> Vec<Case> {
    let infinity = f64::INFINITY;
    let left = vec![-4.3, 7.2, 5.0, -3.0, 3.0, infinity, 1.0, 1e30, -1e30, 6.0, -6.0];
    let right = vec![2.1, -3.4, 8.0, infinity, infinity, 2.0, 0.0, 3.1, 7e-3, -2.0, 2.0];
    let (left, right) = (Array::f32(&[11], left), Array::f32(&[11], right));
    let numbers = left.numbers.iter().zip(&right.numbers);
    let numbers = numbers.map(|(&a, &b)| f64::from((a % b) as f32)).collect();
    vec![Sketch::single(
        "elementwise/Rem of any size",
        Op::Elementwise(Expr {
            steps: vec![Step::Input(0), Step::Input(1), Step::Binary(Binary::Rem, 0, 1)],
        }),
        &[&left, &right],
        &Array::of(DType::F32, &[11], numbers),
        Tolerance::Exact,
    )]
}
