//! Collects the runner page and the wasm runtime into one table that the library includes.
//!
//! A runtime that has not been built is no failure here: checks, lints and the tests of other crates must compile without a
//! wasm toolchain. The table then lacks it, and the library names the command that builds it.

use std::collections::hash_map::DefaultHasher;
use std::error::Error;
use std::fmt::Write as _;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What wasm-bindgen makes; everything else in the page is written by hand.
const RUNTIME: [&str; 2] = ["runtime.js", "runtime_bg.wasm"];

fn main() -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let workspace = manifest_dir.parent().ok_or("the crate lies in a workspace")?;
    println!("cargo::rerun-if-env-changed=FLOTILLA_WEB_DIR");
    let built = env::var_os("FLOTILLA_WEB_DIR")
        .map_or_else(|| workspace.join("target").join("web"), PathBuf::from);
    // Cargo reruns a script that watches a missing path on every build, and the daemon with it, so the folder is made.
    fs::create_dir_all(&built)?;
    let written = manifest_dir.join("runner");
    for watched in [&built, &written] {
        if watched.exists() {
            println!("cargo::rerun-if-changed={}", watched.display());
        }
    }

    let mut sources: Vec<PathBuf> = Vec::new();
    if written.exists() {
        for entry in fs::read_dir(&written)? {
            let path = entry?.path();
            if path.is_file() && content_type(&path).is_some() {
                sources.push(path);
            }
        }
    }
    let runtime: Vec<PathBuf> = RUNTIME.iter().map(|name| built.join(name)).collect();
    // The two files only work as a pair from the same build, so one alone is not used.
    if runtime.iter().all(|path| path.is_file()) {
        sources.extend(runtime);
    }
    sources.sort_by(|a, b| a.file_name().cmp(&b.file_name()));

    let mut table = String::from("&[\n");
    for source in &sources {
        write_row(&mut table, source, &out_dir)?;
    }
    table.push(']');
    fs::write(out_dir.join("assets.rs"), table)?;
    Ok(())
}

/// One row of the table. The bytes are copied to `OUT_DIR` so that the table never mixes two builds of the runtime.
fn write_row(table: &mut String, source: &Path, out_dir: &Path) -> Result<(), Box<dyn Error>> {
    let name = source.file_name().and_then(|name| name.to_str()).ok_or("file names are UTF-8")?;
    let content_type = content_type(source).ok_or_else(|| format!("no content type for {name}"))?;
    let bytes = fs::read(source)?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    let copy = out_dir.join(name);
    fs::write(&copy, &bytes)?;
    let packed = source.with_file_name(format!("{name}.gz"));
    let gzip = if packed.is_file() {
        let packed_copy = out_dir.join(format!("{name}.gz"));
        fs::copy(&packed, &packed_copy)?;
        format!("Some(include_bytes!({:?}))", packed_copy.display().to_string())
    } else {
        "None".to_owned()
    };
    writeln!(
        table,
        "    ({name:?}, Asset {{ bytes: include_bytes!({:?}), content_type: {content_type:?}, gzip: {gzip}, \
         etag: \"\\\"{:016x}\\\"\" }}),",
        copy.display().to_string(),
        hasher.finish()
    )?;
    Ok(())
}

fn content_type(path: &Path) -> Option<&'static str> {
    Some(match path.extension()?.to_str()? {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "wasm" => "application/wasm",
        _ => return None,
    })
}
