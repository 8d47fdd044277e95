//! Fixtures of the integration tests and the demo.
