//! The process from its flags to its end. `fairlead-proxy` is this and nothing else, and so is the
//! proxy of `fairlead up`.

use fairlead_config::yaml;
use fairlead_runtime::{clock::Clock, logging};

use super::App;
use crate::{
    settings::{Flags, LogFormat, Settings},
    source::feed::Source,
    upgrade::{
        Inheritance,
        io::{Channel, Taking},
        systemd,
    },
};

/// Runs until it has left in order; fails when it cannot start or go on.
pub fn run(flags: &Flags, clock: Clock) -> anyhow::Result<()> {
    let source = open(flags, &clock)?;
    if flags.check {
        let count = source.snapshot().services.len();
        println!("{}: {count} services, no problems", source.origin());
        return Ok(());
    }
    if flags.print_config {
        let file = source.settings();
        let effective = Settings::resolve(flags, &file).in_a_file(&file);
        print!("{}", yaml::encode(&effective, &source.snapshot()));
        return Ok(());
    }
    let format = match flags.log_format {
        LogFormat::Text => logging::Format::Text,
        LogFormat::Json => logging::Format::Json,
    };
    logging::start(&flags.log_level, format)?;
    let settings = Settings::resolve(flags, &source.settings());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (inherited, taking) = inherit(flags).await?;
        let mut app = App::start(flags.clone(), settings, source, clock, inherited)?;
        app.announce(taking).await?;
        app.run().await
    })
}

/// What an earlier process left: it hands over now, or the service manager kept it.
async fn inherit(flags: &Flags) -> anyhow::Result<(Inheritance, Option<Taking>)> {
    let channel = match (Channel::from_parent()?, &flags.takeover) {
        (Some(parent), _) => Some(parent),
        (None, Some(path)) => Channel::find(path)?,
        (None, None) => None,
    };
    match channel {
        None => Ok((systemd::inheritance(), None)),
        Some(channel) => {
            let (inherited, taking) = channel.take().await?;
            Ok((inherited, Some(taking)))
        }
    }
}

/// The file or the control plane, of which clap admits exactly one.
fn open(flags: &Flags, clock: &Clock) -> anyhow::Result<Source> {
    match (flags.control_plane.options(), &flags.config) {
        (Some(options), _) => Ok(Source::xds(options, clock.clone())),
        (None, Some(path)) => Ok(Source::file(path, clock.clone())?),
        (None, None) => anyhow::bail!("--config or --xds is needed"),
    }
}
