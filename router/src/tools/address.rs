//! Which addresses a tool may connect to: those of the public internet, and those that its configuration names.
//!
//! Pure. The decision is about the very address that is connected to, after its name was resolved, so that no name can
//! be made to point elsewhere between the check and the connection. Ranges are those of the IANA registries of
//! special-purpose addresses (RFC 6890 and its updates), and the addresses at which clouds tell their machines secrets.
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Net {
    first: IpAddr,
    bits: u8,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl FromStr for Net {
    type Err = ();

    /// `10.1.2.3`, `10.0.0.0/8`, `fd00::/8`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first = address.parse::<IpAddr>().map_err(|_| ())?.to_canonical();
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse::<u8>().map_err(|_| ()))?;
        if most < bits { Err(()) } else { Ok(Self { first, bits }) }
    }
}

impl Net {
    const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Self {
        Self { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
    }

    const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Self {
        Self { first: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), bits }
    }

    /// Is this address in it?
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        // Both as 128 bits, so that one comparison does for both families.
        let (one, other, skipped) = match (self.first, address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits().into(), other.to_bits().into(), 96),
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits(), other.to_bits(), 0),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let differ: u128 = one ^ other;
        differ.leading_zeros() >= skipped + u32::from(self.bits)
    }
}

/// Not of the public internet, or not to be reached by it.
const CLOSED_V4: &[Net] = &[
    Net::v4(0, 0, 0, 0, 8),
    Net::v4(10, 0, 0, 0, 8),
    // Carriers' own; Alibaba's metadata are at 100.100.100.200.
    Net::v4(100, 64, 0, 0, 10),
    Net::v4(127, 0, 0, 0, 8),
    // Link-local; the metadata of most clouds are at 169.254.169.254.
    Net::v4(169, 254, 0, 0, 16),
    // Azure tells its machines secrets here.
    Net::v4(168, 63, 129, 16, 32),
    Net::v4(172, 16, 0, 0, 12),
    Net::v4(192, 0, 0, 0, 24),
    Net::v4(192, 0, 2, 0, 24),
    Net::v4(192, 88, 99, 0, 24),
    Net::v4(192, 168, 0, 0, 16),
    Net::v4(198, 18, 0, 0, 15),
    Net::v4(198, 51, 100, 0, 24),
    Net::v4(203, 0, 113, 0, 24),
    // Multicast, reserved, broadcast.
    Net::v4(224, 0, 0, 0, 3),
];

/// All global unicast addresses; everything else of IPv6 is closed.
const GLOBAL_V6: Net = Net::v6(0x2000, 0, 0, 3);

/// What of them is none, or holds an IPv4 address.
const CLOSED_V6: &[Net] = &[
    Net::v6(0x2001, 0, 0, 23),
    Net::v6(0x2001, 0x0db8, 0, 32),
    Net::v6(0x2002, 0, 0, 16),
    Net::v6(0x3fff, 0, 0, 20),
];

/// IPv4 addresses behind a translator, as DNS64 gives them (RFC 6052).
const TRANSLATED: Net = Net::v6(0x0064, 0xff9b, 0, 96);

/// Is this an address of the public internet?
pub(crate) fn is_public(address: IpAddr) -> bool {
    let closed = |list: &[Net], address| list.iter().any(|net| net.has(address));
    let address = address.to_canonical();
    match address {
        IpAddr::V4(_) => !closed(CLOSED_V4, address),
        IpAddr::V6(v6) if TRANSLATED.has(address) => {
            let [.., a, b, c, d] = v6.octets();
            !closed(CLOSED_V4, IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        IpAddr::V6(_) => GLOBAL_V6.has(address) && !closed(CLOSED_V6, address),
    }
}

/// What may be connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Addresses that are allowed though they are not public.
    pub(crate) allowed: Vec<Net>,
}

impl Reach {
    /// May this address be connected to?
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.allowed.iter().any(|net| net.has(address))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "168.63.129.17",
        ];
        for text in public {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        let closed = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
            "5f00::1",
            "4000::1",
        ];
        for text in closed {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_named_is_allowed_and_nothing_beside_it() {
        let reach = |list: &[&str]| Reach { allowed: list.iter().map(|net| net.parse().unwrap()).collect() };
        let permits = |reach: &Reach, text: &str| reach.permits(text.parse().unwrap());
        let one = reach(&["127.0.0.1", "10.2.0.0/15", "fd00:1::/32", "::ffff:192.168.0.0/24"]);
        for text in [
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "10.2.3.4",
            "10.3.255.255",
            "fd00:1:2::3",
            "192.168.0.9",
            "1.1.1.1",
        ] {
            assert!(permits(&one, text), "{text}");
        }
        for text in
            ["127.0.0.2", "10.4.0.0", "10.1.255.255", "fd00:2::1", "192.168.1.1", "::1", "169.254.169.254"]
        {
            assert!(!permits(&one, text), "{text}");
        }
        assert!(permits(&reach(&["0.0.0.0/0"]), "10.0.0.1") && !permits(&reach(&["0.0.0.0/0"]), "::1"));
    }

    #[test]
    fn what_is_no_net_is_refused() {
        for text in
            ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/x", "example.com", "1.2.3.4/-1"]
        {
            assert!(text.parse::<Net>().is_err(), "{text}");
        }
    }
}
