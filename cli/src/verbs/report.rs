//! `loadgrid report`.

use std::path::Path;

use anyhow::Context as _;

use crate::arguments::Report;
use crate::output::Failure;
use crate::{connect, follow};

pub(crate) fn report(verb: &Report) -> Result<u8, Failure> {
    let path = Path::new(&verb.run);
    let json = verb.json.as_deref();
    let shown = if path.is_file() {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        follow::show(&text, json, false)
    } else {
        let address = &verb.connect.coordinator;
        let endpoint = connect::endpoint(address)?;
        super::runtime()?.block_on(async {
            let mut client = connect::client(endpoint.connect_lazy());
            follow::conclude(&mut client, &verb.run, address, json, false).await
        })
    };
    // Printing a report is a success, whatever the report says.
    shown.map(|_| 0)
}
