//! Generates the client, the server and the descriptor set for reflection.

use std::{env, io, path::PathBuf};

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("ringway.bin"))
        .compile_protos(&["proto/ringway/v1/ringway.proto"], &["proto"])
}
