//! The reference against PyTorch's answers.

use flotilla_model::{
    import::Resolver,
    reference::{Reference, ReferenceError, ReferenceTensor},
};

use crate::models::{difference, hf_bert, io, small};

const TOLERANCE: f32 = 1e-5;

fn check(name: &str, resolver: &dyn Resolver, outputs: &[&str]) {
    let reference = Reference::load(resolver, &Default::default()).expect("loads");
    let results = reference.run(&io(name, "in.")).expect("runs");
    let wants = io(name, "out.");
    for output in outputs {
        let got =
            results.iter().find(|tensor| tensor.name == *output).expect("the output is there");
        let want = wants.iter().find(|tensor| tensor.name == *output).expect("the golden is there");
        assert_eq!(got.shape, want.shape);
        let error = difference(&got.to_f32().expect("floats"), &want.to_f32().expect("floats"));
        assert!(error <= TOLERANCE, "{name} {output}: {error}");
    }
}

#[test]
fn onnx_bert_agrees_with_pytorch() {
    check("bert", &small("bert", &["model.onnx"]), &["last_hidden_state", "pooler_output"]);
}

#[test]
fn onnx_roberta_agrees_with_pytorch() {
    check("roberta", &small("roberta", &["model.onnx"]), &["last_hidden_state"]);
}

#[test]
fn hugging_face_bert_agrees_with_pytorch() {
    check("bert", &hf_bert(), &["last_hidden_state"]);
}

#[test]
fn batch_and_sequence_stay_dynamic() {
    let ids: Vec<i64> = (5..26).collect();
    for resolver in [small("bert", &["model.onnx"]), small("roberta", &["model.onnx"]), hf_bert()] {
        let reference = Reference::load(&resolver, &Default::default()).expect("loads");
        for (batch, seq) in [(1, 1), (3, 7), (1, 21)] {
            let inputs = [
                ReferenceTensor::from_i64("input_ids", vec![batch, seq], &ids[..batch * seq]),
                ReferenceTensor::from_i64(
                    "attention_mask",
                    vec![batch, seq],
                    &vec![1; batch * seq],
                ),
            ];
            let results = reference.run(&inputs).expect("runs");
            assert_eq!(results[0].shape, [batch, seq, 32]);
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let reference = Reference::load(&hf_bert(), &Default::default()).expect("loads");
    let ids = ReferenceTensor::from_i64("input_ids", vec![1, 2], &[5, 6]);
    let mask = ReferenceTensor::from_i64("attention_mask", vec![1, 2], &[1, 1]);
    let unknown = ReferenceTensor { name: "token_types".to_owned(), ..mask.clone() };
    assert!(matches!(reference.run(&[ids.clone(), unknown]), Err(ReferenceError::Unknown { .. })));
    assert!(matches!(
        reference.run(std::slice::from_ref(&ids)),
        Err(ReferenceError::Missing { .. })
    ));
    let short = ReferenceTensor { shape: vec![1, 3], ..ids.clone() };
    assert!(matches!(reference.run(&[short, mask.clone()]), Err(ReferenceError::Length { .. })));
    let outside = ReferenceTensor::from_i64("input_ids", vec![1, 2], &[5, 200]);
    assert!(matches!(reference.run(&[outside, mask]), Err(ReferenceError::Run { .. })));
}
