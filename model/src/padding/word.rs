//! Functions of known words; `None` where implementations may differ in the last bit.

use flotilla_program::{Binary, Test, Unary};
use flotilla_tensor::DType;

use super::fill::EXP_ZERO;

pub(super) fn unary(function: Unary, dtype: DType, word: u32) -> Option<u32> {
    match dtype {
        DType::F32 => float_unary(function, f32::from_bits(word)).map(f32::to_bits),
        DType::Bool => (function == Unary::Not).then_some(u32::from(word == 0)),
        DType::I32 => match function {
            Unary::Neg => Some((word as i32).wrapping_neg() as u32),
            Unary::Abs => Some((word as i32).wrapping_abs() as u32),
            Unary::Sign => Some((word as i32).signum() as u32),
            Unary::Relu => Some((word as i32).max(0) as u32),
            Unary::Square => Some(word.wrapping_mul(word)),
            Unary::Not => Some(!word),
            _ => None,
        },
        DType::U32 => match function {
            Unary::Sign => Some(word.min(1)),
            Unary::Square => Some(word.wrapping_mul(word)),
            Unary::Not => Some(!word),
            _ => None,
        },
        _ => None,
    }
}

fn float_unary(function: Unary, x: f32) -> Option<f32> {
    let exact = match function {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        Unary::Square => x * x,
        Unary::Relu if x >= 0.0 => x,
        Unary::Relu => 0.0,
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        Unary::Sign if x == 0.0 => 0.0,
        Unary::Sign => x.signum(),
        Unary::Exp if x < EXP_ZERO => 0.0,
        // Products with 0.
        Unary::Silu | Unary::GeluErf | Unary::GeluTanh if x == 0.0 => 0.0,
        _ => return None,
    };
    representable(exact)
}

/// NaN is not a known word, and a subnormal number may be flushed to zero.
fn representable(x: f32) -> Option<f32> {
    (!x.is_nan() && !x.is_subnormal()).then_some(x)
}

pub(super) fn binary(function: Binary, dtype: DType, a: u32, b: u32) -> Option<u32> {
    if let Some(answer) = compared(function, dtype, a, b) {
        return answer.map(u32::from);
    }
    match dtype {
        DType::F32 => {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let exact = match function {
                Binary::Add => a + b,
                Binary::Sub => a - b,
                Binary::Mul => a * b,
                Binary::Div if b == 1.0 || a == 0.0 && b != 0.0 => a / b,
                Binary::Min => a.min(b),
                Binary::Max => a.max(b),
                _ => return None,
            };
            representable(exact).map(f32::to_bits)
        }
        DType::I32 | DType::U32 | DType::Bool => match function {
            Binary::Add => Some(a.wrapping_add(b)),
            Binary::Sub => Some(a.wrapping_sub(b)),
            Binary::Mul => Some(a.wrapping_mul(b)),
            Binary::And => Some(a & b),
            Binary::Or => Some(a | b),
            Binary::Xor => Some(a ^ b),
            Binary::Min | Binary::Max => {
                let first_is_less = if dtype == DType::I32 { (a as i32) < b as i32 } else { a < b };
                Some(if first_is_less == (function == Binary::Min) { a } else { b })
            }
            _ => None,
        },
        _ => None,
    }
}

/// The result of a comparison, `Some(None)` if it has none; `None` for another function.
fn compared(function: Binary, dtype: DType, a: u32, b: u32) -> Option<Option<bool>> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let wanted: &[std::cmp::Ordering] = match function {
        Binary::Eq => &[Equal],
        Binary::Ne => &[Less, Greater],
        Binary::Lt => &[Less],
        Binary::Le => &[Less, Equal],
        Binary::Gt => &[Greater],
        Binary::Ge => &[Greater, Equal],
        _ => return None,
    };
    let order = match dtype {
        DType::F32 => f32::from_bits(a).partial_cmp(&f32::from_bits(b)),
        DType::I32 => Some((a as i32).cmp(&(b as i32))),
        _ => Some(a.cmp(&b)),
    };
    Some(order.map(|order| wanted.contains(&order)))
}

/// Conversion of numbers that every type involved holds exactly.
pub(super) fn cast(from: DType, to: DType, word: u32) -> Option<u32> {
    let number = match from {
        DType::F32 => f64::from(f32::from_bits(word)),
        DType::I32 => f64::from(word as i32),
        _ => f64::from(word),
    };
    if to == DType::Bool {
        return Some(u32::from(number != 0.0));
    }
    if to == from {
        return Some(word);
    }
    if to == DType::F32 && number.abs() <= f64::from(1 << 24) {
        return Some((number as f32).to_bits());
    }
    // An integer of at most seven bits has the same value in every type.
    let small = (0.0..128.0).contains(&number) && number.fract() == 0.0;
    small.then(|| if to.is_float() { (number as f32).to_bits() } else { number as u32 })
}

pub(super) fn test(test: Test, word: u32) -> u32 {
    let number = f32::from_bits(word);
    u32::from(match test {
        Test::Nan => number.is_nan(),
        Test::PositiveInfinity => number == f32::INFINITY,
        Test::NegativeInfinity => number == f32::NEG_INFINITY,
    })
}
