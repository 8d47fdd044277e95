//! Attributes: type, length, value, padded to four bytes, nested as often as it takes.

/// The attribute holds attributes.
const NESTED: u16 = 1 << 15;
/// The kind, without flags.
const KIND: u16 = (1 << 14) - 1;
const HEAD: usize = 4;

/// Attributes that are being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes, a multiple of four.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let at = self.begin(kind);
        self.0.extend_from_slice(value);
        self.end(at)
    }

    /// Text, with the zero behind it that the kernel wants.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let at = self.begin(kind);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.end(at)
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Two bytes in the machine's order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Four bytes in the machine's order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Two bytes in the network's order.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Four bytes in the network's order, as netfilter has all its numbers.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Eight bytes in the network's order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Attributes inside an attribute.
    pub fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.begin(kind | NESTED);
        write(self);
        self.end(at)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn begin(&mut self, kind: u16) -> usize {
        let at = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    /// Writes the length, and pads. An attribute holds 65,531 bytes at most: who writes lists keeps
    /// them shorter.
    fn end(&mut self, at: usize) -> &mut Self {
        let len = self.0.len() - at;
        let fits = u16::try_from(len);
        debug_assert!(fits.is_ok(), "an attribute of {len} bytes");
        let len = fits.unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// One attribute that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// What it is, without flags.
    pub kind: u16,
    /// Its bytes, without padding.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The attributes inside.
    pub fn nested(self) -> impl Iterator<Item = Attribute<'a>> {
        attributes(self.value)
    }

    /// As text, without the zero behind it; bytes that are no UTF-8 make it empty.
    pub fn text(self) -> &'a str {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).unwrap_or_default()
    }

    /// As one byte.
    pub fn u8(self) -> Option<u8> {
        self.value.first().copied()
    }

    /// As two bytes in the machine's order.
    pub fn u16(self) -> Option<u16> {
        self.value.try_into().ok().map(u16::from_ne_bytes)
    }

    /// As four bytes in the machine's order.
    pub fn u32(self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_ne_bytes)
    }

    /// As two bytes in the network's order.
    pub fn be16(self) -> Option<u16> {
        self.value.try_into().ok().map(u16::from_be_bytes)
    }

    /// As four bytes in the network's order.
    pub fn be32(self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    /// As eight bytes in the network's order.
    pub fn be64(self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_be_bytes)
    }
}

/// The attributes in some bytes; it ends at the first that does not fit.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = rest.get(..HEAD)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & KIND;
        let value = rest.get(HEAD..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut written = Attributes::new();
        written.be32(1, 7).text(2, "web").nested(3, |inner| {
            inner.u8(1, 9).be16(2, 80).bytes(3, &[1, 2, 3, 4, 5]);
        });
        let bytes = written.into_bytes();
        assert_eq!(bytes[..8], [8, 0, 1, 0, 0, 0, 0, 7]);
        assert_eq!(bytes.len() % 4, 0);
        let read: Vec<Attribute<'_>> = attributes(&bytes).collect();
        assert_eq!((read.len(), read[0].be32(), read[1].text()), (3, Some(7), "web"));
        let inner: Vec<Attribute<'_>> = read[2].nested().collect();
        assert_eq!((inner[0].u8(), inner[1].be16()), (Some(9), Some(80)));
        assert_eq!(inner[2].value, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn bytes_that_are_cut_off_end_the_reading() {
        let mut written = Attributes::new();
        written.be32(1, 7).be32(2, 8);
        let bytes = written.into_bytes();
        for len in 0..bytes.len() {
            let count = attributes(&bytes[..len]).count();
            assert_eq!(count, usize::from(len >= 8), "{len}");
        }
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }
}
