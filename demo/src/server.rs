//! The demo as a running thing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::config::{DemoConfig, Stall};
use crate::database::Database;
use crate::faults::Dice;
use crate::routes::{Shop, router};
use crate::truth::Truth;

/// Connections that may wait while the demo is frozen; a short queue would make a stall look longer than it is.
const BACKLOG: i32 = 16_384;

/// Why the demo cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The address.
    #[error("the demo cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its database.
    #[error("the demo's database cannot be made")]
    Database(#[from] rusqlite::Error),
    /// Anything else of the operating system.
    #[error("the demo cannot be started")]
    System(#[from] std::io::Error),
}

/// A running demo. It serves on one thread of its own, so that a stall freezes it whole.
#[derive(Debug)]
pub struct Demo {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Demo {
    /// Starts it; it answers from then on.
    ///
    /// # Errors
    /// Where the port is taken or the database cannot be made.
    pub fn start(config: DemoConfig) -> Result<Self, DemoError> {
        let listener =
            listen(config.listen).map_err(|source| DemoError::Listen { address: config.listen, source })?;
        let address = listener.local_addr()?;
        let directory = tempfile::tempdir()?;
        let database = Database::open(&directory.path().join("shop.db"))?;
        let stall = config.stall;
        let shop = Arc::new(Shop {
            auth: Auth::new(config.token_ttl),
            dice: Dice::new(config.seed),
            truth: Truth::default(),
            database,
            config,
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("demo".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, shop, stall, stopped));
            drop(directory);
        })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the demo has panicked");
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.end();
    }
}

fn listen(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn serve(
    listener: std::net::TcpListener,
    shop: Arc<Shop>,
    stall: Option<Stall>,
    stop: CancellationToken,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the demo cannot listen");
            return;
        }
    };
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection of the demo has no TCP_NODELAY");
        }
    });
    let serving = axum::serve(listener, router(shop));
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::error!(%error, "the demo failed");
        },
        () = freeze(stall) => {}
        () = stop.cancelled() => {}
    }
}

/// Blocks the demo's only thread for the last part of every period.
async fn freeze(stall: Option<Stall>) {
    let Some(Stall { every, length }) = stall else { return std::future::pending().await };
    let mut next = Instant::now() + (every - length);
    loop {
        tokio::time::sleep_until(next.into()).await;
        let end = next + length;
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        next += every;
        // Fallen behind by whole periods: the pattern goes on from now.
        while next + Duration::from_millis(1) < Instant::now() {
            next += every;
        }
    }
}
