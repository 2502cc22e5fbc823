//! Random small programs over a batch and a length.

use flotilla_program::{
    ArgReduce, Attention, Binary, BlobId, BlobRef, Concat, ConstantRef, Conv, Cumulative, Expr,
    Gather, LayerNorm, MatMul, Node, Op, Port, Program, Range, Reduce, ReduceKind, Slice, Softmax,
    Source, Step, SymbolInfo, Transpose, Unary, Value, ValueId, Window,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;

use super::compare::{Random, Subjects};

const B: Dim = Dim::Symbol(Symbol(0));
const S: Dim = Dim::Symbol(Symbol(1));
const ONE: Dim = Dim::Fixed(1);
/// The mask among the inputs.
pub(crate) const MASK: u32 = 1;
/// Elements of the tables that indices look up.
const ROWS: i64 = 200;
/// The numbers that masks add; ordinary numbers here may be larger than the smallest that the
/// analysis trusts.
const LOWEST: [f32; 3] = [-1e9, f32::MIN, f32::NEG_INFINITY];

/// A program of this many random nodes.
pub(crate) fn program(nodes: usize, random: &mut Random) -> Subjects {
    let symbols = ["B", "S"].map(SymbolInfo::of_input).to_vec();
    let program = Program { symbols, ..Program::new("random") };
    let mut maker = Maker { program, blob: Vec::new(), random, floats: Vec::new() };
    maker.input("ids", DType::I64, &[B, S]);
    maker.input("mask", DType::I64, &[B, S]);
    let x = maker.input("x", DType::F32, &[B, S, Dim::Fixed(4)]);
    maker.floats.push(x);
    let embedded = maker.embedded();
    maker.floats.push(embedded);
    for _ in 0..nodes {
        // A node that does not fit is tried again, in another way.
        let made = (0..20).find_map(|_| maker.step());
        maker.floats.extend(made);
    }
    for value in maker.floats.iter().rev().take(2).copied().collect::<Vec<_>>() {
        let name = format!("output {}", value.0);
        maker.program.outputs.push(Port { name, dtype: DType::F32, value, high: None });
    }
    let blob = bytes::Bytes::from(maker.blob);
    maker.program.blobs.push(BlobRef { id: BlobId([0; 32]), bytes: blob.len() as u64 });
    let id = BlobId(*blake3::hash(&blob).as_bytes());
    let mut program = maker.program;
    program.blobs[0].id = id;
    for value in &mut program.values {
        if let Source::Constant(constant) = &mut value.source {
            constant.blob = id;
        }
    }
    program.check().expect("it is consistent");
    Subjects { name: "random".to_owned(), program, blobs: [(id, blob)].into() }
}

struct Maker<'r> {
    program: Program,
    blob: Vec<u8>,
    random: &'r mut Random,
    /// Values that later nodes may read.
    floats: Vec<ValueId>,
}

