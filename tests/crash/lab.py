"""What the crash, fault and disk tests share: a mailbox, sessions with it, and the judgement over what is left of it."""

import collections
import fcntl
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import tempfile

TESTS = pathlib.Path(__file__).resolve().parent.parent
BUILD = TESTS / "build"
KILLAT = BUILD / "killat"
# With data areas of 64 MiB, of 4 KiB, with none, and one that keeps an index of the smallest and newest mailbox.
SERVERS = [BUILD / name for name in ("pop3d-stub", "pop3d-stub-area4k", "pop3d-stub-area0", "pop3d-stub-index")]
WITHOUT_RECORDS = BUILD / "pop3d-stub-norecords"

LOGIN = [b"USER alice", b"PASS secret"]
HUNG, SLEPT, KILLED = 99, 98, 137       # exit statuses of killat


IDLE, HOLE, CUT = range(3)
Record = collections.namedtuple("Record", "magic sequence state w r n next size")


class Harm(Exception):
    pass


class Message:
    """A message as it lies in a mailbox, with its From_ line and separator."""

    def __init__(self, number, size, who="p3dd"):
        rng = random.Random(number)
        head = (f"From {who}-{number}@example.org Tue Nov 24 05:42:39 2026\nFrom: {who}-{number}@example.org\n"
                f"Subject: {who} {number}\nMessage-ID: <{number}.{who}@example.org>\n\n").encode()
        lines = []
        room = size - len(head)
        while room > 0:
            line = rng.choice((b".", b">From here", b"%d" % number)) + b"%x" % rng.getrandbits(4 * rng.randrange(1, 70))
            lines.append(line[:room - 1] + b"\n")
            room -= len(lines[-1])
        self.stored = head + b"".join(lines) + b"\n"

    @property
    def octets(self):
        text = self.stored[self.stored.index(b"\n") + 1:-1]
        return len(text) + text.count(b"\n")

    @property
    def sent(self):
        text = self.stored[self.stored.index(b"\n") + 1:-1].replace(b"\n", b"\r\n")
        return (b"." if text.startswith(b".") else b"") + text.replace(b"\r\n.", b"\r\n..")


MAILBOXES = {                           # sizes of the messages
    "200 B": lambda rng: [200] * 1000,
    "mixed": lambda rng: [int(200 * 1500 ** rng.random()) for _ in range(80)],
    "300 KiB": lambda rng: [300 << 10] * 9,
    "full disk": lambda rng: [20_000] + [rng.randrange(200, 60_000) for _ in range(30)],
    "short": lambda rng: [8000] + [int(200 * 100 ** rng.random()) for _ in range(29)],
}


def mailbox(kind):
    sizes = MAILBOXES[kind](random.Random(kind))
    return [Message(number, size) for number, size in enumerate(sizes, 1)]


