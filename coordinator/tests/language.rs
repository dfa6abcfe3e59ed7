//! The language as a whole: every example of its page, every ready-made file, every key of the schema; broken texts are
//! refused by parser and schema alike, with the right line and a cure; no text, however mangled, harms the reader.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Files, Given, project, to_json};
use loadgrid_common::random::Draws;
use loadgrid_coordinator::scenario::{self, Loaded, Overrides, Problems};

/// A fenced block of the page: its kind, its text and its line.
struct Block {
    kind: String,
    text: String,
    line: usize,
}

fn blocks() -> Vec<Block> {
    let page = std::fs::read_to_string(project().join("docs/scenario.md")).unwrap();
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (number, line) in page.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) if info.starts_with("yaml") => {
                let kind = info.trim_start_matches("yaml").trim().to_owned();
                open = Some(Block { kind, text: String::new(), line: number + 2 });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// A block as a whole scenario: with what it leaves out around it.
fn whole(block: &Block) -> String {
    let has = |key: &str| block.text.lines().any(|line| line.starts_with(&format!("{key}:")));
    let mut text = String::new();
    match block.kind.as_str() {
        "" => return block.text.clone(),
        "top" => text.push_str(&block.text),
        "steps" => {
            text.push_str("vars:\n  region: eu\nsecrets:\n  admin_token:\n    file: signing.key\nflows:\n  browse:\n    - get: /browse\nsteps:\n");
            text.push_str(&indented(&block.text, 2));
            return format!("version: 1\ntarget: http://127.0.0.1:7800\n{text}load:\n  vus: 1\n  for: 1s\n");
        }
        "phases" => {
            text.push_str("users:\n  shopper:\n    loop:\n      - get: /\n  chatter:\n    loop:\n      - get: /chat\nphases:\n");
            text.push_str(&indented(&block.text, 2));
        }
        kind => panic!("line {}: what is `{kind}`?", block.line),
    }
    let mut before = "version: 1\n".to_owned();
    if !has("target") {
        before.push_str("target: http://127.0.0.1:7800\n");
    }
    let after = |keys: [&str; 2], text: &str| {
        if keys.iter().any(|key| has(key)) || block.kind == "phases" {
            String::new()
        } else {
            text.to_owned()
        }
    };
    let steps = after(["steps", "users"], "steps:\n  - get: /\n");
    let load = after(["load", "phases"], "load:\n  vus: 1\n  for: 1s\n");
    format!("{before}{text}{steps}{load}")
}

fn given() -> Given {
    let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let pem = |kind: &str| format!("-----BEGIN {kind}-----\nAA==\n-----END {kind}-----\n");
    Given {
        files: [
            file("data/accounts.csv", "email,password\na@x,1\n"),
            file("data/products.csv", "sku;popularity\n'a b';3\n# no row\nc;1\n"),
            file("data/codes.csv", "one\ntwo\n"),
            file("data/photo.jpg", "no picture"),
            file("signing.key", "k\n"),
            file("flows/common.yaml", "flows:\n  included:\n    - get: /included\n"),
            file("certs/ca.pem", &pem("CERTIFICATE")),
            file("certs/me.pem", &pem("CERTIFICATE")),
            file("certs/me.key", &pem("PRIVATE KEY")),
        ]
        .into(),
        environment: [("ADMIN_TOKEN".to_owned(), "t".to_owned())].into(),
    }
}

fn load(text: &str) -> Result<Loaded, Box<Problems>> {
    scenario::load("test.yaml", text, &given(), &Overrides::default())
}

fn schema() -> jsonschema::Validator {
    jsonschema::validator_for(&scenario::schema()).unwrap()
}

#[test]
fn every_example_of_the_page_is_valid() {
    let (validator, blocks) = (schema(), blocks());
    assert!(blocks.len() >= 18, "{} examples", blocks.len());
    for block in blocks {
        let text = whole(&block);
        if let Err(problems) = load(&text) {
            panic!("the example at docs/scenario.md:{}:\n{problems}\n{text}", block.line);
        }
        let json = to_json(&text);
        let wrong: Vec<String> =
            validator.iter_errors(&json).map(|error| format!("{error} at {}", error.instance_path)).collect();
        assert!(
            wrong.is_empty(),
            "the schema refuses the example at docs/scenario.md:{}: {wrong:?}",
            block.line
        );
        assert!(!block.text.contains("{ "), "line {}: examples are in block style", block.line);
    }
}

#[test]
fn every_ready_made_scenario_is_valid() {
    let validator = schema();
    let directory = project().join("scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let files = Files(directory.clone());
        for profile in profiles(&text) {
            let overrides = Overrides { profile, ..Overrides::default() };
            scenario::load(&path.display().to_string(), &text, &files, &overrides)
                .unwrap_or_else(|problems| panic!("{problems}"));
        }
        let json = to_json(&text);
        let wrong: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
        seen += 1;
    }
    assert!(seen >= 2);
}

/// None, and every profile of a scenario.
fn profiles(text: &str) -> Vec<Option<String>> {
    let json = to_json(text);
    let names = json["profiles"].as_object().into_iter().flat_map(|profiles| profiles.keys().cloned());
    [None].into_iter().chain(names.map(Some)).collect()
}

#[test]
fn every_key_has_an_example_and_an_explanation() {
    let schema = scenario::schema();
    let examples: String = blocks().iter().map(|block| block.text.clone()).collect();
    let words: BTreeSet<&str> = examples
        .lines()
        .filter_map(|line| line.trim_start().trim_start_matches("- ").split_once(':'))
        .map(|(key, _)| key.trim())
        .collect();
    let mut missing = Vec::new();
    let mut check = |name: &str, part: &serde_json::Value| {
        for (key, of) in part["properties"].as_object().into_iter().flatten() {
            let explained = of["description"].as_str().is_some_and(|text| text.len() > 5);
            if !words.contains(key.as_str()) || !explained {
                missing.push(format!("{name}.{key}{}", if explained { "" } else { " (no description)" }));
            }
        }
    };
    check("Document", &schema);
    for (name, part) in schema["$defs"].as_object().unwrap() {
        check(name, part);
    }
    // `exactly` is what a bare number stands for.
    missing.retain(|key| key != "Amount.exactly");
    assert!(missing.is_empty(), "without example or description: {missing:?}");
}

/// One of everything, in block style, on lines of their own: what the mutations below start from.
fn good() -> String {
    let shop = std::fs::read_to_string(project().join("scenarios/shop.yaml")).unwrap();
    let flows = std::fs::read_to_string(project().join("scenarios/flows/shop.yaml")).unwrap();
    let flows = flows.split_once("flows:").unwrap().1;
    let shop = shop.replace("include:\n  - flows/shop.yaml\n", "");
    format!("{shop}flows:{flows}")
}

fn load_shop(text: &str) -> Result<Loaded, Box<Problems>> {
    let files = Files(project().join("scenarios"));
    scenario::load("shop.yaml", text, &files, &Overrides::default())
}

#[test]
fn thirty_broken_scenarios_are_refused_by_parser_and_schema() {
    let (validator, good) = (schema(), good());
    assert!(load_shop(&good).is_ok() && validator.is_valid(&to_json(&good)));
    let broken = [
        ("version: 1", "version: one"),
        ("target: http://127.0.0.1:7800", "traget: http://127.0.0.1:7800"),
        ("  get: /api/health", "  put: /api/health"),
        ("  within: 20s", "  within: 20"),
        ("      rows: 900", "      rows: many"),
        ("      pick: random\n      weight", "      pick: often\n      weight"),
        ("      pick: sequential", "      pick: [ sequential ]"),
        ("    connect: 2s", "    connect: two seconds"),
        ("    bearer: ${token}", "    barer: ${token}"),
        ("      expect:\n        status: 204\n\nusers", "      expect:\n        status: 999\n\nusers"),
        ("      - choose:", "      - chose:"),
        ("          - weight: 6", "          - weigth: 6"),
        ("            do:\n              - call: browse", "            then:\n              - call: browse"),
        ("          between:\n            - 20ms", "          betwixt:\n            - 20ms"),
        ("            - 20ms\n", "            - soon\n"),
        ("    record: false", "    record: maybe"),
        ("              batch: 5", "              batches: 5"),
        ("      - constant-vus:", "      - constant-users:"),
        ("          rate: 30/s", "          rate: 30"),
        ("    settle: 500ms", "    settle: half a second"),
        ("          every: 3s\n", ""),
        ("          iterations: 50", "          iterations: -50"),
        ("    when: manual", "    when: sometimes"),
        ("    abort: true", "    abort: \"yes\""),
        ("    grace: 1s", "    graze: 1s"),
        ("          within: 5s", "          within: {}"),
        ("              contains: json", "              containz: json"),
        ("              type: number", "              type: figure"),
        ("            pick: random\n            optional", "            pick: any\n            optional"),
        ("        required: true", "        required: 1"),
        ("          max: 2\n", ""),
        ("                rate: 500/s", "                rate: 0.5/s"),
        ("                per: step", "                per: minute"),
    ];
    assert!(broken.len() >= 30);
    for (from, to) in broken {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "`{from}` is not there");
        assert!(load_shop(&text).is_err(), "the parser takes `{to}`");
        assert!(!validator.is_valid(&to_json(&text)), "the schema takes `{to}`");
    }
}

