//! A secret is in clear only in memory: it is sent to the target, and stands nowhere else.

use std::path::Path;

use loadgrid_e2e::{Grid, Witness, run_local};

const SECRET: &str = "s3cr3t-canary-0123456789";

fn files(directory: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap_or_default()));
        }
    }
}

#[test]
fn a_secret_reaches_the_target_and_nothing_else() {
    let witness = Witness::start();
    let grid = Grid::start(1);
    let scenario = format!(
        "version: 1\ntarget: {}\nsecrets: {{ key: {{ env: SHOP_KEY }} }}\nsteps: [ get: {{ url: /, headers: {{ x-key: \"${{secrets.key}}\" }} }} ]\nload: {{ vus: 1, for: 300ms }}\n",
        witness.target
    );
    let finished = grid.run(&scenario, &["-e", &format!("SHOP_KEY={SECRET}"), "-vv"]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    let seen = witness.seen();
    assert!(
        seen.iter().all(|seen| seen.headers.iter().any(|(name, value)| name == "x-key" && value == SECRET)),
        "the target gets it"
    );
    let mut artefacts = Vec::new();
    files(grid.directory(), &mut artefacts);
    assert!(artefacts.iter().any(|(name, _)| name.ends_with("runs.db")), "the store is looked at");
    artefacts.push(("stdout".to_owned(), finished.stdout.into_bytes()));
    artefacts.push(("stderr".to_owned(), finished.stderr.into_bytes()));
    artefacts.push(("coordinator".to_owned(), grid.coordinator.log().into_bytes()));
    artefacts.push(("worker".to_owned(), grid.workers[0].log().into_bytes()));
    for (name, bytes) in artefacts {
        let holds = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!holds, "the secret stands in {name}");
    }
}

#[test]
fn a_secret_that_stands_with_the_coordinator_is_used_and_not_sent_there() {
    let witness = Witness::start();
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("shop-key"), format!("{SECRET}\n")).expect("a secret");
    let scenario = |name: &str| {
        format!(
            "version: 1\ntarget: {}\nsecrets: {{ key: {{ store: {name} }} }}\nsteps: [ get: {{ url: /, headers: {{ x-key: \"${{secrets.key}}\" }} }} ]\nload: {{ vus: 1, for: 300ms }}\n",
            witness.target
        )
    };
    let secrets = directory.path().display().to_string();
    let finished = run_local(&scenario("shop-key"), &["--secrets", &secrets]);
    assert_eq!(finished.code, 0, "{}\n{}", finished.stdout, finished.stderr);
    assert!(witness.seen().iter().all(|seen| seen.header("x-key") == SECRET));
    assert!(!finished.stdout.contains(SECRET) && !finished.stderr.contains(SECRET));
    for (name, words) in [("nobody", "is not here"), ("../shop-key", "cannot name a secret")] {
        let finished = run_local(&scenario(name), &["--secrets", &secrets]);
        assert!(finished.code != 0 && finished.stderr.contains(words), "{name}: {}", finished.stderr);
    }
    let finished = run_local(&scenario("shop-key"), &[]);
    assert!(finished.code != 0 && finished.stderr.contains("--secrets"), "{}", finished.stderr);
}
