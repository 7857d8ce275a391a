#!/usr/bin/python3
"""Measures pop3d beside the peers that are installed.  See README."""

import argparse
import collections
import hashlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from statistics import median

import mailboxes
import servers
import stage
from mailboxes import KIB, MIB
from servers import LIMIT, Inetd, Session, Wrong

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.normpath(os.path.join(HERE, '..', 'build', 'bench'))
TOO_LONG = 10           # seconds; a peer that is to take longer is left out
SETTLED = 3.2           # seconds after which an index of a mailbox is kept
GROUPS = {}


def group(f):
    GROUPS[f.__name__] = f
    return f


def human(size):
    return f'{size / MIB:.3g} MiB' if size < 1024 * MIB else \
        f'{size / MIB / 1024:.3g} GiB'


class Table:
    """Prints a row as soon as its figures are known."""

    def __init__(self, names, judge):
        self.names, self.judge, self.missed = names, judge, []
        print(f'{"":50}{"reference":>18}' +
              ''.join(f'{n:>16}' for n in names) + '   bar')

    def row(self, what, figures, reference=('', None), bars=(), form='.1f'):
        """figures: by server's name.  bars: (figure, at most, of what)."""
        name, value = reference
        line = f'{what:50}' + (f'{name:>10} {value:7{form}}' if name
                               else f'{"":18}')
        ours = figures.get('pop3d')
        for name in self.names:
            value = figures.get(name)
            cell = '-' if value is None else f'{value:{form}}'
            beside = '' if name == 'pop3d' or not (value and ours) else \
                f'{value / ours:.3g}x'
            line += f'{cell:>9} {beside:6}'
        words = []
        for value, most, of in bars:
            word = f'{value:.3g} of {most:g} {of}'
            if value > most:
                self.missed.append(f'{what}: {word}')
            if self.judge:
                word += ': met' if value <= most else ': NOT MET'
            words.append(word)
        print(line + '   ' + '; '.join(words), flush=True)

    def note(self, text):
        print('    ' + text, flush=True)


