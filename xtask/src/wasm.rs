//! `cargo xtask wasm`: a crate as the two files that a page loads.

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

/// A crate for pages.
#[derive(Debug)]
struct Module<'a> {
    package: &'a str,
    /// The name of the files without their endings.
    name: &'a str,
    /// Where they go.
    folder: &'a Path,
}

/// Version of how the files are made; a change makes them again.
const RECIPE: u64 = 1;

/// The runtime, which is embedded in `flotilla`.
pub(crate) fn build(workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
    let module =
        Module { package: "flotilla-browser-runtime", name: "runtime", folder: &workspace.web };
    module.build(workspace, console)
}

/// The cases of web-platform-tests, which only `flotilla-wpt` serves.
pub(crate) fn build_wpt(workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
    let folder = workspace.target.join("wpt").join("web");
    Module { package: "flotilla-wpt-page", name: "wpt", folder: &folder }.build(workspace, console)
}

impl Module<'_> {
    /// Compiles the crate and, if its wasm has changed, makes the page's files from it.
    fn build(&self, workspace: &Workspace, console: &Console) -> anyhow::Result<()> {
        let Self { package, name, folder } = self;
        let toolchain = toolchain::find(workspace)?
            .context("there is no compiler for wasm: run `cargo xtask setup`")?;
        run(&mut toolchain.cargo(workspace, package))
            .with_context(|| format!("cannot compile {package} to wasm"))?;
        let compiled = toolchain.wasm(workspace, package);
        let wasm =
            fs::read(&compiled).with_context(|| format!("cannot read {}", compiled.display()))?;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(RECIPE);
        hasher.write(&wasm);
        let stamp = format!("{:016x}", hasher.finish());
        // Beside the folder and not in it: everything in the folder is watched by the build script of `web`.
        let stamp_file = folder.with_extension("stamp");
        let files = [format!("{name}.js"), format!("{name}_bg.wasm")];
        let there = files.iter().all(|file| folder.join(file).is_file());
        if there && fs::read_to_string(&stamp_file).is_ok_and(|made_of| made_of == stamp) {
            return Ok(());
        }
        let spinner = console.spinner(format!("writing {name}.js and its wasm"));
        let sizes = self.bind(wasm);
        spinner.finish_and_clear();
        for (file, bytes, packed) in sizes? {
            console.say(format!("{}: {bytes} bytes, {packed} packed", folder.join(file).display()));
        }
        fs::write(&stamp_file, stamp)
            .with_context(|| format!("cannot write {}", stamp_file.display()))
    }

    /// Writes the JavaScript, the wasm and their packed forms; returns their names and sizes.
    fn bind(&self, wasm: Vec<u8>) -> anyhow::Result<Vec<(String, usize, usize)>> {
        let Self { package, name, folder } = self;
        let mut bindgen = Bindgen::new();
        bindgen.input_bytes(name, wasm).typescript(false);
        bindgen.remove_name_section(true).remove_producers_section(true);
        let refused = || format!("wasm-bindgen refuses {package}");
        let mut output = bindgen.web(true)?.generate_output().with_context(refused)?;
        // The page's security policy and the embedding allow two files; a snippet would be a third one that is not served.
        let snippets: Vec<&String> = output
            .snippets()
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, _)| name)
            .collect();
        ensure!(
            snippets.is_empty() && output.local_modules().is_empty(),
            "{package} contains JavaScript of its own, which pages do not load: snippets {snippets:?}, modules {:?}",
            output.local_modules().keys()
        );
        let js = output.js().as_bytes().to_vec();
        let wasm = output.wasm_mut().emit_wasm();
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut sizes = Vec::new();
        for (file, bytes) in [(format!("{name}.js"), js), (format!("{name}_bg.wasm"), wasm)] {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(&bytes)?;
            let packed = encoder.finish()?;
            write_whole(folder, &file, &bytes)?;
            write_whole(folder, &format!("{file}.gz"), &packed)?;
            sizes.push((file, bytes.len(), packed.len()));
        }
        Ok(sizes)
    }
}

/// Writes through a rename, because another cargo may be embedding the file right now.
fn write_whole(folder: &Path, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let target = folder.join(file);
    let part = folder.with_file_name(format!("{file}.part"));
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, &target))
        .with_context(|| format!("cannot write {}", target.display()))
}
