"""Who may log in, and what a session may do then: accounts, PAM, spools."""

import base64
import concurrent.futures
import contextlib
import re
import time
import typing

import pytest

from harness import FAILLOCK, needs_root
from host import ETC, Host

pytestmark = needs_root

GROUPS = 300    # more than any fixed array would have


@pytest.fixture(scope="module")
def host():
    with Host() as host:
        yield host


def test_a_name_with_a_slash_leads_to_no_other_folder(host):
    """Even if PAM and the system know somebody of such a name."""
    password = host.account("p3dgslash")
    for name in "passwd", "shadow":
        path = host.path(f"/etc/{name}")
        path.write_text(path.read_text().replace("p3dgslash:",
                                                 "p3dg/slash:", 1))
    host.run("sh", "-ec", "mkdir -m 1777 /var/mail/p3dg")
    host.lines.clear()
    with session(host, "p3dg/slash", password) as (_, answer):
        assert answer.startswith("-ERR [AUTH]")
    host.log("login failed: user=<p3dg/slash> .*reason=no-account")


@pytest.fixture
def spool(host):
    """Give /var/mail another mode and group."""
    def change(mode="2775", group="mail"):
        host.run("chgrp", group, "/var/mail")
        host.run("chmod", mode, "/var/mail")

    yield change
    change()


def under(service):
    """What to run before pop3d, to have it meet another PAM service file."""
    return ("unshare", "-m", "sh", "-ec",
            'mount --bind "$0" /etc/pam.d/pop3d\nexec "$@"', service)


@contextlib.contextmanager
def session(host, name, password, *options, **kw):
    """A session, and the answer to PASS."""
    with host.pop3d("-p", *options, **kw) as pop:
        yield pop, pop.login(name, password).decode()


def delete_first(pop):
    """Delete the first message: the answers to DELE and QUIT."""
    return pop.cmd("DELE 1").decode(), pop.cmd("QUIT").decode()


def status(host, name):
    """What the kernel says of the session of a user."""
    number = host.log(rf"pop3d\[(\d+)\]: login: user=<{name}>")[1]
    text = host.run("cat", f"/proc/{number}/status").stdout
    return {key: value.split() for key, value in re.findall(
        r"^(\w+):(.*)$", text, re.M)}


# ---- who is refused ----

class Case(typing.NamedTuple):
    answer: str                 # how it begins
    change: tuple = ()          # a command before the account's name
    user: str = ""              # another user than the account
    password: str = ""          # another password than the right one
    service: str = ""           # lines in front of etc/'s PAM service


CASES = {
    "wrong password": Case("-ERR [AUTH]", password="wrong"),
    "unknown user": Case("-ERR [AUTH]", user="p3dgnobody"),
    "root": Case("-ERR [AUTH]", user="root"),
    "root, whom an account module refuses": Case(
        "-ERR [AUTH]", user="root", service="account required pam_deny.so"),
    "root, and an account module that is missing": Case(
        "-ERR [AUTH]", user="root", service="account required pam_p3dnone.so"),
    "no password": Case("-ERR [AUTH]", ("passwd", "-d"), password="any"),
    "locked": Case("-ERR [AUTH]", ("passwd", "-l")),
    "account expired": Case("-ERR [SYS/PERM]", ("chage", "-E", "2020-01-01")),
    "password expired": Case("-ERR [SYS/PERM]", ("chage", "-d", "0")),
    "not in the group": Case(
        "-ERR [AUTH]",
        service="auth requisite pam_succeed_if.so quiet user ingroup mail"),
    "module that fails": Case(
        "-ERR [AUTH]", service="auth required pam_deny.so"),
    "account module that fails": Case(
        "-ERR [SYS/PERM]", service="account required pam_deny.so"),
    "module that is missing": Case(
        "-ERR [SYS/TEMP]", service="auth required pam_p3dnone.so"),
    "service that is broken": Case(
        "-ERR [SYS/TEMP]", service="@include p3dnone"),
}


@pytest.fixture(scope="module")
def refusals(host):
    """Each takes two seconds: all are made at once."""
    service = (ETC / "pop3d.pam").read_text()

    def login(number, case):
        began = time.monotonic()
        try:
            with session(host, case.user or accounts[number],
                         case.password or passwords[number],
                         before=under(f"/etc/pop3d.pam.{number}")) as done:
                return done[1], time.monotonic() - began
        except AssertionError as error:     # that of this case alone
            return str(error), time.monotonic() - began

    accounts = [f"p3dgr{number}" for number in range(len(CASES))]
    passwords = [host.account(name) for name in accounts]
    for number, case in enumerate(CASES.values()):
        host.path(f"/etc/pop3d.pam.{number}").write_text(
            f"{case.service}\n{service}")
        if case.change:
            host.run(*case.change, accounts[number])
        if case.user == "root":
            passwords[number] = passwords[0]
            host.run("chpasswd", input=f"root:{passwords[0]}\n")
    with concurrent.futures.ThreadPoolExecutor(len(CASES)) as threads:
        return dict(zip(CASES, threads.map(login, range(len(CASES)),
                                           CASES.values())))


