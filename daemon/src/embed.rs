//! Texts to embeddings: tokenize, run in the pool, collect.

use std::sync::Arc;

use flotilla_model::{prompts::PromptError, text::EncodeError};
use flotilla_program::{Port, Program};

use crate::{
    batch::{single_row, takes_tokens},
    catalog::Model,
    pool::{Answer, AnswerError, Input, Pool, Provenance, Terms},
};

/// Requests whose texts are tokenized at once; the others wait.
static TOKENIZING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(2);

/// Something to embed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Text, to be tokenized.
    String(String),
    /// Token ids, special tokens included.
    Tokens(Vec<u32>),
}

/// An embedding and how it came about.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// The vector.
    pub values: Vec<f32>,
    /// Tokens of the input, special tokens included.
    pub tokens: usize,
    /// The browser and run that computed it.
    pub provenance: Arc<Provenance>,
}

/// Why there is no embedding.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum EmbedError {
    #[error("input {index} is empty; give it at least one {unit}")]
    Empty { index: usize, unit: &'static str },
    #[error(
        "input {index} has {}{got} tokens, model {model} takes at most {limit}; shorten it, or let it be cut with \
         truncate_prompt_tokens", if *is_whole { "" } else { "more than " }
    )]
    TooLong { index: usize, got: usize, is_whole: bool, limit: usize, model: String },
    #[error("input {index} holds token {token}, the vocabulary of model {model} ends at {limit}")]
    Token { index: usize, token: u32, limit: u32, model: String },
    #[error(
        "model {model} has no tokenizer.json, so it takes token ids only; add that file to its folder to send text"
    )]
    NoTokenizer { model: String },
    #[error("model {model} does not give embeddings of texts: {reason}")]
    NotText { model: String, reason: String },
    #[error("input {index} is too long: {source}")]
    Sparse { index: usize, source: EncodeError },
    #[error("input {index} cannot be tokenized: {source}")]
    Tokenizer { index: usize, source: EncodeError },
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("model {model}: {source}")]
    Prompt { model: String, source: PromptError },
    #[error("results of model {model} are not an embedding")]
    Output { model: String },
}

/// How texts become tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Shortens inputs to so many tokens, at most what the model takes; without it an input that is too long is an error.
    pub cut: Option<usize>,
    /// The name of the prompt that is put before texts; the model's default one without. Token ids are taken as they are.
    pub prompt: Option<String>,
}

/// Embeds texts, in order.
///
/// # Errors
/// The first input that cannot be embedded; the others are cancelled.
pub async fn embed(
    pool: &Pool,
    model: &Arc<Model>,
    texts: Vec<Text>,
    preparation: Preparation,
    terms: impl Into<Terms>,
) -> Result<Vec<Embedding>, EmbedError> {
    let rows = tokenize(model, texts, preparation).await?;
    run(pool, model, rows, terms.into()).await
}

/// Token ids of texts, in order and checked.
///
/// # Errors
/// The model does not embed texts or has no such prompt, or the first input that cannot be embedded.
pub async fn tokenize(
    model: &Arc<Model>,
    texts: Vec<Text>,
    preparation: Preparation,
) -> Result<Vec<Vec<u32>>, EmbedError> {
    output(model)?;
    let Preparation { cut, prompt } = preparation;
    let prompt = model.prompts.text(prompt.as_deref());
    let prompt =
        prompt.map_err(|source| EmbedError::Prompt { model: model.name.clone(), source })?;
    let prompt = prompt.to_owned();
    // An encoding takes about a hundred times the memory of its text, so few are made at once.
    let _turn = TOKENIZING.acquire().await.map_err(|_| AnswerError::PoolEnded)?;
    // Megabytes of text take seconds, and the threads that carry heartbeats must not wait for them.
    let tokenizing = {
        let model = model.clone();
        tokio::task::spawn_blocking(move || {
            let texts = texts.into_iter().enumerate();
            let tokens = texts.map(|(index, text)| tokens(&model, index, text, &prompt, cut));
            tokens.collect::<Result<_, _>>()
        })
    };
    tokenizing.await.map_err(|_| AnswerError::PoolEnded)?
}

/// Embeds rows of token ids, in order.
///
/// # Errors
/// The first row that has no embedding; the others are cancelled, unless they are recorded.
pub async fn run(
    pool: &Pool,
    model: &Arc<Model>,
    rows: Vec<Vec<u32>>,
    terms: Terms,
) -> Result<Vec<Embedding>, EmbedError> {
    let counts: Vec<usize> = rows.iter().map(Vec::len).collect();
    let inputs = rows.into_iter().map(Input::Tokens).collect();
    let answers = pool.run_all(model.id, inputs, terms).await?;
    answers
        .into_iter()
        .zip(counts)
        .map(|(answer, tokens)| embedding(model, &answer, tokens))
        .collect()
}

