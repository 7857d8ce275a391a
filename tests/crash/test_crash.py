"""Killed anywhere in UPDATE or in its recovery, pop3d loses nothing.  The short form of crash/crash.py."""

import platform

import pytest

import crash
import lab

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="killat.c knows the registers of x86_64 only")


@pytest.mark.parametrize("server", lab.SERVERS, ids=lambda path: path.name)
def test_a_kill_at_any_system_call_harms_nothing(server):
    tried, harmed = crash.sweep([server], ["short"], **crash.SHORT)
    assert not harmed
    assert tried > 100


def test_without_records_kills_do_harm():
    """So the test above can fail."""
    tried, harmed = crash.sweep([lab.WITHOUT_RECORDS], ["short"], ["every second", "first"], **crash.SHORT)
    assert harmed


def test_a_crash_loses_no_second_session():
    """The lock of a session that was killed went with it."""
    with lab.Maildrop(lab.mailbox("short")) as drop:
        drop.begin(lab.SERVERS[0])
        drop.session(lab.SERVERS[0], [*lab.LOGIN, b"DELE 1", b"QUIT"], marker="QUIT", number=30)
        crash.login(drop, lab.SERVERS[0], [0], None)
