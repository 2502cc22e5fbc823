//! The data link's answers, message by message.

mod bert;

use std::{collections::BTreeMap, task::Poll};

use flotilla_browser_runtime::{MemoryBlobs, Options, Peer};
use flotilla_program::BlobId;
use flotilla_protocol::{
    Backend, BlobSource, Device, Epoch, FromPage, LoadError, LoadTerms, PlacementId, RunError,
    RunId, ToPage,
};
use flotilla_tensor::Tensor;

const SIZES: bert::Sizes =
    bert::Sizes { layers: 1, hidden: 16, heads: 2, intermediate: 32, vocabulary: 20, positions: 8 };

fn peer(blobs: BTreeMap<BlobId, Vec<u8>>) -> Peer<MemoryBlobs> {
    Peer::new(Options::default(), MemoryBlobs { blobs, chunk_bytes: 7 })
}

fn tell(
    peer: &mut Peer<MemoryBlobs>,
    message: ToPage,
    tensors: Vec<Tensor>,
) -> Vec<(FromPage, Vec<Tensor>)> {
    let mut answers = Vec::new();
    let mut send = |message, tensors| answers.push((message, tensors));
    pollster::block_on(peer.handle(message, tensors, &mut send));
    answers
}

fn load(program: Vec<u8>, backend: Backend, epoch: u64) -> ToPage {
    load_as(1, program, backend, epoch)
}

fn load_as(placement: u64, program: Vec<u8>, backend: Backend, epoch: u64) -> ToPage {
    let blobs = BlobSource { url_prefix: "/blobs".to_owned() };
    let (placement, epoch, terms) = (PlacementId(placement), Epoch(epoch), LoadTerms::default());
    ToPage::Load { placement, epoch, backend, program, blobs, terms }
}

fn run(epoch: u64) -> ToPage {
    ToPage::Run { run: RunId(9), placement: PlacementId(1), epoch: Epoch(epoch) }
}

