//! Rows of data, shared by all users of a process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use loadgrid_common::expression::Value;

/// The rows of one CSV table.
#[derive(Debug)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
    /// Sums of the weights up to each row; empty where all rows are alike.
    weights: Vec<f64>,
}

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a data table cannot be read")]
pub struct TableError(#[from] csv::Error);

/// Tables that some run of this process uses, by key: in-process workers share them.
static SHARED: Mutex<BTreeMap<String, Weak<Table>>> = Mutex::new(BTreeMap::new());

impl Table {
    /// The table with this hash and weights: the one that is there, or one read from `bytes`.
    ///
    /// # Errors
    /// Where it is no CSV.
    pub fn shared(hash: &str, bytes: &[u8], weight_column: &str) -> Result<Arc<Self>, TableError> {
        let key = Self::key(hash, weight_column);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, table| table.strong_count() > 0);
        if let Some(table) = shared.get(&key).and_then(Weak::upgrade) {
            return Ok(table);
        }
        let table = Arc::new(Self::parse(bytes, weight_column)?);
        shared.insert(key, Arc::downgrade(&table));
        Ok(table)
    }

    /// Reads CSV whose first line names the columns; `weight_column` weights random picks, where it is one of them.
    ///
    /// # Errors
    /// Where it is no CSV.
    pub fn parse(bytes: &[u8], weight_column: &str) -> Result<Self, TableError> {
        let mut reader = csv::Reader::from_reader(bytes);
        let columns: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
        let rows: Vec<Vec<Value>> = reader
            .records()
            .map(|record| Ok(record?.iter().map(Value::from).collect()))
            .collect::<Result<_, csv::Error>>()?;
        let mut weights = Vec::new();
        if let Some(column) = columns.iter().position(|column| column == weight_column) {
            let mut sum = 0.0;
            for row in &rows {
                let text = row.get(column).and_then(Value::as_str).unwrap_or_default();
                sum += text.trim().parse::<f64>().unwrap_or(0.0).max(0.0);
                weights.push(sum);
            }
        }
        Ok(Self { columns, rows, weights })
    }

    /// Under which name a table with weights stands in [`super::Program::compile`].
    #[must_use]
    pub fn key(hash: &str, weight_column: &str) -> String {
        format!("{hash} {weight_column}")
    }

    /// How many rows there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether rows have weights.
    #[must_use]
    pub const fn is_weighted(&self) -> bool {
        !self.weights.is_empty()
    }

    /// The row at a share of all weights, in `[0, 1)`.
    #[must_use]
    pub fn weighted(&self, share: f64) -> u64 {
        let all = self.weights.last().copied().unwrap_or(0.0);
        let place = self.weights.partition_point(|sum| *sum <= share * all);
        place.min(self.rows.len().saturating_sub(1)) as u64
    }

    /// A row as expressions see it; `None` past the last one.
    #[must_use]
    pub fn row(&self, index: u64) -> Option<Value> {
        let row = self.rows.get(usize::try_from(index).ok()?)?;
        Some(Value::from_pairs(self.columns.iter().cloned().zip(row.iter().cloned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_by_their_weight() {
        let table = Table::parse(b"sku,w\na,1\nb,0\nc,3\n", "w").unwrap();
        assert!(table.is_weighted() && table.len() == 3);
        let rows: Vec<u64> = (0..8).map(|n| table.weighted(f64::from(n) / 8.0)).collect();
        assert_eq!(rows, [0, 0, 2, 2, 2, 2, 2, 2], "never a row without weight");
        assert!(!Table::parse(b"sku\na\n", "").unwrap().is_weighted());
    }
}
