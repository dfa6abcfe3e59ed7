//! `loadgrid runs`.

use std::time::Duration;

use loadgrid_common::units::show_duration;
use loadgrid_common::wire::pb::ListRequest;

use crate::arguments::Connect;
use crate::connect;
use crate::output::{Failure, print};

pub(crate) fn runs(verb: &Connect) -> Result<u8, Failure> {
    let endpoint = connect::endpoint(&verb.coordinator)?;
    let list = super::runtime()?.block_on(async {
        let mut client = connect::client(endpoint.connect_lazy());
        client.list(ListRequest {}).await.map_err(|status| connect::refused(&verb.coordinator, &status))
    })?;
    print(format_args!(
        "{:36}  {:24}  {:10}  {:>4}  {:>8}  scenario",
        "run", "started", "state", "exit", "length"
    ));
    for run in list.into_inner().runs {
        let length = show_duration(Duration::from_secs(run.duration_ns / 1_000_000_000));
        let started: String = run.started_at.chars().take(19).collect();
        let exit = if run.state == "live" { "-".to_owned() } else { run.exit_code.to_string() };
        print(format_args!(
            "{:36}  {started:24}  {:10}  {exit:>4}  {length:>8}  {}",
            run.run, run.state, run.scenario
        ));
    }
    Ok(0)
}
