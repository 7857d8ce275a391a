#!/usr/bin/python3
"""How pop3d and its superservers bear abuse, in figures: make abuse, as root.

Two hundred connections from one address that do not log in, guessed passwords,
and what the time of a refusal tells.  An hour on an otherwise idle machine.  test_abuse.py is the short form.
"""

import contextlib
import ctypes
import os
import pathlib
import random
import re
import secrets
import select
import shutil
import socket
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import host
from harness import Session, wait_for
from host import ETC, SBIN, Host
from test_superservers import inetutils_inetd, openbsd_inetd, xinetd

CROWD = 200             # connections from one address
TRIES = 200             # refusals of each kind
FEW = 8                 # at a time: one hashes while the others wait
PARALLEL = 40
SLOW = 3                # seconds that a hash may take,
SLOW_TRIES = 40         # and as many refusals then: 200 would take hours
SLOW_PARALLEL = 6       # all within the time to log in
MAX_CONNECTIONS = 64    # in etc/: so many at a time are the most
LOGIN_SECONDS = 60      # pop3d's
REFUSAL_SECONDS = 2
GUESSING = 60           # seconds that hydra may guess
TOLD_APART = 4          # standard deviations
STRANGER, NEIGHBOUR = "127.0.0.1", "127.0.0.2"

bad = []

# systemd as the first process of a container, with the units of etc/.
SYSTEMD = r"""
[ -d /sys/fs/cgroup ] || mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
echo 0 >"/sys/fs/cgroup/$1/cgroup.procs"
exec unshare --cgroup --mount --uts --pid --fork --kill-child sh -ec '
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs units /usr/lib/systemd/system
mount -t tmpfs units /etc/systemd
mkdir /etc/systemd/system
cd /etc/systemd/system
for name in sysinit basic shutdown; do
	printf "[Unit]\nDefaultDependencies=no\n" >$name.target
done
printf "[Unit]\nRequires=pop3d.socket\n" >sockets.target
cp "$0"/pop3d.socket "$0"/pop3d@.service .
mount -t tmpfs private /var/tmp
mkdir -p /run/systemd/journal /dev/pts
mount -t devpts devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
touch /run/systemd/journal/dev-log
mount --bind /run/log /run/systemd/journal/dev-log
export container=test
exec /lib/systemd/systemd --unit=sockets.target
' "$0"
"""
SYSTEMD_GONE = r"""
[ -d /sys/fs/cgroup ] || mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find "/sys/fs/cgroup/$0" -depth -type d -exec rmdir {} +
"""


@contextlib.contextmanager
def systemd(host):
    group = f"pop3d-test-{host.pid}"
    server = host.serve(110, "unshare", "--mount", "sh", "-ec", SYSTEMD, ETC,
                        group)
    try:
        yield
    finally:
        server.kill()
        host.init.kill()
        host.init.wait()
        wait_for(lambda: subprocess.run(
            ["unshare", "--mount", "sh", "-ec", SYSTEMD_GONE, group],
            stderr=subprocess.DEVNULL).returncode == 0)


@contextlib.contextmanager
def serving(start, pop3d=host.POP3D):
    """A host where start serves clear text on port 110."""
    with Host(pop3d) as host:
        if start is systemd:
            with systemd(host):
                yield host
        else:
            start(host)
            yield host


def check(holds, what):
    if not holds:
        bad.append(what)
        print(f"  BAD: {what}")


def unlimited(host):
    host.serve(110, "systemd-socket-activate", "--inetd", "-a", "-l", "110",
               f"{SBIN}/pop3d")


def connect(host, address):
    with host.network():
        sock = socket.create_connection(("127.0.0.1", 110), 60, (address, 0))
    return Session(sock.fileno(), sock.fileno(), sock=sock)


def login(host, address, name, password):
    """The answer to a login from address, None if nobody is let in."""
    try:
        with connect(host, address) as session:
            return session.login(name, password)
    except (OSError, AssertionError):
        return None


