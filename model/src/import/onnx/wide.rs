//! 64-bit integers in a page that computes with 32 bits.
//!
//! Most fit: indices, sizes, token numbers. If a result may not fit and its value can be observed, it is computed as two words.
//! If that is not possible, the inputs on which it depends are limited to numbers that fit, or each run is checked for it
//! (`overflow`). No result wraps around.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use flotilla_program::{
    Binary, Check, Expr, InputBound, Node, Op, Step, StepId, SymbolSource, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::{DType, decode};

use super::{
    OnnxError,
    overflow::{check_results, is_checkable},
    pairs::{Operand, Split, split},
    ranges::{Range, Ranges, of_word, within},
};
use crate::graph::{Data, Draft, Origin};

/// Largest dimension of an input in a model whose integers may not fit 32 bits.
const SIZE_MAX: i64 = 1 << 24;

/// A factor by which sizes are commonly multiplied.
const FACTOR: i64 = 64;

/// Gives two words to values that need them, and bounds to inputs.
pub(super) fn widen(draft: &mut Draft, bounds: &[Range]) -> Result<(), OnnxError> {
    if !draft.values.iter().any(|value| is_wide(value.element)) {
        return Ok(());
    }
    let given = Ranges::given(draft);
    let mut bounds = bounds.to_vec();
    let mut ranges = Ranges::new(draft, &bounds, &given, &|_| None);
    // Ranges of sizes, and of small numbers in inputs.
    let small = |value: ValueId| match draft.value(value).element {
        DType::I64 => Some((-FACTOR, FACTOR)),
        DType::U64 => Some((0, FACTOR)),
        _ => None,
    };
    let count = |bounds: &[Range]| {
        let ranges = Ranges::new(draft, bounds, &given, &small);
        let made = blocks(draft).flat_map(|node| &node.outputs);
        made.filter(|value| is_over(draft, &ranges, **value)).count()
    };
    let limited = limited_sizes(draft, &bounds);
    if count(&limited) < count(&bounds) {
        check_sizes(draft, &bounds, &limited);
        ranges = Ranges::new(draft, &limited, &given, &|_| None);
        bounds = limited;
    }
    let bounds = bounds.as_slice();
    decide(draft, &ranges);
    let wide = Wide::of(draft, &ranges);
    let checked = limit(draft, bounds, &given, &wide)?;
    refuse_constants(draft, &wide)?;
    let deciding = draft.symbols.iter().filter_map(|info| match info.source {
        SymbolSource::Element { value, .. } => Some(value),
        SymbolSource::Input | SymbolSource::Extent { .. } => None,
    });
    let deciding = deciding.collect();
    let (pairs, narrow) = (BTreeMap::new(), BTreeMap::new());
    let mut rewrite = Rewrite { wide, pairs, narrow, deciding };
    rewrite.run(draft)?;
    check_results(draft, &checked);
    Ok(())
}

/// Refuses constants that no word holds in sums, orders or iterations of loops.
fn refuse_constants(draft: &Draft, wide: &Wide) -> Result<(), OnnxError> {
    let computing = blocks(draft)
        .filter(|node| !matches!(node.op, Op::Elementwise(_)) && moved_operands(node).is_empty());
    for node in computing {
        let is_beyond = |value: &ValueId| {
            !wide.has(*value) && draft.constant(*value).is_some_and(|data| is_wide(data.dtype))
        };
        if data_operands(node).any(|value| is_beyond(&value)) {
            return Err(computes_beyond(&node.name));
        }
    }
    Ok(())
}

fn computes_beyond(node: &str) -> OnnxError {
    OnnxError::Graph {
        reason: format!("node {node} computes with an integer of more than 32 bits"),
    }
}

/// Bounds with which integers computed from the sizes of inputs may fit.
fn limited_sizes(draft: &Draft, bounds: &[Range]) -> Vec<Range> {
    let limited = draft.symbols.iter().zip(bounds).map(|(info, bounds)| match info.source {
        SymbolSource::Input => (bounds.0, bounds.1.min(SIZE_MAX)),
        SymbolSource::Element { .. } | SymbolSource::Extent { .. } => *bounds,
    });
    limited.collect()
}

