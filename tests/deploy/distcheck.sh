#!/bin/sh
# What is in the archive of "make dist" builds, speaks POP3 and can be installed
# and taken away again: make distcheck.

set -e
cd "$(dirname "$0")/../.."
make=${MAKE:-make}
python=${PYTHON:-/usr/bin/python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
root=$work/root

$make -s dist
die()
{
	echo "$*" >&2
	exit 1
}

version=$(sed -n 's/^.define POP3D_VERSION.*"\(.*\)"/\1/p' pop3d.h)
tar -C "$work" -xzf "pop3d-$version.tar.gz"
cp -R "$work/pop3d-$version" "$work/as-it-came"
cd "$work/pop3d-$version"

$make -s pop3d
$make -s install DESTDIR="$root"
[ "$("$root/usr/local/sbin/pop3d" -V)" = "pop3d $version" ] ||
    die "the archive has not version $version: is it committed?"
grep -q "^Version: $version\\. " README || die "README has another version"
grep -m 1 '^[0-9]' NEWS | grep -q "^$version " ||
    die "NEWS does not begin with $version"

$make -s -C tests all
(cd tests && "$python" -m pytest -q -p no:cacheprovider cases)

$make -s uninstall DESTDIR="$root"
left=$(find "$root" ! -type d)
[ -z "$left" ] || {
	printf 'make uninstall leaves\n%s\n' "$left"
	exit 1
}
$make -s clean
diff -r "$work/as-it-came" .
echo "pop3d-$version.tar.gz is fit to be released"
