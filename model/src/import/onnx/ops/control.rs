//! Operators with graphs inside. How often a graph runs is decided when the model is loaded, so it is wired in its place
//! that many times.

use tract_onnx::{
    prelude::{DatumType, OutletId, TDim, TractResult, tensor0},
    tract_hir::internal::{ToDim as _, TractErrorContext as _, bail},
};

use crate::import::onnx::wiring::{Wire, Wiring};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("If", if_), ("Loop", loop_), ("Scan", scan)];

/// A condition that is only known when it runs chooses between the results of both graphs, where they are of one shape.
fn if_(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let condition = w.input(0)?;
    if let Some(condition) = w.constant(condition) {
        let condition = condition.cast_to_scalar::<bool>()?;
        return w.subgraph(if condition { "then_branch" } else { "else_branch" }, &[], 0);
    }
    let condition = scalar(w, condition)?;
    let yes = w.subgraph("then_branch", &[], 0)?;
    let no = w.subgraph("else_branch", &[], 0)?;
    yes.into_iter().zip(no).map(|(yes, no)| chosen(w, condition, yes, no)).collect()
}

/// `[]` of what may be `[1]`.
fn scalar(w: &mut Wiring<'_, '_>, x: OutletId) -> TractResult<OutletId> {
    w.reshape(x, &[])
}

fn chosen(
    w: &mut Wiring<'_, '_>,
    condition: OutletId,
    yes: OutletId,
    no: OutletId,
) -> TractResult<OutletId> {
    if yes == no {
        return Ok(yes);
    }
    let (then, otherwise) = (w.fact(yes), w.fact(no));
    if then.datum_type != otherwise.datum_type || then.shape != otherwise.shape {
        bail!(
            "its condition is only known when it runs, and decides between {then:?} and {otherwise:?}"
        );
    }
    w.select(condition, yes, no)
}

/// Turns of a loop that is wired out.
const TURNS_MAX: i64 = 50_000;

fn loop_(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let count = match w.optional(0) {
        Some(_) => Some(*w.known_i64s(0)?.first().context("its count is empty")?),
        None => None,
    };
    // What goes on unless this is false; it becomes an outlet when it is only known when it runs.
    let mut goes_on = w.optional(1);
    let mut carried =
        (2..w.inputs_len()).map(|index| w.input(index)).collect::<TractResult<Vec<_>>>()?;
    let outputs = w.graph("body")?.output.len();
    let scans = outputs
        .checked_sub(1 + carried.len())
        .context("its body gives fewer values than it is given")?;
    let mut rows: Vec<Vec<OutletId>> = vec![Vec::new(); scans];
    let mut turn = 0;
    while count.is_none_or(|count| turn < count) {
        let known = goes_on.map(|goes_on| w.constant(goes_on));
        let running = match (known, goes_on) {
            (None, _) | (_, None) => None,
            (Some(Some(known)), _) if known.cast_to_scalar::<bool>()? => None,
            (Some(Some(_)), _) => break,
            (Some(None), Some(_)) if count.is_none() || scans > 0 => {
                bail!("how often it turns is only known when it runs")
            }
            (Some(None), Some(goes_on)) => Some(scalar(w, goes_on)?),
        };
        if turn >= TURNS_MAX {
            bail!("it turns more than {TURNS_MAX} times");
        }
        let (next_goes_on, next, scanned) = self::turn(w, turn, goes_on, &carried)?;
        match running {
            // Turns after the last one change nothing.
            Some(running) => {
                for (value, next) in carried.iter_mut().zip(next) {
                    *value = chosen(w, running, next, *value)?;
                }
                let next_goes_on = w.cast(next_goes_on, DatumType::Bool)?;
                let next_goes_on = scalar(w, next_goes_on)?;
                let stopped = w.tensor(tensor0(false))?;
                goes_on = Some(w.select(running, next_goes_on, stopped)?);
            }
            None => {
                carried = next;
                // Without a condition on its way in, the one on its way out is ignored.
                goes_on = goes_on.map(|_| next_goes_on);
            }
        }
        rows.iter_mut().zip(scanned).for_each(|(rows, row)| rows.push(row));
        turn += 1;
    }
    if turn == 0 && scans > 0 {
        // The body says of which shape nothing is.
        let (_, _, scanned) = self::turn(w, 0, goes_on, &carried)?;
        for row in scanned {
            let mut shape = w.shape(row);
            shape.insert(0, 0.to_dim());
            let nothing = w.unsqueeze(row, 0)?;
            let nothing = w.slice(nothing, 0, 0, 0)?;
            carried.push(w.reshape(nothing, &shape)?);
        }
        return Ok(carried);
    }
    for rows in rows {
        carried.push(stacked(w, &rows, 0)?);
    }
    Ok(carried)
}

