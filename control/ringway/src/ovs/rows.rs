//! ovs-vsctl's commands about rows of any table: `get`, `set`, `list`, `find`
//! and the like (ovs-vsctl(8), "Database Commands").

use std::cmp::Ordering;

use super::datum::{Atom, Datum, Kind, Type, Words};
use super::records::Row;
use super::schema::{self, BRIDGE, Column, INTERFACE, PORT, SWITCH, Table};
use super::syntax::{Command, Output, Session, Stop, fatal};
use super::table::Records;

type Done = Result<Output, Stop>;

fn silent() -> Done {
    Ok(Output::Text(String::new()))
}

/// `COLUMN[:KEY]`, then one of the operators and a value if there are any.
struct Term {
    column: &'static Column,
    key: Option<String>,
    operator: &'static str,
    value: String,
}

fn term(table: &Table, text: &str, operators: &[&'static str]) -> Result<Term, String> {
    let mut words = Words::new(text);
    let name = words.word()?;
    if name.is_empty() {
        return Err(format!("{text}: missing column name"));
    }
    let column = table.column(&name)?;
    let key = match words.skip(":") {
        true => Some(words.word()?),
        false => None,
    };
    let rest = words.rest();
    if operators.is_empty() {
        return match rest {
            "" => Ok(Term {
                column,
                key,
                operator: "",
                value: String::new(),
            }),
            _ => Err(format!("{text}: trailing garbage \"{rest}\" in argument")),
        };
    }
    let fits = operators.iter().copied();
    let fits = fits.filter(|operator| rest.len() > operator.len() && rest.starts_with(operator));
    let Some(operator) = fits.max_by_key(|operator| operator.len()) else {
        return Err(missing_operator(text, operators));
    };
    Ok(Term {
        column,
        key,
        operator,
        value: rest[operator.len()..].to_owned(),
    })
}

fn missing_operator(text: &str, operators: &[&str]) -> String {
    let quoted: Vec<_> = operators
        .iter()
        .map(|operator| format!("\"{operator}\""))
        .collect();
    let list = match quoted.as_slice() {
        [most @ .., last] if most.len() > 1 => format!("{}, or {last}", most.join(", ")),
        all => all.join(" or "),
    };
    format!("{text}: argument does not end in {list} followed by a value.")
}

/// What `COLUMN[:KEY]=VALUE` makes of a column of the row.
pub fn setting(table: &Table, row: &Row, text: &str) -> Result<(&'static Column, Datum), String> {
    let term = term(table, text, &["="])?;
    let (column, ty) = (term.column, &term.column.ty);
    let Some(key) = term.key else {
        if column.write == schema::Write::Never {
            return Ok((column, Datum::default()));
        }
        return Ok((column, Datum::parse(&term.value, ty)?));
    };
    let Some(kind) = ty.value else {
        return Err(format!(
            "cannot specify key to set for non-map column {}",
            column.name
        ));
    };
    let mut value = row.get(column);
    value.0.insert(
        Atom::parse(&key, &ty.key)?,
        Some(Atom::parse(&term.value, &kind.any())?),
    );
    Ok((column, value))
}

const OPERATORS: &[&str] = &[
    "=", "!=", "<", ">", "<=", ">=", "{=}", "{!=}", "{<}", "{>}", "{<=}", "{>=}", "{in}",
    "{not-in}",
];

fn holds(have: &Datum, operator: &str, want: &Datum) -> bool {
    let order = have.order(want);
    let (fewer, more) = (have.0.len() < want.0.len(), have.0.len() > want.0.len());
    match operator {
        "=" | "{=}" => order == Ordering::Equal,
        "!=" | "{!=}" => order != Ordering::Equal,
        "<" => order == Ordering::Less,
        ">" => order == Ordering::Greater,
        "<=" => order != Ordering::Greater,
        ">=" => order != Ordering::Less,
        "{<}" => fewer && want.includes(have),
        "{>}" => more && have.includes(want),
        "{<=}" | "{in}" => want.includes(have),
        "{>=}" => have.includes(want),
        _ => want.excludes(have),
    }
}

/// Whether `COLUMN[:KEY]OPERATOR VALUE` is true of the row.
fn is_true(table: &Table, row: &Row, text: &str) -> Result<bool, String> {
    let term = term(table, text, OPERATORS)?;
    let (column, ty) = (term.column, &term.column.ty);
    let have = row.get(column);
    let Some(key) = term.key else {
        return Ok(holds(&have, term.operator, &Datum::parse(&term.value, ty)?));
    };
    if !ty.is_map() {
        return Err(format!(
            "cannot specify key to check for non-map column {}",
            column.name
        ));
    }
    let want = Datum::parse(&term.value, &ty.of_values())?;
    let have = have.0.get(&Atom::parse(&key, &ty.key)?).cloned().flatten();
    if have.is_none() && !term.operator.starts_with('{') {
        return Ok(false);
    }
    let have = have.map_or(Datum::default(), Datum::one);
    Ok(holds(&have, term.operator, &want))
}

fn is_uuid(word: &str) -> bool {
    word.eq_ignore_ascii_case("_uuid") || word.eq_ignore_ascii_case("-uuid")
}

/// The row that a command names; none only with `--if-exists`.
fn named(command: &Command, session: &Session, table: &Table) -> Result<Option<Row>, Stop> {
    let row = match command.has("--if-exists") {
        true => session.db.find(table, command.arg(1))?,
        false => Some(session.db.expect(table, command.arg(1))?),
    };
    Ok(row)
}

/// `get TABLE RECORD [COLUMN[:KEY]]...`
pub fn get(command: &Command, session: &mut Session) -> Done {
    if command.has("--id") {
        return fatal("--id is not supported: ringway has no rows that others could refer to");
    }
    let table = schema::table(command.arg(0))?;
    let terms = command.args[2..].iter();
    let terms = terms.map(|word| match is_uuid(word) {
        true => Ok(None),
        false => term(table, word, &[]).map(Some),
    });
    let terms: Vec<_> = terms.collect::<Result<_, _>>()?;
    let Some(row) = named(command, session, table)? else {
        return silent();
    };
    let mut out = String::new();
    for term in terms {
        out += &match term {
            None => row.uuid.to_string(),
            Some(term) => value_of(command, &row, &term)?,
        };
        out.push('\n');
    }
    Ok(Output::Text(out))
}

fn value_of(command: &Command, row: &Row, term: &Term) -> Result<String, String> {
    let (column, value) = (term.column, row.get(term.column));
    let Some(key) = &term.key else {
        return Ok(value.shown(&column.ty));
    };
    if !column.ty.is_map() {
        return Err(format!(
            "cannot specify key to get for non-map column {}",
            column.name
        ));
    }
    match value.0.get(&Atom::parse(key, &column.ty.key)?) {
        Some(Some(value)) => Ok(value.shown()),
        _ if command.has("--if-exists") => Ok(String::new()),
        _ => Err(format!(
            "no key \"{key}\" in {} record \"{}\" column {}",
            row.table.name,
            command.arg(1),
            column.name
        )),
    }
}

/// The columns that `--columns` names, `None` being the row's identity.
fn columns(
    command: &Command,
    table: &'static Table,
) -> Result<Vec<Option<&'static Column>>, String> {
    let Some(Some(names)) = command.options.get("--columns") else {
        let all = table.columns.iter().map(Some);
        return Ok([None].into_iter().chain(all).collect());
    };
    let names = names.split([',', ' ']).filter(|name| !name.is_empty());
    let columns = names.map(|name| match name.eq_ignore_ascii_case("_uuid") {
        true => Ok(None),
        false => table.column(name).map(Some),
    });
    let columns: Vec<_> = columns.collect::<Result<_, String>>()?;
    match columns.is_empty() {
        true => Err("must specify at least one column name".into()),
        false => Ok(columns),
    }
}