impl Maker<'_> {
    fn value(&mut self, dtype: DType, shape: &[Dim], source: Source) -> ValueId {
        self.program.values.push(Value { dtype, shape: shape.to_vec(), source });
        ValueId(self.program.values.len() as u32 - 1)
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[Dim]) -> ValueId {
        let value = self.value(dtype.storage(), shape, Source::Input);
        self.program.inputs.push(Port { name: name.to_owned(), dtype, value, high: None });
        value
    }

    fn constant(&mut self, dtype: DType, shape: &[i64], words: Vec<u32>) -> ValueId {
        let offset = self.blob.len() as u64;
        words.iter().for_each(|word| self.blob.extend(word.to_le_bytes()));
        let dims: Vec<Dim> = shape.iter().map(|&size| Dim::Fixed(size)).collect();
        let (blob, bytes) = (BlobId([0; 32]), words.len() as u64 * 4);
        self.value(dtype, &dims, Source::Constant(ConstantRef { blob, offset, bytes, dtype }))
    }

    fn weights(&mut self, shape: &[i64]) -> ValueId {
        let count = shape.iter().product::<i64>();
        let words =
            (0..count).map(|_| (self.random.from(-100, 100) as f32 / 100.0).to_bits()).collect();
        self.constant(DType::F32, shape, words)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], dtype: DType, shape: &[Dim]) -> ValueId {
        let output = self.value(dtype, shape, Source::Node);
        let name = format!("{} {}", op.name(), self.program.nodes.len());
        self.program.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: vec![output] });
        output
    }

    fn f32(&mut self, op: Op, inputs: &[ValueId], shape: &[Dim]) -> ValueId {
        self.node(op, inputs, DType::F32, shape)
    }

    fn shape(&self, value: ValueId) -> Vec<Dim> {
        self.program.value(value).shape.clone()
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.random.below(choices.len())].clone()
    }

    fn any(&mut self) -> ValueId {
        let floats = self.floats.clone();
        self.one_of(&floats)
    }

    fn embedded(&mut self) -> ValueId {
        let table = self.weights(&[ROWS, 4]);
        let ids = self.program.inputs[0].value;
        self.f32(Op::Gather(Gather::new(0)), &[table, ids], &[B, S, Dim::Fixed(4)])
    }

    /// One more node; `None` if it would not fit.
    fn step(&mut self) -> Option<ValueId> {
        match self.random.from(0, 17) {
            0 | 1 => self.unary(),
            2 | 3 => self.binary(),
            4 => self.number(),
            5 => self.reduce(),
            6 => self.softmax(),
            7 => self.matmul(),
            8 => self.transpose(),
            9 => self.reshape(),
            10 => self.concat(),
            11 => self.slice(),
            12 => self.along(),
            13 => self.layer_norm(),
            14 => self.attention(),
            15 => self.conv(),
            16 => self.masked(),
            _ => self.positions(),
        }
    }

    fn unary(&mut self) -> Option<ValueId> {
        let x = self.any();
        let function = self.one_of(&[
            Unary::Neg,
            Unary::Abs,
            Unary::Square,
            Unary::Sqrt,
            Unary::Recip,
            Unary::Exp,
            Unary::Cos,
            Unary::Tanh,
            Unary::Sigmoid,
            Unary::Relu,
            Unary::GeluErf,
            Unary::Floor,
            Unary::Sign,
        ]);
        let steps = vec![Step::Input(0), Step::Unary(function, 0)];
        Some(self.f32(Op::Elementwise(Expr { steps }), &[x], &self.shape(x)))
    }

    fn binary(&mut self) -> Option<ValueId> {
        let (a, b) = (self.any(), self.any());
        let shape = broadcast(&self.shape(a), &self.shape(b))?;
        let function = self.one_of(&[
            Binary::Add,
            Binary::Sub,
            Binary::Mul,
            Binary::Mul,
            Binary::Div,
            Binary::Min,
            Binary::Max,
        ]);
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
        Some(self.f32(Op::Elementwise(Expr { steps }), &[a, b], &shape))
    }

    fn number(&mut self) -> Option<ValueId> {
        let x = self.any();
        let number = self.one_of(&[0.0, 1.0, -1.0, 2.0, 0.5, 1e-5]);
        let function = self.one_of(&[Binary::Add, Binary::Mul, Binary::Max, Binary::Gt]);
        let mut steps = vec![Step::Input(0), Step::Float(number), Step::Binary(function, 0, 1)];
        if function == Binary::Gt {
            steps.extend([Step::Float(0.0), Step::Select(2, 0, 3)]);
        }
        Some(self.f32(Op::Elementwise(Expr { steps }), &[x], &self.shape(x)))
    }

    fn reduce(&mut self) -> Option<ValueId> {
        let x = self.any();
        let mut shape = self.shape(x);
        let axis = self.random.below(shape.len());
        shape[axis] = ONE;
        let kind = self.one_of(&[
            ReduceKind::Sum,
            ReduceKind::Sum,
            ReduceKind::Mean,
            ReduceKind::SumOfSquares,
            ReduceKind::Max,
            ReduceKind::Max,
            ReduceKind::Min,
        ]);
        Some(self.f32(Op::Reduce(Reduce { kind, axes: vec![axis as u32] }), &[x], &shape))
    }

    fn softmax(&mut self) -> Option<ValueId> {
        let x = self.any();
        let shape = self.shape(x);
        let axis = self.random.below(shape.len()) as u32;
        Some(self.f32(Op::Softmax(Softmax { axis }), &[x], &shape))
    }

    fn matmul(&mut self) -> Option<ValueId> {
        let (a, b) = (self.any(), self.any());
        let (left, right) = (self.shape(a), self.shape(b));
        if left.len() != 3 || right.len() != 3 || left[0] != right[0] {
            return None;
        }
        let transpose_b = left[2] == right[2];
        if !transpose_b && left[2] != right[1] {
            return None;
        }
        let n = if transpose_b { &right[1] } else { &right[2] };
        let shape = [left[0].clone(), left[1].clone(), n.clone()];
        let (bias, residual) = (false, false);
        let activation = self.one_of(&[None, Some(Unary::Relu), Some(Unary::Tanh)]);
        let op = Op::MatMul(MatMul {
            transpose_b,
            alpha: 0.5,
            bias,
            activation,
            residual,
            ..MatMul::PLAIN
        });
        Some(self.f32(op, &[a, b], &shape))
    }

    fn transpose(&mut self) -> Option<ValueId> {
        let x = self.any();
        let shape = self.shape(x);
        let mut perm: Vec<u32> = (0..shape.len() as u32).collect();
        for index in (1..perm.len()).rev() {
            perm.swap(index, self.random.below(index + 1));
        }
        let turned: Vec<Dim> = perm.iter().map(|&axis| shape[axis as usize].clone()).collect();
        Some(self.f32(Op::Transpose(Transpose { perm }), &[x], &turned))
    }

    /// Joins two neighbouring dimensions, splits one with two factors again, or adds one of size 1.
    fn reshape(&mut self) -> Option<ValueId> {
        let x = self.any();
        let mut shape = self.shape(x);
        let axis = self.random.below(shape.len());
        match (&shape[axis], self.random.from(0, 2)) {
            (Dim::Product(parts), _) => {
                let parts = parts.clone();
                shape.splice(axis..=axis, parts);
            }
            (Dim::Fixed(4), 0) => {
                shape.splice(axis..=axis, [Dim::Fixed(2), Dim::Fixed(2)]);
            }
            (_, 1) if axis + 1 < shape.len() => {
                let parts = vec![shape[axis].clone(), shape[axis + 1].clone()];
                if parts.iter().any(|part| matches!(part, Dim::Product(_) | Dim::Sum(_))) {
                    return None;
                }
                shape.splice(axis..=axis + 1, [Dim::Product(parts)]);
            }
            (Dim::Fixed(1), _) if shape.len() > 1 => {
                shape.remove(axis);
            }
            _ if shape.len() < 4 => shape.insert(axis, ONE),
            _ => return None,
        }
        Some(self.f32(Op::Reshape, &[x], &shape))
    }

    fn concat(&mut self) -> Option<ValueId> {
        let (a, b) = (self.any(), self.any());
        let (left, right) = (self.shape(a), self.shape(b));
        let axis = self.random.below(left.len());
        let fits = left.len() == right.len()
            && (0..left.len()).all(|index| index == axis || left[index] == right[index]);
        if !fits || matches!(left[axis], Dim::Sum(_)) || matches!(right[axis], Dim::Sum(_)) {
            return None;
        }
        let mut shape = left.clone();
        shape[axis] = match (&left[axis], &right[axis]) {
            (Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(a + b),
            (a, b) => Dim::Sum(vec![a.clone(), b.clone()]),
        };
        Some(self.f32(Op::Concat(Concat { axis: axis as u32 }), &[a, b], &shape))
    }

    fn slice(&mut self) -> Option<ValueId> {
        let x = self.any();
        let mut shape = self.shape(x);
        let axis = self.random.below(shape.len());
        let (start, stride, length) = match (&shape[axis], self.random.from(0, 3)) {
            (Dim::Fixed(4), _) => (Dim::Fixed(self.random.from(0, 1)), 2, Dim::Fixed(2)),
            (Dim::Fixed(_), _) => return None,
            // Sizes of the runs are at least 2.
            (_, 0) => (Dim::Fixed(0), 1, ONE),
            (_, 1) => (Dim::Fixed(1), 1, ONE),
            (dim, 2) if !matches!(dim, Dim::Sum(_)) => {
                let start = self.random.from(0, 1);
                (Dim::Fixed(start), 1, Dim::Sum(vec![dim.clone(), Dim::Fixed(-1)]))
            }
            (dim, _) => (Dim::Sum(vec![dim.clone(), Dim::Fixed(-1)]), 1, ONE),
        };
        shape[axis] = length;
        Some(self.f32(Op::Slice(Slice { axis: axis as u32, start, stride }), &[x], &shape))
    }

    /// An operator along a dimension.
    fn along(&mut self) -> Option<ValueId> {
        let x = self.any();
        let mut shape = self.shape(x);
        let axis = self.random.below(shape.len()) as u32;
        let reverse = self.random.from(0, 1) == 1;
        if self.random.from(0, 2) > 0 {
            let (product, exclusive) = (false, self.random.from(0, 1) == 1);
            let op = Op::Cumulative(Cumulative { axis, product, exclusive, reverse });
            return Some(self.f32(op, &[x], &shape));
        }
        shape[axis as usize] = ONE;
        let op = Op::ArgReduce(ArgReduce { axis, largest: true, last: reverse });
        let place = self.node(op, &[x], DType::I32, &shape);
        let steps = vec![Step::Input(0), Step::Cast(DType::F32, 0)];
        Some(self.f32(Op::Elementwise(Expr { steps }), &[place], &shape))
    }

    fn layer_norm(&mut self) -> Option<ValueId> {
        let x = self.any();
        let shape = self.shape(x);
        let Some(Dim::Fixed(width)) = shape.last().cloned() else { return None };
        let (gamma, beta) = (self.weights(&[width]), self.weights(&[width]));
        let op = Op::LayerNorm(LayerNorm { epsilon: 1e-3, residual: false });
        Some(self.f32(op, &[x, gamma, beta], &shape))
    }

    /// The mask as `[B, 1, 1, S]` or similar, of floats.
    fn mask(&mut self, shape: &[Dim]) -> ValueId {
        let mask = self.program.inputs[MASK as usize].value;
        let viewed = self.node(Op::Reshape, &[mask], DType::I32, shape);
        let lowest = self.one_of(&LOWEST);
        let steps = match self.random.from(0, 2) {
            0 => vec![
                Step::Input(0),
                Step::Cast(DType::Bool, 0),
                Step::Float(0.0),
                Step::Float(lowest),
                Step::Select(1, 2, 3),
            ],
            1 => vec![
                Step::Input(0),
                Step::Cast(DType::F32, 0),
                Step::Float(1.0),
                Step::Binary(Binary::Sub, 1, 2),
                Step::Float(if lowest.is_finite() { -lowest } else { 1e9 }),
                Step::Binary(Binary::Mul, 3, 4),
            ],
            _ => vec![Step::Input(0), Step::Cast(DType::F32, 0)],
        };
        self.f32(Op::Elementwise(Expr { steps }), &[viewed], shape)
    }

    fn attention(&mut self) -> Option<ValueId> {
        let (x, other) = (self.any(), self.any());
        let (shape, keys) = (self.shape(x), self.shape(other));
        if shape.len() != 3 || keys.len() != 3 || shape[0] != keys[0] || shape[2] != keys[2] {
            return None;
        }
        let Dim::Fixed(4) = shape[2] else { return None };
        let mask = shape[0] == B && keys[1] == S;
        let mut operands = vec![x, other, other];
        if mask {
            operands.push(self.mask(&[B, ONE, ONE, S]));
        }
        Some(self.f32(Op::Attention(Attention { heads: 2, scale: 0.7, mask }), &operands, &shape))
    }

    fn conv(&mut self) -> Option<ValueId> {
        let x = self.any();
        let mut shape = self.shape(x);
        let ([_, Dim::Fixed(channels), length], 3) = (shape.as_slice(), shape.len()) else {
            return None;
        };
        let (channels, length) = (*channels, length.clone());
        if matches!(length, Dim::Fixed(_)) {
            return None;
        }
        let w = self.weights(&[4, 3, channels]);
        let window = Window { strides: vec![1], dilations: vec![1], pads: vec![ONE] };
        let (transposed, bias, residual, activation) = (false, false, false, None);
        shape[1] = Dim::Fixed(4);
        let op = Op::Conv(Conv { window, groups: 1, transposed, bias, residual, activation });
        Some(self.f32(op, &[x, w], &shape))
    }

    /// A value under the mask: multiplied by it, or replaced or lowered where it is zero.
    fn masked(&mut self) -> Option<ValueId> {
        let x = self.any();
        let shape = self.shape(x);
        let places: Vec<usize> = (0..shape.len()).filter(|&axis| shape[axis] == S).collect();
        let batch = shape.iter().position(|dim| *dim == B)?;
        if places.is_empty() {
            return None;
        }
        let place = self.one_of(&places);
        if place < batch {
            return None;
        }
        let view: Vec<Dim> = (0..shape.len())
            .map(|axis| if axis == batch || axis == place { shape[axis].clone() } else { ONE })
            .collect();
        let mask = self.mask(&view);
        let function = self.one_of(&[Binary::Add, Binary::Mul]);
        let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
        Some(self.f32(Op::Elementwise(Expr { steps }), &[x, mask], &shape))
    }

    /// An embedding of positions, looked up or sliced.
    fn positions(&mut self) -> Option<ValueId> {
        let table = self.weights(&[64, 4]);
        let shape = [S, Dim::Fixed(4)];
        if self.random.from(0, 1) == 0 {
            let op = Op::Slice(Slice { axis: 0, start: Dim::Fixed(2), stride: 1 });
            return Some(self.f32(op, &[table], &shape));
        }
        let op = Op::Range(Range { start: Dim::Fixed(0), stride: Dim::Fixed(1) });
        let positions = self.node(op, &[], DType::I32, &[S]);
        Some(self.f32(Op::Gather(Gather::new(0)), &[table, positions], &shape))
    }
}

fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let of = |shape: &[Dim], place: usize| {
        shape.len().checked_sub(place).map_or(ONE, |axis| shape[axis].clone())
    };
    (1..=rank)
        .rev()
        .map(|place| match (of(a, place), of(b, place)) {
            (ONE, dim) | (dim, ONE) => Some(dim),
            (a, b) => (a == b).then_some(a),
        })
        .collect()
}
