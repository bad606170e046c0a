//! The option `startup`: in which order guests are started when the node starts, and how long to wait between them.

use crate::types::split_list;
use std::fmt;
use std::str::FromStr;

/// `order=N,up=SECONDS,down=SECONDS`. (PVE: pve-common PVE/JSONSchema.pm, pve_parse_startup_order)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Startup {
    /// The place in the order; guests without one come last.
    pub order: Option<u64>,
    /// Seconds to wait after this guest before the next one is started.
    pub up: Option<u64>,
    /// Seconds that the guest may take to shut down.
    pub down: Option<u64>,
}

impl FromStr for Startup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut startup = Startup::default();
        for part in split_list(text) {
            let (key, value) = part.split_once('=').unwrap_or(("order", &part));
            let number = value.parse().map_err(|_| format!("unable to parse startup options '{text}'"))?;
            match key {
                "order" => startup.order = Some(number),
                "up" => startup.up = Some(number),
                "down" => startup.down = Some(number),
                _ => return Err(format!("unable to parse startup options '{text}'")),
            }
        }
        Ok(startup)
    }
}

impl fmt::Display for Startup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("order", self.order), ("up", self.up), ("down", self.down)];
        let texts: Vec<String> =
            parts.into_iter().filter_map(|(key, value)| value.map(|value| format!("{key}={value}"))).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_may_stand_without_its_name() {
        let startup: Startup = "3,up=30,down=60".parse().unwrap();
        assert_eq!(startup, Startup { order: Some(3), up: Some(30), down: Some(60) });
        assert_eq!(startup.to_string(), "order=3,up=30,down=60");
        assert_eq!(startup.to_string().parse::<Startup>().unwrap(), startup);
        assert!("order=x".parse::<Startup>().is_err() && "later=1".parse::<Startup>().is_err());
    }
}
