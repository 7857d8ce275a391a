"""TLS by stunnel and tlswrapper: every wrapper, superserver and client.

The lines of etc/ as they stand, a certificate made here, and a client on
another host, who checks it.
"""

import base64
import concurrent.futures
import contextlib
import re
import shlex
import shutil
import socket
import ssl
import typing

import pytest

from harness import PATIENCE, needs, needs_root
from host import ETC, SBIN, Host, link

pytestmark = [needs_root, needs(
    "curl", "fetchmail", "getmail", "inetd", "mpop", "openssl", "stunnel",
    "systemd-socket-activate", "tlswrapper")]

NAME = "mail.example.net"
CLIENT = "192.0.2.7"        # the client's address, as logs have it

WRAPPERS = {    # port, what tells the lines in etc/ from others
    "stunnel, implicit TLS": (995, "stunnel-pop3s.conf"),
    "tlswrapper, implicit TLS": (995, "bin/tlswrapper"),
    "stunnel, STLS": (110, "stunnel-stls.conf"),
}


def inetd(host, port, mark):
    """inetd with that line of inetd.conf alone."""
    line, = re.findall(f"^#?(.*{mark}.*)", (ETC / "inetd.conf").read_text(),
                       re.M)
    host.run("tee", "/run/inetd.conf", input=f"{line}\n")
    host.serve(port, "/usr/sbin/inetd", "-i", "/run/inetd.conf")


def systemd(host, port, mark):
    """What systemd does for the socket and that service, without systemd."""
    units = [(ETC / "pop3s@.service").read_text(),
             (ETC / "tlswrapper.conf").read_text()]
    if mark == "stunnel-stls.conf":
        units[0] = units[0].replace("stunnel-pop3s.conf", mark)
    command, = re.findall(f"^ExecStart=-(.*{mark}.*)", "".join(units), re.M)
    host.serve(port, "systemd-socket-activate", "--inetd", "-a", "-l",
               str(port), *shlex.split(command))


SERVERS = {"inetd": inetd, "systemd": systemd}


def curl(host, port, user, password):
    url = f"pop3s://{NAME}" if port == 995 else f"pop3://{NAME}"
    base = ["curl", "-sS", "--ssl-reqd", "--cacert", "/etc/ca.pem",
            "-u", f"{user}:{password}"]
    mail = host.run(*base, f"{url}/1").stdout
    host.run(*base, f"{url}/1", "-X", "DELE", "-l")
    return mail


def s_client(host, port, user, password):
    starttls = ["-starttls", "pop3"] if port == 110 else []
    return host.run(
        "openssl", "s_client", "-quiet", "-crlf", "-verify_return_error",
        "-CAfile", "/etc/ca.pem", "-verify_hostname", NAME, *starttls,
        "-connect", f"{NAME}:{port}",
        input=f"USER {user}\nPASS {password}\nRETR 1\nDELE 1\nQUIT\n").stdout


def fetchmail(host, port, user, password):
    rc = host.path("/home/fetchmailrc")
    tls = "ssl" if port == 995 else "sslproto TLS1.2+"
    rc.write_text(f'poll {NAME} proto pop3 service {port} user {user} '
                  f'password "{password}" {tls} sslcertck '
                  'sslcertfile /etc/ca.pem mda "cat >> /home/fetchmail"\n')
    rc.chmod(0o600)
    host.run("env", "FETCHMAILHOME=/home", "fetchmail", "-f",
             "/home/fetchmailrc", "-s")
    return take(host, "fetchmail")


def mpop(host, port, user, password):
    rc = host.path("/home/mpoprc")
    rc.write_text(f"account it\nhost {NAME}\nport {port}\nuser {user}\n"
                  f"password {password}\nauth on\ntls on\n"
                  f"tls_starttls {'on' if port == 110 else 'off'}\n"
                  "tls_trust_file /etc/ca.pem\nuidls_file /home/uidls\n"
                  "keep off\ndelivery mbox /home/mpop\n")
    rc.chmod(0o600)
    host.run("mpop", "-C", "/home/mpoprc", "-Q", "it")
    return take(host, "mpop")


