//! The symbols of whole models that may be padded.

use std::fmt::Write;

use expect_test::{Expect, expect};
use flotilla_model::import::{LoadOptions, MemoryResolver, load};
use flotilla_program::Program;

use crate::models::{hf_bert, minilm, small};

fn check(resolver: &MemoryResolver, want: &Expect) {
    let model = load(resolver, &LoadOptions::named("model")).expect("loads");
    want.assert_eq(&text(&model.program));
}

/// The symbols that may be padded, in their order, and why the others may not.
fn text(program: &Program) -> String {
    let paddings = flotilla_model::padding::paddings(program);
    let mut text = String::new();
    let symbol = |index: u32| &program.symbols[index as usize];
    for padding in &paddings.allowed {
        write!(text, "{}", symbol(padding.symbol.0).name).expect("a string");
        for guard in &padding.guards {
            let name = &program.inputs[guard.input as usize].name;
            write!(text, ", a one along {} of {name}", guard.axis).expect("a string");
        }
        for limit in &padding.limits {
            let dim = program.dim_text(&limit.dim);
            write!(text, ", {dim} <= {}", limit.most).expect("a string");
        }
        text.push('\n');
    }
    for mixed in &paddings.refused {
        writeln!(text, "{mixed}").expect("a string");
    }
    text
}

#[test]
fn encoders_may_be_padded_along_batch_and_length() {
    check(
        &small("bert", &["model.onnx"]),
        &expect![[r#"
            seq, a one along 1 of attention_mask, seq <= 64
            batch
        "#]],
    );
    check(
        &small("roberta", &["model.onnx"]),
        &expect![[r#"
            seq, a one along 1 of attention_mask, seq <= 62
            batch, seq <= 62
        "#]],
    );
    check(
        &hf_bert(),
        &expect![[r#"
            S, a one along 1 of attention_mask, S <= 64
            B
        "#]],
    );
    if let Some(minilm) = minilm() {
        check(
            &minilm,
            &expect![[r#"
                S, a one along 1 of attention_mask, S <= 512
                B
            "#]],
        );
    }
}

#[test]
fn images_may_be_padded_along_the_batch() {
    for name in ["vit", "resnet"] {
        check(&small(name, &["model.onnx"]), &expect!["batch\n"]);
    }
}

#[test]
fn poolings_keep_padding_out() {
    let modules = r#"[
        {"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"}
    ]"#;
    let pooled = |mode: &str| {
        let mut resolver = hf_bert();
        let mut config = serde_json::json!({ "pooling_mode_mean_tokens": false });
        config[format!("pooling_mode_{mode}")] = true.into();
        resolver.files.insert("modules.json".to_owned(), modules.as_bytes().to_vec().into());
        resolver.files.insert("1_Pooling/config.json".to_owned(), config.to_string().into());
        resolver
    };
    let allowed = expect![[r#"
        S, a one along 1 of attention_mask, S <= 64
        B
    "#]];
    for mode in ["cls_token", "mean_tokens", "mean_sqrt_len_tokens", "max_tokens"] {
        check(&pooled(mode), &allowed);
    }
}