@pytest.mark.parametrize("name", CASES)
def test_refusals(refusals, name):
    answer, seconds = refusals[name]
    assert answer.startswith(CASES[name].answer)
    assert seconds >= 2


def test_what_a_stranger_must_not_learn_has_one_answer(refusals):
    """Not who exists, nor which account has no password or is locked, nor that
    a password is root's."""
    names = {"wrong password", "unknown user", "no password", "locked",
             *(name for name in CASES if name.startswith("root"))}
    assert len({refusals[name][0] for name in names}) == 1


def test_the_log_tells_what_troubles_pam(host):
    """Which a wrong password is not."""
    host.account("p3dgtrouble")
    services = [()]
    for line in "auth required pam_p3dnone.so", "@include p3dnone":
        broken = f"/etc/pop3d.pam.broken{len(services)}"
        host.path(broken).write_text(f"{line}\n")
        services.append(under(broken))
    pids = []
    for before in services:
        host.lines.clear()
        with session(host, "p3dgtrouble", "wrong", before=before):
            pids.append(host.log(
                r"pop3d\[(\d+)\]: login failed: user=<p3dgtrouble>")[1])
            told = [line for line in host.lines
                    if f"pop3d[{pids[-1]}]: PAM: " in line]
            assert len(told) == (before != ())


def test_faillock_counts_our_refusals(host):
    """After two wrong passwords the right one is refused, like a third."""
    password = host.account("p3dgfaillock")
    host.path("/etc/pop3d.pam.faillock").write_text(FAILLOCK)
    before = under("/etc/pop3d.pam.faillock")
    with session(host, "p3dgfaillock", "no", before=before) as (pop, answer):
        assert answer.startswith("-ERR [AUTH]")
        for one in "no", password:
            assert pop.cmd("USER p3dgfaillock").startswith(b"+OK")
            assert pop.cmd(f"PASS {one}").decode() == answer
    host.run("faillock", "--user", "p3dgfaillock", "--reset")
    with session(host, "p3dgfaillock", password, before=before) as (_, answer):
        assert answer.startswith("+OK")


def test_a_member_of_the_group_is_admitted(host):
    """With the line that etc/ proposes."""
    password = host.account("p3dgmember")
    host.run("groupadd", "popusers")
    host.run("usermod", "-aG", "popusers", "p3dgmember")
    service, count = re.subn("^#(auth.*popusers)", r"\1",
                             (ETC / "pop3d.pam").read_text(), flags=re.M)
    assert count == 1
    host.path("/etc/pop3d.pam.group").write_text(service)
    with session(host, "p3dgmember", password,
                 before=under("/etc/pop3d.pam.group")) as (_, answer):
        assert answer.startswith("+OK")


# ---- names ----

def test_the_name_as_people_type_it(host):
    """The whole address, and with capitals; the log shows both."""
    password = host.account("p3dgnames")
    host.deliver("p3dgnames")
    for typed in "p3dgnames@example.org", "P3dgnames", "P3DGNAMES@Example.Org":
        with session(host, typed, password) as (pop, answer):
            assert answer.startswith("+OK 1 ")
            assert pop.cmd("QUIT").startswith(b"+OK")
        for what in "login", "logout":
            host.log(f"{what}: user=<{typed}> account=<p3dgnames> ip=unknown ")
    with session(host, "p3dgnames@example.org", "wrong") as (_, answer):
        assert answer.startswith("-ERR [AUTH]")
    host.log("login failed: user=<p3dgnames@example.org> account=<p3dgnames> "
             "ip=unknown .*reason=credentials")
    host.log("pam_unix.pop3d:auth.: authentication failure; .*user=p3dgnames$")
    with session(host, "p3dgnobody@example.org", "any") as (_, answer):
        assert answer.startswith("-ERR [AUTH]")
    host.log("login failed: user=<p3dgnobody@example.org> ip=unknown ")


