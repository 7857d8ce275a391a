"""What a session that was taken over can do, with and without Landlock."""

import ctypes
import shutil
import subprocess

import pytest

from harness import BUILD, mail, needs, needs_root
from host import Host

pytestmark = needs_root

LANDLOCK = {"with Landlock": (), "without": ("/usr/local/sbin/no_landlock",)}
CREATE_RULESET = 444    # as a system call; it tells the version, for flags 1
ABI = ctypes.CDLL(None).syscall(CREATE_RULESET, None, 0, 1)
BOTH = [
    pytest.param("with Landlock", marks=pytest.mark.skipif(
        ABI < 1,
        reason="needs Landlock in the kernel")),
    "without",
]

# attempt: what it gives, and where Landlock is missing
REFUSED = {
    "read another's mailbox": ("EACCES", "ok"),
    "write another's mailbox": ("EACCES", "ok"),
    "read it by its directory": ("EACCES", "ok"),
    "empty another's mailbox": ("EACCES", "ok"),
    "read the passwords": ("EACCES", "EACCES"),
    "read any file": ("EACCES", "ok"),
    "list the spool": ("EACCES", "ok"),
    "make a directory": ("EACCES", "ok"),
    "make a symbolic link": ("EACCES", "ok"),
    "run a program": ("EACCES", "ok"),
    "start a process": ("EAGAIN", "EAGAIN"),
    "become root": ("EPERM", "EPERM"),
    "become root in effect": ("EPERM", "EPERM"),
    "get root's group": ("EPERM", "EPERM"),
    "get other groups": ("EPERM", "EPERM"),
}
# The same, and the ABI of Landlock that has it.
NEWER = {
    "bind a TCP port": ("EACCES", "ok", 4),
    "connect by TCP": ("EACCES", "ECONNREFUSED", 4),
    "control a device": ("EACCES", "ENOTTY", 5),
    "connect to an abstract socket": ("EPERM", "ok", 6),
    "signal another process": ("EPERM", "ok", 6),
}
ALLOWED = [
    "raise the spool's gid", "make a file", "link it", "rename it", "touch it",
    "look at it", "remove it", "remove the other", "return the spool's gid",
    "lock the own mailbox", "read and write it",
]

