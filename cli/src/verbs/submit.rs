//! `loadgrid submit`: a scenario to a coordinator.

use crate::arguments::Submit;
use crate::follow::{Submission, conclude, finish, follow, submit as send};
use crate::output::{Failure, print, say};
use crate::{connect, files};

pub(crate) fn submit(verb: &Submit, quiet: bool) -> Result<u8, Failure> {
    let loaded = files::load(&verb.file, &verb.overrides)?;
    let endpoint = connect::endpoint(&verb.coordinator)?;
    let runtime = super::runtime()?;
    runtime.block_on(async {
        let mut client = connect::client(endpoint.connect_lazy());
        let submission = Submission {
            bundle: &loaded.bundle,
            expect_workers: verb.expect_workers,
            wait: verb.wait,
            address: &verb.coordinator,
        };
        let run = send(&mut client, &submission).await?;
        if !verb.watch {
            print(&run);
            return Ok(0);
        }
        if !quiet {
            say(format_args!("run {run}"));
        }
        let code = follow(&mut client, &run, &verb.coordinator, quiet).await?;
        finish(code, conclude(&mut client, &run, &verb.coordinator, verb.json.as_deref(), quiet).await)
    })
}