/// Adds checks of the narrowed bounds to each run.
fn check_sizes(draft: &mut Draft, before: &[Range], limited: &[Range]) {
    for (index, info) in draft.symbols.iter().enumerate() {
        if before[index] == limited[index] {
            continue;
        }
        let size = Dim::Symbol(Symbol(index as u32));
        draft.checks.push(Check {
            node: info.name.clone(),
            what: "its size and the largest one with which integers fit 32 bits".to_owned(),
            right: Dim::Min(vec![Dim::Fixed(SIZE_MAX), size.clone()]),
            left: size,
        });
    }
}

fn is_wide(dtype: DType) -> bool {
    matches!(dtype, DType::I64 | DType::U64)
}

/// Whether some number of a value may not fit the word that holds it.
fn is_over(draft: &Draft, ranges: &Ranges, value: ValueId) -> bool {
    let element = draft.value(value).element;
    is_wide(element) && !within(ranges.of(value), of_word(element))
}

/// The operands of a node whose elements are moved unchanged to its results.
fn moved_operands(node: &Node) -> Vec<usize> {
    match &node.op {
        Op::Gather(_)
        | Op::GatherElements(_)
        | Op::GatherNd(_)
        | Op::Transpose(_)
        | Op::Reshape
        | Op::Broadcast
        | Op::Slice(_) => vec![0],
        Op::Concat(_) | Op::Pad(_) => (0..node.inputs.len()).collect(),
        Op::ScatterElements(_) | Op::ScatterNd(_) if node.op.moves_elements() => vec![0, 2],
        _ => Vec::new(),
    }
}

/// The operands of a node whose numbers matter: an index beyond a word is beyond every dimension.
fn data_operands(node: &Node) -> impl Iterator<Item = ValueId> + '_ {
    let index = match &node.op {
        Op::Gather(_)
        | Op::GatherElements(_)
        | Op::GatherNd(_)
        | Op::ScatterElements(_)
        | Op::ScatterNd(_) => Some(1),
        _ => None,
    };
    node.inputs
        .iter()
        .enumerate()
        .filter(move |(at, _)| Some(*at) != index)
        .map(|(_, value)| *value)
}

/// The nodes of every block: those of no region first.
fn blocks(draft: &Draft) -> impl Iterator<Item = &Node> {
    draft.nodes.iter().chain(draft.regions.iter().flat_map(|region| &region.nodes))
}

/// Decides comparisons with numbers that no word holds, and the smaller and larger of them, if the other side is known to fit.
fn decide(draft: &mut Draft, ranges: &Ranges) {
    let mut decided: Vec<(ValueId, Op, Vec<ValueId>)> = Vec::new();
    for node in blocks(draft) {
        let (Op::Elementwise(Expr { steps }), &[a, b], &[output]) =
            (&node.op, node.inputs.as_slice(), node.outputs.as_slice())
        else {
            continue;
        };
        let [Step::Input(0), Step::Input(1), Step::Binary(function, 0, 1)] = steps.as_slice()
        else {
            continue;
        };
        let constant =
            |value: ValueId| is_over(draft, ranges, value) && draft.constant(value).is_some();
        if !constant(a) && !constant(b) {
            continue;
        }
        let (ra, rb) = (ranges.of(a), ranges.of(b));
        let (below, above) = (ra.1 < rb.0, ra.0 > rb.1);
        if !below && !above {
            continue;
        }
        match function {
            Binary::Min | Binary::Max => {
                let first = (*function == Binary::Min) == below;
                let kept = if first { a } else { b };
                let rank = draft.shape(output).len();
                if draft.shape(kept).len() == rank {
                    decided.push((output, Op::Broadcast, vec![kept]));
                }
            }
            Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge | Binary::Eq | Binary::Ne => {
                let truth = match function {
                    Binary::Lt | Binary::Le => below,
                    Binary::Gt | Binary::Ge => above,
                    Binary::Ne => true,
                    _ => false,
                };
                let other = if constant(a) { b } else { a };
                // The truth value holds at every element of the other side.
                if draft.shape(other) == draft.shape(output) {
                    let function = if truth { Binary::Eq } else { Binary::Ne };
                    let steps = vec![Step::Input(0), Step::Binary(function, 0, 0)];
                    decided.push((output, Op::Elementwise(Expr { steps }), vec![other]));
                }
            }
            _ => {}
        }
    }
    let Draft { nodes, regions, .. } = draft;
    let nodes = nodes.iter_mut().chain(regions.iter_mut().flat_map(|region| &mut region.nodes));
    for node in nodes {
        let known = decided.iter().find(|(output, ..)| node.outputs == [*output]);
        if let Some((_, op, inputs)) = known {
            node.op = op.clone();
            node.inputs = inputs.clone();
        }
    }
}

