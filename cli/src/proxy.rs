//! `hashplane proxy`: the daemon.

use anyhow::Context as _;
use dataplane_user::daemon::Node;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::options::ProxyArguments;

pub(crate) fn run(arguments: ProxyArguments) -> anyhow::Result<()> {
    let (settings, log) = arguments.settings()?;
    let filter = EnvFilter::try_new(&log).with_context(|| format!("--log {log:?}"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
        let node = Node::start(&settings).await?;
        tracing::info!(instance = settings.instance, "the dataplane runs");
        tokio::select! {
            result = node.run() => result?,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopped; programs stay attached, `hashplane cleanup` removes them");
        Ok(())
    })
}
