//! A worker of the comparison of routing modes, for tests: the command line of `hashplane bench`.
#![forbid(unsafe_code)]

use anyhow::Context as _;
use bench::routing::{lab::objects::Size, results::Route, worker};

fn main() -> anyhow::Result<()> {
    let usage = "usage: bench-routes bench routes-worker MODE SERVICES ENDPOINTS RUN";
    let mut arguments = std::env::args().skip(3);
    let route = arguments.next().and_then(|route| Route::parse(&route)).context(usage)?;
    let mut number = || -> anyhow::Result<u32> { Ok(arguments.next().context(usage)?.parse()?) };
    let size = Size { services: number()?, endpoints: number()? };
    worker(route, size, number()?)
}