/// Values that are carried as two words.
struct Wide {
    values: BTreeSet<ValueId>,
}

impl Wide {
    fn of(draft: &Draft, ranges: &Ranges) -> Wide {
        let over = |value: ValueId| is_over(draft, ranges, value);
        // Values that are inputs whose elements are only moved.
        let mut moved: BTreeSet<ValueId> = draft.inputs.iter().map(|port| port.value).collect();
        for node in blocks(draft) {
            let operands = moved_operands(node);
            let all = operands.iter().all(|&at| moved.contains(&node.inputs[at]));
            if !operands.is_empty() && all {
                moved.extend(&node.outputs);
            }
        }
        // Values beyond a word that can be observed.
        let mut seen: BTreeSet<ValueId> =
            draft.outputs.iter().map(|port| port.value).filter(|value| over(*value)).collect();
        let mut from_the_back: Vec<&Node> = blocks(draft).collect();
        from_the_back.reverse();
        loop {
            let before = seen.len();
            for node in &from_the_back {
                let &[output] = node.outputs.as_slice() else { continue };
                let shows = match over(output) {
                    true => seen.contains(&output),
                    // Its bits depend on all of its operands' bits.
                    false => true,
                };
                let moved_here = moved_operands(node);
                let operands: Vec<ValueId> = match &node.op {
                    Op::Elementwise(_) => node.inputs.clone(),
                    // It takes no two words, and refuses them below.
                    _ if moved_here.is_empty() => data_operands(node).collect(),
                    _ => moved_here.into_iter().map(|at| node.inputs[at]).collect(),
                };
                for value in operands {
                    let is_plain = moved.contains(&value) && !is_wide(draft.value(output).element);
                    if shows && over(value) && !is_plain {
                        seen.insert(value);
                    }
                }
            }
            if seen.len() == before {
                break;
            }
        }
        // Of these, the values that can have two words, from the front: constants and inputs can.
        let mut values: BTreeSet<ValueId> = seen
            .iter()
            .copied()
            .filter(|value| !matches!(draft.value(*value).origin, Origin::Node))
            .collect();
        for node in blocks(draft) {
            let &[output] = node.outputs.as_slice() else { continue };
            let can = match &node.op {
                Op::Elementwise(expr) => {
                    let operand = |index: u32| operand(draft, node, &values, index);
                    let unsigned = is_unsigned(draft, node);
                    matches!(split(expr, operand, unsigned), Some(Split::Pair { .. }))
                }
                _ => !moved_operands(node).is_empty(),
            };
            if seen.contains(&output) && can {
                values.insert(output);
            }
        }
        // If a node cannot take two words, its operands have one word, all the way back to the inputs.
        let makers = makers(draft);
        loop {
            let before = values.len();
            for node in blocks(draft) {
                let refuses = data_operands(node).any(|value| values.contains(&value))
                    && match &node.op {
                        Op::Elementwise(expr) => {
                            let operand = |index: u32| operand(draft, node, &values, index);
                            split(expr, operand, is_unsigned(draft, node)).is_none()
                        }
                        _ => moved_operands(node).is_empty(),
                    };
                if refuses {
                    for value in data_operands(node) {
                        values.remove(&value);
                    }
                    let depends = dependencies(draft, &makers, node);
                    values.retain(|value| !depends.contains(value));
                }
            }
            if values.len() == before {
                break;
            }
        }
        Wide { values }
    }

    fn has(&self, value: ValueId) -> bool {
        self.values.contains(&value)
    }
}

/// Whether a node computes with unsigned 64-bit numbers.
fn is_unsigned(draft: &Draft, node: &Node) -> bool {
    let values = node.inputs.iter().chain(&node.outputs);
    values.into_iter().any(|value| draft.value(*value).element == DType::U64)
}