class Bench:
    def __init__(self, place, servers, options):
        self.stage, self.servers, self.options = place, servers, options
        self.ours = servers[0]
        self.rounds = options.rounds
        self.table = Table([s.name for s in servers], options.scale == 1)
        self.wrong = []         # answers of ours
        self.pace = {}          # (server, unit): seconds a unit
        self.points = {}        # server: [(MiB, ms)], for the drawing
        self.started = []
        self.pam = self.start('pamlogin', 'pop3d', self.ours.account)

    def start(self, program, *args):
        """A reference: a program run and counted as the servers are."""
        path = os.path.join(self.options.helpers, program)
        argv = [path if os.path.exists(path) else program, *args]
        server = Inetd(program, argv, None, self.ours.argv[0])
        server.start()
        self.started.append(server)
        return server

    def size(self, n):
        return int(n * self.options.scale)

    def sizes(self, *all_):
        return all_[:-1] if self.options.quick else all_

    # mailboxes

    def give(self, servers_, build, *args, keep=True):
        """Build a mailbox and give each account a copy; without keep the
        first copy is the mailbox itself, to spare the disk."""
        for name in os.listdir('/var/mail'):
            os.remove('/var/mail/' + name)
        master = self.stage.path('master')
        box = build(master, *args)
        first, *others = dict.fromkeys(s.account for s in servers_)
        for account in others:
            self.restore(account)
        if keep:
            self.restore(first)
        else:
            os.rename(master, self.stage.path('mail', first))
            self.own(first)
        shutil.rmtree(self.stage.path('dovecot', 'index'), ignore_errors=True)
        os.makedirs(self.stage.path('dovecot', 'index'))
        os.chmod(self.stage.path('dovecot', 'index'), 0o1777)
        os.sync()
        self.given = time.monotonic()
        return box

    def settle(self):
        """Wait until the mailbox has not been changed for a while."""
        time.sleep(max(0, SETTLED - (time.monotonic() - self.given)))

    def restore(self, account):
        """In place: a truncated file would leave the disk with work to do."""
        path = '/var/mail/' + account
        with open(self.stage.path('master'), 'rb') as master, \
                open(path, 'rb+' if os.path.exists(path) else 'wb') as f:
            shutil.copyfileobj(master, f, MIB)
            f.truncate()
            os.fsync(f.fileno())
        self.own(account)

    def own(self, account):
        shutil.chown('/var/mail/' + account, account, 'mail')
        os.chmod('/var/mail/' + account, 0o660)

    def forget(self, server):
        """Our next session is to read the mailbox, not its index."""
        side = f'/var/mail/.{server.account}.pop3d'
        if server is self.ours and os.path.exists(side):
            os.remove(side)

    def note_pace(self, name, unit, units, seconds):
        """popa3d may wait until the second of the mtime is over."""
        if units >= 1:
            self.pace[name, unit] = max(seconds - 1.5, 0) / units

    def bearable(self, unit, count):
        """The servers that will not take too long over count units."""
        able = []
        for s in self.servers:
            seconds = self.pace.get((s.name, unit), 0) * count
            if seconds <= TOO_LONG:
                able.append(s)
            else:
                self.table.note(f'{s.name} left out of {count:.0f} {unit}: '
                                f'it would take some {seconds:.0f} s')
        return able

    # jobs: functions that return a dict of figures

    def interleave(self, jobs, rounds=None, prepare=lambda: None):
        """Do each job once a round, in changing order, prepare() before; one
        that has taken 15 seconds is not done again, a peer's that fails is
        left out.  Returns for each job the medians of its figures, of CPU
        time the least: what disturbs it can only add to it."""
        results = {name: [] for name in jobs}
        spent = dict.fromkeys(jobs, 0)
        names = list(jobs)
        for i in range(rounds or self.rounds):
            first = i % len(names)
            prepare()
            for name in names[first:] + names[:first]:
                if spent[name] > 15:
                    continue
                start = time.monotonic()
                try:
                    results[name].append(jobs[name]())
                    spent[name] += time.monotonic() - start
                except (Wrong, OSError) as e:
                    self.failed(name, e)
                    results[name], spent[name] = [], LIMIT
        return {name: {key: (min if key == 'cpu' else median)(
                           [r[key] for r in done])
                       for key in done[0] if done[0][key] is not None}
                for name, done in results.items() if done}

    def failed(self, name, error):
        self.table.note(f'{name} left out: {error}')
        if name == self.ours.name:
            self.wrong.append(str(error))
        for server in self.servers:
            if server.name == name:
                server.stop()
                server.start()

    def session(self, server, body):
        """A job: log in, do what body does, QUIT."""
        def job():
            start = time.monotonic()
            with Session(server) as s:
                figures = body(s) or {}
                figures['quit'] = s.quit()
            figures['wall'] = time.monotonic() - start
            figures['cpu'], figures['rss'] = server.ended()
            return figures
        return job

    def poll(self, server, box, more=lambda s: None):
        """A job: login, STAT, more(session), QUIT; first forget the index."""
        def body(s):
            self.check(s, box)
            more(s)

        def job():
            self.forget(server)
            return self.session(server, body)()
        return job

    def check(self, s, box):
        """Peers have octet rules of their own, but the same messages."""
        have = s.stat()
        want = box.count, sum(box.octets)
        if have[0] != want[0] or s.server.name == 'pop3d' and have != want:
            raise Wrong(f'{s.server.name}: STAT says {have}, not {want}')

    def pam_login(self, server=None):
        """A job: what every session pays."""
        server = server or self.pam
        with socket.create_connection(('127.0.0.1', server.port), LIMIT) as s:
            s.sendall(stage.PASSWORD.encode() + b'\n')
            if s.recv(100) != b'+OK\r\n':
                raise Wrong('PAM refuses the account')
        return server.ended()._asdict()

    def read(self, server, expected):
        """A job: read what a reference has to say."""
        def job():
            with socket.create_connection(('127.0.0.1', server.port)) as s:
                octets = int(self.drain(s, '-e')[1])
            if octets != expected:
                raise Wrong(f'{server.name} wrote {octets}, not {expected}')
            return server.ended()._asdict()
        return job

    def echo(self, server, box, window):
        """A job: have copyout.c answer as often as there are messages."""
        def job():
            with socket.create_connection(('127.0.0.1', server.port)) as s:
                self.drain(s, 1, box.count, window)
            return server.ended()._asdict()
        return job

    def wc(self, path):
        """A job: wc -l."""
        server = self.start('wc', '-l', path)
        with open(path, 'rb') as f:
            lines = sum(block.count(b'\n')
                        for block in iter(lambda: f.read(MIB), b''))
        return self.read(server, len(f'{lines} {path}\n'))

    def drain(self, connection, *args):
        """Run drain.c on a connection; returns the words it prints."""
        connection.setblocking(True)
        p = subprocess.run([os.path.join(self.options.helpers, 'drain'),
                            *map(str, args)], stdin=connection, check=False,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=LIMIT)
        connection.settimeout(LIMIT)
        if p.returncode:
            raise Wrong(p.stderr.decode().strip())
        return p.stdout.split()

    def verify(self, box, window):
        """Retrieve all from our server, compare it with what was put in;
        returns how many octets came."""
        octets = 0
        with Session(self.ours) as s:
            self.check(s, box)
            s.socket.setblocking(True)
            p = subprocess.Popen(
                [os.path.join(self.options.helpers, 'drain'), '-o', '1',
                 str(box.count), str(window)],
                stdin=s.socket, stdout=subprocess.PIPE)
            try:
                for n in range(box.count):
                    status = p.stdout.readline()
                    octets += len(status)
                    for part in [*box.sent(n), b'.\r\n']:
                        if p.stdout.read(len(part)) != part:
                            self.wrong.append(f'RETR {n + 1} is not what was '
                                              'put in')
                            return None
                        octets += len(part)
            finally:
                p.stdout.close()
                p.wait()
            s.quit()
        self.ours.ended()
        return octets

    def digest(self, box, messages):
        """Of the mailbox with these messages only."""
        total = hashlib.sha256()
        ends = list(box.starts[1:]) + [box.size]
        with open(box.path, 'rb') as f:
            for n in messages:
                f.seek(box.starts[n])
                total.update(f.read(ends[n] - box.starts[n]))
        return total.digest()

    def digest_of(self, path):
        total = hashlib.sha256()
        with open(path, 'rb') as f:
            while block := f.read(MIB):
                total.update(block)
        return total.digest()

    def traced(self, server, *options):
        """A server like this one, under strace."""
        traced = self.start('strace', '-f', '-qq', *options, *server.argv[1:])
        traced.account = server.account
        return traced

    def reads(self, path, body):
        """How often our server reads the mailbox in such a session."""
        if not shutil.which('strace'):
            return {}
        log = self.stage.path('reads')
        traced = self.traced(self.ours, '-o', log, '-P', path, '-e',
                             'trace=read,readv,pread64,preadv,preadv2,mmap')
        if not self.interleave({'pop3d': self.session(traced, body)}, 1):
            return {}
        with open(log) as f:
            return {'pop3d': sum(1 for line in f)}

    def beyond(self, results, scale=1000):
        """CPU time by server, less PAM's; in ms unless scale says else."""
        return {s.name: max(results[s.name]['cpu'] - results['pam']['cpu'], 0)
                * scale for s in self.servers if s.name in results}

    def stop(self):
        for server in self.started:
            server.stop()


