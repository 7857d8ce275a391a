"""make and make install: what a packager and an administrator rely on."""

import hashlib
import os
import shutil
import subprocess

import pytest

from harness import TESTS, needs

TOP = TESTS.parent
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
