//! Inputs with known answers: no two answers are alike, so that a swapped answer shows to which question it belongs.

use std::collections::BTreeSet;

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// Largest difference of a right answer from the native reference, in each element: f32 sums in another order differ by less
/// in an embedding of a few dozen dimensions whose elements are about 1.
pub const ERROR_MAX: f32 = 1e-4;

/// Answers of two questions differ by at least this in some element, so that they cannot be confused.
const DISTANCE_MIN: f32 = 10.0 * ERROR_MAX;

/// Shortest and longest row.
const LENGTHS: (usize, usize) = (4, 24);

/// Why questions cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields are what the messages say")]
pub enum QuestionError {
    #[error("{rows} questions have {answers} answers")]
    Count { rows: usize, answers: usize },
    #[error("the answer of question {question} is not a vector of {want} finite numbers")]
    Answer { question: usize, want: usize },
    #[error("questions {first} and {second} have answers too similar to detect a swapped one")]
    Alike { first: usize, second: usize },
    #[error("{count} different rows cannot be made of {vocabulary} tokens")]
    Vocabulary { count: usize, vocabulary: u32 },
}

/// Rows of token ids, none twice.
///
/// # Errors
/// The vocabulary is too small for so many.
pub fn rows(
    seed: u64,
    count: usize,
    vocabulary: u32,
    tokens_max: usize,
) -> Result<Vec<Vec<u32>>, QuestionError> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut known = BTreeSet::new();
    let mut rows = Vec::with_capacity(count);
    let longest = LENGTHS.1.min(tokens_max).max(1);
    let shortest = LENGTHS.0.min(longest);
    let mut tries = 0;
    while rows.len() < count {
        tries += 1;
        if vocabulary < 2 || tries > 100 + 10 * count {
            return Err(QuestionError::Vocabulary { count, vocabulary });
        }
        let length = random.random_range(shortest..=longest);
        let row: Vec<u32> = (0..length).map(|_| random.random_range(1..vocabulary)).collect();
        if known.insert(row.clone()) {
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Questions and their right answers.
#[derive(Clone, Debug)]
pub struct Questions {
    rows: Vec<Vec<u32>>,
    answers: Vec<Vec<f32>>,
    /// Questions in the order of their answers' first elements.
    order: Vec<usize>,
}

impl Questions {
    /// Puts rows and their answers together.
    ///
    /// # Errors
    /// An answer is missing or not a vector, or two cannot be distinguished.
    pub fn new(rows: Vec<Vec<u32>>, answers: Vec<Vec<f32>>) -> Result<Questions, QuestionError> {
        if rows.len() != answers.len() {
            return Err(QuestionError::Count { rows: rows.len(), answers: answers.len() });
        }
        let want = answers.first().map_or(1, Vec::len);
        for (question, answer) in answers.iter().enumerate() {
            if answer.is_empty() || answer.len() != want || !answer.iter().all(|x| x.is_finite()) {
                return Err(QuestionError::Answer { question, want });
            }
        }
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|&a, &b| answers[a][0].total_cmp(&answers[b][0]));
        let questions = Questions { rows, answers, order };
        for (index, answer) in questions.answers.iter().enumerate() {
            let near = questions.near(answer, DISTANCE_MIN).find(|&other| other != index);
            if let Some(second) = near {
                return Err(QuestionError::Alike { first: index, second });
            }
        }
        Ok(questions)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Token ids of a question.
    pub fn row(&self, question: usize) -> &[u32] {
        &self.rows[question]
    }

    /// The question that a vector answers rightly; `None` if it answers none.
    pub fn whose(&self, answer: &[f32]) -> Option<usize> {
        self.near(answer, ERROR_MAX).next()
    }

    fn near<'a>(&'a self, answer: &'a [f32], distance: f32) -> impl Iterator<Item = usize> + 'a {
        let first = answer.first().copied().unwrap_or(f32::NAN);
        let begin =
            self.order.partition_point(|&question| self.answers[question][0] < first - distance);
        self.order[begin..]
            .iter()
            .copied()
            .take_while(move |&question| self.answers[question][0] <= first + distance)
            .filter(move |&question| {
                let want = &self.answers[question];
                want.len() == answer.len()
                    // A number that is not finite is close to no other number.
                    && want.iter().zip(answer).all(|(a, b)| (a - b).abs() <= distance)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_distinct_and_replayable() {
        let first = rows(5, 2000, 128, 64).expect("enough tokens");
        assert_eq!(first, rows(5, 2000, 128, 64).expect("enough tokens"));
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 2000);
        assert!(first.iter().flatten().all(|&token| (1..128).contains(&token)));
        assert!(matches!(rows(5, 20, 2, 1), Err(QuestionError::Vocabulary { .. })));
    }

    #[test]
    fn an_answer_identifies_its_question() {
        let rows = vec![vec![1], vec![2], vec![3]];
        let answers = vec![vec![0.5, 1.0], vec![0.5, 2.0], vec![-1.0, 1.0]];
        let questions = Questions::new(rows, answers).expect("distinct");
        let table: [(&[f32], Option<usize>); 6] = [
            (&[0.5, 1.0], Some(0)),
            (&[0.500_05, 1.999_95], Some(1)),
            (&[-1.0, 1.0], Some(2)),
            (&[0.5, 1.5], None),
            (&[0.5], None),
            (&[0.5, f32::NAN], None),
        ];
        for (answer, want) in table {
            assert_eq!(questions.whose(answer), want, "{answer:?}");
        }
    }

    #[test]
    fn questions_that_cannot_be_distinguished_are_refused() {
        let rows = || vec![vec![1], vec![2]];
        let alike = Questions::new(rows(), vec![vec![1.0, 2.0], vec![1.0, 2.0005]]);
        assert!(matches!(alike, Err(QuestionError::Alike { .. })), "{alike:?}");
        let broken = Questions::new(rows(), vec![vec![1.0], vec![f32::NAN]]);
        assert!(matches!(broken, Err(QuestionError::Answer { question: 1, .. })), "{broken:?}");
    }
}
