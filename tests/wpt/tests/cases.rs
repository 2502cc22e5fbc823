//! All cases of web-platform-tests, as `cargo xtask test` runs them.

use flotilla_browsers::Build;
use flotilla_tests::skip::{has_browsers, unavailable};
use flotilla_wpt::{browser, expected::Expected, report::Report, source};

#[tokio::test(flavor = "multi_thread")]
async fn browser_cases_of_web_platform_tests() {
    if !has_browsers(&[Build::chrome_webnn()]) {
        return;
    }
    let cases = match source::cases() {
        Ok(cases) => cases,
        Err(error) => {
            return unavailable(&format!("cannot get web-platform-tests' cases: {error:#}"));
        }
    };
    let run = browser::run(&cases).await.expect("a run");
    let report = Report::new(run.browser.clone(), &run.judged);
    assert_eq!(report.total.cases, cases.len(), "every case is told");
    let expected = Expected::committed().expect("the committed table");
    assert_eq!(expected.differences(&run.judged, true), Vec::<String>::new(), "{report}");
}