/// An operand of an expression, by its position among inputs with two words each.
fn operand(draft: &Draft, node: &Node, wide: &BTreeSet<ValueId>, index: u32) -> Operand {
    let value = node.inputs[index as usize];
    let drafted = draft.value(value);
    if wide.contains(&value) {
        return Operand::Pair { low: 2 * index, high: 2 * index + 1 };
    }
    Operand::Word { input: 2 * index, dtype: drafted.dtype, wide: is_wide(drafted.element) }
}

/// Sizes of inputs up to which numbers have separate bounds, ascending: the fewer elements a sum has, the larger the numbers may
/// be.
const SIZE_CLASSES: [i64; 3] = [1 << 10, 1 << 14, i64::MAX];

/// Least bound of an input's numbers with sizes of the first class. If that is not enough, runs are checked for the result.
const MOST_MIN: i64 = 1 << 12;

/// Bounds for inputs that are computed in one word, and the results for which each run is checked.
fn limit(
    draft: &mut Draft,
    bounds: &[Range],
    given: &[Option<Range>],
    wide: &Wide,
) -> Result<BTreeSet<ValueId>, OnnxError> {
    let inputs: Vec<(u32, ValueId)> = draft
        .inputs
        .iter()
        .enumerate()
        .filter(|(_, port)| is_wide(port.dtype) && !wide.has(port.value))
        .map(|(index, port)| (index as u32, port.value))
        .collect();
    let integers = draft.inputs.iter().filter(|port| is_wide(port.dtype)).map(|port| port.value);
    let mut limits = Limits {
        draft,
        given,
        wide: &wide.values,
        sources: sources(draft, integers),
        inputs: inputs.iter().map(|(_, value)| *value).collect(),
        checked: BTreeSet::new(),
    };
    let (mut above, mut found) = (0, Vec::new());
    for class in SIZE_CLASSES {
        let bounds: Vec<Range> = draft
            .symbols
            .iter()
            .zip(bounds)
            .map(|(info, bounds)| match info.source {
                SymbolSource::Input => (bounds.0, bounds.1.min(class)),
                SymbolSource::Element { .. } | SymbolSource::Extent { .. } => *bounds,
            })
            .collect();
        let mut most = limits.find(&bounds, above == 0)?;
        for (input, value) in &inputs {
            if let Some((most, Some(node))) = most.remove(value) {
                found.push(InputBound { input: *input, above, most, node });
            }
        }
        above = class;
    }
    let checked = limits.checked;
    for bound in found {
        let is_known = |known: &InputBound| known.input == bound.input && known.most <= bound.most;
        if !draft.bounds.iter().any(is_known) {
            draft.bounds.push(bound);
        }
    }
    Ok(checked)
}

/// The search of [`limit`].
struct Limits<'d> {
    draft: &'d Draft,
    given: &'d [Option<Range>],
    /// Values with two words.
    wide: &'d BTreeSet<ValueId>,
    /// By value: the inputs, and the carried values of loops, on which its integers depend.
    sources: Vec<Rc<BTreeSet<ValueId>>>,
    /// Inputs of one word.
    inputs: Vec<ValueId>,
    /// Results for which each run is checked.
    checked: BTreeSet<ValueId>,
}

/// Largest absolute numbers, and the names of the nodes that need them.
type Most = BTreeMap<ValueId, (i64, Option<String>)>;

