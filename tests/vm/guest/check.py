#!/usr/bin/python3
"""The disk as a power cut may leave it, at many points of what record.py did: mounted, logged in to, judged.

    check.py NAME SEED SECONDS POINTS         as many points as there is time for, POINTS at most
    check.py NAME SEED SECONDS FIRST-LAST     each of these points of the log, four times

Reads /host/logs/NAME.log, of nbdlog.py. At a point all writes are there that a flush covered, or that were answered FUA; of the
others any subset, each whole, not, or some of its sectors. A dm snapshot over that disk is mounted (the journal is replayed),
the users who were in UPDATE log in to the same server, read all, and the mailbox is compared with what the marks say.
"""

import collections
import ctypes
import glob
import json
import os
import random
import re
import struct
import sys
import tempfile
import time
import traceback

from common import SPOOL, Ended, Session, Store, account, libc, mount, parse, run, sent, umount

HEAD = struct.Struct("<cBxxxxxxQQ")
SIZE = 336 << 20
PUNCH_HOLE, KEEP_SIZE = 2, 1


class Entry:
    """Of the log: a write W, a flush F or a mark M."""

    def __init__(self, kind, flags, number, body):
        self.kind, self.fua, self.number, self.body = kind, flags & 1, number, body
        self.mark = json.loads(bytes(body)) if kind == b"M" else {}


def read_log(path):
    with open(path, "rb") as f:
        data = f.read()
    entries, at = [], 0
    while at + HEAD.size <= len(data):
        kind, flags, number, size = HEAD.unpack_from(data, at)
        at += HEAD.size
        body = memoryview(data)[at:at + size] if kind in b"WM" else b""
        at += len(body)
        entries.append(Entry(kind, flags, number, body))
    return entries


class User:
    """What the marks up to a point say of a user's messages."""

    def __init__(self, name, server, n):
        self.name, self.server, self.store = name, server, Store(name)
        self.kind = os.path.basename(server)
        self.must = set(range(1, n + 1))        # are there
        self.may = set()                        # are being deleted, or were when the session was killed
        self.gone = set()
        self.limbo = set()                      # appended, and no fsync has returned since
        self.seen, self.busy = set(), False

    def event(self, mark):
        ids = set(mark.get("ids", ()))
        match mark["ev"]:
            case "dstart":
                self.limbo |= set(range(mark["id"], mark["to"]))
            case "dsync":                       # what others appended before is durable, too
                durable = {i for i in self.limbo if i < mark["to"]}
                self.must |= durable - self.may - self.gone
                self.limbo -= durable
            case "login":
                self.seen = ids
                self.gone |= self.may - ids
                self.must |= (self.may & ids) - self.limbo
                self.may &= self.limbo & ids
                self.busy = False
            case "quit":
                self.busy = bool(ids)
                self.may |= ids
                self.must -= ids
            case "ok":
                if ids:                         # UPDATE synced the mailbox, with all that the session saw
                    self.must |= (self.seen & self.limbo) - ids
                    self.limbo -= self.seen
                self.may -= ids
                self.gone |= ids
                self.busy = False
            case "err":
                self.busy = False

    def judge(self, content):
        """What is wrong with a mailbox, and which messages it has."""
        wrong, before, seen, parts = [], 0, set(), parse(content, self.store)
        if self.limbo:                          # a delivery without fsync may have left anything at the end, stale blocks too
            good = 0
            while good < len(parts) and parts[good][0] and (good == 0 or parts[good][0] > parts[good - 1][0]):
                good += 1
            tail = sum(size for _, _, size in parts[good:])
            if self.must <= {n for n, _, _ in parts[:good]} and tail <= sum(len(self.store(n)) for n in self.limbo):
                parts = parts[:good]
        for number, at, size in parts:
            if number is None:
                if not self.limbo:
                    wrong.append(f"{size} strange bytes at {at} of {len(content)}: {bytes(content[at:at + 60])!r}")
                continue
            if number in seen:
                wrong.append(f"message {number} twice")
            elif number < before:
                wrong.append(f"message {number} behind {before}")
            if number in self.gone:
                wrong.append(f"message {number} was deleted and is back")
            elif number not in self.must | self.may | self.limbo:
                wrong.append(f"message {number} from nowhere")
            seen.add(number)
            before = max(before, number)
        wrong += [f"message {number} is lost" for number in sorted(self.must - seen)]
        return wrong, seen

    def login(self, retr):
        """As a client: what is wrong, and the log."""
        path, wrong = f"{SPOOL}/{self.name}", []
        with tempfile.TemporaryFile() as log:
            session = Session(self.server, self.name, log=log)
            try:
                reply = session.login()
                if reply.startswith("+OK"):
                    wrong += self.read(session, path, retr)
                else:
                    wrong.append(f"login: {reply}")
            except (Ended, OSError) as e:
                wrong.append(f"session ended: {e!r}")
            finally:
                session.close()
            log.seek(0)
            text = log.read().decode(errors="replace")
        if glob.glob(f"{SPOOL}/.{self.name}.pop3d.saved*"):
            wrong.append("the side file was set aside")
        return wrong, text

    def read(self, session, path, retr):
        n = session.count()
        with open(path, "rb") as f:
            numbers = [number for number, _, _ in parse(f.read(), self.store)]
        wrong = []
        if None not in numbers and len(numbers) != n:
            wrong.append(f"STAT says {n}, the mailbox has {len(numbers)}")
        elif None not in numbers and retr:
            for i, number in enumerate(numbers, 1):
                if not session.cmd(f"RETR {i}").startswith("+OK") or session.body() != sent(self.store(number)):
                    wrong.append(f"RETR {i} is not message {number}")
        if not session.cmd("QUIT").startswith("+OK"):
            wrong.append("QUIT")
        return wrong


