#!/usr/bin/python3
"""The Debian package, from its build to its purge, in systems that are booted.

usage: package.py [release ...]

As root, with debootstrap and systemd-container.  For each release (this host's
own if none is named) one bare system builds the package as an ordinary user
and lets lintian read it; another one, with systemd for its init and no network,
gets it installed, and a real account fetches mail.  The bare systems are kept
in /var/cache/pop3d-ci, as tar files.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

from harness import FAILLOCK, Session, mail, wait_for     # noqa: E402

CACHE = pathlib.Path("/var/cache/pop3d-ci")
BUILD = r"""
export DEBIAN_FRONTEND=noninteractive
sudo -E apt-get -q update
sudo -E apt-get -q install -y --no-install-recommends build-essential \
    debhelper libbsd-dev libpam0g-dev lintian
make deb
lintian --fail-on error,warning build-deb/*.changes
mkdir ../debs
mv build-deb/pop3d_*.deb ../debs/old.deb
# The next version is a real one: its number and a unit's text differ.
sed -i 's/\(POP3D_VERSION.*"\)\(.*\)"/\1\2.1"/' pop3d.h
sed -i 's/^Description=POP3 server socket/& again/' etc/pop3d.socket
make deb
mv build-deb/pop3d_*.deb ../debs/new.deb
"""
PREPARE = """
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q install -y --no-install-recommends systemd-sysv openbsd-inetd \
    netbase curl strace stunnel4 openssl
systemctl disable stunnel4 || true
"""
# What package tools, accounts, a running system and the administrator write.
OTHERS = re.compile(
    r"(proc|sys|dev|run|tmp|root|home|var/(tmp|log|cache)|var/lib/(apt|dpkg)|"
    r"var/lib/systemd/(random-seed|timesync|timers|coredump|catalog)|"
    r"var/mail)(/|$)|etc/(ld\.so\.cache|\.pwd\.lock|.*-|pop3d/.*)$")


def fresh(release, folder, command, *options):
    """Run a command line in a bare system of its own, made if need be."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.log", "wb") as log:
        done = subprocess.run(
            ["sh", HERE / "fresh.sh", *options, "-r", release,
             "-t", CACHE / f"{release}.tar", folder, "set -e\n" + command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    assert done.returncode == 0, pathlib.Path(f"{folder}.log").read_text()


class System:
    """A booted system, in namespaces; its network is its own loopback."""

    def __init__(self, root):
        self.root = pathlib.Path(root)

    def __enter__(self):
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit",
             "--private-network", "--resolv-conf=off", "--link-journal=no",
             # Debian 12's allows no Landlock
             "--system-call-filter=landlock_create_ruleset "
             "landlock_add_rule landlock_restrict_self",
             "--boot", "--directory", self.root],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        try:
            wait_for(self.is_running)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.nspawn.terminate()     # an orderly shutdown
        self.nspawn.wait()

    def is_running(self):
        assert self.nspawn.poll() is None, "systemd-nspawn gave up"
        pid = self.nspawn.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
        for child in children.split():
            self.init = child
            state = self.ask("systemctl is-system-running")
            assert state != "degraded", self.ask("systemctl --failed")
            if state == "running":
                return True
        return False

    def inside(self, network=False):
        """The words that go before a command; with the host's network or not."""
        return ["nsenter", "--target", self.init, "--mount", "--uts", "--ipc",
                "--pid", *([] if network else ["--net"]),
                "env", "-i", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
                "DEBIAN_FRONTEND=noninteractive",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"]

    def ask(self, command, **kw):
        """What a command line says, whatever its status is."""
        return subprocess.run(
            [*self.inside(**kw), "sh", "-c", command], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT).stdout.strip()

    def type(self, command, **kw):
        """An administrator's command line: it succeeds."""
        print(f"# {command}", flush=True)
        done = subprocess.run(
            [*self.inside(**kw), "sh", "-ec", command], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def apt(self, words):
        """Packages come from the network that is not the one served."""
        return self.type(f"apt-get -q -y --no-install-recommends {words}",
                         network=True)

    def session(self):
        """A client's end of a connection to port 110."""
        return Session.run(*self.inside(), "bash", "-c",
                           "exec 3<>/dev/tcp/127.0.0.1/110; "
                           "cat <&3 & cat >&3; kill $!")

    def listens(self, port):
        return f":{port:04X} " in self.ask(
            "cat /proc/net/tcp /proc/net/tcp6 | grep ':0000 0A '")

    def files(self):
        """Each file that a package could have left: its kind and content."""
        found = {}
        for folder, names, others in os.walk(self.root):
            for name in names + others:
                path = pathlib.Path(folder, name)
                short = str(path.relative_to(self.root))
                if OTHERS.match(short):
                    continue
                mode = path.lstat().st_mode
                found[short] = (
                    stat.S_IFMT(mode),
                    os.readlink(path) if stat.S_ISLNK(mode) else
                    hashlib.sha256(path.read_bytes()).hexdigest()
                    if stat.S_ISREG(mode) else "")
            names[:] = [name for name in names if not OTHERS.match(str(
                pathlib.Path(folder, name).relative_to(self.root)))]
        return found


class Account:
    """A real account with three messages."""

    def __init__(self, system, name):
        self.system, self.name = system, name
        self.password = secrets.token_hex(8)
        self.mailbox = system.root / "var/mail" / name
        self.side = self.mailbox.with_name(f".{name}.pop3d")
        system.type(f"useradd -m {name}")
        system.ask(f"echo {name}:{self.password} | chpasswd")
        self.mailbox.write_bytes(b"".join(map(mail, (1, 2, 3))))
        system.type(f"chown {name}:mail /var/mail/{name}; "
                    f"chmod 660 /var/mail/{name}")

    def fetch(self, number, url, *options):
        """A message, as curl gets it."""
        done = subprocess.run(
            [*self.system.inside(), "curl", "-sS", "-m", "60", *options,
             "-u", f"{self.name}:{self.password}", f"{url}/{number}"],
            stdout=subprocess.PIPE, check=True)
        print(f"# curl {' '.join(options)} {url}/{number}", flush=True)
        return done.stdout


def sent(number):
    """Message number as a client gets it: no From_ line, no separator."""
    return mail(number).split(b"\n", 1)[1][:-1].replace(b"\n", b"\r\n")


def readme_debian(system, intro):
    """Type the lines that README.Debian shows behind some words."""
    text = (system.root / "usr/share/doc/pop3d/README.Debian").read_text()
    for line in re.search(rf"{intro}.*?\n\n((?:\t.+\n)+)", text)[1].split("\n"):
        if line:
            system.type(line.strip(), network=True)


def is_not_enabled(system):
    for unit in "pop3d.socket", "pop3s.socket":
        assert system.ask(f"systemctl is-enabled {unit}") == "disabled"
        assert system.ask(f"systemctl is-active {unit}") == "inactive"
    assert not system.listens(110) and not system.listens(995)


def conflicts_where_paths_are_the_same(system):
    ours = {path for path in system.ask("dpkg -L pop3d").splitlines()
            if (system.root / path[1:]).is_file()}
    status = system.ask("dpkg -s pop3d")
    conflicts = re.search("^Conflicts: (.*)", status, re.M)[1].split(", ")
    others = set(re.findall(r"^(\S+) \S+ \(= ", system.ask(
        "apt-cache showpkg pop3-server"), re.M))
    assert "mailutils-pop3d" in others
    for other in sorted(others):
        system.type(f"cd /tmp && apt-get -q download {other}", network=True)
        listed = system.ask(f"dpkg-deb --fsys-tarfile /tmp/{other}_*.deb | "
                            "tar -t | sed 's/^[.]//'").splitlines()
        same = ours & set(listed)
        print(f"{other}: {' '.join(sorted(same)) or 'nothing in common'}")
        assert bool(same) == (other in conflicts), other


def serves_by_inetd(system, user):
    readme_debian(system, "POP3 with TLS, port 995")
    inetd_conf = system.root / "etc/inetd.conf"
    before = inetd_conf.read_text()
    readme_debian(system, "or by inetd:")
    wait_for(lambda: system.listens(995))
    assert user.fetch(1, "pop3s://127.0.0.1", "-k") == sent(1)
    # In clear text as well: the example that is a comment.
    system.type("sed -n 's,^#\\(pop3\t.*/usr/sbin/pop3d\tpop3d\\)$,\\1,p' "
                "/usr/share/doc/pop3d/examples/inetd.conf >>/etc/inetd.conf; "
                "systemctl restart inetd")
    wait_for(lambda: system.listens(110))
    assert user.fetch(2, "pop3://127.0.0.1") == sent(2)
    inetd_conf.write_text(before)
    system.type("systemctl restart inetd")


