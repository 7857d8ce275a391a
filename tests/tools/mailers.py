"""Programs that deliver to a mailbox, and programs that rewrite one, as a user of a Debian system has them.

Each takes a Desk: a host of its own (host.py) with one user. Those that remove messages remove what has "p3dd 3" in its Subject.
"""

import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import termios

from harness import BUILD, PATIENCE, Session
from host import Host

UNPACKED = BUILD / "deliverers"     # packages that cannot be installed beside Postfix: make deliverers
NAME = "p3ddesk"
FIND = "p3dd 3"


class Desk(Host):
    """path is the mailbox and spool its directory, as this side of the host sees them."""

    def __init__(self):
        super().__init__()
        self.root.chmod(0o711)      # the mailbox is reached from this side, too
        self.password = self.account(NAME)
        self.uid, self.gid = (int(self.run("id", flag, NAME).stdout) for flag in ("-u", "-g"))
        self.home = f"/home/{NAME}"
        self.spool = self.path("/var/mail")
        self.mailbox = self.spool / NAME
        self.run("mount", "-t", "tmpfs", "spool", "/var/spool")
        self.path(f"{self.home}/mail").mkdir()     # or alpine makes it, and says so for seconds
        os.chown(self.path(f"{self.home}/mail"), self.uid, self.gid)
        if UNPACKED.exists():
            self.set_up_dma()

    def set_up_dma(self):
        self.run("install", "-d", "-o", "mail", "-g", "mail", "-m", "2775", "/var/spool/dma")
        self.path("/etc/dma").mkdir()
        shutil.copy(UNPACKED / "usr/share/dma/dma.conf", self.path("/etc/dma"))

    def as_user(self, *command, group=None, **kw):
        # Whoever reads mail from a terminal on Debian has no rights in the spool, but through setgid helpers.
        return self.run(*self.being_user(group), *command, **kw)

    def being_user(self, group=None):
        return ["setpriv", f"--reuid={self.uid}", f"--regid={group or self.gid}", "--clear-groups", "env", "-i", "PATH=/usr/bin:/bin",
                f"HOME={self.home}", f"USER={NAME}", f"LOGNAME={NAME}", "TERM=vt100", "LINES=24", "COLUMNS=80", "LC_ALL=C.UTF-8"]

    def write(self, name, text):
        """A file in the user's home."""
        path = self.path(f"{self.home}/{name}")
        path.write_text(text)
        os.chown(path, self.uid, self.gid)

    def on_terminal(self, *command):
        """The same with a terminal, whose keys the command is told by its options."""
        terminal, line = pty.openpty()
        fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        argv = self.inside(*self.being_user(), *command)
        process = subprocess.Popen(argv, stdin=line, stdout=line, stderr=line, start_new_session=True)
        os.close(line)
        shown = b""
        try:
            while select.select([terminal], [], [], PATIENCE)[0]:
                shown += os.read(terminal, 65536)
        except OSError:     # it closed its end
            pass
        finally:
            os.close(terminal)
        if process.poll() is None:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{command[0]} does not end: {shown[-2000:]!r}") from None
        assert process.returncode == 0, shown[-2000:]


    def popa3d(self):
        """A session with the real one, on pipes."""
        if not self.path("/etc/pam.d/popa3d").exists():
            shutil.copy(self.path("/etc/pam.d/pop3d"), self.path("/etc/pam.d/popa3d"))
            self.run("useradd", "-r", "-M", "popa3d")
            self.run("mount", "-t", "tmpfs", "lib", "/var/lib")
            self.run("mkdir", "/var/lib/popa3d")
        return Session.run(*self.inside(UNPACKED / "usr/sbin/popa3d"))

    def put(self, content):
        """Make that the mailbox, in its inode."""
        with self.mailbox.open("r+b" if self.mailbox.exists() else "wb") as mailbox:
            mailbox.write(content)
            mailbox.truncate()
        self.run("chown", f"{NAME}:mail", MAIL)
        self.mailbox.chmod(0o660)


