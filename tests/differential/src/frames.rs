//! Random frames: good ones, fragments, and what a hostile guest would send.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::dice::Dice;
use crate::domain;

/// Shortest frame that a dummy device takes: an Ethernet header.
const SHORTEST: usize = 14;

/// A random frame.
pub fn random(dice: &mut Dice) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(dice.of(&domain::MACS));
    frame.extend(dice.of(&domain::MACS));
    let tags = dice.of(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3]);
    for _ in 0..tags {
        let tpid: u16 = dice.of(&[0x8100, 0x8100, 0x88a8, 0x9100]);
        // The bit that was CFI and is DEI now may be set, too.
        let dei = u16::from(dice.one_in(12)) << 12;
        let tci = dice.of(&domain::PCPS) << 13 | dei | dice.of(&domain::VIDS);
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    match dice.below(24) {
        0..9 => ipv4(dice, &mut frame),
        9..17 => ipv6(dice, &mut frame),
        17..20 => arp(dice, &mut frame),
        20 => mpls(dice, &mut frame),
        21 => llc(dice, &mut frame),
        _ => {
            frame.extend(dice.of(&domain::ETHERTYPES).to_be_bytes());
            noise(dice, 60, &mut frame);
        }
    }
    if dice.one_in(4) {
        frame.resize(frame.len().max(60), 0);
    }
    spoil(dice, &mut frame);
    frame
}

/// Cuts, lengthens or garbles some frames.
fn spoil(dice: &mut Dice, frame: &mut Vec<u8>) {
    if dice.one_in(10) {
        frame.truncate(dice.between(SHORTEST, frame.len()));
    }
    if dice.one_in(12) {
        for _ in 0..dice.between(1, 3) {
            let at = dice.between(12, frame.len().max(14) - 1);
            if let Some(byte) = frame.get_mut(at) {
                *byte = dice.of(&[0, 1, 0x45, 0x60, 0xff, *byte ^ 1, *byte ^ 0x80]);
            }
        }
    }
    if dice.one_in(12) {
        noise(dice, 40, frame);
    }
    if dice.one_in(60) {
        // Longer than a head.
        let body = dice.between(200, 1400);
        frame.extend((0..body).map(|i| i as u8));
        frame.truncate(1500);
    }
}

