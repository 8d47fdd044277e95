//! Names and ids that the server makes up.

/// Without vowels and digits that look like letters, so that no words come out by chance.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A random number.
pub(super) fn random() -> u64 {
    rand::random()
}

/// Five letters behind a `generateName`; the base is cut so that the whole is a label.
pub(super) fn generated(base: &str) -> String {
    let letter = || char::from(LETTERS[rand::random_range(0..LETTERS.len())]);
    base.chars().take(58).chain(std::iter::repeat_with(letter).take(5)).collect()
}

/// A random UUID (version 4).
pub fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_labels() {
        let name = generated(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        assert_ne!(generated("a-"), generated("a-"));
    }
}
