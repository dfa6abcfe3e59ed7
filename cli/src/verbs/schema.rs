//! `loadgrid schema`.

use anyhow::Context as _;

use crate::output::{Failure, print};

pub(crate) fn schema() -> Result<u8, Failure> {
    let schema = serde_json::to_string_pretty(&loadgrid_coordinator::scenario::schema())
        .context("the schema cannot be written")?;
    print(schema);
    Ok(0)
}
