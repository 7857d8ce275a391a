"""Files and disks that are not as they should be: what can be read is read, what can be deleted is, and the text says what is true."""

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile

import pytest

import mailers
from harness import STUB, Maildrop, Session, mail, needs, needs_root
from test_fulldisk import fill, small_disk

pytestmark = needs_root
THREE = mail(1) + mail(2) + mail(3)
STUB_UID = 12345


@pytest.fixture
def desk():
    with mailers.Desk() as desk:
        desk.put(THREE)
        yield desk


def failing(drop, call):
    """A session in which a system call fails: its name and error, as strace has them."""
    return Session.run("strace", "-qq", "-o", "/dev/null", "-e", f"trace={call.partition(':')[0]}", "-e", f"inject={call}",
                       STUB, "-p", "-d", "-m", drop.path)


def log_of(session):
    session.end()
    session.wait()
    return session.log()


def deletes(desk, *numbers):
    with desk.pop3d("-p") as session:
        assert session.login(mailers.NAME, desk.password).startswith(b"+OK")
        for number in numbers:
            assert session.cmd(f"DELE {number}").startswith(b"+OK")
        return session.cmd("QUIT")


# ---- the side file ----

def test_a_side_file_that_kept_the_old_uid_is_set_aside(desk):
    """As after usermod -u, in a spool where only root and the group can write."""
    deletes(desk)
    desk.run("usermod", "-u", str(desk.uid + 1000), mailers.NAME)
    side = desk.spool / f".{mailers.NAME}.pop3d"
    desk.run("chown", f"{mailers.NAME}:mail", mailers.MAIL)
    assert side.stat().st_uid == desk.uid
    desk.put(THREE)
    deletes(desk)                   # it may be a read-only one
    assert deletes(desk, 1).startswith(b"+OK")
    assert side.stat().st_uid == desk.uid + 1000
    assert desk.mailbox.read_bytes() == mail(2) + mail(3)
    desk.log(r"^<18>.*\.pop3d\.saved")


def test_a_side_file_of_another_in_a_directory_of_the_users_is_not_touched(tmp_path, ordinary):
    ordinary.side.write_bytes(b"x" * 9000)
    os.chown(ordinary.side, STUB_UID + 1, STUB_UID + 1)
    with ordinary.session() as session:
        assert session.login().startswith(b"+OK")
        assert session.cmd("DELE 1").startswith(b"-ERR [SYS/TEMP]")
        session.cmd("QUIT")
    assert ordinary.side.read_bytes() == b"x" * 9000
    assert ordinary.side.stat().st_uid == STUB_UID + 1
    assert ordinary.content == THREE


@pytest.mark.parametrize("make, mode", [(os.mkfifo, 0o755), (pathlib.Path.touch, 0o1777)], ids=["no_file", "all_may_write"])
def test_what_another_may_have_put_there_is_not_set_aside(drop, make, mode):
    """In root's directory: what is no file, or where all may make one."""
    make(drop.side)
    os.chown(drop.side, STUB_UID, STUB_UID)
    drop.path.parent.chmod(mode)
    before = drop.side.lstat()
    with drop.session() as session:
        assert session.login().startswith(b"+OK 3 messages")
        assert session.cmd("DELE 1").startswith(b"-ERR [SYS/TEMP]")
        session.cmd("QUIT")
    assert drop.side.lstat() == before
    assert sorted(path.name for path in drop.path.parent.iterdir()) == [drop.side.name, drop.path.name]


# ---- the mailbox ----

@pytest.mark.parametrize("content", [b"", THREE])
def test_the_mailbox_of_a_user_whose_name_ends_in_lock_is_no_stale_lock(desk, content):
    """Not even when nobody has touched it for an hour."""
    name = mailers.NAME + ".lock"
    desk.account(name)
    other = desk.spool / name
    other.write_bytes(content)
    desk.run("chown", f"{name}:mail", f"/var/mail/{name}")
    other.chmod(0o660)
    desk.run("touch", "-d", "-1 hour", f"/var/mail/{name}")
    before = other.stat()
    with desk.pop3d("-p") as session:
        assert session.login(mailers.NAME, desk.password).startswith(b"+OK 3 messages")
        assert session.multi("RETR 1")[0].startswith(b"+OK")
    after = other.stat()
    assert (after.st_ino, after.st_mtime_ns, other.read_bytes()) == (before.st_ino, before.st_mtime_ns, content)


