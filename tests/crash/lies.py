#!/usr/bin/python3
"""An fsync of UPDATE fails once and the next one says that all is well; then the power goes, in a recovery or after it.

    lies.py [-s]

disk.c is the disk: it holds what was synced, and what a failed fsync was to write is never written unless it is written to again.
After a cut of the power the files are what the disk holds. Then the next login must work, and find all that was kept. -s is a
short form.
"""

import argparse
import itertools
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time

import crash
import lab
from lab import LOGIN, Harm

SERVER = lab.BUILD / "pop3d-stub-disk"
ENDING = [*LOGIN, b"QUIT"]
PATTERNS = {name: lab.PATTERNS[name] for name in ("every second", "random", "first and last")} | {"a small one": lambda n: [1]}


class Disk:
    """What is on the disk of the files beside a mailbox."""

    def __init__(self, drop):
        self.drop = drop
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="p3dd-disk-", dir="/dev/shm"))
        os.environ["POP3D_DISK"] = str(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        del os.environ["POP3D_DISK"]
        shutil.rmtree(self.folder)

    def save(self):
        return self.drop.save(), {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def restore(self, saved):
        files, images = saved
        self.drop.restore(files)
        for path in self.folder.iterdir():
            path.unlink()
        for name, content in images.items():
            (self.folder / name).write_bytes(content)

    def sync_all(self):
        """All that is there is on the disk."""
        for path in self.folder.iterdir():
            path.unlink()
        for path in self.drop.dir.iterdir():
            shutil.copyfile(path, self.folder / str(path.stat().st_ino))

    def cut_power(self):
        for path in self.drop.dir.iterdir():
            image = self.folder / str(path.stat().st_ino)
            with path.open("r+b") as file:
                file.write(image.read_bytes() if image.exists() else b"")
                file.truncate()
        self.sync_all()


def fails(drop, commands, number):
    """A session whose fsync with this number fails: what it said last."""
    os.environ["POP3D_FAIL"] = str(number)
    try:
        return lab.last_reply(drop.session(SERVER, commands)[1])
    finally:
        del os.environ["POP3D_FAIL"]


def judged(drop, deleted, what):
    try:
        crash.login(drop, SERVER, deleted, None)
    except Harm as harm:
        return [f"{what}: {harm}"]
    return []


def try_fsync(disk, deleted, number, most):
    """(tried, harmed): the power goes at once, at system calls of the recovery, after it."""
    drop = disk.drop
    state = disk.save()
    disk.cut_power()
    tried, harmed = 1, judged(drop, deleted, f"fsync {number}, then the power")
    disk.restore(state)
    drop.session(SERVER, ENDING, marker="PASS", lists=True)
    disk.cut_power()
    tried, harmed = tried + 1, harmed + judged(drop, deleted, f"fsync {number}, a login, then the power")
    disk.restore(state)
    drop.session(SERVER, ENDING, marker="PASS", lists=True)
    for call, action in crash.sample(crash.different(drop.calls()), most):
        disk.restore(state)
        drop.session(SERVER, ENDING, marker="PASS", number=call, action=action)
        disk.cut_power()
        tried += 1
        harmed += judged(drop, deleted, f"fsync {number}, the power at call {call} of the login ({action})")
    return tried, harmed


def run(job):
    kind, most = job
    with lab.Maildrop(lab.mailbox("short")) as drop, Disk(drop) as disk:
        deleted = list(PATTERNS[kind](len(drop.messages)))
        commands = [*LOGIN, *lab.deletions(deleted), b"QUIT"]
        drop.begin(SERVER)
        disk.sync_all()
        start, tried, harmed = disk.save(), 0, []
        for number in itertools.count(1):
            disk.restore(start)
            if fails(drop, commands, number).startswith(b"+OK"):
                break
            again, bad = try_fsync(disk, deleted, number, most)
            tried += again
            harmed += [f"{kind}, {line}" for line in bad]
        return kind, number - 1, tried, harmed


def sweep(most=0, report=print):
    """(tried, harmed)"""
    total, harmed = 0, []
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for kind, fsyncs, tried, bad in pool.imap(run, [(kind, most) for kind in PATTERNS]):
            report(f"{kind:<15} fsyncs that failed {fsyncs:>3}  power cuts {tried:>5}  harmed {len(bad):>4}", flush=True)
            total += tried
            harmed += bad
    return total, harmed


SHORT = 6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true", help="short form")
    args = parser.parse_args()
    began = time.monotonic()
    total, harmed = sweep(SHORT if args.s else 0)
    print(*harmed[:20], sep="\n")
    print(f"{total} power cuts after an fsync that failed, {len(harmed)} harmed, {time.monotonic() - began:.0f} s")
    return bool(harmed)


if __name__ == "__main__":
    sys.exit(main())
