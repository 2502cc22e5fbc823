//! The runner page and its runtime as embedded files.
//!
//! The page's own files come from `web/runner`; the runtime comes from the folder named by `FLOTILLA_WEB_DIR` at build time,
//! `target/web` of the workspace unless set. A binary that was built before the runtime still links: [`missing`] then returns
//! what to do.

/// One embedded file and what HTTP needs to serve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// The file as it is.
    pub bytes: &'static [u8],
    /// For the `Content-Type` header.
    pub content_type: &'static str,
    /// The same file packed with gzip, for a client that accepts it.
    pub gzip: Option<&'static [u8]>,
    /// A fingerprint of the bytes with its quotes, for the `ETag` header.
    pub etag: &'static str,
}

/// Sorted by name; written by the build script.
static ASSETS: &[(&str, Asset)] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The files that wasm-bindgen makes of the runtime; the page does not work without them.
const RUNTIME: [&str; 2] = ["runtime.js", "runtime_bg.wasm"];

/// The file of the runner page with this name (`index.html`, `worker.js`, `runtime.js`, `runtime_bg.wasm`).
#[must_use]
pub fn runner_asset(name: &str) -> Option<Asset> {
    let index = ASSETS.binary_search_by(|(key, _)| (*key).cmp(name)).ok()?;
    Some(ASSETS[index].1)
}

/// The names of all embedded files, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    ASSETS.iter().map(|(name, _)| *name)
}

/// Why no page can run, if the runtime was not there when this binary was built.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if RUNTIME.iter().all(|name| runner_asset(name).is_some()) {
        return None;
    }
    Some(
        "this binary was built without the wasm runtime: run `cargo xtask wasm`, then build it again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_nothing_else() {
        for name in names() {
            assert!(runner_asset(name).is_some_and(|asset| !asset.bytes.is_empty()), "{name}");
        }
        for name in ["", "../index.html", "index.htm", "zzz"] {
            assert!(runner_asset(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_runtime_is_a_pair_or_missing() {
        let present = RUNTIME.iter().filter(|name| runner_asset(name).is_some()).count();
        assert_eq!(present, if missing().is_some() { 0 } else { RUNTIME.len() });
    }

    #[test]
    fn the_runtime_is_wasm_and_packed() {
        let Some(wasm) = runner_asset("runtime_bg.wasm") else {
            println!("skipped: {}", missing().expect("the runtime is absent"));
            return;
        };
        assert_eq!(wasm.content_type, "application/wasm");
        assert!(wasm.bytes.starts_with(b"\0asm"));
        assert!(wasm.gzip.is_some_and(
            |packed| packed.starts_with(&[0x1f, 0x8b]) && packed.len() < wasm.bytes.len()
        ));
    }

    #[test]
    fn etags_are_quoted() {
        for name in names() {
            let etag = runner_asset(name).expect("listed").etag;
            assert!(
                etag.len() == 18 && etag.starts_with('"') && etag.ends_with('"'),
                "{name}: {etag}"
            );
        }
    }
}
