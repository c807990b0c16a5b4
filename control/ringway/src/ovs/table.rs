//! How records are printed: ovs-vsctl's `--format`, `--data`, `--no-headings`.

use serde_json::{Value, json};

use super::datum::{Datum, Type};

/// Records, ready to be printed.
pub struct Records {
    /// The columns' names.
    pub headings: Vec<&'static str>,
    /// Rows of what columns hold.
    pub rows: Vec<Vec<(Datum, Type)>>,
}

/// The layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `name : value`, a line each.
    #[default]
    List,
    /// Columns side by side.
    Table,
    /// Comma-separated values.
    Csv,
    /// One JSON object.
    Json,
    /// An HTML table.
    Html,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Data {
    /// As ovs-vsctl reads it.
    #[default]
    Text,
    /// Without quotes and brackets.
    Bare,
    /// As JSON.
    Json,
}

/// How records are printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// The layout.
    pub format: Format,
    /// How a value is written.
    pub data: Data,
    /// Without the columns' names.
    pub no_headings: bool,
    /// JSON on many lines.
    pub pretty: bool,
    /// Widest column of `table`; 0: any.
    pub widest: usize,
    /// Something was printed already.
    pub begun: bool,
}

impl Style {
    /// Takes `--format`.
    pub fn set_format(&mut self, name: &str) -> Result<(), String> {
        self.format = match name {
            "list" => Format::List,
            "table" => Format::Table,
            "csv" => Format::Csv,
            "json" => Format::Json,
            "html" => Format::Html,
            _ => return Err(format!("unknown output format \"{name}\"")),
        };
        Ok(())
    }

    /// Takes `--data`.
    pub fn set_data(&mut self, name: &str) -> Result<(), String> {
        self.data = match name {
            "string" => Data::Text,
            "bare" => Data::Bare,
            "json" => Data::Json,
            _ => return Err(format!("unknown data format \"{name}\"")),
        };
        Ok(())
    }

    fn cell(&self, (datum, ty): &(Datum, Type)) -> String {
        match self.data {
            Data::Text => datum.shown(ty),
            Data::Bare => datum.bare(),
            Data::Json => datum.json(ty).to_string(),
        }
    }

    /// The records as text. Between two of a command line stands an empty line.
    pub fn text(&mut self, records: &Records) -> String {
        let gap = match self.format {
            Format::Json | Format::Html => "",
            _ if std::mem::replace(&mut self.begun, true) => "\n",
            _ => "",
        };
        let rows: Vec<Vec<String>> = records
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| self.cell(cell)).collect())
            .collect();
        let headings = records.headings.as_slice();
        let text = match self.format {
            Format::List => self.list(headings, &rows),
            Format::Table => self.table(headings, &rows),
            Format::Csv => self.csv(headings, &rows),
            Format::Html => self.html(headings, &rows),
            Format::Json => self.json(records),
        };
        gap.to_owned() + &text
    }

    fn list(&self, headings: &[&str], rows: &[Vec<String>]) -> String {
        let row = |row: &Vec<String>| -> String {
            let cells = headings.iter().zip(row);
            let line = |(heading, cell): (&&str, &String)| match self.no_headings {
                true => format!("{cell}\n"),
                false => format!("{heading:<20}: {cell}\n"),
            };
            cells.map(line).collect()
        };
        rows.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    fn table(&self, headings: &[&str], rows: &[Vec<String>]) -> String {
        let width = |at: usize| {
            let widest = rows.iter().map(|row| row[at].len()).max().unwrap_or(0);
            let widest = if self.widest > 0 {
                widest.min(self.widest)
            } else {
                widest
            };
            if self.no_headings {
                widest
            } else {
                widest.max(headings[at].len())
            }
        };
        let widths: Vec<_> = (0..headings.len()).map(width).collect();
        let line = |cells: Vec<String>| {
            let cells = cells.iter().zip(&widths);
            let cells = cells.map(|(cell, width)| format!("{cell:<width$.width$}"));
            format!(
                "{}\n",
                cells.collect::<Vec<_>>().join(" ").trim_end_matches(' ')
            )
        };
        let mut out = String::new();
        if !self.no_headings {
            out += &line(
                headings
                    .iter()
                    .map(|heading| (*heading).to_owned())
                    .collect(),
            );
            out += &line(widths.iter().map(|width| "-".repeat(*width)).collect());
        }
        out.extend(rows.iter().map(|row| line(row.clone())));
        out
    }

    fn csv(&self, headings: &[&str], rows: &[Vec<String>]) -> String {
        let cell = |text: &str| match text.contains(['\n', '"', ',']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.to_owned(),
        };
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let mut out = String::new();
        if !self.no_headings {
            out += &line(headings.iter().map(|heading| cell(heading)).collect());
        }
        let rows = rows
            .iter()
            .map(|row| line(row.iter().map(|text| cell(text)).collect()));
        out.extend(rows);
        out
    }

    fn html(&self, headings: &[&str], rows: &[Vec<String>]) -> String {
        let mut out = String::from("<table border=1>\n");
        let mut row = |cells: Vec<String>| out += &format!("  <tr>\n{}  </tr>\n", cells.concat());
        if !self.no_headings {
            let heading = |text: &&str| format!("    <th>{}</th>\n", linked(text));
            row(headings.iter().map(heading).collect());
        }
        for cells in rows {
            let cells = headings.iter().zip(cells);
            let cell = |(heading, text): (&&str, &String)| match *heading {
                "_uuid" => {
                    let short: String = text.chars().take(8).collect();
                    format!(
                        "    <td><a name=\"{}\">{}</a></td>\n",
                        escaped(text),
                        escaped(&short)
                    )
                }
                _ => format!("    <td>{}</td>\n", linked(text)),
            };
            row(cells.map(cell).collect());
        }
        out + "</table>\n"
    }

    fn json(&self, records: &Records) -> String {
        let row = |row: &Vec<(Datum, Type)>| -> Value {
            row.iter().map(|(datum, ty)| datum.json(ty)).collect()
        };
        let data: Vec<_> = records.rows.iter().map(row).collect();
        let json = json!({"data": data, "headings": records.headings});
        match self.pretty {
            true => format!("{json:#}\n"),
            false => format!("{json}\n"),
        }
    }
}

fn escaped(text: &str) -> String {
    (text.replace('&', "&amp;").replace('<', "&lt;"))
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// The text with its rows' identities as links.
fn linked(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let uuid = rest
            .get(..36)
            .filter(|word| super::datum::parse_uuid(word).is_some());
        rest = match uuid {
            Some(uuid) => {
                out += &format!("<a href=\"#{uuid}\">{}</a>", &uuid[..8]);
                &rest[36..]
            }
            None => {
                out += &escaped(&c.to_string());
                &rest[c.len_utf8()..]
            }
        };
    }
    out
}
