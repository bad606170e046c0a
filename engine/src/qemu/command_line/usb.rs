//! USB controllers. Passing devices through is not built yet.

use super::builder::Builder;

/// The controller that the tablet is plugged into; Q35 brings its own.
pub(super) fn controllers(builder: &mut Builder) {
    if !builder.is_q35() {
        let address = builder.pci_address("piix3");
        builder.device(format!("piix3-usb-uhci,id=uhci{address}.0x2"));
    }
    // PVE looks up the place of the xHCI controller even without one, which brings its bridge in.
    builder.pci_address("xhci");
}
