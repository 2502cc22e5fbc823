//! Damaged and hostile model files: a typed error that names the fault, and never a panic.

use flotilla_model::import::{
    HfError, ImportError, LoadOptions, MemoryResolver, OnnxError, ResolveError, load,
};
use flotilla_model::text::TextError;

use crate::models::{hf_bert, minilm, small};

fn error_of(resolver: &MemoryResolver) -> ImportError {
    load(resolver, &LoadOptions::named("hostile")).expect_err("the model is damaged")
}

fn with(mut resolver: MemoryResolver, file: &str, bytes: impl Into<Vec<u8>>) -> MemoryResolver {
    resolver.files.insert(file.to_owned(), bytes.into().into());
    resolver
}

/// The configuration with one field replaced.
fn configured(key: &str, value: serde_json::Value) -> MemoryResolver {
    let resolver = hf_bert();
    let mut config: serde_json::Value =
        serde_json::from_slice(&resolver.files["config.json"]).expect("json");
    config[key] = value;
    with(resolver, "config.json", config.to_string())
}

#[test]
fn an_empty_folder_is_no_model() {
    assert!(matches!(error_of(&MemoryResolver::default()), ImportError::NoModel));
}

#[test]
fn a_cut_onnx_file_is_refused() {
    let whole = small("bert", &["model.onnx"]).files["model.onnx"].to_vec();
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        let resolver = with(MemoryResolver::default(), "model.onnx", &whole[..length]);
        assert!(
            matches!(error_of(&resolver), ImportError::Onnx(OnnxError::Decode { .. })),
            "cut to {length}"
        );
    }
}

#[test]
fn flipped_bits_in_an_onnx_file_do_not_panic() {
    let whole = small("bert", &["model.onnx"]).files["model.onnx"].to_vec();
    // A step without common factors with the file's structure spreads the flips over all kinds of
    // fields.
    for at in (0..whole.len()).step_by(1511) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        let resolver = with(MemoryResolver::default(), "model.onnx", damaged);
        if let Err(ImportError::Panic { what }) = load(&resolver, &LoadOptions::named("flipped")) {
            println!("contained at byte {at}: {what}");
        }
    }
}

#[test]
fn damaged_weights_are_refused_by_name() {
    let whole = hf_bert().files["model.safetensors"].to_vec();
    for length in [0, 4, 8, 100, whole.len() - 1] {
        let resolver = with(hf_bert(), "model.safetensors", &whole[..length]);
        let ImportError::Hf(HfError::Weights { file, .. }) = error_of(&resolver) else {
            panic!("cut to {length}")
        };
        assert_eq!(file, "model.safetensors");
    }
    let mut long_header = whole.clone();
    long_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(
        error_of(&with(hf_bert(), "model.safetensors", long_header)),
        ImportError::Hf(HfError::Weights { .. })
    ));
    let renamed = replaced(
        &whole,
        b"encoder.layer.1.output.dense.bias",
        b"encoder.layer.1.output.dense.bios",
    );
    let ImportError::Hf(HfError::Tensor { tensor, .. }) =
        error_of(&with(hf_bert(), "model.safetensors", renamed))
    else {
        panic!("the tensor is missing")
    };
    assert_eq!(tensor, "encoder.layer.1.output.dense.bias");
    let header = u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    for at in (0..header + 8).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        let outcome =
            load(&with(hf_bert(), "model.safetensors", damaged), &LoadOptions::named("flipped"));
        assert!(!matches!(outcome, Err(ImportError::Panic { .. })), "flip at {at}");
    }
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let ImportError::Hf(HfError::Shape { tensor, want, .. }) =
        error_of(&configured("vocab_size", 201.into()))
    else {
        panic!("the shape differs")
    };
    assert_eq!((tensor.as_str(), want), ("embeddings.word_embeddings.weight", vec![201, 32]));
    assert!(matches!(
        error_of(&configured("model_type", "mamba".into())),
        ImportError::Hf(HfError::Architecture { model_type }) if model_type == "mamba"
    ));
    assert!(matches!(
        error_of(&configured("num_attention_heads", 5.into())),
        ImportError::Hf(HfError::Unsupported { .. })
    ));
    assert!(matches!(
        error_of(&configured("hidden_act", "gelu_10".into())),
        ImportError::Hf(HfError::Unsupported { .. })
    ));
    assert!(matches!(
        error_of(&configured("num_hidden_layers", 1_000_000_000.into())),
        ImportError::Hf(HfError::Tensor { .. })
    ));
    assert!(matches!(
        error_of(&with(hf_bert(), "config.json", "{")),
        ImportError::Hf(HfError::Config { .. })
    ));
    let mut bare = hf_bert();
    bare.files.remove("model.safetensors");
    assert!(
        matches!(error_of(&bare), ImportError::Resolve(ResolveError::Missing { path }) if path == "model.safetensors")
    );
}

#[test]
fn modules_cannot_point_out_of_the_folder() {
    let modules = r#"[{"idx":1,"name":"1","path":"../../etc","type":"sentence_transformers.models.Pooling"}]"#;
    let resolver = with(hf_bert(), "modules.json", modules);
    assert!(matches!(error_of(&resolver), ImportError::Resolve(ResolveError::Outside { .. })));
    let unknown =
        r#"[{"idx":1,"name":"1","path":"2_Dense","type":"sentence_transformers.models.Dense"}]"#;
    assert!(matches!(
        error_of(&with(hf_bert(), "modules.json", unknown)),
        ImportError::Hf(HfError::Unsupported { what, .. }) if what.contains("Dense")
    ));
}

#[test]
fn a_damaged_tokenizer_is_refused_with_a_remedy() {
    let resolver = with(hf_bert(), "tokenizer.json", r#"{"version":"1.0""#);
    let ImportError::Text(error @ TextError::Damaged { .. }) = error_of(&resolver) else {
        panic!("it is damaged")
    };
    assert!(error.to_string().contains("fetch the file again"), "{error}");
}

#[test]
fn a_model_without_a_tokenizer_takes_token_numbers() {
    let Some(mut resolver) = minilm() else { return };
    resolver.files.remove("tokenizer.json");
    let model = load(&resolver, &LoadOptions::named("bare")).expect("loads");
    assert!(model.text.is_none());
    assert_eq!((model.limits.length_max, model.limits.vocabulary), (Some(256), Some(30522)));
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("occurs");
    let mut result = bytes.to_vec();
    result[at..at + to.len()].copy_from_slice(to);
    result
}