def test_a_mailbox_that_may_only_be_read_is_read_and_the_log_says_so(ordinary):
    ordinary.path.chmod(0o400)
    with ordinary.session() as session:
        assert session.login().startswith(b"+OK 3 messages")
        assert session.multi("RETR 1")[0].startswith(b"+OK")
        assert session.cmd("DELE 1").startswith(b"-ERR [SYS/TEMP]")
        assert session.cmd("QUIT").startswith(b"+OK")
        assert re.search(r"can only be read: .*(Permission denied|mode)", log_of(session))
    assert ordinary.content == THREE


def test_a_mailbox_that_may_not_even_be_read_is_a_permanent_trouble(ordinary):
    ordinary.path.chmod(0)
    with ordinary.session() as session:
        assert session.login().startswith(b"-ERR [SYS/PERM]")
        assert "Permission denied" in log_of(session)


@pytest.fixture
def ext4():
    with tempfile.TemporaryDirectory(prefix="pop3d-test-") as folder:
        os.chmod(folder, 0o711)
        with small_disk("ext4", pathlib.Path(folder)) as disk:
            os.chown(disk, STUB_UID, STUB_UID)
            yield disk


@pytest.mark.parametrize("flag", ["i", "a"])
def test_an_immutable_or_append_only_mailbox_can_be_read(ext4, monkeypatch, flag):
    monkeypatch.setenv("POP3D_STUB_UID", str(STUB_UID))
    drop = Maildrop(ext4 / "alice", THREE)
    os.chown(drop.path, STUB_UID, STUB_UID)
    subprocess.run(["chattr", "+" + flag, drop.path], check=True)
    try:
        with drop.session() as session:
            assert session.login().startswith(b"+OK 3 messages")
            assert session.multi("RETR 3")[0].startswith(b"+OK")
            assert session.cmd("DELE 1").startswith(b"-ERR [SYS/TEMP]")
            assert session.cmd("QUIT").startswith(b"+OK")
            assert "can only be read" in log_of(session)
        assert drop.content == THREE
    finally:
        subprocess.run(["chattr", "-" + flag, drop.path], check=True)


# ---- the disk ----

@contextlib.contextmanager
def without_a_free_inode(disk):
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=3", "tmpfs", disk], check=True)
    try:
        drop = Maildrop(disk / "alice", THREE)
        with contextlib.suppress(OSError):
            for number in range(9):
                (disk / str(number)).touch()
        assert os.statvfs(disk).f_favail == 0
        yield drop
    finally:
        subprocess.run(["umount", disk], check=True)


def test_without_a_free_inode_mail_is_read_and_the_rest_is_refused_with_the_reason(tmp_path):
    with without_a_free_inode(tmp_path / "disk") as drop:
        with drop.session() as session:
            assert session.login().startswith(b"+OK 3 messages")
            assert session.multi("RETR 1")[0].startswith(b"+OK")
            assert session.cmd("DELE 1")
            assert re.match(rb"-ERR \[SYS/TEMP\] .*nothing was deleted", session.cmd("QUIT"))
            assert "dele=0 " in log_of(session)
        assert drop.content == THREE


@needs("strace")
def test_without_its_saved_gid_there_is_no_session(tmp_path):
    drop = Maildrop(tmp_path / "alice", THREE)
    with failing(drop, "getresgid:error=EFAULT:when=1") as session:
        assert session.login().startswith(b"-ERR [SYS/TEMP]")
        session.wait()
        assert "error=cannot tell the saved gid: Bad address" in session.log()


