"""What signals do, and what hangs: sessions end in their time, and by nothing
that a signal interrupted."""

import contextlib
import fcntl
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

from harness import (BUILD, HASTY, LOGIN, POP3D, QUICK, TESTS, Maildrop,
                     Session, mail, needs_root, wait_for, waits_in)
from host import Host

ENDING = ["SIGALRM", "SIGHUP", "SIGINT", "SIGTERM"]
HANG_SECONDS = 10   # of build/pop3d-hasty and HANGS
HANGS = BUILD / "pop3d-stub-hangs"   # HASTY with privileges/hang.c
READING = ["RETR 1", "TOP 1 0", "UIDL 1"]   # commands that read the mailbox
RE_ENTERED = 99     # raise_in_malloc.c's
STRIDE = 15         # mallocs of a session, of which there are some hundreds


@pytest.fixture(scope="module")
def host():
    """Where something may hang for 10 s."""
    with Host(pop3d=BUILD / "pop3d-hasty") as host:
        yield host


@pytest.fixture
def on_a_socket(drop):
    """Start a session on a socket, as all superservers do."""
    with contextlib.ExitStack() as stack:
        def start(binary, *options):
            ours, its = socket.socketpair()
            with its:
                process = stack.enter_context(subprocess.Popen(
                    [binary, "-p", "-d", "-m", drop.path, *options],
                    stdin=its, stdout=its, stderr=subprocess.PIPE))
            stack.callback(process.kill)
            return stack.enter_context(
                Session(ours.fileno(), ours.fileno(), process, sock=ours))

        yield start


# ---- nothing runs inside what a signal interrupted ----

class Counted:
    """Sessions in which a signal comes inside a certain malloc."""

    def __init__(self, host, script):
        self.script = script
        self.count = host.path("/etc/count")
        self.environment = ("env", "LD_PRELOAD=/usr/local/sbin/raise.so",
                            "RAISE_COUNT=/etc/count")
        self.host, self.password = host, host.account("p3dgsignal")
        host.path("/usr/local/sbin/raise.so").write_bytes(
            (BUILD / "raise_in_malloc.so").read_bytes())

    def run(self, at, number):
        """A session: its status, and how often it called malloc."""
        mailbox = self.host.path("/var/mail/p3dgsignal")
        mailbox.unlink(missing_ok=True)
        self.host.deliver("p3dgsignal", 2)
        self.count.write_bytes(bytes(8))
        raising = (*self.environment, f"RAISE_AT={at}",
                   f"RAISE_SIGNAL={number:d}")
        with self.host.pop3d("-p", before=raising) as pop:
            pop.send(self.script.replace(b"PASSWORD", self.password.encode()))
            pop.end()
            answers, status = pop.rest(), pop.wait()
        left = mailbox.read_bytes()
        assert left == (mail(2) if b"+OK bye" in answers
                        else mail(1) + mail(2))
        return status, int.from_bytes(self.count.read_bytes(), "little")


SERVED = (b"AUTH\r\nUSER p3dgsignal\r\nPASS PASSWORD\r\nRETR 2\r\nDELE 1\r\n"
          b"QUIT\r\n")
REFUSED = (b"USER p3dgsignal\r\nPASS wrong\r\nUSER p3dgnobody\r\nPASS wrong\r\n"
           b"USER p3dgnohash\r\nPASS wrong\r\nNOOP\r\nNOOP\r\n")


@pytest.fixture(scope="module", params=[SERVED, REFUSED],
                ids=["served", "refused"])
