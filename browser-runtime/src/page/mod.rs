//! Entry points of the runner page: the main thread's control link and the worker's data link.

mod blobs;
pub mod control;
mod socket;
pub mod worker;

/// Makes a panic visible: its text goes to the console, from where it is forwarded.
fn report_panics() {
    std::panic::set_hook(Box::new(|info| web_sys::console::error_1(&info.to_string().into())));
}
