//! A program and its parts.

use flotilla_tensor::DType;
use serde::{Deserialize, Serialize};

use crate::{
    Op, Padding,
    dim::{Dim, Symbol},
};

/// Version of the serialized form; a page refuses another one.
pub const PROGRAM_VERSION: u32 = 6;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConstantRef {
    /// The blob.
    pub blob: BlobId,
    /// Where the constant starts, in bytes; a multiple of [`WORD_BYTES`](flotilla_tensor::WORD_BYTES).
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// Its elements' type: the value's, or a narrower one that is widened to the value's when it is loaded. Not of 64 bits.
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

/// A tensor of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// Its storage type, of which every element is a word; or, of a constant that stays as it is in its blob, a narrower type,
    /// whose elements lie one after the other in words. See [`Value::is_narrow`].
    pub dtype: DType,
    /// Its row-major shape.
    pub shape: Vec<Dim>,
    /// Where it comes from.
    pub source: Source,
}

impl Value {
    /// Whether it is a constant whose elements are narrower than words. Only kernels that read such an operand get one.
    pub fn is_narrow(&self) -> bool {
        self.dtype != self.dtype.storage()
    }
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
    /// For 64-bit integers that need all of their bits: the upper words, of `value`'s shape; `value` has the lower ones.
    pub high: Option<ValueId>,
}

/// An input that decides what is computed, and the value for which the program was made: a run with another one is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assumption {
    /// Index in [`Program::inputs`].
    pub input: u32,
    /// The elements, row-major, in the form that a page stores them in.
    pub words: Vec<u32>,
}

/// The range of a 64-bit integer input: beyond it a result would not fit the 32 bits in which the program computes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputBound {
    /// Index in [`Program::inputs`].
    pub input: u32,
    /// It holds for runs in which some dimension of an input is larger.
    pub above: i64,
    /// Their largest absolute value.
    pub most: i64,
    /// Name of the node whose result would not fit.
    pub node: String,
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

/// A symbolic dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SymbolInfo {
    /// Its name, for messages and for clients that fix it.
    pub name: String,
    /// What decides its value.
    pub source: SymbolSource,
}

impl SymbolInfo {
    /// A symbol that the shapes of inputs decide.
    pub fn of_input(name: impl Into<String>) -> SymbolInfo {
        SymbolInfo { name: name.into(), source: SymbolSource::Input }
    }
}

/// What decides the value of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SymbolSource {
    /// The shape of an input.
    Input,
    /// A number that the program computes: an element of a value (I32 or Bool), by its row-major index. It is read once the
    /// value is computed; the nodes after it have known sizes again.
    Element {
        /// The value.
        value: ValueId,
        /// The element.
        index: u32,
    },
    /// The size of a dimension once the value is computed: of a result of [`Op::If`] or [`Op::Loop`], or of a parameter of a
    /// loop's body.
    Extent {
        /// The value.
        value: ValueId,
        /// Its dimension.
        axis: u32,
    },
}

/// Nodes that an [`Op::If`] or [`Op::Loop`] runs. They may read every value that exists at the position of that node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// Values that the operator passes to it, see there.
    pub parameters: Vec<ValueId>,
    /// In execution order.
    pub nodes: Vec<Node>,
    /// What it returns, see there.
    pub results: Vec<ValueId>,
}

/// Two numbers that must be equal in a run; they could not be proved to be when the program was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Name of the node that needs it.
    pub node: String,
    /// What the two numbers are, as text.
    pub what: String,
    /// One of them.
    pub left: Dim,
    /// The other one.
    pub right: Dim,
}

impl Check {
    /// A minimum and the part that it must be equal to, if this is a check of that kind.
    pub fn cut(&self) -> Option<(&Dim, &Dim)> {
        let of = |cut: &Dim, whole: &Dim| matches!(cut, Dim::Min(dims) if dims.contains(whole));
        let sides = (&self.left, &self.right);
        if of(sides.0, sides.1) {
            return Some(sides);
        }
        of(sides.1, sides.0).then_some((sides.1, sides.0))
    }
}

/// A lowered model. Nodes are in execution order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// [`PROGRAM_VERSION`] of the writer.
    pub version: u32,
    /// Name for messages.
    pub name: String,
    /// The symbolic dimensions; a [`Symbol`](crate::dim::Symbol) is an index here.
    pub symbols: Vec<SymbolInfo>,
    /// Every value, those of regions included.
    pub values: Vec<Value>,
    /// Every node that is in no region, in execution order.
    pub nodes: Vec<Node>,
    /// Regions that operators with control flow run.
    pub regions: Vec<Region>,
    /// Inputs of a run.
    pub inputs: Vec<Port>,
    /// Results of a run.
    pub outputs: Vec<Port>,
    /// What must hold of the inputs' values.
    pub assumptions: Vec<Assumption>,
    /// Which integers of 64 bits inputs may have.
    pub bounds: Vec<InputBound>,
    /// What must hold of sizes.
    pub checks: Vec<Check>,
    /// Symbols that runs may pad, all or any of them; what is not listed may not be padded.
    pub allowed_paddings: Vec<Padding>,
    /// Blobs that hold the constants.
    pub blobs: Vec<BlobRef>,
}

impl Program {
    /// A program that computes nothing.
    pub fn new(name: impl Into<String>) -> Program {
        Program {
            version: PROGRAM_VERSION,
            name: name.into(),
            symbols: Vec::new(),
            values: Vec::new(),
            nodes: Vec::new(),
            regions: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            assumptions: Vec::new(),
            bounds: Vec::new(),
            checks: Vec::new(),
            allowed_paddings: Vec::new(),
            blobs: Vec::new(),
        }
    }

    /// The value of an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// What a run returns: each output's words, and after those of 64 bits their upper words.
    pub fn results(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.outputs.iter().flat_map(|port| [Some(port.value), port.high]).flatten()
    }

    /// What a run gets: each input's words, and after those of 64 bits their upper words.
    pub fn given(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().flat_map(|port| [Some(port.value), port.high]).flatten()
    }

    /// Every node, those of regions included.
    pub fn all_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().chain(self.regions.iter().flat_map(|region| &region.nodes))
    }

    /// A symbol's name.
    pub fn symbol_name(&self, symbol: Symbol) -> &str {
        self.symbols.get(symbol.0 as usize).map_or("", |info| &info.name)
    }

    /// The symbol of a name, of those that inputs' shapes decide.
    pub fn symbol_named(&self, name: &str) -> Option<Symbol> {
        let found = self
            .symbols
            .iter()
            .position(|info| info.name == name && info.source == SymbolSource::Input);
        found.map(|index| Symbol(index as u32))
    }
}
