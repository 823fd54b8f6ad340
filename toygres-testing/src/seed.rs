//! The number that all randomness of a test comes of.

/// Set: the same for all tests of a run.
const SEED: &str = "TOYGRES_CHAOS_SEED";

/// The seed of the test of this name, printed as that of the run.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "what only tests read is no configuration of the server"
)]
pub fn seed(test: &str) -> u64 {
    let given = std::env::var(SEED).ok();
    let seed: u64 = match given {
        Some(text) => text.parse().expect("TOYGRES_CHAOS_SEED is a number"),
        None => rand::random(),
    };
    eprintln!("{test}: to do the same again, set {SEED}={seed}");
    let name: u64 = test
        .bytes()
        .fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    seed ^ name
}