# getmail 6.18 waits in vain for a delivery that ends before it begins to wait.
DELIVER = """#!/bin/sh
tries=0
until grep -q futex /proc/$PPID/wchan || [ $((tries += 1)) = 600 ]; do
	sleep 0.1
done
cat >/home/p3duser/in
"""


def getmail(host, port, user, password):
    home = host.path("/home/p3duser")   # it does not deliver as root
    (home / "deliver").write_text(DELIVER)
    (home / "deliver").chmod(0o755)
    (home / "getmailrc").write_text(
        "[retriever]\ntype = SimplePOP3SSLRetriever\n"
        f"server = {NAME}\nusername = {user}\npassword = {password}\n"
        "ca_certs = /etc/ca.pem\n"
        "[destination]\ntype = MDA_external\npath = /home/p3duser/deliver\n"
        "[options]\ndelete = true\n")
    host.run("chown", "-R", "p3duser:", "/home/p3duser")
    host.run("runuser", "-u", "p3duser", "--", "getmail", "--getmaildir",
             "/home/p3duser", "--rcfile", "getmailrc")
    return take(host, "p3duser/in")


POPLIB = """
import poplib, ssl, sys
name, port, user, password = sys.argv[1:]
tls = ssl.create_default_context(cafile="/etc/ca.pem")
if port == "995":
    pop = poplib.POP3_SSL(name, context=tls)
else:
    pop = poplib.POP3(name)
    pop.stls(tls)
pop.user(user)
pop.pass_(password)
print(*map(bytes.decode, pop.retr(1)[1]), sep="\\n")
pop.dele(1)
pop.quit()
"""


def poplib(host, port, user, password):
    return host.run("/usr/bin/python3", "-c", POPLIB, NAME, port, user,
                    password).stdout


CLIENTS = [curl, s_client, fetchmail, mpop, getmail, poplib]
NAMES = [client.__name__ for client in CLIENTS]


def can(wrapper, name):
    return name != "getmail" or WRAPPERS[wrapper][0] == 995


def take(host, name):
    """The mail that a client delivered, which is then removed."""
    file = host.path(f"/home/{name}")
    mail = file.read_text()
    file.unlink()
    return mail


@pytest.fixture(scope="module")
def certificates():
    """A key, a certificate for it, and the certificate of who signed that."""
    with Host() as host:
        host.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=Test CA",
                 "-addext", "keyUsage=critical,keyCertSign",    # or Python 3.13 refuses it
                 "-days", "2", "-keyout", "/home/ca.key", "-out", "/home/ca")
        host.run("openssl", "req", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={NAME}",
                 "-keyout", "/home/key", "-out", "/home/request")
        host.path("/home/names").write_text(f"subjectAltName=DNS:{NAME}\n"
                                            "authorityKeyIdentifier=keyid\n")
        host.run("openssl", "x509", "-req", "-in", "/home/request", "-CA",
                 "/home/ca", "-CAkey", "/home/ca.key", "-CAcreateserial",
                 "-days", "2", "-extfile", "/home/names",
                 "-out", "/home/certificate")
        return [host.path(f"/home/{name}").read_text()
                for name in ("key", "certificate", "ca")]


class Site(typing.NamedTuple):
    """A server, with a wrapper on its port, and a client."""
    server: Host
    client: Host
    port: int
    passwords: dict


