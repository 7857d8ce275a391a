"""Programs that people fetch mail with, and programs that deliver it, on real
accounts, behind the superservers that Debian has."""

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
from collections import Counter

import pytest

import clients
import harness
import users
from harness import PATIENCE, POP3D, Session, needs, needs_root, wait_for
from mails import MAILS, mail, mailbox, sent

pytestmark = needs_root

FEW = [mail(name, f"I am the {name} one.\n")
       for name in ("first", "second", "third")]
UNTIL_LAST = MAILS[:-1]     # the last has no newline: nothing can follow it
LATE = mail("late", "I came while bob was reading.\n")


@pytest.fixture(scope="module", autouse=True)
def pam_service():
    with users.pam_service():
        yield


@pytest.fixture(scope="module", params=[
    pytest.param("inetd", marks=needs("inetd")),
    pytest.param("systemd", marks=needs("systemd-socket-activate"))])
def port(request):
    """Where the real pop3d is served, by one superserver and the other."""
    with harness.superserver(request.param, POP3D) as port:
        yield port


@pytest.fixture(scope="module")
def inetd():
    """The same, for tests to which the superserver makes no difference."""
    with harness.superserver("inetd", POP3D) as port:
        yield port


@pytest.fixture
def bob():
    with users.user(f"p3dc{os.getpid()}") as account:
        yield account


def each_client(*names):
    programs = {"net_pop3": ["perl"], "python_poplib": [],
                "neomutt": ["neomutt", "script"]}
    return pytest.mark.parametrize("client", [
        pytest.param(getattr(clients, name), id=name,
                     marks=needs(*programs.get(name, [name])))
        for name in names])


@contextlib.contextmanager
def session(bob, port):
    with Session.connect(port) as session:
        answer = session.login(bob.name, bob.password)
        assert answer.startswith(b"+OK"), answer
        yield session


def deliver(program, bob, content):
    """Have a deliverer put a mail in bob's mailbox."""
    subprocess.run([program, "-f", "alice@example.org", "-d", bob.name],
                   input=content, check=True, capture_output=True,
                   timeout=PATIENCE)


def fetch_and_delete(bob, port):
    """All of bob's mails, as they were on the wire."""
    with session(bob, port) as pop:
        mails = []
        for n in range(1, 1 + int(pop.cmd("STAT").split()[1])):
            status, lines = pop.multi(f"RETR {n}")
            mails.append(b"".join(line + b"\r\n" for line in lines))
            assert pop.cmd(f"DELE {n}").startswith(b"+OK")
        assert pop.cmd("QUIT").startswith(b"+OK")
    return mails


def serving(bob):
    """The pid of the session that is bob's, whose uid others may have in a
    container."""
    ours = os.readlink("/proc/self/ns/pid")
    for status in pathlib.Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            text = status.read_text()
            if text.startswith("Name:\tpop3d\n") and "\nState:\tZ" not in text \
                    and f"\nUid:\t{bob.uid}\t" in text \
                    and os.readlink(status.with_name("ns") / "pid") == ours:
                return int(status.parent.name)
    return None


@contextlib.contextmanager
def tampered(bob, calls, how):
    """Have strace tamper with system calls of the session that is bob's."""
    with subprocess.Popen(
            ["strace", "-p", str(serving(bob)), "-e", f"trace={calls}",
             "-e", f"inject={calls}:{how}"],
            stderr=subprocess.PIPE) as strace:
        assert b"attached" in strace.stderr.readline()
        try:
            yield
        finally:
            strace.terminate()


def assert_same(got, wanted):
    """That the mails that were got are those that were put in."""
    got, wanted = Counter(got), Counter(map(sent, wanted))
    for what, some in ("missing", wanted - got), ("strange", got - wanted):
        for content in some:
            pytest.fail(f"{some.total()} {what} of {wanted.total()}, such as "
                        f"this, of {len(content)} octets: {content[:400]}")


@each_client("fetchmail", "mpop", "getmail", "neomutt", "net_pop3",
             "python_poplib")
def test_mail_that_is_left_on_the_server_is_fetched_once(client, port, bob):
    bob.maildrop.path.write_bytes(mailbox(UNTIL_LAST))
    before = bob.maildrop.state()
    assert_same(client(bob, port, keep=True), UNTIL_LAST)
    assert_same(client(bob, port, keep=True), [])
    assert bob.maildrop.state() == before
    deliver("procmail", bob, LATE)
    assert_same(client(bob, port, keep=True), [LATE])


@each_client("curl")
def test_curl_fetches_all_each_time_and_leaves_it(client, port, bob):
    bob.maildrop.path.write_bytes(mailbox(UNTIL_LAST))
    before = bob.maildrop.state()
    assert_same(client(bob, port, keep=True), UNTIL_LAST)
    assert bob.maildrop.state() == before
    deliver("procmail", bob, LATE)
    assert_same(client(bob, port, keep=True), [*UNTIL_LAST, LATE])


@each_client("fetchmail", "mpop", "getmail", "curl", "neomutt", "net_pop3",
             "python_poplib")
