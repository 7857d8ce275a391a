#!/bin/sh
# A whole POP3 service for one throwaway account, "demo", on 127.0.0.1: pop3d
# with libpam under systemd-socket-activate, on a copy of sample.mbox.  curl
# logs in, lists the messages and retrieves one.  On a terminal the service
# then goes on until Ctrl-C.
#
# usage: demo.sh [pop3d]

here=$(cd "$(dirname "$0")" && pwd) || exit
pop3d=${1:-$here/../../pop3d}
case $pop3d in /*) ;; *) pop3d=$PWD/$pop3d ;; esac

fail()
{
	echo "demo: $*" >&2
	exit 1
}

for program in "$pop3d" systemd-socket-activate curl setsid; do
	command -v "$program" >/dev/null || fail "$program is missing"
done
matrix=
for lib in /usr/lib /usr/lib/*-linux-gnu; do
	[ -e "$lib/libpam_wrapper.so" ] && [ -e "$lib/libnss_wrapper.so" ] &&
	    matrix=$lib/pam_wrapper/pam_matrix.so
done
[ -e "$matrix" ] || fail "libpam-wrapper or libnss-wrapper is missing"

# The account: ours, or for root one that nobody has.
uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then
	uid=61000
	while getent passwd $uid || getent group $uid; do
		uid=$((uid + 1))
	done >/dev/null
	gid=$uid
fi

umask 022
dir=$(mktemp -d) || exit
server=
# Under these two, libpam asks the files in $dir instead of the system's.
wrap="libpam_wrapper.so:libnss_wrapper.so"

stop()
{
	[ -z "$server" ] || kill -- "-$server" 2>/dev/null
	# Confined processes cannot tidy up after pam_wrapper.
	for left in /tmp/pam.?; do
		! grep -qs "$dir" "$left/pop3d" || rm -rf "$left"
	done
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 0' INT TERM HUP

chmod 755 "$dir"
mkdir "$dir/mail" "$dir/pam.d" || exit
cp "$here/sample.mbox" "$dir/mail/demo" || exit
chmod 600 "$dir/mail/demo"
[ "$(id -u)" != 0 ] || chown -R "$uid:$gid" "$dir/mail" || exit
echo "demo:x:$uid:$gid:demo:$dir/mail:/bin/sh" >"$dir/passwd"
echo "demo:x:$gid:" >"$dir/group"
echo "demo:demo:pop3d" >"$dir/passdb"
for kind in auth account; do
	echo "$kind required $matrix passdb=$dir/passdb"
done >"$dir/pam.d/pop3d"

# start PORT: serve there; fails if somebody else does.
start()
{
	: >"$dir/log"	# it is looked for before the server has made it
	# A build for AddressSanitizer goes with pam_wrapper on these terms.
	setsid systemd-socket-activate --inetd -a -l "127.0.0.1:$1" \
	    ${ASAN_OPTIONS:+-E ASAN_OPTIONS -E UID_WRAPPER_DISABLE_DEEPBIND=1 \
	    -E PAM_WRAPPER_DISABLE_DEEPBIND=1} \
	    -E LD_PRELOAD="$wrap" -E PAM_WRAPPER=1 \
	    -E PAM_WRAPPER_SERVICE_DIR="$dir/pam.d" \
	    -E NSS_WRAPPER_PASSWD="$dir/passwd" \
	    -E NSS_WRAPPER_GROUP="$dir/group" \
	    "$pop3d" -d -m "$dir/mail/%u" 2>"$dir/log" &
	server=$!
	tries=0
	until grep -q "^Listening on" "$dir/log"; do
		kill -0 "$server" 2>/dev/null && [ $tries -lt 100 ] || return
		tries=$((tries + 1))
		sleep 0.1
	done
}

port=11000
until start $port; do
	port=$((port + 1))
	[ $port -lt 11100 ] || fail "no free port: $(cat "$dir/log")"
done

# show ARGUMENT...: run curl, and say so
show()
{
	echo
	echo "\$ curl $*"
	curl -sS -m 60 "$@" || { cat "$dir/log" >&2; fail "curl failed"; }
}

url="pop3://127.0.0.1:$port"
show -v -u demo:demo "$url/" 2>&1 | grep '^[$<> 1-9]' || exit
show -u demo:demo "$url/2" || exit
echo
echo "What pop3d logged:"
grep ': user=' "$dir/log"

[ -t 0 ] && [ -t 1 ] || exit 0
echo "
Now point a mail program at it: POP3, server 127.0.0.1, port $port, no
encryption, user demo, password demo.  Ctrl-C ends it."
wait "$server"
