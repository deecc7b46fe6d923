//! Which endpoint addresses a member may name.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::world::{Member, Settings};

/// Why an address is refused, phrased to follow it; `None` when it is taken.
pub fn refusal(ip: IpAddr, member: &Member, settings: Settings) -> Option<String> {
    let plain = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    if plain != ip {
        return Some("is an IPv4 address in IPv6 clothing; export the IPv4 address".to_owned());
    }
    if ip.is_unspecified() {
        return Some("is unspecified".to_owned());
    }
    if ip.is_multicast() {
        return Some("is a multicast address".to_owned());
    }
    if is_link_local(ip) {
        return Some("is link-local (cloud metadata lives there)".to_owned());
    }
    if ip == IpAddr::from([255, 255, 255, 255]) {
        return Some("is the broadcast address".to_owned());
    }
    if ip.is_loopback() && !settings.allow_loopback {
        return Some("is loopback, which would mean the proxy itself".to_owned());
    }
    match &member.cidrs {
        None => None,
        Some(Err(text)) => Some(format!(
            "cannot be checked: {text:?} in spec.endpointCIDRs is no network"
        )),
        Some(Ok(cidrs)) => {
            let inside = cidrs.iter().any(|cidr: &IpNet| cidr.contains(&ip));
            (!inside).then(|| "is outside spec.endpointCIDRs of its MemberCluster".to_owned())
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(cidrs: &[&str]) -> Member {
        let object = fairlead_api::member::MemberCluster {
            spec: fairlead_api::member::MemberClusterSpec {
                endpoint_cidrs: (!cidrs.is_empty())
                    .then(|| cidrs.iter().map(|cidr| (*cidr).to_owned()).collect()),
                ..Default::default()
            },
            ..Default::default()
        };
        crate::world::member_of_object(&object)
    }

    #[test]
    fn addresses_that_mean_the_proxy_or_the_node_are_refused() {
        let member = member(&[]);
        for text in [
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
        ] {
            let ip = text.parse().unwrap();
            assert!(
                refusal(ip, &member, Settings::default()).is_some(),
                "{text}"
            );
        }
        for text in ["10.0.0.1", "fd00::1", "203.0.113.7"] {
            let ip = text.parse().unwrap();
            assert_eq!(refusal(ip, &member, Settings::default()), None, "{text}");
        }
    }

    #[test]
    fn the_switch_opens_loopback_and_nothing_else() {
        let settings = Settings {
            allow_loopback: true,
            ..Settings::default()
        };
        let member = member(&["127.0.0.0/16"]);
        assert_eq!(
            refusal("127.0.0.9".parse().unwrap(), &member, settings),
            None
        );
        assert!(refusal("127.1.0.1".parse().unwrap(), &member, settings).is_some());
        assert!(refusal("169.254.0.1".parse().unwrap(), &member, settings).is_some());
    }

    #[test]
    fn a_member_is_held_to_its_networks() {
        let member = member(&["10.1.0.0/16", "fd00:1::/32"]);
        let ask = |text: &str| refusal(text.parse().unwrap(), &member, Settings::default());
        assert_eq!(ask("10.1.2.3"), None);
        assert_eq!(ask("fd00:1::9"), None);
        assert!(ask("10.2.0.1").is_some_and(|why| why.contains("endpointCIDRs")));
        assert!(ask("fd00:2::1").is_some());
    }
}
