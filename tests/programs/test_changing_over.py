"""From another POP3 server to pop3d and back: clients that leave mail on the
server notice nothing.  The others conflict as Debian packages: `make others'
unpacks them.  dovecot and UW ipop3d: test_keep_uidl.py."""

import re

import pytest

from harness import BUILD, needs, needs_root
from host import SBIN, Host

OTHERS = BUILD / "others"
PROGRAMS = [OTHERS / "usr/sbin/popa3d", OTHERS / "usr/sbin/pop3d"]
POPA3D, MAILUTILS, POP3D = 1110, 1111, 110      # their ports

pytestmark = [needs_root, needs("systemd-socket-activate"),
              needs(*map(str, PROGRAMS))]

# As Postfix and procmail leave them; the last without what ids are made of.
MAILS = [
    b"From alice@example.org  Mon Jan  5 10:00:01 2026\n"
    b"Return-Path: <alice@example.org>\nX-Original-To: p3dbob\n"
    b"Delivered-To: p3dbob@host.example\n"
    b"Received: from mx.example.org (mx.example.org [192.0.2.1])\n"
    b"\tby host.example (Postfix) with ESMTP id ABC123\n"
    b"\tfor <p3dbob>; Mon,  5 Jan 2026 10:00:01 +0000 (UTC)\n"
    b"Date: Mon, 05 Jan 2026 09:59:57 +0000\nFrom: alice\nSubject: one\n\n1\n\n",
    b"From bob Mon Jan  5 10:05:00 2026\nFrom: bob\n"
    b"Date: Mon, 05 Jan 2026 10:05:00 +0000\n"
    b"Message-Id: <second@example.org>\nSubject: two\n\n2\n\n",
    b"From eve Mon Jan  5 10:06:00 2026\n"
    b"DATE: Mon, 05 Jan 2026 10:06:00 +0000\nmessage-id: <third@x>\n"
    b"received: from x by y; Mon, 5 Jan 2026 10:06:01 +0000\n"
    b"X-Delivery-ID: qq-77\nSubject: three\n\n3\n\n",
]


@pytest.fixture
def host():
    with Host() as host:
        host.password = host.account("p3dbob")
        host.run("useradd", "-r", "popa3d", check=False)  # or it is there
        # Where popa3d, and mailutils, keep files: not this machine's.
        host.run("mount", "-t", "tmpfs", "none", "/var/lib")
        host.run("mkdir", "-p", "/var/lib/popa3d")
        for service in "popa3d", "gnu-pop3d":
            host.path(f"/etc/pam.d/{service}").write_text(
                "@include common-auth\n@include common-account\n")
        for name in PROGRAMS:
            target = host.path(f"/usr/local/sbin/other-{name.name}")
            target.write_bytes(name.read_bytes())
            target.chmod(0o755)
        serve(host, POPA3D, f"{SBIN}/other-popa3d")
        serve(host, MAILUTILS, f"{SBIN}/other-pop3d", "--inetd")
        serve(host, POP3D, f"{SBIN}/pop3d")
        yield host


def serve(host, port, *command):
    host.serve(port, "systemd-socket-activate", "--inetd", "-a", "-l",
               f"127.0.0.1:{port}", *command)


def deliver(host, *mails):
    box = host.path("/var/mail/p3dbob")
    with box.open("ab") as mailbox:
        mailbox.writelines(mails)
    host.run("chown", "p3dbob:mail", "/var/mail/p3dbob")
    host.run("chmod", "660", "/var/mail/p3dbob")
    return box


def unique_ids(host, port):
    with host.connect(port) as session:
        assert session.login("p3dbob", host.password).startswith(b"+OK")
        ids = [line.split()[1] for line in session.multi("UIDL")[1]]
        assert session.cmd("QUIT").startswith(b"+OK")
        return ids


def fetchmail(host, port):
    """The subjects of what it fetches; all is kept on the server."""
    rc = host.path("/home/fetchmailrc")
    rc.write_text(f"poll 127.0.0.1 proto pop3 service {port} uidl user p3dbob "
                  f'password "{host.password}" keep mda "cat >>/home/fetched"\n')
    rc.chmod(0o600)
    host.path("/home/fetched").write_text("")
    done = host.run("env", "FETCHMAILHOME=/home", "fetchmail", "-f",
                    "/home/fetchmailrc", "--sslproto", "", check=False)
    assert done.returncode in (0, 1), done.stdout       # 1: no new mail
    return re.findall("^Subject: (.*)$", host.path("/home/fetched").read_text(),
                      re.M)


@needs("fetchmail")
def test_fetchmail_notices_no_change_from_popa3d_and_back(host):
    deliver(host, *MAILS[:2])
    for server, new, fetched in [
            (POPA3D, [], ["one", "two"]), (POP3D, [], []),
            (POP3D, [MAILS[2]], ["three"]), (POPA3D, [], [])]:
        deliver(host, *new)
        assert fetchmail(host, server) == fetched, server


def test_the_ids_are_those_of_popa3d(host):
    deliver(host, *MAILS)
    ids = unique_ids(host, POP3D)
    assert ids == unique_ids(host, POPA3D) and len(ids) == 3


def test_the_ids_that_mailutils_wrote_are_kept(host):
    box = deliver(host, *MAILS)
    theirs = unique_ids(host, MAILUTILS)
    assert box.read_bytes().count(b"\nX-UIDL: ") == 3
    assert unique_ids(host, POP3D) == theirs