SEIZE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
seized = libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0   # PTRACE_SEIZE
print("ok" if seized else os.strerror(ctypes.get_errno()))
"""


@pytest.fixture(scope="module")
def host():
    with Host() as host:
        for program in "confine_probe", "no_landlock":
            shutil.copy(BUILD / program, host.path("/usr/local/sbin"))
        yield host


@pytest.fixture(scope="module")
def password(host):
    host.account("p3dgother")
    return host.account("p3dgself")


@pytest.fixture
def mailbox(host, password):
    """Three new mails, and nothing left of other sessions."""
    for old in host.path("/var/mail").glob("*p3dgself*"):
        old.unlink()
    return host.deliver("p3dgself", 3)


@pytest.fixture(scope="module", params=BOTH)
def attempts(request, host, password):
    """Whether Landlock is there, and what came of each attempt."""
    host.deliver("p3dgself")
    host.deliver("p3dgother")
    lines = host.run(*LANDLOCK[request.param], "confine_probe", "p3dgself",
                     "/var/mail/p3dgself", "/var/mail/p3dgother").stdout
    return (request.param == "with Landlock",
            dict(line.split(": ", 1) for line in lines.splitlines()))


@pytest.mark.parametrize("attempt", REFUSED)
def test_refused(attempts, attempt):
    """Where Landlock is missing, some is not: so the attempts are real."""
    landlock, results = attempts
    assert results[attempt] == REFUSED[attempt][0 if landlock else 1]


@pytest.mark.parametrize("attempt", NEWER)
def test_refused_where_the_kernel_can(attempts, attempt):
    landlock, results = attempts
    refused, otherwise, abi = NEWER[attempt]
    assert results[attempt] == (refused if landlock and ABI >= abi
                                else otherwise)


@pytest.mark.parametrize("attempt", ALLOWED)
def test_allowed(attempts, attempt):
    assert attempts[1][attempt] == "ok"


def test_what_could_not_be_had_is_told(attempts):
    landlock, results = attempts
    assert results["confine"] == (
        "ok" if landlock else "Landlock: Function not implemented")


def test_syslog_still_works(host, attempts):
    host.log("confine_probe.* still heard")


@pytest.mark.parametrize("landlock", BOTH)
def test_a_session_is_no_prey_of_its_users_other_processes(
        host, password, mailbox, landlock):
    """Who could trace it would have the spool's gid."""
    with host.pop3d("-p", before=LANDLOCK[landlock]) as pop:
        assert pop.login("p3dgself", password).startswith(b"+OK")
        number = host.log(r"pop3d\[(\d+)\]: login: user=<p3dgself>")[1]
        host.lines.clear()
        own = host.start("runuser", "-u", "p3dgself", "--", "sh", "-c",
                         "echo $$; exec cat", stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
        with own:
            trace = ("runuser", "-u", "p3dgself", "--", "/usr/bin/python3",
                     "-c", SEIZE)
            own_number = own.stdout.readline().strip()
            assert host.run(*trace, own_number).stdout == "ok\n"
            assert host.run(*trace, number).stdout == \
                "Operation not permitted\n"
            for file in "mem", "environ", "fd/0", "root/etc/passwd":
                assert "Permission denied" in host.run(
                    "runuser", "-u", "p3dgself", "--", "head", "-c1",
                    f"/proc/{number}/{file}", check=False).stdout
            own.stdin.close()


@needs("strace")
@pytest.mark.skipif(ABI < 1, reason="needs Landlock in the kernel")
def test_it_is_confined_before_anything_in_the_files_is_looked_at(
        host, password, mailbox):
    """Recovery, which follows the session lock, included."""
    trace = ("strace", "-o", "/home/trace",
             "-e", "trace=landlock_restrict_self,fcntl")
    with host.pop3d("-p", before=trace) as pop:
        assert pop.login("p3dgself", password).startswith(b"+OK 3 ")
    calls = host.path("/home/trace").read_text()
    assert calls.rindex("landlock_restrict_self(") < calls.index("F_SETLK,")


@pytest.mark.parametrize("landlock", BOTH)
def test_a_session_deletes_and_says_once_what_is_missing(
        host, password, mailbox, landlock):
    host.lines.clear()
    with host.pop3d("-p", before=LANDLOCK[landlock]) as pop:
        assert pop.login("p3dgself", password).startswith(b"+OK 3 ")
        assert pop.cmd("DELE 1").startswith(b"+OK")
        assert pop.cmd("QUIT").startswith(b"+OK")
    assert mailbox.read_bytes() == mail(2) + mail(3)
    host.log("logout: user=<p3dgself> .* dele=1 left=2 .*reason=quit")
    told = [line for line in host.lines if "not confined" in line]
    if landlock == "with Landlock":
        assert told == []
    else:
        line, = told
        assert line.endswith(
            "not confined: Landlock: Function not implemented")


@pytest.mark.parametrize("landlock", BOTH)
def test_a_sticky_spool(host, password, mailbox, landlock):
    """With chmod +t on it a session deletes as before, and one that was taken
    over cannot rename or remove what belongs to others."""
    host.deliver("p3dgother")
    host.run("chmod", "+t", "/var/mail")
    try:
        with host.pop3d("-p", before=LANDLOCK[landlock]) as pop:
            assert pop.login("p3dgself", password).startswith(b"+OK 3 ")
            assert pop.cmd("DELE 1").startswith(b"+OK")
            assert pop.cmd("QUIT").startswith(b"+OK")
        results = host.run(*LANDLOCK[landlock], "confine_probe", "p3dgself",
                           "/var/mail/p3dgself", "/var/mail/p3dgother").stdout
    finally:
        host.run("chmod", "-t", "/var/mail")
    assert [*mailbox.parent.glob("*p3dgself.lock*")] == []
    assert "rename another's mailbox: EPERM\n" in results
    assert "remove another's mailbox: EPERM\n" in results


@needs("strace")
@pytest.mark.parametrize("landlock", BOTH)
def test_recovery(host, password, mailbox, landlock):
    """Killed when it syncs the mailbox; the next login finishes it."""
    whole = mailbox.read_bytes()
    before = LANDLOCK[landlock]
    kill = ("strace", "-o", "/dev/null", "-P", "/var/mail/p3dgself",
            "-e", "trace=fsync", "-e", "inject=fsync:signal=SIGKILL:when=2")
    with host.pop3d("-p", before=(*before, *kill)) as pop:
        assert pop.login("p3dgself", password).startswith(b"+OK 3 ")
        assert pop.cmd("DELE 1").startswith(b"+OK")
        pop.send(b"QUIT\r\n")
        assert pop.rest() == b""
    assert mailbox.read_bytes() not in (whole, mail(2) + mail(3))
    with host.pop3d("-p", before=before) as pop:
        assert pop.login("p3dgself", password).startswith(b"+OK 2 ")
        assert mailbox.read_bytes() == mail(2) + mail(3)
        assert pop.cmd("DELE 1").startswith(b"+OK")
        assert pop.cmd("QUIT").startswith(b"+OK")
    assert mailbox.read_bytes() == mail(3)
