//! A coordinator and its workers as processes; the demo; submissions.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::binary::loadgrid;
use crate::process::{Child, free_port};

/// Time enough for any run of a test, on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// A coordinator and workers, each a process.
pub struct Grid {
    /// Where the coordinator listens.
    pub address: String,
    /// The coordinator.
    pub coordinator: Child,
    /// The workers, by number.
    pub workers: Vec<Child>,
    directory: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
    /// The report it wrote, where it wrote one.
    pub report: Value,
}

impl Finished {
    /// A number of the report, by JSON pointer.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn number(&self, pointer: &str) -> u64 {
        self.report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| {
            panic!("no number at {pointer} in {:#}\n{}\n{}", self.report, self.stdout, self.stderr)
        })
    }
}

impl Grid {
    /// Starts a coordinator and `workers` workers with one load thread each.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn start(workers: usize) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = format!("127.0.0.1:{}", free_port());
        let data = directory.path().join("data").display().to_string();
        let coordinator =
            Child::start("coordinator", &loadgrid(), &["coordinator", "--listen", &address, "--data", &data]);
        coordinator.wait_for_log("coordinator on");
        let mut grid = Self { address, coordinator, workers: Vec::new(), directory };
        (1..=workers).for_each(|number| grid.add_worker(&format!("w{number}")));
        grid
    }

    /// Where the coordinator's data and the scenarios are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts one more worker.
    pub fn add_worker(&mut self, name: &str) {
        let arguments = ["worker", "--coordinator", &self.address, "--name", name, "--threads", "1"];
        self.workers.push(Child::start(name, &loadgrid(), &arguments));
    }

    /// Begins `submit --watch` of a scenario.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn submit(&self, scenario: &str, more: &[&str]) -> (Child, std::path::PathBuf) {
        let file = self.directory.path().join(format!("scenario-{}.yaml", free_port()));
        let json = file.with_extension("json");
        std::fs::write(&file, scenario).expect("the scenario is written");
        let (file, json_text) = (file.display().to_string(), json.display().to_string());
        let expect = self.workers.len().to_string();
        let expect = if more.contains(&"--expect-workers") { None } else { Some(expect) };
        let mut arguments =
            vec!["submit", &file, "--coordinator", &self.address, "--watch", "--json", &json_text];
        arguments.extend(expect.iter().flat_map(|count| ["--expect-workers", count.as_str()]));
        arguments.extend(more);
        (Child::start("submit", &loadgrid(), &arguments), json)
    }

    /// Submits a scenario and waits for its end.
    #[must_use]
    pub fn run(&self, scenario: &str, more: &[&str]) -> Finished {
        let (child, json) = self.submit(scenario, more);
        finish(child, &json)
    }
}

/// Waits for a command's end and reads its report.
pub(crate) fn finish(child: Child, json: &Path) -> Finished {
    let (status, stdout, stderr) = child.wait(LIMIT);
    let report =
        std::fs::read(json).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null);
    Finished { code: status.code().unwrap_or(-1), stdout, stderr, report }
}

impl Grid {
    /// Waits for a submission's end.
    #[must_use]
    pub fn finish(child: Child, json: &Path) -> Finished {
        finish(child, json)
    }
}

/// `loadgrid run` of a scenario, to its end.
#[must_use]
pub fn run_local(scenario: &str, more: &[&str]) -> Finished {
    run_with_files(scenario, &[], more)
}

/// As [`run_local`], with files beside the scenario.
///
/// # Panics
/// Where it cannot be started.
#[must_use]
pub fn run_with_files(scenario: &str, files: &[(&str, &[u8])], more: &[&str]) -> Finished {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(directory.path())).expect("a directory");
        std::fs::write(path, content).expect("a file is written");
    }
    let file = directory.path().join("scenario.yaml");
    let json = directory.path().join("report.json");
    std::fs::write(&file, scenario).expect("the scenario is written");
    let (file, json_text) = (file.display().to_string(), json.display().to_string());
    let mut arguments = vec!["run", &file, "--json", &json_text];
    arguments.extend(more);
    finish(Child::start("run", &loadgrid(), &arguments), &json)
}

/// The demo as a process.
pub struct Demo {
    /// Its address, with `http://`.
    pub target: String,
    _child: Child,
}

impl Demo {
    /// Starts it with switches.
    #[must_use]
    pub fn start(switches: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let mut arguments = vec!["demo", "--listen", &address];
        arguments.extend(switches);
        let child = Child::start("demo", &loadgrid(), &arguments);
        child.wait_for_log("demo on");
        Self { target: format!("http://{address}"), _child: child }
    }
}

/// What a demo says that it saw.
///
/// # Panics
/// Where it does not answer.
#[must_use]
pub fn truth(target: &str) -> Value {
    let address = target.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).expect("the demo listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    write!(stream, "GET /truth HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    let body = body.find('{').and_then(|begin| body.get(begin..=body.rfind('}')?)).unwrap_or_default();
    serde_json::from_str(body).expect("the truth is JSON")
}
