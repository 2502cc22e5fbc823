//! Conversions between element types, which are words of four types; to narrow types they round or wrap.

use flotilla_tensor::DType;

/// The WGSL expression that converts `value`, a word of type `from`; it calls functions of `functions.wgsl`.
pub(super) fn wgsl(from: DType, to: DType, value: &str) -> String {
    let float = match from {
        DType::F32 => value.to_owned(),
        DType::Bool => format!("select(0.0, 1.0, {value})"),
        _ => format!("f32({value})"),
    };
    let signed = match from {
        DType::F32 => format!("to_int({value})"),
        DType::Bool => format!("select(0i, 1i, {value})"),
        DType::U32 => format!("bitcast<i32>({value})"),
        _ => value.to_owned(),
    };
    let unsigned = match from {
        DType::F32 => format!("to_uint({value})"),
        DType::Bool => format!("select(0u, 1u, {value})"),
        DType::I32 => format!("bitcast<u32>({value})"),
        _ => value.to_owned(),
    };
    match to {
        DType::F32 | DType::F64 => float,
        DType::F16 => format!("to_half({float})"),
        DType::BF16 => format!("to_brain({float})"),
        DType::I32 | DType::I64 => signed,
        DType::I16 => format!("(({signed} << 16u) >> 16u)"),
        DType::I8 => format!("(({signed} << 24u) >> 24u)"),
        DType::U32 | DType::U64 => unsigned,
        DType::U16 => format!("({unsigned} & 0xffffu)"),
        DType::U8 => format!("({unsigned} & 0xffu)"),
        DType::Bool => match from {
            // A subnormal number is not zero, even if the adapter's arithmetic flushes it to zero.
            DType::F32 => format!("((bitcast<u32>({value}) & 0x7fffffffu) != 0u)"),
            DType::Bool => value.to_owned(),
            _ => format!("({value} != {}(0))", if from == DType::I32 { "i32" } else { "u32" }),
        },
    }
}

/// Converts one word; generic, so that each use is its own loop.
#[inline(always)]
pub(super) fn each(a: &[u32], target: &mut [u32], function: impl Fn(u32) -> u32) {
    target.iter_mut().zip(a).for_each(|(value, &word)| *value = function(word));
}

/// Converts words of type `from`.
pub(super) fn block(from: DType, to: DType, a: &[u32], target: &mut [u32]) {
    match from {
        DType::F32 => floats(to, a, target),
        DType::I32 => integers(to, a, target, |word| word as i32 as f32),
        _ => integers(to, a, target, |word| word as f32),
    }
}

fn floats(to: DType, a: &[u32], target: &mut [u32]) {
    let signed = |word: u32| f32::from_bits(word) as i32;
    // A negative number wraps, as it does in numpy.
    let unsigned = |word: u32| {
        let number = f32::from_bits(word);
        if number < 0.0 { number as i32 as u32 } else { number as u32 }
    };
    match to {
        DType::F32 | DType::F64 => target.copy_from_slice(a),
        DType::F16 => {
            each(a, target, |word| half::f16::from_f32(f32::from_bits(word)).to_f32().to_bits())
        }
        DType::BF16 => {
            each(a, target, |word| half::bf16::from_f32(f32::from_bits(word)).to_f32().to_bits())
        }
        DType::I32 | DType::I64 => each(a, target, |word| signed(word) as u32),
        DType::I16 => each(a, target, |word| i32::from(signed(word) as i16) as u32),
        DType::I8 => each(a, target, |word| i32::from(signed(word) as i8) as u32),
        DType::U32 | DType::U64 => each(a, target, unsigned),
        DType::U16 => each(a, target, |word| unsigned(word) & 0xffff),
        DType::U8 => each(a, target, |word| unsigned(word) & 0xff),
        DType::Bool => each(a, target, |word| u32::from(f32::from_bits(word) != 0.0)),
    }
}

fn integers(to: DType, a: &[u32], target: &mut [u32], number: impl Fn(u32) -> f32) {
    match to {
        DType::F32 | DType::F64 => each(a, target, |word| number(word).to_bits()),
        DType::F16 => each(a, target, |word| half::f16::from_f32(number(word)).to_f32().to_bits()),
        DType::BF16 => {
            each(a, target, |word| half::bf16::from_f32(number(word)).to_f32().to_bits())
        }
        DType::I32 | DType::I64 | DType::U32 | DType::U64 => target.copy_from_slice(a),
        DType::I16 => each(a, target, |word| i32::from(word as i16) as u32),
        DType::I8 => each(a, target, |word| i32::from(word as i8) as u32),
        DType::U16 => each(a, target, |word| word & 0xffff),
        DType::U8 => each(a, target, |word| word & 0xff),
        DType::Bool => each(a, target, |word| u32::from(word != 0)),
    }
}
