//! Small programs, a table per family of operators.

use super::{Guard, Limit, padding, paddings};
use flotilla_program::{
    Attention, Binary, BlobId, BlobRef, Concat, ConstantRef, Conv, Cumulative, Expr, Gather,
    LayerNorm, MatMul, Node, Op, PROGRAM_VERSION, Pool, PoolKind, Port, Program, Range, Reduce,
    ReduceKind, Slice, Softmax, Source, Step, SymbolInfo, TopK, Transpose, Unary, Value, ValueId,
    Window,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;

const B: Dim = Dim::Symbol(Symbol(0));
const S: Dim = Dim::Symbol(Symbol(1));

fn fixed(size: i64) -> Dim {
    Dim::Fixed(size)
}

fn product(dims: &[Dim]) -> Dim {
    Dim::Product(dims.to_vec())
}

fn sum(dims: &[Dim]) -> Dim {
    Dim::Sum(dims.to_vec())
}

/// A program over the symbols `B` and `S` that is built value by value.
struct Sketch(Program);

impl Sketch {
    fn new() -> Sketch {
        Sketch(Program {
            version: PROGRAM_VERSION,
            name: "sketch".to_owned(),
            symbols: ["B", "S"].map(SymbolInfo::of_input).to_vec(),
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            assumptions: Vec::new(),
            bounds: Vec::new(),
            checks: Vec::new(),
            regions: Vec::new(),
            allowed_paddings: Vec::new(),
            blobs: vec![BlobRef { id: BlobId([0; 32]), bytes: 1 << 40 }],
        })
    }

    fn value(&mut self, dtype: DType, shape: &[Dim], source: Source) -> ValueId {
        self.0.values.push(Value { dtype, shape: shape.to_vec(), source });
        ValueId(self.0.values.len() as u32 - 1)
    }

    fn input(&mut self, dtype: DType, shape: &[Dim]) -> ValueId {
        let value = self.value(dtype, shape, Source::Input);
        let name = format!("input {}", self.0.inputs.len());
        self.0.inputs.push(Port { name, dtype, value, high: None });
        value
    }

    fn constant(&mut self, dtype: DType, shape: &[i64]) -> ValueId {
        let bytes = shape.iter().product::<i64>() as u64 * 4;
        let dims: Vec<Dim> = shape.iter().map(|&size| fixed(size)).collect();
        let blob = BlobId([0; 32]);
        self.value(dtype, &dims, Source::Constant(ConstantRef { blob, offset: 0, bytes, dtype }))
    }

    fn node(&mut self, op: Op, inputs: &[ValueId], dtype: DType, shape: &[Dim]) -> ValueId {
        let output = self.value(dtype, shape, Source::Node);
        let name = format!("{} {}", op.name(), self.0.nodes.len());
        self.0.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: vec![output] });
        output
    }

    fn f32(&mut self, op: Op, inputs: &[ValueId], shape: &[Dim]) -> ValueId {
        self.node(op, inputs, DType::F32, shape)
    }

    /// An input without numbers of the magnitude of masks: noise after a layer normalization, `[B, S, width]`.
    fn tokens(&mut self, width: i64) -> ValueId {
        let x = self.input(DType::F32, &[B, S, fixed(width)]);
        let gamma = self.constant(DType::F32, &[width]);
        let op = Op::LayerNorm(LayerNorm { epsilon: 1e-5, residual: false });
        self.f32(op, &[x, gamma, gamma], &[B, S, fixed(width)])
    }

    /// Completes the program for a check: its last value becomes its output.
    fn finished(mut self) -> Program {
        let value = ValueId(self.0.values.len() as u32 - 1);
        let dtype = self.0.values[value.index()].dtype;
        self.0.outputs.push(Port { name: "output".to_owned(), dtype, value, high: None });
        self.0.check().expect("a sketch is consistent");
        self.0
    }

    /// An empty list if the sizes may be padded without a guard, the guards' inputs, or the reason of the
    /// refusal.
    fn length(self) -> Result<Vec<u32>, String> {
        answer(&self.finished(), Symbol(1))
    }

    fn batch(self) -> Result<Vec<u32>, String> {
        answer(&self.finished(), Symbol(0))
    }
}

fn answer(program: &Program, symbol: Symbol) -> Result<Vec<u32>, String> {
    match padding(program, symbol) {
        Ok(padding) => Ok(padding.guards.iter().map(|guard| guard.input).collect()),
        Err(mixed) => Err(mixed.reason),
    }
}

