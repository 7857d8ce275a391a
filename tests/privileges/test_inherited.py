"""What the parent leaves to a session, and what a session leaves in memory."""

import base64
import os
import pathlib
import re
import resource
import shutil
import signal
import stat
import tempfile
import types

import pytest

from harness import (BUILD, HASTY, PATIENT, POP3D, STUB, Session, mail, needs, needs_root, talk,
                     wait_for, waits_in)
from host import Host


@pytest.fixture
def host():
    with Host() as host:
        yield host


def stubborn():
    """A parent that blocks and ignores all that it can."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def test_signals_that_the_parent_blocks_or_ignores(drop):
    with drop.session(preexec_fn=stubborn) as session:
        session.login()
        session.process.terminate()
        assert session.wait() == 0
        assert "reason=signal" in session.log()


@needs_root
def test_a_module_of_pam_may_wait_for_its_children(host):
    """Also where the parent had none to wait for."""
    password = host.account("p3dgchild")
    service = host.path("/etc/pam.d/pop3d")
    service.write_text("auth required pam_exec.so /bin/true\n"
                       + service.read_text())
    with host.pop3d("-p", before=(
            "/usr/bin/python3", "-c", "import os, signal, sys\n"
            "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
            "os.execv(sys.argv[1], sys.argv[1:])")) as pop:
        assert pop.login("p3dgchild", password).startswith(b"+OK")


@needs_root
def test_what_a_module_of_pam_leaves_behind(host):
    """The log is ours again, and no file that root opened is the user's."""
    password = host.account("p3dgcareless")
    service = host.path("/etc/pam.d/pop3d")
    service.write_text(f"auth optional {BUILD / 'pam_careless.so'}\n"
                       + service.read_text())
    with host.pop3d("-p") as pop:
        assert pop.login("p3dgcareless", "wrong").startswith(b"-ERR [AUTH]")
        assert pop.cmd("USER p3dgcareless").startswith(b"+OK")
        assert pop.cmd(f"PASS {password}").startswith(b"+OK")
        number = host.log(r"<22>.* pop3d\[(\d+)\]: login: user=<p3dgcareless>")[1]
        files = host.run("ls", "-l", f"/proc/{number}/fd").stdout
        assert "/var/mail/.p3dgcareless.pop3d" in files
        assert "shadow" not in files
    host.log(r"<21>.* pop3d\[\d+\]: login failed: user=<p3dgcareless>")
    host.log(r"<22>.* pop3d\[\d+\]: logout: user=<p3dgcareless>")


def test_a_soft_limit_of_the_parent_is_none_of_ours(drop):
    """Else UPDATE could not write where the mailbox is longer."""
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE,
                           (100, resource.RLIM_INFINITY))

    with drop.session(preexec_fn=limited) as session:
        session.login()
        assert session.cmd("DELE 1").startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == mail(2) + mail(3)


@needs("strace")
@pytest.mark.parametrize("mask", [0, 0o777], ids=oct)
def test_the_umask_of_the_parent_is_none_of_ours(drop, mask):
    """A session that is killed in UPDATE leaves both files: the side file is
    its user's alone, a dotlock has the mode by which pop3d knows its own."""
    with Session.run("strace", "-o", "/dev/null", "-e", "trace=ftruncate",
                     "-e", "inject=ftruncate:signal=KILL", STUB, "-p", "-m",
                     drop.path, preexec_fn=lambda: os.umask(mask)) as session:
        session.login()
        session.cmd("DELE 1")
        session.send(b"QUIT\r\n")
        assert session.rest() == b""
    assert [stat.S_IMODE(file.stat().st_mode)
            for file in (drop.side, drop.dotlock)] == [0o600, 0o604]


def descriptors(process):
    folder = f"/proc/{process.pid}/fd"
    return {int(name): os.readlink(f"{folder}/{name}")
            for name in os.listdir(folder)}


@pytest.mark.parametrize("options", [(), ("-d",)])
def test_stderr_is_nobodys_unless_it_is_wanted(options):
    """Under inetd it is the client: a library's words would be a reply."""
    with Session.run(STUB, *options) as session:
        session.line()
        assert (descriptors(session.process)[2] == "/dev/null") \
            == (not options)


