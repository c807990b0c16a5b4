//! ringway.v1: the gRPC control protocol, generated from
//! `proto/ringway/v1/ringway.proto`, and the spelling of its enums.

// What comes from outside must never end the daemon.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

pub mod guard;
pub mod spelling;

/// Package `ringway.v1`: messages, client and server.
pub mod v1 {
    #![allow(missing_docs, reason = "generated; the .proto documents each item")]
    tonic::include_proto!("ringway.v1");
}

/// The protocol's file descriptor set, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("ringway");

/// The package's name, as `Version` answers it.
pub const PROTOCOL: &str = "ringway.v1";

/// Trailer of a refused change whose wish was stored nevertheless.
pub const KEPT_TRAILER: &str = "ringway-kept";

/// Trailer of a refused text: the place in it, in bytes from 0.
pub const AT_TRAILER: &str = "ringway-at";

/// Trailer of a refused file or list of changes: the line or change, from 1.
pub const LINE_TRAILER: &str = "ringway-line";

/// Most bytes of one message. Whatever may be longer is sent in pieces; one
/// piece may hold a file of 100,000 flows.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Bytes of a file that a client sends in one piece.
pub const FILE_PIECE: usize = 256 << 10;
