//! Tensors in the format of web-platform-tests, and as bytes.

use half::f16;
use serde_json::Value;

/// `MLOperandDataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataType {
    Float32,
    Float16,
    Int32,
    Uint32,
    Int64,
    Uint64,
    Int8,
    Uint8,
}

/// One element. Integers of 64 bits, with and without sign, are both `Integer`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Element {
    Float(f64),
    Integer(i128),
}

/// An input, a constant or an expected output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) shape: Vec<u32>,
    /// One per element, or a single one that fills the tensor: some cases have millions of elements.
    elements: Vec<Element>,
}

impl DataType {
    pub(crate) fn parse(text: &str) -> Result<DataType, String> {
        Ok(match text {
            "float32" => DataType::Float32,
            "float16" => DataType::Float16,
            "int32" => DataType::Int32,
            "uint32" => DataType::Uint32,
            "int64" => DataType::Int64,
            "uint64" => DataType::Uint64,
            "int8" => DataType::Int8,
            "uint8" => DataType::Uint8,
            other => return Err(format!("the case has the data type {other}")),
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DataType::Float32 => "float32",
            DataType::Float16 => "float16",
            DataType::Int32 => "int32",
            DataType::Uint32 => "uint32",
            DataType::Int64 => "int64",
            DataType::Uint64 => "uint64",
            DataType::Int8 => "int8",
            DataType::Uint8 => "uint8",
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, DataType::Float32 | DataType::Float16)
    }

    fn bytes(self) -> usize {
        match self {
            DataType::Int64 | DataType::Uint64 => 8,
            DataType::Float32 | DataType::Int32 | DataType::Uint32 => 4,
            DataType::Float16 => 2,
            DataType::Int8 | DataType::Uint8 => 1,
        }
    }

    /// Little-endian, as every engine's typed arrays are.
    fn encode(self, element: Element) -> Result<Vec<u8>, String> {
        let refusal = || format!("{element:?} is no {}", self.as_str());
        Ok(match (self, element) {
            (DataType::Float32, Element::Float(value)) => (value as f32).to_le_bytes().to_vec(),
            (DataType::Float16, Element::Float(value)) => {
                f16::from_f64(value).to_le_bytes().to_vec()
            }
            (DataType::Int64, Element::Integer(value)) => {
                i64::try_from(value).map_err(|_| refusal())?.to_le_bytes().to_vec()
            }
            (DataType::Uint64, Element::Integer(value)) => {
                u64::try_from(value).map_err(|_| refusal())?.to_le_bytes().to_vec()
            }
            (DataType::Int32, Element::Integer(value)) => {
                i32::try_from(value).map_err(|_| refusal())?.to_le_bytes().to_vec()
            }
            (DataType::Uint32, Element::Integer(value)) => {
                u32::try_from(value).map_err(|_| refusal())?.to_le_bytes().to_vec()
            }
            (DataType::Int8, Element::Integer(value)) => {
                i8::try_from(value).map_err(|_| refusal())?.to_le_bytes().to_vec()
            }
            (DataType::Uint8, Element::Integer(value)) => {
                vec![u8::try_from(value).map_err(|_| refusal())?]
            }
            (_, Element::Float(_) | Element::Integer(_)) => return Err(refusal()),
        })
    }

    fn decode(self, bytes: &[u8]) -> Element {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(wide);
        match self {
            DataType::Float32 => Element::Float(f64::from(f32::from_bits(word as u32))),
            DataType::Float16 => Element::Float(f16::from_bits(word as u16).to_f64()),
            DataType::Int32 => Element::Integer(i128::from(word as i32)),
            DataType::Uint32 => Element::Integer(i128::from(word as u32)),
            DataType::Int64 => Element::Integer(i128::from(word as i64)),
            DataType::Uint64 => Element::Integer(i128::from(word)),
            DataType::Int8 => Element::Integer(i128::from(word as i8)),
            DataType::Uint8 => Element::Integer(i128::from(word as u8)),
        }
    }
}

impl Tensor {
    /// `{"descriptor": {"dataType", "shape"}, "data"}`. Data is one value per element, or one value that fills the tensor.
    pub(crate) fn read(name: &str, value: &Value) -> Result<Tensor, String> {
        let descriptor = &value["descriptor"];
        let data_type = descriptor["dataType"].as_str().ok_or("a tensor has no data type")?;
        let data_type = DataType::parse(data_type)?;
        let sizes = descriptor["shape"].as_array().ok_or("a tensor has no shape")?;
        let shape = sizes.iter().map(size).collect::<Result<Vec<u32>, String>>()?;
        let count: usize = shape.iter().map(|&size| size as usize).product();
        let (elements, is_filled) = match &value["data"] {
            Value::Array(values) => {
                let elements = values.iter().map(|value| element(value, data_type));
                (elements.collect::<Result<Vec<_>, _>>()?, false)
            }
            one => (vec![element(one, data_type)?], true),
        };
        if !is_filled && elements.len() != count {
            return Err(format!("{name}: {} elements for the shape {shape:?}", elements.len()));
        }
        Ok(Tensor { name: name.to_owned(), data_type, shape, elements })
    }

