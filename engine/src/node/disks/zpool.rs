//! What `zpool` prints about pools. (PVE: pve-storage PVE/API2/Disks/ZFS.pm)

use serde_json::{Map, Value, json};

/// Columns of a pool list, in the order in which they are asked for.
pub const COLUMNS: &str = "name,size,alloc,free,frag,dedup,health";

/// Rows of `zpool list -HpPLo COLUMNS`.
pub fn list(text: &str) -> Vec<Value> {
    let number = |text: &str| text.trim_end_matches(['%', 'x']).parse::<f64>().unwrap_or(0.0);
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [name, size, alloc, free, frag, dedup, health] = fields.as_slice() else { return None };
            let whole = |text: &str| number(text) as u64;
            Some(json!({
                "name": name, "size": whole(size), "alloc": whole(alloc), "free": whole(free), "frag": whole(frag),
                "dedup": number(dedup), "health": health,
            }))
        })
        .collect()
}

/// A device of a pool, with those that it is made of.
struct Vdev {
    level: usize,
    row: Map<String, Value>,
    children: Vec<Vdev>,
}

/// The tree of `zpool status -P NAME`: fields of the pool, and its devices as `children`.
pub fn status(text: &str) -> Value {
    let mut pool: Map<String, Value> = Map::new();
    let mut field = String::new();
    let mut devices = Vec::new();
    let mut in_config = false;
    for line in text.lines() {
        let trimmed = line.trim();
        let named = trimmed.split_once(": ").filter(|(key, value)| !key.contains(' ') && !value.trim().is_empty());
        if let Some((key, value)) = named.filter(|(key, _)| !in_config || *key == "errors") {
            field = key.to_owned();
            in_config = false;
            pool.insert(field.clone(), json!(value.trim()));
        } else if trimmed == "config:" {
            in_config = true;
        } else if in_config {
            devices.extend(device(line));
        } else if !trimmed.is_empty()
            && let Some(Value::String(text)) = pool.get_mut(&field)
        {
            text.push(' ');
            text.push_str(trimmed);
        }
    }
    let name = pool.remove("pool").unwrap_or_else(|| json!(""));
    pool.insert("name".into(), name);
    let children = nest(devices);
    pool.insert("leaf".into(), json!(u8::from(children.is_empty())));
    if !children.is_empty() {
        pool.insert("children".into(), children.into_iter().map(shape).collect());
    }
    Value::Object(pool)
}

/// A line of the table: a tab, two blanks for each level, name, state, three counters and a remark.
fn device(line: &str) -> Option<Vdev> {
    let indent = line.trim_start_matches('\t');
    let level = (indent.len() - indent.trim_start().len()) / 2 + 1;
    let mut words = line.split_whitespace();
    let name = words.next().filter(|name| *name != "NAME")?;
    let mut row = Map::new();
    row.insert("name".into(), json!(name));
    if let Some(state) = words.next() {
        row.insert("state".into(), json!(state));
    }
    let rest: Vec<&str> = words.collect();
    let counters: Vec<f64> = rest.iter().take(3).filter_map(|word| counter(word)).collect();
    let remark = if counters.len() == 3 {
        for (key, count) in ["read", "write", "cksum"].into_iter().zip(&counters) {
            row.insert(key.into(), json!(*count as u64));
        }
        rest[3..].join(" ")
    } else {
        rest.join(" ")
    };
    row.insert("msg".into(), json!(remark));
    Some(Vdev { level, row, children: Vec::new() })
}

/// Counters are shortened from a thousand on: `1.5K`.
fn counter(word: &str) -> Option<f64> {
    let units = [('K', 1e3), ('M', 1e6), ('G', 1e9), ('T', 1e12)];
    let unit = units.iter().find_map(|(letter, factor)| Some((word.strip_suffix(*letter)?, *factor)));
    let (digits, factor) = unit.unwrap_or((word, 1.0));
    digits.parse::<f64>().ok().map(|value| value * factor)
}

/// Puts devices below those that they belong to.
fn nest(devices: Vec<Vdev>) -> Vec<Vdev> {
    let mut roots: Vec<Vdev> = Vec::new();
    for device in devices {
        let mut place = &mut roots;
        while place.last().is_some_and(|last| last.level < device.level) {
            place = &mut place.last_mut().expect("the loop has just seen it").children;
        }
        place.push(device);
    }
    roots
}

fn shape(device: Vdev) -> Value {
    let mut row = device.row;
    row.insert("leaf".into(), json!(u8::from(device.children.is_empty())));
    if !device.children.is_empty() {
        row.insert("children".into(), device.children.into_iter().map(shape).collect());
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers() {
        let rows = list("tank\t1992864825344\t847872\t1992863977472\t0\t1.00\tONLINE\nodd\n");
        assert_eq!(
            rows,
            [json!({"name": "tank", "size": 1_992_864_825_344_u64, "alloc": 847_872, "free": 1_992_863_977_472_u64,
                    "frag": 0, "dedup": 1.0, "health": "ONLINE"})]
        );
    }

    #[test]
    fn the_tree_follows_the_indentation() {
        let tree = status(
            "  pool: tank\n state: DEGRADED\nstatus: One or more devices\n\tcould not be used.\n  scan: none requested\n\
             config:\n\n\tNAME          STATE     READ WRITE CKSUM\n\ttank          DEGRADED     0     0     0\n\
             \t  mirror-0    DEGRADED     0     0     0\n\t    /dev/sdb1  ONLINE       0  1.5K     2\n\
             \t    /dev/sdc1  UNAVAIL      0     0     0  cannot open\n\tspares\n\t  /dev/sdd1    AVAIL\n\n\
             errors: No known data errors\n",
        );
        assert_eq!((tree["name"].as_str(), tree["state"].as_str()), (Some("tank"), Some("DEGRADED")));
        assert_eq!(tree["status"], "One or more devices could not be used.");
        assert_eq!(tree["errors"], "No known data errors");
        let mirror = &tree["children"][0]["children"][0];
        assert_eq!((mirror["name"].as_str(), mirror["leaf"].as_u64()), (Some("mirror-0"), Some(0)));
        assert_eq!(mirror["children"][0]["write"], 1500);
        assert_eq!(mirror["children"][1]["msg"], "cannot open");
        assert_eq!(
            tree["children"][1]["children"][0],
            json!({"name": "/dev/sdd1", "state": "AVAIL", "msg": "", "leaf": 1})
        );
    }
}
