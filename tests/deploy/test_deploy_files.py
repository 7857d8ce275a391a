"""What an administrator is given: the manual, README, etc/, the demo."""

import base64
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

from harness import POP3D, STUB, TESTS, needs, needs_root, talk

TOP = TESTS.parent
ETC = TOP / "etc"
MANUAL = (TOP / "pop3d.8").read_text()
NOBODY = 65534


def output(*command, **kw):
    """(exit status, stdout and stderr) of a command."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=300, **kw)
    return done.returncode, done.stdout


# ---- the manual ----

@needs("mandoc")
def test_mandoc_finds_nothing_to_warn_of():
    assert output("mandoc", "-Tlint", "-Wwarning", TOP / "pop3d.8") == (0, "")


@needs("groff")
def test_groff_finds_nothing_to_warn_of():
    assert output("groff", "-mdoc", "-Tutf8", "-ww", "-z",
                  TOP / "pop3d.8") == (0, "")


def section(name):
    return re.search(rf"^\.Sh {name}\n(.*?)(?=^\.Sh |\Z)", MANUAL,
                     re.S | re.M)[1]


def examples():
    """(file, lines) of each example that says which file it is from."""
    for name, block in re.findall(r'^\.\\" (etc/\S+)\n\.Bd.*?\n(.*?)^\.Ed',
                                  section("EXAMPLES"), re.S | re.M):
        yield name, block.replace("\\e", "\\").splitlines()


@pytest.mark.parametrize("name, lines", examples())
def test_an_example_in_the_manual_is_as_in_its_file(name, lines):
    wanted = [line.lstrip("#").strip() for line in lines if line.strip()]
    held = [line.lstrip("#").strip()
            for line in (TOP / name).read_text().splitlines()]
    at = -1
    for line in wanted:     # in the same order
        assert line in held[at + 1:], f"{line!r} is not in {name}"
        at = held.index(line, at + 1)


def test_every_example_says_which_file_it_is_from():
    assert len(list(examples())) == section("EXAMPLES").count(".Bd")


def test_the_synopsis_is_what_pop3d_says_of_itself():
    usage = re.sub(r"^usage: \S+ ", "", output(POP3D, "-?")[1].splitlines()[-1])
    rows = re.findall(r"^\.Op Fl (\w+)(?: Ar (\w+))?$", section("SYNOPSIS"),
                      re.M)
    assert usage == " ".join(f"[-{flag}{' ' + arg if arg else ''}]"
                             for flag, arg in rows)


SOURCE = "".join((TOP / name).read_text() for name in ("pop3d.c", "auth.c"))


def logged(pattern):
    return sorted(set(re.findall(pattern, SOURCE)))


@pytest.mark.parametrize("text", logged(
    r'(?:syslog|log_line)\([^";]*"([^":%]+)'))
def test_every_log_line_is_in_the_manual(text):
    assert f'.It Li "{text.strip()}' in section("DIAGNOSTICS")


REASONS = r'(?:end_session\(|ending = |why = |[?:]\s+|refuse\([^;]*?, )"([a-z-]+)"'


@pytest.mark.parametrize("reason", sorted(set(logged(REASONS)) - {"yes", "no"}))   # of tls=
def test_every_reason_is_in_the_manual(reason):
    assert re.search(rf"^\.(It Li|Ql) {reason}\b", section("DIAGNOSTICS"), re.M)


@pytest.mark.parametrize("code", logged(r'"(\[[A-Z/-]+\])'))
def test_every_reply_code_is_in_the_manual(code):
    assert f".It Bq {code[1:-1]}\n" in section("DESCRIPTION")


@pytest.mark.parametrize("command", logged(r'\{ "([A-Z]+)", \d'))
def test_every_command_is_in_the_manual(command):
    assert re.search(rf"^\.(It )?Cm {command}\b", section("DESCRIPTION"), re.M)


# ---- README ----

def readme(title):
    return re.search(rf"{title}:\n\t(.+)\n", (TOP / "README").read_text())[1]


STUBS = {
    "apt-get": 'echo "apt-get[$DEBIAN_FRONTEND] $*" >>"$0.log"',
    "apt-cache": '[ "$*" != "show uw-mailutils" ]',
    "make": 'echo "make[$BY_SUDO] $*" >>"$(dirname "$0")/apt-get.log"',
    "sudo": 'exec env -i BY_SUDO=yes PATH="$PATH" "$@"',
}


def commands_run(tmp_path, line, sudo):
    """Run a line of README with stubs in front; what they were told."""
    for name, text in STUBS.items():
        if name == "sudo" and not sudo:
            continue
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for name in "env", "sh", "sed", "xargs", "dirname", "chmod", "rm":
        (tmp_path / name).symlink_to(shutil.which(name))
    status, text = output("/bin/sh", "-c", line, cwd=TOP,
                          env={"PATH": str(tmp_path)})
    assert status == 0, text
    return (tmp_path / "apt-get.log").read_text().splitlines()


@needs_root     # it says for a moment that no server is to be started
@pytest.mark.parametrize("sudo", [False, True], ids=["root", "sudo"])
@pytest.mark.parametrize("title, packages, target", [
    ("Try it", "packages.demo", "demo"), ("Test it", "packages", "check")])
def test_the_first_commands_install_what_is_listed(
        tmp_path, title, packages, target, sudo):
    update, install, make = commands_run(tmp_path, readme(title), sudo)
    assert update == "apt-get[noninteractive] update"
    assert install.startswith("apt-get[noninteractive] install -y ")
    listed = [line.split("#")[0].strip()
              for line in (TESTS / "tools" / packages).read_text().splitlines()]
    assert [word for word in install.split() if not word.startswith("-")][2:] \
        == [name for name in listed if name and name != "uw-mailutils?"]
    assert make == f"make[] {target}"   # not as root where sudo is used


def test_readme_fits_a_terminal_and_is_short():
    lines = (TOP / "README").read_text().expandtabs().splitlines()
    assert len(lines) < 330 and max(map(len, lines)) < 80


def test_readme_speaks_of_files_that_are_there():
    names = re.findall(r"(?<![/\w])etc/([\w@.-]+[\w@])",
                       (TOP / "README").read_text())
    assert names and not [n for n in names if not (ETC / n).is_file()]


IN_A_NETWORK = """
import socket, subprocess, sys
subprocess.run(["sh", "-ec", "ip link set lo up\\n" + sys.argv[1]], check=True)
server = socket.create_server(("::", 995), family=socket.AF_INET6, backlog=64)
held = []
for source in sys.argv[2:]:
    subprocess.run(["ip", "addr", "add", source + "/128", "dev", "lo", "nodad"], check=True)
    held.append(socket.socket(socket.AF_INET6))
    held[-1].bind((source, 0))
    try:
        held[-1].connect(("::1", 995))
        print("yes")
    except ConnectionRefusedError:
        print("no")
