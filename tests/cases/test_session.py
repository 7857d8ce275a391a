"""Sessions that a transcript cannot show: time, signals, writes, load."""

import contextlib
import fcntl
import os
import random
import re
import signal
import socket
import subprocess
import termios
import time

import pytest

from harness import (HASTY, LOGIN, PATIENCE, PATIENT, POP3D, QUICK, STUB,
                     Maildrop, Session, account, mail, needs, needs_root,
                     superserver, wait_for, waits_in)

# What HASTY and QUICK were made with.
AUTOLOGOUT_MIN, LOGIN_SECONDS, HANG_SECONDS = 4, 6, 10


def sent(message, lines=None):
    """What RETR or TOP sends of a message, as it is stored after From_."""
    text = message if message.endswith(b"\n") else message + b"\n"
    text = re.sub(rb"(?<!\r)\n", b"\r\n", text)
    if lines is not None:
        header, empty, body = text.partition(b"\r\n\r\n")
        body = body.split(b"\r\n")[:-1][:lines]
        text = header + empty + b"".join(line + b"\r\n" for line in body)
    return re.sub(rb"^\.", b"..", text, flags=re.M) + b".\r\n"


# ---- time ----

def test_autologout_says_nothing_and_removes_nothing(drop):
    before = drop.state()
    with drop.session(binary=HASTY) as session:
        start = time.monotonic()
        session.send(LOGIN + b"DELE 1\r\n")
        for _ in range(4):
            assert session.line().startswith(b"+OK")
        assert session.rest() == b""
        assert time.monotonic() - start >= AUTOLOGOUT_MIN
        assert session.wait() == 0
        assert "reason=autologout" in session.log()
    assert drop.state() == before


def test_a_command_puts_autologout_off(drop):
    with drop.session(binary=HASTY) as session:
        last = time.monotonic()
        session.login()
        start = time.monotonic()
        while time.monotonic() - start < AUTOLOGOUT_MIN + 1:
            before, last = last, time.monotonic()
            session.send(b"NOOP\r\n")
            if not session.read():  # only if we were so slow ourselves
                assert time.monotonic() - before >= AUTOLOGOUT_MIN
                break
            time.sleep(0.2)


def test_what_might_have_hung_ends_no_session_later(drop):
    with drop.session("-t", "60", binary=HASTY) as session:
        session.login()
        session.multi("RETR 1")
        time.sleep(HANG_SECONDS + 1)
        assert session.cmd("NOOP").startswith(b"+OK")


def test_the_time_to_log_in_is_limited_in_all(drop):
    # Late in a second of the clock: its nanoseconds count, too.
    time.sleep((0.8 - time.monotonic()) % 1)
    start = time.monotonic()
    with drop.session(binary=QUICK) as session:
        assert session.line().startswith(b"+OK")
        while time.monotonic() - start < PATIENCE:
            session.send(b"USER alice\r\n")
            if not session.read():
                break
            time.sleep(0.3)
        assert LOGIN_SECONDS <= time.monotonic() - start < PATIENCE
        assert session.wait() == 0
        seconds = re.search(r"seconds=(\d+) reason=timeout$", session.log(), re.M)
        assert LOGIN_SECONDS - 1 <= int(seconds[1]) <= time.monotonic() - start + 1


def test_a_client_that_does_not_read_is_left(tmp_path):
    drop = Maildrop(tmp_path / "alice",
                    mail(1) + mail(2, body=200000 * b"more\n"))
    before = drop.state()
    with drop.session(binary=HASTY) as session:
        session.login()
        session.send(b"DELE 1\r\nRETR 2\r\nQUIT\r\n")
        assert session.wait() == 0
        assert "reason=autologout" in session.log()
    assert drop.state() == before


# ---- the end ----

@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_a_session_without_update(drop, number):
    before = drop.state()
    with drop.session() as session:
        session.login()
        assert session.cmd("DELE 1").startswith(b"+OK")
        session.process.send_signal(getattr(signal, number))
        assert session.rest() == b""
        assert session.wait() == 0
        assert "reason=signal" in session.log()
    assert drop.state() == before


