//! Data sources: rows, and which user has which.
//!
//! The row of a user is a pure function of its identity, so no worker needs to be told: every type of
//! user that draws on a source gets a block of its rows, and every user the row of its identity in it.

use std::collections::BTreeSet;

use loadgrid_common::expression::{self, Expression, Piece};
use loadgrid_common::plan;

use super::constants::Constants;
use super::decode::{Mapped, Text};
use super::document::{self as doc, Data, UserType};
use super::problem::{Sink, Span, suggest};
use super::{Resolver, template};

/// The most rows of a generated source.
const MOST_ROWS: u64 = 10_000_000;

/// All sources of a scenario, in the order of the file.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Source>);

#[derive(Debug)]
struct Source {
    name: String,
    span: Span,
    columns: Vec<String>,
    rows: Rows,
    pick: plan::Pick,
    exhausted: plan::Exhausted,
    /// The column that weights random picks.
    weight: Option<String>,
}

#[derive(Debug)]
enum Rows {
    Table(Vec<csv::StringRecord>),
    Generated { count: u64, columns: Vec<plan::Template> },
}

impl Source {
    fn count(&self) -> u64 {
        match &self.rows {
            Rows::Table(records) => records.len() as u64,
            Rows::Generated { count, .. } => *count,
        }
    }
}

/// Reads the sources; one that cannot be read is left out, and the sink says why.
pub(super) fn read(
    data: Option<&Mapped<Data>>,
    constants: &Constants,
    resolver: &dyn Resolver,
    sink: &mut Sink,
) -> Sources {
    let mut sources = Sources::default();
    for (name, data) in data.iter().flat_map(|data| &data.entries) {
        let text = &name.0;
        let is_name = text.value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name || plan::slots::FIXED.contains(&text.value.as_str()) {
            let hint = "it stands in expressions, so it begins with a letter and has letters, digits and _";
            sink.add_with_hint(text.span, format!("`{}` cannot name a data source", text.value), hint);
            continue;
        }
        let source = match data {
            Data::Csv(csv) => read_csv(csv, resolver, sink).map(|rows| (rows, Choice::of_csv(csv))),
            Data::Generate(generate) => {
                generated(generate, constants, sink).map(|rows| (rows, Choice::of_generate(generate)))
            }
            Data::Inline(inline) => {
                inline_rows(inline, constants, sink).map(|rows| (rows, Choice::of_inline(inline)))
            }
        };
        let Some(((columns, rows), choice)) = source else { continue };
        if let Some(source) = choice.source(text, columns, rows, sink) {
            sources.0.push(source);
        }
    }
    sources
}

/// How rows are picked, as written.
struct Choice<'a> {
    pick: Option<doc::Pick>,
    exhausted: Option<doc::Exhausted>,
    weight: Option<&'a Text>,
}

impl<'a> Choice<'a> {
    const fn of_csv(csv: &'a doc::Csv) -> Self {
        Self { pick: csv.pick, exhausted: csv.exhausted, weight: csv.weight.as_ref() }
    }

    const fn of_generate(generate: &'a doc::Generate) -> Self {
        Self { pick: generate.pick, exhausted: generate.exhausted, weight: generate.weight.as_ref() }
    }

    const fn of_inline(inline: &'a doc::Inline) -> Self {
        Self { pick: inline.pick, exhausted: inline.exhausted, weight: inline.weight.as_ref() }
    }

