//! `loadgrid demo`.

use loadgrid_coordinator::judge::ExitCode;
use loadgrid_demo::{DemoConfig, DemoError};

use crate::arguments::Demo;
use crate::output::{Failure, say};

pub(crate) fn demo(verb: &Demo) -> Result<u8, Failure> {
    let config = DemoConfig {
        listen: verb.listen,
        stall: verb.stall,
        latency: verb.latency,
        decline: verb.decline.unwrap_or(0.0),
        token_ttl: verb.token_ttl,
        ..DemoConfig::default()
    };
    let demo = loadgrid_demo::Demo::start(config).map_err(|error| {
        let is_listen = matches!(error, DemoError::Listen { .. });
        let failure = Failure::new(ExitCode::Internal, error);
        if is_listen {
            failure.hint("another process may use the port; choose one with --listen 127.0.0.1:PORT")
        } else {
            failure
        }
    })?;
    say(format_args!("demo on http://{}, its own count of requests at /truth", demo.address()));
    let runtime = super::runtime()?;
    runtime.block_on(super::told_to_end())?;
    demo.stop();
    Ok(0)
}
