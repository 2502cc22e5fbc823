//! A program under construction: like [`Program`], but its constants still carry their data.

use std::{borrow::Cow, sync::Arc};

use tract_onnx::prelude::Tensor;

use super::constants::{plain_dtype, widened};
use flotilla_program::{
    Assumption, Binary, Count, DType, Expr, Node, Op, Port, Step, Unary, ValueId, WORD_BYTES,
    dim::Dim,
};

/// The data of a constant: words of its value's storage type, or elements of a narrower one.
#[derive(Clone)]
pub(crate) enum Data {
    /// Shared with the typed graph, as long as that lives: most weights are used as they are.
    Tensor(Arc<Tensor>),
    /// Words made here.
    Bytes(Arc<[u8]>),
    /// Elements of a narrow type that were put into another order here.
    Narrow(DType, Arc<[u8]>),
}

impl Data {
    /// Words of the value's storage type.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        match self.elements() {
            (Some(narrow), elements) => Cow::Owned(widened(narrow, &elements)),
            (None, words) => words,
        }
    }

    /// The elements as they are stored, and their type if it is narrower than the words of a page.
    pub(crate) fn elements(&self) -> (Option<DType>, Cow<'_, [u8]>) {
        match self {
            // Only plain tensors are put here; another storage has no bytes and fails the length check that follows.
            Data::Tensor(tensor) => {
                let bytes = tensor.as_plain_ram().map_or(&[][..], |plain| plain.as_bytes());
                let narrow = plain_dtype(tensor.datum_type())
                    .filter(|dtype| dtype.wire_bytes() < WORD_BYTES);
                (narrow, Cow::Borrowed(bytes))
            }
            Data::Bytes(bytes) => (None, Cow::Borrowed(bytes)),
            Data::Narrow(dtype, bytes) => (Some(*dtype), Cow::Borrowed(bytes)),
        }
    }

    /// The same with its elements moved around by `order`, which is told their width in bytes.
    pub(crate) fn reordered(&self, order: impl FnOnce(&[u8], usize) -> Vec<u8>) -> Data {
        match self.elements() {
            (Some(narrow), elements) => {
                Data::Narrow(narrow, order(&elements, narrow.wire_bytes()).into())
            }
            (None, words) => Data::Bytes(order(&words, WORD_BYTES).into()),
        }
    }
}

/// Where a drafted value comes from.
#[derive(Clone)]
pub(crate) enum Origin {
    Input,
    Constant(Data),
    Node,
}

#[derive(Clone)]
pub(crate) struct DraftValue {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<Dim>,
    pub(crate) origin: Origin,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) symbols: Vec<String>,
    pub(crate) values: Vec<DraftValue>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
    pub(crate) assumptions: Vec<Assumption>,
    pub(crate) counts: Vec<Count>,
}

impl Draft {
    pub(crate) fn value(&self, id: ValueId) -> &DraftValue {
        &self.values[id.index()]
    }

    pub(crate) fn shape(&self, id: ValueId) -> &[Dim] {
        &self.value(id).shape
    }

    pub(crate) fn add_value(&mut self, dtype: DType, shape: Vec<Dim>, origin: Origin) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(DraftValue { dtype, shape, origin });
        id
    }

    /// Values that a run gives back.
    pub(crate) fn results(&self) -> impl Iterator<Item = ValueId> + '_ {
        let outputs = self.outputs.iter().map(|port| port.value);
        outputs.chain(self.counts.iter().map(|count| count.value))
    }

    /// Appends a node with one output and gives the output.
    pub(crate) fn add_node(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<ValueId>,
        dtype: DType,
        shape: Vec<Dim>,
    ) -> ValueId {
        let output = self.add_value(dtype, shape, Origin::Node);
        self.nodes.push(Node { name: name.to_owned(), op, inputs, outputs: vec![output] });
        output
    }

    /// The data of a constant.
    pub(crate) fn constant(&self, id: ValueId) -> Option<&Data> {
        match &self.value(id).origin {
            Origin::Constant(data) => Some(data),
            Origin::Input | Origin::Node => None,
        }
    }

    /// The value of a floating-point constant whose elements are all equal.
    pub(crate) fn uniform_float(&self, id: ValueId) -> Option<f32> {
        if self.value(id).dtype != DType::F32 {
            return None;
        }
        let bytes = self.constant(id)?.bytes();
        let mut elements = bytes
            .chunks_exact(4)
            .map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
        let first = elements.next()?;
        elements.all(|element| element == first).then_some(first)
    }

    /// The value of a constant of one element.
    pub(crate) fn scalar_step(&self, id: ValueId) -> Option<Step> {
        let bytes = self.constant(id)?.bytes();
        let element: [u8; 4] = bytes.as_ref().try_into().ok()?;
        match self.value(id).dtype {
            DType::F32 => Some(Step::Float(f32::from_le_bytes(element))),
            DType::I32 => Some(Step::Int(i32::from_le_bytes(element))),
            _ => None,
        }
    }
}

