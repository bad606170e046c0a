//! Sound cards. (PVE: QemuServer.pm, conf_has_audio and audio_devs)

use super::builder::Builder;
use crate::Result;

/// Adds the sound card.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    let Some(audio) = builder.vm.properties("~pve-qm-audio0", "audio0")?.filter(|_| builder.at_least(4, 0)) else {
        return Ok(());
    };
    let card = audio.text("device").unwrap_or_default();
    let driver = audio.text("driver").unwrap_or_else(|| "spice".into());
    let backend = format!("{driver}-backend0");
    let address = builder.pci_address("audio0");
    let plug = if builder.at_least(4, 2) { format!(",audiodev={backend}") } else { String::new() };
    if card == "AC97" {
        builder.device(format!("AC97,id=audiodev0{address}{plug}"));
    } else {
        builder.device(format!("{card},id=audiodev0{address}"));
        builder.device(format!("hda-micro,id=audiodev0-codec0,bus=audiodev0.0,cad=0{plug}"));
        builder.device(format!("hda-duplex,id=audiodev0-codec1,bus=audiodev0.0,cad=1{plug}"));
    }
    builder.device_option("-audiodev", format!("{driver},id={backend}"));
    Ok(())
}
