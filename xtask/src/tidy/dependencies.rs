//! Dependencies between our crates point one way.

use std::path::Path;

use super::Violation;
use crate::workspace::{Dependency, Package};

/// A crate and what it may use.
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
    why: &'static str,
}

const TENSOR: &str = "flotilla-tensor";
const PROGRAM: &str = "flotilla-program";
const PROTOCOL: &str = "flotilla-protocol";
const KERNELS: &str = "flotilla-kernels";
const MODEL: &str = "flotilla-model";
const REFERENCE: &str = "flotilla-reference";
const RUNTIME: &str = "flotilla-browser-runtime";
const FLEET: &str = "flotilla-fleet";
const BROWSERS: &str = "flotilla-browsers";
const STORE: &str = "flotilla-store";
const DAEMON: &str = "flotilla";
const CHECK: &str = "flotilla-check";
const CLI: &str = "flotilla-cli";
const WEB: &str = "flotilla-web";
const WEBNN: &str = "flotilla-webnn";
const FAULTS: &str = "flotilla-fault-injection";
const SIMULATOR: &str = "flotilla-simulator";
const TESTS: &str = "flotilla-tests";
const CONFORMANCE: &str = "flotilla-conformance";
const DIFFERENTIAL: &str = "flotilla-differential";
const WPT: &str = "flotilla-wpt";
const WPT_PAGE: &str = "flotilla-wpt-page";
const XTASK: &str = "xtask";

const LAYERS: [Layer; 23] = [
    Layer { name: TENSOR, may_use: &[], why: "everybody who holds data uses it, in the page too" },
    Layer {
        name: PROGRAM,
        may_use: &[TENSOR],
        why: "it goes into the page, and with it all it depends on",
    },
    Layer {
        name: PROTOCOL,
        may_use: &[TENSOR],
        why: "both ends of a link share it, so it carries a Program as bytes",
    },
    Layer {
        name: KERNELS,
        may_use: &[TENSOR, PROGRAM],
        why: "it goes into the page, where there are no importers",
    },
    Layer {
        name: MODEL,
        may_use: &[TENSOR, PROGRAM, KERNELS],
        why: "it makes programs, and somebody else runs them",
    },
    Layer {
        name: REFERENCE,
        may_use: &[TENSOR, MODEL],
        why: "it answers without anything that is compared with it",
    },
    Layer { name: WEB, may_use: &[], why: "it is only files" },
    Layer { name: WEBNN, may_use: &[], why: "it declares a browser's API and nothing of ours" },
    Layer {
        name: FLEET,
        may_use: &[PROTOCOL],
        why: "it decides and does nothing, so it knows nobody who does",
    },
    Layer {
        name: RUNTIME,
        may_use: &[TENSOR, PROGRAM, PROTOCOL, KERNELS, WEBNN],
        why: "it runs in a page, where there are no importers, no fleet and no daemon",
    },
    Layer {
        name: BROWSERS,
        may_use: &[PROTOCOL, FLEET],
        why: "it opens a page and does not know what the page computes",
    },
    Layer { name: STORE, may_use: &[PROTOCOL, FLEET], why: "it keeps records and runs nothing" },
    Layer {
        name: DAEMON,
        may_use: &[TENSOR, PROGRAM, PROTOCOL, MODEL, WEB, FLEET, RUNTIME, BROWSERS, STORE],
        why: "it carries out what fleet decides",
    },
    Layer {
        name: CHECK,
        may_use: &[
            TENSOR, PROGRAM, PROTOCOL, MODEL, REFERENCE, WEB, FLEET, RUNTIME, BROWSERS, DAEMON,
        ],
        why: "it compares what a daemon answers with what is right",
    },
    Layer {
        name: CLI,
        may_use: &[PROTOCOL, REFERENCE, WEB, FLEET, DAEMON, CHECK, FAULTS, SIMULATOR],
        why: "it is a command line over libraries",
    },
    Layer {
        name: SIMULATOR,
        may_use: &[PROTOCOL, FLEET],
        why: "it plays everything around the fleet, in virtual time",
    },
    Layer {
        name: FAULTS,
        may_use: &[PROTOCOL, SIMULATOR],
        why: "it causes faults from outside and must not be needed by what it causes them in",
    },
    Layer {
        name: TESTS,
        may_use: &[
            TENSOR, PROGRAM, PROTOCOL, KERNELS, MODEL, REFERENCE, WEB, FLEET, RUNTIME, DAEMON,
            CHECK, FAULTS, SIMULATOR,
        ],
        why: "only other tests depend on tests",
    },
    Layer {
        name: CONFORMANCE,
        may_use: &[TENSOR, PROGRAM, PROTOCOL, KERNELS, MODEL, REFERENCE, RUNTIME, BROWSERS, TESTS],
        why: "it runs models and has no opinion of the fleet",
    },
    Layer {
        name: DIFFERENTIAL,
        may_use: &[TENSOR, PROGRAM, PROTOCOL, MODEL, REFERENCE, RUNTIME, CONFORMANCE],
        why: "it runs models beside somebody else's engine, in browsers as the suite does",
    },
    Layer {
        name: WPT_PAGE,
        may_use: &[WEBNN],
        why: "it tests the declarations and nothing that uses them",
    },
    Layer {
        name: WPT,
        may_use: &[PROTOCOL, BROWSERS, TESTS],
        why: "it starts a browser and serves a page",
    },
    Layer {
        name: XTASK,
        may_use: &[],
        why: "it is built first, on a machine where the rest may not build yet",
    },
];

