//! Blocked ports: ports of other protocols, to which a request could be crafted to speak.

/// Bad ports of the Fetch standard (fetch.spec.whatwg.org, "port blocking"), to which browsers send
/// no requests. Port 0, which is among them, is never valid here.
#[rustfmt::skip]
const BAD_PORTS: [u16; 82] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111,
    113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548,
    554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566,
    6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

/// True if requests other than CONNECT may not go to this port unless the operator lists it. An
/// SMTP server, for example, treats the request's head as errors and its content as mail.
pub(super) fn is_bad(port: u16) -> bool {
    BAD_PORTS.binary_search(&port).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_list_is_found_and_those_of_http_are_not_on_it() {
        assert!(BAD_PORTS.is_sorted() && BAD_PORTS.iter().all(|port| is_bad(*port)));
        for port in [80, 443, 3000, 5000, 6443, 8000, 8080, 8443, 9000, 9200] {
            assert!(!is_bad(port), "{port}");
        }
    }
}
