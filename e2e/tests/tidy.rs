//! House rules that no linter knows.

use std::path::{Path, PathBuf};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![project().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{directory} has no sources");
    found
}

/// The code of a file, without its tests and comments.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What does I/O, spawns, waits or reads a clock.
const IMPURE: &[&str] = &[
    "tokio::",
    "tokio_",
    "tonic::",
    "axum::",
    "reqwest::",
    "rusqlite::",
    "hyper",
    "jiff",
    "async ",
    "await",
    "Instant",
    "SystemTime",
    "boot_now",
    "process::",
    "std::fs",
    "TcpStream",
    "UdpSocket",
    "to_socket_addrs",
    "std::env",
    "std::thread",
    "spawn",
];

#[test]
fn the_cores_are_pure() {
    let cores = [
        "coordinator/src/run",
        "coordinator/src/fleet",
        "coordinator/src/ingest",
        "coordinator/src/judge",
        "coordinator/src/report",
        "coordinator/src/scenario",
        "common/src/schedule",
        "common/src/stats",
        "common/src/expression",
    ];
    let mut files: Vec<(PathBuf, String)> = cores.iter().flat_map(|directory| sources(directory)).collect();
    for file in [
        "coordinator/src/hub/core.rs",
        "coordinator/src/hub/live.rs",
        "worker/src/session/core.rs",
        "worker/src/session/clock.rs",
        "worker/src/session/outbox.rs",
        "worker/src/session/backoff.rs",
        "common/src/random.rs",
        "common/src/units.rs",
        "common/src/plan.rs",
        "common/src/time.rs",
        "common/src/lease.rs",
        "common/src/id.rs",
        "common/src/targets.rs",
    ] {
        files.push((project().join(file), std::fs::read_to_string(project().join(file)).expect(file)));
    }
    // Two functions of expressions tell the time; nothing else in that room does.
    files.retain(|(path, _)| !path.ends_with("common/src/expression/clock.rs"));
    for (path, text) in files {
        let code = code(&text);
        for word in IMPURE {
            assert!(!code.contains(word), "{} is a core and must not name `{word}`", path.display());
        }
    }
}

#[test]
fn the_two_sides_do_not_know_each_other() {
    for (directory, other) in [
        ("coordinator/src", "loadgrid_worker"),
        ("worker/src", "loadgrid_coordinator"),
        ("demo/src", "loadgrid_common"),
    ] {
        for (path, text) in sources(directory) {
            assert!(!text.contains(other), "{} names {other}", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_is_about() {
    for directory in ["common/src", "coordinator/src", "worker/src", "cli/src", "demo/src", "e2e"] {
        for (path, text) in sources(directory) {
            assert!(
                text.starts_with("//! "),
                "{} does not begin with a sentence about itself",
                path.display()
            );
        }
    }
}

#[test]
fn no_public_name_says_nothing() {
    for directory in ["common/src", "coordinator/src", "worker/src", "cli/src"] {
        for (path, text) in sources(directory) {
            for line in text
                .lines()
                .filter(|line| line.contains("struct ") || line.contains("enum ") || line.contains("trait "))
            {
                let name = line
                    .split(
                        ["struct ", "enum ", "trait "]
                            .map(|w| if line.contains(w) { w } else { "\0" })
                            .iter()
                            .find(|w| **w != "\0")
                            .expect("one of them"),
                    )
                    .nth(1);
                let name: String =
                    name.unwrap_or_default().chars().take_while(char::is_ascii_alphanumeric).collect();
                for word in ["Manager", "Helper", "Util", "Wrapper", "Impl"] {
                    assert!(!name.ends_with(word), "{}: `{name}`", path.display());
                }
            }
        }
    }
}

#[test]
fn the_glossary_and_the_exit_codes_are_in_the_documents() {
    let readme = std::fs::read_to_string(project().join("README.md")).expect("README.md");
    for (code, _) in loadgrid_coordinator::judge::ExitCode::ALL {
        let number = code.code().to_string();
        assert!(readme.contains(&number), "exit code {number} is not in README.md");
    }
    let glossary = std::fs::read_to_string(project().join("docs/glossary.md")).expect("docs/glossary.md");
    for word in [
        "scenario",
        "plan",
        "virtual user",
        "arrival",
        "exchange",
        "response time",
        "service time",
        "lateness",
        "epoch",
        "lease",
        "seal",
    ] {
        assert!(glossary.contains(word), "`{word}` is not in the glossary");
    }
}
