//! One request to the kernel over netlink, and its answers, without a runtime.

use std::io;

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Sends `message` on a new socket of `protocol` and collects the answers until the kernel says
/// that there are no more. `flags` must ask for an end: `NLM_F_DUMP` or `NLM_F_ACK`.
pub(super) fn ask<Q, A>(protocol: isize, flags: u16, message: Q) -> io::Result<Vec<A>>
where
    Q: NetlinkSerializable,
    A: NetlinkDeserializable,
{
    let socket = send(protocol, flags, message)?;
    let mut answers = Vec::new();
    while receive(&socket, &mut answers)? {}
    Ok(answers)
}

fn send<Q: NetlinkSerializable>(protocol: isize, flags: u16, message: Q) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// Takes the next datagram; whether more will come.
fn receive<A: NetlinkDeserializable>(socket: &Socket, answers: &mut Vec<A>) -> io::Result<bool> {
    let (bytes, _) = socket.recv_from_full()?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let packet = NetlinkMessage::<A>::deserialize(rest).map_err(io::Error::other)?;
        let length = (packet.header.length as usize).next_multiple_of(4).max(4);
        match packet.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            NetlinkPayload::Error(_)
            | NetlinkPayload::Done(_)
            | NetlinkPayload::Noop
            | NetlinkPayload::Overrun(_) => return Ok(false),
            // The enum is open; a kind we do not know carries nothing for us.
            _ => {}
        }
        rest = rest.get(length..).unwrap_or(&[]);
    }
    Ok(true)
}
