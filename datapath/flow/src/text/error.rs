//! What is wrong with a text, and where.

use super::scan::Fault;

/// Bytes of a text that an error shows before and behind the place.
const CONTEXT: usize = 60;

/// A text was refused. Shows the place:
///
/// ```text
/// line 3, byte 16: unknown action "fool"
///   ip,actions=drop,fool
///                   ^^^^
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// What is wrong, and what to do.
    pub message: String,
    /// The line, counted from 1, if the text was a file.
    pub line: Option<usize>,
    /// First byte of what is wrong, counted from 0 in the text or its line.
    pub offset: usize,
    /// Bytes of what is wrong; 0: something is missing there.
    pub length: usize,
    /// The text around it.
    context: String,
    /// Characters of `context` before it, and its own.
    marked: (usize, usize),
}

impl TextError {
    /// `fault` is somewhere in `text`.
    pub(super) fn new(fault: Fault<'_>, text: &str, line: Option<usize>) -> Self {
        // The fault's slice is a part of `text`: the distance is its offset.
        let offset = (fault.at.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        let offset = offset.min(text.len());
        let end = (offset + fault.at.len()).min(text.len());
        let from = (offset.saturating_sub(CONTEXT)..=offset)
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(0);
        let to = (end + CONTEXT..text.len())
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or(text.len());
        let count = |a: usize, b: usize| text.get(a..b).map_or(0, |part| part.chars().count());
        let shown = text.get(from..to).unwrap_or_default().chars();
        Self {
            message: fault.what,
            line,
            offset,
            length: end - offset,
            context: shown
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect(),
            marked: (count(from, offset), count(offset, end)),
        }
    }
}

impl std::fmt::Display for TextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}, ")?;
        }
        let (before, marks) = self.marked;
        writeln!(f, "byte {}: {}", self.offset, self.message)?;
        writeln!(f, "  {}", self.context)?;
        write!(f, "  {:before$}{:^<marks$}", "", "", marks = marks.max(1))
    }
}

impl std::error::Error for TextError {}
