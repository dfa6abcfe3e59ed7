//! YAML text to a tree in which every node knows its place.
//!
//! The parser is a library's; this module bounds what a document may cost (size, depth, nodes, aliases)
//! and keeps going after a duplicate key, so that all problems of a file can be told at once.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as YamlSpan};

use super::problem::{Sink, Span};

/// The largest scenario text.
pub(super) const MOST_BYTES: usize = 4 << 20;
/// The deepest nesting.
const MOST_DEPTH: usize = 64;
/// The most nodes, those that aliases repeat included.
const MOST_NODES: usize = 250_000;

/// A node and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands.
    pub span: Span,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A text or number; `plain` where it was written without quotes.
    Scalar {
        /// The text.
        text: Rc<str>,
        /// Whether it was unquoted.
        plain: bool,
    },
    /// A list.
    List(Rc<Vec<Node>>),
    /// A mapping, in the order of the file.
    Map(Rc<Vec<(Key, Node)>>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Its text.
    pub text: Rc<str>,
    /// Where it stands.
    pub span: Span,
}

impl Node {
    /// "a list", "a mapping" or "`text`", for messages.
    #[must_use]
    pub(super) fn kind(&self) -> String {
        match &self.value {
            Value::Scalar { text, .. } if text.is_empty() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", text.chars().take(40).collect::<String>()),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// Whether it is an empty unquoted scalar, `~` or `null`.
    #[must_use]
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(&**text, "" | "~" | "null"))
    }

    fn nodes(&self) -> usize {
        match &self.value {
            Value::Scalar { .. } => 1,
            Value::List(items) => 1 + items.iter().map(Self::nodes).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| 1 + node.nodes()).sum::<usize>(),
        }
    }
}

/// Parses one document whose first byte has the place `base`. `None` where it could not be read to its end; the
/// sink says why.
pub(super) fn parse(text: &str, base: usize, sink: &mut Sink) -> Option<Node> {
    let here = Span { start: base, length: 0 };
    if text.len() > MOST_BYTES {
        let message = format!("the scenario has {} bytes; at most 4 MiB (4,194,304) are read", text.len());
        sink.add_with_hint(here, message, "put data into CSV files; they are read apart");
        return None;
    }
    if let Some(at) = text.find('\0') {
        sink.add(here.part(at, 1), "there is a NUL byte in the text");
        return None;
    }
    let builder = Builder {
        places: Places::new(text, base),
        stack: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        root: None,
    };
    builder.build(text, sink)
}