@needs("strace")
def test_where_no_dotlock_can_be_made_mail_can_be_read(tmp_path):
    """What is known at the login is said at the login."""
    drop = Maildrop(tmp_path / "alice", THREE)
    with failing(drop, "mknodat:error=EACCES") as session:
        assert session.login().startswith(b"+OK")
        assert "can only be read: cannot make the dotlock: Permission denied" in session.log()
        assert session.multi("RETR 3")[0].startswith(b"+OK")
        assert session.cmd("DELE 1").startswith(b"-ERR")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == THREE


@needs("strace")
def test_the_log_has_the_systems_word_for_a_mailbox_that_cannot_be_read(tmp_path):
    """At the last read of UPDATE."""
    trace = tmp_path / "trace"

    def update(*inject):
        """What QUIT says, the log, how often the mailbox was read."""
        drop = Maildrop(tmp_path / "alice", mail(1) + mail(2))
        drop.side.touch(0o600)
        with Session.run("strace", "-o", trace, "-P", drop.path, "-e", "trace=pread64", *inject, STUB, "-p", "-d", "-m", drop.path) as session:
            session.login()
            session.cmd("DELE 1")
            answer = session.cmd("QUIT")
            session.wait()
            return answer, session.log(), trace.read_text().count("pread64(")

    answer, _, reads = update()
    assert answer.startswith(b"+OK")
    answer, log, _ = update("-e", f"inject=pread64:error=ENXIO:when={reads}")
    assert answer.startswith(b"-ERR")
    assert "No such device or address" in log


@needs("strace")
@pytest.mark.parametrize("error", ["ESTALE", "EPERM", "EAGAIN", "EIO"])
def test_an_update_that_fails_half_way_says_so(tmp_path, error):
    """Whatever it was: its record says what is under way."""
    drop = Maildrop(tmp_path / "alice", THREE)
    with failing(drop, f"ftruncate:error={error}:when=1") as session:
        session.login()
        session.cmd("DELE 1")
        assert session.cmd("QUIT") == b"-ERR [SYS/TEMP] not all deleted messages may be gone"
    with drop.session() as session:
        assert session.login().startswith(b"+OK 2 messages")


def test_without_a_free_inode_all_can_be_deleted(tmp_path):
    """It is one ftruncate."""
    with without_a_free_inode(tmp_path / "disk") as drop:
        with drop.session() as session:
            session.login()
            for number in 1, 2, 3:
                assert session.cmd(f"DELE {number}").startswith(b"+OK")
            assert session.cmd("QUIT").startswith(b"+OK")
        assert drop.content == b""


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_in_the_first_session_on_a_full_disk_all_can_be_deleted(tmp_path, kind):
    with small_disk(kind, tmp_path) as disk:
        drop = Maildrop(disk / "alice", THREE)
        fill(disk)
        with drop.session() as session:
            assert session.login().startswith(b"+OK 3 messages")
            answers = [session.cmd(f"DELE {number}") for number in (1, 2, 3)]
            quit = session.cmd("QUIT")
        assert all(answer.startswith(b"+OK") for answer in answers)
        assert quit.startswith(b"+OK")
        assert drop.content == b""


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_in_the_first_session_on_a_full_disk_nothing_is_said_that_is_not_so(tmp_path, kind):
    with small_disk(kind, tmp_path) as disk:
        drop = Maildrop(disk / "alice", THREE)
        fill(disk)
        with drop.session() as session:
            assert session.login().startswith(b"+OK 3 messages")
            answer = session.cmd("DELE 2")
            quit = session.cmd("QUIT")
        if answer.startswith(b"+OK") and quit.startswith(b"+OK"):
            assert drop.content == mail(1) + mail(3)
        else:
            assert answer.startswith((b"+OK", b"-ERR [SYS/TEMP]"))
            assert quit.startswith((b"+OK", b"-ERR [SYS/TEMP]"))
            assert drop.content == THREE
        (disk / "filler").unlink()
        with drop.session() as session:
            session.login()
            session.cmd("DELE 1")
            assert session.cmd("QUIT").startswith(b"+OK")
