//! From tract's typed graph to a [`Program`], in phases that can be stopped and printed.
//!
//! Every typed operator becomes the few operators of ours that say the same ([`Phase::Lowered`]); only then do
//! `crate::fuse`'s rules rewrite our own form ([`Phase::Fused`]), so the two can be compared.

mod constants;
mod counts;
mod dims;
pub(crate) mod draft;
mod einsum;
mod elementwise;
mod finish;
mod geometry;
mod narrow;
mod nodes;
mod reductions;
mod selection;
mod shapes;
mod windows;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tract_onnx::{
    prelude::{DatumType, OutletId, Symbol, TDim, Tensor, TypedFact, TypedModel},
    tract_hir::internal::{TypedNode, tract_core::ops::source::TypedSource},
};

use crate::{
    fuse,
    import::{FixedInput, Imported},
    weights::Weights,
};
pub use constants::ConstantError;
use draft::{Draft, Origin};
pub(crate) use finish::drop_dead_nodes;
use finish::finish;
use flotilla_program::{Assumption, DType, Port, Program, ProgramError, ValueId, dim::Dim};
use narrow::narrow;

/// Where lowering can be stopped and looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// As imported: tract's graph as the file says it, before simplification.
    Import,
    /// tract's typed graph, simplified.
    Typed,
    /// A program with an operator or two per typed node.
    Lowered,
    /// The program that runs.
    Fused,
}

impl Phase {
    /// Every phase, first to last.
    pub const ALL: [Phase; 4] = [Phase::Import, Phase::Typed, Phase::Lowered, Phase::Fused];

    /// Lower-case name as in `--phase`.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Import => "import",
            Phase::Typed => "typed",
            Phase::Lowered => "lowered",
            Phase::Fused => "fused",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Why a typed graph cannot be lowered.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum LowerError {
    #[error("node {node} ({op}, {dtype}, {shape}) cannot be lowered: {reason}")]
    Unsupported { node: String, op: String, dtype: String, shape: String, reason: String },
    #[error("input {input} of type {dtype} cannot be used")]
    Input { input: String, dtype: String },
    #[error("constant {node} cannot be used")]
    Constant { node: String, source: ConstantError },
    #[error("lowering made a bad program")]
    Program(#[from] ProgramError),
}

/// Lowers a typed graph up to a phase; [`Phase::Lowered`] or earlier leaves the program unfused.
///
/// Takes the graph by value so that its weights can be freed one by one as they go into blobs.
///
/// # Errors
/// A node that has no counterpart, or a constant that does not fit.
pub(crate) fn lower(
    name: &str,
    imported: Imported,
    until: Phase,
) -> Result<(Program, Weights), LowerError> {
    let mut draft = Lowering::run(name, &imported)?;
    drop(imported);
    if until == Phase::Fused {
        fuse::fuse(&mut draft);
    }
    finish(draft)
}

/// One line per node of a typed graph.
pub fn typed_text(model: &TypedModel) -> String {
    let mut text = String::new();
    for node in &model.nodes {
        let inputs: Vec<String> =
            node.inputs.iter().map(|input| format!("%{}", input.node)).collect();
        let facts: Vec<String> =
            node.outputs.iter().map(|output| format!("{:?}", output.fact)).collect();
        let info = node.op.info().unwrap_or_default().join(", ");
        text.push_str(&format!(
            "%{} = {}{}({}) :: {}  # {}\n",
            node.id,
            node.op.name(),
            if info.is_empty() { String::new() } else { format!("{{{info}}}") },
            inputs.join(", "),
            facts.join(" | "),
            node.name
        ));
    }
    text
}

type LowerResult<T> = Result<T, LowerError>;

/// What a typed outlet has become.
#[derive(Clone)]
enum Lowered {
    /// A value of the program.
    Value(ValueId),
    /// Numbers known from shapes, which the page computes from its symbols; row-major under `shape`.
    Dims { shape: Vec<usize>, dims: Vec<TDim> },
}

pub(crate) struct Lowering<'m> {
    bf16: &'m BTreeSet<String>,
    model: &'m TypedModel,
    draft: Draft,
    symbols: Vec<Symbol>,
    outlets: HashMap<OutletId, Lowered>,
}

impl<'m> Lowering<'m> {
    fn run(name: &str, imported: &'m Imported) -> LowerResult<Draft> {
        let model = &imported.graph;
        let mut lowering = Lowering {
            bf16: &imported.bf16,
            model,
            draft: Draft { name: name.to_owned(), ..Draft::default() },
            symbols: Vec::new(),
            outlets: HashMap::new(),
        };
        for &input in &model.inputs {
            lowering.fixed_inputs(&imported.fixed)?;
            lowering.input(input)?;
        }
        lowering.fixed_inputs(&imported.fixed)?;
        let order = model.eval_order().map_err(|error| LowerError::Unsupported {
            node: name.to_owned(),
            op: "graph".to_owned(),
            dtype: String::new(),
            shape: String::new(),
            reason: error.to_string(),
        })?;
        for id in order {
            let node = model.node(id);
            if node.op_is::<TypedSource>() {
                continue;
            }
            let known = lowering.draft.values.len();
            let mut outputs = lowering.node(node)?;
            for (output, typed) in outputs.iter_mut().zip(&node.outputs) {
                if let (Lowered::Value(value), Some(dtype)) =
                    (output, element_type(typed.fact.datum_type))
                    && dtype.is_narrow()
                    && value.index() >= known
                {
                    *value = narrow(&mut lowering.draft, *value, dtype);
                }
            }
            for (slot, output) in outputs.into_iter().enumerate() {
                lowering.outlets.insert(OutletId::new(id, slot), output);
            }
        }
        for (&output, name) in model.outputs.iter().zip(&imported.outputs) {
            lowering.output(output, name)?;
        }
        Ok(lowering.draft)
    }

