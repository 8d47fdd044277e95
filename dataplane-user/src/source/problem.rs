//! What a source could not read, and where.

use std::{fmt, sync::Arc};

use crate::model::ObjectRef;

/// Something that a source could not read. Everything else is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceProblem {
    /// The file, by its name in the directory.
    pub file: Option<Arc<str>>,
    /// The document in the file, counted from 1.
    pub document: Option<u32>,
    /// The object, when it could be told which one it is.
    pub object: Option<ObjectRef>,
    /// What is wrong.
    pub cause: SourceCause,
}

impl fmt::Display for SourceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        if let Some(document) = self.document {
            write!(f, "document {document}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        write!(f, "{}", self.cause)
    }
}

impl std::error::Error for SourceProblem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceCause {
    /// The text is not YAML from here on.
    #[error("line {line}, column {column}: {reason}")]
    Syntax {
        /// The line in the file, counted from 1.
        line: u64,
        /// The column, counted from 1.
        column: u64,
        /// What the parser says.
        reason: Box<str>,
    },
    /// A field has a value that the kind does not allow there.
    #[error("{field}{}: {reason}", Line(*line))]
    Field {
        /// Path of the field in the object.
        field: Box<str>,
        /// The line in the file, counted from 1, when it could be told.
        line: Option<u64>,
        /// What the type says.
        reason: Box<str>,
    },
    /// The object has no `metadata.name`.
    #[error("metadata.name: the {0} has no name")]
    NoName(&'static str),
    /// The object is there a second time.
    #[error("is in {first} too; that one is used")]
    Twice {
        /// The file whose object is used.
        first: Arc<str>,
    },
    /// The file or the directory cannot be read.
    #[error("cannot read: {0}")]
    Unreadable(Box<str>),
    /// The file is larger than a manifest may be.
    #[error("has {bytes} bytes; {bytes_max} are read at most")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The directory has more files than are read.
    #[error("has {0} files; the first {1} by name are read")]
    TooManyFiles(usize, usize),
    /// The API server cannot be read from.
    #[error("{0}")]
    Server(Box<str>),
}

impl SourceCause {
    /// The name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::Field { .. } => "field",
            Self::NoName(_) => "no_name",
            Self::Twice { .. } => "twice",
            Self::Unreadable(_) => "unreadable",
            Self::TooLarge { .. } => "too_large",
            Self::TooManyFiles(..) => "too_many_files",
            Self::Server(_) => "server",
        }
    }
}

struct Line(Option<u64>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}
