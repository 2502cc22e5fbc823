//! Finds which dimensions of operands and result correspond.

use super::{
    Guard, Limit, Padding,
    extent::Extent,
    fill::{Fill, Kind},
    state::{Axis, Made, State},
};
use flotilla_program::{
    Node, Program, Source,
    dim::{Dim, Symbol, Term},
};
use flotilla_tensor::DType;

/// A node, and the facts about its operands.
pub(super) struct Site<'a> {
    program: &'a Program,
    pub(super) symbol: Symbol,
    pub(super) node: &'a Node,
    pub(super) operands: Vec<&'a State>,
    found: &'a mut Padding,
}

/// For each dimension of the result, the dimension of each operand whose index is the same.
pub(super) struct Aligned {
    axes: Vec<Vec<Option<usize>>>,
    /// Operands' dimensions whose padding does not affect the result.
    settled: Vec<(usize, usize)>,
    /// Dimensions of the result that may be padded although no operand is; their padding comes after everything else.
    made: Vec<usize>,
}

impl Aligned {
    /// No dimensions correspond yet.
    pub(super) fn none(rank: usize, operands: usize) -> Aligned {
        Aligned { axes: vec![vec![None; operands]; rank], settled: Vec::new(), made: Vec::new() }
    }

    /// A dimension of the result corresponds to an operand's.
    pub(super) fn pair(&mut self, output: usize, input: usize, axis: usize) {
        if let Some(found) = self.axes.get_mut(output).and_then(|inputs| inputs.get_mut(input)) {
            *found = Some(axis);
        }
    }

    /// The padding of an operand's dimension does not affect the result.
    pub(super) fn settle(&mut self, input: usize, axis: usize) {
        self.settled.push((input, axis));
    }

    /// A dimension of the result may be padded although no operand is: those of its elements that are not padding are the
    /// same for any length.
    pub(super) fn make(&mut self, output: usize) {
        self.made.push(output);
    }
}

