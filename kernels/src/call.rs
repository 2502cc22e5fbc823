//! A node as kernels get it: what is known at load, and the shapes of a run.

use flotilla_program::{
    Node, Program, Source, Value, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::DType;

/// Most dimensions of a value; strides are passed to shaders in two `vec4`.
pub const RANK_MAX: usize = 8;

/// Largest value in bytes; offsets inside one are 32-bit everywhere.
pub const VALUE_BYTES_MAX: u64 = 1 << 31;

/// A node as it is known at load.
#[derive(Clone, Copy)]
pub struct Signature<'a> {
    /// The program that the node is in.
    pub program: &'a Program,
    /// The node.
    pub node: &'a Node,
}

impl<'a> Signature<'a> {
    /// An operand.
    pub fn input(&self, index: usize) -> &'a Value {
        self.program.value(self.node.inputs[index])
    }

    /// The result.
    pub fn output(&self) -> &'a Value {
        self.program.value(self.node.outputs[0])
    }

    /// A dimension of an operand, if it does not depend on symbols.
    pub fn fixed(&self, index: usize, axis: u32) -> Option<i64> {
        self.input(index).shape.get(axis as usize)?.as_fixed()
    }

    /// Refuses a wrong number of operands; every operator has one result.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_operands(&self, want: usize) -> Result<(), String> {
        if self.node.outputs.len() != 1 {
            return Err(format!("{} outputs, an operator has one", self.node.outputs.len()));
        }
        if self.node.inputs.len() != want {
            return Err(format!("{} inputs, {want} are needed", self.node.inputs.len()));
        }
        let values =
            self.node.inputs.iter().chain(&self.node.outputs).map(|&id| self.program.value(id));
        for value in values {
            if value.shape.len() > RANK_MAX {
                return Err(format!("{} dimensions, the limit is {RANK_MAX}", value.shape.len()));
            }
        }
        Ok(())
    }

    /// Refuses operands (and the result) of another type.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_all(&self, dtype: DType) -> Result<(), String> {
        for &id in self.node.inputs.iter().chain(&self.node.outputs) {
            let got = self.program.value(id).dtype;
            if got != dtype {
                return Err(format!("an operand is {got:?}, {dtype:?} is needed"));
            }
        }
        Ok(())
    }

    /// Refuses inputs of other types than these, in order.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_inputs(&self, want: &[DType]) -> Result<(), String> {
        for (index, want) in want.iter().enumerate() {
            let got = self.input(index).dtype;
            if got != *want {
                return Err(format!("input {index} is {got:?}, {want:?} is needed"));
            }
        }
        Ok(())
    }

    /// Refuses a result of another type.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_result(&self, want: DType) -> Result<(), String> {
        match self.output().dtype {
            got if got == want => Ok(()),
            got => Err(format!("the output is {got:?}, {want:?} is needed")),
        }
    }

    /// Refuses data in input 0 that has no such dimension.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_axis(&self, axis: u32) -> Result<(), String> {
        if (axis as usize) < self.input(0).shape.len() {
            Ok(())
        } else {
            Err(format!("there is no dimension {axis}"))
        }
    }

    /// Refuses indices in input 1 that are not integers.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_indices(&self) -> Result<(), String> {
        match self.input(1).dtype {
            DType::I32 => Ok(()),
            got => Err(format!("indices are {got:?}, I32 is needed")),
        }
    }

    /// Refuses a node that does not move elements of input 0 by the indices of input 1.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_gathering(&self) -> Result<(), String> {
        self.expect_operands(2)?;
        self.expect_indices()?;
        if self.input(0).dtype != self.output().dtype {
            return Err("data and output are of different types".to_owned());
        }
        Ok(())
    }

    /// Whether an input is a constant.
    pub fn is_constant(&self, index: usize) -> bool {
        matches!(self.input(index).source, Source::Constant(_))
    }
}

/// The shapes of a run's values, as far as they are known; data-dependent symbols are set later.
#[derive(Clone, Debug)]
pub struct Shapes {
    symbols: Vec<Option<i64>>,
    shapes: Vec<Option<Vec<usize>>>,
}

