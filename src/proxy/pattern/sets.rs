//! Set relations of host patterns: one covers another, or both have a host in common.

use super::{HostPattern, HostShape};

impl HostPattern {
    /// The port, if the pattern names one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// True if it matches every host at this port that `other` matches there.
    pub fn covers(&self, other: &HostPattern, port: u16) -> bool {
        let fits = |pattern: &HostPattern| pattern.port.is_none_or(|only| only == port);
        !fits(other) || fits(self) && self.shape.covers(&other.shape)
    }

    /// True if both match some host at some port.
    pub fn meets(&self, other: &HostPattern) -> bool {
        let ports = self.port.is_none() || other.port.is_none() || self.port == other.port;
        // Two shapes are disjoint, or one covers the other.
        ports && (self.shape.covers(&other.shape) || other.shape.covers(&self.shape))
    }
}

impl HostShape {
    /// True if this shape matches every host that `other` matches.
    fn covers(&self, other: &HostShape) -> bool {
        match (self, other) {
            (HostShape::Any, _) => true,
            (_, HostShape::Any) | (HostShape::Exact(_), HostShape::Below(_)) => false,
            (HostShape::Exact(one), HostShape::Exact(other)) => one == other,
            (HostShape::Below(suffix), HostShape::Exact(host)) => {
                host.len() > suffix.len() && host.ends_with(&**suffix)
            }
            (HostShape::Below(suffix), HostShape::Below(other)) => other.ends_with(&**suffix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_covers_another_if_nothing_of_that_is_outside() {
        for (one, other, at_443, at_80) in [
            ("*", "a.example", true, true),
            ("*:443", "a.example", true, false),
            ("a.example", "*", false, false),
            ("a.example", "a.example", true, true),
            ("a.example:443", "a.example", true, false),
            ("a.example", "a.example:443", true, true),
            ("a.example", "b.example", false, false),
            ("*.example", "a.example", true, true),
            ("*.example", "example", false, false),
            ("*.example", "xexample", false, false),
            ("*.example", "*.a.example", true, true),
            ("*.example", "*.example", true, true),
            ("*.a.example", "*.example", false, false),
            ("a.example", "*.example", false, false),
        ] {
            assert_eq!(pattern(one).covers(&pattern(other), 443), at_443, "{one} {other}");
            assert_eq!(pattern(one).covers(&pattern(other), 80), at_80, "{one} {other}");
        }
    }

    #[test]
    fn patterns_meet_if_one_host_at_one_port_is_in_both() {
        for (one, other, meet) in [
            ("*", "a.example", true),
            ("a.example", "a.example", true),
            ("a.example:80", "a.example:443", false),
            ("a.example:80", "a.example", true),
            ("*.example", "a.example", true),
            ("*.example", "example", false),
            ("*.example", "*.a.example", true),
            ("*.b.example", "*.a.example", false),
        ] {
            assert_eq!(pattern(one).meets(&pattern(other)), meet, "{one} {other}");
            assert_eq!(pattern(other).meets(&pattern(one)), meet, "{other} {one}");
        }
    }
}
