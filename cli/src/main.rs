//! loadgrid: load tests that tell the truth. The one binary; see `verbs` for what it can do.

mod arguments;
mod connect;
mod files;
mod follow;
mod local;
mod output;
mod progress;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Arguments, Verb};
use crate::output::{Failure, report_failure};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    output::logs(arguments.verbose, arguments.quiet);
    // One TLS stack for everything in the process.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let code = match carry_out(arguments) {
        Ok(code) => code,
        Err(failure) => report_failure(&failure),
    };
    ExitCode::from(code)
}

fn carry_out(arguments: Arguments) -> Result<u8, Failure> {
    let quiet = arguments.quiet;
    match arguments.verb {
        Verb::Run(verb) => verbs::run::run(&verb, quiet),
        Verb::Submit(verb) => verbs::submit::submit(&verb, quiet),
        Verb::Coordinator(verb) => verbs::coordinator::coordinator(verb),
        Verb::Worker(verb) => verbs::worker::worker(verb),
        Verb::Demo(verb) => verbs::demo::demo(&verb),
        Verb::Validate(verb) => verbs::validate::validate(&verb),
        Verb::Plan(verb) => verbs::plan::plan(&verb),
        Verb::Schema => verbs::schema::schema(),
        Verb::Runs(verb) => verbs::runs::runs(&verb),
        Verb::Workers(verb) => verbs::workers::workers(&verb),
        Verb::Report(verb) => verbs::report::report(&verb),
        Verb::Stop(verb) => verbs::stop::stop(&verb),
    }
}
