//! A submission, followed to its end.

use std::path::Path;
use std::time::Duration;

use loadgrid_common::plan::Bundle;
use loadgrid_common::time::nanos;
use loadgrid_common::wire::PIECE_BYTES;
use loadgrid_common::wire::pb::{self, runs_client::RunsClient};
use loadgrid_coordinator::judge::ExitCode;
use loadgrid_coordinator::report::{self, Report};
use prost::Message as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::transport::Channel;

use crate::connect::refused;
use crate::output::{Failure, print, say, style, write_file};
use crate::progress::Progress;

/// How often a broken watch is taken up again, and for how long in all.
const WATCH_AGAIN: Duration = Duration::from_millis(500);
const WATCH_ATTEMPTS: u32 = 60;

/// How to submit.
pub(crate) struct Submission<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) expect_workers: u32,
    pub(crate) wait: Option<Duration>,
    /// For messages.
    pub(crate) address: &'a str,
}

/// Sends a bundle and returns the run's name.
pub(crate) async fn submit(
    client: &mut RunsClient<Channel>,
    submission: &Submission<'_>,
) -> Result<String, Failure> {
    let bytes = submission.bundle.encode_to_vec();
    let header = pb::SubmitHeader {
        expect_workers: submission.expect_workers,
        wait_ns: submission.wait.map_or(0, nanos),
        bundle_bytes: bytes.len() as u64,
    };
    let header = pb::SubmitPart { part: Some(pb::submit_part::Part::Header(header)) };
    let pieces: Vec<pb::SubmitPart> = bytes
        .chunks(PIECE_BYTES)
        .map(|piece| pb::SubmitPart { part: Some(pb::submit_part::Part::Bundle(piece.to_vec().into())) })
        .collect();
    let parts = tokio_stream::iter([header].into_iter().chain(pieces));
    let submitted = client.submit(parts).await.map_err(|status| refused(submission.address, &status))?;
    Ok(submitted.into_inner().run)
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let make = |kind| signal(kind).map_err(|error| Failure::new(ExitCode::Internal, error));
        Ok(Self { interrupt: make(SignalKind::interrupt())?, terminate: make(SignalKind::terminate())? })
    }

    /// Waits before the next attempt; a signal ends the wait, and all attempts.
    async fn pause(&mut self) -> Result<(), ()> {
        tokio::select! {
            () = self.next() => Err(()),
            () = tokio::time::sleep(WATCH_AGAIN) => Ok(()),
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Follows a run: shows progress, passes on Ctrl-C (first: finish what is under way; second: drop it), and
/// returns its exit code once its report can be asked for.
pub(crate) async fn follow(
    client: &mut RunsClient<Channel>,
    run: &str,
    address: &str,
    quiet: bool,
) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let mut progress = Progress::new(quiet);
    let mut interrupts = 0_u32;
    let mut attempts = 0;
    loop {
        let watch = pb::WatchRequest { run: run.to_owned() };
        let mut updates = match client.watch(watch).await {
            Ok(updates) => updates.into_inner(),
            Err(status) if attempts < WATCH_ATTEMPTS && status.code() != tonic::Code::NotFound => {
                attempts += 1;
                signals.pause().await.map_err(|()| gave_up(run))?;
                continue;
            }
            Err(status) => return Err(refused(address, &status)),
        };
        loop {
            let update = tokio::select! {
                update = updates.message() => update,
                () = signals.next() => {
                    interrupts += 1;
                    interrupt(client, run, interrupts).await;
                    continue;
                }
            };
            match update {
                Ok(Some(update)) => {
                    attempts = 0;
                    progress.show(&update);
                    if update.state() == pb::RunState::Ended {
                        progress.finish();
                        return Ok(u8::try_from(update.exit_code).unwrap_or(ExitCode::Internal.code()));
                    }
                }
                // The line broke, or the coordinator ended the stream early: take it up again.
                Ok(None) | Err(_) => break,
            }
        }
        attempts += 1;
        if attempts > WATCH_ATTEMPTS {
            let error = anyhow::anyhow!("the coordinator at {address} does not answer any more");
            return Err(Failure::new(ExitCode::Unreachable, error)
                .hint(format!("the run may go on; see `loadgrid report {run}` later")));
        }
        signals.pause().await.map_err(|()| gave_up(run))?;
    }
}

/// Ctrl-C while the coordinator does not answer.
fn gave_up(run: &str) -> Failure {
    let error = anyhow::anyhow!("interrupted while the coordinator did not answer");
    Failure::new(ExitCode::Interrupted, error)
        .hint(format!("the run may go on; see `loadgrid report {run}` later"))
}

async fn interrupt(client: &mut RunsClient<Channel>, run: &str, interrupts: u32) {
    let abort = interrupts > 1;
    say(if abort {
        "dropping what is under way"
    } else {
        "ending the run: what is under way may finish (again to drop it)"
    });
    let request = pb::StopRequest { run: run.to_owned(), abort, interrupted: true };
    if let Err(status) = client.stop(request).await {
        say(format_args!("the run could not be stopped: {}", status.message()));
    }
}

/// Fetches and prints a report, writes the files asked for, and gives the exit code.
pub(crate) async fn conclude(
    client: &mut RunsClient<Channel>,
    run: &str,
    address: &str,
    json: Option<&Path>,
    quiet: bool,
) -> Result<u8, Failure> {
    let reply = client
        .report(pb::ReportRequest { run: run.to_owned() })
        .await
        .map_err(|status| refused(address, &status))?;
    show(&reply.into_inner().json, json, quiet)
}

/// The exit code of a run: its report's, or, where there is none, what the coordinator said of it.
pub(crate) fn finish(code: u8, concluded: Result<u8, Failure>) -> Result<u8, Failure> {
    match concluded {
        Err(Failure::Other { error, hint, .. }) if code != 0 => {
            Err(Failure::Other { code: ExitCode::of(code), error, hint })
        }
        concluded => concluded,
    }
}

/// Prints a report from its JSON, writes the files asked for, and gives the exit code.
pub(crate) fn show(text: &str, json: Option<&Path>, quiet: bool) -> Result<u8, Failure> {
    let report: Report = serde_json::from_str(text).map_err(|error| {
        Failure::new(ExitCode::Internal, anyhow::Error::new(error).context("the report cannot be read"))
    })?;
    if report.format != report::FORMAT {
        let error = anyhow::anyhow!(
            "the report has format {}; this loadgrid knows {}",
            report.format,
            report::FORMAT
        );
        return Err(Failure::new(ExitCode::Internal, error));
    }
    if !quiet {
        print(report::text(&report, style()).trim_end());
    }
    if let Some(path) = json {
        let pretty =
            serde_json::to_vec_pretty(&report).map_err(|error| Failure::new(ExitCode::Internal, error))?;
        write_file(path, &pretty)?;
        if !quiet {
            say(format_args!("\nwritten: {}", path.display()));
        }
    }
    Ok(report.verdict.exit_code)
}
