"""The index in the side file spares the reading and makes no answer wrong.

Right is what a session without a side file answers, for it must read the
mailbox.  CLOCK is the stub with small limits and a clock that the tests set; it
goes by the file system's, so it is set by touching.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest

from harness import (BUILD, LOGIN, POP3D, STUB, Maildrop, mail, needs,
                     needs_root, talk, wait_for)
from mails import MAILS, mailbox
from sums import checksum
from users import pam_service, user

CLOCK = BUILD / "pop3d-stub-clock"
INDEX_MIN = 2000            # of CLOCK: bytes of a mailbox worth an index
DATA_AREA_MAX = 8192        # of CLOCK: bytes of an index
SIDE_DATA = 8192            # where in the side file the index is
LONG_AFTER = 2**31 - 1      # seconds: later than any mailbox here changed

POLL = LOGIN + b"STAT\r\nLIST\r\nQUIT\r\n"
POLL_IDS = LOGIN + b"STAT\r\nLIST\r\nUIDL\r\nQUIT\r\n"

# Twins, stored with CRLF, marked read, without a final newline: all kinds.
ALL_KINDS = mailbox([mail for mail in MAILS if len(mail) < 5000])
PLAIN = b"".join(mail(number, 9 * b"Some text.\n") for number in range(1, 20))


@pytest.fixture(autouse=True)
def clock(tmp_path, monkeypatch):
    """A function that sets CLOCK's clock."""
    path = tmp_path / "clock"
    path.write_text(str(LONG_AFTER))
    monkeypatch.setenv("POP3D_STUB_CLOCK", str(path))
    return lambda seconds: path.write_text(str(int(seconds)))


@pytest.fixture
def drop(tmp_path):
    return Maildrop(tmp_path / "alice", PLAIN)


def run(drop, data, binary=CLOCK):
    answers, status, log = talk(binary, "-p", "-d", "-m", drop.path, data=data)
    assert status == 0, log
    return answers


def everything(drop):
    """Each answer that comes from the mailbox, a whole session of them."""
    count = int(run(drop, LOGIN + b"STAT\r\n").split(b"\r\n")[3].split()[1])
    return run(drop, LOGIN + b"STAT\r\nLIST\r\nUIDL\r\n" + b"".join(
        b"LIST %d\r\nUIDL %d\r\nTOP %d 1\r\nRETR %d\r\n" % (n, n, n, n)
        for n in range(1, count + 1)) + b"QUIT\r\n")


def right(content):
    """What everything() must be where this is the mailbox."""
    folder = pathlib.Path(os.environ["POP3D_STUB_CLOCK"] + ".scanned")
    folder.mkdir()
    answers = everything(Maildrop(folder / "alice", content))
    shutil.rmtree(folder)
    return answers


def index_size(drop):
    return max(0, drop.side.stat().st_size - SIDE_DATA)


def traced(data, command, calls):
    """The system calls of a session that runs by itself."""
    trace = f"{os.environ['POP3D_STUB_CLOCK']}.trace"
    done = subprocess.run(
        ["strace", "-y", "-o", trace, "-e", f"trace={calls}", *command],
        input=data, capture_output=True, timeout=60)
    assert b"messages" in done.stdout, done
    return pathlib.Path(trace).read_text().splitlines()


def reads(drop, data=POLL_IDS, command=None):
    """How often a session that runs by itself reads the mailbox."""
    lines = [line for line in traced(
        data, command or [CLOCK, "-p", "-m", drop.path],
        "read,pread64,readv,preadv,mmap,statx")
        if f"<{drop.path}>" in line]
    assert any("stat" in line for line in lines), "the trace shows nothing"
    return sum("stat" not in line for line in lines)


# ---- it is used ----

def grow_old(drop):
    """Wait until the mailbox has not changed for more than two seconds."""
    wait_for(lambda: time.time() > drop.path.stat().st_ctime + 4)


@needs("strace")
def test_an_unchanged_mailbox_is_not_read(tmp_path):
    """With the real limits and the real clock."""
    drop = Maildrop(tmp_path / "alice", mailbox(MAILS))
    poll = [STUB, "-p", "-m", drop.path]
    grow_old(drop)
    assert reads(drop, command=poll) > 0
    assert reads(drop, command=poll) == 0
    drop.deliver(mail(7))
    assert reads(drop, command=poll) > 0


