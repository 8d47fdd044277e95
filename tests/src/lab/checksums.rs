//! What a namespace's kernel found wrong with the checksums of packets that it received.

use std::fs;

use anyhow::Context as _;

/// Segments and datagrams with a wrong checksum, seen in the namespace of this thread.
pub(super) fn errors() -> anyhow::Result<u64> {
    // `/proc/net` would be the namespace of the process.
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    Ok(of_tables(&read("snmp")?) + of_lines(&read("snmp6")?))
}

/// IPv4 and TCP: a line of names, then a line of numbers.
fn of_tables(text: &str) -> u64 {
    let lines: Vec<&str> = text.lines().collect();
    let (tables, _) = lines.as_chunks::<2>();
    let columns =
        tables.iter().flat_map(|[names, numbers]| names.split(' ').zip(numbers.split(' ')));
    columns
        .filter(|(name, _)| *name == "InCsumErrors")
        .filter_map(|(_, number)| number.parse::<u64>().ok())
        .sum()
}

/// IPv6: a name and a number in each line.
fn of_lines(text: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    lines
        .filter(|(name, _)| name.ends_with("InCsumErrors"))
        .filter_map(|(_, number)| number.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_wrong_checksum_counts() {
        let v4 = "Ip: Forwarding InReceives\nIp: 2 25408\nTcp: InErrs InCsumErrors\nTcp: 9 3\n\
                  Udp: InCsumErrors MemErrors\nUdp: 4 7\n";
        assert_eq!(of_tables(v4), 7);
        assert_eq!(of_lines("Icmp6InCsumErrors  \t1\nUdp6InErrors\t9\nUdp6InCsumErrors\t2\n"), 3);
    }
}
