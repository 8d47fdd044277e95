//! What a load balancer may ask this node about a Service.

use super::object::ObjectName;

/// A `healthCheckNodePort`, and what to answer there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// The port of this node to listen on.
    pub port: u16,
    /// How many ready endpoints of the Service are on this node, over all of its ports and
    /// families; terminating ones do not count. With 0 the answer is "service unavailable".
    pub local_endpoints: usize,
}