/// A mistake made in one line: the text with it, and the lines where it may be told.
struct Mutant {
    text: String,
    lines: std::ops::RangeInclusive<usize>,
    what: String,
}

/// Every mistake of a list that fits a line.
fn mutants(good: &str) -> Vec<Mutant> {
    let lines: Vec<&str> = good.lines().collect();
    let keys: BTreeSet<String> = known_keys();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let number = at + 1;
        let mut push = |new: String, lines_of: std::ops::RangeInclusive<usize>, what: &str| {
            let mut text: Vec<&str> = lines.clone();
            text[at] = &new;
            let what = format!("{what}: `{}` for `{}`", new.trim(), line.trim());
            found.push(Mutant { text: text.join("\n") + "\n", lines: lines_of, what });
        };
        let body = content.trim_start_matches("- ");
        let indent = &line[..line.len() - body.len()];
        if let Some((key, rest)) = body.split_once(':') {
            if keys.contains(key) && key.len() > 3 {
                let mut letters: Vec<char> = key.chars().collect();
                letters.swap(1, 2);
                let typo: String = letters.into_iter().collect();
                if typo != key {
                    push(format!("{indent}{typo}:{rest}"), number..=number, "a key mistyped");
                }
                push(format!("{indent}{key}{key}:{rest}"), number..=number, "a key doubled");
            }
            let value = rest.trim();
            let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '/');
            let unit = &value[digits.len()..];
            let is_quantity = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit());
            if is_quantity && !unit.is_empty() {
                push(format!("{indent}{key}: {digits}"), number..=number, "a unit left out");
                push(format!("{indent}{key}: {digits}parsecs"), number..=number, "a unit nobody knows");
            }
            if is_quantity && unit.is_empty() && key != "version" && !key.starts_with('$') {
                push(format!("{indent}{key}: several"), number..=number, "a word for a number");
            }
            if matches!(value, "true" | "false") {
                push(format!("{indent}{key}: perhaps"), number..=number, "a word for true or false");
            }
            if key == "status" {
                push(format!("{indent}{key}: 2000"), number..=number, "a status nobody has");
            }
            if key == "user" {
                push(format!("{indent}{key}: {value}s"), number..=number, "a user type nobody declared");
            }
            if key == "call" {
                push(format!("{indent}{key}: {value}x"), number..=number, "a flow nobody declared");
            }
            if key == "continues" {
                push(format!("{indent}{key}: nobody"), number..=number, "a phase that is not there");
            }
            if key == "matches" {
                push(format!("{indent}{key}: '(['"), number..=number, "a broken pattern");
            }
            if value.starts_with('/') && matches!(key, "url" | "get" | "post" | "put") {
                push(format!("{indent}{key}: {}", value.trim_start_matches('/')), number..=number, "no path");
            }
            if key.starts_with("$.") {
                push(format!("{indent}$..[:{rest}"), number..=number, "a broken JSONPath");
            }
        }
        if let Some(place) = line.find("${") {
            push(line.replacen('}', "", 1), number..=number, "a hole left open");
            let (before, after) = line.split_at(place + 2);
            push(format!("{before}zz{after}"), number..=number, "a name nobody knows");
            push(
                format!("{before}{after}").replacen('}', " | shout}", 1),
                number..=number,
                "a filter nobody knows",
            );
        }
        if content.contains("response_time") {
            push(line.replacen("response_time", "responze_time", 1), number..=number, "a metric mistyped");
            push(line.replacen("p95", "p950", 1), number..=number, "a statistic nobody has");
        }
        if content.contains("rate(failed)") {
            push(line.replacen('<', "~", 1), number..=number, "no comparison");
            push(line.replacen('%', "", 1), number..=number, "no share");
        }
        if line.len() - content.len() >= 2 {
            push(format!("\t{content}"), number.saturating_sub(1)..=number + 1, "a tab");
        }
    }
    found
}

