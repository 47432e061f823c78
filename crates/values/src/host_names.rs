//! Names of machines where a host of a resolver is expected: it may know another one, so it is not asked.

use crate::endpoint::Endpoint;
use crate::invalid::Invalid;
use crate::known::Known;
use crate::names::{Machine, SUFFIX};
use crate::vsock::decimal;

impl Endpoint {
    /// Refuses a TCP target that names a machine, which a resolver would be asked for: it may know another one.
    ///
    /// That is `host`, `local`, every name with `.vsock`, and those that the administrator gives. Not those of the registry,
    /// which come and go: a target would be right or wrong by what runs. A name with a dot behind, `web.:22`, is a
    /// resolver's in any case.
    pub fn no_machine_as_host(&self, names: &Known<'_>) -> Result<(), Invalid> {
        self.no_name_as_host(|machine| is_given(machine, names))
    }

    /// Refuses those of the registry as well: for whoever connects once, and now.
    pub fn no_present_machine_as_host(&self, names: &Known<'_>) -> Result<(), Invalid> {
        self.no_name_as_host(|machine| names.location(&Machine::Name(machine.to_owned())).is_ok())
    }

    fn no_name_as_host(&self, is_machine: impl Fn(&str) -> bool) -> Result<(), Invalid> {
        let Endpoint::TcpName { name, port } = self else {
            return Ok(());
        };
        let machine = match name.parse::<Machine>() {
            Ok(Machine::Cid(_)) if decimal::<u32>(name).is_none() => true,
            Ok(Machine::Name(machine)) => {
                name.to_ascii_lowercase().ends_with(SUFFIX) || is_machine(&machine)
            }
            _ => false,
        };
        if !machine {
            return Ok(());
        }
        let machine = name.to_ascii_lowercase();
        let machine = machine.trim_end_matches(SUFFIX);
        let hint = format!(
            "{name} is a machine: write vsock:{machine}:{port} for its vsock port, or {name}.:{port} for the host of that \
             name in DNS"
        );
        Err(Invalid::new("target", &self.to_string(), hint))
    }
}

/// Names that cannot be read are told to whoever needs one.
fn is_given(machine: &str, names: &Known<'_>) -> bool {
    (names.administrators()).is_ok_and(|names| names.location(machine).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::GivenNames;

    #[test]
    fn a_machine_is_no_host_of_a_resolver() {
        let given: GivenNames = "web=3".parse().unwrap();
        let refuse = |text: &str| {
            let endpoint: Endpoint = text.parse().unwrap();
            endpoint.no_machine_as_host(&Known::now(Some(&given)))
        };
        for (text, form) in [
            ("web:22", "vsock:web:22"),
            ("WEB:22", "vsock:web:22"),
            ("web.vsock:22", "vsock:web:22"),
            ("host:445", "vsock:host:445"),
            ("local:22", "vsock:local:22"),
            ("3.vsock:22", "vsock:3:22"),
            ("db.vsock:22", "vsock:db:22"),
        ] {
            let error = refuse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("write {form} ")), "{text}: {error}");
        }
        for text in [
            "db:22",
            "web.:22",
            "web.example.org:22",
            "localhost:22",
            "[::1]:22",
            "vsock:web:22",
            "/run/x.sock",
        ] {
            assert_eq!(refuse(text), Ok(()), "{text}");
        }
        let broken: GivenNames = "web".parse().unwrap();
        let endpoint: Endpoint = "web:22".parse().unwrap();
        assert_eq!(
            endpoint.no_machine_as_host(&Known::now(Some(&broken))),
            Ok(())
        );
    }
}