class Crowd:
    """Clients that do not log in: each third says nothing, sends an octet at a
    time, or sends commands and never reads."""

    def __init__(self, host, count, address=STRANGER):
        self.clients = []
        with host.network():
            for _ in range(count):
                sock = socket.socket()
                sock.bind((address, 0))
                # Where the service is closed it stays unconnected.
                sock.connect_ex(("127.0.0.1", 110))
                sock.setblocking(False)
                self.clients.append(sock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.close()

    def go_on(self):
        for number, client in enumerate(self.clients):
            with contextlib.suppress(OSError):  # it would block, or is closed
                if number % 3 == 1:
                    client.send(b"x")
                while number % 3 == 2:
                    client.send(b"CAPA\r\n" * 1000)

    def count(self):
        """(how many were greeted, how many turned away) by now."""
        seen = [self.look(client) for client in self.clients]
        return seen.count(b"+"), seen.count(b"")

    @staticmethod
    def look(client):
        try:
            return client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def settle(self):
        """Wait until each is greeted or turned away: how many are greeted."""
        def settled():
            self.go_on()
            return sum(self.count()) == len(self.clients)

        wait_for(settled)
        return self.count()[0]


def processes(program):
    """Those that run the file program."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.path.samefile(process / "exe", program):
                yield process


def servers(host):
    return processes(host.path(f"{SBIN}/pop3d"))


def proportional(process):
    """KiB of memory, of what is shared its part (PSS)."""
    text = (process / "smaps_rollup").read_text()
    return int(re.search(r"^Pss: +(\d+)", text, re.M)[1])


def crowded(start):
    """A crowd at the door: does a user get in, what does it cost?"""
    print(f"\n{start.__name__}: {CROWD} connections from {STRANGER}")
    with serving(start) as host:
        password = host.account("p3dhuser")
        host.deliver("p3dhuser", 3)
        with Crowd(host, CROWD) as crowd:
            began = time.monotonic()
            print(f"  served: {crowd.settle()}")
            for address in NEIGHBOUR, STRANGER:
                before = time.monotonic()
                answer = login(host, address, "p3dhuser", password)
                print(f"  a user from {address}: {answer} after "
                      f"{time.monotonic() - before:.2f} s")
                check(answer or address == STRANGER,
                      f"{start.__name__} let a user wait")
            sizes = sorted(map(proportional, servers(host)))
            if sizes:
                print(f"  memory of {len(sizes)} pop3d (PSS): "
                      f"{sum(sizes) / 1024:.1f} MiB, of one "
                      f"{sizes[0]} to {sizes[-1]} KiB, "
                      f"median {statistics.median(sizes):.0f}")
            while list(servers(host)) and \
                    time.monotonic() - began < LOGIN_SECONDS + 30:
                crowd.go_on()
                time.sleep(1)
            print(f"  the last one ended {time.monotonic() - began:.0f} s "
                  "later")
            check(not list(servers(host)), "some stayed")
        check(login(host, NEIGHBOUR, "p3dhuser", password),
              f"{start.__name__} lets nobody in after that")
        if start is openbsd_inetd:
            closed(host, password)


def closed(host, password):
    """inetd's limit is one for all.  It counts from 1 again where it reaches
    it later than a minute after it began."""
    for _ in range(2 * 600):
        with contextlib.suppress(OSError), connect(host, STRANGER):
            pass
    print("  a user after so many more than 600 in a minute:",
          login(host, NEIGHBOUR, "p3dhuser", password))


def ended(sock):
    try:
        return not sock.recv(100)
    except OSError:
        return True


def wrapped():
    """stunnel's part: what a connection costs and how long one may stay."""
    print("\nstunnel")
    with Host() as host:
        host.path("/etc/pop3d").mkdir()
        shutil.copy(ETC / "stunnel-pop3s.conf", host.path("/etc/pop3d"))
        host.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                 "-subj", "/CN=localhost", "-keyout", "/etc/pop3d/key.pem",
                 "-out", "/etc/pop3d/cert.pem")
        host.run("sh", "-c", "cat /etc/pop3d/*.pem >/etc/pop3d/pop3s.pem")
        openbsd_inetd(host)
        began = time.monotonic()
        silent = host.connect(995)
        plain = host.connect(995)
        tls = ssl._create_unverified_context().wrap_socket(plain.sock)
        assert tls.recv(100).startswith(b"+OK")
        sizes = [proportional(process)
                 for process in processes(shutil.which("stunnel"))
                 if os.path.samefile(process / "ns/net",
                                     f"/proc/{host.pid}/ns/net")]
        print(f"  memory (PSS), KiB: {sizes}")
        left = {silent.sock: "silent", tls: "silent after TLS"}
        while left and (ready := select.select(left, [], [], 600)[0]):
            for sock in ready:
                if ended(sock):
                    print(f"  {left.pop(sock)}: ended after "
                          f"{time.monotonic() - began:.0f} s")
        check(not left, "some stayed")
        tls.close()
        silent.close()


