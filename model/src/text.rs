//! Text to token numbers and back.

use tokenizers::{
    Encoding, NormalizerWrapper, Tokenizer,
    normalizers::{Lowercase, Sequence},
};

use crate::resolver::{ResolveError, Resolver};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SENTENCE_CONFIG: &str = "sentence_bert_config.json";
const REMEDY: &str = "fetch the file again from where the model came from, or remove it to serve the model by token ids";

/// Longest text in bytes that is always encoded completely. An encoding takes some hundred times the memory of its text.
const WHOLE_MAX: usize = 64 << 10;
/// Most bytes of a longer text that are encoded to find its first tokens, unless the model takes so many tokens that more
/// bytes are needed.
const PART_MAX: usize = 256 << 10;
/// Most bytes that are encoded per token that a model takes.
const BYTES_PER_TOKEN: usize = 16;
/// Tokens at the end of a part that are not used: there it may have other tokens than the whole text.
const MARGIN: usize = 64;

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum TextError {
    #[error("{file} is damaged: {reason}; {REMEDY}")]
    Damaged { file: String, reason: String },
    #[error("{file} asks for {what}, which is not supported")]
    Unsupported { file: String, what: String },
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// Why a text or token numbers cannot be used as input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum EncodeError {
    #[error("the text cannot be tokenized: {reason}")]
    Tokenize { reason: String },
    #[error("there are no tokens")]
    Empty,
    #[error("{got} tokens, the model takes {limit}")]
    TooLong { got: usize, limit: usize },
    #[error(
        "the text has {got} bytes, and its first {part} have fewer tokens than it is to be cut to; shorten it"
    )]
    Sparse { got: usize, part: usize },
    #[error("token {index} is {id}, the vocabulary has {vocabulary}")]
    OutOfVocabulary { index: usize, id: i64, vocabulary: usize },
}

/// Token numbers of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    /// The numbers, special tokens included, at most as many as the model takes.
    pub ids: Vec<u32>,
    /// How many there would be without the limit; more than `ids` has if the text was cut. For a text that was not encoded
    /// completely, the number of the encoded part.
    pub untruncated_len: usize,
    /// Whether the text was encoded completely. Of a text longer than 64 KiB only as much is encoded as the limit needs.
    pub is_whole: bool,
}

impl TokenIds {
    /// Whether the text was longer than the model takes.
    pub fn truncated(&self) -> bool {
        self.untruncated_len > self.ids.len()
    }
}

/// The limits of a model's token numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenLimits {
    /// Most tokens of a text, if the files give it.
    pub length_max: Option<usize>,
    /// Token numbers are below this, if the files give it.
    pub vocabulary: Option<usize>,
}

impl TokenLimits {
    /// Limits of the configuration, with the length that `sentence_bert_config.json` or, without one there, the tokenizer's
    /// configuration may lower.
    pub(crate) fn load(
        resolver: &dyn Resolver,
        positions_max: Option<usize>,
        vocabulary: Option<usize>,
    ) -> Result<TokenLimits, TextError> {
        let sentence = SentenceConfig::read(resolver)?;
        sentence.check()?;
        let shorter = |limit: Option<usize>, other: Option<usize>| match (limit, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let of_tokenizer = match sentence.max_seq_length {
            Some(_) => None,
            None => tokenizer_length(resolver)?,
        };
        let length_max = shorter(positions_max, sentence.max_seq_length.or(of_tokenizer));
        Ok(TokenLimits { length_max, vocabulary })
    }

    /// Checks token numbers that a client sends instead of text.
    ///
    /// # Errors
    /// No token at all, more than the model takes, or one outside the vocabulary.
    pub fn check(&self, ids: &[i64]) -> Result<Vec<u32>, EncodeError> {
        if ids.is_empty() {
            return Err(EncodeError::Empty);
        }
        if let Some(limit) = self.length_max.filter(|&limit| ids.len() > limit) {
            return Err(EncodeError::TooLong { got: ids.len(), limit });
        }
        let vocabulary = self.vocabulary.unwrap_or(i32::MAX as usize);
        ids.iter()
            .enumerate()
            .map(|(index, &id)| {
                u32::try_from(id)
                    .ok()
                    .filter(|&id| (id as usize) < vocabulary)
                    .ok_or(EncodeError::OutOfVocabulary { index, id, vocabulary })
            })
            .collect()
    }
}

/// How sentence-transformers prepares texts.
#[derive(Default, serde::Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
    do_lower_case: Option<bool>,
    transformer_task: Option<String>,
    module_output_name: Option<String>,
}

