//! Every command of the README does what it says there.

use std::path::Path;
use std::time::Duration;

use loadgrid_e2e::{Child, free_port, loadgrid};

/// The lines of the README's `sh` blocks.
fn commands(readme: &str) -> Vec<String> {
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(str::to_owned).filter(|line| !line.trim().is_empty()).collect()
}

#[test]
fn the_commands_of_the_readme_work() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let readme = std::fs::read_to_string(project.join("README.md")).expect("README.md");
    let directory = tempfile::tempdir().expect("a directory");
    let (coordinator, demo) = (free_port().to_string(), free_port().to_string());
    // The demo's port stands in the scenario, too.
    let scenario = directory.path().join("quickstart.yaml");
    let text = std::fs::read_to_string(project.join("scenarios/quickstart.yaml")).expect("the quickstart");
    std::fs::write(&scenario, text.replace("7800", &demo)).expect("a scenario");
    let data = directory.path().join("data").display().to_string();
    let report = directory.path().join("report.json");

    let mut background = Vec::new();
    let mut seen = Vec::new();
    for command in commands(&readme) {
        let command = command
            .replace("7400", &coordinator)
            .replace("7800", &demo)
            .replace("scenarios/quickstart.yaml", &scenario.display().to_string())
            .replace("report.json", &report.display().to_string())
            .replace("cargo run --release -- ", "loadgrid ");
        let mut words: Vec<&str> = command.split_whitespace().collect();
        if words == ["scripts/test"] {
            assert!(project.join("scripts/test").is_file(), "this very test is run by it");
            continue;
        }
        assert_eq!(words.remove(0), "loadgrid", "{command}");
        let verb = words[0].to_owned();
        if verb == "coordinator" {
            words.extend(["--data", &data]);
        }
        let child = Child::start(&command, &loadgrid(), &words);
        match verb.as_str() {
            "coordinator" | "demo" | "worker" => {
                child.wait_for_log(&format!("{verb} "));
                background.push(child);
            }
            _ => {
                let (status, stdout, log) = child.wait(Duration::from_secs(120));
                assert!(status.success(), "{command}:\n{stdout}\n{log}");
                match verb.as_str() {
                    "run" | "submit" => assert!(
                        stdout.contains("PASSED  quickstart") && stdout.contains("ledger closes"),
                        "{stdout}"
                    ),
                    "workers" => assert!(stdout.contains("first") && stdout.contains("second"), "{stdout}"),
                    "runs" => assert!(stdout.contains("passed") && stdout.contains("quickstart"), "{stdout}"),
                    other => panic!("the README shows `{other}`, which this test does not know"),
                }
            }
        }
        seen.push(verb);
    }
    assert!(report.is_file(), "the JSON report is written");
    assert_eq!(seen, ["run", "demo", "coordinator", "worker", "worker", "submit", "workers", "runs"]);

    // The small scenario, with the demo of before.
    let block = readme
        .split("```yaml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a scenario in the README");
    let small = directory.path().join("small.yaml");
    std::fs::write(&small, block.replace("7800", &demo).replace("10s", "1s")).expect("a scenario");
    let (status, stdout, log) = Child::start("small", &loadgrid(), &["run", &small.display().to_string()])
        .wait(Duration::from_secs(60));
    assert!(status.success(), "{stdout}\n{log}");
}

#[test]
fn the_ready_made_shop_passes_against_the_demo() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let shop = project.join("scenarios/shop.yaml").display().to_string();
    let (status, stdout, log) =
        Child::start("shop", &loadgrid(), &["run", &shop, "--demo"]).wait(Duration::from_secs(120));
    assert!(status.success() && stdout.contains("ledger closes"), "{stdout}\n{log}");
    let (status, stdout, log) =
        Child::start("rush", &loadgrid(), &["run", &shop, "--demo", "--only", "rush"])
            .wait(Duration::from_secs(60));
    assert!(status.success(), "{stdout}\n{log}");
    assert!(stdout.contains("Phase rush") && !stdout.contains("Phase turns"), "{stdout}");
}