@pytest.mark.parametrize("number", [3, 9])
def test_other_descriptors_are_closed(number):
    with Session.run("sh", "-c", f'exec "$0" {number}</etc/passwd', STUB) as session:
        session.line()
        assert "/etc/passwd" not in descriptors(session.process).values()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_descriptor_that_is_missing(closed):
    """Else syslogd's would take its place, and be sent what the client is."""
    output, status, _ = talk(
        STUB, "-d", data=b"NOOP\r\n",
        preexec_fn=lambda: [os.close(number) for number in closed])
    assert status == 0
    assert output.count(b"\n") == (0 if 1 in closed else
                                   1 if 0 in closed else 2)


@needs_root
def test_no_session_without_dev_null():
    output, status, log = talk(
        "unshare", "--mount", "sh", "-ec",
        'mount -t tmpfs none /dev\nexec "$0" "$@"', STUB, "-p")
    assert (output, status) == (b"", 71)
    assert "/dev/null" in log


@needs("strace")
def test_no_session_that_cannot_see_a_signal():
    output, status, log = talk(
        "strace", "-qq", "-o", "/dev/null", "-e", "trace=signalfd4", "-e",
        "inject=signalfd4:error=EMFILE", STUB, "-p")
    assert (output, status) == (b"", 71)
    assert "signalfd: Too many open files" in log


def test_it_leaves_no_core_from_the_start():
    with Session.run(POP3D) as session:
        session.line()
        with open(f"/proc/{session.process.pid}/limits") as limits:
            assert re.search(r"^Max core file size +0 +0 ", limits.read(), re.M)


