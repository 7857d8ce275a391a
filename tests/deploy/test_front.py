"""Programs in front of pop3d that README names beside HAProxy: nginx,
perdition; and Debian's monitoring plugin."""

import pathlib
import re

import pytest

from harness import needs, needs_root
from host import ETC, SBIN, Host, link

pytestmark = needs_root

CHECK_POP = "/usr/lib/nagios/plugins/check_pop"
README = (ETC.parent / "README").read_text()
PERDITION = ["/usr/sbin/perdition.pop3", "--no_daemon", "--ssl_mode", "none",
             "--outgoing_server", "127.0.0.1:110", "--server_resp_line"]


def serve(host, port, *options):
    host.serve(port, "systemd-socket-activate", "--inetd", "-a", "-l",
               f"127.0.0.1:{port}", f"{SBIN}/pop3d", *options)


def certificate(host):
    host.path("/etc/pop3d").mkdir(exist_ok=True)
    host.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
             "-subj", "/CN=localhost", "-days", "20", "-keyout", "/home/key",
             "-out", "/home/certificate")
    host.path("/etc/pop3d/pop3s.pem").write_text(
        host.path("/home/key").read_text() +
        host.path("/home/certificate").read_text())


def fetch(host, url, password):
    return host.run("curl", "-sS", "-k", "-m", "60", "-u",
                    f"p3dalice:{password}", url).stdout


@needs("nginx", "curl", "openssl")
def test_nginx_ends_tls_and_tells_the_address():
    with Host() as host, Host() as client:
        link(host, client)
        certificate(host)
        # As on Debian: modules first, events, and what README adds.
        host.path("/etc/nginx.conf").write_text(
            "include /etc/nginx/modules-enabled/*.conf;\n"
            "pid /run/nginx.pid;\nerror_log stderr;\nevents {}\n" +
            (ETC / "nginx.conf").read_text())
        serve(host, 1110, "-P", "-s")
        host.serve(995, "nginx", "-g", "daemon off;", "-c", "/etc/nginx.conf")
        password = host.account("p3dalice")
        host.deliver("p3dalice")
        assert "Subject: number 1" in fetch(client, "pop3s://192.0.2.1/1",
                                            password)
        host.log(r"login: user=<p3dalice> ip=192\.0\.2\.7 .* tls=yes")


@needs("/usr/sbin/perdition.pop3", "curl")
def test_perdition_passes_sessions_and_refusals_on():
    with Host() as host, Host() as client:
        link(host, client)
        serve(host, 110)
        host.serve(1110, *PERDITION, "--listen_port", "1110")
        password = host.account("p3dalice")
        host.deliver("p3dalice")
        assert "Subject: number 1" in fetch(client, "pop3://192.0.2.1:1110/1",
                                            password)
        # It speaks POP3 itself: pop3d sees its address.
        host.log(r"login: user=<p3dalice> ip=127\.0\.0\.1 ")
        with client.connect(1110, "192.0.2.1") as session:
            assert b"[AUTH]" in session.login("p3dalice", "wrong")


@pytest.mark.skipif(not pathlib.Path(CHECK_POP).exists(),
                    reason="needs monitoring-plugins-basic")
@needs("openssl", "stunnel")
def test_check_pop_finds_the_server_and_the_end_of_its_certificate():
    line, = re.findall(r"^\t(\S+/check_pop) (.*)$", README, re.M)
    assert line[0] == CHECK_POP
    with Host() as host:
        certificate(host)
        host.path("/etc/pop3d/stunnel-pop3s.conf").write_text(
            (ETC / "stunnel-pop3s.conf").read_text())
        host.serve(995, "systemd-socket-activate", "--inetd", "-a", "-l", "995",
                   "/usr/bin/stunnel", "/etc/pop3d/stunnel-pop3s.conf")
        words = line[1].split()
        good = host.run(CHECK_POP, *words)
        assert "will expire" in good.stdout
        words[words.index("14")] = "30"
        late = host.run(CHECK_POP, *words, check=False)
        assert late.returncode == 1 and "WARNING" in late.stdout
