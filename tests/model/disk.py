"""A file system as a crash sees it: a cache, what is durable, and the pending pieces between the two.

A piece is a byte or a few of the mailbox, half of a record, or a cut. SIGKILL keeps the cache, after any number of pieces,
and may come between a write and its fsync. Power loss keeps what is durable plus ANY subset of the pending pieces. Cutting a
file in the middle of a block is two pieces on the disk: the file system first fills the block with zeros from there, then
changes the size (ext4 and xfs, seen with real power cuts), so a power loss can leave zeros and the old size. An fsync of the
side file may fail: the pieces stay in the cache, but are never written, and the next fsync says that all is well (so do
Linux's file systems).
"""

import itertools
import random

BLOCK = 4       # bytes in a block of the file system; the protocol does not know it


class Failed(Exception):
    """An fsync did."""


class Disk:
    """M is the mailbox; A, B and D are places in the side file, which are synced together."""

    def __init__(self, mailbox):
        self.cache, self.durable = {"M": mailbox}, {"M": mailbox}
        self.pending, self.points = [], None    # pieces: ("w", file, offset, bytes) or ("t", file, size)
        self.known = len(mailbox)               # bytes of the mailbox that UPDATE has seen and synced
        self.fails = None                       # the fsync of the side file that fails, counted down
        self.comes = None                       # the fsync in which mail comes, counted down
        self.mail = b""                         # that came so
        self.aside = False                      # recovery set the side file aside

    def copy(self):
        new = Disk(b"")
        new.cache, new.durable, new.pending = dict(self.cache), dict(self.durable), list(self.pending)
        new.known, new.mail = self.known, self.mail
        return new

    def point(self):
        """A crash could come here: points, if it is a list, gets the state."""
        if self.points is not None:
            self.points.append(self.copy())

    def piece(self, *op):
        self.point()
        apply(self.cache, op)
        self.pending.append(op)

    def cut(self, at):
        """ftruncate: at once for whoever looks, two pieces for the disk."""
        self.point()
        zeros = b"\0" * (min(block_end(at), len(self.cache["M"])) - at)
        apply(self.cache, ("t", "M", at))
        self.pending += [("w", "M", at, zeros), ("t", "M", at)] if zeros else [("t", "M", at)]

    def write(self, name, offset, data, step=1):
        for i in range(0, len(data), step):
            self.piece("w", name, offset + i, data[i:i + step])

    def fsync(self, names):
        self.point()
        if self.fails is not None and "A" in names:
            if self.fails == 0:
                self.pending = [op for op in self.pending if op[1] not in names]
                raise Failed
            self.fails -= 1
        for op in self.pending:
            if op[1] in names:
                apply(self.durable, op)
        self.pending = [op for op in self.pending if op[1] not in names]
        if self.comes == 0:                     # from a deliverer without locks, which does not sync
            self.write("M", len(self.cache["M"]), b"FNEW", step=4)
            self.mail = b"FNEW"
        self.comes = self.comes - 1 if self.comes else None
        self.point()

    def after_power_loss(self):
        count, rng = len(self.pending), random.Random(1)
        every = itertools.product((False, True), repeat=count)
        sample = ([rng.random() < 0.5 for _ in range(count)] for _ in range(20))
        for chosen in every if count <= 8 else sample:
            new, barrier = self.copy(), None
            for op, happened in zip(self.pending, chosen):
                if op[0] == "t" and not happened:
                    barrier = block_end(op[2])      # behind it the old file has other blocks than what was written later
                elif op[0] == "w" and op[1] == "M" and barrier is not None:
                    op = ("w", "M", op[2], op[3][:max(0, barrier - op[2])])
                if happened:
                    apply(new.durable, op)
            new.cache, new.pending = dict(new.durable), []
            yield new


def block_end(at):
    return -(-at // BLOCK) * BLOCK


def apply(files, op):
    kind, name, at = op[:3]
    old = files.get(name, b"").ljust(at, b"\0")
    files[name] = old[:at] + (op[3] + old[at + len(op[3]):] if kind == "w" else b"")
