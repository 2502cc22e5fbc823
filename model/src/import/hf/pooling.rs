//! Pooling: one vector of the vectors of a text's tokens.
//! Source: Reimers and Gurevych, "Sentence-BERT", 3; what the modes compute is as in sentence-transformers' `Pooling`.

use super::{
    Graph, HfError,
    config::Config,
    graph::{Attribute, Value, Wired},
    masks::{FLOAT, Tokens},
};

/// Prevents a division by zero for a text without tokens, as in sentence-transformers.
const COUNT_MIN: f32 = 1e-9;
/// The number of masked tokens before a maximum.
const MASKED_OUT: f32 = -1e9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Cls,
    Max,
    Mean,
    MeanBySqrtLength,
    WeightedMean,
    LastToken,
}

impl Mode {
    /// With the name of its field in older files and its name in newer ones, in the order in which several are joined.
    const ALL: [(&str, &str, Mode); 6] = [
        ("pooling_mode_cls_token", "cls", Mode::Cls),
        ("pooling_mode_max_tokens", "max", Mode::Max),
        ("pooling_mode_mean_tokens", "mean", Mode::Mean),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Mode::MeanBySqrtLength),
        ("pooling_mode_weightedmean_tokens", "weightedmean", Mode::WeightedMean),
        ("pooling_mode_lasttoken", "lasttoken", Mode::LastToken),
    ];

    fn of(name: &str) -> Option<Mode> {
        let found = Mode::ALL.iter().find(|(_, newer, _)| *newer == name);
        found.map(|(_, _, mode)| *mode)
    }
}

/// How a text's vector is computed from its tokens' vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pooling {
    /// Their results are joined.
    modes: Vec<Mode>,
    includes_prompt: bool,
}

impl Pooling {
    /// From the module's `config.json`.
    pub(super) fn of(config: &Config) -> Result<Pooling, HfError> {
        config
            .only("include_prompt", true)
            .map_or_else(|_| config.only("include_prompt", false), Ok)?;
        let includes_prompt = config.get("include_prompt").is_none_or(|include| include == true);
        let known = |name: &serde_json::Value| {
            let mode = name.as_str().and_then(Mode::of);
            mode.ok_or_else(|| config.unsupported(format!("pooling_mode {name}")))
        };
        let modes = match config.get("pooling_mode") {
            Some(serde_json::Value::Array(names)) => {
                names.iter().map(known).collect::<Result<Vec<Mode>, _>>()?
            }
            Some(name) => vec![known(name)?],
            None => older(config)?,
        };
        if modes.is_empty() || modes.len() > Mode::ALL.len() {
            return Err(config.unsupported(format!("{} poolings at once", modes.len())));
        }
        Ok(Pooling { modes, includes_prompt })
    }

    /// How many vectors of the encoder's width are joined.
    pub(super) fn parts(&self) -> usize {
        self.modes.len()
    }

    /// Whether the prompt's tokens count.
    pub(super) fn includes_prompt(&self) -> bool {
        self.includes_prompt
    }

    /// From the hidden state `[B, S, width]` to `[B, parts * width]`. The first `prompt` tokens are those of the prompt.
    pub(super) fn wire(
        &self,
        graph: &mut Graph,
        hidden: &str,
        tokens: &mut Tokens,
        prompt: usize,
    ) -> Wired {
        let excluded = if self.includes_prompt { 0 } else { prompt };
        let mask = if excluded > 0 {
            let places = tokens.places(graph);
            let last = excluded as f32 - 1.0;
            let behind = graph.with_number("pooling.behind", "Greater", &places, last);
            let behind = graph.cast("pooling.behind.numbers", &behind, FLOAT);
            graph.node("pooling.mask", "Mul", &[&tokens.mask, &behind], &[])
        } else {
            tokens.mask.clone()
        };
        let mut pool = Pool { graph, hidden, mask, columns: None, tokens };
        let pooled = self.modes.iter().enumerate().map(|(index, mode)| {
            let name = format!("pooling.{index}");
            match mode {
                Mode::Cls if excluded > 0 => Err(HfError::Unsupported {
                    file: super::modules::FILE.to_owned(),
                    what: "the first token behind a prompt as the text's vector".to_owned(),
                }),
                Mode::Cls => Ok(pool.first(&name)),
                Mode::Max => Ok(pool.largest(&name)),
                Mode::Mean => Ok(pool.mean(&name, false)),
                Mode::MeanBySqrtLength => Ok(pool.mean(&name, true)),
                Mode::WeightedMean => Ok(pool.weighted(&name)),
                Mode::LastToken => Ok(pool.last(&name)),
            }
        });
        let pooled = pooled.collect::<Result<Vec<Value>, HfError>>()?;
        let pooled: Vec<&str> = pooled.iter().map(String::as_str).collect();
        let joined = match pooled.as_slice() {
            [only] => (*only).to_owned(),
            several => {
                graph.node("pooling.joined", "Concat", several, &[Attribute::Int("axis", 2)])
            }
        };
        Ok(graph.squeeze("pooling.vector", &joined, &[1]))
    }
}

