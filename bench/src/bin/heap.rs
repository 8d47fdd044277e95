//! Counts the bytes that our heap holds per service, and prints that number.
//!
//! A program of its own, so that the daemon's allocator has no counters to pay for.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the number is this program's output")]

use std::alloc::System;

use anyhow::Context as _;
use bench::churn::world::World;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let mut number = || numbers.next().context("usage: bench-heap SERVICES ENDPOINTS");
    let (services, endpoints) = (number()??, number()??);
    let before = held();
    let mut world = World::new()?;
    world.fill_one_by_one(services, endpoints)?;
    // What the allocator itself adds to each piece is not in it.
    let bytes = held().saturating_sub(before);
    println!("{:.1}", f64::from(u32::try_from(bytes)?) / f64::from(services));
    Ok(())
}

/// Bytes asked for and not given back.
fn held() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}
