//! NumPy's file format of one array. Source: NumPy's documentation, `numpy.lib.format`.

use flotilla_tensor::{DType, NamedTensor, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest description of an array; it has a type and a few numbers.
const HEADER_MAX: usize = 1 << 16;
/// Most dimensions; NumPy allows no more.
const RANK_MAX: usize = 64;

/// Why bytes are not an array.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum NpyError {
    #[error("it is not an .npy file")]
    Magic,
    #[error("it is an .npy file of version {0}.{1}; supported are 1.0, 2.0 and 3.0")]
    Version(u8, u8),
    #[error("it is cut short: {got} bytes of {want}")]
    Short { got: usize, want: u64 },
    #[error("its header cannot be parsed: {text}")]
    Header { text: String },
    #[error("it holds {dtype}, which is not supported for inputs and outputs")]
    Type { dtype: String },
    #[error("a shape of {shape:?} is too large")]
    Shape { shape: Vec<u64> },
}

/// Reads an array. Big-endian numbers become little-endian, and Fortran's order becomes C's.
///
/// # Errors
/// Damaged bytes, or a type that no model has.
pub fn parse(name: &str, bytes: &[u8]) -> Result<NamedTensor, NpyError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
    let short = |want: u64| NpyError::Short { got: bytes.len(), want };
    let (&[major, minor], rest) = rest.split_first_chunk::<2>().ok_or_else(|| short(8))?;
    let (length, rest) = match (major, minor) {
        (1, 0) => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(|| short(10))?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        (2 | 3, 0) => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| short(12))?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
        _ => return Err(NpyError::Version(major, minor)),
    };
    if length > HEADER_MAX {
        return Err(NpyError::Header { text: format!("it is {length} bytes long") });
    }
    let before = (bytes.len() - rest.len()) as u64;
    let (header, data) =
        rest.split_at_checked(length).ok_or_else(|| short(before + length as u64))?;
    let Header { dtype, swapped, fortran, shape } = Header::parse(header)?;
    let sizes = shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let too_large = || NpyError::Shape { shape: shape.clone() };
    let want = sizes.and_then(|count| count.checked_mul(dtype.wire_bytes() as u64));
    let want = want.ok_or_else(too_large)?;
    let data = usize::try_from(want).ok().and_then(|want| data.get(..want));
    let data = data.ok_or_else(|| short(before + length as u64 + want))?;
    let dims: Option<Vec<usize>> = shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let shape = dims.ok_or_else(too_large)?;
    let mut elements: Vec<Vec<u8>> = Vec::new();
    let width = dtype.wire_bytes();
    let bytes = if swapped || fortran {
        elements.extend(data.chunks_exact(width).map(<[u8]>::to_vec));
        if swapped {
            elements.iter_mut().for_each(|element| element.reverse());
        }
        if fortran {
            elements = transposed(&elements, &shape);
        }
        elements.concat()
    } else {
        data.to_vec()
    };
    Ok(NamedTensor::new(name, Tensor { dtype, shape, bytes }))
}

/// Converts elements from Fortran's order, in which the first index changes fastest, to C's.
fn transposed(elements: &[Vec<u8>], shape: &[usize]) -> Vec<Vec<u8>> {
    let mut index = vec![0usize; shape.len()];
    let mut ordered = Vec::with_capacity(elements.len());
    for _ in 0..elements.len() {
        let at = index.iter().zip(shape).rev().fold(0, |at, (&i, &size)| at * size + i);
        ordered.push(elements[at].clone());
        for (i, &size) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < size {
                break;
            }
            *i = 0;
        }
    }
    ordered
}

struct Header {
    dtype: DType,
    swapped: bool,
    fortran: bool,
    shape: Vec<u64>,
}

