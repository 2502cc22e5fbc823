//! Operators that run regions. The executor of a program runs them itself, without a kernel.

use super::{Kernel, Launch, Operand, Shader};
use crate::call::{Call, Signature};
#[cfg(not(target_arch = "wasm32"))]
use crate::suite::{Array, Case, Sketch, Tolerance};

/// [`flotilla_program::Op::If`] and [`flotilla_program::Op::Loop`].
pub(crate) struct Control;

const NO_KERNEL: &str = "an operator with regions has no kernel";

impl Kernel for Control {
    fn supports(&self, _signature: &Signature<'_>) -> Result<(), String> {
        Ok(())
    }

    fn shaders(&self, _signature: &Signature<'_>) -> Vec<Shader> {
        Vec::new()
    }

    fn launches(&self, _call: &Call<'_>) -> Result<Vec<Launch>, String> {
        Err(NO_KERNEL.to_owned())
    }

    fn compute(
        &self,
        _call: &Call<'_>,
        _operands: &[Operand<'_>],
        _output: &mut [u32],
    ) -> Result<(), String> {
        Err(NO_KERNEL.to_owned())
    }
}

/// Programs whose runs decide what is executed or how large it is.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for condition in [0.0, 1.0] {
        cases.push(branches(condition));
    }
    for turns in [0, 1, 5] {
        cases.push(collected(turns));
        cases.push(growing(turns));
    }
    cases.push(until_large());
    cases.push(counted());
    cases.push(given_sizes());
    cases
}

#[cfg(not(target_arch = "wasm32"))]
fn steps(steps: Vec<flotilla_program::Step>) -> flotilla_program::Op {
    flotilla_program::Op::Elementwise(flotilla_program::Expr { steps })
}

/// `x * factor + term`.
#[cfg(not(target_arch = "wasm32"))]
fn scaled(factor: f32, term: f32) -> flotilla_program::Op {
    use flotilla_program::{Binary, Step};

    steps(vec![
        Step::Input(0),
        Step::Float(factor),
        Step::Binary(Binary::Mul, 0, 1),
        Step::Float(term),
        Step::Binary(Binary::Add, 2, 3),
    ])
}

/// Branches with results of different lengths, followed by an operator on such a result.
#[cfg(not(target_arch = "wasm32"))]
fn branches(condition: f64) -> Case {
    use flotilla_program::{If, Op, Slice, SymbolSource, ValueId};
    use flotilla_tensor::DType;

    let mut sketch = Sketch::new(&format!("control/if {condition}"));
    let decided = sketch.input(&Array::of(DType::Bool, &[], vec![condition]));
    let x = sketch.input(&Array::f32(&[6], (0..6).map(f64::from).collect()));
    let before = sketch.nodes();
    let doubled = sketch.node(scaled(2.0, 0.0), &[x], DType::F32, &[6]);
    let yes = sketch.region(before, &[], &[doubled]);
    let slice = Slice { axis: 0, start: 1.into(), stride: 2 };
    let odd = sketch.node(Op::Slice(slice), &[x], DType::F32, &[3]);
    let no = sketch.region(before, &[], &[odd]);
    let result = sketch.sized(DType::F32, Vec::new());
    let length = sketch.symbol(SymbolSource::Extent { value: result, axis: 0 });
    sketch.reshape(result, vec![length.clone()]);
    sketch.computing(Op::If(If { yes, no }), &[decided], &[result]);
    let after: ValueId = sketch.sized(DType::F32, vec![length]);
    sketch.computing(scaled(1.0, 10.0), &[result], &[after]);
    let want: Vec<f64> = if condition != 0.0 {
        (0..6).map(|x| f64::from(x * 2 + 10)).collect()
    } else {
        vec![11.0, 13.0, 15.0]
    };
    sketch.case(after, &Array::f32(&[want.len()], want), Tolerance::Exact)
}

