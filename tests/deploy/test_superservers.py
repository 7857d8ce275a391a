"""A whole session under each superserver, with the lines of etc/."""

import re
import shlex
import shutil
import subprocess
import tempfile

import pytest

from harness import BUILD, mail, needs, needs_root
from host import ETC, SBIN, Host

pytestmark = [needs_root, needs("curl", "openssl", "stunnel")]


MAIL = [b"From: Bob <bob@example.org>", b"Subject: number 1", b"", b"Hello."]
OCTETS = sum(len(line) + 2 for line in MAIL)    # with CRLF


def program(package, path):
    """A superserver's program, installed or not.

    As packages they exclude each other: those that are not installed are
    unpacked in build/.
    """
    for file in path, f"{BUILD}/{package}{path}":
        if shutil.which(file):
            return file
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(f"apt-get download {package} && "
                              f"dpkg -x {package}_*.deb {BUILD}/{package}",
                              shell=True, cwd=folder, capture_output=True)
    if done.returncode:
        pytest.skip(f"needs {package}")
    return file


def inetd_conf(host):
    """The line for stunnel on port 995, the one for clear text on 110."""
    lines = re.findall(r"^pop3s\t.*|^#pop3\t.*\tpop3d$",
                       (ETC / "inetd.conf").read_text(), re.M)
    assert len(lines) == 2
    host.path("/etc/inetd.conf").write_text(
        "".join(line.lstrip("#") + "\n" for line in lines))


def openbsd_inetd(host):
    inetd_conf(host)
    host.serve(110, program("openbsd-inetd", "/usr/sbin/inetd"), "-i")


def inetutils_inetd(host):
    inetd_conf(host)
    server = program("inetutils-inetd", "/usr/sbin/inetutils-inetd")
    host.serve(110, server, "-d", "/etc/inetd.conf")


def xinetd(host):
    conf = (ETC / "xinetd.conf").read_text()
    tls, clear = re.findall(r"^service.*?^\}", conf, re.M | re.S)
    # As the comment there says: in clear, for this host's own programs.
    clear = clear.replace("= yes", "= no").replace(
        "/usr/bin/stunnel", f"{SBIN}/pop3d").replace(
        "\tserver_args\t= /etc/pop3d/stunnel-stls.conf\n", "")
    assert "server_args" not in clear
    host.path("/etc/xinetd.d").mkdir(exist_ok=True)
    host.path("/etc/xinetd.d/pop3d").write_text(f"{tls}\n{clear}\n")
    host.path("/etc/xinetd.conf").write_text("includedir /etc/xinetd.d\n")
    host.serve(110, program("xinetd", "/usr/sbin/xinetd"), "-dontfork")


def systemd(host):
    for unit, port in ("pop3s", 995), ("pop3d", 110):
        assert f"ListenStream={port}\n" in (ETC / f"{unit}.socket").read_text()
        command = re.search("^ExecStart=-(.*)",
                            (ETC / f"{unit}@.service").read_text(), re.M)[1]
        host.serve(port, "systemd-socket-activate", "--inetd", "-a", "-l",
                   str(port), *shlex.split(command))


def tcpserver(host):
    """Which etc/ has no lines for."""
    server = program("ucspi-tcp", "/usr/bin/tcpserver")
    host.serve(995, server, "-HRDl0", "0", "995", "stunnel",
               "/etc/pop3d/stunnel-pop3s.conf")
    host.serve(110, server, "-HRDl0", "0", "110", f"{SBIN}/pop3d")


@pytest.fixture(scope="module", params=[openbsd_inetd, inetutils_inetd, xinetd,
                                        systemd, tcpserver],
                ids=lambda it: it.__name__)
def host(request):
    with Host() as host:
        host.path("/etc/pop3d").mkdir()
        shutil.copy(ETC / "stunnel-pop3s.conf", host.path("/etc/pop3d"))
        host.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                 "-subj", "/CN=localhost", "-keyout", "/etc/pop3d/pop3s.pem",
                 "-out", "/etc/pop3d/cert.pem")
        host.run("sh", "-c", "cat /etc/pop3d/cert.pem >>/etc/pop3d/pop3s.pem")
        request.param(host)
        yield host


def test_a_whole_session(host):
    password = host.account("p3dgwhole")
    mailbox = host.deliver("p3dgwhole", 3)
    with host.connect(110) as session:
        assert session.line() == b"+OK POP3 server ready"
        assert b"SASL PLAIN" in session.multi("CAPA")[1]
        assert session.cmd("USER p3dgwhole").startswith(b"+OK")
        assert session.cmd(f"PASS {password}").startswith(b"+OK 3 ")
        assert session.cmd("STAT") == b"+OK 3 %d" % (3 * OCTETS)
        assert session.multi("LIST")[1] == [
            b"%d %d" % (n, OCTETS) for n in (1, 2, 3)]
        assert len({line.split()[1] for line in session.multi("UIDL")[1]}) == 3
        assert session.multi("RETR 1")[1] == MAIL
        assert session.multi("TOP 1 0")[1] == MAIL[:3]
        assert session.cmd("DELE 3").startswith(b"+OK")
        assert session.cmd("RSET").startswith(b"+OK")
        assert session.cmd("DELE 1").startswith(b"+OK")
        assert session.cmd("NOOP").startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
        assert session.rest() == b""
    assert mailbox.read_bytes() == mail(2) + mail(3)
    assert host.log(r"login: user=<p3dgwhole> ip=127\.0\.0\.1 .* tls=no ")
    assert host.log(r"logout: user=<p3dgwhole> ip=127\.0\.0\.1 .*dele=1")


def test_a_session_in_tls(host):
    password = host.account("p3dgtls")
    host.deliver("p3dgtls", 2)
    assert "Subject: number 2" in host.run(
        "curl", "-sSk", "-u", f"p3dgtls:{password}",
        "pop3s://localhost/2").stdout
    assert host.log(r"login: user=<p3dgtls> ip=(127\.0\.0\.1|::1) .* tls=yes ")
