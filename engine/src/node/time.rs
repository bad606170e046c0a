//! `/nodes/{node}/time`: the clock and its time zone. (PVE: pve-common PVE/Systemd.pm, get_timezone, set_timezone)

use crate::{Call, Context, Error, Reply, Result, error::ResultExt, file};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};

/// Where the system keeps its zones.
const ZONES: &str = "/usr/share/zoneinfo";

/// `GET /nodes/{node}/time`; `localtime` is the local clock, read as if it were UTC.
pub fn get(call: &Call) -> Result<Reply> {
    let now = call.ctx.clock.now();
    let name = zone_name(call.ctx);
    let zone = TimeZone::get(&name).unwrap_or(TimeZone::UTC);
    let offset = Timestamp::from_second(now).map_or(0, |time| zone.to_offset(time).seconds());
    Ok(Reply::from(json!({ "timezone": name, "time": now, "localtime": now + i64::from(offset) })))
}

/// `TZ` if it names a zone, else what `/etc/localtime` points to, else the text of `/etc/timezone`.
fn zone_name(ctx: &Context) -> String {
    let from_environment = || std::env::var("TZ").ok().filter(|name| is_zone(name));
    let from_link = || {
        let target = fs::read_link(ctx.root.path("/etc/localtime")).ok()?;
        let target = target.to_str()?;
        target.split_once("zoneinfo/").map(|(_, name)| name.to_owned())
    };
    let from_file = || fs::read_to_string(ctx.root.path("/etc/timezone")).ok().map(|text| text.trim().to_owned());
    from_environment()
        .or_else(from_link)
        .or_else(from_file)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "UTC".into())
}

/// Whether the system knows the zone; a name cannot leave the zones' directory.
fn is_zone(name: &str) -> bool {
    let is_below = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    !name.is_empty() && is_below && Path::new(ZONES).join(name).is_file()
}

/// `PUT /nodes/{node}/time`.
pub fn put(call: &Call) -> Result<Reply> {
    let name: String = call.param("timezone")?;
    if !is_zone(&name) {
        return Err(Error::parameter("timezone", "No such timezone"));
    }
    let link = call.ctx.root.path("/etc/localtime");
    let temporary = link.with_extension("new");
    let place = || format!("unable to write '{}'", link.display());
    // What an interrupted call may have left.
    let _ = fs::remove_file(&temporary);
    symlink(Path::new(ZONES).join(&name), &temporary).context(place)?;
    fs::rename(&temporary, &link).context(place)?;
    file::replace(&call.ctx.root.path("/etc/timezone"), format!("{name}\n").as_bytes(), 0o644)?;
    Ok(Reply::null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_directory_of_zones() {
        for bad in ["", "../../etc/passwd", "/etc/passwd", "Europe", "Nowhere/Town"] {
            assert!(!is_zone(bad), "{bad}");
        }
    }

    #[test]
    fn the_link_is_believed_before_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        fs::create_dir_all(ctx.root.path("/etc")).unwrap();
        fs::write(ctx.root.path("/etc/timezone"), "Asia/Tokyo\n").unwrap();
        if std::env::var_os("TZ").is_none() {
            assert_eq!(zone_name(&ctx), "Asia/Tokyo");
            symlink("../usr/share/zoneinfo/Europe/Vienna", ctx.root.path("/etc/localtime")).unwrap();
            assert_eq!(zone_name(&ctx), "Europe/Vienna");
        }
    }
}
