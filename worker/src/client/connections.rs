//! Whose connections a user sends over: its own, a new one for each request, or some that all users share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use loadgrid_common::plan;
use loadgrid_common::process::now;
use loadgrid_common::stats::ErrorKind;
use tokio::sync::Semaphore;

use super::{ClientError, ClientSettings, Exchange, HttpClient, Request, ReqwestClient};

/// Where the users of a load thread get their connections.
#[derive(Debug)]
pub struct ConnectionSource {
    settings: ClientSettings,
    shared: Option<Rc<SharedPool>>,
}

impl ConnectionSource {
    /// For one load thread.
    #[must_use]
    pub fn new(settings: &ClientSettings) -> Self {
        let is_shared = settings.options.connections == plan::Connections::Shared;
        let shared = is_shared.then(|| {
            Rc::new(SharedPool {
                settings: settings.clone(),
                free: RefCell::default(),
                permits: Semaphore::new(0),
                sized: Cell::new(false),
            })
        });
        Self { settings: settings.clone(), shared }
    }

    /// How many connections the whole grid shares.
    #[must_use]
    pub fn shared_size(&self) -> u64 {
        self.settings.options.shared
    }

    /// Sets this thread's part of them, once; a thread has one at least.
    pub fn set_share(&self, connections: u64) {
        let Some(shared) = &self.shared else { return };
        if !shared.sized.replace(true) {
            let connections = usize::try_from(connections).unwrap_or(usize::MAX);
            shared.permits.add_permits(connections.clamp(1, Semaphore::MAX_PERMITS));
        }
    }

    /// The connections of one user for one life.
    ///
    /// # Errors
    /// Where a client cannot be made.
    pub fn user(&self) -> Result<Connections, ClientError> {
        match &self.shared {
            Some(shared) => Ok(Connections::Shared(shared.clone())),
            None => Ok(Connections::Own(Box::new(ReqwestClient::new(&self.settings)?))),
        }
    }
}

/// The connections of one user.
#[derive(Debug)]
pub enum Connections {
    /// Its own.
    Own(Box<ReqwestClient>),
    /// Those that the users of its thread share.
    Shared(Rc<SharedPool>),
}

impl HttpClient for Connections {
    async fn exchange(&mut self, request: Request, limit: Duration, max_body: u64) -> Exchange {
        match self {
            Self::Own(client) => client.exchange(request, limit, max_body).await,
            Self::Shared(pool) => pool.exchange(request, limit, max_body).await,
        }
    }
}

/// Clients with one connection each, the one used last on top.
#[derive(Debug)]
pub struct SharedPool {
    settings: ClientSettings,
    free: RefCell<Vec<ReqwestClient>>,
    permits: Semaphore,
    sized: Cell<bool>,
}

impl SharedPool {
    /// Waits for a free connection. The waiting counts into the response time, not into the service time.
    async fn exchange(&self, request: Request, limit: Duration, max_body: u64) -> Exchange {
        let permit = self.permits.acquire().await;
        let free = self.free.borrow_mut().pop();
        let client = match free {
            Some(client) => Ok(client),
            None => ReqwestClient::new(&self.settings),
        };
        match client {
            Ok(mut client) => {
                let exchange = client.exchange(request, limit, max_body).await;
                self.free.borrow_mut().push(client);
                drop(permit);
                exchange
            }
            Err(error) => {
                tracing::error!(%error, "a client cannot be made");
                Exchange::failed(now(), ErrorKind::Request)
            }
        }
    }
}
