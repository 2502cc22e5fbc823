//! Which route to WebGPU Chromium takes on this machine.

use crate::browser::Adapter;

/// Decides `Auto`: the machine's GPU where the system shows one, else Mesa's OpenGL ES, the faster of the two software
/// routes wherever it was measured (`cargo xtask bench` measures both).
pub fn decide(wish: Adapter) -> Adapter {
    match wish {
        Adapter::Auto if has_gpu() => Adapter::Hardware,
        Adapter::Auto => Adapter::Gles,
        Adapter::Hardware | Adapter::Swiftshader | Adapter::Gles => wish,
    }
}

/// Whether the system shows a render node: a GPU that a process may compute on. Other systems always have one.
fn has_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    std::fs::read_dir("/dev/dri")
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("renderD")))
}
