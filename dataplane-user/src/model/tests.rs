//! Tables made of random objects, and what holds for all of them.

pub(crate) mod generate;

mod property;
