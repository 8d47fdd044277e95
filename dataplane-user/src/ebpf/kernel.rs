//! Raw `bpf(2)` batch calls on maps; with the declarations of plain data the only unsafe here.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya::maps::{MapData, MapType};
use dataplane_common::{
    Affinity, AffinityKey, Config, Endpoint, Flow, FlowKey, Frontend, FrontendKey, Live, Peer,
    PeerKey, SourceKey,
};

/// Values that are their bytes.
///
/// # Safety
/// The type has no padding, no pointer, and every bit pattern is a value of it.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers have neither padding nor invalid patterns.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: an array of plain values is their bytes in a row.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: `repr(C)`, N + 2 + 1 + 1 bytes of alignment 1; its size is asserted where it is declared.
unsafe impl<const N: usize> Plain for FrontendKey<N> {}
// SAFETY: `repr(C)`, eight `u32`.
unsafe impl Plain for Frontend {}
// SAFETY: `repr(C)`, two `u32`.
unsafe impl Plain for Live {}
// SAFETY: `repr(C)`, N + 2 + 2 + 4 bytes with N a multiple of 4; its size is asserted.
unsafe impl<const N: usize> Plain for Endpoint<N> {}
// SAFETY: `repr(C)`, 2 N + 4 + 4 bytes of alignment 1; its size is asserted.
unsafe impl<const N: usize> Plain for FlowKey<N> {}
// SAFETY: `repr(C)`, 2 N + 4 bytes, five `u32` and a `Link` of 16 bytes; its size is asserted.
unsafe impl<const N: usize> Plain for Flow<N> {}
// SAFETY: `repr(C)`, 8 + 16 + 8 bytes, asserted.
unsafe impl Plain for PeerKey {}
// SAFETY: `repr(C)`, 16 + 4 + 4 bytes, asserted.
unsafe impl Plain for Peer {}
// SAFETY: `repr(C)`, 4 + 4 + N bytes with N a multiple of 4; its size is asserted.
unsafe impl<const N: usize> Plain for SourceKey<N> {}
// SAFETY: `repr(C)`, 16 + 4 + 4 bytes, asserted.
unsafe impl Plain for AffinityKey {}
// SAFETY: `repr(C)`, 8 + 16 + 2 + 2 + 4 bytes, asserted.
unsafe impl Plain for Affinity {}
// SAFETY: `repr(C)`, 8 + 4 + 4 + 16 + 8 bytes, asserted to be 40.
unsafe impl Plain for Config {}

/// The bytes of plain values.
pub fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, so all bytes are initialised; the slice lives as long.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The plain value of these bytes, if there are enough of them.
pub fn value<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: there are as many bytes as `T` has, unaligned reads are allowed, and every pattern
    // is a `T`.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;
const MAP_DELETE_BATCH: libc::c_int = 27;

/// `union bpf_attr` for calls on many entries (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct Many {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` for calls on one entry.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn address_of<T: ?Sized>(pointer: *const T) -> u64 {
    pointer.cast::<u8>() as usize as u64
}

fn raw_fd(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// `union bpf_attr` for a new map.
#[repr(C)]
struct Create {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// `BPF_MAP_TYPE_HASH`.
pub const HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_LRU_HASH`.
pub const LRU_HASH: u32 = 9;
/// `BPF_MAP_TYPE_LPM_TRIE`.
pub const LPM_TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`, without which the kernel makes no trie.
const NO_PREALLOC: u32 = 1;

/// A new map that no program uses; benches and tests fill it.
pub fn create<K: Plain, V: Plain>(kind: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let (key_size, value_size) = (size(size_of::<K>()), size(size_of::<V>()));
    let flags = if kind == LPM_TRIE { NO_PREALLOC } else { 0 };
    let mut attr = Create { kind, key_size, value_size, max_entries, flags };
    let fd = bpf(MAP_CREATE, &mut attr)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)) })
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is one of the structures above, of the size that is passed; the pointers
    // inside were made from slices that outlive the call and have the lengths the command uses.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A map whose sizes are known: no call makes the kernel read or write past a key or a value.
