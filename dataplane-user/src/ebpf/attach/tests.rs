//! Which places are wanted, and what their pins are called.

use std::path::Path;

use super::*;

fn devices() -> Devices {
    let device = |name: &str, role| Device { name: name.to_owned(), role, veth: false };
    Devices {
        devices: [(2, device("eth0", Role::Nic)), (9, device("veth9", Role::PodLink))].into(),
        ..Devices::default()
    }
}

fn settings() -> Settings {
    Settings { cgroup: Some(PathBuf::from("/sys/fs/cgroup")), tc: Tc::On, xdp: Xdp::Auto }
}

fn pins(settings: &Settings) -> Vec<String> {
    wanted(&devices(), settings).keys().map(|place| pin_name(*place, Mode::Tcx)).collect()
}

#[test]
fn each_role_gets_its_programs() {
    let only_devices = Settings { cgroup: None, ..settings() };
    let expected = [
        "nic_egress-2-tcx",
        "nic_ingress-2-tcx",
        "nic_xdp-2-tcx",
        "pod_egress-9-tcx",
        "pod_ingress-9-tcx",
    ];
    assert_eq!(pins(&only_devices), expected);
}

#[test]
fn hooks_are_switched_off_one_by_one() {
    let only_sockets = Settings { tc: Tc::Off, xdp: Xdp::Off, ..settings() };
    let mut expected = names::SOCKETS;
    expected.sort_unstable();
    assert_eq!(pins(&only_sockets), expected);
    let only_xdp = Settings { cgroup: None, tc: Tc::Off, ..settings() };
    assert_eq!(pins(&only_xdp), ["nic_xdp-2-tcx"]);
}

#[test]
fn xdp_runs_in_the_driver_and_in_the_stack_only_when_asked() {
    use Mode::{Driver, Generic};
    let on_a_card =
        [Xdp::Auto, Xdp::Driver, Xdp::Generic, Xdp::Off].map(|xdp| xdp_modes(xdp, false));
    assert_eq!(on_a_card, [&[Driver][..], &[Driver], &[Driver, Generic], &[]]);
    let on_a_veth =
        [Xdp::Auto, Xdp::Driver, Xdp::Generic, Xdp::Off].map(|xdp| xdp_modes(xdp, true));
    assert_eq!(on_a_veth, [&[][..], &[Driver], &[Generic], &[]]);
}

#[test]
fn a_pin_name_tells_its_place_and_mode() {
    let place = Place { ifindex: Some(12), program: names::NIC_XDP };
    for (place, mode) in [
        (place, Mode::Driver),
        (place, Mode::Generic),
        (Place { ifindex: None, program: "connect4" }, Mode::Cgroup),
    ] {
        assert_eq!(parse_pin_name(&pin_name(place, mode)), Some((place, mode)));
    }
    for name in ["connect4-new", "nic_xdp-x-driver", "nic_xdp-1-driver-2", "other-1-tcx", ""] {
        assert_eq!(parse_pin_name(name), None, "{name}");
    }
}

#[test]
fn cgroup2_is_found_among_the_mounts() {
    let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                  cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                  cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    let found = cgroup::find_cgroup2(mounts);
    assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    assert_eq!(cgroup::find_cgroup2("proc /proc proc rw 0 0\n"), None);
}

#[test]
fn a_directory_that_is_no_cgroup_says_so() {
    let error = cgroup::open(Path::new("/proc")).unwrap_err();
    assert_eq!(error.to_string(), "/proc is no directory of a cgroup2 file system");
}
