//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use loadgrid_common::units::{Rate, parse_duration, parse_rate};

const AFTER: &str = "\
Start here:  loadgrid run scenarios/quickstart.yaml --demo
Five machines:  loadgrid coordinator, loadgrid worker on each, loadgrid submit FILE --watch
Exit codes:  0 passed · 2 usage · 99 thresholds failed · 103 stopped · 104 scenario invalid · 105 interrupted
  107 scenario failed while it ran · 111 result not valid · 112 not enough workers · 113 no coordinator";

/// Load tests that tell the truth, on one machine or many.
#[derive(Debug, Parser)]
#[command(name = "loadgrid", version, after_help = AFTER, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// Say more on stderr (-vv: much more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress and no report; only the exit code and the files asked for
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a scenario on this machine, with workers in this process
    Run(Run),
    /// Check a scenario and tell all its problems
    Validate(Validate),
    /// Show what a scenario will do: phases, arrivals, users, shares
    Plan(Plan),
    /// Print the JSON Schema of scenarios, for editors
    Schema,
    /// Run the demo backend that scenarios/ are written for
    Demo(Demo),
    /// Start a coordinator: workers and submissions come to it
    Coordinator(Coordinator),
    /// Start a worker: it dials the coordinator and generates load
    Worker(Worker),
    /// Send a scenario to a coordinator
    Submit(Submit),
    /// List the runs of a coordinator
    Runs(Connect),
    /// List the workers of a coordinator
    Workers(Connect),
    /// Print the report of an ended run, or of a JSON file
    Report(Report),
    /// End a live run: let what is under way finish, or drop it
    Stop(Stop),
}

fn key_value(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .ok_or_else(|| format!("`{text}` is not NAME=VALUE"))
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// `100/s`; a bare number is per second, as in k6 and oha.
fn rate(text: &str) -> Result<Rate, String> {
    let text = if text.contains('/') { text.to_owned() } else { format!("{text}/s") };
    parse_rate(&text).map_err(|error| error.to_string())
}

/// What the command line changes in a scenario.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Overrides {
    /// Set a variable of the environment, as ${env.NAME} sees it
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    /// Set a var of the scenario
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = key_value)]
    pub(crate) vars: Vec<(String, String)>,
    /// Send the load there instead
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<String>,
    /// Virtual users of the scenario's only load (max_vus, where it has a rate)
    #[arg(short = 'u', long, value_name = "N")]
    pub(crate) vus: Option<u64>,
    /// Duration of the scenario's only load
    #[arg(short = 'd', long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Arrival rate of the scenario's only load, for example 200/s
    #[arg(short = 'r', long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<Rate>,
    /// Seed of all randomness
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Take the values that a profile of the scenario gives its vars
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Carry out a phase that is `when: manual`, too (again for more)
    #[arg(long, value_name = "PHASE")]
    pub(crate) with: Vec<String>,
    /// Carry out only this phase, and what it continues (again for more)
    #[arg(long, value_name = "PHASE")]
    pub(crate) only: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The scenario
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Workers in this process
    #[arg(long, value_name = "N", default_value = "2")]
    pub(crate) workers: NonZeroU32,
    /// Load threads of each worker; cores ÷ workers where absent
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroU32>,
    /// Start the demo on a free port and send the load there
    #[arg(long)]
    pub(crate) demo: bool,
    /// Where the secrets are that a scenario names with `store`, one file each
    #[arg(long, value_name = "DIR", env = "LOADGRID_SECRETS")]
    pub(crate) secrets: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The scenarios
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The scenario
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// How many workers to plan for
    #[arg(long, value_name = "N", default_value = "2")]
    pub(crate) workers: NonZeroU32,
    /// Load threads of each worker
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) threads: NonZeroU32,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7800", env = "LOADGRID_DEMO_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Freeze it whole, again and again: every=5s,for=1s
    #[arg(long, value_name = "SPEC", value_parser = loadgrid_demo::parse_stall)]
    pub(crate) stall: Option<loadgrid_demo::Stall>,
    /// Delay its answers: lognormal(5ms,p99=40ms)
    #[arg(long, value_name = "SPEC", value_parser = loadgrid_demo::parse_latency)]
    pub(crate) latency: Option<loadgrid_demo::Latency>,
    /// Decline a share of card payments: 5%
    #[arg(long, value_name = "SHARE", value_parser = loadgrid_demo::parse_percent)]
    pub(crate) decline: Option<f64>,
    /// How long its tokens are valid
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "15m")]
    pub(crate) token_ttl: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Coordinator {
    /// Where workers and clients connect; only loopback addresses, so far
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", env = "LOADGRID_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Where runs are kept; your data directory where absent
    #[arg(long, value_name = "DIR", env = "LOADGRID_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// Host or network that may be sent load, beside this machine itself (again for more)
    #[arg(long, value_name = "HOST")]
    pub(crate) allow_target: Vec<String>,
    /// Where the secrets are that scenarios name with `store`, one file each
    #[arg(long, value_name = "DIR", env = "LOADGRID_SECRETS")]
    pub(crate) secrets: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// The coordinator
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", env = "LOADGRID_COORDINATOR")]
    pub(crate) coordinator: String,
    /// Its name in the grid; host name and process number where absent
    #[arg(long, value_name = "NAME", env = "LOADGRID_NAME")]
    pub(crate) name: Option<String>,
    /// Load threads; the number of cores where absent
    #[arg(long, value_name = "N", env = "LOADGRID_THREADS")]
    pub(crate) threads: Option<NonZeroU32>,
    /// Narrow the hosts that this worker may send load to (again for more)
    #[arg(long, value_name = "HOST")]
    pub(crate) allow_target: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The scenario
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The coordinator
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", env = "LOADGRID_COORDINATOR")]
    pub(crate) coordinator: String,
    /// Follow the run to its end and print the report; Ctrl-C ends the run
    #[arg(long)]
    pub(crate) watch: bool,
    /// Begin only when so many workers are there
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) expect_workers: u32,
    /// How long to wait for them; as the scenario says where absent
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    #[command(flatten)]
    pub(crate) overrides: Overrides,
    /// Write the report as JSON (with --watch)
    #[arg(long, value_name = "FILE", requires = "watch")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// The coordinator
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", env = "LOADGRID_COORDINATOR")]
    pub(crate) coordinator: String,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// A run (the beginning of its name is enough), or a JSON report
    #[arg(value_name = "RUN|FILE")]
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// The run (the beginning of its name is enough)
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
    /// Drop what is under way
    #[arg(long)]
    pub(crate) abort: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
}