    fn source(&self, name: &Text, columns: Vec<String>, rows: Rows, sink: &mut Sink) -> Option<Source> {
        let pick = match self.pick {
            Some(doc::Pick::Unique) | None => plan::Pick::Unique,
            Some(doc::Pick::Sequential) => plan::Pick::Sequential,
            Some(doc::Pick::Random) => plan::Pick::Random,
        };
        if pick == plan::Pick::Random && self.exhausted.is_some() {
            let hint = "remove `exhausted`: a random pick never runs out";
            sink.add_with_hint(name.span, format!("`{}` is picked at random", name.value), hint);
            return None;
        }
        let exhausted = match self.exhausted {
            Some(doc::Exhausted::Fail) => plan::Exhausted::Fail,
            Some(doc::Exhausted::Recycle) => plan::Exhausted::Recycle,
            Some(doc::Exhausted::StopUser) => plan::Exhausted::StopUser,
            // A row that must be one user's must not be silently another's; rows in turn go round.
            None if pick == plan::Pick::Unique => plan::Exhausted::Fail,
            None => plan::Exhausted::Recycle,
        };
        if let Some(weight) = self.weight {
            if pick != plan::Pick::Random {
                sink.add_with_hint(weight.span, "`weight` does not fit here", "it goes with `pick: random`");
                return None;
            }
            check_weights(weight, &columns, &rows, sink)?;
        }
        let weight = self.weight.map(|weight| weight.value.clone());
        Some(Source { name: name.value.clone(), span: name.span, columns, rows, pick, exhausted, weight })
    }
}

/// Every row of a table must have a weight, and one of them a positive one.
fn check_weights(weight: &Text, columns: &[String], rows: &Rows, sink: &mut Sink) -> Option<()> {
    let Some(column) = columns.iter().position(|column| *column == weight.value) else {
        let hint = suggest(&weight.value, columns.iter().map(String::as_str)).unwrap_or_default();
        sink.add_with_hint(weight.span, format!("there is no column `{}`", weight.value), hint);
        return None;
    };
    let Rows::Table(records) = rows else {
        let hint = "put the rows into a CSV file, or write them inline";
        sink.add_with_hint(weight.span, "generated rows have no weights", hint);
        return None;
    };
    let mut all = 0.0;
    for (row, record) in records.iter().enumerate() {
        let text = record.get(column).unwrap_or_default();
        match text.trim().parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight >= 0.0) {
            Some(weight) => all += weight,
            None => {
                sink.add(weight.span, format!("row {}: `{text}` is not a weight", row + 1));
                return None;
            }
        }
    }
    if all > 0.0 {
        return Some(());
    }
    sink.add(weight.span, "no row has a weight above 0");
    None
}

fn generated(
    generate: &doc::Generate,
    constants: &Constants,
    sink: &mut Sink,
) -> Option<(Vec<String>, Rows)> {
    let count = constants.quantity(&generate.rows, sink);
    let columns: Vec<_> =
        generate.columns.entries.iter().map(|(_, text)| row_template(text, constants, sink)).collect();
    let names = generate.columns.names().map(str::to_owned).collect();
    let (count, columns) = (count?, columns.into_iter().collect::<Option<Vec<_>>>()?);
    if !(1..=MOST_ROWS).contains(&count) {
        sink.add(generate.rows.text.span, format!("{count} rows; there may be 1 to 10,000,000"));
        return None;
    }
    Some((names, Rows::Generated { count, columns }))
}

fn inline_rows(inline: &doc::Inline, constants: &Constants, sink: &mut Sink) -> Option<(Vec<String>, Rows)> {
    let Some(first) = inline.rows.first() else {
        if sink.is_empty() {
            sink.add_with_hint(inline.span, "`rows` is empty", "write for example [ { id: lobby } ]");
        }
        return None;
    };
    let columns: Vec<String> = first.names().map(str::to_owned).collect();
    let mut records = Vec::new();
    for row in &inline.rows {
        if let Some((name, _)) = row.entries.iter().find(|(name, _)| !columns.contains(&name.0.value)) {
            let hint = "the first row names the columns";
            let message = format!("the first row has no column `{}`", name.0.value);
            sink.add_with_hint(name.0.span, message, hint);
            return None;
        }
        let mut record = csv::StringRecord::new();
        for column in &columns {
            let text = match row.get(column) {
                Some(text) => constants.text(text, sink)?,
                None => String::new(),
            };
            record.push_field(&text);
        }
        records.push(record);
    }
    Some((columns, Rows::Table(records)))
}

