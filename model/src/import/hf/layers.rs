//! Layers that several architectures have.

use super::{
    HfError,
    config::Activation,
    graph::{Attribute, Graph, Value, Wired},
};

/// Names of the scale and the shift of a normalization in files that were made with TensorFlow.
const TENSORFLOW: [&str; 2] = ["gamma", "beta"];

/// How many heads there are, and how many features each has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) count: usize,
    /// Heads of keys and values; neighbouring heads of queries share one.
    /// Source: Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", 2.2.
    pub(super) shared: usize,
    pub(super) dim: usize,
}

impl Heads {
    /// As many heads of keys as of queries.
    pub(super) fn of(count: usize, dim: usize) -> Heads {
        Heads { count, shared: count, dim }
    }

    /// Features of all heads of queries.
    pub(super) fn width(self) -> usize {
        self.count * self.dim
    }

    /// Features of all heads of keys.
    pub(super) fn shared_width(self) -> usize {
        self.shared * self.dim
    }

    /// The factor of the products of queries and keys. Source: Vaswani et al., "Attention Is All You Need", 3.2.1.
    pub(super) fn scale(self) -> f32 {
        (self.dim as f32).sqrt().recip()
    }
}

impl Graph {
    /// `x @ weight^T + bias` on `[.., from]`.
    pub(super) fn linear(&mut self, name: &str, x: &str, from: usize, to: usize) -> Wired {
        self.linear_if(name, x, [from, to], true)
    }

    /// As [`Graph::linear`], with or without a bias.
    pub(super) fn linear_if(
        &mut self,
        name: &str,
        x: &str,
        [from, to]: [usize; 2],
        has_bias: bool,
    ) -> Wired {
        let weight = self.weight(&format!("{name}.weight"), &[to, from])?;
        let turned = [Attribute::Ints("perm", &[1, 0])];
        let weight = self.node(&format!("{name}.columns"), "Transpose", &[&weight], &turned);
        if !has_bias {
            return Ok(self.node(name, "MatMul", &[x, &weight], &[]));
        }
        let product = self.node(&format!("{name}.product"), "MatMul", &[x, &weight], &[]);
        let bias = self.weight(&format!("{name}.bias"), &[to])?;
        Ok(self.node(name, "Add", &[&product, &bias], &[]))
    }

    /// Several layers whose weights are below one another in one matrix, `[from, to]` for all of them together; `parts` are
    /// their names and sizes. Each part becomes a product of its own, so that no result has to be divided.
    pub(super) fn linear_parts(
        &mut self,
        name: &str,
        x: &str,
        [from, to]: [usize; 2],
        has_bias: bool,
        parts: &[(&str, usize)],
    ) -> Result<Vec<Value>, HfError> {
        let weight = self.weight(&format!("{name}.weight"), &[to, from])?;
        let bias = if has_bias { Some(self.weight(&format!("{name}.bias"), &[to])?) } else { None };
        let mut results = Vec::new();
        let mut begin = 0;
        for &(part, size) in parts {
            let name = format!("{name}.{part}");
            let ends = [("start", begin), ("end", begin + size)];
            let ends = ends.map(|(end, at)| self.integers(&format!("{name}.{end}"), &[at as i64]));
            let rows = self.slice(&format!("{name}.rows"), &weight, [&ends[0], &ends[1]], 0);
            let turned = [Attribute::Ints("perm", &[1, 0])];
            let columns = self.node(&format!("{name}.columns"), "Transpose", &[&rows], &turned);
            let mut y = self.node(&format!("{name}.product"), "MatMul", &[x, &columns], &[]);
            if let Some(bias) = &bias {
                let bias = self.slice(&format!("{name}.bias"), bias, [&ends[0], &ends[1]], 0);
                y = self.node(&name, "Add", &[&y, &bias], &[]);
            }
            results.push(y);
            begin += size;
        }
        Ok(results)
    }

    /// Over the last dimension.
    pub(super) fn layer_norm(&mut self, name: &str, x: &str, width: usize, epsilon: f32) -> Wired {
        self.layer_norm_if(name, x, width, epsilon, true)
    }

    /// As [`Graph::layer_norm`], with or without a bias.
    pub(super) fn layer_norm_if(
        &mut self,
        name: &str,
        x: &str,
        width: usize,
        epsilon: f32,
        has_bias: bool,
    ) -> Wired {
        let [gamma, beta] = TENSORFLOW;
        let scale = self.tensors().either(name, "weight", gamma)?;
        let scale = self.weight(&scale, &[width])?;
        let mut operands = vec![scale];
        if has_bias {
            let shift = self.tensors().either(name, "bias", beta)?;
            operands.push(self.weight(&shift, &[width])?);
        }
        if self.has_opset(17) {
            let operands: Vec<&str> =
                [x].into_iter().chain(operands.iter().map(String::as_str)).collect();
            let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", epsilon)];
            return Ok(self.node(name, "LayerNormalization", &operands, &attributes));
        }
        // Source: Ba et al., "Layer Normalization", eq. 3.
        let mean = self.mean(&format!("{name}.mean"), x, -1);
        let deviation = self.node(&format!("{name}.deviation"), "Sub", &[x, &mean], &[]);
        let square = self.node(&format!("{name}.square"), "Mul", &[&deviation, &deviation], &[]);
        let variance = self.mean(&format!("{name}.variance"), &square, -1);
        let sum = self.with_number(&format!("{name}.sum"), "Add", &variance, epsilon);
        let root = self.node(&format!("{name}.root"), "Sqrt", &[&sum], &[]);
        let unit = self.node(&format!("{name}.unit"), "Div", &[&deviation, &root], &[]);
        let scaled = self.node(&format!("{name}.scaled"), "Mul", &[&unit, &operands[0]], &[]);
        Ok(match operands.get(1) {
            Some(shift) => self.node(name, "Add", &[&scaled, shift], &[]),
            None => scaled,
        })
    }

