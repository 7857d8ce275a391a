#!/usr/bin/python3
"""Deliver numbered messages by every kind of deliverer at once, while sessions poll, retrieve, delete and are killed.

    storm.py [-t seconds] [-w workers] [-x server] [group ...]

Each message that a deliverer took must be fetched once, by the session that deleted it, or be in the mailbox in the end, with
the right body. -x "" runs no sessions: the control. Needs root: deliverers write to /var/mail with its group.
"""

import argparse
import collections
import contextlib
import fcntl
import multiprocessing
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

import lab

sys.path.insert(0, str(lab.TESTS / "tools"))
from harness import PASSWORD, Session, account, wait_for  # noqa: E402

UNPACKED = lab.BUILD / "deliverers"     # packages that cannot be installed beside Postfix
SPOOL = pathlib.Path("/var/mail")


def text(number, who):
    """Message number of a deliverer: header and body, without a From_ line."""
    rng = random.Random(f"{who} {number}")
    body = "".join(f"{who} {number} {rng.getrandbits(200):x}\n" for _ in range(int(20_000 ** rng.random())))
    return f"From: {who}@example.org\nSubject: p3dd {who} {number}\n\n{body}".encode()


def from_line(who):
    return b"From %b@example.org Tue Nov 24 05:42:39 2026\n" % who.encode()


def run(*command, **kw):
    return subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw).returncode


def procmail(user, message, who):
    return run("procmail", "-f", f"{who}@example.org", "-d", user.name, input=message)


def maildrop(user, message, who):
    return run("maildrop", "-f", f"{who}@example.org", "-d", user.name, input=message)


def opensmtpd(user, message, who):
    return run(UNPACKED / "usr/libexec/opensmtpd/mail.local", "-f", f"{who}@example.org", user.name, input=message)


def sendmail(user, message, who):
    return run("setpriv", "--regid=mail", "--clear-groups", UNPACKED / "usr/libexec/sendmail/mail.local",
               "-f", f"{who}@example.org", user.name, input=message)


def postfix(user, message, who):
    wait_for(lambda: is_empty(user.postfix))    # one at a time, as the others do
    return run("/usr/sbin/sendmail", "-C", user.postfix / "conf", "-f", f"{who}@example.org", user.name, input=message)


def putmail(user, message, who):
    return run("putmail", "-f", f"{who}@example.org", f"mbox:{user.path}", input=message)


DOTLOCKED = 'dotlockfile -l -r 60 -i 1 "$1.lock" && cat >> "$1"; status=$?; dotlockfile -u "$1.lock"; exit $status'


def dotlockfile(user, message, who):
    return run("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "sh", "-c", DOTLOCKED, "sh", user.path,
               input=from_line(who) + message + b"\n")


def append(user, data, lock, *how):
    with open(user.path, "ab", buffering=0) as mailbox:
        lock(mailbox, fcntl.LOCK_EX, *how)
        mailbox.write(data)
    return 0


def fcntl_only(user, message, who):
    return append(user, from_line(who) + message + b"\n", fcntl.lockf)


def flock_only(user, message, who):
    return append(user, from_line(who) + message + b"\n", fcntl.flock)


DELIVERERS = {                          # the command that must be there, and how to deliver
    "procmail": ("procmail", procmail),
    "maildrop": ("maildrop", maildrop),
    "mail.local of OpenSMTPD": (UNPACKED / "usr/libexec/opensmtpd/mail.local", opensmtpd),
    "mail.local of sendmail": (UNPACKED / "usr/libexec/sendmail/mail.local", sendmail),
    "local of Postfix": ("/usr/lib/postfix/sbin/local", postfix),
    "dotlockfile and cat": ("dotlockfile", dotlockfile),
    "fcntl and write": ("true", fcntl_only),
    "flock and write": ("true", flock_only),
    "putmail": ("putmail", putmail),
}

# Who can be let loose together without harm or a standstill when there is no server at all: those that take the dotlock first.
# sendmail's waits for the dotlock while it holds fcntl, the others respect one kind of lock or none.
GROUPS = {
    "dotlock": ["procmail", "maildrop", "mail.local of OpenSMTPD", "local of Postfix", "dotlockfile and cat"],
    "sendmail": ["mail.local of sendmail"],
    "fcntl": ["fcntl and write"],
    "flock": ["flock and write"],
    "putmail": ["putmail"],
}


def missing():
    return [name for name, (command, _) in DELIVERERS.items() if not shutil.which(command)]


