//! Einstein sums of any number of operands, two at a time from the left. Source: ONNX operators, "Einsum"; NumPy, `einsum`.

use anyhow::{Context as _, Result, bail};
use flotilla_program::{ReduceKind, dim::Dim};

use crate::import::onnx::{
    constant::Constant,
    contract::Labelled,
    facts::Var,
    wiring::{Wire, Wiring},
};

pub(super) const OPERATORS: &[(&str, Wire)] = &[("Einsum", einsum)];

/// A letter, or one of the dimensions that `...` stands for, counted from the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Open(usize),
    Letter(char),
}

/// A tensor whose dimensions have labels.
type Operand = Labelled<Label>;

fn einsum(w: &mut Wiring<'_, '_>) -> Result<Vec<Var>> {
    let equation: String = w
        .text("equation")?
        .context("it has no equation")?
        .chars()
        .filter(|letter| !letter.is_whitespace())
        .collect();
    let ranks: Vec<usize> = (0..w.inputs_len())
        .map(|index| w.input(index).map(|input| w.rank(input)))
        .collect::<Result<_>>()?;
    let (terms, result) = labels(&equation, &ranks)?;
    let mut operands = Vec::new();
    for (index, labels) in terms.into_iter().enumerate() {
        let var = w.input(index)?;
        operands.push(Labelled { var, labels }.without_repetition(w)?);
    }
    drop_ones(w, &mut operands)?;
    let mut rest = operands.into_iter();
    let mut sum = rest.next().context("it has no operands")?;
    let mut later: Vec<Operand> = rest.collect();
    while !later.is_empty() {
        let next = later.remove(0);
        let wanted = |label: &Label| {
            result.contains(label) || later.iter().any(|later| later.labels.contains(label))
        };
        let sum_wanted = |label: &Label| next.labels.contains(label) || wanted(label);
        sum = sum.summed(w, sum_wanted)?;
        let next = {
            let next_wanted = |label: &Label| sum.labels.contains(label) || wanted(label);
            next.summed(w, next_wanted)?
        };
        sum = product(w, sum, next, wanted)?;
    }
    let sum = sum.summed(w, |label| result.contains(label))?;
    Ok(vec![sum.in_order(w, &result)?])
}

/// The labels of every operand, and of the result.
fn labels(equation: &str, ranks: &[usize]) -> Result<(Vec<Vec<Label>>, Vec<Label>)> {
    let (operands, result) = match equation.split_once("->") {
        Some((operands, result)) => (operands, Some(result)),
        None => (equation, None),
    };
    let terms: Vec<&str> = operands.split(',').collect();
    if terms.len() != ranks.len() {
        bail!("{equation:?} is a sum of {} operands, {} are given", terms.len(), ranks.len());
    }
    let mut open = 0;
    let mut all = Vec::new();
    for (term, &rank) in terms.iter().zip(ranks) {
        let letters = term.replace("...", "").chars().count();
        let of_term = if term.contains("...") { rank.saturating_sub(letters) } else { 0 };
        open = open.max(of_term);
        all.push(parsed(term, of_term));
    }
    for (labels, (term, &rank)) in all.iter().zip(terms.iter().zip(ranks)) {
        if labels.len() != rank {
            bail!("it names {} dimensions, its operand has {rank}: {term:?}", labels.len());
        }
    }
    let result = match result {
        Some(result) => parsed(result, open),
        None => {
            let mut result: Vec<Label> = (0..open).rev().map(Label::Open).collect();
            let every: Vec<Label> = all.iter().flatten().copied().collect();
            let once = |label: &&Label| {
                matches!(label, Label::Letter(_))
                    && every.iter().filter(|other| other == label).count() == 1
            };
            let mut letters: Vec<Label> = every.iter().filter(once).copied().collect();
            letters.sort_unstable();
            result.extend(letters);
            result
        }
    };
    Ok((all, result))
}

fn parsed(term: &str, open: usize) -> Vec<Label> {
    let letters = |text: &str| text.chars().map(Label::Letter).collect::<Vec<_>>();
    match term.split_once("...") {
        Some((before, after)) => {
            let open = (0..open).rev().map(Label::Open).collect();
            [letters(before), open, letters(after)].concat()
        }
        None => letters(term),
    }
}

/// A dimension of 1 that is longer in another operand is dropped, so that it is repeated.
fn drop_ones(w: &mut Wiring<'_, '_>, operands: &mut [Operand]) -> Result<()> {
    let one = Dim::Fixed(1);
    let longer: Vec<Label> = operands
        .iter()
        .flat_map(|operand| operand.labels.iter().copied().zip(w.shape(operand.var)))
        .filter(|(_, dim)| *dim != one)
        .map(|(label, _)| label)
        .collect();
    for operand in operands {
        let shape = w.shape(operand.var);
        for axis in (0..shape.len()).rev() {
            if shape[axis] == one && longer.contains(&operand.labels[axis]) {
                operand.var = w.squeeze(operand.var, axis)?;
                operand.labels.remove(axis);
            }
        }
    }
    Ok(())
}