    fn input(&mut self, outlet: OutletId) -> LowerResult<()> {
        let node = self.model.node(outlet.node);
        let fact = &node.outputs[outlet.slot].fact;
        let dtype = self.dtype(node, fact)?;
        let shape = self.fact_shape(node, fact)?;
        let value = self.draft.add_value(dtype.storage(), shape, Origin::Input);
        let dtype = self.port_dtype(&node.name, dtype);
        self.draft.inputs.push(Port { name: node.name.clone(), dtype, value });
        self.outlets.insert(outlet, Lowered::Value(value));
        Ok(())
    }

    /// Ports for those inputs with fixed values that come next in the model's order.
    fn fixed_inputs(&mut self, fixed: &[FixedInput]) -> LowerResult<()> {
        while let Some(input) = fixed.iter().find(|input| input.position == self.draft.inputs.len())
        {
            let tensor: &Arc<Tensor> = &input.tensor;
            let dtype = element_type(tensor.datum_type()).ok_or_else(|| LowerError::Input {
                input: input.name.clone(),
                dtype: format!("{:?}", tensor.datum_type()),
            })?;
            let (storage, data) = constants::storage_data(tensor)
                .map_err(|source| LowerError::Constant { node: input.name.clone(), source })?;
            let bytes = data.bytes();
            let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
            self.draft
                .assumptions
                .push(Assumption { input: self.draft.inputs.len() as u32, words: words.collect() });
            let shape = tensor.shape().iter().map(|&dim| Dim::Fixed(dim as i64)).collect();
            let value = self.draft.add_value(storage, shape, Origin::Input);
            let dtype = self.port_dtype(&input.name, dtype);
            self.draft.inputs.push(Port { name: input.name.clone(), dtype, value });
        }
        Ok(())
    }

    fn output(&mut self, outlet: OutletId, name: &str) -> LowerResult<()> {
        let node = self.model.node(outlet.node);
        let fact = &node.outputs[outlet.slot].fact;
        let dtype = self.dtype(node, fact)?;
        let value = self.value_of(outlet)?;
        let dtype = self.port_dtype(name, dtype);
        self.draft.outputs.push(Port { name: name.to_owned(), dtype, value });
        Ok(())
    }

    /// A port's type to clients, who have one more than tract.
    fn port_dtype(&self, name: &str, dtype: DType) -> DType {
        if dtype == DType::F32 && self.bf16.contains(name) { DType::BF16 } else { dtype }
    }

    /// The element type of a fact as a client sees it; shape numbers are I64 to clients.
    fn dtype(&self, node: &TypedNode, fact: &TypedFact) -> LowerResult<DType> {
        element_type(fact.datum_type).ok_or_else(|| {
            self.unsupported(node, format!("elements of type {:?}", fact.datum_type))
        })
    }

    fn output_fact(&self, node: &'m TypedNode) -> &'m TypedFact {
        &node.outputs[0].fact
    }

    fn unsupported(&self, node: &TypedNode, reason: impl Into<String>) -> LowerError {
        let fact = node.outputs.first().map(|output| &output.fact);
        let shape = fact.map_or_else(String::new, |fact| {
            let dims: Vec<String> = fact.shape.iter().map(|dim| dim.to_string()).collect();
            format!("[{}]", dims.join(","))
        });
        LowerError::Unsupported {
            node: node.name.clone(),
            op: node.op.name().into_owned(),
            dtype: fact.map_or_else(String::new, |fact| format!("{:?}", fact.datum_type)),
            shape,
            reason: reason.into(),
        }
    }
}

/// Our name of one of tract's element types.
pub(crate) fn element_type(dtype: DatumType) -> Option<DType> {
    Some(match dtype {
        DatumType::F32 => DType::F32,
        DatumType::F16 => DType::F16,
        DatumType::I64 | DatumType::TDim => DType::I64,
        DatumType::I32 => DType::I32,
        DatumType::I16 => DType::I16,
        DatumType::I8 => DType::I8,
        DatumType::U64 => DType::U64,
        DatumType::U32 => DType::U32,
        DatumType::U16 => DType::U16,
        DatumType::U8 => DType::U8,
        DatumType::Bool => DType::Bool,
        _ => return None,
    })
}
