//! Which cases count: each rule excludes cases by their facts alone and never by what happens when they run.

use crate::case::Facts;

/// Fewest cases of onnx's generator that the rules must leave.
pub const NODE_CASES_MIN: usize = 1500;

/// Domain of the operators that train (ONNX, "Operators-preview.training").
const TRAINING_DOMAIN: &str = "ai.onnx.preview.training";
/// Operators with random results (ONNX, "Operators").
const RANDOM: [&str; 6] = [
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
];

/// Why a case is out of scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Text is not a tensor of numbers.
    Strings,
    /// Lists of tensors, and dictionaries.
    Sequences,
    /// Values that may be absent at run time.
    Optionals,
    /// Sparse tensors.
    Sparse,
    /// Optimizers and gradients.
    Training,
    /// Random results cannot be compared.
    Random,
    /// WGSL has no 64-bit floating point.
    Float64,
    /// WGSL has no complex numbers, and ports have none either.
    Complex,
    /// Floating point of 8 bits and fewer, which WGSL does not have.
    Float8,
    /// Integers of less than a byte, which WGSL does not have.
    Int4,
    /// 64-bit integers that do not fit the 32 bits of WGSL.
    WideIntegers,
}

impl Rule {
    /// In the order in which they are checked; a case counts for the first one that it breaks.
    pub const ALL: [Rule; 11] = [
        Rule::Strings,
        Rule::Sequences,
        Rule::Optionals,
        Rule::Sparse,
        Rule::Training,
        Rule::Random,
        Rule::Float64,
        Rule::Complex,
        Rule::Float8,
        Rule::Int4,
        Rule::WideIntegers,
    ];

    /// The rule's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Strings => "strings",
            Rule::Sequences => "sequences",
            Rule::Optionals => "optionals",
            Rule::Sparse => "sparse tensors",
            Rule::Training => "training",
            Rule::Random => "random",
            Rule::Float64 => "float64",
            Rule::Complex => "complex",
            Rule::Float8 => "float8",
            Rule::Int4 => "int4",
            Rule::WideIntegers => "wide integers",
        }
    }

    fn excludes(self, facts: &Facts) -> bool {
        let has_type = |pick: &dyn Fn(&str) -> bool| facts.types.iter().any(|name| pick(name));
        let has_kind = |kind: &str| facts.kinds.contains(kind);
        match self {
            Rule::Strings => has_type(&|name| name == "string"),
            // A sequence between two nodes need not be declared.
            Rule::Sequences => {
                has_kind("sequence")
                    || has_kind("map")
                    || facts.operators.iter().any(|operator| {
                        operator.contains("Sequence") && operator != "ReverseSequence"
                    })
            }
            // These operators also take plain tensors, and are then not about optionals.
            Rule::Optionals => {
                has_kind("optional")
                    || facts.operators.iter().any(|operator| operator.starts_with("Optional"))
            }
            Rule::Sparse => has_kind("sparse"),
            Rule::Training => facts.domains.contains(TRAINING_DOMAIN),
            Rule::Random => {
                facts.random_dropout
                    || RANDOM.iter().any(|&operator| facts.operators.contains(operator))
            }
            Rule::Float64 => has_type(&|name| name == "double"),
            Rule::Complex => has_type(&|name| name.starts_with("complex")),
            Rule::Float8 => {
                has_type(&|name| name.starts_with("float8") || name.starts_with("float4"))
            }
            Rule::Int4 => has_type(&|name| {
                let width = name.strip_prefix('u').unwrap_or(name);
                width == "int4" || width == "int2"
            }),
            Rule::WideIntegers => facts.wide_integers,
        }
    }
}

/// The rule that puts a case out of scope.
pub fn excluded_by(facts: &Facts) -> Option<Rule> {
    Rule::ALL.into_iter().find(|rule| rule.excludes(facts))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::case::Kind;

    fn plain() -> Facts {
        let set = |name: &str| BTreeSet::from([name.to_owned()]);
        Facts {
            name: "test_add".to_owned(),
            kind: Kind::Node,
            data: vec!["io.safetensors".to_owned()],
            no_data: None,
            operators: set("Add"),
            domains: set(""),
            types: set("float"),
            kinds: set("tensor"),
            wide_integers: false,
            random_dropout: false,
        }
    }

    #[test]
    fn plain_types_are_in_scope() {
        for name in ["float", "float16", "bfloat16", "int64", "uint64", "int8", "uint8", "bool"] {
            let mut facts = plain();
            facts.types.insert(name.to_owned());
            assert_eq!(excluded_by(&facts), None, "{name}");
        }
    }

    #[test]
    fn every_rule_excludes() {
        let typed = |name: &str| {
            let mut facts = plain();
            facts.types.insert(name.to_owned());
            facts
        };
        let of_kind = |name: &str| {
            let mut facts = plain();
            facts.kinds.insert(name.to_owned());
            facts
        };
        let operator = |name: &str| {
            let mut facts = plain();
            facts.operators.insert(name.to_owned());
            facts
        };
        let mut training = plain();
        training.domains.insert(TRAINING_DOMAIN.to_owned());
        let cases = [
            (typed("string"), Rule::Strings),
            (of_kind("sequence"), Rule::Sequences),
            (of_kind("map"), Rule::Sequences),
            (operator("SplitToSequence"), Rule::Sequences),
            (of_kind("optional"), Rule::Optionals),
            (operator("OptionalHasElement"), Rule::Optionals),
            (of_kind("sparse"), Rule::Sparse),
            (training, Rule::Training),
            (operator("RandomUniformLike"), Rule::Random),
            (Facts { random_dropout: true, ..plain() }, Rule::Random),
            (typed("double"), Rule::Float64),
            (typed("complex64"), Rule::Complex),
            (typed("float8e4m3fn"), Rule::Float8),
            (typed("float4e2m1"), Rule::Float8),
            (typed("uint4"), Rule::Int4),
            (typed("int2"), Rule::Int4),
            (Facts { wide_integers: true, ..plain() }, Rule::WideIntegers),
        ];
        for (facts, rule) in &cases {
            assert_eq!(excluded_by(facts), Some(*rule), "{facts:?}");
        }
        let tested: BTreeSet<Rule> = cases.iter().map(|(_, rule)| *rule).collect();
        assert_eq!(tested, BTreeSet::from(Rule::ALL));
    }

    #[test]
    fn a_reversed_sequence_is_a_tensor() {
        let mut facts = plain();
        facts.operators.insert("ReverseSequence".to_owned());
        assert_eq!(excluded_by(&facts), None);
    }

    #[test]
    fn the_first_rule_counts() {
        let mut facts = plain();
        facts.types.extend(["double".to_owned(), "string".to_owned()]);
        assert_eq!(excluded_by(&facts), Some(Rule::Strings));
    }
}