@pytest.fixture(scope="module")
def sites(certificates):
    """A site for each superserver and wrapper; all have the same disks."""
    key, certificate, ca = certificates
    with contextlib.ExitStack() as stack:
        def host(**kw):
            return stack.enter_context(Host(**kw))

        first, client = host(), host()
        first.path("/etc/pop3d").mkdir()
        for name in "stunnel-pop3s.conf", "stunnel-stls.conf":
            shutil.copy(ETC / name, first.path("/etc/pop3d"))
        pem = first.path("/etc/pop3d/pop3s.pem")
        pem.touch(0o600)
        pem.write_text(key + certificate)
        passwords = {name: first.account(f"p3dg{name}") for name in NAMES}
        client.account("p3duser")
        client.path("/etc/ca.pem").write_text(ca)
        with client.path("/etc/hosts").open("a") as hosts:
            hosts.write(f"192.0.2.1 {NAME}\n")
        made = {}
        for server, serve in SERVERS.items():
            for wrapper, (port, mark) in WRAPPERS.items():
                site = Site(host(like=first), host(like=client), port,
                            passwords)
                link(site.server, site.client)
                serve(site.server, port, mark)
                made[server, wrapper] = site
        yield made


@pytest.fixture(scope="module")
def table(request):
    """What came of each combination; printed at the end."""
    results = {}
    yield results
    rows = [("TLS by", "under", *NAMES)]
    for server in SERVERS:
        for wrapper in WRAPPERS:
            rows.append((wrapper, server, *(
                results.get((server, wrapper, name), "not run")
                if can(wrapper, name) else "no STLS" for name in NAMES)))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print()
        for row in rows:
            print("{:26}{:9}".format(*row) + "".join(
                f"{cell:10}" for cell in row[2:]).rstrip())


@pytest.mark.parametrize("server, wrapper, client", [
    pytest.param(server, wrapper, client,
                 id=f"{server}-{wrapper}-{client.__name__}")
    for server in SERVERS for wrapper in WRAPPERS for client in CLIENTS
    if can(wrapper, client.__name__)])
def test_clients_fetch_and_delete_mail(sites, table, server, wrapper, client):
    name = client.__name__
    site = sites[server, wrapper]
    user = f"p3dg{name}"
    mailbox = site.server.deliver(user)
    table[server, wrapper, name] = "FAILED"
    mail = client(site.client, site.port, user, site.passwords[name])
    assert "Subject: number 1" in mail and "Hello." in mail
    assert "dele=1 " in site.server.log(
        f"pop3d.* logout: user=<{user}> .*dele=[^0].*")[0]
    assert mailbox.read_bytes() == b""
    for line in site.server.lines:
        if f"user=<{user}>" in line:
            assert f" ip={CLIENT} " in line
            assert "login:" not in line or " tls=yes " in line
    table[server, wrapper, name] = "ok"


def test_refusals_show_the_client_behind_every_wrapper(sites):
    """To pop3d's log, and to PAM, whose modules log or count it."""

    def refused(site):
        with pytest.raises(AssertionError, match="denied"):
            curl(site.client, site.port, "p3dgcurl", "wrong")
        failure = site.server.log("login failed: user=<p3dgcurl> .*")[0]
        assert f" ip={CLIENT} " in failure and " tls=yes " in failure
        pam = site.server.log(r"pam_unix\(pop3d:auth\): auth.* failure.* user=p3dgcurl")[0]
        assert f" tty=pop3 ruser= rhost={CLIENT} " in pam

    with concurrent.futures.ThreadPoolExecutor() as threads:
        list(threads.map(refused, sites.values()))


@pytest.mark.parametrize("wrapper", [
    wrapper for wrapper, (port, _) in WRAPPERS.items() if port == 995])
def test_a_client_with_a_link_local_address(sites, wrapper):
    """stunnel says fe80::7%eth0; logs and PAM have it without the zone."""
    site = sites["systemd", wrapper]
    for host, number in (site.server, 1), (site.client, 7):
        host.run("ip", "addr", "replace", f"fe80::{number}/64", "dev", "eth0", "nodad")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with site.client.network():
        zone = socket.if_nametoindex("eth0")
        sock = socket.socket(socket.AF_INET6)
    with sock:
        sock.settimeout(PATIENCE)
        sock.bind(("fe80::7", 0, 0, zone))
        sock.connect(("fe80::1", site.port, 0, zone))
        with context.wrap_socket(sock) as tls:
            tls.sendall(b"USER p3dgnobody\r\nPASS wrong\r\nQUIT\r\n")
            while tls.recv(512):
                pass
    assert " ip=fe80::7 " in site.server.log("login failed: user=<p3dgnobody> .*")[0]
    site.server.log(r"pam_unix\(pop3d:auth\): auth.* rhost=fe80::7\s*$")