"""


@needs_root
@needs("nft", "ip", "unshare")
def test_the_lines_for_nft_count_an_ipv6_network_as_one():
    lines = re.findall(r"^\t(nft (?:.*\\\n)*.*\n)", (TOP / "README").read_text(), re.M)
    assert len(lines) == 4
    sources = [f"2001:db8:0:1::{n}" for n in range(1, 10)] + ["2001:db8:0:2::1"]
    status, text = output("unshare", "--net", "/usr/bin/python3", "-c", IN_A_NETWORK, "".join(lines), *sources,
                          env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"})
    assert (status, text.split()) == (0, 8 * ["yes"] + ["no", "yes"])


# ---- systemd ----

SERVICES = {    # what README makes of the files
    "pop3d@.service": "pop3d@.service",
    "pop3s@.service": "pop3s@.service",
    "with tlswrapper": "pop3s@.service",
    "with STLS": "pop3d@.service",
}


@pytest.fixture(params=SERVICES)
def unit(request, tmp_path):
    name = SERVICES[request.param]
    text = (ETC / name).read_text()
    if request.param == "with STLS":
        text = (ETC / "pop3s@.service").read_text().replace(
            "stunnel-pop3s", "stunnel-stls")
    if request.param == "with tlswrapper":
        (tmp_path / "pop3s@.service.d").mkdir()
        shutil.copy(ETC / "tlswrapper.conf", tmp_path / "pop3s@.service.d")
    # verify wants each program to be there: take one that is.
    for path in [tmp_path / name, *tmp_path.glob("*.d/*")]:
        if path.suffix == ".conf":
            text = path.read_text()
        path.write_text(re.sub(r"^(ExecStart=-)/\S+", r"\1/bin/true", text,
                               flags=re.M))
    return tmp_path / name


@needs("systemd-analyze")
def test_systemd_analyze_verify_is_silent(unit):
    assert output("systemd-analyze", "verify", "--man=no", unit) == (0, "")


@pytest.mark.parametrize("name", sorted(set(SERVICES.values())))
def test_a_session_has_room_for_the_largest_mailbox_and_no_more(name):
    """32 octets for each of 4 million messages, four times over."""
    assert "MemoryMax=512M" in (ETC / name).read_text().splitlines()


@needs("systemd-analyze")
@pytest.mark.parametrize("name", ["pop3d.socket", "pop3s.socket"])
def test_systemd_analyze_verify_is_silent_on_sockets(name, tmp_path):
    service = name.replace(".socket", "@.service")
    shutil.copy(ETC / name, tmp_path)
    (tmp_path / service).write_text("[Service]\nExecStart=/bin/true\n"
                                    "StandardInput=socket\n")
    assert output("systemd-analyze", "verify", "--man=no",
                  tmp_path / name) == (0, "")


@needs("systemd-analyze")
def test_exposure_is_at_most_1_5(unit):
    status, text = output("systemd-analyze", "security", "--no-pager",
                          "--offline=true", "--threshold=15", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
    assert status == 0 and float(found[1]) <= 1.5, text


# ---- fail2ban ----

def refusal(reason, ip="192.0.2.7"):
    return (f"pop3d[9]: login failed: user=<alice> ip={ip} method=PASS tls=no "
            f"reason={reason}")


def session_log(tmp_path, user, password):
    """What pop3d logs of a client at 192.0.2.7."""
    plain = base64.b64encode(b"\0%b\0%b" % (user.encode(), password.encode()))
    (tmp_path / "mbox").touch()
    log = talk(STUB, "-p", "-d", "-m", tmp_path / "mbox",
               data=b"AUTH PLAIN " + plain + b"\r\nQUIT\r\n",
               env={"TCPREMOTEIP": "192.0.2.7"})[2]
    assert "ip=192.0.2.7" in log
    return log.splitlines()


def banned(tmp_path, lines):
    """The addresses that fail2ban-regex finds in lines of pop3d."""
    shutil.copy(ETC / "fail2ban-filter.conf", tmp_path / "pop3d.conf")
    shutil.copy("/etc/fail2ban/filter.d/common.conf", tmp_path)
    log = tmp_path / "log"
    log.write_text("".join(f"Nov  6 10:00:{i:02d} host {line}\n"
                           for i, line in enumerate(lines)))
    status, text = output("fail2ban-regex", "-o", "ip", log,
                          tmp_path / "pop3d.conf", cwd=tmp_path)
    assert status in (0, 255), text
    return text.split()


@needs("fail2ban-regex")
@pytest.mark.parametrize("user", [
    "alice", "x> ip=198.51.100.1 method=PASS tls=no reason=credentials",
    "x>ip=198.51.100.1", "x\nhost pop3d[9]: login failed: user=<y> ip=::1",
    "%s%n", "\t", "ü" * 99])
def test_a_refusal_counts_for_the_address_that_it_came_from(tmp_path, user):
    log = session_log(tmp_path, user, "wrong")
    assert banned(tmp_path, log) == ["192.0.2.7"]


@needs("fail2ban-regex")
@pytest.mark.parametrize("reason", sorted(
    {why for assignment in logged(r"\bwhy = ([^;]*);")
     for why in re.findall('"([a-z-]+)"', assignment)}
    - {"pam", "account"} | {"clear-text"}))
def test_every_kind_of_refusal_counts(tmp_path, reason):
    lines = [refusal(reason), refusal(reason, "2001:db8::7")]
    assert banned(tmp_path, lines) == ["192.0.2.7", "2001:db8::7"]


@needs("fail2ban-regex")
def test_a_name_in_another_form_counts(tmp_path):
    line = refusal("credentials").replace(
        "user=<alice>", "user=<Alice@example.org> account=<alice>")
    assert banned(tmp_path, [line]) == ["192.0.2.7"]


@needs("fail2ban-regex")
def test_a_good_session_does_not_count(tmp_path):
    log = session_log(tmp_path, "alice", "secret")
    assert any("login: user=<alice>" in line for line in log)
    assert banned(tmp_path, log) == []


@needs("fail2ban-regex")
@pytest.mark.parametrize("line", [
    refusal("pam"),                         # not the client's fault
    refusal("account"),                     # the password was right
    refusal("credentials", "unknown"),      # no address to count for
    refusal("credentials").replace("pop3d", "dovecot")])
def test_nothing_else_counts(tmp_path, line):
    assert banned(tmp_path, [line]) == []


@needs("fail2ban-client")
def test_fail2ban_takes_the_jail(tmp_path):
    conf = tmp_path / "fail2ban"
    shutil.copytree("/etc/fail2ban", conf)
    shutil.copy(ETC / "fail2ban-filter.conf", conf / "filter.d/pop3d.conf")
    shutil.copy(ETC / "fail2ban-jail.conf", conf / "jail.d/pop3d.conf")
    status, text = output("fail2ban-client", "-c", conf, "-d")
    assert status == 0, text
    assert re.search(r"\['set', 'pop3d', 'maxretry', 5\]", text)
    assert "'addjournalmatch', 'SYSLOG_IDENTIFIER=pop3d', '_UID=0']" in text


# ---- the demo ----

@pytest.fixture
def demo():
    """A copy of it that an ordinary user can run: its folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o777)
        for path in TESTS / "deploy/demo.sh", TESTS / "deploy/sample.mbox", POP3D:
            shutil.copy(path, folder)
        yield folder