@contextlib.contextmanager
def signalled_in_quit(drop, number, binary=STUB):
    """A session that deletes, and in QUIT waits for another's lock."""
    with drop.session(binary=binary) as session:
        session.login()
        assert session.cmd("DELE 1").startswith(b"+OK")
        with drop.path.open("r+b") as deliverer:
            fcntl.lockf(deliverer, fcntl.LOCK_EX)
            session.send(b"QUIT\r\n")
            wait_for(lambda: fcntl.ioctl(session.writer, termios.FIONREAD,
                                         bytes(4)) == bytes(4))
            session.process.send_signal(getattr(signal, number))
            yield session, deliverer


ENDING = ["SIGALRM", "SIGHUP", "SIGINT", "SIGTERM"]


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_during_a_quit_that_fails_comes_too_late(drop, number):
    """That nothing was deleted is told to the client, and to the log."""
    with signalled_in_quit(drop, number) as (session, _):
        assert session.line().startswith(b"-ERR [SYS/TEMP] mailbox is ")
        session.end()
        assert session.rest() == b""
        assert session.wait() == 0
        log = session.log()
    assert "maildrop failed: user=<alice> " in log and " at=update " in log
    assert " dele=0 left=3 " in log and "reason=maildrop" in log
    assert drop.content == mail(1) + mail(2) + mail(3)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_during_quit_comes_too_late(drop, number):
    """What was deleted is told to the client, and to the log."""
    with signalled_in_quit(drop, number, PATIENT) as (session, deliverer):
        fcntl.lockf(deliverer, fcntl.LOCK_UN)
        assert session.rest() == b"+OK bye\r\n"
        assert session.wait() == 0
        assert " dele=1 left=2 " in session.log()
        assert "reason=quit" in session.log()
    assert drop.content == mail(2) + mail(3)


def test_a_signal_ends_a_session_before_the_login():
    with Session.run(STUB, "-p") as session:
        assert session.line().startswith(b"+OK")
        session.process.terminate()
        assert session.rest() == b""
        assert session.wait() == 0


def test_a_client_that_went_while_it_was_sent_to(tmp_path):
    drop = Maildrop(tmp_path / "alice",
                    mail(1) + mail(2, body=200000 * b"more\n"))
    before = drop.state()
    with drop.session() as session:
        session.login()
        session.send(b"DELE 1\r\nRETR 2\r\nQUIT\r\n")
        session.process.stdout.close()
        assert session.wait() == 0
        assert "reason=write" in session.log()
    assert drop.state() == before


@pytest.mark.parametrize("command", ["RETR 1", "TOP 1 0", "UIDL 1"])
def test_a_signal_after_mail_was_read_is_logged(drop, command):
    """It is let in only while a file system may hang."""
    drop.path.write_bytes(mail(1, header=b"X-UIDL: one\n"))
    with drop.session() as session:
        session.login()
        assert session.cmd(command).startswith(b"+OK")
        if command != "UIDL 1":
            session.body()
        session.process.terminate()
        assert session.rest() == b""
        assert session.wait() == 0
        assert "reason=signal" in session.log()


@needs("strace")
def test_an_update_may_take_longer_than_autologout(drop):
    """Then its answer is waited for anew."""
    slow = f"inject=fsync:delay_enter={AUTOLOGOUT_MIN + 1}s:when=1"
    with Session.run("strace", "-o", "/dev/null", "-e", "trace=fsync", "-e", slow,
                     HASTY, "-p", "-m", drop.path) as session:
        session.login()
        assert session.cmd("DELE 1").startswith(b"+OK")
        assert session.cmd("QUIT") == b"+OK bye"
    assert drop.content == mail(2) + mail(3)