def serves_by_socket_unit(system, user):
    readme_debian(system, "Started by systemd:")
    assert user.fetch(1, "pop3s://127.0.0.1", "-k") == sent(1)
    readme_debian(system, "Port 110 in clear text")
    assert user.fetch(1, "pop3://127.0.0.1") == sent(1)
    with system.session() as session:
        assert session.login(user.name, user.password).startswith(b"+OK")
        assert session.cmd("DELE 1").startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert user.mailbox.read_bytes() == mail(2) + mail(3)
    log = system.ask("journalctl -t pop3d --no-pager")
    assert "logout: user=<p3dalice>" in log and "not confined" not in log


def faillock_counts_in_the_unit(system, user):
    """Where nothing but the unit makes its folder."""
    rules = system.root / "etc/pam.d/pop3d"
    before = rules.read_text()
    rules.write_text(FAILLOCK)
    system.type("rm -rf /run/faillock")
    for word, begins in ((user.password, b"+OK"), ("no", b"-ERR [AUTH]"),
                         ("no", b"-ERR [AUTH]"),
                         (user.password, b"-ERR [AUTH]")):
        with system.session() as session:
            answer = session.login(user.name, word)
        assert answer.startswith(begins), answer
    system.type("rm -rf /run/faillock")
    rules.write_text(before)


