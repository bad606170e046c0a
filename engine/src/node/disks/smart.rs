//! What a disk says about its own health, as `smartctl` prints it.
//! (PVE: pve-storage PVE/Diskmanage.pm, get_smart_data and get_wear_leveling_info)

use crate::tool::Tool;
use crate::{Context, Error, Result};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a disk may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Bits of the exit code that mean that there was no answer; the others tell about the disk. (smartctl(8))
const FATAL_BITS: i32 = 0b11;

/// Attributes that tell how much of a flash disk's life is left, the most telling first.
const WEAR_ATTRIBUTES: [&str; 13] = [
    "Media_Wearout_Indicator",
    "SSD_Life_Left",
    "Wear_Leveling_Count",
    "Perc_Write/Erase_Ct_BC",
    "Perc_Rated_Life_Remain",
    "Remaining_Lifetime_Perc",
    "Percent_Lifetime_Remain",
    "Lifetime_Left",
    "PCT_Life_Remaining",
    "Lifetime_Remaining",
    "Percent_Life_Remaining",
    "Percent_Lifetime_Used",
    "Perc_Rated_Life_Used",
];

/// A disk's answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Smart {
    /// `PASSED`, `OK`, `FAILED!`, …
    pub health: Option<String>,
    /// `ata` with a table of attributes, `text` otherwise.
    pub kind: Option<&'static str>,
    /// The table, of ATA disks.
    pub attributes: Vec<Attribute>,
    /// The text, of SAS and NVMe disks.
    pub text: Option<String>,
    /// Percent of life that are left, where the text says so.
    pub wearout: Option<f64>,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// Its number, padded as printed.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Flags as printed.
    pub flags: String,
    /// The value on the vendor's scale.
    pub value: u64,
    /// The worst value so far.
    pub worst: u64,
    /// Below this the disk is failing.
    pub threshold: u64,
    /// `-`, or when it failed.
    pub fail: String,
    /// The vendor's own number.
    pub raw: String,
}

/// Asks a disk; `health_only` leaves the attributes out.
pub fn read(ctx: &Context, device: &str, health_only: bool) -> Result<Smart> {
    let mut tool = Tool::new("smartctl").arg("-H");
    if !health_only {
        tool = tool.args(["-A", "-f", "brief"]);
    }
    let failed = |reason: String| Error::new(format!("Error getting S.M.A.R.T. data: {reason}"));
    let ended =
        tool.args(["--", device]).within(ANSWER).end(ctx).map_err(|error| failed(error.message().to_owned()))?;
    if ended.code & FATAL_BITS != 0 {
        return Err(failed(format!("Exit code: {}", ended.code)));
    }
    Ok(parse(&ended.stdout))
}

fn parse(text: &str) -> Smart {
    let mut smart = Smart::default();
    for line in text.lines() {
        let health = ["Health Status: ", "self-assessment test result: "].iter().find_map(|key| {
            let start = line.find(key)?;
            Some(line[start + key.len()..].to_owned())
        });
        let attribute = (smart.kind == Some("ata")).then(|| attribute(line)).flatten();
        if let Some(attribute) = attribute {
            smart.attributes.push(attribute);
        } else if health.is_some() {
            smart.health = health;
        } else if line.contains("Vendor Specific SMART Attributes with Thresholds:") {
            smart.kind = Some("ata");
            smart.text = None;
        } else if line.contains("=== START OF SMART DATA SECTION ===")
            || line.contains("=== START OF READ SMART DATA SECTION ===")
        {
            smart.kind = Some("text");
        } else if smart.kind == Some("text") {
            let text = smart.text.get_or_insert_default();
            text.push_str(line);
            text.push('\n');
            smart.wearout = used_percent(line).map(|used| 100.0 - used).or(smart.wearout);
        } else if line.contains("SMART Disabled") {
            smart.health = Some("SMART Disabled".into());
        }
    }
    smart
}

/// `Percentage Used: 3%` of NVMe, `Percentage used endurance indicator: 3%` of SAS.
fn used_percent(line: &str) -> Option<f64> {
    let lower = line.to_lowercase();
    let rest = &lower[lower.find("percentage used")? + "percentage used".len()..];
    let rest = rest.strip_prefix(" endurance indicator").unwrap_or(rest).strip_prefix(':')?.trim_start();
    rest[..rest.find('%')?].parse().ok()
}

