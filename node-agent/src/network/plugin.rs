//! The network plugin: what the runtime calls for each sandbox (Container Network Interface 1.0).

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Network,
    addresses::{self, Addresses},
    wiring::{self, Wish},
};
use crate::image::hex;

/// The name of the plugin's program.
pub const NAME: &str = "hashplane-cni";
/// The name of the plugin that containerd calls for the loopback device of each sandbox.
pub const LOOPBACK: &str = "loopback";
/// The version of the interface.
pub const VERSION: &str = "1.0.0";

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(rename = "cniVersion", default)]
    version: String,
    networks: Vec<String>,
    state: PathBuf,
    mtu: u32,
    #[serde(rename = "cni.dev/valid-attachments", default)]
    valid: Vec<Attachment>,
}

#[derive(Debug, Deserialize)]
struct Attachment {
    #[serde(rename = "containerID")]
    container: String,
}

/// Why a call failed; the numbers are those of the interface.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} is not set")]
    Variable(&'static str),
    #[error("the configuration is not as it should be: {0}")]
    Config(String),
    #[error("there is no command {0:?}")]
    Command(String),
    #[error(transparent)]
    Addresses(#[from] addresses::Error),
    #[error(transparent)]
    Wiring(#[from] wiring::Error),
    #[error("the sandbox has lost {0}")]
    Lost(String),
}

impl Error {
    fn code(&self) -> u32 {
        match self {
            Self::Variable(_) | Self::Command(_) => 4,
            Self::Config(_) => 7,
            Self::Addresses(_) => 11,
            Self::Wiring(_) => 100,
            Self::Lost(_) => 101,
        }
    }
}

/// The name that this process was started by.
fn own_name() -> Option<String> {
    let name = std::env::args_os().next()?;
    Some(Path::new(&name).file_name()?.to_str()?.to_owned())
}

/// Whether this process was started by a runtime as its plugin.
pub fn is_called() -> bool {
    own_name().is_some_and(|it| it == NAME || it == LOOPBACK)
}

/// Does what the runtime asks for: what goes to standard output, and whether it is a success.
pub fn run() -> (String, bool) {
    let variables: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name.starts_with("CNI_")).collect();
    let mut text = String::new();
    let answer = std::io::stdin()
        .take(1 << 20)
        .read_to_string(&mut text)
        .map_err(|error| Error::Config(error.to_string()))
        .and_then(|_| match own_name().as_deref() {
            Some(LOOPBACK) => loopback(&variables),
            _ => call(&variables, &text),
        });
    match answer {
        Ok(None) => (String::new(), true),
        Ok(Some(value)) => (value.to_string(), true),
        Err(error) => {
            let value =
                json!({"cniVersion": VERSION, "code": error.code(), "msg": error.to_string()});
            (value.to_string(), false)
        }
    }
}

fn call(variables: &BTreeMap<String, String>, text: &str) -> Result<Option<Value>, Error> {
    let variable = |name: &'static str| {
        variables.get(name).filter(|it| !it.is_empty()).ok_or(Error::Variable(name))
    };
    let command = variable("CNI_COMMAND")?;
    if command == "VERSION" {
        let versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        return Ok(Some(json!({"cniVersion": VERSION, "supportedVersions": versions})));
    }
    let config: Config =
        serde_json::from_str(text).map_err(|error| Error::Config(error.to_string()))?;
    let addresses = Addresses::open(&config.state)?;
    if command == "GC" {
        let valid: Vec<String> = config.valid.into_iter().map(|it| it.container).collect();
        addresses.keep_only(&valid)?;
        return Ok(None);
    }
    if command == "STATUS" {
        return Ok(None);
    }
    let sandbox = variable("CNI_CONTAINERID")?;
    let outside = link_name(sandbox);
    match command.as_str() {
        "ADD" => {
            let inside = variable("CNI_IFNAME")?.clone();
            let netns = variable("CNI_NETNS")?.clone();
            let networks: Result<Vec<Network>, String> =
                config.networks.iter().map(|it| it.parse()).collect();
            let taken = addresses.take(sandbox, &networks.map_err(Error::Config)?)?;
            let wish = Wish { outside, inside, netns, addresses: taken, mtu: config.mtu };
            match wiring::connect(&wish) {
                Ok(mac) => Ok(Some(result(&config.version, &wish, mac))),
                Err(error) => {
                    wiring::disconnect(&wish.outside)?;
                    addresses.give_back(sandbox)?;
                    Err(error.into())
                }
            }
        }
        "DEL" => {
            wiring::disconnect(&outside)?;
            addresses.give_back(sandbox)?;
            Ok(None)
        }
        "CHECK" => {
            if !wiring::is_connected(&outside) {
                return Err(Error::Lost(format!("its link {outside}")));
            }
            if addresses.of(sandbox)?.is_empty() {
                return Err(Error::Lost("its addresses".into()));
            }
            Ok(None)
        }
        other => Err(Error::Command(other.into())),
    }
}

