//! Generic netlink: families by name.

use super::{Attributes, Error, Message, Received, Socket, attributes};

/// Family and version of the family that knows all others.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const HEAD: usize = 4;

/// A message to a family.
pub fn message(
    family: u16,
    command: u8,
    version: u8,
    flags: u16,
    attributes: Attributes,
) -> Message {
    let mut body = vec![command, version, 0, 0];
    body.extend_from_slice(&attributes.into_bytes());
    Message { kind: family, flags, body }
}

/// Command and attributes of a message.
pub fn parse(received: &Received) -> Option<(u8, &[u8])> {
    Some((*received.body.first()?, received.body.get(HEAD..)?))
}

/// The number of a family; [`Error::NoFamily`] if the kernel has none of this name (perhaps because
/// its module is not loaded).
pub fn family(socket: &mut Socket, name: &'static str) -> Result<u16, Error> {
    let mut asked = Attributes::new();
    asked.text(FAMILY_NAME, name);
    let answer = socket.ask("find a netlink family", message(CONTROL, GET_FAMILY, 1, 0, asked));
    let answer = match answer {
        Err(error) if error.errno() == Some(libc::ENOENT) => return Err(Error::NoFamily(name)),
        other => other?,
    };
    let (_, body) = parse(&answer).ok_or(Error::NoFamily(name))?;
    let id = attributes(body).find(|attribute| attribute.kind == FAMILY_ID);
    id.and_then(super::Attribute::u16).ok_or(Error::NoFamily(name))
}
