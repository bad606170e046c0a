"""Drives a node with the unmodified proxmoxer: a VM, a container, an ISO upload, error texts.

Arguments are one JSON object: host, port, node, user, password or token_name and token_value, bridge, template, iso, vmid,
ctid, steps. Ends with 0 and the word `done` when everything was as expected.
"""

import hashlib
import json
import socket
import sys
import time

from proxmoxer import ProxmoxAPI, ResourceException

given = json.loads(sys.argv[1])
login = {"password": given["password"]} if "password" in given else {
    "token_name": given["token_name"], "token_value": given["token_value"]}
api = ProxmoxAPI(given["host"], port=given["port"], user=given["user"], verify_ssl=given.get("ca", False), **login)
node = api.nodes(given["node"])


def finish(upid, expected="OK"):
    """Waits for a task as proxmoxer's own tools do and gives back its status."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = node.tasks(upid).status.get()
        if status["status"] == "stopped":
            assert status["exitstatus"] == expected, (status, node.tasks(upid).log.get())
            return status
        time.sleep(0.1)
    raise AssertionError(f"task did not end: {upid}")


def refused(expected, call, *positional, **named):
    """The call must fail with a text that proxmoxer shows."""
    try:
        call(*positional, **named)
    except ResourceException as error:
        assert expected in str(error), (expected, str(error))
        return error
    raise AssertionError(f"not refused: {expected}")


def create_virtual_machine(vmid):
    config = dict(vmid=vmid, name="client-vm", memory=256, cores=1, kvm=0, cpu="qemu64", serial0="socket", ostype="l26",
                  scsihw="virtio-scsi-pci", scsi0="local:1", net0=f"virtio,bridge={given['bridge']}")
    refused("only root can set 'args' config", node.qemu.post, **config, args="-S")
    finish(node.qemu.post(**config))
    refused("already exists", node.qemu.post, **config)
    shown = node.qemu(vmid).config.get()
    assert shown["memory"] == "256" and shown["cores"] == 1 and "size=1G" in shown["scsi0"], shown
    assert node.qemu(vmid).config.put(description="by proxmoxer") is None


def start_virtual_machine(vmid):
    finish(node.qemu(vmid).status.start.post())
    current = node.qemu(vmid).status.current.get()
    assert current["status"] == "running" and current["vmid"] == vmid, current
    listed = [row for row in api.cluster.resources.get(type="vm") if row["vmid"] == vmid]
    assert listed and listed[0]["status"] == "running" and listed[0]["template"] == 0, listed
    # A VM says so in the task, as in PVE; a container at once.
    finish(node.qemu(vmid).status.start.post(), expected=f"VM {vmid} already running")


def remove_virtual_machine(vmid):
    finish(node.qemu(vmid).status.stop.post())
    finish(node.qemu(vmid).delete(purge=1))
    refused("does not exist", node.qemu(vmid).status.current.get)


def container(ctid):
    finish(node.lxc.post(vmid=ctid, ostemplate=given["template"], hostname="client-ct", memory=64, ostype="unmanaged",
                         unprivileged=1, rootfs="local:1", net0=f"name=eth0,bridge={given['bridge']},ip=manual"))
    finish(node.lxc(ctid).status.start.post())
    current = node.lxc(ctid).status.current.get()
    assert current["status"] == "running" and current["vmid"] == ctid, current
    refused("already running", node.lxc(ctid).status.start.post)


def remove_container(ctid):
    finish(node.lxc(ctid).status.stop.post())
    finish(node.lxc(ctid).delete())
    refused("does not exist", node.lxc(ctid).status.current.get)


def upload():
    with open(given["iso"], "rb") as image:
        checksum = hashlib.file_digest(image, "sha256").hexdigest()
    with open(given["iso"], "rb") as image:
        finish(node.storage("local").upload.create(content="iso", filename=image, checksum=checksum,
                                                   **{"checksum-algorithm": "sha256"}))
    name = given["iso"].rsplit("/", 1)[1]
    found = [row for row in node.storage("local").content.get(content="iso") if row["volid"] == f"local:iso/{name}"]
    assert found and found[0]["size"] > 50_000_000, found
    finish(node.storage("local").content(f"local:iso/{name}").delete())


def errors():
    refused("Parameter verification failed", node.qemu.post, vmid="x")
    refused("does not exist", node.qemu(999999).config.get)
    refused("not implemented", api.no.such.thing.get)


steps = {"vm-create": lambda: create_virtual_machine(given["vmid"]),
         "vm-start": lambda: start_virtual_machine(given["vmid"]), "vm-remove": lambda: remove_virtual_machine(given["vmid"]),
         "ct": lambda: container(given["ctid"]), "ct-remove": lambda: remove_container(given["ctid"]),
         "upload": upload, "errors": errors}
assert api.version.get()["release"] == "9.2"
for step in given["steps"]:
    steps[step]()
print("done")
