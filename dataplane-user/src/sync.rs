//! The loop: collect events, settle, compile, diff, apply, retry.
