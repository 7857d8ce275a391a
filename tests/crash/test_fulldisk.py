"""On a disk without a free byte mail can be read, and deleting works and frees space.  And where files may not grow."""

import contextlib
import errno
import os
import re
import resource
import subprocess

import pytest

import crash
import lab
from harness import BUILD, STUB, Session, mail, needs, needs_root

SERVERS = {path.name: path for path in lab.SERVERS}


@contextlib.contextmanager
def small_disk(kind, folder):
    """A file system of 16 MiB of our own."""
    disk = folder / "disk"
    disk.mkdir()
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
    else:
        with open(folder / "image", "wb") as image:
            image.truncate(16 << 20)
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-m", "0", folder / "image"], check=True)
        subprocess.run(["mount", "-o", "loop", folder / "image", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(disk):
    """To the last byte, with pieces ever smaller."""
    with open(disk / "filler", "wb", buffering=0) as filler:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while filler.write(bytes(size)) == size:
                    continue
            os.fsync(filler)
    assert free(disk) == 0


def free(disk):
    return os.statvfs(disk).f_bavail


@pytest.fixture(params=["ext4", "tmpfs"])
def disk(request, tmp_path):
    with small_disk(request.param, tmp_path) as path:
        yield path


@needs_root
@pytest.mark.parametrize("pattern", ["first", "every second", "last", "all"])
@pytest.mark.parametrize("server", SERVERS)
def test_deleting_works_on_a_full_disk_and_frees_space(disk, server, pattern):
    with lab.Maildrop(lab.mailbox("full disk"), disk) as drop:
        drop.begin(SERVERS[server])     # a session before the disk is full makes the side file
        fill(disk)
        deleted = list(lab.PATTERNS[pattern](len(drop.messages)))
        _, output = drop.session(SERVERS[server], [*lab.LOGIN, *lab.deletions(deleted), b"QUIT"])
        assert lab.last_reply(output).startswith(b"+OK")
        drop.judge(deleted, all_gone=True)
        assert free(disk) > 0
        crash.login(drop, SERVERS[server], deleted, None)


@needs_root
@pytest.mark.parametrize("server", SERVERS)
def test_a_kill_on_a_full_disk_harms_nothing(disk, server):
    with lab.Maildrop(lab.mailbox("full disk"), disk) as drop:
        drop.begin(SERVERS[server])
        fill(disk)
        commands = [*lab.LOGIN, b"DELE 1", b"DELE 3", b"QUIT"]
        drop.session(SERVERS[server], commands, marker="QUIT", lists=True)
        for number, action in crash.sample(crash.different(drop.calls()), 12):
            drop.restore()
            drop.session(SERVERS[server], commands, marker="QUIT", number=number, action=action)
            crash.login(drop, SERVERS[server], [0, 2], None)


@needs_root
def test_the_first_login_on_a_full_disk_can_read(disk):
    with lab.Maildrop(lab.mailbox("full disk"), disk) as drop:
        drop.begin(SERVERS["pop3d-stub"], first=True)
        fill(disk)
        _, output = drop.session(SERVERS["pop3d-stub"], [*lab.LOGIN, b"RETR 2", b"DELE 1", b"QUIT"])
        assert drop.messages[1].sent in output
        answer = lab.last_reply(output)
        assert answer.startswith((b"+OK", b"-ERR [SYS/TEMP]"))
        drop.judge([0], all_gone=answer.startswith(b"+OK"))


@pytest.mark.parametrize("more, answer", [(0, b"+OK"), (1, b"-ERR [SYS/TEMP]")])
def test_deleting_so_little_that_it_takes_too_many_steps(more, answer):
    """Without a data area a step moves no more than the deleted message had, and there are 4096."""
    server, little = SERVERS["pop3d-stub-area0"], lab.Message(1, 200)
    with lab.Maildrop([little, lab.Message(2, 4096 * len(little.stored) - 1 + more)]) as drop:
        drop.begin(server)
        _, output = drop.session(server, [*lab.LOGIN, b"DELE 1", b"QUIT"])
        assert lab.last_reply(output).startswith(answer)
        drop.judge([0], all_gone=not more)
        assert more == 0 or drop.content() == drop.original
        crash.login(drop, server, [0], None)


@needs("strace")
def test_where_room_cannot_be_reserved_it_is_used_as_it_comes(drop):
    """A file system that does not know how, as NFS 3: the data area is all the same as large as there is to move."""
    kept = mail(2, 100_000 * b"Some text.\n")
    drop.path.write_bytes(mail(1) + kept)
    assert len(kept) > 4096 * len(mail(1))
    with Session.run("strace", "-qq", "-o", "/dev/null", "-e", "trace=fallocate", "-e", "inject=fallocate:error=EOPNOTSUPP",
                     STUB, "-p", "-m", drop.path) as session:
        session.login()
        session.cmd("DELE 1")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == kept


def test_room_that_does_not_do_is_given_back(drop):
    """A data area of 4 KiB, and there are 4096 steps."""
    drop.path.write_bytes(mail(1) + mail(2, 1_600_000 * b"Some text.\n"))
    assert drop.path.stat().st_size > 4096 * 4096 + len(mail(1))
    with drop.session(binary=BUILD / "pop3d-stub-area4k") as session:
        session.login()
        session.cmd("DELE 1")
        assert session.cmd("QUIT").startswith(b"-ERR [SYS/TEMP]")
        session.wait()
    assert drop.side.stat().st_size == 8192


def test_a_limit_on_the_size_of_files_harms_nothing():
    """RLIMIT_FSIZE, around every size that files have here."""
    server = SERVERS["pop3d-stub"]
    with lab.Maildrop(lab.mailbox("short")) as drop:
        for first in False, True:
            drop.begin(server, first)
            size, answers = len(drop.original), set()
            for limit in 0, 1, 4095, 4096, 8191, 8192, 8193, 20_000, size - 1, size, size + 1, 2 * size:
                drop.restore()
                _, output = drop.session(server, [*lab.LOGIN, b"DELE 1", b"DELE 3", b"QUIT"],
                                         limits=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
                answer = lab.last_reply(output)
                assert answer.startswith((b"+OK", b"-ERR [SYS/TEMP]")), limit
                drop.judge([0, 2], all_gone=answer.startswith(b"+OK"))
                crash.login(drop, server, [0, 2], None)
                answers.add(answer[:3])
            assert answers == {b"+OK", b"-ER"}


def test_a_limit_on_the_size_of_files_puts_recovery_off():
    """Below the mailbox's size it cannot begin: the user reads what will be, and it is made up for at the next login."""
    server = SERVERS["pop3d-stub"]
    with lab.Maildrop(lab.mailbox("short")) as drop:
        drop.begin(server)
        crash.cut_short(drop, server, [*lab.LOGIN, b"DELE 1", b"DELE 3", b"QUIT"])
        half, size = drop.save(), len(drop.original)
        for limit in 0, size - 1, 2 * size:
            drop.restore(half)
            _, output = drop.session(server, [*lab.LOGIN, b"RETR 1", b"RETR %d" % (len(drop.messages) - 2), b"QUIT"],
                                     limits=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            assert output.count(b"+OK") == 6
            assert drop.messages[1].sent in output and drop.messages[-1].sent in output
            assert limit > 0 or drop.content() == half["alice"][-1]
            crash.login(drop, server, [0, 2], None)


SIDE = ".alice.pop3d"


@needs("strace")
def test_room_is_looked_for_once(drop, tmp_path):
    """However many steps it takes to move all, if no mail comes meanwhile."""
    kept = b"".join(mail(number, 90 * b"Some text.\n") for number in range(2, 30))
    drop.path.write_bytes(mail(1) + kept)
    trace = tmp_path / "trace"
    with Session.run("strace", "-o", trace, "-e", "trace=fallocate,pwrite64", BUILD / "pop3d-stub-area4k", "-p", "-m",
                     drop.path) as session:
        session.login()
        session.cmd("DELE 1")
        assert session.cmd("QUIT").startswith(b"+OK")
        session.wait()
    calls = trace.read_text()
    assert calls.count("pwrite64(") > 20 and calls.count("fallocate(") == 1
    assert drop.content == kept


@needs("strace")
@pytest.mark.parametrize("call, of_side_file, one_goes", [
    ("mknodat", False, True), ("openat", True, False), ("fallocate", False, True), ("pwrite64", True, False), ("fsync", True, False)])
@pytest.mark.parametrize("seen_before", [False, True], ids=["first", "later"])
def test_over_quota_is_answered_as_a_full_disk(drop, call, of_side_file, one_goes, seen_before):
    """A login; all deleted; one deleted, which takes records.  In the log the system's word is another."""
    original, said = drop.content, []
    if call == "openat" and seen_before:
        pytest.skip("a file that is there is opened, however full the disk")
    paths = ["-P", SIDE, "-P", drop.side] if of_side_file else []
    for error in errno.ENOSPC, errno.EDQUOT:
        for deleted in [], [1, 2, 3], [1]:
            drop.path.write_bytes(original)
            drop.side.unlink(missing_ok=True)
            if seen_before:
                with drop.session() as session:
                    session.login()
                    session.cmd("QUIT")
                    session.wait()
            with Session.run("strace", "-qq", "-o", "/dev/null", *paths, "-e", f"trace={call}", "-e",
                             f"inject={call}:error={errno.errorcode[error]}", STUB, "-p", "-d", "-m", drop.path,
                             env={"ASAN_OPTIONS": "detect_leaks=0"}) as session:
                answers = [session.login(), *(session.cmd(f"DELE {number}") for number in deleted), session.cmd("QUIT")]
                assert session.rest() == b""
                log = re.sub(r"(\bseconds=|pop3d\[)\d+", "", session.log()).replace(os.strerror(error), "no room")
            assert all(answer.startswith(b"+OK") for answer in answers[:-1])
            said.append((answers, log, drop.content))
    assert said[:3] == said[3:]
    (login, _, read), (every, _, emptied), (one, _, left) = said[:3]
    assert login[-1].startswith(b"+OK") and read == original
    assert every[-1].startswith(b"+OK") and emptied == b""
    if one_goes:
        assert one[-1].startswith(b"+OK") and left == mail(2) + mail(3)
    else:
        assert one[-1] == b"-ERR [SYS/TEMP] no room to delete: nothing was deleted" and left == original
