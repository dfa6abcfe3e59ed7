//! `loadgrid workers`.

use std::time::Duration;

use loadgrid_common::units::show_duration;
use loadgrid_common::wire::pb::WorkersRequest;

use crate::arguments::Connect;
use crate::connect;
use crate::output::{Failure, print};

pub(crate) fn workers(verb: &Connect) -> Result<u8, Failure> {
    let endpoint = connect::endpoint(&verb.coordinator)?;
    let list = super::runtime()?.block_on(async {
        let mut client = connect::client(endpoint.connect_lazy());
        client.workers(WorkersRequest {}).await.map_err(|status| connect::refused(&verb.coordinator, &status))
    })?;
    print(format_args!(
        "{:28}  {:7}  {:>7}  {:>11}  {:>5}  {:>8}  clock",
        "worker", "state", "threads", "descriptors", "cpu", "memory"
    ));
    for worker in list.into_inner().workers {
        let clock = match worker.clock_uncertainty_ns {
            u64::MAX => "unknown".to_owned(),
            uncertainty => format!(
                "{:+.3} ms ± {}",
                worker.clock_offset_ns as f64 / 1e6,
                show_duration(Duration::from_micros(uncertainty / 1_000))
            ),
        };
        print(format_args!(
            "{:28}  {:7}  {:>7}  {:>11}  {:>4.0}%  {:>5} MB  {clock}",
            worker.worker,
            worker.state,
            worker.threads,
            worker.free_descriptors,
            worker.cpu_percent,
            worker.rss_bytes / 1_000_000
        ));
    }
    Ok(0)
}
