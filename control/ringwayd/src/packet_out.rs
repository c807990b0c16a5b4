//! `packet-out`'s text, in ovs-ofctl's form:
//! `in_port=PORT,packet=HEX,actions=…`.

use ringway_flow::action::Action;
use ringway_flow::field::Field;
use ringway_flow::text::{self, TextError};

use crate::flow_text::{Fault, Names};

/// Shortest frame: an Ethernet header.
const MIN_FRAME: usize = 14;
/// Longest frame.
const MAX_FRAME: usize = 65_535;
/// `in_port` of a packet that comes from nowhere (OFPP_CONTROLLER).
const FROM_CONTROLLER: u16 = 0xfffd;

/// A packet to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct PacketOut {
    /// As if it had come from there.
    pub in_port: u16,
    /// The frame.
    pub frame: Vec<u8>,
    /// What is done with it.
    pub actions: Vec<Action>,
}

/// Reads a packet-out.
pub fn parse(text: &str, names: &Names) -> Result<PacketOut, Fault> {
    let place = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    let fault = |part: &str, why: String| Fault {
        why: format!("byte {}: {why}", place(part)),
        line: None,
        at: place(part),
    };
    let within = |part: &str, error: TextError| Fault {
        why: error.to_string(),
        line: None,
        at: place(part) + error.offset,
    };
    let Some((fields, actions)) = text.split_once("actions=") else {
        let why = "actions= is missing: in_port=PORT,packet=HEX,actions=output:2";
        let (_, end) = text.split_at(text.len());
        return Err(fault(end, why.into()));
    };
    let (mut in_port, mut frame) = (FROM_CONTROLLER, None);
    let gap = |c: char| c == ',' || c.is_whitespace();
    for field in fields.split(gap).filter(|field| !field.is_empty()) {
        match field.split_once('=').unwrap_or((field, "")) {
            ("in_port", _) => {
                let parsed = text::parse_match(field, names);
                let parsed = parsed.map_err(|error| within(field, error))?;
                in_port = Field::InPort.get(&parsed.value.key) as u16;
            }
            ("packet", hex) => {
                frame = Some(frame_from_hex(hex).map_err(|why| fault(field, why))?);
            }
            (key, _) => {
                let why = format!("{key:?} is none of in_port=, packet= and actions=");
                return Err(fault(field, why));
            }
        }
    }
    let Some(frame) = frame else {
        let why = "packet= is missing: the frame in hexadecimal digits";
        return Err(fault(text, why.into()));
    };
    Ok(PacketOut {
        in_port,
        frame,
        actions: text::parse_actions(actions, names).map_err(|error| within(actions, error))?,
    })
}

/// A frame from hexadecimal digits.
fn frame_from_hex(hex: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => None,
        })
        .collect();
    match bytes {
        None => Err("a packet is an even number of hexadecimal digits".into()),
        Some(frame) => check_frame(&frame).map(|()| frame),
    }
}

/// Whether a frame can be one.
pub fn check_frame(frame: &[u8]) -> Result<(), String> {
    match frame.len() {
        MIN_FRAME..=MAX_FRAME => Ok(()),
        bytes => Err(format!(
            "a packet has {MIN_FRAME} to {MAX_FRAME} bytes, not {bytes}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str = "50540000000a5054000000090800";

    #[test]
    fn ports_frames_and_actions_are_read() {
        let names = Names::of([("vm1".to_owned(), 7)].into_iter());
        let text = format!("in_port=vm1, packet={FRAME},actions=output:vm1,2");
        let read = parse(&text, &names).unwrap();
        assert_eq!((read.in_port, read.frame.len()), (7, 14));
        assert_eq!(read.frame[..2], [0x50, 0x54]);
        assert_eq!(read.actions, [Action::Output(7), Action::Output(2)]);
        let read = parse(&format!("packet={FRAME} actions=drop"), &names).unwrap();
        assert_eq!((read.in_port, read.actions), (FROM_CONTROLLER, vec![]));
        let read = parse(
            &format!("in_port=LOCAL,packet={FRAME},actions=drop"),
            &names,
        );
        assert_eq!(read.unwrap().in_port, 0xfffe);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let whole = |actions: &str| format!("packet={FRAME},actions={actions}");
        for (text, at, telling) in [
            ("in_port=1".to_owned(), 9, "actions= is missing"),
            ("in_port=1,actions=drop".into(), 0, "packet= is missing"),
            ("in_port=1,packet=0,actions=drop".into(), 10, "even number"),
            ("packet=zz,actions=drop".into(), 0, "hexadecimal"),
            ("packet=0102,actions=drop".into(), 0, "not 2"),
            ("foo=1,packet=00,actions=drop".into(), 0, "\"foo\""),
            ("in_port=vm9,actions=drop".into(), 8, "vm9"),
            (whole("fool"), 44, "fool"),
        ] {
            let fault = parse(&text, &Names::default()).unwrap_err();
            assert!(fault.why.contains(telling), "{text}: {fault:?}");
            assert_eq!(fault.at, at, "{text}: {fault:?}");
        }
    }
}
