"""Clients that mean harm.  abuse.py is the long form, with figures."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import abuse
from abuse import NEIGHBOUR, REFUSAL_SECONDS, STRANGER
from harness import BUILD, needs, needs_root, wait_for

pytestmark = [needs_root, needs("stunnel")]     # which xinetd asks for

CROWD = 60      # more than xinetd takes in a second by default
PER_SOURCE = 8  # in etc/


@pytest.mark.parametrize("start, served", [
    (abuse.openbsd_inetd, CROWD), (abuse.xinetd, PER_SOURCE),
    (abuse.systemd, PER_SOURCE)], ids=["openbsd-inetd", "xinetd", "systemd"])
def test_a_crowd_from_one_address_keeps_no_other_out(start, served):
    with abuse.serving(start) as host:
        password = host.account("p3dhuser")
        host.deliver("p3dhuser", 3)
        with abuse.Crowd(host, CROWD) as crowd:
            assert crowd.settle() == served
            assert abuse.login(host, NEIGHBOUR, "p3dhuser", password) \
                == b"+OK 3 messages (174 octets)"
            answer = abuse.login(host, STRANGER, "p3dhuser", password)
            assert (answer is None) == (served < CROWD)


def test_nobody_stays_who_does_not_log_in():
    """Who says nothing, who trickles and who never reads."""
    def reasons():
        crowd.go_on()
        return [line.split("reason=")[1] for line in list(host.lines)
                if "no login: ip=127.0.0.1" in line]

    with abuse.serving(abuse.unlimited, BUILD / "pop3d-quick") as host, \
            abuse.Crowd(host, 9) as crowd:
        wait_for(lambda: len(reasons()) == 9)
        assert reasons() == 9 * ["timeout"]
        wait_for(lambda: not list(abuse.servers(host)))


def test_all_refusals_look_alike():
    with abuse.serving(abuse.unlimited) as host:
        names = abuse.accounts(host).values()
        with ThreadPoolExecutor(len(names)) as clients:
            refusals = list(clients.map(
                lambda name: list(abuse.refusal(host, 3 * [(name, "wrong")])),
                names))
    for seconds, answer in sum(refusals, []):
        assert seconds >= REFUSAL_SECONDS
        assert answer == refusals[0][0][1]
        assert answer.startswith(b"-ERR [AUTH] ")
