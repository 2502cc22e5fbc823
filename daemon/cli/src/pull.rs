//! `flotilla pull`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::progress;

#[derive(Args)]
pub(crate) struct Options {
    /// A Hugging Face repository (sentence-transformers/all-MiniLM-L6-v2), or a folder.
    source: String,
    /// Where to put it. Default: the data folder, under the model's own name.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "a command's result")]
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let to = options.to.unwrap_or_else(|| {
        let name = options.source.trim_end_matches('/').rsplit('/').next().unwrap_or("model");
        flotilla::pull::models_dir().join(name)
    });
    let bar = progress::bytes(&options.source, 0);
    let pulled = flotilla::pull::pull(&options.source, &to, &|done, total| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let pulled = pulled?;
    if let Some(detour) = &pulled.detour {
        eprintln!("{detour}");
    }
    let state = if pulled.already_there { "is up to date" } else { "is complete" };
    println!(
        "{} {state}: {} files, {} bytes, checked",
        pulled.folder.display(),
        pulled.manifest.files.len(),
        pulled.manifest.bytes()
    );
    Ok(ExitCode::SUCCESS)
}
