//! Tensors of strings. A program has only numbers, so a tensor of strings is carried as indices into a table of strings that is
//! known when the model is loaded. Operators that move elements move the indices. Where the strings of several operands meet,
//! the tables are joined first, so that equal indices are equal strings. An output of strings has its table beside it.

use std::{collections::HashMap, ops::Deref, sync::Arc};

use anyhow::{Result, bail};
use flotilla_tensor::DType;

use super::{constant::Constant, facts::Var, wiring::Wiring};

/// The strings that the elements of a tensor are indices of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Strings(Arc<[String]>);

impl From<Vec<String>> for Strings {
    fn from(strings: Vec<String>) -> Strings {
        Strings(strings.into())
    }
}

impl Deref for Strings {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

/// What an operator does with strings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Its results have elements of its operands.
    Moves,
    /// Its results do not depend on the elements, or only on which are equal.
    Compares,
    /// Its function takes care of them.
    Own,
}

/// The operators that take strings.
const USES: &[(&str, &str, Use)] = &[
    ("", "Compress", Use::Moves),
    ("", "Concat", Use::Moves),
    ("", "Equal", Use::Compares),
    ("", "Expand", Use::Moves),
    ("", "Flatten", Use::Moves),
    ("", "Gather", Use::Moves),
    ("", "GatherElements", Use::Moves),
    ("", "GatherND", Use::Moves),
    ("", "Identity", Use::Own),
    ("", "Cast", Use::Own),
    ("", "CastLike", Use::Own),
    ("", "ConcatFromSequence", Use::Own),
    ("", "If", Use::Own),
    ("", "Loop", Use::Own),
    ("", "OneHot", Use::Moves),
    ("", "Optional", Use::Own),
    ("", "OptionalGetElement", Use::Own),
    ("", "OptionalHasElement", Use::Compares),
    ("", "Reshape", Use::Moves),
    ("", "ReverseSequence", Use::Moves),
    ("", "SequenceAt", Use::Own),
    ("", "SequenceConstruct", Use::Own),
    ("", "SequenceErase", Use::Own),
    ("", "SequenceInsert", Use::Own),
    ("", "SequenceLength", Use::Own),
    ("", "Shape", Use::Compares),
    ("", "Size", Use::Compares),
    ("", "Slice", Use::Moves),
    ("", "Split", Use::Moves),
    ("", "Squeeze", Use::Moves),
    ("", "Tile", Use::Moves),
    ("", "Transpose", Use::Moves),
    ("", "Unsqueeze", Use::Moves),
    ("", "Where", Use::Moves),
    ("ai.onnx.ml", "ArrayFeatureExtractor", Use::Moves),
    ("ai.onnx.ml", "CategoryMapper", Use::Own),
    ("ai.onnx.ml", "LabelEncoder", Use::Own),
    ("ai.onnx.ml", "OneHotEncoder", Use::Own),
];

/// Wires an operator of which an operand has strings.
///
/// # Errors
/// The operator does not take them, or its function fails.
pub(super) fn wire(
    w: &mut Wiring<'_, '_>,
    domain: &str,
    wire: fn(&mut Wiring<'_, '_>) -> Result<Vec<Var>>,
) -> Result<Vec<Var>> {
    let op = w.node.op_type.as_str();
    let found = USES.iter().find(|(of, name, _)| (*of, *name) == (domain, op));
    let Some(&(_, _, uses)) = found else {
        bail!("it computes with strings, and a program only carries them through");
    };
    if uses == Use::Own {
        return wire(w);
    }
    let inputs: Vec<Var> = w.inputs.iter().copied().flatten().collect();
    let tables = inputs.iter().filter_map(|&var| w.fact(var).strings.clone());
    let joined = joined(&tables.collect::<Vec<_>>());
    let mut given = Vec::with_capacity(w.inputs.len());
    for &input in w.inputs {
        given.push(match input {
            Some(var) if w.fact(var).strings.is_some() => {
                let renumbered = renumbered(w, var, &joined)?;
                Some(w.walk.indices_of(renumbered))
            }
            other => other,
        });
    }
    let mut inner = Wiring {
        node: w.node,
        opset: w.opset,
        name: w.name.clone(),
        inputs: &given,
        scope: w.scope,
        walk: &mut *w.walk,
        read: std::mem::take(&mut w.read),
    };
    let results = wire(&mut inner)?;
    w.read = inner.read;
    if uses == Use::Compares {
        return Ok(results);
    }
    Ok(results.into_iter().map(|var| w.walk.strings_at(var, joined.clone())).collect())
}

/// All strings of some tables, each once.
pub(super) fn joined(tables: &[Strings]) -> Strings {
    if let [only, rest @ ..] = tables
        && rest.iter().all(|other| other == only)
        && only.len() == only.iter().collect::<std::collections::HashSet<_>>().len()
    {
        return only.clone();
    }
    let mut seen = std::collections::HashSet::new();
    let all = tables.iter().flat_map(|table| table.iter());
    Strings::from(all.filter(|text| seen.insert(text.as_str())).cloned().collect::<Vec<_>>())
}

/// The same strings as indices into another table that has all of them.
pub(super) fn renumbered(w: &mut Wiring<'_, '_>, var: Var, table: &Strings) -> Result<Var> {
    let Some(own) = w.fact(var).strings.clone().filter(|own| own != table) else { return Ok(var) };
    let places: HashMap<&str, i64> =
        table.iter().enumerate().map(|(place, text)| (text.as_str(), place as i64)).collect();
    let numbers: Vec<i64> =
        own.iter().map(|text| places.get(text.as_str()).copied().unwrap_or(0)).collect();
    let indices = w.walk.indices_of(var);
    let numbers = w.known(Constant::i64s(&[numbers.len()], &numbers));
    let indices = w.gather(0, numbers, indices)?;
    Ok(w.walk.strings_at(indices, table.clone()))
}

/// Strings that are numbers, as these numbers.
///
/// # Errors
/// One of the strings is no number, or the type is none of numbers.
pub(super) fn parsed(w: &mut Wiring<'_, '_>, var: Var, dtype: DType) -> Result<Var> {
    let Some(strings) = w.fact(var).strings.clone() else { bail!("its operand has no strings") };
    let mut numbers = Vec::with_capacity(strings.len());
    for text in strings.iter() {
        match text.trim().parse::<f64>() {
            Ok(number) if dtype != DType::Bool => numbers.push(number),
            _ => bail!("the string {text:?} does not become {dtype:?}"),
        }
    }
    let table = Constant::new(dtype, &[numbers.len()], dtype.encode_numbers(&numbers));
    let table = w.known(table);
    let indices = w.walk.indices_of(var);
    w.gather(0, table, indices)
}
