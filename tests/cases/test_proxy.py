"""Behind HAProxy: the PROXY v1 line (-P), and more than one host."""

import contextlib
import re
import shutil

import pytest

from harness import (LOGIN, QUICK, STUB, USER, Session, mail, needs, needs_root, talk,
                     wait_for)
from host import ETC, SBIN, Host, link

LONGEST = b"PROXY UNKNOWN " + b"f" * (107 - 16) + b"\r\n"


@pytest.mark.parametrize("line, ip", [
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995\r\n", "192.0.2.7"),
    (b"PROXY TCP4 192.0.2.7 192.0.2.1 0 65535\r\n", "192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 995\r\n", "2001:db8::7"),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 1 2\r\n", "192.0.2.7"),
    (b"PROXY TCP6 fe80::7%eth0 fe80::1%eth0 1 2\r\n", "fe80::7"),
    (b"PROXY UNKNOWN\r\n", "unknown"),
    (b"PROXY UNKNOWN 192.0.2.7 192.0.2.1 56324 995\r\n", "unknown"),
    (LONGEST, "unknown"),
])
def test_the_line_tells_the_client(drop, line, ip):
    """What follows it in the same segment is served."""
    answers, status, log = talk(STUB, "-P", "-s", "-d", "-m", drop.path,
                                data=line + LOGIN + b"QUIT\r\n")
    assert len(re.findall(rb"^\+OK .*\r$", answers, re.M)) == 4
    assert f"login: user=<{USER}> ip={ip} " in log
    assert status == 0


@pytest.mark.parametrize("line", [
    b"",
    b"\r\n",
    LONGEST[:-2] + b"f\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 65536\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995\n",
    b"PROXY UNKNOWN\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995\r",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995 1\r\n",
    b"PROXY TCP4 192.0.2.7  192.0.2.1 56324 995\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995 \r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1  995\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 \r\n",
    b"PROXY\tTCP4\t192.0.2.7\t192.0.2.1\t56324\t995\r\n",
    b" PROXY TCP4 192.0.2.7 192.0.2.1 56324 995\r\n",
    b"proxy TCP4 192.0.2.7 192.0.2.1 56324 995\r\n",
    b"PROXY tcp4 192.0.2.7 192.0.2.1 56324 995\r\n",
    b"PROXY TCP5 192.0.2.7 192.0.2.1 56324 995\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 56324 995\r\n",
    b"PROXY TCP6 192.0.2.7 192.0.2.1 56324 995\r\n",
    b"PROXY TCP4 192.0.2.7 mail.example.net 56324 995\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.1 56324 995\r\n",
    b"PROXY TCP4 192.0.2 192.0.2.1 56324 995\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 -1\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 +1 995\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 99999999999999999999 995\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 0x50 995\r\n",
    b"PROXY TCP4 192.0.2.7\0 192.0.2.1 56324 995\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995\0\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY \r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXYUNKNOWN\r\n",
    # version 2
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\7\xc0\0\2\1\xdc\4\3\xe3",
    b"CAPA\r\n",
    b"GET / HTTP/1.1\r\n",
])
def test_whatever_else_ends_the_connection_without_a_word(drop, line):
    answers, status, log = talk(STUB, "-P", "-s", "-d", "-m", drop.path,
                                data=line + LOGIN + b"QUIT\r\n")
    assert answers == b""
    assert status == 0
    assert "login:" in log and " login: user=" not in log


def test_the_line_may_come_in_pieces(drop):
    with Session.run(STUB, "-P", "-s", "-m", drop.path) as session:
        for octet in b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995\r\n":
            session.send(bytes([octet]))
        assert session.login().startswith(b"+OK")


def test_half_a_line_is_waited_for_as_long_as_a_login(drop):
    with Session.run(QUICK, "-P", "-s", "-d", "-m", drop.path) as session:
        session.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 995")
        assert session.rest() == b""
        assert session.wait() == 0
        assert "reason=timeout" in session.log()