fn unary(function: Unary) -> Op {
    Op::Elementwise(Expr { steps: vec![Step::Input(0), Step::Unary(function, 0)] })
}

fn binary(function: Binary) -> Op {
    let steps = vec![Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)];
    Op::Elementwise(Expr { steps })
}

fn reduce(kind: ReduceKind, axis: u32) -> Op {
    Op::Reduce(Reduce { kind, axes: vec![axis] })
}

fn plain_matmul(transpose_b: bool) -> Op {
    let (bias, residual) = (false, false);
    Op::MatMul(MatMul { transpose_b, bias, residual, ..MatMul::PLAIN })
}

/// `(1 - mask) * factor`, of an I32 mask.
fn additive(factor: f32) -> Vec<Step> {
    vec![
        Step::Float(1.0),
        Step::Input(0),
        Step::Cast(DType::F32, 1),
        Step::Binary(Binary::Sub, 0, 2),
        Step::Float(factor),
        Step::Binary(Binary::Mul, 3, 4),
    ]
}

/// `where(mask, 0, lowest)`.
fn chosen(lowest: f32) -> Vec<Step> {
    vec![
        Step::Input(0),
        Step::Cast(DType::Bool, 0),
        Step::Float(0.0),
        Step::Float(lowest),
        Step::Select(1, 2, 3),
    ]
}

/// Attention of tokens to each other under a mask that an expression computes from an input `[B, S]`.
fn attention(steps: Option<Vec<Step>>) -> Sketch {
    let mut sketch = Sketch::new();
    let x = sketch.tokens(8);
    let mut operands = vec![x, x, x];
    if let Some(steps) = &steps {
        let mask = sketch.input(DType::I32, &[B, S]);
        let expr = Op::Elementwise(Expr { steps: steps.clone() });
        let mask = sketch.f32(expr, &[mask], &[B, S]);
        operands.push(sketch.f32(Op::Reshape, &[mask], &[B, fixed(1), fixed(1), S]));
    }
    let op = Op::Attention(Attention { heads: 2, scale: 0.5, mask: steps.is_some() });
    sketch.f32(op, &operands, &[B, S, fixed(8)]);
    sketch
}

#[test]
fn a_mask_hides_keys_if_it_is_low_enough() {
    let hidden = Ok(vec![1]);
    for lowest in [-1e4, -65504.0, -1e9, f32::MIN, f32::NEG_INFINITY] {
        assert_eq!(attention(Some(chosen(lowest))).length(), hidden, "{lowest}");
    }
    for factor in [-1e4, -1e9, f32::MIN] {
        assert_eq!(attention(Some(additive(factor))).length(), hidden, "{factor}");
    }
    let no_mask = Err("no mask hides its padding".to_owned());
    for steps in [chosen(-100.0), chosen(-9999.0), additive(-1000.0), additive(1e9)] {
        assert_eq!(attention(Some(steps)).length(), no_mask);
    }
    // A zero of the mask keeps the elements that must be hidden.
    let inverted = vec![
        Step::Input(0),
        Step::Cast(DType::Bool, 0),
        Step::Float(0.0),
        Step::Float(-1e9),
        Step::Select(1, 3, 2),
    ];
    assert_eq!(attention(Some(inverted)).length(), no_mask);
    // Every score is low, also those of tokens that are kept.
    let shifted = vec![
        Step::Input(0),
        Step::Cast(DType::F32, 0),
        Step::Float(-20000.0),
        Step::Binary(Binary::Add, 1, 2),
    ];
    assert_eq!(attention(Some(shifted)).length(), no_mask);
    assert_eq!(attention(None).length(), Err("it attends to padding: there is no mask".to_owned()));
    for steps in [None, Some(chosen(f32::NEG_INFINITY)), Some(chosen(-1.0))] {
        assert_eq!(attention(steps).batch(), Ok(vec![]));
    }
}

/// Scores `[B, S, S]`, a mask, and a softmax times values, as single nodes.
fn scores(mask_shape: &[Dim], masked: impl Fn(&mut Sketch, ValueId, ValueId) -> ValueId) -> Sketch {
    let mut sketch = Sketch::new();
    let x = sketch.tokens(8);
    let mask = sketch.input(DType::I32, mask_shape);
    let shape = [B, S, S];
    let scores = sketch.f32(plain_matmul(true), &[x, x], &shape);
    let scores = masked(&mut sketch, scores, mask);
    let shares = sketch.f32(Op::Softmax(Softmax { axis: 2 }), &[scores], &shape);
    sketch.f32(plain_matmul(false), &[shares, x], &[B, S, fixed(8)]);
    sketch
}