def counted(request):
    """With times in which no session ends by SIGALRM of itself."""
    if b"__asan_init" in POP3D.read_bytes():
        pytest.skip("AddressSanitizer brings a malloc of its own")
    with Host(pop3d=BUILD / "pop3d-calm") as host:
        counted = Counted(host, request.param)
        host.run("useradd", "p3dgnohash")
        status, counted.all = counted.run(0, 0)
        assert status == 0 and counted.all > 10 * STRIDE
        # A refusal takes the time of its hashes.
        counted.stride, counted.last = (
            (STRIDE, STRIDE) if request.param is SERVED
            else (counted.all // 12, 1))
        yield counted


@needs_root
@pytest.mark.parametrize("number", ENDING)
def test_a_signal_inside_malloc(counted, number):
    """As root, with PAM, and then as the user: the default, or it waits."""
    number = getattr(signal, number)
    every = range(1 + number, counted.all, counted.stride)
    last = range(counted.all - counted.last, counted.all)
    statuses = {counted.run(at, number)[0] for at in {*every, *last}}
    assert RE_ENTERED not in statuses
    assert -number in statuses and statuses <= {0, -number}


# ---- what hangs ends ----

@contextlib.contextmanager
def service_with(host, line):
    """PAM's service with a line in front."""
    service = host.path("/etc/pam.d/pop3d")
    text = service.read_text()
    service.write_text(f"{line}\n{text}")
    try:
        yield
    finally:
        service.write_text(text)


@needs_root
def test_a_module_of_pam_that_hangs(host):
    """It is given up when it has hung too long, or by SIGTERM."""
    password = host.account("p3dghang")
    with service_with(host, "auth required pam_exec.so /bin/sleep 600"), \
            host.pop3d("-p") as left, host.pop3d("-p") as ended:
        for pop in left, ended:
            pop.line()
            pop.cmd("USER p3dghang")
            pop.send(f"PASS {password}\r\n".encode())
        wait_for(lambda: len(sleeping(host)) == 2)
        number = sleeping(host)[0]
        host.run("kill", number)
        statuses = {left.wait(), ended.wait()}
        assert left.rest() == ended.rest() == b""
    assert statuses == {-signal.SIGALRM, -signal.SIGTERM}


@needs_root
def test_a_module_of_pam_that_takes_longer_than_there_is_time():
    """The last guess before the time to log in is over is a login that failed
    like any other: in the log, for who counts them."""
    with Host(pop3d=BUILD / "pop3d-quick") as host:    # 6 s to log in
        password = host.account("p3dgslow")
        with service_with(host, "auth required pam_exec.so /bin/sleep 6"), \
                host.pop3d("-p") as wrong, host.pop3d("-p") as right:
            for pop, word in (wrong, "no"), (right, password):
                pop.line()
                pop.cmd("USER p3dgslow")
                pop.send(f"PASS {word}\r\n".encode())
            assert wrong.rest() == b""
            assert right.line().startswith(b"+OK ")
        host.log("login failed: user=<p3dgslow> .*reason=credentials")
        host.log("no login: .*reason=timeout")


def sleeping(host):
    """The processes that wait for a /bin/sleep 600."""
    return re.findall(r"^ *(\d+) /bin/sleep 600$", host.run(
        "ps", "-e", "-o", "ppid=,args=").stdout, re.M)


@pytest.fixture
def careless_module(host):
    with service_with(host, f"auth optional {BUILD / 'pam_careless.so'}"):
        yield


@needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_a_users_file_system_that_never_answers(
        host, careless_module, number):
    """SIGTERM ends the session at once, SIGALRM when it has hung too long,
    whatever a module of PAM wanted with them."""
    name = f"p3dgfuse{number:d}"
    password = host.account(name)
    host.path(f"/home/{name}/hung").mkdir()
    before = ("unshare", "--mount", "/usr/bin/python3",
              TESTS / "privileges/never_answers.py", f"/home/{name}/hung")
    with host.pop3d("-p", "-m", "%h/hung/mbox", before=before) as pop:
        pop.line()
        pop.send(f"USER {name}\r\nPASS {password}\r\n".encode())
        process = wait_for(lambda: re.match(r"process (\d+)\n", pop.log()))[1]
        uid = host.run("id", "-u", name).stdout.strip()
        wait_for(lambda: f"\nUid:\t{uid}\t" in host.run(
            "cat", f"/proc/{process}/status", check=False).stdout)
        if number == signal.SIGTERM:
            host.run("kill", process)
        assert pop.wait() == 128 + number


@needs_root
def test_a_mailbox_that_takes_long_to_read(host):
    """A hole of 4 TiB.  Reading gets on, so it does not hang, for as long as
    it takes; deliverers do not wait for it; and SIGTERM ends it at once."""
    password = host.account("p3dghole")
    mailbox = host.deliver("p3dghole")
    with mailbox.open("r+b") as file:
        file.truncate(4 << 40)

    def has_read(size):
        number = host.run("pgrep", "-u", "p3dghole", "-x", "pop3d",
                          check=False).stdout.strip()
        done = number and host.run("cat", f"/proc/{number}/io",
                                   check=False).stdout
        return done and int(re.search(r"rchar: (\d+)", done)[1]) > size

    with host.pop3d("-p") as pop:
        pop.line()
        pop.cmd("USER p3dghole")
        pop.send(f"PASS {password}\r\n".encode())
        wait_for(lambda: has_read(1 << 20))
        wait_for(lambda: free(mailbox))
        with contextlib.suppress(subprocess.TimeoutExpired):
            pop.process.wait(HANG_SECONDS + 2)
        assert pop.process.returncode is None
        host.run("pkill", "-TERM", "-u", "p3dghole", "-x", "pop3d")
        assert pop.wait() == -signal.SIGTERM
    mailbox.unlink()


@pytest.fixture
def hung_syslog(host):
    """/dev/log as it is when syslogd stands still: nobody reads, it is full."""
    path = host.path("/etc/hung")
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        nobody.bind(str(path))
        path.chmod(0o666)
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.sendto(b"full", str(path))
        yield ("unshare", "--mount", "sh", "-ec",
               'mount --bind /etc/hung /run/log\nexec "$0" "$@"')


@needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_a_syslogd_that_hangs(host, hung_syslog, number):
    """It keeps the session, and no deliverer; and the session has an end."""
    name = f"p3dglog{number:d}"
    password = host.account(name)
    mailbox = host.deliver(name)
    with host.pop3d("-p", before=hung_syslog) as pop:
        pop.send(f"USER {name}\r\nPASS {password}\r\n".encode())
        side = mailbox.with_name(f".{name}.pop3d")
        wait_for(side.exists)
        wait_for(lambda: free(mailbox))
        if number == signal.SIGTERM:
            host.run("pkill", "-TERM", "-u", name, "-x", "pop3d")
        assert pop.wait() == -number


@needs_root
def test_a_syslogd_that_hangs_at_the_end(host, hung_syslog):
    """What ends it is not ignored once the end has begun."""
    with host.pop3d("-p", before=hung_syslog) as pop:
        pop.send(b"QUIT\r\n")
        assert pop.wait() == -signal.SIGALRM


def free(mailbox):
    """Whether a deliverer could lock the mailbox now, in all ways."""
    with mailbox.open("r+b") as file, contextlib.suppress(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return not pathlib.Path(f"{mailbox}.lock").exists()


@pytest.fixture
def reads(tmp_path):
    """Sessions that are about to read a mailbox as privileges/hang.c does."""
    with contextlib.ExitStack() as stack:
        def start(name, let):
            """let is how many reads go well."""
            folder = tmp_path / name
            folder.mkdir()
            drop = Maildrop(folder / "alice", mail(header=b"X-UIDL: one\n"))
            session = stack.enter_context(drop.session(
                "-t", "600", binary=HANGS, env={
                    "POP3D_STUB_HANG": str(folder / "hang"),
                    "POP3D_STUB_TERM": str(folder / "term")}))
            session.login()
            os.utime(drop.path)     # so that it is looked at again
            session.hang, session.term = folder / "hang", folder / "term"
            session.hang.write_bytes(let * b"!")
            return session

        yield start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
@pytest.mark.parametrize("command", READING)
def test_a_mailbox_that_hangs(reads, command, number):
    """Whichever read of a command it is: as with a login."""
    with reads("calm", 1000) as calm:
        assert calm.cmd(command).startswith(b"+OK")
        count = 1000 - calm.hang.stat().st_size
    assert count > 0
    sessions = [reads(f"{let}", let) for let in range(count)]
    for session in sessions:
        session.send(command.encode() + b"\r\n")
    for session in sessions:
        wait_for(lambda: not session.hang.exists())
        if number == signal.SIGTERM:
            session.process.terminate()
        assert session.rest() == b""
        assert session.wait() == -number


@pytest.mark.parametrize("command", READING)
def test_a_signal_that_came_before_a_read_is_logged(reads, command):
    with reads("calm", 1000) as session:
        session.term.touch()
        session.send(command.encode() + b"\r\n")
        assert session.rest() == b""
        assert session.wait() == 0
        assert "reason=signal" in session.log()


# ---- clients that never wait, or never take ----

def test_a_signal_is_heard_in_a_flood_of_commands(on_a_socket):
    with on_a_socket(HASTY, "-t", "600") as session:
        session.login()
        session.process.terminate()
        flood(session)
        assert b"reason=signal" in session.process.stderr.read()


def test_a_flood_of_commands_is_no_login(on_a_socket):
    with on_a_socket(QUICK) as session:
        flood(session)
        assert b"no login: ip=unknown " in (log := session.process.stderr.read())
        assert b"reason=timeout" in log


def flood(session):
    """Send commands without end, and read, until the server ends."""
    session.sock.setblocking(False)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            with contextlib.suppress(BlockingIOError):
                session.sock.send(b"CAPA\r\n" * 500)
            with contextlib.suppress(BlockingIOError):
                if not session.sock.recv(1 << 16):
                    return


@pytest.mark.parametrize("number", ["SIGTERM", None])
def test_a_reply_that_is_not_taken(drop, on_a_socket, number):
    drop.deliver(mail(4, body=200000 * b"more\n"))
    limit = ["-t", "600"] if number else []
    with on_a_socket(HASTY, *limit) as session:
        session.send(LOGIN + b"RETR 4\r\n")
        for _ in range(4):      # the mail has begun
            session.line()
        # Where it reads, SIGTERM ends it without a word.
        wait_for(lambda: waits_in("poll", session))
        if number:
            session.process.terminate()
        reason = b"signal" if number else b"autologout"
        assert b"reason=" + reason in session.process.stderr.read()
