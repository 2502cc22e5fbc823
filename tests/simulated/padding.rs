//! Paddings that the analysis allows change nothing: programs run natively with the exact sizes and padded.

mod compare;
mod programs;
mod random;

use std::collections::BTreeMap;

use compare::{Random, Subjects, chosen, compare};
use flotilla::catalog;
use flotilla_program::{
    Guard, Node, Op, Padding, Program, Reduce, ReduceKind, Step, ValueId,
    dim::{Dim, Symbol},
};
use flotilla_tensor::Tensor;
use flotilla_tests::{architecture::ARCHITECTURES, model, place};

/// How much a sum may differ: additional terms, even zeros, shift the others to other lanes of a vector.
const RELATIVE: f32 = 1e-6;

async fn golden() -> Vec<Subjects> {
    let mut subjects = Vec::new();
    for architecture in ARCHITECTURES {
        let recorded = architecture.recorded().await;
        subjects.push(Subjects {
            name: architecture.name.to_owned(),
            program: recorded.program,
            blobs: recorded.blobs,
        });
    }
    subjects.push(hugging_face_bert());
    if let Some(folder) = model::minilm() {
        subjects.push(imported("minilm", &folder));
    }
    subjects
}

fn imported(name: &str, folder: &std::path::Path) -> Subjects {
    let imported = catalog::import(folder).expect("imports");
    Subjects { name: name.to_owned(), program: imported.program, blobs: imported.weights.blobs }
}

fn hugging_face_bert() -> Subjects {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        let from = place::file("models/bert").join(file);
        std::fs::copy(from, folder.path().join(file)).expect("copied");
    }
    imported("bert of Hugging Face", folder.path())
}

/// Changes a program so that padding affects it.
type BreakIt<'a> = &'a dyn Fn(&mut Program);

#[test]
fn padding_that_is_allowed_changes_nothing() {
    let executor = tokio::runtime::Runtime::new().expect("a runtime");
    executor.block_on(async {
        let mut checked = BTreeMap::new();
        for subject in golden().await {
            let paddings = flotilla_model::padding::paddings(&subject.program);
            let guards: Vec<Guard> =
                paddings.allowed.iter().flat_map(|padding| padding.guards.clone()).collect();
            let mut placement = subject.placed().await;
            let mut random = Random::new(0x5eed);
            for chosen_ones in 1..1usize << paddings.allowed.len() {
                let padded: Vec<&Padding> = (0..paddings.allowed.len())
                    .filter(|index| chosen_ones >> index & 1 == 1)
                    .map(|index| &paddings.allowed[index])
                    .collect();
                for _ in 0..4 {
                    let (real, larger) = chosen(&subject.program, &padded, &mut random);
                    let inputs = subject.inputs(&real, &guards, &mut random);
                    let compared =
                        compare(&mut placement, &subject.program, &inputs, &larger).await;
                    let agreement = compared.unwrap_or_else(|failed| panic!("{}", failed.text()));
                    println!("{} {real:?} as {larger:?}: {agreement:?}", subject.name);
                    assert!(
                        agreement.worst <= RELATIVE,
                        "{} {real:?} as {larger:?}: {agreement:?}",
                        subject.name
                    );
                }
            }
            let names = paddings
                .allowed
                .iter()
                .map(|padding| subject.program.symbols[padding.symbol.0 as usize].name.clone());
            checked.insert(subject.name.clone(), names.collect::<Vec<_>>());
        }
        for (name, symbols) in [
            ("bert", vec!["seq", "batch"]),
            ("roberta", vec!["seq", "batch"]),
            ("bert of Hugging Face", vec!["S", "B"]),
            ("vit", vec!["batch"]),
            ("resnet", vec!["batch"]),
        ] {
            assert_eq!(checked[name], symbols, "{name}");
        }
        if let Some(symbols) = checked.get("minilm") {
            assert_eq!(*symbols, ["S", "B"]);
        }
    });
}

/// Programs and inputs that break one rule each: the analysis refuses them. If it allowed them, the comparison above would
/// fail.
#[test]
fn padding_that_is_refused_would_show() {
    let without_mask = |program: &mut Program| {
        for node in &mut program.nodes {
            if let Op::Attention(attention) = &mut node.op {
                attention.mask = false;
                node.inputs.truncate(3);
            }
        }
    };
    let weak_mask = |program: &mut Program| {
        for node in &mut program.nodes {
            if let Op::Elementwise(expr) = &mut node.op {
                let far = |step: &&mut Step| matches!(step, Step::Float(x) if x.abs() > 1e30);
                expr.steps.iter_mut().filter(far).for_each(|step| *step = Step::Float(2.0));
            }
        }
    };
    let summed = |program: &mut Program| {
        // The result is summed over all positions, masked or not.
        let output = program.outputs[0].value;
        let mut value = program.value(output).clone();
        value.shape[1] = Dim::Fixed(1);
        program.values.push(value);
        let sum = ValueId(program.values.len() as u32 - 1);
        let kind = ReduceKind::Sum;
        program.nodes.push(Node {
            name: "sum".to_owned(),
            op: Op::Reduce(Reduce { kind, axes: vec![1] }),
            inputs: vec![output],
            outputs: vec![sum],
        });
        program.outputs[0].value = sum;
    };
    let broken: [(&str, BreakIt<'_>); 3] =
        [("no mask", &without_mask), ("a weak mask", &weak_mask), ("a sum", &summed)];
    let executor = tokio::runtime::Runtime::new().expect("a runtime");
    executor.block_on(async {
        let whole = hugging_face_bert();
        let length =
            Symbol(whole.program.symbols.iter().position(|symbol| symbol.name == "S").expect("S")
                as u32);
        let padding = flotilla_model::padding::padding(&whole.program, length).expect("allowed");
        for (name, break_it) in broken {
            let mut subject = hugging_face_bert();
            break_it(&mut subject.program);
            let refused =
                flotilla_model::padding::padding(&subject.program, length).expect_err(name);
            let mut placement = subject.placed().await;
            let inputs = subject.inputs(&[2, 5], &padding.guards, &mut Random::new(7));
            let compared = compare(&mut placement, &subject.program, &inputs, &[2, 9]).await;
            let agreement = compared.unwrap_or_else(|failed| panic!("{}", failed.text()));
            println!("{name}: {refused}; {agreement:?}");
            assert!(agreement.worst > 100.0 * RELATIVE, "{name}: {agreement:?}");
        }
        // A row that masks everything: the guard reports it.
        let mut inputs = whole.inputs(&[2, 5], &padding.guards, &mut Random::new(7));
        inputs[padding.guards[0].input as usize] =
            Tensor::from_i64(vec![2, 5], &[1, 0, 1, 1, 1, 0, 0, 0, 0, 0]).expect("it fits");
        assert!(!padding.guards[0].holds(&[1, 0, 1, 1, 1, 0, 0, 0, 0, 0], &[2, 5]));
        let mut placement = whole.placed().await;
        let compared = compare(&mut placement, &whole.program, &inputs, &[2, 9]).await;
        let agreement = compared.unwrap_or_else(|failed| panic!("{}", failed.text()));
        println!("a row without a one: {agreement:?}");
        assert!(agreement.worst > 100.0 * RELATIVE, "{agreement:?}");
    });
}
