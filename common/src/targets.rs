//! Which hosts may be sent load.
//!
//! Checked when a run is submitted, and again for each connection after the name was resolved, so that
//! neither a redirect nor a DNS answer leads load to where it was not allowed. Link-local addresses
//! (cloud metadata services among them) are never allowed.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A list of allowed hosts and networks.
#[derive(Clone, Debug, Default)]
pub struct AllowedTargets {
    names: Vec<String>,
    networks: Vec<IpNet>,
    /// A second list that must allow it, too.
    also: Option<Box<Self>>,
}

impl AllowedTargets {
    /// Reads entries such as `shop.test`, `*.shop.test`, `10.0.0.0/8`, `::1`, `loopback`.
    #[must_use]
    pub fn new<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Self {
        let mut list = Self::default();
        for entry in entries {
            let entry = entry.as_ref().trim();
            if entry == "loopback" {
                list.networks
                    .extend(["127.0.0.0/8", "::1/128"].iter().filter_map(|net| net.parse::<IpNet>().ok()));
                list.names.push("localhost".to_owned());
            } else if let Ok(network) = IpNet::from_str(entry) {
                list.networks.push(network);
            } else if let Ok(address) = IpAddr::from_str(entry.trim_matches(['[', ']'])) {
                list.networks.push(IpNet::from(address));
            } else if !entry.is_empty() {
                list.names.push(entry.to_ascii_lowercase());
            }
        }
        list
    }

    /// Both lists must allow a target.
    #[must_use]
    pub fn narrowed(mut self, by: Self) -> Self {
        self.also = Some(Box::new(by));
        self
    }

    /// Whether a connection to `address`, reached by the name `host`, is allowed.
    #[must_use]
    pub fn allows(&self, host: &str, address: IpAddr) -> bool {
        !is_link_local(address)
            && (self.allows_address(address) || self.allows_name(host))
            && self.also.as_ref().is_none_or(|also| also.allows(host, address))
    }

    /// Whether `host` is allowed by its name, or by its address where it is one.
    #[must_use]
    pub fn allows_host(&self, host: &str) -> bool {
        match IpAddr::from_str(host.trim_matches(['[', ']'])) {
            Ok(address) => self.allows(host, address),
            Err(_) => self.allows_name(host),
        }
    }

    fn allows_address(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    fn allows_name(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
            None => *name == host,
        })
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_networks_and_the_metadata_service() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let list = AllowedTargets::new(["loopback", "shop.test", "*.api.test", "10.1.0.0/16"]);
        assert!(list.allows_host("127.0.0.1") && list.allows_host("localhost") && list.allows_host("[::1]"));
        assert!(list.allows("shop.test", ip("203.0.113.9")), "an allowed name may resolve anywhere");
        assert!(
            list.allows_host("a.api.test") && !list.allows_host("api.test") && !list.allows_host("xapi.test")
        );
        assert!(list.allows("other", ip("10.1.2.3")) && !list.allows("other", ip("10.2.2.3")));
        assert!(!list.allows("shop.test", ip("169.254.169.254")), "never link-local");
        assert!(!list.allows("shop.test", ip("::ffff:169.254.169.254")), "nor in disguise");
        let narrow = list.narrowed(AllowedTargets::new(["10.1.2.0/24"]));
        assert!(narrow.allows("x", ip("10.1.2.3")) && !narrow.allows("x", ip("10.1.3.3")));
        assert!(!narrow.allows_host("127.0.0.1"));
    }
}
