//! The laws. They panic where one does not hold.

pub mod ovs;
pub mod requests;
pub mod state;
mod world;