/// One turn: whether to go on, what is carried on, and what is collected.
fn turn(
    w: &mut Wiring<'_, '_>,
    turn: i64,
    goes_on: Option<OutletId>,
    carried: &[OutletId],
) -> TractResult<(OutletId, Vec<OutletId>, Vec<OutletId>)> {
    let number = w.tensor(tensor0(turn))?;
    let goes_on = match goes_on {
        Some(goes_on) => goes_on,
        None => w.tensor(tensor0(true))?,
    };
    let inputs = [&[number, goes_on], carried].concat();
    let mut results = w.subgraph("body", &inputs, usize::try_from(turn)?)?;
    let scanned = results.split_off(1 + carried.len());
    let next = results.split_off(1);
    Ok((results[0], next, scanned))
}

/// Values of one shape as the elements of a new dimension.
fn stacked(w: &mut Wiring<'_, '_>, rows: &[OutletId], axis: usize) -> TractResult<OutletId> {
    let rows =
        rows.iter().map(|&row| w.unsqueeze(row, axis)).collect::<TractResult<Vec<OutletId>>>()?;
    w.concat(axis, &rows)
}

fn scan(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    if w.opset < 9 { scan_of_batch(w) } else { scan_once(w) }
}

/// What one pass over scanned inputs needs to know.
struct Pass {
    states: Vec<OutletId>,
    inputs: Vec<OutletId>,
    /// Scanned dimension of each input, and whether it is read from its end.
    input_axes: Vec<(usize, bool)>,
    /// Whether each collected output is written from its end.
    output_reversed: Vec<bool>,
    turns: usize,
}

impl Pass {
    /// States after the last turn, and the rows of every collected output.
    fn run(
        self,
        w: &mut Wiring<'_, '_>,
        label: usize,
    ) -> TractResult<(Vec<OutletId>, Vec<Vec<OutletId>>)> {
        let mut states = self.states;
        let mut rows: Vec<Vec<OutletId>> = vec![Vec::new(); self.output_reversed.len()];
        for turn in 0..self.turns {
            let mut operands = states.clone();
            for (&input, &(axis, reversed)) in self.inputs.iter().zip(&self.input_axes) {
                let at = if reversed { self.turns - 1 - turn } else { turn };
                let slice = w.slice(input, axis, at, at + 1)?;
                operands.push(w.squeeze(slice, axis)?);
            }
            let mut results = w.subgraph("body", &operands, label * self.turns + turn)?;
            let scanned = results.split_off(states.len());
            states = results;
            rows.iter_mut().zip(scanned).for_each(|(rows, row)| rows.push(row));
        }
        let reversed = rows.iter_mut().zip(self.output_reversed);
        reversed.filter(|(_, reversed)| *reversed).for_each(|(rows, _)| rows.reverse());
        Ok((states, rows))
    }
}

/// The number of elements of a scanned dimension, which decides how often the body is wired.
fn turns(w: &Wiring<'_, '_>, input: OutletId, axis: usize) -> TractResult<usize> {
    let dim: TDim = w.shape(input)[axis].clone();
    let turns =
        dim.to_i64().with_context(|| format!("it scans {dim} elements, which must be a number"))?;
    if !(1..=TURNS_MAX).contains(&turns) {
        bail!("it scans {turns} elements, from 1 to {TURNS_MAX} can be had");
    }
    Ok(turns as usize)
}