impl Shapes {
    /// Evaluates all shapes that follow from these symbols, in the order of [`Program::symbols`].
    ///
    /// # Errors
    /// A negative dimension, or a value of more than [`VALUE_BYTES_MAX`], as text that names the value; a check of the
    /// program that does not hold.
    pub fn new(program: &Program, symbols: Vec<Option<i64>>) -> Result<Shapes, String> {
        let mut shapes = Shapes { symbols, shapes: vec![None; program.values.len()] };
        for value in (0..program.values.len() as u32).map(ValueId) {
            if shapes.has_symbols(&program.value(value).shape) {
                shapes.resolve(program, value)?;
            }
        }
        shapes.verify(program, &|_| true)?;
        Ok(shapes)
    }

    /// The symbols' values, `None` for those that are not known yet.
    pub fn symbols(&self) -> &[Option<i64>] {
        &self.symbols
    }

    /// A dimension's value, `None` if one of its symbols is not known yet or it has no value.
    pub fn eval(&self, dim: &Dim) -> Option<i64> {
        dim.eval_with(&|symbol: Symbol| self.symbols.get(symbol.0 as usize).copied().flatten())
    }

    /// Whether the symbols of these dimensions are known.
    pub fn has_symbols<'d>(&self, dims: impl IntoIterator<Item = &'d Dim>) -> bool {
        dims.into_iter()
            .flat_map(Dim::symbols)
            .all(|symbol| self.symbols.get(symbol.0 as usize).is_some_and(|value| value.is_some()))
    }

    /// Sets a symbol.
    ///
    /// # Errors
    /// A check of the program that does not hold.
    pub fn define(&mut self, program: &Program, symbol: Symbol, value: i64) -> Result<(), String> {
        if let Some(slot) = self.symbols.get_mut(symbol.0 as usize) {
            *slot = Some(value);
        }
        self.verify(program, &|dim| dim.mentions(symbol))
    }

    /// Evaluates a value's shape anew.
    ///
    /// # Errors
    /// A dimension that is negative or has no value, or a value of more than [`VALUE_BYTES_MAX`].
    pub fn resolve(&mut self, program: &Program, value: ValueId) -> Result<(), String> {
        let dims = &program.value(value).shape;
        let mut shape = Vec::with_capacity(dims.len());
        for dim in dims {
            match self.eval(dim) {
                Some(size) if size >= 0 => shape.push(size as usize),
                Some(size) => {
                    let dim = program.dim_text(dim);
                    return Err(format!("a dimension {dim} would be {size}"));
                }
                None => return Err(format!("a dimension {} has no size", program.dim_text(dim))),
            }
        }
        let bytes = shape.iter().try_fold(4u64, |bytes, &dim| bytes.checked_mul(dim as u64));
        if bytes.is_none_or(|bytes| bytes > VALUE_BYTES_MAX) {
            return Err(format!(
                "a value of shape {shape:?} is over the limit of {VALUE_BYTES_MAX} bytes"
            ));
        }
        self.shapes[value.index()] = Some(shape);
        Ok(())
    }

    /// Evaluates a value's shape, unless it is known already.
    ///
    /// # Errors
    /// As [`Shapes::resolve`].
    pub fn ensure(&mut self, program: &Program, value: ValueId) -> Result<(), String> {
        if self.is_known(value) { Ok(()) } else { self.resolve(program, value) }
    }

    /// Whether a value's shape is known.
    pub fn is_known(&self, value: ValueId) -> bool {
        self.shapes[value.index()].is_some()
    }

    /// Forgets the symbols and shapes of an earlier iteration of a loop.
    pub fn forget(&mut self, symbols: &[Symbol], values: &[ValueId]) {
        symbols.iter().for_each(|symbol| self.symbols[symbol.0 as usize] = None);
        values.iter().for_each(|value| self.shapes[value.index()] = None);
    }

    /// A value's shape; empty for one whose shape is not known yet.
    pub fn of(&self, value: ValueId) -> &[usize] {
        self.shapes[value.index()].as_deref().unwrap_or(&[])
    }

    /// How many elements a value has.
    pub fn elements(&self, value: ValueId) -> usize {
        self.of(value).iter().product()
    }

    /// Whether the checks about this dimension hold, as far as their numbers are known.
    fn verify(&self, program: &Program, about: &dyn Fn(&Dim) -> bool) -> Result<(), String> {
        for check in &program.checks {
            if !about(&check.left) && !about(&check.right) {
                continue;
            }
            if !self.has_symbols([&check.left, &check.right]) {
                continue;
            }
            let (left, right) = (self.eval(&check.left), self.eval(&check.right));
            if left.is_none() || left != right {
                let shown =
                    |size: Option<i64>| size.map_or("nothing".to_owned(), |n| n.to_string());
                return Err(format!(
                    "node {}: {}: {} and {} must be equal",
                    check.node,
                    check.what,
                    shown(left),
                    shown(right)
                ));
            }
        }
        Ok(())
    }
}