/// A key of a CSV dialect: one character.
fn character(text: Option<&Text>, otherwise: u8, sink: &mut Sink) -> Option<u8> {
    let Some(text) = text else { return Some(otherwise) };
    match text.value.as_str() {
        "tab" | "\t" | "\\t" => Some(b'\t'),
        value if value.len() == 1 => value.bytes().next(),
        value => {
            let message = format!("`{value}` is not one character");
            sink.add_with_hint(text.span, message, "write for example \";\", or tab");
            None
        }
    }
}

fn read_csv(source: &doc::Csv, resolver: &dyn Resolver, sink: &mut Sink) -> Option<(Vec<String>, Rows)> {
    let file = &source.file;
    let (delimiter, quote) =
        (character(source.delimiter.as_ref(), b',', sink), character(source.quote.as_ref(), b'"', sink));
    let comment = source.comment.as_ref().map(|comment| character(Some(comment), b'#', sink));
    let bytes = super::blobs::read_file(resolver, file, sink)?;
    let trim = if source.trim == Some(true) { csv::Trim::All } else { csv::Trim::Headers };
    let mut builder = csv::ReaderBuilder::new();
    builder.trim(trim).delimiter(delimiter?).quote(quote?).has_headers(source.columns.is_none());
    if let Some(comment) = comment {
        builder.comment(Some(comment?));
    }
    let mut reader = builder.from_reader(bytes.as_slice());
    let mut fail = |error: csv::Error| {
        let hint = "see `delimiter`, `quote` and `columns`, where it is written another way";
        sink.add_with_hint(file.span, format!("`{}` is not valid CSV: {error}", file.value), hint);
    };
    let columns: Vec<String> = match (&source.columns, reader.headers()) {
        (Some(columns), _) => columns.iter().map(|column| column.value.clone()).collect(),
        (None, Ok(headers)) => {
            headers.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect()
        }
        (None, Err(error)) => {
            fail(error);
            return None;
        }
    };
    let mut records = Vec::new();
    for record in reader.records() {
        match record {
            Ok(record) => records.push(record),
            Err(error) => {
                fail(error);
                return None;
            }
        }
    }
    let fields = records.first().map_or(0, csv::StringRecord::len);
    if records.is_empty() {
        sink.add_with_hint(
            file.span,
            format!("`{}` has no rows", file.value),
            "its first line names the columns; rows follow",
        );
        return None;
    }
    if fields != columns.len() {
        let message = format!("`{}` has {fields} fields a row, but {} columns", file.value, columns.len());
        sink.add_with_hint(file.span, message, "see `columns` and `delimiter`");
        return None;
    }
    Some((columns, Rows::Table(records)))
}

/// A column's text: `row` is slot 0, everything else must be constant.
fn row_template(text: &Text, constants: &Constants, sink: &mut Sink) -> Option<plan::Template> {
    let pieces = match expression::split(&text.value) {
        Ok(pieces) => pieces,
        Err(error) => {
            sink.add_with_hint(text.at(error.offset, 2), error.to_string(), "close it with `}`");
            return None;
        }
    };
    let mut parts = Vec::new();
    for piece in pieces {
        let part = match piece {
            Piece::Literal(literal) => plan::part::Part::Literal(literal),
            Piece::Hole { expression, offset } => {
                let span = text.at(offset, expression.len());
                let compiled = match Expression::compile(&expression) {
                    Ok(compiled) => compiled,
                    Err(error) => {
                        sink.add_with_hint(span, error.to_string(), template::cure(&error));
                        return None;
                    }
                };
                if let Some(name) =
                    compiled.names().iter().find(|name| *name != "row" && !Constants::is_constant(name))
                {
                    sink.add_with_hint(
                        span,
                        format!("`{name}` is not known here"),
                        "a column is made from `row`, vars and env",
                    );
                    return None;
                }
                if !compiled.is_pure() {
                    sink.add_with_hint(
                        span,
                        "a random value or the time cannot stand here",
                        "a row must be the same wherever it is made; use `row`",
                    );
                    return None;
                }
                if compiled.names().iter().all(|name| name != "row") {
                    let value = constants.evaluate(&compiled, span, sink)?;
                    plan::part::Part::Literal(expression::text_of(&value).into_owned())
                } else {
                    if !constants.check_members(compiled.text(), span, sink) {
                        return None;
                    }
                    let source = if compiled.simple().is_some_and(|simple| simple.path.is_empty()) {
                        plan::hole::Source::Lookup(plan::Lookup::default())
                    } else {
                        plan::hole::Source::Expression(expression)
                    };
                    plan::part::Part::Hole(plan::Hole {
                        encoding: plan::Encoding::Text.into(),
                        source: Some(source),
                    })
                }
            }
        };
        parts.push(plan::Part { part: Some(part) });
    }
    if parts.is_empty() {
        return Some(template::fixed(""));
    }
    Some(plan::Template { parts })
}

