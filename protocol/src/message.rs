//! The messages between daemon and page.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, PlacementId, RunId};

/// Version of these messages; a page with another version is refused. Raise it with every change of a message.
pub const PROTOCOL_VERSION: u32 = 8;

/// Which of a page's two links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Link {
    /// From the main thread: heartbeats, console.
    Control,
    /// From the worker: loads and runs.
    Data,
}

/// First frame on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the page's runtime.
    pub version: u32,
    /// The link's single-use token, from the page's address.
    pub token: String,
    /// Which link this is.
    pub link: Link,
    /// The browser's own name for itself (`navigator.userAgent`).
    pub user_agent: String,
}

/// Where inside a page a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// WebGPU through wgpu.
    WebGpu,
    /// WebNN.
    WebNn,
    /// wasm in a page, native code in a simulated browser.
    Cpu,
}

impl Backend {
    /// Lower-case name as in options and tables.
    pub fn name(self) -> &'static str {
        match self {
            Backend::WebGpu => "webgpu",
            Backend::WebNn => "webnn",
            Backend::Cpu => "cpu",
        }
    }

    /// Every backend, in the order in which they are tried unless something else is asked for.
    pub const ALL: [Backend; 3] = [Backend::WebGpu, Backend::WebNn, Backend::Cpu];

    /// Whether it computes on a device or context that the browser may take away.
    pub fn has_device(self) -> bool {
        match self {
            Backend::WebGpu | Backend::WebNn => true,
            Backend::Cpu => false,
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The kind of processor that WebNN is asked for (`MLDeviceType`). It is only a request: a browser may compute elsewhere without
/// reporting it.
/// Source: W3C, "Web Neural Network API", "MLContextOptions".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each variant is named after the processor")]
pub enum Device {
    Cpu,
    Gpu,
    Npu,
}

impl Device {
    /// Every device.
    pub const ALL: [Device; 3] = [Device::Cpu, Device::Gpu, Device::Npu];

    /// Lower-case name as in options and in WebNN.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Gpu => "gpu",
            Device::Npu => "npu",
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Console severities that a page forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant is named after the console's method")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// What executes a backend's work, as the browser names it; empty where the browser reports nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// `GPUAdapterInfo.vendor`.
    pub vendor: String,
    /// `GPUAdapterInfo.architecture`.
    pub architecture: String,
    /// `GPUAdapterInfo.device`.
    pub device: String,
    /// `GPUAdapterInfo.description`.
    pub description: String,
    /// Features and limits worth showing, such as `shader-f16`.
    pub features: Vec<String>,
    /// Largest storage-buffer binding in bytes; 0 where it has no meaning.
    pub binding_bytes_max: u64,
}

impl AdapterInfo {
    /// One line for tables: `vendor/architecture description`, or `(unnamed)`.
    pub fn label(&self) -> String {
        let parts: Vec<&str> = [
            self.vendor.as_str(),
            self.architecture.as_str(),
            self.device.as_str(),
            self.description.as_str(),
        ]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
        if parts.is_empty() { "(unnamed)".to_owned() } else { parts.join("/") }
    }
}

/// Whether a backend is available in a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendReport {
    /// The backend.
    pub backend: Backend,
    /// The processor that was asked for; webnn is asked for each.
    pub device: Option<Device>,
    /// What it runs on, or the browser's message of refusal.
    pub outcome: Result<AdapterInfo, String>,
}

/// Where a blob's bytes are loaded from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSource {
    /// URL prefix; the blob is at `<prefix>/<64 hexadecimal digits>`.
    pub url_prefix: String,
}

/// What a load requests, beside its backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadTerms {
    /// The processor that webnn is asked for; the browser's own choice without one.
    pub device: Option<Device>,
    /// Where the nodes run that the backend cannot run; without it a program that has such nodes is refused.
    pub rest: Option<Backend>,
    /// Values of the program's symbols in the runs to come: what depends on shapes is prepared for these during the load.
    pub sizes: Vec<i64>,
}

/// A node that a backend cannot run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedNode {
    /// Its name in the model.
    pub node: String,
    /// Its operator.
    pub op: String,
    /// What the backend cannot do.
    pub reason: String,
}

impl std::fmt::Display for RefusedNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.node, self.op, self.reason)
    }
}

/// How a program was split between two backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// How many parts run on the backend that was asked for.
    pub parts: u32,
    /// How many nodes these have.
    pub nodes: u32,
    /// Where the other nodes run.
    pub rest: Backend,
    /// The other nodes.
    pub elsewhere: Vec<RefusedNode>,
}

/// Daemon to page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToPage {
    /// The link is accepted.
    Welcome {
        /// How often the main thread sends [`FromPage::Heartbeat`].
        heartbeat_ms: u32,
    },
    /// The link is closed after this.
    Refused {
        /// Why, for the page's console.
        reason: String,
    },
    /// Answer with [`FromPage::Backends`]. Data link.
    Inspect,
    /// Load a program. Answered by any number of `LoadProgress` and one `Loaded` or `LoadFailed`. Data link.
    Load {
        /// Name of the placement.
        placement: PlacementId,
        /// Its epoch.
        epoch: Epoch,
        /// Where to run it; never replaced by another one.
        backend: Backend,
        /// Serialized program.
        program: Vec<u8>,
        /// Where the weights are.
        blobs: BlobSource,
        /// What else is requested.
        terms: LoadTerms,
    },
    /// Free a placement. No answer. Data link.
    Unload {
        /// The placement.
        placement: PlacementId,
    },
    /// Execute a placement; the frame carries the inputs in the program's order. Answered by `Ran` or `RunFailed`.
    /// Data link; runs are executed one after the other in the order of arrival.
    Run {
        /// Name of this execution.
        run: RunId,
        /// What to execute.
        placement: PlacementId,
        /// The epoch of the placement that is meant.
        epoch: Epoch,
    },
}