def bar(figures, most, of, against=1):
    """For Table.row(): our figure, or its ratio to another, if both exist."""
    if 'pop3d' not in figures or not against:
        return []
    return [(figures['pop3d'] / against, most, of)]


def growth(bench, what, figures):
    """figures: [(size, value)], a decade apart."""
    steps = [math.log(y1 / y0) / math.log(x1 / x0)
             for (x0, y0), (x1, y1) in zip(figures, figures[1:])
             if x0 and y0 > 0 and y1 > 0]
    if steps:
        bench.table.note(f'{what}: ' + ', '.join(
            f'{y:.4g} at {x:,}' for x, y in figures) +
            '; exponents ' + ', '.join(f'{s:.2f}' for s in steps) +
            ' (linear: 1, less while the fixed cost shows)')


def warm(bench, able, box, unit, units):
    """Each server's first contact with a mailbox; sees who is slow.  Then
    waits, so that all that follow find it as old."""
    jobs = {s.name: bench.poll(s, box) for s in able}
    for name, r in bench.interleave(jobs, 1).items():
        bench.note_pace(name, unit, units, r['wall'])
    bench.settle()
    jobs['pam'] = bench.pam_login
    return jobs


@group
def poll(bench):
    """Login, STAT, QUIT, over the mailbox's size."""
    grown = []
    for mib in bench.sizes(0, 1, 10, 100, 1024):
        size = bench.size(mib * MIB)
        able = bench.bearable('MiB', size / MIB)
        box = bench.give(able, mailboxes.mixed, size, keep=False)
        path = '/var/mail/' + bench.ours.account
        jobs = warm(bench, able, box, 'MiB', size / MIB)
        jobs['wc'] = bench.wc(path)
        done = bench.interleave(jobs)
        cpu, wc = bench.beyond(done), done['wc']['cpu'] * 1000
        what = f'poll, {human(size)}'
        if mib <= 10:
            bars = bar(cpu, 3, 'ms')
        else:
            bars = bar(cpu, 1.35 if mib == 100 else 1.3, 'x wc -l', wc)
        if mib == 100:
            bars += bar(cpu, 0.6, 'x popa3d', cpu.get('popa3d'))
        bench.table.row(f'{what}, {box.count} messages, ms', cpu,
                        ('wc -l', wc), bars)
        for name, ms in cpu.items():
            bench.points.setdefault(name, []).append((size / MIB, ms))
        if 'pop3d' in cpu:
            grown.append((size, cpu['pop3d'], done['pop3d']['rss']))

        def stat(s):
            bench.check(s, box)
        again = {'pop3d': bench.session(bench.ours, stat)}
        bench.interleave(again, 1)
        done = bench.interleave({**again, 'pam': bench.pam_login})
        bench.table.row(f'{what}, unchanged, with its index, ms',
                        bench.beyond(done),
                        bars=bar(bench.beyond(done), 5, 'ms')
                        if mib == 1024 else ())
        if mib:
            reads = bench.reads(path, stat)
            bench.table.row('  how often it reads the mailbox', reads,
                            bars=bar(reads, 0, 'reads') if mib == 1024 else (),
                            form='d')
    growth(bench, 'ms over bytes', [(x, y) for x, y, _ in grown])
    growth(bench, 'KiB of memory over bytes', [(x, y) for x, _, y in grown])