fn noise(dice: &mut Dice, most: usize, frame: &mut Vec<u8>) {
    let count = dice.below(most);
    frame.extend((0..count).map(|_| dice.byte()));
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum = bytes.chunks(2).map(word).sum::<u32>() + start;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo(source: &[u8], destination: &[u8], protocol: u8, length: usize) -> u32 {
    let words = |bytes: &[u8]| u32::from(!checksum(bytes, 0));
    words(source) + words(destination) + u32::from(protocol) + length as u32
}

fn ipv4(dice: &mut Dice, frame: &mut Vec<u8>) {
    let source: Ipv4Addr = dice.of(&domain::IPV4);
    let destination: Ipv4Addr = dice.of(&domain::IPV4);
    let protocol = dice.of(&[6, 6, 6, 17, 17, 17, 1, 1, 132, 99, 58, 2]);
    let options = if dice.one_in(8) { dice.below(4) } else { 0 };
    let later = dice.one_in(10);
    let payload = match protocol {
        _ if later => (0..dice.below(40)).map(|_| dice.byte()).collect(),
        _ => payload(dice, protocol, &source.octets(), &destination.octets()),
    };
    let length = 20 + options * 4 + payload.len();
    let fragment: u16 = match dice.below(16) {
        _ if later => dice.of(&[0x0001, 0x2001, 0x1fff, 0x00b9]),
        0 => 0x2000,
        1 => 0x4000,
        2 => 0x8000,
        _ => 0,
    };
    let mut header = vec![0x45 + options as u8, dice.of(&domain::TOS)];
    let told = match dice.below(30) {
        0 => length + 10,
        1 => length.saturating_sub(dice.below(12)),
        2 => dice.below(20),
        _ => length,
    };
    header.extend((told as u16).to_be_bytes());
    header.extend(0x1234u16.to_be_bytes());
    header.extend(fragment.to_be_bytes());
    header.extend([dice.of(&domain::TTLS), protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend((0..options * 4).map(|_| 1));
    if dice.one_in(30) {
        header[0] = dice.of(&[0x44, 0x4f, 0x65, 0x40, 0x46]);
    }
    if !dice.one_in(20) {
        let sum = checksum(&header, 0);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    frame.extend(0x0800u16.to_be_bytes());
    frame.extend(header);
    frame.extend(payload);
}

fn ipv6(dice: &mut Dice, frame: &mut Vec<u8>) {
    let source: Ipv6Addr = dice.of(&domain::IPV6);
    let destination: Ipv6Addr = dice.of(&domain::IPV6);
    let protocol = dice.of(&[6, 6, 6, 17, 17, 58, 58, 58, 58, 132, 59, 99, 50]);
    let extensions: Vec<u8> = if dice.one_in(4) {
        let count = dice.between(1, 3);
        (0..count)
            .map(|_| dice.of(&[0, 43, 44, 44, 51, 60, 135]))
            .collect()
    } else {
        Vec::new()
    };
    let mut body = Vec::new();
    let mut later = false;
    for (i, kind) in extensions.iter().enumerate() {
        let next = *extensions.get(i + 1).unwrap_or(&protocol);
        match kind {
            44 => {
                let fragment: u16 = dice.of(&[0x0001, 0x0008, 0x0009, 0x0000, 0x0010]);
                later |= fragment >> 3 != 0;
                body.extend([next, 0]);
                body.extend(fragment.to_be_bytes());
                body.extend([0, 0, 0, 7]);
            }
            51 => {
                let words = dice.of(&[1u8, 2, 4, 0]);
                body.extend([next, words]);
                body.extend((0..(usize::from(words) + 2) * 4 - 2).map(|i| i as u8));
            }
            _ => {
                let units = dice.of(&[0u8, 0, 1, 2]);
                body.extend([next, units]);
                let rest = usize::from(units) * 8 + 6;
                // A routing header with segments left changes what checksums cover.
                let left = if *kind == 43 { dice.below(2) as u8 } else { 0 };
                body.extend([4, left]);
                body.extend((2..rest).map(|_| 0));
            }
        }
    }
    if !later || dice.one_in(2) {
        let payload = payload(dice, protocol, &source.octets(), &destination.octets());
        body.extend(payload);
    }
    let told = match dice.below(30) {
        0 => body.len() + 9,
        1 => body.len().saturating_sub(dice.below(12)),
        2 => 0,
        _ => body.len(),
    };
    let class = dice.of(&domain::TOS);
    let label = dice.of(&domain::LABELS);
    let first = 6u32 << 28 | u32::from(class) << 20 | label;
    frame.extend(0x86ddu16.to_be_bytes());
    frame.extend(first.to_be_bytes());
    frame.extend((told as u16).to_be_bytes());
    frame.extend([
        *extensions.first().unwrap_or(&protocol),
        dice.of(&domain::TTLS),
    ]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(body);
}

/// What IP carries, with its checksum right (or, in UDP, left out).
fn payload(dice: &mut Dice, protocol: u8, source: &[u8], destination: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let sum_at = match protocol {
        6 => {
            bytes.extend(dice.of(&domain::L4).to_be_bytes());
            bytes.extend(dice.of(&domain::L4).to_be_bytes());
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 2]);
            bytes.extend((0x5000 | dice.of(&domain::TCP_FLAGS)).to_be_bytes());
            bytes.extend([0x10, 0, 0, 0, 0, 0]);
            if dice.one_in(20) {
                bytes[12] = dice.of(&[0x40, 0xf0, 0x60]);
            }
            Some(16)
        }
        17 => {
            bytes.extend(dice.of(&domain::L4).to_be_bytes());
            bytes.extend(dice.of(&domain::L4).to_be_bytes());
            bytes.extend([0; 4]);
            Some(6)
        }
        132 => {
            bytes.extend(dice.of(&domain::L4).to_be_bytes());
            bytes.extend(dice.of(&domain::L4).to_be_bytes());
            bytes.extend([0; 8]);
            None
        }
        1 => {
            let (of_type, code) = dice.of(&domain::ICMP);
            bytes.extend([of_type, code, 0, 0, 0, 1, 0, 2]);
            Some(2)
        }
        58 => {
            icmpv6(dice, &mut bytes);
            Some(2)
        }
        _ => None,
    };
    let mut body = Vec::new();
    noise(dice, 24, &mut body);
    if protocol != 58 || bytes.len() <= 8 {
        bytes.extend(body);
    }
    if protocol == 17 {
        let length = match dice.one_in(25) {
            true => dice.below(20),
            false => bytes.len(),
        };
        bytes[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let Some(at) = sum_at else { return bytes };
    let start = match protocol {
        1 => 0,
        _ => pseudo(source, destination, protocol, bytes.len()),
    };
    let mut sum = checksum(&bytes, start);
    if protocol == 17 && sum == 0 {
        sum = 0xffff;
    }
    if (protocol == 17 && dice.one_in(5)) || dice.one_in(25) {
        sum = dice.of(&[0, 0, 0xffff, 0x1234]);
    }
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn icmpv6(dice: &mut Dice, bytes: &mut Vec<u8>) {
    if dice.one_in(2) {
        let (of_type, code) = dice.of(&domain::ICMPV6);
        bytes.extend([of_type, code, 0, 0, 0, 1, 0, 2]);
        return;
    }
    let code = if dice.one_in(12) { 1 } else { 0 };
    bytes.extend([dice.of(&[135, 136]), code, 0, 0, 0, 0, 0, 0]);
    bytes.extend(dice.of(&domain::IPV6).octets());
    for _ in 0..dice.of(&[0, 1, 1, 1, 2]) {
        let kind = dice.of(&[1, 1, 2, 2, 5]);
        let units = dice.of(&[1, 1, 1, 1, 1, 1, 0, 2, 200]);
        bytes.extend([kind, units]);
        bytes.extend(dice.of(&domain::MACS));
        if units == 2 {
            bytes.extend([0; 8]);
        }
    }
}

fn arp(dice: &mut Dice, frame: &mut Vec<u8>) {
    frame.extend(dice.of(&[0x0806u16, 0x0806, 0x0806, 0x8035]).to_be_bytes());
    let mut header = [0, 1, 8, 0, 6, 4];
    if dice.one_in(12) {
        let at = dice.below(header.len());
        header[at] = dice.of(&[0, 2, 5, 8]);
    }
    frame.extend(header);
    frame.extend(dice.of(&domain::ARP_OPS).to_be_bytes());
    for _ in 0..2 {
        frame.extend(dice.of(&domain::MACS));
        frame.extend(dice.of(&domain::IPV4).octets());
    }
}

fn mpls(dice: &mut Dice, frame: &mut Vec<u8>) {
    frame.extend(dice.of(&[0x8847u16, 0x8848]).to_be_bytes());
    for last in [dice.one_in(2), true] {
        frame.extend([0, 1, 0x20 | u8::from(last), dice.of(&domain::TTLS)]);
        if last {
            break;
        }
    }
    frame.extend([
        0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
}

/// IEEE 802.3 with LLC, and often a SNAP header with an ethertype in it.
fn llc(dice: &mut Dice, frame: &mut Vec<u8>) {
    frame.extend(dice.of(&[46u16, 8, 0x05ff]).to_be_bytes());
    let ethertype = dice.of(&[0x0800u16, 0x86dd, 0x0806, 0x0500]);
    match dice.below(4) {
        0 => frame.extend([0x42, 0x42, 3]),
        1 => {
            frame.extend([0xaa, 0xaa, 3, 0, 0, 1]);
            frame.extend(ethertype.to_be_bytes());
        }
        _ => {
            frame.extend([0xaa, 0xaa, 3, 0, 0, 0]);
            frame.extend(ethertype.to_be_bytes());
        }
    }
    noise(dice, 50, frame);
}
