//! The cpu backend: one thread, SIMD through vectorized loops.

mod loading;

use std::rc::Rc;

use flotilla_program::{Node, Program, ValueId};
use flotilla_protocol::{AdapterInfo, RunError};

pub(crate) use loading::Loading;

use crate::{
    flow::{Flow, Machine, Stretch, execute},
    weights::Constants,
};
use flotilla_kernels::{Call, Operand, PackedMatrix, Shapes, Signature, kernel};

/// Most vectors that are kept for later values.
const POOL_MAX: usize = 64;

/// A constant's memory: plain words if some kernel reads them, packed if some kernel needs that.
#[derive(Default)]
struct Constant {
    words: Rc<Vec<u32>>,
    packed: Option<PackedMatrix>,
    packed_transposed: Option<PackedMatrix>,
}

/// A loaded program.
pub(crate) struct CpuModel {
    constants: Constants,
    memory: Vec<Constant>,
    flow: Flow,
    pool: Pool,
}

/// Vectors that earlier values no longer need.
#[derive(Default)]
struct Pool(Vec<Vec<u32>>);

/// The adapter information of the cpu backend.
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
    /// Bytes of memory that hold constants.
    pub(crate) fn constants_bytes(&self) -> u64 {
        let of = |constant: &Constant| {
            let packed = [&constant.packed, &constant.packed_transposed];
            let packed: usize = packed.into_iter().flatten().map(PackedMatrix::bytes).sum();
            std::mem::size_of_val(constant.words.as_slice()) + packed
        };
        self.memory.iter().map(|constant| of(constant) as u64).sum()
    }

    /// Executes the program; `inputs` are in the order of [`Program::given`], results in the order of
    /// [`Program::results`].
    pub(crate) async fn run(
        &mut self,
        program: &Program,
        shapes: &mut Shapes,
        inputs: Vec<Vec<u32>>,
    ) -> Result<Vec<Vec<u32>>, RunError> {
        let CpuModel { constants, memory, flow, pool } = self;
        let mut values: Vec<Option<Rc<Vec<u32>>>> = vec![None; program.values.len()];
        for (value, words) in program.given().zip(inputs) {
            values[value.index()] = Some(Rc::new(words));
        }
        let mut machine = CpuMachine { constants, memory, flow, pool, program, values };
        execute(flow, program, shapes, &mut machine).await?;
        let results: Vec<ValueId> = program.results().collect();
        let results = machine.read(shapes, &results).await?;
        for words in machine.values.into_iter().flatten() {
            pool.give(words);
        }
        Ok(results)
    }
}

struct CpuMachine<'m> {
    constants: &'m Constants,
    memory: &'m [Constant],
    flow: &'m Flow,
    pool: &'m mut Pool,
    program: &'m Program,
    /// By root.
    values: Vec<Option<Rc<Vec<u32>>>>,
}

impl CpuMachine<'_> {
    fn node(&mut self, shapes: &Shapes, node: &Node) -> Result<(), String> {
        let signature = Signature { program: self.program, node };
        let call = Call { signature, shapes };
        let kernel = kernel(&node.op);
        if kernel.is_alias() {
            return kernel.launches(&call).map(|_| ());
        }
        let mut output = self.pool.take(call.elements());
        let packing = kernel.packing(&signature);
        let operands: Vec<Operand<'_>> = (0..node.inputs.len())
            .map(|input| {
                let root = self.flow.root(node.inputs[input]);
                let Some(constant) = self.constants.of(root) else {
                    let words = self.values[root.index()].as_deref();
                    return Operand::Plain(words.map(Vec::as_slice).unwrap_or_default());
                };
                let constant = &self.memory[constant];
                let packed = match packing {
                    Some(packing) if packing.input == input && packing.form.transposed => {
                        &constant.packed_transposed
                    }
                    Some(packing) if packing.input == input => &constant.packed,
                    _ => &None,
                };
                packed.as_ref().map_or(Operand::Plain(&constant.words), Operand::Packed)
            })
            .collect();
        kernel.compute(&call, &operands, &mut output)?;
        self.values[node.outputs[0].index()] = Some(Rc::new(output));
        Ok(())
    }
}

impl Machine for CpuMachine<'_> {
    type Memory = Rc<Vec<u32>>;

    fn compute(&mut self, shapes: &Shapes, stretch: Stretch<'_>) -> Result<(), RunError> {
        for (node, dying) in stretch.nodes.iter().zip(stretch.dying) {
            let failed = |reason| RunError::Node { node: node.name.clone(), reason };
            self.node(shapes, node).map_err(failed)?;
            for root in dying {
                if let Some(words) = self.values[root.index()].take() {
                    self.pool.give(words);
                }
            }
        }
        Ok(())
    }

    async fn read(&mut self, _: &Shapes, values: &[ValueId]) -> Result<Vec<Vec<u32>>, RunError> {
        let words = values.iter().map(|value| self.memory(self.flow.root(*value)));
        Ok(words.map(|words| words.map_or(Vec::new(), |words| words.to_vec())).collect())
    }

    fn memory(&self, root: ValueId) -> Option<Rc<Vec<u32>>> {
        match self.constants.of(root) {
            Some(constant) => Some(self.memory[constant].words.clone()),
            None => self.values[root.index()].clone(),
        }
    }

    fn set(&mut self, root: ValueId, memory: Option<Rc<Vec<u32>>>) {
        if let Some(words) = std::mem::replace(&mut self.values[root.index()], memory) {
            self.pool.give(words);
        }
    }

    fn word(&mut self, word: u32) -> Rc<Vec<u32>> {
        Rc::new(vec![word])
    }

    fn joined(
        &mut self,
        parts: Vec<Rc<Vec<u32>>>,
        elements: usize,
    ) -> Result<Rc<Vec<u32>>, RunError> {
        let mut joined = self.pool.take(0);
        joined.reserve(parts.len() * elements);
        parts.iter().for_each(|part| joined.extend_from_slice(part));
        Ok(Rc::new(joined))
    }
}

impl Pool {
    /// A vector of this length, preferably one that is large enough already.
    fn take(&mut self, length: usize) -> Vec<u32> {
        let fitting = self.0.iter().enumerate().filter(|(_, words)| words.capacity() >= length);
        let best = fitting.min_by_key(|(_, words)| words.capacity()).map(|(index, _)| index);
        let mut words = match best {
            Some(index) => self.0.swap_remove(index),
            None => self.0.pop().unwrap_or_default(),
        };
        words.resize(length, 0);
        words
    }

    /// Keeps a vector that nothing else holds.
    fn give(&mut self, words: Rc<Vec<u32>>) {
        if self.0.len() < POOL_MAX {
            self.0.extend(Rc::try_unwrap(words));
        }
    }
}
