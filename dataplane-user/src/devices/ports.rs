//! Which ports a translated source may get.

use std::{fs, ops::RangeInclusive};

use super::Error;

const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// First port, and how many from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePorts {
    /// The first port.
    pub min: u16,
    /// How many; never 0.
    pub count: u16,
}

/// The ports that sockets of this network namespace get when they ask for none.
pub fn ephemeral() -> Result<RangeInclusive<u16>, Error> {
    let setting = |source| Error::Setting { path: EPHEMERAL, source };
    let text = fs::read_to_string(EPHEMERAL).map_err(setting)?;
    let ports: Vec<u16> = text.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    match ports[..] {
        [first, last] => Ok(first..=last),
        _ => Err(setting(std::io::Error::new(std::io::ErrorKind::InvalidData, text))),
    }
}

/// The largest gap in 1024..=65535 that neither sockets nor `NodePorts` use; the lower one of equals.
///
/// If they use everything, translated sources share the ports with the sockets.
pub fn source_ports(
    ephemeral: &RangeInclusive<u16>,
    node_ports: &RangeInclusive<u16>,
) -> SourcePorts {
    let used = |port: u16| ephemeral.contains(&port) || node_ports.contains(&port);
    let mut best = SourcePorts { min: 1024, count: 0 };
    let mut run = best;
    for port in 1024..=u16::MAX {
        if used(port) {
            run.count = 0;
            continue;
        }
        if run.count == 0 {
            run.min = port;
        }
        run.count += 1;
        if run.count > best.count {
            best = run;
        }
    }
    if best.count == 0 { SourcePorts { min: 1024, count: u16::MAX - 1023 } } else { best }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_gap_beside_sockets_and_node_ports_is_taken() {
        // Linux' and Kubernetes' defaults.
        let ports = source_ports(&(32768..=60999), &(30000..=32767));
        assert_eq!(ports, SourcePorts { min: 1024, count: 30000 - 1024 });
        let ports = source_ports(&(1024..=40000), &(50000..=50100));
        assert_eq!(ports, SourcePorts { min: 50101, count: 65535 - 50100 });
    }

    #[test]
    fn no_gap_at_all_shares_the_ports() {
        let ports = source_ports(&(1024..=65535), &(30000..=32767));
        assert_eq!(ports, SourcePorts { min: 1024, count: 64512 });
    }

    #[test]
    fn the_kernel_names_its_ephemeral_ports() {
        let range = ephemeral().unwrap();
        assert!(range.start() < range.end());
    }
}
