//! Whether a symbol may be larger than it is: inputs are padded, results are cut, and nothing else changes.
//!
//! Graphs of fixed shapes serve many sizes if the inputs of a run are padded with zero words up to the size for which a
//! graph was built. That is right only if no element of a result that is kept depends on the padding. This analysis is an
//! abstract interpretation of a program: for each value it tracks which dimensions have *padded places* and what the
//! elements in them are (`fill`): a known word, a score that a mask hides, or some kind of number. Operators that treat
//! each place independently carry these facts along. Operators that mix elements along a padded dimension are allowed only
//! if the padding cannot change the result: sums over zeros, products with zeros, a softmax over hidden scores, maxima
//! over negative infinity. Everything else is [`Mixed`], including every operator whose result depends on the length of a
//! padded dimension. A wrong `Mixed` costs speed, a wrong permission would give a wrong answer, so everything that is not
//! proved is refused.
//!
//! Two things are assumed. First, inputs and weights are finite and arithmetic on them does not overflow: padding that
//! became infinite could turn a product with zero into something else (a result that is not finite is refused by its
//! reader). Second, a number to which a model's own mask is added has the magnitude for which the mask was made.

mod align;
mod expr;
mod extent;
mod fill;
mod lookups;
mod moves;
mod products;
mod state;
mod windows;
mod word;

#[cfg(test)]
mod tests;

use align::Site;
use extent::{Extent, grows};
use fill::{Fill, Kept, Kind, Mask};
use flotilla_program::{
    Check, Guard, Limit, Node, Op, Padding, Program, Source, SymbolSource, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;
use state::{Made, State, mentions};

/// Why a symbol cannot be padded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{node} would see padding of {symbol}: {reason}")]
pub struct Mixed {
    /// Name of the symbol.
    pub symbol: String,
    /// Name of the node, or of the input or output.
    pub node: String,
    /// Why, as text.
    pub reason: String,
}

/// Which symbols of a program may be padded together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paddings {
    /// These, all or any of them. The guards apply to inputs without any padding.
    pub allowed: Vec<Padding>,
    /// These may not be padded.
    pub refused: Vec<Mixed>,
}

/// Whether a symbol may be padded, while the others keep their values.
///
/// # Errors
/// The first node that lets padding into other elements, or may do so.
pub fn padding(program: &Program, symbol: Symbol) -> Result<Padding, Mixed> {
    let mut analysis = Analysis { program, symbol, states: vec![None; program.values.len()] };
    let mut found = Padding { symbol, guards: Vec::new(), limits: Vec::new() };
    analysis.run(&mut found).map_err(|(node, reason)| {
        let symbol = program.symbol_name(symbol).to_owned();
        Mixed { symbol, node, reason }
    })?;
    found.guards.sort_unstable();
    found.guards.dedup();
    found.limits.sort();
    found.limits.dedup();
    Ok(found)
}

/// The symbols that may be padded together.
///
/// They are padded one after the other, and the guards of each apply to inputs that the earlier ones may have padded. So
/// none of these may pad a mask that a later guard reads.
pub fn paddings(program: &Program) -> Paddings {
    let mut paddings = Paddings::default();
    let mut open = Vec::new();
    for symbol in (0..program.symbols.len() as u32).map(Symbol) {
        match padding(program, symbol) {
            Ok(padding) => open.push(padding),
            Err(mixed) => paddings.refused.push(mixed),
        }
    }
    while !open.is_empty() {
        // The next one must not pad a mask of those that come after it.
        let free = (0..open.len()).find(|&next| {
            let later = open.iter().enumerate().filter(|&(index, _)| index != next);
            let mut guards = later.flat_map(|(_, padding)| &padding.guards);
            !guards.any(|guard| carries(program, guard.input, open[next].symbol))
        });
        match free {
            Some(next) => paddings.allowed.push(open.remove(next)),
            None => {
                let symbol = open.pop().map_or(Symbol(0), |padding| padding.symbol);
                paddings.refused.push(Mixed {
                    symbol: program.symbol_name(symbol).to_owned(),
                    node: "inputs".to_owned(),
                    reason: "it pads a mask that hides the padding of another one".to_owned(),
                });
            }
        }
    }
    paddings
}

/// Whether an input has a dimension that depends on a symbol.
fn carries(program: &Program, input: u32, symbol: Symbol) -> bool {
    let port = program.inputs.get(input as usize);
    port.is_some_and(|port| mentions(&program.value(port.value).shape, symbol))
}

