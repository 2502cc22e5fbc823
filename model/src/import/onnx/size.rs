//! A value that no page could hold is refused before it is made: graphs are folded while they are read, and a small file
//! can ask for more memory than there is.

use tract_onnx::{
    prelude::{DatumType, InferenceFact, TractResult, TypedFact},
    tract_hir::{
        infer::{Factoid, InferenceOp},
        internal::{DimLike as _, TVec, bail},
    },
};

/// Largest value in bytes, as in pages: offsets inside one are 32-bit there.
const VALUE_BYTES_MAX: u64 = 1 << 31;
/// Fewest bytes of an element: pages compute with 32-bit words.
const ELEMENT_BYTES_MIN: usize = 4;

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
