//! Records with small numbers as names, found by a hash of what they hold.

use hashbrown::HashTable;

/// Boxed records, so that growth moves 8 bytes per record, and an index that repeats no key.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Option<Box<T>>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: ahash::RandomState,
}

/// What a record is found by.
pub(super) trait Keyed {
    fn key(&self) -> (&str, &str);
}

impl<T: Keyed> Slab<T> {
    pub(super) fn new() -> Self {
        let hasher = ahash::RandomState::new();
        Self { slots: Vec::new(), free: Vec::new(), index: HashTable::new(), hasher }
    }

    pub(super) fn find(&self, key: (&str, &str)) -> Option<u32> {
        let same = |id: &u32| self.get(*id).is_some_and(|record| record.key() == key);
        self.index.find(self.hasher.hash_one(key), same).copied()
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(id as usize)?.as_deref_mut()
    }

    /// Stores a record whose key is not there yet.
    pub(super) fn insert(&mut self, record: T) -> u32 {
        debug_assert!(self.find(record.key()).is_none());
        let hash = self.hasher.hash_one(record.key());
        let id = self.free.pop().unwrap_or_else(|| {
            // Doubling would leave up to half of the slots unused.
            if self.slots.len() == self.slots.capacity() {
                self.slots.reserve_exact(1 + self.slots.len() / 16);
            }
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("4 billion objects do not fit in memory")
        });
        self.slots[id as usize] = Some(Box::new(record));
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |id: &u32| {
            slots[*id as usize].as_ref().map_or(0, |record| hasher.hash_one(record.key()))
        };
        self.index.insert_unique(hash, id, rehash);
        id
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let record = self.slots.get_mut(id as usize)?.take()?;
        if let Ok(entry) =
            self.index.find_entry(self.hasher.hash_one(record.key()), |other| *other == id)
        {
            entry.remove();
        }
        self.free.push(id);
        Some(*record)
    }

    /// Those whose records are like this, in order.
    pub(super) fn ids(&self, is_such: impl Fn(&T) -> bool) -> Vec<u32> {
        self.iter().filter(|(_, record)| is_such(record)).map(|(id, _)| id).collect()
    }

    /// In the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0u32..).zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.as_deref()?)))
    }
}
