//! Eleven small models with random weights, exported from Hugging Face, and PyTorch's results for them.

use std::collections::BTreeMap;

use flotilla_check::{Given, Subject, reference::Source};
use flotilla_reference::compare::compare;
use flotilla_tensor::Tensor;

use crate::place;

/// Seed of the inputs that are not recorded.
const SEED: u64 = 11;

/// A model of [`ARCHITECTURES`].
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// Its folder.
    pub name: &'static str,
    /// Sizes, other than those of the recorded inputs, of the dimensions that its export leaves open.
    pub sizes: &'static [(&'static str, i64)],
}

/// All of them.
pub const ARCHITECTURES: [Architecture; 11] = [
    Architecture { name: "bert", sizes: &[("batch", 3), ("seq", 7)] },
    Architecture { name: "roberta", sizes: &[("batch", 1), ("seq", 21)] },
    Architecture { name: "gpt2", sizes: &[] },
    Architecture { name: "llama", sizes: &[] },
    Architecture { name: "qwen2", sizes: &[] },
    Architecture { name: "t5", sizes: &[] },
    Architecture { name: "vit", sizes: &[("batch", 3)] },
    Architecture { name: "clip", sizes: &[] },
    Architecture { name: "whisper", sizes: &[] },
    Architecture { name: "resnet", sizes: &[("batch", 4)] },
    Architecture { name: "wav2vec2", sizes: &[] },
];

impl Architecture {
    /// With the recorded inputs, and PyTorch's outputs.
    ///
    /// # Panics
    /// The files differ from the committed ones, or the model cannot be imported.
    pub async fn recorded(&self) -> Subject {
        let folder = place::file("models").join(self.name);
        let given = Given { io: Some(folder.join("io.safetensors")), ..Given::default() };
        let subject = Subject::open(&folder.join("model.onnx"), &given).await;
        subject.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The same program with other inputs, of other sizes if the export allows that, and the outputs of onnxruntime or tract.
    ///
    /// # Panics
    /// Neither of them can run it.
    pub async fn other(&self, recorded: &Subject) -> Subject {
        let sizes: BTreeMap<String, i64> =
            self.sizes.iter().map(|&(name, size)| (name.to_owned(), size)).collect();
        let given = Given { seed: SEED, ..Given::default() };
        let other = recorded.remade(&sizes, &given).await;
        let other = other.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let is_other = matches!(other.source, Source::OnnxRuntime | Source::Tract);
        assert!(is_other, "{}: {:?}", self.name, other.source_reason);
        other
    }
}

/// Compares a runtime's results with the right ones, within the tolerance of the model's arithmetic.
///
/// # Errors
/// The difference, as text.
pub fn verify(subject: &Subject, outputs: Vec<Tensor>) -> Result<(), String> {
    let outputs = subject.named(outputs);
    let case = subject.cases.first().ok_or("there is nothing to compare with")?;
    let difference = compare(&outputs, &case.want, &subject.tolerance);
    let wrong = difference.map_err(|error| error.to_string())?.wrong;
    wrong.map_or(Ok(()), |wrong| Err(wrong.to_string()))
}
