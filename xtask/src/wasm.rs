//! `cargo xtask wasm`: the runtime as the two files that a page loads.

pub(crate) mod toolchain;

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use wasm_bindgen_cli_support::Bindgen;

use crate::console::Console;
use crate::workspace::{Workspace, run};

/// The name of the files without their endings.
const NAME: &str = "runtime";

/// Changing how the files are made is a reason to make them again.
const RECIPE: u64 = 1;

/// Compiles the runtime and, unless its wasm is what it was the last time, makes the page's files from it.
pub(crate) fn build(workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
    let toolchain = toolchain::find(workspace)?
        .context("there is no compiler for wasm: run `cargo xtask setup`")?;
    run(&mut toolchain.cargo(workspace)).context("cannot compile the runtime to wasm")?;
    let compiled = toolchain.wasm(workspace);
    let wasm =
        fs::read(&compiled).with_context(|| format!("cannot read {}", compiled.display()))?;
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(RECIPE);
    hasher.write(&wasm);
    let stamp = format!("{:016x}", hasher.finish());
    // Beside the folder and not in it: everything in the folder is watched by the build script of `web`.
    let stamp_file = workspace.web.with_extension("stamp");
    let files = [format!("{NAME}.js"), format!("{NAME}_bg.wasm")];
    let there = files.iter().all(|file| workspace.web.join(file).is_file());
    if there && fs::read_to_string(&stamp_file).is_ok_and(|made_of| made_of == stamp) {
        return Ok(());
    }
    let spinner = console.spinner("writing the page's runtime");
    let sizes = bind(wasm, &workspace.web);
    spinner.finish_and_clear();
    for (file, bytes, packed) in sizes? {
        console
            .say(format!("{}: {bytes} bytes, {packed} packed", workspace.web.join(file).display()));
    }
    fs::write(&stamp_file, stamp).with_context(|| format!("cannot write {}", stamp_file.display()))
}

/// Writes `runtime.js` and `runtime_bg.wasm` and their packed forms into `folder`; returns their names and sizes.
fn bind(wasm: Vec<u8>, folder: &Path) -> anyhow::Result<Vec<(String, usize, usize)>> {
    let mut bindgen = Bindgen::new();
    bindgen.input_bytes(NAME, wasm).typescript(false);
    bindgen.remove_name_section(true).remove_producers_section(true);
    let mut output =
        bindgen.web(true)?.generate_output().context("wasm-bindgen refuses the runtime")?;
    // The page's security policy and the embedding know of two files; a snippet would be a third that nobody serves.
    let snippets: Vec<&String> = output
        .snippets()
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, _)| name)
        .collect();
    ensure!(
        snippets.is_empty() && output.local_modules().is_empty(),
        "the runtime brings JavaScript of its own, which a page would have to load beside it: snippets {snippets:?}, \
         modules {:?}",
        output.local_modules().keys()
    );
    let js = output.js().as_bytes().to_vec();
    let wasm = output.wasm_mut().emit_wasm();
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut sizes = Vec::new();
    for (file, bytes) in [(format!("{NAME}.js"), js), (format!("{NAME}_bg.wasm"), wasm)] {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&bytes)?;
        let packed = encoder.finish()?;
        write_whole(folder, &file, &bytes)?;
        write_whole(folder, &format!("{file}.gz"), &packed)?;
        sizes.push((file, bytes.len(), packed.len()));
    }
    Ok(sizes)
}

/// Writes through a rename, because another cargo may be embedding the file right now.
fn write_whole(folder: &Path, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let target = folder.join(file);
    let part = folder.with_file_name(format!("{file}.part"));
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, &target))
        .with_context(|| format!("cannot write {}", target.display()))
}
