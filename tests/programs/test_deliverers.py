"""Deliverers with ways of their own, as real programs: procmail's bounces, dma's empty line in front."""

import re

import pytest

import mailers
from harness import needs, needs_root

pytestmark = needs_root


@pytest.fixture(scope="module")
def desk():
    with mailers.Desk() as desk:
        yield desk


@pytest.fixture(autouse=True)
def empty(desk):
    desk.put(b"")


def session(desk, *commands):
    """The answers to commands after a login, and that to QUIT."""
    with desk.pop3d("-p") as session:
        assert session.login(mailers.NAME, desk.password).startswith(b"+OK")
        answers = [session.multi(command) if command in ("LIST", "UIDL") else session.cmd(command) for command in commands]
        return [*answers, session.cmd("QUIT")]


def listed(desk):
    """(size, unique-id) of each message."""
    (_, sizes), (_, ids), _ = session(desk, "LIST", "UIDL")
    return [(size.split()[1], name.split()[1]) for size, name in zip(sizes, ids)]


BOUNCE = b"Return-Path: <>\nSubject: x\n\ny\n"
MAIL = b"Return-Path: <bob@example.org>\nSubject: mail\n\nHello.\n"


@needs("procmail")
@pytest.mark.parametrize("mails", [(BOUNCE,), (BOUNCE, MAIL), (MAIL, BOUNCE), (BOUNCE, BOUNCE, MAIL, BOUNCE)])
def test_a_bounce_by_procmail_is_a_message(desk, mails):
    for message in mails:
        mailers.procmail(desk, message, sender="" if message == BOUNCE else "bob@example.org")
    content = desk.mailbox.read_bytes()
    assert content.count(b"From   ") == mails.count(BOUNCE)
    with desk.pop3d("-p") as session:
        assert session.login(mailers.NAME, desk.password) .startswith(b"+OK %d message" % len(mails))
        for number, message in enumerate(mails, 1):
            assert b"\n".join(session.multi(f"RETR {number}")[1]) + b"\n" == message
        session.cmd("QUIT")


@needs("procmail")
def test_what_stands_before_a_bounce_goes_without_it(desk):
    mailers.procmail(desk, MAIL)
    mailers.procmail(desk, BOUNCE, sender="")
    bounce = desk.mailbox.read_bytes()[-len(BOUNCE) - len("From   Tue Jan  2 03:04:05 2024\n\n"):]
    assert bounce.startswith(b"From   ")
    assert session(desk, "DELE 1")[-1].startswith(b"+OK")
    assert desk.mailbox.read_bytes() == bounce


# ---- dma: the empty line stands in front, none behind the last message ----

has_dma = pytest.mark.skipif(not (mailers.UNPACKED / "usr/sbin/dma").exists(), reason="needs dma: make deliverers")


def text(number):
    return b"Message-ID: <%d@example.org>\nSubject: %d\n\nnumber %d\n" % (number, number, number)


def deliver_by_dma(desk, *numbers):
    for number in numbers:
        mailers.dma(desk, text(number))


def numbers_in(desk):
    return [int(number) for number in re.findall(rb"^number (\d+)$", desk.mailbox.read_bytes(), re.M)]


@has_dma
@pytest.mark.parametrize("deliverer", [mailers.dma, mailers.procmail, mailers.maildrop, mailers.dotlockfile], ids=lambda d: d.__name__)
@pytest.mark.parametrize("deleted", [(1,), (3,), (2, 3), (1, 3), (1, 2, 3)])
def test_what_comes_in_the_session_is_there_after_it(desk, deliverer, deleted):
    """A deleted last message goes with the empty line that the delivery brought; the others are what they were."""
    deliver_by_dma(desk, 1, 2, 3)
    before = listed(desk)
    with desk.pop3d("-p") as session:
        session.login(mailers.NAME, desk.password)
        for number in deleted:
            assert session.cmd(f"DELE {number}").startswith(b"+OK")
        deliverer(desk, text(4))
        assert session.cmd("QUIT").startswith(b"+OK")
    content = desk.mailbox.read_bytes()
    kept = [number for number in (1, 2, 3) if number not in deleted]
    assert numbers_in(desk) == [*kept, 4]
    assert content.startswith(b"From ") and not re.search(rb"\n\n\n", content)
    assert listed(desk)[:-1] == [before[number - 1] for number in kept]


@has_dma
@pytest.mark.parametrize("deleted", [(1,), (2,), (3,), (1, 2), (2, 3), (1, 2, 3)])
def test_what_comes_after_the_session_changes_no_id_and_nothing_begins_with_an_empty_line(desk, deleted):
    deliver_by_dma(desk, 1, 2, 3)
    before = listed(desk)
    assert session(desk, *(f"DELE {number}" for number in deleted))[-1].startswith(b"+OK")
    assert not desk.mailbox.read_bytes().startswith(b"\n")
    deliver_by_dma(desk, 4)
    kept = [number for number in (1, 2, 3) if number not in deleted]
    assert numbers_in(desk) == [*kept, 4]
    assert not desk.mailbox.read_bytes().startswith(b"\n")
    assert [name for _, name in listed(desk)][:-1] == [before[number - 1][1] for number in kept]


@has_dma
def test_a_last_message_that_was_delivered_behind_is_sent(desk):
    """Its empty line came with the next message: that is no change."""
    deliver_by_dma(desk, 1)
    with desk.pop3d("-p") as session:
        session.login(mailers.NAME, desk.password)
        size = session.cmd("LIST 1").split()[2]
        deliver_by_dma(desk, 2)
        status, lines = session.multi("RETR 1")
        assert status.startswith(b"+OK")
        assert sum(len(line) + 2 for line in lines) == int(size)
        assert session.cmd("QUIT").startswith(b"+OK")
    assert listed(desk)[0][0] == size
