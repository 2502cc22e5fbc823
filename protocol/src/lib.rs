//! Messages and binary frames between daemon and page; version handshake. No IO.
//!
//! A page opens two links: *control* from its main thread and *data* from its worker. The first frame on a link is the
//! page's [`Hello`]; the daemon answers [`ToPage::Welcome`] or [`ToPage::Refused`] and, on refusal, closes.

pub mod frame;
pub mod ids;
pub mod message;

pub use frame::{FRAME_BYTES_MAX, FrameError, decode, encode};
pub use ids::{BrowserId, Epoch, IdError, Incarnation, PlacementId, RequestId, RunId};
pub use message::{
    AdapterInfo, Backend, BackendReport, BlobSource, Device, FromPage, Hello, Level, Link,
    LoadError, LoadReport, LoadTerms, PROTOCOL_VERSION, RefusedNode, RunError, RunReport, Split,
    ToPage,
};