/// Gives every type of user its rows, and every load its identities.
///
/// Loads of one phase run at the same time, so their identities are apart; a later phase uses the same
/// ones again. Types of user that draw on one source get blocks of its rows one after the other.
pub(super) fn bind(
    sources: &Sources,
    users: &Mapped<UserType>,
    plans: &mut [plan::UserType],
    phases: &mut [plan::Phase],
    sink: &mut Sink,
) {
    let mut taken = vec![0_u64; sources.0.len()];
    for (index, ((name, user), plan)) in users.entries.iter().zip(plans).enumerate() {
        let bound: Vec<usize> = user
            .data
            .iter()
            .flatten()
            .filter_map(|source| sources.0.iter().position(|known| known.name == source.value))
            .collect();
        // Sources whose rows are one user's each, and must not run out.
        let strict = |source: &usize| {
            let source = &sources.0[*source];
            source.pick == plan::Pick::Unique && source.exhausted == plan::Exhausted::Fail
        };
        let left = |source: &usize| sources.0[*source].count().saturating_sub(taken[*source]);
        let rows_left = bound.iter().filter(|source| strict(source)).map(left).min();
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let needed = identities(number, phases, rows_left);
        for place in bound {
            let source = &sources.0[place];
            let (offset, rows) = (taken[place], source.count());
            if strict(&place) && offset.saturating_add(needed) > rows {
                let before = if offset > 0 { format!(" ({offset} are other users')") } else { String::new() };
                sink.add_with_hint(
                    source.span,
                    format!(
                        "`{}` has {rows} rows{before}, but {needed} users of type `{}` need one each",
                        source.name, name.0.value
                    ),
                    "add rows, lower the number of users (`vus`, `max_vus`), or say what then: `exhausted: recycle`",
                );
            }
            if source.pick == plan::Pick::Sequential && source.exhausted == plan::Exhausted::Fail {
                runs_out(source, number, phases, sink);
            }
            let is_unique = source.pick == plan::Pick::Unique;
            if is_unique {
                taken[place] = offset.saturating_add(needed);
            }
            let slot = plan.slots.iter().position(|slot| *slot == source.name).unwrap_or_default();
            plan.bindings.push(plan::Binding {
                source: u32::try_from(place).unwrap_or(u32::MAX),
                slot: u32::try_from(slot).unwrap_or(u32::MAX),
                offset: if is_unique { offset } else { 0 },
                pick: source.pick.into(),
                exhausted: source.exhausted.into(),
            });
        }
    }
}

/// Tells where a load has more iterations than a source has rows, which it takes in turn.
fn runs_out(source: &Source, user: u32, phases: &[plan::Phase], sink: &mut Sink) {
    for phase in phases {
        for load in phase.loads.iter().filter(|load| load.user == user) {
            let planned = load.view(phase).ok().and_then(|view| view.planned()).unwrap_or(0);
            if planned > source.count() {
                let (name, rows) = (&source.name, source.count());
                let message =
                    format!("`{name}` has {rows} rows, but phase `{}` has {planned} iterations", phase.name);
                sink.add_with_hint(source.span, message, "add rows, or say what then: `exhausted: recycle`");
                return;
            }
        }
    }
}

