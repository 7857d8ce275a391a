"""What the hosts of the NFS tests do; nfs.py calls these by name."""

import fcntl
import glob
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

from common import BIN, SPOOL, Ended, Session, Store, environment, parse, pattern, sent, uid_of

EXPORT = "/srv/mail"
SERVE = """echo '{export} *(rw,sync,no_subtree_check,fsid=1)' >/etc/exports
mount -t nfsd nfsd /proc/fs/nfsd
nfsdcld
echo {lease} >/proc/fs/nfsd/nfsv4leasetime
echo {lease} >/proc/fs/nfsd/nfsv4gracetime
echo {lease} >/proc/sys/fs/nfs/nlm_grace_period
rpc.statd --no-notify
exportfs -ar
rpc.nfsd 4
rpc.mountd
sm-notify
cat /proc/fs/nfsd/threads"""


def sh(command, check=False):
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=300)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}")
    return done.stdout.strip()


def network():
    return os.path.basename(glob.glob("/sys/class/net/e*")[0])


# The server.

def serve_nfs(lease):
    """As systemd's units would."""
    return sh(SERVE.format(export=EXPORT, lease=lease))


def delegations(on):
    """Whether the server hands files out to one client."""
    sh(f"echo {on} >/proc/sys/fs/leases-enable", check=True)


def make_box(user, ids, synced=True):
    path = f"{EXPORT}/{user}"
    for name in glob.glob(f"{EXPORT}/.{user}.*") + glob.glob(f"{EXPORT}/{user}*"):
        os.unlink(name)
    with open(path, "wb") as f:
        f.write(b"".join(map(Store(user), ids)))
        os.fchown(f.fileno(), uid_of(user), 8)
        os.fchmod(f.fileno(), 0o660)
        f.flush()
        if synced:
            os.fsync(f.fileno())


def left(user):
    """The messages in the mailbox, with what is none as its size below 0; and what lies beside it and should not."""
    with open(f"{EXPORT}/{user}", "rb") as f:
        found = parse(f.read(), Store(user))
    beside = [name for name in os.listdir(EXPORT) if user in name and name not in (user, f".{user}.pop3d") or ".nfs" in name]
    return [number or -size for number, _, size in found], sorted(beside)


def junk(user):
    with open(f"{EXPORT}/{user}", "rb") as f:
        content = f.read()
    return [f"at {at} of {len(content)}, {size} bytes, {content[at:at + size].count(0)} NUL: "
            f"{content[at:at + min(size, 300)].strip(bytes(1))!r}" for n, at, size in parse(content, Store(user)) if n is None]


def foreign_lock(user, minutes=None):
    """A dotlock of another program's; minutes: so old. Its ctime is always now: the clock has to go on for it to be stale."""
    path = f"{EXPORT}/{user}.lock"
    if os.path.exists(path):
        os.unlink(path)
    with open(path, "w") as f:
        f.write("1\n")
    os.chown(path, uid_of(user), 8)
    if minutes:
        os.utime(path, (time.time() - 60 * minutes,) * 2)



# The clients.

def mount_nfs(options):
    if os.path.ismount(SPOOL):
        sh(f"umount {SPOOL}", check=True)
    sh("pidof rpc.statd || rpc.statd")
    sh(f"mount -t nfs -o {options} 10.0.0.1:{EXPORT} {SPOOL}", check=True)


def statd():
    """Whose locks statd watches: a real host's disk remembers that."""
    return sh("tar c -C /var/lib/nfs sm state | base64 -w0", check=True)


def booted_again(remembered):
    sh(f"echo {remembered} | base64 -d | tar x -C /var/lib/nfs && sm-notify -f", check=True)


def slow(delay):
    sh(f"tc qdisc replace dev {network()} root netem delay {delay}", check=True)


def fast():
    sh(f"tc qdisc del dev {network()} root")


def forget():
    sh("echo 3 >/proc/sys/vm/drop_caches")


def look(user):
    """So that the client remembers which names are there, and which are not."""
    sh(f"cd {SPOOL}; ls -la; stat {user}.lock .{user}.pop3d .{user}.pop3d.saved")


def clock(by):
    sh(f"date -s '{by}'", check=True)


def become(user):
    os.setgroups([8])
    os.setgid(8)
    os.setuid(uid_of(user))
    os.umask(0o007)


