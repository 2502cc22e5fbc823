//! The programs that are made of models.

use expect_test::expect;
use flotilla_model::import::{ImportedModel, LoadOptions, MemoryResolver, Phase, explain, load};
use flotilla_program::{Op, Program, Source};

use crate::models::{hf_bert, small};

fn imported(resolver: &MemoryResolver, phase: Phase) -> ImportedModel {
    load(resolver, &LoadOptions { phase, ..LoadOptions::named("model") }).expect("loads")
}

fn counts(program: &Program) -> String {
    program.op_counts().iter().map(|(name, count)| format!("{name} {count}\n")).collect()
}

#[test]
fn hugging_face_bert_fuses() {
    let program = imported(&hf_bert(), Phase::Fused).program;
    expect![[r#"
        program model (24 nodes)
        in  %0:I32[B,S] = input_ids (I64)
        in  %1:I32[B,S] = attention_mask (I64)
        %2:F32[B,S] = Elementwise{((F32(i0) - 1.0) * 3.4028235e38)}(%1:I32[B,S])  # mask.additive.numbers
        %3:F32[B,1,1,S] = Reshape(%2:F32[B,S])  # mask.additive
        %5:F32[B,S,32] = Gather{axis 0}($4:F32[200,32], %0:I32[B,S])  # embeddings.word_embeddings
        %7:F32[S,32] = Slice{axis 0, start 0, stride 1}($6:F32[64,32])  # embeddings.position_embeddings
        %9:F32[B,S,32] = Elementwise{((i0 + i1) + i2)}(%5:F32[B,S,32], $8:F32[1,32], %7:F32[S,32])  # embeddings.sum
        %12:F32[B,S,32] = LayerNorm{epsilon 1e-12}(%9:F32[B,S,32], $10:F32[32], $11:F32[32])  # embeddings.LayerNorm
        %15:F32[B,S,32] = MatMul{bias}(%12:F32[B,S,32], $13:F32[32,32], $14:F32[32])  # encoder.layer.0.attention.self.query
        %18:F32[B,S,32] = MatMul{bias}(%12:F32[B,S,32], $16:F32[32,32], $17:F32[32])  # encoder.layer.0.attention.self.key
        %21:F32[B,S,32] = MatMul{bias}(%12:F32[B,S,32], $19:F32[32,32], $20:F32[32])  # encoder.layer.0.attention.self.value
        %22:F32[B,S,32] = Attention{heads 4, scale 0.35355338, mask}(%15:F32[B,S,32], %18:F32[B,S,32], %21:F32[B,S,32], %3:F32[B,1,1,S])  # encoder.layer.0.attention.self.joined
        %25:F32[B,S,32] = MatMul{bias}(%22:F32[B,S,32], $23:F32[32,32], $24:F32[32])  # encoder.layer.0.attention.output.dense
        %28:F32[B,S,32] = LayerNorm{epsilon 1e-12, residual}(%25:F32[B,S,32], $26:F32[32], $27:F32[32], %12:F32[B,S,32])  # encoder.layer.0.attention.output.LayerNorm
        %31:F32[B,S,64] = MatMul{bias, geluerf}(%28:F32[B,S,32], $29:F32[32,64], $30:F32[64])  # encoder.layer.0.intermediate.activation
        %34:F32[B,S,32] = MatMul{bias}(%31:F32[B,S,64], $32:F32[64,32], $33:F32[32])  # encoder.layer.0.output.dense
        %37:F32[B,S,32] = LayerNorm{epsilon 1e-12, residual}(%34:F32[B,S,32], $35:F32[32], $36:F32[32], %28:F32[B,S,32])  # encoder.layer.0.output.LayerNorm
        %40:F32[B,S,32] = MatMul{bias}(%37:F32[B,S,32], $38:F32[32,32], $39:F32[32])  # encoder.layer.1.attention.self.query
        %43:F32[B,S,32] = MatMul{bias}(%37:F32[B,S,32], $41:F32[32,32], $42:F32[32])  # encoder.layer.1.attention.self.key
        %46:F32[B,S,32] = MatMul{bias}(%37:F32[B,S,32], $44:F32[32,32], $45:F32[32])  # encoder.layer.1.attention.self.value
        %47:F32[B,S,32] = Attention{heads 4, scale 0.35355338, mask}(%40:F32[B,S,32], %43:F32[B,S,32], %46:F32[B,S,32], %3:F32[B,1,1,S])  # encoder.layer.1.attention.self.joined
        %50:F32[B,S,32] = MatMul{bias}(%47:F32[B,S,32], $48:F32[32,32], $49:F32[32])  # encoder.layer.1.attention.output.dense
        %53:F32[B,S,32] = LayerNorm{epsilon 1e-12, residual}(%50:F32[B,S,32], $51:F32[32], $52:F32[32], %37:F32[B,S,32])  # encoder.layer.1.attention.output.LayerNorm
        %56:F32[B,S,64] = MatMul{bias, geluerf}(%53:F32[B,S,32], $54:F32[32,64], $55:F32[64])  # encoder.layer.1.intermediate.activation
        %59:F32[B,S,32] = MatMul{bias}(%56:F32[B,S,64], $57:F32[64,32], $58:F32[32])  # encoder.layer.1.output.dense
        %62:F32[B,S,32] = LayerNorm{epsilon 1e-12, residual}(%59:F32[B,S,32], $60:F32[32], $61:F32[32], %53:F32[B,S,32])  # encoder.layer.1.output.LayerNorm
        must S == min(64,S)  # embeddings.sum: dimensions that broadcast
        out %62:F32[B,S,32] = last_hidden_state (F32)
    "#]].assert_eq(&program.to_string());
}

#[test]
fn onnx_models_fuse() {
    let bert = imported(&small("bert", &["model.onnx"]), Phase::Fused).program;
    expect![[r#"
        MatMul 13
        LayerNorm 5
        Gather 4
        Elementwise 3
        Attention 2
        Reshape 2
        Slice 2
        Broadcast 1
    "#]]
    .assert_eq(&counts(&bert));
    let roberta = imported(&small("roberta", &["model.onnx"]), Phase::Fused).program;
    expect![[r#"
        MatMul 12
        Elementwise 5
        LayerNorm 5
        Gather 4
        Attention 2
        Cumulative 1
        Reshape 1
    "#]]
    .assert_eq(&counts(&roberta));
    // Normalizations, shortcuts and activations are fused into the convolutions.
    let resnet = imported(&small("resnet", &["model.onnx"]), Phase::Fused).program;
    expect![[r#"
        Conv 6
        MatMul 1
        Pool 1
        Reduce 1
        Reshape 1
    "#]]
    .assert_eq(&counts(&resnet));
}

#[test]
fn the_unfused_program_has_the_same_ports_and_no_fused_operators() {
    for resolver in [hf_bert(), small("bert", &["model.onnx"]), small("roberta", &["model.onnx"])] {
        let (plain, fused) = (
            imported(&resolver, Phase::Imported).program,
            imported(&resolver, Phase::Fused).program,
        );
        let ports = |program: &Program| {
            let of =
                |port: &flotilla_program::Port| (port.name.clone(), program.value_text(port.value));
            (
                program.inputs.iter().map(of).collect::<Vec<_>>(),
                program.outputs.iter().map(of).collect::<Vec<_>>(),
            )
        };
        assert_eq!(ports(&plain), ports(&fused));
        assert!(!plain.nodes.iter().any(|node| matches!(node.op, Op::Attention(_))));
        assert!(fused.nodes.len() * 3 < plain.nodes.len() * 2);
    }
}

#[test]
fn constants_are_in_the_weights() {
    let model = imported(&hf_bert(), Phase::Fused);
    for value in &model.program.values {
        if let Source::Constant(constant) = value.source {
            assert_eq!(
                model.weights.constant(constant).map(|bytes| bytes.len() as u64),
                Some(constant.bytes)
            );
            assert_eq!(constant.offset % 16, 0);
        }
    }
    let listed: u64 = model.program.blobs.iter().map(|blob| blob.bytes).sum();
    assert_eq!(listed, model.weights.bytes());
}

#[test]
fn weights_of_right_operands_are_rows_of_k_by_n() {
    let program = imported(&hf_bert(), Phase::Fused).program;
    for node in &program.nodes {
        if let Op::MatMul(matmul) = &node.op {
            assert!(!matmul.transpose_b, "{}", node.name);
            assert!(
                matches!(program.value(node.inputs[1]).source, Source::Constant(_)),
                "{}",
                node.name
            );
        }
    }
}

#[test]
fn every_phase_can_be_printed() {
    for phase in Phase::ALL {
        let text = explain(&hf_bert(), &LoadOptions { phase, ..LoadOptions::named("model") })
            .expect("explains");
        assert!(text.contains("encoder.layer.1"), "{phase}");
    }
}

#[test]
fn poolings_are_imported() {
    let modules = r#"[
        {"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
        {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"}
    ]"#;
    for mode in ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens"] {
        let mut resolver = hf_bert();
        let mut config = serde_json::json!({ "pooling_mode_mean_tokens": false });
        config[format!("pooling_mode_{mode}")] = true.into();
        resolver.files.insert("modules.json".to_owned(), modules.as_bytes().to_vec().into());
        resolver.files.insert("1_Pooling/config.json".to_owned(), config.to_string().into());
        let program = imported(&resolver, Phase::Fused).program;
        assert_eq!(program.outputs.len(), 1);
        assert_eq!(program.outputs[0].name, "sentence_embedding");
        assert_eq!(program.value_text(program.outputs[0].value), "F32[B,32]", "{mode}");
    }
}