def test_mail_is_fetched_and_deleted(client, port, bob):
    bob.maildrop.path.write_bytes(mailbox(MAILS))
    assert_same(client(bob, port, keep=False), MAILS)
    wait_for(lambda: not serving(bob))      # curl goes before it hears of QUIT
    assert bob.maildrop.content == b""
    assert_same(client(bob, port, keep=False), [])


@pytest.mark.parametrize("program", [
    pytest.param(name, marks=needs(name)) for name in ("procmail", "maildrop")])
@pytest.mark.parametrize("deleted", [(), (1,), (1, 3), (2,), (1, 2, 3)])
def test_mail_that_arrives_in_a_session_is_kept(program, deleted, inetd, bob):
    bob.maildrop.path.write_bytes(mailbox(FEW))
    with session(bob, inetd) as pop:
        deliver(program, bob, LATE)
        assert pop.cmd("STAT").split()[1] == b"3"
        for n in deleted:
            assert pop.multi(f"RETR {n}")[0].startswith(b"+OK")
            assert pop.cmd(f"DELE {n}").startswith(b"+OK")
        assert pop.cmd("QUIT").startswith(b"+OK")
    kept = [content for n, content in enumerate(FEW, 1) if n not in deleted]
    assert bob.maildrop.content.startswith(mailbox(kept))
    assert_same(fetch_and_delete(bob, inetd), [*kept, LATE])


@needs("procmail", "maildrop")
def test_mail_that_arrives_all_the_time_is_fetched_once(inetd, bob):
    arriving = [mail(f"arrival {n}", "line\n" * n * 1000)
                for n in range(1, 17)]
    failed = []

    def deliver_all():
        for n, content in enumerate(arriving):
            try:
                deliver(("procmail", "maildrop")[n % 2], bob, content)
            except subprocess.SubprocessError as error:
                failed.append(error)

    deliverer = threading.Thread(target=deliver_all)
    deliverer.start()
    got = []
    while deliverer.is_alive():
        got += fetch_and_delete(bob, inetd)
    got += fetch_and_delete(bob, inetd)
    assert not failed
    assert_same(got, arriving)


def test_a_second_session_is_refused_until_the_first_ends(inetd, bob):
    bob.maildrop.path.write_bytes(mailbox(FEW))
    with session(bob, inetd) as first:
        with Session.connect(inetd) as second:
            answer = second.login(bob.name, bob.password)
            assert answer.startswith(b"-ERR [IN-USE]"), answer
            assert b"locked" in answer
            assert second.rest() == b""
        assert first.cmd("DELE 1").startswith(b"+OK")
        assert first.cmd("QUIT").startswith(b"+OK")
    assert_same(fetch_and_delete(bob, inetd), FEW[1:])


@needs("strace")
def test_a_session_that_has_answered_quit_is_in_nobodys_way(inetd, bob):
    bob.maildrop.path.write_bytes(mailbox(FEW))
    with session(bob, inetd) as first:
        with tampered(bob, "close", "delay_enter=1s:when=1"):
            assert first.cmd("QUIT").startswith(b"+OK")
            assert_same(fetch_and_delete(bob, inetd), FEW)


@needs("fetchmail")
def test_fetchmail_tells_a_locked_maildrop_from_a_wrong_password(inetd, bob):
    with session(bob, inetd):
        with pytest.raises(AssertionError, match="fetchmail: 9"):  # "busy"
            clients.fetchmail(bob, inetd, keep=True)
    bob.password += "x"
    with pytest.raises(AssertionError, match="fetchmail: 3"):
        clients.fetchmail(bob, inetd, keep=True)


def kill(bob):
    os.kill(serving(bob), signal.SIGKILL)
    wait_for(lambda: not serving(bob))


@needs("procmail")
def test_a_killed_session_leaves_no_lock_and_deletes_nothing(inetd, bob):
    bob.maildrop.path.write_bytes(mailbox(FEW))
    with session(bob, inetd) as pop:
        assert pop.cmd("DELE 1").startswith(b"+OK")
        kill(bob)
        assert pop.rest() == b""
    assert not bob.maildrop.dotlock.exists()
    deliver("procmail", bob, LATE)
    assert_same(fetch_and_delete(bob, inetd), [*FEW, LATE])
    wait_for(lambda: not serving(bob))
    left = {path.name for path in users.SPOOL.glob(f"*{bob.name}*")}
    assert left == {bob.maildrop.path.name, bob.maildrop.side.name}


@needs("procmail", "strace")
def test_the_dotlock_of_a_killed_update_goes_with_the_next_login(inetd, bob):
    bob.maildrop.path.write_bytes(mailbox(FEW))
    with session(bob, inetd) as pop:
        assert pop.cmd("DELE 1").startswith(b"+OK")
        with tampered(bob, "ftruncate", "signal=SIGKILL"):
            pop.send(b"QUIT\r\n")
            assert pop.rest() == b""
    wait_for(lambda: not serving(bob))
    assert bob.maildrop.dotlock.exists()
    with session(bob, inetd) as pop:
        assert not bob.maildrop.dotlock.exists()
        deliver("procmail", bob, LATE)
    # Cut short, the deletion is finished or undone; nothing else is touched.
    left = fetch_and_delete(bob, inetd)
    assert_same(left, [*FEW[1:], LATE] if len(left) == 3 else [*FEW, LATE])