    /// Over the last dimension; `offset` is added to the scale.
    pub(super) fn rms_norm(
        &mut self,
        name: &str,
        x: &str,
        width: usize,
        epsilon: f32,
        offset: f32,
    ) -> Wired {
        let mut scale = self.weight(&format!("{name}.weight"), &[width])?;
        if offset != 0.0 {
            scale = self.with_number(&format!("{name}.scale"), "Add", &scale, offset);
        }
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", epsilon)];
        Ok(self.node(name, "RMSNormalization", &[x, &scale], &attributes))
    }

    /// As [`Graph::rms_norm`], over the features of each head of `[B, S, heads * dim]`.
    pub(super) fn rms_norm_of_heads(
        &mut self,
        name: &str,
        x: &str,
        [heads, dim]: [usize; 2],
        epsilon: f32,
        offset: f32,
    ) -> Wired {
        let split = self.reshape(&format!("{name}.heads"), x, &[0, 0, heads as i64, dim as i64]);
        let normed = self.rms_norm(name, &split, dim, epsilon, offset)?;
        Ok(self.reshape(&format!("{name}.joined"), &normed, &[0, 0, (heads * dim) as i64]))
    }

    /// A function of single elements.
    pub(super) fn activation(&mut self, name: &str, x: &str, activation: Activation) -> Value {
        match activation {
            Activation::Identity => x.to_owned(),
            Activation::Relu => self.node(name, "Relu", &[x], &[]),
            Activation::Sigmoid => self.node(name, "Sigmoid", &[x], &[]),
            Activation::Tanh => self.node(name, "Tanh", &[x], &[]),
            Activation::Silu => {
                let gate = self.node(&format!("{name}.gate"), "Sigmoid", &[x], &[]);
                self.node(name, "Mul", &[x, &gate], &[])
            }
            Activation::Gelu if !self.has_opset(20) => {
                let root = std::f32::consts::SQRT_2;
                let scaled = self.with_number(&format!("{name}.scaled"), "Div", x, root);
                let erf = self.node(&format!("{name}.erf"), "Erf", &[&scaled], &[]);
                let sum = self.with_number(&format!("{name}.sum"), "Add", &erf, 1.0);
                let product = self.node(&format!("{name}.product"), "Mul", &[x, &sum], &[]);
                self.with_number(name, "Mul", &product, 0.5)
            }
            Activation::Gelu => self.node(name, "Gelu", &[x], &[]),
            Activation::GeluTanh => {
                self.node(name, "Gelu", &[x], &[Attribute::Text("approximate", "tanh")])
            }
        }
    }

    /// `softmax(scale * q k^T + mask) v` per head, on packed heads: `[B, S, heads * dim]` in and out. The mask is added; it
    /// broadcasts to `[B, heads, S, S]`.
    pub(super) fn attention(
        &mut self,
        name: &str,
        [query, key, value]: [&str; 3],
        heads: Heads,
        scale: f32,
        mask: &str,
    ) -> Value {
        let Heads { count, shared, dim } = heads;
        let mut split = |part: &str, packed: &str, count: usize, order: &[i64]| {
            let dims = [0, 0, count as i64, dim as i64];
            let split = self.reshape(&format!("{name}.{part}.heads"), packed, &dims);
            let order = [Attribute::Ints("perm", order)];
            self.node(&format!("{name}.{part}.turned"), "Transpose", &[&split], &order)
        };
        let query = split("query", query, count, &[0, 2, 1, 3]);
        let key = split("key", key, shared, &[0, 2, 3, 1]);
        let value = split("value", value, shared, &[0, 2, 1, 3]);
        let grouped = count != shared;
        // Queries of heads that share one of keys are rows of one product.
        let query = if grouped {
            self.reshape(
                &format!("{name}.query.grouped"),
                &query,
                &[0, shared as i64, -1, dim as i64],
            )
        } else {
            query
        };
        let scores = self.node(&format!("{name}.scores"), "MatMul", &[&query, &key], &[]);
        let scores = if grouped {
            self.reshape(&format!("{name}.scores.heads"), &scores, &[0, count as i64, -1, 0])
        } else {
            scores
        };
        let scaled = self.with_number(&format!("{name}.scaled"), "Mul", &scores, scale);
        let masked = self.node(&format!("{name}.masked"), "Add", &[&scaled, mask], &[]);
        let axis = [Attribute::Int("axis", -1)];
        let weights = self.node(&format!("{name}.weights"), "Softmax", &[&masked], &axis);
        let weights = if grouped {
            self.reshape(&format!("{name}.weights.grouped"), &weights, &[0, shared as i64, -1, 0])
        } else {
            weights
        };
        let context = self.node(&format!("{name}.context"), "MatMul", &[&weights, &value], &[]);
        let context = if grouped {
            let dims = [0, count as i64, -1, dim as i64];
            self.reshape(&format!("{name}.context.heads"), &context, &dims)
        } else {
            context
        };
        let back = [Attribute::Ints("perm", &[0, 2, 1, 3])];
        let context = self.node(&format!("{name}.rows"), "Transpose", &[&context], &back);
        self.reshape(&format!("{name}.joined"), &context, &[0, 0, heads.width() as i64])
    }
}
