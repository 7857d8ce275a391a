#!/bin/sh
# Builds, transcripts and unit tests of the mailbox with gcc and clang from -O0
# to -O3, on i386 (32 bits, with 64-bit offsets), and on s390x (big endian) by
# qemu-user.  The other machines need root's apt-get, a cross compiler, and no
# package of theirs is installed: their libraries are unpacked in a copy.

cd "$(dirname "$0")/../.." || exit
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
chmod 755 "$copy"
failed=0
PYTHON=${PYTHON:-/usr/bin/python3}

# build_and_test CC CFLAGS LDFLAGS RUNNER
build_and_test()
{
	set -e
	rm -rf "$copy/pop3d"
	mkdir "$copy/pop3d"
	tar cf - --exclude=./.git --exclude=./tests/build . |
	    (cd "$copy/pop3d" && tar xf -)
	cd "$copy/pop3d"
	make -s clean
	make -s CC="$1" CFLAGS="$2" LDFLAGS="$3" pop3d
	make -s -C tests CC="$1" CFLAGS="$2" LDFLAGS="$3" \
	    build/pop3d-stub build/mailbox_test
	cd tests
	for program in pop3d-stub mailbox_test; do
		[ -n "$4" ] || continue
		mv build/$program build/$program.real
		printf '#!/bin/sh\nexec %s %s.real "$@"\n' "$4" \
		    "$PWD/build/$program" >build/$program
		chmod +x build/$program
	done
	"$PYTHON" -m pytest -q -p no:cacheprovider cases/test_transcripts.py \
	    -k "one_segment or agree"
	build/mailbox_test
}

# try NAME, and the arguments of build_and_test
try()
{
	name=$1
	shift
	if (build_and_test "$@") >"$copy/log" 2>&1; then
		echo "passed: $name: $(grep -E '^[0-9]+ passed' "$copy/log")," \
		    "$(grep -c '^\[       OK' "$copy/log") unit tests"
	else
		echo "FAILED: $name"
		tail -n 40 "$copy/log"
		failed=1
	fi
}

# sysroot ARCHITECTURE: the libraries of that Debian architecture.
sysroot()
{
	root=$copy/$1
	mkdir -p "$root/lists/partial" "$root/cache/archives/partial"
	: >"$root/status"
	apt="-q -o APT::Architecture=$1 -o APT::Architectures::=$1
	    -o Dir::State::lists=$root/lists -o Dir::State::status=$root/status
	    -o Dir::Cache=$root/cache -o APT::Sandbox::User=root"
	# shellcheck disable=SC2086	# words of a command
	(cd "$root" && apt-get $apt update; apt-get $apt download \
	    libaudit1 libbsd-dev libbsd0 libcap-ng0 libcmocka-dev libcmocka0 \
	    libmd-dev libmd0 libpam0g libpam0g-dev) >"$copy/log" 2>&1
	for package in "$root"/*.deb; do
		dpkg-deb -x "$package" "$root" || return
	done
	# A linker script there names its library with the whole path.
	sed -i 's,/usr/lib/[^/]*/,,g' "$root"/usr/lib/*/libbsd.so
}

# cross ARCHITECTURE TRIPLET LOADER RUNNER
cross()
{
	if ! command -v "$2-gcc" >/dev/null ||
	    { [ -n "$4" ] && ! command -v "$4" >/dev/null; }; then
		echo "skipped: $1: needs $2-gcc $4"
	elif ! sysroot "$1"; then
		echo "skipped: $1: its libraries are not to be had"
		tail -n 3 "$copy/log"
	else
		own=$(echo "$root"/usr/lib/*-linux-gnu)
		base=$(echo "$root"/lib/*-linux-gnu)
		try "$1" "$2-gcc" "-O2 -isystem $root/usr/include" \
		    "-L$own -Wl,--dynamic-linker,/usr/$2/lib/$3 \
-Wl,--disable-new-dtags,-rpath,$own:$base:/usr/$2/lib" "$4"
	fi
}

for cc in gcc clang; do
	for level in 0 1 2 3; do
		try "$cc -O$level" $cc "-O$level -Wall -Wextra -Werror" "" ""
	done
done
cross i386 i686-linux-gnu ld-linux.so.2 ""
cross s390x s390x-linux-gnu ld64.so.1 qemu-s390x
exit $failed
