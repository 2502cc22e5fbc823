//! The table of cases, and expressions in naive `f64` code.

use flotilla_program::{Binary, Expr, Step, Test, Unary};
use flotilla_tensor::DType;

use super::{super::math, extremes, result_type, types};
use crate::suite::{Array, Case, Sketch, Tolerance};

/// One step in `f64`; integers and booleans are whole numbers there.
fn exact(expr: &Expr, types: &[DType], input: impl Fn(usize) -> f64) -> f64 {
    let mut values: Vec<f64> = Vec::new();
    for (index, step) in expr.steps.iter().enumerate() {
        let of = |id: &u32| values[*id as usize];
        let truth = |condition: bool| f64::from(u8::from(condition));
        let value = match step {
            Step::Input(index) => input(*index as usize),
            Step::Float(value) => f64::from(*value),
            Step::Int(value) => f64::from(*value),
            Step::Dim(dim) => dim.as_fixed().unwrap_or(0) as f64,
            Step::Unary(Unary::Not, a) => match types[index] {
                DType::Bool => truth(of(a) == 0.0),
                dtype => whole_part(dtype, -1.0 - of(a)),
            },
            Step::Unary(unary, a) => math::exact(*unary, of(a)),
            Step::Binary(binary, a, b) => {
                let (a, b, whole) = (of(a), of(b), types[index] != DType::F32);
                match binary {
                    Binary::Add => a + b,
                    Binary::Sub => a - b,
                    Binary::Mul => a * b,
                    Binary::Div if whole => (a / b).trunc(),
                    Binary::Div => a / b,
                    Binary::Rem => a % b,
                    Binary::Pow => a.powf(b),
                    Binary::Min | Binary::Max if a.is_nan() || b.is_nan() => f64::NAN,
                    Binary::Min => a.min(b),
                    Binary::Max => a.max(b),
                    Binary::Eq => truth(a == b),
                    Binary::Ne => truth(a != b),
                    Binary::Lt => truth(a < b),
                    Binary::Le => truth(a <= b),
                    Binary::Gt => truth(a > b),
                    Binary::Ge => truth(a >= b),
                    Binary::And => (a as i64 & b as i64) as f64,
                    Binary::Or => (a as i64 | b as i64) as f64,
                    Binary::Xor => (a as i64 ^ b as i64) as f64,
                    Binary::ShiftLeft if !(0.0..32.0).contains(&b) => 0.0,
                    Binary::ShiftLeft => whole_part(types[index], a * b.exp2()),
                    Binary::ShiftRight if !(0.0..32.0).contains(&b) => -truth(a < 0.0),
                    Binary::ShiftRight => (a / b.exp2()).floor(),
                }
            }
            Step::Select(condition, a, b) => {
                if of(condition) == 0.0 {
                    of(b)
                } else {
                    of(a)
                }
            }
            Step::Cast(DType::Bool, a) => truth(of(a) != 0.0),
            Step::Cast(DType::F32 | DType::F64, a) => f64::from(of(a) as f32),
            Step::Cast(DType::F16, a) => rounded(of(a), 11, -14, 65504.0),
            Step::Cast(DType::BF16, a) => rounded(of(a), 8, -126, 3.389_531_389_251_535_5e38),
            Step::Cast(to, a) => whole_part(*to, of(a)),
            Step::Bits(DType::F32, a) => f64::from(f32::from_bits(of(a) as i64 as u32)),
            Step::Bits(to, a) => match types[*a as usize] {
                DType::F32 => whole_part(*to, f64::from((of(a) as f32).to_bits())),
                _ => whole_part(*to, of(a)),
            },
            Step::Test(Test::Nan, a) => truth(of(a).is_nan()),
            Step::Test(Test::PositiveInfinity, a) => truth(of(a) == f64::INFINITY),
            Step::Test(Test::NegativeInfinity, a) => truth(of(a) == f64::NEG_INFINITY),
        };
        values.push(value);
    }
    values.last().copied().unwrap_or(f64::NAN)
}

