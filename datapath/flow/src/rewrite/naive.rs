//! Checksums, computed anew and over the whole frame, which is taken to be
//! well formed and to end with its datagram.

/// Where the parts of a frame are.
struct Parts {
    l3: usize,
    l4: usize,
    proto: u8,
    later: bool,
    is_ipv6: bool,
}

fn parts(frame: &[u8]) -> Option<Parts> {
    let mut l3 = 14;
    while frame[l3 - 2..l3] == [0x81, 0] || frame[l3 - 2..l3] == [0x88, 0xa8] {
        l3 += 4;
    }
    match frame[l3 - 2..l3] {
        [8, 0] => Some(Parts {
            l3,
            l4: l3 + usize::from(frame[l3] & 15) * 4,
            proto: frame[l3 + 9],
            later: frame[l3 + 6] & 0x1f != 0 || frame[l3 + 7] != 0,
            is_ipv6: false,
        }),
        [0x86, 0xdd] => {
            let (mut next, mut l4, mut later) = (frame[l3 + 6], l3 + 40, false);
            while [0, 43, 44, 60].contains(&next) && !later {
                later = next == 44 && (frame[l4 + 2] != 0 || frame[l4 + 3] & 0xf8 != 0);
                let length = match next {
                    44 => 8,
                    _ => 8 + 8 * usize::from(frame[l4 + 1]),
                };
                next = frame[l4];
                l4 += length;
            }
            Some(Parts {
                l3,
                l4,
                proto: next,
                later,
                is_ipv6: true,
            })
        }
        _ => None,
    }
}

/// RFC 1071, not complemented.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for (i, byte) in bytes.iter().enumerate() {
        sum += u32::from(*byte) << (8 * ((i + 1) % 2));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Start and field of the transport checksum, and its pseudo header.
pub fn transport(frame: &[u8]) -> Option<(usize, usize, Vec<u8>)> {
    let parts = parts(frame)?;
    let at = match parts.proto {
        _ if parts.later => return None,
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return None,
    };
    let addresses = match parts.is_ipv6 {
        true => &frame[parts.l3 + 8..parts.l3 + 40],
        false => &frame[parts.l3 + 12..parts.l3 + 20],
    };
    let length = (frame.len() - parts.l4) as u16;
    let pseudo = match parts.proto {
        1 => Vec::new(),
        _ => [addresses, &[0, parts.proto], &length.to_be_bytes()].concat(),
    };
    Some((parts.l4, parts.l4 + at, pseudo))
}

/// Sums up from `start` on and puts the result into `field`.
pub fn complete(frame: &mut [u8], start: usize, field: usize, udp: bool) {
    let checksum = match !sum(&frame[start..]) {
        0 if udp => 0xffff,
        checksum => checksum,
    };
    put(frame, field, checksum);
}

/// The frame with its pseudo header's sum where its checksum was.
pub fn make_partial(frame: &mut [u8]) -> Option<(usize, usize)> {
    let (start, field, pseudo) = transport(frame)?;
    put(frame, field, sum(&pseudo));
    Some((start, field))
}

/// The frame with right checksums; a UDP checksum of zero stays.
pub fn right(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let Some(parts) = parts(&frame) else {
        return frame;
    };
    if !parts.is_ipv6 {
        put(&mut frame, parts.l3 + 10, 0);
        let checksum = !sum(&frame[parts.l3..parts.l4]);
        put(&mut frame, parts.l3 + 10, checksum);
    }
    let Some((start, field, _)) = transport(&frame) else {
        return frame;
    };
    let udp = parts.proto == 17;
    if !udp || frame[field..field + 2] != [0, 0] {
        make_partial(&mut frame);
        complete(&mut frame, start, field, udp);
    }
    frame
}
