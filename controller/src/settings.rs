//! What the process is told by flags and environment.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

/// The control plane of a Fairlead fleet.
#[derive(Debug, Parser)]
#[command(name = "fairlead-controller", version, after_help = AFTER_HELP)]
pub struct Flags {
    /// What to run.
    #[command(subcommand)]
    pub role: Role,
    /// What to log: error, warn, info, debug, trace, or per module as RUST_LOG has it.
    #[arg(
        long,
        global = true,
        env = "RUST_LOG",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log: String,
    /// Where health, metrics and explanations are served over HTTP; `/` lists the pages. In a pod:
    /// 0.0.0.0:9903.
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:9903",
        value_name = "ADDR:PORT"
    )]
    pub admin: SocketAddr,
}

/// The parts of the control plane.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// The hub: aggregates the exports of members, drives proxies, admits members.
    ///
    /// Its database is a Kubernetes API server, which must know Fairlead's kinds (`fairlead crds`).
    /// Any number of replicas may run; each serves streams, one of them writes.
    #[command(after_help = HUB_HELP)]
    Hub(HubFlags),
    /// A member's agent: exports its cluster's services, and serves those of the fleet in it.
    ///
    /// It dials out to the hub only. What comes down is kept in --data, so that imports and new
    /// proxies are served while the hub is away, for days if need be.
    #[command(after_help = MEMBER_HELP)]
    Member(MemberFlags),
}

/// Flags of the hub.
#[derive(Debug, Args)]
pub struct HubFlags {
    /// Where agents and standalone proxies connect: streams, joining, tokens, over TLS.
    #[arg(long, default_value = "0.0.0.0:15010", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Where other replicas reach this one, to hand on what their proxies report while this one
    /// leads; in a pod: its IP and the port of --listen [default: the address of --listen].
    #[arg(long, env = "FAIRLEAD_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// A name or address that agents and proxies know the hub by, for its certificate; may be
    /// repeated. localhost and the address of --listen are always in it.
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// The kubeconfig of the hub's API server [default: $KUBECONFIG, ~/.kube/config, then the
    /// identity of the pod this runs in].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// This replica's name in the leader's Lease; no two may share one [default: the host's name
    /// and the process's id].
    #[arg(long, value_name = "NAME")]
    pub replica: Option<String>,
    /// Where members reach the hub's Kubernetes API: `https://host:port` [default: the address in
    /// the kubeconfig].
    #[arg(long, value_name = "URL")]
    pub api_server: Option<String>,
    /// The PEM file that members check the hub's Kubernetes API against [default: that of the
    /// kubeconfig].
    #[arg(long, value_name = "FILE")]
    pub api_server_ca: Option<PathBuf>,
    /// Takes loopback addresses as endpoints: for a fleet on one machine only.
    #[arg(long)]
    pub allow_loopback_endpoints: bool,
    /// The age of an export counts from when the hub saw it first, so that nobody takes a service
    /// over by claiming age.
    #[arg(long)]
    pub pin_first_seen: bool,
    /// Serves without TLS, and takes streams without a token for what they claim to be. Nobody can
    /// join. Loopback addresses only.
    #[arg(long)]
    pub plain: bool,
}

/// Flags of a member's agent.
#[derive(Debug, Clone, Default, Args)]
pub struct MemberFlags {
    /// The folder of the agent's key, certificate and tokens, and of what came down from the hub.
    /// A restart goes on from there, without an invitation.
    #[arg(long, value_name = "FOLDER")]
    pub data: PathBuf,
    /// The line that `fairlead join NAME` printed on the hub; needed once. Good for 24 hours and
    /// one use; ignored while what is in --data is good.
    #[arg(
        long,
        value_name = "LINE",
        env = "FAIRLEAD_INVITATION",
        hide_env_values = true
    )]
    pub invitation: Option<String>,
    /// The Secret of namespace fairlead-system that holds the invitation at first, and key and
    /// certificate from then on, so that they outlive the pod and its --data.
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
    /// The kubeconfig of the member's API server [default: $KUBECONFIG, ~/.kube/config, then the
    /// identity of the pod this runs in].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Acts as ServiceAccount fairlead-system/fairlead-agent, with its rights only; the kubeconfig's
    /// user must be allowed to impersonate it. For an agent outside of its cluster.
    #[arg(long)]
    pub as_agent: bool,
    /// Where this member's own proxies connect, over TLS [default: nowhere].
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// A name or address that proxies know that port by, for its certificate; may be repeated.
    /// localhost, fairlead-agent.fairlead-system.svc and the address of --listen are always in it.
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,
    /// Puts what proxies check that port against into ConfigMap fairlead-system/fairlead-agent. It
    /// is always in proxies-ca.pem in --data.
    #[arg(long, requires = "listen")]
    pub publish: bool,
    /// Lists pods, to report the capacity that is left; needs a ClusterRole of its own
    /// (`fairlead join --properties-pods`). Without it that capacity is absent, never guessed.
    #[arg(long)]
    pub properties_pods: bool,
}

const AFTER_HELP: &str = "\
Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot start or a part of it ended, 2 for flags that
make no sense. The reason is the last line on stderr.";

const HUB_HELP: &str = "\
Try it:
  fairlead crds | kubectl apply --server-side -f -
  fairlead-controller hub --name hub.example.com
  curl localhost:9903/readyz
  curl 'localhost:9903/explain?service=shop/web'
  fairlead join a --hub-address hub.example.com:15010

Port 15010: ADS and LRS streams (agents and standalone proxies, by token), /join, /renew and /token
(agents, by bootstrap token or certificate), /healthz. Port 9903: the admin pages.

Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot start or a part of it ended, 2 for flags that
make no sense. The reason is the last line on stderr.";

const MEMBER_HELP: &str = "\
Try it:
  fairlead join b --hub-address hub.example.com:15010        (on the hub: prints an invitation)
  fairlead-controller member --data ./b --as-agent --invitation LINE
  fairlead-controller member --data ./b --as-agent           (every time after that)
  curl localhost:9903/readyz
  curl localhost:9903/imports

Its rights in the member are printed by `fairlead join --dry-run`. Keys and certificate are renewed
after two thirds of their 30 days; a member whose hub was away for longer joins anew.

Exit codes: 0 after SIGTERM or SIGINT, 1 when it cannot start or a part of it ended, 2 for flags that
make no sense. The reason is the last line on stderr.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_make_sense() {
        Flags::command().debug_assert();
        let flags = Flags::parse_from(["fairlead-controller", "hub", "--name", "hub.example"]);
        let Role::Hub(hub) = flags.role else {
            panic!("not a hub");
        };
        assert_eq!(hub.names, ["hub.example"]);
        assert!(!hub.plain);
    }

    #[test]
    fn a_member_needs_a_folder_and_publishes_only_what_it_serves() {
        let parse = |flags: &[&str]| {
            let all = ["fairlead-controller", "member"].iter().chain(flags);
            Flags::try_parse_from(all)
        };
        let flags = parse(&["--data", "d", "--listen", "127.0.0.1:0", "--publish"]).unwrap();
        let Role::Member(member) = flags.role else {
            panic!("not a member");
        };
        assert_eq!(member.data, PathBuf::from("d"));
        assert!(member.publish && !member.properties_pods);
        let missing = parse(&[]).unwrap_err().to_string();
        assert!(missing.contains("--data <FOLDER>"), "{missing}");
        assert!(parse(&["--data", "d", "--publish"]).is_err());
    }
}
