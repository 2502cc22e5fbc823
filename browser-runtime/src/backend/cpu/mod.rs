//! The cpu backend: one thread, SIMD through vectorized loops.

mod loading;

use flotilla_program::Program;
use flotilla_protocol::{AdapterInfo, RunError};

pub(crate) use loading::Loading;

use crate::{lifetimes::Lifetimes, weights::Constants};
use flotilla_kernels::{Call, Operand, PackedMatrix, Shapes, Signature, kernel};

/// A constant's memory: plain words when some kernel reads them, packed when some kernel wants that.
#[derive(Default)]
struct Constant {
    words: Vec<u32>,
    packed: Option<PackedMatrix>,
    packed_transposed: Option<PackedMatrix>,
}

/// A loaded program.
pub(crate) struct CpuModel {
    constants: Constants,
    memory: Vec<Constant>,
    lifetimes: Lifetimes,
    /// Vectors that earlier runs no longer need.
    pool: Vec<Vec<u32>>,
}

/// What the cpu backend says about itself.
pub(crate) fn adapter() -> AdapterInfo {
    let simd = if cfg!(target_feature = "simd128") { "simd128" } else { std::env::consts::ARCH };
    AdapterInfo {
        description: format!("{simd}, 1 thread"),
        features: cfg!(target_feature = "simd128")
            .then(|| "simd128".to_owned())
            .into_iter()
            .collect(),
        ..AdapterInfo::default()
    }
}

impl CpuModel {
    /// Executes every node; `inputs` are in the order of the program's; what it gives back is in the order of
    /// [`Program::results`].
    pub(crate) fn run(
        &mut self,
        program: &Program,
        shapes: &Shapes,
        inputs: Vec<Vec<u32>>,
    ) -> Result<Vec<Vec<u32>>, RunError> {
        let mut values: Vec<Option<Vec<u32>>> = vec![None; program.values.len()];
        for (port, words) in program.inputs.iter().zip(inputs) {
            values[port.value.index()] = Some(words);
        }
        for (index, node) in program.nodes.iter().enumerate() {
            let fail = |reason: String| RunError::Node { node: node.name.clone(), reason };
            let signature = Signature { program, node };
            let call = Call { signature, shapes };
            let kernel = kernel(&node.op);
            if kernel.is_alias() {
                kernel.launches(&call).map_err(fail)?;
            } else {
                let mut output = self.take(call.elements());
                let packing = kernel.packing(&signature);
                let operands: Vec<Operand<'_>> = (0..node.inputs.len())
                    .map(|input| {
                        let root = self.lifetimes.root(node.inputs[input]);
                        let Some(constant) = self.constants.of(root) else {
                            return Operand::Plain(
                                values[root.index()].as_deref().unwrap_or_default(),
                            );
                        };
                        let constant = &self.memory[constant];
                        let packed = match packing {
                            Some(packing) if packing.input == input && packing.transposed => {
                                &constant.packed_transposed
                            }
                            Some(packing) if packing.input == input => &constant.packed,
                            _ => &None,
                        };
                        packed.as_ref().map_or(Operand::Plain(&constant.words), Operand::Packed)
                    })
                    .collect();
                kernel.compute(&call, &operands, &mut output).map_err(fail)?;
                values[node.outputs[0].index()] = Some(output);
            }
            for root in self.lifetimes.dying(index) {
                self.pool.extend(values[root.index()].take());
            }
        }
        let outputs = program.results().map(|value| {
            let root = self.lifetimes.root(value);
            match self.constants.of(root) {
                Some(constant) => self.memory[constant].words.clone(),
                None => values[root.index()].clone().unwrap_or_default(),
            }
        });
        let outputs = outputs.collect();
        self.pool.extend(values.into_iter().flatten());
        Ok(outputs)
    }

    /// A vector of this length, by preference one that is large enough already.
    fn take(&mut self, length: usize) -> Vec<u32> {
        let fitting = self.pool.iter().enumerate().filter(|(_, words)| words.capacity() >= length);
        let best = fitting.min_by_key(|(_, words)| words.capacity()).map(|(index, _)| index);
        let mut words = match best {
            Some(index) => self.pool.swap_remove(index),
            None => self.pool.pop().unwrap_or_default(),
        };
        words.resize(length, 0);
        words
    }
}