@needs("strace")
def test_a_client_that_can_take_nothing_after_all_is_waited_for(drop):
    """Somebody else may have filled the same pipe."""
    with Session.run("strace", "-o", "/dev/null", "-e", "trace=write", "-e",
                     "inject=write:error=EAGAIN:when=1..3", STUB, "-p", "-m",
                     drop.path) as session:
        assert session.login().startswith(b"+OK 3 ")
        assert session.cmd("QUIT") == b"+OK bye"


def test_nothing_is_left_beside_the_mailbox(drop):
    with drop.session() as session:
        session.login()
        session.cmd("DELE 1")
        session.cmd("QUIT")
        session.wait()
    assert sorted(os.listdir(drop.path.parent)) == [drop.side.name, "alice"]
    assert drop.side.stat().st_mode & 0o777 == 0o600


# ---- the farewell ----

HEARD_AGAIN = 20        # lines
BAD_COMMANDS = 20       # in a row


def test_thunderbird_hears_why_it_was_refused(drop):
    """It tries its second way to log in at once, and shows the last answer."""
    with drop.session(binary=PATIENT) as first, \
            drop.session(binary=PATIENT) as second:
        assert first.login().startswith(b"+OK")
        second.line()
        second.multi("CAPA")
        assert second.cmd("AUTH PLAIN") == b"+ "
        answer = second.cmd("AGFsaWNlAHNlY3JldA==")
        assert answer.startswith(b"-ERR [IN-USE] ") and b"lock" in answer
        assert second.cmd("USER alice") == answer
        assert second.cmd("PASS secret") == answer
        assert second.cmd("QUIT").startswith(b"+OK")
        assert second.rest() == b""
        assert "no login: ip=unknown seconds=" in second.log()
        assert second.log().rstrip().endswith("reason=maildrop")


def test_who_says_farewell_holds_nothing(tmp_path):
    drop = Maildrop(tmp_path / "alice", b"Dear diary\n")
    with drop.session(binary=PATIENT) as refused:
        assert refused.login() == b"-ERR [SYS/PERM] not a mailbox"
        drop.path.write_bytes(mail(1))
        with drop.session() as session:
            assert session.login().startswith(b"+OK 1 ")
        assert refused.cmd("STAT") == b"-ERR [SYS/PERM] not a mailbox"


def test_who_said_too_much_that_is_no_command_holds_nothing(drop):
    with drop.session(binary=PATIENT) as bad:
        bad.login()
        for _ in range(BAD_COMMANDS):
            assert bad.cmd("BAD").startswith(b"-ERR")
        with drop.session() as session:
            assert session.login().startswith(b"+OK 3 ")
        assert bad.cmd("STAT").startswith(b"-ERR")
        assert " dele=0 left=3 " in bad.log()


def refusals(session, more=b""):
    """Three refused logins, and more lines, in one segment."""
    session.send(3 * b"AUTH PLAIN AGJvYgB4\r\n" + more)
    assert session.line().startswith(b"+OK")
    return [session.line() for _ in range(3)]


def test_a_farewell_has_an_end(drop):
    """In time, and in lines; the log does not wait for it."""
    with drop.session() as silent:      # 1 s
        refusals(silent)
        wait_for(lambda: "reason=refused" in silent.log())
        assert silent.rest() == b""
        assert silent.wait() == 0
        assert silent.log().count("no login") == 1
    with drop.session(binary=PATIENT) as session:
        answer = refusals(session, (HEARD_AGAIN + 5) * b"NOOP\r\n")[0]
        assert session.rest().split(b"\r\n") == [*HEARD_AGAIN * [answer], b""]
        assert session.wait() == 0


