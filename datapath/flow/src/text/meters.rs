//! Meters from text.

use super::TextError;
use super::scan::{Scan, fault, number32};
use crate::action::MeterSpec;

/// Highest number of a meter (OFPM13_MAX).
const MAX_ID: u32 = 0xffff_0000;

/// Reads a meter: `meter=1,kbps,burst,bands=type=drop,rate=1000,burst_size=100`.
pub fn parse_meter(text: &str) -> Result<MeterSpec, TextError> {
    read_meter(text).map_err(|fault| TextError::new(fault, text, None))
}

/// Reads which meters to delete or show: `meter=1`, `meter=all` or nothing
/// (`None`: all).
pub fn parse_meter_id(text: &str) -> Result<Option<u32>, TextError> {
    let read = || {
        let mut id = None;
        let mut words = Words(text);
        while let Some(word) = words.next() {
            id = match (word, words.next()) {
                ("meter", Some("all")) => None,
                ("meter", Some(value)) => Some(meter_id(value)?),
                _ => return fault!(word, "a meter is named by meter=N or meter=all"),
            };
        }
        Ok(id)
    };
    read().map_err(|fault| TextError::new(fault, text, None))
}

/// What stands between `=`, commas and white space.
struct Words<'t>(&'t str);

impl<'t> Iterator for Words<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        let gap = |c: char| c == '=' || c == ',' || c.is_ascii_whitespace();
        let text = self.0.trim_start_matches(gap);
        let (word, rest) = text.split_at(text.find(gap).unwrap_or(text.len()));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

fn meter_id(text: &str) -> Scan<'_, u32> {
    match text {
        "all" => fault!(text, "one meter is meant here: meter=N"),
        "controller" | "slowpath" => fault!(
            text,
            "meter={text} is not supported: the slow path is bounded by itself"
        ),
        _ => match number32(text, "a meter")? {
            id @ 1..=MAX_ID => Ok(id),
            _ => fault!(text, "meters are 1 to {MAX_ID}"),
        },
    }
}

fn read_meter(text: &str) -> Scan<'_, MeterSpec> {
    let end = &text[text.len()..];
    let Some(at) = text.find("band") else {
        return fault!(end, "a meter needs a band: bands=type=drop,rate=N");
    };
    let Some((_, bands)) = text[at..].split_once('=') else {
        return fault!(
            &text[at..],
            "a meter's band is written bands=type=drop,rate=N"
        );
    };
    let (mut id, mut kbps, mut pktps) = (None, None, None);
    let (mut burst, mut stats) = (false, false);
    let mut words = Words(&text[..at]);
    while let Some(word) = words.next() {
        match word {
            "kbps" => kbps = Some(word),
            "pktps" => pktps = Some(word),
            "burst" => burst = true,
            "stats" => stats = true,
            "meter" => match words.next() {
                Some(value) => id = Some(meter_id(value)?),
                None => return fault!(word, "meter needs a number: meter=1"),
            },
            _ => {
                return fault!(
                    word,
                    "unknown keyword \"{word}\": a meter has meter, kbps, pktps, burst, stats \
                     and bands"
                );
            }
        }
    }
    let Some(id) = id else {
        return fault!(&text[..0], "a meter needs its number: meter=1");
    };
    let packets = match (kbps, pktps) {
        (Some(_), None) => false,
        (None, Some(_)) => true,
        (None, None) => return fault!(&text[..at], "a meter counts kbps or pktps: say which"),
        (Some(_), Some(word)) => return fault!(word, "a meter counts kbps or pktps, not both"),
    };

    let (mut band, mut rate, mut size) = (None, None, None);
    let mut words = Words(bands);
    while let Some(word) = words.next() {
        let Some(value) = words.next() else {
            return fault!(word, "{word} needs a value");
        };
        match (word, value) {
            ("type", "drop") if band.is_none() => band = Some(value),
            ("type", "drop") => {
                return fault!(value, "several bands are not supported: a meter has one");
            }
            ("type", "dscp_remark") => {
                return fault!(value, "band type dscp_remark is not supported: drop is");
            }
            ("type", _) => return fault!(value, "the type of a band is drop"),
            _ if band.is_none() => return fault!(word, "a band begins with its type=drop"),
            ("rate", value) => rate = Some((value, number32(value, "the rate")?)),
            ("burst_size", value) => size = Some((value, number32(value, "the burst size")?)),
            ("prec_level", _) => return fault!(word, "prec_level is of dscp_remark bands only"),
            _ => {
                return fault!(
                    word,
                    "unknown keyword \"{word}\": a band has type, rate and burst_size"
                );
            }
        }
    }
    if band.is_none() {
        return fault!(end, "a meter needs a band: bands=type=drop,rate=N");
    }
    let rate = match rate {
        Some((_, rate)) if rate > 0 => rate,
        Some((value, _)) => return fault!(value, "the rate is at least 1"),
        None => return fault!(end, "the band needs a rate=N"),
    };
    let size = match (size, burst) {
        (Some((_, size)), true) if size > 0 => size,
        (Some((value, _)), true) => return fault!(value, "the burst size is at least 1"),
        (None, true) => return fault!(end, "with burst the band needs a burst_size=N"),
        (Some((_, 0)), false) | (None, false) => 0,
        (Some((value, _)), false) => {
            return fault!(value, "a burst size needs the flag burst before the bands");
        }
    };
    Ok(MeterSpec {
        id,
        packets,
        rate,
        burst: size,
        stats,
        has_burst: burst,
    })
}