fn scan_once(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let scanned = w.node.get_attr::<usize>("num_scan_inputs")?;
    let attribute = |w: &Wiring<'_, '_>, name: &str, count: usize| -> TractResult<Vec<i64>> {
        let given = w.node.get_attr_opt_vec::<i64>(name)?.unwrap_or_default();
        if given.is_empty() { Ok(vec![0; count]) } else { Ok(given) }
    };
    let all = (0..w.inputs_len()).map(|index| w.input(index)).collect::<TractResult<Vec<_>>>()?;
    let states =
        all.len().checked_sub(scanned).context("it has fewer operands than are scanned")?;
    let collected = w.graph("body")?.output.len().saturating_sub(states);
    let (states, inputs) = all.split_at(states);
    let axes = attribute(w, "scan_input_axes", scanned)?;
    let directions = attribute(w, "scan_input_directions", scanned)?;
    let mut input_axes = Vec::new();
    for ((&input, axis), direction) in inputs.iter().zip(axes).zip(directions) {
        input_axes.push((w.axis(axis, w.rank(input))?, direction != 0));
    }
    let (Some(&first), Some(&(axis, _))) = (inputs.first(), input_axes.first()) else {
        bail!("it scans nothing")
    };
    let turns = turns(w, first, axis)?;
    let output_axes = attribute(w, "scan_output_axes", collected)?;
    let output_reversed: Vec<bool> = attribute(w, "scan_output_directions", collected)?
        .into_iter()
        .map(|direction| direction != 0)
        .collect();
    let pass = Pass {
        states: states.to_vec(),
        inputs: inputs.to_vec(),
        input_axes,
        output_reversed,
        turns,
    };
    let (mut results, rows) = pass.run(w, 0)?;
    for (rows, axis) in rows.iter().zip(output_axes) {
        let axis = w.axis(axis, w.rank(rows[0]) + 1)?;
        results.push(stacked(w, rows, axis)?);
    }
    Ok(results)
}

