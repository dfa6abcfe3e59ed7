//! Child processes with their logs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A port that was free a moment ago.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Waits until `probe` gives something.
///
/// # Panics
/// Where it does not within the limit.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that this test started; killed when dropped.
pub struct Child {
    name: String,
    child: std::process::Child,
    log: Arc<Mutex<String>>,
    stdout: Option<std::thread::JoinHandle<String>>,
    stderr: Option<std::thread::JoinHandle<()>>,
}

impl Child {
    /// Starts a process; its stderr is kept as its log, its stdout is collected.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(name: &str, program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("stderr is piped");
        let kept = log.clone();
        let stderr = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = kept.lock().expect("nobody panics while logging");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut out = child.stdout.take().expect("stdout is piped");
        let stdout = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _read = out.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { name: name.to_owned(), child, log, stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// What it logged so far.
    ///
    /// # Panics
    /// Never in practice: the log's lock is not poisoned.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics while logging").clone()
    }

    /// Waits for a text in its log.
    ///
    /// # Panics
    /// Where it does not come within ten seconds.
    pub fn wait_for_log(&self, text: &str) {
        wait_for(&format!("`{text}` from {}", self.name), Duration::from_secs(10), || {
            self.log().contains(text).then_some(())
        });
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal by name, such as `INT`.
    ///
    /// # Panics
    /// Where that fails.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} could not be sent {name}", self.name);
    }

    /// Waits for its end; gives its status, stdout and log.
    ///
    /// # Panics
    /// Where it does not end within the limit.
    pub fn wait(mut self, limit: Duration) -> (ExitStatus, String, String) {
        let status =
            wait_for(&format!("the end of {}", self.name), limit, || self.child.try_wait().ok().flatten());
        let stdout = self.stdout.take().map(|thread| thread.join().unwrap_or_default()).unwrap_or_default();
        // The process may have ended before its last line was read.
        let _read = self.stderr.take().map(std::thread::JoinHandle::join);
        (status, stdout, self.log())
    }

    /// Whether it is still there.
    ///
    /// # Panics
    /// Where the system does not say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the state of a child").is_none()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let text = format!("--- {} (the last of its log) ---\n{}\n", self.name, tail.join("\n"));
            let _written = std::io::stderr().write_all(text.as_bytes());
        }
    }
}