MAIL = "/var/mail/" + NAME


# ---- deliverers; message has no From_ line ----

def procmail(desk, message, sender="bob@example.org"):
    # procmail sleeps a second if the mailbox has just been written.
    if desk.mailbox.exists():
        os.utime(desk.mailbox, (0, desk.mailbox.stat().st_mtime))
    desk.run("procmail", "-f", sender, "-d", NAME, input=message, text=False)


def maildrop(desk, message):
    desk.run("maildrop", "-f", "bob@example.org", "-d", NAME, input=message, text=False)


def dma(desk, message):
    # Where it cannot deliver it would try for days.
    desk.run("timeout", "-k", "1", str(PATIENCE // 2), UNPACKED / "usr/sbin/dma", "-D", "-f", "bob@example.org", NAME, input=message, text=False)


DOTLOCKED = 'dotlockfile -l -r 60 -i 1 "$1.lock" && cat >> "$1"; status=$?; dotlockfile -u "$1.lock"; exit $status'


def dotlockfile(desk, message):
    text = b"From bob@example.org Tue Nov 24 05:42:39 2026\n" + message + b"\n"
    desk.as_user("sh", "-c", DOTLOCKED, "sh", MAIL, group="mail", input=text, text=False)


DELIVERERS = [procmail, maildrop, dma, dotlockfile]


# ---- programs that remove messages ----

def mutts(desk, program):
    # The folder is there already, or it asks.
    desk.write("muttrc", f"set folder={desk.home}/mail\nset quit=yes\nset delete=yes\nset move=no\n")
    desk.on_terminal(program, "-n", "-F", f"{desk.home}/muttrc", "-f", MAIL,
                     "-e", 'push "<delete-pattern>~s p3dd.3<enter><sync-mailbox><quit>"')


def neomutt(desk):
    mutts(desk, "neomutt")


def mutt(desk):
    mutts(desk, "mutt")


def gnu_mail(desk):
    desk.as_user("mail.mailutils", "-n", "-f", MAIL, input=f'delete "/{FIND}"\nquit\n')


def s_nail(desk):
    desk.as_user("s-nail", "-n", "-S", "hold", "-S", "keepsave", "-f", MAIL, input=f'delete "/{FIND}"\nquit\n')


def alpine(desk):
    desk.write(".pinerc", "personal-name=\nuser-domain=example.org\ninbox-path=/var/mail/%s\nlast-version-used=6.26\n"
               "feature-list=quit-without-confirm,expunge-without-confirm\n"
               "last-time-prune-questioned=126.11\n" % NAME)
    desk.on_terminal("alpine", "-f", MAIL, "-I", "i,j,3,CR,d,x,q")


DOVECOT_23 = "mail_location = mbox:{0}/mail:INBOX={1}\n"
DOVECOT_24 = ("dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\nmail_driver = mbox\nmail_path = {0}/mail\n"
              "mail_inbox_path = {1}\n")


def doveadm(desk, command, *args):
    """2.4 wants to be told that no user is looked up."""
    version = desk.run("dovecot", "--version").stdout.split(".")
    new = (int(version[0]), int(version[1])) >= (2, 4)
    config, options = (DOVECOT_24, ["--no-userdb-lookup"]) if new else (DOVECOT_23, [])
    desk.write("dovecot.conf", config.format(desk.home, MAIL) + "log_path = /dev/null\nssl = no\n")
    desk.as_user("doveadm", "-c", f"{desk.home}/dovecot.conf", *command.split(), *options, *args, group="mail")


def dovecot_expunges(desk):
    doveadm(desk, "expunge", "mailbox", "INBOX", "header", "subject", FIND)


def dovecot_marks(desk):
    doveadm(desk, "flags add", r"\Seen", "mailbox", "INBOX", "all")
