//! XDP programs of a few instructions as objects that loaders take, so that no compiler is needed.

/// The name of the function.
pub const NAME: &str = "program";
/// Bytes of an ELF header, a section header and a symbol (ELF64).
const HEADER: usize = 64;
const SYMBOL: usize = 24;
const STRINGS: &[u8] = b"\0program\0xdp\0license\0.symtab\0.strtab\0";

/// Section name, type, bytes, link, first global symbol, size of an entry.
struct Section(&'static str, u32, Vec<u8>, u32, u32, u64);

/// A relocatable object with this code in section `xdp`.
pub fn object(code: &[u8]) -> Vec<u8> {
    // STT_FUNC, STB_GLOBAL, in section 1.
    let mut symbols = vec![0; SYMBOL];
    symbols.extend(name(NAME).to_le_bytes());
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend(0_u64.to_le_bytes());
    symbols.extend((code.len() as u64).to_le_bytes());
    let sections = [
        Section("xdp", 1, code.to_vec(), 0, 0, 0),
        Section("license", 1, b"GPL\0".to_vec(), 0, 0, 0),
        Section(".symtab", 2, symbols, 4, 1, SYMBOL as u64),
        Section(".strtab", 3, STRINGS.to_vec(), 0, 0, 0),
    ];
    let mut body = Vec::new();
    let mut headers = vec![0; HEADER];
    for Section(section, kind, bytes, link, first_global, entry) in sections {
        let at = (HEADER + body.len()) as u64;
        // Code is allocated and executable.
        let flags: u64 = if section == "xdp" { 6 } else { 0 };
        headers.extend([name(section), kind].map(u32::to_le_bytes).concat());
        headers.extend([flags, 0, at, bytes.len() as u64].map(u64::to_le_bytes).concat());
        headers.extend([link, first_global].map(u32::to_le_bytes).concat());
        headers.extend([8, entry].map(u64::to_le_bytes).concat());
        body.extend(bytes);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    // ELF64, little-endian, version 1; relocatable, EM_BPF (247).
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\xf7\0\x01\0\0\0".to_vec();
    file.extend([0, 0, (HEADER + body.len()) as u64].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 0, 0, 64, 5, 4].map(u16::to_le_bytes).concat());
    file.extend(body);
    file.extend(headers);
    file
}

/// Where a name begins among the strings.
fn name(text: &str) -> u32 {
    let at = STRINGS
        .windows(text.len() + 1)
        .position(|window| window.strip_suffix(b"\0") == Some(text.as_bytes()));
    at.and_then(|at| u32::try_from(at).ok()).unwrap_or(0)
}
