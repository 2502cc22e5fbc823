//! A value that no page could hold is refused before it is made: graphs are folded while they are read, and a small file
//! can ask for more memory than there is.

use tract_onnx::{
    prelude::{DatumType, InferenceFact, OutletId, TractResult, TypedFact},
    tract_hir::{
        infer::{Factoid, InferenceOp},
        internal::{DimLike as _, TVec, bail},
    },
};

use super::{graph::Walk, structure};

/// Largest value in bytes, as in pages: offsets inside one are 32-bit there.
const VALUE_BYTES_MAX: u64 = 1 << 31;
/// Fewest bytes of an element: pages compute with 32-bit words.
const ELEMENT_BYTES_MIN: usize = 4;

/// Refuses an operand that decides shapes and holds a number that no dimension has: tract's importer would take its lower
/// 32 bits for it.
pub(super) fn check_deciding(
    walk: &Walk<'_>,
    op: &str,
    inputs: &[Option<OutletId>],
) -> TractResult<()> {
    // The ends of slices may be as large as can be, and mean the end.
    if op == "Slice" {
        return Ok(());
    }
    for &index in structure::operands(op) {
        let Some(outlet) = inputs.get(index).copied().flatten() else { continue };
        let Some(known) = &walk.target.outlet_fact(outlet)?.konst else { continue };
        if known.datum_type() == DatumType::I64
            && let Ok(numbers) = known.try_as_plain_ram()?.as_slice::<i64>()
            && let Some(number) = numbers.iter().find(|&&number| i32::try_from(number).is_err())
        {
            bail!(
                "operand {index} decides shapes and holds {number}, which is over the limit of 32 bits"
            );
        }
    }
    Ok(())
}

/// Refuses a value that is too large, where its shape is known.
pub(super) fn check(fact: &TypedFact) -> TractResult<()> {
    match fact.shape.as_concrete() {
        Some(shape) => check_shape(fact.datum_type, shape),
        None => Ok(()),
    }
}

/// Refuses an operator whose results would be too large. tract computes results of known operands while it infers types, so
/// that this must be asked before.
pub(super) fn check_results(
    mut op: Box<dyn InferenceOp>,
    operands: &[InferenceFact],
    results: usize,
) -> TractResult<()> {
    let unknown = InferenceFact::default();
    let operands: TVec<&InferenceFact> = operands.iter().collect();
    let results: TVec<&InferenceFact> = (0..results).map(|_| &unknown).collect();
    // Types that do not fit are told of where they are inferred for good.
    let Ok((_, results, _)) = op.infer_facts(operands, results, TVec::new()) else {
        return Ok(());
    };
    for fact in &results {
        let dims = fact.shape.concretize();
        let shape: Option<Vec<usize>> =
            dims.and_then(|dims| dims.iter().map(|dim| dim.to_usize().ok()).collect());
        if let Some(shape) = shape {
            check_shape(fact.datum_type.concretize().unwrap_or(DatumType::F32), &shape)?;
        }
    }
    Ok(())
}

fn check_shape(datum: DatumType, shape: &[usize]) -> TractResult<()> {
    let width = datum.size_of().max(ELEMENT_BYTES_MIN) as u64;
    let bytes = shape.iter().try_fold(width, |bytes, &dim| bytes.checked_mul(dim as u64));
    match bytes {
        Some(bytes) if bytes <= VALUE_BYTES_MAX => Ok(()),
        Some(_) | None => {
            bail!("its result of shape {shape:?} is over the limit of {VALUE_BYTES_MAX} bytes")
        }
    }
}
