//! The binary `hashplane`: parse, wire, run.

fn main() {}
