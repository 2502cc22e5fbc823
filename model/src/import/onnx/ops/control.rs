//! Operators with subgraphs. A graph that certainly runs a known number of times is wired in its place; otherwise it becomes
//! a region, and the run decides.

use std::cell::RefCell;

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_program::{
    Binary, Check, If, Loop, Node, Op, SymbolSource, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;

use crate::{
    graph::Origin,
    import::onnx::{
        constant::Constant,
        facts::{Known, Var},
        walk::Made,
        wiring::{Body, SIZES, Wire, Wiring},
    },
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("If", if_), ("Loop", loop_), ("Scan", scan)];

/// Iterations of a loop that are wired one after the other, so that the program runs without a stop.
const UNROLLED_MAX: i64 = 64;

/// The same for a loop that carries sequences, which a program does not have.
const UNROLLED_SEQUENCES_MAX: i64 = 50_000;

/// How often the shapes of a loop's carried values are refined.
const SHAPES_MAX: usize = 16;

/// A condition that is known only in a run selects one of two regions.
fn if_(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let condition = w.input(0)?;
    let (yes, no) = (w.body("then_branch")?, w.body("else_branch")?);
    if let Some(known) = w.constant(condition) {
        let known = known.integers().and_then(|known| known.first().copied());
        let known = known.context("its condition is not a boolean")?;
        return (if known != 0 { yes } else { no }).wire(w.walk, &[]);
    }
    let number = w.walk.known_numbers(condition).and_then(|mut numbers| numbers.pop());
    let first_symbol = w.walk.draft.symbols.len();
    let (made_yes, yes) = region(w, &yes);
    let (made_no, no) = region(w, &no);
    let (yes, no) = match (yes, no) {
        (Ok(yes), Ok(no)) if are_alike(w, &yes, &no) => (yes, no),
        (yes, no) => {
            // One of the branches is not possible, or the results cannot be joined: then the other branch is taken.
            let likely = number.as_ref().and_then(|number| w.walk.example(number));
            let first = match (&yes, &no) {
                (Ok(_), Err(_)) => true,
                (Err(_), Ok(_)) => false,
                // If an example may decide it, the example is used first.
                _ if likely.is_none() && w.walk.may_fix_values() => {
                    w.walk.unknown.set(true);
                    bail!(
                        "its branches cannot be joined, and the condition is known only in a run"
                    );
                }
                _ => w.walk.branch(likely.map(|number| number != 0)),
            };
            let (taken, left) = if first { (made_yes, made_no) } else { (made_no, made_yes) };
            w.walk.discard(&left);
            let results = if first { yes } else { no }?;
            w.walk.absorb(taken);
            expect(w, condition, number, first)?;
            return Ok(results);
        }
    };
    let condition = w.reshape(condition, &[])?;
    let condition = w.cast(condition, DType::Bool)?;
    let mut outputs = Vec::new();
    let mut results = Vec::new();
    for (&yes, &no) in yes.iter().zip(&no) {
        let dtype = w.dtype(yes);
        let value = w.walk.draft.add_value(dtype, Vec::new(), Origin::Node);
        let dims = w.shape(yes).into_iter().zip(w.shape(no));
        let shape = dims.enumerate().map(|(axis, (yes, no))| match yes == no {
            true => yes,
            false => extent(w, value, axis),
        });
        let shape = shape.collect();
        w.walk.draft.values[value.index()].shape = shape;
        outputs.push(value);
        // Numbers in shapes stay numbers, unless only one branch has them.
        let outside = |dims: &Vec<Dim>| !dims.iter().any(|dim| is_inside(dim, first_symbol));
        let of = |var: Var| w.walk.known_numbers(var).filter(outside);
        let numbers = of(yes).zip(of(no));
        let same = w.shape(yes) == w.shape(no);
        let strings = w.fact(yes).strings.clone();
        let result = match numbers.filter(|_| same && !dtype.is_float()) {
            Some((yes_numbers, no_numbers)) => {
                let name = format!("{}.condition", w.name);
                let condition = w.walk.elements(condition, &name, (0, 1))?.swap_remove(0);
                let dims = yes_numbers.iter().zip(&no_numbers);
                let dims = dims.map(|(yes, no)| condition.select(yes, no)).collect();
                let sizes = w.fixed_shape(yes)?;
                w.walk.numbers(dtype, &sizes, dims)
            }
            None => w.walk.placed(dtype, value),
        };
        results.push(match strings {
            Some(strings) => w.walk.strings_at(result, strings),
            None => result,
        });
    }
    let condition = w.walk.value(condition)?;
    let op = Op::If(If { yes: made_yes.region, no: made_no.region });
    node(w, op, vec![condition], outputs);
    Ok(results)
}

/// Whether a number depends on a symbol of a region.
fn is_inside(dim: &Dim, first_symbol: usize) -> bool {
    dim.symbols().iter().any(|Symbol(symbol)| *symbol as usize >= first_symbol)
}

/// A branch as a region, with its results.
fn region(w: &mut Wiring<'_, '_>, body: &Body<'_>) -> (Made, Result<Vec<Var>>) {
    let (made, results) = w.walk.region(|walk| {
        let vars = body.wire(walk, &[])?;
        let values = vars.iter().map(|var| match walk.fact(*var).known {
            // Sequences are handled where the branches are compared.
            Some(Known::Sequence(_)) => Ok(None),
            _ => walk.value(*var).map(Some),
        });
        let values: Vec<Option<ValueId>> = values.collect::<Result<_>>()?;
        Ok((vars, values))
    });
    match results {
        Ok((vars, values)) => {
            w.walk.draft.regions[made.region as usize].results =
                values.into_iter().flatten().collect();
            (made, Ok(vars))
        }
        Err(error) => (made, Err(error)),
    }
}

/// Whether a program can continue with the results of either branch.
fn are_alike(w: &Wiring<'_, '_>, yes: &[Var], no: &[Var]) -> bool {
    let is_sequence = |var: Var| matches!(w.fact(var).known, Some(Known::Sequence(_)));
    yes.len() == no.len()
        && yes.iter().zip(no).all(|(&yes, &no)| {
            w.dtype(yes).storage() == w.dtype(no).storage()
                && w.rank(yes) == w.rank(no)
                && w.fact(yes).strings == w.fact(no).strings
                && !is_sequence(yes)
                && !is_sequence(no)
        })
}

/// Makes runs fail whose condition differs from the assumed one.
fn expect(
    w: &mut Wiring<'_, '_>,
    condition: Var,
    number: Option<Dim>,
    expected: bool,
) -> Result<()> {
    let left = match number {
        Some(number) => number,
        None => {
            let name = format!("{}.condition", w.name);
            w.walk.elements(condition, &name, (0, 1))?.swap_remove(0)
        }
    };
    w.walk.draft.decisive.push(Check {
        node: w.name.clone(),
        what: "its condition and the one that the model was loaded for".to_owned(),
        left,
        right: Dim::Fixed(i64::from(expected)),
    });
    Ok(())
}

/// A symbol for the size of a dimension once the value is computed.
fn extent(w: &mut Wiring<'_, '_>, value: ValueId, axis: usize) -> Dim {
    let source = SymbolSource::Extent { value, axis: axis as u32 };
    let name = format!("{}_{axis}", w.name);
    Dim::Symbol(w.walk.symbol(name, source, SIZES))
}

fn node(w: &mut Wiring<'_, '_>, op: Op, inputs: Vec<ValueId>, outputs: Vec<ValueId>) {
    w.walk.made += 1;
    w.walk.draft.nodes.push(Node { name: w.name.clone(), op, inputs, outputs });
}

/// Results of one iteration: whether to go on, the values carried to the next one, and the collected values.
pub(super) struct Turn {
    pub(super) goes_on: Option<Var>,
    pub(super) next: Vec<Var>,
    pub(super) collected: Vec<Var>,
}

/// The number of iterations of a loop.
pub(super) struct Turns {
    /// Most iterations; `None` means no limit.
    pub(super) most: Option<Var>,
    /// Whether to start; `None` means yes.
    pub(super) begins: Option<Var>,
    /// Number of collected values.
    pub(super) collected: usize,
}

/// Wires an iteration from its number and the carried values.
pub(super) type Step<'s> = dyn Fn(&mut Wiring<'_, '_>, Var, &[Var]) -> Result<Turn> + 's;

fn loop_(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let (most, begins) = (w.optional(0), w.optional(1));
    let carried = (2..w.inputs_len()).map(|index| w.input(index)).collect::<Result<Vec<_>>>()?;
    let body = w.body("body")?;
    let collected = body.graph.output.len().checked_sub(1 + carried.len());
    let collected =
        collected.context("its body has fewer outputs than a condition and the carried values")?;
    let is_asked = begins.is_some();
    let step = |w: &mut Wiring<'_, '_>, turn: Var, carried: &[Var]| {
        let yes = w.known(Constant::bools(&[], &[true]));
        let inputs = [&[turn, yes], carried].concat();
        let mut results = body.wire(w.walk, &inputs)?;
        let collected = results.split_off(1 + carried.len());
        let next = results.split_off(1);
        // Without an input condition, the output condition is ignored.
        Ok(Turn { goes_on: is_asked.then(|| results[0]), next, collected })
    };
    let (mut results, rows) = turns(w, &Turns { most, begins, collected }, carried, &step)?;
    results.extend(rows);
    Ok(results)
}

/// The carried values of the last iteration, and the collected values with a first dimension of the iterations.
pub(super) fn turns(
    w: &mut Wiring<'_, '_>,
    turns: &Turns,
    carried: Vec<Var>,
    step: &Step<'_>,
) -> Result<(Vec<Var>, Vec<Var>)> {
    let begins = turns.begins.map(|begins| truth(w, begins));
    let number = |var: Var| Some(*w.walk.known_numbers(var)?.first()?.as_fixed().as_ref()?);
    let most = match turns.most {
        Some(most) => number(most),
        None => Some(i64::MAX),
    };
    let has_sequences =
        carried.iter().any(|&var| matches!(w.fact(var).known, Some(Known::Sequence(_))));
    let limit = if has_sequences { UNROLLED_SEQUENCES_MAX } else { UNROLLED_MAX };
    if begins.is_none_or(|begins| begins.is_some())
        && most.is_some_and(|most| most <= limit || turns.begins.is_some())
    {
        let begins = begins.flatten().unwrap_or(true);
        let nodes = w.walk.draft.nodes.len();
        let checks = (w.walk.draft.checks.len(), w.walk.draft.decisive.len());
        match unrolled(w, turns, most.unwrap_or(0), begins, limit, carried.clone(), step)? {
            Some(results) => return Ok(results),
            None => {
                w.walk.draft.nodes.truncate(nodes);
                w.walk.draft.checks.truncate(checks.0);
                w.walk.draft.decisive.truncate(checks.1);
            }
        }
    }
    ensure!(
        !has_sequences,
        "it collects a sequence, and its number of iterations is known only in a run"
    );
    as_region(w, turns, carried, step)
}

/// A truth value that is known now.
fn truth(w: &Wiring<'_, '_>, var: Var) -> Option<bool> {
    let known = w.constant(var)?.integers()?;
    known.first().map(|&number| number != 0)
}

/// Wires every iteration in its place; `None` if their number is known only in a run, or is too large.
fn unrolled(
    w: &mut Wiring<'_, '_>,
    turns: &Turns,
    most: i64,
    begins: bool,
    limit: i64,
    mut carried: Vec<Var>,
    step: &Step<'_>,
) -> Result<Option<(Vec<Var>, Vec<Var>)>> {
    let mut rows: Vec<Vec<Var>> = vec![Vec::new(); turns.collected];
    let (mut turn, mut goes_on) = (0, begins);
    while goes_on && turn < most {
        if turn >= limit {
            return Ok(None);
        }
        let number = w.integer(turn);
        let Turn { goes_on: asked, next, collected } = step(w, number, &carried)?;
        goes_on = match asked.map(|asked| truth(w, asked)) {
            None => true,
            Some(Some(known)) => known,
            // The condition of the last iteration does not matter.
            Some(None) if turn + 1 == most => false,
            Some(None) => return Ok(None),
        };
        carried = next;
        rows.iter_mut().zip(collected).for_each(|(rows, row)| rows.push(row));
        turn += 1;
    }
    if turn == 0 && turns.collected > 0 {
        // Even without iterations the body determines the shape of the collected values.
        let number = w.integer(0);
        let nothing = step(w, number, &carried)?.collected.into_iter().map(|row| {
            let shape = [&[Dim::Fixed(0)], w.shape(row).as_slice()].concat();
            let row = w.unsqueeze(row, 0)?;
            w.strided(row, 0, Dim::Fixed(0), 1, shape[0].clone())
        });
        let nothing = nothing.collect::<Result<_>>()?;
        return Ok(Some((carried, nothing)));
    }
    let rows = rows.iter().map(|rows| stacked(w, rows, 0)).collect::<Result<_>>()?;
    Ok(Some((carried, rows)))
}

/// Values of one shape as the elements of a new dimension.
fn stacked(w: &mut Wiring<'_, '_>, rows: &[Var], axis: usize) -> Result<Var> {
    no_strings(w, rows)?;
    let rows = rows.iter().map(|&row| w.unsqueeze(row, axis)).collect::<Result<Vec<Var>>>()?;
    w.concat(axis, &rows)
}

/// Refuses strings that a loop carries or collects: their table may differ from iteration to iteration.
fn no_strings(w: &Wiring<'_, '_>, vars: &[Var]) -> Result<()> {
    let has_strings = vars.iter().any(|&var| w.fact(var).strings.is_some());
    ensure!(!has_strings, "it carries or collects strings, which is not supported");
    Ok(())
}

/// An iteration that was wired into a region.
struct Wired {
    made: Made,
    results: Vec<Var>,
    parameters: Vec<ValueId>,
    /// The first symbol that was made inside it.
    first_symbol: usize,
}

/// An iteration as a region that runs repeatedly.
fn as_region(
    w: &mut Wiring<'_, '_>,
    turns: &Turns,
    carried: Vec<Var>,
    step: &Step<'_>,
) -> Result<(Vec<Var>, Vec<Var>)> {
    no_strings(w, &carried)?;
    let count = carried.len();
    let types: Vec<DType> = carried.iter().map(|&var| w.dtype(var)).collect();
    let initial = carried.iter().map(|&var| w.walk.value(var)).collect::<Result<Vec<_>>>()?;
    // Dimensions of carried values that differ between iterations.
    let mut open: Vec<Vec<bool>> = carried.iter().map(|&var| vec![false; w.rank(var)]).collect();
    let mut attempts = 0;
    let wired = loop {
        let wired = turn(w, &carried, &types, &open, step)?;
        let mut settled = true;
        for (index, open) in open.iter_mut().enumerate() {
            let (before, after) = (w.shape(carried[index]), w.shape(wired.results[1 + index]));
            ensure!(
                before.len() == after.len(),
                "a carried value has {} dimensions before an iteration and {} after it",
                before.len(),
                after.len()
            );
            for (axis, open) in open.iter_mut().enumerate() {
                let differs = !*open && before[axis] != after[axis];
                settled &= !differs;
                *open |= differs;
            }
        }
        if settled {
            break wired;
        }
        w.walk.discard(&wired.made);
        attempts += 1;
        ensure!(
            attempts < SHAPES_MAX,
            "the shapes of its carried values do not converge in {SHAPES_MAX} attempts"
        );
    };
    let Wired { made, results, parameters, first_symbol } = wired;
    no_strings(w, &results)?;
    let most = match turns.most {
        Some(most) => most_turns(w, most)?,
        None => w.known(Constant::i32s(&[], &[i32::MAX])),
    };
    let begins = match turns.begins {
        Some(begins) => {
            let begins = w.reshape(begins, &[])?;
            w.cast(begins, DType::Bool)?
        }
        None => w.known(Constant::bools(&[], &[true])),
    };
    let asked = truth(w, results[0]) != Some(true) || truth(w, begins) != Some(true);
    let rows = match w.walk.known_numbers(most).and_then(|mut numbers| numbers.pop()) {
        Some(most) if !asked => Some(w.walk.bounded(|bounds| most.most(0, bounds))),
        _ => None,
    };
    let mut inputs = vec![w.walk.value(begins)?, w.walk.value(most)?];
    inputs.extend(&initial);
    w.walk.draft.regions[made.region as usize].parameters = parameters;
    let mut outputs = Vec::new();
    let mut vars = Vec::new();
    for (index, &result) in results[1..].iter().enumerate() {
        let dtype = w.dtype(result);
        let value = w.walk.draft.add_value(dtype, Vec::new(), Origin::Node);
        let inside = |dim: &Dim| is_inside(dim, first_symbol);
        let shape: Vec<Dim> = if index < count {
            let before = w.shape(carried[index]).into_iter().zip(open[index].clone());
            let dims = before.enumerate().map(|(axis, (dim, open))| match open {
                true => extent(w, value, axis),
                false => dim,
            });
            dims.collect()
        } else {
            let first = rows.clone().unwrap_or_else(|| extent(w, value, 0));
            let rest = w.shape(result).into_iter().enumerate();
            let rest = rest.map(|(axis, dim)| match inside(&dim) {
                true => extent(w, value, axis + 1),
                false => dim,
            });
            std::iter::once(first).chain(rest.collect::<Vec<_>>()).collect()
        };
        w.walk.draft.values[value.index()].shape = shape;
        outputs.push(value);
        vars.push(w.walk.placed(dtype, value));
    }
    node(w, Op::Loop(Loop { body: made.region, carried: count as u32 }), inputs, outputs);
    let collected = vars.split_off(count);
    Ok((vars, collected))
}

/// The iteration limit as a 32-bit number, which no loop reaches.
fn most_turns(w: &mut Wiring<'_, '_>, most: Var) -> Result<Var> {
    if let Some(known) = w.constant(most).and_then(Constant::integers) {
        let known = *known.first().context("its count is empty")?;
        let known = i32::try_from(known.max(0)).unwrap_or(i32::MAX);
        return Ok(w.known(Constant::i32s(&[], &[known])));
    }
    w.reshape(most, &[])
}

/// Wires an iteration into a region, where these dimensions of carried values differ between iterations.
fn turn(
    w: &mut Wiring<'_, '_>,
    carried: &[Var],
    types: &[DType],
    open: &[Vec<bool>],
    step: &Step<'_>,
) -> Result<Wired> {
    let first_symbol = w.walk.draft.symbols.len();
    let number = w.walk.draft.add_value(DType::I64, Vec::new(), Origin::Node);
    let mut parameters = vec![number];
    for ((&var, &dtype), open) in carried.iter().zip(types).zip(open) {
        let value = w.walk.draft.add_value(dtype, Vec::new(), Origin::Node);
        let dims = w.shape(var).into_iter().zip(open).enumerate();
        let shape =
            dims.map(|(axis, (dim, open))| if *open { extent(w, value, axis) } else { dim });
        let shape = shape.collect();
        w.walk.draft.values[value.index()].shape = shape;
        parameters.push(value);
    }
    let (node, inputs, scope, opset) = (w.node, w.inputs, w.scope, w.opset);
    let name = w.name.clone();
    let given = parameters.clone();
    let (made, results) = w.walk.region(|walk| {
        let number = walk.placed(DType::I64, given[0]);
        let carried: Vec<Var> = types
            .iter()
            .zip(&given[1..])
            .map(|(&dtype, &value)| walk.placed(dtype, value))
            .collect();
        let read = RefCell::default();
        let mut inner = Wiring { node, opset, name, inputs, scope, walk, read };
        let w = &mut inner;
        let Turn { goes_on, next, collected } = step(w, number, &carried)?;
        let goes_on = match goes_on {
            Some(goes_on) => {
                let goes_on = w.reshape(goes_on, &[])?;
                w.cast(goes_on, DType::Bool)?
            }
            None => w.known(Constant::bools(&[], &[true])),
        };
        for (&dtype, &next) in types.iter().zip(&next) {
            let got = w.dtype(next);
            ensure!(
                got.storage() == dtype.storage(),
                "a carried value is {dtype:?} before an iteration and {got:?} after it"
            );
        }
        let results: Vec<Var> = [goes_on].into_iter().chain(next).chain(collected).collect();
        let values = results.iter().map(|var| w.walk.value(*var)).collect::<Result<Vec<_>>>()?;
        Ok((results, values))
    });
    let (results, values) = match results {
        Ok(results) => results,
        Err(error) => {
            w.walk.discard(&made);
            return Err(error);
        }
    };
    w.walk.draft.regions[made.region as usize].results = values;
    Ok(Wired { made, results, parameters, first_symbol })
}

fn scan(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    if w.opset < 9 { scan_of_batch(w) } else { scan_once(w) }
}

/// One pass over scanned inputs.
struct Pass {
    states: Vec<Var>,
    inputs: Vec<Var>,
    /// Scanned dimension of each input, and whether it is read from its end.
    input_axes: Vec<(usize, bool)>,
    /// Whether each collected output is written from its end.
    output_reversed: Vec<bool>,
}

impl Pass {
    /// States after the last iteration, and the collected values with a first dimension of the iterations.
    fn run(self, w: &mut Wiring<'_, '_>, body: &Body<'_>) -> Result<(Vec<Var>, Vec<Var>)> {
        let Pass { states, inputs, input_axes, output_reversed } = self;
        let (Some(&first), Some(&(axis, _))) = (inputs.first(), input_axes.first()) else {
            bail!("it has no input to scan")
        };
        let mut length = w.dim(first, axis);
        for (&input, &(axis, _)) in inputs.iter().zip(&input_axes) {
            let own = w.dim(input, axis);
            length = w.same("the lengths of what is scanned", &length, &own)?;
        }
        let most = w.dimension(length.clone(), DType::I64)?;
        let step = |w: &mut Wiring<'_, '_>, turn: Var, states: &[Var]| {
            let mut operands = states.to_vec();
            for (&input, &(axis, reversed)) in inputs.iter().zip(&input_axes) {
                let at = if reversed {
                    let last = w.dimension(&length - 1, DType::I64)?;
                    w.binary(Binary::Sub, last, turn)?
                } else {
                    turn
                };
                operands.push(w.gather(axis, input, at)?);
            }
            let mut next = body.wire(w.walk, &operands)?;
            let collected = next.split_off(states.len());
            Ok(Turn { goes_on: None, next, collected })
        };
        let collected = output_reversed.len();
        let given = Turns { most: Some(most), begins: None, collected };
        let (states, mut rows) = turns(w, &given, states, &step)?;
        for (row, reversed) in rows.iter_mut().zip(output_reversed) {
            if reversed {
                let length = w.dim(*row, 0);
                *row = w.strided(*row, 0, &length - 1, -1, length)?;
            }
        }
        Ok((states, rows))
    }
}

/// How many values are scanned.
fn scanned(w: &Wiring<'_, '_>) -> Result<usize> {
    let count = w.int("num_scan_inputs")?.context("num_scan_inputs is missing")?;
    Ok(usize::try_from(count)?)
}

fn scan_once(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let scanned = scanned(w)?;
    let attribute = |w: &Wiring<'_, '_>, name: &str, count: usize| -> Result<Vec<i64>> {
        let given = w.ints(name)?.unwrap_or_default();
        if given.is_empty() { Ok(vec![0; count]) } else { Ok(given) }
    };
    let all = w.all_inputs()?;
    let states =
        all.len().checked_sub(scanned).context("it has fewer operands than num_scan_inputs")?;
    let body = w.body("body")?;
    let collected = body.graph.output.len().saturating_sub(states);
    let (states, inputs) = all.split_at(states);
    let axes = attribute(w, "scan_input_axes", scanned)?;
    let directions = attribute(w, "scan_input_directions", scanned)?;
    let mut input_axes = Vec::new();
    for ((&input, axis), direction) in inputs.iter().zip(axes).zip(directions) {
        input_axes.push((w.axis(axis, w.rank(input))?, direction != 0));
    }
    let output_axes = attribute(w, "scan_output_axes", collected)?;
    let output_reversed: Vec<bool> = attribute(w, "scan_output_directions", collected)?
        .into_iter()
        .map(|direction| direction != 0)
        .collect();
    let pass =
        Pass { states: states.to_vec(), inputs: inputs.to_vec(), input_axes, output_reversed };
    let (mut results, rows) = pass.run(w, &body)?;
    for (row, axis) in rows.into_iter().zip(output_axes) {
        let rank = w.rank(row);
        let axis = w.axis(axis, rank)?;
        let mut perm: Vec<usize> = (1..rank).collect();
        perm.insert(axis, 0);
        results.push(w.transpose(row, &perm)?);
    }
    Ok(results)
}

/// The first version has a leading batch dimension and lengths of sequences, which must all be the full length here. Source:
/// ONNX operators, "Scan", version 8.
fn scan_of_batch(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let scanned = scanned(w)?;
    let all = (1..w.inputs_len()).map(|index| w.input(index)).collect::<Result<Vec<_>>>()?;
    let states =
        all.len().checked_sub(scanned).context("it has fewer operands than num_scan_inputs")?;
    let body = w.body("body")?;
    let collected = body.graph.output.len().saturating_sub(states);
    let (states, inputs) = all.split_at(states);
    let first = *inputs.first().context("it has no input to scan")?;
    let (batch, turns) = (w.number(&w.dim(first, 0))?, w.number(&w.dim(first, 1))?);
    if w.optional(0).is_some() && w.known_i64s(0)?.iter().any(|&length| length != turns as i64) {
        bail!("its sequences are of different lengths");
    }
    let directions = w.ints("directions")?.unwrap_or_default();
    let reversed = |index: usize| directions.get(index).is_some_and(|&direction| direction != 0);
    let mut batches: Vec<Vec<Var>> = vec![Vec::new(); states.len() + collected];
    for at in 0..batch {
        let one = |w: &mut Wiring<'_, '_>, x: &Var| {
            let slice = w.slice(*x, 0, at, at + 1)?;
            w.squeeze(slice, 0)
        };
        let pass = Pass {
            states: states.iter().map(|state| one(w, state)).collect::<Result<_>>()?,
            inputs: inputs.iter().map(|input| one(w, input)).collect::<Result<_>>()?,
            input_axes: (0..scanned).map(|index| (0, reversed(index))).collect(),
            output_reversed: vec![false; collected],
        };
        let (mut results, rows) = pass.run(w, &body)?;
        results.extend(rows);
        batches.iter_mut().zip(results).for_each(|(rows, row)| rows.push(row));
    }
    batches.iter().map(|rows| stacked(w, rows, 0)).collect()
}
