//! `flotilla-differential`: random graphs, computed by our engine and by onnxruntime.
#![expect(clippy::print_stdout, reason = "this program's results are what it prints")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use flotilla_conformance::outcome::RuntimeName;
use flotilla_differential::{
    case::Case,
    judge::{Failure, Judge, Outcome, library},
    proto, shrink,
    tally::Tally,
    text,
};

/// Longest time for one graph, its reduction included.
const CASE_MAX: Duration = Duration::from_secs(300);
/// Code without optimization needs a large stack for graphs that are walked recursively.
const STACK_BYTES: usize = 64 << 20;

#[derive(Parser)]
#[command(about = "Random graphs, computed by us and by onnxruntime", version)]
struct Arguments {
    /// How many graphs.
    #[arg(long, default_value_t = 2000)]
    count: u64,
    /// Seed of the first graph; the others have those that follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where our programs run: native-cpu, native-webgpu, chrome-webgpu, firefox-webgpu, chrome-cpu, chrome-webnn.
    #[arg(long, default_value = "native-cpu")]
    runtime: RuntimeName,
    /// Show one graph, its inputs and its outcome.
    #[arg(long)]
    replay: Option<u64>,
    /// Graphs that are judged at once.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Write each graph that fails, and the smallest one that fails in the same way, into this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Do not make failures small.
    #[arg(long)]
    whole: bool,
}

/// A case that was judged, with the smallest one that fails in the same way.
struct Judged {
    case: Case,
    outcome: Outcome,
    smallest: Option<(Case, Failure)>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no graph failed.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let library = library().map_err(anyhow::Error::msg)?;
    let (first, count) = match arguments.replay {
        Some(seed) => (seed, 1),
        None => (arguments.seed, arguments.count),
    };
    let next = Arc::new(AtomicU64::new(first));
    let (sender, judged) = mpsc::sync_channel(arguments.threads.max(1));
    let mut threads = Vec::new();
    for _ in 0..arguments.threads.max(1) {
        let (next, sender, library) = (next.clone(), sender.clone(), library.clone());
        let (runtime, whole) = (arguments.runtime, arguments.whole);
        let work = move || {
            let mut judge = match Judge::new(library, runtime) {
                Ok(judge) => judge,
                Err(error) => return drop(sender.send(Err(error))),
            };
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first.saturating_add(count)
                    || sender.send(Ok(judge_seed(&mut judge, seed, whole))).is_err()
                {
                    return judge.end();
                }
            }
        };
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
        threads.push(thread.context("cannot start a thread")?);
    }
    drop(sender);
    let mut tally = Tally::default();
    for _ in 0..count {
        let one = judged.recv_timeout(CASE_MAX).with_context(|| {
            format!("a graph below seed {} hangs or ended its thread", next.load(Ordering::Relaxed))
        })??;
        tally.add(&one.case, &one.outcome);
        print_judged(arguments, &one)?;
    }
    drop(judged);
    for thread in threads {
        // A browser is ended by its thread.
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked at its end"))?;
    }
    print!("{}", tally.text());
    for (seed, failure) in &tally.failures {
        println!("seed {seed}: {failure}");
    }
    Ok(tally.failures.is_empty())
}

fn judge_seed(judge: &mut Judge, seed: u64, whole: bool) -> Judged {
    let case = Case::of_seed(seed);
    let outcome = judge.judge(&case);
    let smallest = match &outcome {
        Outcome::Failed(failure) if !whole => Some(shrink::smallest(judge, &case, failure)),
        _ => None,
    };
    Judged { case, outcome, smallest }
}

fn print_judged(arguments: &Arguments, one: &Judged) -> anyhow::Result<()> {
    let seed = one.case.seed;
    if arguments.replay.is_some() {
        println!("{}", text::shown(&one.case));
        println!("seed {seed}: {:?}", one.outcome);
    }
    let Outcome::Failed(failure) = &one.outcome else { return Ok(()) };
    println!("seed {seed} failed: {failure}");
    if let Some((case, failure)) = &one.smallest {
        println!("what is left of it: {failure}\n{}", text::shown(case));
    }
    let Some(folder) = &arguments.keep else { return Ok(()) };
    keep(&folder.join(seed.to_string()), &one.case)?;
    match &one.smallest {
        Some((case, _)) => keep(&folder.join(format!("{seed}-small")), case),
        None => Ok(()),
    }
}

/// Writes a case in the format of ONNX's suite: a model, and a folder of inputs for each run.
fn keep(folder: &Path, case: &Case) -> anyhow::Result<()> {
    let write = |path: PathBuf, bytes: Vec<u8>| {
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write(folder.join("model.onnx"), case.bytes())?;
    for (run, inputs) in case.runs.iter().enumerate() {
        for (at, input) in inputs.iter().enumerate() {
            let path = folder.join(format!("test_data_set_{run}/input_{at}.pb"));
            write(path, proto::file_of(input))?;
        }
    }
    Ok(())
}
