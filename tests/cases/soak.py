#!/usr/bin/python3
"""The limits of time at their real length, of the real pop3d: eleven minutes.

make soak runs it, as root.
"""

import os
import select
import time
from concurrent.futures import ThreadPoolExecutor

import harness
import users
from harness import POP3D, Session
from mails import mail, mailbox

LOGIN = 60          # seconds to log in
AUTOLOGOUT = 600    # seconds without a command: RFC 1939, section 3
LATE = 30           # that the end of a session may come later than that
MAILS = mailbox([mail("first", "one\n"), mail("second", "two\n")])


def check(holds, what):
    if not holds:
        raise SystemExit(f"soak: {what}")


def ok(answer):
    check(answer.startswith(b"+OK"), f"answer {answer}")


def must_end(session, began, limit, what):
    """That the server closes the connection at limit, without a word."""
    select.select([session.reader], [], [], limit + LATE)
    seconds = time.monotonic() - began
    check(limit <= seconds <= limit + LATE, f"{what}: {seconds:.1f} s")
    check(session.rest() == b"", f"{what}: something was sent")
    print(f"{what}: closed after {seconds:.1f} s")


def silent_before_login(port, _):
    began = time.monotonic()
    with Session.connect(port) as pop:
        ok(pop.line())
        must_end(pop, began, LOGIN, "no login")


def slow_to_log_in(port, user):
    with Session.connect(port) as pop:
        ok(pop.line())
        ok(pop.cmd(f"USER {user.name}"))
        time.sleep(LOGIN - 5)
        ok(pop.cmd(f"PASS {user.password}"))
        time.sleep(10)
        ok(pop.cmd("QUIT"))
    print(f"login after {LOGIN - 5} s: served")


def silent_in_transaction(port, user):
    with Session.connect(port) as pop:
        ok(pop.login(user.name, user.password))
        began = time.monotonic()
        ok(pop.cmd("DELE 1"))
        must_end(pop, began, AUTOLOGOUT, "no command")
    check(user.maildrop.content == MAILS, "no command: mail was deleted")


def awake_in_time(port, user):
    with Session.connect(port) as pop:
        ok(pop.login(user.name, user.password))
        ok(pop.cmd("DELE 1"))
        time.sleep(AUTOLOGOUT - 10)
        ok(pop.cmd("NOOP"))
        time.sleep(LATE + 10)
        ok(pop.cmd("QUIT"))
    left = mailbox([mail("second", "two\n")])
    check(user.maildrop.content == left, "NOOP in time: no UPDATE")
    print(f"NOOP after {AUTOLOGOUT - 10} s: served")


def main():
    if os.geteuid() != 0:
        return print("soak.py: skipped: needs root")
    with users.pam_service(), harness.superserver("systemd", POP3D) as port, \
            users.user("p3dsoak1", MAILS) as one, \
            users.user("p3dsoak2", MAILS) as two, \
            users.user("p3dsoak3", MAILS) as three, \
            ThreadPoolExecutor() as threads:
        clients = [threads.submit(silent_before_login, port, None),
                   threads.submit(slow_to_log_in, port, one),
                   threads.submit(silent_in_transaction, port, two),
                   threads.submit(awake_in_time, port, three)]
        for client in clients:
            client.result()


main()
