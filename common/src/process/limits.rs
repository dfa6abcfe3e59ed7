//! Descriptors, ports, memory and processor time of this process.

/// What this process may still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRoom {
    /// Descriptors below the limit.
    pub descriptors: u64,
    /// Local ports that the system hands out for one destination.
    pub ports: u64,
    /// Memory of the machine, in bytes; 0 where it is not known.
    pub memory_bytes: u64,
}

/// What this process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUse {
    /// Processor time so far, in seconds, of all threads.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// Reads the limits, after raising the soft limit of descriptors to the hard one.
#[must_use]
pub fn head_room() -> HeadRoom {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        if let Err(error) = raised {
            // Not allowed to raise: the soft limit stands, and is what is reported.
            debug_assert!(error.raw_os_error() != 0);
        }
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    HeadRoom {
        descriptors: allowed.saturating_sub(process_use().descriptors),
        ports: local_ports(),
        memory_bytes: memory_bytes(),
    }
}

fn local_ports() -> u64 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    match (ends.next(), ends.next()) {
        (Some(low), Some(high)) if high >= low => high - low + 1,
        _ => 16_384,
    }
}

fn memory_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Reads what this process has used; zeros where the system does not say.
#[must_use]
pub fn process_use() -> ProcessUse {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    ProcessUse {
        cpu_seconds: usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9,
        rss_bytes: resident * rustix::param::page_size() as u64,
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}
