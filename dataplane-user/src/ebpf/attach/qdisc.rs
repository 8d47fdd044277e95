//! The clsact qdisc under our filters: those we made are remembered, and go when they are empty.

use std::{fs, io, path::Path};

use aya::programs::tc;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::ebpf::{
    netlink::ask,
    pin::{self, Pins},
};

/// Makes sure that the device has a clsact qdisc, and remembers if it had none.
///
/// A failure shows when a filter is attached: the qdisc may have been there.
pub(super) fn ensure(pins: &Pins, name: &str, ifindex: u32) {
    if tc::qdisc_add_clsact(name).is_ok() {
        let mark = pins.qdisc(ifindex);
        if let Err(error) = fs::create_dir_all(&mark) {
            tracing::warn!(device = name, %error, "cleanup will leave a clsact qdisc behind");
        }
    }
}

/// Removes the qdiscs that [`ensure`] made and that hold no filter any more; ours must have been
/// removed before. Those with filters of others stay, and are theirs from now on.
pub fn remove_qdiscs(pins: &Pins) -> Result<(), pin::Error> {
    for ifindex in pins.qdiscs()? {
        let path = pins.qdisc(ifindex);
        match remove_if_empty(ifindex) {
            Ok(()) => {}
            // The device has gone, and the qdisc with it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => {}
            Err(source) => return Err(failed("remove the qdisc of", &path, source)),
        }
        fs::remove_dir(&path).map_err(|source| failed("remove", &path, source))?;
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> pin::Error {
    pin::Error::Path { what, path: path.to_owned(), source }
}

fn remove_if_empty(ifindex: u32) -> io::Result<()> {
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let mut about = TcMessage::with_index(index);
        about.header.parent = TcHandle { major: u16::MAX, minor };
        let request = RouteNetlinkMessage::GetTrafficFilter(about);
        let filters: Vec<RouteNetlinkMessage> = ask(NETLINK_ROUTE, NLM_F_DUMP, request)?;
        if !filters.is_empty() {
            return Ok(());
        }
    }
    let mut qdisc = TcMessage::with_index(index);
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    let request = RouteNetlinkMessage::DelQueueDiscipline(qdisc);
    ask::<_, RouteNetlinkMessage>(NETLINK_ROUTE, NLM_F_ACK, request).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread};

    use super::*;

    fn run(program: &str, arguments: &str) -> String {
        let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn only_an_empty_qdisc_that_we_made_is_removed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: a network namespace of our own needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path(), "test").unwrap();
        // A classic filter that matches nothing: kernels with our kind of filter have it.
        let code = dir.path().join("code");
        fs::write(&code, "1,6 0 0 0,").unwrap();
        // The namespace is this thread's alone and ends with it.
        let test = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let has_qdisc =
                |name: &str| run("tc", &format!("qdisc show dev {name}")).contains("clsact");
            for name in ["ours", "shared", "theirs", "gone"] {
                run("ip", &format!("link add {name} type veth"));
            }
            run("tc", "qdisc add dev theirs clsact");
            for name in ["ours", "shared", "theirs", "gone"] {
                ensure(&pins, name, nix::net::if_::if_nametoindex(name).unwrap());
            }
            run(
                "tc",
                &format!("filter add dev shared egress bpf bytecode-file {}", code.display()),
            );
            run("ip", "link del gone");
            assert!(has_qdisc("ours"));
            remove_qdiscs(&pins).unwrap();
            assert!(!has_qdisc("ours") && has_qdisc("shared") && has_qdisc("theirs"));
            assert!(pins.qdiscs().unwrap().is_empty());
            remove_qdiscs(&pins).unwrap();
        };
        thread::spawn(test).join().unwrap();
    }
}
