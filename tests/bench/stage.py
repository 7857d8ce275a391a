"""Where the benchmark plays: a mount namespace of its own, in which /etc is a
copy and /var/mail is empty, both in one temporary folder.  PAM, its modules
and all servers are the real ones and find everything where they always do;
the system keeps nothing of it, however the benchmark ends, but that folder if
it was killed."""

import ctypes
import os
import pwd
import shutil
import subprocess
import tempfile

CLONE_NEWNS = 0x20000
PASSWORD = 'a long pass phrase'
CHEAP = '$5$rounds=1000$benchmark'
DEAR = '$y$j9T$benchmarkbenchmarkbe$'       # as Debian does by default


def run(*argv):
    subprocess.run(argv, check=True)


def crypt(setting):
    lib = ctypes.CDLL('libcrypt.so.1')
    lib.crypt.restype = ctypes.c_char_p
    hashed = lib.crypt(PASSWORD.encode(), setting.encode()).decode()
    if hashed.startswith('*'):
        raise OSError(f'crypt(3) does not know {setting}')
    return hashed


class Stage:
    def __init__(self, parent):
        self.dir = tempfile.mkdtemp(prefix='pop3d-bench-', dir=parent)
        os.chmod(self.dir, 0o755)
        self.mail = os.path.join(self.dir, 'mail')
        self.uid = 61100
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS) == -1:
            raise OSError(ctypes.get_errno(), 'no mount namespace')
        run('mount', '--make-rprivate', '/')
        subprocess.run(['cp', '-a', '/etc', self.path('etc')], check=False,
                       stderr=subprocess.DEVNULL)   # lock files come and go
        run('mount', '--bind', self.path('etc'), '/etc')
        os.mkdir(self.mail)
        shutil.chown(self.mail, 'root', 'mail')
        os.chmod(self.mail, 0o2775)
        run('mount', '--bind', self.mail, '/var/mail')
        os.mkdir(self.path('home'))

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def pam_service(self, name, text):
        """Install a PAM service unless it is there."""
        if not os.path.exists('/etc/pam.d/' + name):
            with open('/etc/pam.d/' + name, 'w') as f:
                f.write(text)

    def account(self, name, setting=CHEAP):
        """Add an account to our copies; a daemon's has no password."""
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
        self.uid += 1
        home = self.path('home', name)
        lines = {
            'passwd': f'{name}:x:{self.uid}:{self.uid}::{home}:/bin/sh',
            'shadow': f'{name}:{crypt(setting) if setting else "!"}:'
                      '20000:0:99999:7:::',
            'group': f'{name}:x:{self.uid}:'}
        for file, line in lines.items():
            with open('/etc/' + file, 'a') as f:
                f.write(line + '\n')
        os.mkdir(home, 0o755)
        os.chown(home, self.uid, self.uid)
        return pwd.getpwnam(name)

    def remove(self):
        shutil.rmtree(self.dir)