def run_demo(folder, pop3d, *before):
    return output(*before, folder / "demo.sh", pop3d, cwd=folder,
                  env={**os.environ, "TMPDIR": str(folder / "tmp")})


needs_wrappers = pytest.mark.skipif(
    not list(pathlib.Path("/usr/lib").glob("*/libnss_wrapper.so")) or
    not list(pathlib.Path("/usr/lib").glob("*/pam_wrapper/pam_matrix.so")),
    reason="needs libpam-wrapper, libnss-wrapper")


@needs("systemd-socket-activate", "curl")
@needs_wrappers
@pytest.mark.parametrize("user", [
    pytest.param([], id="me"),
    pytest.param(["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}",
                  "--clear-groups"], id="ordinary user", marks=needs_root)])
def test_the_demo_shows_a_message_and_leaves_nothing(demo, user):
    status, text = run_demo(demo, demo / "pop3d", *user)
    assert status == 0, text
    assert "\nSubject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe_aus_K=C3=B8benhavn?=" in text
    assert "Smørrebrød" in text
    assert "login: user=<demo>" in text
    assert list((demo / "tmp").iterdir()) == []
    assert not [path for path in pathlib.Path("/tmp").glob("pam.?/pop3d")
                if str(demo) in path.read_text()]


@needs("systemd-socket-activate", "curl")
@needs_wrappers
def test_the_demo_fails_where_the_server_does(demo):
    status, text = run_demo(demo, "/bin/false")
    assert status == 1 and "curl failed" in text
    assert list((demo / "tmp").iterdir()) == []
