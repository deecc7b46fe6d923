//! An embedded server in a process of its own (started by the benchmark).

use std::{io::Read as _, path::PathBuf};

use clap::Args;
use fairlead_apiserver::{ApiServer, Security};
use tokio::runtime::Runtime;

use super::goals;

/// What the process is to do.
#[derive(Args)]
pub(crate) struct Options {
    /// Where to write the kubeconfig of the server to be started.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// A folder for a durable store.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Plain HTTP.
    #[arg(long)]
    plain: bool,
    /// Instead of serving, measure in this process: `idle`, `crowd`, `writes` or `watches`.
    #[arg(long)]
    measure: Option<String>,
}

/// Serves until the input ends, or measures and prints the figures.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    if let Some(what) = &options.measure {
        let goals = runtime.block_on(goals::in_this_process(what))?;
        println!("{}", serde_json::to_string(&goals)?);
        return Ok(());
    }
    let _listener = runtime.block_on(async {
        let mut builder = ApiServer::builder();
        if let Some(data) = &options.data {
            builder = builder.data_dir(data).durable(true);
        }
        let security = if options.plain {
            Security::Plain
        } else {
            Security::Tls
        };
        let server = builder.build().await?;
        let listener = server.serve(([127, 0, 0, 1], 0).into(), security).await?;
        if let Some(path) = &options.kubeconfig {
            std::fs::write(path, listener.kubeconfig())?;
        }
        anyhow::Ok((server, listener))
    })?;
    println!("listening");
    std::io::stdin().read_to_string(&mut String::new())?;
    Ok(())
}