@pytest.mark.parametrize("server", SERVERS)
def test_nothing_sent_in_clear_behind_stls_is_heard(sites, server):
    """The attacker's bytes would be run as the client's, inside TLS."""
    site = sites[server, "stunnel, STLS"]
    with site.client.network():
        sock = socket.create_connection(("192.0.2.1", 110), PATIENCE)
    with sock:
        assert sock.recv(512).startswith(b"+OK")
        sock.sendall(b"STLS\r\nUSER evil\r\nPASS evil\r\nUSER evil\r\n")
        assert sock.recv(512).startswith(b"+OK")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(sock).recv(512)
    site.server.deliver("p3dgpoplib")
    poplib(site.client, 110, "p3dgpoplib", site.passwords["poplib"])
    site.server.log("pop3d.* logout: user=<p3dgpoplib>")
    assert not any("evil" in line for line in site.server.lines)


@pytest.fixture(scope="module")
def clear():
    """pop3d without TLS, with -p on port 1110; a client; a password."""
    with Host() as host, Host() as client:
        link(host, client)
        for port, command in ((110, [f"{SBIN}/pop3d"]), (1110, [f"{SBIN}/pop3d", "-p"]),
                              (2110, ["env", "TCPREMOTEIP=127.0.0.1", f"{SBIN}/pop3d"])):
            host.serve(port, "systemd-socket-activate", "--inetd", "-a", "-l", str(port), *command)
        yield host, client, host.account("p3dgclear")


def plain(user, password):
    return base64.b64encode(f"\0{user}\0{password}".encode()).decode()


@pytest.mark.parametrize("address, port", [
    ("192.0.2.1", 110), ("2001:db8::1", 110), ("192.0.2.1", 2110)])
def test_a_password_in_clear_from_elsewhere_is_refused(clear, address, port):
    """A variable is not asked about who is known."""
    host, client, password = clear
    with client.connect(port, address) as session:
        assert session.line().startswith(b"+OK")
        status, capabilities = session.multi("CAPA")
        assert status.startswith(b"+OK") and b"UIDL" in capabilities
        assert b"USER" not in capabilities
        assert not any(line.startswith(b"SASL") for line in capabilities)
        for command in ("USER p3dgclear", f"PASS {password}", "AUTH PLAIN",
                        f"AUTH PLAIN {plain('p3dgclear', password)}"):
            answer = session.cmd(command)
            assert answer.startswith(b"-ERR") and b"TLS" in answer, command
        assert session.cmd("STAT").startswith(b"-ERR")


@pytest.mark.parametrize("where, address, port", [
    ("server", "127.0.0.1", 110), ("server", "::1", 110),
    ("client", "192.0.2.1", 1110), ("client", "2001:db8::1", 1110)])
def test_a_password_in_clear_is_taken_from_here_or_with_p(
        clear, where, address, port):
    host, client, password = clear
    with (host if where == "server" else client).connect(
            port, address) as session:
        assert session.line().startswith(b"+OK")
        capabilities = session.multi("CAPA")[1]
        assert {b"USER", b"SASL PLAIN"} <= set(capabilities)
        assert session.cmd(f"AUTH PLAIN {plain('p3dgclear', password)}"
                           ).startswith(b"+OK")
        assert session.cmd("QUIT").startswith(b"+OK")
    ip = {"127.0.0.1": "127.0.0.1", "::1": "::1", "192.0.2.1": "192.0.2.7",
          "2001:db8::1": "2001:db8::7"}[address]
    assert host.log(
        f"login: user=<p3dgclear> ip={re.escape(ip)} method=PLAIN tls=no")
