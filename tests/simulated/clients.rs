//! Client programs written by others.

use flotilla_tests::{
    daemon::Daemon,
    model::{self, MINILM},
    place, python,
};

#[test]
fn the_official_openai_client_works_unchanged() {
    let (Some(minilm), Some(python)) = (model::minilm(), python::openai()) else { return };
    let daemon = Daemon::ready(&[
        "--simulate",
        "chrome=1,firefox=1",
        "--models",
        &minilm.display().to_string(),
    ]);
    let references = place::file("models/minilm/reference.json").display().to_string();
    let output = python::script(
        &python,
        "clients/openai_client.py",
        &[&daemon.url(""), &references, MINILM, "1e-5"],
    );
    assert_eq!(output.code, Some(0), "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("ok afterwards"), "{}", output.stdout);
}
