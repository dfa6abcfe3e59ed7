//! `loadgrid run`: a grid in this process, for one scenario.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use loadgrid_coordinator::judge::ExitCode;
use loadgrid_demo::{Demo, DemoConfig};

use crate::arguments::Run;
use crate::follow::{Submission, conclude, finish, follow, submit};
use crate::local::LocalGrid;
use crate::output::Failure;
use crate::{connect, files};

pub(crate) fn run(verb: &Run, quiet: bool) -> Result<u8, Failure> {
    let mut overrides = verb.overrides.clone();
    let demo = if verb.demo {
        let config = DemoConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..DemoConfig::default() };
        let demo = Demo::start(config).map_err(|error| Failure::new(ExitCode::Internal, error))?;
        overrides.target.get_or_insert_with(|| format!("http://{}", demo.address()));
        Some(demo)
    } else {
        None
    };
    let loaded = files::load(&verb.file, &overrides)?;
    let share = (super::cores() / verb.workers.get()).max(1);
    let threads = verb.threads.or(NonZeroU32::new(share)).unwrap_or(NonZeroU32::MIN);
    let runtime = super::runtime()?;
    let code = runtime.block_on(async {
        let grid =
            LocalGrid::start(verb.workers, threads, loaded.bundle.hosts.clone(), verb.secrets.clone())?;
        let mut client = connect::client(grid.channel());
        let address = "this process";
        let submission =
            Submission { bundle: &loaded.bundle, expect_workers: verb.workers.get(), wait: None, address };
        let code = async {
            let run = submit(&mut client, &submission).await?;
            let code = follow(&mut client, &run, address, quiet).await?;
            finish(code, conclude(&mut client, &run, address, verb.json.as_deref(), quiet).await)
        };
        let code = code.await;
        grid.end().await;
        code
    })?;
    if let Some(demo) = demo {
        demo.stop();
    }
    Ok(code)
}
