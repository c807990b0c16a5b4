//! Guests and frontends that break every rule. Whatever they do, the outcome
//! has a name in `ringway`, the daemon lives, a pair of well-behaved guests on
//! the same core gets every frame, and nothing is leaked.

#[path = "hostile/arena.rs"]
mod arena;
#[path = "hostile/calls.rs"]
mod calls;
#[path = "hostile/lost.rs"]
mod lost;
#[path = "hostile/memory.rs"]
mod memory;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "hostile/rates.rs"]
mod rates;
#[path = "hostile/rings.rs"]
mod rings;
#[path = "hostile/slots.rs"]
mod slots;
#[path = "hostile/storms.rs"]
mod storms;
