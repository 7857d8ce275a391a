"""popa3d's clients notice nothing, and no mail program changes a unique-id.

cases/test_unique_ids.py tests the rule; here are the real programs.
"""

import random
import re

import pytest

import mailers
import unique_ids
from harness import needs, needs_root

pytestmark = needs_root


@pytest.fixture(scope="module")
def desk():
    with mailers.Desk() as desk:
        yield desk


def ids_of(session):
    with session:
        assert session.login(mailers.NAME, session.password).startswith(b"+OK")
        status, lines = session.multi("UIDL")
        assert status.startswith(b"+OK")
        session.cmd("QUIT")
    return [line.split(b" ", 1)[1].decode() for line in lines]


def our_ids(desk):
    session = desk.pop3d("-p")
    session.password = desk.password
    return ids_of(session)


def popa3d_ids(desk):
    session = desk.popa3d()
    session.password = desk.password
    return ids_of(session)


@pytest.mark.skipif(not (mailers.UNPACKED / "usr/sbin/popa3d").exists(), reason="needs popa3d: make deliverers")
@pytest.mark.parametrize("seed", range(10))
def test_they_are_popa3ds(desk, seed):
    rng = random.Random(1000 + seed)
    desk.put(b"\n".join(unique_ids.random_mail(rng, lasting=True) for _ in range(40)) + b"\n")
    theirs = popa3d_ids(desk)
    assert len(set(theirs)) > 30
    assert our_ids(desk) == theirs


def stored(number, *header, body=b"Hello.\n"):
    """With spaces and a From_ line as Postfix and procmail write them."""
    lines = [b"Return-Path: <bob@example.org>", b"Delivered-To: alice@example.org", b"Received: by mx.example.org (Postfix)",
             b"\tid %d; Mon,  5 Jan 2026 10:00:00 +0000 (UTC)" % number, b"From: Bob <bob@example.org>", b"To:alice@example.org",
             b"Subject:p3dd %d" % number, *header]
    return b"From bob@example.org  Mon Jan  5 10:00:00 2026\n" + b"\n".join(lines) + b"\n\n" + body + b"\n"


MAILS = [stored(1), stored(2, b"Date: Mon,  5 Jan 2026 10:00:02 +0000"), stored(3), stored(4, b"X-UIDL: of-another-server"), stored(5),
         stored(6, b"X-Delivery-ID: 17", body=b"two empty lines follow\n\n\n"),
         b"From carol@example.org  Mon Jan  5 10:00:07 2026\nFrom: carol@example.org\nSubject: p3dd 7\n\nno field\n\n",
         b"From carol@example.org  Mon Jan  5 10:00:08 2026\nFrom: carol@example.org\nSubject: p3dd 8\n\nno field\n\n"]

REWRITERS = [mailers.gnu_mail, mailers.mutt, mailers.neomutt, mailers.s_nail, mailers.alpine, mailers.dovecot_expunges]


@needs("mail.mailutils", "mutt", "neomutt", "s-nail", "alpine", "doveadm")
@pytest.mark.parametrize("rewriter", REWRITERS, ids=lambda rewriter: rewriter.__name__)
def test_a_program_that_rewrites_the_mailbox_leaves_them_as_they_are(desk, rewriter):
    """It removes number 3, marks others, and adds what it adds."""
    desk.put(b"".join(MAILS))
    before = our_ids(desk)
    rewriter(desk)
    content = desk.mailbox.read_bytes()
    assert b"p3dd 3" not in content
    del before[2]
    assert our_ids(desk) == before


def test_such_programs_do_change_what_is_around(desk):
    """So the test above can fail."""
    desk.put(b"".join(MAILS))
    mailers.gnu_mail(desk)
    assert not re.search(rb"^From \S+  ", desk.mailbox.read_bytes(), re.M)
    desk.put(b"".join(MAILS))
    mailers.mutt(desk)
    assert re.search(rb"^(Status|Content-Length|Lines): ", desk.mailbox.read_bytes(), re.M)
    desk.put(b"".join(MAILS))
    mailers.dovecot_marks(desk)
    assert re.search(rb"^X-UID: ", desk.mailbox.read_bytes(), re.M)


def test_dovecot_marking_leaves_them_as_they_are(desk):
    desk.put(b"".join(MAILS))
    before = our_ids(desk)
    mailers.dovecot_marks(desk)
    assert our_ids(desk) == before


@pytest.mark.skipif(not (mailers.UNPACKED / "usr/sbin/dma").exists(), reason="needs dma: make deliverers")
@pytest.mark.parametrize("last", [b"no empty line behind\n", b"an empty line behind\n\n"])
def test_dmas_empty_line_in_front_leaves_them_as_they_are(desk, last):
    """The last mail gets its separator by the next delivery."""
    desk.put(MAILS[0] + b"From carol@example.org Mon Jan  5 10:00:07 2026\nFrom: carol@example.org\n\n" + last)
    before = our_ids(desk)
    mailers.dma(desk, b"Subject: one\n\nfirst\n")
    mailers.dma(desk, b"Subject: two\n\nsecond\n")
    after = our_ids(desk)
    assert after[:2] == before and len(set(after)) == 4