impl Limits<'_> {
    /// Whether a node computes with a constant that its word does not hold.
    fn has_constant_beyond(&self, node: &Node) -> bool {
        let is_beyond = |value: &ValueId| {
            let range = self.given[value.index()];
            let word = of_word(self.draft.value(*value).element);
            !self.wide.contains(value) && range.is_some_and(|range| !within(range, word))
        };
        data_operands(node).any(|value| is_beyond(&value))
    }

    /// The largest numbers of inputs with which everything fits that is not checked. `may_check` says whether results may be
    /// checked that fit only with numbers smaller than [`MOST_MIN`].
    fn find(&mut self, bounds: &[Range], may_check: bool) -> Result<Most, OnnxError> {
        let draft = self.draft;
        let inputs = self.inputs.iter();
        let mut most: Most = inputs.map(|value| (*value, (i64::from(i32::MAX), None))).collect();
        let low = |value: ValueId, most: i64| {
            if draft.value(value).element == DType::U64 { 0 } else { -most }
        };
        // Results that depend only on sizes, positions and floats are assumed to fit. So are results that cannot be checked if no
        // inputs make them fit.
        let mut given_up: BTreeSet<ValueId> = BTreeSet::new();
        loop {
            let of_input = |value: ValueId| {
                let (most, _) = most.get(&value)?;
                Some((low(value, *most), *most))
            };
            let pass = |of_input: &dyn Fn(ValueId) -> Option<Range>| {
                Ranges::trusting(draft, bounds, self.given, of_input, self.wide)
            };
            let ranges = pass(&of_input);
            let mut culprit = None;
            let mut least: HashMap<(Vec<ValueId>, i64), Ranges> = HashMap::new();
            for node in blocks(draft) {
                let is_open = |output: &&ValueId| {
                    ranges.is_over(**output)
                        && !self.checked.contains(output)
                        && !given_up.contains(output)
                };
                if node.outputs.iter().find(is_open).is_none() {
                    continue;
                }
                let depends = &self.sources[node.outputs[0].index()];
                let mut fits_with = |least_most: i64| {
                    let larger = |value: &ValueId| {
                        most.get(value).is_some_and(|(most, _)| *most > least_most)
                    };
                    let open: Vec<ValueId> = depends.iter().copied().filter(larger).collect();
                    let ranges = least.entry((open.clone(), least_most)).or_insert_with(|| {
                        pass(&|value: ValueId| match open.contains(&value) {
                            true => Some((low(value, least_most), least_most)),
                            false => of_input(value),
                        })
                    });
                    let fits = node.outputs.iter().all(|output| !ranges.is_over(*output));
                    (fits && !open.is_empty()).then_some(open)
                };
                let smallest = if may_check { MOST_MIN } else { 1 };
                let mut open = fits_with(smallest);
                if open.is_none() && may_check {
                    if is_checkable(node) && !depends.is_empty() {
                        self.checked.extend(&node.outputs);
                        continue;
                    }
                    open = fits_with(1);
                }
                match open {
                    Some(open) => {
                        culprit = Some((node.name.clone(), open));
                        break;
                    }
                    None if self.has_constant_beyond(node) => {
                        return Err(computes_beyond(&node.name));
                    }
                    None => given_up.extend(&node.outputs),
                }
            }
            let Some((name, open)) = culprit else { return Ok(most) };
            for value in open {
                if let Some((most, node)) = most.get_mut(&value) {
                    *most /= 2;
                    *node = Some(name.clone());
                }
            }
        }
    }
}

/// The inputs, of these, and the carried values of loops, on which the integers of each value depend. Truth values and positions
/// along a dimension do not depend on the numbers that they describe.
fn sources(draft: &Draft, inputs: impl Iterator<Item = ValueId>) -> Vec<Rc<BTreeSet<ValueId>>> {
    let mut sources: Vec<Rc<BTreeSet<ValueId>>> = vec![Rc::default(); draft.values.len()];
    let carried = blocks(draft).filter_map(|node| match &node.op {
        Op::Loop(turns) => Some(&draft.regions[turns.body as usize].parameters[1..]),
        _ => None,
    });
    for value in inputs.chain(carried.flatten().copied()) {
        sources[value.index()] = Rc::new(BTreeSet::from([value]));
    }
    let is_made = |value: ValueId| {
        let element = draft.value(value).element;
        !element.is_float() && element != DType::Bool
    };
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for node in blocks(draft) {
            let is_place = matches!(node.op, Op::ArgReduce(_) | Op::FirstAbove | Op::RowRanks);
            let regions = node.op.regions();
            let results =
                regions.iter().flat_map(|region| &draft.regions[*region as usize].results);
            let mut all: Rc<BTreeSet<ValueId>> = Rc::default();
            for value in node.inputs.iter().filter(|_| !is_place).chain(results) {
                let more = &sources[value.index()];
                if !is_made(*value) || more.is_subset(&all) {
                    continue;
                }
                match all.is_empty() {
                    true => all = more.clone(),
                    false => Rc::make_mut(&mut all).extend(more.iter().copied()),
                }
            }
            for value in node.outputs.iter().filter(|value| is_made(**value)) {
                if !all.is_subset(&sources[value.index()]) {
                    changed = true;
                    sources[value.index()] = all.clone();
                }
            }
        }
    }
    sources
}

