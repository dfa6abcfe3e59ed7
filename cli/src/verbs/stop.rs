//! `loadgrid stop`.

use loadgrid_common::wire::pb::StopRequest;
use loadgrid_coordinator::judge::ExitCode;

use crate::arguments::Stop;
use crate::connect;
use crate::output::{Failure, say};

pub(crate) fn stop(verb: &Stop) -> Result<u8, Failure> {
    let address = &verb.connect.coordinator;
    let endpoint = connect::endpoint(address)?;
    let reply = super::runtime()?.block_on(async {
        let mut client = connect::client(endpoint.connect_lazy());
        let request = StopRequest { run: verb.run.clone(), abort: verb.abort, interrupted: false };
        client.stop(request).await.map_err(|status| connect::refused(address, &status))
    })?;
    if reply.into_inner().was_live {
        say("the run is ending");
        return Ok(0);
    }
    let error = anyhow::anyhow!("no live run is called `{}`", verb.run);
    Err(Failure::new(ExitCode::Usage, error).hint("`loadgrid runs` lists the runs"))
}
