#!/usr/bin/python3
"""Sessions and deliveries on a disk that remembers.

    record.py FS OPTIONS SESSIONS SYNC SEED SERVER...

OPTIONS of mount, or "-". A user for each SERVER, all at the same time, with so many sessions. SYNC: the deliverer says fsync
before it unlocks (1), not (0), or each at random (2). One session in five is killed after QUIT, but none of the servers without
records: a kill alone harms those, and here the power shall do it.
"""

import fcntl
import json
import mmap
import os
import random
import struct
import sys
import threading
import time

from common import BIN, SPOOL, Ended, Session, Store, account, mount, numbers, pattern, run, uid_of, umount

F_OFD_SETLKW = 38
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f", "-K"], "btrfs": ["mkfs.btrfs", "-q", "-f", "-K"]}
lock = threading.Lock()


class Marks:
    """What was done and heard, in the same log as the writes: each is there before the next thing is done."""

    def __init__(self):
        self.fd = os.open("/dev/vda", os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        self.map = mmap.mmap(-1, 1 << 16)

    def __call__(self, **fields):
        line = json.dumps(fields).encode()
        size = -(-len(line) // 512) * 512
        with lock:
            self.map[:size] = line.ljust(size, b"\0")
            os.pwritev(self.fd, [memoryview(self.map)[:size]], 0)


class User:
    def __init__(self, mark, name, server, sync, seed):
        self.mark, self.name, self.server, self.sync = mark, name, server, sync
        self.store, self.path = Store(name), f"{SPOOL}/{name}"
        self.rng, self.deliveries = random.Random(f"s {seed} {name}"), random.Random(f"d {seed} {name}")
        self.next = self.full = 1 + max(numbers(self.path, self.store))
        self.kills = "popa3d" not in server and "norecords" not in server
        self.counts = {"server": os.path.basename(server), "sessions": 0, "killed": 0, "strange": 0, "other": {}}

    def serve(self, sessions):
        thread = threading.Thread(target=self.be_delivered)
        self.going = True
        thread.start()
        for _ in range(sessions):
            session = Session(self.server, self.name)
            try:
                trouble = self.one(session)
            except Ended as e:
                trouble = f"ended: {e}"
                session.kill()
            if trouble:
                self.counts["other"][trouble] = self.counts["other"].get(trouble, 0) + 1
                time.sleep(0.3)
        self.going = False
        thread.join()

    def be_delivered(self):
        while self.going:
            time.sleep(self.deliveries.expovariate(2))
            for _ in range(self.deliveries.choice((1, 1, 1, 2, 5))):
                self.deliver(1, self.sync if self.sync < 2 else self.deliveries.randrange(2))

    def deliver(self, count, sync):
        """As Postfix does: fcntl (for one open file: a POSIX lock would go with any close in this process), append, fsync."""
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND)
        fcntl.fcntl(fd, F_OFD_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        first, self.next = self.next, self.next + count
        self.mark(u=self.name, ev="dstart", id=first, to=self.next)
        data = b"".join(map(self.store, range(first, self.next)))
        while data:
            data = data[os.write(fd, data):]
        if sync:
            os.fsync(fd)
        self.mark(u=self.name, ev="dsync" if sync else "dend", id=first, to=first + count)
        os.close(fd)

    def one(self, session):
        """A session: None, or what was not as usual."""
        reply = session.login()
        if not reply.startswith("+OK"):
            session.close()
            return reply
        n = session.count()
        ids = numbers(self.path, self.store)[:n]
        if None in ids or len(ids) < n:
            self.counts["strange"] += 1
        self.mark(u=self.name, ev="login", ids=ids)
        chosen = pattern(self.rng, n) if n else []
        if chosen and not (reply := session.cmd(*[f"DELE {i + 1}" for i in chosen])).startswith("+OK"):
            session.close()
            return reply
        gone = [ids[i] for i in chosen if i < len(ids)]
        self.mark(u=self.name, ev="quit", ids=gone)
        session.send("QUIT")
        if self.kills and self.rng.random() < 0.2:
            time.sleep(self.rng.random() ** 3 * 0.3)
            session.kill()
            self.mark(u=self.name, ev="killed")
            self.counts["killed"] += 1
            return None
        reply = session.line()
        done = reply.startswith("+OK")
        self.mark(u=self.name, ev="ok" if done else "err", ids=gone)
        session.close()
        self.counts["sessions"] += done
        if n - len(chosen) < self.full * 0.7:
            self.deliver(self.full - (n - len(chosen)), 1)
        return None if done else reply


def main():
    kind, options, sessions, sync, seed, *servers = sys.argv[1:]
    options = "" if options == "-" else options
    os.system("modprobe -a virtio_scsi sd_mod virtio_blk " + kind)
    while not (os.path.exists("/dev/sda") and os.path.exists("/dev/vda")):
        time.sleep(0.05)
    run(*MKFS[kind], "/dev/sda")
    os.makedirs(SPOOL, exist_ok=True)
    mount("/dev/sda", SPOOL, kind, options)
    os.chown(SPOOL, 0, 8)
    os.chmod(SPOOL, 0o2775)
    users, rng = {}, random.Random(seed)
    for i, server in enumerate(servers):
        name = f"u{i}"
        account(name)
        n = 60 + rng.randrange(60 if "area" in server else 240)
        with open(f"{SPOOL}/{name}", "wb") as f:
            f.write(b"".join(map(Store(name), range(1, n + 1))))
        os.chown(f"{SPOOL}/{name}", uid_of(name), 8)
        os.chmod(f"{SPOOL}/{name}", 0o660)
        users[name] = server if "/" in server else BIN + server, n
    umount(SPOOL)
    mount("/dev/sda", SPOOL, kind, options)
    mark = Marks()
    mark(ev="begin", fs=kind, options=options, users=users, sync=sync)
    all_users = [User(mark, name, server, int(sync), seed) for name, (server, _) in users.items()]
    threads = [threading.Thread(target=user.serve, args=(int(sessions),)) for user in all_users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mark(ev="end")
    os.system("sync")
    for user in all_users:
        print(user.name, user.counts, flush=True)
    return any(user.counts["sessions"] == 0 for user in all_users)


if __name__ == "__main__":
    sys.exit(main())