@pytest.mark.parametrize("line", [b"QU\0IT", b"x" * 20000], ids=["with NUL", "too long"])
def test_in_a_farewell_every_line_is_answered(drop, line):
    with drop.session(binary=PATIENT) as session:
        answer = refusals(session, line + b"\r\nQUIT\r\n")[0]
        assert session.rest() == answer + b"\r\n+OK bye\r\n"
        assert session.wait() == 0


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_a_farewell(drop, number):
    """The log has had its line."""
    with drop.session(binary=PATIENT) as session:
        refusals(session)
        wait_for(lambda: "reason=refused" in session.log())
        assert session.cmd("NOOP").startswith(b"-ERR [AUTH] ")
        session.process.send_signal(getattr(signal, number))
        assert session.rest() == b""
        assert session.wait() == 0
        assert session.log().count("no login") == 1
        assert "reason=signal" not in session.log()


def test_a_client_that_sends_on_loses_no_answer():
    """Octets that nobody reads would reset the connection."""
    with superserver("systemd", PATIENT, "-p") as port, \
            Session.connect(port) as session:
        answer = refusals(session, 5 * b"NOOP\r\n")[0]
        for _ in range(5):
            assert session.line() == answer
        assert session.cmd("QUIT").startswith(b"+OK")
        session.send(b"NOOP\r\n")
        assert session.sock.recv(1) == b""
        session.send(b"NOOP\r\n")
        session.end()
        assert session.sock.recv(1) == b""


def test_what_a_client_sends_on_is_read_however_much_it_is():
    ours, its = socket.socketpair()
    ours.settimeout(PATIENCE)
    with ours, Session(ours.fileno(), ours.fileno(), sock=ours) as session:
        with its:
            process = subprocess.Popen([PATIENT, "-p"], stdin=its, stdout=its)
        with process:
            refusals(session)
            assert session.cmd("QUIT").startswith(b"+OK")
            assert session.rest() == b""
            ours.sendall(10**6 * b"x")      # more than a socket holds
            session.end()
            assert process.wait(PATIENCE) == 0


def test_a_client_that_vanished_is_gone_in_two_minutes():
    """By TCP's keep-alive; and replies do not wait for more to send."""
    ours, its = socket.create_server(("127.0.0.1", 0)), socket.socket()
    with ours, its:
        its.connect(ours.getsockname())
        served, _ = ours.accept()
        with served, subprocess.Popen([STUB, "-p"], stdin=served,
                                      stdout=served) as process:
            assert its.recv(100).startswith(b"+OK")
            its.close()
            process.wait(PATIENCE)
            keep = [served.getsockopt(socket.IPPROTO_TCP, name)
                    for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL,
                                 socket.TCP_KEEPCNT)]
            assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert keep[0] + keep[1] * keep[2] == 120, keep
            assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# ---- two sessions ----

SESSION_SECONDS = 5     # in pop3d; 30 in PATIENT


@pytest.mark.parametrize("end, answer, left", [
    ("QUIT", b"+OK bye", mail(2) + mail(3)),
    ("the client is gone", b"", mail(1) + mail(2) + mail(3))],
    ids=["by QUIT", "without QUIT"])
def test_a_second_session_waits_for_the_first_to_end(drop, end, answer, left):
    """It sees the mailbox as the first one leaves it."""
    with drop.session() as first, drop.session(binary=PATIENT) as second:
        assert first.login().startswith(b"+OK 3 ")
        assert first.cmd("DELE 1").startswith(b"+OK")
        second.line()
        second.cmd("USER alice")
        second.send(b"PASS secret\r\n")
        wait_for(lambda: waits_in("nanosleep", second))
        if end == "QUIT":
            first.send(b"QUIT\r\n")
        first.end()
        assert first.rest().rstrip() == answer
        assert second.line().startswith(b"+OK %d " % left.count(b"From bob"))
        assert second.cmd("QUIT").startswith(b"+OK")
    assert drop.content == left


def test_a_second_session_is_refused_when_it_has_waited(drop):
    with drop.session() as first, drop.session() as second:
        assert first.login().startswith(b"+OK")
        start = time.monotonic()
        answer = second.login()
        assert time.monotonic() - start >= SESSION_SECONDS - 1
        assert answer.startswith(b"-ERR [IN-USE] ") and b"lock" in answer
        assert second.rest() == b""
        assert f"held by pid {first.process.pid}" in second.log()
        assert first.cmd("STAT").startswith(b"+OK 3 ")
        assert first.cmd("QUIT").startswith(b"+OK")
        first.wait()
        with drop.session() as third:
            assert third.login().startswith(b"+OK")


