#!/bin/sh
# Read the sources without running them: compilers, analysers, and the rules
# of the house.  Quiet where nothing is found; fails if anything is.

cd "$(dirname "$0")/../.." || exit
FLAGS="-std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I."
WARN="-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
	-Wconversion -Wformat=2 -Wno-unused-result -Werror"
OURS="pop3d.c auth.c mailbox.c"
TESTS="tests/*/*.c"
failed=0

# check WHAT PROGRAM ARGUMENT...
check()
{
	what=$1
	shift
	if ! command -v "$1" >/dev/null; then
		echo "skipped: $what: $1 is not installed"
	elif found=$("$@" 2>&1); then
		echo "clean: $what"
	else
		printf 'FOUND: %s\n%s\n' "$what" "$found"
		failed=1
	fi
}

# only WHAT PATTERN FILE...: no other C file of the program has the pattern.
only()
{
	what=$1 pattern=$2
	shift 2
	found=
	for file in $OURS; do
		case " $* " in *" $file "*) continue ;; esac
		found="$found$(grep -nHE "$pattern" "$file")"
	done
	if [ -z "$found" ]; then
		echo "clean: $what only in ${*:-none}"
	else
		printf 'FOUND: %s belongs in %s\n%s\n' "$what" "${*:-none}" \
		    "$found"
		failed=1
	fi
}

# shellcheck disable=SC2317,SC2086	# check calls these; lists are to be split
{
# each FILES PROGRAM ARGUMENT...: one file after the other
each()
{
	list=$1
	shift
	for file in $list; do
		"$@" "$file" || return
	done
}

# One at a time: version 14 takes va_list for uninitialized in later files.
tidy()
{
	for file in $OURS; do
		clang-tidy --quiet "$file" -- $FLAGS || return
	done
}

wide()
{
	for file in *.c *.h $TESTS tests/*/*.h; do
		expand "$file" | LC_ALL=C awk -v file="$file" '
		    length > 80 { print file ":" FNR ": over 80"; bad = 1 }
		    END { exit bad }' || return
	done
}
}

# shellcheck disable=SC2046,SC2086	# lists are meant to be split
{
for opt in -O0 -O2; do
	for cc in gcc clang; do
		check "$cc $opt" each "$OURS" \
		    $cc $FLAGS $WARN $opt -c -o /dev/null
		check "$cc $opt, tests" each "$TESTS" \
		    $cc $FLAGS $WARN -Wno-format-nonliteral $opt -c -o /dev/null
	done
done
# gcc 12 loses what is allocated in a loop and kept in an array; for gcc 14 the
# descriptors 0 to 2 leak where they are opened to be there.
check "gcc -fanalyzer" each "$OURS" \
    gcc $FLAGS $WARN -O1 -fanalyzer -Wno-analyzer-malloc-leak \
    -Wno-analyzer-fd-leak -c -o /dev/null
check "clang --analyze" each "$OURS" \
    clang $FLAGS --analyze --analyzer-output text -Xclang -analyzer-werror
check "clang-tidy" tidy
# As in KNF variables stand at the top, and an empty loop says continue.  One
# declaration has pointers that are written through and that are not, and what
# PAM calls back has PAM's types.
check "cppcheck" cppcheck --quiet --error-exitcode=1 --std=c11 \
    --enable=warning,style,performance,portability --inline-suppr \
    --suppress=variableScope --suppress=redundantContinue \
    --suppress=constVariablePointer --suppress=constParameterCallback \
    --suppress=normalCheckLevelMaxBranches \
    -D_GNU_SOURCE -D__linux__ $OURS
check "the manual" mandoc -T lint -W warning pop3d.8
check "shell scripts" shellcheck $(find . -name '*.sh' ! -path './.git/*') \
    etc/renew-hook etc/debian/postrm
check "Python" pyflakes3 $(find . -name '*.py' ! -path './.git/*')
}
check "80 columns" wide

only "+OK and -ERR" '"[+]OK|"-ERR' pop3d.c
only "opening" \
    '\<(f?open|creat|openat2?|f?truncate|remove|lockf|f?ch(mod|own)(at)?) ?\([^"]' \
    mailbox.c
only "hard links" '\<linkat? ?\('
only "forks and threads" \
    '\<(v?fork|clone|pthread_create|posix_spawnp?|system|popen|exec[lv][ep]*) ?\('
only "standard output" \
    '\<(printf|puts|putchar|fputs|fwrite) ?\(|STDOUT_FILENO' pop3d.c
only "PAM" '\<pam_[a-z_]+ ?\(|security/pam' auth.c
only "set*id" '\<(set(res|re)?[ug]id|seteuid|setgroups|initgroups) ?\(' auth.c
only "setegid" '\<setegid ?\(' mailbox.c
only "the mailbox" \
    '\<(fcntl|flock|f(truncate|sync|allocate)|p(read|write)|utimensat|(mknod|(un)?link|rename)(at2?)?) ?\(' \
    mailbox.c
only "exit" '\<_?exit ?\(' pop3d.c auth.c
only "syslog" '\<v?syslog ?\(' pop3d.c auth.c
exit $failed
