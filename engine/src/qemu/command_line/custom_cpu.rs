//! CPU models of the administrator's own making. (PVE: qemu-server CPUConfig.pm, get_custom_model)

use super::builder::{Builder, fail};
use crate::Result;
use crate::qemu::config::Properties;
use std::collections::BTreeMap;

/// One of them: what it is to QEMU, and what it sets.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct CustomModel {
    values: BTreeMap<String, String>,
}

impl CustomModel {
    /// The model that an option names, if it names one of these.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named(builder: &Builder, cpu: &Properties) -> Result<Option<Self>> {
        let Some(name) = cpu.text("cputype").and_then(|name| name.strip_prefix("custom-").map(str::to_owned)) else {
            return Ok(None);
        };
        match builder.around.cpu_models.get(&name) {
            Some(values) => Ok(Some(CustomModel { values: values.clone() })),
            None => fail(format!("Custom cputype '{name}' not found")),
        }
    }

    /// QEMU's model.
    pub fn reported(&self) -> String {
        self.text("reported-model").unwrap_or("kvm64").to_owned()
    }

    /// A value; what is empty or `0` counts as not set.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|text| !text.is_empty() && *text != "0")
    }
}
