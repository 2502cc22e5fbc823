//! nextest's report, which has the output of every test.

use roxmltree::{Document, Node};

use super::tally::{Skip, Tests, skip_reasons};

/// Reads a report.
pub(super) fn parse(report: &str) -> Result<Tests, roxmltree::Error> {
    let document = Document::parse(report)?;
    let mut tests = Tests::default();
    for case in document.descendants().filter(|node| node.has_tag_name("testcase")) {
        let name = format!(
            "{} {}",
            case.attribute("classname").unwrap_or_default(),
            case.attribute("name").unwrap_or_default()
        );
        if child(case, "failure").or_else(|| child(case, "error")).is_some() {
            tests.failures.push(name);
            continue;
        }
        let output = child(case, "system-out").and_then(|node| node.text()).unwrap_or_default();
        let reasons: Vec<&str> = skip_reasons(output).collect();
        if reasons.is_empty() {
            tests.passed += 1;
        } else {
            tests.skips.push(Skip { what: name, reason: reasons.join("; ") });
        }
    }
    Ok(tests)
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="4" failures="1" errors="0">
  <testsuite name="flotilla-tests" tests="4" disabled="0" errors="0" failures="1">
    <testcase name="kernel::add" classname="flotilla-tests"><system-out>fine</system-out></testcase>
    <testcase name="browser_firefox" classname="flotilla-tests">
      <system-out>
running 1 test
skipped: no &quot;geckodriver&quot; &amp; no Firefox
</system-out>
    </testcase>
    <testcase name="browser_chromium" classname="flotilla-tests">
      <failure type="test failure">assertion</failure>
      <system-out>skipped: not really</system-out>
    </testcase>
    <testcase name="slow" classname="flotilla-tests"><flakyFailure type="x">once</flakyFailure></testcase>
  </testsuite>
</testsuites>"#;
        let tests = parse(report).expect("a report");
        assert_eq!(tests.passed, 2);
        assert_eq!(tests.failures, ["flotilla-tests browser_chromium"]);
        let reason = r#"no "geckodriver" & no Firefox"#.to_owned();
        assert_eq!(
            tests.skips,
            [Skip { what: "flotilla-tests browser_firefox".to_owned(), reason }]
        );
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(parse("<testsuites>").is_err());
    }
}
