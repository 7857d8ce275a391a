"""Each cases/*.case, played in three ways; transcript.py says how."""

import re

import pytest

from harness import PATIENT, STUB, TESTS, Maildrop, Session
from transcript import MODES, Expect, mailbox, options, read_case, steps

CASES = sorted((TESTS / "cases").glob("*.case"))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test(path, mode, tmp_path):
    case = read_case(path)[1]
    drop = Maildrop(tmp_path / "alice")
    expect = Expect()
    server = PATIENT if (b"patient", b"") in case else STUB
    before = None
    for name, text in case:
        if name == b"mailbox":
            assert before is None or drop.state() == before
            drop.path.write_bytes(mailbox(text))
            before = drop.state()
        elif name == b"after":
            assert drop.content == mailbox(text)
            assert drop.path.stat().st_ino == before[2]
            before = drop.state()
        elif name in (b"session", b"transaction"):
            with Session.run(server, "-d", "-m", drop.path,
                             *options(case)) as session:
                mode(session, steps(name, text), expect)
                assert session.wait() == 0
                assert not re.search("reason=(timeout|autologout)",
                                     session.log()), "nobody ended it: QUIT?"
        else:
            assert name in (b"options", b"patient"), f"no such section: {name}"
    assert (drop.state() if drop.path.exists() else None) == before


def mailboxes():
    for path in CASES:
        for at, (name, text) in enumerate(read_case(path)[1]):
            if name == b"mailbox":
                yield pytest.param(mailbox(text), id=f"{path.stem}-{at}")


@pytest.mark.parametrize("content", mailboxes())
def test_stat_list_and_retr_agree(content, tmp_path):
    drop = Maildrop(tmp_path / "alice", content)
    before = drop.state()
    with drop.session() as session:
        answer = session.login()
        if b"not a mailbox" in answer:
            return
        assert answer.startswith(b"+OK")
        count, octets = map(int, session.cmd("STAT").split()[1:3])
        listing = [tuple(map(int, line.split()))
                   for line in session.multi("LIST")[1]]
        assert [number for number, _ in listing] == list(range(1, count + 1))
        assert sum(size for _, size in listing) == octets
        for number, size in listing:
            assert session.cmd(f"LIST {number}") == b"+OK %d %d" % (number,
                                                                    size)
            status, lines = session.multi(f"RETR {number}")
            assert status.startswith(b"+OK")
            assert sum(len(line) + 2 for line in lines) == size
            assert session.multi(f"TOP {number} 99999999")[1] == lines
        assert session.cmd("QUIT").startswith(b"+OK")
    assert drop.state() == before