@needs("strace")
@needs_root
def test_an_unchanged_mailbox_is_not_read_by_the_real_server():
    with pam_service(), user("p3dhindex", mailbox(MAILS)) as account:
        data = b"USER %b\r\nPASS %b\r\nSTAT\r\nUIDL\r\nQUIT\r\n" % (
            account.name.encode(), account.password.encode())
        grow_old(account.maildrop)
        poll = [POP3D, "-p"]
        assert reads(account.maildrop, data, poll) > 0
        assert reads(account.maildrop, data, poll) == 0
        retrieve = data.replace(b"QUIT", b"RETR 1\r\nQUIT")
        assert reads(account.maildrop, retrieve, poll) > 0


@needs("strace")
def test_an_unchanged_message_is_read_once(drop):
    """Once it was clear that it is unchanged, and not twice to find out."""
    drop.path.write_bytes(mail(1, 2000 * b"Some text.\n"))
    run(drop, POLL)
    octets = 0
    for line in traced(LOGIN + b"RETR 1\r\nQUIT\r\n", [CLOCK, "-p", "-m", drop.path], "pread64"):
        if f"<{drop.path}>" in line:
            octets += int(line.rsplit("= ", 1)[1])
    assert 20_000 < octets < 30_000


@needs("strace")
def test_unique_ids_are_in_it_from_the_first(drop):
    run(drop, POLL)
    assert reads(drop, POLL_IDS) == 0


@pytest.mark.parametrize("content", [PLAIN, ALL_KINDS],
                         ids=["plain", "all kinds"])
@pytest.mark.parametrize("poll", [POLL, POLL_IDS], ids=["without ids", "ids"])
def test_its_answers_are_those_of_a_scan(drop, content, poll):
    drop.path.write_bytes(content)
    run(drop, poll)
    assert index_size(drop) > 0
    assert everything(drop) == right(content)


def test_deleted_and_taken_back_is_not_deleted_in_it(drop):
    run(drop, LOGIN + b"DELE 1\r\nDELE 7\r\nRSET\r\nQUIT\r\n")
    assert index_size(drop) > 0
    assert everything(drop) == right(PLAIN)


# ---- when it is written ----

@pytest.mark.parametrize("age, written", [(-9, False), (0, False), (2, False),
                                          (3, True), (999, True)])
def test_it_takes_a_mailbox_that_has_not_just_changed(drop, clock, age,
                                                      written):
    """A change within the grain of the file's times would not show."""
    clock(int(drop.path.stat().st_ctime) + age)
    run(drop, POLL)
    assert (index_size(drop) > 0) == written


@needs("strace")
def test_the_time_is_asked_for_before_the_reading(drop):
    """Or a mailbox that changed just before a long reading would seem old."""
    calls = [line.split("(")[0] for line in traced(
        POLL, [CLOCK, "-p", "-m", drop.path], "pread64,utimensat")
        if f"<{drop.path}>" in line or "utimensat" in line]
    assert calls.count("pread64") > 0 and calls.count("utimensat") > 0
    assert calls == sorted(calls, reverse=True)


@pytest.mark.parametrize("size, written", [(INDEX_MIN - 1, False),
                                           (INDEX_MIN, True)])
def test_it_takes_a_mailbox_that_is_worth_it(drop, size, written):
    drop.path.write_bytes(PLAIN[:size - 1] + b"\n")
    run(drop, POLL)
    assert (index_size(drop) > 0) == written


@needs("strace")
@pytest.mark.parametrize("failing", [2, 3])
def test_one_that_finds_no_room_leaves_none_taken(drop, failing):
    """The first write is of the slots, the second of what the scan found, the third of what goes before it."""
    command = ["strace", "-qq", "-o", "/dev/null", "-P", drop.side, "-P", drop.side.name, "-e", "trace=pwrite64", "-e",
               f"inject=pwrite64:error=ENOSPC:when={failing}", CLOCK, "-p", "-m", drop.path]
    done = subprocess.run(command, input=POLL, capture_output=True, timeout=60)
    assert b"\r\n+OK 19 " in done.stdout
    assert drop.side.stat().st_size == SIDE_DATA


