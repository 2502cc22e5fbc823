//! Operators that tract's own importer wires: each is typed in a graph of its own, whose operands are already exact.

use std::collections::HashMap;

use tract_onnx::{
    model::{OnnxOpRegister, ParsingContext},
    pb::{NodeProto, TensorProto},
    prelude::{
        DatumType, InferenceFact, InferenceModel, InferenceModelExt, OutletId, SpecialOps, Tensor,
        TractResult,
    },
    tract_hir::{
        infer::Factoid,
        internal::{EvalContext, TractErrorContext as _, bail},
    },
};

use super::{bf16, graph::Walk, size};

/// Whether tract has an operator of this name.
pub(super) fn knows(walk: &Walk<'_>, domain: &str, op: &str) -> bool {
    let OnnxOpRegister(operators) = &walk.onnx.op_register;
    domain.is_empty() && operators.contains_key(op)
}

/// The contents of a tensor in a file.
pub(super) fn tensor(walk: &Walk<'_>, proto: &TensorProto) -> TractResult<Tensor> {
    if bf16::is_bf16(proto.data_type) {
        return bf16::tensor(proto);
    }
    context(walk, 0).load_tensor(proto)
}

fn context<'w>(walk: &'w Walk<'_>, opset: i64) -> ParsingContext<'w> {
    let template =
        InferenceModel { symbols: walk.target.symbols.clone(), ..InferenceModel::default() };
    ParsingContext {
        onnx_operator_set_version: opset,
        framework: walk.onnx,
        model: walk.proto,
        parent_graphs: walk.proto.graph.iter().collect(),
        model_dir: None,
        template,
    }
}

/// Wires a node as tract's importer does.
pub(super) fn wire(
    walk: &mut Walk<'_>,
    node: &NodeProto,
    inputs: &[Option<OutletId>],
    label: &str,
    opset: i64,
) -> TractResult<Vec<OutletId>> {
    size::check_deciding(walk, &node.op_type, inputs)?;
    let context = context(walk, opset);
    let OnnxOpRegister(operators) = &walk.onnx.op_register;
    let builder = operators.get(&node.op_type).context("the operator is not known")?;
    // tract numbers operands and results without the ones that are left out, and so do the edges below.
    let (op, closures) = builder(&context, node)?;
    if !closures.is_empty() {
        bail!("its subgraphs take values from around them");
    }
    let mut alone =
        InferenceModel { symbols: walk.target.symbols.clone(), ..InferenceModel::default() };
    let mut mapping = HashMap::new();
    let (mut operands, mut known) = (Vec::new(), Vec::new());
    for (index, outlet) in inputs.iter().enumerate() {
        let Some(outlet) = outlet else { continue };
        let outlet = plain(walk, *outlet)?;
        let fact = walk.target.outlet_fact(outlet)?.clone();
        let name = format!("operand{index}");
        known.push(InferenceFact::from(&fact));
        let source = match &fact.konst {
            Some(tensor) => {
                let constant = tract_onnx::tract_hir::ops::konst::Const::new(tensor.clone())?;
                let facts = [InferenceFact::from(&fact)];
                OutletId::new(alone.add_node(name, constant, facts.into_iter().collect())?, 0)
            }
            None => alone.add_source(name, InferenceFact::from(&fact))?,
        };
        mapping.insert(source, outlet);
        operands.push(source);
    }
    let results = node.output.iter().filter(|name| !name.is_empty()).count();
    size::check_results(op.clone(), &known, results.max(1))?;
    let facts = (0..results.max(1)).map(|_| InferenceFact::default()).collect();
    let name = walk.unique(label);
    let id = alone.add_node(name.clone(), op, facts)?;
    for (slot, operand) in operands.iter().enumerate() {
        alone.add_edge(*operand, tract_onnx::prelude::InletId::new(id, slot))?;
    }
    let outlets: Vec<OutletId> = (0..results.max(1)).map(|slot| OutletId::new(id, slot)).collect();
    alone.select_output_outlets(&outlets)?;
    alone.analyse(false)?;
    let typed = alone.node(id);
    let stateless = typed.op.state(&EvalContext::out_of_plan())?.is_none();
    let wired: Vec<OutletId> = if stateless
        && typed.outputs.iter().all(|output| output.fact.value.is_concrete())
    {
        let mut wired = Vec::new();
        for output in &typed.outputs {
            let value = output.fact.value.concretize().context("a value is known and not known")?;
            let name = walk.unique(&format!("{name}.value"));
            wired.push(walk.target.add_const(name, value)?);
        }
        wired
    } else {
        let names = inputs.iter().flatten().map(|operand| operand.node);
        let names: Vec<(usize, String)> =
            names.map(|node| (node, walk.target.node(node).name.clone())).collect();
        let wired = typed.op.to_typed(&alone, typed, &mut walk.target, &mapping)?;
        // A slice that takes everything gives its own name to its operand, which may be an input of the model.
        for (node, name) in names {
            walk.target.rename_node(node, &name)?;
        }
        for outlet in &wired {
            let fact = walk.target.outlet_fact(*outlet)?;
            fact.consistent()?;
            size::check(fact)?;
        }
        wired.into_iter().collect()
    };
    // Back to one outlet per output; one that is left out stands for nothing and is never asked for.
    let mut present = wired.into_iter();
    let mut outlets = Vec::new();
    for output in &node.output {
        match (output.is_empty(), outlets.last().copied()) {
            (false, _) => {
                outlets.push(present.next().context("the importer gives too few results")?)
            }
            (true, Some(last)) => outlets.push(last),
            (true, None) => bail!("its first result is left out"),
        }
    }
    Ok(outlets)
}

/// Dimensions that are all numbers as the integers that they are in the file; not every operator looks for dimensions.
fn plain(walk: &mut Walk<'_>, outlet: OutletId) -> TractResult<OutletId> {
    let known = walk.target.outlet_fact(outlet)?.konst.clone();
    let Some(dims) = known.filter(|tensor| tensor.datum_type() == DatumType::TDim) else {
        return Ok(outlet);
    };
    match dims.cast_to::<i64>() {
        Ok(numbers) => {
            let name = walk.unique("dimensions");
            walk.constant(&name, numbers.into_owned())
        }
        // With a symbol among them they stay dimensions.
        Err(_) => Ok(outlet),
    }
}