/// The loopback device of a sandbox is up, or goes with the sandbox.
fn loopback(variables: &BTreeMap<String, String>) -> Result<Option<Value>, Error> {
    let command = variables.get("CNI_COMMAND").map(String::as_str).unwrap_or_default();
    if command != "ADD" {
        return Ok(None);
    }
    let netns = variables.get("CNI_NETNS").ok_or(Error::Variable("CNI_NETNS"))?;
    wiring::loopback(netns)?;
    Ok(Some(json!({
        "cniVersion": VERSION, "interfaces": [{"name": "lo", "sandbox": netns}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}],
    })))
}

/// The name of a sandbox's link on the node: 15 bytes are the most that the kernel takes.
fn link_name(sandbox: &str) -> String {
    format!("hp{}", hex(digest(&SHA256, sandbox.as_bytes()).as_ref(), 5))
}

fn result(version: &str, wish: &Wish, mac: [u8; 6]) -> Value {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let ips = wish.addresses.iter().map(|address| {
        let prefix = Network::bits(*address);
        json!({
            "address": format!("{address}/{prefix}"), "gateway": wiring::gateway(*address), "interface": 1,
        })
    });
    let ips: Vec<Value> = ips.collect();
    let routes = wish.addresses.iter().map(|address| match address {
        IpAddr::V4(_) => json!({"dst": "0.0.0.0/0"}),
        IpAddr::V6(_) => json!({"dst": "::/0"}),
    });
    let routes: Vec<Value> = routes.collect();
    json!({
        "cniVersion": if version.is_empty() { VERSION } else { version },
        "interfaces": [
            {"name": wish.outside},
            {"name": wish.inside, "mac": mac.join(":"), "sandbox": wish.netns},
        ],
        "ips": ips, "routes": routes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_call_that_lacks_something_says_what() {
        let error = call(&with(&[]), "{}").expect_err("nothing to do");
        assert_eq!(error.to_string(), "CNI_COMMAND is not set");
        let error = call(&with(&[("CNI_COMMAND", "ADD")]), "{}").expect_err("no configuration");
        assert_eq!(error.code(), 7);
        let directory = tempfile::tempdir().expect("a directory");
        let config = json!({"networks": [], "state": directory.path(), "mtu": 1500}).to_string();
        let error = call(&with(&[("CNI_COMMAND", "ADD")]), &config).expect_err("no sandbox");
        assert_eq!(error.to_string(), "CNI_CONTAINERID is not set");
        let variables = with(&[("CNI_COMMAND", "TURN"), ("CNI_CONTAINERID", "x")]);
        let error = call(&variables, &config).expect_err("no such command");
        assert_eq!(error.code(), 4);
    }

    #[test]
    fn what_is_not_there_can_be_deleted() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = json!({"networks": [], "state": directory.path(), "mtu": 1500}).to_string();
        let variables = with(&[("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "never-there")]);
        assert!(call(&variables, &config).expect("it is gone").is_none());
        let variables = with(&[("CNI_COMMAND", "CHECK"), ("CNI_CONTAINERID", "never-there")]);
        assert!(matches!(call(&variables, &config), Err(Error::Lost(_))));
    }

    #[test]
    fn names_of_links_are_short_and_differ() {
        assert_eq!(link_name("a").len(), 12);
        assert_ne!(link_name("a"), link_name("b"));
    }
}
