//! History and journal: one SQLite file, written by one thread.
//!
//! A commit holds what was counted since the last one and up to where each worker is counted, in one
//! transaction; only then are snapshots acknowledged. A file of a newer loadgrid is refused.

mod sqlite;

use std::path::Path;

use loadgrid_common::id::RunId;
use tokio::sync::{mpsc, oneshot};

use crate::ingest::Fold;

/// Version of the file's format.
pub const FORMAT: i64 = 1;

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("the run store failed")]
    Database(#[from] rusqlite::Error),
    /// A newer file.
    #[error("the run store was written by a newer loadgrid (format {found}; this one knows {FORMAT})")]
    Newer {
        /// The file's format.
        found: i64,
    },
    /// The directory.
    #[error("the directory of the run store cannot be made")]
    Directory(#[from] std::io::Error),
    /// The thread is gone.
    #[error("the run store is closed")]
    Closed,
}

/// A run that begins.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its name.
    pub run: RunId,
    /// The scenario's name.
    pub scenario: String,
    /// RFC 3339.
    pub started_at: String,
    /// Hash of the plan.
    pub plan_hash: String,
    /// The scenario as written.
    pub scenario_text: String,
}

/// A run in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Its name.
    pub run: RunId,
    /// The scenario's name.
    pub scenario: String,
    /// RFC 3339.
    pub started_at: String,
    /// "live", or how it came out.
    pub state: String,
    /// Once it has ended.
    pub exit_code: Option<u8>,
    /// In nanoseconds.
    pub duration_ns: u64,
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct EndedRun {
    /// Its name.
    pub run: RunId,
    /// How it came out.
    pub outcome: String,
    /// Its exit code.
    pub exit_code: u8,
    /// In nanoseconds.
    pub duration_ns: u64,
    /// The report.
    pub report_json: String,
}

/// Orders that may wait. The coordinator commits once a second, so a full queue means a store that hangs;
/// then senders wait.
const ORDERS: usize = 16;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Order {
    Create(NewRun, Reply<()>),
    Commit(RunId, Box<Fold>, Reply<()>),
    End(Box<EndedRun>, Reply<()>),
    List(Reply<Vec<StoredRun>>),
    Report(RunId, Reply<Option<String>>),
}

/// A handle to the store's thread, which ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct Store {
    orders: mpsc::Sender<Order>,
}

impl Store {
    /// Opens the file `runs.db` in a directory, making both where they are not there.
    ///
    /// # Errors
    /// Where that fails, or the file is a newer loadgrid's.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory)?;
        let mut database = sqlite::Database::open(&directory.join("runs.db"))?;
        let (orders, mut receiver) = mpsc::channel(ORDERS);
        std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            while let Some(order) = receiver.blocking_recv() {
                perform(&mut database, order);
            }
        })?;
        Ok(Self { orders })
    }

    /// Notes that a run begins.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn create(&self, run: NewRun) -> Result<(), StoreError> {
        self.ask(|reply| Order::Create(run, reply)).await
    }

    /// Commits what was counted.
    ///
    /// # Errors
    /// Where the store fails; then nothing of it is in.
    pub async fn commit(&self, run: RunId, fold: Fold) -> Result<(), StoreError> {
        self.ask(|reply| Order::Commit(run, Box::new(fold), reply)).await
    }

    /// Notes that a run has ended.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn end(&self, run: EndedRun) -> Result<(), StoreError> {
        self.ask(|reply| Order::End(Box::new(run), reply)).await
    }

    /// All runs, the newest first.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn list(&self) -> Result<Vec<StoredRun>, StoreError> {
        self.ask(Order::List).await
    }

    /// The report of an ended run, as JSON. The name may be shortened to any unambiguous beginning.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn report(&self, run: RunId) -> Result<Option<String>, StoreError> {
        self.ask(|reply| Order::Report(run, reply)).await
    }

    async fn ask<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn perform(database: &mut sqlite::Database, order: Order) {
    fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) {
        if reply.send(result).is_err() {
            tracing::debug!("nobody waits for the store's answer any more");
        }
    }
    match order {
        Order::Create(run, reply) => answer(reply, database.create(&run)),
        Order::Commit(run, fold, reply) => answer(reply, database.commit(&run, &fold)),
        Order::End(run, reply) => answer(reply, database.end(&run)),
        Order::List(reply) => answer(reply, database.list()),
        Order::Report(run, reply) => answer(reply, database.report(&run)),
    }
}
