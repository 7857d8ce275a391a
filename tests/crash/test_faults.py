"""A system call that fails once harms nothing and makes no answer a lie.  The short form of crash/faults.py."""

import errno
import platform

import pytest

import crash
import faults
import lab
import lies

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="killat.c knows the registers of x86_64 only")

SERVER = lab.SERVERS[0]


@pytest.mark.parametrize("which", ["update", "recovery", "session"])
def test_a_failing_system_call_harms_nothing(which):
    tried, bad = faults.sweep([which], lab.SERVERS, ["short"], ["every second", "first and last"], most=faults.SHORT)
    assert not bad
    assert tried > 100


def after_quit(drop, name, action, message=1):
    """The answers to QUIT where each call of this name fails, before the answer is written."""
    commands = [*lab.LOGIN, b"DELE %d" % message, b"QUIT"]
    drop.begin(SERVER)
    drop.session(SERVER, commands, marker="QUIT", lists=True)
    calls = drop.calls()
    for number in range(1, calls.index(("write", 1)) + 1):
        if calls[number - 1][0] == name:
            drop.restore()
            _, output = drop.session(SERVER, commands, marker="QUIT", number=number, action=action)
            yield lab.last_reply(output)


LAST = len(lab.mailbox("short"))        # to delete it nothing is moved


@pytest.mark.parametrize("message", [1, LAST])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
def test_quit_is_not_ok_when_an_fsync_failed(error, message):
    """But one of the data area that finds no room: what is moved then goes by the hole alone, which needs none."""
    with lab.Maildrop(lab.mailbox("short")) as drop:
        answers = list(after_quit(drop, "fsync", getattr(errno, error), message))
    done = [answer for answer in answers if answer.startswith(b"+OK")]
    assert len(done) == (message == 1 and error != "EIO")
    assert all(answer.startswith(b"-ERR [SYS/TEMP]") for answer in answers if answer not in done)


@pytest.mark.parametrize("more, goes", [(0, True), (1, False)])
def test_no_room_after_all_and_a_hole_that_takes_too_many_steps(more, goes):
    """There are 4096, and none moves more than the deleted message had."""
    little = lab.Message(1, 200)
    with lab.Maildrop([little, lab.Message(2, 4096 * len(little.stored) - 1 + more)]) as drop:
        answers = list(after_quit(drop, "fsync", errno.ENOSPC))
        crash.login(drop, SERVER, [0], None)
    assert any(answer.startswith(b"+OK") for answer in answers) == goes


@pytest.mark.parametrize("name", ["pwrite64", "pread64"])
def test_the_rest_of_a_short_call_is_done_too(name):
    with lab.Maildrop(lab.mailbox("short")) as drop:
        answers = list(after_quit(drop, name, "short"))
    assert answers
    assert all(answer.startswith(b"+OK") for answer in answers)


def test_quit_is_not_ok_when_the_mailbox_cannot_be_cut():
    with lab.Maildrop(lab.mailbox("short")) as drop:
        answers = list(after_quit(drop, "ftruncate", errno.EIO, LAST))
        crash.login(drop, SERVER, [LAST - 1], None)
    assert answers[0].startswith(b"-ERR [SYS/TEMP]")     # the others are of the side file


def test_a_file_that_seems_to_end_loses_nothing():
    """As if another program cut it at that moment, which no lock of ours keeps it from."""
    with lab.Maildrop(lab.mailbox("short")) as drop:
        answers = set()
        for answer in after_quit(drop, "pread64", 0):
            answers.add(answer[:3])
            crash.login(drop, SERVER, [0], None)
    assert answers == {b"+OK", b"-ER"}


def test_a_side_file_with_bytes_on_their_way_is_set_aside():
    """Another program rewrote the mailbox after an UPDATE was cut short.  That session can only read."""
    with lab.Maildrop(lab.mailbox("short")) as drop:
        drop.begin(SERVER)
        crash.cut_short(drop, SERVER, [*lab.LOGIN, b"DELE 1", b"QUIT"])
        drop.path.write_bytes(drop.messages[1].stored)
        state = drop.save()
        _, output = drop.session(SERVER, [*lab.LOGIN, b"DELE 1", b"QUIT"], lists=True)
        assert output.count(b"+OK") == 4
        assert b"-ERR [SYS/TEMP]" in output
        saved = drop.dir / ".alice.pop3d.saved"
        assert saved.read_bytes() == state[".alice.pop3d"][-1]
        assert drop.content() == drop.messages[1].stored
        calls = drop.calls()

        _, output = drop.session(SERVER, [*lab.LOGIN, b"DELE 1", b"QUIT"])
        assert output.count(b"+OK") == 5
        assert drop.content() == b""
        assert saved.read_bytes() == state[".alice.pop3d"][-1]

        # Where that fails, nothing is changed, and the user can read.
        saved.unlink()
        renames = [number for number, (name, _) in enumerate(calls, 1) if name == "renameat2"]
        drop.restore(state)
        _, output = drop.session(SERVER, [*lab.LOGIN, b"DELE 1", b"QUIT"], number=renames[-1], action=errno.EIO)
        assert output.count(b"+OK") == 4
        left = drop.save()
        assert all(left[name][-1] == state[name][-1] for name in ("alice", ".alice.pop3d"))
        assert not any("saved" in name for name in left)


def test_an_fsync_that_failed_once_is_not_believed_the_next_time():
    """After it the power goes.  The short form of lies.py."""
    tried, harmed = lies.sweep(lies.SHORT)
    assert not harmed
    assert tried > 100


def test_if_it_were_believed_there_would_be_harm(monkeypatch):
    """So the test above can fail."""
    monkeypatch.setenv("POP3D_SAME", "1")
    assert lies.sweep(2)[1]
