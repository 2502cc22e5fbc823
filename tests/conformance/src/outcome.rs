//! How a case ended.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// How far a case came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its files could not be read.
    Read,
    /// The model could not be imported or lowered.
    Import,
    /// The backend refused the program's nodes: WebNN does not have every operator.
    Refuse,
    /// The program could not be loaded.
    Load,
    /// The program could not be run.
    Run,
    /// The results are wrong.
    Compare,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Read => "read",
            Stage::Import => "import",
            Stage::Refuse => "refuse",
            Stage::Load => "load",
            Stage::Run => "run",
            Stage::Compare => "compare",
        })
    }
}

/// Where and why a case failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// How far it came.
    pub stage: Stage,
    /// Why not further, in one line.
    pub reason: String,
}

impl Failure {
    /// A failure at a stage.
    pub fn new(stage: Stage, reason: impl fmt::Display) -> Failure {
        let reason = reason.to_string();
        Failure { stage, reason: reason.split_whitespace().collect::<Vec<_>>().join(" ") }
    }

    /// With the causes of an error.
    pub fn of(stage: Stage, error: &dyn std::error::Error) -> Failure {
        let mut words = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_words = cause.to_string();
            // A transparent error has its cause's message.
            if !words.ends_with(&cause_words) {
                words = format!("{words}: {cause_words}");
            }
            source = cause.source();
        }
        Failure::new(stage, words)
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A kernel ran, and every output is right.
    Passed,
    /// Every output is right, and no kernel had to run: outputs are inputs under another shape, or constants.
    NoKernel,
    /// The backend does not have an operator, and refused it before anything ran.
    Refused(Failure),
    /// An output is wrong or was never computed.
    Failed(Failure),
}

/// Where programs are run. All of them are `browser-runtime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuntimeName {
    /// The cpu backend as native code.
    NativeCpu,
    /// The webgpu backend as native code, on Vulkan.
    NativeWebgpu,
    /// The webgpu backend in Chrome.
    ChromeWebgpu,
    /// The webgpu backend in Firefox.
    FirefoxWebgpu,
    /// The cpu backend in Chrome, as wasm.
    ChromeCpu,
    /// The webnn backend in chrome-webnn.
    ChromeWebnn,
}

impl RuntimeName {
    /// All of them, cheapest first.
    pub const ALL: [RuntimeName; 6] = [
        RuntimeName::NativeCpu,
        RuntimeName::NativeWebgpu,
        RuntimeName::ChromeWebgpu,
        RuntimeName::FirefoxWebgpu,
        RuntimeName::ChromeCpu,
        RuntimeName::ChromeWebnn,
    ];

    /// The name in options, reports and the table of expected failures.
    pub fn name(self) -> &'static str {
        match self {
            RuntimeName::NativeCpu => "native-cpu",
            RuntimeName::NativeWebgpu => "native-webgpu",
            RuntimeName::ChromeWebgpu => "chrome-webgpu",
            RuntimeName::FirefoxWebgpu => "firefox-webgpu",
            RuntimeName::ChromeCpu => "chrome-cpu",
            RuntimeName::ChromeWebnn => "chrome-webnn",
        }
    }
}

impl fmt::Display for RuntimeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for RuntimeName {
    type Err = String;

    fn from_str(text: &str) -> Result<RuntimeName, String> {
        RuntimeName::ALL.into_iter().find(|runtime| runtime.name() == text).ok_or_else(|| {
            format!(
                "no runtime is called {text:?}; there are {}",
                RuntimeName::ALL.map(RuntimeName::name).join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_known_by_name() {
        for runtime in RuntimeName::ALL {
            assert_eq!(runtime.name().parse(), Ok(runtime));
        }
        assert!("native".parse::<RuntimeName>().is_err());
    }

    #[test]
    fn a_reason_is_one_line_with_its_causes() {
        let error = std::io::Error::other(std::fmt::Error);
        let failure = Failure::of(Stage::Run, &error);
        assert_eq!(failure.reason, std::fmt::Error.to_string());
        assert_eq!(Failure::new(Stage::Run, "a\n  b").reason, "a b");
    }
}