def of_messages(drop, count, poll=POLL):
    """The size of a new index of so many messages."""
    drop.path.write_bytes(b"".join(map(mail, range(count))))
    drop.side.unlink(missing_ok=True)
    run(drop, poll)
    return index_size(drop)


@pytest.mark.parametrize("poll", [POLL, POLL_IDS], ids=["without ids", "ids"])
def test_it_is_never_larger_than_the_data_area(drop, poll):
    each = (of_messages(drop, 90, poll) - of_messages(drop, 40, poll)) // 50
    most = 90 + (DATA_AREA_MAX - of_messages(drop, 90, poll)) // each
    size = of_messages(drop, most, poll)
    assert DATA_AREA_MAX - each < size <= DATA_AREA_MAX
    assert of_messages(drop, most + 1, poll) == 0
    assert everything(drop) == right(drop.content)


def test_it_does_not_touch_the_mailbox(drop):
    before = drop.state(), drop.path.stat().st_ctime_ns
    run(drop, POLL)
    run(drop, POLL_IDS)
    assert index_size(drop) > 0
    assert (drop.state(), drop.path.stat().st_ctime_ns) == before


def ended(drop):
    run(drop, LOGIN + b"UIDL\r\n")


def not_quite_quit(drop):
    run(drop, LOGIN + b"UIDL\r\nQUIT")


def told_to_end(drop):
    with drop.session("-t", "600", binary=CLOCK) as session:
        session.login()
        session.multi("UIDL")
        session.process.send_signal(signal.SIGTERM)
        session.wait()


def silent(drop):
    with drop.session(binary=CLOCK) as session:
        session.login()
        session.wait()


def deleted(drop):
    run(drop, LOGIN + b"UIDL\r\nDELE 1\r\nDELE 3\r\nQUIT\r\n")


def all_deleted(drop):
    run(drop, LOGIN + b"UIDL\r\n" + b"".join(
        b"DELE %d\r\n" % n for n in range(1, 20)) + b"QUIT\r\n")


def changed_meanwhile(drop):
    with drop.session("-t", "600", binary=CLOCK) as session:
        session.login()
        session.multi("UIDL")
        tick(drop)
        drop.deliver(mail(20))
        session.cmd("QUIT")


def not_updated(drop):
    """DELE, and another program's change: QUIT is refused."""
    with drop.session("-t", "600", binary=CLOCK) as session:
        session.login()
        session.cmd("DELE 3")
        tick(drop)
        drop.path.write_bytes(PLAIN.replace(b"number", b"NUMBER"))
        assert session.cmd("QUIT").startswith(b"-ERR")


@pytest.mark.parametrize("session", [
    ended, not_quite_quit, told_to_end, silent, deleted, all_deleted,
    changed_meanwhile, not_updated])
def test_it_is_right_however_the_session_before_ended(drop, session):
    session(drop)
    run(drop, POLL)
    assert everything(drop) == right(drop.content)
    if drop.content:
        assert index_size(drop) > 0
        assert reads(drop) == 0


# ---- it does not fit any more ----

def tick(drop):
    """Wait until a change of the mailbox would show in its times."""
    probe = drop.path.with_name("probe")
    wait_for(lambda: probe.write_bytes(b"") == 0
             and probe.stat().st_ctime_ns > drop.path.stat().st_ctime_ns)


def rewrite(drop, content):
    """In place, and the modification time does not tell."""
    st = drop.path.stat()
    with open(drop.path, "rb+") as file:
        file.write(content)
        file.truncate()
    os.utime(drop.path, ns=(st.st_atime_ns, st.st_mtime_ns))


def delivered(drop):
    drop.deliver(mail(20))


def same_size(drop):
    rewrite(drop, PLAIN.replace(b"number", b"NUMBER"))


def other_boundaries(drop):
    rewrite(drop, PLAIN.replace(b"\n\nFrom ", b"\n\n>rom ", 5))


def marked_read(drop):
    rewrite(drop, PLAIN.replace(b"Subject", b"Status: RO\nSubject", 3))


