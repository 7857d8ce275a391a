"""UPDATE as mailbox.c does it: what is written and synced, in which order, and what a recovery makes of it.

The mailbox M keeps its inode. Beside it lies one side file, opened at login and held: two record slots (A, B) and a data
area (D). No rename, no unlink, no directory access, bounded space, and nothing extra to write on a full disk (room=0).

A record is (sequence, state, w, r, n, next, size, anchors); the valid one with the highest sequence counts, a torn one fails
its checksum.
    idle  nothing is under way
    hole  bytes [w, r) of M are dead; if n > 0, D holds the n live bytes of [r, next): put at w, they leave the hole [w + n, next)
    cut   everything in M from w on is dead, [w, r) begins and ends with the mark, M is about to be truncated to w
A step gathers the live bytes of many messages, so a mailbox takes few steps (and fsyncs), however many are deleted.

Anchors pin the three places that a step relies on, each by the bytes there that no step writes: what ends at w; what begins
at the live bytes still to be moved; and what ends at the mailbox's end. A program that rewrote the half-done mailbox moved
at least one of the three, or changed only what the steps leave alone or overwrite as a whole. A fourth sum is of the bytes in D.
In state cut the two marks tell: not cut yet if the mailbox is not shorter than r, and the mark at the hole's end is whole, or
both places hold nothing but the mark's bytes or zeros. No size of a block need be known for that.
"""

import functools
import zlib

MARK = b"!?"    # stands for a random nonce without a zero in it; no deliverer appends it
ANCHOR = 4      # bytes in an anchor


def pack(fields):
    """The checksum last: halves of two records never make a third, nor an earlier attempt at the same slot whole again."""
    body = repr(fields).encode()
    return body.ljust(120, b"\0") + b"%08x" % zlib.crc32(body)


@functools.cache
def unpack(slot):
    body = slot[:120].rstrip(b"\0")
    return eval(body) if body and slot[120:] == b"%08x" % zlib.crc32(body) else None


