//! Measures one netfilter mode with one number of services, and prints the samples as JSON.
//!
//! A process of its own, so that it can be ended when it takes too long.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the samples are this program's output")]

use anyhow::Context as _;
use bench::churn::case::{Case, run};
use dataplane_user::backend::Mode;

fn main() -> anyhow::Result<()> {
    let usage = "usage: bench-case MODE SERVICES ENDPOINTS";
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().and_then(|mode| Mode::parse(&mode)).context(usage)?;
    let mut number = || -> anyhow::Result<u32> { Ok(arguments.next().context(usage)?.parse()?) };
    let (services, endpoints) = (number()?, number()?);
    let samples = run(Case { mode, services, endpoints })?;
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}
