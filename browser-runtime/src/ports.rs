//! Between a client's element types and the 32-bit ones inside a page.

use flotilla_program::{DType, Port};
use flotilla_protocol::{RunError, Tensor};

/// A client's tensor as 32-bit words: floats' bits, sign-extended integers, 0 or 1 for `Bool`.
///
/// # Errors
/// Another type than the port's, or an integer that 32 bits do not hold.
pub(crate) fn to_words(port: &Port, tensor: &Tensor) -> Result<Vec<u32>, RunError> {
    if tensor.dtype != port.dtype {
        return Err(RunError::Inputs {
            reason: format!(
                "input {} is {:?}, the program wants {:?}",
                port.name, tensor.dtype, port.dtype
            ),
        });
    }
    let bytes = &tensor.bytes;
    let over = |value: &dyn std::fmt::Display| RunError::Inputs {
        reason: format!(
            "input {} has {value}, which does not fit the 32 bits that a page computes with",
            port.name
        ),
    };
    match port.dtype {
        DType::I64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|chunk| i64::from_le_bytes(*chunk))
            .map(|value| i32::try_from(value).map(|value| value as u32).map_err(|_| over(&value)))
            .collect(),
        DType::U64 => bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|chunk| u64::from_le_bytes(*chunk))
            .map(|value| u32::try_from(value).map_err(|_| over(&value)))
            .collect(),
        DType::F32
        | DType::F16
        | DType::BF16
        | DType::I32
        | DType::I16
        | DType::I8
        | DType::U32
        | DType::U16
        | DType::U8
        | DType::Bool => Ok(words(port.dtype, bytes)),
    }
}

/// Elements of a type as 32-bit words; of 64-bit ones only the lower half is kept.
pub(crate) fn words(dtype: DType, bytes: &[u8]) -> Vec<u32> {
    fn each<const N: usize>(bytes: &[u8], word: impl Fn([u8; N]) -> u32) -> Vec<u32> {
        bytes.as_chunks::<N>().0.iter().map(|element| word(*element)).collect()
    }
    match dtype {
        DType::F32 | DType::I32 | DType::U32 => each(bytes, u32::from_le_bytes),
        DType::F16 => each(bytes, |half| half::f16::from_le_bytes(half).to_f32().to_bits()),
        DType::BF16 => each(bytes, |half| half::bf16::from_le_bytes(half).to_f32().to_bits()),
        DType::I64 | DType::U64 => each(bytes, |wide| u64::from_le_bytes(wide) as u32),
        DType::I16 => each(bytes, |half| i32::from(i16::from_le_bytes(half)) as u32),
        DType::U16 => each(bytes, |half| u32::from(u16::from_le_bytes(half))),
        DType::I8 => each(bytes, |[byte]| i32::from(byte as i8) as u32),
        DType::U8 => each(bytes, |[byte]| u32::from(byte)),
        DType::Bool => each(bytes, |[byte]| u32::from(byte != 0)),
    }
}

/// 32-bit words as a tensor of the port's type.
///
/// # Errors
/// An integer that the port's type does not hold.
pub(crate) fn to_tensor(port: &Port, shape: &[usize], words: &[u32]) -> Result<Tensor, RunError> {
    let over = |value: i64| RunError::Node {
        node: port.name.clone(),
        reason: format!("output {} has {value}, which {:?} does not hold", port.name, port.dtype),
    };
    let signed = |word: u32| i64::from(word as i32);
    let bytes: Vec<u8> = match port.dtype {
        DType::F32 | DType::I32 | DType::U32 => {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        }
        DType::F16 => words
            .iter()
            .flat_map(|&word| half::f16::from_f32(f32::from_bits(word)).to_le_bytes())
            .collect(),
        DType::BF16 => words
            .iter()
            .flat_map(|&word| half::bf16::from_f32(f32::from_bits(word)).to_le_bytes())
            .collect(),
        DType::I64 => words.iter().flat_map(|&word| signed(word).to_le_bytes()).collect(),
        DType::U64 => words.iter().flat_map(|&word| u64::from(word).to_le_bytes()).collect(),
        DType::I16 => narrow(words, |word| {
            i16::try_from(signed(word)).map(i16::to_le_bytes).map_err(|_| over(signed(word)))
        })?,
        DType::I8 => narrow(words, |word| {
            i8::try_from(signed(word)).map(i8::to_le_bytes).map_err(|_| over(signed(word)))
        })?,
        DType::U16 => narrow(words, |word| {
            u16::try_from(word).map(u16::to_le_bytes).map_err(|_| over(i64::from(word)))
        })?,
        DType::U8 => narrow(words, |word| {
            u8::try_from(word).map(u8::to_le_bytes).map_err(|_| over(i64::from(word)))
        })?,
        DType::Bool => words.iter().map(|&word| u8::from(word != 0)).collect(),
    };
    Ok(Tensor { dtype: port.dtype, shape: shape.to_vec(), bytes })
}

fn narrow<const N: usize>(
    words: &[u32],
    convert: impl Fn(u32) -> Result<[u8; N], RunError>,
) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::with_capacity(words.len() * N);
    for &word in words {
        bytes.extend_from_slice(&convert(word)?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use flotilla_program::ValueId;

    use super::*;

    fn port(dtype: DType) -> Port {
        Port { name: "ids".to_owned(), dtype, value: ValueId(0) }
    }

    #[test]
    fn integers_are_checked_on_their_way_in() {
        let tensor = Tensor::from_i64(vec![2], &[-1, 1 << 31]).unwrap();
        assert!(
            matches!(to_words(&port(DType::I64), &tensor), Err(RunError::Inputs { reason }) if reason.contains("2147483648"))
        );
        let tensor = Tensor::from_i64(vec![2], &[-1, i64::from(i32::MAX)]).unwrap();
        assert_eq!(to_words(&port(DType::I64), &tensor).unwrap(), [u32::MAX, i32::MAX as u32]);
        assert!(matches!(to_words(&port(DType::F32), &tensor), Err(RunError::Inputs { .. })));
    }

    #[test]
    fn every_type_comes_back() {
        for dtype in DType::ALL {
            let port = port(dtype);
            let ones = if dtype.is_float() { 1f32.to_bits() } else { 1 };
            let tensor = to_tensor(&port, &[3], &[0, ones, 0]).unwrap();
            assert_eq!(tensor.bytes.len(), 3 * dtype.wire_bytes());
            assert_eq!(to_words(&port, &tensor).unwrap(), [0, ones, 0], "{dtype:?}");
        }
        assert!(to_tensor(&port(DType::I8), &[1], &[200]).is_err());
    }
}
