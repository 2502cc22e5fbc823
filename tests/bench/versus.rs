//! The same model, the same tokens, in the same page: our runtime and onnxruntime-web, alternating.

use flotilla_protocol::Backend;

use crate::{
    figures::{DIFFERENCE, Figure, median},
    page::Page,
    theirs::{Provider, Session},
};

/// Largest difference of two right embeddings; embeddings have length 1.
pub(crate) const DIFFERENCE_MAX: f64 = 1e-4;

/// Lengths of the sentences, in tokens.
pub(crate) const TOKENS: [usize; 2] = [128, 16];

/// Rounds before the first that counts: pipelines are created, clocks and caches warm up.
const WARM_ROUNDS: usize = 2;

/// Number of rounds that count, from the longest run of a warm-up round.
fn rounds(longest_ms: f64) -> usize {
    if longest_ms >= 1000.0 {
        3
    } else if longest_ms >= 150.0 {
        9
    } else {
        21
    }
}

/// Compares on the page's backend; the page itself is also measured if onnxruntime-web is not available.
pub(crate) async fn figures(page: &Page, no_theirs: Option<&str>) -> anyhow::Result<Vec<Figure>> {
    let providers: &[Provider] = match page.backend {
        Backend::WebGpu => &[Provider::WebGpu],
        Backend::Cpu => &[Provider::Wasm { threads: 1 }, Provider::Wasm { threads: 2 }],
        Backend::WebNn => &[
            Provider::WebNn { tokens: TOKENS[0] },
            Provider::WebNn { tokens: TOKENS[1] },
            Provider::Wasm { threads: 2 },
        ],
    };
    let mut rivals = Vec::new();
    for &provider in providers {
        let session = match no_theirs {
            Some(reason) => Err(anyhow::anyhow!("{reason}")),
            None => Session::create(&page.local.pool, page.browser, provider).await,
        };
        rivals.push(Rival { provider, session });
    }
    let mut figures = Vec::new();
    if page.backend == Backend::WebNn {
        figures.push(first_inference(page, &rivals[0]).await?);
    }
    for tokens in TOKENS {
        figures.extend(measure(page, &mut rivals, tokens).await?);
    }
    Ok(figures)
}

/// From the order to load the model to its first answer, everything that must be built for it included.
async fn first_inference(page: &Page, rival: &Rival<'_>) -> anyhow::Result<Figure> {
    let ids = sentence(TOKENS[0]);
    let case = format!("MiniLM, first inference of {} tokens", TOKENS[0]);
    let ours = page.load_ms + page.run(&ids).await?.0;
    match &rival.session {
        Ok(session) => {
            let theirs = session.create_ms + session.run(&ids, false).await?.ms;
            Ok(Figure::against(&case, &page.place, ours, Some(theirs), "ms"))
        }
        Err(error) => Ok(Figure::alone(&case, &page.place, ours, "ms").without_theirs(error)),
    }
}

struct Rival<'a> {
    provider: Provider,
    session: anyhow::Result<Session<'a>>,
}

impl Rival<'_> {
    /// Whether it can run a sentence of this length.
    fn takes(&self, length: usize) -> bool {
        match self.provider {
            Provider::WebNn { tokens } => tokens == length,
            Provider::WebGpu | Provider::Wasm { .. } => true,
        }
    }

    fn case(&self, tokens: usize) -> String {
        match self.provider {
            Provider::WebGpu | Provider::WebNn { .. } => format!("MiniLM, {tokens} tokens"),
            Provider::Wasm { threads: 1 } => {
                format!("MiniLM, {tokens} tokens, theirs with 1 thread")
            }
            Provider::Wasm { threads } => {
                format!("MiniLM, {tokens} tokens, theirs with {threads} threads")
            }
        }
    }
}

async fn measure(
    page: &Page,
    rivals: &mut [Rival<'_>],
    tokens: usize,
) -> anyhow::Result<Vec<Figure>> {
    let ids = sentence(tokens);
    let mut rivals: Vec<&mut Rival<'_>> =
        rivals.iter_mut().filter(|rival| rival.takes(tokens)).collect();
    let mut longest_ms = 0f64;
    let mut differences = vec![0f64; rivals.len()];
    for _ in 0..WARM_ROUNDS {
        let (ms, ours) = page.run(&ids).await?;
        longest_ms = ms;
        for (rival, difference) in rivals.iter_mut().zip(&mut differences) {
            let Ok(session) = &rival.session else { continue };
            match session.run(&ids, true).await {
                Ok(run) => {
                    longest_ms = longest_ms.max(run.ms);
                    *difference = largest_difference(&ours, &run.values);
                }
                Err(error) => rival.session = Err(error),
            }
        }
    }
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); rivals.len()];
    for _ in 0..rounds(longest_ms) {
        ours.push(page.run(&ids).await?.0);
        for (rival, times) in rivals.iter_mut().zip(&mut theirs) {
            let Ok(session) = &rival.session else { continue };
            match session.run(&ids, false).await {
                Ok(run) => times.push(run.ms),
                Err(error) => rival.session = Err(error),
            }
        }
    }
    let ours = median(&ours)?;
    let mut figures = Vec::new();
    for ((rival, times), difference) in rivals.iter().zip(&theirs).zip(differences) {
        let case = rival.case(tokens);
        match &rival.session {
            Ok(_) => {
                figures.push(Figure::against(&case, &page.place, ours, Some(median(times)?), "ms"));
                figures.push(Figure::alone(&case, &page.place, difference, DIFFERENCE));
            }
            Err(error) => {
                figures.push(Figure::alone(&case, &page.place, ours, "ms").without_theirs(error))
            }
        }
    }
    Ok(figures)
}

/// Token ids of a sentence without padding: BERT's first and last token, and ordinary ones between them.
fn sentence(tokens: usize) -> Vec<u32> {
    let (first, last, ordinary) = (101, 102, 2000);
    let words = (1..tokens as u32 - 1).map(|at| ordinary + 37 * at);
    [first].into_iter().chain(words).chain([last]).collect()
}

/// Infinite if the lengths differ or a number is NaN.
fn largest_difference(ours: &[f32], theirs: &[f32]) -> f64 {
    if ours.len() != theirs.len() || ours.is_empty() {
        return f64::INFINITY;
    }
    let differences =
        ours.iter().zip(theirs).map(|(ours, theirs)| f64::from((ours - theirs).abs()));
    // NaN is kept: a comparison with it is never true.
    differences.fold(0.0, |largest, difference| {
        if largest.is_nan() || difference <= largest { largest } else { difference }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_its_tokens() {
        for tokens in TOKENS {
            let ids = sentence(tokens);
            assert_eq!((ids.len(), ids[0], ids[tokens - 1]), (tokens, 101, 102));
        }
    }

    #[test]
    fn nothing_hides_a_difference() {
        assert_eq!(largest_difference(&[1.0, 2.0], &[1.0, 2.5]), 0.5);
        assert!(largest_difference(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert!(largest_difference(&[1.0], &[]).is_infinite());
    }
}
