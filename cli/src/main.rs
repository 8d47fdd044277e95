//! The binary `hashplane`: parse, wire, run.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the tools' tables are this binary's output")]
#![expect(clippy::print_stderr, reason = "one sentence says why the binary ends")]

mod bench;
mod doctor;
mod down;
mod mode;
mod node;
mod options;
mod proxy;
mod server;
mod service;
mod simulate;
mod token;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use node_agent::network::plugin;

/// Service networking for Kubernetes through eBPF hash maps.
#[derive(Debug, Parser)]
#[command(name = "hashplane", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the dataplane on this node. Programs stay attached when it ends: `cleanup` removes them.
    Proxy(Box<options::ProxyArguments>),
    /// Shows attached programs, how full the maps are and what was counted.
    Status(tools::Arguments),
    /// Shows the frontends in the live maps.
    Services(tools::Arguments),
    /// Shows the endpoints in the live maps.
    Endpoints(tools::Arguments),
    /// Shows the flows in the live maps.
    Flows(tools::Arguments),
    /// Shows what this node can do, what runs and why, and what is not as it should be.
    Doctor(doctor::Arguments),
    /// Puts another mode in the place of the one that serves, while the node goes on.
    Mode(mode::Arguments),
    /// Measures on this machine, in a network namespace of its own.
    Bench(Box<bench::Bench>),
    /// Serves the Kubernetes API: objects, their rules and their controllers.
    Server(server::Arguments),
    /// Runs a whole cluster on this machine: API, node agent, dataplane, DNS.
    Up(Box<up::Arguments>),
    /// Makes a node of a running cluster of this machine.
    Node(Box<node::Arguments>),
    /// Tokens by which machines join.
    #[command(subcommand)]
    Token(token::Command),
    /// Ends all pods of this machine, its containerd, and the dataplane.
    Down(down::Arguments),
    /// Nodes without containers, for tests of scale: pods on them are state machines.
    Simulate(simulate::Arguments),
    /// Removes every trace of the instance from this node.
    Cleanup(tools::Cleanup),
}

fn main() -> ExitCode {
    if plugin::is_called() {
        let (answer, succeeded) = plugin::run();
        print!("{answer}");
        return if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let done = |()| ExitCode::SUCCESS;
    let result = match Arguments::parse().command {
        Command::Proxy(arguments) => proxy::run(*arguments).map(done),
        Command::Status(arguments) => tools::status(&arguments).map(done),
        Command::Services(arguments) => tools::services(&arguments).map(done),
        Command::Endpoints(arguments) => tools::endpoints(&arguments).map(done),
        Command::Flows(arguments) => tools::flows(&arguments).map(done),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Mode(arguments) => mode::run(&arguments).map(done),
        Command::Bench(what) => bench::run(*what).map(done),
        Command::Server(arguments) => server::run(arguments).map(done),
        Command::Up(arguments) => up::run(*arguments).map(done),
        Command::Node(arguments) => node::run(*arguments).map(done),
        Command::Token(command) => token::run(command).map(done),
        Command::Down(arguments) => down::run(&arguments).map(done),
        Command::Simulate(arguments) => simulate::run(arguments).map(done),
        Command::Cleanup(arguments) => tools::cleanup(&arguments).map(done),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let error: &(dyn std::error::Error + 'static) = error.as_ref();
            eprintln!("hashplane: {}", dataplane_user::ebpf::attach::chain(error));
            ExitCode::FAILURE
        }
    }
}