fn records(columns: &[Option<&'static Column>], rows: &[Row]) -> Output {
    const UUID: Type = Type {
        key: Kind::Uuid.any(),
        value: None,
        least: 1,
        most: 1,
    };
    let cell = |row: &Row, column: &Option<&'static Column>| match column {
        None => (Datum::one(Atom::Uuid(row.uuid)), UUID),
        Some(column) => (row.get(column), column.ty),
    };
    let headings = columns.iter();
    Output::Records(Records {
        headings: headings
            .map(|column| column.map_or("_uuid", |column| column.name))
            .collect(),
        rows: rows
            .iter()
            .map(|row| columns.iter().map(|column| cell(row, column)).collect())
            .collect(),
    })
}

/// `list TABLE [RECORD]...`
pub fn list(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    let columns = columns(command, table)?;
    if command.args.len() == 1 {
        return Ok(records(&columns, &session.db.rows(table)));
    }
    let mut rows = Vec::new();
    for name in &command.args[1..] {
        match command.has("--if-exists") {
            true => rows.extend(session.db.find(table, name)?),
            false => rows.push(session.db.expect(table, name)?),
        }
    }
    Ok(records(&columns, &rows))
}

/// `find TABLE [COLUMN[:KEY]=VALUE]...`
pub fn find(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    let columns = columns(command, table)?;
    for text in &command.args[1..] {
        term(table, text, OPERATORS)?;
    }
    let mut found = Vec::new();
    for row in session.db.rows(table) {
        let mut all = true;
        for text in &command.args[1..] {
            all = all && is_true(table, &row, text)?;
        }
        found.extend(Some(row).filter(|_| all));
    }
    Ok(records(&columns, &found))
}

