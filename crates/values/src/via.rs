//! The gateway through which this machine reaches others, as it is written.

use std::str::FromStr;

use crate::endpoint::Endpoint;
use crate::invalid::Invalid;
use crate::vsock::VsockAddr;

/// The variable, in the environment and in the configuration file.
pub const VARIABLE: &str = "VSOCK_BRIDGE_VIA";

/// How ports of other machines are reached.
///
/// Text form: the address of a gateway, such as `vsock:host:1080`, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// As they are.
    Nobody,
    /// The gateway there is asked for them.
    Gateway(Endpoint),
}

impl FromStr for Via {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Via, Invalid> {
        if text == "none" {
            return Ok(Via::Nobody);
        }
        let hint = "expected where the gateway listens, e.g. vsock:host:1080, or none";
        // Such as `host`, which what is wrong with an address would not help.
        if !text.contains([':', '/', '@']) {
            return Err(Invalid::new("gateway", text, hint));
        }
        match text.parse()? {
            endpoint @ (Endpoint::Vsock(VsockAddr { cid: Some(_), .. })
            | Endpoint::Tcp(_)
            | Endpoint::Unix(_)) => Ok(Via::Gateway(endpoint)),
            _ => Err(Invalid::new("gateway", text, hint)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_an_address_that_needs_no_names() {
        assert_eq!("none".parse(), Ok(Via::Nobody));
        for (text, printed) in [
            ("vsock:host:1080", "vsock:2:1080"),
            ("vsock:9:1", "vsock:9:1"),
            ("[::1]:1080", "[::1]:1080"),
            ("unix:/run/gateway.sock", "/run/gateway.sock"),
        ] {
            let Via::Gateway(endpoint) = text.parse().unwrap() else {
                panic!("{text}")
            };
            assert_eq!(endpoint.to_string(), printed);
        }
        for text in [
            "",
            "host",
            "1080",
            "vsock::1080",
            "vsock:web:1080",
            "vsock:mapped",
            "proxy.example.net:1080",
            "gateway",
            "vsock-mux:/run/vm.vsock:1080",
            "None",
        ] {
            assert!(text.parse::<Via>().is_err(), "{text}");
        }
        for text in ["host", "1080", "gateway", "vsock:web:1080"] {
            let error = text.parse::<Via>().unwrap_err().to_string();
            assert!(error.contains("e.g. vsock:host:1080"), "{error}");
        }
    }
}