/// A mode from the flags of older files; the mean if no flag is set, as in the library.
fn older(config: &Config) -> Result<Vec<Mode>, HfError> {
    let mut modes = Vec::new();
    for (field, _, mode) in Mode::ALL {
        match config.get(field) {
            None | Some(serde_json::Value::Bool(false)) => {}
            Some(serde_json::Value::Bool(true)) => modes.push(mode),
            Some(other) => return Err(config.unsupported(format!("{field} {other}"))),
        }
    }
    if modes.is_empty() {
        modes.push(Mode::Mean);
    }
    Ok(modes)
}

/// What the modes share. Their results are `[B, 1, width]`.
struct Pool<'a> {
    graph: &'a mut Graph,
    hidden: &'a str,
    /// `[B, S]`, F32: 1 for tokens that count.
    mask: Value,
    /// The same as `[B, S, 1]`, once something needs it.
    columns: Option<Value>,
    tokens: &'a mut Tokens,
}

impl Pool<'_> {
    fn columns(&mut self) -> Value {
        if let Some(columns) = &self.columns {
            return columns.clone();
        }
        let columns = self.graph.unsqueeze("pooling.columns", &self.mask, &[2]);
        self.columns = Some(columns.clone());
        columns
    }

    fn first(&mut self, name: &str) -> Value {
        let ends = [("start", 0), ("end", 1)];
        let [start, end] =
            ends.map(|(end, at)| self.graph.integers(&format!("{name}.{end}"), &[at]));
        self.graph.slice(&format!("{name}.first"), self.hidden, [&start, &end], 1)
    }

    /// `h * mask + (1 - mask) * MASKED_OUT` is `h` for a token that counts.
    fn largest(&mut self, name: &str) -> Value {
        let mask = self.columns();
        let Pool { graph, hidden, .. } = self;
        let counted = graph.node(&format!("{name}.counted"), "Mul", &[hidden, &mask], &[]);
        let minus = graph.with_number(&format!("{name}.minus_one"), "Sub", &mask, 1.0);
        let out = graph.with_number(&format!("{name}.out"), "Mul", &minus, -MASKED_OUT);
        let masked = graph.node(&format!("{name}.masked"), "Add", &[&counted, &out], &[]);
        graph.largest(&format!("{name}.max"), &masked, 1)
    }

    fn mean(&mut self, name: &str, by_root: bool) -> Value {
        let mask = self.columns();
        let (sum, count) = self.sums(name, &mask);
        let graph = &mut self.graph;
        let divisor = if by_root {
            graph.node(&format!("{name}.root"), "Sqrt", &[&count], &[])
        } else {
            count
        };
        graph.node(&format!("{name}.mean"), "Div", &[&sum, &divisor], &[])
    }

    /// The mean with weights 1, 2, .., of which later tokens have the larger ones.
    fn weighted(&mut self, name: &str) -> Value {
        let places = self.tokens.places(self.graph);
        let graph = &mut self.graph;
        let weights = graph.with_number(&format!("{name}.places"), "Add", &places, 1.0);
        let weights = graph.node(&format!("{name}.weights"), "Mul", &[&weights, &self.mask], &[]);
        let weights = graph.unsqueeze(&format!("{name}.columns"), &weights, &[2]);
        let (sum, count) = self.sums(name, &weights);
        self.graph.node(&format!("{name}.mean"), "Div", &[&sum, &count], &[])
    }

    /// The sum of weighted vectors and that of the weights.
    fn sums(&mut self, name: &str, weights: &str) -> (Value, Value) {
        let Pool { graph, hidden, .. } = self;
        let counted = graph.node(&format!("{name}.counted"), "Mul", &[hidden, weights], &[]);
        let sum = graph.sum(&format!("{name}.sum"), &counted, 1);
        let count = graph.sum(&format!("{name}.count"), weights, 1);
        let count = graph.with_number(&format!("{name}.count_min"), "Max", &count, COUNT_MIN);
        (sum, count)
    }

    /// The vector of the last token that counts, as a product with a row that is 1 there.
    fn last(&mut self, name: &str) -> Value {
        let places = self.tokens.places(self.graph);
        let Pool { graph, hidden, mask, .. } = self;
        let counted = graph.node(&format!("{name}.places"), "Mul", &[&places, mask], &[]);
        let last = graph.largest(&format!("{name}.last"), &counted, 1);
        let is_last = graph.node(&format!("{name}.is_last"), "Equal", &[&places, &last], &[]);
        let is_last = graph.cast(&format!("{name}.is_last.numbers"), &is_last, FLOAT);
        let row = graph.node(&format!("{name}.row"), "Mul", &[&is_last, mask], &[]);
        let row = graph.unsqueeze(&format!("{name}.rows"), &row, &[1]);
        graph.node(&format!("{name}.token"), "MatMul", &[&row, hidden], &[])
    }
}
