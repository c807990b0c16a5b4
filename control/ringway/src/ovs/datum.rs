//! Values of Open vSwitch's database: how ovs-vsctl reads and writes them
//! (ovs-vsctl(8), "Database Values"; RFC 7047 for JSON).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Atom {
    /// A number.
    Integer(i64),
    /// True or false.
    Boolean(bool),
    /// A text.
    Text(String),
    /// A row's identity.
    Uuid(Uuid),
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Integer,
    /// True or false.
    Boolean,
    /// A text.
    Text,
    /// A row's identity.
    Uuid,
}

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it is.
    pub kind: Kind,
    /// The texts it may be, sorted; none: any.
    pub allowed: &'static [&'static str],
    /// The smallest number.
    pub min: i64,
    /// The largest number.
    pub max: i64,
}

/// What a column holds: a set of keys, or a map if there are values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type {
    /// Its values, or the keys of a map.
    pub key: Base,
    /// The values of a map.
    pub value: Option<Kind>,
    /// Least number of values, 0 or 1.
    pub least: usize,
    /// Greatest number of values.
    pub most: usize,
}

/// What a column of a row holds. A key without a value is a set's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Datum(pub BTreeMap<Atom, Option<Atom>>);

impl Kind {
    /// Any value of this kind.
    pub const fn any(self) -> Base {
        Base {
            kind: self,
            allowed: &[],
            min: i64::MIN,
            max: i64::MAX,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Integer => "integer",
            Kind::Boolean => "boolean",
            Kind::Text => "string",
            Kind::Uuid => "uuid",
        }
    }

    /// The value of a column that nobody set.
    fn default_atom(self) -> Atom {
        match self {
            Kind::Integer => Atom::Integer(0),
            Kind::Boolean => Atom::Boolean(false),
            Kind::Text => Atom::Text(String::new()),
            Kind::Uuid => Atom::Uuid(Uuid::nil()),
        }
    }
}

impl Base {
    fn check(&self, atom: &Atom) -> Result<(), String> {
        match atom {
            Atom::Text(text) if !self.allowed.is_empty() => {
                if self.allowed.contains(&text.as_str()) {
                    return Ok(());
                }
                let (given, allowed) = (atom.shown(), self.allowed.join(", "));
                Err(format!(
                    "constraint violation: {given} is not one of the allowed values ([{allowed}])"
                ))
            }
            Atom::Integer(number) if !(self.min..=self.max).contains(number) => {
                let Base { min, max, .. } = self;
                Err(match (*min, *max) {
                    (i64::MIN, _) => format!(
                        "constraint violation: {number} is greater than maximum allowed value {max}"
                    ),
                    (_, i64::MAX) => format!(
                        "constraint violation: {number} is less than minimum allowed value {min}"
                    ),
                    _ => format!(
                        "constraint violation: {number} is not in the valid range {min} to {max} \
                         (inclusive)"
                    ),
                })
            }
            _ => Ok(()),
        }
    }
}

impl Type {
    /// A map.
    pub fn is_map(&self) -> bool {
        self.value.is_some()
    }

    /// What a column of this type holds if nobody set it.
    pub fn default_datum(&self) -> Datum {
        let mut datum = Datum::default();
        if self.least > 0 {
            datum.0.insert(self.key.kind.default_atom(), None);
        }
        datum
    }

    /// The type of one key's value in a map.
    pub fn of_values(&self) -> Type {
        Type {
            key: self.value.unwrap_or(self.key.kind).any(),
            value: None,
            least: 0,
            most: usize::MAX,
        }
    }

    fn english(&self) -> String {
        let key = self.key.kind.name();
        if !self.is_map() && self.least == 1 && self.most == 1 {
            return key.to_owned();
        }
        let class = if self.is_map() { "map" } else { "set" };
        let size = match (self.least, self.most) {
            (0, usize::MAX) => " of".to_owned(),
            (least, usize::MAX) => format!(" of {least} or more"),
            (0, most) => format!(" of up to {most}"),
            (least, most) => format!(" of {least} to {most}"),
        };
        match self.value {
            None => format!("{class}{size} {key}s"),
            Some(value) => format!("{class}{size} ({key}, {}) pairs", value.name()),
        }
    }
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn needs_quotes(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let first = text.bytes().next();
    !first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        || !text.bytes().all(word)
        || matches!(text, "true" | "false")
        || is_uuid(text)
}

/// The identity written so, in the one form that Open vSwitch takes.
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    match text.len() {
        36 => Uuid::try_parse(text).ok(),
        _ => None,
    }
}

