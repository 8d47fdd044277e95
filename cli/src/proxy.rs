//! `hashplane proxy`: the daemon.

use dataplane_user::daemon::Node;

use crate::{options::ProxyArguments, service};

pub(crate) fn run(arguments: ProxyArguments) -> anyhow::Result<()> {
    let (settings, log) = arguments.settings()?;
    service::log_to_stderr(&log)?;
    service::block_on(async {
        let stop = service::told_to_stop()?;
        let node = Node::start(&settings).await?;
        tracing::info!(instance = settings.instance, "the dataplane runs");
        tokio::select! {
            result = node.run() => result?,
            () = stop => {}
        }
        tracing::info!("stopped; programs stay attached, `hashplane cleanup` removes them");
        Ok(())
    })
}