/// Sets the identity blocks of a type of user's loads and returns how many identities it has.
fn identities(user: u32, phases: &mut [plan::Phase], rows: Option<u64>) -> u64 {
    let mut most = 0;
    for phase in phases {
        let mut next = 0;
        let shape = phase.clone();
        let defaults =
            phase.loads.iter().filter(|load| load.user == user && has_default_users(load)).count() as u64;
        let explicit: u64 = phase
            .loads
            .iter()
            .filter(|load| load.user == user && !has_default_users(load))
            .filter_map(|load| Some(load.view(&shape).ok()?.users()))
            .sum();
        for load in phase.loads.iter_mut().filter(|load| load.user == user) {
            if let (Some(rows), true) = (rows, has_default_users(load))
                && let Some(plan::load::Model::Open(open)) = &mut load.model
            {
                // Nobody asked for that many users; there are as many as there is data for.
                open.max_vus = open.max_vus.min(rows.saturating_sub(explicit) / defaults.max(1)).max(1);
            }
            load.identity_base = next;
            next += load.view(&shape).map_or(0, |view| view.users());
        }
        most = most.max(next);
    }
    most
}

const fn has_default_users(load: &plan::Load) -> bool {
    matches!(&load.model, Some(plan::load::Model::Open(open)) if open.max_vus_is_default)
}

impl Sources {
    /// Names and columns.
    pub(super) fn columns(&self) -> Vec<(String, Vec<String>)> {
        self.0.iter().map(|source| (source.name.clone(), source.columns.clone())).collect()
    }

    /// The plan's sources and the tables that travel beside it: used columns only.
    pub(super) fn finish(
        self,
        used: &BTreeSet<(String, String)>,
        sink: &mut Sink,
    ) -> (Vec<plan::Source>, Vec<plan::Blob>) {
        let (mut sources, mut tables) = (Vec::new(), Vec::<plan::Blob>::new());
        for source in self.0 {
            let all = used.contains(&(source.name.clone(), String::new()));
            let weight = source.weight.clone();
            let kept: Vec<usize> = (0..source.columns.len())
                .filter(|&column| {
                    let name = &source.columns[column];
                    all || weight.as_ref() == Some(name)
                        || used.contains(&(source.name.clone(), name.clone()))
                })
                .collect();
            let columns: Vec<String> = kept.iter().map(|&column| source.columns[column].clone()).collect();
            let rows = source.count();
            let kind = match source.rows {
                Rows::Generated { columns, .. } => {
                    let columns = kept.iter().filter_map(|&column| columns.get(column).cloned()).collect();
                    plan::source::Kind::Generated(plan::Generated { columns })
                }
                Rows::Table(records) => {
                    let csv = match write_csv(&columns, &kept, &records) {
                        Ok(csv) => csv,
                        Err(error) => {
                            sink.add(source.span, format!("`{}` cannot be packed: {error}", source.name));
                            continue;
                        }
                    };
                    let hash = super::blobs::hash_of(&csv);
                    if !tables.iter().any(|table| table.hash == hash) {
                        tables.push(plan::Blob { hash: hash.clone(), content: csv.into() });
                    }
                    plan::source::Kind::TableHash(hash)
                }
            };
            let weight_column = weight.unwrap_or_default();
            sources.push(plan::Source { name: source.name, rows, columns, kind: Some(kind), weight_column });
        }
        (sources, tables)
    }
}

fn write_csv(
    columns: &[String],
    kept: &[usize],
    records: &[csv::StringRecord],
) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    writer.write_record(columns)?;
    for record in records {
        writer.write_record(kept.iter().map(|&column| record.get(column).unwrap_or_default()))?;
    }
    writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))
}
