//! The state machine.
use crate::{config::Config, event::{Action, Event, Instant, SlotId, ModelId}};
use flotilla_protocol::{Backend, BrowserId};
/// The state machine.
pub struct Fleet {}
/// Placeholder while the core is written.
#[derive(Clone, Debug)]
pub struct Status { /** slots */ pub slots: Vec<SlotStatus>, /** waiting requests */ pub queued: u32, /** in flight */ pub running: u32, /** models */ pub models: Vec<ModelStatus> }
/// One slot.
#[derive(Clone, Debug)]
pub struct SlotStatus { /** slot */ pub slot: SlotId, /** kind */ pub kind: String, /** browser */ pub browser: Option<BrowserId>, /** state name: starting, ready, recovering, retired.. */ pub state: &'static str, /** last failure's words */ pub last_failure: Option<String>, /** placements */ pub placements: Vec<PlacementStatus> }
/// One placement.
#[derive(Clone, Debug)]
pub struct PlacementStatus { /** model */ pub model: ModelId, /** backend */ pub backend: Backend, /** loading, ready */ pub state: &'static str }
/// One model.
#[derive(Clone, Debug)]
pub struct ModelStatus { /** model */ pub model: ModelId, /** ready placements */ pub ready: u32, /** why it can never be served, when that is known */ pub unplaceable: Option<String> }
impl Fleet {
    /// new
    pub fn new(_config: Config) -> Fleet { Fleet {} }
    /// handle
    pub fn handle(&mut self, _now: Instant, _event: Event) {}
    /// next
    pub fn poll_action(&mut self) -> Option<Action> { None }
    /// when
    pub fn poll_timeout(&self) -> Option<Instant> { None }
    /// status
    pub fn status(&self) -> Status { Status { slots: vec![], queued: 0, running: 0, models: vec![] } }
}