@pytest.mark.parametrize("peer", ["192.0.2.9", ""])
def test_pam_is_told_the_clients_address(host, peer):
    """If it is known; so its modules can go by it, and log it."""
    name = f"p3dgpeer{len(peer)}"
    host.account(name)
    with host.pop3d("-p", before=("env", f"TCPREMOTEIP={peer}")) as pop:
        assert pop.login(name, "wrong").startswith(b"-ERR [AUTH]")
    host.log(f"pam_unix.pop3d:auth.: authentication failure; .* rhost={peer} +user={name}$")


def test_a_name_with_control_characters_is_logged_once_and_by_us(host):
    """PAM's modules would log it as it is."""
    name = "-x\nhost pop3d[1]: login failed: user=<y> ip=192.0.2.7"
    with host.pop3d("-p") as pop:
        pop.line()
        assert pop.cmd("AUTH PLAIN") == b"+ "
        message = base64.b64encode(f"\0{name}\0any".encode()).decode()
        assert pop.cmd(message).startswith(b"-ERR [AUTH] ")
        pop.cmd("QUIT")
    host.log(r"login failed: user=<-x\\nhost\\spop3d.*reason=credentials")
    host.log("no login: .*reason=quit")
    assert not any("\n" in line for line in host.lines)


def test_an_account_whose_name_is_an_address(host):
    """As directories have them.  It is meant before the one without "@"."""
    host.account("p3dgbefore")
    password = host.account("p3dgwhole")
    host.deliver("p3dgwhole")
    for name in "passwd", "shadow":
        text = host.path(f"/etc/{name}").read_text()
        host.path(f"/etc/{name}").write_text(
            text.replace("p3dgwhole:", "p3dgbefore@example.org:"))
    host.run("mv", "/var/mail/p3dgwhole", "/var/mail/p3dgbefore@example.org")
    with session(host, "p3dgbefore@example.org", password) as (_, answer):
        assert answer.startswith("+OK 1 ")


# ---- what a session may do ----

def test_many_groups(host):
    """The user's groups, all of them, and none of root's."""
    with host.path("/etc/group").open("a") as groups:
        groups.writelines(f"p3dg{n}:x:{70000 + n}:p3dgmany\n"
                          for n in range(GROUPS))
    password = host.account("p3dgmany")
    own = host.run("id", "-g", "p3dgmany").stdout.strip()
    every = host.run("id", "-G", "p3dgmany").stdout.split()
    assert len(every) == GROUPS + 1
    with session(host, "p3dgmany", password) as (_, answer):
        assert answer.startswith("+OK")
        seen = status(host, "p3dgmany")
    uid = host.run("id", "-u", "p3dgmany").stdout.strip()
    mail = host.run("stat", "-c", "%g", "/var/mail").stdout.strip()
    assert sorted(seen["Groups"]) == sorted(every)
    assert seen["Uid"] == [uid] * 4
    # real, effective, saved, for files
    assert seen["Gid"] == [own, own, mail, own]
    for capabilities in "CapInh", "CapPrm", "CapEff", "CapAmb":
        assert int(seen[capabilities][0], 16) == 0
    assert seen["NoNewPrivs"] == ["1"]


@pytest.mark.parametrize("mode, group", [
    ("2775", "mail"), ("0775", "mail"), ("1777", "root"), ("3777", "mail")])
def test_a_spool_that_can_be_written(host, spool, mode, group):
    name = f"p3dgs{mode}"
    password = host.account(name)
    mailbox = host.deliver(name, 2)
    before = mailbox.stat()
    spool(mode, group)
    with session(host, name, password) as (pop, answer):
        assert answer.startswith("+OK")
        saved = status(host, name)["Gid"][2]
        assert [one[:3] for one in delete_first(pop)] == ["+OK", "+OK"]
    own = host.run("id", "-g", name).stdout.strip()
    mail = host.run("stat", "-c", "%g", "/var/mail").stdout.strip()
    assert saved == (mail if mode in ("2775", "0775") else own)
    after = mailbox.stat()
    assert b"number 2" in mailbox.read_bytes()
    assert b"number 1" not in mailbox.read_bytes()
    for what in "st_mode", "st_uid", "st_gid", "st_ino":
        assert getattr(before, what) == getattr(after, what)
    left = sorted(path.name for path in mailbox.parent.glob(f"*{name}*"))
    assert left == [f".{name}.pop3d", name]
    side = (mailbox.parent / left[0]).stat()
    assert (side.st_mode & 0o7777, side.st_uid) == (0o600, before.st_uid)


