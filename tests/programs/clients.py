"""The mail programs of test_clients.py.

Each fetches, as the user bob with bob's home for its folder, what it has not
fetched before, and gives what it stored, as it was on the wire.  With keep the
mail stays on the server, else it is deleted there.

What a program adds to a mail is switched off where it can be, with the reason
beside it.  What cannot is undone in one place: undo().
"""

import os
import pathlib
import poplib
import re
import subprocess

from harness import PATIENCE, TESTS
from mails import sent


def undo(client, content):
    """Take back what a client did to a mail that it stored."""
    if client is getmail:
        # It folds lines in the header; of those of mails.py only the one
        # that is longer than RFC 5322 allows.
        return content.replace(b"X-Long: \n ", b"X-Long: ")
    if client is neomutt:
        # Its copy-message adds these two.
        return re.sub(rb"Content-Length: \d+\nLines: \d+\n", b"", content, count=1)
    return content


def run(bob, *command, status=(0,)):
    done = subprocess.run(
        command, cwd=bob.home, user=bob.uid, group=bob.gid, extra_groups=[],
        env={"HOME": bob.home, "PATH": os.environ["PATH"],
             "LC_ALL": "C.UTF-8", "TERM": "vt100"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=10 * PATIENCE)
    assert done.returncode in status, f"{command[0]}: {done.returncode}: " \
        f"{done.stdout[-1000:].decode(errors='replace')}"


def prepare(bob, name, text):
    """Write a configuration file, and make the maildir "in"."""
    run(bob, "mkdir", "-p", "in/tmp", "in/new", "in/cur")
    path = pathlib.Path(bob.home, name)
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, bob.uid, bob.gid)


def collect(bob, client):
    """What a client stored, with CRLF again; the files are removed."""
    mails = []
    for path in pathlib.Path(bob.home, "in").glob("*/*"):
        mails.append(sent(undo(client, path.read_bytes())))
        path.unlink()
    return mails


def fetchmail(bob, port, keep):
    # sslproto '': otherwise it sends STLS and gives up where that is refused.
    # invisible: no Received line.
    prepare(bob, ".fetchmailrc", f"""
        set invisible
        poll 127.0.0.1 service {port} protocol pop3 uidl
        user {bob.name} password "{bob.password}" sslproto ''
        {"keep" if keep else "nokeep"} mda "cat >$(mktemp in/new/XXXXXXXX)"
        """)
    run(bob, "fetchmail", status=(0, 1))    # 1: no new mail
    return collect(bob, fetchmail)


def mpop(bob, port, keep):
    # auth plain: by itself it takes no method that shows the password.
    prepare(bob, ".mpoprc", f"""
        account default
        host 127.0.0.1
        port {port}
        auth plain
        user {bob.name}
        password {bob.password}
        received_header off
        keep {"on" if keep else "off"}
        delivery maildir {bob.home}/in
        """)
    run(bob, "mpop")
    return collect(bob, mpop)


# getmail 6.18 waits in vain for a delivery that ends before it begins to wait.
DELIVER = """#!/bin/sh
tries=0
until grep -q futex /proc/$PPID/wchan || [ $((tries += 1)) = 600 ]; do
	sleep 0.1
done
cat >$(mktemp in/new/mail.XXXXXX)
"""


def getmail(bob, port, keep):
    prepare(bob, "deliver", DELIVER)
    pathlib.Path(bob.home, "deliver").chmod(0o755)
    prepare(bob, "getmailrc", "\n".join([
        "[retriever]",
        "type = SimplePOP3Retriever",
        "server = 127.0.0.1",
        f"port = {port}",
        f"username = {bob.name}",
        f"password = {bob.password}",
        "[destination]",
        "type = MDA_external",
        f"path = {bob.home}/deliver",
        "[options]",
        "read_all = false",
        f"delete = {not keep}",
        "received = false",
        "delivered_to = false\n"]))
    run(bob, "getmail", "--quiet", f"--getmaildir={bob.home}")
    return collect(bob, getmail)


def neomutt(bob, port, keep):
    # Its fetch-mail does not remember what it fetched; a POP mailbox that it
    # shows does, in its caches.  There, unread (~U) is what is not in them.
    if keep:
        keys = ("<tag-pattern>~U<enter>"
                "<tag-prefix-cond><copy-message>=in<enter><end-cond><quit>")
        mailbox = f"-f pop://{bob.name}@127.0.0.1:{port}/"
    else:
        keys = "<fetch-mail><quit>"
        mailbox = ""
    prepare(bob, "neomuttrc", f"""
        set pop_host=pop://{bob.name}@127.0.0.1:{port}/
        set pop_pass="{bob.password}" pop_delete=yes ssl_force_tls=no
        set mbox_type=Maildir folder={bob.home} spoolfile=+in
        set header_cache={bob.home}/cache/ message_cachedir={bob.home}/cache/
        set confirmappend=no quit=yes
        push "{keys}"
        """)
    run(bob, "mkdir", "-p", "cache")
    # script: it wants a terminal.
    run(bob, "script", "-qec", f"neomutt -n -F neomuttrc {mailbox}",
        "/dev/null")
    return collect(bob, neomutt)


def curl(bob, port, keep):
    # It does not remember either: without keep, too, it fetches all there is.
    # -l -X DELE: it sends that and expects one line in answer.
    url = f"pop3://127.0.0.1:{port}/"
    prepare(bob, ".curlrc", f"user = {bob.name}:{bob.password}\n"
            "silent\nshow-error\n")
    run(bob, "curl", "-o", "list", url)
    # Of an empty list it makes an empty line.
    count = len(pathlib.Path(bob.home, "list").read_text().split()) // 2
    if count:
        run(bob, "curl", "-o", "in/new/#1", f"{url}[1-{count}]")
    if count and not keep:
        run(bob, "curl", "-l", "-X", "DELE", f"{url}[1-{count}]")
    mails = []
    for path in pathlib.Path(bob.home, "in").glob("*/*"):
        mails.append(path.read_bytes())     # with CRLF already
        path.unlink()
    return mails


def net_pop3(bob, port, keep):
    run(bob, "mkdir", "-p", "in/new")
    # bob need not be able to read this checkout
    run(bob, "perl", "-e", (TESTS / "programs/netpop3.pl").read_text(), str(port),
        bob.name, bob.password, "in/new", "keep" if keep else "delete")
    return collect(bob, net_pop3)


def python_poplib(bob, port, keep):
    poplib._MAXLINE = 1 << 16   # it refuses lines of 8000 octets by itself
    memory = pathlib.Path(bob.home, "seen")
    seen = memory.read_bytes().split() if memory.exists() else []
    pop = poplib.POP3("127.0.0.1", port, timeout=PATIENCE)
    pop.user(bob.name)
    pop.pass_(bob.password)
    mails = []
    for number, unique_id in (line.split() for line in pop.uidl()[1]):
        if unique_id in seen:
            continue
        seen.append(unique_id)
        lines = pop.retr(number.decode())[1]
        mails.append(b"".join(line + b"\r\n" for line in lines))
        if not keep:
            pop.dele(number.decode())
    pop.quit()
    if keep:
        memory.write_bytes(b"\n".join(seen))
    return mails
