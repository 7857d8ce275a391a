#!/bin/sh
# What the tests run of pop3d.c, auth.c and mailbox.c: lines and branches, and
# each line that they never run.  Built and tested in a copy of the project.
#
# These are clang's counters, not gcov's: they are in a mapped file, and so also
# tell what a process did after it gave up its privileges, confined itself, and
# was killed.  gcov writes a file at exit(), which fails there.

set -e
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
chmod 755 "$copy"
tar cf - --exclude=./.git --exclude=./tests/build . | (cd "$copy" && tar xf -)
cd "$copy"
mkdir -m 1777 counts

flags="-O0 -g -fcoverage-mapping -mllvm -runtime-counter-relocation \
-Wno-unused-command-line-argument -fprofile-instr-generate=$copy/counts/%p%c.profraw"
make -s clean
make -s CC=clang CFLAGS="$flags"
failed=0
make -s -C tests check CC=clang CFLAGS="$flags" \
    PYTHON="${PYTHON:-/usr/bin/python3}" || failed=1

tool=$(find /usr/lib/llvm-*/bin -name llvm-cov | sort | tail -n 1)
find counts -name '*.profraw' >list
"$(dirname "$tool")/llvm-profdata" merge -f list -o counts/all
objects=$(find tests/build -type f -perm -100 ! -name '*.sh' \
    -exec sh -c 'grep -lq __llvm_covmap "$@"' sh {} \; -print |
    sed 's/^/-object /')
# shellcheck disable=SC2086	# words of a command
{
"$tool" report pop3d $objects -instr-profile=counts/all \
    -show-region-summary=0 pop3d.c auth.c mailbox.c
echo
echo "Never run:"
"$tool" show pop3d $objects -instr-profile=counts/all \
    pop3d.c auth.c mailbox.c >shown
}
awk -F'|' '/^\// { n = split($1, part, "/"); file = part[n]; sub(/:$/, "", file) }
    $2 ~ /^ *0$/ { number = $1; gsub(/ /, "", number)
	sub(/^[^|]*\|[^|]*\|/, ""); print file ":" number ":" $0 }' shown
exit $failed
