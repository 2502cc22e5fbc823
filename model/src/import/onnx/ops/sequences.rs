//! Sequences of tensors whose length is known when the model is loaded. Here they are lists of operands; in a page they do not
//! exist.

use anyhow::{Context as _, Result, bail};
use flotilla_program::dim::Dim;

use crate::import::onnx::{
    constant::Constant,
    facts::{Known, Var},
    strings,
    wiring::{SIZES, Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[
    ("ConcatFromSequence", concat_from_sequence),
    ("Optional", optional),
    ("OptionalGetElement", optional_get_element),
    ("OptionalHasElement", optional_has_element),
    ("SequenceAt", sequence_at),
    ("SequenceConstruct", sequence_construct),
    ("SequenceEmpty", sequence_empty),
    ("SequenceErase", sequence_erase),
    ("SequenceInsert", sequence_insert),
    ("SequenceLength", sequence_length),
    ("SequenceMap", sequence_map),
    ("SplitToSequence", split_to_sequence),
];

/// Longest sequence; each element is a separate operand.
const LENGTH_MAX: usize = 4096;

fn sequence(w: &mut Wiring<'_, '_>, items: &[Var]) -> Result<Vec<Var>> {
    if items.len() > LENGTH_MAX {
        bail!("a sequence of {} elements, the limit is {LENGTH_MAX}", items.len());
    }
    Ok(vec![w.walk.sequence(items.to_vec())])
}

/// The elements of an operand, if it is a sequence.
fn elements(w: &Wiring<'_, '_>, var: Var) -> Option<Vec<Var>> {
    match &w.fact(var).known {
        Some(Known::Sequence(items)) => Some(items.clone()),
        _ => None,
    }
}

fn items(w: &Wiring<'_, '_>, index: usize) -> Result<Vec<Var>> {
    match elements(w, w.input(index)?) {
        Some(items) => Ok(items),
        None => bail!("operand {index} is not a sequence of known length"),
    }
}

/// A position in `0..end`; negative ones are counted from the end.
fn position(w: &Wiring<'_, '_>, index: usize, length: usize, end: usize) -> Result<usize> {
    let given = w.known_i64s(index)?;
    let &[given] = given.as_slice() else { bail!("{given:?} is not a position") };
    let from_front = if given < 0 { given + length as i64 } else { given };
    match usize::try_from(from_front) {
        Ok(position) if position < end => Ok(position),
        _ => bail!("position {given} of a sequence of {length}"),
    }
}

/// A value that may be left out: the value itself, or nothing.
fn optional(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    Ok(vec![w.optional(0).unwrap_or_else(|| w.walk.nothing())])
}

fn optional_get_element(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    if matches!(w.fact(x).known, Some(Known::Nothing)) {
        bail!("there is no element in it");
    }
    Ok(vec![x])
}

fn optional_has_element(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let has = match w.optional(0) {
        Some(x) => !matches!(w.fact(x).known, Some(Known::Nothing)),
        None => false,
    };
    Ok(vec![w.known(Constant::bools(&[], &[has]))])
}

fn sequence_construct(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let items = w.all_inputs()?;
    sequence(w, &items)
}

fn sequence_empty(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    sequence(w, &[])
}

fn sequence_at(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let items = items(w, 0)?;
    Ok(vec![items[position(w, 1, items.len(), items.len())?]])
}

fn sequence_insert(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (mut items, item) = (items(w, 0)?, w.input(1)?);
    let at = match w.optional(2) {
        Some(_) => position(w, 2, items.len(), items.len() + 1)?,
        None => items.len(),
    };
    items.insert(at, item);
    sequence(w, &items)
}

fn sequence_erase(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut items = items(w, 0)?;
    let Some(last) = items.len().checked_sub(1) else { bail!("an empty sequence has no element") };
    let at = match w.optional(1) {
        Some(_) => position(w, 1, items.len(), items.len())?,
        None => last,
    };
    items.remove(at);
    sequence(w, &items)
}

fn sequence_length(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let length = items(w, 0)?.len() as i64;
    Ok(vec![w.integer(length)])
}

/// The body once for every element of the first sequence; tensor operands are the same each time.
fn sequence_map(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let count = items(w, 0)?.len();
    let mut operands = Vec::new();
    for index in 0..w.inputs_len() {
        let var = w.input(index)?;
        let items = elements(w, var).unwrap_or_else(|| vec![var; count]);
        if items.len() != count {
            bail!("sequences of {count} and of {} elements", items.len());
        }
        operands.push(items);
    }
    let mut results = vec![Vec::new(); w.node.output.len()];
    let body = w.body("body")?;
    for turn in 0..count {
        let given: Vec<Var> = operands.iter().map(|items| items[turn]).collect();
        for (result, var) in results.iter_mut().zip(body.wire(w.walk, &given)?) {
            result.push(var);
        }
    }
    let results = results.iter().map(|items| Ok(sequence(w, items)?[0]));
    results.collect()
}

/// Parts of an axis: of given sizes, of one size except the last one, or single elements.
fn split_to_sequence(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let x = w.input(0)?;
    let rank = w.rank(x);
    let axis = w.axis(w.int("axis")?.unwrap_or(0), rank)?;
    let size = w.dim(x, axis);
    let single = w.optional(1).is_none();
    let same = match w.optional(1) {
        Some(split) => w.rank(split) == 0,
        None => true,
    };
    let parts: Vec<Dim> = if same {
        let size = w.number(&size)?;
        let part = if single { 1 } else { w.known_i64(1)? };
        let part = usize::try_from(part)?.max(1);
        let each = (0..size).step_by(part).map(|start| Dim::Fixed(part.min(size - start) as i64));
        each.collect()
    } else {
        w.elements(1, SIZES)?
    };
    let keep = w.int("keepdims")?.unwrap_or(1) != 0;
    let mut start = Dim::Fixed(0);
    let mut items = Vec::new();
    for part in parts {
        let end = &start + part;
        let mut item = w.slice(x, axis, &start, &end)?;
        if single && !keep {
            item = w.squeeze(item, axis)?;
        }
        items.push(item);
        start = end;
    }
    sequence(w, &items)
}

/// Joins elements along an axis, or along a new one if requested.
fn concat_from_sequence(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let mut items = items(w, 0)?;
    let Some(&first) = items.first() else { bail!("an empty sequence has no shape") };
    let new_axis = w.flag("new_axis")?;
    let rank = w.rank(first) + usize::from(new_axis);
    let axis = w.axis(w.int("axis")?.context("axis is missing")?, rank)?;
    let tables: Vec<_> = items.iter().filter_map(|&item| w.fact(item).strings.clone()).collect();
    let table = (!tables.is_empty()).then(|| strings::joined(&tables));
    for item in &mut items {
        if let Some(table) = &table {
            *item = strings::renumbered(w, *item, table)?;
            *item = w.walk.indices_of(*item);
        }
        if new_axis {
            *item = w.unsqueeze(*item, axis)?;
        }
    }
    let all = w.concat(axis, &items)?;
    Ok(vec![match table {
        Some(table) => w.walk.strings_at(all, table),
        None => all,
    }])
}
