//! What texts must be like: names, labels, ports, addresses. Each function says what is wrong, in upstream's words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a name must be like; with `true` it is the beginning of a name yet to be made.
pub(super) type NameRule = fn(&str, bool) -> Vec<String>;

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_WORDS: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
     start and end with an alphanumeric character";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_WORDS: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_WORDS: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
     alphabetic character, and end with an alphanumeric character";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_WORDS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character";
const VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const VALUE_WORDS: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
     and must start and end with an alphanumeric character";

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const PORT_NAME_MAX: usize = 15;

fn longer_than(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn pattern(words: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{words} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

/// Whether a number lies between two, in words.
pub(super) fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|byte| is_lower(*byte))
        && bytes.last().is_some_and(|byte| is_lower(*byte))
        && bytes.iter().all(|byte| is_lower(*byte) || *byte == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// A label of DNS names: `my-name`.
pub(super) fn dns_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(longer_than(LABEL_MAX));
    }
    if !is_label(text) {
        wrong.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            pattern(LABEL_WORDS, LABEL, &["my-name", "123-abc"])
        });
    }
    wrong
}

/// A DNS name: `example.com`.
pub(super) fn dns_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        wrong.push(longer_than(SUBDOMAIN_MAX));
    }
    if !is_subdomain(text) {
        wrong.push(pattern(SUBDOMAIN_WORDS, SUBDOMAIN, &["example.com"]));
    }
    wrong
}

/// A DNS name whose labels may have underscores.
pub(super) fn dns_search(text: &str) -> Vec<String> {
    let is_part = |part: &str| {
        let plain = part.strip_prefix('_').unwrap_or(part);
        is_label(&plain.replace('_', "-"))
    };
    if text.len() <= SUBDOMAIN_MAX && text.split('.').all(is_part) {
        return Vec::new();
    }
    let words = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', \
         and must start and end with an alphanumeric character";
    let form = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
    vec![pattern(words, form, &["example.com"])]
}

/// A label that begins with a letter.
pub(super) fn dns_1035_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(longer_than(LABEL_MAX));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(pattern(LABEL_1035_WORDS, LABEL_1035, &["my-name", "abc-123"]));
    }
    wrong
}

/// A DNS name of at least two parts, which may end with a dot.
pub(super) fn domain_name(text: &str) -> Vec<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let wrong = dns_subdomain(text);
    if !wrong.is_empty() {
        return vec![wrong.join(",")];
    }
    if !text.contains('.') {
        return vec!["should be a domain with at least two segments separated by dots".to_owned()];
    }
    text.split('.')
        .map(dns_label)
        .filter(|wrong| !wrong.is_empty())
        .map(|wrong| wrong.join(","))
        .collect()
}

