//! A BERT encoder as a `Program`, with reproducible weights: written by hand as an importer would make it.

use std::collections::BTreeMap;

use flotilla_program::{
    Attention, Binary, BlobId, BlobRef, ConstantRef, Expr, Gather, LayerNorm, MatMul, Node, Op,
    Port, Program, Range, Source, Step, SymbolInfo, SymbolSource, Unary, Value, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// Sizes of the encoder.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) layers: usize,
    pub(crate) hidden: i64,
    pub(crate) heads: u32,
    pub(crate) intermediate: i64,
    pub(crate) vocabulary: i64,
    pub(crate) positions: i64,
}

struct Builder {
    program: Program,
    blob: Vec<u8>,
    random: Xoshiro256PlusPlus,
}

impl Builder {
    fn value(&mut self, dtype: DType, shape: Vec<Dim>, source: Source) -> ValueId {
        self.program.values.push(Value { dtype, shape, source });
        ValueId(self.program.values.len() as u32 - 1)
    }

    fn weight(&mut self, shape: &[i64], scale: f32, around: f32) -> ValueId {
        let offset = self.blob.len() as u64;
        for _ in 0..shape.iter().product::<i64>() {
            let noise = self.random.random_range(-1.0f32..1.0);
            self.blob.extend_from_slice(&(around + noise * scale).to_le_bytes());
        }
        let bytes = self.blob.len() as u64 - offset;
        let source = Source::Constant(ConstantRef {
            blob: BlobId([0; 32]),
            offset,
            bytes,
            dtype: DType::F32,
        });
        self.value(DType::F32, shape.iter().map(|&dim| Dim::Fixed(dim)).collect(), source)
    }

    fn node(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[ValueId],
        dtype: DType,
        shape: Vec<Dim>,
    ) -> ValueId {
        let output = self.value(dtype, shape, Source::Node);
        self.program.nodes.push(Node {
            name: name.to_owned(),
            op,
            inputs: inputs.to_vec(),
            outputs: vec![output],
        });
        output
    }

    fn linear(&mut self, x: ValueId, from: i64, to: i64, activation: Option<Unary>) -> ValueId {
        let weight = self.weight(&[from, to], 1.7 / (from as f32).sqrt(), 0.0);
        let bias = self.weight(&[to], 0.1, 0.0);
        let op = MatMul { bias: true, activation, ..MatMul::PLAIN };
        self.node("linear", Op::MatMul(op), &[x, weight, bias], DType::F32, rows(to))
    }

    fn norm(&mut self, x: ValueId, residual: ValueId, hidden: i64) -> ValueId {
        let (gamma, beta) = (self.weight(&[hidden], 0.2, 1.0), self.weight(&[hidden], 0.1, 0.0));
        let op = Op::LayerNorm(LayerNorm { epsilon: 1e-12, residual: true });
        self.node("norm", op, &[x, gamma, beta, residual], DType::F32, rows(hidden))
    }
}

fn batch() -> Dim {
    Dim::Symbol(Symbol(0))
}

fn sequence() -> Dim {
    Dim::Symbol(Symbol(1))
}

fn rows(width: i64) -> Vec<Dim> {
    vec![batch(), sequence(), Dim::Fixed(width)]
}

/// Inputs `input_ids` and `attention_mask` (I64, `[batch, sequence]`), output `[batch, sequence, hidden]`.
pub(crate) fn bert(sizes: Sizes) -> (Program, BTreeMap<BlobId, Vec<u8>>) {
    let program = Program {
        symbols: ["batch", "sequence"]
            .map(|name| SymbolInfo { name: name.to_owned(), source: SymbolSource::Input })
            .into(),
        ..Program::new("bert")
    };
    let mut b = Builder { program, blob: Vec::new(), random: Xoshiro256PlusPlus::seed_from_u64(7) };
    let Sizes { hidden, heads, intermediate, .. } = sizes;
    let given = |b: &mut Builder, name: &str| {
        let value = b.value(DType::I32, vec![batch(), sequence()], Source::Input);
        b.program.inputs.push(Port { name: name.to_owned(), dtype: DType::I64, value, high: None });
        value
    };
    let ids = given(&mut b, "input_ids");
    let mask = given(&mut b, "attention_mask");
    let words = b.weight(&[sizes.vocabulary, hidden], 0.5, 0.0);
    let places = b.weight(&[sizes.positions, hidden], 0.5, 0.0);
    let embedded =
        b.node("words", Op::Gather(Gather::new(0)), &[words, ids], DType::F32, rows(hidden));
    let range = Op::Range(Range { start: 0.into(), stride: 1.into() });
    let positions = b.node("positions", range, &[], DType::I32, vec![sequence()]);
    let shape = vec![sequence(), Dim::Fixed(hidden)];
    let placed =
        b.node("places", Op::Gather(Gather::new(0)), &[places, positions], DType::F32, shape);
    let sum = Expr { steps: vec![Step::Input(0), Step::Input(1), Step::Binary(Binary::Add, 0, 1)] };
    let summed = b.node("sum", Op::Elementwise(sum), &[embedded, placed], DType::F32, rows(hidden));
    let zero = b.weight(&[1, 1, hidden], 0.0, 0.0);
    let zeros = b.node("zeros", Op::Broadcast, &[zero], DType::F32, rows(hidden));
    let mut x = b.norm(summed, zeros, hidden);
    let wide = vec![batch(), 1.into(), 1.into(), sequence()];
    let reshaped = b.node("reshaped mask", Op::Reshape, &[mask], DType::I32, wide.clone());
    let steps = vec![
        Step::Input(0),
        Step::Int(0),
        Step::Binary(Binary::Eq, 0, 1),
        Step::Float(f32::MIN),
        Step::Float(0.0),
        Step::Select(2, 3, 4),
    ];
    let added = b.node("mask", Op::Elementwise(Expr { steps }), &[reshaped], DType::F32, wide);
    for _ in 0..sizes.layers {
        let [q, k, v] = [0; 3].map(|_| b.linear(x, hidden, hidden, None));
        let scale = 1.0 / ((hidden / i64::from(heads)) as f32).sqrt();
        let attention = Op::Attention(Attention { heads, scale, mask: true });
        let mixed = b.node("attention", attention, &[q, k, v, added], DType::F32, rows(hidden));
        let projected = b.linear(mixed, hidden, hidden, None);
        x = b.norm(projected, x, hidden);
        let up = b.linear(x, hidden, intermediate, Some(Unary::GeluErf));
        let down = b.linear(up, intermediate, hidden, None);
        x = b.norm(down, x, hidden);
    }
    b.program.outputs.push(Port {
        name: "last_hidden_state".to_owned(),
        dtype: DType::F32,
        value: x,
        high: None,
    });
    let id = BlobId(*blake3::hash(&b.blob).as_bytes());
    for value in &mut b.program.values {
        if let Source::Constant(constant) = &mut value.source {
            constant.blob = id;
        }
    }
    b.program.blobs.push(BlobRef { id, bytes: b.blob.len() as u64 });
    (b.program, BTreeMap::from([(id, b.blob)]))
}
