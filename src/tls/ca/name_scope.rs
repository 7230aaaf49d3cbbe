//! Name constraints (RFC 5280 §4.2.1.10): the hosts that an authority may vouch for, written to and
//! read from certificates.
//!
//! The extension is critical, as the RFC demands. OpenSSL (thus curl, Python, Node and git),
//! rustls, Go and the browsers honour it in a root, too; Java honours it in intermediates only. A
//! stolen key can then sign for the intercepted hosts, and for nothing else.
//!
//! Both directions live here: [`Subtree`]s of the settings become an extension of a new
//! certificate, and the extension of an existing one becomes a [`NameScope`], which is asked if the
//! settings are still covered. Example: for the intercepted host `api.example` the authority is
//! permitted `api.example` and all names below it, and no address at all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree as ParsedSubtree};

/// Names that an authority may vouch for (RFC 5280 §4.2.1.10).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subtree {
    /// Every name and address. An authority for it has no name constraints.
    Any,
    /// A DNS name and all names below it. Lower case, without a final dot.
    Name(String),
    /// One address. Written as a range of a single address.
    Address(IpAddr),
}

impl fmt::Display for Subtree {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subtree::Any => out.write_str("every host"),
            Subtree::Name(name) => out.write_str(name),
            Subtree::Address(address) => address.fmt(out),
        }
    }
}

/// The only permitted name where no name is permitted: no host has it (RFC 6761 §6.4). Excluding
/// the empty name would mean the same, but Java reads that differently.
const NO_NAME: &str = "invalid";

/// Name constraints for these names; `None` if the authority may vouch for anything.
///
/// Names without addresses exclude all addresses, and addresses without names permit only
/// `invalid`, since a kind that the extension does not mention is free.
pub(super) fn constraints(covers: &[Subtree]) -> Option<NameConstraints> {
    let mut permitted = Vec::new();
    for subtree in covers {
        let subtree = match subtree {
            Subtree::Any => return None,
            Subtree::Name(name) => GeneralSubtree::DnsName(name.clone()),
            Subtree::Address(address @ IpAddr::V4(_)) => {
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*address, 32))
            }
            Subtree::Address(address @ IpAddr::V6(_)) => {
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*address, 128))
            }
        };
        if !permitted.contains(&subtree) {
            permitted.push(subtree);
        }
    }
    // Kinds of names without an entry are unconstrained, so each kind needs one.
    if !permitted.iter().any(|subtree| matches!(subtree, GeneralSubtree::DnsName(_))) {
        permitted.push(GeneralSubtree::DnsName(NO_NAME.to_owned()));
    }
    let mut excluded = Vec::new();
    if !permitted.iter().any(|subtree| matches!(subtree, GeneralSubtree::IpAddress(_))) {
        for all in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(all, 0)));
        }
    }
    Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded })
}

/// Hosts that an authority may vouch for, as its certificate says. An empty list of permitted names
/// permits all.
///
/// `Default` is the scope of a certificate without constraints: any host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NameScope {
    /// Permitted DNS names.
    names: Vec<String>,
    /// Permitted address ranges.
    ranges: Vec<IpNet>,
    /// Excluded DNS names.
    no_names: Vec<String>,
    /// Excluded address ranges.
    no_ranges: Vec<IpNet>,
}

impl NameScope {
    /// Reads the constraints of a certificate.
    ///
    /// # Errors
    /// If the extension is malformed; the text says how.
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Result<NameScope, String> {
        let found = certificate.name_constraints().map_err(|error| error.to_string())?;
        let mut scope = NameScope::default();
        let Some(constraints) = found.map(|extension| extension.value) else {
            return Ok(scope);
        };
        read(constraints.permitted_subtrees.as_deref(), &mut scope.names, &mut scope.ranges)?;
        read(constraints.excluded_subtrees.as_deref(), &mut scope.no_names, &mut scope.no_ranges)?;
        Ok(scope)
    }

    /// True if the authority may vouch for all of `subtree`.
    ///
    /// A name is covered with all names below it, so an excluded name below it leaves it uncovered.
    pub fn covers(&self, subtree: &Subtree) -> bool {
        match subtree {
            Subtree::Any => *self == NameScope::default(),
            Subtree::Name(name) => {
                let permitted = self.names.is_empty() || self.names.iter().any(|above| is_below(name, above));
                let excluded = |other: &String| is_below(name, other) || is_below(other, name);
                permitted && !self.no_names.iter().any(excluded)
            }
            Subtree::Address(address) => {
                let permitted = self.ranges.is_empty() || self.ranges.iter().any(|range| range.contains(address));
                permitted && !self.no_ranges.iter().any(|range| range.contains(address))
            }
        }
    }
}