MAIN_CF = """compatibility_level = 3.7
queue_directory = {0}/queue
data_directory = {0}/data
myhostname = localhost
mydestination = localhost
alias_maps =
alias_database =
inet_interfaces = loopback-only
maillog_file = {0}/log
maillog_file_prefixes = {0}
minimal_backoff_time = 1s
queue_run_delay = 1s
"""
MASTER_CF = "".join(f"{name} unix {private} {unprivileged} n - {limit} {program}\n" for name, private, unprivileged, limit, program in (
    ("pickup", "n", "-", 1, "pickup"), ("cleanup", "n", "-", 0, "cleanup"), ("qmgr", "n", "-", 1, "qmgr"),
    ("rewrite", "-", "-", 0, "trivial-rewrite"), ("bounce", "-", "-", 0, "bounce"), ("defer", "-", "-", 0, "bounce"),
    ("trace", "-", "-", 0, "bounce"), ("local", "-", "n", 0, "local"))) + "postlog unix-dgram n - n - 1 postlogd\n"


@contextlib.contextmanager
def running_postfix(wanted):
    """A Postfix of our own, which listens nowhere."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="p3dd-postfix-") as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        for name in "conf", "queue", "data":
            (folder / name).mkdir()
        shutil.chown(folder / "data", "postfix")
        (folder / "conf/main.cf").write_text(MAIN_CF.format(folder))
        (folder / "conf/master.cf").write_text(MASTER_CF)
        control = ["/usr/sbin/postfix", "-c", folder / "conf"]
        subprocess.run([*control, "start"], check=True, stderr=subprocess.DEVNULL)
        try:
            yield folder
        finally:
            subprocess.run([*control, "stop"], stderr=subprocess.DEVNULL)


def is_empty(folder):
    """Whether Postfix has delivered all that it took."""
    queues = "maildrop", "incoming", "active", "deferred"
    return not any(path.is_file() for name in queues for path in (folder / "queue" / name).rglob("*"))


def deliver(name, who, user, until, results):
    """Until the time is over: message after message. Tells {number: exit status}."""
    done = {}
    function = DELIVERERS[name][1]
    rng = random.Random(who)
    while not done or time.monotonic() < until:
        number = len(done) + 1
        done[number] = function(user, text(number, who), who)
        time.sleep(rng.uniform(0, 0.1))
    results.put((name, who, done))


def check(crew, until):
    """Who died tells nothing, and would be waited for in vain."""
    dead = [worker.name for worker in crew if worker.exitcode]
    assert not dead, f"died: {', '.join(dead)}"
    assert time.monotonic() < until + 600, "a deliverer does not end"


class Account:
    """What the sessions saw: of each message, how often it was fetched and deleted, fetched by a session that was killed."""

    def __init__(self):
        self.taken, self.perhaps, self.again, self.damaged = collections.Counter(), set(), [], []
        self.sessions = collections.Counter()

    def see(self, stored, seen):
        """Note a message, as it was sent or lies in the mailbox."""
        header, _, body = stored.partition(b"\n\n")
        match = re.search(rb"^Subject: p3dd (\S+) (\d+)$", header, re.M)
        name = (match[1].decode(), int(match[2])) if match else None
        if not match or body.rstrip(b"\n") != text(name[1], name[0]).partition(b"\n\n")[2].rstrip(b"\n"):
            self.damaged.append(stored[:300])
        elif self.taken[name] or name in seen:
            self.again.append(name)
        seen.add(name)
        return name


STAY = 4                                # so many of the last messages are left alone: UPDATE has to move them


def use(server, user, rng, book):
    """One session, of some kind."""
    kind = rng.choice(("poll", "look", "drain", "drain", "drain", "drop", "kill"))
    env = {"POP3D_STUB_USER": user.name, "POP3D_STUB_UID": str(user.uid), "POP3D_STUB_SPOOL": str(SPOOL.stat().st_gid)}
    slow = [lab.KILLAT, "-d", "10"] if kind in ("drain", "kill") else []    # a wide window for what others may do in it
    with Session.run(*slow, server, "-p", "-d", "-m", user.path, env=env) as session:
        if not session.login(user.name, PASSWORD).startswith(b"+OK"):
            book.sessions["login refused"] += 1
            return
        count = int(session.cmd("STAT").split()[1])
        if kind == "poll":
            status, ids = session.multi("UIDL")
            if b"changed by another program" in status:
                book.sessions["UIDL refused"] += 1
                return
            assert len(session.multi("LIST")[1]) == len(ids) == count
            chosen = []
        else:
            old = range(1, count - STAY + 1)
            chosen = sorted(rng.sample(old, min(len(old), rng.choice((1, 2, 10)))))
        fetched, seen = [], set()
        for number in chosen:
            try:
                status, lines = session.multi(f"RETR {number}")
            except AssertionError:      # no termination octet
                session.process.wait(60)
                assert "reason=changed" in session.log(), session.log()
                book.sessions["RETR cut short"] += 1
                return
            if not status.startswith(b"+OK"):
                book.sessions["RETR refused"] += 1
                return
            name = book.see(b"\n".join(lines) + b"\n", seen)
            if kind != "look" and session.cmd(f"DELE {number}").startswith(b"+OK"):
                fetched.append(name)
        if kind == "drop":
            book.sessions["no QUIT"] += 1
            return
        if kind == "kill":
            session.send(b"QUIT\r\n")
            time.sleep(rng.uniform(0, 0.01))
            session.process.kill()
            book.perhaps.update(fetched)
            book.sessions["killed"] += 1
            return
        if session.cmd("QUIT").startswith(b"+OK"):
            book.taken.update(fetched)
            book.sessions["QUIT +OK"] += 1
        else:
            book.perhaps.update(fetched)
            book.sessions["QUIT -ERR"] += 1


def storm(names, seconds, server=lab.SERVERS[0], workers=1, report=print):
    """Returns (messages taken by the deliverers, what went wrong)."""
    rng, book, results = random.Random(0), Account(), multiprocessing.Queue()
    with account("p3ddstorm") as user, running_postfix("local of Postfix" in names) as folder:
        user.path, user.postfix = SPOOL / user.name, folder
        user.path.write_bytes(b"")          # not what an earlier storm left, if it was killed
        shutil.chown(user.path, user.uid, "mail")
        user.path.chmod(0o660)
        until = time.monotonic() + seconds
        crew = [multiprocessing.Process(target=deliver, name=name, args=(name, f"{re.sub('[^a-z]+', '-', name.lower())}-{worker}",
                                                                         user, until, results))
                for name in names for worker in range(workers)]
        told = []
        for worker in crew:
            worker.start()
        try:
            while len(told) < len(crew):
                check(crew, until)
                if server and not book.damaged:
                    use(server, user, rng, book)
                with contextlib.suppress(queue.Empty):
                    told.append(results.get(timeout=rng.uniform(0, 0.1)))
            for worker in crew:
                worker.join()
        finally:
            for worker in crew:
                worker.terminate()
        if folder:
            wait_for(lambda: is_empty(folder))
        if server:
            with Session.run(server, "-p", "-m", user.path,
                             env={"POP3D_STUB_USER": user.name, "POP3D_STUB_UID": str(user.uid), "POP3D_STUB_SPOOL": str(SPOOL.stat().st_gid)}) as session:
                last = session.login(user.name, PASSWORD)
                session.cmd("QUIT")
                assert last.startswith(b"+OK"), last
        left = set()
        for stored in re.split(rb"(?:^|(?<=\n))From [^\n]*\n", user.path.read_bytes())[1:]:
            if b"DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA" not in stored:
                book.see(stored, left)
    total, wrong = judge(told, book, left, report)
    # putmail writes a header line after it has removed its lock; what all others do under theirs is no change.
    if "putmail" not in names:
        wrong += [kind for kind in ("UIDL refused", "RETR refused", "RETR cut short") if book.sessions[kind]]
    return total, wrong


def judge(told, book, left, report):
    lost, doubled, total = [], list(book.again), 0
    for name, who, done in sorted(told):
        taken = [(who, number) for number, status in done.items() if status == 0]
        lost += [one for one in taken if not book.taken[one] and one not in left and one not in book.perhaps]
        total += len(taken)
        report(f"{name:<24} delivered {len(taken):>5}  refused {len(done) - len(taken):>3}  "
               f"fetched {sum(book.taken[one] for one in taken):>5}  left {sum(one in left for one in taken):>5}")
    doubled += [one for one, count in book.taken.items() if count > 1]
    report("sessions: " + ", ".join(f"{kind} {count}" for kind, count in sorted(book.sessions.items())))
    report(f"{total} delivered, {len(lost)} lost, {len(doubled)} doubled, {len(book.damaged)} damaged", flush=True)
    wrong = [f"lost {one}" for one in lost] + [f"doubled {one}" for one in doubled] + [f"damaged {one}" for one in book.damaged]
    return total, wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-t", type=float, default=60, help="seconds for each group")
    parser.add_argument("-w", type=int, default=1, help="workers for each deliverer")
    parser.add_argument("-x", default=lab.SERVERS[0], help="server")
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; all, if none is named")
    args = parser.parse_args()
    if missing():
        print("not installed:", *missing(), sep="\n  ")
    bad = []
    for group in args.groups or GROUPS:
        print(f"-- {group}", flush=True)
        names = [name for name in GROUPS[group] if name not in missing()]
        bad += storm(names, args.t, args.x, args.w)[1]
    print(*bad[:20], sep="\n")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