/// The integer part of a number as an integer type has it; a number that does not fit wraps around.
fn whole_part(dtype: DType, number: f64) -> f64 {
    let range = (8.0 * dtype.wire_bytes().min(4) as f64).exp2();
    let wrapped = number.trunc().rem_euclid(range);
    if dtype.storage() == DType::I32 && wrapped >= range / 2.0 { wrapped - range } else { wrapped }
}

/// Rounds to the nearest number with this many binary digits, halves to even.
fn rounded(number: f64, digits: i32, exponent_min: i32, largest: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let exponent = (number.abs().log2().floor() as i32).max(exponent_min);
    let unit = f64::from(exponent - digits + 1).exp2();
    let result = (number / unit).round_ties_even() * unit;
    if result.abs() > largest { f64::INFINITY.copysign(number) } else { result }
}

/// A case of one expression.
pub(super) fn case(
    name: &str,
    steps: Vec<Step>,
    inputs: &[Array],
    out: &[usize],
    tolerance: Tolerance,
) -> Case {
    use flotilla_program::Op;

    let expr = Expr { steps };
    let types = types(&expr, |index| inputs[index].dtype.storage())
        .unwrap_or_else(|reason| panic!("{name}: {reason}"));
    let expected = Array::build(result_type(&types), out, |index| {
        exact(&expr, &types, |input| {
            let array = &inputs[input];
            let index = &index[out.len() - array.shape.len()..];
            let own: Vec<usize> = array
                .shape
                .iter()
                .zip(index)
                .map(|(&size, &at)| if size == 1 { 0 } else { at })
                .collect();
            array.at(&own)
        })
    });
    let name = format!("elementwise/{name}");
    Sketch::single(
        &name,
        Op::Elementwise(expr),
        &inputs.iter().collect::<Vec<_>>(),
        &expected,
        tolerance,
    )
}