fn is_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is_plain(bytes.first())
        && is_plain(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// The key of a label, or what else has a prefix: `example.com/name`.
pub(super) fn label_key(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut parts = text.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let examples = ["MyName", "my.name", "123-abc"];
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                wrong.extend(dns_subdomain(first).iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        (Some(_), Some(_)) => {
            let words = pattern(KEY_WORDS, KEY, &examples);
            let rest = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {words} {rest}")];
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        wrong.push(format!("name part {}", longer_than(LABEL_MAX)));
    }
    if !is_key(name) {
        wrong.push(format!("name part {}", pattern(KEY_WORDS, KEY, &examples)));
    }
    wrong
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > LABEL_MAX {
        wrong.push(longer_than(LABEL_MAX));
    }
    if !text.is_empty() && !is_key(text) {
        wrong.push(pattern(VALUE_WORDS, VALUE, &["MyValue", "my_value", "12345"]));
    }
    wrong
}

/// The number of a port.
pub(super) fn port_number(number: i64) -> Vec<String> {
    if (1..=65_535).contains(&number) { Vec::new() } else { vec![between(1, 65_535)] }
}

/// The name of a port.
pub(super) fn port_name(text: &str) -> Vec<String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut wrong = Vec::new();
    let mut check = |is_wrong: bool, why: &str| {
        if is_wrong {
            wrong.push(why.to_owned());
        }
    };
    check(text.len() > PORT_NAME_MAX, &longer_than(PORT_NAME_MAX));
    check(
        text.is_empty() || !text.chars().all(is_plain),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    check(
        !text.contains(|c: char| c.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    );
    check(text.contains("--"), "must not contain consecutive hyphens");
    check(text.starts_with('-') || text.ends_with('-'), "must not begin or end with a hyphen");
    wrong
}

/// A share: `25%`.
pub(super) fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let words = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![pattern(words, "[0-9]+%", &["1%", "93%"])]
}

/// The name of an HTTP header.
pub(super) fn header_name(text: &str) -> Vec<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !text.is_empty() && text.bytes().all(is_plain) {
        return Vec::new();
    }
    let words = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![pattern(words, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// The name of an environment variable: anything printable since Kubernetes 1.32.
pub(super) fn variable_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let is_printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
    if text.bytes().all(is_printable) {
        return Vec::new();
    }
    let words = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![words.to_owned()]
}

/// A key in a ConfigMap or a Secret.
pub(super) fn config_key(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        wrong.push(longer_than(SUBDOMAIN_MAX));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_plain) {
        let words = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        wrong.push(pattern(words, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match text {
        "." | ".." => wrong.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// A path inside a folder: relative, without `..`.
pub(super) fn descending_path(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.starts_with('/') {
        wrong.push("must be a relative path".to_owned());
    }
    wrong.extend(no_backsteps(text));
    wrong
}

/// The same, for a path that does not begin with two dots in any way.
pub(super) fn plain_path(text: &str) -> Vec<String> {
    let mut wrong = descending_path(text);
    if text.starts_with("..") && !text.starts_with("../") && text != ".." {
        wrong.push("must not start with '..'".to_owned());
    }
    wrong
}

/// A path without `..`.
pub(super) fn no_backsteps(text: &str) -> Vec<String> {
    if text.split('/').any(|part| part == "..") {
        return vec!["must not contain '..'".to_owned()];
    }
    Vec::new()
}

/// An IP address.
pub(super) fn address(text: &str) -> Vec<String> {
    let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(_) => vec![words.to_owned()],
    }
}

/// A network: `10.0.0.0/8`.
pub(super) fn network(text: &str) -> Vec<String> {
    let Some((address, prefix)) = cidr(text) else {
        let words = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return vec![words.to_owned()];
    };
    let has_more = match address {
        IpAddr::V4(address) => u32::from(address).checked_shl(prefix.into()).unwrap_or(0) != 0,
        IpAddr::V6(address) => u128::from(address).checked_shl(prefix.into()).unwrap_or(0) != 0,
    };
    if has_more {
        return vec!["must not have bits set beyond the prefix length".to_owned()];
    }
    Vec::new()
}

/// Address and length of the prefix of a network.
pub(super) fn cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let is_plain = !prefix.is_empty()
        && prefix.bytes().all(|byte| byte.is_ascii_digit())
        && (prefix == "0" || !prefix.starts_with('0'));
    let prefix: u8 = prefix.parse().ok().filter(|_| is_plain)?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= max).then_some((address, prefix))
}

/// An address that others can reach: none of the node alone, none of the link.
pub(super) fn reachable_address(text: &str) -> Vec<String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return vec!["must be a valid IP address".to_owned()];
    };
    let (is_link_local, is_link_multicast) = match address {
        IpAddr::V4(address) => (address.is_link_local(), is_local_multicast(address)),
        IpAddr::V6(address) => (address.is_unicast_link_local(), is_link_local_multicast(address)),
    };
    let mut wrong = Vec::new();
    let mut check = |is_wrong: bool, why: String| {
        if is_wrong {
            wrong.push(why);
        }
    };
    check(address.is_unspecified(), format!("may not be unspecified ({text})"));
    check(
        address.is_loopback(),
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
    );
    check(
        is_link_local,
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
    );
    check(
        is_link_multicast,
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
    );
    wrong
}

fn is_local_multicast(address: Ipv4Addr) -> bool {
    address.octets()[..3] == [224, 0, 0]
}

fn is_link_local_multicast(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 0xff && second & 0x0f == 2
}

/// The name of an object that is a DNS name, as most are.
pub(super) fn subdomain_name(name: &str, is_prefix: bool) -> Vec<String> {
    dns_subdomain(&finished(name, is_prefix))
}

/// The name of an object that is a label.
pub(super) fn label_name(name: &str, is_prefix: bool) -> Vec<String> {
    dns_label(&finished(name, is_prefix))
}

/// The name of an object that is a label and begins with a letter.
pub(super) fn label_1035_name(name: &str, is_prefix: bool) -> Vec<String> {
    dns_1035_label(&finished(name, is_prefix))
}

/// The name of an object that is any part of a path.
pub(super) fn path_name(name: &str, _is_prefix: bool) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => {
            let parts = ["/", "%"].into_iter().filter(|part| name.contains(part));
            parts.map(|part| format!("may not contain '{part}'")).collect()
        }
    }
}