/// Page to daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromPage {
    /// First frame.
    Hello(Hello),
    /// The main thread is alive. Control link.
    Heartbeat,
    /// Something the page wrote to its console, or an uncaught error.
    Console {
        /// How bad.
        level: Level,
        /// The text.
        text: String,
    },
    /// Answer to `Inspect`.
    Backends(Vec<BackendReport>),
    /// Weights that have arrived so far.
    LoadProgress {
        /// The placement.
        placement: PlacementId,
        /// Its epoch.
        epoch: Epoch,
        /// Verified so far.
        done_bytes: u64,
        /// Of how many.
        total_bytes: u64,
    },
    /// The placement is warm: a first dispatch has been answered.
    Loaded {
        /// The placement.
        placement: PlacementId,
        /// Its epoch.
        epoch: Epoch,
        /// What it runs on.
        adapter: AdapterInfo,
        /// Which nodes run elsewhere; `None` when all run on the backend that was asked for.
        split: Option<Split>,
        /// How it went.
        report: LoadReport,
    },
    /// The placement could not be made.
    LoadFailed {
        /// The placement.
        placement: PlacementId,
        /// Its epoch.
        epoch: Epoch,
        /// Why.
        error: LoadError,
    },
    /// A run's results; the frame carries the outputs in the program's order.
    Ran {
        /// The run.
        run: RunId,
        /// The epoch of the placement that answered.
        epoch: Epoch,
        /// How it went.
        report: RunReport,
    },
    /// A run without results.
    RunFailed {
        /// The run.
        run: RunId,
        /// The epoch of the placement that failed.
        epoch: Epoch,
        /// Why.
        error: RunError,
    },
    /// A GPU device or a WebNN context was lost. Data link.
    DeviceLost {
        /// The backend that lost it.
        backend: Backend,
        /// Counts the backend's devices of this page, from 1.
        generation: u32,
        /// `GPUDeviceLostInfo.reason`, `MLContextLostInfo.message` or the like, from the browser.
        reason: String,
    },
}

/// Measurements of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// From the message's arrival to warm, in microseconds.
    pub load_us: u64,
    /// Bytes of the program's blobs, all of which the page has read.
    pub weights_bytes: u64,
    /// Bytes of memory that the backend holds the constants in: buffers of a device, or memory of the page.
    pub device_bytes: u64,
}

/// Measurements of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunReport {
    /// From decoded inputs to outputs in memory, in microseconds.
    pub run_us: u64,
    /// Pipelines created since the placement was loaded; warm shapes create none.
    pub pipelines_created: u32,
}

/// Why a program could not be loaded in a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum LoadError {
    #[error("backend {backend} is not available: {reason}")]
    BackendUnavailable { backend: Backend, reason: String },
    #[error("{backend} cannot run node {node} ({op}, {dtype}, {shape}): {reason}")]
    Unsupported {
        node: String,
        op: String,
        dtype: String,
        shape: String,
        backend: Backend,
        reason: String,
    },
    #[error("{backend} cannot run {} of the nodes: {}", nodes.len(), listed(nodes))]
    UnsupportedNodes { backend: Backend, nodes: Vec<RefusedNode> },
    #[error("program is not usable: {reason}")]
    Program { reason: String },
    #[error("blob {blob} could not be fetched: {reason}")]
    Fetch { blob: String, reason: String },
    #[error("blob {blob} does not have the contents its name promises")]
    Corrupt { blob: String },
    #[error("out of memory: {reason}")]
    OutOfMemory { reason: String },
    #[error("device was lost while loading: {reason}")]
    DeviceLost { reason: String },
}

/// Most nodes that a message names.
const NODES_NAMED_MAX: usize = 8;

/// The first nodes as text, and how many others there are.
fn listed(nodes: &[RefusedNode]) -> String {
    let mut named: Vec<String> =
        nodes.iter().take(NODES_NAMED_MAX).map(ToString::to_string).collect();
    if nodes.len() > NODES_NAMED_MAX {
        named.push(format!("and {} more", nodes.len() - NODES_NAMED_MAX));
    }
    named.join("; ")
}

/// Why a run has no results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum RunError {
    #[error("placement {placement} is not loaded here in epoch {epoch}")]
    NotLoaded { placement: PlacementId, epoch: Epoch },
    #[error("inputs do not fit: {reason}")]
    Inputs { reason: String },
    /// The program cannot be run on these inputs: sizes contradict each other, an index is outside of its dimension, an integer
    /// does not fit. Other browsers will fail in the same way, unless the cause is a limit of an adapter.
    #[error("node {node} failed: {reason}")]
    Node { node: String, reason: String },
    /// The backend has the operator, but not for the sizes of this run; another one may.
    #[error("{backend} does not take node {node} ({op}) at these sizes: {reason}")]
    Unsupported { backend: Backend, node: String, op: String, reason: String },
    #[error("out of memory: {reason}")]
    OutOfMemory { reason: String },
    #[error("device was lost: {reason}")]
    DeviceLost { reason: String },
    /// The backend failed at a node that it should have run.
    #[error("backend failed at node {node}: {reason}")]
    Backend { node: String, reason: String },
}
