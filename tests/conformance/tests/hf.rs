//! Small Hugging Face folders of every architecture, on the native runtimes, compared with PyTorch.
#![expect(clippy::print_stdout, reason = "a skipped runtime is said so")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use flotilla_browser_runtime::{MemoryBlobs, Options, Placement, Runtime};
use flotilla_conformance::{compare::compare, native::Native};
use flotilla_model::{
    golden::{Golden, Names},
    import::{ImportedModel, LoadOptions, MemoryResolver, OnnxForm, load, onnx_form},
};
use flotilla_protocol::{Backend, BlobSource, LoadTerms};
use flotilla_tensor::Tensor;

/// Of the vectors of texts, which are written with seven decimals.
const DIFFERENCE_MAX: f32 = 2e-5;

/// Every folder: architectures, and ONNX files beside modules.
fn folders() -> Vec<PathBuf> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut folders = Vec::new();
    for (root, at_least) in [("hf", 19), ("hf-onnx", 5)] {
        let before = folders.len();
        let entries = fs::read_dir(models.join(root)).expect("kept with the sources");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        folders.extend(paths.filter(|path| path.is_dir()));
        assert!(folders.len() - before >= at_least, "{folders:?}");
    }
    folders.sort();
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().expect("a name").to_string_lossy().into_owned()
}

/// All files of a folder.
fn files(folder: &Path) -> MemoryResolver {
    fn add(files: &mut BTreeMap<String, bytes::Bytes>, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = format!("{prefix}{}", path.file_name().expect("a name").to_string_lossy());
            if path.is_dir() {
                add(files, &path, &format!("{name}/"));
            } else {
                files.insert(name, fs::read(&path).expect("a file").into());
            }
        }
    }
    let mut resolver = MemoryResolver::default();
    add(&mut resolver.files, folder, "");
    resolver
}

fn loaded(runtime: &mut Runtime, backend: Backend, model: &ImportedModel) -> Placement {
    let blobs = model.weights.blobs.iter().map(|(&id, bytes)| (id, bytes.to_vec())).collect();
    let mut blobs = MemoryBlobs { blobs, chunk_bytes: 0 };
    let source = BlobSource { url_prefix: String::new() };
    let (program, terms, mut ignored) = (model.program.clone(), LoadTerms::default(), |_, _| {});
    let load = runtime.load(backend, program, &terms, &mut blobs, &source, &mut ignored);
    pollster::block_on(load).unwrap_or_else(|error| panic!("{}: {error}", model.name))
}

fn run(placement: &mut Placement, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let ran = pollster::block_on(placement.run(inputs)).map_err(|error| error.to_string())?;
    Ok(ran.0)
}

/// A text with what sentence-transformers makes of it.
#[derive(serde::Deserialize)]
struct Row {
    prompt: Option<String>,
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

/// Compares a batch whose rows have different lengths, and texts from the tokenizer on.
fn check(backend: Backend) {
    if let Some(reason) = Native::new(backend).missing() {
        println!("skipped: {backend}: {reason}");
        return;
    }
    let mut runtime = Runtime::native(Options::default());
    let mut failures = Vec::new();
    for folder in folders() {
        let name = name(&folder);
        let files = files(&folder);
        let model = load(&files, &LoadOptions::named(name.as_str()));
        let model = model.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let is_file = files.files.contains_key("onnx/model.onnx");
        let family = if is_file { "Tensors" } else { "TextEmbedding" };
        assert!(format!("{:?}", model.family).starts_with(family), "{name}: {:?}", model.family);
        let mut placement = loaded(&mut runtime, backend, &model);
        let golden = Golden::parse(&files.files["io.safetensors"], &Names::default());
        let Golden { inputs, outputs } = golden.expect("a golden");
        let inputs = model.program.inputs.iter().map(|port| {
            let input = inputs.iter().find(|input| input.name == port.name);
            input.unwrap_or_else(|| panic!("{name}: {}", port.name)).tensor.clone()
        });
        let inputs: Vec<Tensor> = inputs.collect();
        match run(&mut placement, &inputs) {
            Ok(got) => {
                if let Err(reason) = compare(&got[0], &outputs[0]) {
                    failures.push(format!("{name}, a batch: {reason}"));
                }
            }
            Err(reason) => failures.push(format!("{name}, a batch: {reason}")),
        }
        let texts = files.files.get("texts.json");
        let rows = texts.map(|texts| serde_json::from_slice::<Vec<Row>>(texts).expect("texts"));
        for row in rows.unwrap_or_default() {
            let shown = format!("{name}, {:?} {:?}", row.prompt, row.text);
            if let Err(reason) = check_text(&model, &mut placement, &row) {
                failures.push(format!("{shown}: {reason}"));
            }
        }
    }
    assert!(failures.is_empty(), "{backend}:\n{}", failures.join("\n"));
}

fn check_text(model: &ImportedModel, placement: &mut Placement, row: &Row) -> Result<(), String> {
    let prompt = model.prompts.text(row.prompt.as_deref()).map_err(|error| error.to_string())?;
    let encoder = model.text.as_ref().ok_or("there is no tokenizer")?;
    let tokens = encoder.encode(&format!("{prompt}{}", row.text));
    let tokens = tokens.map_err(|error| error.to_string())?;
    if tokens.ids != row.ids {
        return Err(format!("tokens {:?}, {:?} expected", tokens.ids, row.ids));
    }
    let inputs = model.program.inputs.iter().map(|port| {
        let one = |&id: &u32| if port.name == "input_ids" { i64::from(id) } else { 1 };
        let values: Vec<i64> = tokens.ids.iter().map(one).collect();
        Tensor::from_i64(vec![1, values.len()], &values).expect("fits")
    });
    let inputs: Vec<Tensor> = inputs.collect();
    let got = run(placement, &inputs)?[0].to_f32().map_err(|error| error.to_string())?;
    let largest = row.vector.iter().fold(1.0f32, |most, number| most.max(number.abs()));
    let differs = |(a, b): (&f32, &f32)| (a - b).abs() > DIFFERENCE_MAX * largest;
    if got.len() != row.vector.len() || got.iter().zip(&row.vector).any(differs) {
        return Err(format!("{got:?}, {:?} expected", row.vector));
    }
    Ok(())
}

#[test]
fn cpu() {
    check(Backend::Cpu);
}

#[test]
fn webgpu() {
    check(Backend::WebGpu);
}

/// The ONNX form, which engines compute the reference of, is the same model: read as a file, it gives the same program.
#[test]
fn the_onnx_form_is_the_same_model() {
    for folder in folders() {
        let (name, files) = (name(&folder), files(&folder));
        let form = onnx_form(&files).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let OnnxForm::Bytes(bytes, _) = form else { panic!("{name} is no file") };
        // An ONNX file's external data lie beside it.
        let beside = files.files.iter().filter(|(path, _)| path.ends_with("_data"));
        let beside = beside.map(|(path, bytes)| {
            let name = path.rsplit('/').next().unwrap_or(path);
            (name.to_owned(), bytes.clone())
        });
        let mut file = MemoryResolver { files: beside.collect() };
        file.files.insert("model.onnx".to_owned(), bytes.into());
        let options = LoadOptions::named(name.as_str());
        let [ours, theirs] = [&files, &file].map(|files| load(files, &options).expect("loads"));
        assert_eq!(ours.program.to_string(), theirs.program.to_string(), "{name}");
    }
}