def as_user(user, function, *args):
    """Run function in a process of the user's, with the spool's group: what it returns."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become(user)
            os.write(theirs, json.dumps(function(user, *args)).encode())
            status = 0
        except BaseException as e:
            os.write(2, f"{function.__name__}: {e!r}\n".encode())
        os._exit(status)
    os.close(theirs)
    with open(ours, "rb") as f:
        answer = f.read()
    status = os.waitpid(pid, 0)[1]
    if status or not answer:
        raise RuntimeError(f"{function.__name__}: status {status}")
    return json.loads(answer)


class Locked:
    """fcntl and a dotlock that is safe on NFS, both tried together, as a good deliverer does it."""

    def __init__(self, user):
        self.path = f"{SPOOL}/{user}"

    def __enter__(self):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            self.fd = os.open(self.path, os.O_RDWR | os.O_APPEND)
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.dotlock():
                    return self.fd
            except (BlockingIOError, PermissionError):
                pass
            os.close(self.fd)
            time.sleep(0.1 + random.random() * 0.3)
        raise TimeoutError("lock")

    def dotlock(self):
        unique = f"{self.path}.{os.getpid()}.{socket.gethostname()}.tmp"
        os.close(os.open(unique, os.O_CREAT | os.O_WRONLY, 0o600))
        try:
            os.link(unique, self.path + ".lock")
        except OSError:
            pass
        good = os.stat(unique).st_nlink == 2
        os.unlink(unique)
        return good

    def __exit__(self, *_):
        os.unlink(self.path + ".lock")
        os.close(self.fd)


def append(user, ids):
    with Locked(user) as fd:
        data = b"".join(map(Store(user), ids))
        while data:
            data = data[os.write(fd, data):]
        os.fsync(fd)


def procmail(user, ids):
    path = f"{SPOOL}/{user}"
    for i in ids:
        subprocess.run(["procmail", f"DEFAULT={path}", f"ORGMAIL={path}", "/dev/null"], input=Store(user)(i), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write(user, ids, mtime_back):
    """As a local mail reader does: under locks, in place."""
    with Locked(user) as fd:
        st = os.fstat(fd)
        new = b"".join(map(Store(user), ids))
        with open(f"{SPOOL}/{user}", "r+b", buffering=0) as f:
            f.write(new)
            f.truncate()
            if mtime_back:
                os.utime(f.fileno(), ns=(st.st_atime_ns, st.st_mtime_ns))
            os.fsync(f.fileno())


def rename_over(user, ids):
    with open(f"{SPOOL}/{user}.new", "wb") as f:
        f.write(b"".join(map(Store(user), ids)))
    os.rename(f"{SPOOL}/{user}.new", f"{SPOOL}/{user}")


def deliver(user, ids):
    as_user(user, append, ids)


def rewrite(user, ids, mtime_back=False):
    as_user(user, write, ids, mtime_back)


def replace(user, ids):
    as_user(user, rename_over, ids)


OPEN = []


def keep_open(user, how):
    """A program of the user's opens the mailbox, reads it if it can, and stays."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(user)
            fd = os.open(f"{SPOOL}/{user}", {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}[how])
            while how != "w" and os.read(fd, 65536):
                pass
            os.write(theirs, b"open")
            time.sleep(300)
        finally:
            os._exit(1)
    os.close(theirs)
    OPEN.append(pid)
    with open(ours, "rb", buffering=0) as f:
        if not f.read(4):
            raise RuntimeError("keep_open")


def close_all():
    while OPEN:
        pid = OPEN.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# Sessions.

SESSIONS = {}


def retr(session, i, store):
    """The number of message i; None if what is sent is none of ours; or the error."""
    status = session.cmd(f"RETR {i}")
    if not status.startswith("+OK"):
        return status
    session.last = session.body()
    m = re.search(rb"\r\nSubject: \w+ number (\d+)\r\n", b"\r\n" + session.last)
    return int(m[1]) if m and session.last == sent(store(int(m[1]))) else None


def login_all(user, server="pop3d-stub"):
    """Log in, read all: (what was answered, numbers, log). The answer is DELE's if that is refused."""
    ids = []
    with tempfile.TemporaryFile() as log:
        session = Session(BIN + server, user, log=log)
        try:
            answer = session.login()
            if answer.startswith("+OK"):
                n = session.count()
                ids = [retr(session, i, Store(user)) for i in range(1, n + 1)]
                if n and not (dele := session.cmd("DELE 1")).startswith("+OK"):
                    answer = dele
                session.cmd("RSET", "QUIT")
        except (Ended, OSError) as e:
            answer = f"ended {e!r}"
        finally:
            session.close()
        log.seek(0)
        return answer, ids, log.read().decode(errors="replace")[-400:]


def held(user, server="pop3d-stub"):
    """A session that stays: the answer to PASS."""
    SESSIONS[user] = Session(BIN + server, user, patience=280, log=open(f"/tmp/log.{user}", "wb"))
    return SESSIONS[user].login()


