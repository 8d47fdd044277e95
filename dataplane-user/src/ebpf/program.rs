//! How much the maps hold.

/// How much each map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frontends on IPv4.
    pub frontends4: u32,
    /// Frontends on IPv6.
    pub frontends6: u32,
    /// Slots for endpoints on IPv4.
    pub endpoints4: u32,
    /// Slots for endpoints on IPv6.
    pub endpoints6: u32,
    /// Identities, index 0 included.
    pub live: u32,
}
