//! Decides which nodes the page computes itself although a program runs on its device.
//!
//! A number that decides a size or a branch is needed in the page. Reading it back from the device means waiting for all work
//! of the device. So the page computes the nodes that lead to such a number, if their inputs are already in the page.

use flotilla_program::{Node, Op, Program, Source, SymbolSource, ValueId};

/// Most bytes of a constant of which the page keeps a copy.
const CONSTANT_BYTES_MAX: u64 = 64 << 10;

/// Most elements of an input of floats, which may be an image, and of results of regions.
const ELEMENTS_MAX: i64 = 4096;

/// The nodes that the page computes itself.
pub(crate) struct HostNodes {
    /// By value.
    host: Vec<bool>,
    needed: Vec<bool>,
}

impl HostNodes {
    pub(crate) fn new(program: &Program) -> HostNodes {
        let mut host = HostNodes {
            host: program.values.iter().map(could_be_there).collect(),
            needed: vec![false; program.values.len()],
        };
        let mut sources: Vec<ValueId> = Vec::new();
        for info in &program.symbols {
            if let SymbolSource::Element { value, .. } = info.source {
                sources.push(value);
            }
        }
        for node in program.all_nodes() {
            match &node.op {
                Op::If(_) => sources.push(node.inputs[0]),
                Op::Loop(turns) => {
                    sources.extend(&node.inputs[..2]);
                    sources.push(program.regions[turns.body as usize].results[0]);
                }
                _ => {}
            }
        }
        if sources.is_empty() {
            host.host.fill(false);
            return host;
        }
        for port in &program.inputs {
            let is_small = elements(program, port.value).is_some_and(|n| n <= ELEMENTS_MAX);
            host.set(port.value, !port.dtype.is_float() || is_small);
            port.high.into_iter().for_each(|high| host.set(high, true));
        }
        while host.withdraw(program) {}
        host.need(program, sources);
        host
    }

    fn set(&mut self, value: ValueId, is_there: bool) {
        self.host[value.index()] = is_there;
    }

    /// Whether the page computes a node.
    pub(crate) fn computes(&self, node: &Node) -> bool {
        let output = node.outputs[0].index();
        self.host[output] && self.needed[output]
    }

    /// Whether the page needs the words of a constant.
    pub(crate) fn keeps(&self, constant: ValueId) -> bool {
        self.needed[constant.index()]
    }

    /// Removes values from the set that need values outside of it; whether there was one.
    fn withdraw(&mut self, program: &Program) -> bool {
        let mut changed = false;
        let mut expect = |host: &mut Vec<bool>, value: ValueId, is_there: bool| {
            changed |= host[value.index()] && !is_there;
            host[value.index()] &= is_there;
        };
        for node in program.all_nodes() {
            let at = |host: &[bool], value: ValueId| host[value.index()];
            let inputs = node.inputs.iter().all(|input| at(&self.host, *input));
            match &node.op {
                Op::If(branch) => {
                    let regions = [branch.yes, branch.no].map(|at| &program.regions[at as usize]);
                    for (index, output) in node.outputs.iter().enumerate() {
                        let both = regions.iter().all(|of| at(&self.host, of.results[index]));
                        expect(&mut self.host, *output, both);
                    }
                }
                Op::Loop(turns) => {
                    let body = &program.regions[turns.body as usize];
                    for (index, parameter) in body.parameters.iter().enumerate().skip(1) {
                        let both = at(&self.host, node.inputs[1 + index])
                            && at(&self.host, body.results[index]);
                        expect(&mut self.host, *parameter, both);
                    }
                    for (index, output) in node.outputs.iter().enumerate() {
                        let mut both = at(&self.host, body.results[1 + index]);
                        both &= index >= turns.carried as usize
                            || at(&self.host, node.inputs[2 + index]);
                        expect(&mut self.host, *output, both);
                    }
                }
                op => {
                    let is_there = is_light(op) && inputs;
                    expect(&mut self.host, node.outputs[0], is_there);
                }
            }
        }
        changed
    }

    /// Marks everything in the page that these values are computed from.
    fn need(&mut self, program: &Program, mut values: Vec<ValueId>) {
        while let Some(value) = values.pop() {
            let index = value.index();
            if !self.host[index] || std::mem::replace(&mut self.needed[index], true) {
                continue;
            }
            for node in program.all_nodes() {
                let body = match &node.op {
                    Op::Loop(turns) => Some(&program.regions[turns.body as usize]),
                    _ => None,
                };
                if let Some(body) = body
                    && let Some(at) = body.parameters.iter().position(|own| *own == value)
                    && at > 0
                {
                    values.extend([node.inputs[1 + at], body.results[at]]);
                }
                let Some(at) = node.outputs.iter().position(|output| *output == value) else {
                    continue;
                };
                match (&node.op, body) {
                    (Op::If(branch), _) => {
                        let regions =
                            [branch.yes, branch.no].map(|at| &program.regions[at as usize]);
                        values.extend(regions.map(|region| region.results[at]));
                    }
                    (_, Some(body)) => {
                        values.push(body.results[1 + at]);
                        values.extend(node.inputs.get(2 + at));
                    }
                    _ => values.extend(&node.inputs),
                }
            }
        }
    }
}

fn could_be_there(value: &flotilla_program::Value) -> bool {
    match value.source {
        Source::Constant(constant) => 4 * constant.elements() <= CONSTANT_BYTES_MAX,
        Source::Input | Source::Node => true,
    }
}

fn elements(program: &Program, value: ValueId) -> Option<i64> {
    let shape = &program.value(value).shape;
    shape.iter().try_fold(1i64, |n, dim| n.checked_mul(dim.as_fixed()?))
}

/// Whether one thread computes it in negligible time.
fn is_light(op: &Op) -> bool {
    match op {
        Op::Elementwise(_)
        | Op::Reduce(_)
        | Op::Gather(_)
        | Op::Transpose(_)
        | Op::Reshape
        | Op::Broadcast
        | Op::Concat(_)
        | Op::Slice(_)
        | Op::Range(_)
        | Op::Sizes(_)
        | Op::Pad(_)
        | Op::GatherElements(_)
        | Op::GatherNd(_)
        | Op::ScatterElements(_)
        | Op::ScatterNd(_)
        | Op::TopK(_)
        | Op::ArgReduce(_)
        | Op::FirstAbove
        | Op::RowRanks
        | Op::Cumulative(_) => true,
        Op::MatMul(_)
        | Op::Dequantize(_)
        | Op::Attention(_)
        | Op::LinearAttention(_)
        | Op::LayerNorm(_)
        | Op::Softmax(_)
        | Op::Conv(_)
        | Op::Pool(_)
        | Op::DeformableColumns(_)
        | Op::Resample(_)
        | Op::GridSample(_)
        | Op::RoiAlign(_)
        | Op::Dft(_)
        | Op::Triangular
        | Op::NgramCounts(_)
        | Op::Suppress(_)
        | Op::Trees(_)
        | Op::Recurrent(_)
        | Op::If(_)
        | Op::Loop(_) => false,
    }
}