/// A loop that doubles a carried value. Each value is collected after the iteration's number is added.
#[cfg(not(target_arch = "wasm32"))]
fn collected(turns: usize) -> Case {
    use flotilla_program::{Binary, Loop, Op, Step, SymbolSource};
    use flotilla_tensor::DType;

    let mut sketch = Sketch::new(&format!("control/loop, {turns} turns collected"));
    let always = sketch.constant(&Array::of(DType::Bool, &[], vec![1.0]));
    let most = sketch.input(&Array::of(DType::I64, &[], vec![turns as f64]));
    let x = sketch.input(&Array::f32(&[2], vec![1.0, 3.0]));
    let turn = sketch.sized(DType::I32, Vec::new());
    let carried = sketch.sized(DType::F32, vec![2.into()]);
    let before = sketch.nodes();
    let doubled = sketch.node(scaled(2.0, 0.0), &[carried], DType::F32, &[2]);
    let sum = steps(vec![
        Step::Input(0),
        Step::Input(1),
        Step::Cast(DType::F32, 1),
        Step::Binary(Binary::Add, 0, 2),
    ]);
    let own = sketch.node(sum, &[doubled, turn], DType::F32, &[2]);
    let body = sketch.region(before, &[turn, carried], &[always, doubled, own]);
    let last = sketch.sized(DType::F32, vec![2.into()]);
    let all = sketch.sized(DType::F32, Vec::new());
    let count = sketch.symbol(SymbolSource::Extent { value: all, axis: 0 });
    sketch.reshape(all, vec![count, 2.into()]);
    sketch.computing(Op::Loop(Loop { body, carried: 1 }), &[always, most, x], &[last, all]);
    let want = (0..turns).flat_map(|turn| {
        let factor = f64::from(2 << turn);
        [1.0, 3.0].map(|x| x * factor + turn as f64)
    });
    sketch.case(all, &Array::f32(&[turns, 2], want.collect()), Tolerance::Exact)
}

/// A carried value that becomes longer in each iteration.
#[cfg(not(target_arch = "wasm32"))]
fn growing(turns: usize) -> Case {
    use flotilla_program::{Concat, Loop, Op, SymbolSource, dim::Dim};
    use flotilla_tensor::DType;

    let mut sketch = Sketch::new(&format!("control/loop, {turns} turns that grow"));
    let always = sketch.constant(&Array::of(DType::Bool, &[], vec![1.0]));
    let most = sketch.input(&Array::of(DType::I32, &[], vec![turns as f64]));
    let x = sketch.input(&Array::f32(&[1], vec![7.0]));
    let turn = sketch.sized(DType::I32, Vec::new());
    let carried = sketch.sized(DType::F32, Vec::new());
    let length = sketch.symbol(SymbolSource::Extent { value: carried, axis: 0 });
    sketch.reshape(carried, vec![length.clone()]);
    let before = sketch.nodes();
    let longer = sketch.sized(DType::F32, vec![Dim::Sum(vec![length, 1.into()])]);
    sketch.computing(Op::Concat(Concat { axis: 0 }), &[carried, x], &[longer]);
    let body = sketch.region(before, &[turn, carried], &[always, longer]);
    let last = sketch.sized(DType::F32, Vec::new());
    let length = sketch.symbol(SymbolSource::Extent { value: last, axis: 0 });
    sketch.reshape(last, vec![length]);
    sketch.computing(Op::Loop(Loop { body, carried: 1 }), &[always, most, x], &[last]);
    sketch.case(last, &Array::f32(&[turns + 1], vec![7.0; turns + 1]), Tolerance::Exact)
}

/// A loop, with a branch in it, that ends when its result is large.
#[cfg(not(target_arch = "wasm32"))]
fn until_large() -> Case {
    use flotilla_program::{Binary, If, Loop, Op, Step};
    use flotilla_tensor::DType;

    let mut sketch = Sketch::new("control/loop until a number is large");
    let always = sketch.constant(&Array::of(DType::Bool, &[], vec![1.0]));
    let most = sketch.constant(&Array::of(DType::I32, &[], vec![f64::from(i32::MAX)]));
    let x = sketch.input(&Array::f32(&[], vec![1.5]));
    let turn = sketch.sized(DType::I32, Vec::new());
    let carried = sketch.sized(DType::F32, Vec::new());
    let compare = |bound: f32, order: Binary| {
        steps(vec![Step::Input(0), Step::Float(bound), Step::Binary(order, 0, 1)])
    };
    let before = sketch.nodes();
    let is_small = sketch.node(compare(10.0, Binary::Lt), &[carried], DType::Bool, &[]);
    let inner = sketch.nodes();
    let squared = sketch.node(
        steps(vec![Step::Input(0), Step::Binary(Binary::Mul, 0, 0)]),
        &[carried],
        DType::F32,
        &[],
    );
    let yes = sketch.region(inner, &[], &[squared]);
    let tripled = sketch.node(scaled(3.0, 1.0), &[carried], DType::F32, &[]);
    let no = sketch.region(inner, &[], &[tripled]);
    let next = sketch.sized(DType::F32, Vec::new());
    sketch.computing(Op::If(If { yes, no }), &[is_small], &[next]);
    let go_on = sketch.node(compare(100.0, Binary::Lt), &[next], DType::Bool, &[]);
    let body = sketch.region(before, &[turn, carried], &[go_on, next]);
    let last = sketch.sized(DType::F32, Vec::new());
    sketch.computing(Op::Loop(Loop { body, carried: 1 }), &[always, most, x], &[last]);
    let mut want = 1.5f64;
    while want < 100.0 {
        want = if want < 10.0 { want * want } else { want * 3.0 + 1.0 };
    }
    sketch.case(last, &Array::f32(&[], vec![want]), Tolerance::Close)
}