#[test]
fn a_softmax_over_hidden_scores_has_no_share_for_padding() {
    let wide = [B, S, S];
    let row = [B, fixed(1), S];
    let filled = |sketch: &mut Sketch, scores, mask| {
        let steps = vec![
            Step::Input(0),
            Step::Int(0),
            Step::Binary(Binary::Eq, 0, 1),
            Step::Float(f32::NEG_INFINITY),
            Step::Input(1),
            Step::Select(2, 3, 4),
        ];
        sketch.f32(Op::Elementwise(Expr { steps }), &[mask, scores], &wide)
    };
    assert_eq!(scores(&row, filled).length(), Ok(vec![1]));
    assert_eq!(scores(&row, filled).batch(), Ok(vec![]));
    // With a mask for each query, the rows of padded queries would be masked completely.
    assert_eq!(
        scores(&wide, filled).length(),
        Err("whole rows of its mask are padding".to_owned())
    );
    // Queries are masked, keys are not.
    assert_eq!(
        scores(&[B, S, fixed(1)], filled).length(),
        Err("no mask hides its padding".to_owned())
    );
    // Scaled after the mask: the distance becomes smaller with it.
    let scaled = |factor: f32| {
        move |sketch: &mut Sketch, scores: ValueId, mask: ValueId| {
            let mut steps = additive(-1e9);
            steps.extend([
                Step::Input(1),
                Step::Binary(Binary::Add, 5, 6),
                Step::Float(factor),
                Step::Binary(Binary::Mul, 7, 8),
            ]);
            sketch.f32(Op::Elementwise(Expr { steps }), &[mask, scores], &[B, S, S])
        }
    };
    assert_eq!(scores(&row, scaled(0.125)).length(), Ok(vec![1]));
    for factor in [1e-6, -0.125] {
        assert!(scores(&row, scaled(factor)).length().is_err());
    }
    // Another mask may hide what this one keeps.
    let causal = |sketch: &mut Sketch, scores: ValueId, mask: ValueId| {
        let other = sketch.input(DType::Bool, &[B, S, S]);
        let mut steps = chosen(f32::MIN);
        steps.extend([
            Step::Input(2),
            Step::Select(5, 2, 3),
            Step::Binary(Binary::Add, 4, 6),
            Step::Input(1),
            Step::Binary(Binary::Add, 7, 8),
        ]);
        sketch.f32(Op::Elementwise(Expr { steps }), &[mask, scores, other], &wide)
    };
    assert!(scores(&row, causal).length().is_err());
}

/// A value of `[B, S, 4]` after one more node.
fn after(op: Op, shape: &[Dim]) -> Sketch {
    let mut sketch = Sketch::new();
    let x = sketch.tokens(4);
    sketch.f32(op, &[x], shape);
    sketch
}

/// The same, with zeros in the padding.
fn after_zeros(op: Op, shape: &[Dim]) -> Sketch {
    let mut sketch = Sketch::new();
    let x = sketch.tokens(4);
    let mask = sketch.input(DType::F32, &[B, S, fixed(1)]);
    let x = sketch.f32(binary(Binary::Mul), &[x, mask], &[B, S, fixed(4)]);
    sketch.f32(op, &[x], shape);
    sketch
}

