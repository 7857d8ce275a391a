"""A host of its own for a test: namespaces over the machine that is there.

In it pop3d is installed, /etc, /home, /var/mail, /run and /dev/log are its
own, and so are its network and its processes: what etc/ holds can be used as
it stands, with its paths and ports, accounts are made by useradd, and all of
it is gone with the host.  Needs root.
"""

import contextlib
import ctypes
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading

from harness import PATIENCE, POP3D, TESTS, Session, mail, wait_for

ETC = TESTS.parent / "etc"
SBIN = "/usr/local/sbin"        # where etc/ has pop3d
CLONE_NEWNET = 0x40000000

# The first process of the host: ends, and everything with it, when its input
# is closed.
SETUP = """
read -r pid _ < /proc/self/stat
mount -t proc proc /proc
for name in etc home var/mail usr/local/sbin; do
	mount --bind "$0/$name" "/$name"
done
mount -t tmpfs -o mode=755 run /run
touch /run/log
mount --bind "$1" /run/log
mount -t tmpfs -o mode=755 dev /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/full c 1 7
mknod -m 666 /dev/random c 1 8
mknod -m 666 /dev/urandom c 1 9
mknod -m 666 /dev/tty c 5 0
mkdir -m 1777 /dev/shm
ln -s /run/log /dev/log
ip link set lo up
echo "$pid"
exec cat
"""


class Host:
    """like is a host whose disk, and so whose accounts, it shares."""

    def __init__(self, pop3d=POP3D, like=None):
        # In memory: account tools and mail servers sync a lot.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="pop3d-host-",
                                                  dir="/dev/shm"))
        self.disk = like.disk if like else self.root
        if not like:
            self.install(pop3d)
        self.lines = []
        self.syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.syslog.bind(str(self.root / "log"))
        (self.root / "log").chmod(0o666)
        self.reader = threading.Thread(target=self.read_syslog, daemon=True)
        self.reader.start()
        self.init = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
             "sh", "-ec", SETUP, self.disk, self.root / "log"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = int(self.init.stdout.readline())

    def install(self, pop3d):
        """As make install does it, and with a spool as Debian has it."""
        for name in "home", "var/mail", "usr/local/sbin":
            (self.disk / name).mkdir(parents=True)
        # What vanishes meanwhile was some program's temporary file.
        subprocess.run(["cp", "-a", "/etc", self.disk],
                       stderr=subprocess.DEVNULL)
        shutil.chown(self.disk / "var/mail", "root", "mail")
        (self.disk / "var/mail").chmod(0o2775)
        shutil.copy(pop3d, self.disk / "usr/local/sbin/pop3d")
        shutil.copy(ETC / "pop3d.pam", self.disk / "etc/pam.d/pop3d")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.init.kill()
        self.init.wait()
        self.init.stdin.close()
        self.init.stdout.close()
        # Else the thread could go on with the next socket of that number.
        self.syslog.shutdown(socket.SHUT_RDWR)
        self.reader.join()
        self.syslog.close()
        shutil.rmtree(self.root)

    def read_syslog(self):
        while line := self.syslog.recv(1 << 16):
            self.lines.append(line.decode(errors="replace"))

    def log(self, pattern):
        """Wait for a line of the log that matches: its match."""
        def match():
            found = (re.search(pattern, line) for line in list(self.lines))
            return next(filter(None, found), None)

        try:
            return wait_for(match)
        except AssertionError:
            log = "\n".join(self.lines)
            raise AssertionError(f"{pattern} is not in the log:\n{log}")

    def inside(self, *command):
        return ["nsenter", "--target", str(self.pid), "--mount", "--net",
                "--pid", *map(str, command)]

    def run(self, *command, check=True, **kw):
        """Run a command in the host to its end."""
        kw = {"text": True, "timeout": PATIENCE, "stdout": subprocess.PIPE,
              "stderr": subprocess.STDOUT, **kw}
        done = subprocess.run(self.inside(*command), **kw)
        assert not (check and done.returncode), f"{command}: {done.stdout}"
        return done

    def start(self, *command, **kw):
        """Start a command; it ends with the host at the latest."""
        return subprocess.Popen(
            self.inside(*command),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL,
               "stderr": subprocess.DEVNULL, **kw})

    def pop3d(self, *options, before=(), **kw):
        """A session on pipes."""
        return Session.run(*self.inside(*before, f"{SBIN}/pop3d", *options),
                           **kw)

    def path(self, path):
        """What a path in the host is outside."""
        return self.disk / str(path).lstrip("/")

    def account(self, name, *options):
        """Make an account: its password."""
        password = secrets.token_urlsafe(12)
        self.run("useradd", "-m", *options, name)
        self.run("chpasswd", input=f"{name}:{password}\n")
        return password

    def deliver(self, name, count=1, path=None):
        """Append mails to a mailbox, as a deliverer leaves it."""
        path = path or f"/var/mail/{name}"
        with self.path(path).open("ab") as mailbox:
            mailbox.writelines(mail(number + 1) for number in range(count))
        self.run("chown", f"{name}:mail", path)
        self.run("chmod", "660", path)
        return self.path(path)

    def serve(self, port, *command, **kw):
        """Start a superserver and wait until it listens."""
        server = self.start(*command, **kw)
        wait_for(lambda: self.listens(port) or server.poll() is not None)
        assert server.poll() is None, f"{command[0]} ended"
        return server

    def listens(self, port):
        return any(
            re.search(rf":{port:04X} 0+:0000 0A ", table.read_text())
            for table in pathlib.Path(f"/proc/{self.pid}/net").glob("tcp*"))

    @contextlib.contextmanager
    def network(self):
        """Sockets made meanwhile by this thread are the host's."""
        setns = ctypes.CDLL(None, use_errno=True).setns
        with (open("/proc/thread-self/ns/net") as old,
              open(f"/proc/{self.pid}/ns/net") as new):
            assert setns(new.fileno(), CLONE_NEWNET) == 0
            try:
                yield
            finally:
                assert setns(old.fileno(), CLONE_NEWNET) == 0

    def connect(self, port, address="127.0.0.1"):
        """A session over TCP from this host."""
        with self.network():
            return Session.connect(port, address)


def link(one, other):
    """A cable between two hosts: 192.0.2.1 and .7, 2001:db8::1 and ::7."""
    subprocess.run(["ip", "link", "add", "eth0", "netns", str(one.pid),
                    "type", "veth", "peer", "eth0", "netns", str(other.pid)],
                   check=True)
    for host, number in (one, 1), (other, 7):
        host.run("sh", "-ec", f"ip addr add 192.0.2.{number}/24 dev eth0\n"
                 f"ip addr add 2001:db8::{number}/64 dev eth0 nodad\n"
                 "ip link set eth0 up")