def test_a_side_file_that_was_replaced_is_no_session_lock(drop):
    """Who waited for the first to end has locked what nobody looks for."""
    with drop.session() as first, drop.session(binary=PATIENT) as second:
        assert first.login().startswith(b"+OK 3 ")
        second.line()
        second.cmd("USER alice")
        second.send(b"PASS secret\r\n")
        wait_for(lambda: waits_in("nanosleep", second))
        drop.side.unlink()
        with drop.session() as third:
            assert third.login().startswith(b"+OK 3 ")
            first.cmd("QUIT")
            assert second.line().startswith(b"-ERR [IN-USE] ")
            assert "the side file was replaced" in second.log()


def test_a_killed_session_leaves_no_lock(drop):
    before = drop.state()
    with drop.session() as session:
        session.login()
        session.cmd("DELE 1")
        session.process.kill()
        session.wait()
    with drop.session() as session:
        assert session.login().startswith(b"+OK")
        assert session.cmd("STAT").startswith(b"+OK 3 ")
        assert session.cmd("QUIT").startswith(b"+OK")
        session.wait()
    assert drop.state() == before
    assert sorted(os.listdir(drop.path.parent)) == [drop.side.name, "alice"]


# ---- writes ----

def traced(drop, trace):
    """A session under strace: its writes to the client are in trace."""
    return Session.run("strace", "-o", trace, "-e", "trace=write", "-e",
                       "signal=none", STUB, "-p", "-m", drop.path)


def writes(trace):
    return [int(size) for size in re.findall(r"^write\(1, .* = (\d+)$",
                                             trace.read_text(), re.M)]


@needs("strace")
def test_a_reply_is_one_write(tmp_path):
    drop = Maildrop(tmp_path / "alice", mail(1, body=100 * b".thirty octets "
                                             b"in this line.\n"))
    replies = []
    with traced(drop, tmp_path / "trace") as session:
        replies.append(session.line())
        for line in ("USER alice", "PASS secret", "RETR 1"):
            replies.append(session.cmd(line))
        body = session.body()
        assert len(body) > 100
        replies.append(session.cmd("QUIT"))
        session.wait()
    sizes = [len(reply) + 2 for reply in replies]
    sizes[3] += sum(len(line) + 2 + line.startswith(b".") for line in body) + 3
    assert sizes[3] > 3072
    assert writes(tmp_path / "trace") == sizes


@needs("strace")
def test_a_pipelined_session_is_answered_in_one_write(drop, tmp_path):
    with traced(drop, tmp_path / "trace") as session:
        session.line()
        session.send(LOGIN + b"STAT\r\nRETR 1\r\nTOP 2 0\r\nUIDL\r\nQUIT\r\n")
        answers = session.rest()
        assert answers.count(b"+OK") == 7
        session.wait()
    assert writes(tmp_path / "trace")[1:] == [len(answers)]


@needs("strace")
def test_a_message_takes_few_system_calls(drop, tmp_path):
    """Three that move octets, two for the look whether it changed just now, two
    that wait, one that a pipe takes more than a socket, and five in case that
    a read hangs."""
    def calls(messages):
        trace = tmp_path / f"trace{messages}"
        with Session.run("strace", "-o", trace, "-e", "trace=!clock_gettime",
                         "-e", "signal=none", STUB, "-p", "-m",
                         drop.path) as session:
            session.login()
            for _ in range(messages):
                session.multi("RETR 1")
            session.cmd("QUIT")
            session.wait()
        return len(trace.read_text().splitlines())
    assert 100 * 10 < calls(102) - calls(2) < 100 * 14


# ---- messages of all sorts ----