pub(super) fn check(root: &Path, packages: &[Package]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for package in packages {
        let manifest = package.manifest_path.strip_prefix(root).unwrap_or(&package.manifest_path);
        let place = manifest.display().to_string();
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == package.name) else {
            let rule = format!(
                "the crate `{}` has no layer: declare in xtask/src/tidy/dependencies.rs what it may use",
                package.name
            );
            violations.push(Violation::new(place, rule));
            continue;
        };
        let ours = package.dependencies.iter().filter(|dependency| dependency.path.is_some());
        violations.extend(
            ours.filter_map(|dependency| broken(layer, dependency))
                .map(|rule| Violation::new(&place, rule)),
        );
    }
    violations
}

/// What is wrong with this dependency.
fn broken(layer: &Layer, dependency: &Dependency) -> Option<String> {
    let Layer { name, may_use, why } = layer;
    let used = dependency.name.as_str();
    let is_dev = dependency.kind.as_deref() == Some("dev");
    // A crate may test itself with a feature switched on.
    if used == *name && is_dev {
        return None;
    }
    if !may_use.contains(&used) {
        let allowed =
            if may_use.is_empty() { "none of our crates".to_owned() } else { may_use.join(", ") };
        return Some(format!("`{name}` may not depend on `{used}` but on {allowed}: {why}"));
    }
    let is_for_faults = [FAULTS, SIMULATOR].contains(&used);
    if *name == CLI && is_for_faults && !dependency.optional && !is_dev {
        return Some(format!(
            "`{name}` may depend on `{used}` only behind a feature: faults are not for production"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn dependency(name: &str) -> Dependency {
        Dependency {
            name: name.to_owned(),
            kind: None,
            optional: false,
            path: Some(PathBuf::from("/w/somewhere")),
        }
    }

    fn rules(name: &str, dependency: Dependency) -> Vec<String> {
        let package = Package {
            name: name.to_owned(),
            manifest_path: PathBuf::from("/w/folder/Cargo.toml"),
            dependencies: vec![dependency],
        };
        let violations = check(Path::new("/w"), &[package]);
        violations.into_iter().map(|violation| violation.to_string()).collect()
    }

    #[test]
    fn the_direction_is_checked() {
        let table = [
            (TENSOR, PROGRAM, false),
            (PROGRAM, TENSOR, true),
            (PROTOCOL, PROGRAM, false),
            (FLEET, PROTOCOL, true),
            (FLEET, MODEL, false),
            (FLEET, DAEMON, false),
            (PROTOCOL, MODEL, false),
            (MODEL, KERNELS, true),
            (MODEL, REFERENCE, false),
            (REFERENCE, KERNELS, false),
            (DAEMON, REFERENCE, false),
            (DAEMON, FAULTS, false),
            (DAEMON, CHECK, false),
            (CHECK, REFERENCE, true),
            (CHECK, DAEMON, true),
            (CLI, CHECK, true),
            (DAEMON, BROWSERS, true),
            (DAEMON, STORE, true),
            (BROWSERS, FLEET, true),
            (BROWSERS, RUNTIME, false),
            (BROWSERS, DAEMON, false),
            (STORE, FLEET, true),
            (STORE, DAEMON, false),
            (KERNELS, MODEL, false),
            (RUNTIME, KERNELS, true),
            (RUNTIME, MODEL, false),
            (RUNTIME, FLEET, false),
            (DAEMON, FLEET, true),
            (DAEMON, TESTS, false),
            (TESTS, FAULTS, true),
            (SIMULATOR, FLEET, true),
            (SIMULATOR, FAULTS, false),
            (FLEET, SIMULATOR, false),
            (FAULTS, FLEET, false),
            (XTASK, DAEMON, false),
        ];
        for (name, used, allowed) in table {
            let rules = rules(name, dependency(used));
            assert_eq!(rules.is_empty(), allowed, "{name} -> {used}: {rules:?}");
            assert!(
                rules
                    .iter()
                    .all(|rule| rule.starts_with("folder/Cargo.toml: ") && rule.contains(used))
            );
        }
    }

    #[test]
    fn crates_of_others_are_not_checked() {
        assert!(rules(PROTOCOL, Dependency { path: None, ..dependency("serde") }).is_empty());
    }

    #[test]
    fn a_crate_may_test_itself() {
        assert!(
            rules(RUNTIME, Dependency { kind: Some("dev".to_owned()), ..dependency(RUNTIME) })
                .is_empty()
        );
    }

    #[test]
    fn a_crate_without_a_layer_is_caught() {
        assert!(rules("flotilla-new", dependency(MODEL))[0].contains("no layer"));
    }

    #[test]
    fn faults_reach_the_binary_only_behind_a_feature() {
        for name in [FAULTS, SIMULATOR] {
            assert!(rules(CLI, dependency(name))[0].contains("behind a feature"));
            assert!(rules(CLI, Dependency { optional: true, ..dependency(name) }).is_empty());
        }
    }
}
