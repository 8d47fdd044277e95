//! Some entries encrypted, over any store: what is on disks and on the way there is of no use without
//! the key.
//!
//! A value is `sealed1:`, twelve random bytes, and the text by ChaCha20-Poly1305 (RFC 8439) with the
//! entry's key as associated data, so that nobody can put one entry's value in the place of another's.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};

use super::{
    Answer, Store,
    types::{Entry, Error, Event, Expect, Key, Listing, Range, Revision, Write},
    watch::Watch,
};

const MAGIC: &[u8] = b"sealed1:";
const KEY_LEN: usize = 32;

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file.
    #[error("cannot use the key in {}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// What it holds.
    #[error("{} does not hold a key of {KEY_LEN} bytes", path.display())]
    Length {
        /// Which.
        path: PathBuf,
    },
}

/// A key.
#[derive(Debug)]
struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    fn new(key: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
        Some(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    fn seal(&self, name: &str, value: &[u8]) -> Result<Bytes, Error> {
        let closed = || Error::Sealed { key: name.into() };
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_no_random| closed())?;
        let mut text = value.to_vec();
        let aad = Aad::from(name.as_bytes());
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text)
            .map_err(|_too_long| closed())?;
        Ok([MAGIC, &nonce, &text].concat().into())
    }

    /// What was sealed; a value that was not is as it is.
    fn open(&self, name: &str, value: &Bytes) -> Result<Bytes, Error> {
        let Some(sealed) = value.strip_prefix(MAGIC) else { return Ok(value.clone()) };
        let closed = || Error::Sealed { key: name.into() };
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(closed)?;
        let mut text = text.to_vec();
        let aad = Aad::from(name.as_bytes());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let open = self.key.open_in_place(nonce, aad, &mut text).map_err(|_other| closed())?;
        Ok(Bytes::copy_from_slice(open))
    }

    fn opened(&self, mut entry: Entry) -> Result<Entry, Error> {
        entry.value = self.open(&entry.key, &entry.value)?;
        Ok(entry)
    }

    /// An event whose values cannot be opened tells nothing.
    fn opened_event(&self, event: &Event) -> Option<Event> {
        let open = |entry: &Option<Entry>| entry.clone().map(|it| self.opened(it)).transpose().ok();
        let (before, after) = (open(&event.before)?, open(&event.after)?);
        Some(Event { revision: event.revision, before, after })
    }
}

/// A store that seals the values of entries with a prefix.
pub struct Sealed {
    inner: Arc<dyn Store>,
    prefix: &'static str,
    sealer: Arc<Sealer>,
    seals: bool,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Sealed {
    /// Entries of `inner` with a prefix, sealed by the key in a file, which is made if it is not there.
    /// If not `seals`, what is sealed can be read, and is written plainly.
    pub fn open(
        inner: Arc<dyn Store>,
        prefix: &'static str,
        key: &Path,
        seals: bool,
    ) -> Result<Self, KeyError> {
        let failed = |cause| KeyError::File { path: key.to_owned(), cause };
        if !key.exists() {
            let mut bytes = [0; KEY_LEN];
            let random = SystemRandom::new().fill(&mut bytes);
            random.map_err(|_no_random| failed(std::io::Error::other("no random bytes")))?;
            let mut options = fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(key);
            let mut file = file.map_err(failed)?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let bytes = fs::read(key).map_err(failed)?;
        let sealer =
            Sealer::new(&bytes).ok_or_else(|| KeyError::Length { path: key.to_owned() })?;
        Ok(Self { inner, prefix, sealer: Arc::new(sealer), seals })
    }

    /// Writes what is not as it should be anew; how many entries that were.
    pub async fn convert(&self) -> Result<usize, Error> {
        let listing = self.inner.list(&Range::all(self.prefix), None).await?;
        let mut count = 0;
        for entry in listing.entries {
            if entry.value.starts_with(MAGIC) == self.seals {
                continue;
            }
            let value = Some(self.sealer.open(&entry.key, &entry.value)?);
            let write = Write { key: entry.key, expect: Expect::At(entry.modified), value };
            match self.write(write).await {
                Ok(_) => count += 1,
                // Whoever was faster has written it as it should be.
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

impl Store for Sealed {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            let entry = self.inner.get(key).await?;
            entry.map(|entry| self.sealer.opened(entry)).transpose()
        })
    }

    fn list<'a>(&'a self, range: &'a Range, at: Option<Revision>) -> Answer<'a, Listing> {
        Box::pin(async move {
            let mut listing = self.inner.list(range, at).await?;
            if range.prefix.starts_with(self.prefix) || self.prefix.starts_with(&range.prefix) {
                for entry in &mut listing.entries {
                    entry.value = self.sealer.open(&entry.key, &entry.value)?;
                }
            }
            Ok(listing)
        })
    }

    fn write(&self, mut write: Write) -> Answer<'_, Entry> {
        Box::pin(async move {
            if self.seals && write.key.starts_with(self.prefix) {
                let plain = write.value.take();
                write.value = plain.map(|it| self.sealer.seal(&write.key, &it)).transpose()?;
            }
            self.sealer.opened(self.inner.write(write).await?)
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Answer<'a, Watch> {
        Box::pin(async move {
            let watch = self.inner.watch(prefix, after).await?;
            if !prefix.starts_with(self.prefix) && !self.prefix.starts_with(prefix) {
                return Ok(watch);
            }
            let sealer = self.sealer.clone();
            Ok(watch.through(Arc::new(move |event| sealer.opened_event(event).map(Arc::new))))
        })
    }

    fn revision(&self) -> Answer<'_, Revision> {
        self.inner.revision()
    }

    fn compact(&self, before: Revision) -> Answer<'_, ()> {
        self.inner.compact(before)
    }
}
