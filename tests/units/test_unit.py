"""The unit tests in C, one by one: auth_test.c and mailbox_test.c."""

import contextlib
import os
import pathlib
import pwd
import re
import shutil
import subprocess

import pytest

from harness import BUILD, PATIENCE, TESTS, account, admin

ROOT = os.geteuid() == 0
ORDINARY = "anothers_process", "nothing_to_drop", "confined_without_a_drop"
LIBRARIES = sorted(pathlib.Path("/usr/lib").glob("*/libpam_wrapper.so"))


def names(source):
    return re.findall(r"cmocka_unit_test\(\s*(\w+)\)",
                      (TESTS / "units" / source).read_text())


def result(process, name):
    """Wait for a unit test's end: passed, failed or skipped."""
    output = process.stdout.read()
    process.wait(PATIENCE)
    if f"SKIPPED ] {name}" in output:
        pytest.skip("needs root, or Landlock in the kernel")
    assert process.returncode == 0, output
    assert f"OK ] {name}" in output, output


def start(program, name, env=None, **popen):
    return subprocess.Popen(
        [program, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, **(env or {})}, **popen)


@pytest.fixture(scope="module")
def mailbox_tests():
    """All are started at once, for there may be many processors."""
    running = {name: start(BUILD / "mailbox_test", name)
               for name in names("mailbox_test.c")}
    yield running
    for process in running.values():
        process.wait(PATIENCE)


@pytest.mark.parametrize("name", names("mailbox_test.c"))
def test_mailbox(name, mailbox_tests):
    result(mailbox_tests[name], name)


@pytest.fixture(scope="module")
def accounts():
    """What auth_test.c wants to know of the accounts here."""
    with contextlib.ExitStack() as stack:
        other = next(entry.pw_name for entry in pwd.getpwall()
                     if entry.pw_uid not in (0, os.geteuid()))
        if not ROOT:
            me = pwd.getpwuid(os.geteuid()).pw_name
            yield {"AUTH_TEST_USER": me, "AUTH_TEST_OTHER": other}
            return
        groups = stack.enter_context(account("p3da_groups"))
        admin("usermod", "-G", "games,users", groups.name)
        empty = stack.enter_context(account("p3da_empty"))
        admin("usermod", "-p", "", empty.name)
        yield {"AUTH_TEST_USER": groups.name, "AUTH_TEST_OTHER": other,
               "AUTH_TEST_GROUPS": groups.name, "AUTH_TEST_EMPTY": empty.name}


@pytest.fixture(scope="module")
def auth_tests(accounts):
    """All are started at once: a refusal takes two seconds."""
    if not LIBRARIES:
        pytest.skip("needs libpam-wrapper")
    library = LIBRARIES[0]
    env = {**accounts, "LD_PRELOAD": str(library), "PAM_WRAPPER": "1",
           "AUTH_TEST_MODULES": str(library.parent / "pam_wrapper"),
           "AUTH_TEST_BUILD": str(BUILD),
           # Else AddressSanitizer refuses to go with pam_wrapper; the name is each release's own.
           "UID_WRAPPER_DISABLE_DEEPBIND": "1",
           "PAM_WRAPPER_DISABLE_DEEPBIND": "1",
           "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"}
    ordinary = BUILD / "auth_test", {}
    if ROOT:
        who = pwd.getpwnam(env["AUTH_TEST_USER"])
        ordinary = (shutil.copy(BUILD / "auth_test", who.pw_dir),
                    dict(user=who.pw_uid, group=who.pw_gid, extra_groups=[]))
    running = {}
    for name in names("auth_test.c"):
        program, popen = BUILD / "auth_test", {}
        if name in ORDINARY:
            program, popen = ordinary
        running[name] = start(program, name, env, **popen)
    yield running
    for process in running.values():
        process.wait(PATIENCE)


@pytest.mark.parametrize("name", names("auth_test.c"))
def test_auth(name, auth_tests):
    result(auth_tests[name], name)
