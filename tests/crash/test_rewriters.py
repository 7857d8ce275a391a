"""A program that rewrites a half-done mailbox, and mail that comes then: nothing is harmed.  The short form of rewriters.py."""

import platform

import pytest

import lab
import mailers
import rewriters
from harness import needs, needs_root

pytestmark = [needs_root, needs("mutt", "neomutt", "mail.mailutils", "s-nail", "alpine", "doveadm"),
              needs("procmail", "maildrop", "dotlockfile", "ex"),
              pytest.mark.skipif(platform.machine() != "x86_64", reason="killat.c knows the registers of x86_64 only"),
              pytest.mark.skipif(not (mailers.UNPACKED / "usr/sbin/dma").exists(), reason="needs dma: make deliverers")]


@pytest.mark.parametrize("server", lab.SERVERS[:1], ids=lambda path: path.name)
def test_what_a_program_left_of_a_half_done_mailbox_is_left_alone_or_finished(server):
    tried, harmed = rewriters.sweep([server], rewriters.PROGRAMS + rewriters.PEOPLE, rewriters.SHORT)
    assert not harmed
    assert tried == rewriters.SHORT * 15


def test_without_records_they_do_harm():
    """So the test above can fail."""
    _, harmed = rewriters.sweep([lab.WITHOUT_RECORDS], [rewriters.nothing], rewriters.SHORT)
    assert harmed