impl<'a> Site<'a> {
    pub(super) fn new(
        program: &'a Program,
        symbol: Symbol,
        node: &'a Node,
        operands: Vec<&'a State>,
        found: &'a mut Padding,
    ) -> Site<'a> {
        Site { program, symbol, node, operands, found }
    }

    pub(super) fn shape(&self, input: usize) -> &'a [Dim] {
        self.node.inputs.get(input).map_or(&[], |&id| &self.program.value(id).shape)
    }

    pub(super) fn output(&self) -> &'a [Dim] {
        self.node.outputs.first().map_or(&[], |&id| &self.program.value(id).shape)
    }

    pub(super) fn output_dtype(&self) -> DType {
        self.node.outputs.first().map_or(DType::F32, |&id| self.program.value(id).dtype)
    }

    pub(super) fn operand(&self, input: usize) -> Result<&'a State, String> {
        self.operands.get(input).copied().ok_or_else(|| format!("it has no operand {input}"))
    }

    pub(super) fn dim_text(&self, dim: &Dim) -> String {
        self.program.dim_text(dim)
    }

    /// The kind of an operand's elements in some places; weights are ordinary numbers.
    pub(super) fn weight(&self, input: usize, fill: &Fill) -> Kind {
        let constant = self
            .node
            .inputs
            .get(input)
            .is_some_and(|&id| matches!(self.program.value(id).source, Source::Constant(_)));
        let dtype = self.operands.get(input).map_or(DType::F32, |state| state.dtype);
        if constant && dtype == DType::F32 { Kind::Ordinary } else { fill.kind(dtype) }
    }

    /// A size must not become larger than `most`.
    pub(super) fn limit(&mut self, dim: &Dim, most: i64) {
        let (mut dim, mut most) = (Term::of(dim).dim(), most);
        if let Dim::Sum(terms) = &dim {
            let (fixed, rest): (Vec<Dim>, Vec<Dim>) =
                terms.iter().cloned().partition(|term| term.as_fixed().is_some());
            let known: i64 = fixed.iter().filter_map(Dim::as_fixed).sum();
            most = most.saturating_sub(known);
            dim = Term::of(&Dim::Sum(rest)).dim();
        }
        if dim.as_fixed().is_none_or(|size| size > most) {
            self.found.limits.push(Limit { dim, most });
        }
    }

    /// Requires that the mask that hides these scores keeps something in each row; `place` is the dimension along which
    /// they are hidden, counted from the last one.
    pub(super) fn hide(&mut self, fill: &Fill, place: usize) -> Result<(), String> {
        let mask = fill.hiding().ok_or("no mask hides its padding")?.clone();
        if mask.place() != Some(place) {
            return Err("the mask lies along another dimension".to_owned());
        }
        let port = self.program.inputs.get(mask.input as usize).ok_or("there is no such mask")?;
        let value = self.program.value(port.value);
        let padded = value.shape.iter().filter(|dim| dim.mentions(self.symbol)).count();
        if padded != 1 {
            return Err("whole rows of its mask are padding".to_owned());
        }
        let one = super::one(value.dtype);
        self.found.guards.push(Guard { input: mask.input, axis: mask.axis, one });
        Ok(())
    }

    /// The `Made` of the result: data, unless all operands are of at least this kind.
    pub(super) fn made(&self, least: Made) -> Made {
        let made = self.operands.iter().map(|state| state.made).min().unwrap_or(Made::Sizes);
        if made >= least { made } else { Made::Data }
    }

    /// Operands and result have the same last dimensions; operands of lower rank are repeated.
    pub(super) fn broadcast(&self) -> Aligned {
        let rank = self.output().len();
        let mut aligned = Aligned::none(rank, self.operands.len());
        (0..rank).for_each(|output| aligned.make(output));
        for input in 0..self.operands.len() {
            let own = self.shape(input).len();
            for axis in 0..own.min(rank) {
                aligned.pair(rank - 1 - axis, input, own - 1 - axis);
            }
        }
        aligned
    }

    /// The result, where `fill` computes the elements from the operands' elements.
    pub(super) fn aligned(
        &self,
        aligned: &Aligned,
        fill: impl Fn(&[Fill]) -> Fill,
    ) -> Result<State, String> {
        self.check_settled(aligned)?;
        let mut axes = Vec::with_capacity(aligned.axes.len());
        for (output, dim) in self.output().iter().enumerate() {
            let sources = aligned.axes.get(output).ok_or("its rank is another one")?;
            let extent = match (self.extent(sources, dim)?, Extent::suffix(dim, self.symbol)) {
                (None, Some(_)) if !aligned.made.contains(&output) => {
                    return Err("its result is padded where no operand is".to_owned());
                }
                (None, suffix) => suffix,
                (found, _) => found,
            };
            if extent.as_ref().is_some_and(|extent| extent.whole() != Term::of(dim)) {
                let dim = self.dim_text(dim);
                return Err(format!("its dimension {dim} is not as long as that of an operand"));
            }
            axes.push(extent.map(|extent| {
                let operands = self.operands.iter().zip(sources);
                let fills: Vec<Fill> = operands.map(|(state, &axis)| state.along(axis)).collect();
                Axis { extent, fill: fill(&fills) }
            }));
        }
        let real: Vec<Fill> = self.operands.iter().map(|state| state.real.clone()).collect();
        Ok(State {
            dtype: self.output_dtype(),
            real: fill(&real),
            axes,
            made: self.made(Made::Sizes),
            below: None,
        })
    }

    /// The padding that the operands have along one dimension of the result.
    fn extent(&self, sources: &[Option<usize>], dim: &Dim) -> Result<Option<Extent>, String> {
        let mut found: Option<&Extent> = None;
        let mut closed = false;
        for (input, axis) in sources.iter().enumerate() {
            let Some(axis) = *axis else { continue };
            match (self.operands[input].axis(axis), found) {
                (None, _) => {
                    closed |= self.shape(input).get(axis).and_then(Dim::as_fixed) != Some(1);
                }
                (Some(open), None) => found = Some(&open.extent),
                (Some(open), Some(known)) if open.extent == *known => {}
                (Some(_), Some(_)) => {
                    return Err("its operands are padded in different places".to_owned());
                }
            }
        }
        match found {
            Some(_) if closed => Err("one operand is padded where another one is not".to_owned()),
            None if closed && dim.mentions(self.symbol) => {
                Err("its result is padded where its operand is not".to_owned())
            }
            found => Ok(found.cloned()),
        }
    }

    /// Refuses padding of an operand that does not correspond to a dimension of the result.
    fn check_settled(&self, aligned: &Aligned) -> Result<(), String> {
        for (input, state) in self.operands.iter().enumerate() {
            for axis in (0..state.axes.len()).filter(|&axis| state.axis(axis).is_some()) {
                let paired =
                    aligned.axes.iter().any(|inputs| inputs.get(input) == Some(&Some(axis)));
                if !paired && !aligned.settled.contains(&(input, axis)) {
                    let dim = self.shape(input).get(axis).map(|dim| self.dim_text(dim));
                    return Err(format!(
                        "{} mixes along dimension {axis} ({}) of operand {input}",
                        self.node.op.name(),
                        dim.unwrap_or_default()
                    ));
                }
            }
        }
        Ok(())
    }
}
