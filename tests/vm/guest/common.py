"""What the programs in the machines share: messages that say who they are, POP3 sessions, mounts."""

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import time

BIN = "/host/bin/"
SPOOL = "/var/mail"
libc = ctypes.CDLL(None, use_errno=True)


def run(*argv, **kw):
    return subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **kw).stdout


def mount(source, target, kind, options=""):
    if libc.mount(source.encode(), target.encode(), kind.encode(), 0, options.encode()) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind} {source}: {os.strerror(error)}")


def umount(target):
    for _ in range(50):
        if libc.umount2(target.encode(), 0) == 0:
            return
        time.sleep(0.05)
    raise OSError(ctypes.get_errno(), "umount")


def uid_of(user):
    return 2000 + int(user[1:])


def environment(user):
    """Of a server without PAM: whose it is, and the spool's group."""
    return {"POP3D_STUB_USER": user, "POP3D_STUB_UID": str(uid_of(user)), "POP3D_STUB_SPOOL": "8", "PATH": "/usr/bin"}


def account(user):
    run("useradd", "-u", uid_of(user), "-M", "-d", "/nonexistent", user)
    run("chpasswd", input=f"{user}:secret\n")


class Store:
    """All messages that there ever were of a user: a number has always the same octets."""

    def __init__(self, user):
        self.user, self.made = user, {}

    def __call__(self, number):
        if number not in self.made:
            self.made[number] = self.make(number)
        return self.made[number]

    def make(self, number):
        rng = random.Random(f"{self.user} {number}")
        size = int(200 * 60 ** (rng.random() ** 1.5))
        head = (f"From s{number}@example.org Tue Nov 24 05:42:39 2026\nFrom: s{number}@example.org\n"
                f"Subject: {self.user} number {number}\nMessage-ID: <{number}.{self.user}@example.org>\n\n")
        text = rng.randbytes(size // 2).hex()
        lines = [f"{number} {text[at:at + 70]}" for at in range(0, max(0, size - len(head)), 76)]
        return (head + "\n".join(lines) + "\n\n").encode()


START = re.compile(rb"From s(\d+)@example\.org Tue Nov 24 05:42:39 2026\nFrom: s\d+@example\.org\n"
                   rb"Subject: (\w+) number \d+\n")


def parse(content, store):
    """[(number, or None for what is no message, offset, size)]"""
    def message(m):
        return m[2].decode() == store.user and content.startswith(store(int(m[1])), m.start())

    found, at = [], 0
    while at < len(content):
        m = START.match(content, at)
        if m and message(m):
            found.append((int(m[1]), at, len(store(int(m[1])))))
        else:
            end = next((m.start() for m in START.finditer(content, at + 1) if message(m)), len(content))
            found.append((None, at, end - at))
        at += found[-1][2]
    return found


def numbers(path, store):
    """Of the messages in a mailbox; None for what is none."""
    with open(path, "rb") as f:
        return [number for number, _, _ in parse(f.read(), store)]


def sent(stored):
    text = stored[stored.index(b"\n") + 1:-1].replace(b"\n", b"\r\n")
    return (b"." if text.startswith(b".") else b"") + text.replace(b"\r\n.", b"\r\n..")


class Ended(Exception):
    pass


class Session:
    """A pop3d, or popa3d, on a socketpair."""

    def __init__(self, server, user, patience=120, log=subprocess.DEVNULL):
        ours, theirs = socket.socketpair()
        argv = [server] if "popa3d" in server else [server, "-p", "-d", "-m", f"{SPOOL}/{user}"]
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=log, start_new_session=True, env=environment(user))
        theirs.close()
        self.s, self.got, self.user = ours, b"", user
        ours.settimeout(patience)

    def receive(self):
        try:
            more = self.s.recv(1 << 18)
        except ConnectionError:
            more = b""
        if not more:
            raise Ended(self.got[-80:])
        self.got += more

    def line(self):
        while b"\r\n" not in self.got:
            self.receive()
        line, self.got = self.got.split(b"\r\n", 1)
        return line.decode(errors="replace")

    def send(self, *commands):
        try:
            self.s.sendall(b"".join(command.encode() + b"\r\n" for command in commands))
        except ConnectionError:
            raise Ended(b"send") from None

    def cmd(self, *commands):
        """The reply to the last of them."""
        self.send(*commands)
        return [self.line() for _ in commands][-1]

    def login(self):
        self.line()
        return self.cmd(f"USER {self.user}", "PASS secret")

    def count(self):
        return int(self.cmd("STAT").split()[1])

    def body(self):
        while not self.got.startswith(b".\r\n") and b"\r\n.\r\n" not in self.got:
            self.receive()
        text, self.got = (b"\r\n" + self.got).split(b"\r\n.\r\n", 1)
        return text[2:] + b"\r\n" if text else b""

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        return self.close()

    def close(self):
        self.s.close()
        return self.process.wait(120)


PATTERNS = [                            # which of n messages are deleted, from 0
    lambda rng, n: [0],
    lambda rng, n: [n - 1],
    lambda rng, n: range(n),
    lambda rng, n: sorted({0, n - 1}),
    lambda rng, n: range(0, n, 2),
    lambda rng, n: range(rng.randrange(n), n)[:rng.randrange(1, 20)],
    lambda rng, n: [i for i in range(n) if rng.random() < 0.9],
    lambda rng, n: [i for i in range(n) if i % 7 in (0, 3)],
    lambda rng, n: sorted(rng.sample(range(n), max(1, n // 3))),
]


def pattern(rng, n):
    return list(rng.choice(PATTERNS)(rng, n))
