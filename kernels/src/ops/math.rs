//! Functions of one operand: on the cpu as branch-free code that vectorizes, in WGSL where the language's own functions are
//! missing or too inexact.

mod circular;
mod inverse;

use flotilla_program::Unary;

/// `exp`, to within 2 roundings. Range reduction to `|r| <= ln 2 / 2` and a Taylor polynomial of degree 7.
/// Source: Cody and Waite, "Software Manual for the Elementary Functions", 6.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting this number rounds to the nearest integer without a call.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.7);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // Two factors, because 2^128 is not a finite number.
    let half = (n as i32) >> 1;
    let scale = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    let result = p * scale(half) * scale(n as i32 - half);
    if x > 88.73 {
        f32::INFINITY
    } else if x < -87.3 {
        0.0
    } else {
        result
    }
}

/// Rational minimax approximation on -4..4. Source: the coefficients of Eigen's `generic_fast_erf_float`.
const ERF_P: [f32; 7] = [
    -1.609_603_3e-2,
    -2.954_6e-3,
    -7.349_906e-4,
    -5.692_506_4e-5,
    -2.101_024e-6,
    2.770_681_4e-8,
    -2.726_142_3e-10,
];
const ERF_Q: [f32; 5] =
    [-1.426_474e-2, -7.373_329e-3, -1.682_827e-3, -2.133_740_6e-4, -1.456_607_2e-5];

/// Rational minimax approximation on -7.9..7.9. Source: the coefficients of Eigen's `generic_fast_tanh_float`.
const TANH_P: [f32; 7] = [
    4.893_524_6e-3,
    6.372_619_3e-4,
    1.485_722_4e-5,
    5.122_297e-8,
    -8.604_672e-11,
    2.000_188e-13,
    -2.760_768_5e-16,
];
const TANH_Q: [f32; 4] = [4.893_525e-3, 2.268_434_6e-3, 1.185_347e-4, 1.198_258_4e-6];

const ERF_END: f32 = 4.0;
const TANH_END: f32 = 7.905_311;

#[inline(always)]
fn horner<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[N - 1];
    for index in (0..N - 1).rev() {
        sum = sum * x + coefficients[index];
    }
    sum
}

#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let clamped = x.clamp(-ERF_END, ERF_END);
    let square = clamped * clamped;
    let near = clamped * horner(square, ERF_P) / horner(square, ERF_Q);
    // A result one rounding below 1 would later be multiplied by large numbers.
    if x.abs() >= ERF_END { 1.0f32.copysign(x) } else { near }
}

