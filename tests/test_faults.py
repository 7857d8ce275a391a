"""A system call that fails once harms nothing and makes no answer a lie.  The short form of crash/faults.py."""

import errno
import pathlib
import platform
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "crash"))
import faults  # noqa: E402
import lab  # noqa: E402

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="killat.c knows the registers of x86_64 only")

SERVER = lab.SERVERS[0]


@pytest.mark.parametrize("which", ["update", "recovery", "session"])
def test_a_failing_system_call_harms_nothing(which):
    tried, bad = faults.sweep([which], lab.SERVERS, ["short"], ["every second", "first and last"], most=faults.SHORT)
    assert not bad
    assert tried > 100


def after_quit(drop, name, action):
    """The answers to QUIT where each call of this name fails, before the answer is written."""
    commands = [*lab.LOGIN, b"DELE 1", b"QUIT"]
    drop.begin(SERVER)
    drop.session(SERVER, commands, marker="QUIT", lists=True)
    calls = drop.calls()
    for number in range(1, calls.index(("write", 1)) + 1):
        if calls[number - 1][0] == name:
            drop.restore()
            _, output = drop.session(SERVER, commands, marker="QUIT", number=number, action=action)
            yield lab.last_reply(output)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
def test_quit_is_not_ok_when_an_fsync_failed(error):
    with lab.Maildrop(lab.mailbox("short")) as drop:
        answers = list(after_quit(drop, "fsync", getattr(errno, error)))
    assert answers
    assert all(answer.startswith(b"-ERR [SYS/TEMP]") for answer in answers)


@pytest.mark.parametrize("name", ["pwrite64", "pread64"])
def test_the_rest_of_a_short_call_is_done_too(name):
    with lab.Maildrop(lab.mailbox("short")) as drop:
        answers = list(after_quit(drop, name, "short"))
    assert answers
    assert all(answer.startswith(b"+OK") for answer in answers)
