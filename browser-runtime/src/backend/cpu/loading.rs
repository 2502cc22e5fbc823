//! Loads constants into memory.

use std::rc::Rc;

use flotilla_program::Program;
use flotilla_protocol::LoadError;

use super::{Constant, CpuModel, Pool};
use crate::{
    flow::Flow,
    platform::Pace,
    weights::{Constants, Sink, Stored, put},
};
use flotilla_kernels::{MatrixForm, PackedMatrix, Packer, Signature, kernel};

/// The form for which a constant is packed.
#[derive(Clone, Copy, Default)]
enum Packed {
    #[default]
    Never,
    As(MatrixForm),
    /// The same elements are used as matrices of several forms, so none is packed.
    Not,
}

impl Packed {
    fn want(&mut self, form: MatrixForm) {
        *self = match *self {
            Packed::Never => Packed::As(form),
            Packed::As(known) if known == form => *self,
            Packed::As(_) | Packed::Not => Packed::Not,
        };
    }

    /// The packed matrix of these words, made with pauses.
    async fn matrix(self, words: &[u32], pace: &mut Pace) -> Option<PackedMatrix> {
        let Packed::As(form) = self else { return None };
        let mut packer = Packer::new(form);
        while packer.step(words) {
            pace.rest().await;
        }
        Some(packer.finish())
    }
}

/// The form in which kernels need a constant.
#[derive(Clone, Copy, Default)]
struct Wanted {
    plain: bool,
    packed: Packed,
    packed_transposed: Packed,
}

impl Wanted {
    fn is_plain(self) -> bool {
        let is_not = |packed: Packed| matches!(packed, Packed::Not);
        self.plain || is_not(self.packed) || is_not(self.packed_transposed)
    }
}

/// Receives constants and packs each as soon as it is complete.
pub(crate) struct Loading {
    flow: Flow,
    wanted: Vec<Wanted>,
    memory: Vec<Constant>,
    missing: Vec<u64>,
    /// Constants that are complete and not packed yet.
    complete: Vec<usize>,
}

impl Loading {
    pub(crate) fn new(program: &Program, constants: &Constants) -> Loading {
        let flow = Flow::new(program);
        let mut wanted = vec![Wanted::default(); constants.refs.len()];
        for node in program.all_nodes() {
            let signature = Signature { program, node };
            let packing = kernel(&node.op).packing(&signature);
            for (index, value) in node.inputs.iter().enumerate() {
                let Some(constant) = constants.of(flow.root(*value)) else { continue };
                let wanted = &mut wanted[constant];
                match packing.filter(|packing| packing.input == index) {
                    Some(packing) if packing.form.transposed => {
                        wanted.packed_transposed.want(packing.form);
                    }
                    Some(packing) => wanted.packed.want(packing.form),
                    None => wanted.plain = true,
                }
            }
        }
        let regions = program.regions.iter().flat_map(|region| region.results.iter().copied());
        for value in program.results().chain(regions) {
            if let Some(constant) = constants.of(flow.root(value)) {
                wanted[constant].plain = true;
            }
        }
        Loading {
            flow,
            wanted,
            memory: constants.refs.iter().map(|_| Constant::default()).collect(),
            missing: constants.refs.iter().map(Stored::memory_bytes).collect(),
            complete: Vec::new(),
        }
    }

    pub(crate) fn finish(self, constants: Constants) -> CpuModel {
        CpuModel { constants, memory: self.memory, flow: self.flow, pool: Pool::default() }
    }
}

impl Sink for Loading {
    fn write(&mut self, constant: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        // Nothing else holds it before it is complete.
        let words = Rc::make_mut(&mut self.memory[constant].words);
        put(words, &mut self.missing[constant], offset, bytes)?;
        if self.missing[constant] == 0 {
            self.complete.push(constant);
        }
        Ok(())
    }

    async fn settle(&mut self, pace: &mut Pace) -> Result<(), LoadError> {
        for constant in self.complete.drain(..) {
            let (wanted, memory) = (self.wanted[constant], &mut self.memory[constant]);
            memory.packed = wanted.packed.matrix(&memory.words, pace).await;
            memory.packed_transposed = wanted.packed_transposed.matrix(&memory.words, pace).await;
            if !wanted.is_plain() {
                memory.words = Rc::default();
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LoadError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::tests::counted;

    #[test]
    fn a_matrix_is_packed_with_pauses() {
        let (k, n) = (384, 1536);
        let floats: Vec<f32> = (0..k * n).map(|index| index as f32).collect();
        let words: &[u32] = bytemuck::cast_slice(&floats);
        for transposed in [false, true] {
            let mut pace = Pace::eager();
            let (packed, pauses) =
                counted(Packed::As(MatrixForm::floats(k, n, transposed)).matrix(words, &mut pace));
            assert_eq!(packed, Some(PackedMatrix::pack(&floats, k, n, transposed)));
            assert!(pauses > 20, "{pauses} pauses");
        }
        assert_eq!(counted(Packed::Not.matrix(words, &mut Pace::eager())), (None, 0));
    }
}
