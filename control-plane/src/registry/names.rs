//! Names and ids that the server makes up.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    sync::atomic::{AtomicU64, Ordering},
};

/// Without vowels and digits that look like letters, so that no words come out by chance.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Random enough to tell objects apart; seeded by the system, never twice the same in a process.
pub(super) fn random() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// Five letters behind a `generateName`; the base is cut so that the whole is a label.
pub(super) fn generated(base: &str) -> String {
    let mut number = random();
    let mut name: String = base.chars().take(58).collect();
    for _ in 0..5 {
        let letter = usize::try_from(number % 27).unwrap_or(0);
        name.push(char::from(LETTERS[letter]));
        number /= 27;
    }
    name
}

/// A random UUID (version 4).
pub(super) fn uid() -> String {
    let (a, b) = (random(), random());
    let (a, b) = ((a & !0xf000) | 0x4000, (b & !(0b11 << 62)) | (0b10 << 62));
    let text = format!("{a:016x}{b:016x}");
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_and_differ() {
        let uid = uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(uid.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&uid.as_bytes()[19]));
        assert_ne!(uid, super::uid());
    }

    #[test]
    fn generated_names_are_labels() {
        let name = generated(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        assert_ne!(generated("a-"), generated("a-"));
    }
}
