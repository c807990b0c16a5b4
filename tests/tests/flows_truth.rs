//! What ringway shows of flows is what it does: counters add up at any moment,
//! changes hold from the very next packet on, what is full or under attack has
//! a name and a number, and a crash loses nothing.

#[path = "flows_truth/changes.rs"]
mod changes;
#[path = "flows_truth/counts.rs"]
mod counts;
#[path = "flows_truth/limits.rs"]
mod limits;
#[path = "flows_truth/restart.rs"]
mod restart;
#[path = "flows_truth/tellings.rs"]
mod tellings;