#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let clamped = x.clamp(-TANH_END, TANH_END);
    let square = clamped * clamped;
    clamped * horner(square, TANH_P) / horner(square, TANH_Q)
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Applies a function to floats in place; the match is outside of the loop so that each loop vectorizes.
pub(crate) fn apply(unary: Unary, values: &mut [f32]) {
    #[inline(always)]
    fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
        let (blocks, rest) = values.as_chunks_mut::<8>();
        for block in blocks {
            for value in block {
                *value = function(*value);
            }
        }
        for value in rest {
            *value = function(*value);
        }
    }
    const SQRT_HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;
    match unary {
        Unary::Neg => each(values, |x| -x),
        Unary::Abs => each(values, f32::abs),
        Unary::Sign => each(values, |x| f32::from(x > 0.0) - f32::from(x < 0.0)),
        Unary::Square => each(values, |x| x * x),
        Unary::Sqrt => each(values, f32::sqrt),
        Unary::Rsqrt => each(values, |x| 1.0 / x.sqrt()),
        Unary::Recip => each(values, |x| 1.0 / x),
        Unary::Exp => each(values, exp),
        Unary::Ln => each(values, f32::ln),
        Unary::Sin => each(values, f32::sin),
        Unary::Cos => each(values, f32::cos),
        Unary::Tan => each(values, f32::tan),
        Unary::Tanh => each(values, tanh),
        Unary::Sigmoid => each(values, sigmoid),
        Unary::Silu => each(values, |x| x * sigmoid(x)),
        Unary::GeluErf => each(values, |x| 0.5 * x * (1.0 + erf(x * SQRT_HALF))),
        Unary::GeluTanh => {
            each(values, |x| 0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x))))
        }
        Unary::Erf => each(values, erf),
        Unary::Relu => each(values, |x| if x < 0.0 { 0.0 } else { x }),
        Unary::Floor => each(values, f32::floor),
        Unary::Ceil => each(values, f32::ceil),
        Unary::Round => each(values, f32::round_ties_even),
        Unary::Not => each(values, |x| f32::from(x == 0.0)),
        Unary::Acos => each(values, f32::acos),
        // These overflow for large `f32`, or are inexact for small ones.
        Unary::Acosh => each(values, |x| f64::from(x).acosh() as f32),
        Unary::Asin => each(values, f32::asin),
        Unary::Asinh => each(values, |x| f64::from(x).asinh() as f32),
        Unary::Atan => each(values, f32::atan),
        Unary::Atanh => each(values, |x| f64::from(x).atanh() as f32),
        Unary::Cosh => each(values, f32::cosh),
        Unary::Sinh => each(values, f32::sinh),
        Unary::Softplus => each(values, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// A WGSL function `name` from and to `ty` (`f32` or `vec4<f32>`) that computes `unary`.
pub(crate) fn wgsl(unary: Unary, name: &str, ty: &str) -> String {
    let erf = |x: &str| {
        format!(
            "let c = clamp({x}, {ty}(-{ERF_END:?}), {ty}({ERF_END:?}));\n    let s = c * c;\n    let e = select(c * ({}) / ({}), sign(c), abs(c) >= {ty}({ERF_END:?}));",
            horner_wgsl("s", ty, &ERF_P),
            horner_wgsl("s", ty, &ERF_Q)
        )
    };
    let tanh = |x: &str| {
        format!(
            "let c = clamp({x}, {ty}(-{TANH_END:?}), {ty}({TANH_END:?}));\n    let s = c * c;\n    let e = c * ({}) / ({});",
            horner_wgsl("s", ty, &TANH_P),
            horner_wgsl("s", ty, &TANH_Q)
        )
    };
    let body = match unary {
        Unary::Neg => "return -x;".to_owned(),
        Unary::Abs => "return abs(x);".to_owned(),
        Unary::Sign => "return sign(x);".to_owned(),
        Unary::Square => "return x * x;".to_owned(),
        Unary::Sqrt => "return sqrt(x);".to_owned(),
        Unary::Rsqrt => format!("return {ty}(1.0) / sqrt(x);"),
        Unary::Recip => format!("return {ty}(1.0) / x;"),
        Unary::Exp => "return exp(x);".to_owned(),
        Unary::Ln => "return log(x);".to_owned(),
        Unary::Sin => format!("{} return sine;", circular::body(name, ty)),
        Unary::Cos => format!("{} return cosine;", circular::body(name, ty)),
        Unary::Tan => format!("{} return sine / cosine;", circular::body(name, ty)),
        Unary::Tanh => format!("{} return {};", tanh("x"), or_nan("e", ty)),
        Unary::Sigmoid => format!("return {ty}(1.0) / ({ty}(1.0) + exp(-x));"),
        Unary::Silu => format!("return x / ({ty}(1.0) + exp(-x));"),
        Unary::GeluErf => {
            format!(
                "{} return 0.5 * x * ({ty}(1.0) + e);",
                erf(&format!("x * {:?}", std::f32::consts::FRAC_1_SQRT_2))
            )
        }
        Unary::GeluTanh => {
            let inner = format!("{SQRT_2_OVER_PI:?} * (x + 0.044715 * x * x * x)");
            format!("{} return 0.5 * x * ({ty}(1.0) + e);", tanh(&inner))
        }
        Unary::Erf => format!("{} return {};", erf("x"), or_nan("e", ty)),
        Unary::Relu => format!("return select(x, {ty}(0.0), x < {ty}(0.0));"),
        Unary::Floor => "return floor(x);".to_owned(),
        Unary::Ceil => "return ceil(x);".to_owned(),
        Unary::Round => "return round(x);".to_owned(),
        Unary::Not => format!("return select({ty}(0.0), {ty}(1.0), x == {ty}(0.0));"),
        Unary::Acos => inverse::acos(ty),
        Unary::Acosh => inverse::acosh(ty),
        Unary::Asin => inverse::asin(ty),
        Unary::Asinh => inverse::asinh(ty),
        Unary::Atan => inverse::atan(ty),
        Unary::Atanh => inverse::atanh(ty),
        Unary::Cosh => inverse::cosh(),
        Unary::Sinh => inverse::sinh(ty),
        Unary::Softplus => inverse::softplus(ty),
    };
    let before = match unary {
        Unary::Sin | Unary::Cos | Unary::Tan => circular::reduction(name),
        _ => String::new(),
    };
    format!("{before}fn {name}(x: {ty}) -> {ty} {{\n    {body}\n}}\n")
}

/// `result`, or `x` if that is NaN, which WGSL's `clamp` may have lost. A compiler may assume that there are no NaNs, so bits
/// are compared.
fn or_nan(result: &str, ty: &str) -> String {
    let bits = if ty == "f32" { "u32" } else { "vec4<u32>" };
    format!("select({result}, x, (bitcast<{bits}>(x) & {bits}(0x7fffffffu)) > {bits}(0x7f800000u))")
}

fn horner_wgsl(x: &str, ty: &str, coefficients: &[f32]) -> String {
    let (last, rest) = coefficients.split_last().unwrap_or((&0.0, &[]));
    rest.iter().rev().fold(format!("{ty}({last:e})"), |sum, coefficient| {
        format!("({sum} * {x} + {ty}({coefficient:e}))")
    })
}

/// What [`apply`] approximates, in `f64`.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn exact(unary: Unary, x: f64) -> f64 {
    match unary {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Sign => f64::from(x > 0.0) - f64::from(x < 0.0),
        Unary::Square => x * x,
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => x.sqrt().recip(),
        Unary::Recip => x.recip(),
        Unary::Exp => x.exp(),
        Unary::Ln => x.ln(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tan => x.tan(),
        Unary::Tanh => x.tanh(),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::GeluErf => 0.5 * x * (1.0 + exact_erf(x / std::f64::consts::SQRT_2)),
        Unary::GeluTanh => {
            0.5 * x
                * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh())
        }
        Unary::Erf => exact_erf(x),
        Unary::Relu if x < 0.0 => 0.0,
        Unary::Relu => x,
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Not => f64::from(x == 0.0),
        Unary::Acos => x.acos(),
        Unary::Acosh => x.acosh(),
        Unary::Asin => x.asin(),
        Unary::Asinh => x.asinh(),
        Unary::Atan => x.atan(),
        Unary::Atanh => x.atanh(),
        Unary::Cosh => x.cosh(),
        Unary::Sinh => x.sinh(),
        Unary::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
    }
}

/// The series of Abramowitz and Stegun, 7.1.6, whose terms all have one sign.
#[cfg(not(target_arch = "wasm32"))]
fn exact_erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(unary: Unary, low: f64, high: f64) -> f64 {
        (0..=20_000)
            .map(|step| {
                let x = (low + (high - low) * f64::from(step) / 20_000.0) as f32;
                let mut got = [x];
                apply(unary, &mut got);
                let want = exact(unary, f64::from(x));
                (f64::from(got[0]) - want).abs() / want.abs().max(1e-30)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn approximations_are_within_a_millionth() {
        for (unary, low, high) in [
            (Unary::Exp, -87.0, 88.0),
            (Unary::Tanh, -12.0, 12.0),
            (Unary::Erf, -6.0, 6.0),
            (Unary::Sigmoid, -80.0, 80.0),
            (Unary::Silu, -80.0, 80.0),
            (Unary::GeluErf, -1.0, 9.0),
            (Unary::GeluTanh, -1.0, 9.0),
        ] {
            let worst = worst(unary, low, high);
            assert!(worst <= 1e-6, "{unary:?} is wrong by {worst:e}");
        }
    }

    #[test]
    fn exp_has_its_limits() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-3.4e38), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
    }
}
