"""What the time of a refusal tells: not whether there is such an account."""

import concurrent.futures
import ctypes
import random
import re
import time

import pytest

from abuse import compare
from harness import needs_root
from host import Host

pytestmark = needs_root

SECONDS = 2         # at multiples of which refusals are answered
TOLD_APART = 4      # standard deviations
KINDS = {"wrong password": "p3dgknown", "unknown user": "p3dgnobody",
         "root": "root", "no password": "p3dgknown", "locked": "p3dglocked"}


def set_hash(host, seconds):
    """Give the account with a password a hash that takes so long."""
    rounds = 100_000
    began = time.process_time()
    ctypes.CDLL("libcrypt.so.1").crypt(
        b"wrong", f"$6$rounds={rounds}$p3dgsalt$".encode())
    rounds *= seconds / (time.process_time() - began)
    host.run("chpasswd", "-c", "SHA512", "-s", int(rounds),
             input="p3dgknown:secret\n")


@pytest.fixture
def host():
    """A host where no hashes are but those of its own accounts."""
    with Host() as host:
        shadow = host.path("/etc/shadow")
        shadow.write_text(re.sub(r"^([^:]*:)\$[^:]*", r"\1!",
                                 shadow.read_text(), flags=re.M))
        host.account("p3dgknown")
        host.account("p3dglocked")
        host.run("passwd", "-l", "p3dglocked")
        yield host


def refuse(host, kind):
    """On which multiple of two seconds the answer comes, and the answer."""
    with host.pop3d("-p") as pop:
        pop.line()
        pop.cmd(f"USER {KINDS[kind]}")
        began = time.monotonic()
        answer = pop.cmd("PASS" if kind == "no password" else "PASS wrong")
        seconds = time.monotonic() - began
        assert seconds >= SECONDS - 0.001
        return int(seconds / SECONDS + 0.001), answer


def refusals(host, tries, at_a_time):
    """Refusals of these kinds, mixed."""
    random.shuffle(tries)
    with concurrent.futures.ThreadPoolExecutor(at_a_time) as threads:
        done = list(threads.map(lambda kind: refuse(host, kind), tries))
    assert len({answer for _, answer in done}) == 1
    return {kind: [one for (one, _), other in zip(done, tries)
                   if kind == other] for kind in tries}


def test_many_at_a_time(host):
    """So many that hashes have to wait for each other."""
    set_hash(host, SECONDS / 10)
    times = refusals(host, 10 * list(KINDS) + 30 * ["wrong password"], 40)
    known = times.pop("wrong password")
    for kind, others in times.items():
        z = compare(others, known)[1]
        assert abs(z) < TOLD_APART, f"{kind}: {others}, known: {known}"


def test_a_hash_that_takes_longer(host):
    """Than the two seconds, as the administrator has chosen."""
    set_hash(host, 1.05 * SECONDS)
    times = refusals(host, 3 * ["wrong password", "unknown user"], 2)
    known, unknown = times["wrong password"], times["unknown user"]
    assert min(known) > 1
    assert min(unknown) <= max(known) and min(known) <= max(unknown), times
