//! Which tokens see which, and where they are.

use super::graph::{Graph, Value};

/// ONNX's numbers of element types. Source: ONNX, `TensorProto.DataType`.
pub(super) const FLOAT: i64 = 1;
const INT64: i64 = 7;

/// The keys that a query sees, apart from padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// All of them.
    Whole,
    /// Those up to its own position.
    Causal,
    /// Those at most so far away.
    Near(usize),
    /// Those up to its own position, less than so far away.
    CausalNear(usize),
}

/// The inputs of an encoder.
pub(super) struct Tokens {
    /// `[B, S]`, I64.
    pub(super) ids: Value,
    /// `[B, S]`, F32: 1 for a token and 0 for padding.
    pub(super) mask: Value,
    /// `[1]`, I64: how many there are, `S`.
    length: Value,
    /// `[S]`, I64: 0, 1, .., once something needs them.
    range: Option<Value>,
    /// The same as `[1, S]`, F32.
    places: Option<Value>,
}

impl Tokens {
    /// Declares `input_ids` and `attention_mask`.
    pub(super) fn declare(graph: &mut Graph) -> Tokens {
        let ids = graph.tokens("input_ids");
        let mask = graph.tokens("attention_mask");
        let mask = graph.cast("mask", &mask, FLOAT);
        Tokens::of(graph, ids, mask)
    }

    /// Of the inputs of a file; without a mask, all tokens count.
    pub(super) fn of_file(graph: &mut Graph, has_mask: bool) -> Tokens {
        let ids = "input_ids".to_owned();
        let mask = if has_mask {
            graph.cast("mask", "attention_mask", FLOAT)
        } else {
            let is_same = graph.node("mask.is_token", "Equal", &[&ids, &ids], &[]);
            graph.cast("mask", &is_same, FLOAT)
        };
        Tokens::of(graph, ids, mask)
    }

    fn of(graph: &mut Graph, ids: Value, mask: Value) -> Tokens {
        let shape = graph.node("length.shape", "Shape", &[&ids], &[]);
        let ends = [("length.start", 1), ("length.end", 2)];
        let [start, end] = ends.map(|(name, at)| graph.integers(name, &[at]));
        let length = graph.slice("length", &shape, [&start, &end], 0);
        Tokens { ids, mask, length, range: None, places: None }
    }

    /// `[1, S]`, F32: 0, 1, ..
    pub(super) fn places(&mut self, graph: &mut Graph) -> Value {
        if let Some(places) = &self.places {
            return places.clone();
        }
        let places = self.range(graph);
        let places = graph.cast("places.numbers", &places, FLOAT);
        let places = graph.unsqueeze("places.row", &places, &[0]);
        self.places = Some(places.clone());
        places
    }

    /// `[S]`, I64: 0, 1, ..
    fn range(&mut self, graph: &mut Graph) -> Value {
        if let Some(range) = &self.range {
            return range.clone();
        }
        let end = graph.squeeze("places.end", &self.length, &[0]);
        let [start, step] = [("places.start", 0), ("places.step", 1)]
            .map(|(name, number)| graph.integer(name, number));
        let range = graph.node("places", "Range", &[&start, &end, &step], &[]);
        self.range = Some(range.clone());
        range
    }

    /// `[S, S]`, I64: how far a key, in the columns, is behind a query, in the rows; with `first` added.
    pub(super) fn distances(&mut self, graph: &mut Graph, first: i64) -> Value {
        let places = self.range(graph);
        let keys = graph.unsqueeze("distances.keys", &places, &[0]);
        let queries = graph.unsqueeze("distances.queries", &places, &[1]);
        let distances = graph.node("distances", "Sub", &[&keys, &queries], &[]);
        let first = graph.integer("distances.first", first);
        graph.node("distances.counted", "Add", &[&distances, &first], &[])
    }

    /// The numbers that hide keys when they are added to scores, which broadcast to `[B, heads, S, S]`. They are finite, so
    /// that a query that sees nothing has a result, which nothing uses.
    pub(super) fn hiding(&mut self, graph: &mut Graph, name: &str, sight: Sight) -> Value {
        let Some(seen) = self.seen(graph, name, sight) else {
            let minus = graph.with_number(&format!("{name}.minus_one"), "Sub", &self.mask, 1.0);
            let hiding = graph.with_number(&format!("{name}.numbers"), "Mul", &minus, f32::MAX);
            return graph.unsqueeze(name, &hiding, &[1, 2]);
        };
        let tokens = graph.unsqueeze(&format!("{name}.tokens"), &self.mask, &[1, 2]);
        let open = graph.node(&format!("{name}.open"), "Mul", &[&tokens, &seen], &[]);
        let minus = graph.with_number(&format!("{name}.minus_one"), "Sub", &open, 1.0);
        graph.with_number(name, "Mul", &minus, f32::MAX)
    }

    /// `[S, S]`, F32: 1 for a key that a query sees and 0 for another one. None if every key is seen.
    fn seen(&mut self, graph: &mut Graph, name: &str, sight: Sight) -> Option<Value> {
        if sight == Sight::Whole {
            return None;
        }
        let places = self.range(graph);
        let places = graph.cast(&format!("{name}.places"), &places, FLOAT);
        let keys = graph.unsqueeze(&format!("{name}.keys"), &places, &[0]);
        let queries = graph.unsqueeze(&format!("{name}.queries"), &places, &[1]);
        let behind = graph.node(&format!("{name}.behind"), "Sub", &[&keys, &queries], &[]);
        let mut rule = |rule: &str, x: &str, op: &str, number: f32| {
            graph.with_number(&format!("{name}.{rule}"), op, x, number)
        };
        let seen = match sight {
            Sight::Whole => return None,
            Sight::Causal => rule("causal", &behind, "LessOrEqual", 0.0),
            Sight::Near(most) => {
                let far = rule("near", &behind, "LessOrEqual", most as f32);
                let behind = rule("far", &behind, "GreaterOrEqual", -(most as f32));
                graph.node(&format!("{name}.seen"), "And", &[&far, &behind], &[])
            }
            Sight::CausalNear(window) => {
                let causal = rule("causal", &behind, "LessOrEqual", 0.0);
                let near = rule("near", &behind, "Greater", -(window as f32));
                graph.node(&format!("{name}.seen"), "And", &[&causal, &near], &[])
            }
        };
        Some(graph.cast(&format!("{name}.seen.numbers"), &seen, FLOAT))
    }

    /// Positions as RoBERTa counts them, `[B, S]`, I64: tokens that are not padding from `padding + 1` on, and `padding` for
    /// those that are.
    pub(super) fn counted_positions(&self, graph: &mut Graph, padding: i64) -> Value {
        let padding = graph.integer("positions.padding", padding);
        let is_padding = graph.node("positions.is_padding", "Equal", &[&self.ids, &padding], &[]);
        let counts = graph.node("positions.is_token", "Not", &[&is_padding], &[]);
        let counts = graph.cast("positions.counts", &counts, INT64);
        let axis = graph.integer("positions.axis", 1);
        let sum = graph.node("positions.sum", "CumSum", &[&counts, &axis], &[]);
        let sum = graph.node("positions.of_tokens", "Mul", &[&sum, &counts], &[]);
        graph.node("positions", "Add", &[&sum, &padding], &[])
    }

    /// The first rows of a table `[rows, width]`: those of the positions 0, 1, ..
    pub(super) fn first_rows(&self, graph: &mut Graph, name: &str, table: &str) -> Value {
        let start = graph.integers(&format!("{name}.start"), &[0]);
        graph.slice(name, table, [&start, &self.length], 0)
    }
}
