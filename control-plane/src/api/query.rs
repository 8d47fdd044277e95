//! What clients say behind the question mark.

use std::collections::BTreeMap;

use super::{
    path::decoded,
    status::{Failure, Reason},
};

/// The parameters of a request, each name with its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// From the text behind the question mark.
    pub fn parse(text: &str) -> Self {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let plain = |text: &str| decoded(&text.replace('+', " "));
            all.entry(plain(name)).or_default().push(plain(value));
        }
        Self(all)
    }

    /// The first value of a parameter; empty if it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.all(name).first().map_or("", String::as_str)
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.0.contains_key(name)
            && matches!(self.text(name), "" | "1" | "t" | "T" | "true" | "True" | "TRUE")
    }

    /// Whether it is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A number; nothing if the parameter is not there or empty.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Failure> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_no_number| {
            Failure::new(
                Reason::BadRequest,
                format!("invalid value of {name}: {text:?} is no number"),
            )
        })
    }

    /// Whether nothing is to be written: `dryRun=All`.
    pub fn dry_run(&self) -> Result<bool, Failure> {
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                let words =
                    format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"");
                Err(Failure::new(Reason::Invalid, words))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=true&limit=5&x");
        assert_eq!(query.text("labelSelector"), "a=b,c in (d)");
        assert!(query.is_on("watch") && query.is_on("x") && !query.is_on("follow"));
        assert_eq!(query.number("limit").ok(), Some(Some(5)));
        assert!(Query::parse("limit=five").number("limit").is_err());
        assert!(Query::parse("dryRun=Some").dry_run().is_err());
    }
}
