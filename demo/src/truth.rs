//! The demo's own count of what reached it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

/// Requests by route and status. The lock guards one map and is held for one addition.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    counts: Mutex<BTreeMap<(String, u16), u64>>,
}

impl Truth {
    /// Counts an answer to `METHOD /route`.
    pub(crate) fn count(&self, route: &str, status: u16) {
        let mut counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match counts.get_mut(&(route.to_owned(), status)) {
            Some(count) => *count += 1,
            None => drop(counts.insert((route.to_owned(), status), 1)),
        }
    }

    /// `{ "requests": N, "routes": { "GET /api/products": { "200": N } } }`.
    pub(crate) fn to_json(&self) -> Value {
        let counts = self.counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut routes = BTreeMap::<&str, BTreeMap<String, u64>>::new();
        for ((route, status), count) in counts.iter() {
            routes.entry(route).or_default().insert(status.to_string(), *count);
        }
        json!({ "requests": counts.values().sum::<u64>(), "routes": routes })
    }
}
