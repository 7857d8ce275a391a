"""Locks of other programs: fcntl, flock, dotlock; when they are taken.

LOCK_SECONDS is 3 in STUB, and 10 in PATIENT, where a dotlock is waited for 5 s
before the mailbox is read without one.
"""

import contextlib
import fcntl
import os
import re
import sys
import time

import pytest

from harness import BUILD, LOGIN, PATIENT, STUB, Session, mail, needs, needs_root, wait_for, waits_in
from test_records import ONE, THREE, TWO, put

LOCK_SECONDS = 3
KINDS = {"fcntl": fcntl.lockf, "flock": fcntl.flock}


@contextlib.contextmanager
def held(drop, kind, how=fcntl.LOCK_EX):
    """Another program has the mailbox locked."""
    with open(drop.path, "rb+") as mailbox:
        KINDS[kind](mailbox, how | fcntl.LOCK_NB)
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_a_locked_mailbox_is_in_use(drop, kind):
    before = drop.state()
    with held(drop, kind), drop.session() as session:
        start = time.monotonic()
        answer = session.login()
        assert answer.startswith(b"-ERR [IN-USE] ") and b"locked" in answer
        assert time.monotonic() - start >= LOCK_SECONDS - 1
        assert session.rest() == b""
        assert session.wait() == 0
        holder = f"fcntl lock is held by pid {os.getpid()}" if kind == "fcntl" else "flock: "
        assert f"error={holder}" in session.log()
    assert drop.state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_released_is_waited_for(drop, kind):
    with drop.session(binary=PATIENT) as session:
        with held(drop, kind):
            session.line()
            session.cmd("USER alice")
            session.send(b"PASS secret\r\n")
            wait_for(lambda: waits_in("nanosleep", session))
        assert session.line().startswith(b"+OK")


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_does_not_disturb_the_login(drop, kind):
    with held(drop, kind, fcntl.LOCK_SH), drop.session() as session:
        assert session.login().startswith(b"+OK")
        assert session.cmd("STAT").startswith(b"+OK 3 ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mailbox_locked_at_quit_stays_as_it_was(drop, kind):
    before = drop.state()
    with drop.session() as session:
        session.login()
        session.cmd("DELE 1")
        with held(drop, kind):
            answer = session.cmd("QUIT")
        assert answer.startswith(b"-ERR [SYS/TEMP] ") and b"locked" in answer
        assert session.rest() == b""
        assert session.wait() == 0
    assert drop.state() == before


@pytest.mark.parametrize("kind", KINDS)
def test_no_lock_is_held_between_login_and_quit(drop, kind):
    with drop.session() as session:
        session.login()
        with held(drop, kind):
            assert not drop.dotlock.exists()
            assert session.cmd("RETR 1").startswith(b"+OK")
            session.body()
        assert session.cmd("DELE 1").startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
    with held(drop, kind):
        assert not drop.dotlock.exists()


def test_a_session_without_a_deletion_needs_no_lock_at_quit(drop):
    with drop.session() as session:
        session.login()
        with held(drop, "fcntl"), held(drop, "flock"):
            assert session.cmd("QUIT").startswith(b"+OK")


def test_a_foreign_dotlock_is_respected_but_mail_can_be_read(drop):
    """An old modification time alone does not make it stale."""
    before = drop.state()
    drop.dotlock.write_text("1\n")
    os.utime(drop.dotlock, (0, 0))
    with drop.session(binary=PATIENT) as session:
        assert session.login().startswith(b"+OK")
        assert session.cmd("RETR 1").startswith(b"+OK")
        session.body()
        assert session.cmd("DELE 1").startswith(b"+OK")
        answer = session.cmd("QUIT")
        assert answer.startswith(b"-ERR [SYS/TEMP] ") and b"locked" in answer
    assert drop.state() == before
    assert drop.dotlock.read_text() == "1\n"


@needs("strace")
def test_who_holds_a_lock_may_not_be_told(drop):
    """When the kernel does not say: each third fcntl is the question."""
    with held(drop, "fcntl"), Session.run("strace", "-qq", "-o", "/dev/null", "-e", "trace=fcntl", "-e",
                                          "inject=fcntl:error=ENOLCK:when=3+3", STUB, "-p", "-d", "-m", drop.path) as session:
        assert session.login().startswith(b"-ERR [IN-USE] mailbox is locked")
        session.wait()
        assert "error=fcntl lock is held by somebody; tried for " in session.log()


@needs("strace")
def test_a_lock_of_another_may_be_told_in_two_ways(drop):
    """POSIX lets fcntl say EACCES as well."""
    with held(drop, "fcntl"), Session.run("strace", "-qq", "-o", "/dev/null", "-P", drop.path, "-e", "trace=fcntl", "-e",
                                          "inject=fcntl:error=EACCES", STUB, "-p", "-d", "-m", drop.path) as session:
        assert session.login().startswith(b"-ERR [IN-USE] mailbox is locked")


@needs_root
@pytest.mark.parametrize("owner, age, broken", [(0, 700, True), (12345, 700, True), (12345, 500, False), (54321, 700, False)])
def test_a_stale_dotlock_is_broken_if_it_is_the_users_or_roots(ordinary, monkeypatch, owner, age, broken):
    clock = ordinary.path.with_name("clock")
    clock.write_text("0")
    monkeypatch.setenv("POP3D_STUB_CLOCK", str(clock))
    with ordinary.session("-t", "600", binary=BUILD / "pop3d-stub-clock") as session:
        assert session.login().startswith(b"+OK")
        session.cmd("DELE 1")
        ordinary.dotlock.write_text("1\n")
        os.chown(ordinary.dotlock, owner, owner)
        clock.write_text(str(int(ordinary.dotlock.stat().st_ctime) + age))
        assert session.cmd("QUIT").startswith(b"+OK" if broken else b"-ERR [SYS/TEMP] mailbox is locked")
    assert ordinary.dotlock.exists() != broken


def test_a_dotlock_that_goes_is_waited_for_at_quit(drop):
    with drop.session(binary=PATIENT) as session:
        session.login()
        session.cmd("DELE 1")
        drop.dotlock.write_text("1\n")
        session.send(b"QUIT\r\n")
        wait_for(lambda: waits_in("nanosleep", session))
        assert drop.content.startswith(mail(1))
        drop.dotlock.unlink()
        assert session.line().startswith(b"+OK")
    assert drop.content == mail(2) + mail(3)


def test_a_dotlock_of_a_dead_session_is_broken_at_once(drop):
    """It has a mode that no other program gives one, and nobody else has the session lock."""
    drop.dotlock.touch()
    drop.dotlock.chmod(0o604)
    with drop.session() as session:
        assert session.login().startswith(b"+OK")
        assert not drop.dotlock.exists()
        session.cmd("DELE 1")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(2) + mail(3)


def test_no_lock_is_held_while_another_is_waited_for(drop):
    with drop.session(binary=PATIENT) as session:
        session.login()
        session.cmd("DELE 1")
        with held(drop, "flock"):
            session.send(b"QUIT\r\n")
            for _ in range(20):
                time.sleep(0.03)
                wait_for(lambda: can_lock(drop, "fcntl"))
                assert not drop.dotlock.exists()
        assert session.line().startswith(b"+OK")


def can_lock(drop, kind):
    try:
        with held(drop, kind):
            return True
    except BlockingIOError:
        return False


@needs("strace")
def test_the_session_lock_is_tried_for_some_times_a_second(drop, tmp_path):
    trace = tmp_path / "trace"
    with drop.session() as first:
        first.login()
        with Session.run("strace", "-o", trace, "-e", "trace=clock_nanosleep", PATIENT, "-p", "-m", drop.path) as second:
            second.send(LOGIN)
            wait_for(lambda: len(pauses(trace)) > 10)
            first.cmd("QUIT")
            for _ in range(3):
                assert second.line().startswith(b"+OK")
    assert 100_000_000 <= min(pauses(trace)) and max(pauses(trace)) < 300_000_000


def pauses(trace):
    """Those that a session made, in nanoseconds."""
    text = trace.read_text() if trace.exists() else ""
    return [int(pause) for pause in re.findall(r"tv_sec=0, tv_nsec=(\d+)}, ", text)]


@pytest.mark.parametrize("number, name", [("0x6969", "NFS"), ("0xff534d42", "CIFS"), ("0xfe534d42", "SMB2")])
def test_on_a_server_of_files_there_is_no_flock(drop, number, name):
    """It is the same lock as fcntl's there: a session would refuse itself."""
    with held(drop, "flock"), drop.session(
            env={"LD_PRELOAD": str(BUILD / "on_nfs.so"), "FS_TYPE": number}) as session:
        assert session.login().startswith(b"+OK")
        session.cmd("DELE 1")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(2) + mail(3)


def test_on_a_disk_flock_is_taken(drop):
    with held(drop, "flock"), drop.session(
            env={"LD_PRELOAD": str(BUILD / "on_nfs.so"), "FS_TYPE": "0xef53"}) as session:
        assert session.login().startswith(b"-ERR [IN-USE]")



@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_sessions_dotlock_goes_though_the_mailbox_is_locked(drop, kind):
    """By a deliverer that waits for it, as sendmail's mail.local does."""
    drop.dotlock.touch()
    drop.dotlock.chmod(0o604)
    with held(drop, kind), drop.session() as session:
        assert session.line().startswith(b"+OK")
        session.cmd("USER alice")
        session.send(b"PASS secret\r\n")
        wait_for(lambda: not drop.dotlock.exists())
        assert session.line().startswith(b"-ERR [IN-USE]")


def test_what_was_left_when_a_dotlock_was_being_broken_goes(drop):
    """By a session that was killed between two names."""
    left = drop.path.with_name(".alice.pop3d.stale")
    left.touch()
    with drop.session() as session:
        assert session.login().startswith(b"+OK")
        assert not left.exists()


@needs("strace")
def test_where_there_is_nobody_to_lock_the_session_is_refused(drop):
    before = drop.state()
    drop.side.touch(0o600)       # strace knows files that are there by their path
    with Session.run("strace", "-qq", "-o", "/dev/null", "-P", drop.side, "-e", "trace=fcntl", "-e", "inject=fcntl:error=ENOLCK",
                     STUB, "-p", "-d", "-m", drop.path) as session:
        assert session.login().startswith(b"-ERR [SYS/TEMP]")
        assert session.rest() == b""
        assert "cannot lock the side file: No locks available" in session.log()
    drop.side.unlink()
    assert drop.state() == before


@needs("strace")
@pytest.mark.skipif(sys.byteorder != "little", reason="the record is made for such a host")
def test_a_half_done_mailbox_that_nobody_can_lock_is_not_even_read(drop):
    """As it is, another program may be about to change it."""
    put(drop, ONE + b"x" * len(TWO) + THREE)
    before = drop.state()
    with Session.run("strace", "-qq", "-o", "/dev/null", "-P", drop.path, "-e", "trace=fcntl", "-e", "inject=fcntl:error=ENOLCK",
                     STUB, "-p", "-d", "-m", drop.path) as session:
        assert session.login().startswith(b"-ERR [SYS/TEMP]")
        assert session.rest() == b""
        assert "fcntl lock: No locks available" in session.log()
    assert drop.state() == before