#[test]
fn reductions_take_in_what_is_neutral() {
    let pooled = [B, fixed(1), fixed(4)];
    for kind in [ReduceKind::Sum, ReduceKind::SumOfSquares] {
        assert_eq!(after_zeros(reduce(kind, 1), &pooled).length(), Ok(vec![]));
    }
    for kind in [ReduceKind::Mean, ReduceKind::Max, ReduceKind::Min, ReduceKind::Product] {
        assert!(after_zeros(reduce(kind, 1), &pooled).length().is_err(), "{kind:?}");
    }
    for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max] {
        assert!(after(reduce(kind, 1), &pooled).length().is_err(), "{kind:?}");
        assert_eq!(after(reduce(kind, 2), &[B, S, fixed(1)]).length(), Ok(vec![]), "{kind:?}");
        assert_eq!(after(reduce(kind, 1), &pooled).batch(), Ok(vec![]), "{kind:?}");
    }
    for (word, kind, answer) in [
        (f32::NEG_INFINITY, ReduceKind::Max, Some(vec![1])),
        (-1e9, ReduceKind::Max, Some(vec![1])),
        (-1.0, ReduceKind::Max, None),
        (f32::INFINITY, ReduceKind::Max, None),
        (f32::INFINITY, ReduceKind::Min, Some(vec![])),
        (f32::NEG_INFINITY, ReduceKind::Min, None),
        (1.0, ReduceKind::Product, Some(vec![])),
    ] {
        let mut sketch = Sketch::new();
        let x = sketch.tokens(4);
        let mask = sketch.input(DType::Bool, &[B, S, fixed(1)]);
        let steps = vec![Step::Input(0), Step::Input(1), Step::Float(word), Step::Select(0, 1, 2)];
        let x = sketch.f32(Op::Elementwise(Expr { steps }), &[mask, x], &[B, S, fixed(4)]);
        sketch.f32(reduce(kind, 1), &[x], &pooled);
        assert_eq!(sketch.length().ok(), answer, "{kind:?} over {word}");
    }
}

#[test]
fn zeros_stay_zeros_unless_something_is_added() {
    let pooled = [B, fixed(1), fixed(4)];
    for (function, allowed) in [
        (Unary::Neg, true),
        (Unary::Relu, true),
        (Unary::GeluErf, true),
        (Unary::Square, true),
        (Unary::Cos, false),
        (Unary::Exp, false),
        (Unary::Sigmoid, false),
    ] {
        let mut sketch = after_zeros(unary(function), &[B, S, fixed(4)]);
        let x = ValueId(sketch.0.values.len() as u32 - 1);
        sketch.f32(reduce(ReduceKind::Sum, 1), &[x], &pooled);
        assert_eq!(sketch.length().is_ok(), allowed, "{function:?}");
    }
    // A number that may be infinite does not become zero when it is multiplied by zero.
    for (function, allowed) in [(Unary::Tanh, true), (Unary::Recip, false), (Unary::Ln, false)] {
        let mut sketch = after(unary(function), &[B, S, fixed(4)]);
        let x = ValueId(sketch.0.values.len() as u32 - 1);
        let mask = sketch.input(DType::F32, &[B, S, fixed(1)]);
        let x = sketch.f32(binary(Binary::Mul), &[x, mask], &[B, S, fixed(4)]);
        sketch.f32(reduce(ReduceKind::Sum, 1), &[x], &pooled);
        assert_eq!(sketch.length().is_ok(), allowed, "{function:?}");
    }
}

#[test]
fn operators_that_depend_on_a_length_are_refused() {
    let divided = Op::Elementwise(Expr {
        steps: vec![
            Step::Input(0),
            Step::Dim(S),
            Step::Cast(DType::F32, 1),
            Step::Binary(Binary::Div, 0, 2),
        ],
    });
    let reason = after(divided.clone(), &[B, S, fixed(4)]).length();
    assert_eq!(reason, Err("it sees how long S is".to_owned()));
    assert_eq!(after(divided, &[B, S, fixed(4)]).batch(), Ok(vec![]));
    for (start, allowed) in [(fixed(0), true), (S, false)] {
        let mut sketch = after(unary(Unary::Neg), &[B, S, fixed(4)]);
        sketch.node(Op::Range(Range { start, stride: fixed(1) }), &[], DType::I32, &[S]);
        assert_eq!(sketch.length().is_ok(), allowed);
    }
}

#[test]
fn slices_select_elements_that_exist_without_padding() {
    let slice = |start: Dim, stride| Op::Slice(Slice { axis: 1, start, stride });
    let one = [B, fixed(1), fixed(4)];
    assert_eq!(after(slice(fixed(0), 1), &one).length(), Ok(vec![]));
    assert_eq!(after(slice(fixed(3), 1), &one).length(), Ok(vec![]));
    // The last element is another one in a longer sequence.
    let last = sum(&[S, fixed(-1)]);
    assert!(after(slice(last.clone(), 1), &one).length().is_err());
    assert!(after(slice(last.clone(), -1), &[B, S, fixed(4)]).length().is_err());
    assert_eq!(after(slice(fixed(1), 1), &[B, last.clone(), fixed(4)]).length(), Ok(vec![]));
    // There are zeros at the end, but one of them becomes another element if the last one is left out.
    for (start, allowed) in [(1, true), (0, false)] {
        let mut sketch = after_zeros(slice(fixed(start), 1), &[B, last.clone(), fixed(4)]);
        let x = ValueId(sketch.0.values.len() as u32 - 1);
        sketch.f32(reduce(ReduceKind::Sum, 1), &[x], &one);
        assert_eq!(sketch.length().is_ok(), allowed, "from {start}");
    }
    // A table of positions limits the number of positions.
    let mut sketch = Sketch::new();
    let x = sketch.tokens(4);
    let table = sketch.constant(DType::F32, &[1, 64, 4]);
    let positions = sketch.f32(slice(fixed(2), 1), &[table], &[fixed(1), S, fixed(4)]);
    sketch.f32(binary(Binary::Add), &[x, positions], &[B, S, fixed(4)]);
    let padding = padding(&sketch.finished(), Symbol(1)).expect("allowed");
    assert_eq!(padding.limits, [Limit { dim: S, most: 62 }]);
    assert!(padding.allows(&[1, 62]) && !padding.allows(&[1, 63]));
}

