#!/usr/bin/python3
"""A host of the NFS tests: agent.py ROLE NUMBER. Calls the functions of nfsjobs.py that the virtio port names."""

import glob
import json
import os
import sys
import threading
import time
import traceback

import nfsjobs
from common import SPOOL, account
from nfsjobs import sh

MODULES = "virtio_net virtio_console virtio_blk ext4 nfs nfsv4 nfsv3 nfsd lockd sunrpc sch_netem"
SERVER = """set -e
mkdir -p /srv
blkid /dev/vda | grep -q ext4 || mkfs.ext4 -q /dev/vda
mount -t ext4 /dev/vda /srv
mkdir -p /srv/nfs /srv/mail
chown 0:8 /srv/mail
chmod 2775 /srv/mail
# What the server remembers of its clients survives it.
[ -e /srv/nfs/nfsdcld ] || cp -a /var/lib/nfs/. /srv/nfs/
mkdir -p /srv/nfs/nfsdcld /srv/nfs/v4recovery /srv/nfs/sm /srv/nfs/sm.bak
chown -R statd /srv/nfs/sm /srv/nfs/sm.bak
rm -rf /var/lib/nfs
ln -s /srv/nfs /var/lib/nfs"""
CLIENT = "mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak && chown -R statd /var/lib/nfs/sm*"


def setup(role, number):
    sh(f"modprobe -a {MODULES}; hostname host{number}; for i in 1 2 3; do echo 10.0.0.$i host$i; done >>/etc/hosts")
    while not glob.glob("/sys/class/net/e*"):
        time.sleep(0.1)
    device = nfsjobs.network()
    sh(f"ip addr add 10.0.0.{number}/24 dev {device} && ip link set {device} up", check=True)
    for i in range(4):
        account(f"u{i}")
    os.makedirs(SPOOL, exist_ok=True)
    sh("rpcbind; mkdir -p /run/rpc_pipefs; mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs")
    sh(SERVER if role == "server" else CLIENT, check=True)


def main():
    setup(sys.argv[1], int(sys.argv[2]))
    port = next(p for p in glob.glob("/sys/class/virtio-ports/*") if open(p + "/name").read().strip() == "ctl")
    fd = os.open("/dev/" + os.path.basename(port), os.O_RDWR)
    lock = threading.Lock()

    def say(**answer):
        data = json.dumps(answer).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(fd, data):]

    def do(request):
        try:
            say(id=request["id"], result=getattr(nfsjobs, request["name"])(*request["args"]))
        except BaseException as e:
            say(id=request["id"], error=f"{e!r} {traceback.format_exc()[-600:]}")

    say(id=0)
    buffer = b""
    while True:
        more = os.read(fd, 65536)
        if not more:
            time.sleep(0.05)
        buffer += more
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            threading.Thread(target=do, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
