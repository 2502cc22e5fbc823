//! all-MiniLM-L6-v2: tokens as in PyTorch, and the expected program.

use flotilla_model::import::{Family, LoadOptions, load};
use serde::Deserialize;

use crate::models::{minilm, read};

#[derive(Deserialize)]
struct Row {
    text: String,
    input_ids: Vec<u32>,
}

fn rows() -> Vec<Row> {
    serde_json::from_slice(&read("minilm/reference.json")).expect("golden file")
}

#[test]
fn tokens_and_program() {
    let Some(resolver) = minilm() else { return };
    let model = load(&resolver, &LoadOptions::named("all-MiniLM-L6-v2")).expect("loads");
    assert_eq!(model.family, Family::TextEmbedding { size: 384 });
    let text = model.text.expect("has a tokenizer");
    for row in rows() {
        let tokens = text.encode(&row.text).expect("encodes");
        assert_eq!(tokens.ids, row.input_ids, "{:?}", row.text);
        assert_eq!(tokens.untruncated_len, row.input_ids.len());
    }
    assert_eq!(model.limits.length_max, Some(256));
    let long = text.encode(&"fox ".repeat(1000)).expect("encodes");
    assert_eq!((long.ids.len(), long.untruncated_len), (256, 1002));
    assert_eq!((long.ids[0], long.ids[255]), (101, 102));
    assert_eq!(text.decode(&[101, 7592, 2088, 102]).expect("decodes"), "hello world");

    let counts = model.program.op_counts();
    let count =
        |name: &str| counts.iter().find(|(found, _)| *found == name).map_or(0, |(_, count)| *count);
    assert_eq!(
        (count("MatMul"), count("Attention"), count("LayerNorm")),
        (36, 6, 13),
        "{}",
        model.program
    );
    assert_eq!(
        (count("Transpose"), count("Softmax"), count("Broadcast")),
        (0, 0, 0),
        "{}",
        model.program
    );
    assert!(model.program.nodes.len() <= 72, "{}", model.program);
    assert!(
        model.files.iter().any(|file| file.path == "model.safetensors" && file.bytes > 90_000_000)
    );
}