struct Builder {
    places: Places,
    stack: Vec<Open>,
    /// Finished anchored nodes, and how many nodes each stands for.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

enum Open {
    List { items: Vec<Node>, anchor: usize, start: usize },
    Map { entries: Vec<(Key, Node)>, seen: HashSet<Rc<str>>, key: Option<Key>, anchor: usize, start: usize },
}

impl Builder {
    fn build(mut self, text: &str, sink: &mut Sink) -> Option<Node> {
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    let at = self.places.byte(error.marker().index());
                    let hint = hint_for(text, at);
                    let message = format!("this is not valid YAML: {}", error.info());
                    let span = Span { start: self.places.base + at, length: 1 };
                    match hint {
                        Some(hint) => sink.add_with_hint(span, message, hint),
                        None => sink.add(span, message),
                    }
                    return None;
                }
            };
            let span = self.places.span(&span);
            if let Event::DocumentStart(_) = event {
                documents += 1;
                if documents > 1 {
                    sink.add_with_hint(
                        span,
                        "a second document begins here",
                        "a scenario is one document; remove the `---`",
                    );
                    return None;
                }
            }
            if let Err(message) = self.take(event, span, sink) {
                sink.add(span, message);
                return None;
            }
        }
        if self.root.is_none() {
            sink.add_with_hint(
                Span { start: self.places.base, length: 0 },
                "the scenario is empty",
                "`loadgrid schema` tells what it may hold; see also scenarios/quickstart.yaml",
            );
        }
        self.root
    }

    fn take(&mut self, event: Event<'_>, span: Span, sink: &mut Sink) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if tag.is_some() {
                    sink.add_with_hint(span, "tags are not used in a scenario", "remove the `!…`");
                }
                let value =
                    Value::Scalar { text: Rc::from(&*text), plain: matches!(style, ScalarStyle::Plain) };
                self.close(Node { value, span }, anchor, 1, sink)
            }
            Event::Alias(anchor) => {
                let Some((node, nodes)) = self.anchors.get(&anchor).cloned() else {
                    return Err("this alias names an anchor that is not complete yet".to_owned());
                };
                self.close(Node { value: node.value, span: node.span }, 0, nodes, sink)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(Open::List { items: Vec::new(), anchor, start: span.start })
            }
            Event::MappingStart(anchor, _) => self.open(Open::Map {
                entries: Vec::new(),
                seen: HashSet::new(),
                key: None,
                anchor,
                start: span.start,
            }),
            Event::SequenceEnd | Event::MappingEnd => {
                let end = span.start;
                let (value, anchor, start) = match self.stack.pop() {
                    Some(Open::List { items, anchor, start }) => (Value::List(Rc::new(items)), anchor, start),
                    Some(Open::Map { entries, anchor, start, .. }) => {
                        (Value::Map(Rc::new(entries)), anchor, start)
                    }
                    None => return Err("the document ends too early".to_owned()),
                };
                let node = Node { value, span: Span { start, length: end.saturating_sub(start) } };
                let nodes = if anchor > 0 { node.nodes() } else { 1 };
                self.close(node, anchor, nodes, sink)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Result<(), String> {
        if self.stack.len() >= MOST_DEPTH {
            return Err(format!("nested deeper than {MOST_DEPTH} levels"));
        }
        self.stack.push(open);
        Ok(())
    }

    fn close(&mut self, node: Node, anchor: usize, nodes: usize, sink: &mut Sink) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MOST_NODES {
            return Err(format!("more than {MOST_NODES} values, those that aliases repeat included"));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, seen, key, .. }) => match key.take() {
                None => match node.value {
                    Value::Scalar { text, .. } => *key = Some(Key { text, span: node.span }),
                    Value::List(_) | Value::Map(_) => return Err(broken_key(&node)),
                },
                Some(key) if &*key.text == "<<" => {
                    sink.add_with_hint(
                        key.span,
                        "merge keys (`<<`) are not supported",
                        "use an alias for the whole value",
                    );
                }
                Some(key) => {
                    if seen.insert(key.text.clone()) {
                        entries.push((key, node));
                    } else {
                        sink.add(key.span, format!("the key `{}` stands here a second time", key.text));
                    }
                }
            },
        }
        Ok(())
    }
}

fn broken_key(node: &Node) -> String {
    let _ = node;
    "a list or mapping cannot be a key here; a value that holds `{`, `[` or `${` wants quotes".to_owned()
}

/// What to quote, where the line shows one of the usual slips of flow style.
fn hint_for(text: &str, at: usize) -> Option<String> {
    let at = (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at))?;
    let line_start = text[..at].rfind('\n').map_or(0, |i| i + 1);
    // The parser often stops on the line after the slip.
    let previous = text[..line_start.saturating_sub(1)].rfind('\n').map_or(0, |i| i + 1);
    let line_end = text[at..].find('\n').map_or(text.len(), |i| at + i);
    // Or on the line before it.
    let line_end = text[line_end..]
        .char_indices()
        .skip(1)
        .find(|(_, c)| *c == '\n')
        .map_or(text.len(), |(i, _)| line_end + i);
    for line in text[previous..line_end].lines() {
        let flow = line.contains('{') && line.contains('}') || line.contains('[');
        if line.contains("${") && flow && !line.contains("\"${") && !line.contains("'${") {
            return Some(
                "in `{ … }` and `[ … ]`, put a value that holds `${`, `,`, `[` or `{` into quotes".to_owned(),
            );
        }
        if line.contains('\t') {
            return Some("indent with spaces, not with tabs".to_owned());
        }
    }
    None
}

/// Character indices (the parser's) to byte offsets.
struct Places {
    /// Byte offset of each character; empty where all are ASCII.
    offsets: Vec<u32>,
    length: usize,
    /// The place of the text's first byte.
    base: usize,
}

impl Places {
    fn new(text: &str, base: usize) -> Self {
        let offsets = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(at, _)| u32::try_from(at).unwrap_or(u32::MAX)).collect()
        };
        Self { offsets, length: text.len(), base }
    }

    fn byte(&self, index: usize) -> usize {
        if self.offsets.is_empty() {
            return index.min(self.length);
        }
        self.offsets.get(index).map_or(self.length, |&at| at as usize)
    }

    fn span(&self, span: &YamlSpan) -> Span {
        let start = self.byte(span.start.index());
        Span { start: self.base + start, length: self.byte(span.end.index()).saturating_sub(start) }
    }
}
