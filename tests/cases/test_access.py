"""What is no mailbox of the user's, options, and the log."""

import os
import pty
import re
import socket
import subprocess
import tty

import pytest

from harness import (HASTY, LOGIN, PATIENCE, STUB, TESTS, Maildrop, Session, mail,
                     needs, needs_root, superserver, talk, wait_for, waits_in)

USAGE = "usage: "
PERM = b"-ERR [SYS/PERM] "
PATH_MAX = 4096
MOST = 1000     # messages of a mailbox, where HASTY is concerned


# ---- what is no mailbox of the user's ----

def directory(path):
    path.mkdir()


def fifo(path):
    os.mkfifo(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def symbolic_link(path):
    path.with_name("other").write_bytes(mail(1))
    path.symlink_to("other")


def dangling_link(path):
    path.symlink_to("nothing")


def hard_link(path):
    path.write_bytes(mail(1))
    os.link(path, path.with_name("other"))


def missing_folder(path):
    path.parent.rmdir()


@pytest.mark.parametrize("make, reason", [
    (directory, "is not a regular file"),
    (fifo, "is not a regular file"),
    (unix_socket, "is not a regular file"),
    (symbolic_link, "is a symbolic link"),
    (dangling_link, "is a symbolic link"),
    (hard_link, "has 2 links"),
    (missing_folder, "cannot open"),
], ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_mailbox(make, reason, tmp_path):
    drop = Maildrop(tmp_path / "folder" / "alice")
    drop.path.parent.mkdir()
    make(drop.path)
    with drop.session() as session:
        assert session.login().startswith(PERM)
        assert session.rest() == b""
        assert session.wait() == 0
        assert reason in session.log()
        assert "user=<alice>" in session.log()


@needs_root
def test_somebody_elses_mailbox(ordinary):
    os.chown(ordinary.path, 12346, 12345)
    ordinary.path.chmod(0o666)
    with ordinary.session() as session:
        assert session.login().startswith(PERM)
        assert "belongs to uid 12346" in session.log()


def test_more_messages_than_there_may_be(tmp_path):
    """A bound of the memory that a mailbox can cost."""
    (tmp_path / "alice").write_bytes(MOST * mail(1))
    with Session.run(HASTY, "-p", "-m", f"{tmp_path}/%u") as session:
        assert session.login().startswith(b"+OK %d " % MOST)
    with (tmp_path / "alice").open("ab") as mailbox:
        mailbox.write(mail(1))
    output, _, log = talk(HASTY, "-p", "-d", "-m", tmp_path / "%u", data=LOGIN)
    assert b"\r\n-ERR [SYS/PERM] mailbox has too many messages\r\n" in output
    assert "maildrop failed: user=<alice> " in log
    assert re.search(r"at=begin error=.*\d.*too many messages", log), log


def test_a_million_messages_are_served_in_the_memory_that_the_unit_allows(tmp_path):
    unit = (TESTS.parent / "etc/pop3d@.service").read_text()
    allowed = int(re.search(r"^MemoryMax=(\d+)M$", unit, re.M)[1])
    drop = Maildrop(tmp_path / "alice", 10**6 * b"From b@c Thu Nov  5 10:01:00 2026\n\n.\n\n")
    with drop.session() as session:
        assert session.login().startswith(b"+OK 1000000 messages ")
        assert session.cmd("STAT") == b"+OK 1000000 5000000"
        with open(f"/proc/{session.process.pid}/status") as status:
            peak = int(re.search(r"^VmHWM:\s+(\d+) kB$", status.read(), re.M)[1])
    assert peak < allowed << 10


def test_garbage_is_logged_with_its_offset(tmp_path):
    drop = Maildrop(tmp_path / "alice", b"\n\nDear diary\n")
    with drop.session() as session:
        assert session.login() == b"-ERR [SYS/PERM] not a mailbox"
        assert "offset 2" in session.log()


def link_to_victim(side, victim):
    side.symlink_to(victim)


def second_name(side, victim):
    os.link(victim, side)


def a_directory(side, _):
    side.mkdir()


@pytest.mark.parametrize("make", [link_to_victim, second_name, a_directory])
def test_a_side_file_that_is_none(drop, make):
    """Nothing is written through what somebody put in its place."""
    before = drop.state()
    victim = drop.path.with_name("victim")
    victim.write_bytes(b"precious")
    make(drop.side, victim)
    talk(STUB, "-p", "-m", drop.path, data=LOGIN + b"DELE 1\r\nQUIT\r\n")
    assert victim.read_bytes() == b"precious"
    assert drop.state() == before


# ---- where mail can be read and not deleted ----

def read_only_folder(drop):
    drop.path.parent.chmod(0o555)


def read_only_mailbox(drop):
    drop.path.chmod(0o400)


@pytest.mark.parametrize("make", [read_only_folder, read_only_mailbox])
def test_read_only(ordinary, make):
    make(ordinary)
    before = ordinary.state()
    with ordinary.session() as session:
        assert session.login().startswith(b"+OK")
        assert session.multi("RETR 1")[1][1] == b"Subject: number 1"
        assert session.cmd("DELE 1").startswith(b"-ERR [SYS/TEMP] ")
        assert session.cmd("STAT").startswith(b"+OK 3 ")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert ordinary.state() == before


def test_an_ordinary_user_deletes(ordinary):
    with ordinary.session() as session:
        session.login()
        session.cmd("DELE 2")
        assert session.cmd("QUIT").startswith(b"+OK")
        session.wait()
        uid = int(os.environ.get("POP3D_STUB_UID", os.geteuid()))
        assert ordinary.side.stat().st_uid == uid
    assert ordinary.content == mail(1) + mail(3)


# ---- options ----

@pytest.mark.parametrize("options", [
    ["-x"], ["-m"], ["-t"], ["word"], ["-p", "word"], ["-m", "relative"],
    ["-m", ""], ["-t", "1"], ["-t", "x"], ["-t", "2s"], ["-t", ""],
    ["-t", "-5"], ["-t", "99999999999999999999"], ["--help"]], ids=" ".join)
def test_bad_options(options):
    output, status, log = talk(STUB, *options)
    assert (output, status) == (b"", 64)
    assert USAGE in log


def test_the_least_autologout_is_an_option():
    output, status, log = talk(HASTY, "-t", "4", data=b"QUIT\r\n")
    assert output.count(b"+OK") == 2
    assert (status, log) == (0, "")


def test_version():
    output, status, _ = talk(STUB, "-V")
    assert output.startswith(b"pop3d 1.") and output.count(b"\n") == 1
    assert status == 0


@pytest.mark.parametrize("option, path", [
    ("{}/%u", "alice"), ("%h/mbox", "mbox"), ("{}/100%%", "100%"),
    ("{}/%u-%u", "alice-alice"), ("{}/" + 242 * "n", 242 * "n")])
def test_where_the_maildrop_is(option, path, tmp_path, monkeypatch):
    (tmp_path / path).write_bytes(mail(1))
    monkeypatch.setenv("HOME", str(tmp_path))
    with Session.run(STUB, "-p", "-m", option.format(tmp_path)) as session:
        session.login()
        assert session.cmd("STAT").startswith(b"+OK 1 ")


@pytest.mark.parametrize("option", ["{}/%x", "{}/alice%", "{}/",
                                    "{}/" + 243 * "n", "%u", "%h/alice"])
def test_a_path_that_makes_no_sense(option, tmp_path, monkeypatch):
    """Relative it could be in whichever folder the superserver stands."""
    (tmp_path / "alice").write_bytes(mail(1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", ".")
    with Session.run(STUB, "-p", "-d", "-m", option.format(tmp_path)) as session:
        assert session.login().startswith(PERM)
        assert re.search("at=(path|open) error=.*no path", session.log())


@pytest.mark.parametrize("octets, answer", [(PATH_MAX - 1, b"+OK 1 "), (PATH_MAX, PERM)])
def test_a_path_that_is_too_long_is_not_cut(octets, answer, tmp_path):
    """What is left of it would be another mailbox."""
    (tmp_path / "alice").write_bytes(mail(1))
    path = f"{tmp_path}/{'/' * PATH_MAX}"[:PATH_MAX - 1 - len("alice")] + "alice"
    with Session.run(STUB, "-p", "-m", path + (octets - len(path)) * "s") as session:
        assert session.login().startswith(answer)


@pytest.mark.parametrize("user", ["../alice", "..", ".", ".alice"])
def test_a_name_leads_to_no_other_folder(user, tmp_path, monkeypatch):
    """Even if PAM and the system know somebody of such a name."""
    monkeypatch.setenv("POP3D_STUB_USER", user)
    (tmp_path / "alice").write_bytes(mail(1))
    (tmp_path / "mail").mkdir()
    with Session.run(STUB, "-p", "-m", f"{tmp_path}/mail/%u") as session:
        assert session.login(user=user).startswith(PERM)


# ---- the log ----

def lines(log):
    """Log lines without "pop3d[1234]: "."""
    return [line.split(": ", 1)[1] for line in log.splitlines()]


def test_the_log_of_a_session(drop):
    with drop.session() as session:
        session.login()
        session.multi("RETR 1")
        session.multi("TOP 2 0")
        session.cmd("DELE 1")
        session.cmd("QUIT")
        session.wait()
        login, logout = lines(session.log())
    octets = sum(len(message.partition(b"\n")[2]) - 1
                 + message.partition(b"\n")[2].count(b"\n") - 1
                 for message in map(mail, (1, 2, 3)))
    assert login == ("login: user=<alice> ip=unknown method=PASS tls=no "
                     f"messages=3 octets={octets}")
    one, top = octets // 3, octets // 3 - len("Hello.\r\n")
    start, rest = logout.split(" seconds=")
    assert start == (f"logout: user=<alice> ip=unknown retr=1/{one} "
                     f"top=1/{top} dele=1 left=2")
    assert rest.split(" ", 1)[1] == "reason=quit"


def test_the_log_counts_the_line_end_that_a_last_line_lacks(drop):
    """As LIST and RETR do."""
    drop.path.write_bytes(mail(1)[:-2])
    octets = len(mail(1)[:-2].partition(b"\n")[2].replace(b"\n", b"\r\n")) + 2
    with drop.session() as session:
        session.login()
        assert session.cmd("LIST 1") == b"+OK 1 %d" % octets
        session.multi("RETR 1")
        session.multi("TOP 1 9")
        session.cmd("QUIT")
        session.wait()
        assert f" retr=1/{octets} top=1/{octets} " in session.log()


def test_the_log_of_a_refusal():
    log = talk(STUB, "-d", "-s", data=b"USER bob\r\nPASS hush\r\nQUIT\r\n")[2]
    assert lines(log)[0] == ("login failed: user=<bob> ip=unknown "
                             "method=PASS tls=yes reason=credentials")
    assert "hush" not in log


def test_the_log_of_a_password_in_clear_text():
    """It is not tried, and counts as a refused login."""
    data = b"USER alice\r\nPASS secret\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"
    output, _, log = talk(STUB, "-d", data=data + b"AUTH PLAIN\r\nQUIT\r\n")
    assert output.count(b"-ERR passwords are refused in clear text") == 4
    assert lines(log)[:2] == [
        "login failed: user=<alice> ip=unknown method=PASS tls=no "
        "reason=clear-text",
        "login failed: user=<> ip=unknown method=PLAIN tls=no "
        "reason=clear-text"]
    assert "login failed" not in lines(log)[2]


def test_the_log_of_an_empty_password():
    log = talk(STUB, "-d", "-p", data=b"USER alice\r\nPASS\r\nQUIT\r\n")[2]
    assert lines(log)[0] == ("login failed: user=<alice> ip=unknown "
                             "method=PASS tls=no reason=no-password")


def test_a_refusal_is_in_the_log_before_its_answer():
    """So nobody tries passwords unseen who does not wait, and it can be
    ended meanwhile."""
    with Session.run(HASTY, "-d", "-p") as session:
        session.line()
        session.send(b"USER bob\r\nPASS hush\r\n")
        wait_for(lambda: "login failed: user=<bob> " in session.log()
                 and waits_in("poll", session))
        session.process.terminate()
        assert session.wait() == 0
        assert "reason=signal" in session.log()


@needs("strace")
def test_a_refusal_waits_for_two_seconds_at_most(tmp_path):
    """How long it takes besides is the machine's."""
    with Session.run("strace", "-o", tmp_path / "trace", "-e", "trace=ppoll", HASTY, "-p") as session:
        assert session.login(user="bob").startswith(b"-ERR [AUTH]")
    waited, = re.findall(r"ppoll\(\[\{fd=-1\}, .* \{tv_sec=(\d+), ", (tmp_path / "trace").read_text())
    assert int(waited) < 2


@pytest.mark.parametrize("variable", ["TCPREMOTEIP", "REMOTE_HOST",
                                      "REMOTE_ADDR"])
@pytest.mark.parametrize("address, logged", [
    ("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7"),
    ("::ffff:192.0.2.7", "192.0.2.7"), ("example.org", "unknown"),
    ("::ffff:0:192.0.2.7", "::ffff:0:192.0.2.7"), ("1:2:3::192.0.2.7", "1:2:3::192.0.2.7"),
    ("fe80::1%eth0", "fe80::1"), ("fe80::1%a-long-name-of-a-zone", "fe80::1"),
    ("", "unknown"), (99 * "1", "unknown"), ("%eth0", "unknown"), ("localhost", "unknown"),
    ("192.0.2.7 user=<root>", "unknown")])
def test_a_superserver_tells_the_address(variable, address, logged):
    log = talk(STUB, "-d", "-p", env={variable: address},
               data=b"USER bob\r\nPASS hush\r\nQUIT\r\n")[2]
    assert f"user=<bob> ip={logged} method=PASS" in log


@pytest.mark.parametrize("variable", ["TCPREMOTEIP", "REMOTE_HOST",
                                      "REMOTE_ADDR"])
@pytest.mark.parametrize("value", ["example.org", "localhost", "", "127.1",
                                   "fe80::1%lo"])
def test_what_is_no_address_is_not_this_host(variable, value):
    """Behind a wrapper on this host that speaks for somebody."""
    with superserver("systemd", "env", f"{variable}={value}", STUB) as port, \
            Session.connect(port) as session:
        session.line()
        assert session.cmd("USER alice").startswith(b"-ERR")


@pytest.mark.parametrize("address, taken", [
    ("127.0.0.1", True), ("::1", True), ("192.0.2.7", False),
    ("1270::1", False), ("::1:1", False)])
def test_clear_text_from_loopback_only(address, taken):
    output = talk(STUB, env={"TCPREMOTEIP": address},
                  data=b"USER alice\r\nQUIT\r\n")[0]
    assert output.splitlines()[1].startswith(b"+OK" if taken else b"-ERR")


def test_the_title_of_the_process_has_the_address():
    """From the start: ps(1) shows who keeps it."""
    with Session.run(STUB, env={"TCPREMOTEIP": "192.0.2.7"}) as session:
        session.line()
        with open(f"/proc/{session.process.pid}/cmdline") as title:
            assert "192.0.2.7" in title.read()


def test_clear_text_from_a_terminal():
    """Who is there is on this host, or has come by ssh(1)."""
    ours, its = pty.openpty()
    tty.setraw(its)
    with subprocess.Popen([STUB], stdin=its, stdout=its) as process:
        os.close(its)
        os.write(ours, b"USER alice\r\n")
        answers = b""
        while answers.count(b"\n") < 2:
            answers += os.read(ours, 1000)
        os.write(ours, b"QUIT\r\n")
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert answers.splitlines()[1] == b"+OK password?"


def test_a_strangers_text_in_the_log():
    """Control characters and spaces are written out, 64 octets at most."""
    data = b"USER \x1b[31m\r\nPASS x\r\nUSER %s\r\nPASS x\r\n" % (300 * b"y")
    data += b"AUTH PLAIN AGEKbG9naW46IHVzZXI9PGI+AHg=\r\n"  # a LF login: ...
    log = talk(STUB, "-d", "-p", data=data)[2]
    failed = lines(log)[:3]
    assert all(line.startswith("login failed: user=<") for line in failed)
    assert "\x1b" not in log and r"user=<\^[[31m>" in failed[0]
    assert f"user=<{64 * 'y'}>" in failed[1]
    assert r"user=<a\nlogin:\suser=" in failed[2]


def test_the_log_of_a_maildrop_that_cannot_be_had(tmp_path):
    Maildrop(tmp_path / "alice", b"Dear diary\n")
    log = talk(STUB, "-p", "-d", "-m", tmp_path / "%u", data=LOGIN)[2]
    assert (f"maildrop failed: user=<alice> ip=unknown "
            f"mailbox=<{str(tmp_path)[:20]}") in log