pub(crate) fn cases() -> Vec<Case> {
    use Step::{Cast, Dim, Float, Input, Int, Select};

    let unary = |unary| vec![Input(0), Step::Unary(unary, 0)];
    let binary = |binary| vec![Input(0), Input(1), Step::Binary(binary, 0, 1)];
    let mut cases = Vec::new();
    let any = Array::noise(3800, &[3, 100]).map(|x| f64::from((x * 8.0) as f32));
    let positive = any.map(|x| f64::from((x.abs() + 0.01) as f32));
    for function in [
        Unary::Neg,
        Unary::Abs,
        Unary::Sign,
        Unary::Square,
        Unary::Sin,
        Unary::Cos,
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
        Unary::Exp,
    ] {
        let name = format!("{function:?}");
        cases.push(case(
            &name,
            unary(function),
            std::slice::from_ref(&any),
            &[3, 100],
            Tolerance::Approximate,
        ));
    }
    for function in [Unary::Sqrt, Unary::Rsqrt, Unary::Recip, Unary::Ln] {
        let name = format!("{function:?}");
        cases.push(case(
            &name,
            unary(function),
            std::slice::from_ref(&positive),
            &[3, 100],
            Tolerance::Approximate,
        ));
    }
    let small = any.map(|x| f64::from((x / 8.0) as f32));
    cases.push(case("Tan", unary(Unary::Tan), &[small], &[3, 100], Tolerance::Approximate));
    let far = Array::noise(3809, &[200]).map(|x| f64::from((x * 2000.0) as f32));
    cases.push(case(
        "Sin of large angles",
        unary(Unary::Sin),
        std::slice::from_ref(&far),
        &[200],
        Tolerance::Approximate,
    ));
    cases.push(case(
        "Cos of large angles",
        unary(Unary::Cos),
        std::slice::from_ref(&far),
        &[200],
        Tolerance::Approximate,
    ));
    let farther = far.map(|x| f64::from((x * x * x) as f32));
    for function in [Unary::Sin, Unary::Cos] {
        let name = format!("{function:?} of very large angles");
        let x = std::slice::from_ref(&farther);
        cases
            .push(case(&name, unary(function), x, &[200], Tolerance::Approximate).of_own_kernels());
    }

    let left = Array::noise(3801, &[4, 1, 9]);
    let right = Array::noise(3802, &[5, 1]).map(|x| if x.abs() < 0.1 { 0.5 } else { x });
    for function in [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Rem,
        Binary::Min,
        Binary::Max,
        Binary::Lt,
    ] {
        let inputs = [left.clone(), right.clone()];
        cases.push(case(
            &format!("{function:?}"),
            binary(function),
            &inputs,
            &[4, 5, 9],
            Tolerance::Close,
        ));
    }
    let whole =
        |seed| Array { dtype: DType::I32, ..Array::noise(seed, &[40]).map(|x| (x * 5.0).round()) };
    let divisor =
        Array { dtype: DType::I32, ..whole(3804).map(|x| if x == 0.0 { 3.0 } else { x }) };
    for function in [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Rem,
        Binary::Min,
        Binary::Max,
        Binary::Eq,
        Binary::Ne,
        Binary::Lt,
        Binary::Le,
        Binary::Gt,
        Binary::Ge,
        Binary::And,
        Binary::Or,
        Binary::Xor,
    ] {
        let inputs = [whole(3803), divisor.clone()];
        cases.push(case(
            &format!("{function:?} of integers"),
            binary(function),
            &inputs,
            &[40],
            Tolerance::Exact,
        ));
    }
    let base = Array::noise(3805, &[30]).map(|x| f64::from((x * 3.0) as f32));
    let power = |exponent| vec![Input(0), Float(exponent), Step::Binary(Binary::Pow, 0, 1)];
    for exponent in [2.0, 3.0, 5.0, -2.0] {
        let base =
            if exponent < 0.0 { base.map(|x| x.signum() * (x.abs() + 0.5)) } else { base.clone() };
        let base = Array::f32(&[30], base.numbers);
        cases.push(case(
            &format!("to the {exponent}th"),
            power(exponent),
            &[base],
            &[30],
            Tolerance::Approximate,
        ));
    }
    let raised = base.map(|x| f64::from((x.abs() + 0.1) as f32));
    cases.push(case(
        "Pow",
        binary(Binary::Pow),
        &[raised, base.clone()],
        &[30],
        Tolerance::Approximate,
    ));

    let mask = Array::of(DType::I32, &[2, 1, 1, 4], vec![1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
    let to_mask = vec![
        Input(0),
        Int(0),
        Step::Binary(Binary::Eq, 0, 1),
        Float(f32::MIN),
        Float(0.0),
        Select(2, 3, 4),
    ];
    cases.push(case(
        "a mask from integers",
        to_mask,
        std::slice::from_ref(&mask),
        &[2, 1, 1, 4],
        Tolerance::Exact,
    ));
    let logic = vec![
        Input(0),
        Cast(DType::Bool, 0),
        Step::Unary(Unary::Not, 1),
        Input(1),
        Step::Binary(Binary::And, 2, 3),
        Step::Binary(Binary::Xor, 4, 1),
    ];
    let flag = Array::of(DType::Bool, &[4], vec![1.0, 0.0, 1.0, 0.0]);
    cases.push(case(
        "booleans",
        logic,
        &[mask.clone(), flag.clone()],
        &[2, 1, 1, 4],
        Tolerance::Exact,
    ));
    let casts =
        vec![Input(0), Cast(DType::I32, 0), Cast(DType::F32, 1), Step::Binary(Binary::Sub, 0, 2)];
    cases.push(case("truncation", casts, &[base], &[30], Tolerance::Close));
    let unsigned = vec![Input(0), Cast(DType::U32, 0), Cast(DType::F32, 1)];
    cases.push(case("a flag as a number", unsigned, &[flag], &[4], Tolerance::Exact));
    let dims = vec![
        Input(0),
        Dim(7.into()),
        Step::Binary(Binary::Mul, 0, 1),
        Dim(2.into()),
        Step::Binary(Binary::Add, 2, 3),
    ];
    cases.push(case("dimensions", dims, &[mask], &[2, 1, 1, 4], Tolerance::Exact));
    cases.extend(extremes::cases());
    cases
}