#[test]
fn padding_stays_apart_under_another_shape() {
    let back = |first: &[Dim], then: &[Dim]| {
        let mut sketch = after(Op::Reshape, first);
        let x = ValueId(sketch.0.values.len() as u32 - 1);
        let y = sketch.f32(unary(Unary::Neg), &[x], first);
        sketch.f32(Op::Reshape, &[y], then);
        sketch
    };
    let (rows, whole) = (product(&[B, S]), [B, S, fixed(4)]);
    assert_eq!(back(&[rows.clone(), fixed(4)], &whole).length(), Ok(vec![]));
    assert_eq!(back(&[rows.clone(), fixed(4)], &whole).batch(), Ok(vec![]));
    assert_eq!(back(&[B, S, fixed(2), fixed(2)], &whole).length(), Ok(vec![]));
    assert_eq!(back(&[B, product(&[S, fixed(4)])], &whole).length(), Ok(vec![]));
    // In the other order its rows are mixed.
    let turned = [S, B, fixed(4)];
    assert!(back(&[rows.clone(), fixed(4)], &turned).length().is_err());
    // A result whose padding lies between its elements cannot be cut.
    assert_eq!(
        after(Op::Reshape, &[rows.clone(), fixed(4)]).length(),
        Err("its padding is not behind its last element".to_owned())
    );
    assert_eq!(after(Op::Reshape, &[rows, fixed(4)]).batch(), Ok(vec![]));
    let op = Op::Transpose(Transpose { perm: vec![1, 0, 2] });
    assert_eq!(after(op, &turned).length(), Ok(vec![]));
    // Four sequences are not a fourth of one.
    assert!(after(Op::Reshape, &[B, fixed(4), S]).length().is_err());
}

#[test]
fn lookups_stay_in_range() {
    let lookup = |size: i64, steps: Vec<Step>| {
        let mut sketch = Sketch::new();
        let ids = sketch.input(DType::I32, &[B, S]);
        let expr = Op::Elementwise(Expr { steps });
        let ids = sketch.node(expr, &[ids], DType::I32, &[B, S]);
        let table = sketch.constant(DType::F32, &[size, 4]);
        sketch.f32(Op::Gather(Gather::new(0)), &[table, ids], &[B, S, fixed(4)]);
        sketch
    };
    let plus = |number| vec![Step::Input(0), Step::Int(number), Step::Binary(Binary::Add, 0, 1)];
    assert_eq!(lookup(10, plus(9)).length(), Ok(vec![]));
    let outside = Err("an index in its padding may be out of range".to_owned());
    assert_eq!(lookup(10, plus(10)).length(), outside);
    assert_eq!(lookup(10, plus(-1)).batch(), outside);
    // Which token is the first depends on the position of the lookup.
    let mut sketch = Sketch::new();
    let x = sketch.tokens(4);
    let place = sketch.input(DType::I32, &[]);
    sketch.f32(Op::Gather(Gather::new(1)), &[x, place], &[B, fixed(4)]);
    assert!(sketch.length().is_err());
}

