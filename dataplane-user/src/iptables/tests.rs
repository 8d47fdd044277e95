//! Programs of random tables: what they do with packets, and that each way to one ends at the same.

mod kernel;
mod meaning;
mod table;
