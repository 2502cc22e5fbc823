//! Sequences of tensors whose length is known when the model is loaded: they are lists of operands here, and nothing in a page.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, TVec, Tensor, TractResult, TypedFact, tvec},
    tract_hir::internal::{
        DimLike as _, EvalContext, EvalOp, Op, StaticName, TValue, ToDim, TypedOp, as_op, bail,
        not_out_of_plan, op_as_typed_op,
    },
};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("ConcatFromSequence", concat_from_sequence),
    ("SequenceAt", sequence_at),
    ("SequenceConstruct", sequence_construct),
    ("SequenceEmpty", sequence_empty),
    ("SequenceErase", sequence_erase),
    ("SequenceInsert", sequence_insert),
    ("SequenceLength", sequence_length),
    ("SequenceMap", sequence_map),
    ("SplitToSequence", split_to_sequence),
];

/// Longest sequence; each element is an operand of its own.
const LENGTH_MAX: usize = 4096;

/// Holds the elements of a sequence as its operands. What takes a sequence reads them; nothing else can.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sequence;

impl Op for Sequence {
    fn name(&self) -> StaticName {
        "Sequence".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Sequence {
    not_out_of_plan!();

    fn eval(&self, _ctx: &EvalContext, _inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        bail!("a sequence is no tensor")
    }
}

impl TypedOp for Sequence {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let dtype = inputs.first().map_or(DatumType::F32, |fact| fact.datum_type);
        Ok(tvec!(TypedFact::dt_shape(dtype, [inputs.len()])))
    }
}

fn sequence(w: &mut Wiring<'_, '_>, items: &[OutletId]) -> TractResult<Vec<OutletId>> {
    if items.len() > LENGTH_MAX {
        bail!("a sequence of {} elements, the limit is {LENGTH_MAX}", items.len());
    }
    Ok(vec![w.wire(Sequence, items)?])
}

/// The elements of an operand, if it is a sequence.
fn elements(w: &Wiring<'_, '_>, outlet: OutletId) -> Option<Vec<OutletId>> {
    let node = w.walk.target.node(outlet.node);
    node.op_is::<Sequence>().then(|| node.inputs.clone())
}

fn items(w: &Wiring<'_, '_>, index: usize) -> TractResult<Vec<OutletId>> {
    match elements(w, w.input(index)?) {
        Some(items) => Ok(items),
        None => bail!("operand {index} is no sequence whose length is known"),
    }
}

/// A position in `0..end`, counted from the end where it is negative.
fn position(w: &Wiring<'_, '_>, index: usize, length: usize, end: usize) -> TractResult<usize> {
    let given = w.known_i64s(index)?;
    let &[given] = given.as_slice() else { bail!("{given:?} is no position") };
    let from_front = if given < 0 { given + length as i64 } else { given };
    match usize::try_from(from_front) {
        Ok(position) if position < end => Ok(position),
        _ => bail!("position {given} of a sequence of {length}"),
    }
}

fn sequence_construct(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let items = (0..w.inputs_len()).map(|index| w.input(index)).collect::<TractResult<Vec<_>>>()?;
    sequence(w, &items)
}

fn sequence_empty(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    sequence(w, &[])
}

fn sequence_at(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let items = items(w, 0)?;
    Ok(vec![items[position(w, 1, items.len(), items.len())?]])
}

fn sequence_insert(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let (mut items, item) = (items(w, 0)?, w.input(1)?);
    let at = match w.optional(2) {
        Some(_) => position(w, 2, items.len(), items.len() + 1)?,
        None => items.len(),
    };
    items.insert(at, item);
    sequence(w, &items)
}

fn sequence_erase(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let mut items = items(w, 0)?;
    let Some(last) = items.len().checked_sub(1) else { bail!("an empty sequence has no element") };
    let at = match w.optional(1) {
        Some(_) => position(w, 1, items.len(), items.len())?,
        None => last,
    };
    items.remove(at);
    sequence(w, &items)
}

fn sequence_length(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let length = items(w, 0)?.len() as i64;
    Ok(vec![w.tensor(Tensor::from(length))?])
}

/// The body once for every element of the first sequence; tensors are the same for all.
fn sequence_map(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let count = items(w, 0)?.len();
    let mut operands = Vec::new();
    for index in 0..w.inputs_len() {
        let outlet = w.input(index)?;
        let items = elements(w, outlet).unwrap_or_else(|| vec![outlet; count]);
        if items.len() != count {
            bail!("sequences of {count} and of {} elements", items.len());
        }
        operands.push(items);
    }
    let mut results = vec![Vec::new(); w.node.output.len()];
    for turn in 0..count {
        let given: Vec<OutletId> = operands.iter().map(|items| items[turn]).collect();
        for (result, outlet) in results.iter_mut().zip(w.subgraph("body", &given, turn)?) {
            result.push(outlet);
        }
    }
    let results = results.iter().map(|items| Ok(sequence(w, items)?[0]));
    results.collect()
}

/// Parts of an axis: of given sizes, of one size but for the last one, or single elements.
fn split_to_sequence(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let axis = w.axis(w.node.get_attr_opt::<i64>("axis")?.unwrap_or(0), rank)?;
    let size = &w.shape(x)[axis];
    let single = w.optional(1).is_none();
    let same = match w.optional(1) {
        Some(split) => w.rank(split) == 0,
        None => true,
    };
    let parts: Vec<TDim> = if same {
        let Ok(size) = size.to_usize() else { bail!("{size} elements must be a number") };
        let part = if single { 1 } else { w.known_i64s(1)?.first().copied().unwrap_or(1) };
        let part = usize::try_from(part)?.max(1);
        (0..size).step_by(part).map(|start| part.min(size - start).to_dim()).collect()
    } else {
        w.known_dims(1)?
    };
    let keep = w.node.get_attr_opt::<i64>("keepdims")?.unwrap_or(1) != 0;
    let mut start = 0.to_dim();
    let mut items = Vec::new();
    for part in parts {
        let end = start.clone() + part;
        let mut item = w.slice(x, axis, start, end.clone())?;
        if single && !keep {
            item = w.squeeze(item, axis)?;
        }
        items.push(item);
        start = end;
    }
    sequence(w, &items)
}

/// Elements one after the other along an axis, which is a new one where that is asked for.
fn concat_from_sequence(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let mut items = items(w, 0)?;
    let Some(&first) = items.first() else { bail!("an empty sequence has no shape") };
    let new_axis = w.node.get_attr_opt::<i64>("new_axis")?.unwrap_or(0) != 0;
    let rank = w.rank(first) + usize::from(new_axis);
    let axis = w.axis(w.node.get_attr::<i64>("axis")?, rank)?;
    if new_axis {
        for item in &mut items {
            *item = w.unsqueeze(*item, axis)?;
        }
    }
    Ok(vec![w.concat(axis, &items)?])
}