/// Takes the embedding out of an answer.
///
/// # Errors
/// The answer holds none.
pub fn embedding(
    model: &Arc<Model>,
    answer: &Answer,
    tokens: usize,
) -> Result<Embedding, EmbedError> {
    let values = single_row(answer.outputs.get(output(model)?))
        .ok_or_else(|| EmbedError::Output { model: model.name.clone() })?;
    Ok(Embedding { values, tokens, provenance: answer.provenance.clone() })
}

/// Which of a model's outputs is the embedding.
fn output(model: &Model) -> Result<usize, EmbedError> {
    let program = &model.program;
    let reason = match model.embedding_output {
        Some(output) if takes_tokens(program) => return Ok(output),
        Some(_) => format!(
            "texts are token ids, input_ids and the like of I64 or I32[batch, sequence], and its inputs are {}",
            ports(program, &program.inputs)
        ),
        None => format!(
            "none of its outputs is known to be a vector [batch, size] for each text; they are {}{}",
            ports(program, &program.outputs),
            if has_token_vectors(program) {
                "; of vectors of tokens one is made as modules.json or 1_Pooling/config.json says, so add these files of \
                 sentence-transformers to its folder"
            } else {
                ""
            }
        ),
    };
    Err(EmbedError::NotText { model: model.name.clone(), reason })
}

/// Whether an output may hold a vector for each token.
fn has_token_vectors(program: &Program) -> bool {
    program
        .outputs
        .iter()
        .any(|port| port.dtype.is_float() && program.value(port.value).shape.len() == 3)
}

/// The first inputs or outputs of a program, with types and shapes.
fn ports(program: &Program, ports: &[Port]) -> String {
    const SHOWN_MAX: usize = 4;
    let shown = ports.iter().take(SHOWN_MAX).map(|port| {
        let dims = program.value(port.value).shape.iter().map(|dim| program.dim_text(dim));
        let dims: Vec<String> = dims.collect();
        format!("{} {:?}[{}]", port.name, port.dtype, dims.join(", "))
    });
    let mut words: Vec<String> = shown.collect();
    if ports.len() > SHOWN_MAX {
        words.push(format!("{} more", ports.len() - SHOWN_MAX));
    }
    words.join(", ")
}

/// Token ids of an input, checked.
fn tokens(
    model: &Model,
    index: usize,
    text: Text,
    prompt: &str,
    cut: Option<usize>,
) -> Result<Vec<u32>, EmbedError> {
    let limit = model.tokens_max;
    let requested = cut.map(|cut| cut.min(limit));
    let (ids, got, is_whole) = match text {
        Text::String(text) if text.is_empty() => {
            return Err(EmbedError::Empty { index, unit: "character" });
        }
        Text::Tokens(ids) if ids.is_empty() => {
            return Err(EmbedError::Empty { index, unit: "token" });
        }
        Text::String(text) => {
            let encoder = model
                .text
                .as_ref()
                .ok_or_else(|| EmbedError::NoTokenizer { model: model.name.clone() })?;
            let text = format!("{prompt}{text}");
            let encoded =
                encoder.encode_within(&text, requested.unwrap_or(limit)).map_err(|source| {
                    match source {
                        EncodeError::Empty => EmbedError::Empty { index, unit: "token" },
                        EncodeError::Sparse { .. } => EmbedError::Sparse { index, source },
                        EncodeError::Tokenize { .. }
                        | EncodeError::TooLong { .. }
                        | EncodeError::OutOfVocabulary { .. } => {
                            EmbedError::Tokenizer { index, source }
                        }
                    }
                })?;
            (encoded.ids, encoded.untruncated_len, encoded.is_whole)
        }
        Text::Tokens(mut ids) => {
            let got = ids.len();
            ids.truncate(requested.unwrap_or(got));
            (ids, got, true)
        }
    };
    if requested.is_none() && got > limit {
        return Err(EmbedError::TooLong { index, got, is_whole, limit, model: model.name.clone() });
    }
    if let Some(vocabulary) = model.vocabulary
        && let Some(&token) = ids.iter().find(|&&token| token >= vocabulary)
    {
        return Err(EmbedError::Token {
            index,
            token,
            limit: vocabulary,
            model: model.name.clone(),
        });
    }
    Ok(ids)
}

/// Cosine of the angle between two vectors of the same length; 0 where one is all zeros.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
    };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms == 0.0 { 0.0 } else { dot(a, b) / norms }
}