/// What may be a prefix, with the end that makes it a name.
fn finished(name: &str, is_prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if is_prefix && !rest.is_empty() => {
            format!("{}a", &rest[..rest.char_indices().last().map_or(0, |(at, _)| at)])
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(check: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(check(text), Vec::<String>::new(), "{text:?}");
        }
        for text in bad {
            assert!(!check(text).is_empty(), "{text:?} was taken");
        }
    }

    #[test]
    fn names_and_labels() {
        let (long, longest) = ("a".repeat(64), "a".repeat(63));
        all(dns_label, &["a", "1", "a-b", &longest], &["", "-a", "a-", "A", "a.b", "a_b", &long]);
        all(
            dns_subdomain,
            &["a", "a.b-c.1", &long],
            &["", ".", "a..b", "a.-b", "A", &"a".repeat(254)],
        );
        all(dns_1035_label, &["a", "a-1"], &["1a", "a.b", "", &long]);
        all(dns_search, &["_tcp.example", "a_b", "a"], &["", "a__", "A", "__a"]);
        all(domain_name, &["a.b", "a.b."], &["a", "", "a..b"]);
        all(
            label_key,
            &["a", "A_.-9", "example.com/a", &longest],
            &["", "/a", "a/", "a/b/c", "-a", "Example.com/a", &long],
        );
        all(label_value, &["", "a", "A_.-9", &longest], &["-a", "a b", "a/b", &long]);
        all(config_key, &["a", ".a", "A_b-c.d"], &["", ".", "..", "..a", "a/b", "a b"]);
        all(variable_name, &["A", "1", "a.b c"], &["", "a=b", "ä", "a\n"]);
        all(
            port_name,
            &["http", "a-1", "1a"],
            &["", "1", "-a", "a-", "a--b", "A", "abcdefghijklmnop"],
        );
        all(percent, &["0%", "25%", "150%"], &["", "%", "25", "-1%", "1.5%"]);
        all(header_name, &["X-A"], &["", "X_A", "a b"]);
    }

    #[test]
    fn paths() {
        all(plain_path, &["a", "a/b", ""], &["/a", "..", "../a", "a/../b", "..a"]);
        assert_eq!(plain_path("..a"), ["must not start with '..'"]);
        assert_eq!(plain_path("a/.."), ["must not contain '..'"]);
    }

    #[test]
    fn addresses() {
        all(address, &["10.0.0.1", "fd00::1"], &["", "10.0.0", "010.0.0.1", "::ffff:1.2.3.4", "a"]);
        all(
            network,
            &["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/64", "10.0.0.1/32"],
            &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.1/24", "fd00::1/64", "10.0.0.0/+8"],
        );
        all(
            reachable_address,
            &["10.0.0.1", "fd00::1", "224.0.1.1"],
            &["0.0.0.0", "127.0.0.1", "::1", "169.254.0.1", "fe80::1", "224.0.0.1", "ff02::1", "x"],
        );
    }

    #[test]
    fn names_to_be_made_may_end_with_a_dash() {
        assert!(subdomain_name("web-", true).is_empty());
        assert!(!subdomain_name("web-", false).is_empty());
        assert!(!subdomain_name("-", true).is_empty());
        assert!(label_1035_name("web-1-", true).is_empty());
        assert!(!label_1035_name("1a-", true).is_empty());
        assert_eq!(path_name("a/b%", false).len(), 2);
        assert!(path_name("system:node", false).is_empty());
    }

    #[test]
    fn words_are_those_of_upstream() {
        assert_eq!(
            dns_subdomain("A"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(
            dns_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }
}
