"""Fixtures that many tests use."""

import os
import pathlib
import shutil
import signal
import tempfile

import pytest

from harness import Maildrop, mail

# Tests in the background, or under nohup(1), are born with these ignored, and so would be all that they start.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def drop(tmp_path):
    """A maildrop of three messages; its folder is its own."""
    return Maildrop(tmp_path / "alice", b"".join(map(mail, (1, 2, 3))))


@pytest.fixture
def ordinary(monkeypatch):
    """The same in a folder where the stub is an ordinary user, also for root.

    As that user, and not as root, it meets modes and owners.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pop3d-test-"))
    drop = Maildrop(folder / "alice", b"".join(map(mail, (1, 2, 3))))
    if os.geteuid() == 0:
        monkeypatch.setenv("POP3D_STUB_UID", "12345")
        for path in (folder, drop.path):
            os.chown(path, 12345, 12345)
    yield drop
    folder.chmod(0o700)
    shutil.rmtree(folder)
