//! ONNX files written field by field, so that a test can put a specific fault into one. Source of
//! the field numbers: `onnx.proto` of ONNX 1.23.

/// FLOAT of `TensorProto.DataType`.
pub const FLOAT: i64 = 1;
/// INT32 of `TensorProto.DataType`.
pub const INT32: i64 = 6;
/// INT64 of `TensorProto.DataType`.
pub const INT64: i64 = 7;
/// BOOL of `TensorProto.DataType`.
pub const BOOL: i64 = 9;
/// FLOAT16 of `TensorProto.DataType`.
pub const FLOAT16: i64 = 10;
/// DOUBLE of `TensorProto.DataType`.
pub const DOUBLE: i64 = 11;

/// A model that is being built.
#[derive(Clone, Debug)]
pub struct Sketch {
    opsets: Vec<(String, i64)>,
    graph: Vec<u8>,
}

impl Default for Sketch {
    fn default() -> Sketch {
        Sketch::new(17)
    }
}

impl Sketch {
    /// An empty graph of an operator set.
    pub fn new(opset: i64) -> Sketch {
        Sketch { opsets: vec![(String::new(), opset)], graph: text(2, "sketch") }
    }

    /// Adds an operator set.
    #[must_use]
    pub fn opset(mut self, domain: &str, version: i64) -> Sketch {
        self.opsets.push((domain.to_owned(), version));
        self
    }

    /// An input of floats.
    #[must_use]
    pub fn input(self, name: &str, shape: &[i64]) -> Sketch {
        self.input_of(FLOAT, name, shape)
    }

    /// An input of another type.
    #[must_use]
    pub fn input_of(mut self, dtype: i64, name: &str, shape: &[i64]) -> Sketch {
        self.graph.extend(message(11, &value_info(name, dtype, shape)));
        self
    }

    /// An output of floats.
    #[must_use]
    pub fn output(self, name: &str, shape: &[i64]) -> Sketch {
        self.output_of(FLOAT, name, shape)
    }

    /// An output of another type.
    #[must_use]
    pub fn output_of(mut self, dtype: i64, name: &str, shape: &[i64]) -> Sketch {
        self.graph.extend(message(12, &value_info(name, dtype, shape)));
        self
    }

    /// A node of the standard operators.
    #[must_use]
    pub fn node(self, op: &str, inputs: &[&str], outputs: &[&str]) -> Sketch {
        self.node_of("", op, inputs, outputs)
    }

    /// A node of another domain.
    #[must_use]
    pub fn node_of(self, domain: &str, op: &str, inputs: &[&str], outputs: &[&str]) -> Sketch {
        self.node_with(domain, op, inputs, outputs, &[])
    }

    /// A node with attributes, as [`integer`], [`integers`] and [`Sketch::attribute`] write them.
    #[must_use]
    pub fn node_with(
        mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[Vec<u8>],
    ) -> Sketch {
        let mut node: Vec<u8> = inputs.iter().flat_map(|name| text(1, name)).collect();
        node.extend(outputs.iter().flat_map(|name| text(2, name)));
        node.extend(text(3, &format!("node of {}", outputs.join(" "))));
        node.extend(text(4, op));
        node.extend(attributes.iter().flat_map(|attribute| message(5, attribute)));
        node.extend(text(7, domain));
        self.graph.extend(message(1, &node));
        self
    }

    /// A constant whose bytes, as many as are given, are in the file.
    #[must_use]
    pub fn initializer(mut self, name: &str, dtype: i64, shape: &[i64], raw: &[u8]) -> Sketch {
        let mut tensor = tensor(name, dtype, shape);
        tensor.extend(message(9, raw));
        self.graph.extend(message(5, &tensor));
        self
    }

    /// A constant of floats whose bytes are in another file.
    #[must_use]
    pub fn external(mut self, name: &str, shape: &[i64], entries: &[(&str, &str)]) -> Sketch {
        let mut tensor = tensor(name, FLOAT, shape);
        for (key, value) in entries {
            tensor.extend(message(13, &[text(1, key), text(2, value)].concat()));
        }
        // EXTERNAL of `DataLocation`.
        tensor.extend(number(14, 1));
        self.graph.extend(message(5, &tensor));
        self
    }

    /// The graph as an attribute of a node.
    pub fn attribute(&self, name: &str) -> Vec<u8> {
        // GRAPH of `AttributeProto.AttributeType`.
        [text(1, name), message(6, &self.graph), number(20, 5)].concat()
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut model = number(1, 8);
        model.extend(message(7, &self.graph));
        for (domain, version) in &self.opsets {
            model.extend(message(8, &[text(1, domain), number(2, *version)].concat()));
        }
        model
    }
}

/// An attribute that is an integer.
pub fn integer(name: &str, value: i64) -> Vec<u8> {
    // INT of `AttributeProto.AttributeType`.
    [text(1, name), number(3, value), number(20, 2)].concat()
}

/// An attribute that is text.
pub fn words(name: &str, value: &str) -> Vec<u8> {
    // STRING of `AttributeProto.AttributeType`.
    [text(1, name), text(4, value), number(20, 3)].concat()
}

/// An attribute that is a list of integers.
pub fn integers(name: &str, values: &[i64]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| number(8, *value)).collect();
    // INTS of `AttributeProto.AttributeType`.
    [text(1, name), values, number(20, 7)].concat()
}

/// A file of one tensor.
pub fn tensor_file(name: &str, dtype: i64, shape: &[i64], raw: &[u8]) -> Vec<u8> {
    [tensor(name, dtype, shape), message(9, raw)].concat()
}

fn tensor(name: &str, dtype: i64, shape: &[i64]) -> Vec<u8> {
    let mut tensor: Vec<u8> = shape.iter().flat_map(|&dim| number(1, dim)).collect();
    tensor.extend(number(2, dtype));
    tensor.extend(text(8, name));
    tensor
}

/// A dimension of -1 is a separate symbol.
fn value_info(name: &str, dtype: i64, shape: &[i64]) -> Vec<u8> {
    let dim = |(axis, &size): (usize, &i64)| match size {
        -1 => message(1, &text(2, &format!("{name}_{axis}"))),
        size => message(1, &number(1, size)),
    };
    let dims: Vec<u8> = shape.iter().enumerate().flat_map(dim).collect();
    let of_tensor = [number(1, dtype), message(2, &dims)].concat();
    [text(1, name), message(2, &message(1, &of_tensor))].concat()
}

/// A field of wire type 0.
fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value as u64)].concat()
}

/// A field of wire type 2.
fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint((field << 3) | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn text(field: u64, text: &str) -> Vec<u8> {
    message(field, text.as_bytes())
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