/// As many elements as the input has positive ones.
#[cfg(not(target_arch = "wasm32"))]
fn counted() -> Case {
    use flotilla_program::{Binary, Op, Reduce, ReduceKind, Slice, Step, SymbolSource, TopK};
    use flotilla_tensor::DType;

    let mut sketch = Sketch::new("control/a length that data decide");
    let x = sketch.input(&Array::noise(5, &[5000]));
    let numbers = Array::noise(5, &[5000]).numbers;
    let positive = steps(vec![
        Step::Input(0),
        Step::Float(0.0),
        Step::Binary(Binary::Gt, 0, 1),
        Step::Cast(DType::I32, 2),
    ]);
    let positive = sketch.node(positive, &[x], DType::I32, &[5000]);
    let sum = Op::Reduce(Reduce { kind: ReduceKind::Sum, axes: vec![0] });
    let count = sketch.node(sum, &[positive], DType::I32, &[1]);
    let length = sketch.symbol(SymbolSource::Element { value: count, index: 0 });
    let order = sketch.node(Op::TopK(TopK { axis: 0, largest: true }), &[x], DType::I32, &[5000]);
    let taken = sketch.sized(DType::I32, vec![length]);
    let slice = Slice { axis: 0, start: 0.into(), stride: 1 };
    sketch.computing(Op::Slice(slice), &[order], &[taken]);
    let mut want: Vec<usize> = (0..5000).filter(|&at| numbers[at] > 0.0).collect();
    want.sort_by(|&a, &b| numbers[b].total_cmp(&numbers[a]));
    let want: Vec<f64> = want.into_iter().map(|at| at as f64).collect();
    sketch.case(taken, &Array::of(DType::I32, &[want.len()], want), Tolerance::Exact)
}

/// A shape that is an input; its numbers are also used as elements.
#[cfg(not(target_arch = "wasm32"))]
fn given_sizes() -> Case {
    use flotilla_program::{Op, Step, SymbolSource, dim::Dim};
    use flotilla_tensor::DType;

    let mut sketch = Sketch::new("control/a shape that an input says");
    let x = sketch.input(&Array::f32(&[1, 3], vec![1.0, 2.0, 3.0]));
    let shape = sketch.input(&Array::of(DType::I64, &[2], vec![4.0, 3.0]));
    let rows = sketch.symbol(SymbolSource::Element { value: shape, index: 0 });
    let columns = sketch.symbol(SymbolSource::Element { value: shape, index: 1 });
    let wide = sketch.sized(DType::F32, vec![rows.clone(), columns.clone()]);
    sketch.computing(Op::Broadcast, &[x], &[wide]);
    let area = steps(vec![
        Step::Input(0),
        Step::Dim(Dim::Product(vec![rows.clone(), columns.clone()])),
        Step::Cast(DType::F32, 1),
        Step::Binary(flotilla_program::Binary::Add, 0, 2),
    ]);
    let sum = sketch.sized(DType::F32, vec![rows, columns]);
    sketch.computing(area, &[wide], &[sum]);
    let want = [13.0, 14.0, 15.0].repeat(4);
    sketch.case(sum, &Array::f32(&[4, 3], want), Tolerance::Exact)
}