@group
def tiny(bench):
    """Poll of many small messages."""
    empty = mailboxes.mixed(bench.stage.path('master'), 0)
    bench.give(bench.servers, mailboxes.mixed, 0)
    jobs = {s.name: bench.poll(s, empty) for s in bench.servers}
    base = {n: r.get('rss') for n, r in bench.interleave(jobs).items()}
    grown = []
    for count in bench.sizes(1000, 10000, 100000, 1000000):
        count = bench.size(count)
        able = bench.bearable('messages', count)
        box = bench.give(able, mailboxes.tiny, count)
        jobs = warm(bench, able, box, 'messages', count)
        jobs['wc'] = bench.wc('/var/mail/' + bench.ours.account)
        done = bench.interleave(jobs)
        cpu, wc = bench.beyond(done), done['wc']['cpu'] * 1000
        most = count == 1000000
        bench.table.row(f'poll, {count:,} messages of 160 B, ms', cpu,
                        ('wc -l', wc), bar(cpu, 150, 'ms') if most else ())
        memory = {name: (r['rss'] - base[name]) * KIB / count
                  for name, r in done.items() if base.get(name)}
        if count >= 10000:
            bench.table.row('  peak memory, B a message', memory,
                            bars=bar(memory, 32, 'B') if most else ())
        if 'pop3d' in cpu:
            grown.append((count, cpu['pop3d'], done['pop3d']['rss']))
    growth(bench, 'ms over messages', [(x, y) for x, y, _ in grown])
    growth(bench, 'KiB of memory over messages',
           [(x, y) for x, _, y in grown])