/// The first version has a batch dimension in front, and lengths of sequences, which must all be full here.
/// Source: ONNX operators, "Scan", version 8.
fn scan_of_batch(w: &mut Wiring<'_, '_>) -> TractResult<Vec<OutletId>> {
    let scanned = w.node.get_attr::<usize>("num_scan_inputs")?;
    let all = (1..w.inputs_len()).map(|index| w.input(index)).collect::<TractResult<Vec<_>>>()?;
    let states =
        all.len().checked_sub(scanned).context("it has fewer operands than are scanned")?;
    let collected = w.graph("body")?.output.len().saturating_sub(states);
    let (states, inputs) = all.split_at(states);
    let first = *inputs.first().context("it scans nothing")?;
    let (batch, turns) = (turns(w, first, 0)?, turns(w, first, 1)?);
    if w.optional(0).is_some() && w.known_i64s(0)?.iter().any(|&length| length != turns as i64) {
        bail!("its sequences are of different lengths");
    }
    let directions = w.node.get_attr_opt_vec::<i64>("directions")?.unwrap_or_default();
    let reversed = |index: usize| directions.get(index).is_some_and(|&direction| direction != 0);
    let mut batches: Vec<Vec<OutletId>> = vec![Vec::new(); states.len() + collected];
    for at in 0..batch {
        let one = |w: &mut Wiring<'_, '_>, x: &OutletId| {
            let slice = w.slice(*x, 0, at, at + 1)?;
            w.squeeze(slice, 0)
        };
        let pass = Pass {
            states: states.iter().map(|state| one(w, state)).collect::<TractResult<_>>()?,
            inputs: inputs.iter().map(|input| one(w, input)).collect::<TractResult<_>>()?,
            input_axes: (0..scanned).map(|index| (0, reversed(index))).collect(),
            output_reversed: vec![false; collected],
            turns,
        };
        let (mut results, rows) = pass.run(w, at)?;
        for rows in rows {
            results.push(stacked(w, &rows, 0)?);
        }
        batches.iter_mut().zip(results).for_each(|(rows, row)| rows.push(row));
    }
    batches.iter().map(|rows| stacked(w, rows, 0)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tract_onnx::{
        pb::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
            TensorShapeProto, TypeProto, ValueInfoProto,
            attribute_proto::AttributeType,
            tensor_proto::DataType,
            tensor_shape_proto::{Dimension, dimension::Value as DimValue},
            type_proto::{self, Value as TypeValue},
        },
        prelude::{IntoRunnable as _, IntoTValue as _, Tensor, TypedModel, tvec},
    };

    use crate::import::onnx::graph::build;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        NodeProto {
            op_type: op.to_owned(),
            input: names(inputs),
            output: names(outputs),
            ..NodeProto::default()
        }
    }

    fn with_graph(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
        node.attribute.push(AttributeProto {
            name: name.to_owned(),
            r#type: AttributeType::Graph as i32,
            g: Some(graph),
            ..AttributeProto::default()
        });
        node
    }

    fn value(name: &str, dtype: DataType, shape: &[i64]) -> ValueInfoProto {
        let dim =
            |&dim: &i64| Dimension { value: Some(DimValue::DimValue(dim)), ..Dimension::default() };
        let tensor = type_proto::Tensor {
            elem_type: dtype as i32,
            shape: Some(TensorShapeProto { dim: shape.iter().map(dim).collect() }),
        };
        ValueInfoProto {
            name: name.to_owned(),
            r#type: Some(TypeProto {
                value: Some(TypeValue::TensorType(tensor)),
                ..TypeProto::default()
            }),
            ..ValueInfoProto::default()
        }
    }

    fn number(name: &str, dtype: DataType, value: i64) -> TensorProto {
        let raw_data = match dtype {
            DataType::Float => (value as f32).to_le_bytes().to_vec(),
            DataType::Bool => vec![value as u8],
            _ => value.to_le_bytes().to_vec(),
        };
        TensorProto {
            name: name.to_owned(),
            data_type: dtype as i32,
            raw_data,
            ..TensorProto::default()
        }
    }

    /// A graph that has what it needs from around it.
    fn body(nodes: Vec<NodeProto>, inputs: &[&str], outputs: &[&str]) -> GraphProto {
        let declared = |names: &[&str]| {
            names.iter().map(|name| value(name, DataType::Float, &[])).collect::<Vec<_>>()
        };
        GraphProto {
            node: nodes,
            input: declared(inputs),
            output: declared(outputs),
            ..GraphProto::default()
        }
    }

    fn graph(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> Result<TypedModel, String> {
        let graph = GraphProto {
            initializer,
            input: vec![value("x", DataType::Float, &[])],
            ..body(nodes, &[], &["y"])
        };
        let proto = ModelProto {
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto { version: 17, ..Default::default() }],
            ..ModelProto::default()
        };
        build(&tract_onnx::onnx(), &proto, &BTreeMap::new())
            .map(|built| built.graph)
            .map_err(|error| error.to_string())
    }

    fn run(graph: &TypedModel, x: f32) -> f32 {
        let plan = graph.clone().into_optimized().unwrap().into_runnable().unwrap();
        let results = plan.run(tvec!(Tensor::from(x).into_tvalue())).unwrap();
        results[0].cast_to_scalar::<f32>().unwrap()
    }

    #[test]
    fn a_condition_of_a_run_chooses_between_both_graphs() {
        let condition = node("Greater", &["x", "limit"], &["c"]);
        let chooses = with_graph(
            node("If", &["c"], &["y"]),
            "then_branch",
            body(vec![node("Neg", &["x"], &["t"])], &[], &["t"]),
        );
        let chooses = with_graph(
            chooses,
            "else_branch",
            body(vec![node("Add", &["x", "limit"], &["e"])], &[], &["e"]),
        );
        let limit = number("limit", DataType::Float, 3);
        let graph = graph(vec![condition, chooses], vec![limit]).unwrap();
        assert_eq!((run(&graph, 5.0), run(&graph, 2.0)), (-5.0, 5.0));
    }

    /// Doubles `x` until it is over 10, at most so many times.
    fn doubling(count: Option<i64>) -> Result<TypedModel, String> {
        let turn = vec![
            node("Add", &["v", "v"], &["doubled"]),
            node("LessOrEqual", &["doubled", "limit"], &["again"]),
        ];
        let name = if count.is_some() { "count" } else { "" };
        let doubles = with_graph(
            node("Loop", &[name, "go", "x"], &["y"]),
            "body",
            body(turn, &["i", "c", "v"], &["again", "doubled"]),
        );
        let numbers = vec![
            number("limit", DataType::Float, 10),
            number("go", DataType::Bool, 1),
            number("count", DataType::Int64, count.unwrap_or(0)),
        ];
        graph(vec![doubles], numbers)
    }

    #[test]
    fn turns_after_the_last_one_change_nothing() {
        let graph = doubling(Some(4)).unwrap();
        let doubled = [1.0, 3.0, 6.0, 20.0].map(|x| run(&graph, x));
        assert_eq!(doubled, [16.0, 12.0, 12.0, 40.0]);
    }

    #[test]
    fn turns_without_a_bound_are_refused() {
        let refused = doubling(None).unwrap_err();
        assert!(refused.contains("only known when it runs"), "{refused}");
    }
}