/// The nodes that compute values, by value.
fn makers(draft: &Draft) -> HashMap<ValueId, &Node> {
    let mut makers = HashMap::new();
    for node in blocks(draft) {
        makers.extend(node.outputs.iter().map(|output| (*output, node)));
    }
    makers
}

/// The integers on which a node's integers depend.
fn dependencies(draft: &Draft, makers: &HashMap<ValueId, &Node>, node: &Node) -> BTreeSet<ValueId> {
    let mut found = BTreeSet::new();
    let mut open: Vec<ValueId> = node.inputs.clone();
    while let Some(value) = open.pop() {
        if draft.value(value).element.is_float() || !found.insert(value) {
            continue;
        }
        if let Some(node) = makers.get(&value) {
            open.extend(&node.inputs);
            for region in node.op.regions() {
                open.extend(&draft.regions[region as usize].results);
            }
        }
    }
    found
}

/// Replaces values with two words by pairs.
struct Rewrite {
    wide: Wide,
    /// The lower and the upper words.
    pairs: BTreeMap<ValueId, [ValueId; 2]>,
    /// The same numbers in one word, clamped to its range, by block.
    narrow: BTreeMap<(usize, ValueId), ValueId>,
    /// Values whose elements decide sizes.
    deciding: BTreeSet<ValueId>,
}

impl Rewrite {
    fn run(&mut self, draft: &mut Draft) -> Result<(), OnnxError> {
        for index in 0..draft.inputs.len() {
            let value = draft.inputs[index].value;
            if self.wide.has(value) {
                let shape = draft.shape(value).to_vec();
                let high = draft.add_value(DType::I32, shape.clone(), Origin::Input);
                let low = draft.add_value(DType::U32, shape, Origin::Input);
                self.pairs.insert(value, [low, high]);
                draft.inputs[index].value = low;
                draft.inputs[index].high = Some(high);
            }
        }
        self.constants(draft);
        for block in 0..=draft.regions.len() {
            let region = block.checked_sub(1);
            region.into_iter().for_each(|region| draft.swap(region));
            let nodes = std::mem::take(&mut draft.nodes);
            if block == 0 {
                let inputs: Vec<ValueId> = self.pairs.keys().copied().collect();
                self.decide_sizes(draft, block, &inputs)?;
            }
            for node in nodes {
                let outputs = node.outputs.clone();
                self.node(draft, block, node)?;
                self.decide_sizes(draft, block, &outputs)?;
            }
            region.into_iter().for_each(|region| draft.swap(region));
        }
        for index in 0..draft.outputs.len() {
            let port = &mut draft.outputs[index];
            if let Some([low, high]) = self.pairs.get(&port.value) {
                (port.value, port.high) = (*low, Some(*high));
            }
        }
        for region in 0..draft.regions.len() {
            for index in 0..draft.regions[region].results.len() {
                let result = draft.regions[region].results[index];
                if self.pairs.contains_key(&result) {
                    draft.swap(region);
                    let narrow = self.one_word(draft, region + 1, result);
                    draft.swap(region);
                    draft.regions[region].results[index] = narrow?;
                }
            }
        }
        Ok(())
    }

    /// Values that decide sizes are read as one word.
    fn decide_sizes(
        &mut self,
        draft: &mut Draft,
        block: usize,
        values: &[ValueId],
    ) -> Result<(), OnnxError> {
        for value in values {
            if !self.deciding.contains(value) || !self.pairs.contains_key(value) {
                continue;
            }
            let word = self.one_word(draft, block, *value)?;
            for info in &mut draft.symbols {
                if let SymbolSource::Element { value: source, .. } = &mut info.source
                    && source == value
                {
                    *source = word;
                }
            }
        }
        Ok(())
    }

