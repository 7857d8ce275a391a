#!/bin/sh
# Builds pop3d with musl as its C library: transcripts, unit tests of the
# mailbox, logins through pam_unix.  Needs root, the packages autoconf automake
# libltdl-dev libtool musl-tools perl pkg-config, and Debian's sources, for no
# package has libbsd, libcrypt, PAM and cmocka for musl.
set -e
cd "$(dirname "$0")/../.."
for program in useradd musl-gcc autoreconf libtoolize pkg-config; do
	if [ "$(id -u)" != 0 ] || ! command -v $program >/dev/null; then
		echo "skipped: musl: needs root and $program"
		exit
	fi
done
tree=$PWD copy=$(mktemp -d) m=$copy/musl user=p3dmusl
exec 3>&1 >"$copy/log" 2>&1
trap '[ $? = 0 ] || { echo FAILED; tail -n 40 "$copy/log"; } >&3
    userdel $user || :; rm -rf "$copy"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$copy"
export CC="musl-gcc -isystem $m/include" LDFLAGS="-L$m/lib -Wl,-rpath,$m/lib"
export PKG_CONFIG_LIBDIR="$m/lib/pkgconfig"

cd "$copy"
mkdir -p apt lists/partial cache/archives/partial "$m/include" "$m/lib" pam.d
for list in sources.list sources.list.d/debian.sources; do
	[ ! -f /etc/apt/$list ] || sed 's/^Types:.*/Types: deb-src/
	    s/^deb /deb-src /' /etc/apt/$list >apt/${list##*/}
done
set -- -q -o Dir::Etc::sourcelist=- -o Dir::Etc::sourceparts="$copy/apt" \
    -o Dir::State::lists="$copy/lists" -o Dir::Cache="$copy/cache" \
    -o APT::Sandbox::User=root
apt-get "$@" update
apt-get "$@" source --download-only libmd libbsd libxcrypt pam cmocka
for tar in *.orig.tar.?z; do tar xf "$tar"; done

ln -s /usr/include/linux /usr/include/asm-generic \
    "/usr/include/$(gcc -print-multiarch)/asm" "$m/include"
set -- --prefix="$m" --disable-static --disable-werror
(cd libmd-* && ./configure "$@" && make install)
(cd libbsd-* && ./configure "$@" && make install)
(cd libxcrypt-* && autoreconf -i && ./configure "$@" && make install)
(cd Linux-PAM-* && ./configure "$@" --includedir="$m/include/security" \
    --disable-doc --disable-nis --disable-db --disable-nls &&
    make -C libpam install && make -C modules/pam_unix install)
(cd cmocka-* && cp include/cmocka.h "$m/include" && $CC -shared -fPIC \
    -Iinclude -DHAVE_SIGNAL_H -o "$m/lib/libcmocka.so" src/cmocka.c)

(cd "$tree" && tar cf - --exclude=./.git --exclude=./tests/build .) | tar xf -
make clean
make CC="$CC" CFLAGS="-O2 -Werror" LDFLAGS="$LDFLAGS" pop3d
# musl has other names for what the unit tests wrap.
sed -i 's/\(openat\|pread\)64/\1/g' tests/Makefile tests/units/mailbox_test.c
make -C tests CC="$CC" LDFLAGS="$LDFLAGS" CFLAGS=-O2 \
    build/pop3d-stub build/mailbox_test
echo "passed: build with -Werror" >&3
(cd tests && "${PYTHON:-/usr/bin/python3}" -m pytest -q -p no:cacheprovider \
    cases/test_transcripts.py -k "one_segment or agree")
echo "passed: transcripts: $(grep '^[0-9]* passed' log)" >&3
tests/build/mailbox_test
echo "passed: $(grep -c '^\[       OK' log) unit tests" >&3

# login PASSWORD: a session that deletes the only message
login()
{
	printf 'USER %s\r\nPASS %s\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n' $user "$1" |
	    unshare -m sh -ec 'mount --bind pam.d /etc/pam.d; exec "$@"' - \
	    ./pop3d -p -m "$copy/mail/%u"
}

password=$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')
useradd -M $user
echo "$user:$password" | chpasswd
echo "auth required pam_unix.so
account required pam_unix.so" >pam.d/pop3d
install -d -o $user mail
printf 'From bob@example.org Thu Nov  5 10:00:00 2026\n\nHello.\n' >mail/$user
chown $user mail/$user
login "not$password" | grep -F -e '-ERR [AUTH]'
[ "$(login "$password" | grep -c '^+OK')" = 6 ]
[ ! -s mail/$user ]
echo "passed: logins through pam_unix" >&3
