//! What clients ask.

use std::pin::Pin;
use std::time::Duration;

use loadgrid_common::id::RunId;
use loadgrid_common::plan;
use loadgrid_common::wire::pb::{self, runs_server::Runs};
use prost::Message as _;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::hub::{Gone, Hub, Submission, SubmitError};
use crate::scenario::MOST_BUNDLE_BYTES;
use crate::store::StoreError;

pub(super) struct RunsService {
    pub(super) hub: Hub,
    pub(super) stop: CancellationToken,
}

/// The longest wait for the next piece of a bundle.
const PIECE_LIMIT: Duration = Duration::from_secs(30);

fn closing(_: Gone) -> Status {
    Status::unavailable("the coordinator is shutting down")
}

fn store_failed(error: &StoreError) -> Status {
    tracing::error!(%error, "the store failed");
    Status::internal(error.to_string())
}

#[tonic::async_trait]
impl Runs for RunsService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::RunUpdate, Status>> + Send>>;

    async fn submit(
        &self,
        request: Request<Streaming<pb::SubmitPart>>,
    ) -> Result<Response<pb::Submitted>, Status> {
        let mut parts = request.into_inner();
        let mut header = None;
        let mut bytes = Vec::new();
        loop {
            let part = tokio::time::timeout(PIECE_LIMIT, parts.message()).await;
            let part = part.map_err(|_| Status::deadline_exceeded("the bundle stopped coming"))??;
            match part.and_then(|part| part.part) {
                None => break,
                Some(pb::submit_part::Part::Header(first)) => header = Some(first),
                Some(pb::submit_part::Part::Bundle(piece)) => {
                    if bytes.len() + piece.len() > MOST_BUNDLE_BYTES {
                        return Err(Status::resource_exhausted("a bundle has at most 256 MiB"));
                    }
                    bytes.extend_from_slice(&piece);
                }
            }
        }
        let header = header.ok_or_else(|| Status::invalid_argument("a submission begins with its header"))?;
        let bundle = plan::Bundle::decode(bytes.as_slice())
            .map_err(|_| Status::invalid_argument("the bundle cannot be read"))?;
        let wait = (header.wait_ns > 0).then(|| Duration::from_nanos(header.wait_ns));
        let submission = Submission { bundle, expect_workers: header.expect_workers, wait };
        match self.hub.submit(submission).await {
            Ok(run) => Ok(Response::new(pb::Submitted { run: run.to_string() })),
            Err(error) => Err(match &error {
                SubmitError::Busy(_) => Status::failed_precondition(error.to_string()),
                SubmitError::Plan(_) => Status::invalid_argument(error.to_string()),
                SubmitError::NotAllowed { .. } => Status::permission_denied(error.to_string()),
                SubmitError::Secret { .. } => Status::failed_precondition(error.to_string()),
                SubmitError::Store(_) => Status::internal(error.to_string()),
                SubmitError::Closing => Status::unavailable(error.to_string()),
            }),
        }
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let wanted = request.into_inner().run;
        let views = self.hub.views();
        let is_newest = views.borrow().as_ref().is_some_and(|view| view.run.as_str().starts_with(&wanted));
        if !is_newest {
            let runs = self.hub.store().list().await.map_err(|error| store_failed(&error))?;
            let run = runs.into_iter().find(|run| run.run.as_str().starts_with(&wanted));
            let run = run.ok_or_else(|| Status::not_found(format!("there is no run `{wanted}`")))?;
            let update = pb::RunUpdate {
                run: run.run.to_string(),
                scenario: run.scenario,
                state: pb::RunState::Ended.into(),
                exit_code: run.exit_code.unwrap_or(111).into(),
                note: if run.exit_code.is_none() {
                    "the coordinator stopped while it was live".to_owned()
                } else {
                    String::new()
                },
                ..Default::default()
            };
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(update)))));
        }
        let mut over = false;
        let stop = self.stop.clone();
        let updates = WatchStream::new(views)
            .filter_map(|view| view)
            .take_while(move |view| {
                let goes_on = !over && view.run.as_str().starts_with(&wanted) && !stop.is_cancelled();
                over = view.exit_code.is_some();
                goes_on
            })
            .map(|view| Ok(view.to_wire()));
        Ok(Response::new(Box::pin(updates)))
    }

    async fn list(&self, _: Request<pb::ListRequest>) -> Result<Response<pb::RunList>, Status> {
        let runs = self.hub.store().list().await.map_err(|error| store_failed(&error))?;
        let runs = runs.into_iter().map(|run| pb::RunSummary {
            run: run.run.to_string(),
            scenario: run.scenario,
            started_at: run.started_at,
            state: run.state,
            exit_code: run.exit_code.unwrap_or_default().into(),
            duration_ns: run.duration_ns,
        });
        Ok(Response::new(pb::RunList { runs: runs.collect() }))
    }

    async fn stop(&self, request: Request<pb::StopRequest>) -> Result<Response<pb::StopReply>, Status> {
        let request = request.into_inner();
        let was_live = self
            .hub
            .stop(RunId::from(request.run), request.interrupted, request.abort)
            .await
            .map_err(closing)?;
        Ok(Response::new(pb::StopReply { was_live }))
    }

    async fn report(&self, request: Request<pb::ReportRequest>) -> Result<Response<pb::ReportReply>, Status> {
        let wanted = request.into_inner().run;
        let report = self
            .hub
            .store()
            .report(RunId::from(wanted.as_str()))
            .await
            .map_err(|error| store_failed(&error))?;
        match report {
            Some(json) => Ok(Response::new(pb::ReportReply { json })),
            None => Err(Status::not_found(format!("there is no report of a run `{wanted}` (yet)"))),
        }
    }

    async fn workers(&self, _: Request<pb::WorkersRequest>) -> Result<Response<pb::WorkerList>, Status> {
        let workers = self.hub.workers().await.map_err(closing)?;
        Ok(Response::new(pb::WorkerList { workers }))
    }
}