impl Operand {
    /// The diagonal of dimensions that have the same label.
    fn without_repetition(mut self, w: &mut Wiring<'_, '_>) -> Result<Operand> {
        let repeated = |labels: &[Label]| {
            (0..labels.len()).find_map(|second| {
                let first = labels[..second].iter().position(|label| *label == labels[second])?;
                Some((first, second))
            })
        };
        while let Some((first, second)) = repeated(&self.labels) {
            let rank = self.labels.len();
            let mut order: Vec<usize> =
                (0..rank).filter(|&axis| axis != first && axis != second).collect();
            let mut labels: Vec<Label> = order.iter().map(|&axis| self.labels[axis]).collect();
            labels.push(self.labels[first]);
            order.extend([first, second]);
            let moved = w.transpose(self.var, &order)?;
            let shape = w.shape(moved);
            let size = w.number(&shape[rank - 1])? as i64;
            let mut flat = shape[..rank - 2].to_vec();
            flat.push(Dim::Fixed(size * size));
            let flat = w.reshape(moved, &flat)?;
            let diagonal: Vec<i64> = (0..size).map(|at| at * (size + 1)).collect();
            let diagonal = w.known(Constant::i64s(&[diagonal.len()], &diagonal));
            self = Labelled { var: w.gather(rank - 2, flat, diagonal)?, labels };
        }
        Ok(self)
    }

    /// Sums over the dimensions that are not needed any more.
    fn summed(
        mut self,
        w: &mut Wiring<'_, '_>,
        wanted: impl Fn(&Label) -> bool,
    ) -> Result<Operand> {
        let axes: Vec<usize> =
            (0..self.labels.len()).filter(|&axis| !wanted(&self.labels[axis])).collect();
        if !axes.is_empty() {
            self.var = w.reduce(ReduceKind::Sum, self.var, &axes, false)?;
            self.labels.retain(wanted);
        }
        Ok(self)
    }

    /// Dimensions in this order; a missing one has size 1.
    fn in_order(self, w: &mut Wiring<'_, '_>, order: &[Label]) -> Result<Var> {
        let present = order
            .iter()
            .filter_map(|label| self.labels.iter().position(|own| own == label))
            .collect::<Vec<_>>();
        let mut var = w.transpose(self.var, &present)?;
        for (axis, label) in order.iter().enumerate() {
            if !self.labels.contains(label) {
                var = w.unsqueeze(var, axis)?;
            }
        }
        Ok(var)
    }
}

/// The product of two operands, summed over the dimensions that both have and that are not needed any more.
fn product(
    w: &mut Wiring<'_, '_>,
    a: Operand,
    b: Operand,
    wanted: impl Fn(&Label) -> bool,
) -> Result<Operand> {
    let both = |labels: &[Label]| {
        let new = b.labels.iter().filter(|label| !labels.contains(label));
        labels.iter().chain(new).copied().collect::<Vec<Label>>()
    };
    let all = both(&a.labels);
    let labels: Vec<Label> = all.iter().copied().filter(|label| wanted(label)).collect();
    if labels.len() == all.len() {
        let (a, b) = (a.in_order(w, &all)?, b.in_order(w, &all)?);
        return Ok(Operand { var: w.mul(a, b)?, labels });
    }
    let var = w.contract(a, b, &labels)?;
    Ok(Operand { var, labels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(labels: &[Label]) -> String {
        let one = |label: &Label| match label {
            Label::Letter(letter) => letter.to_string(),
            Label::Open(at) => at.to_string(),
        };
        labels.iter().map(one).collect()
    }

    #[test]
    fn equations_name_dimensions() {
        for (equation, ranks, terms, result) in [
            ("ij,jk->ik", vec![2, 2], "ij jk", "ik"),
            ("b...i,...ij->b...j", vec![4, 3], "b10i 0ij", "b10j"),
            ("bij,bjk", vec![3, 3], "bij bjk", "ik"),
            ("...ii->...", vec![4], "10ii", "10"),
            ("ba", vec![2], "ba", "ab"),
            (",i->i", vec![0, 1], " i", "i"),
        ] {
            let (got, of_result) = labels(equation, &ranks).unwrap();
            let got: Vec<String> = got.iter().map(|labels| shown(labels)).collect();
            assert_eq!((got.join(" "), shown(&of_result)), (terms.into(), result.into()));
        }
        assert!(labels("ij,jk->ik", &[2]).is_err());
        assert!(labels("ij->i", &[3]).is_err());
    }
}