/// Who computes and who uses each value; made anew after a pass has changed the draft.
pub(crate) struct Links {
    producers: Vec<Option<usize>>,
    uses: Vec<usize>,
}

impl Links {
    pub(crate) fn of(draft: &Draft) -> Links {
        let mut producers = vec![None; draft.values.len()];
        let mut uses = vec![0; draft.values.len()];
        for (index, node) in draft.nodes.iter().enumerate() {
            for output in &node.outputs {
                producers[output.index()] = Some(index);
            }
            for input in &node.inputs {
                uses[input.index()] += 1;
            }
        }
        for value in draft.results() {
            uses[value.index()] += 1;
        }
        Links { producers, uses }
    }

    /// Index of the node that computes a value.
    pub(crate) fn producer_index(&self, id: ValueId) -> Option<usize> {
        self.producers.get(id.index()).copied().flatten()
    }

    /// The node that computes a value.
    pub(crate) fn producer<'d>(&self, draft: &'d Draft, id: ValueId) -> Option<&'d Node> {
        self.producer_index(id).map(|index| &draft.nodes[index])
    }

    /// How many nodes and outputs use a value.
    pub(crate) fn uses(&self, id: ValueId) -> usize {
        self.uses[id.index()]
    }
}

/// Reads a draft's values as formulas; the fusions are written with it.
pub(crate) struct Formula<'d> {
    pub(crate) draft: &'d Draft,
    pub(crate) links: &'d Links,
}

impl Formula<'_> {
    /// `f(a)` as an element-wise node of its own.
    pub(crate) fn unary(&self, id: ValueId, function: Unary) -> Option<ValueId> {
        let node = self.links.producer(self.draft, id)?;
        let Op::Elementwise(Expr { steps }) = &node.op else { return None };
        match steps.as_slice() {
            [Step::Input(input), Step::Unary(found, 0)] if *found == function => {
                Some(node.inputs[*input as usize])
            }
            _ => None,
        }
    }

    /// Whichever single function of one operand computes a value.
    pub(crate) fn any_unary(&self, id: ValueId) -> Option<(Unary, ValueId)> {
        let node = self.links.producer(self.draft, id)?;
        let Op::Elementwise(Expr { steps }) = &node.op else { return None };
        match steps.as_slice() {
            [Step::Input(input), Step::Unary(found, 0)] => {
                Some((*found, node.inputs[*input as usize]))
            }
            _ => None,
        }
    }

    /// `f(a, b)` as an element-wise node of its own.
    pub(crate) fn binary(&self, id: ValueId, function: Binary) -> Option<(ValueId, ValueId)> {
        let node = self.links.producer(self.draft, id)?;
        let Op::Elementwise(Expr { steps }) = &node.op else { return None };
        match steps.as_slice() {
            [Step::Input(a), Step::Input(b), Step::Binary(found, 0, 1)] if *found == function => {
                Some((node.inputs[*a as usize], node.inputs[*b as usize]))
            }
            _ => None,
        }
    }

    /// Both readings of a commutative `f(a, b)`.
    pub(crate) fn either(&self, id: ValueId, function: Binary) -> Vec<(ValueId, ValueId)> {
        self.binary(id, function).map_or_else(Vec::new, |(a, b)| vec![(a, b), (b, a)])
    }

    /// `a * c` or `a / (1/c)` for a constant whose elements are all `c` and that does not change the shape.
    pub(crate) fn scaled(&self, id: ValueId) -> Option<(ValueId, f32)> {
        let factor = self.with_uniform(id, self.either(id, Binary::Mul));
        factor.or_else(|| {
            let (a, divisor) =
                self.with_uniform(id, self.binary(id, Binary::Div).into_iter().collect())?;
            Some((a, divisor.recip()))
        })
    }

    /// `a + c` for a constant whose elements are all `c` and that does not change the shape.
    pub(crate) fn shifted(&self, id: ValueId) -> Option<(ValueId, f32)> {
        self.with_uniform(id, self.either(id, Binary::Add))
    }

    fn with_uniform(
        &self,
        result: ValueId,
        readings: Vec<(ValueId, ValueId)>,
    ) -> Option<(ValueId, f32)> {
        readings
            .into_iter()
            .filter(|(a, _)| self.draft.shape(*a) == self.draft.shape(result))
            .find_map(|(a, constant)| Some((a, self.draft.uniform_float(constant)?)))
    }

    /// The node that computes a value, when its operator is the one asked for.
    pub(crate) fn produced<T>(
        &self,
        id: ValueId,
        op: impl Fn(&Op) -> Option<T>,
    ) -> Option<(T, &[ValueId])> {
        let node = self.links.producer(self.draft, id)?;
        Some((op(&node.op)?, &node.inputs))
    }
}

/// Dimension of one head, when `width` splits evenly.
pub(crate) fn head_dim(width: i64, heads: u32) -> Option<i64> {
    (heads > 0 && width % i64::from(heads) == 0).then(|| width / i64::from(heads))
}