@needs_root
def test_nobody_can_look_into_it_from_the_start():
    """What a user runs by hand, another process of the user's cannot trace."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)     # the checkout may lie where only root can go
        program = shutil.copy(POP3D, folder)
        with Session.run(program, user=12345, group=12345,
                         extra_groups=[]) as session:
            session.line()
            assert os.stat(f"/proc/{session.process.pid}/mem").st_uid == 0


# ---- passwords ----

def found(process, text):
    """Whether text is anywhere in the memory of a process."""
    with open(f"/proc/{process.pid}/maps") as maps, \
            open(f"/proc/{process.pid}/mem", "rb") as memory:
        for start, end in re.findall(r"^(\w+)-(\w+) rw", maps.read(), re.M):
            if int(end, 16) - int(start, 16) > 1 << 30:
                continue    # a sanitizer's own
            memory.seek(int(start, 16))
            if text in memory.read(int(end, 16) - int(start, 16)):
                return True
    return False


HUSH = b"Hush-0123456789"
PLAIN = base64.b64encode(b"\0bob\0" + HUSH)


@pytest.mark.parametrize("lines, option", [
    (b"USER bob\r\nPASS %b\r\n" % HUSH, "-p"),
    (b"USER bob\r\nPASS %b\r\n" % HUSH, "-d"),
    (b"PASS %b\r\n" % HUSH, "-p"),
    (b"PASSWORD %b\r\n" % HUSH, "-p"),
    (b"PASS %b%b\r\n" % (HUSH, 600 * b"!"), "-p"),
    (b"PASS %b\0\r\n" % HUSH, "-p"),
    (b"AUTH PLAIN %b\r\n" % PLAIN, "-p"),
    (b"AUTH PLAIN %b\r\n" % PLAIN, "-d"),
    (b"AUTH PLAIN\r\n%b\r\n" % PLAIN, "-p"),
    (b"AUTH LOGIN %b\r\n" % PLAIN, "-p"),
], ids=["refused", "in clear", "no USER", "no command", "too long", "NUL",
        "AUTH", "AUTH in clear", "AUTH in two lines", "other mechanism"])
def test_no_password_stays_in_memory(lines, option):
    with Session.run(STUB, option) as session:
        session.line()
        session.send(lines)
        for _ in range(lines.count(b"\n")):
            session.line()
        for secret in HUSH, PLAIN, PLAIN[4:]:
            assert not found(session.process, secret)


def test_no_password_stays_where_it_was_before_its_line_was_whole():
    """What of a line is there moves to the front of the buffer."""
    with Session.run(STUB, "-p") as session:
        session.line()
        session.send(b"USER %b\r\nPASS %b" % (100 * b"b", HUSH))
        session.line()
        assert session.cmd("").startswith(b"-ERR [AUTH]")
        assert not found(session.process, HUSH)


def test_no_password_stays_in_memory_while_a_refusal_waits():
    with Session.run(HASTY, "-p", "-d") as session:
        session.line()
        session.send(b"USER bob\r\nPASS %b\r\n" % HUSH)
        wait_for(lambda: "login failed: user=<bob> " in session.log()
                 and waits_in("poll", session))
        assert not found(session.process, HUSH)


def test_no_password_stays_in_memory_in_a_farewell():
    """A mail program may try others when it was refused."""
    with Session.run(PATIENT, "-p") as session:
        session.line()
        for _ in range(3):
            assert session.cmd("AUTH PLAIN AGJvYgB4").startswith(b"-ERR [AUTH]")
        assert session.cmd(f"PASS {HUSH.decode()}").startswith(b"-ERR [AUTH]")
        assert not found(session.process, HUSH)


def test_a_password_is_found_where_it_is(drop):
    """As long as the line is not all there."""
    with Session.run(STUB, "-p") as session:
        session.line()
        session.send(b"USER bob\r\nPASS " + HUSH)
        session.line()
        wait_for(lambda: found(session.process, HUSH))


@pytest.fixture(scope="module")
def three():
    """A host with three accounts: it, their passwords, their hashes."""
    with Host() as host:
        names = ["p3dgone", "p3dgtwo", "p3dgthree"]
        passwords = {name: host.account(name) for name in names}
        lines = host.path("/etc/shadow").read_bytes().splitlines()
        hashes = {name: line.split(b":")[1] for line in lines
                  for name in names if line.startswith(name.encode() + b":")}
        assert all(text.startswith(b"$") for text in hashes.values())
        yield host, passwords, hashes


def inside(pop):
    """The process of a session in a host, which nsenter(1) waits for."""
    return types.SimpleNamespace(pid=wait_for(lambda: pathlib.Path(
        f"/proc/{pop.process.pid}/task/{pop.process.pid}/children"
    ).read_text().strip()))


@needs_root
@pytest.mark.skipif(b"__asan_init" in POP3D.read_bytes(),
                    reason="AddressSanitizer keeps what is freed as it was")
@pytest.mark.parametrize("refused", [None, "p3dgone", "p3dgtwo", "p3dgnobody"])
def test_no_hash_of_another_stays_in_memory(three, refused):
    """PAM reads all of them, to find that of the user."""
    host, passwords, hashes = three
    with host.pop3d("-p") as pop:
        assert pop.line().startswith(b"+OK")
        if refused:
            pop.cmd(f"USER {refused}")
            assert pop.cmd("PASS wrong").startswith(b"-ERR [AUTH]")
        pop.cmd("USER p3dgtwo")
        assert pop.cmd(f"PASS {passwords['p3dgtwo']}").startswith(b"+OK")
        left = [name for name in hashes if name != "p3dgtwo"
                and found(inside(pop), hashes[name][-20:])]
    assert left == []


@needs_root
def test_no_password_stays_in_memory_while_another_session_is_waited_for(three):
    host, passwords, _ = three
    with host.pop3d("-p") as first, host.pop3d("-p") as second:
        password = passwords["p3dgthree"]
        assert first.login("p3dgthree", password).startswith(b"+OK")
        uid = host.run("id", "-u", "p3dgthree").stdout.strip()
        assert second.line().startswith(b"+OK")
        second.send(b"USER p3dgthree\r\nPASS %b\r\n" % password.encode())
        process = inside(second)
        wait_for(lambda: f"\nUid:\t{uid}\t" in pathlib.Path(
            f"/proc/{process.pid}/status").read_text())
        assert not found(process, password.encode())
        assert second.line().startswith(b"+OK")
        assert second.line().startswith(b"-ERR [IN-USE]")
