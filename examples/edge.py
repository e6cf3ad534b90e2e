"""From the cloud to a device that is offline: when it is back it gets what still holds, the most urgent first."""

import time

from mq9_mcp import Mailbox

with Mailbox() as device:
    box = device.create(ttl=7 * 86400)
print("device: offline from now on; the cloud knows my send-only address")

with Mailbox() as cloud:
    cloud.send(box.send_only, {"do": "update to 2.4"}, priority="low")
    cloud.send(box.send_only, {"do": "report every 60 s"}, key="interval")
    cloud.send(box.send_only, {"do": "report every 15 s"}, key="interval")  # takes the place of the one before
    cloud.send(box.send_only, {"do": "open the valve for a moment"}, ttl=1)  # not when it comes late
    cloud.send(box.send_only, {"do": "stop the pump"}, priority="critical")
print("cloud: five commands are stored")
time.sleep(1.1)

with Mailbox() as device:
    # One by one: what is more urgent and arrives meanwhile overtakes what still waits.
    while got := device.fetch(box, group="device", limit=1):
        for command in got:
            print(f"device: [{command.priority}] {command.json()['do']}")
        device.ack(box, "device", got)
    device.drop(box)
