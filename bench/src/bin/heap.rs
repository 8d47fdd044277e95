//! Counts the bytes that our heap holds per service, and prints that number.
//!
//! A program of its own, so that the daemon's allocator has no counters to pay for.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the number is this program's output")]

use std::alloc::System;

use anyhow::Context as _;
use bench::churn::{case::Rules, world::World};
use dataplane_user::backend::Mode;
use nix::sched::{CloneFlags, unshare};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> anyhow::Result<()> {
    let usage = "usage: bench-heap MODE SERVICES ENDPOINTS";
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().and_then(|mode| Mode::parse(&mode)).context(usage)?;
    let mut number = || -> anyhow::Result<u32> { Ok(arguments.next().context(usage)?.parse()?) };
    let (services, endpoints) = (number()?, number()?);
    let bytes = match mode {
        Mode::Ebpf => {
            let before = held();
            let mut world = World::new()?;
            world.fill_one_by_one(services, endpoints)?;
            held().saturating_sub(before)
        }
        Mode::Nftables | Mode::Iptables | Mode::Ipvs => {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            let before = held();
            let mut rules = Rules::new(mode)?;
            rules.fill(World::events(services, endpoints))?;
            held().saturating_sub(before)
        }
    };
    // What the allocator itself adds to each piece is not in it.
    println!("{:.1}", f64::from(u32::try_from(bytes)?) / f64::from(services));
    Ok(())
}

/// Bytes asked for and not given back.
fn held() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}
