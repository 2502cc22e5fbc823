//! Whether a program is sound, and what the shapes of a run's inputs make of it.

use crate::{
    Expr, Op, PROGRAM_VERSION, Padding, Program, Source, Step, StepId, Value, ValueId, WORD_BYTES,
    dim::{Dim, Symbol},
};

/// Why bytes are not a program that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Not the serialized form.
    #[error("program bytes do not decode: {0}")]
    Decode(#[from] postcard::Error),
    /// Written by another version.
    #[error("program version {got}, this runtime understands {want}")]
    Version {
        /// Version found.
        got: u32,
        /// Version understood.
        want: u32,
    },
    /// Something refers to what is not there.
    #[error("program is inconsistent at {place}: {what}")]
    Inconsistent {
        /// Node or port.
        place: String,
        /// What is wrong.
        what: String,
    },
}

impl Program {
    /// The value of an id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Serialized form.
    ///
    /// # Errors
    /// Only if memory for it cannot be had.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ProgramError> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Reads [`Program::to_bytes`]'s form and checks that every reference in it is valid.
    ///
    /// # Errors
    /// Another version, bytes that do not decode, or references out of range or out of order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Program, ProgramError> {
        let program: Program = postcard::from_bytes(bytes)?;
        if program.version != PROGRAM_VERSION {
            return Err(ProgramError::Version { got: program.version, want: PROGRAM_VERSION });
        }
        program.check()?;
        Ok(program)
    }

    /// Checks that every reference is valid and every value is computed before it is used.
    ///
    /// # Errors
    /// The first inconsistency.
    pub fn check(&self) -> Result<(), ProgramError> {
        let fail = |place: &str, what: &str| {
            Err(ProgramError::Inconsistent { place: place.to_owned(), what: what.to_owned() })
        };
        let mut known: Vec<bool> =
            self.values.iter().map(|value| !matches!(value.source, Source::Node)).collect();
        for (index, value) in self.values.iter().enumerate() {
            if value.dtype != value.dtype.storage() {
                return fail(&format!("value {index}"), "its type is not a storage type");
            }
            if value.shape.iter().any(|dim| !dim.symbols_below(self.symbols.len())) {
                return fail(&format!("value {index}"), "its shape has an unknown symbol");
            }
            if let Source::Constant(constant) = value.source {
                let Some(blob) = self.blobs.iter().find(|blob| blob.id == constant.blob) else {
                    return fail(&format!("value {index}"), "its blob is not listed");
                };
                if constant.offset.checked_add(constant.bytes).is_none_or(|end| end > blob.bytes) {
                    return fail(&format!("value {index}"), "it lies outside its blob");
                }
                let elements = value.shape.iter().try_fold(1u64, |product, dim| {
                    product.checked_mul(u64::try_from(dim.as_fixed()?).ok()?)
                });
                let width = constant.dtype.wire_bytes();
                if constant.dtype.storage() != value.dtype || width > WORD_BYTES {
                    return fail(&format!("value {index}"), "its blob holds another type");
                }
                if elements.and_then(|n| n.checked_mul(width as u64)) != Some(constant.bytes) {
                    return fail(&format!("value {index}"), "its length does not fit its shape");
                }
            }
        }
        for node in &self.nodes {
            for input in &node.inputs {
                if known.get(input.index()) != Some(&true) {
                    return fail(&node.name, "an input is not computed before it");
                }
            }
            if let Op::Elementwise(expr) = &node.op
                && !expr.is_well_formed(node.inputs.len())
            {
                return fail(&node.name, "its expression refers to a later step");
            }
            for output in &node.outputs {
                match known.get_mut(output.index()) {
                    Some(known) if !*known => *known = true,
                    _ => return fail(&node.name, "an output is unknown or computed twice"),
                }
            }
        }
        if self.assumptions.iter().any(|assumed| assumed.input as usize >= self.inputs.len()) {
            return fail("assumptions", "one is about an input that is not there");
        }
        self.check_counts()?;
        let is_known = |padding: &Padding| {
            (padding.symbol.0 as usize) < self.symbols.len()
                && padding.guards.iter().all(|guard| (guard.input as usize) < self.inputs.len())
                && padding.limits.iter().all(|limit| limit.dim.symbols_below(self.symbols.len()))
        };
        if !self.allowed_paddings.iter().all(is_known) {
            return fail("allowed paddings", "one refers to what is not there");
        }
        for count in &self.counts {
            if known.get(count.value.index()) != Some(&true) {
                return fail("counts", "one of them is never computed");
            }
        }
        for port in self.inputs.iter().chain(&self.outputs) {
            if known.get(port.value.index()) != Some(&true) {
                return fail(&port.name, "the port's value is never computed");
            }
        }
        Ok(())
    }

    /// Symbols' values from the shapes of a run's inputs, in the order of [`Program::inputs`].
    ///
    /// # Errors
    /// A wrong number of inputs, a wrong rank, a dimension that differs from the declared one, or a symbol with two
    /// values.
    pub fn bind(&self, shapes: &[&[usize]]) -> Result<Vec<i64>, BindError> {
        if shapes.len() != self.inputs.len() {
            return Err(BindError::Count { got: shapes.len(), want: self.inputs.len() });
        }
        let mut bound: Vec<Option<i64>> = vec![None; self.symbols.len()];
        for (port, shape) in self.inputs.iter().zip(shapes) {
            let declared = &self.value(port.value).shape;
            if shape.len() != declared.len() {
                return Err(BindError::Rank {
                    input: port.name.clone(),
                    got: shape.len(),
                    want: declared.len(),
                });
            }
            for (dim, &got) in declared.iter().zip(*shape) {
                if let Dim::Symbol(Symbol(index)) = dim {
                    let got = got as i64;
                    match bound[*index as usize] {
                        None => bound[*index as usize] = Some(got),
                        Some(want) if want != got => {
                            return Err(BindError::Dimension {
                                input: port.name.clone(),
                                got,
                                want,
                            });
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        self.bind_counts(&mut bound);
        let bound: Vec<i64> = bound
            .into_iter()
            .enumerate()
            .map(|(index, value)| {
                value.ok_or_else(|| BindError::Unbound { symbol: self.symbols[index].clone() })
            })
            .collect::<Result<_, _>>()?;
        for (port, shape) in self.inputs.iter().zip(shapes) {
            for (dim, &got) in self.value(port.value).shape.iter().zip(*shape) {
                let want = dim.eval(&bound);
                if want != Some(got as i64) {
                    return Err(BindError::Dimension {
                        input: port.name.clone(),
                        got: got as i64,
                        want: want.unwrap_or(-1),
                    });
                }
            }
        }
        Ok(bound)
    }
}

impl Expr {
    fn is_well_formed(&self, inputs: usize) -> bool {
        !self.steps.is_empty()
            && self.steps.iter().enumerate().all(|(index, step)| {
                let earlier = |id: &StepId| (*id as usize) < index;
                match step {
                    Step::Input(input) => (*input as usize) < inputs,
                    Step::Float(_) | Step::Int(_) | Step::Dim(_) => true,
                    Step::Unary(_, a) | Step::Cast(_, a) | Step::Bits(_, a) | Step::Test(_, a) => {
                        earlier(a)
                    }
                    Step::Binary(_, a, b) => earlier(a) && earlier(b),
                    Step::Select(a, b, c) => earlier(a) && earlier(b) && earlier(c),
                }
            })
    }
}

/// Why the shapes of a run's inputs do not fit a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum BindError {
    #[error("{got} inputs given, the program has {want}")]
    Count { got: usize, want: usize },
    #[error("input {input} has {got} dimensions, the program wants {want}")]
    Rank { input: String, got: usize, want: usize },
    #[error("input {input} has a dimension of {got} where {want} is needed")]
    Dimension { input: String, got: i64, want: i64 },
    #[error("no input determines the dimension {symbol}")]
    Unbound { symbol: String },
}