def test_without_the_option_the_line_is_nothing_special(drop):
    answers, _, log = talk(
        STUB, "-s", "-d", "-m", drop.path,
        data=b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n" + LOGIN + b"QUIT\r\n")
    status = [line[:4] for line in answers.splitlines()]
    assert status == [b"+OK ", b"-ERR", b"+OK ", b"+OK ", b"+OK "]
    assert "192.0.2.7" not in log


@pytest.mark.parametrize("address, taken", [
    (b"192.0.2.7", False), (b"127.0.0.1", True)])
def test_in_clear_the_clients_address_counts(drop, address, taken):
    """That of the line, not the proxy's."""
    with Session.run(STUB, "-P", "-m", drop.path) as session:
        session.send(b"PROXY TCP4 %b 192.0.2.1 56324 995\r\n" % address)
        assert session.line().startswith(b"+OK")
        assert (b"USER" in session.multi("CAPA")[1]) is taken


@pytest.mark.parametrize("line", [b"PROXY UNKNOWN", b"PROXY UNKNOWN 127.0.0.1 127.0.0.1 1 2"])
def test_an_unknown_client_is_not_this_host(drop, line):
    """Though the proxy may be."""
    with drop.session("-P", env={"TCPREMOTEIP": "127.0.0.1"}) as session:
        session.send(line + b"\r\n" + LOGIN)
        for _ in range(3):
            assert session.line().startswith(b"+OK")
        assert " ip=unknown " in session.log()
    with Session.run(STUB, "-P", env={"TCPREMOTEIP": "127.0.0.1"}) as session:
        session.send(line + b"\r\n")
        session.line()
        assert b"USER" not in session.multi("CAPA")[1]


# ---- HAProxy itself ----

@needs_root
@needs("haproxy", "inetd", "curl", "openssl")
def test_haproxy_ends_tls():
    """With the configuration and the inetd line of etc/haproxy.cfg."""
    conf = (ETC / "haproxy.cfg").read_text()
    line, = re.findall(r"^#\s+(1110\tstream.*)", conf, re.M)
    with Host() as host, Host() as client:
        link(host, client)
        host.path("/etc/pop3d").mkdir()
        host.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                 "-subj", "/CN=mail.example.net", "-addext",
                 "subjectAltName=DNS:mail.example.net", "-keyout",
                 "/etc/pop3d/pop3s.pem", "-out", "/etc/pop3d/cert.pem")
        cert = host.path("/etc/pop3d/cert.pem").read_text()
        with host.path("/etc/pop3d/pop3s.pem").open("a") as pem:
            pem.write(cert)
        client.path("/etc/ca.pem").write_text(cert)
        host.path("/etc/inetd.conf").write_text(f"{line}\n")
        host.serve(1110, "/usr/sbin/inetd", "-i")
        host.path("/etc/haproxy").mkdir(exist_ok=True)
        shutil.copy(ETC / "haproxy.cfg", host.path("/etc/haproxy"))
        host.serve(995, "haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg")
        password = host.account("p3dgproxy")
        host.deliver("p3dgproxy", 2)
        for server, ip in (("192.0.2.1", "192.0.2.7"),
                           ("[2001:db8::1]", "2001:db8::7")):
            assert "Subject: number 2" in client.run(
                "curl", "-sS", "--cacert", "/etc/ca.pem", "--connect-to",
                f"mail.example.net:995:{server}:995", "-u",
                f"p3dgproxy:{password}", "pop3s://mail.example.net/2").stdout
            assert host.log(rf"login: user=<p3dgproxy> ip={re.escape(ip)} "
                            ".* tls=yes")


# ---- more than one host ----

@pytest.fixture
def hosts():
    """Two hosts with the same accounts and spool, and a mailbox there."""
    with Host() as one, Host(like=one) as other:
        password = one.account("p3dgshared")
        mailbox = one.deliver("p3dgshared", 3)
        for host in one, other:
            host.serve(110, "systemd-socket-activate", "--inetd", "-a", "-l",
                       "110", f"{SBIN}/pop3d")
        yield one, other, password, mailbox


@contextlib.contextmanager
def session(host, password):
    with host.connect(110) as pop:
        yield pop, pop.login("p3dgshared", password)


@needs_root
@needs("systemd-socket-activate")
def test_one_session_on_all_hosts(hosts):
    """The second is refused; when the first quits, it gets in."""
    one, other, password, mailbox = hosts
    with session(one, password) as (first, answer):
        assert answer.startswith(b"+OK 3 ")
        with session(other, password) as (second, answer):
            assert answer.startswith(b"-ERR [IN-USE]")
            assert second.rest() == b""
        assert first.cmd("DELE 1").startswith(b"+OK")
        assert first.cmd("QUIT").startswith(b"+OK")
        assert first.rest() == b""
    assert mailbox.read_bytes() == mail(2) + mail(3)

    def third():
        with session(other, password) as (_, answer):
            return answer.startswith(b"+OK 2 ")

    wait_for(third)


@needs_root
@needs("systemd-socket-activate")
def test_a_killed_session_holds_nothing(hosts):
    """Its locks go with it, though no host can see the other's processes."""
    one, other, password, mailbox = hosts
    before = mailbox.read_bytes()
    with session(one, password) as (first, answer):
        assert answer.startswith(b"+OK 3 ")
        assert first.cmd("DELE 1").startswith(b"+OK")
        number = one.log(r"pop3d\[(\d+)\]: login: user=<p3dgshared>")[1]
        one.run("sh", "-c", f"kill -KILL {number}")
        assert first.rest() == b""

        def second():
            with session(other, password) as (pop, answer):
                return answer.startswith(b"+OK 3 ") and (
                    pop.cmd("DELE 3"), pop.cmd("QUIT"))

        assert [one[:3] for one in wait_for(second)] == [b"+OK", b"+OK"]
    assert mailbox.read_bytes() == before[:-len(mail(3))]


@needs_root
@needs("strace")
def test_one_host_completes_what_another_began(hosts):
    """Killed in the middle of UPDATE: half a mailbox, and a lock."""
    one, other, password, mailbox = hosts
    whole = mailbox.read_bytes()
    kill = ("strace", "-o", "/dev/null", "-P", "/var/mail/p3dgshared",
            "-e", "trace=fsync", "-e", "inject=fsync:signal=SIGKILL:when=2")
    with one.pop3d("-p", before=kill) as pop:
        assert pop.login("p3dgshared", password).startswith(b"+OK 3 ")
        assert pop.cmd("DELE 1").startswith(b"+OK")
        pop.send(b"QUIT\r\n")
        assert pop.rest() == b""
    assert mailbox.read_bytes() not in (whole, mail(2) + mail(3))
    assert mailbox.with_name("p3dgshared.lock").exists()
    with session(other, password) as (pop, answer):
        assert answer.startswith(b"+OK 2 ")
        assert pop.multi("RETR 1")[1][1] == b"Subject: number 2"
        assert pop.cmd("QUIT").startswith(b"+OK")
    assert mailbox.read_bytes() == mail(2) + mail(3)
    assert not mailbox.with_name("p3dgshared.lock").exists()
