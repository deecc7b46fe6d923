//! Who holds which ClusterIP and node port.
//!
//! In memory, filled from the stored Services at first use. An address is chosen by a hash of the
//! Service's name and then the next free one, so that the same fleet gets the same addresses in
//! each run.

use crate::kinds::value::{list, number, strings};
use crate::kinds::{Ctx, Settings};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who holds which address and node port. Owners are `namespace/name`.
#[derive(Debug, Default)]
pub(in crate::kinds) struct Pool {
    loaded: bool,
    ips: HashMap<IpAddr, String>,
    ports: HashMap<u16, String>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn release(&mut self, service: &Value) {
        let owner = owner(service);
        self.ips.retain(|_, holder| *holder != owner);
        self.ports.retain(|_, holder| *holder != owner);
    }

    /// Undoes what a write that did not take place had changed.
    pub(super) fn restore(&mut self, attempted: &Value, old: Option<&Value>) {
        self.release(attempted);
        if let Some(old) = old {
            self.record(old);
        }
    }

    pub(super) fn record(&mut self, service: &Value) {
        let owner = owner(service);
        for ip in strings(&service["spec"], "clusterIPs")
            .into_iter()
            .filter_map(|ip| ip.parse().ok())
        {
            self.ips.insert(ip, owner.clone());
        }
        for port in node_ports(service) {
            self.ports.insert(port, owner.clone());
        }
    }

    pub(super) fn load(&mut self, ctx: &Ctx<'_>) {
        if self.loaded {
            return;
        }
        self.loaded = true;
        for service in ctx.lookup.list("", "services", "") {
            self.record(&service);
        }
    }

    pub(super) fn take_ip(
        &mut self,
        wanted: IpAddr,
        owner: &str,
        range: &IpNet,
    ) -> Result<(), String> {
        if !range.contains(&wanted) || is_edge(range, wanted) {
            return Err("the provided network does not match the current range".to_owned());
        }
        match self.ips.get(&wanted) {
            Some(holder) if holder != owner => Err("provided IP is already allocated".to_owned()),
            _ => {
                self.ips.insert(wanted, owner.to_owned());
                Ok(())
            }
        }
    }

    pub(super) fn next_ip(&mut self, owner: &str, range: &IpNet) -> Option<IpAddr> {
        let size = usable(range);
        // The first addresses stay free for those who ask by number, as Kubernetes does it.
        let reserved = (size / 16).clamp(16, 256).min(size.saturating_sub(1));
        let start = u128::from(hash(owner)) % (size - reserved).max(1);
        let band = (0..size - reserved).map(|step| reserved + (start + step) % (size - reserved));
        let ip = band
            .chain(0..reserved)
            .map(|index| nth(range, index))
            .find(|ip| !self.ips.contains_key(ip))?;
        self.ips.insert(ip, owner.to_owned());
        Some(ip)
    }

    pub(super) fn take_port(&mut self, wanted: u16, owner: &str) -> Result<(), String> {
        match self.ports.get(&wanted) {
            Some(holder) if holder != owner => Err("provided port is already allocated".to_owned()),
            _ => {
                self.ports.insert(wanted, owner.to_owned());
                Ok(())
            }
        }
    }

    pub(super) fn next_port(&mut self, owner: &str, (low, high): (u16, u16)) -> Option<u16> {
        let size = u32::from(high.checked_sub(low)?) + 1;
        let start = (hash(owner) % u64::from(size)) as u32;
        let port = (0..size)
            .map(|step| low + ((start + step) % size) as u16)
            .find(|port| !self.ports.contains_key(port))?;
        self.ports.insert(port, owner.to_owned());
        Some(port)
    }
}

/// The address of the `kubernetes` Service: the first of the first range.
pub(crate) fn first_ip(settings: &Settings) -> Option<IpAddr> {
    settings.service_cidrs.first().map(|range| nth(range, 0))
}

pub(super) fn owner(service: &Value) -> String {
    let meta = &service["metadata"];
    format!(
        "{}/{}",
        meta["namespace"].as_str().unwrap_or_default(),
        meta["name"].as_str().unwrap_or_default()
    )
}

fn node_ports(service: &Value) -> impl Iterator<Item = u16> {
    let spec = &service["spec"];
    list(spec, "ports")
        .iter()
        .map(|port| number(port, "nodePort"))
        .chain([number(spec, "healthCheckNodePort")])
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

/// How many addresses can be given out: all but the network's own and, in IPv4, the broadcast one.
fn usable(range: &IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(64);
    let edges = if matches!(range, IpNet::V4(_)) { 2 } else { 1 };
    (1_u128 << bits).saturating_sub(edges).max(1)
}

fn nth(range: &IpNet, index: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(
            base.to_bits().wrapping_add(index as u32).wrapping_add(1),
        )),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(index + 1))),
    }
}

fn is_edge(range: &IpNet, ip: IpAddr) -> bool {
    ip == range.network() || (ip.is_ipv4() && ip == range.broadcast())
}

/// FNV-1a: stable across runs and platforms, which `std`'s hasher isn't.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