def test_a_spool_that_cannot_be_written(host, spool):
    """Mail can be read and not deleted."""
    password = host.account("p3dgs0755")
    mailbox = host.deliver("p3dgs0755", 2)
    before = mailbox.read_bytes()
    spool("0755", "root")
    with session(host, "p3dgs0755", password) as (pop, answer):
        assert answer.startswith("+OK")
        assert pop.multi("RETR 1")[1][-1] == b"Hello."
        dele, bye = delete_first(pop)
    assert dele.startswith("-ERR [SYS/TEMP]")
    assert bye.startswith("+OK")
    assert mailbox.read_bytes() == before
    assert [*mailbox.parent.glob("*p3dgs0755*")] == [mailbox]


def test_a_mailbox_in_the_home_directory(host):
    password = host.account("p3dghome")
    mailbox = host.deliver("p3dghome", 2, "/home/p3dghome/mbox")
    with session(host, "p3dghome", password, "-m", "%h/mbox") as (pop, answer):
        assert answer.startswith("+OK 2 ")
        own = host.run("id", "-g", "p3dghome").stdout.strip()
        assert status(host, "p3dghome")["Gid"] == [own] * 4
        assert [one[:3] for one in delete_first(pop)] == ["+OK", "+OK"]
    assert b"number 2" in mailbox.read_bytes()
    assert b"number 1" not in mailbox.read_bytes()


@pytest.mark.parametrize("name, trick, path", [
    ("p3dgchgrp", "chgrp mail . && chmod 2775 .", "%h/mbox"),
    ("p3dglink", "ln -s /var/mail Mail", "%h/Mail/%u")])
def test_the_user_cannot_choose_the_group(host, name, trick, path):
    """That of a directory that is theirs, or that they put in the way."""
    password = host.account(name)
    host.run("sh", "-ec", f"cd /home/{name} && {trick}")
    with session(host, name, password, "-m", path) as (_, answer):
        assert answer.startswith("+OK 0 ")
        own = host.run("id", "-g", name).stdout.strip()
        assert status(host, name)["Gid"] == [own] * 4


def test_no_home_directory(host):
    """Does not matter unless the mailbox is there."""
    password = host.account("p3dghomeless")
    host.deliver("p3dghomeless")
    host.run("rm", "-r", "/home/p3dghomeless")
    with session(host, "p3dghomeless", password) as (_, answer):
        assert answer.startswith("+OK 1 ")
    with session(host, "p3dghomeless", password, "-m",
                 "%h/mbox") as (pop, answer):
        assert answer.startswith("-ERR [SYS/PERM]")
        assert pop.rest() == b""


def test_no_shell(host):
    """Mail is not a shell: nologin is for accounts that only have mail."""
    password = host.account("p3dgnologin", "-s", "/usr/sbin/nologin")
    host.deliver("p3dgnologin")
    with session(host, "p3dgnologin", password) as (_, answer):
        assert answer.startswith("+OK 1 ")


@pytest.mark.parametrize("name", ["P3dgUpper", "p3dg.dot-dash_", "p3dgjürgen",
                                  "p3dgこんにちは"])
def test_unusual_user_names(host, name):
    password = host.account(name, "--badname")
    host.deliver(name, 2)
    with session(host, name, password) as (pop, answer):
        assert answer.startswith("+OK 2 ")
        assert [one[:3] for one in delete_first(pop)] == ["+OK", "+OK"]
    assert b"number 1" not in host.path(f"/var/mail/{name}").read_bytes()


# ---- not as root ----

def test_an_ordinary_user_is_served_by_a_pop3d_of_their_own(host):
    password = host.account("p3dgown")
    mailbox = host.deliver("p3dgown", 2, "/home/p3dgown/mbox")
    with session(host, "p3dgown", password, "-m", "/home/p3dgown/mbox",
                 before=("runuser", "-u", "p3dgown", "--")) as (pop, answer):
        assert answer.startswith("+OK 2 ")
        assert [one[:3] for one in delete_first(pop)] == ["+OK", "+OK"]
    assert b"number 1" not in mailbox.read_bytes()


def test_an_ordinary_users_pop3d_serves_nobody_else(host):
    host.account("p3dgserver")
    password = host.account("p3dgother")
    host.deliver("p3dgother")
    host.path("/etc/pam.d/permit").write_text(
        "auth required pam_permit.so\naccount required pam_permit.so\n")
    as_user = ("runuser", "-u", "p3dgserver", "--")
    for before in as_user, (*under("/etc/pam.d/permit"), *as_user):
        with session(host, "p3dgother", password, before=before) as (_, said):
            assert said.startswith("-ERR [AUTH]")
