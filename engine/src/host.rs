//! Facts of the machine. What is probed here can be replaced by a JSON file (`PVE_HOST_FACTS`), for tests and for
//! planning on another machine.

use crate::{Result, error::ResultExt};
use serde_json::{Map, Value};

/// The machine's facts: what the file names wins over what is probed.
#[derive(Debug, Default)]
pub struct Host {
    overrides: Map<String, Value>,
}

impl Host {
    /// Facts with replacements, as the file of `PVE_HOST_FACTS` has them.
    pub fn with_overrides(overrides: Map<String, Value>) -> Self {
        Host { overrides }
    }

    /// Probed facts, replaced by the file that `PVE_HOST_FACTS` names.
    pub fn from_env() -> Result<Self> {
        let Some(file) = std::env::var_os("PVE_HOST_FACTS") else {
            return Ok(Host::default());
        };
        let place = || format!("PVE_HOST_FACTS {}", file.to_string_lossy());
        let text = std::fs::read_to_string(&file).context(place)?;
        let overrides =
            serde_json::from_str(&text).map_err(|error| crate::Error::new(error.to_string())).context(place)?;
        Ok(Host { overrides })
    }

    /// A replaced fact, if the file names it.
    pub fn replaced(&self, key: &str) -> Option<&Value> {
        self.overrides.get(key)
    }

    /// The node's name: `PVE_NODENAME`, else the replaced fact, else the host name up to its first dot.
    pub fn node_name(&self) -> String {
        if let Ok(name) = std::env::var("PVE_NODENAME")
            && !name.is_empty()
        {
            return name;
        }
        if let Some(Value::String(name)) = self.replaced("nodename") {
            return name.clone();
        }
        let uname = rustix::system::uname();
        let name = uname.nodename().to_string_lossy();
        name.split('.').next().filter(|name| !name.is_empty()).unwrap_or("localhost").to_owned()
    }
}