@pytest.mark.parametrize("seed", range(8))
def test_any_message_is_sent_as_it_is(seed, tmp_path):
    chance = random.Random(seed)
    pieces = [b".", b"..", b"\n", b"\r\n", b"\n.\n", b"\r", b"x", b" ", b"\0",
              b"\xff", b"a line\n", b"y" * 5000, b"Fro", b">From "]
    header = b"From: Bob\nSubject: %d\n" % seed
    messages = [header + b"\n" + b"".join(chance.choices(
        pieces, k=chance.choice((10, 200, 3000)))) + b"end\n"
        for _ in range(5)]
    messages.append(header + b"\n" + 40000 * b".\n")
    from_line = b"From bob@example.org Thu Nov  5 10:01:00 2026\n"
    drop = Maildrop(tmp_path / "alice", b"".join(
        from_line + message + b"\n" for message in messages))
    with drop.session() as session:
        session.login()
        session.send(b"".join(
            b"RETR %d\r\nTOP %d 0\r\nTOP %d 7\r\nTOP %d 9999\r\n"
            % ((number,) * 4) for number in range(1, 1 + len(messages))))
        session.end()
        answers = session.rest()
    for message in messages:
        for lines in (None, 0, 7, 9999):
            status, _, answers = answers.partition(b"\r\n")
            assert status.startswith(b"+OK")
            want = sent(message, lines)
            assert answers[:len(want)] == want
            answers = answers[len(want):]
    assert answers == b""


def test_ten_thousand_messages(tmp_path):
    drop = Maildrop(tmp_path / "alice", b"".join(map(mail, range(10000))))
    with drop.session() as session:
        session.login()
        assert session.cmd("STAT").startswith(b"+OK 10000 ")
        ids = [line.split()[1] for line in session.multi("UIDL")[1]]
        assert len(set(ids)) == 10000
        session.send(b"".join(b"DELE %d\r\n" % number
                              for number in range(2, 10001, 2)))
        for _ in range(5000):
            assert session.line().startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.content == b"".join(map(mail, range(0, 10000, 2)))


# ---- the real thing ----

@needs_root
def test_a_real_session_is_the_users():
    """Ids, groups and title of the process, a real account, /var/mail."""
    with account("p3da_real") as who:
        drop = Maildrop(f"/var/mail/{who.name}", mail(1) + mail(2))
        os.chown(drop.path, who.uid, 8)
        drop.path.chmod(0o660)
        with Session.run(POP3D, "-p", "-d") as session:
            assert session.login(who.name, who.password).startswith(b"+OK")
            with open(f"/proc/{session.process.pid}/status") as status:
                have = dict(line.split(":", 1) for line in status)
            assert have["Uid"].split() == 4 * [str(who.uid)]
            mail_gid = str(os.stat("/var/mail").st_gid)
            assert have["Gid"].split() == [str(who.gid), str(who.gid),
                                           mail_gid, str(who.gid)]
            assert have["Groups"].split() == [str(who.gid)]
            assert have["NoNewPrivs"].strip() == "1"
            with open(f"/proc/{session.process.pid}/cmdline") as title:
                assert f"{who.name} unknown" in title.read()
            assert session.cmd("DELE 1").startswith(b"+OK")
            assert session.cmd("QUIT").startswith(b"+OK")
            session.wait()
        assert drop.content == mail(2)
        assert not drop.dotlock.exists()


@needs_root
def test_real_refusals_look_alike():
    """Wrong password, unknown user, root: code, text and two seconds."""
    with account("p3da_real") as who, contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(Session.run(POP3D, "-p"))
                    for _ in range(3)]
        for session, user in zip(sessions, (who.name, "p3da_nobody", "root")):
            session.line()
            session.cmd(f"USER {user}")
        start = time.monotonic()
        for session in sessions:
            session.send(b"PASS wrong\r\n")
        answers = [session.line() for session in sessions]
        assert time.monotonic() - start >= 1.99
        assert answers[0].startswith(b"-ERR [AUTH] ")
        assert set(answers) == {answers[0]}
