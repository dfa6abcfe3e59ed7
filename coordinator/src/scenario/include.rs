//! Files that a scenario includes: their flows, data and vars become its own.

use super::Resolver;
use super::decode::{Decode as _, Mapped, Name};
use super::document::{Document, Included};
use super::problem::{Sink, SourceText, Span};
use super::tree::{self, Node};

/// The most files that one scenario includes.
const MOST_FILES: usize = 50;

/// Reads the included files into the document, in their order. Vars of included files come before the
/// scenario's own, so that those may use them. Returns their trees, and adds their texts for the places of problems.
pub(super) fn read(
    document: &mut Document,
    resolver: &dyn Resolver,
    texts: &mut Vec<SourceText>,
    sink: &mut Sink,
) -> Vec<Node> {
    let files = document.include.take().unwrap_or_default();
    let mut trees = Vec::new();
    let mut vars = Mapped::default();
    for (number, file) in files.iter().enumerate() {
        if files[..number].iter().any(|before| before.value == file.value) {
            let message = format!("`{}` is included a second time", file.value);
            sink.add_with_hint(file.span, message, "remove it here");
            continue;
        }
        if number >= MOST_FILES {
            sink.add(file.span, "a scenario includes at most 50 files");
            break;
        }
        let Some(content) = super::blobs::read_file(resolver, file, sink) else { continue };
        let Ok(text) = String::from_utf8(content) else {
            let message = format!("`{}` is not UTF-8 text", file.value);
            sink.add_with_hint(file.span, message, "save it as UTF-8");
            continue;
        };
        let base = texts.last().map_or(0, SourceText::end);
        let parsed = tree::parse(&text, base, sink);
        texts.push(SourceText { name: file.value.clone(), text, base });
        let Some(tree) = parsed else { continue };
        if let Some(included) = Included::decode(&tree, sink) {
            let doubled = [
                ("var", vars.add(included.vars.unwrap_or_default())),
                ("data source", document.data.get_or_insert_default().add(included.data.unwrap_or_default())),
                ("flow", document.flows.get_or_insert_default().add(included.flows.unwrap_or_default())),
            ];
            doubled.iter().for_each(|(what, names)| tell(what, names, sink));
        }
        trees.push(tree);
    }
    if let Some(own) = document.vars.take() {
        let doubled = vars.add(own);
        tell("var", &doubled, sink);
    }
    document.vars = Some(vars);
    if !trees.is_empty() && texts.iter().map(|text| text.text.len()).sum::<usize>() > tree::MOST_BYTES {
        let span = files.first().map_or(Span::default(), |file| file.span);
        sink.add(span, "with what it includes the scenario has more than 4 MiB");
    }
    trees
}

fn tell(what: &str, names: &[Name], sink: &mut Sink) {
    for name in names {
        let message = format!("there is a {what} `{}` already", name.0.value);
        sink.add_with_hint(name.0.span, message, "it stands in the scenario or in another included file");
    }
}
