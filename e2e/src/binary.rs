//! Where the binary under test is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The project's directory.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// The binary: `LOADGRID_BIN` where set (as `scripts/test` does), otherwise a debug build made now.
///
/// # Panics
/// Where it cannot be built.
#[must_use]
pub fn loadgrid() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| match std::env::var_os("LOADGRID_BIN") {
            Some(path) => project().join(path),
            None => {
                let built = Command::new(env!("CARGO"))
                    .args(["build", "-q", "-p", "loadgrid"])
                    .current_dir(project())
                    .status();
                assert!(built.is_ok_and(|status| status.success()), "the binary cannot be built");
                let target = std::env::var_os("CARGO_TARGET_DIR")
                    .map_or_else(|| project().join("target"), PathBuf::from);
                target.join("debug/loadgrid")
            }
        })
        .clone()
}
