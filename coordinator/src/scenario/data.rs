//! Data sources: rows, and which user has which.
//!
//! The row of a user is a pure function of its identity, so no worker needs to be told: every type of
//! user that draws on a source gets a block of its rows, and every user the row of its identity in it.

use std::collections::BTreeSet;

use loadgrid_common::expression::{self, Expression, Piece};
use loadgrid_common::plan;
use sha2::{Digest as _, Sha256};

use super::constants::Constants;
use super::decode::{Mapped, Text};
use super::document::{Data, UserType};
use super::problem::{Sink, Span};
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
            Data::Csv(csv) => read_csv(&csv.file, resolver, sink),
            Data::Generate(generate) => {
                let count = constants.quantity(&generate.rows, sink);
                let columns: Vec<_> = generate
                    .columns
                    .entries
                    .iter()
                    .map(|(_, text)| row_template(text, constants, sink))
                    .collect();
                let names = generate.columns.names().map(str::to_owned).collect();
                match (count, columns.into_iter().collect::<Option<Vec<_>>>()) {
                    (Some(count), Some(columns)) if (1..=MOST_ROWS).contains(&count) => {
                        Some((names, Rows::Generated { count, columns }))
                    }
                    (Some(count), Some(_)) => {
                        sink.add(
                            generate.rows.text.span,
                            format!("{count} rows; there may be 1 to 10,000,000"),
                        );
                        None
                    }
                    _ => None,
                }
            }
        };
        if let Some((columns, rows)) = source {
            sources.0.push(Source { name: text.value.clone(), span: text.span, columns, rows });
        }
    }
    sources
}

fn read_csv(file: &Text, resolver: &dyn Resolver, sink: &mut Sink) -> Option<(Vec<String>, Rows)> {
    let bytes = match resolver.read_file(&file.value) {
        Ok(bytes) => bytes,
        Err(message) => {
            sink.add_with_hint(
                file.span,
                format!("`{}` cannot be read: {message}", file.value),
                "the path is relative to the scenario file",
            );
            return None;
        }
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(bytes.as_slice());
    let mut fail = |error: csv::Error| {
        sink.add(file.span, format!("`{}` is not valid CSV: {error}", file.value));
    };
    let columns: Vec<String> = match reader.headers() {
        Ok(headers) => headers.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect(),
        Err(error) => {
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
    if records.is_empty() {
        sink.add_with_hint(
            file.span,
            format!("`{}` has no rows", file.value),
            "its first line names the columns; rows follow",
        );
        return None;
    }
    Some((columns, Rows::Table(records)))
}

/// A column's text: `row` is slot 0, everything else must be constant.
fn row_template(text: &Text, constants: &Constants, sink: &mut Sink) -> Option<plan::Template> {
    let pieces = match expression::split(&text.value) {
        Ok(pieces) => pieces,
        Err(error) => {
            sink.add(text.at(error.offset, 2), error.to_string());
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
                        sink.add(span, error.to_string());
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
                if compiled.draws() {
                    sink.add_with_hint(
                        span,
                        "random values cannot stand here",
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
                        plan::hole::Source::Lookup(plan::Lookup { slot: 0, path: Vec::new() })
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
        let rows_left =
            bound.iter().map(|&source| sources.0[source].count().saturating_sub(taken[source])).min();
        let needed = identities(u32::try_from(index).unwrap_or(u32::MAX), phases, rows_left);
        for source in bound {
            let (offset, rows) = (taken[source], sources.0[source].count());
            if offset.saturating_add(needed) > rows {
                let before = if offset > 0 { format!(" ({offset} are other users')") } else { String::new() };
                sink.add_with_hint(
                    sources.0[source].span,
                    format!(
                        "`{}` has {rows} rows{before}, but {needed} users of type `{}` need one each",
                        sources.0[source].name, name.0.value
                    ),
                    "add rows, or lower the number of users (`vus`, `max_vus`)",
                );
            }
            taken[source] = offset.saturating_add(needed);
            let slot = plan.slots.iter().position(|slot| *slot == sources.0[source].name).unwrap_or_default();
            plan.bindings.push(plan::Binding {
                source: u32::try_from(source).unwrap_or(u32::MAX),
                slot: u32::try_from(slot).unwrap_or(u32::MAX),
                offset,
            });
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
    ) -> (Vec<plan::Source>, Vec<plan::Table>) {
        let (mut sources, mut tables) = (Vec::new(), Vec::<plan::Table>::new());
        for source in self.0 {
            let all = used.contains(&(source.name.clone(), String::new()));
            let kept: Vec<usize> = (0..source.columns.len())
                .filter(|&column| {
                    all || used.contains(&(source.name.clone(), source.columns[column].clone()))
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
                    let hash: String =
                        Sha256::digest(&csv).iter().map(|byte| format!("{byte:02x}")).collect();
                    if !tables.iter().any(|table| table.hash == hash) {
                        tables.push(plan::Table { hash: hash.clone(), csv: csv.into() });
                    }
                    plan::source::Kind::TableHash(hash)
                }
            };
            sources.push(plan::Source { name: source.name, rows, columns, kind: Some(kind) });
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