type Refusal = (String, String);

struct Analysis<'p> {
    program: &'p Program,
    symbol: Symbol,
    states: Vec<Option<State>>,
}

impl Analysis<'_> {
    /// The conditions on larger sizes that follow from a check of a size.
    fn limits(&self, check: &Check) -> Result<Vec<Limit>, Refusal> {
        let refusal = || (check.node.clone(), "it checks the size".to_owned());
        let Some((Dim::Min(dims), whole)) = check.cut() else { return Err(refusal()) };
        let others = dims.iter().filter(|dim| *dim != whole);
        let limits = others.map(|other| match (whole, other.as_fixed()) {
            (_, Some(most)) => Ok(Some(Limit { dim: whole.clone(), most })),
            // A number that must not be less than a constant only grows.
            (Dim::Fixed(_), None) if *other == Dim::Symbol(self.symbol) => Ok(None),
            _ => Err(refusal()),
        });
        limits.filter_map(Result::transpose).collect()
    }

    fn run(&mut self, found: &mut Padding) -> Result<(), Refusal> {
        let program = self.program;
        if program.symbols.iter().any(|info| info.source != SymbolSource::Input)
            || !program.regions.is_empty()
        {
            return Err((program.name.clone(), "a run decides what is executed".to_owned()));
        }
        let checked = |dim: &Dim| dim.mentions(self.symbol);
        for check in &program.checks {
            if !checked(&check.left) && !checked(&check.right) {
                continue;
            }
            found.limits.extend(self.limits(check)?);
        }
        if !program.assumptions.is_empty() {
            return Err((program.name.clone(), "the values of an input decide shapes".to_owned()));
        }
        for (id, value) in program.values.iter().enumerate() {
            if let Source::Constant(_) = value.source {
                self.states[id] = Some(constant(value.dtype, &value.shape));
            }
        }
        for (index, port) in program.inputs.iter().enumerate() {
            let value = program.value(port.value);
            self.check_shape(&port.name, &value.shape)?;
            self.states[port.value.index()] =
                Some(input(index as u32, value.dtype, &value.shape, self.symbol));
        }
        if !(0..program.inputs.len()).any(|input| carries(program, input as u32, self.symbol)) {
            return Err((program.name.clone(), "no input has it as a dimension".to_owned()));
        }
        for node in &program.nodes {
            self.node(node, found)?;
        }
        for port in &program.outputs {
            let state = self.states[port.value.index()].as_ref();
            let apart = state.into_iter().flat_map(|state| state.axes.iter().flatten());
            if apart.into_iter().any(|axis| !axis.extent.is_suffix()) {
                let reason = "its padding is not behind its last element".to_owned();
                return Err((port.name.clone(), reason));
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, found: &mut Padding) -> Result<(), Refusal> {
        let refuse = |reason: String| (node.name.clone(), reason);
        let &[output] = node.outputs.as_slice() else {
            return Err(refuse("it has several results".to_owned()));
        };
        self.check_shape(&node.name, &self.program.value(output).shape)?;
        let told = matches!(node.op, Op::Slice(_) | Op::Range(_) | Op::Elementwise(_));
        if !told && node.op.dims().into_iter().any(|dim| dim.mentions(self.symbol)) {
            return Err(refuse("it depends on the size".to_owned()));
        }
        let state = |id: &ValueId| self.states.get(id.index()).and_then(Option::as_ref);
        let operands: Option<Vec<&State>> = node.inputs.iter().map(state).collect();
        let operands = operands.ok_or_else(|| refuse("an operand is not computed".to_owned()))?;
        let mut site = Site::new(self.program, self.symbol, node, operands, found);
        let state = transfer(&mut site).map_err(refuse)?;
        self.states[output.index()] = Some(state);
        Ok(())
    }

    /// Refuses a dimension that, when the symbol grows, is not the old one followed by new elements.
    fn check_shape(&self, name: &str, shape: &[Dim]) -> Result<(), Refusal> {
        match shape.iter().find(|dim| !grows(dim, self.symbol)) {
            Some(dim) => {
                let dim = self.program.dim_text(dim);
                Err((name.to_owned(), format!("its dimension {dim} need not grow with it")))
            }
            None => Ok(()),
        }
    }
}

/// Constants do not change. A constant of several dimensions may be a mask, and one of a single element may be the number
/// of a mask.
fn constant(dtype: DType, shape: &[Dim]) -> State {
    let long = shape.iter().filter(|dim| dim.as_fixed() != Some(1)).count();
    let kind = match dtype {
        DType::F32 if long == 1 => Kind::Ordinary,
        _ => Kind::Finite,
    };
    State { made: Made::Sizes, ..State::closed(dtype, shape.len(), Fill::Kind(kind)) }
}

/// Inputs are zero in padded places.
fn input(index: u32, dtype: DType, shape: &[Dim], symbol: Symbol) -> State {
    let rank = shape.len();
    let places = shape.iter().enumerate();
    let places = places.map(|(axis, dim)| (dim.as_fixed() != Some(1)).then_some(rank - axis));
    let places: std::rc::Rc<[Option<usize>]> = places.collect();
    let one = one(dtype);
    let axes = shape.iter().enumerate().map(|(axis, dim)| {
        let extent = Extent::suffix(dim, symbol)?;
        let mask = Mask { input: index, axis: axis as u32, places: places.clone() };
        Some(state::Axis { extent, fill: Fill::Known { word: 0, kept: Kept::At(mask, one) } })
    });
    let axes = axes.collect();
    State { axes, ..State::closed(dtype, rank, Fill::Kind(Kind::Finite)) }
}

/// One, as a word.
fn one(dtype: DType) -> u32 {
    if dtype == DType::F32 { 1f32.to_bits() } else { 1 }
}

/// The facts about a node's result, or the reason if it mixes padding into other elements.
fn transfer(site: &mut Site<'_>) -> Result<State, String> {
    let node = site.node;
    match &node.op {
        Op::Elementwise(expr) => moves::elementwise(site, expr),
        Op::Transpose(transpose) => moves::transpose(site, transpose),
        Op::Reshape => moves::reshape(site),
        Op::Broadcast => moves::broadcast(site),
        Op::Concat(concat) => moves::concat(site, concat),
        Op::Slice(slice) => moves::slice(site, slice),
        Op::Range(range) => moves::range(site, range),
        Op::Sizes(_) => {
            Ok(State::closed(DType::I32, site.output().len(), Fill::Kind(Kind::Finite)))
        }
        Op::If(_) | Op::Loop(_) => Err("it decides what is executed".to_owned()),
        Op::Pad(pad) => moves::pad(site, pad),
        Op::MatMul(matmul) => products::matmul(site, matmul),
        Op::Attention(attention) => products::attention(site, attention),
        Op::Softmax(softmax) => products::softmax(site, softmax),
        Op::LayerNorm(norm) => products::layer_norm(site, norm),
        Op::Reduce(reduce) => products::reduce(site, reduce),
        Op::Cumulative(cumulative) => products::cumulative(site, cumulative),
        Op::Gather(gather) => lookups::gather(site, gather),
        Op::GatherElements(gather) => lookups::elements(site, gather.axis),
        Op::ScatterElements(scatter) => lookups::elements(site, scatter.axis),
        Op::GatherNd(gather) => lookups::tuples(site, gather),
        Op::Conv(conv) => windows::conv(site, conv),
        Op::Pool(pool) => windows::pool(site, pool),
        Op::Resample(resample) => windows::lines(site, resample.axis),
        Op::Dft(dft) => windows::dft(site, dft),
        Op::TopK(top) => windows::lines(site, top.axis),
        Op::ArgReduce(reduce) => windows::lines(site, reduce.axis),
        Op::Recurrent(recurrent) => windows::recurrent(site, recurrent),
        // In these, each item of the batch, row or matrix is independent, if anything is.
        Op::DeformableColumns(_) | Op::GridSample(_) => windows::items(site, &[0, 1, 2]),
        Op::Suppress(_) => windows::items(site, &[0, 1, 2]),
        Op::LinearAttention(_) => {
            windows::items(site, &(0..site.operands.len()).collect::<Vec<_>>())
        }
        Op::Trees(_) | Op::NgramCounts(_) => windows::items(site, &[0]),
        Op::Triangular => windows::matrices(site),
        Op::Dequantize(_) | Op::FirstAbove | Op::RowRanks | Op::ScatterNd(_) | Op::RoiAlign(_) => {
            windows::items(site, &[])
        }
    }
}
