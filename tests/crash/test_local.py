"""Other programs change the mailbox in the middle of a session, or between a crash and the next login.

No byte is sent that is not the message's, and nothing that was not deleted is lost.
"""

import collections
import os
import pathlib
import pty
import re
import shutil
import subprocess

import pytest

import crash
import lab
from harness import PASSWORD, USER, Session, account, needs_root

SERVER = lab.SERVERS[0]
pytestmark = needs_root


@pytest.fixture(scope="module")
def user():
    with account("p3ddlocal") as user:
        yield user


@pytest.fixture
def drop(user, monkeypatch):
    """A mailbox of 30 messages in a folder of the user's, who is whom the server serves."""
    monkeypatch.setenv("POP3D_STUB_UID", str(user.uid))
    with lab.Maildrop(lab.mailbox("short"), user.home) as drop:
        drop.user = user
        os.chown(drop.dir, user.uid, user.gid)
        drop.begin(SERVER)
        yield drop


def as_user(drop, *command, **kw):
    if not shutil.which(command[0]):
        pytest.skip(f"needs {command[0]}")
    return dict(kw, args=["setpriv", f"--reuid={drop.user.uid}", f"--regid={drop.user.gid}", "--clear-groups", *map(str, command)],
                env={"PATH": os.environ["PATH"], "USER": drop.user.name, "HOME": drop.user.home, "TERM": "vt100"}, cwd=drop.user.home)


# What the programs do to a mailbox.  Those that remove messages remove number 3, and perhaps others that begin with a 3.

def neomutt(drop):
    rules = pathlib.Path(drop.user.home, "neomuttrc")
    rules.write_text(f"set folder={drop.user.home}\nset quit=yes\nset delete=yes\nset move=no\n")      # or it asks
    terminal, line = pty.openpty()
    keys = 'push "<delete-pattern>~s p3dd.3<enter><sync-mailbox><quit>"'
    process = subprocess.Popen(**as_user(drop, "neomutt", "-n", "-F", rules, "-f", drop.path, "-e", keys), stdin=line, stdout=line,
                               stderr=line, start_new_session=True)
    os.close(line)
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:     # it closed its end
        pass
    os.close(terminal)
    assert process.wait() == 0


def mailutil(drop):
    """c-client, as in alpine."""
    subprocess.run(**as_user(drop, "mailutil", "prune", drop.path.relative_to(drop.user.home), 'SUBJECT "p3dd 3"'))


# The configuration of dovecot has another language since 2.4.
DOVECOT_2_3 = "mail_location = mbox:{0}/mail:INBOX={1}\n"
DOVECOT_2_4 = """dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
mail_driver = mbox
mail_path = {0}/mail
mail_inbox_path = {1}
"""


def doveadm(drop, command, *args):
    folder = pathlib.Path(drop.user.home)
    version = subprocess.run(**as_user(drop, "/usr/sbin/dovecot", "--version", stdout=subprocess.PIPE)).stdout
    conf, options = (DOVECOT_2_3, []) if version.startswith(b"2.3.") else (DOVECOT_2_4, ["--no-userdb-lookup"])
    (folder / "dovecot.conf").write_text(conf.format(folder, drop.path) + "log_path = /dev/null\nssl = no\n")
    subprocess.run(**as_user(drop, "doveadm", "-c", folder / "dovecot.conf", *command.split(), *options, *args,
                             stdout=subprocess.DEVNULL))


def dovecot_reads(drop):
    doveadm(drop, "fetch", "text", "mailbox", "INBOX", "all")


def dovecot_marks(drop):
    doveadm(drop, "flags add", r"\Seen", "mailbox", "INBOX", "all")


def dovecot_expunges(drop):
    doveadm(drop, "expunge", "mailbox", "INBOX", "header", "subject", "p3dd 3")


def rewrite(drop, content):
    with open(drop.path, "r+b") as mailbox:
        mailbox.write(content)
        mailbox.truncate()


def without_3(drop):
    return lab.octets_of(drop.messages[:2] + drop.messages[3:])


def rewrites_and_restores_mtime(drop):
    before = drop.path.stat()
    rewrite(drop, without_3(drop))
    os.utime(drop.path, ns=(before.st_atime_ns, before.st_mtime_ns))


def sorts(drop):
    rewrite(drop, lab.octets_of(reversed(drop.messages)))


def sorts_and_restores_mtime(drop):
    before = drop.path.stat()
    sorts(drop)
    os.utime(drop.path, ns=(before.st_atime_ns, before.st_mtime_ns))


def renames_over(drop):
    new = drop.path.with_name("new")
    new.write_bytes(without_3(drop))
    drop.give(new)
    new.rename(drop.path)