@group
def uidl(bench):
    """Login, STAT, UIDL, QUIT."""
    size = bench.size(100 * MIB)
    able = bench.bearable('MiB', size / MIB)
    box = bench.give(able, mailboxes.mixed, size)
    ids, new = {}, collections.Counter()

    def more(s):
        """Ids are unique, stay, and count the messages."""
        lines = s.lines('UIDL')
        have = [line.split()[1] for line in lines]
        old = ids.setdefault(s.server.name, have)
        count = box.count + new[s.server.account]
        if len(set(have)) != len(have) or len(have) != count or \
                have[:box.count] != old[:box.count]:
            raise Wrong('unique-ids changed or are not unique')

    what = f'poll and UIDL, {human(size)}'
    warm(bench, able, box, 'MiB', size / MIB)
    jobs = {s.name: bench.poll(s, box, more) for s in able}
    jobs['pam'] = bench.pam_login
    jobs['wc'] = bench.wc('/var/mail/' + bench.ours.account)
    done = bench.interleave(jobs)
    wc = done['wc']['cpu'] * 1000

    def row(when, cpu):
        """A poll's bar, and a tenth for the ids."""
        bench.table.row(f'{what}, {when}, ms', cpu, ('wc -l', wc),
                        bar(cpu, 1.1 * 1.35, 'x wc -l', wc) +
                        bar(cpu, 0.75, 'x popa3d', cpu.get('popa3d')))
    row('first', bench.beyond(done))

    def again(s):
        bench.check(s, box)
        more(s)
    jobs = {s.name: bench.session(s, again) for s in able}
    bench.interleave(jobs, 1)
    jobs['pam'] = bench.pam_login
    cpu = bench.beyond(bench.interleave(jobs))
    bench.table.row(f'{what}, unchanged, ms', cpu,
                    bars=bar(cpu, 0.2, 'x popa3d', cpu.get('popa3d')))

    def delivered(s):
        s.stat()
        more(s)

    def delivery(s):
        session = bench.session(s, delivered)

        def job():
            new[s.account] += 1
            mailboxes.deliver('/var/mail/' + s.account,
                              box.count + new[s.account])
            return session()
        return job
    jobs = {s.name: delivery(s) for s in able}
    jobs['pam'] = bench.pam_login
    row('right after a delivery', bench.beyond(bench.interleave(jobs)))


