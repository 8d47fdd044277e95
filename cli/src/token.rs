//! `hashplane token`: tokens by which machines join.

use std::path::PathBuf;

use anyhow::Context as _;
use control_plane::{
    client::{Client as _, Kind},
    remote::Remote,
};
use jiff::{SignedDuration, Timestamp};
use node_agent::join::{Token, fingerprint};
use rand::{Rng as _, distr::Alphanumeric};
use serde_json::json;

use crate::service;

/// Tokens by which machines join.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Makes a token and prints it: give it to `hashplane node --token`.
    Create {
        /// The file of the administrator.
        #[arg(long, env = "KUBECONFIG")]
        kubeconfig: PathBuf,
        /// Hours for which it is good; 0 is for ever.
        #[arg(long, default_value_t = 24)]
        hours: u32,
    },
}

const SECRETS: Kind = Kind { group: "", plural: "secrets" };
const MAPS: Kind = Kind { group: "", plural: "configmaps" };

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let Command::Create { kubeconfig, hours } = command;
    service::block_on(async move {
        let client = Remote::open(&kubeconfig).await?;
        // What every namespace has for its pods: the authority's certificate.
        let map = client
            .get(MAPS, "kube-system", "kube-root-ca.crt")
            .await
            .map_err(|failure| words(&failure))?;
        let certificate = map["data"]["ca.crt"].as_str().unwrap_or_default();
        let fingerprint = fingerprint(certificate);
        anyhow::ensure!(!fingerprint.is_empty(), "the cluster does not tell its authority");
        let (id, secret) = (random(6), random(16));
        let mut data = json!({
            "token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:hashplane",
        });
        if hours > 0 {
            let end = Timestamp::now().checked_add(SignedDuration::from_hours(i64::from(hours)))?;
            data["expiration"] = json!(format!("{end:.0}"));
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"},
            "stringData": data,
        });
        client.create(SECRETS, object).await.map_err(|failure| words(&failure))?;
        println!("{}", Token { fingerprint, secret: format!("{id}.{secret}") });
        Ok(())
    })
    .context("no token is made")
}

fn words(failure: &control_plane::api::status::Failure) -> anyhow::Error {
    let status = failure.status();
    anyhow::anyhow!("{}", status["message"].as_str().unwrap_or("the server does not say why"))
}

fn random(length: usize) -> String {
    let letters = rand::rng().sample_iter(Alphanumeric).map(char::from);
    letters.map(|it| it.to_ascii_lowercase()).take(length).collect()
}
