//! nginx as a target, with its access log as an outside witness.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Child, free_port, wait_for};

/// A running nginx.
pub struct Nginx {
    /// Its address, with `http://`.
    pub target: String,
    directory: TempDir,
    child: Child,
}

impl Nginx {
    /// Starts it: `/` and `/a` to `/c` answer, `/moved` redirects once, `/twice` twice, `/missing` is 404.
    /// `None` where nginx is not installed (as `scripts/test` does).
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/bin/nginx"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists())?;
        let directory = tempfile::tempdir().expect("a directory");
        let (port, root) = (free_port(), directory.path().display().to_string());
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {root}/pid; error_log {root}/error.log warn;
             events {{ worker_connections 8192; }}
             http {{
                 access_log {root}/access.log; keepalive_requests 1000000;
                 client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
                 uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
                 server {{
                     listen 127.0.0.1:{port} backlog=4096;
                     default_type text/plain;
                     location = / {{ return 200 ok; }}
                     location = /a {{ return 200 a; }}
                     location = /b {{ return 201 b; }}
                     location = /c {{ return 204; }}
                     location = /moved {{ return 302 /a; }}
                     location = /twice {{ return 301 /moved; }}
                     location / {{ return 404 no; }}
                 }}
             }}"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).expect("the configuration is written");
        let child = Child::start("nginx", &program, &["-c", &file.display().to_string(), "-p", &root]);
        let nginx = Self { target: format!("http://127.0.0.1:{port}"), directory, child };
        wait_for("nginx to listen", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(nginx)
    }

    /// Ends it, so that its log is complete, and gives the requests it logged.
    ///
    /// # Panics
    /// Where its log cannot be read.
    #[must_use]
    pub fn requests(self) -> Vec<String> {
        self.child.signal("QUIT");
        let _ended = self.child.wait(Duration::from_secs(30));
        let log = std::fs::read_to_string(self.directory.path().join("access.log")).expect("the access log");
        log.lines().map(str::to_owned).collect()
    }
}
