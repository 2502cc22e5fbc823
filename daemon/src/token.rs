//! Tokens that cannot be guessed.

/// 128 random bits as 32 hexadecimal digits, from the operating system.
///
/// # Panics
/// If the operating system has no random numbers; nothing safe can be done without them.
pub(crate) fn random() -> String {
    let mut bytes = [0u8; 16];
    #[expect(clippy::expect_used, reason = "a guessable token would be worse than no daemon")]
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