@group
def drain(bench):
    """RETR of everything."""
    for build, mib, most in (
            (mailboxes.mixed, 100, {1: ('each asked', 1.3),
                                    32: ('32 asked', 2)}),
            (mailboxes.single, 500, {1: ('read+write', 1.1)})):
        size = bench.size(mib * MIB)
        able = bench.bearable('MiB drained', size / MIB)
        box = bench.give(able, build, size)
        path = '/var/mail/' + bench.ours.account
        copies = {'read+write': bench.read(bench.start('copyout', path),
                                           box.size)}
        if mib == 100:      # what asking costs, with nothing done to the bytes
            asked = bench.start('copyout', path, str(box.size // box.count))
            copies['each asked'] = bench.echo(asked, box, 1)
            copies['32 asked'] = bench.echo(asked, box, 32)
        polls = warm(bench, able, box, 'MiB', size / MIB)
        gb = sum(box.octets) / 1e9
        what = f'drain {human(size)}' + (', one message' if mib == 500 else '')
        for window in most:
            octets = bench.verify(box, window)

            def retrieve(s, window=window, octets=octets):
                bench.check(s, box)
                words = bench.drain(s.socket, 1, box.count, window)
                if int(words[2]) != box.count or (
                        s.server is bench.ours and int(words[1]) != octets):
                    raise Wrong(f'{words} in place of {octets} octets')
            jobs = {s.name: bench.poll(s, box, retrieve) for s in able}
            for name, r in bench.interleave(jobs, 1).items():
                bench.note_pace(name, 'MiB drained', size / MIB, r['wall'])
            jobs['pam'] = bench.pam_login
            done = bench.interleave({**jobs, **copies})
            scan = bench.interleave(polls)
            cpu = bench.beyond(done, 1 / gb)
            floor = {n: done[n]['cpu'] / gb for n in copies}
            kind = ', pipelined' if window > 1 else \
                ', one at a time' if mib == 100 else ''
            name, times = most[window]
            bench.table.row(f'{what}{kind}, CPU s/GB', cpu,
                            (name, floor[name]),
                            bar(cpu, times, f'x {name}', floor[name]), '.2f')
            alone = {n: (r['cpu'] - scan[n]['cpu']) / gb
                     for n, r in done.items() if n in cpu and n in scan}
            bench.table.row('  of it RETR, without the scan', alone,
                            ('read+write', floor['read+write']), form='.2f')


@group
def latency(bench):
    """One RETR beside one NOOP."""
    able = bench.servers
    box = bench.give(able, mailboxes.equal, 10, 3 * KIB)
    noop, retr = {}, {}

    def ask(s):
        bench.check(s, box)
        words = bench.drain(s.socket, '-r', 5, max(bench.size(1000), 20))
        return {'noop': float(words[0]), 'retr': float(words[1])}
    done = bench.interleave({s.name: bench.session(s, ask) for s in able})
    noop = {n: r['noop'] for n, r in done.items()}
    retr = {n: r['retr'] for n, r in done.items()}
    bench.table.row('NOOP, round trip, us', noop)
    bench.table.row('RETR of 3 KiB, round trip, us', retr,
                    bars=bar(retr, 3, 'NOOP', noop.get('pop3d')))


@group
def update(bench):
    """QUIT with deletions."""
    size = bench.size(100 * MIB)
    able = bench.bearable('MiB', size / MIB)
    shared = {s: s.account for s in able[1:]}
    for s in shared:            # each is going to change its mailbox
        s.account = 'p3dbench-' + s.name
        bench.stage.account(s.account)
    box = bench.give(able, mailboxes.mixed, size)
    n = box.count
    warm(bench, able, box, 'MiB', size / MIB)
    master, copy = bench.stage.path('master'), bench.stage.path('copy')

    def copying():
        start = time.monotonic()
        subprocess.run(['cp', master, copy], check=True)
        with open(copy, 'rb') as f:
            os.fsync(f.fileno())
        seconds = time.monotonic() - start
        os.remove(copy)
        os.sync()
        return {'quit': seconds}

    def syncing():
        """One of the records that UPDATE writes."""
        with open(bench.stage.path('record'), 'wb') as f:
            f.write(bytes(8192))
            f.flush()
            os.fsync(f.fileno())
            f.seek(0)
            start = time.monotonic()
            f.write(bytes(512))
            f.flush()
            os.fsync(f.fileno())
            return {'quit': time.monotonic() - start}

    for pattern, gone, bars in (
            ('every second', range(1, n, 2), [(1.5, 'x cp + fsync')]),
            ('the first', [0], [(2.5, 'x cp + fsync')]),
            ('the last', [n - 1], [(5, 'ms beside 4 fsyncs')]),
            ('all', range(n), [])):
        gone = set(gone)
        left = bench.digest(box, [i for i in range(n) if i not in gone])

        def job(server, gone=gone, left=left):
            def delete(s):
                bench.check(s, box)
                for i in sorted(gone):
                    s.ask(f'DELE {i + 1}')

            def run():
                figures = bench.session(server, delete)()
                path = '/var/mail/' + server.account
                if server is bench.ours and bench.digest_of(path) != left:
                    raise Wrong(f'{pattern}: not what was to be left')
                with Session(server) as s:
                    have = s.stat()[0]
                    s.quit()
                server.ended()
                if have != n - len(gone):
                    raise Wrong(f'{pattern}: {have} messages are left')
                return figures
            return run

        def anew():
            for account in {s.account for s in able}:
                bench.restore(account)
            os.sync()
            time.sleep(SETTLED)
        jobs = {'cp': copying, 'fsync': syncing}
        jobs.update((s.name, job(s)) for s in able)
        done = bench.interleave(jobs, prepare=anew)
        wall = {s: r['quit'] * 1000 for s, r in done.items()}
        cp, fsync = wall.pop('cp'), wall.pop('fsync')
        bench.table.row(
            f'QUIT, {human(size)}, {pattern} of {n} deleted, ms', wall,
            ('cp + fsync', cp),
            [b for most, of in bars for b in (
                bar(wall, most, of, cp) if of[0] == 'x' else
                bar({'pop3d': wall['pop3d'] - 4 * fsync}, most, of))])
        bench.table.note(f'one fsync of a record: {fsync:.2f} ms')
    for s, account in shared.items():
        s.account = account


@group
def memory(bench):
    """A session that has logged in and waits."""
    size = bench.size(10 * MIB)
    able = bench.bearable('MiB', size / MIB)
    box = bench.give(able, mailboxes.mixed, size)
    warm(bench, able, box, 'MiB', size / MIB)

    def pss(pids):
        total = 0
        for pid in pids:
            with open(f'/proc/{pid}/smaps_rollup') as f:
                total += sum(int(line.split()[1]) for line in f
                             if line.startswith('Pss:'))
        return total / KIB

    def idle(s):
        bench.check(s, box)
        mine, shared = s.server.session_pids()
        return {'pss': pss(mine), 'shared': pss(shared)}
    jobs = {s.name: bench.session(s, idle) for s in able}
    done = bench.interleave(jobs)
    figures = {n: r['pss'] for n, r in done.items()}
    bench.table.row(f'idle session, {human(size)}, PSS in MiB', figures,
                    bars=bar(figures, 0.7, 'MiB'), form='.2f')
    for name, r in done.items():
        if r['shared']:
            bench.table.note(f'{name}: and {r["shared"]:.1f} MiB in processes '
                             'that all sessions share')


@group
def rate(bench):
    """Sessions a second, as many at a time as there are processors."""
    threads = os.cpu_count() or 1
    for kind, setting, count in (('cheap', stage.CHEAP, 100),
                                 ('Debian\'s', stage.DEAR, 20)):
        count = max(bench.size(count), 5)
        accounts = [f'p3d{kind[0].lower()}{i}' for i in range(threads)]
        box = bench.give(bench.servers, mailboxes.mixed, 100 * KIB)
        for account in accounts:
            bench.stage.account(account, setting)

        def sessions(server, count=count, accounts=accounts):
            failures = []

            def client(account):
                try:
                    for _ in range(count):
                        with Session(server, account) as s:
                            bench.check(s, box)
                            s.quit()
                except (Wrong, OSError) as e:
                    failures.append(e)

            def job():
                failures.clear()
                for account in accounts:
                    bench.restore(account)      # some write to it
                time.sleep(1.1)     # popa3d waits for the mtime's second
                start = time.monotonic()
                work = [threading.Thread(target=client, args=(a,))
                        for a in accounts]
                for t in work:
                    t.start()
                for t in work:
                    t.join()
                seconds = time.monotonic() - start
                for f in failures:
                    raise f
                for _ in range(1 if server.lives else count * threads):
                    server.ended()
                return {'rate': count * threads / seconds}
            return job

        def logins(count=count, accounts=accounts):
            def client(server):
                for _ in range(count):
                    bench.pam_login(server)
            refs = [bench.start('pamlogin', 'pop3d', a) for a in accounts]

            def job():
                start = time.monotonic()
                work = [threading.Thread(target=client, args=(r,))
                        for r in refs]
                for t in work:
                    t.start()
                for t in work:
                    t.join()
                return {'rate': count * threads / (time.monotonic() - start)}
            return job
        jobs = {s.name: sessions(s) for s in bench.servers}
        jobs['pam'] = logins()
        done = bench.interleave(jobs, min(3, bench.rounds))
        figures = {n: r['rate'] for n, r in done.items() if n != 'pam'}
        bench.table.row(f'sessions/s, {threads} at a time, {kind} hash',
                        figures, ('bare PAM', done['pam']['rate']))


@group
def calls(bench):
    """System calls of a poll."""
    if not shutil.which('strace'):
        bench.table.note('strace is not installed')
        return
    size = bench.size(10 * MIB)
    able = [s for s in bench.bearable('MiB', size / MIB) if not s.lives]
    box = bench.give(able, mailboxes.mixed, size)
    bench.settle()
    log = bench.stage.path('calls')

    def total():
        with open(log) as f:
            return int(f.readlines()[-1].split()[3])
    figures = {}
    for s in able:
        traced = bench.traced(s, '-c', '-o', log)
        for kind in 'first', 'unchanged':
            job = bench.session(traced, lambda s: bench.check(s, box))
            if kind == 'first':
                bench.forget(s)
            if bench.interleave({s.name: job}, 1):
                figures.setdefault(kind, {})[s.name] = total()
    bench.pam_login(bench.traced(bench.pam, '-c', '-o', log))
    for kind, row in figures.items():
        bench.table.row(f'system calls of a poll, {human(size)}, {kind}', row,
                        ('bare PAM', total()), form='d')


def draw(bench, path):
    """Poll time over size."""
    if not shutil.which('gnuplot') or not bench.points:
        return
    lines = ["set terminal svg size 800,560", f"set output '{path}'",
             "set logscale xy", "set key left top", "set grid",
             "set xlabel 'mailbox, MiB'",
             "set ylabel 'poll, ms of CPU beyond PAM'"]
    plots = []
    for i, (name, points) in enumerate(bench.points.items()):
        lines.append(f'$d{i} << E')
        lines += [f'{x:g} {max(y, 0.1):g}' for x, y in points if x]
        lines.append('E')
        plots.append(f"$d{i} with linespoints title '{name}'")
    lines.append('plot ' + ', '.join(plots))
    subprocess.run(['gnuplot'], input='\n'.join(lines) + '\n', text=True,
                   check=False)
    print(f'drawn: {path}')


def main():
    parser = argparse.ArgumentParser(
        description='Measure pop3d beside its peers.  See README.')
    parser.add_argument('--quick', action='store_true',
                        help='a fiftieth of the sizes, without the largest, '
                        'in two rounds: to see that it works')
    parser.add_argument('--only', metavar='NAME', action='append',
                        choices=list(GROUPS), help=', '.join(GROUPS))
    parser.add_argument('--scale', type=float, default=1.0, metavar='F',
                        help='multiply all sizes')
    parser.add_argument('--rounds', type=int, default=7, metavar='N',
                        help='how often each thing is measured; the median '
                        'counts (7)')
    parser.add_argument('--pop3d', default=os.path.join(HERE, '../../pop3d'),
                        metavar='PATH', help='the server to measure')
    parser.add_argument('--helpers', default=BUILD, metavar='DIR',
                        help='where serve, drain, pamlogin and copyout are')
    parser.add_argument('--peers', default=os.path.join(BUILD, 'peers'),
                        metavar='DIR', help='root of unpacked peers')
    parser.add_argument('--beside', metavar='PEER', action='append',
                        help='only this peer; none: no peers')
    parser.add_argument('--dir', default='/var/tmp',
                        help='where the mailboxes go: up to 4 GiB')
    parser.add_argument('--svg', default=os.path.join(BUILD, 'poll.svg'))
    options = parser.parse_args()
    options.helpers = os.path.abspath(options.helpers)
    options.pop3d = os.path.abspath(options.pop3d)
    options.peers = os.path.abspath(options.peers)
    if options.quick:
        options.scale *= 0.02
        options.rounds = 2
    if os.geteuid() != 0:
        print('needs root: for accounts and a mount namespace')
        return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    place = stage.Stage(options.dir)
    started = []
    try:
        found = servers.find(place, options)
        if options.beside:
            found = [s for s in found if s.name in ['pop3d', *options.beside]]
        for s in found:
            if s.account:
                place.account(s.account)
            s.start()
            started.append(s)
        bench = Bench(place, found, options)
        started += [bench]
        for name in options.only or GROUPS:
            GROUPS[name](bench)
        draw(bench, options.svg)
    finally:
        for s in reversed(started):
            s.stop()
        place.remove()
    for text in bench.table.missed if bench.table.judge else []:
        print(f'NOT MET  {text}')
    for text in bench.wrong:
        print(f'WRONG  {text}')
    return 1 if bench.wrong else 0


if __name__ == '__main__':
    sys.exit(main())
