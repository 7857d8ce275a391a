"""What the tests share: sessions, maildrops, accounts, superservers.

A session is a real pop3d on pipes (Session.run) or on a socket
(Session.connect); every wait in here ends after PATIENCE seconds, which no
test that passes ever comes near.
"""

import contextlib
import os
import pathlib
import pwd
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import time
import types

import pytest

TESTS = pathlib.Path(__file__).resolve().parent.parent
BUILD = TESTS / "build"
POP3D = TESTS.parent / "pop3d"      # the real one
# A PAM service that lets nobody in after two wrong passwords.
FAILLOCK = """\
auth required pam_faillock.so preauth deny=2 unlock_time=never
auth [success=1 default=bad] pam_unix.so
auth [default=die] pam_faillock.so authfail deny=2 unlock_time=never
auth required pam_permit.so
account required pam_faillock.so
account required pam_unix.so
"""
STUB = BUILD / "pop3d-stub"         # alice, password secret: no PAM, no root
HASTY = BUILD / "pop3d-stub-hasty"  # the same with a short autologout
QUICK = BUILD / "pop3d-stub-quick"  # with a short time to log in
PATIENT = BUILD / "pop3d-stub-patient"  # with a long farewell, long for locks
USER, PASSWORD = "alice", "secret"  # whom the stub knows
LOGIN = b"USER alice\r\nPASS secret\r\n"
PATIENCE = 60

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def needs(*programs):
    """Skip a test where one of the programs is not installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    gone = [name for name in programs if not shutil.which(name, path=path)]
    return pytest.mark.skipif(bool(gone), reason="needs " + ", ".join(gone))


def waits_in(call, session):
    """"nanosleep": for a lock; "poll": for its client, or in a refusal."""
    return call in pathlib.Path(
        f"/proc/{session.process.pid}/wchan").read_text()


def wait_for(what, seconds=PATIENCE):
    """Wait until what() is true and return what it gave."""
    end = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.01)
    return result


class Session:
    """A client's end of a POP3 session.  Lines have no CRLF."""

    def __init__(self, reader, writer, process=None, log=None, sock=None):
        self.reader, self.writer = reader, writer
        self.process, self.log_file, self.sock = process, log, sock
        self.got = b""

    @classmethod
    def run(cls, binary, *options, env=None, **popen):
        """Start binary on pipes; what it writes to stderr is log()."""
        log = tempfile.TemporaryFile()
        process = subprocess.Popen(
            [binary, *options], bufsize=0, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=log,
            env={**os.environ, **(env or {})}, **popen)
        return cls(process.stdout.fileno(), process.stdin.fileno(), process,
                   log)

    @classmethod
    def connect(cls, port, host="127.0.0.1"):
        sock = socket.create_connection((host, port), timeout=PATIENCE)
        return cls(sock.fileno(), sock.fileno(), sock=sock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        """Send octets as they are, as far as the server still reads."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while data:
                data = data[os.write(self.writer, data):]

    def read(self):
        """The next octets, b"" at the end."""
        assert select.select([self.reader], [], [], PATIENCE)[0], "no answer"
        try:
            return os.read(self.reader, 1 << 16)
        except ConnectionResetError:
            return b""

    def line(self):
        while b"\n" not in self.got:
            data = self.read()
            assert data, f"the session ended: {self.got!r}"
            self.got += data
        line, self.got = self.got.split(b"\n", 1)
        assert line.endswith(b"\r"), f"no CRLF: {line!r}"
        return line[:-1]

    def cmd(self, line):
        """Send a command line, return the first line of the answer."""
        self.send(line.encode() + b"\r\n")
        return self.line()

    def body(self):
        """The rest of a multi-line answer, byte-stuffing undone."""
        lines = []
        while (line := self.line()) != b".":
            lines.append(line[1:] if line.startswith(b".") else line)
        return lines

    def multi(self, line):
        """Send a command line, return its answer's status and lines."""
        status = self.cmd(line)
        return status, self.body() if status.startswith(b"+OK") else []

    def login(self, user=USER, password=PASSWORD):
        """Greeting, USER and PASS: the answer to PASS."""
        assert self.line().startswith(b"+OK")
        assert self.cmd(f"USER {user}").startswith(b"+OK")
        return self.cmd(f"PASS {password}")

    def end(self):
        """No more from the client."""
        if self.sock:
            self.sock.shutdown(socket.SHUT_WR)
        elif not self.process.stdin.closed:
            self.process.stdin.close()

    def rest(self):
        """All that the server sends until it ends."""
        while data := self.read():
            self.got += data
        rest, self.got = self.got, b""
        return rest

    def log(self):
        """What is on stderr by now; with -d the log lines."""
        self.log_file.seek(0)
        return self.log_file.read().decode(errors="replace")

    def wait(self):
        """The exit status."""
        return self.process.wait(PATIENCE)

    def close(self):
        if self.sock:
            return self.sock.close()
        self.end()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log_file.close()


def talk(binary, *options, data=b"", **kw):
    """A whole session in one segment: (its answers, log, exit status)."""
    with Session.run(binary, *options, **kw) as session:
        session.send(data)
        session.end()
        return session.rest(), session.wait(), session.log()


class Maildrop:
    """A mailbox in a folder of its own."""

    def __init__(self, path, content=None):
        self.path = pathlib.Path(path)
        self.side = self.path.parent / f".{self.path.name}.pop3d"
        self.dotlock = self.path.parent / f"{self.path.name}.lock"
        if content is not None:
            self.path.write_bytes(content)

    @property
    def content(self):
        return self.path.read_bytes() if self.path.exists() else None

    def state(self):
        """All that a session which deletes nothing must leave as it was."""
        st = self.path.stat()
        return self.content, st.st_mtime_ns, st.st_ino, st.st_mode

    def deliver(self, message):
        with open(self.path, "ab") as mailbox:
            mailbox.write(message)

    def session(self, *options, binary=STUB, **kw):
        return Session.run(binary, "-p", "-d", "-m", self.path, *options, **kw)


def mail(number=1, body=b"Hello.\n", header=b""):
    """A message as a deliverer writes it."""
    return (b"From bob@example.org Thu Nov  5 10:%02d:00 2026\n"
            b"From: Bob <bob@example.org>\nSubject: number %d\n%b\n%b\n"
            % (number % 60, number, header, body))


@contextlib.contextmanager
def account(name):
    """A real account with a random password: name, password, uid, gid, home.

    Give names that begin with "p3d".  Home, mailbox and all that pop3d left
    beside it are removed with it.
    """
    remove_account(name)    # of a run that was killed
    home = tempfile.mkdtemp(prefix=f"{name}-")
    password = secrets.token_urlsafe(12)
    try:
        admin("useradd", "-M", "-d", home, "-s", "/bin/sh", "-U", name)
        admin("chpasswd", input=f"{name}:{password}\n".encode())
        who = pwd.getpwnam(name)
        os.chown(home, who.pw_uid, who.pw_gid)
        yield types.SimpleNamespace(name=name, password=password, home=home,
                                    uid=who.pw_uid, gid=who.pw_gid)
    finally:
        remove_account(name)
        shutil.rmtree(home, ignore_errors=True)


def remove_account(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return
    admin("userdel", "-f", name, stderr=subprocess.DEVNULL)
    spool = pathlib.Path("/var/mail")
    for left in [spool / name, spool / f"{name}.lock",
                 *spool.glob(f".{name}.pop3d*")]:
        left.unlink(missing_ok=True)


def admin(*command, **kw):
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    subprocess.run(command, check=True, env={**os.environ, "PATH": path}, **kw)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def listening(port):
    """Whether something listens there, found out without connecting."""
    want = f":{port:04X} 00000000:0000 0A"
    return want in pathlib.Path("/proc/net/tcp").read_text()


@contextlib.contextmanager
def superserver(kind, *command, log=subprocess.DEVNULL):
    """command under "systemd" or "inetd" on 127.0.0.1: gives the port.

    log is where stderr goes (under inetd a session's stderr is the client).
    """
    command = [str(word) for word in command]
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as conf:
        if kind == "systemd":
            argv = ["systemd-socket-activate", "--inetd", "-a",
                    "-l", f"127.0.0.1:{port}", *command]
        else:
            argv = ["/usr/sbin/inetd", "-i", "-R", "0", conf.name]
            me = pwd.getpwuid(os.geteuid()).pw_name
            conf.write(f"127.0.0.1:{port} stream tcp nowait {me} "
                       f"{command[0]} {' '.join(command)}\n")
            conf.flush()
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=log)
        try:
            wait_for(lambda: listening(port) or server.poll() is not None)
            assert server.poll() is None, f"{kind} did not start"
            yield port
        finally:
            server.terminate()
            server.wait(PATIENCE)
