"""Deliverers and sessions at the same time: no mail is lost, and nobody waits for a client.  Short forms of crash/storm.py."""

import os
import shutil
import subprocess
import sys

import pytest

import storm
from harness import PATIENCE, Maildrop, mail, needs_root

SECONDS = {"dotlock": 6, "sendmail": 2, "fcntl": 2, "flock": 2, "putmail": 2}


@needs_root
@pytest.mark.parametrize("group", storm.GROUPS)
def test_each_message_arrives_once(group):
    names = [name for name in storm.GROUPS[group] if name not in storm.missing()]
    if not names:
        pytest.skip("not installed: " + ", ".join(storm.GROUPS[group]))
    total, wrong = storm.storm(names, SECONDS[group])
    assert not wrong
    assert total


@needs_root
@pytest.mark.parametrize("server", [storm.lab.SERVERS[0], ""])
def test_a_deliverer_that_dies_ends_the_storm(server, monkeypatch):
    monkeypatch.setitem(storm.DELIVERERS, "one that dies", ("true", lambda *_: os._exit(1)))
    with pytest.raises(AssertionError, match="died: one that dies"):
        storm.storm(["one that dies", "fcntl and write"], PATIENCE, server)


def fcntl_only(path):
    return [sys.executable, "-c", "import fcntl, sys; mailbox = open(sys.argv[1], 'ab'); fcntl.lockf(mailbox, fcntl.LOCK_EX); "
            "mailbox.write(sys.stdin.buffer.read())", path]


def dotlockfile(path):
    return ["sh", "-c", 'dotlockfile -l -r 0 "$1.lock" && cat >> "$1" && dotlockfile -u "$1.lock"', "sh", path]


def procmail(path):
    return ["procmail", f"DEFAULT={path}", f"ORGMAIL={path}", "/dev/null"]


def maildrop(path):
    rules = path.with_name("rules")
    rules.write_text(f'to "{path}"\n')
    rules.chmod(0o600)
    return ["maildrop", rules]


@pytest.fixture(params=["never reads", "reads a little", "sends half a QUIT"])
def busy(request, tmp_path):
    """A session with a client that keeps it waiting, and its mailbox."""
    drop = Maildrop(tmp_path / "alice", mail(1, body=b"a line of thirty-two characters\n" * 100_000))
    with drop.session("-t", "600") as session:
        assert session.login().startswith(b"+OK")
        if request.param == "sends half a QUIT":
            session.cmd("DELE 1")
            session.send(b"QUI")
        else:
            session.send(b"RETR 1\r\n")     # 3 MB: more than a pipe takes
        if request.param == "reads a little":
            session.line()
        yield session, drop
        session.process.kill()


@pytest.mark.parametrize("deliverer", [procmail, maildrop, dotlockfile, fcntl_only])
def test_no_deliverer_waits_for_a_client(busy, deliverer):
    session, drop = busy
    if deliverer is not fcntl_only and not shutil.which(deliverer.__name__):
        pytest.skip(f"needs {deliverer.__name__}")
    before = drop.path.stat().st_size
    subprocess.run(deliverer(drop.path), input=mail(2), check=True, timeout=PATIENCE)
    assert drop.path.stat().st_size > before
    assert session.process.poll() is None, "the session had ended: it could not be in the way"
