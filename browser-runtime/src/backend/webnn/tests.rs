//! Tests of lowering, without a browser.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde_json::Value;

use super::{
    draft::Type,
    limits::{Limits, OperandLimits},
    lower::{lower, refused_nodes},
};
use crate::{deciding::define_input_elements, ports::to_words, weights::Constants};
use flotilla_kernels::{Shapes, suite};

/// The limits of Chromium 153 with LiteRT.
fn chromium() -> Limits {
    let text = include_str!("limits-chromium153.json");
    let answer: BTreeMap<String, Value> = serde_json::from_str(text).expect("an object");
    let operand = |limits: &Value| {
        let types = limits["dataTypes"]
            .as_array()?
            .iter()
            .filter_map(|name| Type::ALL.into_iter().find(|ty| Some(ty.name()) == name.as_str()));
        let rank = |name: &str| limits["rankRange"][name].as_u64().map(|rank| rank as usize);
        Some(OperandLimits {
            types: types.fold(0, |types, ty| types | 1 << ty as u32),
            ranks: (rank("min").unwrap_or(0), rank("max").unwrap_or(usize::MAX)),
        })
    };
    let operators = answer.iter().filter_map(|(name, limits)| {
        let operands = limits.as_object()?.iter();
        let operands = operands.filter_map(|(name, value)| Some((name.clone(), operand(value)?)));
        Some((name.clone(), operands.collect()))
    });
    let tensor_bytes_max = answer["maxTensorByteLength"].as_u64().expect("a number");
    Limits { operators: operators.collect(), tensor_bytes_max }
}

/// The cases that are refused, with the reason; the others are built and verified in a browser.
#[test]
fn cases_of_the_kernel_suite_are_refused_as_listed() {
    let limits = chromium();
    let mut told = String::new();
    let everywhere = |case: &suite::Case| case.scope == suite::Scope::Everywhere;
    for case in flotilla_kernels::cases().into_iter().filter(everywhere) {
        let program = &case.program;
        let given: Vec<&[usize]> = case.inputs.iter().map(|input| input.shape.as_slice()).collect();
        let symbols = program.bind(&given).expect("inputs that fit");
        let mut shapes = Shapes::new(program, symbols).expect("shapes");
        let inputs = program.inputs.iter().zip(&case.inputs);
        let words: Vec<Vec<u32>> = inputs
            .flat_map(|(port, tensor)| {
                let words = to_words(port, tensor).expect("words");
                [Some(words.low), words.high].into_iter().flatten()
            })
            .collect();
        define_input_elements(program, &mut shapes, &words).expect("sizes");
        let constants = Constants::new(program);
        let refused = refused_nodes(program, &constants, Some(&shapes), &limits);
        let lowered = lower(program, &constants, &shapes, &limits);
        assert_eq!(refused.is_empty(), lowered.is_ok(), "{}: {lowered:?}", case.name);
        for (_, refused) in refused {
            writeln!(told, "{}\t{}", case.name, refused.reason).expect("a line");
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/webnn/refused.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &told).expect("written");
    }
    let expected = std::fs::read_to_string(&path).expect("a file");
    assert!(told == expected, "{} is not what is refused:\n{told}", path.display());
}

#[test]
fn limits_refuse_types_and_ranks() {
    let operand = OperandLimits { types: 1 << Type::Float32 as u32, ranks: (0, 5) };
    let operands = [("input".to_owned(), operand)].into();
    let limits =
        Limits { operators: [("erf".to_owned(), operands)].into(), tensor_bytes_max: 1 << 20 };
    assert_eq!(limits.check("erf", "input", Type::Float32, &[2, 3]), Ok(()));
    let refused = |ty, shape: &[u32]| limits.check("erf", "input", ty, shape).expect_err("refused");
    assert_eq!(refused(Type::Int32, &[2]), "erf takes no int32 as input");
    assert!(refused(Type::Float32, &[1; 6]).contains("0 to 5 dimensions"));
    assert!(refused(Type::Float32, &[1 << 20]).contains("bytes"));
    let unknown = limits.check("tan", "input", Type::Float32, &[]).expect_err("refused");
    assert_eq!(unknown, "the context has no tan");
}
