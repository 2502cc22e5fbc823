//! Lookups with known indices become slices and reshapes.
//!
//! PyTorch exports a mask as a lookup of all of its elements at `row * length + position`, and the first token as a lookup
//! at 0.

use crate::graph::{Draft, Links, Origin, Uses};
use flotilla_program::{
    Binary, Expr, Gather, Node, Op, Slice, Step, ValueId,
    dim::{Dim, Term},
};
use flotilla_tensor::DType;

/// The elements that a lookup reads.
enum Places {
    /// The element of this index.
    One(i64),
    /// All elements in their order.
    All,
}

pub(super) fn apply(draft: &mut Draft, uses: &Uses) -> usize {
    let links = Links::of(draft, uses);
    let places: Vec<Option<Places>> =
        draft.nodes.iter().map(|node| places(draft, &links, node)).collect();
    let found = places.iter().flatten().count();
    for (mut node, places) in std::mem::take(&mut draft.nodes).into_iter().zip(places) {
        if let (Some(places), Op::Gather(Gather { axis, quantized: None })) = (places, &node.op) {
            if let Places::One(index) = places {
                let (name, data) = (node.name.clone(), node.inputs[0]);
                let mut shape = draft.shape(data).to_vec();
                shape[*axis as usize] = Dim::Fixed(1);
                let op = Op::Slice(Slice { axis: *axis, start: Dim::Fixed(index), stride: 1 });
                node.inputs[0] =
                    draft.add_node(&name, op, vec![data], draft.value(data).dtype, shape);
            }
            node.op = Op::Reshape;
            node.inputs.truncate(1);
        }
        draft.nodes.push(node);
    }
    found
}

fn places(draft: &Draft, links: &Links, node: &Node) -> Option<Places> {
    let Op::Gather(gather) = &node.op else { return None };
    let &[data, indices] = node.inputs.as_slice() else { return None };
    let size = draft.shape(data).get(gather.axis as usize)?;
    // A lookup in a constant is folded elsewhere.
    if matches!(draft.value(data).origin, Origin::Constant(_)) {
        return None;
    }
    if let Some(Step::Int(index)) = draft.scalar_step(indices) {
        let index = i64::from(index);
        // An element other than the first may not exist, which some backends accept in a lookup.
        let there = size.as_fixed().map_or(index == 0, |size| (0..size).contains(&index));
        return there.then_some(Places::One(index));
    }
    let counted = counts_up(draft.shape(indices), &linear(draft, links, indices)?);
    (counted == Some(Term::of(size))).then_some(Places::All)
}

/// Integers that are a linear function of their own indices: the factor of each dimension's index, and the constant term.
#[derive(Clone)]
struct Linear {
    factors: Vec<Term>,
    start: Term,
}

/// The number of integers that count from 0 in row-major order; `None` for others.
fn counts_up(shape: &[Dim], linear: &Linear) -> Option<Term> {
    let mut count = Term::ONE;
    for (dim, factor) in shape.iter().zip(&linear.factors).rev() {
        let length = Term::of(dim);
        if length != Term::ONE {
            if *factor != count {
                return None;
            }
            count = count.times(&length);
        }
    }
    (linear.start == Term::ZERO).then_some(count)
}

fn linear(draft: &Draft, links: &Links, id: ValueId) -> Option<Linear> {
    let node = links.producer(draft, id)?;
    let shape = draft.shape(id);
    match &node.op {
        Op::Range(range) => {
            Some(Linear { factors: vec![Term::of(&range.stride)], start: Term::of(&range.start) })
        }
        Op::Reshape => {
            let long = |shape: &[Dim]| -> Vec<(usize, Term)> {
                let terms = shape.iter().map(Term::of).enumerate();
                terms.filter(|(_, term)| *term != Term::ONE).collect()
            };
            let (from, to) = (long(draft.shape(node.inputs[0])), long(shape));
            if !from.iter().map(|(_, term)| term).eq(to.iter().map(|(_, term)| term)) {
                return None;
            }
            let linear = linear(draft, links, node.inputs[0])?;
            let mut factors = vec![Term::ZERO; shape.len()];
            for ((from, _), (to, _)) in from.iter().zip(&to) {
                factors[*to] = linear.factors[*from].clone();
            }
            Some(Linear { factors, ..linear })
        }
        Op::Elementwise(expr) => sum(draft, links, node, expr, shape.len()),
        _ => None,
    }
}

/// Sums, and products with numbers.
fn sum(draft: &Draft, links: &Links, node: &Node, expr: &Expr, rank: usize) -> Option<Linear> {
    let constant = |start: Term| Linear { factors: vec![Term::ZERO; rank], start };
    let mut steps: Vec<Linear> = Vec::with_capacity(expr.steps.len());
    for step in &expr.steps {
        let next = match step {
            Step::Input(input) => {
                let operand = *node.inputs.get(*input as usize)?;
                match draft.scalar_step(operand) {
                    Some(Step::Int(value)) => constant(Term::of(&Dim::Fixed(i64::from(value)))),
                    _ => repeated(draft.shape(operand), linear(draft, links, operand)?, rank)?,
                }
            }
            Step::Int(value) => constant(Term::of(&Dim::Fixed(i64::from(*value)))),
            Step::Dim(dim) => constant(Term::of(dim)),
            Step::Cast(DType::I32 | DType::I64, a) => steps.get(*a as usize)?.clone(),
            Step::Binary(function, a, b) => {
                let (a, b) = (steps.get(*a as usize)?, steps.get(*b as usize)?);
                match function {
                    Binary::Add => a.plus(b)?,
                    Binary::Mul => a.times(b).or_else(|| b.times(a))?,
                    _ => return None,
                }
            }
            _ => return None,
        };
        steps.push(next);
    }
    steps.pop()
}

