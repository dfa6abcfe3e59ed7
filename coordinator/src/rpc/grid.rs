//! A worker's session: words to the hub, orders to the worker.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use loadgrid_common::id::{Incarnation, WorkerId};
use loadgrid_common::wire::pb::{self, from_worker::Message as Word, grid_server::Grid};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use crate::hub::{Hub, Message};

/// Orders that may wait for one worker; see `hub::Orders`.
const ORDERS: usize = 256;
/// The longest wait for a hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct GridService {
    pub(super) hub: Hub,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

static SESSIONS: AtomicU64 = AtomicU64::new(1);

#[tonic::async_trait]
impl Grid for GridService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<pb::FromCoordinator, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::FromWorker>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut words = request.into_inner();
        let first = tokio::time::timeout(HELLO_LIMIT, words.message()).await;
        let hello = match first {
            Ok(Ok(Some(pb::FromWorker { message: Some(Word::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => return Err(Status::invalid_argument("a session begins with a hello")),
            Ok(Err(status)) => return Err(status),
            Err(_) => return Err(Status::deadline_exceeded("no hello came")),
        };
        let (worker, incarnation) = (WorkerId::from(hello.worker.as_str()), Incarnation(hello.incarnation));
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let (orders, outgoing) = mpsc::channel::<pb::FromCoordinator>(ORDERS);
        let (reply, answer) = oneshot::channel();
        let closing = || Status::unavailable("the coordinator is shutting down");
        self.hub.tell(Message::Opened { hello, orders, session, reply }).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?.map_err(|refusal| match refusal {
            // Its own earlier life may hold the name; it may come again.
            crate::fleet::Refusal::Taken(_) => Status::already_exists(refusal.to_string()),
            _ => Status::failed_precondition(refusal.to_string()),
        })?;
        let (hub, stop) = (self.hub.clone(), self.stop.clone());
        // The task notices that the worker went away, which the answering stream alone would not.
        self.tasks.spawn(async move {
            loop {
                let word = tokio::select! {
                    () = stop.cancelled() => break,
                    word = words.message() => word,
                };
                let Ok(Some(pb::FromWorker { message: Some(word) })) = word else { break };
                let said =
                    Message::Said { worker: worker.clone(), incarnation, session, word: Box::new(word) };
                if hub.tell(said).await.is_err() {
                    break;
                }
            }
            if hub.tell(Message::Closed { worker, session }).await.is_err() {
                tracing::debug!("a session ends with the coordinator");
            }
        });
        let orders = tokio_stream::StreamExt::map(ReceiverStream::new(outgoing), Ok);
        Ok(Response::new(Box::pin(orders)))
    }
}