class Update:
    """room: how much the data area holds (0: the disk is full). most: the most that one step moves (to force several).

    The others are what the protocol rests on; left out, a check must fail:
    fsync       each step is synced
    first       so is the mailbox, before the first record and before a recovery: no record knows more than the disk
    mark        the hole is marked before it is cut off
    look        before a cut the mailbox is looked at again, for mail that came while it was synced
    careful     a cut is not believed to be atomic
    end_anchor  the end of the mailbox is in the record
    data_sum    and the bytes in the data area are
    rewrite     a recovery writes the record it found again, for an fsync may have failed once and the next one lied
    """

    def __init__(self, room=2, most=2, fsync=True, first=True, mark=True, careful=True, end_anchor=True, data_sum=True, rewrite=True,
                 look=True):
        self.room, self.most, self.first, self.mark, self.careful = room, most, first, mark, careful
        self.end_anchor, self.data_sum, self.rewrite = end_anchor, data_sum, rewrite
        self.fsync, self.look = fsync, look

    def sync(self, disk, names):
        if "M" in names:                        # what comes after this look is another time's
            disk.known = len(disk.cache["M"])
        if self.fsync:
            disk.fsync(names)

    def grown(self, disk):
        return self.look and len(disk.cache["M"]) > disk.known

    def latest(self, disk):
        records = [record for record in (unpack(disk.cache.get(slot, b"")) for slot in "AB") if record]
        return max(records, default=(0, "idle", 0, 0, 0, 0, 0, ()))

    def slot(self, sequence):
        return "AB"[sequence % 2]

    def record(self, disk, state, w=0, r=0, n=0, next=0):
        sequence = self.latest(disk)[0] + 1
        m = disk.cache["M"]
        anchors = self.anchors(m, state, w, r, n, next, disk.known)
        anchors += (zlib.crc32(disk.cache["D"][:n]) if n and self.data_sum else 0,)
        disk.write(self.slot(sequence), 0, pack((sequence, state, w, r, n, next, disk.known, anchors)), step=64)
        self.sync(disk, "ABD")

    def mark_size(self, w, r):
        """A third of the hole at most, twice; what is between is the anchor of the end when nothing else is left there."""
        return min(len(MARK), (r - w) // 3)

    def anchors(self, m, state, w, r, n, next, size):
        if state == "idle":
            return ()
        if state == "cut":                      # the marks tell the rest
            return (zlib.crc32(m[max(0, w - ANCHOR):w]),)
        live = next if n else r
        mark = self.mark_size(w, r) if not n and r >= size else 0
        # What no step from here on writes: behind the saved bytes' new place, from the live ones on, or between the marks.
        quiet = w + n if n else r if r < size else w + mark
        parts = [m[max(0, w - ANCHOR):w], m[live:min(live + ANCHOR, size)]]
        if self.end_anchor:
            parts.append(m[max(quiet, size - mark - ANCHOR):size - mark])
        return tuple(zlib.crc32(part) for part in parts)

    def update(self, disk, dead):
        """At QUIT, under all locks: remove the dead byte ranges. dead is sorted and not empty."""
        (w, r), *rest = dead
        r = self.skip(r, rest)
        disk.known = len(disk.cache["M"])
        if self.first:                          # what others wrote and did not sync: no record may know more than the disk
            self.sync(disk, "M")
        if r == disk.known and (w == 0 or not self.careful) and not self.grown(disk):
            disk.cut(w)                         # everything is deleted: atomic by itself
            return self.sync(disk, "M")
        self.record(disk, "hole", w, r)
        self.close_hole(disk, w, r, rest)

    def skip(self, r, rest):
        while rest and rest[0][0] == r:
            r = rest.pop(0)[1]
        return r

    def take(self, disk, r, rest, limit):
        """The live bytes from r on, limit at most: (bytes, where the next step begins)."""
        data, size = b"", disk.known
        while r < size and len(data) < limit:
            end = min(rest[0][0] if rest else size, r + limit - len(data))
            data += disk.cache["M"][r:end]
            r = self.skip(end, rest)
        return data, r

    def close_hole(self, disk, w, r, rest=()):
        rest = list(rest)
        while r < disk.known:
            data, next = self.take(disk, r, rest, min(max(r - w, self.room), self.most))
            if len(data) > r - w:               # the move would overwrite its own source: save it first
                disk.write("D", 0, data)
                self.sync(disk, "ABD")
                self.record(disk, "hole", w, r, len(data), next)
            w, r = self.move(disk, w, data, next)
        if self.mark:
            size = self.mark_size(w, r)
            disk.write("M", w, MARK[:size])
            disk.write("M", r - size, MARK[:size])
            self.sync(disk, "M")
        if r == disk.known:
            self.record(disk, "cut", w, r)
            if not self.grown(disk):
                disk.cut(w)
                return self.finish(disk)
            self.sync(disk, "M")
        self.record(disk, "hole", w, r)         # what came between the marks is in no anchor yet
        self.close_hole(disk, w, r)

    def move(self, disk, w, data, next):
        disk.write("M", w, data)
        self.sync(disk, "M")
        self.record(disk, "hole", w + len(data), next)
        return w + len(data), next

    def finish(self, disk):
        self.sync(disk, "M")
        self.record(disk, "idle")

    def was_cut(self, now, w, r):
        """In state cut: the marks are gone, so what follows w is new mail."""
        if len(now) < r or not self.mark:
            return len(now) != r
        size = self.mark_size(w, r)
        first, last = now[w:w + size], now[r - size:r]
        if not self.careful:
            return first != MARK[:size]
        return last != MARK[:size] and not all(byte in (0, mark) for text in (first, last) for byte, mark in zip(text, MARK))

    def recover(self, disk):
        """At login, under all locks, before the scan."""
        record = sequence, state, w, r, n, next, size, anchors = self.latest(disk)
        now = disk.cache["M"]
        disk.known = len(now)
        if state == "idle":
            return
        if self.first:
            self.sync(disk, "M")
        cut = state == "cut" and self.was_cut(now, w, r)
        sums = self.anchors(now, state, w, r, n, next, size)
        if len(now) < (w if cut else size) or anchors[:len(sums)] != sums or (
                n and self.data_sum and anchors[-1] != zlib.crc32(disk.cache.get("D", b"")[:n])):
            disk.aside = True                   # another program rewrote it: touch nothing
            for name in "ABD":
                disk.cache.pop(name, None)
                disk.durable.pop(name, None)
            disk.pending = [op for op in disk.pending if op[1] == "M"]
            return
        # An fsync may have failed and the next one lied: the very same bytes into the very same places make it real.
        if self.rewrite:
            if n:
                disk.write("D", 0, disk.cache["D"][:n])
            disk.write(self.slot(sequence), 0, pack(record), step=64)
        self.sync(disk, "ABD")
        if cut:
            return self.finish(disk)
        if state == "cut" or r == size and not n and len(now) > size:
            self.record(disk, "hole", w, r)     # mail has come in behind r: the anchors must know it
        if n:
            w, r = self.move(disk, w, disk.cache["D"][:n], next)
        self.close_hole(disk, w, r)


class OneSlot(Update):
    def slot(self, sequence):
        return "A"
