use flotilla_model::import::{LoadOptions, MemoryResolver, load};
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let mut resolver = MemoryResolver::default();
    resolver.files.insert("model.onnx".to_owned(), bytes.into());
    let model = load(&resolver, &LoadOptions::named("x")).unwrap();
    let text = format!("{}", model.program);
    println!("{}", &text[..text.len().min(6000)]);
    for value in &model.program.values {
        if let flotilla_program::Source::Constant(c) = value.source {
            println!("{:?} {:?} {:?} {}", value.dtype, value.shape, c.dtype, c.bytes);
        }
    }
}