/// Writes a column of a row.
fn write(session: &mut Session, row: &mut Row, column: &Column, value: Datum) -> Result<(), Stop> {
    row.write(column, value.clone())?;
    if let Some(row) = session.db.row_mut(row.table, row.uuid) {
        row.write(column, value)?;
    }
    Ok(())
}

/// `set TABLE RECORD COLUMN[:KEY]=VALUE...`
pub fn set(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    let Some(mut row) = named(command, session, table)? else {
        return silent();
    };
    for text in &command.args[2..] {
        let (column, value) = setting(table, &row, text)?;
        write(session, &mut row, column, value)?;
    }
    silent()
}

fn number_of(ty: &Type) -> &'static str {
    if ty.is_map() { "pairs" } else { "values" }
}

/// `add TABLE RECORD COLUMN [KEY=]VALUE...`
pub fn add(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    let column = table.column(command.arg(2))?;
    let Some(mut row) = named(command, session, table)? else {
        return silent();
    };
    let (ty, mut value) = (&column.ty, row.get(column));
    let any = Type {
        least: 1,
        most: usize::MAX,
        ..*ty
    };
    for text in &command.args[3..] {
        for (key, new) in Datum::parse(text, &any)?.0 {
            // What is there stays.
            value.0.entry(key).or_insert(new);
        }
    }
    if value.0.len() > ty.most {
        return fatal(format!(
            "\"add\" operation would put {} {} in column {} of table {} but the maximum number is \
             {}",
            value.0.len(),
            number_of(ty),
            column.name,
            table.name,
            ty.most
        ));
    }
    write(session, &mut row, column, value)?;
    silent()
}

/// `remove TABLE RECORD COLUMN KEY|VALUE|KEY=VALUE...`
pub fn remove(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    let column = table.column(command.arg(2))?;
    let Some(mut row) = named(command, session, table)? else {
        return silent();
    };
    let (ty, mut value) = (&column.ty, row.get(column));
    let pairs = Type {
        least: 1,
        most: usize::MAX,
        ..*ty
    };
    let keys = Type {
        value: None,
        ..pairs
    };
    for text in &command.args[3..] {
        let gone = match Datum::parse(text, &pairs) {
            Err(_) if ty.is_map() => Datum::parse(text, &keys)?,
            parsed => parsed?,
        };
        value.subtract(&gone);
    }
    if value.0.len() < ty.least {
        return fatal(format!(
            "\"remove\" operation would put {} {} in column {} of table {} but the minimum number \
             is {}",
            value.0.len(),
            number_of(ty),
            column.name,
            table.name,
            ty.least
        ));
    }
    write(session, &mut row, column, value)?;
    silent()
}

/// `clear TABLE RECORD COLUMN...`
pub fn clear(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    let Some(mut row) = named(command, session, table)? else {
        return silent();
    };
    for name in &command.args[2..] {
        let column = table.column(name)?;
        if column.write == schema::Write::Never {
            return fatal(format!(
                "cannot modify read-only column {} in table {}",
                column.name, table.name
            ));
        }
        if column.ty.least > 0 {
            return fatal(format!(
                "\"clear\" operation cannot be applied to column {} of table {}, which is not \
                 allowed to be empty",
                column.name, table.name
            ));
        }
        write(session, &mut row, column, Datum::default())?;
    }
    silent()
}

/// `destroy TABLE [RECORD]...`: of tables that are always empty here.
pub fn destroy(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    let (records, all) = (&command.args[1..], command.has("--all"));
    if all && !records.is_empty() {
        return fatal("--all and records argument should not be specified together");
    }
    if all && command.has("--if-exists") {
        return fatal("--all and --if-exists should not be specified together");
    }
    let ours = [SWITCH, BRIDGE, PORT, INTERFACE];
    let is_ours = ours.iter().any(|ours| ours.name == table.name);
    for name in records {
        match command.has("--if-exists") {
            true => drop(session.db.find(table, name)?),
            false => drop(session.db.expect(table, name)?),
        }
    }
    match is_ours && (all || !records.is_empty()) {
        true => fatal(format!(
            "destroy {} is not supported: ringway's bridges and ports go with del-br and del-port",
            table.name
        )),
        false => silent(),
    }
}

/// `wait-until TABLE RECORD [COLUMN[:KEY]=VALUE]...`
pub fn wait_until(command: &Command, session: &mut Session) -> Done {
    let table = schema::table(command.arg(0))?;
    for text in &command.args[2..] {
        term(table, text, OPERATORS)?;
    }
    let Some(row) = session.db.find(table, command.arg(1))? else {
        return Err(Stop::NotYet);
    };
    for text in &command.args[2..] {
        if !is_true(table, &row, text)? {
            return Err(Stop::NotYet);
        }
    }
    silent()
}