impl fmt::Display for NameScope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == NameScope::default() {
            return out.write_str("any host");
        }
        let names: Vec<_> = self.names.iter().filter(|name| *name != NO_NAME).collect();
        let mut parts: Vec<String> = names.iter().map(|name| (*name).clone()).collect();
        parts.extend(self.ranges.iter().map(|range| match range.prefix_len() == range.max_prefix_len() {
            true => range.addr().to_string(),
            false => range.to_string(),
        }));
        match names.len() {
            0 if parts.is_empty() => parts.push("no host".to_owned()),
            0 => {}
            1 => parts.push("and what is below this name".to_owned()),
            _ => parts.push("and what is below these names".to_owned()),
        }
        out.write_str(&parts.join(", "))
    }
}

/// Sorts subtrees into names and ranges.
///
/// # Errors
/// If an address range is malformed.
fn read(
    subtrees: Option<&[ParsedSubtree<'_>]>,
    names: &mut Vec<String>,
    ranges: &mut Vec<IpNet>,
) -> Result<(), String> {
    for subtree in subtrees.unwrap_or_default() {
        match &subtree.base {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => ranges.push(range(bytes)?),
            // These kinds do not occur in our leaves.
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::URI(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => {}
        }
    }
    Ok(())
}

/// Decodes an address followed by its mask.
///
/// # Errors
/// If it has neither 8 nor 32 bytes, or if the mask is no prefix.
fn range(bytes: &[u8]) -> Result<IpNet, String> {
    let (address, mask) = match bytes.len() {
        8 => (v4(&bytes[..4]), v4(&bytes[4..])),
        32 => (v6(&bytes[..16]), v6(&bytes[16..])),
        length => return Err(format!("an address with its mask has 8 or 32 bytes, not {length}")),
    };
    match (address, mask) {
        (Some(address), Some(mask)) => IpNet::with_netmask(address, mask).map_err(|error| error.to_string()),
        _ => Err("an address cannot be read".to_owned()),
    }
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from)
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// True if `name` equals `above` or is below it.
fn is_below(name: &str, above: &str) -> bool {
    let rest = name.strip_suffix(above.trim_start_matches('.'));
    match rest {
        // The empty name is above all.
        Some(_) if above.is_empty() => true,
        // A leading dot covers only what is below the name, as in most clients.
        Some(rest) => rest.ends_with('.') || (rest.is_empty() && !above.starts_with('.')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn name(text: &str) -> Subtree {
        Subtree::Name(text.to_owned())
    }

    fn address(text: &str) -> Subtree {
        Subtree::Address(text.parse().unwrap())
    }

    /// Scope of a certificate with the constraints for these names.
    fn scope(covers: &[Subtree]) -> NameScope {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.name_constraints = constraints(covers);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        NameScope::of(&x509_parser::parse_x509_certificate(certificate.der()).unwrap().1).unwrap()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let scope = scope(&[name("api.example"), name("api.example"), address("192.0.2.1"), address("2001:db8::1")]);
        for covered in [name("api.example"), name("a.b.api.example"), address("192.0.2.1"), address("2001:db8::1")] {
            assert!(scope.covers(&covered), "{covered:?}");
        }
        for not in [name("example"), name("xapi.example"), address("192.0.2.2"), address("2001:db8::2"), Subtree::Any] {
            assert!(!scope.covers(&not), "{not:?}");
        }
        assert_eq!(scope.to_string(), "api.example, 192.0.2.1, 2001:db8::1, and what is below this name");
    }

    #[test]
    fn where_only_names_are_covered_no_address_is_and_the_other_way_round() {
        let names = scope(&[name("a.example")]);
        assert!(!names.covers(&address("192.0.2.1")) && !names.covers(&address("2001:db8::1")));
        let addresses = scope(&[address("192.0.2.1")]);
        assert!(!addresses.covers(&name("a.example")) && !addresses.covers(&address("2001:db8::1")));
        assert_eq!(addresses.to_string(), "192.0.2.1");
        assert_eq!(scope(&[]).to_string(), "no host");
    }

    #[test]
    fn whoever_covers_all_has_no_constraints() {
        let scope = scope(&[name("a.example"), Subtree::Any]);
        assert!(scope.covers(&Subtree::Any) && scope.covers(&name("x")) && scope.covers(&address("::1")));
        assert_eq!(scope.to_string(), "any host");
    }

    #[test]
    fn what_is_excluded_is_not_covered() {
        let scope = NameScope {
            names: vec!["example".to_owned()],
            no_names: vec![".b.example".to_owned(), String::new()],
            ..NameScope::default()
        };
        assert!(!scope.covers(&name("a.example")), "the empty name is above all");
        let scope = NameScope { no_names: vec![".b.example".to_owned()], ..scope };
        assert!(scope.covers(&name("a.example")));
        assert!(!scope.covers(&name("b.example")), "what is below it is not all covered");
        assert!(!scope.covers(&name("c.b.example")));
    }
}
