//! Loads constants into the context.

use std::rc::Rc;

use flotilla_program::{Program, ValueId};
use flotilla_protocol::LoadError;
use flotilla_tensor::{DType, WORD_BYTES};
use flotilla_webnn::{MlGraphBuilder, MlOperand, MlOperandDescriptor, MlTensor};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

use super::{
    context::Context,
    draft::{Operand, Type},
    emit::{ConstantSource, descriptor, elements},
    lower::type_of,
    model::NnModel,
};
use crate::{
    platform::Pace,
    weights::{Constants, Sink, Stored, put},
};

/// A constant: in the context if it takes constant tensors, else in memory, from which it is copied into every graph.
#[derive(Default)]
pub(super) struct Held {
    words: Vec<u32>,
    tensor: Option<MlTensor>,
}

/// How a constant is used.
struct Use {
    ty: Type,
    shape: Vec<u32>,
    /// Whether every value that is this constant has this type and shape.
    alone: bool,
}

/// Receives constants.
pub(crate) struct Loading {
    context: Rc<Context>,
    held: Vec<Held>,
    missing: Vec<u64>,
    /// The types of those that other backends keep narrow; here their elements become words, too.
    narrow: Vec<Option<DType>>,
    uses: Vec<Option<Use>>,
    /// Whether the context takes constant tensors, as far as is known.
    takes_constants: bool,
}

impl Loading {
    pub(crate) fn new(context: Rc<Context>, program: &Program, constants: &Constants) -> Loading {
        let mut uses: Vec<Option<Use>> = constants.refs.iter().map(|_| None).collect();
        for index in 0..program.values.len() {
            let id = ValueId(index as u32);
            let Some(constant) = constants.of(id) else { continue };
            let value = program.value(id);
            let shape = value.shape.iter().filter_map(|dim| u32::try_from(dim.as_fixed()?).ok());
            let (ty, shape) = (type_of(value.dtype.storage()), shape.collect::<Vec<_>>());
            match &mut uses[constant] {
                Some(known) => known.alone &= known.ty == ty && known.shape == shape,
                none => *none = Some(Use { ty, shape, alone: true }),
            }
        }
        Loading {
            context,
            held: constants.refs.iter().map(|_| Held::default()).collect(),
            missing: constants.refs.iter().map(Stored::widened_bytes).collect(),
            narrow: constants
                .refs
                .iter()
                .map(|stored| stored.is_narrow.then_some(stored.part.dtype))
                .collect(),
            uses,
            takes_constants: true,
        }
    }

    pub(crate) fn finish(self, program: Rc<Program>, constants: Constants) -> NnModel {
        NnModel::new(self.context, program, constants, self.held)
    }

    /// Moves a constant that is complete and used in one way into the context, without a copy in memory.
    async fn give(&mut self, constant: usize) -> Result<(), JsValue> {
        let (Some(used), held) = (&self.uses[constant], &mut self.held[constant]) else {
            return Ok(());
        };
        if !used.alone || used.shape.contains(&0) {
            return Ok(());
        }
        let descriptor = MlOperandDescriptor::new(used.ty.name(), &used.shape);
        let data = elements(&held.words, used.ty);
        let promise = self.context.ml.create_constant_tensor(&descriptor, &data)?;
        held.tensor = Some(JsFuture::from(promise).await?.unchecked_into());
        held.words = Vec::new();
        Ok(())
    }
}

impl Sink for Loading {
    fn write(&mut self, constant: usize, offset: u64, bytes: &[u8]) -> Result<(), LoadError> {
        let (memory, missing) = (&mut self.held[constant].words, &mut self.missing[constant]);
        match self.narrow[constant] {
            None => put(memory, missing, offset, bytes),
            Some(dtype) => {
                let mut words = dtype.decode_words(bytes);
                // The end of a constant is filled up to a whole word.
                words.truncate((*missing / WORD_BYTES as u64) as usize);
                let offset = offset / dtype.wire_bytes() as u64 * WORD_BYTES as u64;
                put(memory, missing, offset, bytemuck::cast_slice(&words))
            }
        }
    }

    async fn settle(&mut self, _: &mut Pace) -> Result<(), LoadError> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), LoadError> {
        for constant in 0..self.held.len() {
            let is_complete = self.missing[constant] == 0 && !self.held[constant].words.is_empty();
            // A context that refuses one constant refuses all: then the words are kept.
            if self.takes_constants && is_complete {
                self.takes_constants = self.give(constant).await.is_ok();
            }
        }
        match self.context.lost() {
            Some(reason) => Err(LoadError::DeviceLost { reason }),
            None => Ok(()),
        }
    }
}

impl ConstantSource for Vec<Held> {
    fn constant(
        &self,
        builder: &MlGraphBuilder,
        index: usize,
        operand: &Operand,
    ) -> Result<MlOperand, JsValue> {
        match &self[index].tensor {
            Some(tensor) => builder.constant_tensor(tensor),
            None => {
                builder.constant(&descriptor(operand), &elements(&self[index].words, operand.ty))
            }
        }
    }
}
