//! What the kernel says when it does not do what it was asked to.

use std::io;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a message.
    #[error("the kernel refused to {doing}{}", said(text.as_deref()))]
    Refused {
        /// What was asked for.
        doing: String,
        /// The kernel's own words, where it has some.
        text: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// The socket.
    #[error("cannot {doing} a netlink socket")]
    Socket {
        /// What failed.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("the kernel has not answered for {seconds} s when asked to {doing}")]
    Silence {
        /// What was asked for.
        doing: String,
        /// How long.
        seconds: u64,
    },
    /// A family that the kernel does not have.
    #[error("this kernel has no netlink family {0}")]
    NoFamily(&'static str),
    /// An answer that is none.
    #[error("the kernel's answer to {doing} is cut off")]
    CutOff {
        /// What was asked for.
        doing: String,
    },
}

fn said(text: Option<&str>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}

impl Error {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Silence { .. } | Self::NoFamily(_) | Self::CutOff { .. } => None,
        }
    }
}
