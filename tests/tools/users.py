"""Users as they are on a Debian system: in PAM, with a mailbox in /var/mail."""

import contextlib
import pathlib
import shutil

import harness

PAM_SERVICE = pathlib.Path("/etc/pam.d/pop3d")
SPOOL = pathlib.Path("/var/mail")


@contextlib.contextmanager
def pam_service():
    """Have PAM know pop3d, as it does after make install."""
    if PAM_SERVICE.exists():
        yield
        return
    shutil.copy(harness.TESTS.parent / "etc/pop3d.pam", PAM_SERVICE)
    try:
        yield
    finally:
        PAM_SERVICE.unlink()


@contextlib.contextmanager
def user(name, content=b""):
    """An account with a mailbox such as Debian's deliverers make."""
    with harness.account(name) as account:
        account.maildrop = harness.Maildrop(SPOOL / name, content)
        shutil.chown(account.maildrop.path, name, "mail")
        account.maildrop.path.chmod(0o660)
        yield account
