//! `config.json` and the other descriptions of a folder: which fields there are, and which of them would change the result
//! in a way that is not supported.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{HfError, ImportError, Resolver, read_json};

/// Largest size of a layer. Products of a few of them fit a word.
const SIZE_MAX: usize = 1 << 24;

/// A JSON object of a file.
#[derive(Clone, Debug)]
pub(super) struct Config {
    file: String,
    fields: Map<String, Value>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// It is missing, or not a JSON object.
    pub(super) fn read(resolver: &dyn Resolver, file: &str) -> Result<Config, ImportError> {
        Ok(Config { file: file.to_owned(), fields: read_json(resolver, file)? })
    }

    /// Gives fields of older files the names that newer ones have, unless these are there, too.
    pub(super) fn renamed(mut self, names: &[(&str, &str)]) -> Config {
        for (older, newer) in names {
            if self.get(newer).is_none()
                && let Some(value) = self.fields.remove(*older)
            {
                self.fields.insert((*newer).to_owned(), value);
            }
        }
        self
    }

    /// The fields that a type names. Null counts as missing.
    ///
    /// # Errors
    /// A field is missing or of another type.
    pub(super) fn typed<T: DeserializeOwned>(&self) -> Result<T, HfError> {
        let fields = self.fields.iter().filter(|(_, value)| !value.is_null());
        let fields: Map<String, Value> =
            fields.map(|(name, value)| (name.clone(), value.clone())).collect();
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| HfError::Config { file: self.file.clone(), reason: error.to_string() })
    }

    /// A field, unless it is null.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// An object in a field.
    pub(super) fn object(&self, name: &str) -> Option<Config> {
        let fields = self.get(name)?.as_object()?.clone();
        Some(Config { file: self.file.clone(), fields })
    }

    /// Refuses a field whose value is not the one that computing goes by. A missing field has that value.
    ///
    /// # Errors
    /// It has another value.
    pub(super) fn only(&self, name: &str, want: impl Into<Value>) -> Result<(), HfError> {
        let want = want.into();
        match self.get(name) {
            Some(got) if !is_equal(got, &want) => Err(self.unsupported(format!("{name} {got}"))),
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses something that the file asks for.
    pub(super) fn unsupported(&self, what: impl Into<String>) -> HfError {
        HfError::Unsupported { file: self.file.clone(), what: what.into() }
    }

    /// Refuses sizes that no layer has, of which other sizes could not be computed.
    ///
    /// # Errors
    /// A size is 0 or too large.
    pub(super) fn check_sizes(&self, sizes: &[(&str, usize)]) -> Result<(), HfError> {
        match sizes.iter().find(|(_, size)| !(1..=SIZE_MAX).contains(size)) {
            Some((name, size)) => {
                Err(self.unsupported(format!("{name} {size}, sizes are 1 to {SIZE_MAX}")))
            }
            None => Ok(()),
        }
    }

    /// The size of a head, if `width` features divide into `heads`.
    ///
    /// # Errors
    /// They do not.
    pub(super) fn head_dim(&self, width: usize, heads: usize) -> Result<usize, HfError> {
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(self.unsupported(format!("{heads} heads of a hidden size of {width}")));
        }
        Ok(width / heads)
    }

    /// The activation that a field names.
    ///
    /// # Errors
    /// It is not known.
    pub(super) fn activation(&self, field: &str, name: &str) -> Result<Activation, HfError> {
        Activation::of(name).ok_or_else(|| self.unsupported(format!("{field} {name:?}")))
    }
}

/// `1` and `1.0` are the same number.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// A function of single elements, by its name in transformers' `ACT2FN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Identity,
    /// With the error function.
    Gelu,
    /// With the hyperbolic tangent. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2.
    GeluTanh,
    Relu,
    Silu,
    Sigmoid,
    Tanh,
}

impl Activation {
    fn of(name: &str) -> Option<Activation> {
        Some(match name {
            "gelu" | "gelu_python" => Activation::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => {
                Activation::GeluTanh
            }
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            "sigmoid" => Activation::Sigmoid,
            "tanh" => Activation::Tanh,
            "linear" => Activation::Identity,
            _ => return None,
        })
    }

    /// From the name of a class of PyTorch.
    pub(super) fn of_torch(path: &str) -> Option<Activation> {
        let class = path.strip_prefix("torch.nn.modules.")?.rsplit('.').next()?;
        Some(match class {
            "Identity" => Activation::Identity,
            "GELU" => Activation::Gelu,
            "ReLU" => Activation::Relu,
            "SiLU" => Activation::Silu,
            "Sigmoid" => Activation::Sigmoid,
            "Tanh" => Activation::Tanh,
            _ => return None,
        })
    }
}
