//! The independent answer that browsers are compared with: tract on this machine's processor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tract_onnx::prelude::{
    Datum, DatumType, IntoRunnable, IntoTValue, TValue, TVec, Tensor, TractResult,
    TypedRunnableModel,
};
use tract_onnx::tract_hir::internal::bail;

pub use crate::tensor::ReferenceTensor;
use crate::{
    import::{FixedInput, ImportError, Imported, ProgramOp, Resolver, guarded, import, panicked},
    lower::{Phase, element_type},
};
use flotilla_program::DType;

/// A model that tract runs. It comes from the typed graph and shares nothing with the lowering.
pub struct Reference {
    inputs: Vec<String>,
    fixed: Vec<FixedInput>,
    bf16: BTreeSet<String>,
    outputs: Vec<String>,
    plan: Arc<TypedRunnableModel>,
}

/// Why a reference run has no result.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum ReferenceError {
    #[error("no input is called {name}; there are {inputs:?}")]
    Unknown { name: String, inputs: Vec<String> },
    #[error("input {name} decides shapes, and the model was loaded for another value of it")]
    Fixed { name: String },
    #[error("input {name} is not given")]
    Missing { name: String },
    #[error("input {name} of shape {shape:?} does not have {bytes} bytes")]
    Length { name: String, shape: Vec<usize>, bytes: usize },
    #[error("the reference cannot run: {reason}")]
    Run { reason: String },
}

impl Reference {
    /// Reads the model's files again and prepares them; the graph of an import is not kept, for its memory.
    ///
    /// # Errors
    /// As [`crate::import::load`].
    /// `values` has the inputs that decide shapes, as in [`crate::import::LoadOptions::values`].
    pub fn load(
        resolver: &dyn Resolver,
        values: &BTreeMap<String, ReferenceTensor>,
    ) -> Result<Reference, ImportError> {
        let imported = import(resolver, Phase::Typed, values)?;
        let prepare = || Reference::prepare(imported).map_err(ImportError::reference);
        guarded(prepare, panicked)
    }

    fn prepare(imported: Imported) -> TractResult<Reference> {
        let Imported { graph, outputs, fixed, bf16, .. } = imported;
        if let Some(node) = graph.nodes.iter().find(|node| node.op_is::<ProgramOp>()) {
            bail!("there is no independent implementation of {} ({})", node.name, node.op.name());
        }
        let inputs = graph.inputs.iter().map(|input| graph.node(input.node).name.clone()).collect();
        Ok(Reference {
            inputs,
            fixed,
            outputs,
            bf16,
            plan: graph.into_optimized()?.into_runnable()?,
        })
    }

    /// Names of the inputs, in the model's order, without those that decide shapes.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// Runs the model on inputs in any order; gives every output.
    ///
    /// # Errors
    /// Inputs that do not fit, or values that the model cannot take, such as a token outside its vocabulary.
    pub fn run(&self, inputs: &[ReferenceTensor]) -> Result<Vec<ReferenceTensor>, ReferenceError> {
        for input in inputs {
            let Some(fixed) = self.fixed.iter().find(|fixed| fixed.name == input.name) else {
                continue;
            };
            if to_tensor(input)? != *fixed.tensor {
                return Err(ReferenceError::Fixed { name: input.name.clone() });
            }
        }
        let known = |input: &ReferenceTensor| {
            self.inputs.contains(&input.name)
                || self.fixed.iter().any(|fixed| fixed.name == input.name)
        };
        if let Some(unknown) = inputs.iter().find(|input| !known(input)) {
            return Err(ReferenceError::Unknown {
                name: unknown.name.clone(),
                inputs: self.inputs.clone(),
            });
        }
        let values = self
            .inputs
            .iter()
            .map(|name| {
                let given = inputs.iter().find(|input| input.name == *name);
                given
                    .ok_or_else(|| ReferenceError::Missing { name: name.clone() })
                    .and_then(|input| Ok(to_tensor(input)?.into_tvalue()))
            })
            .collect::<Result<TVec<TValue>, _>>()?;
        let run = || {
            self.plan
                .run(values)
                .map_err(|error| ReferenceError::Run { reason: format!("{error:#}") })
        };
        let results = guarded(run, |what| ReferenceError::Run { reason: what })?;
        let results = self.outputs.iter().zip(&results);
        let results = results.map(|(name, result)| {
            let result = from_tract(name, result)?;
            Ok(if self.bf16.contains(name) { result.into_bf16() } else { result })
        });
        results.collect()
    }
}

/// The same elements as tract's tensor.
pub(crate) fn to_tensor(input: &ReferenceTensor) -> Result<Tensor, ReferenceError> {
    fn elements<const N: usize, T: Datum + Copy>(
        input: &ReferenceTensor,
        read: fn([u8; N]) -> T,
    ) -> TractResult<Tensor> {
        let (chunks, _) = input.bytes.as_chunks::<N>();
        let values: Vec<T> = chunks.iter().map(|chunk| read(*chunk)).collect();
        Tensor::from_shape(&input.shape, &values)
    }
    let length = || ReferenceError::Length {
        name: input.name.clone(),
        shape: input.shape.clone(),
        bytes: input.bytes.len(),
    };
    let count =
        input.shape.iter().try_fold(input.dtype.wire_bytes(), |bytes, &dim| bytes.checked_mul(dim));
    if count != Some(input.bytes.len()) {
        return Err(length());
    }
    let tensor = match input.dtype {
        DType::F32 => elements(input, f32::from_le_bytes),
        DType::F16 => elements(input, half::f16::from_le_bytes),
        // tract has no such type; what a graph knows as BF16 is F32 to it.
        DType::BF16 => elements(input, |half| half::bf16::from_le_bytes(half).to_f32()),
        DType::I64 => elements(input, i64::from_le_bytes),
        DType::I32 => elements(input, i32::from_le_bytes),
        DType::I16 => elements(input, i16::from_le_bytes),
        DType::I8 => elements(input, i8::from_le_bytes),
        DType::U64 => elements(input, u64::from_le_bytes),
        DType::U32 => elements(input, u32::from_le_bytes),
        DType::U16 => elements(input, u16::from_le_bytes),
        DType::U8 => elements(input, u8::from_le_bytes),
        DType::Bool => elements(input, |[byte]: [u8; 1]| byte != 0),
    };
    tensor.map_err(|_| length())
}

fn from_tract(name: &str, value: &Tensor) -> Result<ReferenceTensor, ReferenceError> {
    let dtype = element_type(value.datum_type()).ok_or_else(|| ReferenceError::Run {
        reason: format!("output {name} holds {:?}", value.datum_type()),
    })?;
    // Numbers known from shapes are 64-bit integers to clients.
    let numbers = value
        .cast_to_dt(if value.datum_type() == DatumType::TDim {
            DatumType::I64
        } else {
            value.datum_type()
        })
        .map_err(|error| ReferenceError::Run { reason: format!("output {name}: {error:#}") })?;
    let value = numbers.as_ref();
    let plain = value
        .try_as_plain_ram()
        .map_err(|error| ReferenceError::Run { reason: format!("output {name}: {error:#}") })?;
    Ok(ReferenceTensor {
        name: name.to_owned(),
        dtype,
        shape: value.shape().to_vec(),
        bytes: plain.as_bytes().to_vec(),
    })
}
