"""Records in the side file, made here by what mailbox.c says of them: those of an earlier version must mean the same.

They say that message 2 of three was deleted and how far that went.  Their sums
are right, so what does not fit is not believed for its numbers.
"""

import struct
import sys

import pytest

from harness import mail
from sums import checksum

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="made for such a host")

RECORD = struct.Struct("=QQQ5qQ16s4Q")
MAGIC = 0x706f703364555032
HOLE, CUT = 1, 2
SLOT, DATA = 4096, 8192
ANCHOR = 4096
MARK = bytes(range(1, 17))
ONE, TWO, THREE = mail(1), mail(2), mail(3)
W, R, SIZE = len(ONE), len(ONE + TWO), len(ONE + TWO + THREE)
FOUND_CHANGED = "was changed by another program after an UPDATE was cut short"


def anchor(content, begin, end):
    return checksum(0, content[max(begin, 0):end] if 0 < end else b"")


def put(drop, content, saved=b"", sequence=7, state=HOLE, w=W, r=R, n=None, next=0, size=SIZE, magic=MAGIC):
    """The mailbox, and a record that speaks of it."""
    n = len(saved) if n is None else n
    live = next if n > 0 else r
    mark = min(16, (r - w) // 3) if n == 0 and r >= size else 0
    quiet = w + n if n > 0 else r if r < size else w + mark
    before, behind, end = anchor(content, w - ANCHOR, w), 0, 0
    if state == HOLE:
        behind = anchor(content, live, min(live + ANCHOR, size))
        end = anchor(content, max(quiet, size - mark - ANCHOR), size - mark)
    record = RECORD.pack(magic, sequence, state, w, r, n, next, size, 0, MARK, before, behind, end,
                         checksum(0, saved) if saved else 0)
    record += struct.pack("=Q", checksum(0, record))
    side = bytearray(DATA)
    slot = sequence % 2 * SLOT
    side[slot:slot + len(record)] = record
    drop.path.write_bytes(content)
    drop.side.write_bytes(side + saved)


def log_of_a_session(drop):
    with drop.session() as session:
        assert session.login().startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
        session.wait()
        return session.log()


@pytest.mark.parametrize("sequence", [7, 8])
def test_what_is_dead_is_closed(drop, sequence):
    put(drop, ONE + b"x" * len(TWO) + THREE, sequence=sequence)
    assert "finished an UPDATE" in log_of_a_session(drop)
    assert drop.content == ONE + THREE


def test_what_is_saved_is_put_back(drop):
    put(drop, ONE + b"x" * len(TWO + THREE), saved=THREE, next=SIZE)
    assert "finished an UPDATE" in log_of_a_session(drop)
    assert drop.content == ONE + THREE


@pytest.mark.parametrize("mail_behind", [b"", mail(4)])
def test_what_is_marked_is_cut_off(drop, mail_behind):
    dead = MARK + b"x" * (len(THREE) - 32) + MARK
    put(drop, ONE + THREE + dead + mail_behind, state=CUT, w=W + len(THREE), r=W + len(THREE + THREE),
        size=W + len(THREE + THREE))
    assert "finished an UPDATE" in log_of_a_session(drop)
    assert drop.content == ONE + THREE + mail_behind


@pytest.mark.parametrize("numbers", [
    {"w": -1}, {"w": R}, {"w": R + 1}, {"r": SIZE + 1}, {"n": -1, "next": R}, {"n": 2**62},
    {"saved": THREE, "next": R - 1}, {"saved": THREE, "next": SIZE + 1}, {"saved": THREE, "next": SIZE - 1},
    {"saved": THREE, "next": R},
    {"saved": THREE, "next": -2**63}, {"size": SIZE + 1}, {"state": CUT, "w": SIZE, "r": 10}], ids=str)
def test_numbers_that_cannot_be_are_not_followed(drop, numbers):
    content = ONE + TWO + THREE
    put(drop, content, **numbers)
    assert FOUND_CHANGED in log_of_a_session(drop)
    assert drop.content == content


LONG = mail(3, 2 * ANCHOR // 11 * b"Some text.\n")
LONG_SIZE = R + len(LONG)


def change(path, at):
    """The octet there."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [W - 1, W - 50, R, R + 50, LONG_SIZE - 50, LONG_SIZE - 1],
                         ids=["at_the_hole", "before_it", "behind_it", "more_behind", "near_the_end", "at_the_end"])
def test_a_mailbox_that_changed_since_is_left_alone(drop, at):
    put(drop, ONE + b"x" * len(TWO) + LONG, size=LONG_SIZE)
    change(drop.path, at)
    content = drop.content
    assert FOUND_CHANGED in log_of_a_session(drop)
    assert drop.content == content


def test_saved_bytes_that_changed_since_are_not_put_back(drop):
    content = ONE + b"x" * len(TWO + THREE)
    put(drop, content, saved=THREE, next=SIZE)
    change(drop.side, DATA + 50)
    assert FOUND_CHANGED in log_of_a_session(drop)
    assert drop.content == content


def test_a_record_of_no_such_state_says_nothing(drop):
    content = ONE + TWO + THREE
    put(drop, content, state=CUT + 1)
    assert "maildrop" not in log_of_a_session(drop)
    assert drop.content == content


@pytest.mark.parametrize("state", [HOLE, CUT])
@pytest.mark.parametrize("octets, mark", [(33, 11), (35, 11), (36, 12), (47, 15), (48, 16), (49, 16)])
def test_the_marks_in_a_small_hole_leave_a_third_of_it(drop, octets, mark, state):
    dead = MARK[:mark] + b"x" * (octets - 2 * mark) + MARK[:mark]
    put(drop, ONE + dead, state=state, r=W + octets, size=W + octets)
    assert "finished an UPDATE" in log_of_a_session(drop)
    assert drop.content == ONE


def test_what_is_no_record_is_not_followed_though_its_sum_is_right(drop):
    content = ONE + TWO + THREE
    put(drop, content, magic=0x1122334455667788)
    assert "UPDATE" not in log_of_a_session(drop)
    assert drop.content == content


def test_mail_behind_a_cut_is_no_mark_though_it_has_nul_where_one_was(drop):
    new = mail(4, body=b"\0" * 200 + b"\n")
    end = W + len(new) - 10
    put(drop, ONE + new, state=CUT, r=end, size=end)
    assert "finished an UPDATE" in log_of_a_session(drop)
    assert drop.content == ONE + new
