//! Hugging Face folders: what is chosen, and what is refused with the file and the field.

use flotilla_model::import::{
    Family, HfError, ImportError, ImportedModel, LoadOptions, MemoryResolver, OnnxForm,
    ResolveError, load, onnx_form,
};
use serde_json::{Value, json};

use crate::models::whole;

fn loaded(files: &MemoryResolver) -> Result<ImportedModel, ImportError> {
    load(files, &LoadOptions::named("folder"))
}

/// The message of an import that is refused, with its causes.
fn refusal(files: &MemoryResolver) -> String {
    let error = loaded(files).expect_err("it is refused");
    assert!(!matches!(error, ImportError::Panic { .. }), "{error:?}");
    let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn with(mut files: MemoryResolver, file: &str, contents: impl Into<Vec<u8>>) -> MemoryResolver {
    files.files.insert(file.to_owned(), contents.into().into());
    files
}

fn without(mut files: MemoryResolver, file: &str) -> MemoryResolver {
    files.files.remove(file).expect("it is there");
    files
}

/// A folder whose JSON file has other fields.
fn changed(files: MemoryResolver, file: &str, fields: Value) -> MemoryResolver {
    let mut json: Value = serde_json::from_slice(&files.files[file]).expect("json");
    for (name, value) in fields.as_object().expect("fields") {
        json[name] = value.clone();
    }
    with(files, file, json.to_string())
}

fn configured(name: &str, fields: Value) -> MemoryResolver {
    changed(whole(&format!("hf/{name}")), "config.json", fields)
}

/// Names, shapes and bytes of tensors.
type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

fn tensors(bytes: &[u8]) -> Tensors {
    let parsed = safetensors::SafeTensors::deserialize(bytes).expect("a file");
    let own = parsed.iter();
    own.map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec())).collect()
}

/// A safetensors file of F32.
fn written(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (name.as_str(), view.expect("fits"))
    });
    safetensors::serialize(views.collect::<Vec<_>>(), None).expect("written")
}

