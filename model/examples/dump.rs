//! Writes a model's program and blobs to a folder, for looking at and for other crates' experiments.
//!
//! `cargo run -p flotilla-model --example dump -- MODELDIR OUTDIR [--unfused]`: `OUTDIR/program.postcard`,
//! `OUTDIR/blobs/<hex>`, and the program as text on standard output.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use flotilla_model::import::{LoadOptions, Phase, ResolveError, Resolver, load};

struct Folder(PathBuf);

impl Resolver for Folder {
    fn read(&self, path: &str) -> Result<Bytes, ResolveError> {
        fs::read(self.0.join(path)).map(Bytes::from).map_err(|error| ResolveError::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    fn exists(&self, path: &str) -> bool {
        self.0.join(path).is_file()
    }
}

#[expect(clippy::print_stdout, reason = "the program as text is this example's output")]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, out, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: dump MODELDIR OUTDIR [--unfused]");
    };
    let mut options =
        LoadOptions::named(Path::new(model).file_name().unwrap_or_default().to_string_lossy());
    if rest.iter().any(|option| option == "--unfused") {
        options.phase = Phase::Imported;
    }
    let imported = load(&Folder(model.into()), &options)?;
    let blobs = Path::new(out).join("blobs");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    fs::write(Path::new(out).join("program.postcard"), imported.program.to_bytes()?)?;
    for (id, bytes) in &imported.weights.blobs {
        fs::write(blobs.join(id.to_hex()), bytes)?;
    }
    println!("{}", imported.program);
    println!("{:?}", imported.program.op_counts());
    Ok(())
}
