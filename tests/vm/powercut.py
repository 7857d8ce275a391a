#!/usr/bin/python3
"""Cut the power while pop3d rewrites mailboxes: real file systems, rebuilt as a cut may leave them; see README.

    powercut.py [-s] [scenario ...]             all, within an hour; -s: a short form in ten minutes
    powercut.py -p FIRST-LAST scenario          these points of what was recorded last, four times each
"""

import argparse
import json
import subprocess
import sys
import time

import machine

OURS = ["pop3d-stub", "pop3d-stub-area4k", "pop3d-stub-area0", "pop3d-stub-index"]
CONTRAST = ["pop3d-stub-norecords", "popa3d"]
SCENARIOS = {                           # file system, options of mount, SYNC of guest/record.py, servers
    "ext4": ("ext4", "-", 1, OURS + CONTRAST[:1]),
    "writeback": ("ext4", "data=writeback", 1, OURS + CONTRAST[:1]),
    "xfs": ("xfs", "-", 1, OURS + CONTRAST[:1]),
    "btrfs": ("btrfs", "-", 1, OURS + CONTRAST[:1]),
    "ext4-nosync": ("ext4", "-", 2, OURS + CONTRAST[:1]),
    "writeback-nosync": ("ext4", "data=writeback", 2, OURS + CONTRAST[:1]),
    "xfs-nosync": ("xfs", "-", 2, OURS + CONTRAST[:1]),
    "btrfs-nosync": ("btrfs", "-", 2, OURS + CONTRAST[:1]),
    "popa3d": ("ext4", "-", 1, ["/usr/sbin/popa3d"] * 2 + CONTRAST[:1]),
}
SHORT = ["ext4", "xfs-nosync"]
DISK = 336 << 20


def record(name, sessions, seed):
    """Sessions on the scenario's disk; its log is logs/NAME.log. What they did, or None."""
    kind, options, sync, servers = SCENARIOS[name]
    socket, image = machine.WORK / f"{name}.nbd", machine.WORK / f"{name}.disk"
    log = machine.WORK / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    socket.unlink(missing_ok=True)
    disk = subprocess.Popen([machine.HERE / "nbdlog.py", socket, image, str(DISK), log])
    try:
        while not socket.exists():
            time.sleep(0.1)
        return machine.run(
            ["record.py", kind, options, sessions, sync, seed, *servers],
            ["-net", "none", "-device", "virtio-scsi-pci", *machine.nbd(socket, "data"),
             "-device", "scsi-hd,drive=data,write-cache=on,dpofua=on", *machine.nbd(socket, "mark"),
             "-device", "virtio-blk-pci,drive=mark"], f"record.{name}", 60 * sessions)
    finally:
        if disk.poll() is None:
            time.sleep(1)
            disk.terminate()
        disk.wait()
        socket.unlink(missing_ok=True)
        image.unlink(missing_ok=True)


def check(name, seconds, seed, points):
    """What guest/check.py said, or None."""
    shared = machine.HOST / "logs" / f"{name}.log"
    shared.parent.mkdir(exist_ok=True)
    shared.unlink(missing_ok=True)
    shared.hardlink_to(machine.WORK / "logs" / f"{name}.log")
    job = ["check.py", name, seed, seconds, points]
    return machine.run(job, ["-net", "none"], f"check.{name}", 2 * seconds + 300, memory=3000)


def twice(job, *args):
    """Machines that do not come up are an accident of the laboratory."""
    said = job(*args) or job(*args)
    if said is None:
        sys.exit(f"{job.__name__} {args[0]}: no machine came to its end; see {machine.OUT}")
    return said


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true", help="short form")
    parser.add_argument("-p", metavar="FIRST-LAST", help="points of what was recorded last")
    parser.add_argument("-t", type=int, metavar="SECONDS", help="how long to look at points, for each scenario")
    parser.add_argument("-r", type=int, default=0, metavar="SEED", help="other sessions, other points")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=", ".join(SCENARIOS))
    args = parser.parse_args()
    machine.prepare()
    table, harmed, blind = [], 0, []
    for name in args.scenarios or (SHORT if args.s else SCENARIOS):
        if not args.p:
            print(time.strftime("%T"), "record", name, flush=True)
            print(twice(record, name, 5 if args.s else 8, args.r), flush=True)
        print(time.strftime("%T"), "check", name, flush=True)
        said = twice(check, name, args.t or (100 if args.s else 270), args.r, args.p or 400)
        print(said, flush=True)
        result = json.loads(said.rpartition("RESULT ")[2])

        def total(what, servers):
            return sum(result[what].get(server, 0) for server in servers)

        harmed += total("harmed", OURS)
        if not args.p and not total("harmed", CONTRAST):
            blind.append(name)
        table.append(f"{name:<17} points {result['counts'].get('points', 0):>4}   mailboxes in UPDATE, harmed:"
                     f" {total('updates', OURS):>4} {total('harmed', OURS):>3}"
                     f"   without records {total('updates', CONTRAST):>4} {total('harmed', CONTRAST):>3}")
    print(*table, sep="\n")
    if blind:
        print("BLIND: without records nothing was harmed either:", *blind)
    return bool(harmed or blind)


if __name__ == "__main__":
    sys.exit(main())