/// Every key of the schema.
fn known_keys() -> BTreeSet<String> {
    let schema = scenario::schema();
    let of = |part: &serde_json::Value| -> Vec<String> {
        part["properties"].as_object().map(|keys| keys.keys().cloned().collect()).unwrap_or_default()
    };
    let parts = schema["$defs"].as_object().unwrap().values().flat_map(of);
    of(&schema).into_iter().chain(parts).collect()
}

#[test]
fn a_hundred_mistakes_are_told_on_their_line_with_a_cure() {
    let good = good();
    let all = mutants(&good);
    let broken: Vec<(&Mutant, Box<Problems>)> =
        all.iter().filter_map(|mutant| Some((mutant, load_shop(&mutant.text).err()?))).collect();
    assert!(broken.len() >= 200, "{} of {} mutants are broken", broken.len(), all.len());
    // A hundred of them, spread over the file and over the kinds of mistake.
    let step = broken.len() as f64 / 100.0;
    let (mut right, mut wrong) = (0, Vec::new());
    for n in 0..100 {
        let (mutant, problems) = &broken[(f64::from(n) * step) as usize];
        let first = &problems.list[0];
        let (_, _, line, _) = problems.position(first.span.start);
        let has_cure = first.hint.as_ref().is_some_and(|hint| !hint.is_empty())
            || ["did you mean", "; use ", "; write ", "at most"]
                .iter()
                .any(|words| first.message.contains(words));
        if mutant.lines.contains(&line) && has_cure {
            right += 1;
        } else {
            wrong.push(format!("{} (lines {:?}):\n{problems}", mutant.what, mutant.lines));
        }
    }
    println!("{right} of 100, out of {} broken texts; the others:\n{}", broken.len(), wrong.join("\n\n"));
    assert!(right >= 95, "{right} of 100\n{}", wrong.join("\n\n"));
}

