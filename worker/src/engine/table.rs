//! Rows of data, shared by all users of a process.

use loadgrid_common::expression::Value;

/// The rows of one CSV table.
#[derive(Debug)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a data table cannot be read")]
pub struct TableError(#[from] csv::Error);

impl Table {
    /// Reads CSV whose first line names the columns.
    ///
    /// # Errors
    /// Where it is no CSV.
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        let mut reader = csv::Reader::from_reader(bytes);
        let columns = reader.headers()?.iter().map(str::to_owned).collect();
        let rows = reader
            .records()
            .map(|record| Ok(record?.iter().map(Value::from).collect()))
            .collect::<Result<_, csv::Error>>()?;
        Ok(Self { columns, rows })
    }

    /// A row as expressions see it; `None` past the last one.
    #[must_use]
    pub fn row(&self, index: u64) -> Option<Value> {
        let row = self.rows.get(usize::try_from(index).ok()?)?;
        Some(Value::from_pairs(self.columns.iter().cloned().zip(row.iter().cloned())))
    }
}
