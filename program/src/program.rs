//! A program and what it is made of.

use serde::{Deserialize, Serialize};

use crate::{Count, DType, Op, Padding, dim::Dim};

/// Version of the serialized form; a page refuses another one.
pub const PROGRAM_VERSION: u32 = 4;

/// blake3 hash of a weight blob's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlobId(pub [u8; 32]);

impl BlobId {
    /// Lower-case hexadecimal form, as in `/blobs/<hex>`.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Parses [`BlobId::to_hex`]'s form; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<BlobId> {
        let mut id = [0u8; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        for (index, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
        }
        Some(BlobId(id))
    }
}

impl std::fmt::Debug for BlobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobId({})", &self.to_hex()[..12])
    }
}

/// A range of a blob that holds one constant: little-endian, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstantRef {
    /// The blob.
    pub blob: BlobId,
    /// Where the constant starts, in bytes; a multiple of [`crate::WORD_BYTES`].
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// Its elements' type: the value's, or a narrower one that is widened to words when it is loaded. Not of 64 bits.
    pub dtype: DType,
}

impl ConstantRef {
    /// Its number of elements.
    pub fn elements(&self) -> u64 {
        self.bytes / self.dtype.wire_bytes() as u64
    }
}

/// A weight blob that a program's constants lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its hash.
    pub id: BlobId,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Index of a value in [`Program::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueId(pub u32);

impl ValueId {
    /// The index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Given by the caller of a run.
    Input,
    /// A constant in a blob.
    Constant(ConstantRef),
    /// Computed by a node.
    Node,
}

/// A tensor that flows through the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// Its storage type.
    pub dtype: DType,
    /// Its row-major shape.
    pub shape: Vec<Dim>,
    /// Where it comes from.
    pub source: Source,
}

/// A named input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The name that clients use.
    pub name: String,
    /// The element type that clients use.
    pub dtype: DType,
    /// The value inside the program.
    pub value: ValueId,
}

/// An input that decides shapes, and the value that the program was made for: a run with another one is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assumption {
    /// Index in [`Program::inputs`].
    pub input: u32,
    /// The elements, row-major, in the form that a page stores them in.
    pub words: Vec<u32>,
}

/// One operator application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Name in the source model, or derived from it; for messages.
    pub name: String,
    /// What to compute.
    pub op: Op,
    /// Operands in the order that [`Op`] documents.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
}

/// A lowered model. Nodes are in execution order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// [`PROGRAM_VERSION`] of the writer.
    pub version: u32,
    /// Name for messages.
    pub name: String,
    /// Names of the symbolic dimensions; a [`Symbol`](crate::dim::Symbol) is an index here.
    pub symbols: Vec<String>,
    /// Every value.
    pub values: Vec<Value>,
    /// Every node, in execution order.
    pub nodes: Vec<Node>,
    /// Inputs of a run.
    pub inputs: Vec<Port>,
    /// Results of a run.
    pub outputs: Vec<Port>,
    /// What must hold of the inputs' values.
    pub assumptions: Vec<Assumption>,
    /// Dimensions that the data decide.
    pub counts: Vec<Count>,
    /// Symbols that runs may pad, all or any of them; what is not listed may not be padded.
    pub allowed_paddings: Vec<Padding>,
    /// Blobs that hold the constants.
    pub blobs: Vec<BlobRef>,
}
