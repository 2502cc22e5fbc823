//! The kernel suite as plain data: programs, weights, inputs and expected results.
//!
//! Every operator's file has a table. The expected numbers come from naive `f64` code next to it, never from a kernel.
//! The same cases run natively and in real browsers.

use std::collections::BTreeMap;

use flotilla_program::{
    BlobId, BlobRef, ConstantRef, Node, Op, Port, Program, Region, Source, SymbolInfo,
    SymbolSource, Value, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::{DType, Tensor};

/// How far results may differ from the expected ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// The same bits; data movement and integers.
    Exact,
    /// Some roundings of `f32`: 2e-6, absolute below 1 and relative above.
    Close,
    /// Long sums and approximated functions: 1e-5, absolute below 1 and relative above.
    Approximate,
    /// 2e-5 of each expected number, however small it is, plus 1e-36.
    Relative,
    /// As [`Tolerance::Approximate`], relative to the largest of the expected numbers: for results that are all small.
    Scaled,
}

impl Tolerance {
    /// Whether `got` is near enough to `want`, where `largest` is the largest of the expected numbers.
    fn accepts(self, got: f64, want: f64, largest: f64) -> bool {
        let bound = match self {
            Tolerance::Exact => 0.0,
            Tolerance::Close => 2e-6 * want.abs().max(1.0),
            Tolerance::Approximate => 1e-5 * want.abs().max(1.0),
            Tolerance::Relative => 2e-5 * want.abs() + 1e-36,
            Tolerance::Scaled => 1e-5 * largest,
        };
        got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= bound
    }
}

/// On which runtimes a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On all of them.
    Everywhere,
    /// On all but WebNN, where the browser defines the behaviour for numbers at the ends of a type's range and for
    /// very long sums.
    Own,
    /// Natively only: browsers run another case of the same kind.
    Native,
}

/// One program with its data.
#[derive(Clone, Debug)]
pub struct Case {
    /// `operator/what is special`.
    pub name: String,
    /// What is executed.
    pub program: Program,
    /// The blobs that contain its constants.
    pub weights: BTreeMap<BlobId, Vec<u8>>,
    /// In the order of the program's inputs.
    pub inputs: Vec<Tensor>,
    /// In the order of the program's outputs.
    pub expected: Vec<Tensor>,
    /// How far results may differ.
    pub tolerance: Tolerance,
    /// Where it runs.
    pub scope: Scope,
}

/// Lengths of lines around the sizes at which loops are divided, and at which software adapters end them.
pub(crate) const LONG: [usize; 12] = {
    let mut sizes = [0; 12];
    let mut index = 0;
    while index < 12 {
        sizes[index] = (1 << (14 + index / 3)) + index % 3 - 1;
        index += 1;
    }
    sizes
};

/// The longest of [`LONG`] above a power of two; browsers run the cases of this size.
pub(crate) const LONGEST: usize = LONG[11];

impl Case {
    /// The same case; browsers run it only if `everywhere`.
    pub(crate) fn everywhere_if(self, everywhere: bool) -> Case {
        let scope = if everywhere { Scope::Everywhere } else { Scope::Native };
        Case { scope, ..self }
    }

    /// The same case, not run on WebNN.
    pub(crate) fn of_own_kernels(self) -> Case {
        let scope = if self.scope == Scope::Native { Scope::Native } else { Scope::Own };
        Case { scope, ..self }
    }

