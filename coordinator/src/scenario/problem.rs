//! What is wrong with a scenario: every problem with its place, a snippet and a cure.

use std::fmt;

/// A place in a text: byte offset and length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Byte offset of the first byte.
    pub start: usize,
    /// Length in bytes.
    pub length: usize,
}

impl Span {
    /// A part of this span, by offset from its start.
    #[must_use]
    pub const fn part(self, offset: usize, length: usize) -> Self {
        Self { start: self.start + offset, length }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub span: Span,
    /// What is wrong, as a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The most problems that are shown at once.
pub(super) const MOST_SHOWN: usize = 20;

/// Where problems are put while a scenario is read.
#[derive(Debug, Default)]
pub(super) struct Sink {
    problems: Vec<Problem>,
}

impl Sink {
    /// Adds a problem.
    pub(super) fn add(&mut self, span: Span, message: impl Into<String>) {
        self.problems.push(Problem { span, message: message.into(), hint: None });
    }

    /// Adds a problem with a cure.
    pub(super) fn add_with_hint(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self.problems.push(Problem { span, message: message.into(), hint });
    }

    /// Whether there is any problem yet.
    #[must_use]
    pub(super) const fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// How many problems there are so far.
    #[must_use]
    pub(super) const fn count(&self) -> usize {
        self.problems.len()
    }

    /// All problems in the order of the text, each once.
    #[must_use]
    pub(super) fn into_sorted(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems.dedup();
        self.problems
    }
}

/// A text that was read. Places of a scenario and what it includes count on through all its texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceText {
    /// The file's name.
    pub name: String,
    /// Its text.
    pub text: String,
    /// The place of its first byte.
    pub base: usize,
}

impl SourceText {
    /// The place behind its last byte; the next text begins there.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.base + self.text.len() + 1
    }
}

/// All problems of a scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The scenario and what it includes, for the snippets; the scenario itself comes first.
    pub texts: Vec<SourceText>,
    /// In the order of the texts; never empty.
    pub list: Vec<Problem>,
}

impl std::error::Error for Problems {}

impl Problems {
    /// The text in which a place lies, with its line and column there (from 1, in characters).
    #[must_use]
    pub fn position(&self, place: usize) -> (&str, &str, usize, usize) {
        let text = self.texts.iter().rev().find(|text| text.base <= place).or(self.texts.first());
        let Some(source) = text else { return ("", "", 1, 1) };
        let mut offset = (place - source.base.min(place)).min(source.text.len());
        while !source.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &source.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
        (&source.name, &source.text, line, column)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.list.iter().take(MOST_SHOWN) {
            let (file, text, line, column) = self.position(problem.span.start);
            writeln!(f, "error: {}", problem.message)?;
            writeln!(f, "  --> {file}:{line}:{column}")?;
            if let Some(text) = text.lines().nth(line - 1) {
                let gutter = line.to_string().len();
                let text: String =
                    text.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect();
                let width = problem.span.length.clamp(1, 160);
                let carets = width.min(text.chars().count().saturating_sub(column - 1)).max(1);
                writeln!(f, "{:gutter$} |", "")?;
                writeln!(f, "{line} | {text}")?;
                writeln!(f, "{:gutter$} | {}{}", "", " ".repeat((column - 1).min(160)), "^".repeat(carets))?;
            }
            if let Some(hint) = &problem.hint {
                writeln!(f, "  help: {hint}")?;
            }
            writeln!(f)?;
        }
        let (shown, all) = (self.list.len().min(MOST_SHOWN), self.list.len());
        let noun = if all == 1 { "problem" } else { "problems" };
        let file = self.texts.first().map_or("", |text| text.name.as_str());
        if shown < all {
            write!(f, "{all} {noun} in {file}; the first {shown} are shown")
        } else {
            write!(f, "{all} {noun} in {file}")
        }
    }
}

/// The nearest of the known names, where one is near.
#[must_use]
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name_length = name.chars().count();
    let candidates = known.into_iter().filter(|known| !known.is_empty());
    let (distance, best) = candidates.map(|known| (strsim::osa_distance(name, known), known)).min()?;
    (distance <= (name_length / 3).max(1) && distance < best.chars().count()).then_some(best)
}

/// A known name that begins or ends the name, or the other way round.
fn related<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let long = |text: &str| text.chars().count() >= 4;
    let is_related = |known: &&str| {
        long(known) && (name.starts_with(known) || name.ends_with(known))
            || long(name) && (known.starts_with(name) || known.ends_with(name))
    };
    known.into_iter().filter(is_related).max_by_key(|known| known.len())
}

/// The known name that is most likely meant, where one is.
#[must_use]
pub(super) fn meant<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<&'a str> {
    nearest(name, known.clone()).or_else(|| related(name, known))
}

/// "did you mean", or the list of what is known.
#[must_use]
pub fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = meant(name, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let list: Vec<&str> = known.into_iter().take(40).collect();
    (!list.is_empty()).then(|| format!("known here: {}", list.join(", ")))
}
