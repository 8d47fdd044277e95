//! Whether the kernel has IPVS, and dummy devices for its addresses.

use super::{Answer, Feature, Probes, sentence, tools};
use crate::netlink::{Attributes, Error, Message, Socket, generic};

const FAMILY: &str = "IPVS";
const VERSION: u8 = 1;
const NEW_SERVICE: u8 = 1;
/// A virtual server that nobody will ever ask for.
const ADDRESS: [u8; 4] = [192, 0, 2, 1];
const PORT: u16 = 9;

const NEW_LINK: u16 = 16;
const CREATE_EXCLUSIVE: u16 = 0x600;

pub(super) fn run(probes: &mut Probes) {
    probes.set(Feature::Dummy, dummy().into());
    match found() {
        Ok((mut socket, family)) => {
            probes.set(Feature::Ipvs, Answer::yes());
            probes.set(Feature::IpvsScheduler, scheduler(&mut socket, family, "rr").into());
        }
        Err(error) => {
            let why = "this kernel has no ip_vs, nor a module of that name".to_owned();
            let why = if matches!(error, Error::NoFamily(_)) { why } else { sentence(&error) };
            probes.set(Feature::Ipvs, Answer::Missing(why));
            let untried = Answer::Untried("there is no ip_vs".to_owned());
            probes.set(Feature::IpvsScheduler, untried);
        }
    }
}

/// The module does not come by itself, unlike those of other families.
fn found() -> Result<(Socket, u16), Error> {
    let mut socket = Socket::open(libc::NETLINK_GENERIC)?;
    match generic::family(&mut socket, FAMILY) {
        Err(Error::NoFamily(_)) => {
            // Where there is no such module the second look says so.
            let _may_fail = tools::run("modprobe", &["-q", "ip_vs"], "", None);
            let family = generic::family(&mut socket, FAMILY)?;
            Ok((socket, family))
        }
        other => Ok((socket, other?)),
    }
}

fn scheduler(socket: &mut Socket, family: u16, name: &str) -> Result<(), Error> {
    let mut attributes = Attributes::new();
    attributes.nested(1, |service| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&ADDRESS);
        let ipv4 = u16::try_from(libc::AF_INET).unwrap_or_default();
        let tcp = u16::try_from(libc::IPPROTO_TCP).unwrap_or_default();
        service.u16(1, ipv4).u16(2, tcp).bytes(3, &address).be16(4, PORT).text(6, name);
        // No flags, and a mask of those that are meant; no persistence; one address at a time.
        service.bytes(7, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).u32(8, 0).u32(9, u32::MAX);
    });
    let message = generic::message(family, NEW_SERVICE, VERSION, 0, attributes);
    socket.request("add a virtual server", message)
}

fn dummy() -> Result<(), Error> {
    let mut attributes = Attributes::new();
    attributes.text(3, "probe0").nested(18, |link| {
        link.text(1, "dummy");
    });
    // An empty `struct ifinfomsg`: any family, any index.
    let mut body = vec![0; 16];
    body.extend_from_slice(&attributes.into_bytes());
    let message = Message { kind: NEW_LINK, flags: CREATE_EXCLUSIVE, body };
    Socket::open(libc::NETLINK_ROUTE)?.request("make a dummy device", message)
}
