//! Talks over UDP and TCP from guests and namespaces, with std alone: it is
//! compiled by `make-image.sh` into one static file.
//!
//! ```text
//! probe serve PORT                  echoes UDP and TCP until it is killed
//! probe udp ADDRESS FROM TO STEP    one datagram of each payload size, in turn
//! probe tcp ADDRESS BYTES [WRITE]   so many bytes there and back, WRITE at a time
//! ```
//!
//! Every byte that comes back is compared. Exits with 1 and says what is
//! missing if not all came back.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

type Outcome = Result<String, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", port] => serve(port),
        ["udp", address, from, to, step] => {
            sizes(from, to, step).and_then(|sizes| udp(address, sizes))
        }
        ["tcp", address, bytes] => tcp(address, bytes, "65536"),
        ["tcp", address, bytes, write] => tcp(address, bytes, write),
        _ => Err("usage: probe serve PORT | udp ADDRESS FROM TO STEP | tcp ADDRESS BYTES".into()),
    };
    match outcome {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

fn sizes(from: &str, to: &str, step: &str) -> Result<Vec<usize>, String> {
    let (from, to, step) = (number(from)?, number(to)?, number(step)?.max(1));
    // The last one too: limits are where things break.
    Ok((from..to).step_by(step).chain([to]).collect())
}

/// Bytes that differ from place to place and from size to size.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

fn serve(port: &str) -> Outcome {
    let at = format!("0.0.0.0:{port}");
    let udp = UdpSocket::bind(&at).map_err(|error| format!("UDP {at}: {error}"))?;
    let tcp = TcpListener::bind(&at).map_err(|error| format!("TCP {at}: {error}"))?;
    thread::spawn(move || {
        let mut bytes = vec![0; 65_536];
        loop {
            if let Ok((len, from)) = udp.recv_from(&mut bytes) {
                let _ = udp.send_to(&bytes[..len], from);
            }
        }
    });
    for stream in tcp.incoming().flatten() {
        thread::spawn(move || echo(stream));
    }
    Ok(String::new())
}

fn echo(mut stream: TcpStream) {
    let mut bytes = vec![0; 65_536];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(len) if stream.write_all(&bytes[..len]).is_err() => return,
            Ok(_) => {}
        }
    }
}

fn udp(address: &str, sizes: Vec<usize>) -> Outcome {
    let fail = |error: std::io::Error| format!("{address}: {error}");
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(fail)?;
    socket.connect(address).map_err(fail)?;
    let patience = Duration::from_millis(500);
    socket.set_read_timeout(Some(patience)).map_err(fail)?;
    let mut answer = vec![0; 65_536];
    let mut missing = Vec::new();
    for size in &sizes {
        let sent = pattern(*size, *size);
        // A second try is for a first contact; a third is for a busy machine.
        let came_back = (0..3).any(|_| {
            if socket.send(&sent).is_err() {
                return false;
            }
            loop {
                match socket.recv(&mut answer) {
                    Ok(len) if answer[..len] == sent[..] => return true,
                    // An answer that came too late for the last size.
                    Ok(len) if len < *size => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => return false,
                }
            }
        });
        if !came_back {
            missing.push(*size);
            if missing.len() > 10 {
                break;
            }
        }
    }
    match missing.is_empty() {
        true => Ok(format!("{} sizes", sizes.len())),
        false => Err(format!("no echo of payloads of {missing:?} bytes")),
    }
}

fn tcp(address: &str, bytes: &str, write: &str) -> Outcome {
    let fail = |error: std::io::Error| format!("{address}: {error}");
    let (total, write) = (number(bytes)?, number(write)?.max(1));
    let mut stream = TcpStream::connect(address).map_err(fail)?;
    let patience = Duration::from_secs(20);
    stream.set_read_timeout(Some(patience)).map_err(fail)?;
    stream.set_write_timeout(Some(patience)).map_err(fail)?;
    let mut sender = stream.try_clone().map_err(fail)?;
    let sent = pattern(total, 1 << 16);
    let block = sent.clone();
    let sending = thread::spawn(move || -> std::io::Result<()> {
        let mut at = 0;
        while at < total {
            let begin = at % block.len();
            let len = write.min(total - at).min(block.len() - begin);
            sender.write_all(&block[begin..begin + len])?;
            at += len;
        }
        Ok(())
    });
    let mut got = vec![0; 65_536];
    let mut at = 0;
    while at < total {
        let len = stream.read(&mut got).map_err(|error| {
            format!("{address}: {error} after {at} of {total} bytes had come back")
        })?;
        if len == 0 {
            return Err(format!("{address}: closed after {at} of {total} bytes"));
        }
        for (offset, byte) in got[..len].iter().enumerate() {
            if *byte != sent[(at + offset) % sent.len()] {
                return Err(format!("{address}: byte {} came back changed", at + offset));
            }
        }
        at += len;
    }
    match sending.join() {
        Ok(Ok(())) => Ok(format!("{total} bytes there and back")),
        Ok(Err(error)) => Err(fail(error)),
        Err(_) => Err(format!("{address}: the sending thread ended early")),
    }
}
