#!/usr/bin/python3
"""Kill the server at every system call after QUIT, and the next login at every system call of its recovery.

    crash.py [-s] [server ...]

Each write is also killed when half of it is done. Between crash and login, procmail delivers a message, or does not. Then a
login must work at once, and the mailbox must hold all that was kept and delivered, once, byte for byte. -s is a short form.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import time

import lab
from lab import KILLED, LOGIN, SERVERS, SLEPT, Harm

WRITES = {"write", "pwrite64"}
CHANGES = WRITES | {"ftruncate", "fallocate", "openat", "linkat", "unlinkat", "renameat", "renameat2", "mknodat", "utimensat"}
KINDS = ["200 B", "mixed", "300 KiB"]


def points(calls):
    """What can be done to a session that made these calls: (number, action). The last call ends it anyway."""
    for number, (name, first) in enumerate(calls, 1):
        yield number, "kill"
        if name in WRITES and first > 2:
            yield number, "half"


def different(calls):
    """Those of the points that leave files unlike the point before."""
    changed = True
    for number, action in points(calls):
        if changed or action == "half":
            yield number, action
        changed = calls[number - 1][0] in CHANGES


def sample(items, most):
    items = list(items)
    return items if not most or len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def login(drop, server, deleted, mail):
    """The next login, after which all must be well."""
    status, output = drop.session(server, [*LOGIN, b"STAT", b"QUIT"], sleeps=False)
    if status == SLEPT:
        raise Harm("the next login waits for something")
    if status or output.count(b"+OK") != 5:
        raise Harm(f"the next login: status {status}, {output!r}")
    present = drop.judge(deleted, mail.stored if mail else b"") + ([mail] if mail else [])
    if b"\r\n+OK %d %d\r\n" % (len(present), sum(message.octets for message in present)) not in output:
        raise Harm(f"STAT tells something else: {output!r}")
    if drop.litter():
        raise Harm(f"left behind: {drop.litter()}")


def cut_short(drop, server, commands, on_its_way=True):
    """An UPDATE that is killed at an fsync with a record that says HOLE, and that bytes are on their way, or none."""
    drop.session(server, commands, marker="QUIT", lists=True)
    for number in [number for number, (name, _) in enumerate(drop.calls(), 1) if name == "fsync"]:
        drop.restore()
        drop.session(server, commands, marker="QUIT", number=number)
        record = drop.record()
        if record.state == lab.HOLE and on_its_way == (record.n > 0):
            return
    raise AssertionError("there is no such state")


def kill_recovery(drop, server, deleted, mail, most):
    """The state that is there, and a second kill anywhere in the next login: how many points were tried."""
    saved = drop.save()
    drop.session(server, [*LOGIN, b"QUIT"], marker="PASS", lists=True)
    chosen = sample(points(drop.calls()), most)
    for number, action in chosen:
        drop.restore(saved)
        drop.session(server, [*LOGIN, b"QUIT"], marker="PASS", number=number, action=action)
        try:
            login(drop, server, deleted, mail)
        except Harm as harm:
            raise Harm(f"then killed at call {number} of the login ({action}): {harm}") from None
    return len(chosen)


def try_point(drop, server, deleted, point, second):
    """One crash, with and without a delivery after it: how many second kills were tried."""
    number, action = point
    commands = [*LOGIN, *lab.deletions(deleted), b"QUIT"]
    mail, tried = lab.Message(9999, 20_000, "new"), 0   # longer than some holes
    for delivery in None, mail:
        drop.restore()
        status, output = drop.session(server, commands, marker="QUIT", number=number, action=action)
        if status != KILLED:
            raise Harm(f"status {status} instead of a kill")
        if output.count(b"+OK") == len(commands) + 1:
            drop.judge(deleted, all_gone=True)
        if delivery:
            lab.remove_stale_lock(drop.path)
            lab.procmail(drop.path, delivery)
        if second:
            saved = drop.save()
            tried += kill_recovery(drop, server, deleted, delivery, second)
            drop.restore(saved)
        login(drop, server, deleted, delivery)
    return tried


def run(job):
    """Every part-th point of a mailbox and a pattern: (points, second kills, what was harmed)."""
    server, kind, pattern, first, bases, second, part, parts = job
    with lab.Maildrop(lab.mailbox(kind)) as drop:
        deleted = list(lab.PATTERNS[pattern](len(drop.messages)))
        drop.begin(server)
        status, output = drop.session(server, [*LOGIN, *lab.deletions(deleted), b"QUIT"], marker="QUIT", lists=True)
        drop.judge(deleted, all_gone=lab.last_reply(output).startswith(b"+OK"))
        calls = drop.calls()
        again = set(sample(different(calls), bases))
        seconds, harmed = 0, []
        chosen = sorted({*sample(points(calls), first), *again})[part::parts]
        for point in chosen:
            try:
                seconds += try_point(drop, server, deleted, point, second if point in again else 0)
            except Harm as harm:
                name = calls[point[0] - 1][0]
                harmed.append(f"{server.name}, {kind}, {pattern}, call {point[0]} ({point[1]} {name}): {harm}")
        return job[:3], 2 * len(chosen), seconds, harmed, f"calls {len(calls)}  QUIT {lab.last_reply(output).decode()}"


def sweep(servers, kinds, patterns=tuple(lab.PATTERNS), first=0, bases=0, second=0, parts=1, report=print):
    """All of them; first, bases, second: how many points at most, 0 for all."""
    jobs = [(*what, first, bases, second, part, parts)
            for what in itertools.product(servers, kinds, patterns) for part in range(parts)]
    total, harmed = 0, []
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for _, group in itertools.groupby(pool.imap(run, jobs, chunksize=1), key=lambda result: result[0]):
            group = list(group)
            tried, again = sum(result[1] for result in group), sum(result[2] for result in group)
            bad = [line for result in group for line in result[3]]
            server, kind, pattern = group[0][0]
            report(f"{server.name:<22} {kind:<8} {pattern:<15} killed {tried:>6}  and in recovery {again:>6}"
                   f"  harmed {len(bad):>5}  {group[0][4]}", flush=True)
            total += tried + again
            harmed += bad
    return total, harmed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true", help="short form")
    parser.add_argument("servers", nargs="*", type=lab.pathlib.Path, default=SERVERS)
    args = parser.parse_args()
    began = time.monotonic()
    limits = dict(SHORT, kinds=["short"]) if args.s else dict(LONG, kinds=KINDS)
    total, harmed = sweep(args.servers, **limits)
    print(*harmed[:20], sep="\n")
    print(f"{total} kill points tried, {len(harmed)} harmed, {time.monotonic() - began:.0f} s")
    return bool(harmed)


SHORT = {"first": 24, "bases": 4, "second": 6}
LONG = {"first": 180, "bases": 4, "second": 12, "parts": 4}

if __name__ == "__main__":
    sys.exit(main())
