#!/bin/sh
# Install what the tests need, as root: see packages; or, with the argument
# "demo" or "lint", what packages.demo or packages.lint names.  Servers among it
# are not started.

here=$(dirname "$0")
guard=/usr/sbin/policy-rc.d
if [ ! -e $guard ]; then
	trap 'rm -f $guard' EXIT
	printf '#!/bin/sh\nexit 101\n' >$guard && chmod 755 $guard || exit
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update || exit
sed 's/#.*//' "$here/packages${1:+.$1}" | xargs apt-get install -y --no-install-recommends
