//! A traffic generator that is two vhost-user guests.

fn main() {}
