//! Conversion between a client's element types and the 32-bit ones inside a page.

use flotilla_program::Port;
use flotilla_protocol::RunError;
use flotilla_tensor::{DType, Tensor, encode};

/// A tensor inside a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// Floats' bits, sign-extended integers, 0 or 1 for `Bool`; the lower words if there is `high`.
    pub(crate) low: Vec<u32>,
    /// The upper words of 64-bit integers that need them.
    pub(crate) high: Option<Vec<u32>>,
}

/// A client's tensor as 32-bit words.
///
/// # Errors
/// Another type than the port's, or a 64-bit integer that does not fit 32 bits where the port has no upper words.
pub(crate) fn to_words(port: &Port, tensor: &Tensor) -> Result<Words, RunError> {
    if tensor.dtype != port.dtype {
        return Err(RunError::Inputs {
            reason: format!(
                "input {} is {:?}, the program wants {:?}",
                port.name, tensor.dtype, port.dtype
            ),
        });
    }
    let low = port.dtype.decode_words(&tensor.bytes);
    let wide = || tensor.bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
    if port.high.is_some() {
        let high = wide().map(|wide| (wide >> 32) as u32).collect();
        return Ok(Words { low, high: Some(high) });
    }
    let over = match port.dtype {
        DType::I64 => wide()
            .map(|wide| wide as i64)
            .find(|&wide| i32::try_from(wide).is_err())
            .map(|wide| wide.to_string()),
        DType::U64 => {
            wide().find(|&wide| u32::try_from(wide).is_err()).map(|wide| wide.to_string())
        }
        _ => None,
    };
    match over {
        Some(over) => Err(RunError::Inputs {
            reason: format!(
                "input {} has {over}, which does not fit the 32 bits that this program computes with",
                port.name
            ),
        }),
        None => Ok(Words { low, high: None }),
    }
}

/// 32-bit words as a tensor of the port's type; `high` are the upper words, if the port has them.
///
/// # Errors
/// An integer that the port's type does not hold.
pub(crate) fn to_tensor(
    port: &Port,
    shape: &[usize],
    words: &[u32],
    high: Option<&[u32]>,
) -> Result<Tensor, RunError> {
    if let Some(high) = high {
        let pairs = words.iter().zip(high);
        let bytes = pairs.flat_map(|(low, high)| [low.to_le_bytes(), high.to_le_bytes()]);
        let bytes = bytes.flatten().collect();
        return Ok(Tensor { dtype: port.dtype, shape: shape.to_vec(), bytes });
    }
    let over = |value: i64| RunError::Node {
        node: port.name.clone(),
        reason: format!("output {} has {value}, which {:?} does not hold", port.name, port.dtype),
    };
    let signed = |word: u32| i64::from(word as i32);
    let bytes: Vec<u8> = match port.dtype {
        DType::F32 | DType::I32 | DType::U32 => encode(words, u32::to_le_bytes),
        DType::F16 => encode(words, |word| half::f16::from_f32(f32::from_bits(word)).to_le_bytes()),
        DType::BF16 => {
            encode(words, |word| half::bf16::from_f32(f32::from_bits(word)).to_le_bytes())
        }
        DType::F64 => encode(words, |word| f64::from(f32::from_bits(word)).to_le_bytes()),
        DType::I64 => encode(words, |word| signed(word).to_le_bytes()),
        DType::U64 => encode(words, |word| u64::from(word).to_le_bytes()),
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
        DType::Bool => encode(words, |word| [u8::from(word != 0)]),
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
        Port { name: "ids".to_owned(), dtype, value: ValueId(0), high: None }
    }

    #[test]
    fn integers_are_checked_on_their_way_in() {
        let tensor = Tensor::from_i64(vec![2], &[-1, 1 << 31]).unwrap();
        assert!(
            matches!(to_words(&port(DType::I64), &tensor), Err(RunError::Inputs { reason }) if reason.contains("2147483648"))
        );
        let tensor = Tensor::from_i64(vec![2], &[-1, i64::from(i32::MAX)]).unwrap();
        assert_eq!(to_words(&port(DType::I64), &tensor).unwrap().low, [u32::MAX, i32::MAX as u32]);
        assert!(matches!(to_words(&port(DType::F32), &tensor), Err(RunError::Inputs { .. })));
    }

    #[test]
    fn wide_integers_keep_all_of_their_bits() {
        let port = Port { high: Some(ValueId(1)), ..port(DType::I64) };
        let tensor = Tensor::from_i64(vec![3], &[-1, 1 << 40, i64::MIN]).unwrap();
        let words = to_words(&port, &tensor).unwrap();
        assert_eq!(words.low, [u32::MAX, 0, 0]);
        assert_eq!(words.high.as_deref(), Some([u32::MAX, 1 << 8, 1 << 31].as_slice()));
        let back = to_tensor(&port, &[3], &words.low, words.high.as_deref()).unwrap();
        assert_eq!(back, tensor);
    }

    #[test]
    fn every_type_comes_back() {
        for dtype in DType::ALL {
            let port = port(dtype);
            let ones = if dtype.is_float() { 1f32.to_bits() } else { 1 };
            let tensor = to_tensor(&port, &[3], &[0, ones, 0], None).unwrap();
            assert_eq!(tensor.bytes.len(), 3 * dtype.wire_bytes());
            assert_eq!(to_words(&port, &tensor).unwrap().low, [0, ones, 0], "{dtype:?}");
        }
        assert!(to_tensor(&port(DType::I8), &[1], &[200], None).is_err());
    }
}