def slots(path):
    """The first words of the two records, for whoever looks for the cause."""
    try:
        with open(path, "rb") as f:
            data = f.read(8192).ljust(8192, b"\0")
    except OSError:
        return None
    return [[hex(word) for word in struct.unpack_from("<12Q", data, at)] for at in (0, 4096)]


def shape(content, store):
    """Of a mailbox, in a line."""
    parts, text, last = parse(content, store), [], None
    for number, at, size in parts:
        if number is None:
            text.append(f"[{size} strange bytes at {at}, {bytes(content[at:at + size]).count(0)} NUL]")
        elif last is None or number <= last:
            text.append(f"{number}@{at}")
        last = number
    return f"{len(content)} bytes: {' '.join(text[:14])}{' ...' if len(text) > 14 else ''} last {last}"


def subset(rng, pending):
    """Of the pending writes those pieces that made it, [(offset, bytes)], and a word for it."""
    how = rng.choice(("none", "all", "half", "half", "torn", "torn", "one", "but one", "late", "early"))
    one, chosen = rng.randrange(len(pending)) if pending else 0, []
    for i, (offset, body) in enumerate(pending):
        left_out = {"none": True, "one": i != one, "but one": i == one, "late": i < one, "early": i > one}
        if left_out.get(how, how == "half" and rng.random() < 0.5):
            continue
        torn = how == "torn" or how in ("one", "late", "early") and i == one
        sectors, kind = len(body) // 512, rng.randrange(4) if torn else 3
        if kind == 1:
            a, b = sorted((rng.randrange(sectors + 1), rng.randrange(sectors + 1)))
            chosen.append((offset + a * 512, body[a * 512:b * 512]))
        elif kind == 2:
            chosen += [(offset + k * 512, body[k * 512:k * 512 + 512]) for k in range(sectors) if rng.random() < 0.5]
        elif kind == 3:
            chosen.append((offset, body))
    return chosen, how


