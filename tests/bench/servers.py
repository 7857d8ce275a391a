"""The servers: started on a free port of 127.0.0.1, their CPU time and memory
counted session by session."""

import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections import namedtuple

import stage

LIMIT = 300                     # seconds that anything may take

Usage = namedtuple('Usage', 'cpu rss')      # seconds; peak, in KiB, or None


class Wrong(Exception):
    """A server's answer was not what it should be."""


class Inetd:
    """A server that serve.c starts once per connection."""

    lives = False

    def __init__(self, name, argv, account, serve):
        self.name, self.account = name, account
        self.argv = [serve] + argv

    def start(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.pending = b''
        self.port = int(self.line()[0])

    def line(self):
        end = time.monotonic() + LIMIT
        out = self.process.stdout.fileno()
        while b'\n' not in self.pending:
            if not select.select([out], [], [], end - time.monotonic())[0]:
                raise Wrong(f'{self.name}: a session does not end')
            data = os.read(out, 4096)
            if not data:
                raise Wrong(f'{self.name}: does not start')
            self.pending += data
        line, self.pending = self.pending.split(b'\n', 1)
        return line.decode().split()

    def ended(self):
        """Wait for a session's process to end."""
        while True:
            line = self.line()
            if line[0] == '-':
                user, system, rss = map(int, line[2:5])
                return Usage((user + system) / 1e6, rss)

    def session_pids(self):
        """The processes of the one session that has just begun."""
        pids = [int(self.line()[1])]
        for pid in pids:
            for task in os.listdir(f'/proc/{pid}/task'):
                with open(f'/proc/{pid}/task/{task}/children') as f:
                    pids += map(int, f.read().split())
        return pids, []

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


# What is alike in both languages of its configuration.
DOVECOT = '''\
{version}protocols = pop3
listen = 127.0.0.1
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
ssl = no
mail_privileged_group = mail
service pop3-login {{
  executable = {programs}/pop3-login
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service pop3 {{
  executable = {programs}/pop3
}}
'''
DOVECOT_23 = DOVECOT.replace('{version}', '') + '''\
disable_plaintext_auth = no
mail_location = mbox:{dir}/mail/%u:INBOX=/var/mail/%u:INDEX={dir}/index/%u
passdb {{
  driver = pam
  args = pop3d
}}
userdb {{
  driver = passwd
}}
'''
# The versions have to come first.
DOVECOT_24 = DOVECOT.replace('{version}', '''\
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
''') + '''\
auth_allow_cleartext = yes
mail_driver = mbox
mail_path = {dir}/mail/%{{user}}
mail_inbox_path = /var/mail/%{{user}}
mail_index_path = {dir}/index/%{{user}}
passdb pam {{
  service_name = pop3d
}}
userdb passwd {{
}}
'''


def dovecot_configuration():
    version = subprocess.run(['/usr/sbin/dovecot', '--version'], check=True,
                             text=True, stdout=subprocess.PIPE).stdout
    return DOVECOT_23 if version.startswith('2.3.') else DOVECOT_24


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def cgroup_mount():
    with open('/proc/mounts') as f:
        for line in f:
            where, kind = line.split()[1:3]
            if kind == 'cgroup2':
                return where
    raise OSError('no cgroup2 is mounted to count its CPU time with')


class Dovecot:
    """Many processes that live on: a control group adds up their time."""

    lives = True

    def __init__(self, programs, account, where):
        self.name, self.account, self.dir = 'dovecot', account, where
        self.programs = programs

    def start(self):
        for name in 'mail', 'index', 'state':
            os.makedirs(os.path.join(self.dir, name), exist_ok=True)
            os.chmod(os.path.join(self.dir, name), 0o1777)
        self.port = free_port()
        config = os.path.join(self.dir, 'dovecot.conf')
        with open(config, 'w') as f:
            f.write(dovecot_configuration().format(
                dir=self.dir, port=self.port, programs=self.programs))
        self.group = os.path.join(cgroup_mount(), f'pop3d-bench-{os.getpid()}')
        os.makedirs(self.group, exist_ok=True)
        self.process = subprocess.Popen(
            ['sh', '-c', 'echo $$ > "$0" && exec "$@"',
             self.group + '/cgroup.procs',
             '/usr/sbin/dovecot', '-F', '-c', config])
        for _ in range(100):
            try:
                socket.create_connection(('127.0.0.1', self.port)).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            self.stop()
            raise OSError('dovecot does not start')
        self.used = 0
        self.ended()

    def cpu(self):
        with open(self.group + '/cpu.stat') as f:
            return int(f.readline().split()[1]) / 1e6

    def ended(self):
        """Wait until nothing has run for 50 ms."""
        before, quiet = self.cpu(), 0
        for _ in range(LIMIT * 100):
            time.sleep(0.01)
            now = self.cpu()
            quiet = quiet + 1 if now == before else 0
            if quiet == 5:
                break
            before = now
        used, self.used = now - self.used, now
        return Usage(used, None)

    def session_pids(self):
        with open(self.group + '/cgroup.procs') as f:
            pids = [int(pid) for pid in f]
        mine = []
        for pid in pids:
            with open(f'/proc/{pid}/comm') as f:
                if f.read() == 'pop3\n':
                    mine.append(pid)
        return mine, [pid for pid in pids if pid not in mine]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for _ in range(100):
            try:
                os.rmdir(self.group)
                return
            except OSError:
                time.sleep(0.1)


class Session:
    """A client's connection to a server, logged in."""

    def __init__(self, server, account=None):
        self.server = server
        self.socket = socket.create_connection(('127.0.0.1', server.port),
                                               LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile('rb')
        self.reply()
        self.ask('USER ' + (account or server.account))
        self.ask('PASS ' + stage.PASSWORD)

    def reply(self):
        line = self.file.readline()
        if not line.startswith(b'+OK'):
            raise Wrong(f'{self.server.name}: {line!r}')
        return line.decode()

    def ask(self, command):
        self.socket.sendall(command.encode() + b'\r\n')
        return self.reply()

    def stat(self):
        count, octets = self.ask('STAT').split()[1:3]
        return int(count), int(octets)

    def lines(self, command):
        """The lines of a reply of more than one line."""
        self.ask(command)
        lines = []
        while (line := self.file.readline()) != b'.\r\n':
            if not line:
                raise Wrong(f'{self.server.name}: {command} is cut short')
            lines.append(line)
        return lines

    def quit(self):
        """Returns the seconds that the answer took."""
        start = time.monotonic()
        self.ask('QUIT')
        seconds = time.monotonic() - start
        self.file.read()
        self.close()
        return seconds

    def close(self):
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


COMMON = '@include common-auth\n@include common-account\n'


def find(stage_, options):
    """Our server and every peer that is installed, or in --peers."""
    stage_.pam_service('pop3d', COMMON)
    serve = os.path.join(options.helpers, 'serve')
    servers = [Inetd('pop3d', [options.pop3d], 'p3dbench0', serve)]

    def program(path):
        for root in options.peers, '/':
            if os.access(os.path.join(root, path), os.X_OK):
                return os.path.join(root, path)
        print(f'left out: {os.path.basename(path)} is not installed')
        return None

    popa3d = program('usr/sbin/popa3d')
    if popa3d and not os.path.isdir('/var/lib/popa3d'):
        print('left out: popa3d has no /var/lib/popa3d to chroot(2) to')
    elif popa3d:
        stage_.account('popa3d', None)
        stage_.pam_service('popa3d', COMMON)
        # neither writes to a mailbox that it reads: they can share one
        servers.append(Inetd('popa3d', [popa3d], 'p3dbench0', serve))

    pop3 = program('usr/lib/dovecot/pop3')
    if pop3 and not shutil.which('dovecot', path='/usr/sbin'):
        print('left out: dovecot-core is not installed')
    elif pop3:
        stage_.account('dovecot', None)
        stage_.account('dovenull', None)
        servers.append(Dovecot(os.path.dirname(pop3), 'p3dbench1',
                               stage_.path('dovecot')))

    mailutils = program('usr/sbin/pop3d')
    if mailutils:
        stage_.pam_service('gnu-pop3d', COMMON)
        servers.append(Inetd('mailutils', [mailutils, '--inetd'], 'p3dbench2',
                             serve))
    return servers