fn is_uuid(text: &str) -> bool {
    parse_uuid(text).is_some()
}

impl Atom {
    /// A text's atom.
    pub fn text(text: impl Into<String>) -> Atom {
        Atom::Text(text.into())
    }

    /// As it is read back: texts in quotes where they need them.
    pub fn shown(&self) -> String {
        match self {
            Atom::Text(text) if needs_quotes(text) => quoted(text),
            _ => self.bare(),
        }
    }

    /// For shell scripts: never in quotes.
    pub fn bare(&self) -> String {
        match self {
            Atom::Integer(number) => number.to_string(),
            Atom::Boolean(value) => value.to_string(),
            Atom::Text(text) => text.clone(),
            Atom::Uuid(uuid) => uuid.to_string(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Atom::Integer(number) => json!(number),
            Atom::Boolean(value) => json!(value),
            Atom::Text(text) => json!(text),
            Atom::Uuid(uuid) => json!(["uuid", uuid.to_string()]),
        }
    }

    /// The atom that a word stands for; the sentence is Open vSwitch's.
    pub fn parse(word: &str, base: &Base) -> Result<Atom, String> {
        let atom = match base.kind {
            Kind::Integer => Atom::Integer(
                (word.parse())
                    .map_err(|_| format!("\"{word}\" is not a valid integer or range"))?,
            ),
            Kind::Boolean => Atom::Boolean(match word {
                "true" | "yes" | "on" | "1" => true,
                "false" | "no" | "off" | "0" => false,
                _ => {
                    return Err(format!(
                        "\"{word}\" is not a valid boolean (use \"true\" or \"false\")"
                    ));
                }
            }),
            Kind::Text => Atom::Text(parse_text(word)?),
            Kind::Uuid => Atom::Uuid(
                parse_uuid(word).ok_or_else(|| format!("\"{word}\" is not a valid UUID"))?,
            ),
        };
        base.check(&atom)?;
        Ok(atom)
    }
}

fn parse_text(word: &str) -> Result<String, String> {
    if word.is_empty() {
        return Err(
            "An empty string is not valid as input; use \"\" to represent the empty string".into(),
        );
    }
    if !word.starts_with('"') {
        return Ok(word.to_owned());
    }
    if word.len() < 2 || !word.ends_with('"') {
        return Err(format!("{word}: missing quote at end of quoted string"));
    }
    let text = serde_json::from_str(word);
    text.map_err(|_| format!("{word}: not a valid JSON string"))
}

/// Two numbers with a dash between them.
fn range(word: &str) -> Option<(i64, i64)> {
    let dash = word.get(1..)?.find('-')? + 1;
    let (first, last) = (word.get(..dash)?, word.get(dash + 1..)?);
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Most numbers of a range, as Open vSwitch has it.
const LONGEST_RANGE: i64 = 4096;

/// A reader of a datum's text.
pub struct Words<'a> {
    whole: &'a str,
    rest: &'a str,
}

impl<'a> Words<'a> {
    /// Reads this text.
    pub fn new(text: &'a str) -> Self {
        Words {
            whole: text,
            rest: text,
        }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a str {
        self.rest
    }

    /// Skips this, if it comes next.
    pub fn skip(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// The next word: up to a delimiter that is neither escaped nor in quotes.
    pub fn word(&mut self) -> Result<String, String> {
        let (mut word, mut in_quotes, begin) = (String::new(), false, self.rest);
        let mut chars = self.rest.char_indices();
        let end = loop {
            match chars.next() {
                None => break begin.len(),
                Some((_, '\\')) => {
                    if in_quotes {
                        word.push('\\');
                    }
                    let Some((_, escaped)) = chars.next() else {
                        return Err(format!("{begin}: backslash at end of argument"));
                    };
                    word.push(escaped);
                }
                Some((at, c)) if !in_quotes && is_delimiter(c) => break at,
                Some((_, c)) => {
                    word.push(c);
                    in_quotes ^= c == '"';
                }
            }
        };
        if in_quotes {
            return Err(format!(
                "{begin}: quoted string extends past end of argument"
            ));
        }
        self.rest = &begin[end..];
        Ok(word)
    }

    fn end(&mut self, delimiter: Option<char>) -> bool {
        self.rest.is_empty() || delimiter.is_some_and(|end| self.rest.starts_with(end))
    }
}

fn is_delimiter(c: char) -> bool {
    ":=, []{}!<>".contains(c)
}

impl Datum {
    /// One value.
    pub fn one(atom: Atom) -> Datum {
        Datum([(atom, None)].into())
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Datum {
        Datum::one(Atom::Text(text.into()))
    }

    /// A text, or nothing if it is empty.
    pub fn optional_text(text: &str) -> Datum {
        match text {
            "" => Datum::default(),
            _ => Datum::text(text),
        }
    }

    /// A number, if there is one.
    pub fn optional_number(number: Option<impl Into<i64>>) -> Datum {
        number.map_or(Datum::default(), |number| {
            Datum::one(Atom::Integer(number.into()))
        })
    }

    /// A set of numbers.
    pub fn numbers(numbers: &[u32]) -> Datum {
        let numbers = numbers.iter().map(|number| Atom::Integer((*number).into()));
        Datum(numbers.map(|number| (number, None)).collect())
    }

    /// A set of rows.
    pub fn uuids(uuids: impl Iterator<Item = Uuid>) -> Datum {
        Datum(uuids.map(|uuid| (Atom::Uuid(uuid), None)).collect())
    }

    /// A map of texts.
    pub fn map<K: Into<String>, V: Into<String>>(pairs: impl Iterator<Item = (K, V)>) -> Datum {
        let pairs = pairs.map(|(key, value)| (Atom::text(key), Some(Atom::text(value))));
        Datum(pairs.collect())
    }

    /// The only value's text, or the empty text.
    pub fn as_text(&self) -> &str {
        match self.0.keys().next() {
            Some(Atom::Text(text)) => text,
            _ => "",
        }
    }

    /// The only value's number.
    pub fn as_number(&self) -> Option<i64> {
        self.as_numbers().next()
    }

    /// The numbers of a set.
    pub fn as_numbers(&self) -> impl Iterator<Item = i64> {
        self.0.keys().filter_map(|atom| match atom {
            Atom::Integer(number) => Some(*number),
            _ => None,
        })
    }

    /// The pairs of a map of texts.
    pub fn as_map(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|pair| match pair {
            (Atom::Text(key), Some(Atom::Text(value))) => Some((key.as_str(), value.as_str())),
            _ => None,
        })
    }

    /// A key's value in a map of texts.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.as_map().find(|pair| pair.0 == key).map(|pair| pair.1)
    }

    /// The datum that a text stands for; the sentence is Open vSwitch's.
    pub fn parse(text: &str, ty: &Type) -> Result<Datum, String> {
        let mut words = Words::new(text);
        let (open, close) = if ty.is_map() { ("{", '}') } else { ("[", ']') };
        words.skip_spaces();
        if words.rest.is_empty() {
            return Err(match ty.is_map() {
                true => "use \"{}\" to specify the empty map".into(),
                false => "use \"[]\" to specify the empty set".into(),
            });
        }
        let close = words.skip(open).then_some(close);
        words.skip_spaces();
        let mut pairs = Vec::new();
        while !words.end(close) {
            if let Some(c) = words.rest.chars().next().filter(|c| is_delimiter(*c)) {
                let what = ty.english();
                return Err(format!("{text}: unexpected \"{c}\" parsing {what}"));
            }
            parse_pair(&mut words, ty, &mut pairs)?;
            words.skip_spaces();
            if words.skip(",") {
                words.skip_spaces();
            }
        }
        if let Some(end) = close {
            if !words.skip(&end.to_string()) {
                return Err(format!("{text}: missing \"{end}\" at end of data"));
            }
            words.skip_spaces();
            if !words.rest.is_empty() {
                return Err(format!("{text}: trailing garbage after \"{end}\""));
            }
        }
        Datum::of_pairs(pairs, ty).map_err(|why| format!("{}: {why}", words.whole))
    }

    fn of_pairs(pairs: Vec<(Atom, Option<Atom>)>, ty: &Type) -> Result<Datum, String> {
        let (count, class) = match ty.is_map() {
            true => (pairs.len(), "pair(s)"),
            false => (pairs.len(), "value(s)"),
        };
        if count < ty.least {
            let least = ty.least;
            return Err(format!(
                "{count} {class} specified but the minimum number is {least}"
            ));
        }
        if count > ty.most {
            let most = ty.most;
            return Err(format!(
                "{count} {class} specified but the maximum number is {most}"
            ));
        }
        let datum = Datum(pairs.into_iter().collect());
        match (datum.0.len() == count, ty.is_map()) {
            (true, _) => Ok(datum),
            (false, true) => Err("map contains duplicate key".into()),
            (false, false) => Err("set contains duplicate value".into()),
        }
    }

    /// As it is read back.
    pub fn shown(&self, ty: &Type) -> String {
        let pairs = self.0.iter().map(|(key, value)| match value {
            None => key.shown(),
            Some(value) => format!("{}={}", key.shown(), value.shown()),
        });
        let list = pairs.collect::<Vec<_>>().join(", ");
        match (ty.most > 1 || self.0.is_empty(), ty.is_map()) {
            (false, _) => list,
            (true, false) => format!("[{list}]"),
            (true, true) => format!("{{{list}}}"),
        }
    }

    /// For shell scripts: neither quotes nor brackets.
    pub fn bare(&self) -> String {
        let pairs = self.0.iter().map(|(key, value)| match value {
            None => key.bare(),
            Some(value) => format!("{}={}", key.bare(), value.bare()),
        });
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// As RFC 7047 has it.
    pub fn json(&self, ty: &Type) -> Value {
        if ty.is_map() {
            let pairs = self.0.iter();
            let pairs =
                pairs.map(|(key, value)| json!([key.json(), value.as_ref().map(Atom::json)]));
            return json!(["map", pairs.collect::<Vec<_>>()]);
        }
        match self.0.len() {
            1 => self.0.keys().map(Atom::json).collect::<Vec<_>>().remove(0),
            _ => json!(["set", self.0.keys().map(Atom::json).collect::<Vec<_>>()]),
        }
    }

    /// Which of two comes first: fewer values, then smaller keys, then smaller
    /// values.
    pub fn order(&self, other: &Datum) -> Ordering {
        (self.0.len().cmp(&other.0.len()))
            .then_with(|| self.0.keys().cmp(other.0.keys()))
            .then_with(|| self.0.values().cmp(other.0.values()))
    }

    /// Every pair of the other is here.
    pub fn includes(&self, other: &Datum) -> bool {
        let has = |(key, value): (&Atom, &Option<Atom>)| self.0.get(key) == Some(value);
        other.0.iter().all(has)
    }

    /// No pair of the other is here.
    pub fn excludes(&self, other: &Datum) -> bool {
        let has = |(key, value): (&Atom, &Option<Atom>)| self.0.get(key) == Some(value);
        !other.0.iter().any(has)
    }

    /// Takes the pairs of the other away; a key without a value takes any.
    pub fn subtract(&mut self, other: &Datum) {
        self.0.retain(|key, value| match other.0.get(key) {
            None => true,
            Some(None) => false,
            Some(taken) => taken != value,
        });
    }
}

fn parse_pair(
    words: &mut Words<'_>,
    ty: &Type,
    pairs: &mut Vec<(Atom, Option<Atom>)>,
) -> Result<(), String> {
    let begin = words.rest;
    let word = words.word()?;
    if let (None, Kind::Integer, Some((first, last))) = (ty.value, ty.key.kind, range(&word)) {
        if last < first {
            return Err(format!(
                "\"{word}\" is not a valid range. Range end cannot be before start."
            ));
        }
        ty.key.check(&Atom::Integer(first))?;
        ty.key.check(&Atom::Integer(last))?;
        if last.saturating_sub(first) >= LONGEST_RANGE {
            return Err(format!(
                "constraint violation: Range \"{first}-{last}\" is too big. Maximum allowed size \
                 is {LONGEST_RANGE}."
            ));
        }
        pairs.extend((first..=last).map(|number| (Atom::Integer(number), None)));
        return Ok(());
    }
    let key = Atom::parse(&word, &ty.key)?;
    let Some(kind) = ty.value else {
        pairs.push((key, None));
        return Ok(());
    };
    words.skip_spaces();
    if !words.skip("=") {
        let found = words.rest.chars().next().map(String::from);
        let found = found.unwrap_or_default();
        return Err(format!(
            "{begin}: syntax error at \"{found}\" expecting \"=\""
        ));
    }
    words.skip_spaces();
    let value = Atom::parse(&words.word()?, &kind.any())?;
    pairs.push((key, Some(value)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: Type = Type {
        key: Kind::Text.any(),
        value: None,
        least: 1,
        most: 1,
    };
    const VLANS: Type = Type {
        key: Base {
            kind: Kind::Integer,
            allowed: &[],
            min: 0,
            max: 4095,
        },
        value: None,
        least: 0,
        most: 4096,
    };
    const MAP: Type = Type {
        key: Kind::Text.any(),
        value: Some(Kind::Text),
        least: 0,
        most: usize::MAX,
    };

    #[test]
    fn values_are_shown_as_ovs_vsctl_shows_them() {
        for (text, ty, shown, bare) in [
            ("br0", TEXT, "br0", "br0"),
            ("\"\"", TEXT, "\"\"", ""),
            ("10.0.0.1", TEXT, "\"10.0.0.1\"", "10.0.0.1"),
            ("true", TEXT, "\"true\"", "true"),
            ("7", VLANS, "[7]", "7"),
            ("9,7 8", VLANS, "[7, 8, 9]", "7 8 9"),
            ("1-3", VLANS, "[1, 2, 3]", "1 2 3"),
            ("[]", VLANS, "[]", ""),
            ("{}", MAP, "{}", ""),
            ("b=2,a=x", MAP, "{a=x, b=\"2\"}", "a=x b=2"),
            (r#"a="x y""#, MAP, r#"{a="x y"}"#, "a=x y"),
            (r"a=b\=c", MAP, r#"{a="b=c"}"#, "a=b=c"),
        ] {
            let datum = Datum::parse(text, &ty).unwrap();
            assert_eq!(
                (datum.shown(&ty).as_str(), datum.bare().as_str()),
                (shown, bare),
                "{text}"
            );
        }
        let json = |text, ty| Datum::parse(text, ty).unwrap().json(ty).to_string();
        assert_eq!(json("7", &VLANS), "7");
        assert_eq!(json("7,8", &VLANS), r#"["set",[7,8]]"#);
        assert_eq!(json("a=b", &MAP), r#"["map",[["a","b"]]]"#);
    }

    #[test]
    fn what_is_no_value_is_refused_in_ovs_vsctls_words() {
        for (text, ty, why) in [
            (
                "5000",
                VLANS,
                "constraint violation: 5000 is not in the valid range 0 to 4095 (inclusive)",
            ),
            ("x", VLANS, "\"x\" is not a valid integer or range"),
            ("[1", VLANS, "[1: missing \"]\" at end of data"),
            ("[1]x", VLANS, "[1]x: trailing garbage after \"]\""),
            ("1,1", VLANS, "1,1: set contains duplicate value"),
            (
                "3-1",
                VLANS,
                "\"3-1\" is not a valid range. Range end cannot be before start.",
            ),
            ("", VLANS, "use \"[]\" to specify the empty set"),
            ("a", MAP, "a: syntax error at \"\" expecting \"=\""),
            ("a=1,a=2", MAP, "a=1,a=2: map contains duplicate key"),
            (
                "=a",
                MAP,
                "=a: unexpected \"=\" parsing map of (string, string) pairs",
            ),
            (
                "a,b",
                TEXT,
                "a,b: 2 value(s) specified but the maximum number is 1",
            ),
            (
                "\"a",
                TEXT,
                "\"a: quoted string extends past end of argument",
            ),
            ("a\\", TEXT, "a\\: backslash at end of argument"),
        ] {
            assert_eq!(Datum::parse(text, &ty).unwrap_err(), why, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(pairs in proptest::collection::btree_map("[ -~]{0,9}", "\\PC{0,9}", 0..5)) {
            let datum = Datum::map(pairs.into_iter());
            prop_assert_eq!(Datum::parse(&datum.shown(&MAP), &MAP), Ok(datum));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            for ty in [TEXT, VLANS, MAP] {
                let _ = Datum::parse(&text, &ty);
            }
        }
    }
}