def upgrade_keeps_what_is_there(system, user):
    old = system.ask("pop3d -V").split()[1]
    rules = system.root / "etc/pam.d/pop3d"
    rules.write_text(rules.read_text() + "# the administrator's\n")
    with system.session() as session:
        assert session.login(user.name, user.password).startswith(b"+OK")
        system.apt("install /root/new.deb")
        assert system.ask("pop3d -V") == f"pop3d {old}.1"
        assert session.multi("RETR 1")[0].startswith(b"+OK"), "begun before"
        assert session.cmd("QUIT").startswith(b"+OK")
    for unit in "pop3d.socket", "pop3s.socket":
        assert system.ask(f"systemctl is-enabled {unit}") == "enabled"
        assert system.ask(f"systemctl is-active {unit}") == "active"
    assert system.ask("systemctl show -P Description pop3d.socket") == \
        "POP3 server socket again"
    assert user.fetch(1, "pop3://127.0.0.1") == sent(2)
    assert rules.read_text().endswith("# the administrator's\n")


def killed_in_update(system, user):
    """Message 1 is deleted, and the mailbox is not cut."""
    with Session.run(*system.inside(), "strace", "-o", "/dev/null",
                     "-P", user.name, "-P", f"/var/mail/{user.name}",
                     "-e", "inject=ftruncate:error=EIO:signal=KILL",
                     "/usr/sbin/pop3d", "-s") as session:
        assert session.login(user.name, user.password).startswith(b"+OK")
        assert session.cmd("DELE 1").startswith(b"+OK")
        session.send(b"QUIT\r\n")
        assert session.rest() == b""
    assert user.mailbox.stat().st_size == 3 * len(mail(1))


def remove_and_purge(system, alice, bob, before):
    half = bob.mailbox.read_bytes()
    system.apt("remove pop3d")
    assert not system.listens(110) and not system.listens(995)
    assert not (system.root / "usr/sbin/pop3d").exists()
    assert (system.root / "etc/pam.d/pop3d").exists()
    assert alice.side.exists()
    print(system.apt("purge pop3d"))
    assert alice.mailbox.read_bytes() == mail(2) + mail(3)
    assert bob.mailbox.read_bytes() == half
    assert not alice.side.exists()
    assert bob.side.exists(), "a deletion is not finished in it"
    # A pop3d that comes later finishes it; so now it can go.
    system.apt("install /root/new.deb")
    is_not_enabled(system)
    system.type("systemctl start pop3d.socket")
    assert bob.fetch(1, "pop3://127.0.0.1") == sent(2)
    assert bob.mailbox.read_bytes() == mail(2) + mail(3)
    system.apt("purge --autoremove pop3d")
    left = sorted(path.name for path in (system.root / "var/mail").iterdir())
    assert left == [alice.name, bob.name], left
    after = system.files()
    assert after == before, sorted(
        name for name in before.keys() | after.keys()
        if before.get(name) != after.get(name))


def life(system):
    """Of a package, from its installation on."""
    alice, bob = Account(system, "p3dalice"), Account(system, "p3dbob")
    system.type("mkdir /etc/pop3d")     # the administrator's
    before = system.files()
    system.apt("install /root/old.deb")
    is_not_enabled(system)
    conflicts_where_paths_are_the_same(system)
    serves_by_inetd(system, alice)
    serves_by_socket_unit(system, alice)
    faillock_counts_in_the_unit(system, alice)
    upgrade_keeps_what_is_there(system, alice)
    killed_in_update(system, bob)
    remove_and_purge(system, alice, bob, before)


def check(release, folder):
    fresh(release, f"{folder}/build", BUILD, "-u")
    print(pathlib.Path(f"{folder}/build.log").read_text()[-200:])
    fresh(release, f"{folder}/system", PREPARE)
    for name in "old.deb", "new.deb":
        shutil.copy(f"{folder}/build/home/user/debs/{name}",
                    f"{folder}/system/root")
    with System(f"{folder}/system") as system:
        life(system)


def main():
    releases = sys.argv[1:] or [re.search("^VERSION_CODENAME=(.*)", (
        pathlib.Path("/etc/os-release").read_text()), re.M)[1]]
    for release in releases:
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix="pop3d-package-", dir="/var/tmp")
            stack.callback(subprocess.run, [
                "rm", "-rf", "--one-file-system", folder])
            os.chmod(folder, 0o755)
            check(release, folder)
        print(f"{release}: the package is as it should be "
              f"({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