fn load_error(answers: &[(FromPage, Vec<Tensor>)]) -> &LoadError {
    match answers.last() {
        Some((FromPage::LoadFailed { error, .. }, _)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_placement_lives_in_its_epoch_only() {
    let (program, blobs) = bert::bert(SIZES);
    let mut peer = peer(blobs);
    let ids = Tensor::from_i64(vec![1, 2], &[3, 4]).unwrap();
    let inputs = vec![ids.clone(), Tensor::from_i64(vec![1, 2], &[1, 1]).unwrap()];

    let answers = tell(&mut peer, load(program.to_bytes().unwrap(), Backend::Cpu, 5), Vec::new());
    let total = program.blobs[0].bytes;
    assert!(answers.iter().any(|(message, _)| matches!(message,
        FromPage::LoadProgress { done_bytes, total_bytes, .. } if *done_bytes == total && *total_bytes == total)));
    assert!(
        matches!(answers.last(), Some((FromPage::Loaded { epoch: Epoch(5), .. }, _))),
        "{answers:?}"
    );

    let answers = tell(&mut peer, run(5), inputs.clone());
    let [(FromPage::Ran { run: RunId(9), epoch: Epoch(5), .. }, outputs)] = answers.as_slice()
    else {
        panic!("{answers:?}")
    };
    assert_eq!(outputs[0].shape, [1, 2, 16]);
    for stale in [4, 6] {
        let answers = tell(&mut peer, run(stale), inputs.clone());
        assert!(matches!(
            answers[0].0,
            FromPage::RunFailed { error: RunError::NotLoaded { .. }, .. }
        ));
    }
    let answers = tell(&mut peer, run(5), vec![ids]);
    assert!(matches!(answers[0].0, FromPage::RunFailed { error: RunError::Inputs { .. }, .. }));

    assert!(tell(&mut peer, ToPage::Unload { placement: PlacementId(1) }, Vec::new()).is_empty());
    let answers = tell(&mut peer, run(5), inputs);
    assert!(matches!(answers[0].0, FromPage::RunFailed { error: RunError::NotLoaded { .. }, .. }));
}

#[test]
fn what_cannot_be_loaded_is_refused_with_its_reason() {
    let (program, blobs) = bert::bert(SIZES);
    let bytes = program.to_bytes().unwrap();
    let id = program.blobs[0].id;

    let answers =
        tell(&mut peer(blobs.clone()), load(bytes.clone(), Backend::WebNn, 1), Vec::new());
    assert!(matches!(
        load_error(&answers),
        LoadError::BackendUnavailable { backend: Backend::WebNn, .. }
    ));

    let answers =
        tell(&mut peer(BTreeMap::new()), load(bytes.clone(), Backend::Cpu, 1), Vec::new());
    assert!(matches!(load_error(&answers), LoadError::Fetch { blob, .. } if *blob == id.to_hex()));

    let mut damaged = blobs.clone();
    damaged.get_mut(&id).unwrap()[100] ^= 1;
    let answers = tell(&mut peer(damaged), load(bytes.clone(), Backend::Cpu, 1), Vec::new());
    assert!(matches!(load_error(&answers), LoadError::Corrupt { blob } if *blob == id.to_hex()));

    for length in [10, program.blobs[0].bytes as usize + 4] {
        let mut cut = blobs.clone();
        cut.get_mut(&id).unwrap().resize(length, 0);
        let answers = tell(&mut peer(cut), load(bytes.clone(), Backend::Cpu, 1), Vec::new());
        assert!(matches!(load_error(&answers), LoadError::Corrupt { .. }));
    }
    let mut inconsistent = program.clone();
    inconsistent.nodes.last_mut().unwrap().inputs[0].0 = u32::MAX;
    for bytes in [bytes[..50].to_vec(), inconsistent.to_bytes().unwrap()] {
        let answers = tell(&mut peer(blobs.clone()), load(bytes, Backend::Cpu, 1), Vec::new());
        assert!(matches!(load_error(&answers), LoadError::Program { .. }), "{answers:?}");
    }
}

#[test]
fn inspection_names_every_backend() {
    let mut peer = peer(BTreeMap::new());
    let answers = tell(&mut peer, ToPage::Inspect, Vec::new());
    let [(FromPage::Backends(reports), _)] = answers.as_slice() else { panic!("{answers:?}") };
    let names: Vec<(Backend, Option<Device>)> =
        reports.iter().map(|report| (report.backend, report.device)).collect();
    let webnn = Device::ALL.map(|device| (Backend::WebNn, Some(device)));
    let want = [&[(Backend::WebGpu, None)], &webnn[..], &[(Backend::Cpu, None)]].concat();
    assert_eq!(names, want);
    assert!(reports[1..4].iter().all(|report| report.outcome.is_err()));
    assert!(reports[4].outcome.is_ok());
}

/// The subject of an answer, and whether it is a success.
fn name(message: &FromPage) -> String {
    match message {
        FromPage::Loaded { placement, .. } => format!("loaded {placement}"),
        FromPage::Ran { run, .. } => format!("ran {run}"),
        FromPage::RunFailed { run, .. } => format!("failed {run}"),
        FromPage::Backends(_) => "backends".to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_load_holds_up_only_what_needs_it() {
    let (program, blobs) = bert::bert(SIZES);
    let bytes = program.to_bytes().unwrap();
    let row = || Tensor::from_i64(vec![1, 2], &[1, 1]).unwrap();
    let run = |run: u64, placement: u64, epoch: u64| {
        let (run, placement) = (RunId(run), PlacementId(placement));
        (ToPage::Run { run, placement, epoch: Epoch(epoch) }, vec![row(), row()])
    };
    let load = |placement: u64, epoch: u64| {
        (load_as(placement, bytes.clone(), Backend::Cpu, epoch), Vec::new())
    };
    let plain = |message: ToPage| (message, Vec::new());
    // All of these have arrived before the first load has ended.
    let mut messages = vec![
        load(1, 1),
        run(1, 1, 1),
        load(2, 1),
        run(2, 2, 1),
        run(3, 1, 1),
        // Of a placement that does not exist.
        run(4, 3, 1),
        load(1, 2),
        run(5, 1, 2),
        run(6, 1, 1),
        plain(ToPage::Inspect),
        plain(ToPage::Unload { placement: PlacementId(2) }),
        run(7, 2, 1),
    ]
    .into_iter();
    let want = [
        "failed x4",
        "loaded p1",
        "ran x1",
        // While the second one loads.
        "ran x3",
        "loaded p2",
        "ran x2",
        // Freed while the first one loads again.
        "failed x7",
        "loaded p1",
        "ran x5",
        // Of the epoch before.
        "failed x6",
        "backends",
    ];
    let answers = std::cell::RefCell::new(Vec::new());
    let mut send = |message: FromPage, _| {
        if !matches!(message, FromPage::LoadProgress { .. }) {
            answers.borrow_mut().push(name(&message));
        }
    };
    // The link stays open until the last answer.
    let messages = futures_util::stream::poll_fn(|context| match messages.next() {
        Some(message) => Poll::Ready(Some(message)),
        None if answers.borrow().len() == want.len() => Poll::Ready(None),
        None => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    });
    pollster::block_on(peer(blobs).serve(messages, &mut send));
    assert_eq!(answers.into_inner(), want);
}