    /// Constants as pairs where they are needed as such, else clamped to one word.
    fn constants(&mut self, draft: &mut Draft) {
        for index in 0..draft.values.len() {
            let value = ValueId(index as u32);
            let Origin::Constant(data) = &draft.value(value).origin else { continue };
            if !is_wide(data.dtype) {
                if self.wide.has(value) {
                    self.wide.values.remove(&value);
                }
                continue;
            }
            let wide = decode(&data.bytes, u64::from_le_bytes);
            let unsigned = data.dtype == DType::U64;
            let near = |x: &u64| match unsigned {
                true => u32::try_from(*x).unwrap_or(u32::MAX),
                false => (*x as i64).clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32,
            };
            let near: Vec<u32> = wide.iter().map(near).collect();
            let shape = draft.shape(value).to_vec();
            if self.wide.has(value) {
                let parts = [
                    (DType::U32, wide.iter().map(|x| *x as u32).collect::<Vec<u32>>()),
                    (DType::I32, wide.iter().map(|x| (*x >> 32) as u32).collect()),
                ];
                let pair = parts.map(|(dtype, words)| {
                    let data = Data::of_words(dtype, &words);
                    draft.add_value(dtype, shape.clone(), Origin::Constant(data))
                });
                self.pairs.insert(value, pair);
            }
            let storage = draft.value(value).dtype;
            draft.values[index].origin = Origin::Constant(Data::of_words(storage, &near));
        }
    }

    fn node(&mut self, draft: &mut Draft, block: usize, mut node: Node) -> Result<(), OnnxError> {
        let makes = node.outputs.first().copied().filter(|output| self.wide.has(*output));
        let takes = node.inputs.iter().any(|input| self.pairs.contains_key(input));
        match (&node.op, makes) {
            (Op::Elementwise(expr), _) if makes.is_some() || takes => {
                let wide: BTreeSet<ValueId> = self.pairs.keys().copied().collect();
                let of = |index: u32| operand(draft, &node, &wide, index);
                if let Some(split) = split(expr, of, is_unsigned(draft, &node)) {
                    return self.expression(draft, node, split);
                }
            }
            (_, Some(output)) => return self.moves(draft, block, node, output),
            _ => {}
        }
        for index in 0..node.inputs.len() {
            if self.pairs.contains_key(&node.inputs[index])
                && !self.is_constant(draft, node.inputs[index])
            {
                node.inputs[index] = self.one_word(draft, block, node.inputs[index])?;
            }
        }
        draft.nodes.push(node);
        Ok(())
    }

    fn is_constant(&self, draft: &Draft, value: ValueId) -> bool {
        matches!(draft.value(value).origin, Origin::Constant(_))
    }

    /// A node that moves elements moves both words. Its indices are one word.
    fn moves(
        &mut self,
        draft: &mut Draft,
        block: usize,
        mut node: Node,
        output: ValueId,
    ) -> Result<(), OnnxError> {
        let moved = moved_operands(&node);
        for index in (0..node.inputs.len()).filter(|index| !moved.contains(index)) {
            if !self.is_constant(draft, node.inputs[index]) {
                node.inputs[index] = self.one_word(draft, block, node.inputs[index])?;
            }
        }
        let shape = draft.shape(output).to_vec();
        let mut pair = [output; 2];
        for (half, dtype) in [DType::U32, DType::I32].into_iter().enumerate() {
            let mut inputs = node.inputs.clone();
            for &at in &moved {
                inputs[at] = self.halves(draft, node.inputs[at])?[half];
            }
            pair[half] = draft.add_node(&node.name, node.op.clone(), inputs, dtype, shape.clone());
        }
        self.pairs.insert(output, pair);
        Ok(())
    }

    /// Both words of a value that may have one word.
    fn halves(&mut self, draft: &mut Draft, value: ValueId) -> Result<[ValueId; 2], OnnxError> {
        if let Some(pair) = self.pairs.get(&value) {
            return Ok(*pair);
        }
        let expr = Expr { steps: vec![Step::Input(0)] };
        let dtype = draft.value(value).dtype;
        let word = |_| Operand::Word { input: 0, dtype, wide: true };
        let Some(Split::Pair { low, high }) = split(&expr, word, dtype == DType::U32) else {
            return Err(OnnxError::Graph {
                reason: "a 64-bit number that is not an integer".to_owned(),
            });
        };
        let shape = draft.shape(value).to_vec();
        let [low, high] = [(low, DType::U32), (high, DType::I32)].map(|(mut expr, dtype)| {
            // A word that does not depend on the input is a single number; it has to read the input so that every element has
            // one.
            let takes = expr.steps.iter().any(|step| matches!(step, Step::Input(_)));
            if !takes {
                expr = Expr {
                    steps: vec![
                        Step::Input(0),
                        Step::Binary(Binary::Xor, 0, 0),
                        Step::Bits(dtype, 1),
                    ],
                };
            }
            draft.add_node("word", Op::Elementwise(expr), vec![value], dtype, shape.clone())
        });
        Ok([low, high])
    }