impl Header {
    /// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(header: &[u8]) -> Result<Header, NpyError> {
        let text = std::str::from_utf8(header).unwrap_or_default().trim();
        let broken = || NpyError::Header { text: text.chars().take(200).collect() };
        let after = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}':"))?;
            Some(rest.trim_start())
        };
        let descr = after("descr").ok_or_else(broken)?;
        let quoted = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\''));
        // A description that is not a text is one of several fields.
        let (descr, _) = quoted.ok_or_else(|| NpyError::Type { dtype: "records".to_owned() })?;
        let fortran = match after("fortran_order").ok_or_else(broken)? {
            rest if rest.starts_with("True") => true,
            rest if rest.starts_with("False") => false,
            _ => return Err(broken()),
        };
        let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
        let (shape, _) = shape.ok_or_else(broken)?;
        let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape = sizes.map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| broken())?;
        if shape.len() > RANK_MAX {
            return Err(broken());
        }
        let (order, kind) = descr.split_at_checked(1).ok_or_else(broken)?;
        let dtype = dtype(kind).filter(|_| ["<", ">", "|", "="].contains(&order));
        let dtype = dtype.ok_or_else(|| NpyError::Type { dtype: descr.to_owned() })?;
        Ok(Header { dtype, swapped: order == ">" && dtype.wire_bytes() > 1, fortran, shape })
    }
}

fn dtype(kind: &str) -> Option<DType> {
    Some(match kind {
        "f8" => DType::F64,
        "f4" => DType::F32,
        "f2" => DType::F16,
        "i8" => DType::I64,
        "i4" => DType::I32,
        "i2" => DType::I16,
        "i1" => DType::I8,
        "u8" => DType::U64,
        "u4" => DType::U32,
        "u2" => DType::U16,
        "u1" => DType::U8,
        "b1" => DType::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of version 1.0 as NumPy writes it.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes()].concat();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn header(descr: &str, fortran: bool, shape: &str) -> String {
        let fortran = if fortran { "True" } else { "False" };
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({shape}), }}     \n")
    }

    #[test]
    fn arrays_are_read_in_every_order() {
        let numbers: Vec<i16> = vec![1, 2, 3, 4, 5, 6];
        let little: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let big: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        // [[1, 2, 3], [4, 5, 6]] as Fortran stores it in memory.
        let columns: Vec<u8> =
            [1i16, 4, 2, 5, 3, 6].iter().flat_map(|number| number.to_le_bytes()).collect();
        for (descr, fortran, data) in
            [("<i2", false, &little), (">i2", false, &big), ("<i2", true, &columns)]
        {
            let NamedTensor { tensor, .. } =
                parse("x", &file(&header(descr, fortran, "2, 3"), data)).expect("reads");
            assert_eq!((tensor.dtype, tensor.shape.as_slice()), (DType::I16, &[2, 3][..]));
            assert_eq!(tensor.bytes, little, "{descr} {fortran}");
        }
        let double = 0.1f64.to_le_bytes();
        let NamedTensor { tensor, .. } =
            parse("x", &file(&header("<f8", false, ""), &double)).expect("reads");
        assert_eq!((tensor.dtype, tensor.numbers()), (DType::F64, vec![0.1]));
        let NamedTensor { tensor: none, .. } =
            parse("x", &file(&header("|b1", false, "0,"), &[])).expect("reads");
        assert_eq!((none.dtype, none.shape), (DType::Bool, vec![0]));
    }

    #[test]
    fn damaged_files_are_errors() {
        let whole = file(&header("<f4", false, "2,"), &[0; 8]);
        assert!(matches!(parse("x", b"text"), Err(NpyError::Magic)));
        for length in MAGIC.len()..whole.len() {
            let error = parse("x", &whole[..length]).expect_err("cut short");
            assert!(matches!(error, NpyError::Short { .. }), "{length}: {error}");
        }
        let of = |header: &str| parse("x", &file(header, &[0; 8])).expect_err("damaged");
        assert!(matches!(of(&header("<c8", false, "1,")), NpyError::Type { .. }));
        assert!(matches!(of(&header("", false, "1,")), NpyError::Header { .. }));
        assert!(matches!(of("{}"), NpyError::Header { .. }));
        let records = "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,)}";
        assert!(matches!(of(records), NpyError::Type { .. }));
        let huge = header("<f4", false, "18446744073709551615, 2");
        assert!(matches!(of(&huge), NpyError::Shape { .. }));
        let claimed = header("<f4", false, "1099511627776,");
        assert!(matches!(of(&claimed), NpyError::Short { .. }));
        let mut newer = whole.clone();
        newer[6] = 9;
        assert_eq!(parse("x", &newer), Err(NpyError::Version(9, 0)));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = parse("x", &[MAGIC, &bytes].concat());
        }
    }
}
