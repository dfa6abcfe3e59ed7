//! Scenarios from the file system: the only place that opens what a scenario names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use loadgrid_coordinator::judge::ExitCode;
use loadgrid_coordinator::scenario::{self, LoadOverrides, Loaded, PhaseChoice, Resolver};

use crate::arguments::Overrides;
use crate::output::Failure;

/// Files beside the scenario, and the environment of the command.
struct Files {
    directory: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Resolver for Files {
    fn environment(&self) -> BTreeMap<String, String> {
        self.environment.clone()
    }

    fn read_file(&self, path: &str) -> Result<Vec<u8>, String> {
        std::fs::read(self.directory.join(path)).map_err(|error| error.to_string())
    }
}

/// Reads a scenario with what the command line changes.
pub(crate) fn load(file: &Path, overrides: &Overrides) -> Result<Loaded, Failure> {
    let bytes = std::fs::read(file)
        .with_context(|| format!("cannot read the scenario {}", file.display()))
        .map_err(|error| {
        Failure::new(ExitCode::Scenario, error)
            .hint("give the path of a YAML file, for example scenarios/quickstart.yaml")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        Failure::new(
            ExitCode::Scenario,
            anyhow::anyhow!("the scenario {} is not UTF-8 text: {error}", file.display()),
        )
    })?;
    let mut environment: BTreeMap<String, String> = std::env::vars().collect();
    environment.extend(overrides.env.iter().cloned());
    let directory = file.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let changes = scenario::Overrides {
        vars: overrides.vars.clone(),
        target: overrides.target.clone(),
        seed: overrides.seed,
        profile: overrides.profile.clone(),
        phases: PhaseChoice { with: overrides.with.clone(), only: overrides.only.clone() },
        load: LoadOverrides { vus: overrides.vus, duration: overrides.duration, rate: overrides.rate },
    };
    Ok(scenario::load(&file.display().to_string(), &text, &Files { directory, environment }, &changes)?)
}