impl SentenceConfig {
    fn read(resolver: &dyn Resolver) -> Result<SentenceConfig, TextError> {
        if !resolver.exists(SENTENCE_CONFIG) {
            return Ok(SentenceConfig::default());
        }
        serde_json::from_slice(&resolver.read(SENTENCE_CONFIG)?)
            .map_err(|error| damaged(SENTENCE_CONFIG, &error))
    }

    /// Refuses models whose transformer gives something else than vectors of tokens.
    fn check(&self) -> Result<(), TextError> {
        let fields = [
            ("transformer_task", &self.transformer_task, "feature-extraction"),
            ("module_output_name", &self.module_output_name, "token_embeddings"),
        ];
        for (name, got, want) in fields {
            if let Some(got) = got.as_deref().filter(|got| *got != want) {
                let what = format!("{name} {got:?}");
                return Err(TextError::Unsupported { file: SENTENCE_CONFIG.to_owned(), what });
            }
        }
        Ok(())
    }
}

/// The length in the tokenizer's configuration, where a huge number means none.
fn tokenizer_length(resolver: &dyn Resolver) -> Result<Option<usize>, TextError> {
    #[derive(serde::Deserialize)]
    struct TokenizerConfig {
        model_max_length: Option<serde_json::Number>,
    }
    if !resolver.exists(TOKENIZER_CONFIG) {
        return Ok(None);
    }
    let config: TokenizerConfig = serde_json::from_slice(&resolver.read(TOKENIZER_CONFIG)?)
        .map_err(|error| damaged(TOKENIZER_CONFIG, &error))?;
    let length = config.model_max_length.and_then(|number| number.as_u64());
    Ok(length.and_then(|length| usize::try_from(length).ok()).filter(|&length| length > 0))
}

/// A model's tokenizer.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    limits: TokenLimits,
}

impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextEncoder").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl TextEncoder {
    /// From `tokenizer.json`; `None` where there is none.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn load(
        resolver: &dyn Resolver,
        limits: TokenLimits,
    ) -> Result<Option<TextEncoder>, TextError> {
        if !resolver.exists(TOKENIZER) {
            return Ok(None);
        }
        let bytes = resolver.read(TOKENIZER)?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|error| damaged(TOKENIZER, error.as_ref()))?;
        // The caller does both: it must report when a text was cut, and it pads to the batch.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| damaged(TOKENIZER, error.as_ref()))?;
        if SentenceConfig::read(resolver)?.do_lower_case == Some(true) {
            let own = tokenizer.get_normalizer().cloned();
            let first = NormalizerWrapper::Lowercase(Lowercase);
            let both = [Some(first), own].into_iter().flatten().collect();
            tokenizer
                .with_normalizer(Some(Sequence::new(both)))
                .map_err(|error| damaged(TOKENIZER, error.as_ref()))?;
        }
        let limits = TokenLimits {
            vocabulary: limits.vocabulary.or_else(|| Some(tokenizer.get_vocab_size(true))),
            ..limits
        };
        Ok(Some(TextEncoder { tokenizer, limits }))
    }

    /// What token numbers the model takes.
    pub fn limits(&self) -> TokenLimits {
        self.limits
    }

    /// Token numbers of a text, cut to the model's limit. Special tokens at the end are kept.
    ///
    /// # Errors
    /// The tokenizer cannot make tokens of it, or makes tokens that the model does not have.
    pub fn encode(&self, text: &str) -> Result<TokenIds, EncodeError> {
        self.encode_within(text, usize::MAX)
    }

    /// As [`TextEncoder::encode`], cut to `length_max` tokens if that is less than the model's limit. A long text is
    /// encoded only as far as these tokens need.
    ///
    /// # Errors
    /// As [`TextEncoder::encode`]; or a long text whose beginning has so few tokens that more of it would be needed.
    pub fn encode_within(&self, text: &str, length_max: usize) -> Result<TokenIds, EncodeError> {
        let length_max = self.limits.length_max.map_or(length_max, |limit| limit.min(length_max));
        let part_max = PART_MAX.max(length_max.saturating_mul(BYTES_PER_TOKEN));
        let mut size = WHOLE_MAX;
        loop {
            let part = beginning(text, size);
            let encoding = self
                .tokenizer
                .encode_fast(part, true)
                .map_err(|error| EncodeError::Tokenize { reason: error.to_string() })?;
            let is_whole = part.len() == text.len();
            if is_whole || encoding.len() >= length_max.saturating_add(MARGIN) {
                return self.cut(&encoding, length_max, is_whole);
            }
            if size >= part_max {
                return Err(EncodeError::Sparse { got: text.len(), part: part.len() });
            }
            size = size.saturating_mul(2).min(part_max);
        }
    }

    /// How many tokens a text begins with that begins with this prompt: its tokens, without a special one at the end.
    pub(crate) fn prompt_tokens(&self, prompt: &str) -> Result<usize, TextError> {
        let encoding = self.tokenizer.encode_fast(prompt, true);
        let encoding = encoding.map_err(|error| damaged(TOKENIZER, error.as_ref()))?;
        let ends = encoding.get_special_tokens_mask().last() == Some(&1);
        Ok(encoding.len() - usize::from(ends))
    }

    fn cut(
        &self,
        encoding: &Encoding,
        length_max: usize,
        is_whole: bool,
    ) -> Result<TokenIds, EncodeError> {
        let mut ids = encoding.get_ids().to_vec();
        let untruncated_len = ids.len();
        if length_max < untruncated_len {
            let special_end = encoding
                .get_special_tokens_mask()
                .iter()
                .rev()
                .take_while(|&&special| special == 1)
                .count();
            let kept_end = special_end.min(length_max);
            ids.drain(length_max - kept_end..untruncated_len - kept_end);
        }
        if ids.is_empty() {
            return Err(EncodeError::Empty);
        }
        let vocabulary = self.limits.vocabulary.unwrap_or(usize::MAX);
        if let Some(index) = ids.iter().position(|&id| id as usize >= vocabulary) {
            return Err(EncodeError::OutOfVocabulary {
                index,
                id: i64::from(ids[index]),
                vocabulary,
            });
        }
        Ok(TokenIds { ids, untruncated_len, is_whole })
    }

    /// The text of token numbers, without special tokens.
    ///
    /// # Errors
    /// The tokenizer has no text for them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EncodeError> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|error| EncodeError::Tokenize { reason: error.to_string() })
    }
}

/// The beginning of a text, at most `size` bytes, up to a space if there is one; the whole text if it is not longer.
fn beginning(text: &str, size: usize) -> &str {
    if text.len() <= size {
        return text;
    }
    let part = &text[..text.floor_char_boundary(size)];
    match part.rfind(char::is_whitespace) {
        Some(space) if space > 0 => &part[..space],
        Some(_) | None => part,
    }
}

pub(crate) fn damaged(file: &str, reason: &dyn std::fmt::Display) -> TextError {
    TextError::Damaged { file: file.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_numbers_from_clients_are_checked() {
        let limits = TokenLimits { length_max: Some(3), vocabulary: Some(10) };
        assert_eq!(limits.check(&[0, 9]), Ok(vec![0, 9]));
        assert_eq!(limits.check(&[]), Err(EncodeError::Empty));
        assert_eq!(limits.check(&[1; 4]), Err(EncodeError::TooLong { got: 4, limit: 3 }));
        assert_eq!(
            limits.check(&[1, -1]),
            Err(EncodeError::OutOfVocabulary { index: 1, id: -1, vocabulary: 10 })
        );
        assert_eq!(
            limits.check(&[10]),
            Err(EncodeError::OutOfVocabulary { index: 0, id: 10, vocabulary: 10 })
        );
    }
}
