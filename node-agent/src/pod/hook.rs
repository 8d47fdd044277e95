//! What containers are told after their start and before their end.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, LifecycleHandler},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{cri::Runtime, probe::check};

/// Runs a hook to its end; says why it failed.
pub(crate) async fn run(
    hook: &LifecycleHandler,
    container: &Container,
    id: &str,
    address: Option<IpAddr>,
    runtime: &Runtime,
    within: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match runtime.exec_sync(id, &command, within).await {
            Ok(ran) if ran.code == 0 => Ok(()),
            Ok(ran) => {
                let output = String::from_utf8_lossy(&ran.output).trim().to_owned();
                Err(format!("command '{}' exited with {}: {output}", command.join(" "), ran.code))
            }
            Err(status) => Err(status.message().to_owned()),
        };
    }
    if let Some(action) = &hook.http_get {
        let host = action.host.as_deref().filter(|it| !it.is_empty());
        let ip = host.and_then(|it| it.parse().ok()).or(address).ok_or("the pod has no address")?;
        let port = match &action.port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => check::named(container, name),
        };
        let address = SocketAddr::new(ip, port.ok_or("there is no such port")?);
        let asked = tokio::time::timeout(within, check::http(action, address)).await;
        return asked.unwrap_or_else(|_late| Err(format!("no answer in {within:?}")));
    }
    if let Some(action) = &hook.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds).min(within)).await;
    }
    Ok(())
}