    /// How many elements it has.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().map(|&size| size as usize).product()
    }

    /// Its elements in the order of rows.
    pub(crate) fn elements(&self) -> impl Iterator<Item = Element> {
        self.elements.iter().copied().cycle().take(self.count())
    }

    /// Its bytes in the order of rows.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, String> {
        let bytes = self.elements.iter().map(|&element| self.data_type.encode(element));
        let bytes = bytes.collect::<Result<Vec<_>, _>>()?.concat();
        let times = self.count().checked_div(self.elements.len()).unwrap_or(0);
        Ok(bytes.repeat(times))
    }
}

/// The elements that are in these bytes.
pub(crate) fn elements(
    data_type: DataType,
    bytes: &[u8],
) -> impl ExactSizeIterator<Item = Element> {
    bytes.chunks_exact(data_type.bytes()).map(move |bytes| data_type.decode(bytes))
}

pub(crate) fn size(value: &Value) -> Result<u32, String> {
    let size = value.as_u64().and_then(|size| u32::try_from(size).ok());
    size.ok_or_else(|| format!("{value} is no unsigned number of 32 bits"))
}

/// A number, as JSON or as JavaScript writes those that JSON lacks: `"Infinity"`, `"NaN"`, `"12n"`.
pub(crate) fn element(value: &Value, data_type: DataType) -> Result<Element, String> {
    let refusal = || format!("{value} is no {}", data_type.as_str());
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let text = text.strip_suffix('n').filter(|text| !text.is_empty()).unwrap_or(&text);
    if data_type.is_float() {
        return text.parse().map(Element::Float).map_err(|_| refusal());
    }
    if let Ok(integer) = text.parse() {
        return Ok(Element::Integer(integer));
    }
    let whole = text.parse().ok().filter(|number: &f64| number.fract() == 0.0);
    whole.map(|number| Element::Integer(number as i128)).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_as_javascript_writes_them() {
        let float = |value| element(&value, DataType::Float32);
        assert_eq!(float(json!("-Infinity")), Ok(Element::Float(f64::NEG_INFINITY)));
        assert!(matches!(float(json!("NaN")), Ok(Element::Float(value)) if value.is_nan()));
        assert_eq!(float(json!(3)), Ok(Element::Float(3.0)));
        let integer = |value| element(&value, DataType::Uint64);
        assert_eq!(integer(json!("18446744073709551615n")), Ok(Element::Integer(u64::MAX.into())));
        assert_eq!(integer(json!(2.0)), Ok(Element::Integer(2)));
        assert!(integer(json!(2.5)).is_err() && integer(json!("n")).is_err());
    }

    #[test]
    fn bytes_come_back_as_the_same_elements() {
        for (data_type, data) in [
            ("float32", json!([1.5, "-Infinity"])),
            ("float16", json!([-0.25, 65504])),
            ("int32", json!([i32::MIN, 7])),
            ("uint32", json!([u32::MAX, 0])),
            ("int64", json!(["-9223372036854775808n", 1])),
            ("uint64", json!(["18446744073709551615n", 1])),
            ("int8", json!([-128, 127])),
            ("uint8", json!([255, 0])),
        ] {
            let value =
                json!({ "descriptor": { "dataType": data_type, "shape": [2] }, "data": data });
            let tensor = Tensor::read("x", &value).expect("a tensor");
            let bytes = tensor.bytes().expect("bytes");
            let back: Vec<Element> = elements(tensor.data_type, &bytes).collect();
            assert_eq!(back, tensor.elements, "{data_type}");
        }
    }

    #[test]
    fn one_value_fills_a_tensor_and_others_must_be_enough() {
        let tensor = |data: Value| {
            let value =
                json!({ "descriptor": { "dataType": "int8", "shape": [2, 2] }, "data": data });
            Tensor::read("x", &value)
        };
        let filled = tensor(json!(3)).expect("filled");
        assert_eq!(filled.elements().collect::<Vec<_>>(), vec![Element::Integer(3); 4]);
        assert_eq!(filled.bytes(), Ok(vec![3; 4]));
        assert!(tensor(json!([1, 2, 3])).is_err());
        assert!(tensor(json!([1, 2, 3, 300])).expect("read").bytes().is_err());
    }
}
