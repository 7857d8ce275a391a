"""A power cut while the mailbox is cut off at its new end.

Cutting a file in the middle of a block, ext4 and xfs first write zeros from there to the end of the block, and those reach the
disk before the new size does. A power cut in between leaves the old size, and zeros. Here the server is killed at its ftruncate
and the rest of the block is zeroed, as these file systems would; then comes the next login. See vm/ for real power cuts.
"""

import platform

import pytest

import lab

BLOCK = 4096

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="killat.c knows the registers of x86_64 only")


def half_cut(drop, server, pattern):
    """A session that deletes, as far as its ftruncate; what it deleted."""
    deleted = list(lab.PATTERNS[pattern](len(drop.messages)))
    commands = [*lab.LOGIN, *lab.deletions(deleted), b"QUIT"]
    drop.begin(server)
    drop.session(server, commands, marker="QUIT", lists=True)
    end = len(drop.content())
    cut = next(number for number, (name, _) in enumerate(drop.calls(), 1) if name == "ftruncate")
    drop.restore()
    size = len(drop.content())
    status, _ = drop.session(server, commands, marker="QUIT", number=cut)
    assert status == lab.KILLED and len(drop.content()) == size
    with open(drop.path, "r+b") as file:
        file.seek(end)
        file.write(bytes(min(-end % BLOCK, size - end)))
    return deleted


@pytest.mark.parametrize("pattern", lab.PATTERNS)
@pytest.mark.parametrize("kind", ["short", "mixed"])
def test_zeros_in_front_of_the_new_size_harm_nothing(kind, pattern):
    server = lab.SERVERS[0]
    with lab.Maildrop(lab.mailbox(kind)) as drop:
        deleted = half_cut(drop, server, pattern)
        status, output = drop.session(server, [*lab.LOGIN, b"STAT", b"QUIT"], sleeps=False)
        assert status == 0
        left = drop.judge(deleted)
        assert b"\r\n+OK %d %d\r\n" % (len(left), sum(message.octets for message in left)) in output
