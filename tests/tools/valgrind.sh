#!/bin/sh
# The transcripts and the mailbox's unit tests under valgrind's memcheck, in a
# copy of the project.  Fails at the first error or leaked block.

set -e
cd "$(dirname "$0")/../.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
chmod 755 "$copy"
tar cf - --exclude=./.git --exclude=./tests/build . | (cd "$copy" && tar xf -)
cd "$copy/tests"
mkdir -p log

check="valgrind -q --error-exitcode=99 --leak-check=full \
--errors-for-leak-kinds=definite --log-file=$copy/tests/log/%p"
rm -f build/pop3d-stub build/mailbox_test
make -s CFLAGS="-g -O1 -DPATIENCE=3600" build/pop3d-stub build/mailbox_test
mv build/pop3d-stub build/checked
cat >build/pop3d-stub <<END
#!/bin/sh
exec $check $copy/tests/build/checked "\$@"
END
chmod +x build/pop3d-stub

failed=0
"${PYTHON:-/usr/bin/python3}" -m pytest -q -p no:cacheprovider \
    cases/test_transcripts.py -k one_segment || failed=1
# shellcheck disable=SC2086	# words of a command
$check build/mailbox_test || failed=1
find log -type f -size +0 -exec cat {} + >errors
if [ -s errors ]; then
	cat errors
	failed=1
else
	echo "valgrind found nothing in $(find log -type f | wc -l) processes"
fi
exit $failed
