//! `loadgrid validate`.

use loadgrid_coordinator::judge::ExitCode;

use crate::arguments::Validate;
use crate::files;
use crate::output::{Failure, print, report_failure};

pub(crate) fn validate(verb: &Validate) -> Result<u8, Failure> {
    let mut code = ExitCode::Passed.code();
    for file in &verb.files {
        match files::load(file, &verb.overrides) {
            Ok(_) => print(format_args!("{}: valid", file.display())),
            Err(failure) => code = report_failure(&failure),
        }
    }
    Ok(code)
}
