//! Expressions on the cpu: each step is applied to a block of elements.

use flotilla_program::{Binary, Expr, Step, Test, Unary};
use flotilla_tensor::DType;

use super::{
    super::{Operand, math},
    convert, dim_value, types,
};
use crate::call::{Call, broadcast_strides};

/// Elements of a block; a few registers of this size stay in cache.
const REGISTER: usize = 256;

type Register = [u32; REGISTER];

/// Computes every element of `output`.
pub(super) fn compute(
    expr: &Expr,
    call: &Call<'_>,
    operands: &[Operand<'_>],
    output: &mut [u32],
) -> Result<(), String> {
    let types = types(expr, |index| call.signature.input(index).dtype)?;
    let shape = call.output();
    let strides = (0..call.inputs())
        .map(|input| broadcast_strides(call.input(input), shape))
        .collect::<Result<Vec<_>, String>>()?;
    let mut registers = vec![[0u32; REGISTER]; expr.steps.len()];
    for (index, step) in expr.steps.iter().enumerate() {
        match step {
            Step::Float(value) => registers[index] = [value.to_bits(); REGISTER],
            Step::Int(value) => registers[index] = [*value as u32; REGISTER],
            Step::Dim(dim) => registers[index] = [dim_value(call, dim)? as u32; REGISTER],
            _ => {}
        }
    }
    for (block, output) in output.chunks_mut(REGISTER).enumerate() {
        for (index, step) in expr.steps.iter().enumerate() {
            let (earlier, rest) = registers.split_at_mut(index);
            let Some(target) = rest.first_mut() else { continue };
            let of = |id: &u32| &earlier[*id as usize];
            let dtype = |id: &u32| types[*id as usize];
            match step {
                Step::Float(_) | Step::Int(_) | Step::Dim(_) => {}
                Step::Input(input) => {
                    let input = *input as usize;
                    fill(
                        &mut target[..output.len()],
                        operands[input].words(),
                        shape,
                        &strides[input],
                        block * REGISTER,
                    );
                }
                Step::Unary(unary, a) => unary_block(*unary, dtype(a), of(a), target),
                Step::Binary(binary, a, b) => {
                    binary_block(*binary, dtype(a), of(a), of(b), target);
                }
                Step::Select(condition, a, b) => {
                    for (lane, value) in target.iter_mut().enumerate() {
                        *value = if of(condition)[lane] != 0 { of(a)[lane] } else { of(b)[lane] };
                    }
                }
                Step::Cast(to, a) => convert::block(dtype(a), *to, of(a), target),
                Step::Bits(_, a) => *target = *of(a),
                Step::Test(test, a) => test_block(*test, of(a), target),
            }
        }
        if let Some(result) = registers.last() {
            output.copy_from_slice(&result[..output.len()]);
        }
    }
    Ok(())
}

/// Reads the elements of a broadcast input, starting at the flat output index `start`.
fn fill(target: &mut [u32], input: &[u32], shape: &[usize], strides: &[usize], start: usize) {
    let Some((&size, outer)) = shape.split_last() else {
        target.fill(input[0]);
        return;
    };
    let stride = strides[outer.len()];
    let (mut line, mut at) = (start / size, start % size);
    let mut done = 0;
    while done < target.len() {
        let run = (size - at).min(target.len() - done);
        let mut offset = at * stride;
        let mut rest = line;
        for axis in (0..outer.len()).rev() {
            offset += rest % outer[axis] * strides[axis];
            rest /= outer[axis];
        }
        let target = &mut target[done..done + run];
        match stride {
            0 => target.fill(input[offset]),
            1 => target.copy_from_slice(&input[offset..offset + run]),
            _ => target
                .iter_mut()
                .zip(input[offset..].iter().step_by(stride))
                .for_each(|(value, &word)| *value = word),
        }
        done += run;
        at = 0;
        line += 1;
    }
}

fn unary_block(unary: Unary, dtype: DType, a: &Register, target: &mut Register) {
    *target = *a;
    match dtype {
        DType::F32 => math::apply(unary, bytemuck::cast_slice_mut(target)),
        DType::Bool => target.iter_mut().for_each(|value| *value = u32::from(*value == 0)),
        DType::U32 => {
            let function: fn(u32) -> u32 = match unary {
                Unary::Neg => u32::wrapping_neg,
                Unary::Sign => |x| x.min(1),
                Unary::Square => |x| x.wrapping_mul(x),
                Unary::Not => |x| !x,
                _ => |x| x,
            };
            target.iter_mut().for_each(|value| *value = function(*value));
        }
        _ => {
            let function: fn(i32) -> i32 = match unary {
                Unary::Neg => i32::wrapping_neg,
                Unary::Abs => i32::wrapping_abs,
                Unary::Sign => i32::signum,
                Unary::Square => |x| x.wrapping_mul(x),
                Unary::Relu => |x| x.max(0),
                Unary::Not => |x| !x,
                _ => |x| x,
            };
            bytemuck::cast_slice_mut::<u32, i32>(target)
                .iter_mut()
                .for_each(|value| *value = function(*value));
        }
    }
}

fn test_block(test: Test, a: &Register, target: &mut Register) {
    match test {
        Test::Nan => convert::each(a, target, |word| u32::from(f32::from_bits(word).is_nan())),
        Test::PositiveInfinity => {
            convert::each(a, target, |word| u32::from(f32::from_bits(word) == f32::INFINITY))
        }
        Test::NegativeInfinity => {
            convert::each(a, target, |word| u32::from(f32::from_bits(word) == f32::NEG_INFINITY))
        }
    }
}

fn binary_block(binary: Binary, dtype: DType, a: &Register, b: &Register, target: &mut Register) {
    match dtype {
        DType::F32 => float_block(binary, bytemuck::cast_ref(a), bytemuck::cast_ref(b), target),
        DType::I32 => signed_block(binary, bytemuck::cast_ref(a), bytemuck::cast_ref(b), target),
        _ => unsigned_block(binary, a, b, target),
    }
}

/// Applies a function lane by lane; generic, so that each use vectorizes.
#[inline(always)]
fn lanes<T: Copy, R>(
    a: &[T; REGISTER],
    b: &[T; REGISTER],
    target: &mut [R; REGISTER],
    function: impl Fn(T, T) -> R,
) {
    for lane in 0..REGISTER {
        target[lane] = function(a[lane], b[lane]);
    }
}

fn float_block(binary: Binary, a: &[f32; REGISTER], b: &[f32; REGISTER], target: &mut Register) {
    match binary {
        Binary::Eq => return lanes(a, b, target, |a, b| u32::from(a == b)),
        Binary::Ne => return lanes(a, b, target, |a, b| u32::from(a != b)),
        Binary::Lt => return lanes(a, b, target, |a, b| u32::from(a < b)),
        Binary::Le => return lanes(a, b, target, |a, b| u32::from(a <= b)),
        Binary::Gt => return lanes(a, b, target, |a, b| u32::from(a > b)),
        Binary::Ge => return lanes(a, b, target, |a, b| u32::from(a >= b)),
        _ => {}
    }
    let target: &mut [f32; REGISTER] = bytemuck::cast_mut(target);
    match binary {
        Binary::Add => lanes(a, b, target, |a, b| a + b),
        Binary::Sub => lanes(a, b, target, |a, b| a - b),
        Binary::Mul => lanes(a, b, target, |a, b| a * b),
        Binary::Div => lanes(a, b, target, |a, b| a / b),
        Binary::Rem => lanes(a, b, target, |a, b| a % b),
        Binary::Pow => lanes(a, b, target, f32::powf),
        // Either operand's NaN is the result, as in numpy.
        Binary::Min => lanes(a, b, target, |a, b| if a < b || a.is_nan() { a } else { b }),
        _ => lanes(a, b, target, |a, b| if a > b || a.is_nan() { a } else { b }),
    }
}

/// `base` to the power of `exponent`. A negative power is a fraction, which is 0 except for the bases 1 and
/// -1.
fn signed_power(base: i32, exponent: i32) -> i32 {
    match (base, u32::try_from(exponent)) {
        (_, Ok(exponent)) => base.wrapping_pow(exponent),
        (1, _) => 1,
        (-1, _) if exponent % 2 == 0 => 1,
        (-1, _) => -1,
        _ => 0,
    }
}

/// Division as in WGSL: division by zero gives the dividend, and the remainder is 0.
fn signed_block(binary: Binary, a: &[i32; REGISTER], b: &[i32; REGISTER], target: &mut Register) {
    match binary {
        Binary::Lt => return lanes(a, b, target, |a, b| u32::from(a < b)),
        Binary::Le => return lanes(a, b, target, |a, b| u32::from(a <= b)),
        Binary::Gt => return lanes(a, b, target, |a, b| u32::from(a > b)),
        Binary::Ge => return lanes(a, b, target, |a, b| u32::from(a >= b)),
        _ => {}
    }
    let result: &mut [i32; REGISTER] = bytemuck::cast_mut(target);
    match binary {
        Binary::Div => lanes(a, b, result, |a, b| if b == 0 { a } else { a.wrapping_div(b) }),
        Binary::Rem => lanes(a, b, result, |a, b| if b == 0 { 0 } else { a.wrapping_rem(b) }),
        Binary::Pow => lanes(a, b, result, signed_power),
        Binary::ShiftLeft => {
            lanes(a, b, result, |a, b| if (0..32).contains(&b) { a << b } else { 0 })
        }
        Binary::ShiftRight => lanes(a, b, result, |a, b| a >> (b as u32).min(31)),
        Binary::Min => lanes(a, b, result, i32::min),
        Binary::Max => lanes(a, b, result, i32::max),
        _ => unsigned_block(binary, bytemuck::cast_ref(a), bytemuck::cast_ref(b), target),
    }
}

fn unsigned_block(binary: Binary, a: &Register, b: &Register, target: &mut Register) {
    match binary {
        Binary::Add => lanes(a, b, target, u32::wrapping_add),
        Binary::Sub => lanes(a, b, target, u32::wrapping_sub),
        Binary::Mul => lanes(a, b, target, u32::wrapping_mul),
        Binary::Div => lanes(a, b, target, |a, b| a.checked_div(b).unwrap_or(a)),
        Binary::Rem => lanes(a, b, target, |a, b| a.checked_rem(b).unwrap_or(0)),
        Binary::Pow => lanes(a, b, target, u32::wrapping_pow),
        Binary::Min => lanes(a, b, target, u32::min),
        Binary::Max => lanes(a, b, target, u32::max),
        Binary::Eq => lanes(a, b, target, |a, b| u32::from(a == b)),
        Binary::Ne => lanes(a, b, target, |a, b| u32::from(a != b)),
        Binary::Lt => lanes(a, b, target, |a, b| u32::from(a < b)),
        Binary::Le => lanes(a, b, target, |a, b| u32::from(a <= b)),
        Binary::Gt => lanes(a, b, target, |a, b| u32::from(a > b)),
        Binary::Ge => lanes(a, b, target, |a, b| u32::from(a >= b)),
        Binary::And => lanes(a, b, target, |a, b| a & b),
        Binary::Or => lanes(a, b, target, |a, b| a | b),
        Binary::Xor => lanes(a, b, target, |a, b| a ^ b),
        Binary::ShiftLeft => lanes(a, b, target, |a, b| a.checked_shl(b).unwrap_or(0)),
        Binary::ShiftRight => lanes(a, b, target, |a, b| a.checked_shr(b).unwrap_or(0)),
    }
}