#[derive(Debug)]
pub struct Map {
    data: MapData,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

impl Map {
    /// Takes an array, a hash or a trie; those with a value per processor are read another way.
    pub fn new(data: MapData) -> io::Result<Self> {
        let read = data.info().map_err(io::Error::other)?;
        let kind = read.map_type().map_err(io::Error::other)?;
        let known = [MapType::Array, MapType::Hash, MapType::LruHash, MapType::LpmTrie];
        if !known.contains(&kind) {
            let text = format!("maps of type {kind:?} cannot be read in batches");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Self {
            key_size: read.key_size() as usize,
            value_size: read.value_size() as usize,
            max_entries: read.max_entries(),
            data,
        })
    }

    /// How many entries it holds at most.
    pub const fn max_entries(&self) -> u32 {
        self.max_entries
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn check_key<K>(&self) -> io::Result<()> {
        check_size("keys", self.key_size, size_of::<K>())
    }

    fn check<K, V>(&self) -> io::Result<()> {
        self.check_key::<K>()?;
        check_size("values", self.value_size, size_of::<V>())
    }

    /// Writes entries; on failure says how many were written.
    pub fn update<K: Plain, V: Plain>(
        &self,
        keys: &[K],
        values: &[V],
    ) -> Result<(), (usize, io::Error)> {
        self.check::<K, V>().map_err(|error| (0, error))?;
        update(self.fd(), keys, values)
    }

    /// Deletes entries; those which are not there count as deleted. On failure says how many were.
    pub fn delete<K: Plain>(&self, keys: &[K]) -> Result<(), (usize, io::Error)> {
        self.check_key::<K>().map_err(|error| (0, error))?;
        delete(self.fd(), keys)
    }

    /// One entry.
    pub fn lookup<K: Plain, V: Plain>(&self, key: &K) -> io::Result<Option<V>> {
        self.check::<K, V>()?;
        lookup(self.fd(), key)
    }

    /// Every entry, `chunk` at a time. Entries that change meanwhile may be missed or seen twice.
    pub fn entries<K: Plain, V: Plain>(&self, chunk: u32) -> io::Result<Vec<(K, V)>> {
        self.check::<K, V>()?;
        entries(self.fd(), chunk, false)
    }

    /// The entries of an array that are not all zero, in order. Most are zero, and are not looked at
    /// one by one.
    pub fn filled<V: Plain>(&self, chunk: u32) -> io::Result<Vec<(u32, V)>> {
        self.check::<u32, V>()?;
        entries(self.fd(), chunk, true)
    }
}

fn check_size(what: &str, found: usize, wanted: usize) -> io::Result<()> {
    if found == wanted {
        return Ok(());
    }
    let text = format!("its {what} have {found} bytes instead of {wanted}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

fn update<K: Plain, V: Plain>(
    fd: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> Result<(), (usize, io::Error)> {
    let count = keys.len().min(values.len());
    // One entry is the common change, and the single call takes less setting up.
    if count > 1 {
        let mut attr = batch(fd, keys, count);
        attr.values = address_of(values.as_ptr());
        match bpf(MAP_UPDATE_BATCH, &mut attr) {
            Ok(_) => return Ok(()),
            Err(error) if is_unsupported(&error) => {}
            Err(error) => return Err((attr.count as usize, error)),
        }
    }
    for (at, (key, value)) in keys.iter().zip(values).enumerate() {
        let mut attr = element(fd, key);
        attr.value = address_of(value);
        bpf(MAP_UPDATE_ELEM, &mut attr).map_err(|error| (at, error))?;
    }
    Ok(())
}

fn delete<K: Plain>(fd: BorrowedFd<'_>, mut keys: &[K]) -> Result<(), (usize, io::Error)> {
    let total = keys.len();
    while keys.len() > 1 {
        let mut attr = batch(fd, keys, keys.len());
        match bpf(MAP_DELETE_BATCH, &mut attr) {
            Ok(_) => return Ok(()),
            Err(error) if is_unsupported(&error) => break,
            // The batch ends at the first key that is not there.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                keys = keys.get(attr.count as usize + 1..).unwrap_or(&[]);
            }
            Err(error) => return Err((total - keys.len() + attr.count as usize, error)),
        }
    }
    for (at, key) in keys.iter().enumerate() {
        match bpf(MAP_DELETE_ELEM, &mut element(fd, key)) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err((total - keys.len() + at, error)),
        }
    }
    Ok(())
}

fn lookup<K: Plain, V: Plain>(fd: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::zeroed();
    let mut attr = element(fd, key);
    attr.value = address_of(value.as_mut_ptr());
    match bpf(MAP_LOOKUP_ELEM, &mut attr) {
        // SAFETY: zeroed, then perhaps written by the kernel; every pattern is a `Plain`.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn entries<K: Plain, V: Plain>(
    fd: BorrowedFd<'_>,
    chunk: u32,
    skip_zero: bool,
) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let zero = vec![0u8; if skip_zero { chunk as usize * size_of::<V>() } else { 0 }];
    // The cursor is a key for arrays and tries and a bucket number for hashes; 64 bytes hold either.
    let (mut cursor, mut next) = ([0u64; 8], [0u64; 8]);
    let mut first = true;
    let mut room = chunk;
    loop {
        let mut keys = vec![0u8; room as usize * size_of::<K>()];
        let mut values = vec![0u8; room as usize * size_of::<V>()];
        let mut attr = Many {
            in_batch: if first { 0 } else { address_of(cursor.as_mut_ptr()) },
            out_batch: address_of(next.as_mut_ptr()),
            keys: address_of(keys.as_mut_ptr()),
            values: address_of(values.as_mut_ptr()),
            count: room,
            map_fd: raw_fd(fd),
            ..Many::default()
        };
        let end = match bpf(MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // A hash bucket has more entries than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 24 => {
                room *= 2;
                continue;
            }
            Err(error) if first && is_unsupported(&error) => {
                let mut all: Vec<(K, V)> = entries_one_by_one(fd)?;
                let is_zero =
                    |value: &V| bytes(std::slice::from_ref(value)).iter().all(|byte| *byte == 0);
                all.retain(|(_, value)| !skip_zero || !is_zero(value));
                return Ok(all);
            }
            Err(error) => return Err(error),
        };
        let pairs = keys.chunks_exact(size_of::<K>()).zip(values.chunks_exact(size_of::<V>()));
        let pairs = pairs.take(attr.count as usize);
        if !skip_zero {
            all.extend(pairs.filter_map(|(k, v)| Some((value(k)?, value(v)?))));
        } else if values != zero {
            let filled = pairs.filter(|(_, v)| *v != &zero[..size_of::<V>()]);
            all.extend(filled.filter_map(|(k, v)| Some((value(k)?, value(v)?))));
        }
        if end {
            return Ok(all);
        }
        cursor = next;
        first = false;
    }
}

fn entries_one_by_one<K: Plain, V: Plain>(fd: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut last: Option<K> = None;
    loop {
        let mut key = vec![0u8; size_of::<K>()];
        let mut attr = Element {
            map_fd: raw_fd(fd),
            key: last.as_ref().map_or(0, |last| address_of(last)),
            value: address_of(key.as_mut_ptr()),
            ..Element::default()
        };
        match bpf(MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error),
        }
        let Some(key) = value::<K>(&key) else { return Ok(all) };
        all.extend(lookup(fd, &key)?.map(|value| (key, value)));
        last = Some(key);
    }
}

fn batch<K: Plain>(fd: BorrowedFd<'_>, keys: &[K], count: usize) -> Many {
    Many {
        keys: address_of(keys.as_ptr()),
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map_fd: raw_fd(fd),
        ..Many::default()
    }
}

fn element<K: Plain>(fd: BorrowedFd<'_>, key: &K) -> Element {
    Element { map_fd: raw_fd(fd), key: address_of(key), ..Element::default() }
}

fn is_unsupported(error: &io::Error) -> bool {
    // ENOTSUPP (524) is the kernel's own; it has no name in libc.
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524))
}

/// `SO_COOKIE`, which is what `bpf_get_socket_cookie` gives a program.
#[cfg(test)]
pub(crate) fn socket_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let (mut cookie, mut len) = (0u64, 8);
    let (level, name) = (libc::SOL_SOCKET, libc::SO_COOKIE);
    let to = (&raw mut cookie).cast();
    // SAFETY: `to` and `len` point to locals, and `len` is the size of `cookie`.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, to, &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