#[test]
fn fields_that_are_not_handled_are_refused_by_name() {
    for (name, fields, says) in [
        ("bert", json!({"position_embedding_type": "relative_key"}), "position_embedding_type"),
        ("bert", json!({"is_decoder": true}), "is_decoder true"),
        ("bert", json!({"hidden_act": "xielu"}), "hidden_act \"xielu\""),
        ("bert", json!({"hidden_size": 0}), "hidden_size 0"),
        ("bert", json!({"hidden_size": 1u64 << 60}), "hidden_size 1152921504606846976"),
        ("bert", json!({"hidden_size": -1}), "invalid value"),
        ("bert", json!({"num_attention_heads": 3}), "3 heads of a hidden size of 16"),
        ("roberta", json!({"pad_token_id": -5}), "pad_token_id"),
        ("roberta", json!({"pad_token_id": 1u64 << 40}), "pad_token_id"),
        (
            "mpnet",
            json!({"relative_attention_num_buckets": 64}),
            "relative_attention_num_buckets 64",
        ),
        ("distilbert", json!({"n_heads": 0}), "0 heads of a hidden size of 16"),
        ("albert", json!({"num_hidden_layers": 1_000_000_000}), "1000000000 layers in 2 groups"),
        (
            "albert",
            json!({"inner_group_num": 1u64 << 62, "num_hidden_layers": 4}),
            "the limit is 256",
        ),
        ("albert", json!({"num_hidden_groups": 0}), "in 0 groups"),
        ("modernbert", json!({"layer_types": ["x", "x", "x", "x"]}), "layer_types \"x\""),
        ("modernbert", json!({"layer_types": []}), "0 layer_types for 4 layers"),
        ("modernbert", json!({"num_hidden_layers": 1u64 << 40}), "the limit is 1024"),
        (
            "modernbert-old",
            json!({"global_attn_every_n_layers": 0}),
            "global_attn_every_n_layers 0",
        ),
        ("modernbert", json!({"num_attention_heads": 16}), "heads of 1 features"),
        (
            "modernbert",
            json!({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}),
            "\"yarn\"",
        ),
        ("nomic", json!({"rotary_scaling_factor": 2}), "rotary_scaling_factor 2"),
        ("nomic", json!({"num_experts": 8}), "num_experts 8"),
        ("nomic", json!({"prenorm": true}), "prenorm true"),
        ("nomic", json!({"rotary_emb_fraction": 0.5}), "rotary_emb_fraction 0.5"),
        ("nomic", json!({"activation_function": "gelu"}), "activation_function \"gelu\""),
        ("gte", json!({"position_embedding_type": "absolute"}), "position_embedding_type"),
        ("gte", json!({"logn_attention_scale": true}), "logn_attention_scale true"),
        ("gte", json!({"layer_norm_type": "rms_norm"}), "layer_norm_type"),
        ("gte", json!({"rope_parameters": {"rope_type": "ntk"}}), "without a factor"),
        ("gte", json!({"rope_parameters": {"rope_theta": 0.0}}), "a rope base of 0"),
        ("qwen3", json!({"is_causal": false}), "is_causal false"),
        ("qwen3", json!({"head_dim": 1u64 << 40}), "head_dim"),
        ("qwen3", json!({"num_key_value_heads": 3}), "4 heads that share 3"),
        ("qwen3", json!({"num_key_value_heads": 0}), "num_key_value_heads 0"),
        ("qwen3", json!({"rope_parameters": {"rope_type": "llama3"}}), "\"llama3\""),
        ("qwen2", json!({"sliding_window": null}), "without a sliding_window"),
        ("gemma", json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping 50"),
        ("gemma", json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar 0"),
        ("gemma", json!({"layer_types": null, "_sliding_window_pattern": 0}), "every 0th"),
    ] {
        let says_instead = refusal(&configured(name, fields.clone()));
        assert!(says_instead.contains(says), "{name} {fields}: {says_instead}");
        assert!(says_instead.contains("config.json"), "{name} {fields}: {says_instead}");
    }
}

#[test]
fn a_model_of_any_length_has_tables_of_bounded_size() {
    let files = configured("qwen3", json!({"max_position_embeddings": 1u64 << 60}));
    let files = without(files, "tokenizer_config.json");
    let model = loaded(&files).expect("loads");
    assert!(model.weights.bytes() < 65 << 20, "{:?}", model.weights);
}

#[test]
fn a_gamma_beside_a_weight_is_refused_by_name() {
    let files = whole("hf/bert-prompt");
    let mut weights = tensors(&files.files["model.safetensors"]);
    let norm = "encoder.layer.1.output.LayerNorm.weight";
    let (_, shape, bytes) = weights.iter().find(|(name, ..)| name == norm).expect("there").clone();
    weights.push((norm.replace("weight", "gamma"), shape, bytes));
    let error = loaded(&with(files, "model.safetensors", written(&weights)));
    let Err(ImportError::Hf(HfError::Both { file, first, second })) = error else {
        panic!("{error:?}")
    };
    assert_eq!((file.as_str(), first.as_str()), ("model.safetensors", norm));
    assert_eq!(second, "encoder.layer.1.output.LayerNorm.gamma");
}

#[test]
fn two_models_in_one_file_are_refused() {
    let files = whole("hf/bert-prompt");
    let mut weights = tensors(&files.files["model.safetensors"]);
    let words = "embeddings.word_embeddings.weight";
    let (_, shape, bytes) = weights.iter().find(|(name, ..)| name == words).expect("there").clone();
    weights.push((format!("bert.{words}"), shape.clone(), bytes.clone()));
    // No prefix: only a part of the name is the same.
    weights.push((format!("other_{words}"), shape, bytes));
    let error = refusal(&with(files, "model.safetensors", written(&weights)));
    assert!(error.contains("both bert.embeddings") && !error.contains("other_"), "{error}");
}

#[test]
fn python_objects_are_refused_in_words() {
    let files = without(whole("hf/bert-prompt"), "model.safetensors");
    let files = with(files, "pytorch_model.bin", "pickle");
    let error = refusal(&files);
    assert!(
        error.contains("pytorch_model.bin contains Python objects")
            && error.contains("safe_serialization"),
        "{error}"
    );
    let files = without(whole("hf/bert-modules"), "2_Dense/model.safetensors");
    let error = refusal(&with(files, "2_Dense/pytorch_model.bin", "pickle"));
    assert!(error.contains("2_Dense/pytorch_model.bin"), "{error}");
}

#[test]
fn parts_of_weights_must_be_complete_and_inside() {
    let index = "model.safetensors.index.json";
    let second = "model-00002-of-00002.safetensors";
    let missing = loaded(&without(whole("hf/xlm-roberta"), second));
    assert!(
        matches!(&missing, Err(ImportError::Resolve(ResolveError::Missing { path })) if path == second),
        "{missing:?}"
    );
    let outside = json!({"weight_map": {"x": "../../secret"}}).to_string();
    let outside = loaded(&with(whole("hf/xlm-roberta"), index, outside));
    assert!(
        matches!(outside, Err(ImportError::Resolve(ResolveError::Outside { .. }))),
        "{outside:?}"
    );
    let files = whole("hf/xlm-roberta");
    let first = files.files["model-00001-of-00002.safetensors"].to_vec();
    let error = refusal(&with(files, second, first));
    assert!(error.contains("is in model-00001-of-00002.safetensors, too"), "{error}");
    let mut json: Value =
        serde_json::from_slice(&whole("hf/xlm-roberta").files[index]).expect("json");
    json["weight_map"]["nowhere.weight"] = second.into();
    let error = refusal(&with(whole("hf/xlm-roberta"), index, json.to_string()));
    assert!(error.contains("model.safetensors.index.json has no tensor nowhere.weight"), "{error}");
}

#[test]
fn modules_that_are_not_handled_are_refused() {
    let modules = |change: fn(&mut Value)| {
        let files = whole("hf/bert-modules");
        let mut json: Value = serde_json::from_slice(&files.files["modules.json"]).expect("json");
        change(&mut json);
        with(files, "modules.json", json.to_string())
    };
    let kind = "sentence_transformers.models.CNN";
    for (files, says) in [
        (modules(|json| json[2]["type"] = "sentence_transformers.models.CNN".into()), kind),
        (modules(|json| json[1]["type"] = "custom.Pooling".into()), "module custom.Pooling"),
        (modules(|json| json[0]["type"] = "sentence_transformers.models.Router".into()), "Router"),
        (
            modules(|json| {
                json.as_array_mut().expect("a list").swap(1, 2);
            }),
            "Dense in \"2_Dense\"",
        ),
    ] {
        let error = refusal(&files);
        assert!(error.contains(says) && error.contains("modules.json"), "{error}");
    }
    let many: Vec<Value> =
        vec![json!({"path": "", "type": "sentence_transformers.models.Dropout"}); 100];
    let error = refusal(&with(whole("hf/bert"), "modules.json", json!(many).to_string()));
    assert!(error.contains("100 modules, the limit is 64"), "{error}");
    for (file, fields, says) in [
        ("1_Pooling/config.json", json!({"pooling_mode": "median"}), "pooling_mode \"median\""),
        ("1_Pooling/config.json", json!({"pooling_mode": []}), "0 poolings"),
        ("1_Pooling/config.json", json!({"include_prompt": "no"}), "include_prompt"),
        (
            "2_Dense/config.json",
            json!({"activation_function": "torch.nn.modules.activation.PReLU"}),
            "PReLU",
        ),
        ("2_Dense/config.json", json!({"activation_function": "os.system"}), "os.system"),
        (
            "2_Dense/config.json",
            json!({"in_features": 95}),
            "in_features 95, the vector before it has 96",
        ),
        ("2_Dense/config.json", json!({"out_features": 1u64 << 40}), "out_features"),
        (
            "2_Dense/config.json",
            json!({"module_input_name": "token_embeddings"}),
            "module_input_name",
        ),
        ("2_Dense/config.json", json!({"use_residual": true}), "use_residual true"),
        ("3_LayerNorm/config.json", json!({"dimension": 11}), "dimension 11"),
        ("sentence_bert_config.json", json!({"transformer_task": "fill-mask"}), "transformer_task"),
        (
            "sentence_bert_config.json",
            json!({"module_output_name": "logits"}),
            "module_output_name",
        ),
        (
            "config_sentence_transformers.json",
            json!({"model_type": "SparseEncoder"}),
            "SparseEncoder",
        ),
    ] {
        let error = refusal(&changed(whole("hf/bert-modules"), file, fields));
        assert!(error.contains(says) && error.contains(file), "{error}");
    }
    let pooling = json!({"pooling_mode": "cls"});
    let error = refusal(&changed(whole("hf/bert-prompt"), "1_Pooling/config.json", pooling));
    assert!(error.contains("the first token behind a prompt"), "{error}");
}

#[test]
fn flags_of_older_pooling_are_read() {
    let older = json!({
        "word_embedding_dimension": 16, "pooling_mode_cls_token": true, "pooling_mode_lasttoken": true,
        "pooling_mode_mean_tokens": false
    });
    let model = loaded(&with(whole("hf/electra"), "1_Pooling/config.json", older.to_string()));
    assert_eq!(model.expect("loads").family, Family::TextEmbedding { size: 32 });
}

#[test]
fn an_encoder_in_a_sub_folder_is_found() {
    let mut files = whole("hf/bert-modules");
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ] {
        let contents = files.files.remove(file).expect("there");
        files.files.insert(format!("0_Transformer/{file}"), contents);
    }
    let mut json: Value = serde_json::from_slice(&files.files["modules.json"]).expect("json");
    json[0]["path"] = "0_Transformer".into();
    let moved = loaded(&with(files, "modules.json", json.to_string())).expect("loads");
    let own = loaded(&whole("hf/bert-modules")).expect("loads");
    assert_eq!(moved.program.to_string(), own.program.to_string());
    assert_eq!((moved.limits, moved.text.is_some()), (own.limits, true));
    assert_eq!(moved.limits.length_max, Some(9));
}

#[test]
fn the_length_of_texts_is_the_shortest_one_given() {
    let limit = |files: &MemoryResolver| loaded(files).expect("loads").limits.length_max;
    // 66 positions, of which RoBERTa uses those from 2 on; the tokenizer's limit is the same.
    let files = whole("hf/roberta");
    assert_eq!(limit(&files), Some(64));
    let shorter = changed(files.clone(), "tokenizer_config.json", json!({"model_max_length": 20}));
    assert_eq!(limit(&shorter), Some(20));
    let none = json!({"model_max_length": 1e30});
    assert_eq!(limit(&changed(files, "tokenizer_config.json", none)), Some(64));
    let both = changed(shorter, "sentence_bert_config.json", json!({"max_seq_length": 30}));
    assert_eq!(limit(&both), Some(30));
}

#[test]
fn the_file_for_browsers_is_used_where_weights_are_missing_or_the_architecture_is_not_known() {
    let file = |files: &MemoryResolver| match onnx_form(files).expect("a form") {
        OnnxForm::File(file) => file,
        OnnxForm::Bytes(_, file) => format!("made, beside {file}"),
    };
    let onnx = whole("hf-onnx/halves").files["onnx/model.onnx"].clone();
    let both = with(whole("hf/bert"), "onnx/model.onnx", onnx.clone());
    assert_eq!(file(&both), "made, beside model.onnx");
    let other = changed(both.clone(), "config.json", json!({"model_type": "unheard_of"}));
    assert_eq!(file(&other), "made, beside onnx/model.onnx");
    assert_eq!(file(&without(both.clone(), "model.safetensors")), "made, beside onnx/model.onnx");
    let plain = without(without(both, "modules.json"), "1_Pooling/config.json");
    assert_eq!(file(&plain), "onnx/model.onnx");
    assert_eq!(file(&with(plain, "model.onnx", onnx)), "model.onnx");
}

#[test]
fn files_that_pooling_cannot_be_added_to_are_refused() {
    let files = whole("hf-onnx/pooling-alone");
    let renamed = files.files["onnx/model.onnx"].to_vec();
    let at = |bytes: &[u8]| bytes.windows(9).position(|window| window == b"input_ids");
    let mut bytes = renamed;
    while let Some(found) = at(&bytes) {
        bytes[found..found + 9].copy_from_slice(b"input_idx");
    }
    let error = refusal(&with(files, "onnx/model.onnx", bytes));
    assert!(
        error.contains("has no input_ids; its inputs are input_idx, attention_mask"),
        "{error}"
    );
    let dense = json!({"in_features": 47});
    let error = refusal(&changed(whole("hf-onnx/old-operators"), "2_Dense/config.json", dense));
    assert!(error.contains("in_features 47, the vector before it has 48"), "{error}");
}

/// Attention on packed heads is one operator, whatever is done to queries and keys before.
#[test]
fn attention_is_fused_where_every_head_has_its_own_keys() {
    for (name, fused) in [
        ("distilbert", 2),
        ("albert", 4),
        ("mpnet", 2),
        ("modernbert", 4),
        ("nomic", 2),
        ("gte", 2),
        ("qwen3", 0),
        ("gemma", 0),
    ] {
        let program = loaded(&whole(&format!("hf/{name}"))).expect("loads").program;
        let counts = program.op_counts();
        let count = counts.iter().find(|(op, _)| *op == "Attention").map_or(0, |(_, count)| *count);
        assert_eq!(count, fused, "{name}: {program}");
    }
}
