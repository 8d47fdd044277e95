//! Lists of interface names with wildcards.

use std::convert::Infallible;

/// A list of names in which `*` stands for any characters, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl std::str::FromStr for Patterns {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

impl Patterns {
    /// A list, parsed.
    pub fn new(text: &str) -> Self {
        let Ok(patterns) = text.parse();
        patterns
    }

    /// Whether some pattern matches `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
    }

    /// Patterns without a wildcard: names that have to exist.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(|name| !name.contains('*'))
    }

    /// Takes `word` out of the list; whether it was there.
    pub fn take(&mut self, word: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|pattern| pattern != word);
        self.0.len() != before
    }
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on when a literal does not fit: after the last star, one character further.
    let (mut at, mut retry) = (0, None);
    let mut p = 0;
    while at < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, at));
            p += 1;
        } else if pattern.get(p) == Some(&name[at]) {
            p += 1;
            at += 1;
        } else if let Some((after_star, from)) = retry {
            retry = Some((after_star, from + 1));
            p = after_star;
            at = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let patterns = Patterns::new("veth*, cali*, *.100,eth0");
        for name in ["veth", "veth1a", "cali9", "bond0.100", "eth0"] {
            assert!(patterns.matches(name), "{name}");
        }
        for name in ["vet", "xveth", "eth01", "bond0.10", ""] {
            assert!(!patterns.matches(name), "{name}");
        }
        assert_eq!(patterns.names().collect::<Vec<_>>(), ["eth0"]);
    }

    #[test]
    fn several_stars_backtrack() {
        assert!(matches(b"a*b*c", b"aXbYbZc"));
        assert!(!matches(b"a*b*c", b"aXbYbZ"));
        assert!(matches(b"*", b""));
    }
}
