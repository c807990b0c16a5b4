//! Keys and values, cut out of a text.
//!
//! Everything is a slice of the text that was given, so that the place of a
//! fault is known without carrying positions about.

/// Something is wrong, at a slice of the text.
#[derive(Debug)]
pub(super) struct Fault<'t> {
    pub at: &'t str,
    pub what: String,
}

/// What reading a text comes to.
pub(super) type Scan<'t, T> = Result<T, Fault<'t>>;

/// `fault!(at, "…", …)`: an error at the slice `at`.
macro_rules! fault {
    ($at:expr, $($what:tt)+) => {
        Err($crate::text::scan::Fault { at: $at, what: format!($($what)+) })
    };
}
pub(super) use fault;

/// A key with what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'t> {
    /// `key`
    pub key: &'t str,
    /// Of `key=value`, `key:value` or `key(value)`; empty if there is none.
    pub value: &'t str,
    /// The whole of it.
    pub all: &'t str,
}

/// The keys and values of a text, separated by commas or white space.
#[derive(Clone, Debug)]
pub(super) struct Items<'t> {
    rest: &'t str,
}

const fn is_gap(byte: u8) -> bool {
    matches!(byte, b',' | b' ' | b'\t' | b'\r' | b'\n')
}

impl<'t> Items<'t> {
    pub fn of(text: &'t str) -> Self {
        Self { rest: text }
    }

    /// The next one.
    pub fn next(&mut self) -> Scan<'t, Option<Item<'t>>> {
        let bytes = self.rest.as_bytes();
        let from = bytes.iter().take_while(|byte| is_gap(**byte)).count();
        let text = &self.rest[from..];
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = text.as_bytes();
        let key_end = bytes
            .iter()
            .position(|byte| is_gap(*byte) || matches!(byte, b':' | b'=' | b'('))
            .unwrap_or(bytes.len());
        let key = &text[..key_end];
        let (value, end) = match bytes.get(key_end) {
            Some(b':' | b'=') => {
                let end = value_end(text, key_end + 1, is_gap)?;
                (&text[key_end + 1..end], end)
            }
            Some(b'(') => {
                let end = value_end(text, key_end + 1, |byte| byte == b')')?;
                if end == text.len() {
                    return fault!(&text[key_end..=key_end], "this parenthesis is not closed");
                }
                (&text[key_end + 1..end], end + 1)
            }
            _ => (&text[key_end..key_end], key_end),
        };
        self.rest = &text[end..];
        Ok(Some(Item {
            key,
            value,
            all: &text[..end],
        }))
    }
}

/// Where the value that begins at `from` ends: at the first byte outside of
/// parentheses that `ends` it, or with the text.
fn value_end(text: &str, from: usize, ends: impl Fn(u8) -> bool) -> Scan<'_, usize> {
    let mut open = 0usize;
    let mut opened = from;
    for (i, byte) in text.bytes().enumerate().skip(from) {
        match byte {
            _ if open == 0 && ends(byte) => return Ok(i),
            b'(' => {
                if open == 0 {
                    opened = i;
                }
                open += 1;
            }
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    if open > 0 {
        return fault!(&text[opened..=opened], "this parenthesis is not closed");
    }
    Ok(text.len())
}

/// A whole number as C writes it: decimal, `0x…` or octal with a leading 0.
pub(super) fn integer(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    match bytes {
        [b'0', b'x' | b'X', ..] => digits(&text[2..], 16),
        [b'0', _, ..] => digits(&text[1..], 8),
        _ => digits(text, 10),
    }
}

fn digits(text: &str, radix: u32) -> Option<u128> {
    // from_str_radix would take a sign.
    let first = text.as_bytes().first()?;
    first.is_ascii_alphanumeric().then_some(())?;
    u128::from_str_radix(text, radix).ok()
}

/// A number up to `max`; `what` names it in errors.
pub(super) fn number<'t>(text: &'t str, what: &str, max: u64) -> Scan<'t, u64> {
    if text.is_empty() {
        return fault!(text, "{what} needs a number");
    }
    match integer(text) {
        None => fault!(text, "{what} must be a number from 0 to {max}"),
        Some(value) if value > u128::from(max) => {
            fault!(text, "{what} is too large: at most {max}")
        }
        Some(value) => Ok(value as u64),
    }
}

/// A number of 16 bits.
pub(super) fn number16<'t>(text: &'t str, what: &str) -> Scan<'t, u16> {
    Ok(number(text, what, u16::MAX.into())? as u16)
}

/// A number of 32 bits.
pub(super) fn number32<'t>(text: &'t str, what: &str) -> Scan<'t, u32> {
    Ok(number(text, what, u32::MAX.into())? as u32)
}

/// A number of 64 bits; `-1` has all bits set, as C's strtoull has it.
pub(super) fn number64<'t>(text: &'t str, what: &str) -> Scan<'t, u64> {
    match text.strip_prefix('-').and_then(integer) {
        Some(value) if value <= 1 << 63 => Ok((value as u64).wrapping_neg()),
        _ => number(text, what, u64::MAX),
    }
}

/// A table's number; 255 stands for none in particular.
pub(super) fn table<'t>(text: &'t str) -> Scan<'t, Option<u8>> {
    match text.parse::<u8>() {
        Ok(255) => Ok(None),
        Ok(table) => Ok(Some(table)),
        Err(_) => fault!(text, "a table is a number from 0 to 254"),
    }
}
