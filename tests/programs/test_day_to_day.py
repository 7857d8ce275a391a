"""README's "DAY TO DAY": its commands, as they stand there, do what it says."""

import re
import subprocess
import time

import pytest

from harness import PATIENCE, TESTS, needs, needs_root, wait_for
from host import Host

pytestmark = needs_root

NAME = "p3dday"
README = (TESTS.parent / "README").read_text()


@pytest.fixture
def host():
    with Host() as host:
        host.password = host.account(NAME)
        yield host


def recipe(pattern):
    """The command of README that is so, for this user."""
    command = re.search(rf"^\t({pattern})\n", README, re.M | re.S)[1]
    return command.replace("alice", NAME)


# ---- old mail is removed ----

def message(name, days):
    """One that came so many days ago."""
    came = time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(time.time() - days * 86400))
    return f"From bob@example.org {came}\nSubject: {name}\n\nI am {name}.\n\n".encode()


def have_terminals(host):
    host.run("sh", "-ec", "mkdir /dev/pts; ln -s pts/ptmx /dev/ptmx\n"
             "mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts")


def runs(host, program):
    return host.run("pgrep", "-x", program, check=False).returncode == 0


@needs("neomutt", "script", "pgrep", "su")
def test_what_removes_old_mail_leaves_the_rest_as_it_is(host):
    old, new = message("old", 92), message("new", 88)
    mailbox = host.deliver(NAME, 0)
    mailbox.write_bytes(new + old + new)
    have_terminals(host)
    host.path("/etc/pop3d").mkdir()
    host.run("sh", "-ec", recipe("echo [^\n]*\n[^\n]*>/etc/pop3d/expire.rc"))
    command = recipe("su [^\n]*\\\\\n[^\n]*expire.rc[^\n]*")
    assert "sleep 60 |" in command
    # Not a minute, but until neomutt has ended.
    process = host.start("sh", "-ec", command.replace("sleep 60 |", "cat |"), stdin=subprocess.PIPE)
    wait_for(lambda: old not in mailbox.read_bytes() and not runs(host, "neomutt"))
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    assert re.sub(rb"(Content-Length|Lines): \d+\n", b"", mailbox.read_bytes()) == new + new
    assert mailbox.read_bytes().startswith(new)


# ---- what a client says ----

@needs("strace", "pgrep")
def test_what_one_client_says_is_seen_while_it_is_logged_in(host):
    host.deliver(NAME, 1)
    command = recipe("strace [^\n]*")
    with host.pop3d("-p") as session:
        assert session.login(NAME, host.password).startswith(b"+OK")
        # Typed, for what is an argument of sh would be found by pgrep.
        strace = host.start("timeout", str(PATIENCE), "sh", stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        strace.stdin.write(command + "\n")
        strace.stdin.close()
        assert "attached" in strace.stderr.readline()
        assert session.cmd("LIST 1").startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
        with strace:
            seen = strace.stderr.read()
    assert re.search(r'read\(0, "LIST 1\\r\\n"', seen)
    assert re.search(r'"\+OK 1 \d+\\r\\n"', seen)
    assert re.search(r'read\(0, "QUIT\\r\\n"', seen)
