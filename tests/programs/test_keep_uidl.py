"""etc/keep-uidl: who changes over from dovecot or UW ipop3d keeps the ids."""

import fcntl
import os
import re
import shutil
import subprocess

import pytest

from harness import Maildrop, mail, needs, needs_root
from host import ETC, Host

KEEP_UIDL = ETC / "keep-uidl"
DOVECOT = {
    "2.3": """\
mail_location = mbox:/home/p3dalice/mail:INBOX=/var/mail/%u:INDEX=/home/p3dalice/index
mbox_write_locks = fcntl
""",
    "2.4": """\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
mail_driver = mbox
mail_path = /home/p3dalice/mail
mail_inbox_path = /var/mail/%{user}
mail_index_path = /home/p3dalice/index
mbox_write_locks = fcntl
"""}


def keep_uidl(*words, before=(), status=0):
    """What it says."""
    done = subprocess.run([*before, KEEP_UIDL, *words], text=True, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == status, done.stdout
    return done.stdout


def numbered(*uids, first=b"X-IMAPbase: 1700000000 0000000009\n"):
    """Messages as those servers leave them; None: not seen by them yet."""
    return b"".join(
        mail(number, header=(first if number == 1 else b"") +
             (b"X-UID: %d   \n" % uid if uid else b""))
        for number, uid in enumerate(uids, 1))


def without_ids(content):
    return re.sub(rb"X-UIDL: [0-9a-f]{16}\r?\n", b"", content)


def unique_ids(drop):
    with drop.session() as session:
        assert session.login().startswith(b"+OK")
        return [line.split()[1].decode() for line in session.multi("UIDL")[1]]


@needs_root
@needs("doveadm")
def test_pop3d_answers_with_the_ids_that_dovecot_gave():
    with Host() as host:
        password = host.account("p3dalice")
        version = host.run("dovecot", "--version").stdout[:3]
        host.path("/etc/p3d-dovecot.conf").write_text(
            DOVECOT[version] + "log_path = /dev/null\nssl = no\n")
        shutil.copy(KEEP_UIDL, host.path("/usr/local/sbin/keep-uidl"))
        who = host.run("id", "-u", "p3dalice").stdout.strip()

        def dovecot(*commands):
            """The ids, in a session of dovecot's POP3 server."""
            text = host.run(
                "setpriv", f"--reuid={who}", f"--regid={who}",
                "--clear-groups", "env", "HOME=/home/p3dalice",
                "USER=p3dalice", "doveadm", "-c", "/etc/p3d-dovecot.conf",
                "exec", "pop3",
                input="\r\n".join(["UIDL", *commands, "QUIT", ""])).stdout
            return re.findall(r"^\d+ ([0-9a-f]{16})\r?$", text, re.M)

        def pop3d():
            with host.pop3d("-s") as session:
                assert session.login("p3dalice", password).startswith(b"+OK")
                return [line.split()[1].decode()
                        for line in session.multi("UIDL")[1]]

        box = host.deliver("p3dalice", 3)
        assert len(dovecot("DELE 1")) == 3
        host.deliver("p3dalice", 2)
        given = dovecot()
        assert len(given) == 4
        host.deliver("p3dalice")        # this one dovecot has not seen
        before = box.read_bytes()

        dry = host.run("keep-uidl", "-l", "dovecot", "/var/mail/p3dalice")
        assert re.findall(r"^\d+ (\S+)$", dry.stdout, re.M) == given + ["-"]
        assert box.read_bytes() == before
        inode = box.stat().st_ino
        host.run("keep-uidl", "-w", "dovecot", "/var/mail/p3dalice")

        assert without_ids(box.read_bytes()) == before != box.read_bytes()
        assert box.stat().st_ino == inode
        assert sorted(path.name for path in box.parent.iterdir()) == [
            "p3dalice"]
        assert pop3d()[:4] == given
        assert dovecot()[:4] == given   # and back


def test_uw_ipop3d_has_its_two_numbers_in_the_other_order(tmp_path):
    drop = Maildrop(tmp_path / "alice", numbered(3, 7, None))
    assert "2 lines X-UIDL written" in keep_uidl("-w", "uw", drop.path)
    ids = unique_ids(drop)
    assert ids[:2] == ["6553f10000000003", "6553f10000000007"]
    assert len(ids) == 3


def test_the_pseudo_message_of_c_client_has_no_id(tmp_path):
    pseudo = (b"From MAILER-DAEMON Thu Nov  5 10:00:00 2026\n"
              b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n"
              b"X-IMAP: 1700000000 0000000009\n\ntext\n\n")
    drop = Maildrop(tmp_path / "alice", pseudo + numbered(4, first=b""))
    keep_uidl("-w", "uw", drop.path)
    assert drop.content.startswith(pseudo)
    assert unique_ids(drop) == ["6553f10000000004"]


def test_a_mailbox_with_lines_that_end_in_crlf_keeps_them(tmp_path):
    content = numbered(1, 2).replace(b"\n", b"\r\n")
    drop = Maildrop(tmp_path / "alice", content)
    keep_uidl("-w", "dovecot", drop.path)
    assert b"2026\r\nX-UIDL: 000000016553f100\r\nFrom: " in drop.content
    assert without_ids(drop.content) == content


def test_a_second_run_has_nothing_to_do(tmp_path):
    drop = Maildrop(tmp_path / "alice", numbered(1, 2))
    keep_uidl("-w", "dovecot", drop.path)
    first = drop.state()
    assert keep_uidl("-w", "dovecot", drop.path) == (
        f"{drop.path}: 2 messages, 2 with an id of dovecot's, "
        "0 lines X-UIDL written\n")
    assert drop.state() == first


def test_an_id_that_came_with_the_mail_is_no_longer_the_first(tmp_path):
    drop = Maildrop(tmp_path / "alice", numbered(1, 2).replace(
        b"Subject", b"X-UIDL: of-another-server\nSubject"))
    keep_uidl("-w", "dovecot", drop.path)
    assert unique_ids(drop) == ["000000016553f100", "000000026553f100"]


REFUSED = {
    "not a mailbox": b"Dear Bob,\n",
    "a second X-UID": numbered(1, 2).replace(b"X-UID: 2", b"X-UID: 2\nx-uid: 3"),
    "a second X-IMAPbase": numbered(1).replace(
        b"Subject", b"X-IMAP: 1700000001 0000000001\nSubject"),
    "out of order": numbered(5, 4),
    "no X-IMAPbase": numbered(1, 2, first=b""),
    # dovecot takes a date that this does not, and has numbered that message
    "another message seems to be in it": numbered(1, 2, 3).replace(
        b"Nov  5 10:02:00 2026", b"5 Nov, teatime"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_it_does_not_understand_it_refuses(tmp_path, why):
    drop = Maildrop(tmp_path / "alice", REFUSED[why])
    before = drop.state()
    assert why in keep_uidl("-w", "dovecot", drop.path, status=1)
    assert drop.state() == before
    assert os.listdir(tmp_path) == ["alice"]


def test_what_pop3d_has_served_it_refuses(tmp_path):
    drop = Maildrop(tmp_path / "alice", numbered(1))
    unique_ids(drop)
    assert "served" in keep_uidl("-w", "dovecot", drop.path, status=1)
    assert drop.content == numbered(1)


@pytest.mark.parametrize("kind", ["symlink", "link"])
def test_a_file_with_two_names_it_refuses(tmp_path, kind):
    (tmp_path / "bob").write_bytes(numbered(1))
    getattr(os, kind)(tmp_path / "bob", tmp_path / "alice")
    keep_uidl("-w", "dovecot", tmp_path / "alice", status=1)
    assert (tmp_path / "bob").read_bytes() == numbered(1)


@pytest.mark.parametrize("lock", ["fcntl", "flock", "dotlock"])
def test_it_waits_for_a_lock(tmp_path, lock):
    drop = Maildrop(tmp_path / "alice", numbered(1))
    with open(drop.path, "rb+") as box:
        if lock == "fcntl":
            fcntl.lockf(box, fcntl.LOCK_EX)
        elif lock == "flock":
            fcntl.flock(box, fcntl.LOCK_EX)
        else:
            drop.dotlock.touch()
        # Its wait of a second shows that it has tried.
        with subprocess.Popen(["strace", "-f", "-e", "trace=/.*nanosleep", "-o",
                               tmp_path / "trace", KEEP_UIDL, "-w", "dovecot",
                               drop.path], stdout=subprocess.PIPE) as process:
            while b"nanosleep" not in (tmp_path / "trace").read_bytes() if (
                    tmp_path / "trace").exists() else True:
                assert process.poll() is None
            assert drop.content == numbered(1)
            if lock == "dotlock":
                drop.dotlock.unlink()
            else:
                fcntl.lockf(box, fcntl.LOCK_UN)
                fcntl.flock(box, fcntl.LOCK_UN)
            assert b"1 lines X-UIDL written" in process.communicate()[0]


STEPS = ["write", "fsync", "ftruncate", "rename", "unlink"]


@needs("strace")
@pytest.mark.parametrize("call", STEPS)
def test_killed_at_any_step_it_loses_nothing_and_can_be_run_again(tmp_path, call):
    long = mail(8, body=b"x" * 71 + b"\n" * 3000)   # many writes
    content = numbered(1, 2) + long + numbered(None, 4, first=b"")
    whole = Maildrop(tmp_path / "whole", content)
    keep_uidl("-w", "dovecot", whole.path)
    new = mail(9)

    killed, status = 0, None
    while status != 0:
        drop = Maildrop(tmp_path / f"alice{killed}", content)
        status = subprocess.run(
            ["strace", "-qqq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
             f"inject={call}:signal=KILL:when={killed + 1}",
             KEEP_UIDL, "-w", "dovecot", drop.path],
            stdout=subprocess.DEVNULL, timeout=60).returncode
        copy = tmp_path / f".{drop.path.name}.uidl"
        assert content in (drop.content, copy.read_bytes() if copy.exists()
                           else drop.content) or drop.content == whole.content
        drop.deliver(new)
        keep_uidl("-w", "dovecot", drop.path)
        assert drop.content == whole.content + new
        assert not copy.exists() and not drop.dotlock.exists()
        killed += 1
    assert killed > 1


def test_a_mailbox_that_was_changed_after_a_crash_is_left_alone(tmp_path):
    drop = Maildrop(tmp_path / "alice", numbered(1, 2))
    copy = tmp_path / ".alice.uidl"
    copy.write_bytes(drop.content)
    drop.path.write_bytes(numbered(1, 2)[:-7] + b"other\n\n" + mail(3) * 9)
    before = drop.state()
    assert "by hand" in keep_uidl("-w", "dovecot", drop.path, status=1)
    assert drop.state() == before and copy.read_bytes() == numbered(1, 2)


@needs_root
@needs("procmail", "strace")
def test_a_delivery_waits_until_it_is_done():
    with Host() as host:
        host.account("p3dalice")
        box = host.path("/var/mail/p3dalice")
        box.write_bytes(numbered(1, 2))
        host.run("chown", "p3dalice:mail", "/var/mail/p3dalice")
        shutil.copy(KEEP_UIDL, host.path("/usr/local/sbin/keep-uidl"))
        # Two seconds in which half of the room is there.
        slow = host.start("strace", "-o", "/home/trace", "-e", "trace=ftruncate",
                          "-e", "inject=ftruncate:delay_exit=2000000",
                          "keep-uidl", "-w", "dovecot", "/var/mail/p3dalice")
        while box.stat().st_size == len(numbered(1, 2)):
            assert slow.poll() is None
        host.run("procmail", "-d", "p3dalice",
                 input="Subject: meanwhile\n\nHello.\n")
        assert [path.name for path in box.parent.iterdir()] == ["p3dalice"]
        assert slow.wait() == 0
        content = box.read_bytes()
        assert without_ids(content).startswith(numbered(1, 2) + b"From ")
        assert content.count(b"X-UIDL: ") == 2
        assert content.endswith(b"\nSubject: meanwhile\n\nHello.\n\n")