PATTERNS = {                            # which of n messages are deleted, from 0
    "every second": lambda n: range(0, n, 2),
    "first": lambda n: [0],
    "last": lambda n: [n - 1],
    "all": range,
    "random": lambda n: sorted(random.Random(n).sample(range(n), n // 3)),
    "first and last": lambda n: [0, n - 1],
}


def octets_of(messages):
    return b"".join(message.stored for message in messages)


class Maildrop:
    """A directory with a mailbox in it."""

    def __init__(self, messages, parent="/dev/shm"):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="p3dd-", dir=parent))
        self.path = self.dir / "alice"
        self.list = pathlib.Path("/dev/shm", self.dir.name + ".list")     # not where a disk may be full
        self.messages = messages
        self.original = octets_of(messages)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir)
        self.list.unlink(missing_ok=True)

    def begin(self, server, first=False):
        """Start from a mailbox that a session has seen before, so that the side file is there; or from the user's first."""
        for entry in os.scandir(self.dir):
            os.unlink(entry)
        self.path.write_bytes(self.original)
        self.give(self.path)
        if not first:
            self.session(server, [*LOGIN, b"QUIT"])
        self.start = self.save()

    def give(self, path):
        """To the owner of the directory."""
        owner = self.dir.stat()
        os.chown(path, owner.st_uid, owner.st_gid)

    def content(self):
        return self.path.read_bytes()

    def session(self, server, commands, marker=None, number=0, action="kill", lists=False, sleeps=True, limits=None):
        """Feed the commands to the server, under killat: (exit status, all that it said)."""
        argv = [KILLAT, *(["-m", marker] if marker else []), "-n", str(number), "-a", str(action),
                *(["-l", self.list] if lists else []), *([] if sleeps else ["-w"]), server, "-p", "-m", self.path]
        with packets(commands) as pipe:
            done = subprocess.run(argv, stdin=pipe, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=limits)
        return done.returncode, done.stdout

    def calls(self):
        """(name, first argument) of the calls that killat listed."""
        return [(NAMES.get(int(number), number), int(first))
                for number, first in map(str.split, self.list.read_text().splitlines())]

    def save(self):
        return {entry.name: (entry.inode(), entry.stat().st_mode, pathlib.Path(entry).read_bytes())
                for entry in os.scandir(self.dir)}

    def restore(self, saved=None):
        """Back to what was saved, in the same inodes, and with the same modes: a dead session's dotlock is known by its own."""
        saved = saved or self.start
        for entry in os.scandir(self.dir):
            if entry.name not in saved or saved[entry.name][0] != entry.inode():
                os.unlink(entry)
        first = {}
        for name, (inode, mode, content) in saved.items():
            path = self.dir / name
            if inode in first:
                if not path.exists():
                    os.link(first[inode], path)
                continue
            first[inode] = path
            with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "wb") as file:
                file.truncate(len(content))
                file.write(content)
            path.chmod(mode & 0o7777)
            self.give(path)

    def judge(self, deleted, mail=b"", all_gone=False):
        """The mailbox has what was kept and what was delivered, once each, and of the deleted none that is not whole."""
        left, at, present = self.content(), 0, []
        for index, message in enumerate(self.messages):
            if left.startswith(message.stored, at):
                at += len(message.stored)
                present.append(message)
                if all_gone and index in deleted:
                    raise Harm(f"message {index + 1} was deleted and is there")
            elif index not in deleted:
                raise Harm(f"message {index + 1} of {len(self.messages)} is not at {at} of {len(left)}")
        if left[at:] != mail:
            raise Harm(f"after the messages, at {at}, there are {len(left) - at} bytes, not the {len(mail)} delivered")
        return present

    def record(self):
        """What counts in the side file, if no record is torn."""
        side = self.dir.joinpath(".alice.pop3d").read_bytes()
        return max((Record._make(struct.unpack_from("8q", side, slot)) for slot in (0, 4096)), key=lambda rec: rec.sequence)

    def litter(self):
        """Names that a session may not leave behind."""
        return sorted(set(os.listdir(self.dir)) - {"alice", ".alice.pop3d"})


def packets(commands):
    """A pipe that gives each read(2) a few whole lines, and those of a command like QUIT alone."""
    reader, writer = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    packet = b""
    for line in [command + b"\r\n" for command in commands]:
        alone = line.startswith((b"PASS", b"QUIT"))
        if packet and (alone or len(packet) + len(line) > 250):
            os.write(writer, packet)
            packet = b""
        packet += line
        if alone:
            os.write(writer, packet)
            packet = b""
    if packet:
        os.write(writer, packet)
    os.close(writer)
    return os.fdopen(reader)


def deletions(deleted):
    return [b"DELE %d" % (index + 1) for index in deleted]


def last_reply(output):
    return output.splitlines()[-1] if output else b""


def procmail(path, message):
    os.utime(path, (0, path.stat().st_mtime))   # or it sleeps, to have atime and mtime in different seconds
    subprocess.run(["procmail", f"DEFAULT={path}", f"ORGMAIL={path}", "/dev/null"], input=message.stored, check=True)


def remove_stale_lock(path):
    """What a deliverer does with a dead process's dotlock after a minute (maildrop) or eight (Postfix)."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)


def system_calls():
    text = pathlib.Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").read_text()
    return {int(number): name for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}


NAMES = system_calls()