def failures(host):
    return [line for line in list(host.lines) if "login failed: " in line]


def banned(lines):
    """How many of the lines fail2ban's filter counts, and for whom."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        shutil.copy(ETC / "fail2ban-filter.conf", folder / "pop3d.conf")
        shutil.copy("/etc/fail2ban/filter.d/common.conf", folder)
        # As syslogd writes them: a host's name for the priority.
        (folder / "log").write_text("".join(
            re.sub(r"^<\d+>(.{15})", r"\1 host", line) + "\n"
            for line in lines))
        found = subprocess.run(
            ["fail2ban-regex", "-o", "ip", folder / "log",
             folder / "pop3d.conf"], cwd=folder, text=True,
            capture_output=True).stdout.split()
    return {address: found.count(address) for address in set(found)}


def guessing(start, tasks):
    """hydra guesses for a minute."""
    print(f"\n{start.__name__}: hydra with {tasks} tasks, {GUESSING} s")
    with serving(start) as host, \
            tempfile.NamedTemporaryFile("w") as passwords:
        password = host.account("p3dhguess")
        for _ in range(100_000):
            print(secrets.token_hex(6), file=passwords)
        passwords.flush()
        began = time.monotonic()
        # It leaves a file where it is.
        hydra = host.start("env", "-C", "/dev/shm", "hydra", "-I", "-l",
                           "p3dhguess", "-P", passwords.name, "-t", tasks,
                           "-s", 110, "127.0.0.1", "pop3")
        wait_for(lambda: len(failures(host)) >= 5)
        fifth = time.monotonic() - began
        with contextlib.suppress(subprocess.TimeoutExpired):
            hydra.wait(GUESSING - fifth)
        seconds = time.monotonic() - began
        answer = login(host, NEIGHBOUR, "p3dhguess", password)
        hydra.terminate()
        hydra.wait()
    lines = failures(host)
    check(banned(lines) == {STRANGER: len(lines)}, "fail2ban counts otherwise")
    print(f"  tries: {len(lines)}, {60 * len(lines) / seconds:.0f} a minute; "
          f"most possible: {tasks * 60 // REFUSAL_SECONDS}")
    print(f"  fail2ban counts: {banned(lines)}; with maxretry = 5 it would "
          f"have banned after {fifth:.1f} s")
    print(f"  the user from {NEIGHBOUR} meanwhile: {answer}")
    check(answer, "guessing kept the user out")


def refusal(host, tries):
    """The seconds and the answers of up to three refusals on a connection."""
    with connect(host, STRANGER) as session:
        assert session.line().startswith(b"+OK")
        for name, password in tries:
            assert session.cmd(f"USER {name}").startswith(b"+OK")
            began = time.monotonic()
            answer = session.cmd(f"PASS {password}")
            yield time.monotonic() - began, answer


def accounts(host):
    """Who may not log in, by kind: (name, password)."""
    host.account("p3dhknown")
    host.account("p3dhexpired", "-e", "2001-01-01")
    host.account("p3dhlocked")
    host.run("usermod", "-L", "p3dhlocked")
    return {"wrong password": "p3dhknown", "unknown user": "p3dhnobody",
            "root": "root", "expired account": "p3dhexpired",
            "locked account": "p3dhlocked"}


def forget_hashes(host):
    """Those of the accounts that this machine has."""
    shadow = host.path("/etc/shadow")
    shadow.write_text(re.sub(r"^([^:]*:)\$[^:]*", r"\1!", shadow.read_text(),
                             flags=re.M))


def set_hash(host, name, seconds):
    """Give the account a password whose hash takes so long."""
    rounds = 100_000
    began = time.process_time()
    ctypes.CDLL("libcrypt.so.1").crypt(
        b"wrong", f"$6$rounds={rounds}$p3dsalt$".encode())
    rounds *= seconds / (time.process_time() - began)
    host.run("chpasswd", "-c", "SHA512", "-s", int(rounds),
             input=f"{name}:{secrets.token_hex(6)}\n")


def timing(parallel, count=TRIES, slow=None):
    """What does the time of a refusal tell?"""
    print(f"\nrefusals, {parallel} at a time, "
          f"{f'a hash takes {slow} s' if slow else 'usual hash'}: seconds")
    with serving(unlimited) as host:
        forget_hashes(host)
        kinds = accounts(host)
        if slow:
            for name in "p3dhknown", "p3dhexpired":
                set_hash(host, name, slow)
        tries = count * list(kinds)
        random.shuffle(tries)
        seconds = {kind: [] for kind in kinds}
        answers = set()
        lock = threading.Lock()

        def client(kind):
            (time_taken, answer), = refusal(host, [(kinds[kind], "wrong")])
            with lock:
                seconds[kind].append(time_taken)
                answers.add(answer)

        with ThreadPoolExecutor(parallel) as threads:
            list(threads.map(client, tries))
    print(f"  {'':16}    n    min     1/4  median     3/4     max"
          "   later than a wrong password")
    for kind, all_of in seconds.items():
        quartiles = statistics.quantiles(all_of)
        later, z = compare(all_of, seconds["wrong password"])
        check(min(all_of) >= REFUSAL_SECONDS, f"{kind}: too early")
        check(abs(z) < TOLD_APART, f"{kind}: the time tells")
        print(f"  {kind:16} {len(all_of):4} {min(all_of):7.4f}",
              *(f"{value:7.4f}" for value in quartiles),
              f"{max(all_of):7.4f}   {later:4.0%} of pairs, z = {z:+.1f}")
    check(len(answers) == 1, f"answers: {answers}")


def compare(ours, others):
    """Mann and Whitney: the share of pairs in which ours is the greater one,
    and by how many standard deviations that differs from a half."""
    n, m = len(ours), len(others)
    share = sum((a > b) + (a == b) / 2 for a in ours for b in others) / (n * m)
    return share, (share - 0.5) / ((n + m + 1) / (12 * n * m)) ** 0.5


def main():
    if os.geteuid() != 0:
        return print("abuse.py: skipped: needs root")
    for start in openbsd_inetd, inetutils_inetd, xinetd, systemd:
        try:
            crowded(start)
        except pytest.skip.Exception as why:
            print(f"  not tried: {why}")
    if shutil.which("hydra"):
        guessing(openbsd_inetd, 16)
        guessing(systemd, 16)
    else:
        print("\nno guessing: needs the package hydra")
    timing(FEW)
    timing(PARALLEL)
    timing(MAX_CONNECTIONS)
    timing(2, SLOW_TRIES, SLOW)
    timing(SLOW_PARALLEL, SLOW_TRIES, SLOW)
    wrapped()
    if bad:
        raise SystemExit("\nabuse: " + "; ".join(bad))


if __name__ == "__main__":
    main()
