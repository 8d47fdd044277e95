//! Addresses of pods: one file per taken address, so that any process can give and take under a lock.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use super::Network;

/// Hosts of an IPv6 network that are given out; an IPv4 network is smaller anyway.
const HOSTS_MAX: u128 = 1 << 16;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Files.
    #[error("cannot {doing} {}: {cause}", path.display())]
    File {
        /// What failed.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// All are taken.
    #[error("all addresses of {0} are taken")]
    Full(Network),
}

/// Addresses that are taken, in a directory.
#[derive(Clone, Debug)]
pub struct Addresses {
    directory: PathBuf,
}

impl Addresses {
    /// Those of a directory, which is made.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |cause| Error::File { doing: "make", path: directory.into(), cause };
        fs::create_dir_all(directory).map_err(failed)?;
        Ok(Self { directory: directory.into() })
    }

    fn lock(&self) -> Result<File, Error> {
        let path = self.directory.join("lock");
        let failed = |cause| Error::File { doing: "lock", path: path.clone(), cause };
        let file = File::create(&path).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(file)
    }

    fn files(&self) -> Result<Vec<(IpAddr, String)>, Error> {
        let path = &self.directory;
        let failed = |cause| Error::File { doing: "read", path: path.clone(), cause };
        let mut files = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(address) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
                continue;
            };
            files.push((address, fs::read_to_string(entry.path()).unwrap_or_default()));
        }
        files.sort();
        Ok(files)
    }

    /// Takes one address of each network for a sandbox; the same ones if it has some.
    pub fn take(&self, sandbox: &str, networks: &[Network]) -> Result<Vec<IpAddr>, Error> {
        let _lock = self.lock()?;
        let files = self.files()?;
        let mut taken = Vec::new();
        for network in networks {
            let own = files.iter().find(|(ip, owner)| owner == sandbox && network.has(*ip));
            let address = match own {
                Some((address, _)) => *address,
                None => self.next(network, &files)?,
            };
            self.write(&address.to_string(), sandbox)?;
            taken.push(address);
        }
        Ok(taken)
    }

    /// The address after the one that was given last, so that one that was given back rests.
    fn next(&self, network: &Network, files: &[(IpAddr, String)]) -> Result<IpAddr, Error> {
        let size = u32::from(Network::bits(network.address) - network.prefix);
        let hosts = 1_u128.checked_shl(size).unwrap_or(HOSTS_MAX).min(HOSTS_MAX);
        let name = format!("last-{}", network.to_string().replace(['/', ':'], "_"));
        let last = fs::read_to_string(self.directory.join(&name));
        let last: u128 = last.ok().and_then(|it| it.trim().parse().ok()).unwrap_or(1);
        // The first is the network's own, the second is kept for a gateway, the last is a broadcast address.
        let usable = hosts.saturating_sub(3);
        for step in 1..=usable {
            let host = 2 + (last.saturating_sub(2) + step) % usable.max(1);
            let address = host_of(network, host);
            if files.iter().all(|(taken, _)| *taken != address) {
                self.write(&name, &host.to_string())?;
                return Ok(address);
            }
        }
        Err(Error::Full(*network))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(|cause| Error::File { doing: "write", path, cause })
    }

    /// Gives back what a sandbox has taken.
    pub fn give_back(&self, sandbox: &str) -> Result<Vec<IpAddr>, Error> {
        let _lock = self.lock()?;
        self.drop_where(|owner| owner == sandbox)
    }

    /// Gives back what no sandbox of these has taken.
    pub fn keep_only(&self, sandboxes: &[String]) -> Result<Vec<IpAddr>, Error> {
        let _lock = self.lock()?;
        self.drop_where(|owner| !sandboxes.iter().any(|it| it == owner))
    }

    fn drop_where(&self, goes: impl Fn(&str) -> bool) -> Result<Vec<IpAddr>, Error> {
        let mut given = Vec::new();
        for (address, owner) in self.files()? {
            if !goes(&owner) {
                continue;
            }
            let path = self.directory.join(address.to_string());
            fs::remove_file(&path).map_err(|cause| Error::File { doing: "remove", path, cause })?;
            given.push(address);
        }
        Ok(given)
    }

    /// What a sandbox has.
    pub fn of(&self, sandbox: &str) -> Result<Vec<IpAddr>, Error> {
        let files = self.files()?;
        Ok(files.into_iter().filter(|(_, owner)| owner == sandbox).map(|(ip, _)| ip).collect())
    }
}

fn host_of(network: &Network, host: u128) -> IpAddr {
    match network.address {
        IpAddr::V4(first) => {
            let host = u32::try_from(host).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | host))
        }
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_once_and_rest_before_they_are_given_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let addresses = Addresses::open(directory.path()).expect("addresses");
        let networks = ["10.0.0.0/29", "fd00::/64"].map(|it| it.parse().expect("a network"));
        let mut seen = Vec::new();
        for number in 0..5 {
            let taken = addresses.take(&format!("pod-{number}"), &networks).expect("addresses");
            assert!(taken[0].is_ipv4() && taken[1].is_ipv6());
            assert!(!seen.contains(&taken), "{taken:?} twice");
            seen.push(taken);
        }
        assert!(matches!(addresses.take("one-more", &networks[..1]), Err(Error::Full(_))));
        assert_eq!(addresses.take("pod-1", &networks).expect("the same"), seen[1]);
        addresses.give_back("pod-0").expect("given back");
        addresses.give_back("pod-3").expect("given back");
        let next = addresses.take("pod-5", &networks).expect("an address");
        assert_eq!(next[0], seen[0][0], "the one that has rested for longest");
        addresses.keep_only(&["pod-5".into()]).expect("kept");
        assert_eq!(addresses.files().expect("files").len(), 2);
    }
}
