//! Virtqueue layouts.

pub mod split;
