//! What is printed, and where: data to stdout, everything else to stderr.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};

use loadgrid_coordinator::judge::ExitCode;
use loadgrid_coordinator::report::Style;
use loadgrid_coordinator::scenario::Problems;

/// Why a command ends without a result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The scenario is wrong.
    Scenario(Box<Problems>),
    /// Anything else, with its exit code and a cure.
    Other { code: ExitCode, error: anyhow::Error, hint: Option<String> },
}

impl Failure {
    pub(crate) fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self::Other { code, error: error.into(), hint: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Other { code, error, .. } => Self::Other { code, error, hint: Some(hint.into()) },
            scenario @ Self::Scenario(_) => scenario,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(ExitCode::Internal, error)
    }
}

impl From<Box<Problems>> for Failure {
    fn from(problems: Box<Problems>) -> Self {
        Self::Scenario(problems)
    }
}

/// Prints to stderr; a closed stderr is nobody's failure.
pub(crate) fn say(text: impl fmt::Display) {
    let mut stderr = anstream::stderr().lock();
    if writeln!(stderr, "{text}").is_err() {
        tracing::debug!("stderr is closed");
    }
}

/// Prints data to stdout. A reader that went away (`| head`) has had enough.
pub(crate) fn print(text: impl fmt::Display) {
    let mut stdout = anstream::stdout().lock();
    if writeln!(stdout, "{text}").is_err() {
        tracing::debug!("stdout is closed");
    }
}

/// Whether the report may be coloured.
pub(crate) fn style() -> Style {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stdout().is_terminal() && !no_colour { Style::Colour } else { Style::Plain }
}

/// Prints a failure, its whole chain once, and gives its exit code.
pub(crate) fn report_failure(failure: &Failure) -> u8 {
    match failure {
        Failure::Scenario(problems) => {
            say(problems);
            ExitCode::Scenario.code()
        }
        Failure::Other { code, error, hint } => {
            say(format_args!("error: {error:#}"));
            if let Some(hint) = hint {
                say(format_args!("  help: {hint}"));
            }
            code.code()
        }
    }
}

/// Prints help, version or a usage error.
pub(crate) fn usage(error: &clap::Error) -> std::process::ExitCode {
    if error.print().is_err() {
        tracing::debug!("the terminal is closed");
    }
    let code = if error.use_stderr() { ExitCode::Usage.code() } else { 0 };
    std::process::ExitCode::from(code)
}

/// Sets up logs on stderr: what an operator asked for, more with -v, or as `LOADGRID_LOG` says.
pub(crate) fn logs(verbose: u8, quiet: bool) {
    use tracing_subscriber::EnvFilter;
    let default = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "warn,loadgrid=info,loadgrid_coordinator=info,loadgrid_worker=info,loadgrid_demo=info",
        (false, _) => "info,loadgrid=debug,loadgrid_coordinator=debug,loadgrid_worker=debug",
    };
    let filter = EnvFilter::try_from_env("LOADGRID_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}

/// Writes a file, whole or not at all.
pub(crate) fn write_file(path: &std::path::Path, bytes: &[u8]) -> Result<(), Failure> {
    use anyhow::Context as _;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or_else(|| std::path::Path::new("."));
    let written = tempfile::NamedTempFile::new_in(directory).and_then(|mut file| {
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(drop).with_context(|| format!("cannot write {}", path.display())).map_err(Failure::from)
}
