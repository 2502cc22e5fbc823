//! Elements as unsigned numbers with the same order as the elements.

use flotilla_tensor::DType;

/// The number of an element. Zeros of both signs are equal, and NaN with a positive sign is above everything.
pub(super) fn key(dtype: DType, word: u32) -> u32 {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::F64 => {
            let word = if word == 1 << 31 { 0 } else { word };
            if word >> 31 == 1 { !word } else { word | 1 << 31 }
        }
        DType::I64 | DType::I32 | DType::I16 | DType::I8 => word ^ 1 << 31,
        DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::Bool => word,
    }
}

/// `fn key(word: u32) -> u32`, the same in WGSL; `first` decides whether the largest or the smallest has the largest key.
pub(super) fn key_wgsl(dtype: DType, largest_first: bool) -> String {
    let number = match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::F64 => {
            "    let bits = select(word, 0u, word == 0x80000000u);
    let number = select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);\n"
        }
        DType::I64 | DType::I32 | DType::I16 | DType::I8 => {
            "    let number = word ^ 0x80000000u;\n"
        }
        DType::U64 | DType::U32 | DType::U16 | DType::U8 | DType::Bool => {
            "    let number = word;\n"
        }
    };
    let result = if largest_first { "number" } else { "~number" };
    format!("fn key(word: u32) -> u32 {{\n{number}    return {result};\n}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_numbers_do() {
        let floats = [f32::NEG_INFINITY, -2.5, -1e-40, 0.0, 1e-40, 3.0, f32::INFINITY];
        assert!(floats.is_sorted_by_key(|x| key(DType::F32, x.to_bits())));
        assert_eq!(key(DType::F32, (-0.0f32).to_bits()), key(DType::F32, 0));
        let integers = [i32::MIN, -1, 0, 7, i32::MAX];
        assert!(integers.is_sorted_by_key(|&x| key(DType::I32, x as u32)));
    }
}
