//! A second parser, as plain as can be: headers are cut off the front of a
//! slice, one after the other.

use crate::key::PacketKey;

/// What is left of a packet: bytes that can be read, and how many there
/// are in the whole frame.
#[derive(Clone)]
struct Rest<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl<'a> Rest<'a> {
    fn peek(&self, count: usize) -> Option<&'a [u8]> {
        (self.size >= count && self.bytes.len() >= count).then(|| &self.bytes[..count])
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.size = self.size.checked_sub(count)?;
        self.bytes = &self.bytes[count.min(self.bytes.len())..];
        Some(())
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.peek(count)?;
        self.skip(count)?;
        Some(bytes)
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// What [`extract`](super::extract()) reads: `bytes` are a head, without what is
/// stale behind it.
pub fn extract(bytes: &[u8], frame_len: usize, bridge: u16, in_port: u16) -> PacketKey {
    let mut key = PacketKey::default();
    key.0[0] = number(&[bridge.to_be_bytes(), in_port.to_be_bytes()].concat()) << 32;
    let rest = Rest {
        bytes,
        size: frame_len,
    };
    let _ = ethernet(&mut key.0, rest);
    key
}

fn ethernet(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
    rest.peek(14)?;
    key[1] = number(rest.take(6)?) << 16;
    key[2] = number(rest.take(6)?) << 16;
    for (word, shift) in [(1, 48), (2, 32)] {
        let Some(tag) = rest.peek(6) else { break };
        if tag[..2] != [0x81, 0] && tag[..2] != [0x88, 0xa8] {
            break;
        }
        key[word] |= number(&tag[2..4]) | 0x1000;
        key[5] |= number(&tag[..2]) << shift;
        rest.skip(4)?;
    }
    let mut dl_type = number(rest.take(2)?);
    if dl_type < 0x600 {
        let snap = rest.take(8).unwrap_or(&[0; 8]);
        let is_snap = snap[..6] == [0xaa, 0xaa, 3, 0, 0, 0];
        dl_type = match number(&snap[6..]) {
            inner if is_snap && inner >= 0x600 => inner,
            _ => 0x5ff,
        };
    }
    key[0] |= dl_type << 16;
    match dl_type {
        0x800 => ipv4(key, rest),
        0x806 | 0x8035 => arp(key, rest),
        0x86dd => ipv6(key, rest),
        _ => None,
    }
}

fn arp(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
    let arp = rest.take(28)?;
    if arp[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    if arp[6] == 0 {
        key[0] |= u64::from(arp[7]);
    }
    key[3] = number(&arp[14..18]) << 32 | number(&arp[24..28]);
    key[6] = number(&arp[8..14]) << 16;
    key[7] = number(&arp[18..24]) << 16;
    Some(())
}

fn ipv4(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
    let ip = rest.peek(20)?;
    let header = (ip[0] as usize % 16) * 4;
    let total = number(&ip[2..4]) as usize;
    let padding = rest.size.checked_sub(total)?;
    if header < 20 || total < header || padding >= 0x10000 {
        return None;
    }
    rest.size = total;
    rest.skip(header)?;
    key[3] = number(&ip[12..20]);
    key[4] = u64::from(ip[1]) << 8 | u64::from(ip[8]);
    key[0] |= u64::from(ip[9]);
    let later = number(&ip[6..8]) & 0x1fff != 0;
    if later {
        key[0] |= 0x300;
    } else if ip[6] & 0x20 != 0 {
        key[0] |= 0x100;
    }
    match later {
        true => None,
        false => transport(key, rest, ip[9]),
    }
}

fn ipv6(key: &mut [u64; 14], mut rest: Rest<'_>) -> Option<()> {
    let ip = rest.take(40)?;
    let payload = number(&ip[4..6]) as usize;
    let padding = rest.size.checked_sub(payload)?;
    if padding >= 0x10000 {
        return None;
    }
    rest.size = payload;
    for i in 0..4 {
        key[8 + i] = number(&ip[8 + 8 * i..][..8]);
    }
    let (mut proto, mut frag) = (ip[6], 0);
    while [0, 43, 44, 51, 60].contains(&proto) {
        let start = rest.peek(8)?;
        rest.skip(match proto {
            44 => 8,
            51 => usize::from(start[1]) * 4 + 8,
            _ => usize::from(start[1]) * 8 + 8,
        })?;
        if proto == 44 && number(&start[2..4]) != 0 {
            frag = 1;
            if number(&start[2..4]) >> 3 != 0 {
                frag = 3;
                break;
            }
        }
        proto = start[0];
    }
    key[0] |= frag << 8 | u64::from(proto);
    key[4] = (number(&ip[..2]) >> 4 & 0xff) << 8 | u64::from(ip[7]);
    key[5] |= number(&ip[..4]) & 0xf_ffff;
    match frag {
        3 => None,
        _ => transport(key, rest, proto),
    }
}

fn transport(key: &mut [u64; 14], mut rest: Rest<'_>, proto: u8) -> Option<()> {
    match proto {
        6 => {
            let tcp = rest.peek(20)?;
            let header = usize::from(tcp[12] >> 4) * 4;
            if header < 20 || header > rest.size {
                return None;
            }
            key[4] |= number(&tcp[..4]) << 32 | (number(&tcp[12..14]) & 0xfff) << 16;
        }
        17 => key[4] |= number(&rest.peek(8)?[..4]) << 32,
        132 => key[4] |= number(&rest.peek(12)?[..4]) << 32,
        1 | 2 | 58 => {
            let icmp = rest.take(8)?;
            key[4] |= u64::from(icmp[0]) << 48 | u64::from(icmp[1]) << 32;
            if proto == 58 && (icmp[0] == 135 || icmp[0] == 136) && icmp[1] == 0 {
                let target = rest.take(16)?;
                key[12] = number(&target[..8]);
                key[13] = number(&target[8..]);
                nd_options(key, rest);
            }
        }
        _ => {}
    }
    Some(())
}

fn nd_options(key: &mut [u64; 14], mut rest: Rest<'_>) {
    while let Some(option) = rest.peek(8) {
        let length = usize::from(option[1]) * 8;
        if length == 0 || rest.skip(length).is_none() {
            return;
        }
        let word = match option[0] {
            1 => 6,
            2 => 7,
            _ => continue,
        };
        if length != 8 {
            continue;
        }
        if key[word] != 0 {
            for word in [6, 7, 12, 13] {
                key[word] = 0;
            }
            return;
        }
        key[word] = number(&option[2..]) << 16;
    }
}