def truncates(drop):
    os.truncate(drop.path, len(drop.original) // 2)


def empties(drop):
    os.truncate(drop.path, 0)


def removes(drop):
    drop.path.unlink()


def delivers(drop):
    with open(drop.path, "ab") as mailbox:
        mailbox.write(lab.Message(99, 4000).stored)


def touches(drop):
    drop.path.touch()


def nothing(drop):
    pass


PROGRAMS = [neomutt, mailutil, dovecot_reads, dovecot_marks, dovecot_expunges, rewrites_and_restores_mtime, sorts,
            sorts_and_restores_mtime, renames_over, truncates, empties, removes, delivers, touches, nothing]
programs = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)


def found(drop):
    """How often each message is in the mailbox; other programs may have added to its header."""
    content = drop.content() if drop.path.exists() else b""
    counts = collections.Counter()
    for number, stored in re.findall(rb"^From p3dd-(\d+)@[^\n]*\n(.*?)(?=^From |\Z)", content, re.M | re.S):
        body = stored.partition(b"\n\n")[2].rstrip(b"\n")
        right = [*drop.messages, lab.Message(99, 4000)][min(int(number), len(drop.messages) + 1) - 1]
        counts[int(number)] += body == right.stored.partition(b"\n\n")[2].rstrip(b"\n")
    return counts


def run(drop):
    return Session.run(SERVER, "-p", "-d", "-m", drop.path)


@programs
def test_what_retr_sends_is_right_or_it_sends_nothing(drop, program):
    with run(drop) as session:
        assert session.login(USER, PASSWORD).startswith(b"+OK")
        program(drop)
        right = 0
        for number, message in enumerate(drop.messages, 1):
            status, lines = session.multi(f"RETR {number}")
            if not status.startswith(b"+OK"):
                assert status.startswith(b"-ERR [SYS/TEMP]")
                break
            assert lines == [line.removeprefix(b".") for line in message.sent.split(b"\r\n")[:-1]]
            right += 1
    if program in (nothing, touches, delivers):
        assert right == len(drop.messages)


@programs
def test_quit_loses_nothing_that_was_not_deleted(drop, program):
    with run(drop) as session:
        assert session.login(USER, PASSWORD).startswith(b"+OK")
        for number in 1, 4:
            assert session.cmd(f"DELE {number}").startswith(b"+OK")
        program(drop)
        content, present = drop.path.exists() and drop.content(), found(drop)
        answer = session.cmd("QUIT")
    if answer.startswith(b"+OK"):
        assert found(drop) == collections.Counter({number: 1 for number in present if number not in (1, 4)})
    else:
        assert answer.startswith(b"-ERR [SYS/TEMP]")
        assert (drop.path.exists() and drop.content()) == content
    assert answer.startswith(b"+OK") == (program in (nothing, touches, delivers))


@programs
def test_a_half_done_mailbox_that_was_rewritten_is_left_alone(drop, program):
    commands = [*lab.LOGIN, b"DELE 1", b"DELE 4", b"QUIT"]
    drop.session(SERVER, commands, marker="QUIT", lists=True)
    outcomes = set()
    for number, action in crash.sample(list(crash.different(drop.calls()))[1:-1], 6):
        shutil.rmtree(pathlib.Path(drop.user.home, "mail"), ignore_errors=True)     # dovecot's index
        for entry in list(drop.dir.iterdir()):
            if entry.name not in drop.start:
                entry.unlink()
        drop.begin(SERVER)
        drop.session(SERVER, commands, marker="QUIT", number=number, action=action)
        lab.remove_stale_lock(drop.path)
        program(drop)
        content = drop.path.exists() and drop.content()
        with run(drop) as session:
            answer = session.login(USER, PASSWORD)
            if answer.startswith(b"+OK"):
                session.cmd("QUIT")
            log = session.log()
        saved = list(drop.dir.glob(".alice.pop3d.saved"))
        if saved:
            assert (drop.path.exists() and drop.content()) == content
            assert saved[0].name in log
        else:
            removed = {3, *range(30, 40)} if program not in (nothing, touches, delivers) else set()
            counts = found(drop)
            kept = set(range(1, len(drop.messages) + 1)) - {1, 4}
            if (drop.path.exists() and drop.content()) != content:
                assert kept - removed <= set(counts) and set(counts.values()) == {1}
        assert answer.startswith(b"+OK") or (answer.startswith(b"-ERR [SYS/PERM]") and not content.startswith(b"From "))
        outcomes.add(bool(saved))
    if program in (nothing, touches, delivers):
        assert outcomes == {False}