/// A row such as `  1 Raw_Read_Error_Rate     POSR-K   100   100   000    -    0`.
fn attribute(line: &str) -> Option<Attribute> {
    let id = line.get(..3).filter(|id| id.trim().parse::<u8>().is_ok())?;
    let mut rest = line.get(3..)?;
    let mut field = || {
        rest = rest.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (field, tail) = rest.split_at(end);
        rest = tail;
        (!field.is_empty()).then(|| field.to_owned())
    };
    let (name, flags) = (field()?, field()?);
    if flags.len() != 6 {
        return None;
    }
    let (value, worst) = (field()?.parse().ok()?, field()?.parse().ok()?);
    // Some disks have no threshold and print `---`.
    let threshold = field()?.parse().unwrap_or(0);
    let fail = field()?;
    Some(Attribute { id: id.to_owned(), name, flags, value, worst, threshold, fail, raw: rest.trim_start().to_owned() })
}

impl Smart {
    /// Percent of a flash disk's life that are left, if it tells.
    pub fn life_left(&self) -> Option<f64> {
        self.wearout.or_else(|| {
            let named = |name: &str| self.attributes.iter().find(|attribute| attribute.name.contains(name));
            WEAR_ATTRIBUTES.iter().find_map(|name| named(name)).map(|attribute| attribute.value as f64)
        })
    }

    /// The answer of the API.
    pub fn shape(&self) -> Value {
        let mut answer = json!({ "health": self.health.as_deref().unwrap_or("UNKNOWN") });
        if let Some(kind) = self.kind {
            answer["type"] = json!(kind);
        }
        if let Some(text) = &self.text {
            answer["text"] = json!(text);
        }
        if let Some(wearout) = self.wearout {
            answer["wearout"] = number(wearout);
        }
        if !self.attributes.is_empty() {
            answer["attributes"] = self.attributes.iter().map(Attribute::shape).collect();
        }
        answer
    }
}

/// A whole number without its fraction.
pub fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

impl Attribute {
    fn shape(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "flags": self.flags, "value": self.value, "normalized": self.value,
            "worst": self.worst, "threshold": self.threshold, "fail": self.fail, "raw": self.raw,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ata_disks_have_a_table() {
        let smart = parse(
            "=== START OF READ SMART DATA SECTION ===\nSMART overall-health self-assessment test result: PASSED\n\n\
             SMART Attributes Data Structure revision number: 16\n\
             Vendor Specific SMART Attributes with Thresholds:\n\
             ID# ATTRIBUTE_NAME          FLAGS    VALUE WORST THRESH FAIL RAW_VALUE\n\
             \x20 5 Reallocated_Sector_Ct   PO--CK   100   099   010    -    0\n\
             190 Airflow_Temperature_Cel -O--CK   069   052   ---    -    31 (Min/Max 20/48)\n\
             233 Media_Wearout_Indicator -O--CK   097   097   000    -    0\n\
                                         ||||||_ K auto-keep\n",
        );
        assert_eq!((smart.health.as_deref(), smart.kind, smart.text.as_deref()), (Some("PASSED"), Some("ata"), None));
        assert_eq!(smart.attributes.len(), 3);
        assert_eq!((smart.attributes[0].id.as_str(), smart.attributes[0].worst), ("  5", 99));
        assert_eq!((smart.attributes[1].threshold, smart.attributes[1].raw.as_str()), (0, "31 (Min/Max 20/48)"));
        assert_eq!(smart.life_left(), Some(97.0));
        assert_eq!(smart.shape()["attributes"][2]["normalized"], 97);
    }

    #[test]
    fn others_have_a_text() {
        let smart = parse(
            "=== START OF SMART DATA SECTION ===\nSMART overall-health self-assessment test result: PASSED\n\n\
             SMART/Health Information (NVMe Log 0x02)\nCritical Warning:  0x00\nPercentage Used:                    3%\n",
        );
        assert_eq!((smart.kind, smart.life_left()), (Some("text"), Some(97.0)));
        assert!(smart.text.unwrap().contains("Critical Warning"));
        let sas = parse("SMART Health Status: OK\nPercentage used endurance indicator: 2.5%\n");
        assert_eq!((sas.health.as_deref(), sas.kind), (Some("OK"), None));
        assert_eq!(used_percent("Percentage used endurance indicator: 2.5%"), Some(2.5));
        assert_eq!(parse("").shape(), json!({"health": "UNKNOWN"}));
        assert_eq!(parse("SMART Disabled. Use -s on\n").health.as_deref(), Some("SMART Disabled"));
    }
}