/// An operand's integers at the result's rank; along a dimension of 1 they are repeated.
fn repeated(shape: &[Dim], linear: Linear, rank: usize) -> Option<Linear> {
    let mut factors = vec![Term::ZERO; rank.checked_sub(shape.len())?];
    factors.extend(
        shape
            .iter()
            .zip(linear.factors)
            .map(|(dim, factor)| if dim.as_fixed() == Some(1) { Term::ZERO } else { factor }),
    );
    Some(Linear { factors, start: linear.start })
}

impl Linear {
    fn plus(&self, other: &Linear) -> Option<Linear> {
        let sum = |(a, b): (&Term, &Term)| match (*a == Term::ZERO, *b == Term::ZERO) {
            (_, true) => Some(a.clone()),
            (true, false) => Some(b.clone()),
            (false, false) => None,
        };
        Some(Linear {
            factors: self.factors.iter().zip(&other.factors).map(sum).collect::<Option<_>>()?,
            start: sum((&self.start, &other.start))?,
        })
    }

    /// The product with a number.
    fn times(&self, number: &Linear) -> Option<Linear> {
        let by = &number.start;
        number.factors.iter().all(|factor| *factor == Term::ZERO).then(|| Linear {
            factors: self.factors.iter().map(|factor| factor.times(by)).collect(),
            start: self.start.times(by),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_program::{Range, Transpose, dim::Symbol};

    const BATCH: Dim = Dim::Symbol(Symbol(0));
    const LENGTH: Dim = Dim::Symbol(Symbol(1));

    fn rewritten(draft: &mut Draft) -> usize {
        let uses = Uses::of(draft);
        apply(draft, &uses)
    }

    /// A lookup in `[batch * length, 2]` at `row * by + position`.
    fn lookup(by: Dim, transposed: bool) -> Draft {
        let mut draft = Draft::default();
        let whole = Dim::Product(vec![LENGTH, BATCH]);
        let data = draft.add_value(DType::I32, vec![whole, 2.into()], Origin::Input);
        let mut range = |length: Dim, shape: Vec<Dim>| {
            let op = Op::Range(Range { start: 0.into(), stride: 1.into() });
            let range = draft.add_node("range", op, vec![], DType::I32, vec![length]);
            draft.add_node("view", Op::Reshape, vec![range], DType::I32, shape)
        };
        let rows = range(BATCH, vec![BATCH, 1.into(), 1.into()]);
        let positions = range(LENGTH, vec![1.into(), LENGTH]);
        let steps = vec![
            Step::Input(0),
            Step::Dim(by),
            Step::Binary(Binary::Mul, 1, 0),
            Step::Input(1),
            Step::Binary(Binary::Add, 2, 3),
        ];
        let mut shape = vec![BATCH, 1.into(), LENGTH];
        let expr = Op::Elementwise(Expr { steps });
        let mut places =
            draft.add_node("places", expr, vec![rows, positions], DType::I32, shape.clone());
        if transposed {
            shape.swap(0, 2);
            let op = Op::Transpose(Transpose { perm: vec![2, 1, 0] });
            places = draft.add_node("turn", op, vec![places], DType::I32, shape.clone());
        }
        shape.push(2.into());
        let op = Op::Gather(Gather::new(0));
        draft.add_node("lookup", op, vec![data, places], DType::I32, shape);
        draft
    }

    fn last(draft: &Draft) -> (&Op, &[ValueId]) {
        let node = draft.nodes.last().expect("there are nodes");
        (&node.op, &node.inputs)
    }

    #[test]
    fn a_lookup_of_everything_in_order_is_a_reshape() {
        let mut draft = lookup(LENGTH, false);
        assert_eq!(rewritten(&mut draft), 1);
        assert_eq!(last(&draft), (&Op::Reshape, &[ValueId(0)][..]));
    }

    #[test]
    fn a_lookup_in_another_order_stays() {
        for (by, transposed) in [(BATCH, false), (LENGTH, true), (7.into(), false)] {
            let mut draft = lookup(by, transposed);
            assert_eq!(rewritten(&mut draft), 0);
            assert!(matches!(last(&draft).0, Op::Gather(_)));
        }
    }

    #[test]
    fn a_lookup_of_one_known_element_is_a_slice() {
        for (index, length, sliced) in
            [(0, LENGTH, true), (1, LENGTH, false), (-1, 4.into(), false), (3, 4.into(), true)]
        {
            let mut draft = Draft::default();
            let shape = vec![BATCH, length, 8.into()];
            let data = draft.add_value(DType::F32, shape, Origin::Input);
            let bytes: [u8; 4] = i32::to_le_bytes(index);
            let origin = Origin::Constant(crate::graph::Data::new(DType::I32, bytes.to_vec()));
            let place = draft.add_value(DType::I32, vec![], origin);
            let op = Op::Gather(Gather::new(1));
            draft.add_node("first", op, vec![data, place], DType::F32, vec![BATCH, 8.into()]);
            assert_eq!(rewritten(&mut draft), usize::from(sliced), "{index}");
            assert_eq!(*last(&draft).0 == Op::Reshape, sliced, "{index}");
            if sliced {
                let [slice, _] = draft.nodes.as_slice() else { panic!("two nodes") };
                let start = Dim::Fixed(i64::from(index));
                assert_eq!(slice.op, Op::Slice(Slice { axis: 1, start, stride: 1 }));
                assert_eq!(draft.shape(slice.outputs[0]), [BATCH, 1.into(), 8.into()]);
            }
        }
    }
}