class Checker:
    def __init__(self, name):
        self.entries = read_log(f"/host/logs/{name}.log")
        at = {entry.mark["ev"]: i for i, entry in enumerate(self.entries) if entry.mark.get("ev") in ("begin", "end")}
        self.begin, self.end = at["begin"], at.get("end", len(self.entries) - 1)
        self.conf = self.entries[self.begin].mark
        self.users = {name: User(name, server, n) for name, (server, n) in self.conf["users"].items()}
        for name in self.users:
            account(name)
        self.counts, self.harm, self.kinds = collections.Counter(), [], collections.Counter()
        self.harmed, self.updates = collections.Counter(), collections.Counter()
        self.base, self.cow = self.disk(0), self.disk(1)
        self.at, self.writes = 0, 0
        self.pending = []                       # (number, offset, bytes) of the writes that no flush covered yet
        self.advance(self.begin + 1)
        for _, offset, body in self.pending:
            os.pwrite(self.base, body, offset)
        self.pending = []

    def disk(self, number):
        fd = os.open(f"/tmp/disk{number}", os.O_RDWR | os.O_CREAT)
        os.truncate(fd, SIZE)
        run("losetup", f"/dev/loop{number}", f"/tmp/disk{number}")
        return fd

    def advance(self, to):
        for entry in self.entries[self.at:to]:
            if entry.kind == b"W":
                if entry.fua:
                    os.pwrite(self.base, entry.body, entry.number)
                    self.outdo(entry.number, entry.number + len(entry.body))
                else:
                    self.pending.append((self.writes, entry.number, entry.body))
                self.writes += 1
            elif entry.kind == b"F":
                for number, offset, body in self.pending:
                    if number < entry.number:
                        os.pwrite(self.base, body, offset)
                self.pending = [write for write in self.pending if write[0] >= entry.number]
            elif "u" in entry.mark:
                self.users[entry.mark["u"]].event(entry.mark)
        self.at = to

    def outdo(self, first, end):
        """Pending writes to what is durable now are over."""
        keep = []
        for number, offset, body in self.pending:
            if offset < first:
                keep.append((number, offset, body[:first - offset]))
            if offset + len(body) > end:
                start = max(end, offset)
                keep.append((number, start, body[start - offset:]))
        self.pending = keep

    def points(self, rng, count):
        """Half of them where somebody is in UPDATE, a third at UPDATE's end, where the mailbox is cut, the others anywhere."""
        busy, inside, ends = set(), [], []
        for i in range(self.begin + 1, self.end):
            mark = self.entries[i].mark
            if mark.get("ev") == "quit" and mark["ids"]:
                busy.add(mark["u"])
            elif mark.get("ev") in ("ok", "err", "login"):
                if mark["u"] in busy and mark["ev"] == "ok":
                    ends += inside[-30:]
                busy.discard(mark["u"])
            elif not mark and busy:
                inside.append(i)
        self.counts["entries"], self.counts["in UPDATE"] = self.end - self.begin, len(inside)
        ends = sorted(set(ends))
        chosen = rng.sample(inside, min(count // 2, len(inside))) + rng.sample(ends, min(count // 3, len(ends)))
        return chosen + [rng.randrange(self.begin + 1, self.end) for _ in range(count // 6)]

    def try_point(self, rng, point):
        self.advance(point)
        pieces, how = subset(rng, [(offset, body) for _, offset, body in self.pending])
        libc.fallocate(self.cow, PUNCH_HOLE | KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(SIZE))
        run("dmsetup", "create", "cut", "--noudevsync", "--table", f"0 {SIZE // 512} snapshot /dev/loop0 /dev/loop1 N 8")
        try:
            fd = os.open("/dev/dm-0", os.O_RDWR)
            for offset, body in pieces:
                os.pwrite(fd, body, offset)
            os.fsync(fd)
            os.close(fd)
            try:
                mount("/dev/dm-0", SPOOL, self.conf["fs"], self.conf["options"])
            except OSError:
                self.counts["not mounted"] += 1
                return
            try:
                self.counts["points"] += 1
                for user in self.users.values():
                    if user.busy or rng.random() < 0.2:
                        self.look(rng, f"point {point} ({how}) {user.name} {user.kind}", user)
            finally:
                umount(SPOOL)
        finally:
            for _ in range(20):
                if os.system("dmsetup remove cut --noudevsync 2>/dev/null") == 0:
                    break
                time.sleep(0.1)

    def look(self, rng, where, user):
        path = f"{SPOOL}/{user.name}"
        with open(path, "rb") as f:
            before = f.read()
        records = slots(f"{SPOOL}/.{user.name}.pop3d")
        wrong, log = user.login(rng.random() < 0.3)
        with open(path, "rb") as f:
            after = f.read()
        self.counts["recovered"] += before != after
        bad, seen = user.judge(after)
        wrong += bad
        if user.busy:
            self.updates[user.kind] += 1
        self.counts["deliveries without fsync lost"] += bool(user.limbo - seen)
        if wrong:
            self.harmed[user.kind] += 1
            self.kinds.update(f"{user.kind}: {kind}" for kind in {re.sub(r"b'.*|\d+|\[.*", "N", line) for line in wrong})
            if self.harmed[user.kind] <= 8:
                more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
                self.harm.append(f"{where}: {wrong[:4]}{more} LOG {log.strip()[-300:]!r} "
                                 f"before the login {shape(before, user.store)}, records {records}")


def main():
    name, seed, seconds, which = sys.argv[1:]
    os.system("modprobe -a loop dm_snapshot ext4 xfs btrfs; mkdir -p /var/mail; mount -o remount,size=3G /tmp")
    checker = Checker(name)
    if "-" in which:
        first, last = map(int, which.split("-"))
        points = [(point, n) for point in range(first, last + 1) for n in range(4)]
    else:
        points = [(point, 0) for point in sorted(checker.points(random.Random(seed), int(which)))]
    began = time.monotonic()
    for i, (point, n) in enumerate(points, 1):
        if (time.monotonic() - began) * len(points) > float(seconds) * i:
            continue                            # too slow for all of them: not only those at the beginning
        try:
            checker.try_point(random.Random(f"{seed} {point} {n}"), point)
        except Exception:
            checker.counts["not checked"] += 1
            traceback.print_exc(limit=3)
    for line in checker.harm:
        print("HARM", line)
    for kind, n in sorted(checker.kinds.items()):
        print(f"{n:6}  {kind}")
    print("RESULT", json.dumps({"counts": checker.counts, "updates": checker.updates, "harmed": checker.harmed}))


if __name__ == "__main__":
    main()
