//! Where models run.

use std::{fmt, str::FromStr};

/// One of our runtimes: a browser, or none, and a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// Name in options, results and tables.
    pub(crate) name: &'static str,
    /// The browser's name in `flotilla check`.
    pub(crate) browser: &'static str,
    /// The backend's name there.
    pub(crate) backend: &'static str,
}

/// The provider of onnxruntime-web.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// The processor, on one thread.
    Wasm,
    /// WebGPU; nodes that it does not have run on the processor.
    WebGpu,
}

/// A choice by name.
pub(crate) trait Named: Copy + 'static {
    /// Every one, in the order of tables.
    const ALL: &'static [Self];

    /// Its name in options.
    fn name(&self) -> &'static str;
}

impl Runtime {
    const fn new(name: &'static str, browser: &'static str, backend: &'static str) -> Runtime {
        Runtime { name, browser, backend }
    }
}

impl Named for Runtime {
    const ALL: &'static [Runtime] = &[
        Runtime::new("native-cpu", "native", "cpu"),
        Runtime::new("native-webgpu", "native", "webgpu"),
        Runtime::new("chrome-webgpu", "chrome", "webgpu"),
        Runtime::new("firefox-webgpu", "firefox", "webgpu"),
        Runtime::new("chrome-cpu", "chrome", "cpu"),
        Runtime::new("firefox-cpu", "firefox", "cpu"),
        Runtime::new("chrome-webnn", "chrome-webnn", "webnn"),
    ];

    fn name(&self) -> &'static str {
        self.name
    }
}

impl Provider {
    /// Name in results.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Provider::Wasm => "onnxruntime-web-wasm",
            Provider::WebGpu => "onnxruntime-web-webgpu",
        }
    }

    /// Our runtime with the same browser and processor.
    pub(crate) fn counterpart(self) -> &'static str {
        match self {
            Provider::Wasm => "chrome-cpu",
            Provider::WebGpu => "chrome-webgpu",
        }
    }
}

impl Named for Provider {
    const ALL: &'static [Provider] = &[Provider::Wasm, Provider::WebGpu];

    fn name(&self) -> &'static str {
        match self {
            Provider::Wasm => "wasm",
            Provider::WebGpu => "webgpu",
        }
    }
}

/// Some of them, each once and in the order of tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen<T: 'static>(pub(crate) Vec<T>);

impl<T: Named> FromStr for Chosen<T> {
    type Err = String;

    /// `all`, `none`, or names separated by commas.
    fn from_str(text: &str) -> Result<Chosen<T>, String> {
        let names: Vec<&str> = match text {
            "all" => return Ok(Chosen(T::ALL.to_vec())),
            "none" => Vec::new(),
            text => text.split(',').map(str::trim).collect(),
        };
        let known: Vec<&str> = T::ALL.iter().map(T::name).collect();
        match names.iter().find(|name| !known.contains(name)) {
            Some(name) => {
                Err(format!("there is no {name:?}; write all, none or some of {}", known.join(",")))
            }
            None => Ok(Chosen(
                T::ALL.iter().filter(|one| names.contains(&one.name())).copied().collect(),
            )),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_chosen_by_name() {
        let chosen = "chrome-cpu,native-cpu,chrome-cpu".parse::<Chosen<Runtime>>();
        let names: Vec<&str> =
            chosen.expect("known").0.iter().map(|runtime| runtime.name).collect();
        assert_eq!(names, ["native-cpu", "chrome-cpu"]);
        assert_eq!("none".parse(), Ok(Chosen::<Provider>(Vec::new())));
        assert_eq!("all".parse::<Chosen<Provider>>().map(|all| all.0.len()), Ok(2));
        let error = "wasm,native".parse::<Chosen<Provider>>().expect_err("not known");
        assert!(error.contains("\"native\"") && error.contains("wasm,webgpu"), "{error}");
    }

    #[test]
    fn every_provider_has_a_counterpart() {
        for provider in Provider::ALL {
            assert!(Runtime::ALL.iter().any(|runtime| runtime.name == provider.counterpart()));
        }
    }
}