    fn expression(&mut self, draft: &mut Draft, node: Node, split: Split) -> Result<(), OnnxError> {
        let output = node.outputs[0];
        let inputs: Vec<ValueId> = node
            .inputs
            .iter()
            .flat_map(|input| self.pairs.get(input).copied().unwrap_or([*input; 2]))
            .collect();
        let shape = draft.shape(output).to_vec();
        match split {
            Split::Word(expr) => {
                let (op, inputs) = used(expr, &inputs);
                draft.nodes.push(Node { op, inputs, ..node });
            }
            Split::Pair { low, high } => {
                let pair = [(low, DType::U32), (high, DType::I32)].map(|(expr, dtype)| {
                    let (op, inputs) = used(expr, &inputs);
                    draft.add_node(&node.name, op, inputs, dtype, shape.clone())
                });
                if self.wide.has(output) {
                    self.pairs.insert(output, pair);
                } else {
                    let op = as_one_word(draft.value(output).dtype);
                    draft.nodes.push(Node { op, inputs: pair.to_vec(), ..node });
                }
            }
        }
        Ok(())
    }

    /// A pair as one word, clamped to its range: an index beyond it is beyond every dimension.
    fn one_word(
        &mut self,
        draft: &mut Draft,
        block: usize,
        value: ValueId,
    ) -> Result<ValueId, OnnxError> {
        if let Some(known) = self.narrow.get(&(block, value)) {
            return Ok(*known);
        }
        let Some([low, high]) = self.pairs.get(&value).copied() else { return Ok(value) };
        let (dtype, element) = (draft.value(value).dtype, draft.value(value).element);
        let shape = draft.shape(value).to_vec();
        let op = as_one_word(dtype);
        let narrow = draft.add_node("one word", op, vec![low, high], element, shape);
        self.narrow.insert((block, value), narrow);
        Ok(narrow)
    }
}

/// A lower and an upper word as one word, clamped to its range.
fn as_one_word(dtype: DType) -> Op {
    let (mut steps, fits) = fits_one_word(dtype);
    steps.extend(match dtype {
        DType::I32 => vec![
            Step::Int(i32::MIN),
            Step::Int(i32::MAX),
            Step::Int(0),
            Step::Binary(Binary::Lt, 2, 8),
            Step::Select(9, 6, 7),
            Step::Select(fits, 1, 10),
        ],
        _ => vec![Step::Int(-1), Step::Bits(DType::U32, 4), Step::Select(fits, 0, 5)],
    });
    Op::Elementwise(Expr { steps })
}

/// Steps whose last one tells whether one word holds the number of a lower and an upper word.
fn fits_one_word(dtype: DType) -> (Vec<Step>, StepId) {
    let steps = match dtype {
        DType::I32 => vec![
            Step::Input(0),
            Step::Bits(DType::I32, 0),
            Step::Input(1),
            Step::Int(31),
            Step::Binary(Binary::ShiftRight, 1, 3),
            Step::Binary(Binary::Eq, 2, 4),
        ],
        _ => vec![Step::Input(0), Step::Input(1), Step::Int(0), Step::Binary(Binary::Eq, 1, 2)],
    };
    let last = steps.len() as StepId - 1;
    (steps, last)
}

/// Whether a node makes one word of two; if so, 1 where one word does not hold the number, else 0.
pub(super) fn beyond_one_word(node: &Node, dtype: DType) -> Option<Expr> {
    if node.op != as_one_word(dtype) {
        return None;
    }
    let (mut steps, fits) = fits_one_word(dtype);
    steps.extend([Step::Int(0), Step::Int(1), Step::Select(fits, fits + 1, fits + 2)]);
    Some(Expr { steps })
}

/// An expression with only the inputs that it uses.
fn used(mut expr: Expr, inputs: &[ValueId]) -> (Op, Vec<ValueId>) {
    let mut kept: Vec<ValueId> = Vec::new();
    for step in &mut expr.steps {
        if let Step::Input(index) = step {
            let value = inputs[*index as usize];
            let at = kept.iter().position(|known| *known == value).unwrap_or_else(|| {
                kept.push(value);
                kept.len() - 1
            });
            *step = Step::Input(at as u32);
        }
    }
    (Op::Elementwise(expr), kept)
}
