//! What tests of scenarios share.

#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use loadgrid_coordinator::scenario::Resolver;

/// The project's directory.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Files of a directory, as the command reads them.
pub struct Files(pub PathBuf);

impl Resolver for Files {
    fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn read_file(&self, path: &str) -> Result<Vec<u8>, String> {
        std::fs::read(self.0.join(path)).map_err(|error| error.to_string())
    }
}

/// Files and variables that a test gives.
pub struct Given {
    /// Contents by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
}

impl Resolver for Given {
    fn environment(&self) -> BTreeMap<String, String> {
        self.environment.clone()
    }

    fn read_file(&self, path: &str) -> Result<Vec<u8>, String> {
        self.files.get(path).cloned().ok_or_else(|| "No such file or directory".to_owned())
    }
}

/// YAML to JSON for the schema's sake: the test's own reading, by the core rules.
pub fn to_json(text: &str) -> serde_json::Value {
    use saphyr_parser::{Event, Parser, ScalarStyle};
    enum Open {
        List(usize, Vec<serde_json::Value>),
        Map(usize, serde_json::Map<String, serde_json::Value>, Option<String>),
    }
    let (mut stack, mut root, mut anchors) = (Vec::<Open>::new(), serde_json::Value::Null, BTreeMap::new());
    for event in Parser::new_from_str(text) {
        let (value, anchor) = match event.unwrap().0 {
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                let parsed = serde_json::from_str(&text)
                    .ok()
                    .filter(|value: &serde_json::Value| plain && !value.is_string());
                (parsed.unwrap_or_else(|| text.into()), anchor)
            }
            Event::Alias(anchor) => (serde_json::Value::clone(&anchors[&anchor]), 0),
            Event::SequenceStart(anchor, _) => {
                stack.push(Open::List(anchor, Vec::new()));
                continue;
            }
            Event::MappingStart(anchor, _) => {
                stack.push(Open::Map(anchor, serde_json::Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop().unwrap() {
                Open::List(anchor, items) => (items.into(), anchor),
                Open::Map(anchor, entries, _) => (entries.into(), anchor),
            },
            _ => continue,
        };
        anchors.insert(anchor, value.clone());
        match stack.last_mut() {
            None => root = value,
            Some(Open::List(_, items)) => items.push(value),
            Some(Open::Map(_, entries, key)) => match key.take() {
                None => *key = Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
                Some(key) => drop(entries.insert(key, value)),
            },
        }
    }
    root
}