def say(user, *commands):
    """The reply to the last command, and what the log said last."""
    try:
        reply = SESSIONS[user].cmd(*commands)
    except (Ended, OSError) as e:
        reply = f"ended {e!r}"
    with open(f"/tmp/log.{user}", "rb") as f:
        return reply, f.read().decode(errors="replace").splitlines()[-1:]


def retrs(user, wanted):
    """What each RETR gives, up to the first that is refused or ends the session."""
    got = []
    for i in wanted:
        try:
            got.append(retr(SESSIONS[user], i, Store(user)))
        except (Ended, OSError) as e:
            got.append(f"ended {e!r}")
        if isinstance(got[-1], str):
            break
    return got


def over(user):
    SESSIONS[user].kill()


def killed_update(user, dele, number, server="pop3d-stub"):
    """A session that is killed at a system call after QUIT: killat's exit status, 137 if it came so far."""
    reader, writer = os.pipe2(os.O_DIRECT)
    commands = [f"USER {user}", "PASS secret", *[f"DELE {i}" for i in dele], "QUIT"]
    for command in commands:
        os.write(writer, command.encode() + b"\r\n")
    os.close(writer)
    argv = [BIN + "killat", "-m", "QUIT", "-n", str(number), "-a", "kill", BIN + server, "-p", "-m", f"{SPOOL}/{user}"]
    with os.fdopen(reader) as stdin:
        return subprocess.run(argv, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=280,
                              env=environment(user)).returncode


class Soak:
    """Deliveries and sessions of one user on this host, and all that happened."""

    def __init__(self, user, seconds, seed, first, deliverers):
        self.user, self.end, self.next = user, time.monotonic() + seconds, first
        self.deliverers = [{"append": append, "procmail": procmail}[name] for name in deliverers]
        self.store, self.seed = Store(user), seed
        self.told = {"delivered": [], "unsure": [], "deleted": [], "maybe": [], "errors": [], "wrong": [], "refused": [],
                     "sessions": 0, "killed": 0, "how": []}

    def deliver(self):
        rng = random.Random(f"d{self.seed}{self.user}")
        while time.monotonic() < self.end:
            how, number = rng.choice(self.deliverers), self.next
            try:
                as_user(self.user, how, [number])
                self.told["delivered"].append(number)
            except RuntimeError:
                self.told["unsure"].append(number)
            self.told["how"].append(f"{time.time():.2f} {how.__name__} {number}")
            self.next += 3              # the other host delivers those between
            time.sleep(rng.expovariate(1.5))

    def serve(self):
        rng = random.Random(f"s{self.seed}{self.user}")
        while time.monotonic() < self.end:
            session = Session(BIN + "pop3d-stub", self.user)
            try:
                self.one(session, rng)
            except (Ended, OSError) as e:
                self.told["errors"].append(f"session: {e!r}")
                session.kill()
            time.sleep(rng.random() * 0.8)

    def one(self, session, rng):
        reply = session.login()
        if not reply.startswith("+OK"):
            self.told["refused"].append(reply)
            session.close()
            return
        n = session.count()
        ids = [retr(session, i, self.store) for i in range(1, n + 1)]
        self.told["wrong"] += [f"{time.time():.2f} RETR {i} of {n}" for i, got in enumerate(ids, 1) if got is None]
        self.told["errors"] += [f"RETR: {got}" for got in ids if isinstance(got, str)]
        real = [i for i in ids if isinstance(i, int)]
        if len(set(real)) < len(real):
            self.told["wrong"].append(f"doubled in a session: {[i for i in real if real.count(i) > 1][:5]}")
        chosen = [i for i in pattern(rng, n) if isinstance(ids[i], int)] if n and rng.random() < 0.9 else []
        for i in chosen:
            session.cmd(f"DELE {i + 1}")
        gone = [ids[i] for i in chosen]
        session.send("QUIT")
        if rng.random() < 0.15:
            time.sleep(rng.random() ** 2 * 0.6)
            session.kill()
            self.told["killed"] += 1
            self.told["maybe"] += gone
            return
        reply = session.line()
        session.close()
        self.told["sessions"] += 1
        if reply.startswith("+OK"):
            self.told["deleted"] += gone
        else:
            self.told["maybe"] += gone
            self.told["refused"].append(f"QUIT: {reply}")


def soak(users, seconds, seed, first, deliverers, sessions):
    """{user: what happened}"""
    soaks = {user: Soak(user, seconds, seed, first, deliverers) for user in users}
    jobs = [s.deliver for s in soaks.values()] + ([s.serve for s in soaks.values()] if sessions else [])
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {user: s.told for user, s in soaks.items()}