/// Mangles a text in one of several ways.
fn mangle(text: &str, draws: &mut Draws) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let at = |draws: &mut Draws, length: usize| draws.below(length.max(1) as u64) as usize;
    for _ in 0..1 + draws.below(6) {
        let place = at(draws, chars.len());
        match draws.below(8) {
            0 => drop(chars.drain(place..(place + at(draws, 40)).min(chars.len()))),
            1 => {
                let odd: Vec<char> =
                    "{}[]:,#&*!|>'\"%@`$\\\t\n\r -?~\u{0}é\u{1F600}\u{feff}".chars().collect();
                chars.insert(place, odd[at(draws, odd.len())]);
            }
            2 => {
                let from = at(draws, chars.len());
                let copy: Vec<char> = chars[from..(from + at(draws, 200)).min(chars.len())].to_vec();
                chars.splice(place..place, copy);
            }
            3 => {
                let other = at(draws, chars.len());
                if place < chars.len() && other < chars.len() {
                    chars.swap(place, other);
                }
            }
            4 => chars.truncate(place.max(1)),
            5 => {
                let digits = "99999999999999999999".chars();
                chars.splice(place..place, digits);
            }
            6 => {
                let nested = "[".repeat(at(draws, 80)).chars().collect::<Vec<_>>();
                chars.splice(place..place, nested);
            }
            _ => {
                let words = [
                    "${", "}", "<<: *a", "&a ", "*a", "!!str ", "---\n", "- ", "? ", "x-a: ", "${vars.", "'",
                    ": ",
                ];
                chars.splice(place..place, words[at(draws, words.len())].chars());
            }
        }
    }
    chars.into_iter().collect()
}

/// The most memory this process ever held, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

#[test]
fn no_mangled_text_harms_the_reader() {
    // The long form is the contract; the short one finds what is grossly wrong.
    let long = std::env::var_os("LOADGRID_LONG").is_some();
    let count: u64 = if long { 100_000 } else { 3_000 };
    let good = good();
    let blocks: Vec<String> = blocks().iter().map(whole).collect();
    drop(load_shop(&good));
    let before = peak_memory();
    let (mut slowest, mut refused) = (Duration::ZERO, 0_u64);
    let files = Files(Path::new("/nonexistent").to_owned());
    for seed in 0..count {
        let mut draws = Draws::keyed(&[seed, 0xF0]);
        let from = draws.below(blocks.len() as u64 + 2) as usize;
        let text = mangle(blocks.get(from).unwrap_or(&good), &mut draws);
        let began = Instant::now();
        let loaded = std::panic::catch_unwind(|| {
            let loaded = match from < blocks.len() {
                true => load(&text),
                false => scenario::load("mangled.yaml", &text, &files, &Overrides::default()),
            };
            loaded.map(drop).map_err(|problems| problems.to_string())
        });
        slowest = slowest.max(began.elapsed());
        match loaded {
            Ok(Ok(())) => {}
            Ok(Err(told)) => {
                assert!(told.contains("error: "), "seed {seed}");
                refused += 1;
            }
            Err(_) => panic!("seed {seed} panics on:\n{text}"),
        }
    }
    let grown = peak_memory().saturating_sub(before);
    println!(
        "{count} mangled texts: {refused} refused, slowest {slowest:?}, memory grew by {} MB",
        grown >> 20
    );
    assert!(refused > count / 2);
    // Timings belong in benchmarks; this bound is what a person would notice.
    assert!(slowest < Duration::from_millis(if long { 200 } else { 2_000 }), "{slowest:?}");
    assert!(grown < 64 << 20, "{} MB", grown >> 20);
}
