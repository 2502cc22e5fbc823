//! A campaign's report for people.

use flotilla_fault_injection::report::{Report, Times};

use crate::table;

#[expect(clippy::print_stdout, reason = "a command's result")]
pub(super) fn print(report: &Report) {
    println!(
        "{}, seed {}: {:.0} s, {}/s\n",
        report.scenario, report.seed, report.duration_s, report.load_per_s
    );
    let counts = [
        ("sent", report.sent),
        ("right", report.right),
        ("error", report.error),
        ("lost", report.lost),
        ("duplicated", report.duplicated),
        ("wrong", report.wrong),
    ];
    let header: Vec<&str> = counts.iter().map(|(name, _)| *name).collect();
    table::print(&header, &[counts.iter().map(|(_, count)| count.to_string()).collect()]);
    for (words, count) in report.errors.iter().chain(&report.losses) {
        println!("  {count} x {words}");
    }

    println!();
    let rows: Vec<Vec<String>> = [
        ("every right answer", &report.latency_ms),
        ("those after failed attempts", &report.disturbed_ms),
    ]
    .into_iter()
    .map(|(what, times)| line(what, times))
    .collect();
    table::print(&["time of", "count", "p50", "p95", "max"], &rows);

    println!();
    let rows: Vec<Vec<String>> = report
        .faults
        .iter()
        .map(|fault| {
            let times = &fault.ms_to_next_right;
            vec![
                fault.fault.clone(),
                fault.scheduled.to_string(),
                fault.fired.to_string(),
                ms(times.p50),
                ms(times.p95),
                ms(times.max),
            ]
        })
        .collect();
    table::print(&["fault", "scheduled", "fired", "next right p50", "p95", "max"], &rows);
    for miss in &report.faults_missed {
        println!("  {} at {} ms did not happen: {}", miss.fault, miss.at_ms, miss.reason);
    }

    if !report.recoveries.is_empty() {
        println!();
        let rows: Vec<Vec<String>> = report
            .recoveries
            .iter()
            .map(|line| {
                vec![
                    line.failure.clone(),
                    format!("{}: {}", line.of, line.rung),
                    line.succeeded.to_string(),
                    line.failed.to_string(),
                    ms(line.p50_ms),
                    ms(line.p95_ms),
                ]
            })
            .collect();
        table::print(&["failure", "recovered by", "succeeded", "failed", "p50", "p95"], &rows);
    }

    println!();
    match &report.healed.missing {
        None => println!(
            "after the faults: whole within {}, {} questions answered rightly",
            ms(report.healed.ms),
            report.healed.probes
        ),
        Some(missing) => {
            println!("after the faults: not whole within {}: {missing}", ms(report.healed.ms));
        }
    }
}

fn line(what: &str, times: &Times) -> Vec<String> {
    vec![what.to_owned(), times.count.to_string(), ms(times.p50), ms(times.p95), ms(times.max)]
}

fn ms(ms: f64) -> String {
    format!("{ms:.0} ms")
}
