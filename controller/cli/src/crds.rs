//! `fairlead crds`.

use clap::Args;

/// Prints CRDs.
#[derive(Args)]
pub(crate) struct Options {
    /// JSON instead of YAML.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    for crd in fairlead_api::crds() {
        if options.json {
            println!("{}", serde_json::to_string(&crd)?);
        } else {
            print!("---\n{}", serde_saphyr::to_string(&crd)?);
        }
    }
    Ok(())
}