/// A node together with a run's shapes.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The node.
    pub signature: Signature<'a>,
    /// The run's shapes.
    pub shapes: &'a Shapes,
}

impl<'a> Call<'a> {
    /// An operand's shape.
    pub fn input(&self, index: usize) -> &'a [usize] {
        self.shapes.of(self.signature.node.inputs[index])
    }

    /// How many operands there are.
    pub fn inputs(&self) -> usize {
        self.signature.node.inputs.len()
    }

    /// The result's shape.
    pub fn output(&self) -> &'a [usize] {
        self.shapes.of(self.signature.node.outputs[0])
    }

    /// How many elements the result has.
    pub fn elements(&self) -> usize {
        self.output().iter().product()
    }

    /// A dimension's value in this run.
    ///
    /// # Errors
    /// It has none.
    pub fn eval(&self, dim: &Dim) -> Result<i64, String> {
        let found = self.shapes.eval(dim);
        found.ok_or_else(|| format!("{} has no value", self.signature.program.dim_text(dim)))
    }

    /// Dimensions' values in this run.
    ///
    /// # Errors
    /// One has none.
    pub fn numbers(&self, dims: &[Dim]) -> Result<Vec<i64>, String> {
        dims.iter().map(|dim| self.eval(dim)).collect()
    }

    /// Size of a dimension of input 0, which has the output's shape, and the product of the dimensions after it.
    pub fn lines(&self, axis: u32) -> Result<(usize, usize), String> {
        let (input, axis) = (self.input(0), axis as usize);
        self.expect_output(input)?;
        Ok((input[axis], input[axis + 1..].iter().product()))
    }

    /// Refuses an input of another shape.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_input(&self, index: usize, want: &[usize]) -> Result<(), String> {
        let got = self.input(index);
        if got == want {
            Ok(())
        } else {
            Err(format!("input {index} has the shape {got:?}, {want:?} is needed"))
        }
    }

    /// Refuses an output of another shape.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub fn expect_output(&self, want: &[usize]) -> Result<(), String> {
        let got = self.output();
        if got == want {
            Ok(())
        } else {
            Err(format!("the output has the shape {got:?}, {want:?} is needed"))
        }
    }
}

/// Row-major strides in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for index in (1..shape.len()).rev() {
        strides[index - 1] = strides[index] * shape[index];
    }
    strides
}

/// Strides to read `shape` as if it had the shape `to`; dimensions of 1 are repeated.
pub fn broadcast_strides(shape: &[usize], to: &[usize]) -> Result<Vec<usize>, String> {
    let refused = || format!("{shape:?} does not broadcast to {to:?}");
    let missing = to.len().checked_sub(shape.len()).ok_or_else(refused)?;
    let own = strides(shape);
    (0..to.len())
        .map(|index| match index.checked_sub(missing) {
            None => Ok(0),
            Some(index_own) if shape[index_own] == to[index] => Ok(own[index_own]),
            Some(index_own) if shape[index_own] == 1 => Ok(0),
            Some(_) => Err(refused()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting() {
        assert_eq!(strides(&[2, 3, 4]), [12, 4, 1]);
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), Ok(vec![0, 1, 0]));
        assert_eq!(broadcast_strides(&[], &[2]), Ok(vec![0]));
        assert!(broadcast_strides(&[2], &[3]).is_err());
        assert!(broadcast_strides(&[1, 2], &[2]).is_err());
    }
}
