"""What the time of a refusal tells: not whether there is such an account.
abuse.py is the long form."""

import base64
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import abuse
from harness import BUILD, POP3D, needs_root
from host import Host

pytestmark = needs_root

SECONDS = abuse.REFUSAL_SECONDS     # at multiples of which they are answered
KINDS = {"wrong password": "p3dgknown", "unknown user": "p3dgnobody",
         "root": "root", "locked account": "p3dglocked",
         "not in the group": "p3dgother"}


@pytest.fixture(scope="module")
def host():
    """A host where no hashes are but those of its own accounts."""
    with Host() as host:
        abuse.forget_hashes(host)
        for name in "p3dgknown", "p3dgother", "p3dglocked":
            host.account(name)
        host.run("passwd", "-l", "p3dglocked")
        service = host.path("/etc/pam.d/pop3d")
        service.write_text(
            "auth requisite pam_succeed_if.so quiet user != p3dgother\n"
            + service.read_text())
        yield host


def refuse(host, kind):
    """The seconds until the answer, and the answer."""
    with host.connect(110) as pop:
        pop.line()
        pop.cmd(f"USER {KINDS[kind]}")
        began = time.monotonic()
        answer = pop.cmd("PASS wrong")
        return time.monotonic() - began, answer


def refusals(host, tries, at_a_time):
    """On which multiple of two seconds the answers came, by kind."""
    random.shuffle(tries)
    times = {kind: [] for kind in KINDS}
    with ThreadPoolExecutor(at_a_time) as threads:
        done = list(threads.map(lambda kind: refuse(host, kind), tries))
    for kind, (seconds, answer) in zip(tries, done):
        assert seconds >= SECONDS - 0.001
        assert answer.startswith(b"-ERR [AUTH] ")
        times[kind].append(int(seconds / SECONDS + 0.001))
    return times


@pytest.fixture(scope="module")
def served(host):
    server = host.serve(110, "systemd-socket-activate", "--inetd", "-a", "-l",
                        "110", "/usr/local/sbin/pop3d", "-p")
    yield host
    server.terminate()
    server.wait()


@pytest.mark.skipif(b"__asan_init" in POP3D.read_bytes(),
                    reason="AddressSanitizer wants to be preloaded itself")
@pytest.mark.parametrize("cost, octets", [(5, 5), (6, 5), (5, 511), (5, 512)])
def test_every_refusal_costs_hashes_alike(host, cost, octets):
    """As many, and as costly, as PAM makes for a password that is wrong: of
    the usual cost, and where the administrator wants them to take longer; and
    none where the password is too long for a hash."""
    host.run("chpasswd", "-c", "YESCRYPT", "-s", cost,
             input="p3dgknown:another\n")
    counted = host.path("/etc/hashes")
    library = host.path("/usr/local/sbin/count_hashes.so")
    library.write_bytes((BUILD / library.name).read_bytes())
    preload = host.path("/etc/ld.so.preload")
    preload.write_text("/usr/local/sbin/count_hashes.so\n")
    costs = {}
    for kind, name in KINDS.items():
        counted.write_bytes(b"")
        with host.pop3d("-p") as pop:
            pop.line()
            assert pop.cmd("AUTH PLAIN") == b"+ "
            message = f"\0{name}\0" + octets * "x"
            pop.cmd(base64.b64encode(message.encode()).decode())
        costs[kind] = counted.read_text()
    preload.unlink()
    assert len(set(costs.values())) == 1, costs
    assert (f"{2 ** cost // 2} MiB" in costs["wrong password"]) == (octets < 512)


def test_many_at_a_time(served):
    """So many that hashes have to wait for each other."""
    abuse.set_hash(served, "p3dgknown", SECONDS / 12)
    times = refusals(served, 8 * list(KINDS) + 22 * ["wrong password"], 24)
    known = times.pop("wrong password")
    for kind, others in times.items():
        z = abuse.compare(others, known)[1]
        assert abs(z) < abuse.TOLD_APART, f"{kind}: {others}, known: {known}"
