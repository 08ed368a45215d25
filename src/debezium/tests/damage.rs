//! Seeded damage to a message's bytes, whatever they encode.

use rand::Rng;
use rand::rngs::StdRng;

/// More find more and take longer (FIRN_TEST_SEEDS); a failing seed is printed.
pub(super) fn seeds() -> u64 {
    std::env::var("FIRN_TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// Changes `bytes` in one to three places at or behind the one that `from` chooses (by their number): cut, changed, left out,
/// doubled, or one of `pieces` put in.
pub(super) fn damage(
    bytes: &mut Vec<u8>,
    random: &mut StdRng,
    pieces: &[&[u8]],
    from: impl Fn(usize, &mut StdRng) -> usize,
) {
    for _ in 0..random.random_range(1..4) {
        let from = from(bytes.len(), random).min(bytes.len());
        let at = random.random_range(from..=bytes.len());
        match random.random_range(0..7) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            3 => {
                let end = (at + random.random_range(0..40)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.random_range(0..40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => bytes.extend_from_within(at..),
            _ => {
                let piece = pieces[random.random_range(0..pieces.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
}
