//! What modes of an instance of ours have in the kernel, to find those that do not serve any more.

use super::{Error, Leftover, Outcome, rules::removal, tables, xtables};
use crate::{
    backend::Mode, ebpf::pin::Pins, iptables::names::Names, ipvs::device,
    netlink::netfilter::family,
};

/// Traces of every mode of the instance but the one that serves. They are only found: each backend
/// removes its own.
pub(super) fn find(pins: &Pins, serving: Option<Mode>, outcome: &mut Outcome) {
    let instance = pins.instance();
    let mut found = |mode: Mode, what: String| {
        if Some(mode) != serving {
            let of = format!("mode {mode}");
            outcome.leftovers.push(Leftover { of, what });
        }
    };
    if pins.exist() {
        found(Mode::Ebpf, format!("programs and maps below {}", pins.root().display()));
    }
    let device = device::name(instance);
    if nix::net::if_::if_nametoindex(device.as_str()).is_ok() {
        found(Mode::Ipvs, format!("device {device}"));
    }
    let named = |prefix: &str| match instance {
        "default" => prefix.to_owned(),
        other => format!("{prefix}-{other}"),
    };
    let owners = [(Mode::Nftables, named("hashplane")), (Mode::Ipvs, named("hashplane-ipvs"))];
    match tables::all() {
        Ok(tables) => {
            for (of, name) in tables {
                let mode = owners.iter().find(|(_, own)| *own == name).map(|(mode, _)| *mode);
                let family = if of == family::IPV4 { "ip" } else { "ip6" };
                if let Some(mode) = mode.filter(|_| matches!(of, family::IPV4 | family::IPV6)) {
                    found(mode, format!("nftables table {family} {name}"));
                }
            }
        }
        Err(source) => outcome.failed.push(Error::Tables { what: "list", source }),
    }
    if serving != Some(Mode::Iptables) {
        let names = Names::of(instance);
        xtables::each(outcome, "mode iptables", |saved, _| {
            Ok(removal(saved, |chain| names.is_ours(chain)).chains)
        });
    }
}
