//! Guests and frontends that break every rule. Whatever they do, the outcome
//! has a name in `ringway`, the daemon lives, a pair of well-behaved guests on
//! the same core gets every frame, and nothing is leaked.

#[path = "hostile/arena.rs"]
mod arena;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "hostile/rings.rs"]
mod rings;
#[path = "hostile/storms.rs"]
mod storms;
