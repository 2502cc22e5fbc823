//! Prompts: texts that sentence-transformers puts before those of clients, by name, such as `query` and `document`.

use std::collections::BTreeMap;

use crate::{
    resolver::Resolver,
    text::{TextEncoder, TextError, damaged},
};

const FILE: &str = "config_sentence_transformers.json";

/// A model's prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    texts: BTreeMap<String, String>,
    /// The name of the one that is used if a client names none.
    default: Option<String>,
    /// Whether the program was made for the default and takes no other one.
    is_fixed: bool,
}

/// Why a prompt cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum PromptError {
    #[error("there is no prompt {name:?}; {}", known(.names))]
    Unknown { name: String, names: Vec<String> },
    #[error(
        "prompt {name:?} cannot be chosen: the model's vectors leave the prompt out, so it was loaded for {}",
        .default.as_ref().map_or("no prompt".to_owned(), |default| format!("its default prompt {default:?}"))
    )]
    Fixed { name: String, default: Option<String> },
}

fn known(names: &[String]) -> String {
    match names {
        [] => "the model has none".to_owned(),
        names => format!("the model has {}", names.join(", ")),
    }
}

impl Prompts {
    /// From `config_sentence_transformers.json`, if it is there.
    pub(crate) fn load(resolver: &dyn Resolver) -> Result<Prompts, TextError> {
        #[derive(serde::Deserialize)]
        struct Config {
            prompts: Option<BTreeMap<String, Option<String>>>,
            default_prompt_name: Option<String>,
            model_type: Option<String>,
        }
        if !resolver.exists(FILE) {
            return Ok(Prompts::default());
        }
        let Config { prompts, default_prompt_name: default, model_type } =
            serde_json::from_slice(&resolver.read(FILE)?).map_err(|error| damaged(FILE, &error))?;
        if let Some(other) = model_type.filter(|kind| kind != "SentenceTransformer") {
            let what = format!("model_type {other:?}");
            return Err(TextError::Unsupported { file: FILE.to_owned(), what });
        }
        let texts = prompts.unwrap_or_default().into_iter();
        let texts = texts.map(|(name, text)| (name, text.unwrap_or_default()));
        let prompts = Prompts { texts: texts.collect(), default, is_fixed: false };
        if let Some(default) = &prompts.default
            && !prompts.texts.contains_key(default)
        {
            return Err(damaged(FILE, &format!("its default prompt {default:?} is not in it")));
        }
        Ok(prompts)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.texts.keys().map(String::as_str)
    }

    /// The text of a prompt; without a name, of the default one; `""` if there is none.
    ///
    /// # Errors
    /// There is no prompt of this name, or the model takes only its default one.
    pub fn text(&self, name: Option<&str>) -> Result<&str, PromptError> {
        let Some(name) = name else {
            let text = self.default.as_ref().and_then(|default| self.texts.get(default));
            return Ok(text.map_or("", String::as_str));
        };
        let text = self.texts.get(name).ok_or_else(|| PromptError::Unknown {
            name: name.to_owned(),
            names: self.names().map(str::to_owned).collect(),
        })?;
        if self.is_fixed && self.default.as_deref() != Some(name) {
            let (name, default) = (name.to_owned(), self.default.clone());
            return Err(PromptError::Fixed { name, default });
        }
        Ok(text)
    }

    /// Allows the default prompt alone, because the program leaves its tokens out. Returns how many they are.
    pub(crate) fn fix(&mut self, encoder: Option<&TextEncoder>) -> Result<usize, TextError> {
        self.is_fixed = true;
        let text = self.text(None).unwrap_or_default();
        match encoder {
            Some(encoder) if !text.is_empty() => encoder.prompt_tokens(text),
            _ => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::MemoryResolver;

    fn prompts(json: &str) -> Result<Prompts, TextError> {
        let files = [(FILE.to_owned(), json.to_owned().into())].into();
        Prompts::load(&MemoryResolver { files })
    }

    #[test]
    fn prompts_are_chosen_by_name() {
        let none = Prompts::load(&MemoryResolver::default()).expect("no file");
        assert_eq!(none.text(None), Ok(""));
        let error = none.text(Some("query")).expect_err("none").to_string();
        assert_eq!(error, "there is no prompt \"query\"; the model has none");
        let json =
            r#"{"prompts": {"query": "q: ", "document": null}, "default_prompt_name": "query"}"#;
        let mut some = prompts(json).expect("a file");
        assert_eq!((some.text(None), some.text(Some("document"))), (Ok("q: "), Ok("")));
        let error = some.text(Some("x")).expect_err("unknown").to_string();
        assert_eq!(error, "there is no prompt \"x\"; the model has document, query");
        assert_eq!(some.fix(None).expect("no tokenizer"), 0);
        assert_eq!(some.text(Some("query")), Ok("q: "));
        let error = some.text(Some("document")).expect_err("fixed").to_string();
        assert!(error.contains("its default prompt \"query\""), "{error}");
    }

    #[test]
    fn a_default_that_is_not_there_is_refused() {
        let error = prompts(r#"{"prompts": {}, "default_prompt_name": "x"}"#).expect_err("missing");
        assert!(error.to_string().contains("default prompt \"x\""), "{error}");
        assert!(prompts("[]").is_err());
    }
}
