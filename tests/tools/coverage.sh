#!/bin/sh
# What the tests run of pop3d.c, auth.c and mailbox.c: lines and branches, and
# each line that they never run.  Fails if the file uncovered has no reason for
# one, at 95 % of a file's lines or less, and if a test fails.  Built and tested
# in a copy of the project.
#
# These are clang's counters, not gcov's: they are in a mapped file, and so also
# tell what a process did after it gave up its privileges, confined itself, and
# was killed.  gcov writes a file at exit(), which fails there.

set -e
cd "$(dirname "$0")/../.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
chmod 755 "$copy"
tar cf - --exclude=./.git --exclude=./tests/build . | (cd "$copy" && tar xf -)
cd "$copy"
mkdir -m 1777 counts

# All processes of a program count in one file, made here for every user: so
# one with a limit on the size of files counts too.  make knows what $(@F) is.
flags="-O0 -g -fcoverage-mapping -mllvm -runtime-counter-relocation \
-Wno-unused-command-line-argument \
-fprofile-instr-generate=$copy/counts/\$(@F).%m%c"
PYTHON=${PYTHON:-/usr/bin/python3}
make -s clean
# llvm-cov finds the sources by the folder that NOWHERE keeps out.
make -s CC=clang CFLAGS="$flags" NOWHERE=
make -s -C tests CC=clang CFLAGS="$flags" all
programs=$(find ./pop3d tests/build -type f -perm -100 ! -name '*.so' \
    -exec grep -lq __llvm_covmap {} \; -print)
(
umask 0
for program in $programs; do
	if "$program" -V 2>&1 </dev/null | grep LLVM; then
		echo "$program cannot count"
		exit 1
	fi
done
)
failed=0
make -s -C tests check CC=clang CFLAGS="$flags" PYTHON="$PYTHON" ||
    failed=1

tool=$(find /usr/lib/llvm-*/bin -name llvm-cov | sort | tail -n 1)
"$(dirname "$tool")/llvm-profdata" merge counts -o all
objects=$(echo "$programs" | sed 's/^/-object /')
for what in "report -show-region-summary=0" show; do
	# shellcheck disable=SC2086	# words of a command
	"$tool" $what pop3d $objects -instr-profile=all pop3d.c auth.c mailbox.c \
	    >"${what%% *}"
done
cat report
awk '$7 ~ /%$/ && $7 + 0 <= 95 { print $1 ": 95 % or less"; bad = 1 }
    END { exit bad }' report || failed=1
"$PYTHON" tests/tools/uncovered.py tests/tools/uncovered <show || failed=1
exit $failed
