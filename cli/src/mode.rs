//! `hashplane mode`: another backend, while the node goes on.

use std::time::Duration;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use dataplane_user::{
    backend::Mode,
    daemon::{serving::Changed, settings::socket_path},
    http::client,
};

use crate::tools::Instance;

/// Programs are loaded and attached meanwhile, and rules for every service written.
const PATIENCE: Duration = Duration::from_mins(5);

/// Which mode.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The mode that serves from now on, until the node reboots or `--mode` changes
    #[arg(value_parser = modes())]
    to: Mode,
    #[command(flatten)]
    instance: Instance,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let to = arguments.to;
    let socket = socket_path(&arguments.instance.state_dir, &arguments.instance.name);
    let changed: Changed = client::post_within(PATIENCE, &socket, &format!("/mode/{to}"))?;
    for step in &changed.steps {
        println!("{step}");
    }
    println!("{} serves (before: {})", changed.to, changed.from);
    Ok(())
}

fn modes() -> impl TypedValueParser<Value = Mode> {
    let names = PossibleValuesParser::new(Mode::ALL.map(Mode::name));
    names.try_map(|name| Mode::parse(&name).ok_or("no such mode"))
}
