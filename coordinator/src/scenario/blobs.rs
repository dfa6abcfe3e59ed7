//! Files that travel beside the plan: bodies, certificates. Each is read once and named by its content.

use std::collections::BTreeMap;

use loadgrid_common::plan;
use sha2::{Digest as _, Sha256};

use super::decode::Text;
use super::problem::Sink;
use super::{MOST_BUNDLE_BYTES, Resolver};

/// The files read so far.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    hashes: BTreeMap<String, String>,
    contents: BTreeMap<String, Vec<u8>>,
    bytes: usize,
}

impl Blobs {
    /// Reads a file, or tells why not; gives its hash.
    pub(super) fn read(&mut self, resolver: &dyn Resolver, file: &Text, sink: &mut Sink) -> Option<String> {
        if let Some(hash) = self.hashes.get(&file.value) {
            return Some(hash.clone());
        }
        let content = read_file(resolver, file, sink)?;
        self.bytes += content.len();
        if self.bytes > MOST_BUNDLE_BYTES {
            sink.add(file.span, "with this file the scenario's files have more than 256 MiB");
            return None;
        }
        let hash = hash_of(&content);
        self.hashes.insert(file.value.clone(), hash.clone());
        self.contents.insert(hash.clone(), content);
        Some(hash)
    }

    /// As [`Self::read`], for a PEM file that must hold a block of this kind.
    pub(super) fn read_pem(
        &mut self,
        resolver: &dyn Resolver,
        file: &Text,
        kind: &str,
        sink: &mut Sink,
    ) -> Option<String> {
        let hash = self.read(resolver, file, sink)?;
        let content = self.contents.get(&hash)?;
        is_pem(content, file, kind, sink).then_some(hash)
    }

    /// Everything that was read, by hash.
    pub(super) fn finish(self) -> Vec<plan::Blob> {
        let blobs = self.contents.into_iter();
        blobs.map(|(hash, content)| plan::Blob { hash, content: content.into() }).collect()
    }
}

/// Whether a file holds a PEM block of a kind; tells where not.
pub(super) fn is_pem(content: &[u8], file: &Text, kind: &str, sink: &mut Sink) -> bool {
    let text = String::from_utf8_lossy(content);
    let found = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(kind));
    if !found {
        let message = format!("`{}` holds no PEM block `{kind}`", file.value);
        sink.add_with_hint(file.span, message, "a PEM file has lines such as -----BEGIN CERTIFICATE-----");
    }
    found
}

/// Reads a file that a scenario names; tells where that fails.
pub(super) fn read_file(resolver: &dyn Resolver, file: &Text, sink: &mut Sink) -> Option<Vec<u8>> {
    match resolver.read_file(&file.value) {
        Ok(content) => Some(content),
        Err(message) => {
            let message = format!("`{}` cannot be read: {message}", file.value);
            sink.add_with_hint(file.span, message, "the path is relative to the scenario file");
            None
        }
    }
}

/// The SHA-256 of a content, in hex.
pub(super) fn hash_of(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