def cut_short(drop):
    rewrite(drop, PLAIN[:len(PLAIN) // 2])


def replaced(drop):
    st = drop.path.stat()
    new = drop.path.with_name("new")
    new.write_bytes(PLAIN.replace(b"number", b"NUMBER"))
    os.utime(new, ns=(st.st_atime_ns, st.st_mtime_ns))
    new.rename(drop.path)


def touched(drop):
    os.utime(drop.path)


CHANGES = [delivered, same_size, other_boundaries, marked_read, cut_short,
           replaced, touched, deleted, all_deleted]


@needs("strace")
@pytest.mark.parametrize("change", CHANGES)
def test_an_old_index_does_not_count(drop, change):
    run(drop, POLL_IDS)
    old = drop.side.read_bytes()
    tick(drop)
    change(drop)
    want = right(drop.content)
    assert everything(drop) == want
    drop.side.write_bytes(old)      # as a restored backup would have it
    if drop.content:
        assert reads(drop, LOGIN + b"NOOP\r\n") > 0
    assert everything(drop) == want


def test_two_changes_and_the_old_content_again(drop):
    run(drop, POLL_IDS)
    tick(drop)
    same_size(drop)
    assert everything(drop) == right(drop.content)
    tick(drop)
    rewrite(drop, PLAIN)
    assert everything(drop) == right(PLAIN)


@contextlib.contextmanager
def of_the_same_times(drop, content):
    """Another mailbox, of the same size and times to the nanosecond."""
    other = Maildrop(drop.path.with_name("bob"), content)

    def alike():
        for path in drop.path, other.path:
            os.utime(path, ns=(0, 0))
        return drop.path.stat().st_ctime_ns == other.path.stat().st_ctime_ns

    assert len(content) == len(drop.content)
    wait_for(alike)
    yield other


def test_the_index_of_another_mailbox_does_not_count(drop):
    content = PLAIN.replace(b"\n\nFrom ", b"\n\n>rom ", 5)
    with of_the_same_times(drop, content) as other:
        run(drop, POLL_IDS)
        run(other, POLL_IDS)
        ours, theirs = drop.side.read_bytes(), other.side.read_bytes()
        drop.side.write_bytes(theirs)
        other.side.write_bytes(ours)
        assert everything(drop) == right(drop.content)
        assert everything(other) == right(other.content)


@needs("strace")
@needs_root
def test_an_index_of_another_users_does_not_count(ordinary, monkeypatch):
    """Where all may write in the directory, the first comer owns the name."""
    clock = shutil.copy(os.environ["POP3D_STUB_CLOCK"], ordinary.path.parent)
    monkeypatch.setenv("POP3D_STUB_CLOCK", clock)
    ordinary.path.write_bytes(PLAIN)
    run(ordinary, POLL_IDS)
    assert reads(ordinary) == 0
    ordinary.path.parent.chmod(0o1777)
    os.chown(ordinary.side, 54321, 54321)
    ordinary.side.chmod(0o666)
    assert reads(ordinary) > 0


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_side_file_keeps_nobody_from_reading(drop, make):
    make(drop.side)
    assert b"\r\n+OK 19 " in run(drop, POLL)


# ---- it is damaged ----

def bits(chance, index, _):
    for _ in range(chance.randint(1, 3)):
        index[chance.randrange(len(index))] ^= 1 << chance.randrange(8)


def octets(chance, index, _):
    at, size = chance.randrange(len(index)), chance.randint(1, 64)
    index[at:at + size] = chance.randbytes(len(index[at:at + size]))


def zeros(chance, index, _):
    """A block that never came to the disk."""
    at = chance.randrange(len(index))
    index[at:] = bytes(len(index) - at)


def truncation(chance, index, _):
    del index[chance.randrange(len(index)):]


def words_exchanged(chance, index, _):
    """Numbers that are true, in the wrong place."""
    size = 8 * chance.randint(1, 6)
    a, b = (8 * chance.randrange((len(index) - size) // 8) for _ in "ab")
    index[a:a + size], index[b:b + size] = index[b:b + size], index[a:a + size]


def shifted(chance, index, _):
    at = chance.randrange(len(index))
    if chance.random() < 0.5:
        index[at:at] = chance.randbytes(chance.choice([1, 8, 24]))
    else:
        del index[at:at + chance.choice([1, 8, 24])]


def half_of_another(chance, index, others):
    """Written to by two sessions that did not know of each other."""
    at = chance.randrange(len(index))
    index[at:] = chance.choice(others)[at:]


def small_number(chance, index, _):
    """A count or an offset that is near the true one."""
    at = 8 * chance.randrange(len(index) // 8)
    number = int.from_bytes(index[at:at + 8], "little")
    index[at:at + 8] = ((number + chance.choice([-2, -1, 1, 2])) % 2**64) \
        .to_bytes(8, "little")


@pytest.mark.parametrize("damage", [
    bits, octets, zeros, truncation, words_exchanged, shifted, half_of_another,
    small_number])
def test_a_damaged_index_makes_no_answer_wrong(drop, damage):
    others = []
    # Of the mailbox as it was before, without ids, and with them.
    for content, poll in ((PLAIN, POLL_IDS), (ALL_KINDS, POLL),
                          (ALL_KINDS, POLL_IDS)):
        if drop.content != content:
            tick(drop)
            drop.path.write_bytes(content)
        run(drop, poll)
        others.append(drop.side.read_bytes()[SIDE_DATA:])
    records, index = drop.side.read_bytes()[:SIDE_DATA], others.pop()
    want = right(ALL_KINDS)
    for number in range(20):
        chance = random.Random(number)
        damaged = bytearray(index)
        damage(chance, damaged, others)
        drop.side.write_bytes(records + damaged)
        assert everything(drop) == want, f"number {number}"
        assert everything(drop) == want, f"number {number}, one session later"


# ---- one whose sums are right: whoever can write it can make them ----

INDEX = struct.Struct("=Q72sQ")         # struct index of mailbox.c, without its sum
MESSAGE = struct.Struct("=qqQIHBB")     # struct message of pop3d.h
START, OCTETS, ID, TWIN, FROM, SEPARATOR, FLAGS = range(7)


def forge(drop, number, field, value):
    """Message number's field is value now, and nobody can tell by the sums."""
    side = drop.side.read_bytes()
    index = side[SIDE_DATA:SIDE_DATA + INDEX.size]
    _, _, count = INDEX.unpack(index)
    at = SIDE_DATA + INDEX.size + 8
    messages = bytearray(side[at:at + count * MESSAGE.size])
    assert len(messages) == count * MESSAGE.size
    message = list(MESSAGE.unpack_from(messages, number * MESSAGE.size))
    message[field] = value(message[field])
    MESSAGE.pack_into(messages, number * MESSAGE.size, *message)
    total = checksum(checksum(0, index), messages).to_bytes(8, "little")
    drop.side.write_bytes(side[:SIDE_DATA] + index + total + messages)


FORGED = [(OCTETS, lambda _: -2), (OCTETS, lambda _: 2**62),
          (OCTETS, lambda _: -2**63), (START, lambda _: -1),
          (START, lambda _: -2**63), (START, lambda _: 2**62),
          (START, lambda start: start + 5000), (FROM, lambda _: 65535),
          (SEPARATOR, lambda _: 255), (FLAGS, lambda _: 1)]


@pytest.mark.skipif(sys.byteorder != "little", reason="made for such a host")
@pytest.mark.parametrize("number", [0, 7, 18])
@pytest.mark.parametrize("field, value", FORGED)
def test_a_forged_index_with_numbers_that_cannot_be_does_not_count(
        drop, number, field, value):
    run(drop, POLL_IDS)
    assert index_size(drop)
    forge(drop, number, field, value)
    assert everything(drop) == right(PLAIN)


@pytest.mark.skipif(sys.byteorder != "little", reason="made for such a host")
def test_a_forged_index_with_numbers_that_can_be_counts(drop):
    """So the test above can fail: its sums are right."""
    run(drop, POLL_IDS)
    forge(drop, 7, OCTETS, lambda octets: octets + 1)
    assert run(drop, POLL) != run(Maildrop(drop.path.parent / "other", PLAIN),
                                  POLL)
