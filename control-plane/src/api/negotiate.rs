//! Which format and shape a client takes.

use super::status::{Failure, Reason};

/// How objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// As what objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As they are.
    Whole,
    /// As a table of this version of `meta.k8s.io`.
    Table(&'static str),
    /// Their metadata alone, in this version of `meta.k8s.io`.
    Metadata(&'static str),
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How.
    pub format: Format,
    /// As what.
    pub shape: Shape,
}

/// One media type with its parameters, in lower case.
fn parameters(media: &str) -> (String, Vec<(String, String)>) {
    let mut parts = media.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (name.trim().to_owned(), value.trim().trim_matches('"').to_owned())
    };
    (kind, parts.map(pair).collect())
}

/// The first of what the client takes that we have. `tables` is whether objects can be shown as such.
pub fn accepted(header: &str, tables: bool) -> Result<Answer, Failure> {
    for media in header.split(',').map(str::trim).filter(|media| !media.is_empty()) {
        let (kind, parameters) = parameters(media);
        let of = |name: &str| {
            parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
        };
        let format = match kind.as_str() {
            "application/json" | "*/*" | "application/*" => Format::Json,
            "application/yaml" => Format::Yaml,
            "application/vnd.kubernetes.protobuf" => Format::Protobuf,
            _ => continue,
        };
        let version = match of("v") {
            "v1beta1" => "v1beta1",
            _ => "v1",
        };
        let shape = match of("as") {
            "" => Shape::Whole,
            "Table" if tables && format != Format::Protobuf => Shape::Table(version),
            "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Metadata(version),
            _ => continue,
        };
        return Ok(Answer { format, shape });
    }
    if header.trim().is_empty() {
        return Ok(Answer { format: Format::Json, shape: Shape::Whole });
    }
    let words = "only the following media types are accepted: application/json, application/yaml, \
                 application/vnd.kubernetes.protobuf";
    Err(Failure::new(Reason::NotAcceptable, words))
}

/// The media type of a body without its parameters.
pub fn media(header: &str) -> String {
    parameters(header).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_gets_tables_and_go_clients_protobuf() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let table = Answer { format: Format::Json, shape: Shape::Table("v1") };
        assert_eq!(accepted(kubectl, true).ok(), Some(table));
        let whole = Answer { format: Format::Json, shape: Shape::Whole };
        assert_eq!(accepted(kubectl, false).ok(), Some(whole));
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accepted(go, true).ok().map(|it| it.format), Some(Format::Protobuf));
        assert_eq!(accepted("", true).ok(), Some(whole));
        assert_eq!(accepted("*/*", true).ok(), Some(whole));
        assert!(accepted("text/html", true).is_err());
        let only_table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert!(accepted(only_table, false).is_err());
    }
}
