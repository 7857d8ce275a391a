"""etc/renew-hook: a new certificate, as certbot and acme.sh hand it over."""

import os
import shutil
import subprocess

import pytest

from harness import needs, superserver
from host import ETC

HOOK = ETC / "renew-hook"


@pytest.fixture
def pem(tmp_path):
    """Where the hook under test writes; the old file is there."""
    path = tmp_path / "pop3s.pem"
    path.write_text("old\n")
    return path


def hook(pem, name=""):
    """A copy of the hook with the two lines that are the administrator's."""
    text = HOOK.read_text()
    for line, mine in [("\npem=/etc/pop3d/pop3s.pem\n", f"\npem={pem}\n"),
                       ("\nname=\n", f"\nname={name}\n")]:
        assert text.count(line) == 1
        text = text.replace(line, mine)
    path = pem.parent / "hook"
    path.write_text(text)
    path.chmod(0o755)
    return path


def certificate(folder, key, chain):
    """A key, and a certificate that an intermediate one goes with."""
    folder.mkdir()
    for name, about in (folder / key, "mail.example.org"), (folder / "i", "ca"):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048",
                        "-nodes", "-subj", f"/CN={about}", "-keyout", name,
                        "-out", f"{name}.crt"], check=True, capture_output=True)
    (folder / chain).write_bytes((folder / f"{key}.crt").read_bytes() +
                                 (folder / "i.crt").read_bytes())
    return ((folder / key).read_text() + (folder / chain).read_text())


def run(command, **env):
    return subprocess.run(
        command, text=True, timeout=60, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], **env})


def certbot(hook, lineage):
    """As it calls a deploy hook: with a shell and two variables."""
    return run(["/bin/sh", "-c", str(hook)], RENEWED_LINEAGE=str(lineage),
               RENEWED_DOMAINS="mail.example.org www.example.org")


def acme_sh(hook, folder):
    """As it evaluates a --reloadcmd: in its folder, with these exported."""
    return run(["/bin/sh", "-c", 'cd "$0" && eval "$1"', folder, str(hook)],
               CERT_PATH=str(folder / "mail.example.org.cer"),
               CERT_KEY_PATH=str(folder / "mail.example.org.key"),
               CA_CERT_PATH=str(folder / "ca.cer"),
               CERT_FULLCHAIN_PATH=str(folder / "fullchain.cer"),
               Le_Domain="mail.example.org")


CALLERS = {"certbot": (certbot, "privkey.pem", "fullchain.pem"),
           "acme.sh": (acme_sh, "mail.example.org.key", "fullchain.cer")}


@needs("openssl")
@pytest.mark.parametrize("caller", CALLERS)
def test_key_and_chain_are_joined_for_root_alone(tmp_path, pem, caller):
    call, key, chain = CALLERS[caller]
    joined = certificate(tmp_path / "mail.example.org", key, chain)
    done = call(hook(pem), tmp_path / "mail.example.org")
    assert (done.returncode, done.stdout) == (0, "")
    assert pem.read_text() == joined
    assert pem.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob("*.pem*")] == ["pop3s.pem"]


@needs("openssl", "stunnel")
def test_stunnel_sends_the_whole_chain(tmp_path, pem):
    certificate(tmp_path / "it", "privkey.pem", "fullchain.pem")
    certbot(hook(pem), tmp_path / "it")
    (tmp_path / "conf").write_text(f"cert = {pem}\nexec = /bin/true\n"
                                   "execArgs = true\nsyslog = no\n")
    with superserver("systemd", shutil.which("stunnel"),
                     tmp_path / "conf") as port:
        shown = run(["openssl", "s_client", "-showcerts", "-connect",
                     f"127.0.0.1:{port}"]).stdout
    assert shown.count("-----BEGIN CERTIFICATE-----") == 2


@pytest.mark.parametrize("gone", ["privkey.pem", "fullchain.pem"])
def test_half_of_it_leaves_the_old_file(tmp_path, pem, gone):
    folder = tmp_path / "mail.example.org"
    folder.mkdir()
    (folder / "privkey.pem").write_text("-----BEGIN PRIVATE KEY-----\n")
    (folder / "fullchain.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (folder / gone).write_text("")
    assert certbot(hook(pem), folder).returncode == 1
    assert pem.read_text() == "old\n"
    assert [path.name for path in tmp_path.glob("*.pem*")] == ["pop3s.pem"]


@needs("openssl")
@pytest.mark.parametrize("caller", CALLERS)
def test_another_certificate_is_none_of_its_business(tmp_path, pem, caller):
    call, key, chain = CALLERS[caller]
    certificate(tmp_path / "www.example.net", key, chain)
    name = "pop.example.org"
    assert call(hook(pem, name), tmp_path / "www.example.net").returncode == 0
    assert pem.read_text() == "old\n"


def test_by_hand_it_says_what_it_is_for(pem):
    done = run([hook(pem)])
    assert done.returncode == 64 and "certbot" in done.stdout
    assert pem.read_text() == "old\n"
