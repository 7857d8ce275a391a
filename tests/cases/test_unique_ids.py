"""Unique-ids: those of popa3d, of X-UIDL lines, and of mails without any; they never change.

uidl-golden.case has mails of every kind; tools/unique_ids.py is the rule once
more, written from the rule.
"""

import pathlib
import random
import re

import pytest

import unique_ids
from harness import STUB, TESTS, Maildrop, mail

MAILBOX_C = (TESTS.parent / "mailbox.c").read_text()


def ids_of(drop, binary=STUB):
    with drop.session(binary=binary) as session:
        assert session.login().startswith(b"+OK")
        lines = session.multi("UIDL")[1]
        assert session.cmd("QUIT").startswith(b"+OK")
    return [line.split(b" ", 1)[1].decode() for line in lines]


@pytest.mark.parametrize("seed", range(10))
def test_the_ids_of_random_mails_are_by_the_rule(tmp_path, seed):
    rng = random.Random(seed)
    mails = [unique_ids.random_mail(rng) for _ in range(100)]
    drop = Maildrop(tmp_path / "alice", b"\n".join(mails) + b"\n")
    assert ids_of(drop) == unique_ids.unique_ids(mails)


def test_lines_that_end_in_crlf_count_as_they_are_stored(tmp_path):
    rng = random.Random(7)
    mails = [unique_ids.random_mail(rng).replace(b"\n", b"\r\n")
             for _ in range(50)]
    drop = Maildrop(tmp_path / "alice", b"\r\n".join(mails) + b"\r\n")
    assert ids_of(drop) == unique_ids.unique_ids(mails)


def test_a_header_of_a_mebibyte_counts_whole(tmp_path):
    long = b"Delivered-To: " + b"x" * 5000 + b"\n\t" + b"y" * (1 << 20) + b"\n"
    mails = [mail(number, header=long + last)[:-1]
             for number, last in enumerate((b"Date: 1\n", b"Date: 2\n"))]
    drop = Maildrop(tmp_path / "alice", b"\n".join(mails) + b"\n")
    ids = ids_of(drop)
    assert ids == unique_ids.unique_ids(mails)
    assert ids[0] != ids[1]


MIXED = [mail(1, header=b"Message-ID: <1@example.org>\n"),
         mail(2),
         mail(3, header=b"X-UIDL: three\n"),
         mail(4, header=b"Received: by x; Mon, 5 Jan 2026 10:00:00 +0000\n"),
         mail(5, body=b"no field, and empty lines behind\n\n\n")]


@pytest.mark.parametrize("deleted", range(1, 6))
def test_the_deletion_of_neighbours_leaves_ids_as_they_are(tmp_path, deleted):
    drop = Maildrop(tmp_path / "alice", b"".join(MIXED))
    before = ids_of(drop)
    with drop.session() as session:
        session.login()
        session.cmd(f"DELE {deleted}")
        assert session.cmd("QUIT").startswith(b"+OK")
    del before[deleted - 1]
    assert ids_of(drop) == before


def test_the_next_delivery_leaves_ids_as_they_are(tmp_path):
    """Also where the last mail has no final newline yet, or no empty line."""
    drop = Maildrop(tmp_path / "alice")
    for ending in b"text\n\n", b"text\n", b"text":
        drop.path.write_bytes(MIXED[0] + mail(2, body=b"")[:-1] + ending)
        before = ids_of(drop)
        drop.deliver(b"\n\n"[:2 - ending.count(b"\n")] + mail(3))
        assert ids_of(drop)[:2] == before


# ---- mails that mean harm ----

MIX = re.search(r"x = \(x \+ 0x(\w+)ULL\) \* 0x(\w+)ULL;\n"
                r"\treturn x \^ x >> 32;\n", MAILBOX_C)
MANY = 30_000
MASK = (1 << 64) - 1


def falling_together(count):
    """Ids that mix() takes to one place, were there no random bits in it."""
    plus, times = (int(number, 16) for number in MIX.groups())
    back = pow(times, -1, 1 << 64)
    for number in range(count):
        mixed = number << 24
        yield ((mixed ^ mixed >> 32) * back - plus) & MASK


def alike_below(count):
    """Ids that differ in their highest bits first, which a multiplication takes nowhere."""
    for number in range(count):
        yield (number & 0x7fff) << 49 | number >> 15


def seconds_for(path, ids, line=b"X-UIDL: %016x"):
    """Processor time of a login and UIDL; a session's own, and the least of three, so that a busy machine does not count."""
    drop = Maildrop(path, b"".join(
        b"From a Mon Jan  5 10:00:00 2026\n%b\n\n\n" % (line % number)
        for number in ids))
    runs = [spent_by(drop) for _ in range(3)]
    return tuple(map(min, zip(*runs)))


def spent_by(drop):
    with drop.session() as session:
        schedstat = pathlib.Path(f"/proc/{session.process.pid}/schedstat")

        def spent():
            return int(schedstat.read_text().split()[0]) / 1e9

        session.login()
        logged_in = spent()
        session.send(b"UIDL\r\n")
        answer = b""
        while not answer.endswith(b"\r\n.\r\n"):
            answer += session.read()
        assert answer.count(b"\r\n") == MANY + 2
        return logged_in, spent() - logged_in


def usual_ids():
    rng = random.Random(1)
    return [rng.getrandbits(64) for _ in range(MANY)]


@pytest.mark.parametrize("ids", [falling_together, alike_below])
def test_mail_cannot_be_made_to_slow_uidl_down(tmp_path, ids):
    assert MIX, "mix() is another one: falling_together() must follow it"
    usual = seconds_for(tmp_path / "usual", usual_ids())[1]
    made = seconds_for(tmp_path / "made", ids(MANY))[1]
    assert made < 5 * usual


def test_a_line_with_an_id_is_read_as_fast_as_another(tmp_path):
    """Of a mailbox without a NUL nothing is read to the next NUL."""
    other = seconds_for(tmp_path / "other", usual_ids(), line=b"X-OIDL: %016x")[0]
    assert seconds_for(tmp_path / "uidl", usual_ids())[0] < 5 * other


def test_twins_are_numbered_in_the_order_of_the_mailbox(tmp_path):
    count = 3000
    drop = Maildrop(tmp_path / "alice", mail(1) * count)
    first, *others = ids_of(drop)
    assert others == [f"{first}-{number}" for number in range(2, count + 1)]