    /// Compares results with the expected ones.
    ///
    /// # Errors
    /// The first difference, as text.
    pub fn verify(&self, got: &[Tensor]) -> Result<(), String> {
        if got.len() != self.expected.len() {
            return Err(format!("{} outputs, {} expected", got.len(), self.expected.len()));
        }
        for (index, (got, want)) in got.iter().zip(&self.expected).enumerate() {
            if (got.dtype, &got.shape) != (want.dtype, &want.shape) {
                return Err(format!(
                    "output {index} is {:?} {:?}, {:?} {:?} expected",
                    got.dtype, got.shape, want.dtype, want.shape
                ));
            }
            let wanted = want.numbers();
            let largest = wanted.iter().map(|want| want.abs()).fold(0.0, f64::max);
            for (element, (got, want)) in got.numbers().into_iter().zip(wanted).enumerate() {
                if !self.tolerance.accepts(got, want, largest) {
                    return Err(format!(
                        "output {index} has {got} at element {element}, {want} expected"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Numbers of one type with a shape; cases are written with them.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Vec<f64>,
}

impl Array {
    /// From `f64`, which is rounded to `f32`.
    pub(crate) fn f32(shape: &[usize], numbers: Vec<f64>) -> Array {
        Array::of(
            DType::F32,
            shape,
            numbers.into_iter().map(|number| f64::from(number as f32)).collect(),
        )
    }

    pub(crate) fn of(dtype: DType, shape: &[usize], numbers: Vec<f64>) -> Array {
        assert_eq!(shape.iter().product::<usize>(), numbers.len(), "a case's table is wrong");
        Array { dtype, shape: shape.to_vec(), numbers }
    }

    /// Reproducible numbers in -1..1 (Knuth's MMIX generator).
    pub(crate) fn noise(seed: u64, shape: &[usize]) -> Array {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let numbers = (0..shape.iter().product())
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
            })
            .collect();
        Array::f32(shape, numbers)
    }

    pub(crate) fn map(&self, function: impl Fn(f64) -> f64) -> Array {
        Array {
            numbers: self.numbers.iter().map(|&number| function(number)).collect(),
            ..self.clone()
        }
    }

    /// The element at a row-major index.
    pub(crate) fn at(&self, index: &[usize]) -> f64 {
        let strides = crate::call::strides(&self.shape);
        self.numbers[index.iter().zip(strides).map(|(index, stride)| index * stride).sum::<usize>()]
    }

    /// Builds an array by naming each element's index.
    pub(crate) fn build(dtype: DType, shape: &[usize], element: impl Fn(&[usize]) -> f64) -> Array {
        let numbers =
            (0..shape.iter().product()).map(|flat| element(&unravel(flat, shape))).collect();
        Array { dtype, shape: shape.to_vec(), numbers }
    }

    /// Elements in the form that a client sends and a blob contains.
    fn bytes(&self) -> Vec<u8> {
        self.dtype.encode_numbers(&self.numbers)
    }

    fn tensor(&self) -> Tensor {
        let dtype = self.dtype;
        Tensor { dtype, shape: self.shape.clone(), bytes: self.bytes() }
    }
}

/// A row-major index of a flat one.
pub(crate) fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        index[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    index
}

/// A case that is being built.
pub(crate) struct Sketch {
    program: Program,
    weights: BTreeMap<BlobId, Vec<u8>>,
    inputs: Vec<Tensor>,
}

impl Sketch {
    pub(crate) fn new(name: &str) -> Sketch {
        let program = Program::new(name);
        Sketch { program, weights: BTreeMap::new(), inputs: Vec::new() }
    }

    fn value(&mut self, dtype: DType, shape: &[usize], source: Source) -> ValueId {
        let shape = shape.iter().map(|&dim| Dim::Fixed(dim as i64)).collect();
        self.program.values.push(Value { dtype: dtype.storage(), shape, source });
        ValueId(self.program.values.len() as u32 - 1)
    }

    pub(crate) fn input(&mut self, array: &Array) -> ValueId {
        let value = self.value(array.dtype, &array.shape, Source::Input);
        self.program.inputs.push(Port {
            name: format!("input{}", value.0),
            dtype: array.dtype,
            value,
            high: None,
        });
        self.inputs.push(array.tensor());
        value
    }

    pub(crate) fn constant(&mut self, array: &Array) -> ValueId {
        let mut blob = array.bytes();
        let bytes = blob.len() as u64;
        blob.resize(blob.len().next_multiple_of(4), 0);
        let id = BlobId(*blake3::hash(&blob).as_bytes());
        let length = blob.len() as u64;
        if self.weights.insert(id, blob).is_none() {
            self.program.blobs.push(BlobRef { id, bytes: length });
        }
        self.value(
            array.dtype,
            &array.shape,
            Source::Constant(ConstantRef { blob: id, offset: 0, bytes, dtype: array.dtype }),
        )
    }

    /// A constant that stays as narrow as it is.
    pub(crate) fn narrow(&mut self, array: &Array) -> ValueId {
        let value = self.constant(array);
        self.program.values[value.index()].dtype = array.dtype;
        value
    }

    pub(crate) fn node(
        &mut self,
        op: Op,
        inputs: &[ValueId],
        dtype: DType,
        shape: &[usize],
    ) -> ValueId {
        let output = self.value(dtype, shape, Source::Node);
        let name = format!("{}{}", op.name(), self.program.nodes.len());
        self.program.nodes.push(Node { name, op, inputs: inputs.to_vec(), outputs: vec![output] });
        output
    }

    /// A data-dependent symbol.
    pub(crate) fn symbol(&mut self, source: SymbolSource) -> Dim {
        let index = self.program.symbols.len() as u32;
        self.program.symbols.push(SymbolInfo { name: format!("symbol{index}"), source });
        Dim::Symbol(Symbol(index))
    }

    /// A value of a data-dependent shape, which no node computes yet.
    pub(crate) fn sized(&mut self, dtype: DType, shape: Vec<Dim>) -> ValueId {
        let dtype = dtype.storage();
        self.program.values.push(Value { dtype, shape, source: Source::Node });
        ValueId(self.program.values.len() as u32 - 1)
    }

    /// Sets the shape of a value, for a shape that could not be made before the value that decides it.
    pub(crate) fn reshape(&mut self, value: ValueId, shape: Vec<Dim>) {
        self.program.values[value.index()].shape = shape;
    }

    /// Puts the nodes since the first `before` into a region.
    pub(crate) fn region(
        &mut self,
        before: usize,
        parameters: &[ValueId],
        results: &[ValueId],
    ) -> u32 {
        let (parameters, results) = (parameters.to_vec(), results.to_vec());
        let nodes = self.program.nodes.split_off(before);
        self.program.regions.push(Region { parameters, nodes, results });
        self.program.regions.len() as u32 - 1
    }

    /// How many nodes are in no region.
    pub(crate) fn nodes(&self) -> usize {
        self.program.nodes.len()
    }

    /// A node that computes values which exist already.
    pub(crate) fn computing(&mut self, op: Op, inputs: &[ValueId], outputs: &[ValueId]) {
        let name = format!("{}{}", op.name(), self.program.nodes.len());
        let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
        self.program.nodes.push(Node { name, op, inputs, outputs });
    }

    /// Declares `value` as an output with the result `expected`.
    pub(crate) fn case(mut self, value: ValueId, expected: &Array, tolerance: Tolerance) -> Case {
        self.program.outputs.push(Port {
            name: "output".to_owned(),
            dtype: expected.dtype,
            value,
            high: None,
        });
        Case {
            name: self.program.name.clone(),
            program: self.program,
            weights: self.weights,
            inputs: self.inputs,
            expected: vec![expected.tensor()],
            tolerance,
            scope: Scope::Everywhere,
        }
    }

    /// One operator over inputs, all given at run time.
    pub(crate) fn single(
        name: &str,
        op: Op,
        inputs: &[&Array],
        expected: &Array,
        tolerance: Tolerance,
    ) -> Case {
        let mut sketch = Sketch::new(name);
        let inputs: Vec<ValueId> = inputs.iter().map(|array| sketch.input(array)).collect();
        let output = sketch.node(op, &inputs, expected.dtype, &expected.shape);
        sketch.case(output, expected, tolerance)
    }
}