#[test]
fn windows_see_zeros_behind_the_end() {
    let window = Window { strides: vec![2], dilations: vec![1], pads: vec![fixed(1)] };
    let conv = |zeros: bool| {
        let mut sketch = Sketch::new();
        let mut x = sketch.input(DType::F32, &[B, fixed(4), S]);
        if !zeros {
            x = sketch.f32(unary(Unary::Cos), &[x], &[B, fixed(4), S]);
        }
        let w = sketch.constant(DType::F32, &[8, 3, 4]);
        let length = sum(&[S, fixed(1)]).over(2);
        let (transposed, bias, residual, activation) = (false, false, false, None);
        let window = window.clone();
        let op = Op::Conv(Conv { window, groups: 1, transposed, bias, residual, activation });
        sketch.f32(op, &[x, w], &[B, fixed(8), length]);
        sketch
    };
    assert_eq!(conv(true).length(), Ok(vec![]));
    assert!(conv(false).length().is_err());
    assert_eq!(conv(false).batch(), Ok(vec![]));
    let mut sketch = Sketch::new();
    let x = sketch.input(DType::F32, &[B, fixed(4), S]);
    let pool = Pool { kind: PoolKind::Mean, kernel: vec![2], window, pads_after: vec![fixed(0)] };
    let length = S.over(2);
    sketch.f32(Op::Pool(pool), &[x], &[B, fixed(4), length]);
    assert!(sketch.length().is_err());
}

#[test]
fn operators_along_a_sequence_need_padding_behind_it() {
    let cumulative =
        |reverse| Op::Cumulative(Cumulative { axis: 1, product: false, exclusive: false, reverse });
    let whole = [B, S, fixed(4)];
    assert_eq!(after(cumulative(false), &whole).length(), Ok(vec![]));
    assert!(after(cumulative(true), &whole).length().is_err());
    assert_eq!(after_zeros(cumulative(true), &whole).length(), Ok(vec![]));
    let softmax = Op::Softmax(Softmax { axis: 2 });
    assert_eq!(after(softmax, &whole).length(), Ok(vec![]));
    let softmax = Op::Softmax(Softmax { axis: 1 });
    assert!(after(softmax, &whole).length().is_err());
    let norm = Op::Transpose(Transpose { perm: vec![0, 2, 1] });
    let mut sketch = after(norm, &[B, fixed(4), S]);
    let x = ValueId(sketch.0.values.len() as u32 - 1);
    let top = Op::TopK(TopK { axis: 2, largest: true });
    sketch.node(top, &[x], DType::I32, &[B, fixed(4), fixed(2)]);
    assert!(sketch.length().is_err());
}

#[test]
fn joined_sequences_have_their_padding_at_the_end() {
    let joined = |first: Dim, last: Dim| {
        let mut sketch = Sketch::new();
        let a = sketch.input(DType::F32, &[B, first.clone(), fixed(4)]);
        let b = sketch.input(DType::F32, &[B, last.clone(), fixed(4)]);
        let shape = [B, sum(&[first, last]), fixed(4)];
        sketch.f32(Op::Concat(Concat { axis: 1 }), &[a, b], &shape);
        sketch
    };
    assert_eq!(joined(fixed(1), S).length(), Ok(vec![]));
    assert!(joined(S, fixed(1)).length().is_err());
    assert!(joined(S, S).length().is_err());
    assert_eq!(joined(S, S).batch(), Ok(vec![]));
}

#[test]
fn a_guard_checks_each_row() {
    let guard = |axis| Guard { input: 0, axis, one: 1 };
    let mask = [1, 0, 0, 0, 1, 0];
    assert!(guard(1).holds(&mask, &[2, 3]));
    assert!(!guard(0).holds(&mask, &[2, 3]));
    assert!(!guard(1).holds(&[1, 0, 0, 0, 0, 0], &[2, 3]));
    assert!(!guard(1).holds(&[2, 0, 0, 0, 1, 0], &[2, 3]));
    assert!(guard(0).holds(&[1, 0, 1, 0, 1, 0], &[2, 3]));
    assert!(!guard(1).holds(&[], &[2, 0]));
    assert!(guard(1).holds(&[], &[0, 3]));
    assert!(!guard(2).holds(&mask, &[2, 3]));
}

#[test]
fn symbols_are_padded_together_where_no_mask_is_in_the_way() {
    let program = attention(Some(chosen(f32::MIN))).finished();
    let allowed = paddings(&program).allowed;
    // The length comes first: its guard reads a mask that gets rows of zeros if the batch is padded.
    assert_eq!(allowed.iter().map(|padding| padding.symbol.0).collect::<Vec<_>>(), [1, 0]);
    let program = attention(None).finished();
    let paddings = paddings(&program);
    assert_eq!(paddings.allowed.len(), 1);
    assert_eq!(
        paddings.refused[0].to_string(),
        "Attention 1 would see padding of S: it attends to padding: there is no mask"
    );
}
