//! Values of a client's JSON body, read without keeping parts that are not used: as [`serde_json::Value`]s, a list of numbers
//! takes many times the memory of its text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::embed::Text;

/// Most inputs of a request, as in OpenAI's API.
pub(super) const INPUTS_MAX: usize = 2048;

/// Most characters of a client's value that a message repeats.
const ECHO_MAX: usize = 100;

/// What `input` may be.
const EXPECTED: &str =
    "input must be a string, a list of strings, a list of token ids, or a list of such lists";

/// A scalar value; of lists and objects only their kind is kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List,
    Object,
}

impl fmt::Display for Scalar {
    /// Its beginning as JSON, for a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Null => f.write_str("null"),
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Number(number) => write!(f, "{number}"),
            Scalar::Text(text) => match text.char_indices().nth(ECHO_MAX) {
                Some((at, _)) => write!(f, "{:?}...", &text[..at]),
                None => write!(f, "{text:?}"),
            },
            Scalar::List => f.write_str("a list"),
            Scalar::Object => f.write_str("an object"),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Bool(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Number(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Number(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                // JSON has no number that is not finite.
                Ok(serde_json::Number::from_f64(value).map_or(Scalar::Null, Scalar::Number))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Scalar, A::Error> {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Object)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// What is to be embedded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    /// `null`.
    Missing,
    /// A string, strings, token ids, or lists of token ids: at least one, and at most [`INPUTS_MAX`].
    Texts(Vec<Text>),
    /// Something else; the text describes it.
    Wrong(String),
}

impl Inputs {
    pub(super) fn missing() -> Inputs {
        Inputs::Missing
    }
}

/// An element of `input`, or all of it.
enum Item {
    Text(String),
    /// All are token ids; `None` if one is none.
    Tokens(Option<Vec<u32>>),
    /// Texts and lists of tokens, or an error message.
    Texts(Result<Vec<Text>, String>),
    Scalar(Scalar),
}

/// Reads an [`Item`]; a list within a list may hold nothing but token ids.
struct ItemVisitor {
    is_inner: bool,
}

impl<'de> serde::de::DeserializeSeed<'de> for ItemVisitor {
    type Value = Item;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input")
    }

    fn visit_unit<E>(self) -> Result<Item, E> {
        Ok(Item::Scalar(Scalar::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Item, E> {
        Ok(Item::Scalar(Scalar::Bool(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Item, E> {
        Ok(Item::Scalar(Scalar::Number(value.into())))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Item, E> {
        Ok(Item::Scalar(Scalar::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Item, E> {
        Ok(Item::Scalar(serde_json::Number::from_f64(value).map_or(Scalar::Null, Scalar::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Item, E> {
        Ok(Item::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Item, E> {
        Ok(Item::Text(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Item, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Item::Scalar(Scalar::Object))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Item, A::Error> {
        let read = |list: &mut A| list.next_element_seed(ItemVisitor { is_inner: true });
        let mut texts = Vec::new();
        let mut wrong = None;
        let mut next = if self.is_inner { None } else { read(&mut list)? };
        if self.is_inner || matches!(next, Some(Item::Scalar(Scalar::Number(_)))) {
            let first = next.map(|first| match first {
                Item::Scalar(Scalar::Number(number)) => token(&number),
                _ => None,
            });
            return Ok(Item::Tokens(tokens(first, list)?));
        }
        while let Some(item) = next {
            match item {
                Item::Text(text) => texts.push(Text::String(text)),
                Item::Tokens(Some(ids)) => texts.push(Text::Tokens(ids)),
                Item::Tokens(None) | Item::Texts(_) => wrong = Some(EXPECTED.to_owned()),
                Item::Scalar(other) => wrong = Some(format!("{EXPECTED}; it holds {other}")),
            }
            if wrong.is_none() && texts.len() == INPUTS_MAX {
                let mut count = texts.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                wrong = (count > INPUTS_MAX).then(|| {
                    format!(
                        "input holds {count} texts, the limit is {INPUTS_MAX}; send them in parts"
                    )
                });
                break;
            }
            if wrong.is_some() {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                break;
            }
            next = read(&mut list)?;
        }
        Ok(Item::Texts(wrong.map_or(Ok(texts), Err)))
    }
}

/// Token ids from a list, after the first one if that was read; `None` if one is none.
fn tokens<'de, A: SeqAccess<'de>>(
    first: Option<Option<u32>>,
    mut list: A,
) -> Result<Option<Vec<u32>>, A::Error> {
    let mut ids = Vec::new();
    let mut next = first;
    loop {
        match next {
            Some(Some(id)) => ids.push(id),
            Some(None) => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            // Nothing has been read yet.
            None => {}
        }
        next = match list.next_element::<Scalar>()? {
            Some(Scalar::Number(number)) => Some(token(&number)),
            Some(_) => Some(None),
            None => return Ok(Some(ids)),
        };
    }
}

fn token(number: &serde_json::Number) -> Option<u32> {
    number.as_u64().and_then(|number| u32::try_from(number).ok())
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Inputs, D::Error> {
        let item = deserializer.deserialize_any(ItemVisitor { is_inner: false })?;
        Ok(match item {
            Item::Text(text) => Inputs::Texts(vec![Text::String(text)]),
            Item::Tokens(Some(ids)) => Inputs::Texts(vec![Text::Tokens(ids)]),
            Item::Tokens(None) => Inputs::Wrong(EXPECTED.to_owned()),
            Item::Texts(Ok(texts)) if texts.is_empty() => {
                Inputs::Wrong("input is an empty list; give at least one text".to_owned())
            }
            Item::Texts(Ok(texts)) => Inputs::Texts(texts),
            Item::Texts(Err(words)) => Inputs::Wrong(words),
            Item::Scalar(Scalar::Null) => Inputs::Missing,
            Item::Scalar(other) => Inputs::Wrong(format!("{EXPECTED}, not {other}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(json: &str) -> Inputs {
        serde_json::from_str(json).expect(json)
    }

    fn wrong(json: &str) -> String {
        match inputs(json) {
            Inputs::Wrong(words) => words,
            other => panic!("{json} is {other:?}"),
        }
    }

    #[test]
    fn inputs_are_strings_tokens_and_lists_of_them() {
        let text = |text: &str| Text::String(text.to_owned());
        assert_eq!(inputs("null"), Inputs::Missing);
        assert_eq!(inputs("\"a\\u0062\""), Inputs::Texts(vec![text("ab")]));
        assert_eq!(inputs("[\"a\", \" \"]"), Inputs::Texts(vec![text("a"), text(" ")]));
        assert_eq!(inputs("[1, 2]"), Inputs::Texts(vec![Text::Tokens(vec![1, 2])]));
        let lists = vec![Text::Tokens(vec![1, 4_294_967_295]), Text::Tokens(vec![]), text("a")];
        assert_eq!(inputs("[[1, 4294967295], [], \"a\"]"), Inputs::Texts(lists));
        assert_eq!(wrong("[]"), "input is an empty list; give at least one text");
        for (json, says) in [
            ("42", "not 42"),
            ("{\"text\": \"x\"}", "not an object"),
            ("true", "not true"),
            ("[\"x\", 3]", "it holds 3"),
            ("[\"x\", null]", "it holds null"),
            ("[\"x\", {\"a\": [1]}]", "it holds an object"),
            ("[1, \"x\"]", "such lists"),
            ("[1, [2]]", "such lists"),
            ("[-1]", "such lists"),
            ("[1.5]", "such lists"),
            ("[4294967296]", "such lists"),
            ("[[1], [\"x\"]]", "such lists"),
            ("[[[1]]]", "such lists"),
        ] {
            let words = wrong(json);
            assert!(
                words.starts_with("input must be a string") && words.ends_with(says),
                "{words}"
            );
        }
    }

    #[test]
    fn too_many_texts_are_counted_and_not_kept() {
        let list = |count: usize| format!("[{}]", vec!["\"x\""; count].join(","));
        assert!(
            matches!(inputs(&list(INPUTS_MAX)), Inputs::Texts(texts) if texts.len() == INPUTS_MAX)
        );
        let words = wrong(&list(INPUTS_MAX + 5));
        assert!(words.starts_with("input holds 2053 texts, the limit is 2048"), "{words}");
    }

    #[test]
    fn values_are_repeated_in_part() {
        let scalar: Scalar =
            serde_json::from_str(&format!("\"{}\"", "x".repeat(200))).expect("text");
        assert_eq!(scalar.to_string(), format!("\"{}\"...", "x".repeat(100)));
        let scalar: Scalar = serde_json::from_str("[1, {\"a\": []}]").expect("a list");
        assert_eq!(scalar, Scalar::List);
    }
}
