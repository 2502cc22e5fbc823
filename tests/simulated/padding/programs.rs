//! Random programs: paddings that the analysis allows change nothing.

use flotilla_program::{Guard, dim::Symbol};

use super::{
    compare::{Agreement, Failed, Random, chosen, compare},
    random,
};

/// How many random programs are run.
const PROGRAMS: u64 = 3000;
/// If padding affects a random program, differences are larger than this, even when it subtracts nearly equal numbers.
const SEEN: f32 = 1e-3;
/// Results of this magnitude show nothing: the assumptions of the analysis do not hold for them.
const MAGNITUDE_MAX: f32 = 1e4;

/// The results of padding one symbol of random programs.
#[derive(Debug, Default)]
struct Tally {
    same: usize,
    seen: usize,
    failed: usize,
    useless: usize,
}

impl Tally {
    fn count(&mut self, compared: &Result<Agreement, Failed>) {
        match compared {
            Err(Failed::Exact) => self.useless += 1,
            Err(Failed::Padded(_)) => self.failed += 1,
            Ok(agreement) if agreement.largest > MAGNITUDE_MAX => self.useless += 1,
            Ok(agreement) if agreement.worst > SEEN => self.seen += 1,
            Ok(_) => self.same += 1,
        }
    }
}

/// An analysis that allowed too much would be detected here: of the programs that it refuses, many are affected by
/// padding.
#[test]
fn random_programs_that_are_allowed_do_not_see_padding() {
    let executor = tokio::runtime::Runtime::new().expect("a runtime");
    executor.block_on(async {
        let mut allowed = [Tally::default(), Tally::default()];
        let mut refused = Tally::default();
        let mask = Guard { input: random::MASK, axis: 1, one: 1 };
        for seed in 1..=PROGRAMS {
            let mut random = Random::new(seed);
            let nodes = random.from(2, 14) as usize;
            let subject = random::program(nodes, &mut random);
            let mut placement = subject.placed().await;
            for symbol in [Symbol(0), Symbol(1)] {
                let analyzed = flotilla_model::padding::padding(&subject.program, symbol);
                let (real, larger) = match &analyzed {
                    Ok(padding) => chosen(&subject.program, &[padding], &mut random),
                    Err(_) => {
                        let mut larger = vec![3, 5];
                        larger[symbol.0 as usize] += random.from(1, 9);
                        (vec![3, 5], larger)
                    }
                };
                let inputs = subject.inputs(&real, &[mask], &mut random);
                let compared = compare(&mut placement, &subject.program, &inputs, &larger).await;
                let tally = match &analyzed {
                    Ok(_) => &mut allowed[symbol.0 as usize],
                    Err(_) => &mut refused,
                };
                let before = tally.seen + tally.failed;
                tally.count(&compared);
                assert!(
                    analyzed.is_err() || tally.seen + tally.failed == before,
                    "seed {seed}, {real:?} as {larger:?}: {}\n{analyzed:?}\n{}",
                    compared.map_or_else(|failed| failed.text(), |found| format!("{found:?}")),
                    subject.program
                );
            }
        }
        println!("allowed {allowed:?}, refused {refused:?}");
        let enough = |tally: &Tally| tally.same > PROGRAMS as usize / 4;
        assert!(allowed.iter().all(enough), "{allowed:?}");
        assert!(refused.seen > PROGRAMS as usize / 4, "{refused:?}");
    });
}
