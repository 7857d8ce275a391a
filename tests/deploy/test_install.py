"""make and make install: what a packager and an administrator rely on."""

import hashlib
import os
import shutil
import subprocess

import pytest

from harness import TESTS, needs

TOP = TESTS.parent
ETC = sorted(path for path in (TOP / "etc").iterdir() if path.is_file())
# Not what the make that runs the tests was told.
CLEAN = {name: value for name, value in os.environ.items()
         if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKE")}

both_makes = pytest.mark.parametrize("program", [
    pytest.param(name, marks=needs(name)) for name in ("make", "bmake")])


def make(*words, cwd=TOP, program="make"):
    """What make says; it must succeed."""
    done = subprocess.run([program, *map(str, words)], cwd=cwd, env=CLEAN,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


def files(folder):
    """All that is below it, folders left out."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")
                  if not path.is_dir())


# ---- make ----

@pytest.mark.parametrize("cc", [
    pytest.param(name, marks=needs(name)) for name in ("gcc", "clang")])
def test_the_same_program_is_built_in_any_folder(tmp_path, cc):
    built = []
    for folder in tmp_path / "here", tmp_path / "some where" / "else":
        shutil.copytree(TOP, folder, ignore=shutil.ignore_patterns(
            ".*", "tests", "*.o", "pop3d"))
        make("pop3d", f"CC={cc}", cwd=folder)
        built.append(hashlib.sha256((folder / "pop3d").read_bytes()))
    assert built[0].hexdigest() == built[1].hexdigest()


@pytest.mark.parametrize("folder", [".", "tests"])
@both_makes
def test_flags_of_the_caller_come_last(tmp_path, program, folder):
    copy = tmp_path / "pop3d"
    shutil.copytree(TOP, copy, ignore=shutil.ignore_patterns(
        ".*", "build", "*.o", "pop3d"))
    said = make("-n", "all", "CC=mycc", "CPPFLAGS=-DMINE", "CFLAGS=-Omine",
                "LDFLAGS=-Wl,mine", cwd=copy / folder, program=program)
    commands = [line.split() for line in said.replace("\\\n", " ").splitlines()
                if "mycc" in line]
    assert commands
    for words in commands:
        ours = words.index("-Wall")
        assert ours < words.index("-DMINE") < words.index("-Omine")
        assert ("-Wl,mine" in words) == ("-o" in words), "the linker's"


# ---- make install ----

@pytest.fixture
def destdir(tmp_path):
    make("pop3d")
    return tmp_path


@both_makes
def test_what_is_installed(destdir, program):
    make("install", f"DESTDIR={destdir}", program=program)
    assert files(destdir) == sorted(
        ["etc/pam.d/pop3d", "usr/local/sbin/pop3d",
         "usr/local/share/man/man8/pop3d.8"]
        + [f"usr/local/share/doc/pop3d/{name}" for name in
           ["README", "NEWS", "LICENSE", *(path.name for path in ETC)]])


def test_to_usr_local_all_is_installed_as_it_is_here(destdir):
    make("install", f"DESTDIR={destdir}")
    for path in [TOP / "README", *ETC]:
        installed = destdir / "usr/local/share/doc/pop3d" / path.name
        assert installed.read_bytes() == path.read_bytes()


def test_what_is_installed_names_the_prefix(destdir):
    make("install", "PREFIX=/opt/mail", f"DESTDIR={destdir}")
    share = destdir / "opt/mail/share"
    for path, source in [(share / "man/man8/pop3d.8", TOP / "pop3d.8"),
                         (share / "doc/pop3d/README", TOP / "README"),
                         *((share / "doc/pop3d" / path.name, path)
                           for path in ETC)]:
        assert path.read_text() == \
            source.read_text().replace("/usr/local", "/opt/mail")
    unit = (share / "doc/pop3d/pop3d@.service").read_text()
    assert "\nExecStart=-/opt/mail/sbin/pop3d\n" in unit


def test_what_can_be_run_here_can_be_run_there(destdir):
    make("install", f"DESTDIR={destdir}")
    doc = destdir / "usr/local/share/doc/pop3d"
    scripts = [path.name for path in ETC if os.access(path, os.X_OK)]
    assert "renew-hook" in scripts
    for path in doc.iterdir():
        mode = 0o755 if path.name in scripts else 0o644
        assert path.stat().st_mode & 0o7777 == mode, path


def test_uninstall_leaves_nothing(destdir):
    make("install", "PREFIX=/usr", f"DESTDIR={destdir}")
    make("uninstall", "PREFIX=/usr", f"DESTDIR={destdir}")
    assert files(destdir) == []
    assert not (destdir / "usr/share/doc/pop3d").exists()


def test_rules_of_the_administrator_stay(destdir):
    rules = destdir / "etc/pam.d/pop3d"
    rules.parent.mkdir(parents=True)
    rules.write_text("auth required pam_deny.so\n")
    make("install", f"DESTDIR={destdir}")
    make("uninstall", f"DESTDIR={destdir}")
    assert rules.read_text() == "auth required pam_deny.so\n"
    assert files(destdir) == ["etc/pam.d/pop3d"]
