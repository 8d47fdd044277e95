//! Netlink attributes as `nf_tables` wants them: numbers in network order, nests with their flag.

/// The flag of an attribute that holds others (`NLA_F_NESTED`).
const NESTED: u16 = 1 << 15;
/// The bits of an attribute's type that are its kind.
const KIND: u16 = 0x3fff;

/// Writes attributes to the end of a message.
#[derive(Debug)]
pub struct Attributes<'a>(pub &'a mut Vec<u8>);

impl Attributes<'_> {
    /// Some bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A number.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text, with a zero at its end.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Attributes within an attribute. All of them together must stay under 64 KiB.
    pub fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Attributes<'_>)) {
        let at = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        write(&mut Attributes(self.0));
        let len = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.0[at + 2..at + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
    }
}

/// The attributes in some bytes, each with its kind. Reading ends at what is no attribute.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The attribute of this kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    read(bytes).find(|(of, _)| *of == kind).map(|(_, value)| value)
}

/// A number, from 1, 2 or 4 bytes.
pub fn number(value: &[u8]) -> Option<u32> {
    match *value {
        [a] => Some(u32::from(a)),
        [a, b] => Some(u32::from(u16::from_be_bytes([a, b]))),
        [a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// The number in the attribute of this kind.
pub fn find_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    number(find(bytes, kind)?)
}

/// The number in the attribute of this kind.
pub fn find_u64(bytes: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(find(bytes, kind)?.try_into().ok()?))
}

/// The text in the attribute of this kind.
pub fn find_text(bytes: &[u8], kind: u16) -> Option<&str> {
    let value = find(bytes, kind)?;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Vec::new();
        let mut attributes = Attributes(&mut message);
        attributes.u32(3, 7);
        attributes.nest(5, |inner| {
            inner.text(1, "name");
            inner.u64(2, 1 << 40);
        });
        assert_eq!(message.len() % 4, 0);
        assert_eq!(find_u32(&message, 3), Some(7));
        let inner = find(&message, 5).unwrap();
        assert_eq!(find_text(inner, 1), Some("name"));
        assert_eq!(find_u64(inner, 2), Some(1 << 40));
        assert_eq!(find(inner, 3), None);
        for end in 0..message.len() {
            read(&message[..end]).for_each(drop);
        }
    }
}
